"""Several apps on one hub, each as one process of a cluster: what crosses, and what does not."""

from __future__ import annotations

import asyncio
import contextlib

import falcon.asgi
import msgspec
import pytest

from falcon_pachinko import (
    HistoryLimits,
    WebSocketConnectionManager,
    WebSocketResource,
    handles_message,
    install,
    to,
)
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.cluster import listening
from falcon_pachinko.cluster import resync as resync_module
from falcon_pachinko.cluster.parcels import ALL, Mark, Question, encode, header
from falcon_pachinko.testing import Disconnected, simulate


class Say(msgspec.Struct):
    text: str


class Chat(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        ws.user_id = req.get_param("user")
        self.room = room_name
        await self.join_room(room_name)
        return True

    @handles_message("say")
    async def say(self, ws, payload: Say):
        delivery = await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})
        return delivery._asdict()

    @handles_message("whisper")
    async def whisper(self, ws, payload: Say):
        said = {"type": "said", "payload": payload}
        await self.broadcast_to_room(self.room, said, exclude_self=True)

    @handles_message("wear")
    async def wear(self, ws, payload: Say):
        await ws.add_tag(payload.text)
        return ws.id


def node(hub, backend=None):
    app = falcon.asgi.App()
    install(app, backend=backend or MemoryBackend(hub))
    app.add_websocket_route("/{room_name}", Chat)
    return app


@pytest.fixture
async def nodes():
    """Two processes of one cluster: their apps, and a client maker for each."""
    hub = MemoryHub()
    async with contextlib.AsyncExitStack() as stack:
        apps = [node(hub), node(hub)]
        clients = [await stack.enter_async_context(simulate(app)) for app in apps]
        yield tuple(zip(apps, clients, strict=True))


async def test_a_room_spans_processes(nodes):
    """What one member says, members of the room on the other process receive, once."""
    (_, here), (_, there) = nodes
    async with here.connect("/tea") as ann, there.connect("/tea") as bob:
        await ann.send_json({"type": "say", "payload": {"text": "hi"}})

        assert await bob.receive_json() == {"type": "said", "payload": {"text": "hi"}}
        assert await ann.receive_json() == {"type": "said", "payload": {"text": "hi"}}
        assert (await ann.receive_json())["payload"] == {
            "sent": 1,
            "dropped": 0,
            "published": True,
        }
        await bob.expect_nothing()


async def test_other_rooms_hear_nothing(nodes):
    """A process without members of a room is not even sent its messages."""
    (_, here), (app, there) = nodes
    async with here.connect("/tea") as ann, there.connect("/coffee") as bob:
        await ann.request({"type": "say", "payload": {"text": "hi"}})

        await bob.expect_nothing()
    assert "room:tea" not in app.ws_connection_manager._cluster.subscriptions


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (to.user("bob"), "bob"),
        (to.tag("pro"), "bob"),
        (to.everyone, "ann bob cid"),
        (to.rooms("te"), "ann bob"),
        (to.rooms("mi") | to.rooms("co") - to.user("cid"), "cid"),
        (to.rooms("") & to.user("bob"), "bob"),
        (to.room("tea") & to.tag("pro"), "bob"),
        (to.room("tea") | to.room("coffee"), "ann bob"),
        (to.everyone - to.user("ann"), "bob cid"),
        ((to.room("tea") - to.user("ann")) & (to.tag("pro") | to.user("bob")), "bob"),
    ],
)
async def test_any_target_crosses(nodes, target, reached):
    """The algebra is evaluated where the connections live, on every process."""
    (app, here), (_, there) = nodes
    async with (
        here.connect("/tea?user=ann") as ann,
        there.connect("/tea?user=bob") as bob,
        there.connect("/milk?user=cid") as cid,
    ):
        await bob.request({"type": "wear", "payload": {"text": "pro"}})
        await app.ws_connection_manager.broadcast({"type": "ping"}, to=target)

        for name, client in {"ann": ann, "bob": bob, "cid": cid}.items():
            if name in reached:
                assert await client.receive_json() == {"type": "ping"}
            else:
                await client.expect_nothing()


async def test_one_connection_is_reached_by_its_id(nodes):
    """An id tells which process to send to; the others hear nothing of it."""
    (app, _), (_, there) = nodes
    async with there.connect("/tea") as bob, there.connect("/tea") as cid:
        bobs_id = (await bob.request({"type": "wear", "payload": {"text": "pro"}}))["payload"]
        delivery = await app.ws_connection_manager.send_to_connection(bobs_id, {"type": "ping"})

        assert await bob.receive_json() == {"type": "ping"}
        assert delivery == (0, 0, True)
        await cid.expect_nothing()


