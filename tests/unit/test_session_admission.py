"""Hosts and origins: read like a browser writes them, compared without surprises."""

import datetime as dt
import functools
import re

import falcon
import falcon.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import InvalidNameError, Principal, SetupError
from falcon_pachinko.session.admission import Admission

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
HOST = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
PORT = st.integers(1, 65_535)


def handshake(*more, scheme="ws", **headers):
    """Make a handshake's scope with exactly these headers."""
    scope = falcon.testing.create_scope_ws(spec_version="2.3", scheme=scheme)
    scope["headers"] = [
        (name.lower().encode(), value.encode()) for name, value in (*headers.items(), *more)
    ]
    return scope


def request(**headers):
    """Make a handshake's request with exactly these headers."""
    scope = handshake(**headers)

    async def receive():
        return {"type": "websocket.connect"}

    return falcon.asgi.Request(scope, receive)


def is_let_in(admission, *more, scheme="ws", **headers):
    """Ask with these headers."""
    try:
        admission.check(handshake(*more, scheme=scheme, **headers))
    except falcon.HTTPForbidden:
        return False
    return True


@given(HOST, st.none() | PORT, st.sampled_from(["http", "https"]))
def test_a_page_of_the_same_host_may_connect(host, port, scheme):
    """Whatever the scheme: a proxy may end TLS.  Default ports may be left out on either side."""
    default = {"http": 80, "https": 443}[scheme]
    with_port = f"{host}:{port}" if port else host
    spelled_out = f"{host}:{port or default}"
    admission = Admission()

    assert is_let_in(admission, Host=with_port, Origin=f"{scheme}://{with_port}")
    assert is_let_in(admission, Host=spelled_out, Origin=f"{scheme}://{with_port}")
    assert is_let_in(admission, Host=with_port.upper(), Origin=f"{scheme}://{spelled_out}")


@given(HOST, HOST, PORT, PORT)
def test_a_page_of_another_host_or_port_may_not(host, other, port, other_port):
    """Unless both are the same."""
    let_in = is_let_in(Admission(), Host=f"{host}:{port}", Origin=f"https://{other}:{other_port}")

    assert let_in == ((host, port) == (other, other_port))


@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40))
def test_any_origin_at_all_has_an_answer(origin):
    """Whatever stands in the header, it is let in or refused with 403; nothing fails."""
    is_let_in(Admission(origins="https://app.example"), Host="api.example", Origin=origin)
    is_let_in(Admission(allowed_hosts="api.example"), Host=origin)


@pytest.mark.parametrize(
    "origin",
    [
        "null", "", "file://", "app.example", "https://", "https://user@app.example",
        "https://app.example/path", "https://app.example?q", "https://app.example:port",
        "https://app.example:99999", "https://[::1", "https://app.example.evil.example",
        "https://evilapp.example", "http://app.example", "https://app.example:8443",
    ],
)  # fmt: skip
def test_what_only_looks_like_an_allowed_origin_is_refused(origin):
    """Scheme, name and port are compared whole."""
    admission = Admission(origins=["https://app.example"])

    assert not is_let_in(admission, Host="api.example", Origin=origin)


@pytest.mark.parametrize(
    ("pattern", "origin", "let_in"),
    [
        ("https://app.example", "https://app.example", True),
        ("https://app.example/", "https://app.example", True),
        ("https://app.example", "https://APP.example:443", True),
        ("https://app.example:8443", "https://app.example:8443", True),
        ("https://*.example", "https://a.example", True),
        ("https://*.example", "https://a.b.example", True),
        ("https://*.example", "https://example", False),
        ("https://*.example", "https://.example", False),
        ("https://*.example", "https://badexample", False),
        ("http://[::1]:8000", "http://[::1]:8000", True),
        ("*", "https://anybody.example", True),
        ("*", "null", True),
        ("https://bücher.example", "https://xn--bcher-kva.example", True),
        ("https://xn--bcher-kva.example", "https://bücher.example", True),
        ("https://*.BÜCHER.example", "https://a.xn--bcher-kva.example", True),
        ("https://straße.example", "https://xn--strae-oqa.example", True),
        ("https://straße.example", "https://strasse.example", False),
        ("https://例え。テスト", "https://xn--r8jz45g.xn--zckzah", True),
        ("https://bücher.example", "https://bucher.example", False),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", True),
        ("ws://app.example", "ws://app.example", True),
        ("http://[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000", True),
        ("https://app.example", "https://app.example:0", False),
    ],
)
def test_origins_are_patterns_of_whole_names(pattern, origin, let_in):
    """``*.`` is any depth of sub-domains, and not the domain itself."""
    assert is_let_in(Admission(origins=pattern), Host="api.example", Origin=origin) == let_in


