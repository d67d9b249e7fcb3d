"""What the memory ring shares: apps of one resource, and a look at what a test leaves behind."""

import asyncio
import contextlib

import falcon
import falcon.asgi
import falcon.testing
import pytest

from falcon_pachinko import install
from falcon_pachinko.connection.sender import MUTED
from falcon_pachinko.session.session import Session
from falcon_pachinko.testing import HandshakeDenied

DEADLINE = 30
"""Seconds that anything a test waits for may take."""


@pytest.fixture
def serve():
    """Make an app with one resource, at the root unless told otherwise."""

    def make(resource, path="/", *, limits=None, options=None, **init_kwargs):
        app = falcon.asgi.App()
        install(app, limits=limits, **(options or {}))
        app.add_websocket_route(path, resource, **init_kwargs)
        return app

    return make


@pytest.fixture
def closing():
    """Receive until the other side closes; give its code."""

    async def receive_all(client):
        with contextlib.suppress(falcon.WebSocketDisconnected):
            while True:
                await client.receive()
        return client.close_code

    return receive_all


@pytest.fixture
def knock():
    """Try to connect, and go away again; give the denial's status, or what came of it."""

    async def connect(client):
        try:
            async with client:
                return "accepted"
        except HandshakeDenied as denied:
            return denied.status

    return connect


class ByHand:
    """An ASGI server in the test's own hands, for what no client in memory could bring about."""

    def __init__(self, app) -> None:
        self.scope = falcon.testing.create_scope_ws("/", spec_version="2.3")
        self.scope["extensions"] = {"websocket.http.response": {}}
        self.sent = []
        """The events that the app has sent."""
        self.error = None
        """What sending raises, as with a client that is gone."""
        self.reads = asyncio.Event()
        """Whether frames leave; cleared, the app's sending waits."""
        self.reads.set()
        self.events = asyncio.Queue()
        self._app = app

    def start(self) -> None:
        """Open the handshake, and let the app run."""
        self.events.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.create_task(self._app(self.scope, self.receive, self._send))

    async def receive(self):
        return await self.events.get()

    def say(self, text: str) -> None:
        self.events.put_nowait({"type": "websocket.receive", "text": text})

    def go(self, **event) -> None:
        self.events.put_nowait({"type": "websocket.disconnect", **event})

    async def ended(self) -> None:
        """Wait until the app is done with this connection, however that came."""
        async with asyncio.timeout(DEADLINE):
            await asyncio.wait([self.task])

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.sent]

    async def _send(self, event) -> None:
        if self.error is not None:
            raise self.error
        if event["type"] == "websocket.send":
            await self.reads.wait()
        self.sent.append(event)


@pytest.fixture
def by_hand():
    """Make a server of an app, to be driven event by event."""
    return ByHand


@pytest.fixture(autouse=True)
async def _nothing_left():
    """No test leaves a task behind, or a session's timer, whatever it did to the app."""
    yield
    for _ in range(5):  # what is ending may end
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}

    timers = [
        each
        for each in getattr(asyncio.get_running_loop(), "_scheduled", ())  # uvloop shows none
        if not each.cancelled() and getattr(each._callback, "__module__", "") == Session.__module__
    ]

    assert not left
    assert not timers
    assert not MUTED