async def test_exclusion_crosses(nodes):
    """The one who is left out is left out wherever the message comes from."""
    (app, here), (_, there) = nodes
    async with here.connect("/tea") as ann, there.connect("/tea") as bob:
        bobs_id = (await bob.request({"type": "wear", "payload": {"text": "pro"}}))["payload"]
        await app.ws_connection_manager.broadcast_to_room("tea", {"type": "x"}, exclude=[bobs_id])

        assert await ann.receive_json() == {"type": "x"}
        await bob.expect_nothing()


async def test_a_disconnect_crosses(nodes):
    """A target is disconnected on every process, with the code and the reason."""
    (app, _), (_, there) = nodes
    async with there.connect("/tea?user=bob") as bob:
        here = await app.ws_connection_manager.disconnect(to.user("bob"), 4001, "moved")

        with pytest.raises(Disconnected):
            await bob.receive_json()
        assert (here, bob.close_code, bob.close_reason) == ((1, 2, 2), 4001, "moved")


async def test_each_codec_gets_its_own_form(nodes):
    """Bytes reach a MessagePack client of another process as bytes, not as JSON has them."""
    (app, here), (_, there) = nodes
    async with (
        here.connect("/tea") as ann,
        there.connect("/tea", subprotocols=["pachinko.msgpack"]) as bob,
    ):
        await app.ws_connection_manager.broadcast_to_room("tea", {"type": "raw", "payload": b"\0"})

        assert (await ann.receive_json())["payload"] == "AA=="
        assert msgspec.msgpack.decode(await bob.receive())["payload"] == b"\0"


async def test_subscriptions_follow_members(nodes, until):
    """When everybody has left, nothing but the process's own channels is subscribed to."""
    (app, here), _ = nodes
    cluster = app.ws_connection_manager._cluster
    async with here.connect("/tea?user=ann") as ann:
        await ann.request({"type": "wear", "payload": {"text": "pro"}})
        during = set(cluster.backend._channels)
    await until(lambda: len(cluster.subscriptions) == 2)

    own = {"all", f"node:{cluster.name}"}
    assert during == own | {"room:tea", "user:ann", "tag:pro"}
    assert cluster.backend._channels == own


async def test_foreign_bytes_are_counted_and_dropped(nodes):
    """What is no parcel, or is one of another version, harms nobody."""
    (app, _), (_, there) = nodes
    other = app.ws_connection_manager._cluster.backend
    async with there.connect("/tea") as bob:
        for junk in (b"", b"\x01", b"\xff" * 40, b"\x02" + b"0" * 30, b'{"type":"said"}'):
            await other.publish([("room:tea", junk)])
        await app.ws_connection_manager.broadcast_to_room("tea", {"type": "still"})

        assert await bob.receive_json() == {"type": "still"}
        assert nodes[1][0].ws_connection_manager.status()["rejected"] == 5


async def test_a_parcel_that_never_came_is_a_gap(nodes):
    """Who misses a parcel finds out with the next one: a counter, a hook, a word to the room."""
    (app, _), (second, there) = nodes
    manager, gaps = second.ws_connection_manager, []

    async def note(gap):
        gaps.append(gap)

    manager.on_gap(note)
    manager.configure_rooms("te", resync=True)
    async with there.connect("/tea") as bob:
        first = app.ws_connection_manager
        await first.broadcast_to_room("tea", {"type": "one"})
        assert await bob.receive_json() == {"type": "one"}
        first._cluster.backend.state = "degraded"
        lost = await first.broadcast_to_room("tea", {"type": "two"})
        first._cluster.backend.state = "up"
        await first.broadcast_to_room("tea", {"type": "three"})

        assert not lost.published
        assert await bob.receive_json() == {"type": "resync", "payload": {"room": "tea"}}
        assert await bob.receive_json() == {"type": "three"}
    assert [gap.channel for gap in gaps] == ["room:tea"]
    assert manager.status()["gaps"] == 1


