"""`cluster`: several processes in one test, with the faults that production has."""

import asyncio
import builtins
import contextlib
import functools
import gc
import itertools
import json
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import falcon
import falcon.asgi
import pytest

from falcon_pachinko import (
    App,
    HistoryLimits,
    HistoryPosition,
    Limits,
    WebSocketResource,
    current_lease,
    handles_message,
    install,
    to,
)
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.backends.redis import RedisBackend
from falcon_pachinko.errors import BackendError
from falcon_pachinko.testing import (
    ClusterNode,
    Disconnected,
    LifespanError,
    NothingReceivedError,
    Simulator,
    VirtualClock,
    cluster,
)

SAID = []  # what code of killed processes would say


class Chat(WebSocketResource):
    """A room with presence and a history."""

    async def on_connect(self, req, ws, room):
        ws.user_id = req.get_param("user")
        self.room = f"chat:{room}"
        if req.get_param("epoch"):
            await self.join_room(self.room, since=HistoryPosition.of(req))
        await self.track(self.room, {"of": ws.user_id})
        return True

    @handles_message("say")
    async def say(self, ws, payload: str):
        await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})

    @handles_message("wait")
    async def wait(self, ws, payload: float):
        try:
            await asyncio.sleep(payload)
        finally:
            SAID.append("waited")
        return payload

    async def on_disconnect(self, ws, close_code):
        SAID.append(("gone", ws.user_id, close_code))


class Plain(WebSocketResource):
    """A room that remembers nothing."""

    async def on_connect(self, req, ws, room):
        ws.user_id = req.get_param("user")
        self.room = f"plain:{room}"
        await self.join_room(self.room)
        return True

    @handles_message("say")
    async def say(self, ws, payload: str):
        delivery = await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})
        return delivery.published


class Hooks:
    """Falcon's own hooks of a process."""

    async def process_startup(self, scope, event):
        SAID.append("startup")

    async def process_shutdown(self, scope, event):
        SAID.append("shutdown")


class Health:
    async def on_get(self, req, resp):
        resp.media = {"ok": True}


def configured(app):
    app.ws_connection_manager.configure_rooms(
        "chat:", history=HistoryLimits(count=50), presence_grace=0
    )
    app.ws_connection_manager.configure_rooms("plain:", resync=True)
    app.add_websocket_route("/chat/{room}", Chat)
    app.add_websocket_route("/plain/{room}", Plain)
    app.add_route("/health", Health())
    return app


def create_app(backend="redis://:secret@db.example:6379/0"):
    app = falcon.asgi.App(middleware=[Hooks()])
    install(app, backend=backend, limits=Limits(handler_grace=0.5))
    return configured(app)


@pytest.fixture(autouse=True)
def said():
    SAID.clear()
    return SAID


@pytest.fixture
async def nodes():
    async with cluster(create_app, processes=3) as nodes:
        yield nodes


async def heard(client):
    """Take what has arrived, the text of what was said in it."""
    texts = []
    with contextlib.suppress(NothingReceivedError):
        while True:
            message = await client.receive_json(timeout=0)
            if message["type"] == "said":
                texts.append(message["payload"])
    return texts


def position(client):
    """Find where a client is in the history, as the last frame says."""
    frames = [json.loads(frame) for way, frame in client.trace if way == "received"]
    last = [frame["history"] for frame in frames if "history" in frame][-1]
    return f"epoch={last['epoch']}&offset={last['offset']}"


def state(node):
    return node.manager.status()["backend"]["state"]


# Processes that are connected.


@pytest.mark.parametrize(
    "backend",
    [
        None,
        "redis://:secret@db.example:6379/0",
        "rediss://db.example",
        "nats://db.example:4222",
        "unix:///run/redis.sock",
        "memory://other",
        "redis+sentinel://:p%40ss@a,b/mymaster/0?namespace=shop&sentinel_username=u",
        pytest.param(MemoryBackend(MemoryHub()), id="a backend"),
        pytest.param(MemoryBackend(), id="a backend of its own"),
    ],
)
@pytest.mark.parametrize("how", ["install", "App"])
async def test_processes_meet_whatever_backend_the_app_names(backend, how):
    """The server that it names is not there, and not asked."""

    def create_app():
        if how == "App":
            return configured(App(backend=backend))
        app = falcon.asgi.App()
        install(app, backend=backend)
        return configured(app)

    async with (
        cluster(create_app, processes=2) as nodes,
        nodes[0].connect("/plain/tea") as ann,
        nodes[1].connect("/plain/tea") as bob,
    ):
        await ann.send({"type": "say", "payload": "hi"})

        await bob.expect("said", "hi")


