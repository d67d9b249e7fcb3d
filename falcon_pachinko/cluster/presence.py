"""Who is present where, as one process knows it: changes go in, messages and writes come out.

Pure: no task, no backend, and the time comes from outside. `presence_shell` reads and
writes the backend's tables, and sends what `Roster.news_of` returns.

Each process writes what its own connections track into the backend's tables, and
tells the others with a diff. For a room in which somebody here is present, it keeps
what all processes have there (`RoomRoster`): from that members are told.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, NamedTuple

from falcon_pachinko.cluster.member import M
from falcon_pachinko.cluster.presence_ledger import Ledger
from falcon_pachinko.cluster.room_roster import Change, Entry, RoomRoster, Table
from falcon_pachinko.names import stranger_key

__all__ = ["COUNT_SECONDS", "DIFF_SECONDS", "NO_LIMIT", "Roster"]

DIFF_SECONDS = 0.05
"""Seconds within which changes of a room become one diff."""

COUNT_SECONDS = 1.0
"""Seconds between two counts, in a room that has too many for names."""

NO_LIMIT = 2**63
"""A number of keys that no room has."""


class _Own(NamedTuple):
    """What a connection of this process tracks in a room; one of the two is there at least."""

    entry: Entry | None
    """What it is present with: in the room's roster, and written. None before that."""
    wanted: Entry | None
    """What it will be present with, once the room is read. None when it is."""