@pytest.mark.parametrize(
    ("pattern", "host", "let_in"),
    [
        ("app.example", "app.example", True),
        ("app.example", "APP.example:8000", True),
        ("app.example", "evil.example", False),
        ("app.example", "", False),
        ("app.example", "app.example/x", False),
        ("app.example", "user@app.example", False),
        ("*.example", "a.b.example", True),
        ("*.example", "example", False),
        ("[::1]", "[::1]:8000", True),
        ("::1", "[::1]:8000", True),
        ("::1", "[::1]", True),
        ("0:0:0::1", "[::1]", True),
        ("::1", "[::2]", False),
        ("2001:DB8::7", "[2001:db8:0::7]:443", True),
        ("bücher.example", "xn--bcher-kva.example:8000", True),
        ("xn--bcher-kva.example", "BÜCHER.example", True),
        ("*.münchen.example", "shop.xn--mnchen-3ya.example", True),
        ("app.example", "app.example.", True),
        ("app.example", "app\t.example", False),
        ("app.example", "app.example?", False),
        ("localhost", "127.0.0.1", False),
    ],
)
def test_hosts_are_patterns_of_whole_names(pattern, host, let_in):
    """The port never counts: the server may be behind another."""
    assert is_let_in(Admission(allowed_hosts=[pattern]), Host=host) == let_in


@pytest.mark.parametrize(
    "origin", ["app.example", "https://", "https://a.*.example", "https://app.example/x", "", "https://a:b"]
)  # fmt: skip
def test_an_origin_that_is_none_is_refused_when_the_app_is_built(origin):
    """With the way to write it."""
    with pytest.raises(SetupError, match=r"is not an origin; write it as https://app.example"):
        Admission(origins=[origin])


@pytest.mark.parametrize(
    "host", ["https://app.example", "app.example:80", "", "a.*.example", "a/b"]
)
def test_a_host_that_is_none_is_refused_when_the_app_is_built(host):
    """With the way to write it."""
    with pytest.raises(SetupError, match=r"is not a host name; write it as app.example, without"):
        Admission(allowed_hosts=[host])


def test_authenticate_is_a_coroutine_function():
    """A plain one would let everybody in as a coroutine's worth of nothing."""
    with pytest.raises(SetupError, match="is not a coroutine function; write `async def auth"):
        Admission(authenticate=lambda _: "ann")


class Tokens:
    async def without(self): ...

    async def with_more(self, req, database): ...

    async def __call__(self, req, *, database): ...


async def two(req, resp): ...


@pytest.mark.parametrize(
    "authenticate",
    [Tokens().without, Tokens().with_more, Tokens(), two, functools.partial(two, "req", "resp")],
)
def test_authenticate_takes_a_request(authenticate):
    """And nothing else: refused when the app is built."""
    wanted = re.escape("is called with (req), and takes (") + ".*write `async def authenticate"
    with pytest.raises(SetupError, match=wanted):
        Admission(authenticate=authenticate)


@pytest.mark.parametrize(
    "authenticate",
    [
        functools.partial(two, "first"),
        functools.partial(two, resp=None),
        functools.partial(Tokens().with_more, database={}),
        functools.partial(Tokens(), database={}),
    ],
)
async def test_authenticate_may_have_more_of_its_own(authenticate):
    """What a partial gives it."""
    assert await Admission(authenticate=authenticate).identify(request()) is None


