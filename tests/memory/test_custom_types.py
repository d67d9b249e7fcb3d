"""Types of the application's own, and bytes that it wrote itself, wherever a message goes."""

import datetime as dt
import decimal
import pathlib
import uuid

import falcon.asgi
import msgspec
import pytest

from falcon_pachinko import (
    HistoryLimits,
    HistoryPosition,
    MessageError,
    WebSocketResource,
    handles_message,
    install,
)
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.errors import EncodeError
from falcon_pachinko.testing import RequestError, simulate

BIN = ["pachinko.msgpack"]


class Point:
    def __init__(self, x):
        self.x = x


class Scalar:
    """A number of another library's, such as NumPy's."""

    def item(self):
        return 5


def write(value):
    if isinstance(value, Point):
        return {"x": value.x}
    if isinstance(value, Scalar):
        return value.item()
    if isinstance(value, pathlib.PurePath):
        return value.as_posix()
    raise NotImplementedError(f"{type(value).__name__} has no form")


def read(wanted, value):
    if wanted is Point:
        return Point(value["x"])
    raise NotImplementedError


VALUES = {
    "point": (Point(3), {"x": 3}),
    "scalar": (Scalar(), 5),
    "path": (pathlib.PurePosixPath("/tea"), "/tea"),
    "nested": ([{"at": Point(1)}], [{"at": {"x": 1}}]),
}


