"""Who is present in one room: what all processes have there, and what members were told.

Pure: no task, no clock, no backend.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeAlias

import msgspec

from falcon_pachinko.cluster.member import M
from falcon_pachinko.messages.codec import DECODE_ERRORS

__all__ = ["Change", "Entry", "Place", "Present", "RoomRoster", "Table", "read_entry"]

NAMED_AGAIN = 0.8
"""Below which part of the limit a room names again who is present: so it does not go to and fro."""

Present: TypeAlias = dict[str, list[Any]]
"""Who is present: for each key (the user's id, else `stranger_key`) what was given as meta."""

Table: TypeAlias = Mapping[str, Mapping[str, bytes]]
"""A room as the backend knows it: entries by process and connection id."""

Place: TypeAlias = tuple[str, str]
"""Where an entry belongs: process and connection id."""


class Entry(msgspec.Struct, array_like=True):
    """What one connection tracks in one room."""

    key: str
    meta: msgspec.Raw


class Change(NamedTuple):
    """What another process has changed in a room; see `PresenceDiff`."""

    node: str
    joins: Mapping[str, bytes]
    leaves: Collection[str]
    whole: bool = False
    until: Mapping[str, float] = {}
    """Of those that leave, until when their users stay present."""


_place = itemgetter(0)
_decode_entry = msgspec.msgpack.Decoder(Entry).decode


def read_entry(data: bytes) -> Entry | None:
    """Read an entry of another process; None for other bytes, or a meta without a JSON form."""
    try:
        entry = _decode_entry(data)
        msgspec.json.encode(msgspec.msgpack.decode(entry.meta))
    except (*DECODE_ERRORS, ValueError, OverflowError):
        return None
    return entry


class RoomRoster(Generic[M]):
    """Who is present in one room, over all processes, and what its members here were told."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Entry]] = {}
        # By process and connection id; a process without entries is not in here.
        self.places: dict[str, dict[Place, Entry]] = {}
        # Exactly the same entries, by key; a key without entries is not in here.
        self.told: Present = {}
        # What every member that is no newcomer knows: the state it got plus all diffs since.
        self.members: set[M] = set()
        # The connections of this process that are told; all are present here, and none is
        # in here that has left or gone.
        self.newcomers: dict[M, None] = {}  # members that were told nothing yet
        self.changed: set[str] = set()  # keys that may differ from what was told
        self.waiting: list[Change] | None = None
        # The diffs that came while the room is read; None while it is not. Members are told
        # nothing meanwhile.
        self.was_read = False  # whether the backend was asked for it, with or without success
        self.outdated = False  # whether something was missed since it was asked last
        self.staying: dict[Place, float] = {}
        # Until when entries stay whose process has ended and told us so; all are in `entries`.
        # No table has them any more: they go at their time, or when their user is back.
        self.counting = False
        # Whether members are told how many are present, and not who; `told` is empty then.
        self.told_count = 0  # what those that are no newcomers know then
        self.told_at = float("-inf")  # when members were told last,
        self.greeted_at = float("-inf")  # and when newcomers were, while it is counting

    def put(self, place: Place, entry: Entry | None) -> None:
        """Set or remove one entry, and note whom that is about."""
        node, connection_id = place
        self.staying.pop(place, None)
        before = self.entries.get(node, {}).pop(connection_id, None)
        if before is not None:
            self.changed.add(before.key)
            del self.places[before.key][place]
            if not self.places[before.key]:
                del self.places[before.key]
            if not self.entries[node]:
                del self.entries[node]
        if entry is not None:
            self.changed.add(entry.key)
            self.places.setdefault(entry.key, {})[place] = entry
            self.entries.setdefault(node, {})[connection_id] = entry
            if self.staying:
                for other in self.staying.keys() & self.places[entry.key].keys():
                    self.put(other, None)  # its user is back

    def forget(self, node: str) -> None:
        """Remove what a process has here, but for those that stay a while."""
        for connection_id in tuple(self.entries.get(node, ())):
            if (node, connection_id) not in self.staying:
                self.put((node, connection_id), None)

    def apply(self, change: Change) -> None:
        """Apply what a process changed; entries that cannot be read are left out."""
        node, joins, leaves, whole, until = change
        if whole:
            leaves = {*leaves, *self.entries.get(node, {}).keys() - joins.keys()}
        for connection_id in leaves:
            if connection_id in until:
                self._stay((node, connection_id), until[connection_id])
            else:
                self.put((node, connection_id), None)
        for connection_id, data in joins.items():
            entry = read_entry(data)
            if entry is not None:
                self.put((node, connection_id), entry)

    def _stay(self, place: Place, until: float) -> None:
        """Have an entry whose process ends stay, unless its user is present elsewhere already."""
        entry = self.entries.get(place[0], {}).get(place[1])
        if entry is None:
            return
        if self.places[entry.key].keys() <= {place, *self.staying}:
            self.staying[place] = until
        else:
            self.put(place, None)

    def take_over(self, table: Table, own: str, *, patient: bool) -> None:
        """Replace what other processes have here by what the backend knows.

        Args:
            table: What the backend knows.
            own: This process, whose entries it knows better itself.
            patient: Keep the entries of processes that are not in the table at all: after
                an outage they may only be late.
        """
        others = {
            (node, connection_id): entry
            for node, entries in table.items()
            if node != own
            for connection_id, data in entries.items()
            if (entry := read_entry(data)) is not None
        }
        known = {
            (node, connection_id): entry
            for node, entries in self.entries.items()
            if node != own
            for connection_id, entry in entries.items()
        }
        for place in self.staying:  # of these, no table knows better
            known.pop(place, None)
            others.pop(place, None)
        for place in known.keys() - others.keys():
            if not patient or place[0] in table:
                self.put(place, None)
        for place, entry in others.items():
            if known.get(place) != entry:
                self.put(place, entry)

    def metas(self, keys: Iterable[str] | None = None) -> Present:
        """Return what is known of some keys, or of all, in a stable order."""
        return {
            key: [
                msgspec.msgpack.decode(entry.meta)
                for _, entry in sorted(places.items(), key=_place)
            ]
            for key in (self.places if keys is None else keys)
            if (places := self.places.get(key))
        }

    def choose_form(self, limit: int) -> None:
        """Begin to count, or to name those who are present, as their number asks for.

        Where that changes, all members are told all of it, as newcomers are.
        """
        size = len(self.places)
        if size < limit * NAMED_AGAIN if self.counting else size > limit:
            self.counting = not self.counting
            self.told, self.changed = {}, set() if self.counting else set(self.places)
            self.newcomers = dict.fromkeys(self.members)

    def change(self) -> dict[str, Present]:
        """Return what changed since members were told last, by kind; from now on it is told."""
        # In order, so that what members are told does not hang on how Python hashes.
        changed, self.changed = sorted(self.changed), set()
        now = self.metas(changed)
        joins = {key: metas for key, metas in now.items() if key not in self.told}
        updates = {
            key: metas for key, metas in now.items() if key in self.told and metas != self.told[key]
        }
        leaves = {key: self.told.pop(key) for key in changed if key not in now and key in self.told}
        self.told.update(now)
        diff = {"joins": joins, "leaves": leaves}
        return diff | ({"updates": updates} if updates else {})