@pytest.mark.parametrize(
    ("returned", "principal"),
    [
        ("ann", Principal(user_id="ann")),
        (None, None),
        (Principal(user_id="ann", tags=["pro"]), Principal(user_id="ann", tags=["pro"])),
    ],
)
async def test_authenticate_tells_who_it_is(returned, principal):
    """A user id, more than that, or that nobody knows."""

    async def authenticate(req):
        return returned

    assert await Admission(authenticate=authenticate).ask(request(Host="a")) == principal


@pytest.mark.parametrize("returned", [3, True, ["ann"], {"user_id": "ann"}])
async def test_authenticate_tells_nothing_else(returned):
    """The error shows what came, and what to return."""

    async def authenticate(req):
        return returned

    with pytest.raises(SetupError, match="return a user id, a Principal, or None"):
        await Admission(authenticate=authenticate).ask(request(Host="a"))


# The server's own pages.


@pytest.mark.parametrize(
    ("scheme", "origin", "let_in"),
    [
        ("ws", "http://app.example", True),
        ("ws", "https://app.example", True),
        ("wss", "https://app.example", True),
        ("wss", "https://app.example:443", True),
        ("wss", "http://app.example", False),
        ("wss", "http://app.example:443", False),
        ("ws", "ws://app.example", False),
        ("ws", "wss://app.example", False),
        ("ws", "foo://app.example", False),
        ("ws", "ftp://app.example:21", False),
        ("ws", "chrome-extension://app.example", False),
        ("ws", "capacitor://app.example", False),
        ("ws", "HTTPS://app.example", True),
        ("ws", "https://app.example:80", False),
        ("ws", "http://app.example:443", False),
        ("ws", "//app.example", False),
        ("ws", "https:app.example", False),
        ("wss", "wss://app.example", False),
        ("wss", "gopher://app.example:443", False),
        ("https", "http://app.example", False),  # as some proxies' middleware writes it
        ("https", "https://app.example", True),
        ("http", "http://app.example", True),
    ],
)
def test_a_page_of_the_same_host_came_over_http_or_https(scheme, origin, let_in):
    """And over https where the connection has TLS; a proxy may end TLS without saying so."""
    admission = Admission()

    assert is_let_in(admission, scheme=scheme, Host="app.example", Origin=origin) == let_in


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "let_in"),
    [
        ("ws", "app.example:443", "https://app.example", True),
        ("ws", "app.example:8443", "https://app.example:8443", True),
        ("ws", "app.example:8443", "http://app.example:8443", True),
        ("ws", "app.example:8443", "foo://app.example:8443", False),
        ("wss", "app.example:8443", "https://app.example:8443", True),
        ("wss", "app.example:8443", "http://app.example:8443", False),
        ("wss", "app.example:80", "http://app.example", False),
        ("wss", "app.example:443", "https://app.example", True),
        ("wss", "[::1]:8443", "https://[0:0::1]:8443", True),
        ("ws", "localhost", "foo://localhost:80", False),
    ],
)
def test_the_port_and_the_scheme_are_both_compared(scheme, host, origin, let_in):
    """A default port may be written or not; a scheme of its own is another site."""
    assert is_let_in(Admission(), scheme=scheme, Host=host, Origin=origin) == let_in


@pytest.mark.parametrize(
    "origin",
    ["chrome-extension://abcdef", "capacitor://localhost", "moz-extension://9f", "ws://a.example"],
)
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_any_scheme_can_be_named(origin, scheme):
    """An extension or a packaged app gets in by the setting, and by nothing else."""
    headers = {"Host": origin.partition("//")[2], "Origin": origin}

    assert not is_let_in(Admission(), scheme=scheme, **headers)
    assert is_let_in(Admission(origins=[origin]), scheme=scheme, **headers)


def test_an_origin_that_is_named_may_come_over_http():
    """The setting is what the owner wants."""
    admission = Admission(origins=["http://app.example"])

    assert is_let_in(admission, scheme="wss", Host="app.example", Origin="http://app.example")