@pytest.mark.parametrize("channel", ["room:tea", "all"])
async def test_forged_marks_cost_hooks_and_clients_next_to_nothing(nodes, channel, monkeypatch):
    """However fast they are forged: one is told at once, the rest together a while later."""
    monkeypatch.setattr(listening, "GAP_SECONDS", 0.2)
    monkeypatch.setattr(resync_module, "SPREAD", (0.05, 0.1))
    (app, _), (second, there) = nodes
    manager, gaps = second.ws_connection_manager, []

    async def note(gap):
        gaps.append(gap)

    manager.on_gap(note)
    manager.configure_rooms("te", resync=True)
    resync = {"type": "resync", "payload": {"room": "tea"}}
    async with there.connect("/tea") as bob:
        for number in range(400):
            mark = encode(header(f"{number:012x}"), Mark(1, 0))
            await app.ws_connection_manager._cluster.backend.publish([(channel, mark)])
        await app.ws_connection_manager.broadcast_to_room("tea", {"type": "still"})

        told = [await bob.receive_json() for _ in range(3)]
        while {"type": "still"} not in told:
            told.append(await bob.receive_json())
        assert all(each in ({"type": "still"}, resync) for each in told)
        assert told.count(resync) >= 2
        assert manager.status()["gaps"] == 400
    assert 2 <= len(gaps) < 20


async def test_a_history_is_read_at_once_however_many_gaps_there_are(nodes):
    """One that has ended must not be followed by messages of the next, with nothing between."""
    (app, _), (second, there) = nodes
    first, manager = app.ws_connection_manager, second.ws_connection_manager
    for each in (first, manager):
        each.configure_rooms("te", history=HistoryLimits())
    async with there.connect("/tea") as bob:
        await first.broadcast_to_room("tea", {"type": "one"})
        assert (await bob.receive_json())["type"] == "one"
        for _ in range(3):
            await first._cluster.backend.forget("room:tea")
            first._cluster.note_hole("room:tea")

            state = await bob.receive_json()
            assert (state["type"], state["payload"]["recovered"]) == ("history.state", False)
            await first.broadcast_to_room("tea", {"type": "next"})
            assert (await bob.receive_json())["type"] == "next"
    assert manager.status()["gaps"] == 3


async def test_without_a_backend_nothing_is_published():
    """One process on its own has no backend to tell of, and nothing to publish to."""
    app = node(None, MemoryBackend())
    async with simulate(app) as client, client.connect("/tea") as ann:
        answer = await ann.request({"type": "say", "payload": {"text": "hi"}})

        assert answer["payload"] == {"sent": 1, "dropped": 0, "published": False}
        assert app.ws_connection_manager.status()["backend"] is None


async def test_a_close_code_that_may_not_be_sent_is_counted_and_dropped(nodes, caplog):
    """An absurd one from elsewhere closes nobody, and is no traceback."""
    (app, _), (second, there) = nodes
    cluster = app.ws_connection_manager._cluster
    async with there.connect("/tea") as bob:
        for code in (0, -1, 1005, 1006, 2**60):
            body = msgspec.msgpack.encode([to.room("tea"), code, ""])
            cluster.publish(ALL, Question(0, 0, 7, "disconnect", body))
        await app.ws_connection_manager.broadcast_to_room("tea", {"type": "still"})

        assert await bob.receive_json() == {"type": "still"}
    assert second.ws_connection_manager.status()["rejected"] == 5
    assert "Traceback" not in caplog.text


async def test_a_number_that_one_codec_has_no_form_of_reaches_the_others(nodes):
    """On the process that makes the form as well: nobody else goes without."""
    (app, _), (_, there) = nodes
    async with (
        there.connect("/tea", subprotocols=["pachinko.msgpack"]) as ann,
        there.connect("/tea") as bob,
    ):
        app.ws_connection_manager._cluster.subprotocols.clear()
        await app.ws_connection_manager.broadcast_to_room("tea", {"type": "n", "n": 10**30})

        assert await bob.receive_json() == {"type": "n", "n": 10**30}
        await ann.expect_nothing()


def test_an_app_may_live_in_one_loop_after_the_other():
    """As one does whose tests have a loop each."""
    app = node(MemoryHub())

    async def live():
        async with simulate(app) as client, client.connect("/tea") as ann:
            answer = await ann.request({"type": "say", "payload": {"text": "hi"}})
            return answer["payload"]["published"]

    assert asyncio.run(live())
    assert asyncio.run(live())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"prefix": 5}, TypeError),
        ({"prefix": "", "history": True}, TypeError),
        ({"prefix": "", "presence_grace": -1}, ValueError),
        ({"prefix": "", "presence_grace": float("nan")}, ValueError),
    ],
)
def test_options_of_rooms_are_checked_where_they_are_given(options, error):
    """Not when the first message comes."""
    manager = node(None, MemoryBackend()).ws_connection_manager
    with pytest.raises(error):
        manager.configure_rooms(**options)

    assert not manager._options


