"""Workers live with the app: started after its startup, stopped before its shutdown."""

import asyncio

import falcon
import falcon.asgi
import pytest

from falcon_pachinko import (
    DuplicateWorkerError,
    WebSocketResource,
    WorkerDefinitionError,
    install,
    worker,
)
from falcon_pachinko.testing import simulate


class Hooks:
    """A middleware that notes the app's own startup and shutdown."""

    def __init__(self, log):
        self.log = log

    async def process_startup(self, scope, event):
        self.log.append("startup")

    async def process_shutdown(self, scope, event):
        self.log.append("shutdown")


class Join(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("chat:tea")
        return True


@pytest.fixture
def log():
    return []


@pytest.fixture
def app(log):
    made = falcon.asgi.App(middleware=[Hooks(log)])
    install(made)
    made.add_websocket_route("/", Join)
    return made


async def test_a_worker_runs_between_startup_and_shutdown(app, log, until):
    """What the startup prepared is there, what the shutdown takes away is still there."""

    async def work(manager):
        log.append("begin")
        try:
            await asyncio.Event().wait()
        finally:
            log.append("end")

    app.add_websocket_worker(work)
    async with simulate(app):
        await until(lambda: "begin" in log)

    assert log == ["startup", "begin", "end", "shutdown"]


async def test_a_worker_reaches_the_rooms(app):
    """With nothing given, it is called with the app's manager."""
    go = asyncio.Event()

    async def announce(manager):
        await go.wait()
        for room in await manager.get_rooms_by_prefix("chat:"):
            await manager.broadcast_to_room(room, {"type": "notice"})

    app.add_websocket_worker(announce)
    async with simulate(app) as client, client.connect("/") as ann:
        go.set()

        assert await ann.receive_json() == {"type": "notice"}


async def test_a_worker_gets_what_it_was_given(app, log, until):
    """Nothing is added to it then."""

    async def work(*args, **options):
        log.append((args, options))

    app.add_websocket_worker(work, app.ws_connection_manager, pace=3)
    async with simulate(app):
        await until(lambda: len(log) > 1)

    assert log[1] == ((app.ws_connection_manager,), {"pace": 3})


async def test_a_crash_is_logged_at_once_and_the_worker_runs_again(app, log, until, caplog):
    """Clients do not notice."""
    connected = asyncio.Event()

    async def flaky(manager):
        log.append("run")
        if log.count("run") == 1:
            raise ZeroDivisionError("oops")
        await connected.wait()
        await manager.broadcast_to_all("alive")

    app.add_websocket_worker(flaky, backoff=(0.001, 0.001))
    async with simulate(app) as client, client.connect("/") as ann:
        connected.set()
        await until(lambda: log.count("run") == 2)
        heard = await ann.receive_json()
        status = client.manager.status()["workers"]

    assert heard == "alive"
    assert caplog.text.count("ZeroDivisionError: oops") == 1
    assert status == {"flaky": {"state": "done", "restarts": 1}}


async def test_an_app_may_live_twice(app, log):
    """A test may simulate the same app again; its workers start again too."""

    async def work(manager):
        log.append("run")
        await asyncio.Event().wait()

    app.add_websocket_worker(work)
    for _ in range(2):
        async with simulate(app) as client, client.connect("/") as ann:
            await client.manager.broadcast_to_all("hi")
            assert await ann.receive_json() == "hi"

    assert log.count("run") == 2


def test_a_worker_that_could_not_be_called_is_refused(app):
    """When it is registered; with nothing given it is called with the manager."""

    async def takes_nothing(): ...

    with pytest.raises(
        WorkerDefinitionError, match=r"worker takes_nothing cannot be called with \(<.*Manager"
    ):
        app.add_websocket_worker(takes_nothing)


def test_a_worker_has_a_name_of_its_own(app):
    """Two of the same function need to be told apart."""

    async def work(manager): ...

    first = app.add_websocket_worker(work)
    second = app.add_websocket_worker(work, name="again")
    with pytest.raises(DuplicateWorkerError, match="'work' is registered already"):
        app.add_websocket_worker(work)

    assert install(app).workers == [first, second]


def test_options_may_stand_beside_the_function(app):
    """What the registration says wins."""

    @worker(name="prices", restart="never", backoff=(1, 2))
    async def poll(manager): ...

    first = app.add_websocket_worker(poll)
    second = app.add_websocket_worker(poll, name="other", restart="on-failure")

    assert (first.name, first.restart, first.backoff, first.critical) == (
        "prices", "never", (1, 2), False,
    )  # fmt: skip
    assert (second.name, second.restart, second.backoff) == ("other", "on-failure", (1, 2))


async def test_a_server_without_lifespan_is_noticed(app, caplog, knock):
    """Workers would never run, and nobody would know why; it is said once."""

    async def work(manager): ...

    app.add_websocket_worker(work)
    client = simulate(app)
    outcomes = [await knock(client.connect("/")) for _ in range(2)]

    assert outcomes == ["accepted", "accepted"]
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "its workers (work)" in record.getMessage()
    assert "--lifespan on" in record.getMessage()


async def test_a_server_that_drops_the_lifespan_stops_the_workers(app, log, until):
    """One that is itself cancelled sends no shutdown event."""

    async def work(manager):
        try:
            await asyncio.Event().wait()
        finally:
            log.append("end")

    started = asyncio.Event()

    async def send(event):
        started.set()

    events = asyncio.Queue()
    events.put_nowait({"type": "lifespan.startup"})
    app.add_websocket_worker(work)
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
    living = asyncio.create_task(app(scope, events.get, send))
    await asyncio.wait_for(started.wait(), 30)
    await until(lambda: install(app).workers[0].state == "running")

    living.cancel()
    await asyncio.wait([living])

    assert log == ["startup", "end"]
