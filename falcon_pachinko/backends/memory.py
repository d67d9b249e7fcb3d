"""The backend within one process: what an app has that names no other, and a model of the rest."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import ClassVar

from falcon_pachinko.backends.base import (
    Backend,
    Event,
    HistoryPosition,
    Kept,
    Lost,
    Past,
    Received,
    StateChanged,
)
from falcon_pachinko.limits import HistoryLimits

__all__ = ["MemoryBackend", "MemoryHub"]


SWEEP = 256
"""How many histories there may be before those that ended are forgotten."""

MOST_EVENTS = 100_000
"""How many events may wait for a slow reader; then they are lost, and that is told."""


class _History:
    """What one channel remembers."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(8)
        self.offset = 0
        self.forgotten = 0  # the largest offset that is not kept any more
        self.size = 0
        self.entries: deque[tuple[Kept, float]] = deque()
        self.ends_at = float("inf")

    def trim(self, limits: HistoryLimits, now: float) -> None:
        while self.entries and (
            len(self.entries) > limits.count
            or self.size > limits.bytes
            or self.entries[0][1] + limits.seconds <= now
        ):
            (offset, data), _ = self.entries.popleft()
            self.forgotten, self.size = offset, self.size - len(data)


class MemoryHub:
    """What several backends of one process share, as processes share a server.

    Args:
        clock: What tells the time, in seconds; another one lets tests wait for nothing.
    """

    named: ClassVar[dict[str, MemoryHub]] = {}

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.nodes: dict[str, MemoryBackend] = {}
        self.beats: dict[str, float] = {}
        self.tables: dict[str, dict[str, dict[str, bytes]]] = {}
        self.leases: dict[str, tuple[int, float]] = {}
        self.tokens = 0
        self.histories: dict[str, _History] = {}
        self._sweep_at = SWEEP

    @classmethod
    def of(cls, name: str) -> MemoryHub:
        """Return the hub of a name: ``memory://name`` is the same one everywhere in a process."""
        return cls.named.setdefault(name, cls())

    def history(self, channel: str, limits: HistoryLimits) -> _History:
        """Return a channel's history, trimmed; a new one where it ended."""
        now = self.clock()
        found = self.histories.get(channel)
        if found is None or found.ends_at <= now:
            self._sweep(now)
            found = self.histories[channel] = _History()
            found.ends_at = now + limits.seconds
        found.trim(limits, now)
        return found

    def _sweep(self, now: float) -> None:
        """Forget the histories that ended, whenever there are twice as many as there were then."""
        if len(self.histories) >= self._sweep_at:
            going = ((name, each) for name, each in self.histories.items() if each.ends_at > now)
            self.histories = dict(going)
            self._sweep_at = max(SWEEP, 2 * len(self.histories))


