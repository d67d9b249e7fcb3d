"""Who is here: states, diffs, tabs, reloads, and processes that die."""

from __future__ import annotations

import contextlib

import falcon.asgi
import pytest
from faulty_backend import FaultyBackend

from falcon_pachinko import WebSocketResource, handles_message, install, to
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.backends.base import Lost, StateChanged
from falcon_pachinko.cluster.node import Gap
from falcon_pachinko.testing import Disconnected, simulate


class Clock:
    """A clock that tests move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Lobby(WebSocketResource):
    async def on_connect(self, req, ws):
        ws.user_id = req.get_param("user")
        await self.track("lobby", {"from": req.get_param("from") or "home"})
        return True

    @handles_message("away")
    async def away(self, ws):
        await self.track("lobby", {"from": "away"})
        return "done"

    @handles_message("leave")
    async def leave(self, ws):
        await self.leave_room("lobby")
        return "done"


def node(hub, ttl=0.6, grace=None):
    app = falcon.asgi.App()
    install(app, backend=MemoryBackend(hub, ttl) if hub else None)
    if grace is not None:
        app.ws_connection_manager.configure_rooms("", presence_grace=grace)
    app.add_websocket_route("/", Lobby)
    return app


@contextlib.asynccontextmanager
async def cluster(processes=2, grace=0.0, ttl=0.6):
    """Some processes on one hub."""
    hub = MemoryHub()
    async with contextlib.AsyncExitStack() as stack:
        apps = [node(hub, ttl, grace) for _ in range(processes)]
        yield [(app, await stack.enter_async_context(simulate(app))) for app in apps]


def diff(joins=None, leaves=None, **more):
    payload = {"room": "lobby", "joins": joins or {}, "leaves": leaves or {}, **more}
    return {"type": "presence.diff", "payload": payload}


def state(**present):
    return {"type": "presence.state", "payload": {"room": "lobby", "present": present}}


HOME = [{"from": "home"}]


@pytest.fixture(params=["one process", "two processes"])
async def places(request):
    """Where two people connect: to one process without a backend, or to two that share one."""
    if request.param == "one process":
        async with simulate(node(None, grace=0.0)) as client:
            yield client, client
    else:
        async with cluster() as ((_, here), (_, there)):
            yield here, there


async def test_a_newcomer_gets_the_state_and_the_others_a_diff(places):
    """Each knows the same then; nobody is told twice."""
    here, there = places
    async with here.connect("/?user=ann") as ann:
        assert await ann.receive_json() == state(ann=HOME)
        async with there.connect("/?user=bob") as bob:
            assert await bob.receive_json() == state(ann=HOME, bob=HOME)
            assert await ann.receive_json() == diff({"bob": HOME})
            await bob.expect_nothing()
        assert await ann.receive_json() == diff(leaves={"bob": HOME})
        await ann.expect_nothing()


async def test_tabs_of_a_user_are_one_presence(places):
    """The second tab is an update, and so is its end; the user leaves with the last one."""
    here, there = places
    async with here.connect("/?user=ann") as ann:
        await ann.receive_json()
        async with there.connect("/?user=bob"):
            assert await ann.receive_json() == diff({"bob": HOME})
            async with here.connect("/?user=bob&from=bus"):
                both = (await ann.receive_json())["payload"]
                metas = sorted(each["from"] for each in both["updates"]["bob"])
                assert (both["joins"], both["leaves"], metas) == ({}, {}, ["bus", "home"])
            assert await ann.receive_json() == diff(updates={"bob": HOME})
        assert await ann.receive_json() == diff(leaves={"bob": HOME})


async def test_a_meta_that_changes_is_an_update(places):
    """The same connection tracks again."""
    here, there = places
    async with here.connect("/?user=ann") as ann, there.connect("/?user=bob") as bob:
        await bob.expect("presence.state")
        await ann.expect("presence.state")
        await ann.expect("presence.diff")
        await bob.request({"type": "away"})

        assert await ann.receive_json() == diff(updates={"bob": [{"from": "away"}]})


async def test_leaving_the_room_ends_the_presence(places):
    """At once, whatever the grace is: who leaves means it."""
    here, there = places
    async with here.connect("/?user=ann") as ann, there.connect("/?user=bob") as bob:
        await ann.expect("presence.state")
        await ann.expect("presence.diff")
        await bob.request({"type": "leave"})

        assert await ann.receive_json() == diff(leaves={"bob": HOME})


async def test_strangers_are_present_by_their_connection():
    """Where nobody says who it is, the key is the connection's id."""
    app = node(None)
    async with simulate(app) as client, client.connect("/") as ann, client.connect("/") as bob:
        await ann.receive_json()
        present = (await bob.receive_json())["payload"]["present"]

    assert len(present) == 2
    assert all(metas == HOME for metas in present.values())


