"""What the backend asks of Redis, as scripts with their keys and arguments.

All names on the server are made here. They begin with the namespace (see
`RedisAddress.space`), then comes a kind of its own for each purpose, then what the
application says: so no two names meet, whatever rooms are called.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

from falcon_pachinko.backends.base import HistoryPosition
from falcon_pachinko.backends.redis import scripts
from falcon_pachinko.limits import HistoryLimits

__all__ = ["Call", "Calls", "milliseconds"]

BUCKETS = 1024
"""Into how many sets a node's tables are parted: what one call takes out after a node that
died is a few of them, however many tables there are."""


class Call(NamedTuple):
    """A script, with what it is run on."""

    script: str
    keys: tuple[str, ...]
    arguments: tuple[str | bytes, ...]


class Calls:
    """The calls of one node.

    Args:
        space: What every key begins with.
        node: The node's name.
        incarnation: What the epochs of histories hold of the server; may be empty.
        channels: What every channel begins with, if that is not the same as for keys.
    """

    def __init__(
        self, space: str, node: str, incarnation: str, channels: str | None = None
    ) -> None:
        self.space, self.node, self.incarnation = space, node, incarnation
        self._channels = f"{channels or space}:c:".encode()
        self.nodes, self.tokens = f"{space}:nodes", f"{space}:tokens"

    # Channels.

    def channel(self, name: str) -> bytes:
        """Name a channel on the server."""
        return self._channels + name.encode()

    def channel_of(self, name: bytes) -> str:
        """Return which channel a name on the server is of."""
        return name[len(self._channels) :].decode()

    # Presence.

    def _table(self, table: str) -> tuple[str, ...]:
        """Name this node's entries in a table, who is in the table, and where this node is."""
        bucket = zlib.crc32(table.encode()) % BUCKETS
        mine = f"{self.space}:n:{self.node}"
        entries = f"{self.space}:e:{len(self.node)}:{self.node}:{table}"
        return entries, f"{self.space}:t:{table}", mine, f"{mine}:{bucket}"

    def enter(
        self, table: str, entries: Mapping[str, bytes], ttl: float, *, replace: bool = False
    ) -> Call:
        """Put entries into a table; with ``replace`` in place of all that this node has there."""
        keys = (*self._table(table), self.nodes)
        bucket = keys[3].rpartition(":")[2]
        pairs = (each for pair in entries.items() for each in pair)
        kind = "1" if replace else "0"
        return Call(
            scripts.ENTER, keys, (self.node, table, bucket, milliseconds(ttl), kind, *pairs)
        )

    def leave(self, table: str, fields: Collection[str]) -> Call:
        """Take entries out of a table."""
        keys = self._table(table)
        bucket = keys[3].rpartition(":")[2]
        return Call(scripts.LEAVE, keys, (self.node, table, bucket, *fields))

    def entries(self, table: str) -> Call:
        """Return a table."""
        keys = (self._table(table)[1], self.nodes)
        return Call(scripts.ENTRIES, keys, (self.space, table, self.node))

    def tables(self) -> Call:
        """Return the tables that this node is in."""
        return Call(scripts.TABLES, (f"{self.space}:n:{self.node}",), ())

    def beat(self, ttl: float, *, again: bool) -> Call:
        """Renew the node's lease, which it had before if ``again``; take out what is dead."""
        flag = "1" if again else "0"
        return Call(scripts.BEAT, (self.nodes,), (self.space, self.node, milliseconds(ttl), flag))

    def alive(self) -> Call:
        """Return the nodes that have a lease."""
        return Call(scripts.ALIVE, (self.nodes,), ())

    def take_back(self) -> Call:
        """Take out some of what this node has; the answer is whether there is more."""
        return Call(scripts.TAKE_BACK, (self.nodes,), (self.space, self.node))

    # Leases.

    def _lease(self, name: str) -> str:
        return f"{self.space}:l:{name}"

    def acquire(self, name: str, ttl: float) -> Call:
        """Take a free lease."""
        return Call(scripts.ACQUIRE, (self._lease(name), self.tokens), (milliseconds(ttl),))

    def renew(self, name: str, token: int, ttl: float) -> Call:
        """Keep a lease."""
        return Call(scripts.RENEW, (self._lease(name),), (str(token), milliseconds(ttl)))

    def release(self, name: str, token: int) -> Call:
        """Free a lease."""
        return Call(scripts.RELEASE, (self._lease(name),), (str(token),))

    # Settings.

    def remember(self, settings: Mapping[str, bytes]) -> Call:
        """Keep settings; the answer is what each name had before."""
        pairs = (each for pair in settings.items() for each in pair)
        return Call(scripts.REMEMBER, (f"{self.space}:s",), tuple(pairs))

    def recall(self) -> Call:
        """Return all settings."""
        return Call(scripts.RECALL, (f"{self.space}:s",), ())

    # Histories.

    def history(self, channel: str) -> tuple[str, str]:
        """Name what a history knows, and what it keeps."""
        return f"{self.space}:h:{channel}", f"{self.space}:k:{channel}"

    def _bounds(self, limits: HistoryLimits) -> tuple[str, ...]:
        kept = str(limits.count), str(limits.bytes), milliseconds(limits.seconds)
        return (*kept, self.incarnation)

    def append(self, channel: str, data: bytes, limits: HistoryLimits, key: str = "") -> Call:
        """Keep bytes, and publish them."""
        keys = (*self.history(channel), f"{self.space}:i:{len(key)}:{key}:{channel}")
        bounds = self._bounds(limits)
        return Call(scripts.APPEND, keys, (*bounds, self.channel(channel), data, key))

    def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Call:
        """Return what is kept after a position."""
        arguments = (*self._bounds(limits), after.epoch, str(after.offset))
        return Call(scripts.READ, self.history(channel), arguments)

    def forget(self, channel: str) -> Call:
        """End a history."""
        return Call(scripts.FORGET, self.history(channel), ())

    # A test of all of that.

    def trials(self, ttl: float) -> dict[str, tuple[Call, ...]]:
        """Return calls that do what an app does, by what does not work if one is refused.

        They are about names of their own, of which nothing stays.
        """
        test = Calls(f"{self.space}:test", self.node, self.incarnation, self.space)
        limits = HistoryLimits(count=1, bytes=100, seconds=1)
        return {
            "presence": (
                test.enter("t", {"key": b""}, ttl),
                test.entries("t"),
                test.beat(ttl, again=False),
                test.alive(),
                test.leave("t", ("key",)),
                test.tables(),
                test.take_back(),
            ),
            "histories": (
                test.append("=test", b"", limits),
                test.read("=test", HistoryPosition(), limits),
                test.forget("=test"),
            ),
            "leases": (
                test.acquire(self.node, ttl),
                test.renew(self.node, 0, ttl),
                test.release(self.node, 0),
                Call(scripts.FORGET, (test._lease(self.node), test.tokens), ()),
            ),
        }


def milliseconds(seconds: float) -> str:
    """Write a time as Redis takes it, never as nothing.

    >>> milliseconds(0.0001)
    '1'
    """
    return str(max(1, math.ceil(seconds * 1000)))
