"""Who may come in at all: hosts, origins, identity, and how many."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import falcon
import falcon.asgi
import falcon.testing
import pytest

from falcon_pachinko import Limits, Principal, SetupError, WebSocketResource, install, to
from falcon_pachinko.testing import HandshakeDenied, simulate


class Lobby(WebSocketResource):
    """Lets everybody in."""


def lobby(**options):
    app = falcon.asgi.App()
    install(app, **options)
    app.add_websocket_route("/lobby", Lobby)
    return app


async def status(app, **headers):
    """Return 101, or the status that a handshake with these headers is denied with."""
    try:
        async with simulate(app) as client, client.connect("/lobby", headers=headers):
            return 101
    except HandshakeDenied as denied:
        return denied.status


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        (None, "app.example", 101),
        ("https://app.example", "app.example", 101),
        ("http://app.example", "app.example:80", 101),
        ("https://app.example:443", "app.example", 101),
        ("https://APP.example", "app.EXAMPLE", 101),
        ("http://localhost:8000", "localhost:8000", 101),
        ("http://[::1]:8000", "[::1]:8000", 101),
        ("http://localhost:3000", "localhost:8000", 403),
        ("https://evil.example", "app.example", 403),
        ("https://app.example.evil.example", "app.example", 403),
        ("null", "app.example", 403),
        ("", "app.example", 403),
        ("https://app.example/path", "app.example", 403),
        ("https://user@app.example", "app.example", 403),
        ("https://app.example:x", "app.example", 403),
    ],
)
async def test_only_pages_of_the_same_host_may_connect(origin, host, expected):
    """By default the Origin must name the Host; who sends none is no browser."""
    headers = {"Host": host} | ({"Origin": origin} if origin is not None else {})

    assert await status(lobby(), **headers) == expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://shop.example", 101),
        ("https://a.b.app.example", 101),
        ("https://server.example", 101),
        ("https://app.example", 403),
        ("https://evilapp.example", 403),
        ("http://shop.example", 403),
        ("https://shop.example:8443", 403),
    ],
)
async def test_more_origins_are_a_setting(origin, expected):
    """A list adds to the server's own; a star stands for sub-domains of any depth."""
    app = lobby(origins=["https://shop.example", "https://*.app.example"])

    assert await status(app, Host="server.example", Origin=origin) == expected


async def test_a_star_switches_the_origin_check_off():
    """Then any page may connect, a file's too."""
    assert await status(lobby(origins="*"), Host="app.example", Origin="null") == 101


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("app.example", 101), ("app.example:8000", 101), ("eu.app.example", 101),
        ("rebound.example", 403), ("", 403),
    ],
)  # fmt: skip
async def test_hosts_can_be_limited(host, expected):
    """A name that DNS rebinding brings along is not one of ours."""
    app = lobby(allowed_hosts=["app.example", "*.app.example"])

    assert await status(app, Host=host) == expected


class Own:
    async def on_websocket(self, req, ws):
        await ws.accept()
        with contextlib.suppress(falcon.WebSocketDisconnected):
            await ws.receive_text()


@pytest.mark.parametrize(
    ("path", "host", "expected", "middleware"),
    [
        ("/own", "app.example", 101, 1),
        ("/own", "APP.example:8000", 101, 1),
        ("/own", "rebound.example", 403, 0),
        ("/own", "app.example.rebound.example", 403, 0),
        ("/own", "app.example@rebound.example", 403, 0),
        ("/own", "", 403, 0),
        ("/lobby", "rebound.example", 403, 1),
        ("/nowhere", "rebound.example", 404, 1),
    ],
)
async def test_hosts_are_limited_for_every_handshake(caplog, path, host, expected, middleware):
    """For an on_websocket of the application's own as well: it is denied before Falcon sees it."""
    asked = []

    class Asked:
        async def process_request_ws(self, req, ws):
            asked.append(req.path)

    app = lobby(allowed_hosts=["app.example"])
    app.add_middleware(Asked())
    app.add_route("/own", Own())
    answer, denied = 101, 0
    async with simulate(app) as client:
        try:
            async with client.connect(path, headers={"Host": host}):
                pass
        except HandshakeDenied as error:
            answer, denied = error.status, client.manager.status()["denied"]

    assert (answer, denied) == (expected, int(expected != 101))
    assert len(asked) == middleware
    assert len([r for r in caplog.records if "allowed_hosts" in r.getMessage()]) == (
        expected == 403
    )


class Page:
    async def on_get(self, req, resp):
        resp.media = "page"


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["app.example"], 200), (["app.example:8000"], 200), (["EU.app.example"], 200),
        (["rebound.example"], 400), ([""], 400), (["app.example@rebound.example"], 400),
        (["app.example", "rebound.example"], 400), ([], 400),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/page", "/nowhere", "/lobby"])
async def test_hosts_are_limited_for_http_too(path, hosts, expected):
    """Before Falcon has a look: middleware, routes and 404s are for those who come by a name."""
    asked, sent = [], []

    class Asked:
        async def process_request(self, req, resp):
            asked.append(req.path)

    app = lobby(allowed_hosts=["app.example", "*.app.example"])
    app.add_middleware(Asked())
    app.add_route("/page", Page())
    scope = falcon.testing.create_scope(path=path)
    scope["headers"] = [(b"host", host.encode()) for host in hosts]

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event):
        sent.append(event)

    await app(scope, receive, send)
    served = {"/page": 200, "/nowhere": 404, "/lobby": 405}[path]

    assert sent[0]["status"] == (served if expected == 200 else 400)
    assert bool(asked) == (expected == 200)


