"""What the backend's tables have to be told of this process's presence, and in which order.

Pure: no task, no backend. `presence_tables` asks for one write after the other, many of
them at a time, and says how each has ended. Of one room there is one write at a time, so
that none overtakes another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from falcon_pachinko.cluster.room_roster import Entry

__all__ = ["Ledger", "Write"]

_encode = msgspec.msgpack.Encoder().encode


class Write(NamedTuple):
    """What is to be written of a room: entries by connection id, and ids to take out."""

    room: str
    joins: dict[str, bytes]
    leaves: tuple[str, ...]
    whole: bool = False
    """Whether the joins are all that this process has there: whatever else the backend may
    know of it there is wrong."""


class Ledger:
    """What is written, and what is still to be written.

    Args:
        own: Returns what this process has in a room, by connection id.

    Example::

        ledger.changed("tea", connection_id, present=True)
        while (write := ledger.next()) is not None:
            ...  # write it
            ledger.wrote(write)  # or ledger.failed(write)
    """

    def __init__(self, own: Callable[[str], Mapping[str, Entry]]) -> None:
        self._own = own
        self.enabled = False
        """Whether there is a backend to write to."""
        self.doubtful = False
        """Whether the backend may have entries of this process in rooms that it has not written
        lately: then all that it has is written, where it writes at all."""
        self._wrote_any = False  # whether the backend may have entries of this process at all
        self.stored: dict[str, set[str]] = {}
        """By room, the connections whose entries the backend may have; none is empty."""
        self._unwritten: dict[str, set[str]] = {}
        # By room, the connections whose entries the backend has to be told of; none is
        # empty, and each is present or in `stored`: of others there is nothing to tell.
        self._anew: set[str] = set()  # rooms of which all is to be written, in place of what is
        # there. A room is due if it is in one of these two.
        self._queue: dict[str, None] = {}  # exactly the rooms that are due, and in neither of
        self._underway: set[str] = set()  # those that are being written, and
        self._resting: set[str] = set()  # those that failed, which are due, until `retry`
        self._urgent: dict[str, None] = {}  # rooms that are written first; all are due

    def begin(self) -> None:
        """Note that there is a backend from now on."""
        self.enabled = True

    def changed(self, room: str, connection_id: str, *, present: bool) -> None:
        """Note that an entry changed; one that comes and goes between two writes is nothing."""
        if not self.enabled:
            return
        if present and self.doubtful and room not in self.stored:
            self._anew.add(room)
        if present or connection_id in self.stored.get(room, ()):
            self._unwritten.setdefault(room, set()).add(connection_id)
        else:
            unwritten = self._unwritten.get(room, set())
            unwritten.discard(connection_id)
            if not unwritten:
                self._unwritten.pop(room, None)
        self._place(room)

    def hurry(self, room: str) -> None:
        """Have a room be written before others, also if it failed a moment ago."""
        if self._is_due(room):
            self._urgent[room] = None
            self._resting.discard(room)
            self._place(room)

    def write_anew(self, rooms: Iterable[str]) -> None:
        """Have all of this process replaced, in some rooms and in those that it had written.

        The backend may have forgotten it, or know what is not so any more.
        """
        if self.enabled:
            # What was never written is not brought back by a server that goes back in time.
            self.doubtful = self._wrote_any
            self.retry()
            for room in dict.fromkeys((*rooms, *self.stored)):
                self._anew.add(room)
                self._place(room)

    def take_out(self, tables: Iterable[str]) -> None:
        """Have what the backend knows of this process taken out where there is nothing of it."""
        for room in tables:
            if room not in self.stored and not self._own(room):
                self._anew.add(room)
                self._place(room)

    def ready(self, *, urgent: bool = False) -> int:
        """Return for how many rooms there is something to write now; maybe only urgent ones."""
        return sum(room in self._queue for room in self._urgent) if urgent else len(self._queue)

    @property
    def underway(self) -> int:
        """How many rooms are being written."""
        return len(self._underway)

    def next(self, *, urgent: bool = False) -> Write | None:
        """Return what to write next, rooms with somebody new first; None if there is nothing.

        Until `wrote` or `failed` the backend may have it, or not.

        Args:
            urgent: Only rooms with somebody new.
        """
        first = next((each for each in self._urgent if each in self._queue), None)
        room = next(iter(self._queue), None) if first is None and not urgent else first
        if room is None:
            return None
        whole, own = room in self._anew, self._own(room)
        changed = self._unwritten.pop(room, set())
        self._anew.discard(room)
        self._urgent.pop(room, None)
        del self._queue[room]
        self._underway.add(room)
        joins = {
            each: _encode(own[each]) for each in sorted(own if whole else changed & own.keys())
        }
        if joins:
            self._wrote_any = True
            self.stored.setdefault(room, set()).update(joins)
        return Write(room, joins, tuple(sorted(changed - own.keys())), whole)

    def wrote(self, write: Write) -> None:
        """Note that the backend has it."""
        stored = self.stored.pop(write.room, set())
        stored = set(write.joins) if write.whole else stored.difference(write.leaves)
        if stored:
            self.stored[write.room] = stored
        self._underway.discard(write.room)
        self._place(write.room)

    def failed(self, write: Write) -> None:
        """Note that the backend may not have it: it is to be written again, after `retry`."""
        room, own = write.room, self._own(write.room)
        self._underway.discard(room)
        self._resting.add(room)
        if write.whole:
            self._anew.add(room)
        for connection_id in (*write.joins, *write.leaves):
            self.changed(room, connection_id, present=connection_id in own)
        self._place(room)

    def retry(self) -> None:
        """Have what failed be written again."""
        resting, self._resting = self._resting, set()
        for room in sorted(resting):
            self._place(room)

    def _is_due(self, room: str) -> bool:
        return room in self._unwritten or room in self._anew

    def _place(self, room: str) -> None:
        """Have a room be where it belongs."""
        if not self._is_due(room):
            self._urgent.pop(room, None)
            self._resting.discard(room)
            self._queue.pop(room, None)
        elif room not in self._underway and room not in self._resting:
            self._queue.setdefault(room)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is written, or to be written."""
        kept = (self.stored, self._unwritten, self._anew, self._queue, self._urgent)
        return not any(kept) and not self._underway and not self._resting