def test_an_idn_host_is_the_same_page_in_either_spelling():
    """Browsers send punycode; other clients may send UTF-8."""
    admission = Admission()

    assert is_let_in(admission, Host="bücher.example", Origin="https://xn--bcher-kva.example")
    assert is_let_in(admission, Host="xn--bcher-kva.example", Origin="https://bücher.example")


@pytest.mark.parametrize(
    ("more", "let_in"),
    [
        ([], False),
        ([("Host", "app.example")], True),
        ([("Host", "app.example"), ("Host", "app.example")], False),
        ([("Host", "app.example"), ("Host", "evil.example")], False),
        ([("Host", "evil.example"), ("Host", "app.example")], False),
    ],
)
def test_a_request_names_one_host(more, let_in):
    """None, or two of which a proxy may believe the other, are not on any list."""
    assert is_let_in(Admission(allowed_hosts="app.example"), *more) == let_in
    origin = ("Origin", "https://app.example")
    assert is_let_in(Admission(), *more, origin) == let_in


def test_a_client_without_host_and_origin_is_not_a_browser():
    """Where no hosts are set, it may connect."""
    assert is_let_in(Admission())


def test_two_origins_are_refused():
    """No browser sends two."""
    two = [("Origin", "https://app.example"), ("Origin", "https://app.example")]

    assert not is_let_in(Admission(), *two, Host="app.example")
    assert is_let_in(Admission(origins="*"), *two, Host="app.example")


@pytest.mark.parametrize(
    ("options", "headers", "told"),
    [
        (
            {},
            {"Host": "127.0.0.1:8000", "Origin": "https://chat.example"},
            (
                "denied a handshake over ws: Origin 'https://chat.example' is neither that of "
                "Host '127.0.0.1:8000' nor in origins="
            ),
        ),
        (
            {"allowed_hosts": "app.example"},
            {"Host": "evil.example", "Origin": "https://evil.example"},
            (
                "denied a handshake over ws: Host 'evil.example' is not in allowed_hosts= "
                "(Origin 'https://evil.example')"
            ),
        ),
        (
            {"allowed_hosts": "app.example"},
            {},
            "denied a handshake over ws: Host None is not in allowed_hosts= (Origin None)",
        ),
    ],
)
def test_a_refusal_names_both_headers_and_the_setting(caplog, options, headers, told):
    """Behind a proxy that rewrites the Host, the line shows why no page matches."""
    assert not is_let_in(Admission(**options), **headers)

    assert [record.getMessage() for record in caplog.records] == [told]


@pytest.mark.parametrize("origin", ["null", "file://", "file://shelf/pages/index.html"])
def test_an_opaque_origin_cannot_be_named(origin):
    """Any site could use it; the error says what to do instead."""
    with pytest.raises(SetupError, match=r"any site can .*over http or https .* or give \"\*\""):
        Admission(origins=[origin])


# HTTP.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("app.example:8000", None), ("APP.example", None), ("app.example.", None),
        ("evil.example", 400), ("", 400), ("app.example.evil.example", 400), ("app.exampl", 400),
        ("evil.example/app.example", 400), ("evil.example#app.example", 400),
        ("app.example:8000@evil.example", 400), ("app.example:99999", 400), ("app.example:x", 400),
        ("app.example, evil.example", 400), ("app.example,evil.example", 400),
        ("http://app.example", 400), ("//app.example", 400), ("app.example\x00", 400),
        ("127.0.0.1", 400), ("[::1]", 400), ("[::1", 400), ("*", 400), ("x.app.example", 400),
    ],
)  # fmt: skip
def test_hosts_are_checked_for_http_too(host, status):
    """With 400, as Django and Starlette answer."""
    refusal = Admission(allowed_hosts="app.example").check_http(handshake(Host=host))

    assert (refusal and refusal.status_code) == status


def test_http_without_a_list_of_hosts_is_not_looked_at():
    """Falcon serves it, whatever its headers."""
    assert Admission(origins=["https://app.example"]).check_http({"type": "http"}) is None


# Who it is.


