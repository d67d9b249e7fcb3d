"""Processes whose rooms remember, in memory, and clients who come and go."""

import asyncio
import itertools

import msgspec
from faulty_backend import FaultyBackend, started

from falcon_pachinko import (
    BackendError,
    Connection,
    HistoryLimits,
    HistoryPosition,
    Limits,
    WebSocketConnectionManager,
)
from falcon_pachinko.backends import MemoryHub
from falcon_pachinko.cluster.node import Gap
from falcon_pachinko.cluster.parcels import header
from falcon_pachinko.connection.sender import SENDER

AWAY = BackendError("memory", "away")
HEAD = header("0123456789ab")

numbers = itertools.count()


class Node(WebSocketConnectionManager):
    """A process whose rooms remember."""

    def __init__(self, hub=None, limits=None):
        super().__init__(backend=FaultyBackend(hub))
        self.configure_rooms("", history=limits or HistoryLimits(), resync=True)

    @property
    def cluster(self):
        return self._cluster

    @property
    def backend(self):
        return self._cluster.backend

    @property
    def _history(self):
        return self._exchange.history

    def fail(self, *calls):
        self.backend.failing = dict.fromkeys(calls, AWAY)

    async def say(self, text, room="tea", **options):
        message = {"type": "said", "text": text}
        return await self.broadcast_to_room(room, message, **options)

    def client(self, **limits):
        return Client(self, **limits)

    @property
    def traces(self):
        return self._history._rooms

    async def lose(self):
        """Have a gap anywhere, as after the backend was away."""
        await self._exchange._missed(Gap(None, None, "a test"))


class Client:
    """One who comes and goes, and remembers its position."""

    def __init__(self, node, **limits):
        self.node, self.limits = node, Limits(**limits)
        self.texts, self.offsets, self.states, self.resyncs = [], [], [], 0
        self.position = HistoryPosition()
        self.reads = asyncio.Event()
        self.reads.set()
        self.connection = None

    async def take(self, event):
        if event["type"] != "websocket.send":
            return
        await self.reads.wait()
        frame = msgspec.json.decode(event["text"])
        if frame["type"] == "history.state":
            payload = frame["payload"]
            self.states.append(payload)
            if not payload["recovered"]:
                self.texts, self.offsets = [], []
            if "epoch" in payload and not payload["messages"]:
                self.position = HistoryPosition(payload["epoch"], payload["offset"])
        elif frame["type"] == "said":
            self.texts.append(frame["text"])
            if "history" in frame:
                place = frame["history"]
                self.offsets.append(place["offset"])
                self.position = HistoryPosition(place["epoch"], place["offset"])
        else:
            self.resyncs += 1

    def come(self):
        name = f"c{next(numbers)}"
        self.connection = Connection(
            name, self.take, self.node, limits=self.limits, direct=True, is_open=True
        )
        self.node._registry.add(self.connection)

    async def join(self, since=None, room="tea"):
        if self.connection is None:
            self.come()
        since = self.position if since is None else since
        await self.node._members.join(self.connection, room, since)

    async def join_at_its_pace(self):
        """Join as a handler of its own does, which waits for its client."""
        SENDER.set(self.connection)
        self.connection._session = object()  # there is one
        try:
            await self.join()
        finally:
            self.connection._session = None

    async def join_plainly(self, room="tea"):
        self.come()
        await self.node._members.join(self.connection, room)

    def go(self):
        if self.connection is not None:
            self.connection._outbox.lose()
            self.node._members.forget(self.connection)
            self.connection = None


def running(count=2, limits=None):
    """Have some processes of one cluster run."""
    hub = MemoryHub()
    return started([Node(hub, limits) for _ in range(count)])
