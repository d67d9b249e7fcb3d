"""Rooms that remember: what a client that comes back gets, and what it never gets."""

from __future__ import annotations

import asyncio
import contextlib

import falcon.asgi
import msgspec
import pytest

from falcon_pachinko import (
    HistoryLimits,
    HistoryPosition,
    WebSocketResource,
    handles_message,
    install,
    to,
)
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.errors import BackendError, NoHistoryError
from falcon_pachinko.testing import simulate


class Say(msgspec.Struct):
    text: str


class Chat(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        self.room = f"chat:{room_name}"
        wants = req.get_param("epoch") is not None
        await self.join_room(self.room, since=HistoryPosition.of(req) if wants else None)
        return True

    @handles_message("say")
    async def say(self, ws, payload: Say):
        delivery = await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})
        return delivery._asdict()

    @handles_message("type")
    async def type_(self, ws):
        await self.broadcast_to_room(self.room, {"type": "typing"}, exclude_self=True, store=False)

    @handles_message("rejoin")
    async def rejoin(self, ws, payload: HistoryPosition):
        await self.join_room(self.room, since=payload)


def node(hub=None, limits=None):
    app = falcon.asgi.App()
    install(app, backend=MemoryBackend(hub) if hub else None)
    manager = app.ws_connection_manager
    manager.configure_rooms("chat:", history=limits or HistoryLimits(), resync=True)
    app.add_websocket_route("/{room_name}", Chat)
    return app


@pytest.fixture(params=["one process", "two processes"])
async def places(request):
    """Where the one who speaks and the one who comes back connect."""
    hub = MemoryHub() if request.param == "two processes" else None
    async with contextlib.AsyncExitStack() as stack:
        first = node(hub)
        here = await stack.enter_async_context(simulate(first))
        there = await stack.enter_async_context(simulate(node(hub))) if hub else here
        yield first, here, there


async def say(client, *texts):
    for text in texts:
        answer = await client.request({"type": "say", "payload": {"text": text}})
        assert answer["type"] == "reply"


async def heard(client, count):
    """What was said to a client, and where each stood."""
    frames = [await client.receive_json() for _ in range(count)]
    return [(each["payload"]["text"], each["history"]["offset"]) for each in frames]


def place(frame):
    return f"epoch={frame['history']['epoch']}&offset={frame['history']['offset']}"


async def test_every_message_says_its_place(places):
    """Room, epoch and offset stand beside the message's own fields."""
    _, here, there = places
    async with here.connect("/tea") as ann, there.connect("/tea") as bob:
        await ann.send_json({"type": "say", "payload": {"text": "hi"}})
        frame = await bob.receive_json()

    epoch = frame["history"].pop("epoch")
    assert epoch
    assert frame == {
        "type": "said",
        "payload": {"text": "hi"},
        "history": {"room": "chat:tea", "offset": 1},
    }


async def test_who_comes_back_gets_what_it_missed_and_then_what_is_live(places):
    """No gap, no duplicate."""
    _, here, there = places
    async with here.connect("/tea") as ann:
        async with there.connect("/tea") as bob:
            await say(ann, "one")
            last = await bob.receive_json()
        await say(ann, "two", "three")
        async with there.connect(f"/tea?{place(last)}") as bob:
            state = await bob.receive_json()
            missed = await heard(bob, 2)
            await say(ann, "four")

            assert state["payload"]["recovered"] is True
            assert state["payload"] | {"epoch": ""} == {
                "room": "chat:tea",
                "recovered": True,
                "epoch": "",
                "offset": 3,
                "messages": 2,
            }
            assert missed == [("two", 2), ("three", 3)]
            assert await heard(bob, 1) == [("four", 4)]
            await bob.expect_nothing()


