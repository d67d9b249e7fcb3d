"""The reference of limits: every field, its default, and what a client sees once it is reached."""

import asyncio
import contextlib
import dataclasses

import falcon
import falcon.asgi
import pytest

from falcon_pachinko import Limits, RoomLimitError, WebSocketResource, handles_message, install
from falcon_pachinko.testing import HandshakeDenied, RequestError, simulate

PAGE = "docs/reference/limits.md"


def test_the_table_has_every_field_and_its_default(pages):
    """What the dataclass says, the page says."""
    shown = {row[0].strip("`"): row[1].strip("`") for row in pages[PAGE].table("limits")}

    assert shown == {field.name: written(field.default) for field in dataclasses.fields(Limits)}


def written(value):
    """Write a default as the page does."""
    return f"{value:_}" if isinstance(value, int) else f"{value!r}".replace("'", '"')


class Patient(WebSocketResource):
    """Has handlers that wait until they are let go, and notes how one ended."""

    def __init__(self):
        self.go, self.how = asyncio.Event(), asyncio.Queue()

    @handles_message("wait")
    async def wait(self, ws):
        await self.note_the_end(self.go.wait())

    @handles_message("side", concurrent=True)
    async def side(self, ws):
        await self.go.wait()

    @handles_message("join")
    async def join(self, ws, payload: str):
        await self.join_room(payload)

    @handles_message("tag")
    async def tag(self, ws, payload: str):
        await ws.add_tag(payload)

    @handles_message("echo")
    async def echo(self, ws, payload: str):
        return payload

    async def note_the_end(self, waiting):
        try:
            await waiting
        except asyncio.CancelledError:
            self.how.put_nowait("cancelled")
            raise
        self.how.put_nowait("done")


class Clingy(Patient):
    """Would never be done with its clean-up."""

    async def on_disconnect(self, ws, close_code):
        await self.note_the_end(self.go.wait())


@contextlib.asynccontextmanager
async def patient(serve, resource=Patient, **limits):
    """Connect to a resource with these limits, through a wire that holds next to nothing."""
    app = serve(resource, limits=Limits(**limits))
    async with simulate(app, write_buffer=1) as client, client.connect("/") as ann:
        (ws,) = client.manager._registry.all()
        yield ann, ws.resource


async def heard(client):
    """Say which errors a client gets, and how it is closed, in the words of the table."""
    words = []
    with contextlib.suppress(falcon.WebSocketDisconnected):
        while True:
            message = await client.receive_json()
            if message["type"] == "error":
                words.append(f"`{message['payload']['code']}`")
    return ", then ".join([*words, str(client.close_code)])


async def large(serve):
    """Send 66 bytes of UTF-8, in 33 characters."""
    async with patient(serve, message_bytes=64) as (ann, _):
        await ann.send_text("é" * 33)
        return await heard(ann)


async def fast(serve):
    """Send more than may come at once, at a rate that does not fill the bucket again."""
    async with patient(serve, burst=1, messages_per_second=0.001) as (ann, _):
        for _ in range(2):
            await ann.send_json({"type": "echo", "payload": "x"})
        return await heard(ann)


async def impatient(serve):
    """Send more than may wait behind a busy handler: it comes late, and all of it comes."""
    async with patient(serve, inbox_messages=2) as (ann, resource):
        for ref in range(6):
            await ann.send_json({"type": "wait", "ref": ref})
        await ann.expect_nothing()
        resource.go.set()
        assert [(await ann.receive_json())["ref"] for _ in range(6)] == list(range(6))
    return "a later answer"


async def busy(serve):
    """Send more than is handled side by side; what need not wait is answered meanwhile."""
    async with patient(serve, concurrency=1) as (ann, resource):
        for ref in (1, 2):
            await ann.send_json({"type": "side", "ref": ref})
        await ann.send_json({"type": "echo", "payload": "x", "ref": 3})
        assert (await ann.receive_json())["ref"] == 3
        await ann.expect_nothing()
        resource.go.set()
        assert [(await ann.receive_json())["ref"] for _ in range(2)] == [1, 2]
    return "a later answer"


async def everywhere(serve):
    """Join one room more than one may."""
    async with patient(serve, rooms=1) as (ann, resource):
        await ann.request("join", "a")
        with pytest.raises(RequestError) as refused:
            await ann.request("join", "b")
        with pytest.raises(RoomLimitError):
            await resource.join_room("b")
    return f"`{refused.value.code}`"


async def in_bytes(serve):
    """Send more bytes than may wait behind a busy handler, then let it go on."""
    async with patient(serve, message_bytes=64, inbox_bytes=64) as (ann, resource):
        await ann.send_json({"type": "wait", "ref": 0})
        for ref in range(1, 4):
            await ann.send_json({"type": "echo", "payload": "x" * 20, "ref": ref})
        resource.go.set()
        assert [(await ann.receive_json())["ref"] for _ in range(4)] == [0, 1, 2, 3]
    return "a later answer"


