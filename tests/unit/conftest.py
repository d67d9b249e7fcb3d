"""What the unit ring shares: the far side of a connection, in the test's own hands."""

import asyncio
from collections import deque

import pytest

from falcon_pachinko import Connection, Limits, WebSocketConnectionManager
from falcon_pachinko.connection.outbox import Outbox
from falcon_pachinko.counters import Counters

DEADLINE = 30
"""Seconds that anything a test waits for may take."""


class Transport:
    """The transport behind a server's ``send``: how much is unwritten, and whether it was cut."""

    def __init__(self) -> None:
        self.unwritten = 0
        self.aborted = asyncio.Event()

    def get_write_buffer_size(self) -> int:
        return self.unwritten

    def abort(self) -> None:
        self.aborted.set()


class Wire:
    """An ASGI ``send`` that a test stalls, drains frame by frame, and breaks."""

    def __init__(self) -> None:
        self.events = []
        """What the server has taken, in order."""
        self.stalled = False
        """Whether each frame waits until the test lets it through."""
        self.error = None
        """What the server raises instead of taking a frame."""
        self._waiting = deque()
        self._changed = asyncio.Event()

    async def send(self, event) -> None:
        if self.error is not None:
            raise self.error
        if self.stalled:
            gap = asyncio.get_running_loop().create_future()
            self._waiting.append(gap)
            self._changed.set()
            try:
                await gap
            finally:
                if gap in self._waiting:  # its writer was cancelled
                    self._waiting.remove(gap)
        self.events.append(event)
        self._changed.set()

    def let_one_through(self) -> None:
        self._waiting.popleft().set_result(None)

    def drain(self) -> None:
        self.stalled = False
        while self._waiting:
            self.let_one_through()

    def fail(self, error: Exception) -> None:
        """Break the frame that waits, and all to come."""
        self.error = error
        self._waiting.popleft().set_exception(error)

    @property
    def frames(self) -> list[str | bytes]:
        """What the frames carried that the server has taken."""
        sent = [event for event in self.events if event["type"] == "websocket.send"]
        return [event["text"] if "text" in event else event["bytes"] for event in sent]

    @property
    def kinds(self) -> list[str]:
        """What the events are that the server has taken, in order."""
        return [event["type"].removeprefix("websocket.") for event in self.events]

    async def until(self, condition) -> None:
        """Wait until something is true of this wire."""
        async with asyncio.timeout(DEADLINE):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    async def took(self, count: int) -> None:
        """Wait until the server has taken that many events."""
        await self.until(lambda wire: len(wire.events) >= count)

    async def holds_one(self) -> None:
        """Wait until a frame is stuck in the server."""
        await self.until(lambda wire: wire._waiting)

    @property
    def is_stuck(self) -> bool:
        """Whether a frame is stuck in the server."""
        return bool(self._waiting)


class ServerWire(Wire):
    """A wire with a transport behind it, as uvicorn's have."""

    def __init__(self) -> None:
        super().__init__()
        self.transport = Transport()


@pytest.fixture
def wire():
    """A server that takes everything at once, until it is told otherwise."""
    return Wire()


@pytest.fixture
def server_wire():
    """The same, with a transport that can be cut."""
    return ServerWire()


@pytest.fixture
def manager():
    return WebSocketConnectionManager()


@pytest.fixture
def connect(manager):
    """Make connections that are open, and known to the manager; stepped, unless told otherwise."""

    def make(wire, connection_id="ann", *, is_open=True, subprotocols=(), direct=True, **limits):
        made = Connection(
            connection_id,
            wire.send,
            manager,
            limits=Limits(**limits),
            subprotocols=subprotocols,
            direct=direct,
            is_open=is_open,
        )
        manager._registry.add(made)
        return made

    return make


@pytest.fixture
def members(connect):
    """Make several open connections, each with a wire of its own, by their ids."""

    def make(*ids):
        wires = {each: Wire() for each in ids}
        for each, own in wires.items():
            connect(own, each)
        return wires

    return make


@pytest.fixture(params=[True, False], ids=["stepped", "wrapped"])
def direct(request):
    """Whether the server's own ``send`` is stepped by hand, or a middleware's is awaited."""
    return request.param


@pytest.fixture
def post(direct):
    """Make outboxes that are open, once for each way of sending."""

    def make(wire, *, is_open=True, **limits):
        return Outbox(
            wire.send, Limits(**limits), Counters(), name="ann", direct=direct, is_open=is_open
        )

    return make


@pytest.fixture
async def hasty_loop(monkeypatch):
    """What is due at once is a plain handle, which does not tell when: as in uvloop."""
    loop = asyncio.get_running_loop()
    own = loop.call_at

    def call_at(when, callback, *given, context=None):
        if when > loop.time() + 0.0005:
            return own(when, callback, *given, context=context)
        return loop.call_soon(callback, *given, context=context)

    monkeypatch.setattr(loop, "call_at", call_at)


@pytest.fixture
async def nothing_left():
    """No test leaves a task behind."""
    yield
    for _ in range(5):
        await asyncio.sleep(0)
    assert not asyncio.all_tasks() - {asyncio.current_task()}
