"""Everything else of Falcon's works as before, and works with us."""

import asyncio

import falcon
import falcon.asgi
import falcon.testing
import pytest

from falcon_pachinko import Limits, WebSocketResource, handles_message, install
from falcon_pachinko.testing import HandshakeDenied, simulate


class Hello:
    async def on_get(self, req, resp):
        resp.media = {"hello": "world"}

    async def on_post(self, req, resp):
        resp.media = await req.get_media()


class OwnSocket:
    """An ordinary Falcon resource."""

    async def on_websocket(self, req, ws):
        if req.params.get("deny"):
            raise falcon.HTTPForbidden
        await ws.accept()
        await ws.send_media({"you": req.path})
        while True:
            await ws.send_text(await ws.receive_text())


class Joined(OwnSocket):
    """One that takes part in rooms."""

    def __init__(self, manager):
        self.manager = manager

    async def on_websocket(self, req, ws):
        await ws.accept()
        await self.manager.add_connection("own", ws)
        await self.manager.join_room("own", "lobby")
        try:
            while True:
                await self.manager.broadcast_to_room("lobby", await ws.receive_text())
        finally:
            await self.manager.remove_connection("own")


class Room(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("lobby")
        return True

    @handles_message("echo")
    async def echo(self, ws, payload):
        return [payload, dict(vars(ws.state)) if hasattr(ws.state, "__dict__") else {}]


class Notes:
    """Middleware of both kinds."""

    def __init__(self):
        self.log = []

    async def process_request(self, req, resp):
        self.log.append(f"request {req.path}")

    async def process_request_ws(self, req, ws):
        self.log.append(f"request_ws {req.path}")

    async def process_resource_ws(self, req, ws, resource, params):
        self.log.append(f"resource_ws {resource!r} {params}")


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def app(notes):
    made = falcon.asgi.App(middleware=[notes])
    install(made)
    made.add_route("/hello", Hello())
    made.add_route("/own", OwnSocket())
    made.add_route("/joined", Joined(made.ws_connection_manager))
    made.add_websocket_route("/room", Room)
    return made


async def test_http_is_as_it_was(app):
    """Routes, methods, errors."""
    async with simulate(app) as client:
        got = await client.http.simulate_get("/hello")
        posted = await client.http.simulate_post("/hello", json=[1])
        missing = await client.http.simulate_get("/nope")
        wrong = await client.http.simulate_put("/hello")

    assert (got.json, posted.json) == ({"hello": "world"}, [1])
    assert (missing.status_code, wrong.status_code) == (404, 405)


async def test_a_websocket_route_is_not_there_for_http(app):
    """Falcon says which methods there are: none."""
    async with simulate(app) as client:
        answer = await client.http.simulate_get("/room")

    assert answer.status_code == 405


async def test_an_ordinary_websocket_resource_is_as_it_was(app, closing):
    """Falcon's own verbs, both ways, and its own end."""
    async with simulate(app) as client, client.connect("/own") as ann:
        first = await ann.receive_json()
        await ann.send_text("hi")
        echoed = await ann.receive_text()

    assert (first, echoed) == ({"you": "/own"}, "hi")


async def test_an_ordinary_websocket_resource_may_deny(app, knock):
    """Its ``HTTPError`` becomes the status."""
    async with simulate(app) as client:
        assert await knock(client.connect("/own?deny=1")) == 403


async def test_an_ordinary_websocket_can_be_in_rooms(app, closing):
    """Add it, and it is reached like any other."""
    async with simulate(app) as client:
        async with client.connect("/joined") as own, client.connect("/room") as ann:
            await own.send_text("to all")
            heard = [await each.receive_json() for each in (own, ann)]
            await client.manager.disconnect("own", 4000)
            code = await closing(own)
        left = client.manager.status()["connections"]

    assert heard == ["to all", "to all"]
    assert (code, left) == (4000, 0)


async def test_middleware_runs_for_our_routes(app, notes):
    """With a stand-in for the resource, and the path's fields."""
    async with simulate(app) as client:
        await client.http.simulate_get("/hello")
        async with client.connect("/room"):
            pass

    assert notes.log == [
        "request /hello",
        "request_ws /room",
        "resource_ws <Room, before there is a connection> {}",
    ]


@pytest.mark.parametrize("point", ["process_request_ws", "process_resource_ws"])
async def test_middleware_may_deny(point, knock):
    """Its ``HTTPError`` is the client's status, and the resource is never asked."""

    async def refuse(self, *args):
        raise falcon.HTTPUnauthorized

    app = falcon.asgi.App(middleware=[type("Refuses", (), {point: refuse})()])
    install(app)
    app.add_websocket_route("/room", Room)

    async with simulate(app) as client:
        assert await knock(client.connect("/room")) == 401


async def test_middleware_may_not_accept(knock, caplog):
    """The handshake is the resource's; the log says so."""

    class Accepts:
        async def process_request_ws(self, req, ws):
            await ws.accept()

    app = falcon.asgi.App(middleware=[Accepts()])
    install(app)
    app.add_websocket_route("/room", Room)

    async with simulate(app) as client, client.connect("/room") as ann:
        with pytest.raises(falcon.WebSocketDisconnected):
            await ann.receive()

    assert ann.close_code == 1011
    assert "a middleware answered the handshake of '/room' itself" in caplog.text


async def test_falcons_own_conductor_speaks_to_our_routes(app):
    """``simulate_ws`` needs nothing of ours."""
    async with falcon.testing.ASGIConductor(app) as conductor, conductor.simulate_ws("/room") as ws:
        await ws.send_json({"type": "echo", "ref": 1, "payload": "hi"})
        answer = await ws.receive_json()

    assert answer == {"type": "reply", "ref": 1, "payload": ["hi", {}]}


async def test_falcons_own_conductor_sees_a_denial(app):
    """As a close before the accept."""

    class Denies(WebSocketResource):
        async def on_connect(self, req, ws):
            return False

    app.add_websocket_route("/denied", Denies)
    async with falcon.testing.ASGIConductor(app) as conductor:
        with pytest.raises(falcon.WebSocketDisconnected):
            async with conductor.simulate_ws("/denied"):
                pass


async def test_an_error_handler_of_the_apps_own_is_asked(app, knock):
    """What ``on_connect`` raises goes through Falcon's error handlers."""

    class FullError(Exception):
        pass

    class Fails(WebSocketResource):
        async def on_connect(self, req, ws):
            raise FullError

    async def handle(req, resp, error, params, ws=None):
        raise falcon.HTTPServiceUnavailable

    app.add_error_handler(FullError, handle)
    app.add_websocket_route("/full", Fails)

    async with simulate(app) as client:
        assert await knock(client.connect("/full")) == 503


async def test_clients_of_all_kinds_at_once(app):
    """HTTP, an ordinary WebSocket and ours, side by side."""
    async with (
        simulate(app) as client,
        client.connect("/own") as own,
        client.connect("/room") as ann,
    ):
        got, first, answer = await asyncio.gather(
            client.http.simulate_get("/hello"),
            own.receive_json(),
            ann.request("echo", 1),
        )

    assert (got.status_code, first, answer["payload"][0]) == (200, {"you": "/own"}, 1)


async def test_a_denied_handshake_raises_what_falcons_conductor_raises():
    """Tests written for Falcon's kit catch it unchanged."""
    assert issubclass(HandshakeDenied, falcon.WebSocketDisconnected)


class Negotiates:
    """Agrees on what the query says, whatever else the client offers."""

    def __init__(self, manager):
        self.manager = manager

    async def on_websocket(self, req, ws):
        await ws.accept(subprotocol=req.get_param("speaks"))
        await self.manager.add_connection("own", ws)
        try:
            while True:
                await self.manager.broadcast_to_all(await ws.receive_text())
        finally:
            await self.manager.remove_connection("own")


@pytest.mark.parametrize(
    ("speaks", "heard"),
    [
        (None, '"hi"'),
        ("pachinko.json", '"hi"'),
        ("v1", '"hi"'),
        ("pachinko.msgpack", b"\xa2hi"),
    ],
)
async def test_an_ordinary_websocket_speaks_what_was_agreed_on(speaks, heard):
    """Not what the client offered first; and it has the limits of the app."""
    app = falcon.asgi.App()
    limits = Limits(outbox_bytes=5000)
    manager = install(app, limits=limits).ws_connection_manager
    app.add_route("/own", Negotiates(manager))
    path = f"/own?speaks={speaks}" if speaks else "/own"
    offered = ["pachinko.msgpack", "pachinko.json", "v1"]
    async with simulate(app) as client, client.connect(path, subprotocols=offered) as own:
        await own.send_text("hi")
        frame = await own.receive()
        (known,) = [each async for each in manager.connections()]

    assert (frame, known.subprotocol, known.limits) == (heard, speaks, limits)