async def labelled(serve):
    """Get one tag more than one may have."""
    async with patient(serve, tags=1) as (ann, _):
        await ann.request("tag", "a")
        with pytest.raises(RequestError) as refused:
            await ann.request("tag", "b")
    return f"`{refused.value.code}`"


async def after_a_stall(serve, policy):
    """Give what a client gets of six frames, of which two leave and two more have room."""
    async with patient(serve, outbox_bytes=21, on_overflow=policy) as (ann, resource):
        await ann.stall()
        for number in range(6):
            await resource.ws.manager.broadcast_to_all(f"no {number}")
        await ann.resume()
        frames = []
        with contextlib.suppress(falcon.WebSocketDisconnected, AssertionError):
            while True:
                frames.append(await ann.receive_json(0.05))
        return frames, ann.close_code


async def slow(serve):
    """Let too much wait, under each policy."""
    frames, code = await after_a_stall(serve, "close")
    assert frames == ["no 0", "no 1"]
    assert await after_a_stall(serve, "drop_newest") == (["no 0", "no 1", "no 2", "no 3"], None)
    assert await after_a_stall(serve, "drop_oldest") == (["no 0", "no 1", "no 4", "no 5"], None)
    return f"{code}, or fewer frames"


async def outbox(serve):
    """Let too much wait: whether it is too much, the size says, and what then, the policy."""
    assert (await after_a_stall(serve, "close"))[1] == 1013
    return "what `on_overflow` says"


async def deaf(serve):
    """Take nothing for too long."""
    async with patient(serve, send_timeout=0.02) as (ann, resource):
        await ann.stall()
        for _ in range(2):
            await resource.ws.manager.broadcast_to_all("Hello?")
        return {1006: "no close frame"}[await ann.expect_close()]


async def one_too_many(serve, authenticate=None, **limits):
    """Connect twice where one connection is allowed."""
    app = serve(Patient, limits=Limits(**limits), authenticate=authenticate)
    async with simulate(app) as client, client.connect("/"):
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect("/"):
                pass
    (field,) = limits
    assert field in denied.value.body.decode()
    return f"HTTP {denied.value.status}"


async def crowded(serve):
    """Connect, though as many as may be are there."""
    return await one_too_many(serve, connections=1)


async def of_one_address(serve):
    """Connect twice from one address."""
    return await one_too_many(serve, connections_per_address=1)


async def of_one_user(serve):
    """Connect twice as one user."""

    async def ann(_req):
        return "ann"

    return await one_too_many(serve, ann, connections_per_user=1)


async def gone(serve):
    """Go while a handler is busy."""
    async with patient(serve, handler_grace=0.02) as (ann, resource):
        await ann.send_json({"type": "wait"})
        await ann.drop()
        assert await resource.how.get() == "cancelled"
    return "nothing: it has disconnected"


async def clingy(serve):
    """Go, though the clean-up would never be done."""
    async with patient(serve, Clingy, shutdown_timeout=0.02) as (ann, resource):
        await ann.drop()
        assert await resource.how.get() == "cancelled"
    return "nothing: it has disconnected"


REACHED = {
    "message_bytes": large,
    "messages_per_second": fast,
    "burst": fast,
    "inbox_messages": impatient,
    "inbox_bytes": in_bytes,
    "concurrency": busy,
    "rooms": everywhere,
    "tags": labelled,
    "outbox_bytes": outbox,
    "on_overflow": slow,
    "send_timeout": deaf,
    "connections": crowded,
    "connections_per_address": of_one_address,
    "connections_per_user": of_one_user,
    "handler_grace": gone,
    "shutdown_timeout": clingy,
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
async def test_a_client_sees_what_the_table_says(serve, pages, field):
    """With this limit reached, that is what comes."""
    promised = {row[0].strip("`"): row[4] for row in pages[PAGE].table("limits")}

    assert await REACHED[field](serve) == promised[field]


def test_the_limits_of_a_route_override_what_they_name():
    """What a route's own set does not name is the app's, below it as well."""
    app = falcon.asgi.App()
    handle = install(app, limits=Limits(rooms=1))
    route = app.add_websocket_route("/a", Patient, limits=Limits(burst=1))
    route.add_route("/b", Patient)
    app.add_websocket_route("/c", Patient)

    assert [route.limits for route in handle.routes] == [
        Limits(rooms=1, burst=1),
        Limits(rooms=1, burst=1),
        Limits(rooms=1),
    ]


async def test_a_frame_over_the_budget_is_taken_while_nothing_waits(serve):
    """Before the accept as well, where everything waits."""

    class Generous(WebSocketResource):
        async def on_connect(self, req, ws):
            await self.send("more than four bytes")
            return True

    app = serve(Generous, limits=Limits(outbox_bytes=4))
    async with simulate(app) as client, client.connect("/") as ann:
        await client.manager.broadcast_to_all("more than four bytes again")

        assert await ann.receive_json() == "more than four bytes"
        assert await ann.receive_json() == "more than four bytes again"