class Desk(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("plain")
        since = HistoryPosition() if req.get_param("since") else None
        await self.join_room("kept:all", since=since)
        return True

    @handles_message("reply")
    async def reply(self, ws, payload: str):
        return VALUES[payload][0]

    @handles_message("refuse")
    async def refuse(self, ws, payload: str):
        raise MessageError("no", VALUES[payload][0])

    @handles_message("track")
    async def be_present(self, ws, payload: str):
        await self.track("plain", {"value": VALUES[payload][0]})

    @handles_message("relay")
    async def relay(self, ws, payload: msgspec.Raw):
        await self.broadcast_to_room("kept:all", {"type": "relayed", "payload": payload})

    @handles_message("present")
    async def present(self, ws, payload: msgspec.Raw):
        await self.track("plain", {"value": payload})


class Board(Desk):
    @handles_message("move")
    async def move(self, ws, payload: list[Point]):
        return [type(each).__name__ for each in payload]


def desk(hub=None, resource=Desk, **hooks):
    app = falcon.asgi.App()
    install(app, backend=MemoryBackend(hub) if hub else None, **hooks)
    app.ws_connection_manager.configure_rooms("kept:", history=HistoryLimits())
    app.add_websocket_route("/", resource)
    return app


def decoded(frame):
    return (msgspec.json if isinstance(frame, str) else msgspec.msgpack).decode(frame)


@pytest.mark.parametrize("protocols", [(), BIN], ids=["json", "msgpack"])
@pytest.mark.parametrize("value", VALUES)
async def test_a_type_that_is_taught_can_be_sent_everywhere(value, protocols):
    """In an answer, an error, a room, a history, a presence, on this process and another."""
    hub = MemoryHub()
    here, there = (desk(hub, enc_hook=write, dec_hook=read) for _ in range(2))
    given, written = VALUES[value]
    async with (
        simulate(here) as client,
        simulate(there) as other,
        client.connect("/", subprotocols=protocols) as ann,
        other.connect("/", subprotocols=protocols) as bob,
    ):
        replied = (await ann.request("reply", value))["payload"]
        with pytest.raises(RequestError) as refused:
            await ann.request("refuse", value)
        await ann.request("track", value)
        presence = await client.manager.presence("plain")
        await client.manager.broadcast_to_room("plain", {"type": "said", "payload": given})
        await client.manager.broadcast_to_room("kept:all", {"type": "kept", "payload": given})
        heard = {}
        while not {"said", "kept"} <= heard.keys():  # they come over channels of their own
            message = decoded(await bob.receive())
            heard[message["type"]] = message["payload"]
        kept = (await client.manager.history("kept:all"))[0]["payload"]

    assert replied == written
    assert refused.value.message == written
    assert [meta for (meta,) in presence.values()] == [{"value": written}]
    assert (heard["said"], heard["kept"], kept) == (written, written, written)


@pytest.mark.parametrize("protocols", [(), BIN], ids=["json", "msgpack"])
async def test_a_type_that_is_taught_can_be_received(protocols):
    """Also within others."""
    app = desk(resource=Board, enc_hook=write, dec_hook=read)
    async with simulate(app) as client, client.connect("/", subprotocols=protocols) as ann:
        answer = await ann.request("move", [{"x": 1}, {"x": 2}])

    assert answer["payload"] == ["Point", "Point"]


@pytest.mark.parametrize("verb", ["room", "history", "presence"])
async def test_a_type_that_is_not_taught_is_told_with_the_remedy(verb):
    """The sender gets one sentence, and nobody else gets anything."""
    app = desk()
    manager = app.ws_connection_manager
    async with simulate(app) as client, client.connect("/") as ann:
        (ws,) = await manager.get_connections_in_room("plain")
        sending = {
            "room": lambda: manager.broadcast_to_room("plain", {"type": "a", "payload": Point(1)}),
            "history": lambda: manager.broadcast_to_room("kept:all", {"type": Point(1)}),
            "presence": lambda: manager.track(ws.id, "plain", {"at": Point(1)}),
        }

        with pytest.raises(EncodeError) as refused:
            await sending[verb]()

        assert str(refused.value).count("cannot be encoded") == 1
        assert "enc_hook" in str(refused.value)
        await ann.expect_nothing()


LOSSLESS = {
    "bytes": b"\x00\xff",
    "datetime": dt.datetime(2027, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    "nested": {"deep": [b"tea", {"at": dt.datetime(2027, 1, 2, tzinfo=dt.UTC)}]},
    "uuid": uuid.UUID(int=7),
    "decimal": decimal.Decimal("1.10"),
    "large": 2**63,
}


@pytest.mark.parametrize("shared", [True, False], ids=["backend", "alone"])
@pytest.mark.parametrize("kind", LOSSLESS)
async def test_who_comes_back_gets_what_those_who_stayed_got(kind, shared):
    """A MessagePack client, though none was there when the room kept it."""
    app = desk(MemoryHub() if shared else None)
    said = {"type": "said", "payload": LOSSLESS[kind]}
    async with simulate(app) as client:
        await client.manager.broadcast_to_room("kept:all", said)
        async with client.connect("/", subprotocols=BIN) as stayed:
            await client.manager.broadcast_to_room("kept:all", said)
            live = decoded(await stayed.receive())
        async with client.connect("/?since=0", subprotocols=BIN) as back:
            frames = [decoded(await back.receive()) for _ in range(3)]

    assert [frame["payload"] for frame in frames[1:]] == [live["payload"]] * 2


RAW = [b"1", b"7", b"[1]", b'"tea"', b'{"a": 1}']
"""JSON; the first two are MessagePack as well, of other numbers."""


@pytest.mark.parametrize("raw", RAW)
async def test_a_raw_value_is_kept_as_the_json_it_is(raw):
    """In an app whose clients all speak JSON, now and when somebody comes back."""
    wanted = msgspec.json.decode(raw)
    app = desk()
    async with simulate(app) as client:
        async with client.connect("/") as ann:
            await ann.request("relay", wanted)
            frames = [decoded(frame) for kind, frame in ann.trace if kind == "received"]
            live = [each["payload"] for each in frames if each["type"] == "relayed"]
        kept = [each["payload"] for each in await client.manager.history("kept:all")]

    assert (live, kept) == ([wanted], [wanted])


@pytest.mark.parametrize("raw", RAW)
async def test_a_raw_value_is_refused_where_both_codecs_would_read_it(raw):
    """A history that MessagePack clients read, and a presence, which anybody may read."""
    app = desk()
    manager = app.ws_connection_manager
    async with (
        simulate(app) as client,
        client.connect("/") as ann,
        client.connect("/", subprotocols=BIN),
    ):
        (ws, *_) = await manager.get_connections_in_room("plain")
        for sending in (
            manager.broadcast_to_room("kept:all", {"type": "a", "payload": msgspec.Raw(raw)}),
            manager.track(ws.id, "plain", {"value": [msgspec.Raw(raw)]}),
        ):
            with pytest.raises(EncodeError, match="decode it first"):
                await sending

        assert await manager.history("kept:all") == []
        await ann.expect_nothing()