@pytest.mark.parametrize("package", ["redis", "nats"])
async def test_the_package_of_the_backend_need_not_be_installed(package, monkeypatch):
    """Its import is not even tried."""
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    async with cluster(lambda: create_app(f"{package}://db.example"), processes=2) as nodes:
        assert [state(node) for node in nodes] == ["up", "up"]


async def test_each_process_is_what_simulate_gives(nodes):
    """With a manager, clients, HTTP and a stop of its own."""
    assert len(nodes) == 3
    assert all(isinstance(node, Simulator) for node in nodes)
    assert isinstance(nodes[-1], ClusterNode)
    assert len({id(node.manager) for node in nodes}) == 3
    async with nodes[2].connect("/plain/tea"):
        assert [await node.manager.count() for node in nodes] == [0, 0, 1]
    health = await nodes[1].http.get("/health")
    assert health.json == {"ok": True}


async def test_startup_and_shutdown_run_once_a_process(said):
    """Around everything, as under a server."""
    async with cluster(create_app, processes=3):
        assert said == ["startup"] * 3
    assert said == ["startup"] * 3 + ["shutdown"] * 3


async def test_a_process_that_stops_in_good_order_is_missed_at_once(nodes, said):
    """As after SIGTERM: no lease has to end."""
    async with nodes[0].connect("/chat/tea?user=ann") as ann:
        async with nodes[1].connect("/chat/tea?user=bob") as bob:
            await ann.expect("presence.state")
            await ann.expect("presence.diff")
            await nodes[1].stop()
            assert await bob.receive_json()
            assert await bob.expect_close() == 1012
        diff = await ann.expect("presence.diff")

    assert list(diff["payload"]["leaves"]) == ["bob"]
    assert ("gone", "bob", 1012) in said


@pytest.mark.parametrize(
    "backend",
    [
        "redis://db.example?ttl=3&namespace=shop",
        pytest.param(RedisBackend("redis://db.example?ttl=3"), id="a backend with settings"),
        pytest.param(MemoryBackend(MemoryHub(), ttl=3), id="a backend"),
    ],
)
async def test_the_settings_of_the_backend_hold(backend):
    """A shorter ``ttl`` is a shorter wait for the dead."""
    async with (
        cluster(lambda: create_app(backend), processes=2) as nodes,
        nodes[0].connect("/chat/tea?user=ann"),
        nodes[1].connect("/chat/tea?user=bob"),
    ):
        await nodes[1].kill()
        await nodes.advance(3)

        assert list(await nodes[0].manager.presence("chat:tea")) == ["ann"]


# Kills.


async def test_the_clients_of_a_killed_process_see_1006(nodes):
    """After what had reached them."""
    async with nodes[1].connect("/plain/tea") as bob, nodes[0].connect("/plain/tea") as ann:
        await ann.send({"type": "say", "payload": "hi"})
        await nodes.advance(0)
        await nodes[1].kill()

        assert nodes[1].killed
        await bob.expect("said", "hi")
        with pytest.raises(Disconnected) as gone:
            await bob.receive()
        assert gone.value.code == bob.close_code == 1006
        assert not ann.closed


async def test_nothing_of_a_killed_process_runs(said):
    """No clean-up, no shutdown, not in its handlers and workers either, and not later."""

    async def work(manager):
        try:
            await asyncio.sleep(3600)
        finally:
            said.append("worked")

    async def count():
        try:
            for number in itertools.count():
                yield number
                await asyncio.sleep(1)
        finally:
            said.append("counted")

    async def counting(manager):
        async for _ in count():
            pass

    def with_workers():
        app = create_app()
        app.add_websocket_worker(work)
        app.add_websocket_worker(counting)
        return app

    async with cluster(with_workers, processes=2) as nodes:
        async with nodes[1].connect("/chat/tea?user=bob") as bob:
            await bob.send({"type": "wait", "payload": 10})
            await nodes.advance(1)
            said.clear()
            await nodes[1].kill()
            await nodes.advance(60)
        gc.collect()
        assert said == []
        await nodes[0].stop()
        said.clear()
    gc.collect()

    assert said == []