NOW = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("expires_at", "error", "why"),
    [
        (NOW.replace(tzinfo=None), ValueError, r"no time zone; write datetime.now\(UTC\) \+"),
        (dt.datetime(2030, 1, 1), ValueError, "no time zone"),  # noqa: DTZ001  # the mistake
        (NOW.timestamp(), TypeError, r"datetime.fromtimestamp\(seconds, tz=UTC\)"),
        (int(NOW.timestamp() * 1000), TypeError, "divide milliseconds by 1000 first"),
        (float("nan"), TypeError, "not a datetime; write datetime.fromtimestamp"),
        (float("inf"), TypeError, "not a datetime"),
        (0, TypeError, "not a datetime"),
        (True, TypeError, r"not a datetime; write datetime.now\(UTC\)"),
        (NOW.isoformat(), TypeError, "not a datetime; write datetime.fromisoformat"),
        (NOW.date(), TypeError, "not a datetime"),
        (dt.timedelta(hours=1), TypeError, r"write datetime.now\(UTC\) \+ timedelta\(hours=1\)"),
    ],
)
def test_an_expiry_is_a_datetime_with_a_time_zone(expires_at, error, why):
    """Anything else would be hours too late, or at once; the error shows the right call."""
    with pytest.raises(error, match=why):
        Principal(user_id="ann", expires_at=expires_at)


@pytest.mark.parametrize("zone", [dt.UTC, dt.timezone(dt.timedelta(hours=9))])
def test_a_principal_may_stay_until_it_expires(zone):
    """In seconds from now, whatever its time zone."""
    ends = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)).astimezone(zone)

    assert 50 < Principal(user_id="ann", expires_at=ends).seconds_left() <= 60
    assert Principal(user_id="ann").seconds_left() is None


@pytest.mark.parametrize(
    ("tags", "meant"),
    [("pro", r"tags=\['pro'\]"), (b"pro", r"tags=\['pro'\]"), (7, "a list of tags")],
)
def test_tags_are_a_collection(tags, meant):
    """A text would fall apart into letters."""
    with pytest.raises(TypeError, match=meant):
        Principal(user_id="ann", tags=tags)


@pytest.mark.parametrize(
    "wrong", [{"user_id": 42}, {"user_id": None}, {"user_id": "ann", "tags": [1]}]
)
def test_user_ids_and_tags_are_texts(wrong):
    """A number reaches nobody by ``to.user("42")``."""
    with pytest.raises(TypeError, match=r"is a str, not .*; write .*str\("):
        Principal(**wrong)


@pytest.mark.parametrize("name", ["", " ", "a\0b", "\n", "\u200b", "x" * 201, "é" * 101])
def test_user_ids_and_tags_can_be_seen_and_told_apart(name):
    """All clients with an empty one would be one user."""
    with pytest.raises(InvalidNameError):
        Principal(user_id=name)
    with pytest.raises(InvalidNameError):
        Principal(user_id="ann", tags=["pro", name])


@pytest.mark.parametrize("name", ["", "   ", "ann\x1b[2J", "x" * 1_000_000, "\ud800"])
@pytest.mark.parametrize(
    "make", [str, lambda name: Principal(user_id=name)], ids=["id", "principal"]
)
async def test_an_identity_that_is_none_is_refused(caplog, name, make):
    """With 403, and one warning that has none of its control characters, nor all of its length."""

    async def authenticate(req):
        return make(name)

    with pytest.raises(falcon.HTTPForbidden):
        await Admission(authenticate=authenticate).identify(request(Host="a"))

    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 300


class Asks:
    """An object that is called like a coroutine function."""

    async def __call__(self, req):
        return "ann"


async def test_authenticate_may_be_an_object():
    """With a connection pool of its own, say."""
    assert await Admission(authenticate=Asks()).identify(request()) == Principal(user_id="ann")


async def test_the_host_and_the_origin_come_before_authenticate():
    """Nobody's token is looked at on a page's behalf that may not be there."""
    asked = []

    async def authenticate(req):
        asked.append(req)

    with pytest.raises(falcon.HTTPForbidden) as denied:
        await Admission(authenticate=authenticate).ask(
            request(Host="a.example", Origin="https://evil.example")
        )

    assert denied.value.description == "This origin is not allowed here (origins)."
    assert asked == []