async def test_a_position_before_the_first_message_works(places):
    """Who was there before anything was said has a position too."""
    _, here, there = places
    async with there.connect("/tea?epoch=") as bob:
        state = (await bob.receive_json())["payload"]
    async with here.connect("/tea") as ann:
        await say(ann, "one")
    async with there.connect(f"/tea?epoch={state['epoch']}&offset={state['offset']}") as bob:
        again = (await bob.receive_json())["payload"]

        assert (state["recovered"], state["offset"], state["messages"]) == (False, 0, 0)
        assert (again["recovered"], again["messages"]) == (True, 1)
        assert await heard(bob, 1) == [("one", 1)]


async def test_another_epoch_is_not_recovered(places):
    """The client is told, and gets what is kept."""
    _, here, there = places
    async with here.connect("/tea") as ann:
        await say(ann, "one", "two")
        async with there.connect("/tea?epoch=gone&offset=1") as bob:
            state = (await bob.receive_json())["payload"]

            assert state["recovered"] is False
            assert await heard(bob, 2) == [("one", 1), ("two", 2)]
            await bob.expect_nothing()


async def test_a_position_that_is_no_longer_kept_is_not_recovered():
    """What was forgotten meanwhile cannot be made up for, and that is said."""
    app = node(limits=HistoryLimits(count=2))
    async with simulate(app) as client, client.connect("/tea") as ann:
        await say(ann, "one", "two", "three", "four")
        oldest = (await app.ws_connection_manager.history("chat:tea"))[0]
        epoch = oldest["history"]["epoch"]
        async with client.connect(f"/tea?epoch={epoch}&offset=1") as bob:
            state = (await bob.receive_json())["payload"]

            assert (state["recovered"], state["messages"]) == (False, 2)
            assert await heard(bob, 2) == [("three", 3), ("four", 4)]


async def test_what_is_not_to_be_kept_is_not(places):
    """Who types is of no interest later; its sender may be left out."""
    app, here, there = places
    async with here.connect("/tea") as ann, there.connect("/tea") as bob:
        await ann.send_json({"type": "type"})

        assert await bob.receive_json() == {"type": "typing"}
        assert await app.ws_connection_manager.history("chat:tea") == []


async def test_a_boundary_race_leaves_no_gap_and_no_duplicate(places):
    """Whatever is said while a client comes back, it gets each message once, in order."""
    app, here, there = places
    manager = app.ws_connection_manager
    async with here.connect("/tea") as ann:
        await say(ann, "0")
        epoch = (await manager.history("chat:tea"))[0]["history"]["epoch"]
        offset = 1

        async def chatter():
            for number in range(1, 120):
                said = {"type": "said", "payload": {"text": str(number)}}
                await manager.broadcast_to_room("chat:tea", said)
                await asyncio.sleep(0)

        talking = asyncio.create_task(chatter())
        for _ in range(3):
            async with there.connect(f"/tea?epoch={epoch}&offset={offset}") as bob:
                assert (await bob.receive_json())["payload"]["recovered"] is True
                offsets = [at for _, at in await heard(bob, 20)]
                assert offsets == list(range(offset + 1, offset + 21))
                offset = offsets[-1]
        await talking


async def test_messages_come_as_what_the_client_speaks():
    """The place is in a MessagePack map as well, and bytes stay bytes."""
    app = node()
    async with (
        simulate(app) as client,
        client.connect("/tea", subprotocols=["pachinko.msgpack"]) as bob,
    ):
        await app.ws_connection_manager.broadcast_to_room("chat:tea", {"type": "raw", "data": b"x"})
        message = await bob.receive_message()

    assert message["data"] == b"x"
    assert message["history"]["offset"] == 1


async def test_joining_twice_with_a_position_is_refused(caplog, answered):
    """A history is for who comes: the others have everything already."""
    async with simulate(node()) as client, client.connect("/tea") as bob:
        answer = await answered(
            bob.request({"type": "rejoin", "payload": {"epoch": "", "offset": 0}})
        )

    assert answer["type"] == "error"
    assert "is in 'chat:tea' already" in caplog.text


async def test_a_room_without_a_history_says_how_to_get_one():
    """The manager names the call that gives a room one."""
    app = node()

    with pytest.raises(NoHistoryError, match="has no history"):
        await app.ws_connection_manager.history("game:1")