async def test_the_others_notice_a_kill_by_the_end_of_its_lease(nodes):
    """Not before, and within fifteen seconds."""
    async with (
        nodes[0].connect("/chat/tea?user=ann") as ann,
        nodes[1].connect("/chat/tea?user=bob"),
    ):
        await ann.expect("presence.state")
        await ann.expect("presence.diff")
        await nodes[1].kill()
        await nodes.advance(5)
        await ann.expect_nothing()
        assert set(await nodes[2].manager.presence("chat:tea")) == {"ann", "bob"}
        await nodes.advance(10)

        diff = await ann.expect("presence.diff")
        assert list(diff["payload"]["leaves"]) == ["bob"]
        assert set(await nodes[2].manager.presence("chat:tea")) == {"ann"}


async def test_a_handshake_in_a_killed_process_ends_with_1006(nodes):
    """Whatever its ``on_connect`` was waiting for."""
    arrived = asyncio.Event()

    class Slow(WebSocketResource):
        async def on_connect(self, req, ws):
            arrived.set()
            await asyncio.sleep(3600)

    nodes[1].app.add_websocket_route("/slow", Slow)

    async def connect():
        async with nodes[1].connect("/slow"):
            pass

    connecting = asyncio.create_task(connect())
    await arrived.wait()
    await nodes[1].kill()

    with pytest.raises(Disconnected) as gone:
        await connecting
    assert gone.value.code == 1006


async def test_a_killed_process_refuses_what_is_asked_of_it(nodes):
    """And says that it was killed; the others go on."""
    client = nodes[1].connect("/plain/tea")
    await nodes[1].kill()

    with pytest.raises(ConnectionRefusedError, match="process 1 was killed"):
        nodes[1].connect("/plain/tea")
    with pytest.raises(ConnectionRefusedError, match="process 1 was killed"):
        await client.__aenter__()
    with pytest.raises(ConnectionRefusedError, match="process 1 was killed"):
        await nodes[1].http.get("/health")
    with pytest.raises(RuntimeError, match="process 1 was killed already"):
        await nodes[1].kill()
    with pytest.raises(RuntimeError, match="process 1 was killed already"):
        await nodes[1].run(nodes[1].manager.count())
    await nodes[1].stop()  # there is nothing to stop
    async with nodes[0].connect("/plain/tea") as ann:
        assert (await ann.request("say", "hi"))["payload"] is True


async def test_a_process_that_has_stopped_cannot_be_killed(nodes):
    """It is not there any more."""
    await nodes[1].stop()

    assert not nodes[1].killed
    with pytest.raises(RuntimeError, match="process 1 has stopped already"):
        await nodes[1].kill()
    with pytest.raises(ConnectionRefusedError, match="process 1 has stopped"):
        nodes[1].connect("/plain/tea")


async def test_a_kill_from_within_ends_the_one_who_calls_it(said):
    """A handler that kills its own process does not return."""

    class Trap(WebSocketResource):
        async def on_connect(self, req, ws):
            return True

        @handles_message("die")
        async def die(self, ws):
            await nodes[1].kill()
            said.append("alive")

    def with_trap():
        app = create_app()
        app.add_websocket_route("/trap", Trap)
        return app

    async with cluster(with_trap, processes=2) as nodes:
        async with nodes[1].connect("/trap") as bob:
            await bob.send({"type": "die"})
            await bob.expect_close(1006)
        assert "alive" not in said