# Waiting for what is needed, and for nothing else.


class SlowFor(MemoryBackend):
    """A backend whose server takes its time about some channels."""

    def __init__(self, hub, slow):
        super().__init__(hub)
        self.slow, self.gate = slow, asyncio.Event()

    async def subscribe(self, channels):
        if any(self.slow in each for each in channels):
            await self.gate.wait()
        await super().subscribe(channels)


@pytest.mark.parametrize("path", ["/none", "/popular", "/other", "/other?user=ann"])
async def test_an_accept_waits_for_no_subscription_of_others(path):
    """Neither one that joins nothing, nor one in a room that is there, nor one in a new room."""

    class Guest(Chat):
        async def on_connect(self, req, ws, room_name):
            if room_name != "none":
                return await super().on_connect(req, ws, room_name)
            return True

    backend = SlowFor(MemoryHub(), "slow")
    app = falcon.asgi.App()
    install(app, backend=backend)
    app.add_websocket_route("/{room_name}", Guest)
    async with simulate(app) as client, client.connect("/popular"):
        slow = client.connect("/slow?user=slow")
        waiting = asyncio.create_task(slow.__aenter__())
        async with asyncio.timeout(30), client.connect(path) as ann:
            await ann.request({"type": "wear", "payload": {"text": "pro"}})
            assert not waiting.done()
        backend.gate.set()
        await waiting
        await slow.close()


async def test_a_join_waits_for_no_backend_that_is_away():
    """It is in its room at once, for what members of its own process say."""
    backend = SlowFor(MemoryHub(), "room:")
    app = node(None, backend)
    async with simulate(app) as client:
        backend.state = "degraded"
        async with asyncio.timeout(30), client.connect("/tea") as ann:
            await ann.send_json({"type": "say", "payload": {"text": "hi"}})

            assert (await ann.receive_json())["type"] == "said"
        backend.gate.set()
        backend.state = "up"


# A backend that nobody starts.


@pytest.mark.parametrize("how", ["broadcast", "send_to_user", "disconnect", "a history"])
async def test_a_manager_that_was_never_started_says_so_once(how, caplog):
    """Whatever is to reach others; a URL is a backend there, too."""
    manager = WebSocketConnectionManager(backend="memory://never-started")
    manager.configure_rooms("h:", history=HistoryLimits())
    for _ in range(3):
        match how:
            case "broadcast":
                delivery = await manager.broadcast_to_all({"type": "x"})
            case "send_to_user":
                delivery = await manager.send_to_user("ann", {"type": "x"})
            case "disconnect":
                delivery = None
                await manager.disconnect(to.user("ann"))
            case _:
                delivery = await manager.broadcast_to_room("h:1", {"type": "x"})
        assert delivery is None or not delivery.published

    assert caplog.text.count("was never started") == 1
    assert "manager.start()" in caplog.text


async def test_a_local_broadcast_needs_no_backend(caplog):
    """Nor does a manager that is alone by choice have anything to be told."""
    shared = WebSocketConnectionManager(backend="memory://never-started-either")
    await shared.broadcast({"type": "x"}, to=to.everyone, local=True)
    await WebSocketConnectionManager().broadcast_to_all({"type": "x"})

    assert "never started" not in caplog.text


@pytest.mark.parametrize("target", [to.rooms("te"), to.rooms("te") | to.room("tea"), to.everyone])
async def test_a_worker_on_each_process_tells_its_own_members_once(nodes, target):
    """A ``local`` broadcast to rooms by prefix: nobody hears it twice, and nobody misses it."""
    (app, here), (other, there) = nodes
    async with (
        here.connect("/tea") as ann,
        here.connect("/teapot") as cid,
        there.connect("/tea") as bob,
        there.connect("/teapot") as dan,
    ):
        deliveries = [
            await each.ws_connection_manager.broadcast({"type": "notice"}, to=target, local=True)
            for each in (app, other)
        ]

        assert deliveries == [(2, 0, False)] * 2
        for each in (ann, bob, cid, dan):
            assert await each.receive_json() == {"type": "notice"}
            await each.expect_nothing()