class MemoryBackend(Backend):
    """Shares with the other backends of its hub; with a hub of its own, with nobody.

    Args:
        hub: What it shares; by default its own.
        ttl: See `Backend`.

    Example::

        hub = MemoryHub()
        install(first, backend=MemoryBackend(hub))
        install(second, backend=MemoryBackend(hub))  # one cluster, in one test
    """

    name = "memory"

    def __init__(self, hub: MemoryHub | None = None, ttl: float = 15.0) -> None:
        self.hub = hub or MemoryHub()
        self.shared = hub is not None
        self.ttl = ttl
        self.state = "down"
        self._node = ""
        self._channels: set[str] = set()
        self._held: dict[str, int] = {}  # the leases that it took, and their tokens
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()

    async def start(self, node: str) -> None:
        self._node, self.state = node, "up"
        self._events.clear()
        self._arrived = asyncio.Event()  # maybe in another loop than the last time
        self.hub.nodes[node] = self
        self._put(StateChanged("up", "it is this very process"))

    async def stop(self) -> None:
        if self.hub.nodes.get(self._node) is not self:
            return
        del self.hub.nodes[self._node]
        self.hub.beats.pop(self._node, None)
        for table in self.hub.tables.values():
            table.pop(self._node, None)
        for name, token in tuple(self._held.items()):
            await self.release(name, token)
        self.state = "down"
        self._channels.clear()
        self._arrived.set()

    async def events(self) -> AsyncIterator[Event]:
        while self.state != "down":
            while self._events:
                yield self._events.popleft()
            self._arrived.clear()
            await self._arrived.wait()

    async def publish(self, parcels: Sequence[tuple[str, bytes]]) -> None:
        for channel, data in parcels:
            self._spread(Received(channel, data))

    async def subscribe(self, channels: Collection[str]) -> None:
        self._channels.update(channels)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self._channels.difference_update(channels)

    async def enter(self, table: str, entries: Mapping[str, bytes]) -> None:
        self.hub.tables.setdefault(table, {}).setdefault(self._node, {}).update(entries)

    async def leave(self, table: str, keys: Collection[str]) -> None:
        own = self.hub.tables.get(table, {}).get(self._node, {})
        for key in keys:
            own.pop(key, None)
        if not own:
            self.hub.tables.get(table, {}).pop(self._node, None)
        if not self.hub.tables.get(table):
            self.hub.tables.pop(table, None)

    async def entries(self, table: str) -> Mapping[str, Mapping[str, bytes]]:
        alive = set(self._alive())
        nodes = self.hub.tables.get(table, {}).items()
        return {node: dict(each) for node, each in nodes if node in alive or node == self._node}

    async def beat(self, ttl: float) -> Collection[str]:
        now = self.hub.clock()
        if self.hub.beats.get(self._node, now) < now:
            self._put(Lost("this process was not heard of for longer than its lease"))
        self.hub.beats[self._node] = now + ttl
        return self._alive()

    async def acquire(self, name: str, ttl: float) -> int | None:
        _, until = self.hub.leases.get(name, (0, 0.0))
        if until > self.hub.clock():
            return None
        self.hub.tokens += 1
        self._held[name] = self.hub.tokens
        self.hub.leases[name] = self.hub.tokens, self.hub.clock() + ttl
        return self.hub.tokens

    async def renew(self, name: str, token: int, ttl: float) -> bool:
        holder, until = self.hub.leases.get(name, (0, 0.0))
        if holder != token or until <= self.hub.clock():
            return False
        self.hub.leases[name] = token, self.hub.clock() + ttl
        return True

    async def release(self, name: str, token: int) -> None:
        self._held.pop(name, None)
        if self.hub.leases.get(name, (0, 0.0))[0] == token:
            del self.hub.leases[name]

    async def append(self, channel: str, data: bytes, limits: HistoryLimits) -> HistoryPosition:
        history, now = self.hub.history(channel, limits), self.hub.clock()
        history.offset += 1
        history.entries.append((Kept(history.offset, data), now))
        history.size += len(data)
        history.ends_at = now + limits.seconds
        history.trim(limits, now)
        position = HistoryPosition(history.epoch, history.offset)
        self._spread(Received(channel, data, position))
        return position

    async def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Past:
        history = self.hub.history(channel, limits)
        position = HistoryPosition(history.epoch, history.offset)
        reached = history.forgotten <= after.offset <= history.offset
        complete = after.epoch == history.epoch and reached
        since = after.offset if complete else 0
        entries = tuple(kept for kept, _ in history.entries if kept.offset > since)
        return Past(position, entries, complete)

    async def forget(self, channel: str) -> None:
        self.hub.histories.pop(channel, None)

    def _alive(self) -> list[str]:
        now = self.hub.clock()
        return [node for node, until in self.hub.beats.items() if until > now]

    def _spread(self, event: Received) -> None:
        for backend in self.hub.nodes.values():
            if event.channel in backend._channels:  # its own kind
                backend._put(event)  # its own kind

    def _put(self, event: Event) -> None:
        if len(self._events) >= MOST_EVENTS:
            self._events.clear()
            self._events.append(Lost(f"over {MOST_EVENTS} events waited for their reader"))
        self._events.append(event)
        self._arrived.set()