async def test_all_may_be_killed(nodes):
    """The block ends nevertheless."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(node.connect("/chat/tea?user=ann")) for node in nodes
        ]
        for node in nodes:
            await node.kill()
        assert [client.close_code for client in clients] == [1006] * 3
    await nodes.advance(60)


# What a block leaves behind.


async def test_a_block_leaves_no_task_and_no_word(caplog, said):
    """Neither by ending nor by what is collected later, whatever was going on."""

    class Messy(WebSocketResource):
        async def on_connect(self, req, ws):
            self.left = asyncio.create_task(asyncio.sleep(3600))
            return True

        @handles_message("hang")
        async def hang(self, ws):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    def messy():
        app = create_app()
        app.add_websocket_route("/messy", Messy)
        return app

    before = asyncio.all_tasks()
    problems = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.append(context))
    async with cluster(messy, processes=3) as nodes, contextlib.AsyncExitStack() as stack:
        for node in nodes:
            for path in ("/messy", "/chat/tea?user=ann"):
                client = await stack.enter_async_context(node.connect(path))
                await client.send({"type": "hang"})
        await nodes[2].manager.broadcast_to_room("chat:tea", {"type": "said", "payload": "x"})
        await nodes[1].kill()
        async with nodes.partition(0), nodes.backend.delay(1):
            await nodes.advance(1)
            await nodes.backend.restart()
    gc.collect()
    await asyncio.sleep(0)

    assert asyncio.all_tasks() == before
    assert problems == []
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_a_block_gives_the_loop_back_as_it_was():
    """Its methods, and its time."""
    loop = asyncio.get_running_loop()
    names = ("time", "call_soon", "call_at", "call_later", "create_task", "run_in_executor")
    before = [getattr(loop, name) for name in names]
    async with cluster(create_app):
        assert loop.time() < 2_000
        assert loop.call_soon not in before

    assert [getattr(loop, name) for name in names] == before


@pytest.mark.parametrize("number", [0, 1])
async def test_a_process_that_does_not_start_is_named(number, said):
    """Those that have started are stopped."""
    made = itertools.count()

    class Refusing:
        async def process_startup(self, scope, event):
            raise OSError("no disk")

    def create_app():
        middleware = [Refusing()] if next(made) == number else [Hooks()]
        app = falcon.asgi.App(middleware=middleware)
        install(app)
        return app

    before = asyncio.all_tasks()
    with pytest.raises(LifespanError, match="no disk") as failed:
        async with cluster(create_app, processes=2):
            pass

    assert failed.value.__notes__ == [f"process {number} of the cluster did not start"]
    assert said == ["startup", "shutdown"][: 2 * number]
    assert asyncio.all_tasks() == before


async def test_an_error_of_the_test_is_what_is_raised():
    """Not what ending the processes makes of it."""

    async def fail():
        async with cluster(create_app) as nodes, nodes[0].connect("/chat/tea?user=ann"):
            await nodes[1].kill()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_a_process_that_stopped_is_collected():
    """Its app, too, unlike that of one that was killed."""
    async with cluster(create_app) as nodes:
        app = weakref.ref(nodes[1].app.ws_connection_manager)
        async with nodes[1].connect("/chat/tea?user=ann"):
            pass
    del nodes
    gc.collect()

    assert app() is None


# Partitions.


async def test_a_process_notices_a_partition_as_in_production(nodes):
    """Nobody tells it: a probe is not answered."""
    async with nodes.partition(1):
        assert state(nodes[1]) == "up"
        await nodes.advance(5)
        assert [state(node) for node in nodes] == ["up", "degraded", "up"]

    assert [state(node) for node in nodes] == ["up"] * 3


async def test_what_a_cut_off_process_sends_is_unpublished(nodes):
    """Its own clients get it; the others hear of the gap once it is back."""
    async with nodes[0].connect("/plain/tea") as ann, nodes[1].connect("/plain/tea") as bob:
        await bob.request("say", "before")
        await ann.expect("said", "before")
        async with nodes.partition(1):
            await nodes.advance(5)
            answer = await bob.request("say", "lost")
            assert answer["payload"] is False
            await ann.expect_nothing()
        assert nodes[1].manager.status()["unpublished"] == 1
        await nodes.advance(10)
        assert nodes[0].manager.status()["gaps"] == 1
        await ann.expect("resync", {"room": "plain:tea"})
        await bob.request("say", "after")
        await ann.expect("said", "after")


async def test_what_a_cut_off_process_misses_is_a_gap(nodes):
    """Reported on its return, however short it was."""
    async with nodes[0].connect("/plain/tea") as ann, nodes[1].connect("/plain/tea") as bob:
        async with nodes.partition(1):
            await ann.send({"type": "say", "payload": "missed"})
            await bob.expect_nothing()
        await nodes.advance(10)

        assert nodes[1].manager.status()["gaps"] >= 1
        await bob.expect("resync", {"room": "plain:tea"})
        await ann.send({"type": "say", "payload": "again"})
        await bob.expect("said", "again")


async def test_a_call_to_a_backend_that_is_cut_off_ends_in_time(nodes):
    """With the error that any backend raises."""
    async with nodes.partition(1):
        began = nodes.clock.time()
        with pytest.raises(BackendError):
            await nodes[1].manager.presence("chat:tea")
        assert nodes.clock.time() - began == pytest.approx(3)


async def test_several_processes_may_be_cut_off_at_once_and_twice(nodes):
    """Each is back when no partition has it any more."""
    async with nodes.partition(0, 1, 1):
        async with nodes.partition(1, -1):
            await nodes.advance(6)
            assert [state(node) for node in nodes] == ["degraded"] * 3
        assert [state(node) for node in nodes] == ["degraded", "degraded", "up"]
    assert [state(node) for node in nodes] == ["up"] * 3


async def test_a_lease_ends_while_its_process_is_cut_off(nodes):
    """For the others it is absent; then it is there again."""
    async with (
        nodes[0].connect("/chat/tea?user=ann") as ann,
        nodes[1].connect("/chat/tea?user=bob"),
    ):
        await nodes.advance(1)
        async with nodes.partition(1):
            await nodes.advance(15)
            assert list(await nodes[0].manager.presence("chat:tea")) == ["ann"]
        await nodes.advance(15)

        assert set(await nodes[0].manager.presence("chat:tea")) == {"ann", "bob"}
        assert set(await nodes[1].manager.presence("chat:tea")) == {"ann", "bob"}
        diffs = [json.loads(frame) for way, frame in ann.trace if "presence.diff" in frame]
        assert [list(each["payload"]["leaves"]) for each in diffs] == [[], ["bob"], []]


async def test_a_process_that_is_killed_in_a_partition_does_not_return(nodes):
    """Leaving the block does not wait for it."""
    async with nodes.partition(1):
        await nodes[1].kill()
        began = nodes.clock.time()
    assert nodes.clock.time() == began


async def test_the_server_may_restart_while_a_process_is_cut_off(nodes):
    """Which hears of it when it is back."""
    async with nodes[1].connect("/chat/tea?user=bob") as bob:
        await bob.send({"type": "say", "payload": "1"})
        await nodes.advance(0)
        async with nodes.partition(1):
            await nodes.backend.restart(lose=True)
            assert state(nodes[0]) == "up"
        await nodes.advance(3)

        states = [json.loads(frame) for _, frame in bob.trace if "history.state" in frame]
        assert [each["payload"]["recovered"] for each in states] == [False]
        assert list(await nodes[0].manager.presence("chat:tea")) == ["bob"]


# Delays.


async def test_a_message_takes_as_long_as_the_backend(nodes):
    """Not for the clients of the same process."""
    async with (
        nodes[0].connect("/plain/tea") as ann,
        nodes[1].connect("/plain/tea") as bob,
        nodes.backend.delay(0.4),
    ):
        await ann.send({"type": "say", "payload": "hi"})
        await ann.expect("said", "hi")
        await nodes.advance(0.39)
        assert await heard(bob) == []
        await nodes.advance(0.01)
        assert await heard(bob) == ["hi"]


async def test_a_call_takes_as_long_as_the_backend(nodes):
    """The one who makes it waits."""
    async with nodes.backend.delay(0.4):
        began = nodes.clock.time()
        await nodes[0].manager.presence("chat:tea")
        assert nodes.clock.time() - began == pytest.approx(0.4)


async def test_what_is_on_its_way_is_not_overtaken(nodes):
    """Also by what is sent after the block."""
    async with nodes[0].connect("/plain/tea") as ann, nodes[1].connect("/plain/tea") as bob:
        async with nodes.backend.delay(1):
            await ann.request("say", "1")
            await nodes.advance(0)
        await ann.request("say", "2")
        await bob.expect_nothing()
        await nodes.advance(2)

        assert await heard(bob) == ["1", "2"]


async def test_the_inner_delay_counts(nodes):
    """Until its block ends."""

    async def took():
        began = nodes.clock.time()
        await nodes[0].manager.presence("chat:tea")
        return round(nodes.clock.time() - began, 3)

    async with nodes.backend.delay(0.2):
        async with nodes.backend.delay(1):
            inner = await took()
        outer = await took()
    assert [inner, outer, await took()] == [1, 0.2, 0]


async def test_a_backend_that_is_too_slow_is_away(nodes):
    """What takes longer than its ``timeout`` never arrives."""
    async with nodes.backend.delay(4):
        await nodes.advance(6)
        assert [state(node) for node in nodes] == ["degraded"] * 3
    await nodes.advance(6)
    assert [state(node) for node in nodes] == ["up"] * 3


async def test_what_a_killed_process_had_sent_arrives(nodes):
    """The server has it by then."""
    async with (
        nodes[0].connect("/plain/tea") as ann,
        nodes[1].connect("/plain/tea") as bob,
        nodes.backend.delay(1),
    ):
        await ann.request("say", "hi")
        await nodes.advance(0)
        await nodes[0].kill()
        await bob.expect("said", "hi")


# Restarts.


async def say(client, *texts):
    for text in texts:
        await client.request("wait", 0)
        await client.send({"type": "say", "payload": text})
    await client.request("wait", 0)


async def come_back(nodes, where, number=1):
    """Connect with a position; give the state and what was missed."""
    async with nodes[number].connect(f"/chat/tea?user=zoe&{where}") as zoe:
        state = await zoe.expect("history.state")
        missed = [await zoe.receive_json() for _ in range(state["payload"]["messages"])]
    return state["payload"]["recovered"], [each["payload"] for each in missed]


async def test_without_a_restart_a_position_is_good(nodes):
    """So that the next tests show something."""
    async with nodes[0].connect("/chat/tea?user=ann") as ann:
        await say(ann, "1")
        where = position(ann)
        await say(ann, "2")

        assert await come_back(nodes, where) == (True, ["2"])


@pytest.mark.parametrize(
    ("lose", "kept"),
    [
        (False, ["1", "2", "3"]),
        (0, ["1", "2", "3"]),
        (1.0, ["1", "2"]),
        (2, ["1", "2"]),
        (2.5, ["1"]),
        (100.0, []),
        (True, []),
    ],
)
async def test_after_a_restart_nobody_recovers(nodes, lose, kept):
    """Whatever it lost; and what is kept is what was there so many seconds ago."""
    async with nodes[0].connect("/chat/tea?user=ann") as ann:
        await say(ann, "1")
        where = position(ann)
        await nodes.advance(2)
        await say(ann, "2")
        await nodes.advance(2)
        await say(ann, "3")
        assert await come_back(nodes, where) == (True, ["2", "3"])
        await nodes.backend.restart(lose=lose)

        assert [state(node) for node in nodes] == ["up"] * 3
        assert await come_back(nodes, where) == (False, kept)


async def test_members_hear_that_the_history_began_anew(nodes):
    """Before they get a message of the new one."""
    async with nodes[0].connect("/chat/tea?user=ann") as ann:
        await say(ann, "1")
        before = position(ann)
        await nodes.backend.restart()
        await nodes.advance(1)
        await say(ann, "2")

        states = [json.loads(frame) for _, frame in ann.trace if "history.state" in frame]
        assert [each["payload"]["recovered"] for each in states] == [False]
        assert position(ann).split("&")[0] != before.split("&")[0]
        assert await come_back(nodes, position(ann)) == (True, [])


async def test_a_restart_is_a_gap(nodes):
    """The connections were cut."""
    async with nodes[1].connect("/plain/tea"):
        await nodes.backend.restart()
        await nodes.advance(1)

        assert nodes[1].manager.status()["gaps"] >= 1


async def test_presence_is_whole_again_after_all_was_lost(nodes):
    """Each process knows its own."""
    async with (
        nodes[0].connect("/chat/tea?user=ann"),
        nodes[1].connect("/chat/tea?user=bob"),
    ):
        await nodes.advance(1)
        await nodes.backend.restart(lose=True)
        await nodes.advance(5)

        for node in nodes:
            assert set(await node.manager.presence("chat:tea")) == {"ann", "bob"}


@pytest.mark.parametrize("lose", [False, True, 4.0])
async def test_tokens_of_leases_only_grow(lose):
    """Also where the server went back behind the last one."""
    tokens = []

    async def work(manager):
        tokens.append(current_lease().token)
        await asyncio.sleep(3600)

    def with_singleton():
        app = create_app()
        app.add_websocket_worker(work, singleton=True)
        return app

    async with cluster(with_singleton, processes=3) as nodes:
        await nodes.advance(3)
        await nodes.backend.restart(lose=lose)
        for node in list(nodes)[:2]:
            await nodes.advance(15)
            await node.kill()
        await nodes.advance(30)

    assert len(tokens) >= 2
    assert tokens == sorted(set(tokens))


# Misuse.


def needs_arguments(room):
    return create_app()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (needs_arguments, "called without arguments"),
        (create_app(), "the function that makes an app"),
        (5, "the function that makes an app"),
        (None, "the function that makes an app"),
    ],
)
def test_only_a_function_without_arguments_is_taken(given, words):
    """At once, and the message says what to write."""
    with pytest.raises(TypeError, match=words):
        cluster(given)


OLD = create_app()


@functools.cache
def new_once():
    return create_app()


async def a_coroutine():
    return create_app()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: None, "not a Falcon app with WebSockets"),
        (falcon.asgi.App, "after install"),
        (falcon.App, "not a Falcon app with WebSockets"),
        (lambda: OLD, "was made before"),
        (new_once, "was made before"),
        (a_coroutine, "is a coroutine function"),
    ],
)
async def test_what_makes_no_new_app_is_refused(given, words):
    """On entering, which leaves nothing behind."""
    loop, before = asyncio.get_running_loop(), asyncio.all_tasks()
    with pytest.raises(TypeError, match=words):
        async with cluster(given, processes=2):
            pass

    assert asyncio.all_tasks() == before
    assert loop.time() != 1_000


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "3", None])
def test_the_number_of_processes_is_a_positive_number(number):
    """At once."""
    with pytest.raises(ValueError, match="number of processes"):
        cluster(create_app, processes=number)


@pytest.mark.parametrize("number", [3, -4, 1.0, "1", None])
async def test_a_wrong_number_names_those_that_there_are(nodes, number):
    """Also for a partition."""
    with pytest.raises(IndexError, match="this cluster has 3, from 0 to 2"):
        nodes[number]
    with pytest.raises(IndexError, match="this cluster has 3, from 0 to 2"):
        nodes.partition(0, number)


async def test_what_is_no_time_is_refused(nodes):
    """Wherever a time is given."""
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="number of seconds"):
            nodes.backend.delay(seconds)
        with pytest.raises(ValueError, match="number of seconds"):
            await nodes.backend.restart(lose=seconds)
        with pytest.raises(ValueError, match="number of seconds"):
            await nodes.advance(seconds)
    with pytest.raises(TypeError, match=r"partition\(1\)"):
        nodes.partition()


async def test_a_cluster_runs_once():
    """And not before it is entered."""
    made = cluster(create_app)
    with pytest.raises(RuntimeError, match="not started yet"):
        made[0]
    async with made:
        pass
    with pytest.raises(RuntimeError, match="runs once"):
        await made.__aenter__()


async def test_two_clusters_do_not_share_a_loop_by_chance():
    """Each would move the other's time; with one clock they may."""
    async with cluster(create_app) as nodes:
        with pytest.raises(RuntimeError, match="another clock"):
            async with cluster(create_app):
                pass
        async with cluster(create_app, clock=nodes.clock) as others:
            for each in (nodes, others):
                async with (
                    each[0].connect("/plain/tea") as ann,
                    each[1].connect("/plain/tea") as bob,
                ):
                    await ann.send({"type": "say", "payload": "hi"})
                    await bob.expect("said", "hi")
                    await each[1].kill()
                    await bob.expect_close(1006)
            await others.advance(15)
            assert nodes.clock.time() == others.clock.time()
        async with nodes[0].connect("/plain/tea") as ann:
            assert (await ann.request("say", "hi"))["payload"] is True


