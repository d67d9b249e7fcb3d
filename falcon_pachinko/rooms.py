"""Who is in which room: indexes that cost what they touch, never what exists."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, insort
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

from falcon_pachinko.errors import RoomNameError
from falcon_pachinko.limits import HistoryLimits

__all__ = [
    "MAX_NAME_BYTES",
    "Index",
    "OptionsByPrefix",
    "RoomOptions",
    "SortedNames",
    "check_room_name",
]

MAX_NAME_BYTES = 200
"""How long a room's name may be, in UTF-8 (DESIGN: names are opaque text)."""

_NOBODY: frozenset[object] = frozenset()

T = TypeVar("T")


def check_room_name(name: str) -> None:
    """Refuse what cannot name a room.

    Raises:
        RoomNameError: Not a str, empty, without a UTF-8 form, or over 200 bytes.
    """
    if not isinstance(name, str):
        raise RoomNameError(name, f"it is a {type(name).__name__}, not a str")
    if not name:
        raise RoomNameError(name, "it is empty")
    if name.isascii() and len(name) <= MAX_NAME_BYTES:
        return
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise RoomNameError(name, "it has a lone surrogate, which has no UTF-8 form") from None
    if size > MAX_NAME_BYTES:
        raise RoomNameError(name, f"it has {size} bytes in UTF-8, {MAX_NAME_BYTES} are allowed")


class SortedNames:
    """A sorted set of names: adding, removing and finding a prefix all cost O(√n) at worst.

    The names lie in buckets of bounded size, each bucket sorted and all of them
    in order, so that a change moves one bucket's tail and never the whole list.

    >>> names = SortedNames()
    >>> for name in ("chat:b", "game:a", "chat:a"):
    ...     names.add(name)
    >>> list(names.with_prefix("chat:"))
    ['chat:a', 'chat:b']
    """

    __slots__ = ("_buckets", "_firsts")

    BUCKET = 512

    def __init__(self) -> None:
        self._buckets: list[list[str]] = []
        self._firsts: list[str] = []  # the first name of each bucket: where to look for a name

    def add(self, name: str) -> None:
        """Add a name that is not here yet."""
        if not self._buckets:
            self._buckets.append([name])
            self._firsts.append(name)
            return
        at = self._bucket_of(name)
        bucket = self._buckets[at]
        insort(bucket, name)
        self._firsts[at] = bucket[0]
        if len(bucket) > 2 * self.BUCKET:
            tail = bucket[self.BUCKET :]
            del bucket[self.BUCKET :]
            self._buckets.insert(at + 1, tail)
            self._firsts.insert(at + 1, tail[0])

    def remove(self, name: str) -> None:
        """Remove a name that is here."""
        at = self._bucket_of(name)
        bucket = self._buckets[at]
        del bucket[bisect_left(bucket, name)]
        if bucket:
            self._firsts[at] = bucket[0]
        else:
            del self._buckets[at], self._firsts[at]

    def with_prefix(self, prefix: str) -> Iterator[str]:
        """Yield the names that start with a plain string, in order."""
        if not self._buckets:
            return
        at = self._bucket_of(prefix)
        start = bisect_left(self._buckets[at], prefix)
        for bucket in self._buckets[at:]:
            for name in bucket[start:]:
                if not name.startswith(prefix):
                    return
                yield name
            start = 0

    def _bucket_of(self, name: str) -> int:
        at = bisect_left(self._firsts, name)
        if at < len(self._firsts) and self._firsts[at] == name:
            return at
        return max(at - 1, 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoomOptions:
    """What rooms do besides passing messages on; see ``manager.configure_rooms``."""

    resync: bool = False
    history: HistoryLimits | None = None
    presence_grace: float = 3.0


class OptionsByPrefix:
    """The options of rooms, by what their names begin with; the longest prefix counts.

    >>> options = OptionsByPrefix()
    >>> options.put("chat:", RoomOptions(resync=True))
    >>> options.of("chat:tea").resync, options.of("game:1").resync
    (True, False)
    """

    __slots__ = ("_by_prefix",)

    NONE = RoomOptions()

    def __init__(self) -> None:
        self._by_prefix: dict[str, RoomOptions] = {}

    def __bool__(self) -> bool:
        return bool(self._by_prefix)

    def put(self, prefix: str, options: RoomOptions) -> None:
        """Set the options of rooms whose names begin with a plain string."""
        self._by_prefix[prefix] = options
        longest_first = sorted(self._by_prefix.items(), key=lambda each: -len(each[0]))
        self._by_prefix = dict(longest_first)

    def of(self, room: str) -> RoomOptions:
        """Return a room's options."""
        for prefix, options in self._by_prefix.items():
            if room.startswith(prefix):
                return options
        return self.NONE


class Index(Generic[T]):
    """Names and their members; a name lives as long as it has one.

    What a member is in, the member itself remembers: so leaving all of its
    rooms costs as many steps as it has rooms, however many there are.
    """

    __slots__ = ("_members", "_names")

    def __init__(self) -> None:
        self._members: dict[str, set[T]] = {}
        self._names = SortedNames()

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def add(self, name: str, member: T) -> bool:
        """Put a member under a name; say whether it is the first. Once more changes nothing."""
        members = self._members.get(name)
        if members is None:
            self._members[name] = {member}
            self._names.add(name)
            return True
        members.add(member)
        return False

    def discard(self, name: str, member: T) -> bool:
        """Take a member from a name, and the name away with its last; say whether it was."""
        members = self._members.get(name)
        if members is None:
            return False
        members.discard(member)
        if members:
            return False
        del self._members[name]
        self._names.remove(name)
        return True

    def members(self, name: str) -> AbstractSet[T]:
        """Return who is under a name, as a live view: copy it before anything may change."""
        return self._members.get(name, _NOBODY)  # type: ignore[arg-type]  # nobody fits any T

    def names(self, prefix: str = "") -> list[str]:
        """Return the names that start with a plain string, sorted."""
        return list(self._names.with_prefix(prefix))
