"""What several backends in memory share, as processes share a server."""

from __future__ import annotations

import asyncio
import heapq
import math
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, ClassVar, Protocol

from falcon_pachinko.backends.base import Event, HistoryPosition, Kept, Received
from falcon_pachinko.clock import monotonic, token_hex
from falcon_pachinko.limits import HistoryLimits

__all__ = ["KEY_SECONDS", "MemoryHub"]

SWEEP_SECONDS = 0.25
"""How often one history is looked at, at most, for what is too old: so long that may stay."""

KEY_SECONDS = 120.0
"""How long the key of a message is remembered."""

_ABSENT = object()  # what a key had that was not there


class _History:
    """What one channel remembers."""

    def __init__(self, now: float) -> None:
        self.epoch = token_hex(8)
        self.offset = 0
        self.forgotten = 0  # the largest offset that is not kept any more
        self.size = 0
        self.entries: deque[tuple[Kept, float]] = deque()  # each with the time it was kept
        self.seconds = 0.0  # of the limits that were used last
        self.used_at = now  # when the last message was kept, or it began
        self.next_look = float("inf")  # when the hub looks at it for what is too old

    def copy(self) -> _History:
        """Return another one with the same past."""
        other = object.__new__(_History)
        vars(other).update(vars(self), entries=self.entries.copy())
        return other

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


class _Seat(Protocol):
    """What the hub knows of one process: a `MemoryBackend`."""

    _channels: set[str]

    def _put(self, event: Event) -> None:
        """Hand over what arrived."""
        ...

    def _cut(self, why: str) -> None:
        """Take note that the hub was restarted."""
        ...


class MemoryHub:
    """What several backends of one process share, as processes share a server.

    Args:
        clock: What tells the time, in seconds; another one lets tests wait for nothing.
        rewindable: Remember every change, so that `restart` can go back in time.
    """

    named: ClassVar[dict[str, MemoryHub]] = {}

    def __init__(self, clock: Callable[[], float] = monotonic, *, rewindable: bool = False) -> None:
        self.clock = clock
        self.incarnation = 0
        """How often it was restarted. No position of an earlier incarnation is valid."""
        self.nodes: dict[str, _Seat] = {}
        self.beats: dict[str, float] = {}
        self.tables: dict[str, dict[str, dict[str, bytes]]] = {}
        # By table, node and key; neither a table nor a node's part of one is empty.
        self.leases: dict[str, tuple[int, float]] = {}
        self.tokens = 0
        self.settings: dict[str, bytes] = {}
        self.histories: dict[str, _History] = {}
        self.keys: dict[tuple[str, str], tuple[HistoryPosition, float]] = {}
        # By channel and key, where a message went, and until when that is remembered: all for
        # the same time, so that the first ones end first.
        self._changes: deque[tuple[float, dict[str, Any], str, Any]] | None = None
        # What each key of `beats`, `tables`, `leases`, `settings` and `histories` had before a
        # change, and when that was, oldest first. A change that is not in here cannot be undone.
        if rewindable:
            self._changes = deque()
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
        self.note(self.histories, channel)
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
            self.note(self.histories, channel)
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
        self._timer = self.call_at(when, _swept, weakref.ref(self))

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        """Do something later, on nobody's behalf."""
        return asyncio.get_running_loop().call_at(when, callback, *args, context=Context())

    def position(self, history: _History) -> HistoryPosition:
        """Return where a history stands; in each incarnation, its epoch is another one."""
        mark = f".{self.incarnation}" if self.incarnation else ""
        return HistoryPosition(history.epoch + mark, history.offset)

    def spread(self, event: Received) -> None:
        """Give bytes to all who listen to their channel."""
        for backend in tuple(self.nodes.values()):
            if event.channel in backend._channels:  # its own kind
                backend._put(event)  # its own kind

    # Restarts, which production's servers have too.

    def note(self, changing: dict[str, Any], key: str) -> None:
        """Remember what a key has, right before it changes."""
        if self._changes is None:
            return
        before = changing.get(key, _ABSENT)
        if isinstance(before, _History):
            before = before.copy()
        elif isinstance(before, dict):
            before = {node: entries.copy() for node, entries in before.items()}
        self._changes.append((self.clock(), changing, key, before))

    def restart(self, *, lose: bool | float = False) -> None:
        """Do as a server that was restarted: cut everybody, and begin another incarnation.

        Args:
            lose: False keeps all, True forgets all; a number goes back that many seconds, as a
                server does that is restored from an older snapshot. Tokens of leases never
                go back.

        Raises:
            ValueError: It is no number of seconds, or this hub is not ``rewindable``.
        """
        if lose is True:
            kept: tuple[dict[str, Any], ...] = (
                self.beats,
                self.tables,
                self.leases,
                self.settings,
                self.histories,
            )
            for each in kept:
                for key in tuple(each):
                    self.note(each, key)
                    del each[key]
        elif lose is not False:
            self._rewind(lose)
        self.incarnation += 1
        if lose is not False:
            self.keys.clear()
        for backend in tuple(self.nodes.values()):
            backend._cut("the server was restarted")  # its own kind

    def _rewind(self, seconds: float) -> None:
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"lose={seconds!r} is neither True, False nor a number of seconds")
        if self._changes is None:
            raise ValueError(
                "only MemoryHub(rewindable=True) can go back in time; lose=True forgets"
            )
        since = self.clock() - seconds
        while self._changes and self._changes[-1][0] > since:
            _, changed, key, before = self._changes.pop()
            if before is _ABSENT:
                changed.pop(key, None)
            else:
                changed[key] = before
        self._due.clear()
        for channel, history in self.histories.items():
            self._look_at(channel, history, history.due_at)
        self._sweep_in_time()

    def drop_node(self, node: str) -> None:
        """Forget what a node has in any table."""
        for name, table in tuple(self.tables.items()):
            if node not in table:
                continue
            self.note(self.tables, name)
            del table[node]
            if not table:
                del self.tables[name]


def _swept(hub: weakref.ref[MemoryHub]) -> None:
    found = hub()
    if found is not None:
        found._timer = None  # its own timer
        found.sweep()
        found._sweep_in_time()  # see above
