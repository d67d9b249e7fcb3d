"""Who is in which room: indexes that cost what they touch, never what exists."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

from falcon_pachinko.names import check_text

__all__ = [
    "Index",
    "SortedNames",
]

_NOBODY: frozenset[object] = frozenset()

T = TypeVar("T")


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
        """Return the names that start with a plain string, sorted.

        Raises:
            TypeError: The prefix is not a str.
        """
        check_text(prefix, "prefix")
        return list(self._names.with_prefix(prefix))
