"""However a connection ends, its clean-up runs once, comes last, and finds its rooms left."""

import asyncio
import gc
import weakref

import falcon.asgi
import pytest

from falcon_pachinko import (
    HistoryLimits,
    Limits,
    MessageError,
    WebSocketResource,
    handles_message,
    install,
    to,
)
from falcon_pachinko.testing import simulate


class Room(WebSocketResource):
    """Notes its end, and what it could still do then."""

    def __init__(self, seen):
        self.seen = seen

    async def on_connect(self, req, ws):
        await self.join_room("lobby")
        return True

    @handles_message("leave")
    async def leave(self, ws, payload: int):
        await ws.close(payload, "as you wish")

    @handles_message("think")
    async def think(self, ws, payload: str):
        try:
            await self.seen["gates"][payload].wait()
            await self.send("thought")
            self.seen["order"].append("thought")
        except asyncio.CancelledError:
            self.seen["order"].append("cancelled")
            raise

    async def on_disconnect(self, ws, close_code):
        self.seen["order"].append(("bye", close_code, sorted(ws.rooms)))
        await ws.send_media("nobody hears this")
        delivery = await self.broadcast_to_room("lobby", {"type": "left"})
        self.seen["told"].append(delivery.sent)


@pytest.fixture
def seen():
    return {"order": [], "told": [], "gates": {"a": asyncio.Event()}}


@pytest.fixture
def app(serve, seen, monkeypatch):
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)
    return serve(Room, seen=seen, limits=Limits(handler_grace=0.05))


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4321])
async def test_the_clients_close_code_is_the_goodbyes(app, seen, code):
    """Rooms are left by then, and a broadcast from there reaches the others."""
    async with simulate(app) as client, client.connect("/") as bob:
        async with client.connect("/") as ann:
            await ann.close(code, "bye")
        heard = await bob.receive_json()
        status = client.manager.status()

    assert seen["order"][0] == ("bye", code, [])
    assert (heard, seen["told"][0]) == ({"type": "left"}, 1)
    assert (status["connections"], status["accepted"]) == (1, 2)


async def test_a_client_that_vanishes_is_1006(app, seen):
    """There was no close frame to have a code."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.drop()

    assert seen["order"] == [("bye", 1006, [])]


async def test_the_servers_own_code_is_the_goodbyes(app, seen, closing):
    """Whoever closed first counts."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send_json({"type": "leave", "payload": 4001})
        code = await closing(ann)

    assert (code, ann.close_reason) == (4001, "as you wish")
    assert seen["order"] == [("bye", 4001, [])]


async def test_disconnect_ends_whom_it_names(app, seen, closing):
    """From anywhere in the app."""
    async with simulate(app) as client, client.connect("/") as ann, client.connect("/") as bob:
        count = (await client.manager.disconnect(to.everyone, 4003, "all out")).total
        codes = [await closing(each) for each in (ann, bob)]

    assert (count, codes) == (2, [4003, 4003])
    assert seen["order"] == [("bye", 4003, [])] * 2


async def test_a_shutdown_ends_everybody_with_1012(app, seen, closing):
    """Clients come back on that; every clean-up is done when the app is."""
    async with simulate(app) as client:
        clients = [client.connect("/") for _ in range(3)]
        for each in clients:
            await each.__aenter__()
    codes = [await closing(each) for each in clients]

    assert codes == [1012] * 3
    assert seen["order"] == [("bye", 1012, [])] * 3


async def test_a_busy_handler_may_finish_after_its_client_went(app, seen, until):
    """Within its grace; what it sends goes nowhere, and the goodbye comes last."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send_json({"type": "think", "payload": "a"})
        await until(lambda: client.manager.status()["received"])
        await ann.drop()
        (session,) = client.manager._registry.all()
        await until(lambda: session.closed)
        seen["gates"]["a"].set()

    assert seen["order"] == ["thought", ("bye", 1006, [])]


async def test_a_busy_handler_is_cancelled_after_its_grace(app, seen):
    """It may not keep a client's place for ever."""
    async with simulate(app) as client:
        async with client.connect("/") as ann:
            await ann.send_json({"type": "think", "payload": "a"})
            await ann.close(4000)
        status = client.manager.status()

    assert seen["order"] == ["cancelled", ("bye", 4000, [])]
    assert (status["connections"], status["rooms"], status["errors"]) == (0, 0, {})


async def test_a_busy_handler_is_cancelled_when_the_app_shuts_down(app, seen):
    """After its grace too, within the shutdown."""
    async with simulate(app) as client:
        ann = client.connect("/")
        await ann.__aenter__()
        await ann.send_json({"type": "think", "payload": "a"})

    assert ann.close_code == 1012
    assert seen["order"] == ["cancelled", ("bye", 1012, [])]