# Time.


async def test_a_receive_takes_no_real_time(nodes):
    """It moves the clock by what it waits for, and no further."""
    async with nodes[0].connect("/chat/tea?user=ann") as ann:
        await ann.expect("presence.state")
        began = nodes.clock.time()
        with pytest.raises(NothingReceivedError, match="no frame within 4000 s"):
            await ann.receive(timeout=4000)
        assert nodes.clock.time() == began + 4000
        await ann.send({"type": "wait", "payload": 2})
        assert (await ann.receive_json())["payload"] == 2
        assert nodes.clock.time() == began + 4002


async def test_an_app_that_uses_threads_is_waited_for():
    """With the clock standing still."""

    class Threaded(WebSocketResource):
        async def on_connect(self, req, ws):
            return True

        @handles_message("work")
        async def work(self, ws):
            return await asyncio.to_thread(threading_wait)

    def threading_wait():
        time.sleep(0.05)
        return "done"

    def threaded():
        app = create_app()
        app.add_websocket_route("/threaded", Threaded)
        return app

    async with cluster(threaded) as nodes, nodes[0].connect("/threaded") as ann:
        began = nodes.clock.time()
        assert (await ann.request("work"))["payload"] == "done"
        assert nodes.clock.time() == began


# One script, one outcome.