async def test_a_refused_request_names_the_setting(caplog):
    """As Falcon's own errors look; the log has one line."""
    async with simulate(lobby(allowed_hosts=["app.example"])) as client:
        answer = await client.http.simulate_get("/", host="evil.example")
        head = await client.http.simulate_head("/", host="evil.example")

    assert answer.json == {
        "title": "400 Bad Request",
        "description": "This host is not allowed here (allowed_hosts).",
    }
    assert (head.status_code, head.content) == (400, b"")
    assert [record.getMessage() for record in caplog.records] == [
        "refused a request: Host 'evil.example' is not in allowed_hosts="
    ] * 2


async def test_a_lifespan_has_no_host():
    """It runs whatever the hosts are, and a test's own requests are for localhost."""
    async with simulate(lobby(allowed_hosts=["localhost"])) as client:
        assert (await client.http.simulate_get("/nowhere")).status_code == 404
        assert (await client.http.simulate_post("/nowhere")).status_code == 404


async def test_a_refusal_is_one_log_line_that_names_the_setting(caplog):
    """With the client's text shown as data, cut, and no traceback."""
    await status(lobby(), Host="app.example", Origin="https://evil.example\n" + "x" * 999)

    [record] = [r for r in caplog.records if r.name == "falcon_pachinko"]
    assert "origins" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 300


@pytest.mark.parametrize(
    "options",
    [
        {"origins": ["app.example"]},
        {"origins": ["https://*.*.example"]},
        {"allowed_hosts": ["https://app.example"]},
        {"allowed_hosts": ["app.example:8000"]},
        {"authenticate": print},
    ],
)
def test_a_setting_that_could_never_work_is_refused(options):
    """While the app is built, with an example of how it is written."""
    with pytest.raises(SetupError):
        lobby(**options)


async def by_token(req):
    """Know people by the token in their query."""
    token = req.get_param("token")
    if token is None:
        raise falcon.HTTPUnauthorized(description="Bring a token.")
    if token == "soon":
        return Principal(user_id="eve", expires_at=datetime.now(UTC) + timedelta(seconds=0.1))
    if token == "dated":
        return Principal(user_id="eve", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    if token == "odd":
        return 5
    return Principal(user_id=token, tags={"pro"}) if token != "stranger" else None


async def test_a_client_is_who_the_application_says():
    """The principal's user id and tags are there from on_connect on."""
    seen = []

    class Known(Lobby):
        async def on_connect(self, req, ws):
            seen.append((ws.user_id, ws.tags))
            return True

    app = lobby(authenticate=by_token)
    app.add_websocket_route("/known", Known)
    async with simulate(app) as client:
        async with client.connect("/known?token=ann"), client.connect("/known?token=stranger"):
            reached = await client.manager.send_to_user("ann", {"type": "hello"})
        after = await client.manager.count(to.user("ann"))

    assert seen == [("ann", {"pro"}), (None, frozenset())]
    assert reached.sent == 1
    assert after == 0


async def test_without_credentials_the_handshake_is_denied_with_401():
    """What authenticate raises is the answer; on_connect is not asked."""
    assert await status(lobby(authenticate=by_token)) == 401


async def test_an_answer_that_is_no_principal_is_a_500(caplog):
    """The developer's mistake is in the log, with what to return."""
    async with simulate(lobby(authenticate=by_token)) as client:
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/lobby?token=odd").__aenter__()

    assert denied.value.status == 500
    assert "return a user id, a Principal, or None" in caplog.text


@pytest.mark.parametrize("token", ["soon", "dated"])
async def test_an_authentication_that_expires_closes_with_4401(token):
    """At its hour, or at once if that has passed."""
    app = lobby(authenticate=by_token)
    async with simulate(app) as client, client.connect(f"/lobby?token={token}") as eve:
        with pytest.raises(falcon.WebSocketDisconnected):
            await eve.receive()

        assert (eve.close_code, eve.close_reason) == (4401, "the authentication has expired")


async def test_setting_the_user_later_is_as_good():
    """An application that learns who it is from a message just says so."""
    async with simulate(lobby()) as client, client.connect("/lobby"):
        [connection] = [each async for each in client.manager.connections()]
        connection.user_id = "bob"
        as_bob = await client.manager.count(to.user("bob"))
        connection.user_id = None

        assert as_bob == 1
        assert await client.manager.count(to.user("bob")) == 0


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(connections=1), 503),
        (Limits(connections_per_address=1), 429),
        (Limits(connections_per_user=1), 429),
    ],
)
async def test_one_connection_too_many_is_denied_and_the_setting_named(limits, code):
    """And when the first has gone there is room again."""
    async with simulate(lobby(limits=limits, authenticate=by_token)) as client:
        async with client.connect("/lobby?token=ann"):
            with pytest.raises(HandshakeDenied) as denied:
                await client.connect("/lobby?token=ann").__aenter__()
        await asyncio.sleep(0)
        async with client.connect("/lobby?token=ann") as again:
            await again.expect_nothing()

    assert denied.value.status == code
    assert b"connections" in denied.value.body


async def test_an_expiry_is_forgotten_with_its_connection():
    """No timer keeps what has ended, and nothing is closed again."""
    ends = datetime.now(UTC) + timedelta(hours=1)

    async def authenticate(req):
        return Principal(user_id="ann", expires_at=ends)

    async with simulate(lobby(authenticate=authenticate)) as client, client.connect("/lobby"):
        (connection,) = client.manager._registry.all()
        timer = connection._expiry

    assert timer.cancelled()
    assert connection._expiry is None