async def test_a_session_ends_though_its_server_reports_nothing(app, by_hand, seen, monkeypatch):
    """Some servers never say that a connection which we closed is over."""
    monkeypatch.setattr("falcon_pachinko.session.session.CLOSE_WAIT", 0.01)
    async with simulate(app):
        server = by_hand(app)
        server.start()
        server.say('{"type": "leave", "payload": 4001}')
        await server.ended()

    assert server.task.exception() is None
    assert seen["order"] == [("bye", 4001, [])]


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"code": 1005}, 1006),
        ({"code": 1005, "reason": ""}, 1005),
        ({}, 1006),
        ({"code": None}, 1006),
        ({"code": 4000, "reason": "x"}, 4000),
    ],
)
async def test_the_code_is_what_the_server_reports(app, by_hand, seen, event, code):
    """1005 without a reason is how uvicorn reports a lost connection."""
    async with simulate(app):
        server = by_hand(app)
        server.start()
        server.go(**event)
        await server.ended()

    assert seen["order"] == [("bye", code, [])]


async def test_a_concurrent_handler_may_finish_too(serve, until):
    """The goodbye waits for it within its grace, then it is cancelled."""
    order = []
    gate = asyncio.Event()

    class Beside(WebSocketResource):
        @handles_message("quick", concurrent=True)
        async def quick(self, ws):
            await gate.wait()
            order.append("finished")

        @handles_message("never", concurrent=True)
        async def never(self, ws):
            try:
                await asyncio.Event().wait()
            finally:
                order.append("cancelled")

        async def on_disconnect(self, ws, close_code):
            order.append("bye")

    async with (
        simulate(serve(Beside, limits=Limits(handler_grace=0.05))) as client,
        client.connect("/") as ann,
    ):
        await ann.send_json({"type": "quick"})
        await ann.send_json({"type": "never"})
        await until(lambda: len(client.manager.status()["received"]) == 2)
        await ann.close()
        asyncio.get_running_loop().call_soon(gate.set)

    assert order == ["finished", "cancelled", "bye"]


async def test_a_concurrent_handler_that_finishes_is_not_cancelled(serve, until):
    """Everything of a connection is over when its session is."""
    order = []
    gate = asyncio.Event()

    class Beside(WebSocketResource):
        @handles_message("wait", concurrent=True)
        async def wait(self, ws):
            await gate.wait()
            order.append("finished")

    async with simulate(serve(Beside)) as client, client.connect("/") as ann:
        await ann.send_json({"type": "wait"})
        await until(lambda: client.manager.status()["received"])
        await ann.close()
        gate.set()

    assert order == ["finished"]


async def test_nobody_comes_in_while_the_app_goes_down(app, knock, seen, closing):
    """503, so that a client tries elsewhere; the next life takes clients again."""
    async with simulate(app) as client:
        async with client.connect("/") as ann:
            await client.manager.stop()
            code = await closing(ann)
        late = await knock(client.connect("/"))
    async with simulate(app) as client:
        again = await knock(client.connect("/"))

    assert (code, late, again) == (1012, 503, "accepted")


async def test_a_resource_without_on_disconnect_ends_as_well(serve):
    """There is nothing to run, and nothing to wait for."""

    class Silent(WebSocketResource):
        pass

    async with simulate(serve(Silent)) as client, client.connect("/"):
        assert client.manager.status()["connections"] == 1

    assert client.manager.status()["connections"] == 0