class Fragile(MemoryBackend):
    """A backend whose server can be away."""

    away = False

    async def append(self, channel, data, limits):
        if self.away:
            raise BackendError("memory", "away")
        return await super().append(channel, data, limits)

    async def read(self, channel, after, limits):
        if self.away:
            raise BackendError("memory", "away")
        return await super().read(channel, after, limits)


async def test_without_the_backend_members_get_it_and_the_history_ends():
    """A history with a hole is never called complete."""
    app = falcon.asgi.App()
    backend = Fragile(MemoryHub())
    install(app, backend=backend)
    app.ws_connection_manager.configure_rooms("chat:", history=HistoryLimits())
    app.add_websocket_route("/{room_name}", Chat)
    async with simulate(app) as client, client.connect("/tea") as ann:
        await ann.send_json({"type": "say", "payload": {"text": "one"}})
        last = await ann.expect("said")
        await ann.expect("reply")
        backend.away = True
        await ann.send_json({"type": "say", "payload": {"text": "lost"}})
        lost = await ann.expect("said")
        answer = await ann.expect("reply")
        backend.away = False
        async with client.connect(f"/tea?{place(last)}") as bob:
            state = (await bob.receive_json())["payload"]

    assert "history" not in lost
    assert answer["payload"] == {"sent": 1, "dropped": 0, "published": False}
    assert state["recovered"] is False


class Member(WebSocketResource):
    async def on_connect(self, req, ws, rooms):
        ws.user_id = req.get_param("user")
        for room in rooms.split("+"):
            await self.join_room(room)
        await ws.add_tag("pro")
        return True


@pytest.mark.parametrize(
    ("target", "kept", "heard"),
    [
        (to.room("kept:a") - to.user("bob"), "a", "ann"),
        (to.room("kept:a") & to.tag("pro"), "a", "ann bob"),
        (to.tag("pro") & to.room("kept:a"), "a", "ann bob"),
        (to.room("kept:a") | to.room("kept:b"), "a b", "ann bob cid"),
        (to.rooms("kept:"), "a b", "ann bob cid"),
        (to.room("kept:a") | to.room("plain"), "a", "ann bob dan"),
        (to.room("kept:a") | to.user("dan"), "a", "ann bob dan"),
        (to.room("kept:b") - to.room("kept:a"), "b", "cid"),
        (to.everyone, "", "ann bob cid dan"),
        (to.user("bob"), "", "bob"),
        (to.everyone - to.room("kept:a"), "", "cid dan"),
    ],
    ids=str,
)
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "backend"])
async def test_what_a_target_names_is_kept_and_heard_once(target, kept, heard, shared):
    """A message is kept in each room that its target adds; who may hear it now is another thing."""
    app = falcon.asgi.App()
    install(app, backend=MemoryBackend(MemoryHub()) if shared else None)
    manager = app.ws_connection_manager
    manager.configure_rooms("kept:", history=HistoryLimits())
    app.add_websocket_route("/{rooms}", Member)
    rooms = {"ann": "kept:a", "bob": "kept:a+kept:b", "cid": "kept:b", "dan": "plain"}
    async with simulate(app) as client, contextlib.AsyncExitStack() as stack:
        clients = {
            user: await stack.enter_async_context(client.connect(f"/{where}?user={user}"))
            for user, where in rooms.items()
        }
        delivery = await manager.broadcast({"type": "said"}, to=target)
        await manager.broadcast({"type": "end"}, to=to.everyone, store=False)
        said = {}
        for user, each in clients.items():
            frames = []
            while (message := await each.receive_json())["type"] != "end":
                frames.append(message)
            said[user] = len(frames)
        found = [room for room in "ab" if await manager.history(f"kept:{room}")]

    assert found == kept.split()
    assert said == {user: int(user in heard.split()) for user in rooms}
    assert delivery.sent == len(heard.split())
