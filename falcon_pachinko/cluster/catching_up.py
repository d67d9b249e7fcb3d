"""Rooms that have to be read anew, and what arrives for them meanwhile.

After an outage that may be all of a process's rooms at once. They are read in the
background, many at a time, and nobody who listens waits for that: what arrives for such
a room is held, in order, until the room is read. A room that somebody sends to comes
first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, NamedTuple

from falcon_pachinko.backends.base import HistoryPosition
from falcon_pachinko.cluster.parcels import Broadcast

__all__ = ["READS_AT_ONCE", "Arrived", "CatchingUp", "Held"]

log = logging.getLogger("falcon_pachinko.history")

READS_AT_ONCE = 64
"""How many rooms are read at once: enough that the server is never idle for want of a question."""

HELD_BYTES = 4 * 1_048_576
"""How much may be held for one room; more is read again from what is kept."""


class Arrived(NamedTuple):
    """A message that arrived for a room while that was read."""

    node: str
    parcel: Broadcast
    position: HistoryPosition


class Held:
    """What arrived for one room since it has to be read."""

    def __init__(self) -> None:
        self.messages: list[Arrived] = []  # in the order of arrival
        self.before = 0
        # How many of them had arrived when the room was asked for last. Those of another epoch
        # than the answer's are over; of those behind them, that is not known.
        self.again = False
        # Whether something was missed since the room was asked for last.
        self.missed = False  # whether anything was, or only the epoch is another one
        self.unkept = False  # whether that is not in what is kept either
        self._size = 0

    def ask(self) -> None:
        """Note that the room is asked for now: that tells of all that was missed before."""
        self.before, self.again = len(self.messages), False

    def add(self, arrived: Arrived) -> None:
        """Hold a message, or, where that is too much, have it read from what is kept."""
        parcel = arrived.parcel
        self._size += len(parcel.data or b"") + len(parcel.text or "")
        if self._size > HELD_BYTES:
            self.messages.clear()
            self._size, self.before, self.again = 0, 0, True
        else:
            self.messages.append(arrived)

    def take(self) -> list[Arrived]:
        """Return what is held; nothing is, from now on."""
        taken, self.messages = self.messages, []
        self._size = self.before = 0
        return taken

    def put_back(self, arrived: list[Arrived]) -> None:
        """Hold messages again, before those that have come since."""
        later = self.take()
        for each in (*arrived, *later):
            self.add(each)


class CatchingUp:
    """Reads rooms, `READS_AT_ONCE` of them at a time.

    Args:
        read: Reads one room, and returns when that is done, or given up for now.
        spawn: Runs a coroutine in a task of its own, whose end is waited for.
    """

    def __init__(
        self,
        read: Callable[[str], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._read, self._spawn = read, spawn
        self._rooms: OrderedDict[str, None] = OrderedDict()  # those that no reader has taken yet
        self._read_now: dict[str, bool] = {}
        # Those that a reader has taken, and whether they were wanted again since. Never read
        # twice at a time: what the slower of two reads tells is older than what members have.
        self._readers: set[asyncio.Task[None]] = set()
        # At most READS_AT_ONCE, and one at least while there are rooms; each ends when it finds
        # none.

    def want(self, room: str) -> None:
        """Have a room read; one that waits for that already keeps its place.

        One that is read right now is read once more after that.
        """
        if room in self._read_now:
            self._read_now[room] = True
            return
        self._rooms.setdefault(room)
        if len(self._readers) < READS_AT_ONCE:
            # In a context of its own: it outlives whatever has noticed that.
            reader = Context().run(self._spawn, self._run())
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)

    def hurry(self, room: str) -> None:
        """Have a room be the next that is read, if it waits for that."""
        if room in self._rooms:
            self._rooms.move_to_end(room, last=False)

    async def _run(self) -> None:
        while self._rooms:
            room, _ = self._rooms.popitem(last=False)
            self._read_now[room] = False
            try:
                await self._read(room)
            except Exception:
                log.exception("could not read %.200r anew", room)
            finally:
                if self._read_now.pop(room):
                    self._rooms.setdefault(room)
