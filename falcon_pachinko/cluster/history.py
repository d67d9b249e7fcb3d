"""Who gets which message of a room that remembers: decided here, sent by `history_shell`.

Pure: no clock, no task, no backend. What the backend has kept and what arrives goes
in; who gets what comes out. Each member sees every message once and in order: first
its past, as the backend has it, then what arrived while that was sent, then what is
live. And none sees a message of another epoch than it was told of last: where one
arrives, the room is read first, and only what is read says which epoch is on.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Generic, NamedTuple

from falcon_pachinko.backends.base import HistoryPosition, Past
from falcon_pachinko.cluster.member import M, Member
from falcon_pachinko.cluster.parcels import Broadcast, ParcelPackets, decode, is_object
from falcon_pachinko.errors import EncodeError
from falcon_pachinko.limits import bound
from falcon_pachinko.messages.codec import Packet

__all__ = [
    "KEY",
    "Placed",
    "Replay",
    "Returning",
    "RoomHistory",
    "Verdict",
    "opened",
    "packet_for",
    "place",
]

KEY = "history"
"""The field of a message that tells a client its place."""

MOST_ENDED = 16
"""How many ended epochs of a room are remembered; messages of older ones would come very late."""


class Verdict(enum.Enum):
    """What a message is to a room, by its place."""

    NEWS = "news"
    """It comes next."""
    KNOWN = "known"
    """It was delivered."""
    ENDED = "ended"
    """It is of an epoch that has ended: nobody gets it any more with that place."""
    FOREIGN = "foreign"
    """It is of an epoch that nobody here was told of: the room has to be read first."""


class Placed(NamedTuple):
    """A message with its place."""

    position: HistoryPosition
    packets: ParcelPackets


class Replay(NamedTuple):
    """What a member gets first."""

    state: dict[str, Any]
    """Where it stands: the payload of ``history.state``."""
    entries: Sequence[Placed]
    """What it missed, oldest first."""
    position: HistoryPosition | None
    """Up to where that goes; None if the backend could not be asked."""


class Returning:
    """What arrives for a member that still gets its past."""

    __slots__ = ("held", "size", "stale")

    def __init__(self) -> None:
        self.held: list[Placed] = []  # in the order of arrival; empty once it was too much
        self.size = 0  # the bytes of all that was held, as this member's codec writes it
        self.stale = False
        # Whether what arrives does not follow what was read: its past has to be read again.

    def restart(self) -> None:
        """Begin again: what was held so far is in what is read from now on."""
        self.held, self.size, self.stale = [], 0, False

    def hold(self, placed: Placed, size: int, budget: float) -> bool:
        """Have a message follow the past; False if the member is too slow for what arrives."""
        self.size += size
        if self.size > budget:
            self.held.clear()
            return False
        self.held.append(placed)
        return True


class Routed(NamedTuple, Generic[M]):
    """Who gets a message now, and who takes its past too slowly to get it later."""

    live: list[M]
    too_slow: list[M]


class RoomHistory(Generic[M]):
    """One room with a history, on one process, for as long as it has members there.

    Example::

        room = RoomHistory("chat:tea")
        if room.is_news(placed.position):
            live, too_slow = room.route(members, placed)
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch: str | None = None
        # The one that all members know who are not returning; None while none knows any.
        self.last: HistoryPosition | None = None
        # What was delivered here last, to all who are neither returning nor above it by their
        # floor; None while nothing was. It is of this epoch, and only grows within it.
        self.uncertain = ""
        # The epoch in which members were last told that they may lack something; empty if none.
        self.ended: dict[str, None] = {}
        # The epochs that were on once, or that what was read told to be over; MOST_ENDED of
        # them at most, and never the one that is on.
        self.returning: dict[M, Returning] = {}
        # The members that are getting their past right now. Only members are in here.
        self.floors: dict[M, HistoryPosition] = {}
        # Up to where a member has everything from its past; until the first message above
        # it. Only members are in here: whoever leaves is taken out, and who has left while a
        # past was read never gets in.

    def judge(self, position: HistoryPosition) -> Verdict:
        """Tell what a message at a place is here."""
        if position.epoch in self.ended:
            return Verdict.ENDED
        if self.epoch is not None and position.epoch != self.epoch:
            return Verdict.FOREIGN
        if self.last is not None and position.offset <= self.last.offset:
            return Verdict.KNOWN
        return Verdict.NEWS

    def accept(self, position: HistoryPosition) -> None:
        """Note that news are delivered."""
        self.epoch, self.last = position.epoch, position

    def end(self, epochs: Iterable[str]) -> None:
        """Remember that epochs are over, but for the one that is on."""
        for epoch in epochs:
            if epoch != self.epoch:
                self.ended[epoch] = None
        while len(self.ended) > MOST_ENDED:
            del self.ended[next(iter(self.ended))]

    def _read_again(self) -> None:
        for returning in self.returning.values():
            returning.stale = True

    def route(self, chosen: Collection[M], placed: Placed) -> Routed[M]:
        """Choose who of those whom a message is for gets it now.

        Not those who have it from their past, and not those who get it after theirs: for
        them it is held.
        """
        if not self.returning and not self.floors:
            return Routed(list(chosen), [])
        live: list[M] = []
        too_slow: list[M] = []
        for member in chosen:
            if member in self.returning:
                packet = packet_for(placed, member)
                if packet is not None and not member.closed:
                    budget = bound(member.limits.outbox_bytes)
                    if not self.returning[member].hold(placed, packet.size, budget):
                        too_slow.append(member)
                continue
            floor = self.floors.get(member)
            if floor is None or is_after(placed.position, floor):
                live.append(member)
                self.floors.pop(member, None)
        return Routed(live, too_slow)

    def come_back(self, member: M) -> Returning:
        """Note that a member gets its past now; what is live for it is held meanwhile."""
        returning = self.returning[member] = Returning()
        return returning

    def is_returning(self, member: M, returning: Returning) -> bool:
        """Whether a member is still here, and comes back by this very `come_back`."""
        return self.returning.get(member) is returning

    def replay(self, member: M, past: Past | None, *, certain: bool = False) -> Replay:
        """Return what a member of the room gets first, and note that it has it.

        Args:
            member: The member; one that has left must not be given.
            past: What the backend has for it; None if the backend is away.
            certain: Whether it has had all that came before this past.
        """
        state: dict[str, Any] = {"room": self.name, "recovered": False}
        if past is None:
            return Replay(state, (), None)
        entries = place_all(self.name, past)
        floor, recovered = self.floors.get(member), past.complete or certain
        oldest = past.entries[0].offset if past.entries else past.position.offset
        if (
            floor is not None
            and floor.epoch == past.position.epoch
            and oldest <= floor.offset <= past.position.offset
        ):  # everything after what this process has sent it is there
            recovered = True
            entries = [each for each in entries if is_after(each.position, floor)]
        position = self.floors[member] = past.position
        if self.epoch is None:
            self.epoch = position.epoch
        state |= {"recovered": recovered, "epoch": position.epoch}
        state |= {"offset": position.offset, "messages": len(entries)}
        return Replay(state, entries, position)

    def caught_up(self, member: M, since: HistoryPosition | None) -> list[Placed]:
        """Note that a member has its past; return what was held and comes after it, once each.

        Args:
            member: The member, whose past is not ``stale``.
            since: Up to where it has everything; None if that is not known.
        """
        returning = self.returning.pop(member, None)
        held = returning.held if returning is not None else []
        if since is None:
            return held
        # What was held of an epoch that has ended by now is not part of this history.
        return [
            each
            for each in held
            if each.position.epoch == since.epoch and is_after(each.position, since)
        ]

    def begin_anew(self, past: Past, *, certain: bool = False, unkept: bool = False) -> None:
        """Go on from what is kept, since nobody can tell what members missed before it.

        All members need a `replay` of it; of those that are getting their past, it is
        read again.

        Args:
            past: All that is kept.
            certain: Whether members miss nothing that is not in it.
            unkept: Whether they miss something that is not in it, whatever they have of it.
        """
        if unkept:
            self.floors.clear()
        if not certain:
            self.uncertain = past.position.epoch
        before, self.epoch, self.last = self.epoch, past.position.epoch, past.position
        self.ended.pop(self.epoch, None)
        if before is not None:
            self.end((before,))
        self._read_again()

    def lose_track(self) -> None:
        """Go on from what arrives next, since what is kept cannot be read.

        All members need a `replay` of None.
        """
        self.epoch = self.last = None
        self.floors.clear()
        self._read_again()

    def leave(self, member: M) -> None:
        """Forget a member that is not in the room any more; once more changes nothing."""
        self.returning.pop(member, None)
        self.floors.pop(member, None)

    def known_by_all(self, members: Collection[M]) -> HistoryPosition:
        """Return up to where every member has everything; ``HistoryPosition()`` if unknown."""
        if self.last is not None:
            return self.last
        floors = [self.floors.get(each) for each in members if each not in self.returning]
        known = [each for each in floors if each is not None]
        if len(known) < len(floors) or len({each.epoch for each in known}) != 1:
            return HistoryPosition()
        return min(known, key=lambda each: each.offset)