@pytest.mark.parametrize("reason", ["", "the tea is cold", "é" * 61, "see you\nsoon"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_the_reason_of_the_peer_is_kept(serve, until, reason, busy):
    """Beside its code, for whoever says goodbye."""
    ends, running, go = [], [], asyncio.Event()

    class Listens(WebSocketResource):
        @handles_message("work", concurrent=True)
        async def work(self, ws):
            running.append(ws)
            await go.wait()

        async def on_disconnect(self, ws, close_code):
            ends.append((close_code, ws.close_code, ws.close_reason))

    async with simulate(serve(Listens)) as client, client.connect("/") as ann:
        if busy:
            await ann.send_json({"type": "work"})
            await until(lambda: running)
        await ann.close(4100, reason)
        go.set()
        await asyncio.wait([ann.task])

    assert ends == [(4100, 4100, reason)]


async def test_our_own_reason_is_the_first_one(serve):
    """As with the code; a later close changes neither."""
    ends = []

    class Closes(WebSocketResource):
        @handles_message("go")
        async def go(self, ws):
            await ws.close(4001, "first")
            await ws.close(4002, "second")

        async def on_disconnect(self, ws, close_code):
            ends.append((ws.close_code, ws.close_reason))

    async with simulate(serve(Closes)) as client, client.connect("/") as ann:
        await ann.send_json({"type": "go"})
        await ann.expect_close(4001)
        seen = ann.close_reason

    assert (seen, ends) == ("first", [(4001, "first")])


class Busy(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("lobby")
        return True

    @handles_message("count")
    async def count(self, ws, payload: int):
        return payload

    @handles_message("beside", concurrent=True)
    async def beside(self, ws, payload: int):
        await asyncio.sleep(0)
        return payload

    @handles_message("refuse")
    async def refuse(self, ws):
        raise MessageError("no")

    @handles_message("late")
    async def late(self, ws):
        asyncio.current_task().cancel()

    @handles_message("group")
    async def group(self, ws):
        raise ExceptionGroup("tasks", [MessageError("no")])


@pytest.mark.parametrize(
    "message",
    [
        {"type": "count", "payload": 1},
        {"type": "count", "payload": "one"},
        {"type": "count"},
        {"type": "beside", "payload": 1},
        {"type": "beside", "payload": None},
        {"type": "refuse"},
        {"type": "late"},
        {"type": "group"},
        {"type": "unknown"},
        {"type": 5},
    ],
    ids=str,
)
async def test_no_answer_leaves_a_cycle_behind(serve, message):
    """A reply, a refusal, an error: nothing of the connection waits for the collector."""

    async def once(client):
        async with client.connect("/") as ann:
            await ann.send_json({**message, "ref": 1})
            await ann.receive_json()
        await asyncio.wait([ann.task])

    async with simulate(serve(Busy)) as client:
        await once(client)  # what is made once, such as a cache
        gc.collect()
        try:
            gc.set_debug(gc.DEBUG_SAVEALL)
            await once(client)
            gc.collect()
            left = {type(each).__qualname__ for each in gc.garbage if is_ours(each)}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()

    assert left == set()


def is_ours(thing):
    module = type(thing).__module__
    return module.startswith("falcon_pachinko") and ".testing" not in module


@pytest.fixture
def patient(by_hand):
    """Make a server that lets what waits leave at the moment when the app stops to read."""

    class Patient(by_hand):
        async def receive(self):
            try:
                return await super().receive()
            except asyncio.CancelledError:
                self.reads.set()
                raise

    return Patient


@pytest.mark.parametrize("kind", ["serial", "concurrent"])
@pytest.mark.parametrize("how", ["disconnect", "expiry", "too many"])
async def test_a_close_that_leaves_while_the_session_ends_starts_no_timer(
    serve, patient, monkeypatch, until, kind, how
):
    """Stopping is final, whichever of the two is done first."""
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)
    busy = asyncio.Event()

    class Desk(WebSocketResource):
        async def on_connect(self, req, ws):
            self.ws = ws
            return True

        @handles_message("work", concurrent=kind == "concurrent")
        async def work(self, ws):
            await manager.broadcast_to_all("slow")
            busy.set()
            await asyncio.Event().wait()

    limits = Limits(handler_grace=0.01, send_timeout=0.2, messages_per_second=1, burst=2)
    app = serve(Desk, limits=limits)
    manager = app.ws_connection_manager
    async with simulate(app):
        server = patient(app)
        server.start()
        await until(lambda: manager.status()["accepted"])
        server.reads.clear()
        server.say('{"type": "work"}')
        await busy.wait()
        await until(lambda: server.events._getters)  # it reads, ahead or not
        if how == "disconnect":
            await manager.disconnect(to.everyone)
        elif how == "expiry":
            (ws,) = [each async for each in manager.connections()]
            ws._expire_in(0)
        else:
            server.say("1")
            server.say("2")
        await server.ended()

    assert server.task.exception() is None


async def keeps_a_message(resource):
    await resource.broadcast_to_room("kept", {"type": "said"})


async def is_present(resource):
    await resource.track("here")


async def adds_a_worker(resource):
    async def sleep(manager):
        await asyncio.Event().wait()

    resource.pachinko.add_websocket_worker(sleep)


@pytest.mark.parametrize(
    "doing", [keeps_a_message, is_present, adds_a_worker], ids=lambda each: each.__name__
)
async def test_who_has_gone_is_freed_whatever_goes_on(doing):
    """A history's clean-up, a grace and a worker were begun for it, and outlive it."""
    known = []

    class Desk(WebSocketResource):
        async def on_connect(self, req, ws):
            self.pachinko = pachinko
            await self.join_room("kept")
            return True

        @handles_message("go")
        async def go(self, ws):
            known.append(weakref.ref(ws))
            await doing(self)

    app = falcon.asgi.App()
    pachinko = install(app)
    pachinko.ws_connection_manager.configure_rooms("kept", history=HistoryLimits(seconds=600))
    pachinko.ws_connection_manager.configure_rooms("here", presence_grace=600)
    app.add_websocket_route("/", Desk)
    async with simulate(app) as client:
        async with client.connect("/") as ann:
            await ann.request("go")
        await asyncio.sleep(0)
        gc.collect()

        assert known[0]() is None