class Roster(Generic[M]):
    """Who is present in which rooms, as far as this process is concerned.

    Args:
        node: This process's name; it is another one at each start.
        limit: Returns for a room above how many keys members are told only their number.

    Example::

        roster.track(member, "tea", entry)
        ...  # the room is read, and its diffs arrive
        if roster.tracks(member, "tea", entry):
            roster.announce(member, "tea")
        for recipients, message in roster.news_of("tea", now):
            send(recipients, message)
    """

    def __init__(self, node: str = "", limit: Callable[[str], int] = lambda _: NO_LIMIT) -> None:
        self.node, self._limit = node, limit
        self.rooms: dict[str, RoomRoster[M]] = {}
        # Only rooms in which somebody here tracks: it goes with the last of them.
        self.news: set[str] = set()  # rooms whose members here may have to be told something
        self._own: dict[str, dict[str, _Own]] = {}  # by room and connection id; none is empty
        self._rooms_of: dict[str, set[str]] = {}  # the same, by connection id; none is empty
        self._leaving: dict[tuple[str, str], dict[str, float]] = {}
        # By room and key, the connections that have gone and stay present until a moment;
        # all of them are in _own.
        self._deadlines: list[tuple[float, str, str, str]] = []
        # A heap of those moments, with room, "" and connection id; and of those at which what
        # other processes left behind goes, with their names. What is not in _leaving, or
        # `RoomRoster.staying`, with the same moment any more is void.
        self.dropped: set[str] = set()
        # Rooms in which nobody here tracks any more, until `take_dropped`.
        self.ledger = Ledger(self._announced)
        """What the backend's tables have to be told."""

    def begin(self, node: str) -> None:
        """Be a process of that name, with a backend to write to."""
        before, self.node = self.node, node
        self.ledger.begin()
        for room, own in self._own.items():
            known = self.rooms[room]
            known.forget(before)
            for connection_id, tracked in own.items():
                known.put((node, connection_id), tracked.entry)
                self._to_be_written(room, connection_id)

    def _announced(self, room: str) -> Mapping[str, Entry]:
        """Return what connections of this process are present with in a room, by their ids."""
        known = self.rooms.get(room)
        return known.entries.get(self.node, {}) if known is not None else {}

    def _to_be_written(self, room: str, connection_id: str) -> None:
        present = connection_id in self._announced(room)
        self.ledger.changed(room, connection_id, present=present)

    # What connections of this process do.

    @property
    def own_rooms(self) -> Collection[str]:
        """The rooms in which this process has entries."""
        return [room for room in self._own if self._announced(room)]

    def is_tracking(self, connection_id: str) -> bool:
        """Whether a connection tracks anywhere, or its user is kept present for it."""
        return connection_id in self._rooms_of

    def track(self, member: M, room: str, entry: Entry) -> None:
        """Note that a member of a room wants to be present there, or changes its meta."""
        self._stay(room, member.id)
        before = self._own.get(room, {}).get(member.id, _Own(None, None))
        self._own.setdefault(room, {})[member.id] = before._replace(wanted=entry)
        self._rooms_of.setdefault(member.id, set()).add(room)
        if room not in self.rooms:
            self.rooms[room] = RoomRoster()

    def tracks(self, member: M, room: str, entry: Entry) -> bool:
        """Whether a member still waits to be present with that: it is here, and asked no more."""
        own = self._own.get(room, {}).get(member.id)
        return own is not None and own.wanted is entry and room in member._rooms

    def announce(self, member: M, room: str) -> None:
        """Make a member that waits present, from now on, in the place of its former self."""
        own = self._own[room][member.id]
        entry = own.wanted or own.entry
        assert entry is not None
        for gone in tuple(self._leaving.get((room, entry.key), ())):
            self._remove(room, gone)  # it came back within the grace
        self._own[room][member.id] = _Own(entry, None)
        known = self.rooms[room]
        known.put((self.node, member.id), entry)
        if member not in known.members:
            known.members.add(member)
            known.newcomers[member] = None
        self.news.add(room)
        self._to_be_written(room, member.id)
        self.ledger.hurry(room)

    def withdraw(self, member: M, room: str, entry: Entry) -> None:
        """Undo a `track` that was not announced; what it is present with by now stays."""
        own = self._own.get(room, {}).get(member.id)
        if own is None or own.wanted is not entry:
            return
        if own.entry is None:
            self._remove(room, member.id)
        else:
            self._own[room][member.id] = _Own(own.entry, None)

    def untrack(self, member: M, room: str) -> None:
        """Make a member absent at once; one that does not track there is ignored."""
        if room in self._rooms_of.get(member.id, ()):
            self._forget_member(member, room)
            self._remove(room, member.id)

    def gone(self, member: M, now: float, grace: Callable[[str], float]) -> None:
        """Note that a connection ended: its user stays present for a while, a stranger does not.

        Args:
            member: The connection.
            now: The time, in seconds.
            grace: Returns for a room how many seconds users stay.
        """
        for room in tuple(self._rooms_of.get(member.id, ())):
            self._forget_member(member, room)
            entry = self._own[room][member.id].entry
            stays = entry is not None and entry.key != stranger_key(member.id)
            seconds = grace(room) if stays else 0.0
            if entry is None or seconds <= 0:
                self._remove(room, member.id)
                continue
            self._own[room][member.id] = _Own(entry, None)
            leaving = self._leaving.setdefault((room, entry.key), {})
            if member.id not in leaving:
                leaving[member.id] = now + seconds
                heapq.heappush(self._deadlines, (now + seconds, room, "", member.id))

    def next_deadline(self) -> float | None:
        """Return when `expire` has something to do at the earliest."""
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> None:
        """Make those absent whose time to come back is over."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, room, node, connection_id = heapq.heappop(self._deadlines)
            if node:
                known, place = self.rooms.get(room), (node, connection_id)
                if known is not None and known.staying.get(place) == deadline:
                    known.put(place, None)
                    self.news.add(room)
                continue
            leaving = self._leaving_of(room, connection_id)
            if leaving is not None and leaving[1].get(connection_id) == deadline:
                self._remove(room, connection_id)

    def _forget_member(self, member: M, room: str) -> None:
        known = self.rooms.get(room)
        if known is not None:
            known.members.discard(member)
            known.newcomers.pop(member, None)

    def _leaving_of(
        self, room: str, connection_id: str
    ) -> tuple[tuple[str, str], dict[str, float]] | None:
        """Return those that leave under a connection's key, and where they are in _leaving."""
        own = self._own.get(room, {}).get(connection_id)
        if own is None or own.entry is None:
            return None
        where = room, own.entry.key
        return (where, self._leaving[where]) if where in self._leaving else None

    def _stay(self, room: str, connection_id: str) -> None:
        """Have a connection not leave when its grace is over."""
        leaving = self._leaving_of(room, connection_id)
        if leaving is not None:
            leaving[1].pop(connection_id, None)
            if not leaving[1]:
                del self._leaving[leaving[0]]

    def _remove(self, room: str, connection_id: str) -> None:
        self._stay(room, connection_id)
        own = self._own[room]
        del own[connection_id]
        rooms = self._rooms_of[connection_id]
        rooms.discard(room)
        if not rooms:
            del self._rooms_of[connection_id]
        if own:
            self.rooms[room].put((self.node, connection_id), None)
            self.news.add(room)
        else:
            del self._own[room]
            self.rooms.pop(room, None)
            self.news.discard(room)
            self.dropped.add(room)
        self._to_be_written(room, connection_id)

    def take_dropped(self) -> list[str]:
        """Return the rooms in which the last one here has stopped tracking since the last call."""
        dropped, self.dropped = self.dropped, set()
        return sorted(dropped - self.rooms.keys()) if dropped else []

    def last_words(
        self, now: float, grace: Callable[[str], float]
    ) -> list[tuple[str, tuple[str, ...], dict[str, float]]]:
        """Return what the others are to be told when this process ends in good order.

        By room, the connections that leave with it; and of those whose users may come back
        on another process, for how many seconds the others keep them present.
        """
        words = []
        for room, stored in self.ledger.stored.items():
            stays: dict[str, float] = {}
            for connection_id, entry in self._announced(room).items():
                leaving = self._leaving.get((room, entry.key), {})
                if connection_id in leaving:
                    seconds = leaving[connection_id] - now
                else:  # it goes only now
                    seconds = grace(room) if entry.key != stranger_key(connection_id) else 0.0
                if seconds > 0:
                    stays[connection_id] = seconds
            words.append((room, tuple(sorted(stored)), stays))
        return words

    # What other processes have.

    def apply(self, room: str, change: Change) -> None:
        """Apply what another process changed; after the reading, while a room is read."""
        known = self.rooms.get(room)
        if known is None:
            return
        if known.waiting is not None:
            known.waiting.append(change)
            return
        self._apply(room, known, change)
        self.news.add(room)

    def _apply(self, room: str, known: RoomRoster[M], change: Change) -> None:
        known.apply(change)
        for connection_id in change.until:
            deadline = known.staying.get((change.node, connection_id))
            if deadline is not None:
                heapq.heappush(self._deadlines, (deadline, room, change.node, connection_id))

    def begin_reading(self, known: RoomRoster[M]) -> None:
        """Have diffs wait, and members be told nothing, while a room's table is read."""
        known.waiting = []

    def end_reading(
        self, room: str, known: RoomRoster[M], table: Table | None, *, patient: bool
    ) -> None:
        """Take over what was read (None: it could not be), then the diffs that came meanwhile."""
        waiting, known.waiting, known.was_read = known.waiting, None, True
        if table is not None:
            known.take_over(table, self.node, patient=patient)
        for change in waiting or ():
            self._apply(room, known, change)
        if self.rooms.get(room) is known and (known.changed or known.newcomers):
            self.news.add(room)

    def nodes(self) -> set[str]:
        """Return the processes that have entries in rooms known here."""
        return {node for known in self.rooms.values() for node in known.entries}

    def forget_nodes(self, dead: Collection[str]) -> None:
        """Remove the entries of processes that have died."""
        for room, known in self.rooms.items() if dead else ():
            for node in dead:
                known.forget(node)
            if known.changed:
                self.news.add(room)

    # What members are told.

    def due(self, room: str) -> float | None:
        """Return from when on members may be told of a room's news; None if there are none now."""
        known = self.rooms.get(room)
        if known is None or known.waiting is not None or room not in self.news:
            return None
        if known.counting and known.newcomers:
            return known.greeted_at + DIFF_SECONDS
        return known.told_at + (COUNT_SECONDS if known.counting else DIFF_SECONDS)

    def news_of(self, room: str, now: float) -> list[tuple[list[M], dict[str, Any]]]:
        """Return what members are to be told of a room, and note that they know.

        Each message with those that get it: members what has changed, newcomers all of it;
        or how many are present, where that is above the limit. Nothing while the room is read.
        """
        known = self.rooms.get(room)
        if known is None or known.waiting is not None:
            return []  # the end of the reading is news again
        self.news.discard(room)
        known.choose_form(self._limit(room))
        newcomers, known.newcomers = known.newcomers, {}
        others = [each for each in known.members if each not in newcomers]
        if known.counting:
            return self._counts(room, known, now, list(newcomers), others)
        change = known.change()
        news: list[tuple[list[M], dict[str, Any]]] = []
        if others and any(change.values()):
            diff = {"type": "presence.diff", "payload": {"room": room, **change}}
            news.append((others, diff))
        if newcomers:
            payload = {"room": room, "present": dict(known.told)}
            news.append((list(newcomers), {"type": "presence.state", "payload": payload}))
        if news:
            known.told_at = now
        return news

    def _counts(
        self, room: str, known: RoomRoster[M], now: float, newcomers: list[M], others: list[M]
    ) -> list[tuple[list[M], dict[str, Any]]]:
        """Return the count for newcomers at once, and for others if it is their time."""
        known.changed.clear()
        count, recipients = len(known.places), newcomers
        if newcomers:
            known.greeted_at = now
        if not others or (count != known.told_count and now >= known.told_at + COUNT_SECONDS):
            known.told_count, known.told_at = count, now
            recipients = newcomers + others
        elif count != known.told_count:
            self.news.add(room)  # their time comes
        message = {"type": "presence.count", "payload": {"room": room, "count": count}}
        return [(recipients, message)] if recipients else []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of any room or connection."""
        kept = (self.rooms, self.news, self._own, self._rooms_of, self._leaving)
        return not any(kept) and self.ledger.is_empty