async def test_the_manager_tells_from_anywhere():
    """A process that nobody of the room is connected to asks the backend."""
    async with cluster(3) as ((one, here), (_, there), (three, _)):
        async with here.connect("/?user=ann"), there.connect("/?user=bob"):
            expected = {"ann": HOME, "bob": HOME}
            assert await three.ws_connection_manager.presence("lobby") == expected
            assert await three.ws_connection_manager.count_present("lobby") == 2
            assert await one.ws_connection_manager.count_present("lobby") == 2
        assert await three.ws_connection_manager.presence("nobody") == {}


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_reload_is_no_leave_and_no_join(elsewhere):
    """Who comes back within the grace was never gone, whichever process takes it."""
    async with cluster(grace=0.3) as ((_, here), (_, there)), here.connect("/?user=ann") as ann:
        await ann.receive_json()
        async with there.connect("/?user=bob"):
            await ann.receive_json()
        async with (here if elsewhere else there).connect("/?user=bob") as bob:
            assert "bob" in (await bob.receive_json())["payload"]["present"]
            told = []
            while True:
                try:
                    told.append(await ann.receive_json(timeout=0.6))
                except AssertionError:
                    break

    changed = [key for each in told for key in ("joins", "leaves") if each["payload"][key]]
    assert changed == []


async def test_a_process_that_dies_takes_its_people_along():
    """Its lease ends, and every other process tells its own members, once."""
    async with cluster() as ((_, here), (dying, there)), here.connect("/?user=ann") as ann:
        await ann.receive_json()
        async with there.connect("/?user=bob"):
            await ann.receive_json()
            manager = dying.ws_connection_manager
            for task in (manager._exchange.presence._beating, *manager._cluster._tasks):
                task.cancel()  # as kill -9 would: no goodbye
            assert await ann.receive_json() == diff(leaves={"bob": HOME})
            await ann.expect_nothing()


async def test_a_diff_that_was_missed_is_made_up_for():
    """After a gap the room is read anew, and members learn the difference."""
    async with (
        cluster() as ((first, here), (_, there)),
        here.connect("/?user=ann") as ann,
        there.connect("/?user=bob"),
    ):
        await ann.expect("presence.state")
        await ann.expect("presence.diff")
        backend = first.ws_connection_manager._cluster.backend
        backend._channels.discard("room:lobby")
        async with there.connect("/?user=cid") as cid:
            await cid.receive_json()
            await ann.expect_nothing()
            backend._channels.add("room:lobby")
            await first.ws_connection_manager._exchange._missed(Gap(None, None, "a test"))

            assert await ann.receive_json() == diff({"cid": HOME})


async def test_a_server_that_starts_anew_and_empty_makes_nobody_leave():
    """The others may only be late: nobody is told that they went, and came again."""
    async with cluster(ttl=0.9) as ((first, here), (second, there)):
        async with here.connect("/?user=ann") as ann, there.connect("/?user=bob"):
            await ann.expect("presence.state")
            await ann.expect("presence.diff")
            backends = [each.ws_connection_manager._cluster.backend for each in (first, second)]
            backends[0].hub.tables.clear()
            backends[0].hub.beats.clear()
            backends[0]._put(Lost("it was started again"))
            backends[0]._put(StateChanged("up", "it is there again"))
            await ann.expect_nothing(within=0.2)
            backends[1]._put(Lost("it was started again"))
            backends[1]._put(StateChanged("up", "it is there again"))

            await ann.expect_nothing(within=1.2)
        assert await second.ws_connection_manager.presence("lobby") == {}


