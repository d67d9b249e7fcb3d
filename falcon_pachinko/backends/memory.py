"""The backend within one process: the default of an app, and a model of the other backends."""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
import secrets
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextvars import Context
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


SWEEP_SECONDS = 0.25
"""How often one history is looked at, at most, for what is too old: so long that may stay."""

KEY_SECONDS = 120.0
"""How long the key of a message is remembered."""

MOST_EVENTS = 100_000
"""How many events may wait for a slow reader; then they are lost, and that is told."""


_CLEANED = float("-inf")  # the end of the lease of a node whose entries were dropped with it


class _History:
    """What one channel remembers."""

    def __init__(self, now: float) -> None:
        self.epoch = secrets.token_hex(8)
        self.offset = 0
        self.forgotten = 0  # the largest offset that is not kept any more
        self.size = 0
        self.entries: deque[tuple[Kept, float]] = deque()  # each with the time it was kept
        self.seconds = 0.0  # of the limits that were used last
        self.used_at = now  # when the last message was kept, or it began
        self.next_look = float("inf")  # when the hub looks at it for what is too old

    @property
    def ends_at(self) -> float:
        """When it ends, unless another message comes."""
        return self.used_at + self.seconds

    @property
    def due_at(self) -> float:
        """When it has something to forget next: its oldest message, or all of it."""
        return self.entries[0][1] + self.seconds if self.entries else self.ends_at

    def trim(self, limits: HistoryLimits, now: float) -> None:
        """Forget what exceeds the limits."""
        self.seconds = limits.seconds
        while self.entries and (len(self.entries) > limits.count or self.size > limits.bytes):
            self._forget_oldest()
        self.trim_by_age(now)

    def trim_by_age(self, now: float) -> None:
        """Forget what is too old."""
        while self.entries and self.entries[0][1] + self.seconds <= now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
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
        # By table, node and key; neither a table nor a node's part of one is empty.
        self.leases: dict[str, tuple[int, float]] = {}
        self.tokens = 0
        self.histories: dict[str, _History] = {}
        self.keys: dict[tuple[str, str], tuple[HistoryPosition, float]] = {}
        # By channel and key, where a message went, and until when that is remembered: all for
        # the same time, so that the first ones end first.
        self._due: list[tuple[float, str]] = []
        # A heap: when each history is looked at next. Exactly one entry of each is its
        # `next_look`; others are void, and go when their time comes.
        # Looks at the first of them; and when.  Not asked from the handle: uvloop gives one that
        # does not tell, for what is due at once.
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that the timer is of

    @classmethod
    def of(cls, name: str) -> MemoryHub:
        """Return the hub of a name: ``memory://name`` is the same one everywhere in a process."""
        return cls.named.setdefault(name, cls())

    def history(self, channel: str, limits: HistoryLimits) -> _History:
        """Return a channel's history, trimmed; a new one where it ended."""
        now = self.clock()
        self.sweep()
        found = self.histories.get(channel)
        if found is None or found.ends_at <= now:
            found = self.histories[channel] = _History(now)
        found.trim(limits, now)
        if found.due_at < found.next_look:
            self._look_at(channel, found, found.due_at)
        self._sweep_in_time()
        return found

    def kept_as(self, channel: str, key: str) -> HistoryPosition | None:
        """Return where a message with a key was kept in the last two minutes."""
        now = self.clock()
        while self.keys and next(iter(self.keys.values()))[1] <= now:
            del self.keys[next(iter(self.keys))]
        return self.keys.get((channel, key), (None, 0.0))[0]

    def _look_at(self, channel: str, history: _History, when: float) -> None:
        history.next_look = when
        heapq.heappush(self._due, (when, channel))

    def sweep(self) -> None:
        """Forget what is over: messages by their age, histories that ended, idle ones too."""
        now = self.clock()
        while self._due and self._due[0][0] <= now:
            when, channel = heapq.heappop(self._due)
            history = self.histories.get(channel)
            if history is None or history.next_look != when:
                continue
            history.trim_by_age(now)
            if history.ends_at <= now:
                del self.histories[channel]
            else:
                self._look_at(channel, history, max(history.due_at, now + SWEEP_SECONDS))

    def _sweep_in_time(self) -> None:
        """Have it swept when something is due, even if nothing happens until then."""
        loop = asyncio.get_running_loop()
        if not self._due:
            return
        delay = max(self._due[0][0] - self.clock(), 0.0)
        when = loop.time() + delay
        if self._timer is not None and self._loop is loop and not self._timer.cancelled():
            if self._timer_at <= when:
                return
            self._timer.cancel()
        # Weak, so that the timer keeps no hub of an app that has gone. In a context of its own,
        # so that it keeps no connection on whose behalf something was sent.
        self._loop, self._timer_at = loop, when
        self._timer = loop.call_at(when, _swept, weakref.ref(self), context=Context())

    def drop_node(self, node: str) -> None:
        """Forget what a node has in any table."""
        for name, table in tuple(self.tables.items()):
            table.pop(node, None)
            if not table:
                del self.tables[name]


def _swept(hub: weakref.ref[MemoryHub]) -> None:
    found = hub()
    if found is not None:
        found._timer = None  # its own timer
        found.sweep()
        found._sweep_in_time()  # see above


class MemoryBackend(Backend):
    """Connects the apps of one process that share a hub; without one, it connects nothing.

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
        self._node, self.state, self.since = node, "up", dt.datetime.now(dt.UTC)
        self._events.clear()
        self._arrived = asyncio.Event()  # maybe in another loop than the last time
        self.hub.nodes[node] = self
        self._put(StateChanged("up", "it is in this process"))

    async def stop(self) -> None:
        if self.hub.nodes.get(self._node) is not self:
            return
        del self.hub.nodes[self._node]
        self.hub.beats.pop(self._node, None)
        self.hub.drop_node(self._node)
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
        if entries:
            self.hub.tables.setdefault(table, {}).setdefault(self._node, {}).update(entries)

    async def replace(self, table: str, entries: Mapping[str, bytes]) -> None:
        await self.leave(table, tuple(self.hub.tables.get(table, {}).get(self._node, ())))
        await self.enter(table, entries)

    async def tables(self) -> Collection[str]:
        return [name for name, table in self.hub.tables.items() if self._node in table]

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
            self._put(Lost("this process gave no sign of life for longer than its lease"))
        self.hub.beats[self._node] = now + ttl
        for node, until in self.hub.beats.items():
            if _CLEANED < until <= now:
                self.hub.drop_node(node)  # whoever beats cleans up after the dead
                self.hub.beats[node] = _CLEANED
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

    async def append(
        self,
        channel: str,
        data: bytes,
        limits: HistoryLimits,
        key: str = "",
    ) -> HistoryPosition:
        history, now = self.hub.history(channel, limits), self.hub.clock()
        if key:
            position = self.hub.kept_as(channel, key)
            same = (kept.offset for kept, _ in history.entries if kept.data == data)
            if position is None and (offset := next(same, None)) is not None:
                position = HistoryPosition(history.epoch, offset)
            if position is not None:
                return position
        history.offset += 1
        history.entries.append((Kept(history.offset, data), now))
        history.size += len(data)
        history.used_at = now
        history.trim(limits, now)
        position = HistoryPosition(history.epoch, history.offset)
        if key:
            self.hub.keys[channel, key] = position, now + KEY_SECONDS
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