def place(room: str, parcel: Broadcast, position: HistoryPosition) -> Placed:
    """Give a message its place, as its clients see it."""
    told = {"room": room, "epoch": position.epoch, "offset": position.offset}
    return Placed(position, ParcelPackets(parcel, {KEY: told}))


def place_all(room: str, past: Past) -> list[Placed]:
    """Give everything that is kept its place, oldest first."""
    return [place(room, parcel, position) for _, parcel, position in opened(past)]


def opened(past: Past) -> list[tuple[str, Broadcast, HistoryPosition]]:
    """Open what the backend has kept: sender, message and place; other bytes are left out."""
    found = ((decode(data) or ("", None), offset) for offset, data in past.entries)
    return [
        (node, parcel, HistoryPosition(past.position.epoch, offset))
        for (node, parcel), offset in found
        if isinstance(parcel, Broadcast) and is_object(parcel)
    ]


def packet_for(placed: Placed, member: Member) -> Packet | None:
    """Write a message as a member's codec does; None if the codec has no form of it."""
    try:
        return placed.packets[member._codec]
    except EncodeError:
        return None


def is_after(position: HistoryPosition, other: HistoryPosition) -> bool:
    """Whether a place comes after another one; in another epoch it always does."""
    return position.epoch != other.epoch or position.offset > other.offset