async def test_who_does_not_come_back_after_an_outage_has_left():
    """Patience has an end: it lasts as long as a sign of life counts."""
    async with (
        cluster(ttl=0.9) as ((first, here), (dying, there)),
        here.connect("/?user=ann") as ann,
        there.connect("/?user=bob"),
    ):
        await ann.expect("presence.state")
        await ann.expect("presence.diff")
        manager = dying.ws_connection_manager
        for task in (manager._exchange.presence._beating, *manager._cluster._tasks):
            task.cancel()
        backend = first.ws_connection_manager._cluster.backend
        backend.hub.tables.clear()
        backend.hub.beats.clear()
        backend._put(Lost("it was started again"))

        assert await ann.receive_json() == diff(leaves={"bob": HOME})


async def test_a_user_cannot_be_taken_for_an_adopted_connection():
    """Its id is the application's to choose, and often a name that users choose as well."""
    app = falcon.asgi.App()
    manager = install(app).ws_connection_manager

    class Own:
        async def on_websocket(self, req, ws):
            await ws.accept()
            await manager.add_connection("ann", ws)
            await manager.track("ann", "lobby", {"from": "elsewhere"})
            await ws.send_text("here")
            with contextlib.suppress(falcon.WebSocketDisconnected):
                await ws.receive_text()
            await manager.remove_connection("ann")

    app.add_route("/own", Own())
    app.add_websocket_route("/", Lobby)
    async with simulate(app) as sim, sim.connect("/own") as own:
        while await own.receive() != "here":
            pass
        async with sim.connect("/?user=ann") as ann:
            seen = await ann.expect("presence.state")

    assert seen["payload"]["present"] == {"~ann": [{"from": "elsewhere"}], "ann": HOME}


class Late(WebSocketResource):
    """Somebody who logs in, and only then is present."""

    @handles_message("log_in", concurrent=True)
    async def log_in(self, ws, payload: str):
        ws.user_id = payload
        await self.track("lobby", {"from": "home"})


@pytest.mark.parametrize("call", ["subscribe", "entries"])
@pytest.mark.parametrize("end", ["drops", "leaves", "is thrown out"])
async def test_who_goes_while_it_becomes_present_never_was(until, call, end):
    """Not within the grace, not for ever: nobody is told of a user that is not there."""
    hub = MemoryHub()
    here, there = falcon.asgi.App(), node(hub, grace=30)
    backend = FaultyBackend(hub)
    install(here, backend=backend)
    here.ws_connection_manager.configure_rooms("", presence_grace=30)
    here.add_websocket_route("/", Late)
    async with (
        simulate(here) as client,
        simulate(there) as other,
        other.connect("/?user=keeper") as keeper,
    ):
        assert await keeper.receive_json() == state(keeper=HOME)
        gate = backend.stall(call)
        ann = client.connect("/")
        await ann.__aenter__()
        await ann.send_json({"type": "log_in", "payload": "ann"})
        await until(lambda: backend.calls[-1] == call)
        if end == "drops":
            await ann.drop()
        elif end == "leaves":
            await ann.close()
        else:
            await client.manager.disconnect(to.user("ann"), 4000)
            with contextlib.suppress(Disconnected):
                await ann.receive()
        await until(lambda: not client.manager.status()["connections"])
        gate.set()
        await until(ann.task.done)
        async with client.connect("/") as bob:
            await bob.send_json({"type": "log_in", "payload": "bob"})
            assert await bob.receive_json() == state(keeper=HOME, bob=HOME)
            assert await keeper.receive_json() == diff(joins={"bob": HOME})

        assert "ann" not in await other.manager.presence("lobby")