async def script(seed=0):
    """Do a little of everything, and give all frames of all clients."""
    clients = []

    async def work(manager):
        while True:
            await asyncio.sleep(2)
            token = current_lease().token
            await manager.broadcast({"type": "tick", "payload": token}, to=to.rooms("chat:"))

    async def flaky(manager):
        await asyncio.sleep(1)
        raise OSError

    def create():
        app = create_app()
        app.add_websocket_worker(work, singleton=True)
        app.add_websocket_worker(flaky)
        return app

    async with (
        cluster(create, processes=4, clock=VirtualClock(seed=seed)) as nodes,
        contextlib.AsyncExitStack() as stack,
    ):

        async def connect(number, path):
            client = await stack.enter_async_context(nodes[number].connect(path))
            clients.append(client)
            return client

        for number in range(12):
            await connect(number % 4, f"/chat/{number % 3}?user=u{number % 5}")
            await connect(number % 4, f"/chat/{number % 3}")
            await connect(number % 4, f"/plain/{number % 3}")
        for number, client in enumerate(clients):
            await client.send({"type": "say", "payload": f"a{number}"})
        async with nodes.partition(0, 2), nodes.backend.delay(0.3):
            for number, client in enumerate(clients):
                await client.send({"type": "say", "payload": f"b{number}"})
                await nodes.advance(0.2)
        await nodes.backend.restart(lose=3.0)
        await nodes[3].kill()
        await nodes.advance(20)
        for number, client in enumerate(clients):
            if not client.closed:
                await client.send({"type": "say", "payload": f"c{number}"})
        await nodes.advance(20)
        await nodes[1].stop()
        await nodes.advance(5)
    return [client.trace for client in clients]


async def test_one_script_has_one_outcome():
    """The same frames, with the same ids, epochs and offsets, for all clients."""
    first, second = await script(), await script()

    assert first == second
    assert sum(map(len, first)) > 500


async def test_another_seed_is_another_run():
    """Ids and epochs, for example, are others."""
    assert await script(seed=1) != await script(seed=2)


@pytest.mark.slow
def test_the_outcome_is_the_same_in_every_python_process():
    """However it hashes, and whatever lies where in its memory."""
    program = (
        "import asyncio, hashlib, logging; logging.disable();"
        "from test_testing_cluster import script;"
        "print(hashlib.sha256(repr(asyncio.run(script())).encode()).hexdigest())"
    )
    outcomes = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
        for seed in (0, 1, 2)
    }

    assert len(outcomes) == 1
