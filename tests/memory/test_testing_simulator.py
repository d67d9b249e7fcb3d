"""The simulator: the app's whole life in memory, and clear words where that fails."""

import asyncio

import falcon
import falcon.asgi
import pytest

from falcon_pachinko import Limits, WebSocketResource, install
from falcon_pachinko import testing as kit
from falcon_pachinko.testing import LifespanError, NothingReceivedError, simulate


class Lobby(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("lobby")
        return True


class Hooks:
    """A middleware that starts and stops as it was told."""

    def __init__(self, startup=None, shutdown=None):
        self.startup, self.shutdown = startup, shutdown
        self.seen = []

    async def process_startup(self, scope, event):
        self.seen.append("startup")
        if self.startup is not None:
            await self.startup()

    async def process_shutdown(self, scope, event):
        self.seen.append("shutdown")
        if self.shutdown is not None:
            await self.shutdown()


async def break_down():
    raise ZeroDivisionError("no tea")


async def hang():
    await asyncio.Event().wait()


def app_with(hooks):
    app = falcon.asgi.App(middleware=[hooks])
    install(app)
    app.add_websocket_route("/", Lobby)
    return app


# Startup and shutdown.


async def test_the_lifespan_surrounds_the_clients():
    """Startup before the first, shutdown after the last."""
    hooks = Hooks()
    async with simulate(app_with(hooks)) as client, client.connect("/"):
        before = list(hooks.seen)

    assert before == ["startup"]
    assert hooks.seen == ["startup", "shutdown"]


async def test_a_failing_test_shuts_the_app_down_as_well():
    """Its own error is what is raised, even if the shutdown fails too."""
    hooks = Hooks(shutdown=break_down)
    with pytest.raises(KeyError, match="the test's own"):
        async with simulate(app_with(hooks)):
            raise KeyError("the test's own")

    assert hooks.seen == ["startup", "shutdown"]


async def test_a_failing_startup_is_raised_with_its_traceback():
    """The line that failed is in the text."""
    with pytest.raises(LifespanError, match="the app's startup failed") as failed:
        async with simulate(app_with(Hooks(startup=break_down))):
            pass

    assert 'raise ZeroDivisionError("no tea")' in str(failed.value)


async def test_a_failing_shutdown_is_raised_with_its_traceback():
    """A test that passed so far fails then."""
    with pytest.raises(LifespanError, match="the app's shutdown failed") as failed:
        async with simulate(app_with(Hooks(shutdown=break_down))):
            pass

    assert 'raise ZeroDivisionError("no tea")' in str(failed.value)


@pytest.mark.parametrize(
    ("hooks", "what"), [(Hooks(startup=hang), "startup"), (Hooks(shutdown=hang), "shutdown")]
)
async def test_a_lifespan_that_hangs_is_cut_off(hooks, what):
    """The text says what took how long."""
    with pytest.raises(LifespanError, match=f"the app's {what} took over 0.5 s"):
        async with simulate(app_with(hooks), lifespan_timeout=0.5):
            pass


@pytest.mark.parametrize("step", ["startup", "shutdown"])
async def test_what_escapes_from_the_lifespan_is_raised_itself(step):
    """Whatever it is: nothing waits for an app that is dead."""

    async def app(scope, receive, send):
        while (event := await receive())["type"] != f"lifespan.{step}":
            await send({"type": f"{event['type']}.complete"})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with simulate(app):
            pass


async def test_an_app_that_ignores_its_lifespan_is_told():
    """It returned, and has answered nothing."""

    async def app(scope, receive, send): ...

    with pytest.raises(LifespanError, match="returned without answering its startup"):
        async with simulate(app):
            pass


# Workers, and the rest of the app.


async def test_the_apps_workers_run(serve):
    """From startup to shutdown, with the app's manager."""
    ended = []

    async def announce(manager):
        try:
            while True:
                await manager.broadcast_to_room("lobby", {"type": "tea"})
                await asyncio.sleep(0.001)
        finally:
            ended.append("announce")

    app = serve(Lobby)
    app.add_websocket_worker(announce)
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.expect("tea")

    assert ended == ["announce"]


async def test_http_is_falcons_own(serve):
    """The conductor's verbs, beside the clients."""

    class Health:
        async def on_get(self, req, resp):
            resp.media = {"connections": req.context.manager.status()["connections"]}

    class Context:
        async def process_request(self, req, resp):
            req.context.manager = app.ws_connection_manager

    app = serve(Lobby)
    app.add_middleware(Context())
    app.add_route("/health", Health())
    async with simulate(app) as client, client.connect("/"):
        answer = await client.http.simulate_get("/health")

    assert answer.json == {"connections": 1}


async def test_run_awaits_where_the_app_is(serve):
    """In memory that is here; on a live server the same line works."""
    async with simulate(serve(Lobby)) as client, client.connect("/") as ann:
        delivery = await client.run(client.manager.broadcast_to_all({"type": "tea"}))
        await ann.expect("tea")

    assert delivery.sent == 1


# The end of the server.


async def test_clients_see_the_server_go(serve):
    """The library closes with 1012 when the app shuts down; stopping twice is harmless."""
    async with simulate(serve(Lobby)) as client, client.connect("/") as ann:
        await client.stop()

        assert await ann.expect_close(1012) == 1012
        await client.stop()


async def test_clients_of_anything_else_see_it_too():
    """A WebSocket of Falcon's own, which nobody closes, ends with its server."""

    class Bare:
        async def on_websocket(self, req, ws):
            await ws.accept()
            await ws.receive_text()

    app = falcon.asgi.App()
    app.add_route("/", Bare())
    async with simulate(app) as client, client.connect("/") as ann:
        await client.stop()

        assert await ann.expect_close(1012) == 1012


async def test_clients_that_nobody_left_end_with_the_simulator(serve):
    """No task stays behind, whatever they were doing."""
    async with simulate(serve(Lobby, limits=Limits(shutdown_timeout=0.1))) as client:
        open_one, unused = client.connect("/"), client.connect("/")
        await open_one.__aenter__()
        await open_one.stall()

    assert open_one.task.done()
    assert unused.task is None


async def test_a_client_has_the_simulators_timeout(serve):
    """Unless it has one of its own."""
    async with simulate(serve(Lobby), timeout=0.5) as client, client.connect("/") as ann:
        with pytest.raises(NothingReceivedError, match=r"within 0\.5 s"):
            await ann.receive()


# The package.


def test_an_unknown_name_is_an_attribute_error():
    """The kit loads its tools when they are asked for; others do not exist."""
    with pytest.raises(AttributeError, match="has no attribute 'simulated'"):
        _ = kit.simulated


def test_a_star_import_gives_all_of_the_kit():
    """Every name it lists is there."""
    names = {}
    exec("from falcon_pachinko.testing import *", names)  # a star needs a module's level

    assert set(kit.__all__) <= set(names)
