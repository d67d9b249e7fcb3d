"""Hosts and origins: read like a browser writes them, compared without surprises."""

import falcon
import falcon.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import Principal, SetupError
from falcon_pachinko.session.admission import Admission

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
HOST = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
PORT = st.integers(1, 65_535)


def request(**headers):
    """Make a handshake's request with exactly these headers."""
    scope = falcon.testing.create_scope_ws(headers=headers, spec_version="2.3")
    scope["headers"] = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]

    async def receive():
        return {"type": "websocket.connect"}

    return falcon.asgi.Request(scope, receive)


def is_let_in(admission, **headers):
    """Step the question by hand: without ``authenticate`` it never waits."""
    asking = admission.ask(request(**headers))
    try:
        asking.send(None)
    except StopIteration:
        return True
    except falcon.HTTPForbidden:
        return False
    raise AssertionError("it waits for something")


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
    with pytest.raises(SetupError, match=r"is no origin; write it as https://app.example"):
        Admission(origins=[origin])


@pytest.mark.parametrize(
    "host", ["https://app.example", "app.example:80", "", "a.*.example", "a/b"]
)
def test_a_host_that_is_none_is_refused_when_the_app_is_built(host):
    """With the way to write it."""
    with pytest.raises(SetupError, match=r"is no host name; write it as app.example, without"):
        Admission(allowed_hosts=[host])


def test_authenticate_is_a_coroutine_function():
    """A plain one would let everybody in as a coroutine's worth of nothing."""
    with pytest.raises(SetupError, match="is not a coroutine function; write `async def auth"):
        Admission(authenticate=lambda _: "ann")


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
