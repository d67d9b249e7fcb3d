"""The backend within one process: the default of an app, and a model of the other backends."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from threading import get_ident

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
from falcon_pachinko.backends.memory_hub import KEY_SECONDS, MemoryHub
from falcon_pachinko.limits import HistoryLimits

__all__ = ["MemoryBackend", "MemoryHub"]

MOST_EVENTS = 100_000
"""How many events may wait for a slow reader; then they are lost, and that is told."""


_CLEANED = float("-inf")  # the end of the lease of a node whose entries were dropped with it


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
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that reads the events
        self._thread = 0  # the one that runs that loop

    async def start(self, node: str) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()
        self._node, self.state, self.since = node, "up", dt.datetime.now(dt.UTC)
        self._events.clear()
        self._arrived = asyncio.Event()  # maybe in another loop than the last time
        self.hub.nodes[node] = self
        self._put(StateChanged("up", "it is in this process"))

    async def stop(self) -> None:
        if self.hub.nodes.get(self._node) is not self:
            return
        del self.hub.nodes[self._node]
        self.hub.note(self.hub.beats, self._node)
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
            self.hub.spread(Received(channel, data))

    async def subscribe(self, channels: Collection[str]) -> None:
        self._channels.update(channels)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self._channels.difference_update(channels)

    async def enter(self, table: str, entries: Mapping[str, bytes]) -> None:
        if entries:
            self.hub.note(self.hub.tables, table)
            self.hub.tables.setdefault(table, {}).setdefault(self._node, {}).update(entries)

    async def replace(self, table: str, entries: Mapping[str, bytes]) -> None:
        await self.leave(table, tuple(self.hub.tables.get(table, {}).get(self._node, ())))
        await self.enter(table, entries)

    async def tables(self) -> Collection[str]:
        return [name for name, table in self.hub.tables.items() if self._node in table]

    async def leave(self, table: str, keys: Collection[str]) -> None:
        self.hub.note(self.hub.tables, table)
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
        self.hub.note(self.hub.beats, self._node)
        self.hub.beats[self._node] = now + ttl
        for node, until in self.hub.beats.items():
            if _CLEANED < until <= now:
                self.hub.note(self.hub.beats, node)
                self.hub.drop_node(node)  # whoever beats cleans up after the dead
                self.hub.beats[node] = _CLEANED
        return self._alive()

    async def alive(self) -> Collection[str]:
        return self._alive()

    async def acquire(self, name: str, ttl: float) -> int | None:
        _, until = self.hub.leases.get(name, (0, 0.0))
        if until > self.hub.clock():
            return None
        self.hub.tokens += 1
        self._held[name] = self.hub.tokens
        self.hub.note(self.hub.leases, name)
        self.hub.leases[name] = self.hub.tokens, self.hub.clock() + ttl
        return self.hub.tokens

    async def renew(self, name: str, token: int, ttl: float) -> bool:
        holder, until = self.hub.leases.get(name, (0, 0.0))
        if holder != token or until <= self.hub.clock():
            return False
        self.hub.note(self.hub.leases, name)
        self.hub.leases[name] = token, self.hub.clock() + ttl
        return True

    async def release(self, name: str, token: int) -> None:
        self._held.pop(name, None)
        held = self.hub.leases.get(name)
        if held is not None and held[0] == token:
            self.hub.note(self.hub.leases, name)
            del self.hub.leases[name]

    async def remember(self, settings: Mapping[str, bytes]) -> Mapping[str, bytes]:
        kept = self.hub.settings
        replaced = {name: kept[name] for name in settings if name in kept}
        for name, data in settings.items():
            self.hub.note(kept, name)
            kept[name] = data
        return replaced

    async def recall(self) -> Mapping[str, bytes]:
        return dict(self.hub.settings)

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
                position = HistoryPosition(self.hub.position(history).epoch, offset)
            if position is not None:
                return position
        history.offset += 1
        history.entries.append((Kept(history.offset, data), now))
        history.size += len(data)
        history.used_at = now
        history.trim(limits, now)
        position = self.hub.position(history)
        if key:
            self.hub.keys[channel, key] = position, now + KEY_SECONDS
        self.hub.spread(Received(channel, data, position))
        return position

    async def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Past:
        history = self.hub.history(channel, limits)
        position = self.hub.position(history)
        reached = history.forgotten <= after.offset <= history.offset
        complete = after.epoch == position.epoch and reached
        since = after.offset if complete else 0
        entries = tuple(kept for kept, _ in history.entries if kept.offset > since)
        return Past(position, entries, complete)

    async def forget(self, channel: str) -> None:
        self.hub.note(self.hub.histories, channel)
        self.hub.histories.pop(channel, None)

    def _alive(self) -> list[str]:
        now = self.hub.clock()
        return [node for node, until in self.hub.beats.items() if until > now]

    def _cut(self, why: str) -> None:
        """Take note that the hub was restarted: subscriptions stay, what was kept may be gone."""
        self._put(Lost(why))

    def _put(self, event: Event) -> None:
        if self._loop is not None and self._thread != get_ident():
            # From a `Publisher.sync`, which has a thread of its own.
            with contextlib.suppress(RuntimeError):  # that loop is closed: nobody reads there
                self._loop.call_soon_threadsafe(self._put_here, event)
            return
        self._put_here(event)

    def _put_here(self, event: Event) -> None:
        if len(self._events) >= MOST_EVENTS:
            self._events.clear()
            self._events.append(Lost(f"over {MOST_EVENTS} events waited for their reader"))
        self._events.append(event)
        self._arrived.set()
