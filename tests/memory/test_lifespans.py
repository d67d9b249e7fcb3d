"""An app whose lifespan does not run: it says so where that matters, and how to mend it."""

import contextlib

import falcon.asgi
import pytest

from falcon_pachinko import WebSocketConnectionManager, WebSocketResource, install
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.testing import simulate


class Room(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("lobby")
        return True


async def work(manager): ...


def app_with(**options):
    app = falcon.asgi.App()
    install(app, **options)
    app.add_websocket_route("/", Room)
    return app


class Outer:
    """An ASGI app that mounts another one, and keeps the lifespan to itself."""

    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, scope, receive, send):
        if scope["type"] != "lifespan":
            await self.inner(scope, receive, send)
            return
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return


@pytest.mark.parametrize("backend", ["memory://quiet", MemoryBackend(MemoryHub())])
async def test_a_backend_without_a_lifespan_is_one_warning(backend, caplog):
    """However many clients come, and without any worker: the processes are alone."""
    async with simulate(Outer(app_with(backend=backend))) as client:
        for _ in range(3):
            async with client.connect("/"):
                pass

    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "its backend (memory), so it is alone" in record.getMessage()
    assert "uvicorn: --lifespan on" in record.getMessage()
    assert "await pachinko.start()" in record.getMessage()


async def test_workers_and_a_backend_are_told_together(caplog):
    """In the one line there is."""
    app = app_with(backend="memory://both")
    app.add_websocket_worker(work)
    async with simulate(Outer(app)) as client, client.connect("/"):
        pass

    [record] = caplog.records
    assert "its workers (work) and its backend (memory)" in record.getMessage()


async def test_one_process_by_itself_needs_no_lifespan(caplog):
    """Without a backend and without workers nothing is missing."""
    async with simulate(Outer(app_with())) as client, client.connect("/"):
        pass

    assert not caplog.records


async def test_an_app_that_was_started_by_hand_is_silent(caplog):
    """As the warning says: in the outer app's lifespan."""
    app = app_with(backend="memory://by-hand")
    app.add_websocket_worker(work)
    pachinko = install(app, backend="memory://by-hand")
    await pachinko.start()
    async with simulate(Outer(app)) as client, client.connect("/"):
        pass
    await pachinko.stop()

    assert not caplog.records


@pytest.mark.parametrize("backend", ["memory://text", MemoryBackend(MemoryHub.of("text"))])
async def test_a_manager_takes_a_backend_by_its_url(backend):
    """As `install` does: two managers that name the same are of one cluster."""
    one, two = WebSocketConnectionManager(backend=backend), app_with(backend="memory://text")
    async with contextlib.AsyncExitStack() as stack:
        await one.start()
        stack.push_async_callback(one.stop)
        client = await stack.enter_async_context(simulate(two))
        ann = await stack.enter_async_context(client.connect("/"))
        await one.broadcast_to_room("lobby", {"type": "notice"})

        assert await ann.receive_json() == {"type": "notice"}
