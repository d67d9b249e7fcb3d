"""Who is present, and who holds a lease: one small stream, with the last message of each subject.

A lease ends at the time of its message plus its length, by the server's clock: those
of the nodes need not agree. Whoever finds a node's lease ended takes its entries
out, so that nothing stays of a node that died.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

import msgspec

from falcon_pachinko.backends.nats.names import token
from falcon_pachinko.backends.nats.streams import (
    EXPECTED,
    Stored,
    Stream,
    Streams,
    WrongSequence,
)

__all__ = ["SharedState"]

T = TypeVar("T")

PARTS = 16
"""Into how many messages a node's entries in one table are parted, by key: so many are
read at most, and an entry more writes a 16th of them."""

_TOKEN_BITS = 22  # a millisecond's worth of writes, which is more than there can be


class _Beat(msgspec.Struct, array_like=True):
    node: str
    ttl: float


class _Part(msgspec.Struct, array_like=True):
    node: str
    entries: dict[str, bytes]
    table: str = ""


class _Lease(msgspec.Struct, array_like=True):
    ttl: float
    token: int = 0  # of a lease that was renewed; else its own place tells


class SharedState:
    """Tables and leases of one namespace, as one node sees them.

    Args:
        streams: What keeps them.
        namespace: The namespace, as a token.
        ended: Called when this node's lease turns out to have ended.
    """

    def __init__(self, streams: Streams, namespace: str, ended: Callable[[], None]) -> None:
        self._streams, self._ended = streams, ended
        self._subject = f"{namespace}.state"
        self.stream = Stream(
            f"{namespace.replace('/', '=2F')}-state", (f"{self._subject}.>",), kept=1
        )
        self.node = ""
        self._tables: dict[str, dict[int, dict[str, bytes]]] = {}  # by part, this node's own
        self._beat: tuple[int, float] | None = None  # where the last one is, and when it ends
        self._leases: dict[str, int] = {}

    def begin(self, node: str) -> None:
        """Be another node, which has nothing yet."""
        self.node, self._beat = node, None
        self._tables.clear()
        self._leases.clear()

    # Presence.

    async def enter(self, table: str, entries: Mapping[str, bytes]) -> None:
        """Put entries into a table."""
        await self._streams.ensure(self.stream)
        own = self._tables.setdefault(table, {})
        for key, data in entries.items():
            own.setdefault(_part(key), {})[key] = data
        await self._write(table, {_part(key) for key in entries})

    async def replace(self, table: str, entries: Mapping[str, bytes]) -> None:
        """Make these all that this node has in a table, whatever the server knows of it."""
        await self._streams.ensure(self.stream)
        subject = f"{self._subject}.entries.{token(table)}.{token(self.node)}.*"
        known = await self._streams.all(self.stream, subject)
        parts = {int(each.subject.rpartition(".")[2]) for each in known}
        own = self._tables[table] = {part: {} for part in parts}
        for key, data in entries.items():
            own.setdefault(_part(key), {})[key] = data
        await self._write(table, tuple(own))

    async def tables(self) -> list[str]:
        """Return the tables in which this node has entries."""
        subject = f"{self._subject}.entries.*.{token(self.node)}.*"
        stored = await self._streams.all(self.stream, subject)
        parts = (_read(each, _Part) for each in stored)
        return list(dict.fromkeys(part.table for part in parts if part is not None))

    async def leave(self, table: str, keys: Collection[str]) -> None:
        """Take entries out of a table."""
        await self._streams.ensure(self.stream)
        own = self._tables.get(table, {})
        for key in keys:
            own.get(_part(key), {}).pop(key, None)
        # Those that are not there too: the last attempt to write that may have failed.
        await self._write(table, {_part(key) for key in keys})

    async def _write(self, table: str, parts: Iterable[int]) -> None:
        # All questions leave before the first answer comes: the last word is what counts.
        await asyncio.gather(*(self._write_part(table, part) for part in parts))

    async def _write_part(self, table: str, part: int) -> None:
        entries = self._tables.get(table, {}).get(part, {})
        subject = f"{self._subject}.entries.{token(table)}.{token(self.node)}.{part}"
        data = msgspec.msgpack.encode(_Part(self.node, entries, table))
        sequence = await self._streams.put(self.stream, subject, data)
        if not entries:
            # By its place, and not by its subject: somebody may have entered meanwhile.
            await self._streams.delete(self.stream, sequence)
            own = self._tables.get(table, {})
            if not own.get(part, True):
                del own[part]
            if not own:
                self._tables.pop(table, None)

    async def entries(self, table: str) -> dict[str, dict[str, bytes]]:
        """Return a table, of the nodes that are alive, and this one."""
        subject = f"{self._subject}.entries.{token(table)}.*.*"
        stored = await self._streams.all(self.stream, subject)
        alive = {self.node, *(await self._alive())[0]} if stored else set()
        found: dict[str, dict[str, bytes]] = {}
        for each in stored:
            part = _read(each, _Part)
            if part is not None and part.entries and part.node in alive:
                found.setdefault(part.node, {}).update(part.entries)
        return found

    async def beat(self, ttl: float) -> list[str]:
        """Renew this node's lease; return who is alive, and clean up after who is not."""
        subject = f"{self._subject}.node.{token(self.node)}"
        data = msgspec.msgpack.encode(_Beat(self.node, ttl))
        began = await self._streams.now(self.stream)
        sequence, until = self._beat or (0, began)
        ended = until < began
        try:
            if ended:
                raise WrongSequence
            place = await self._streams.put(self.stream, subject, data, {EXPECTED: str(sequence)})
        except WrongSequence:
            ended = True
            self._tables.clear()
            await self._take_out(self.node)
            place = await self._streams.put(self.stream, subject, data)
        self._beat = place, began + ttl
        if ended:
            self._ended()
        alive, dead = await self._alive()
        for name, where in dead.items():
            await self._take_out(name)
            await self._streams.delete(self.stream, where)
        return alive

    async def alive(self) -> list[str]:
        """Return the nodes that have a lease."""
        return (await self._alive())[0]

    async def _alive(self) -> tuple[list[str], dict[str, int]]:
        """Return the nodes that have a lease, and those whose lease has ended, with its place."""
        alive, dead = [], {}
        stored = await self._streams.all(self.stream, f"{self._subject}.node.*")
        now = await self._streams.now(self.stream)
        for each in stored:
            beat = _read(each, _Beat)
            if beat is not None and each.at + beat.ttl > now:
                alive.append(beat.node)
            elif beat is not None:
                dead[beat.node] = each.sequence
        return alive, dead

    async def _take_out(self, node: str) -> None:
        subject = f"{self._subject}.entries.*.{token(node)}.*"
        await self._streams.purge(self.stream.name, subject)

    # Leases.

    async def acquire(self, name: str, ttl: float) -> int | None:
        """Take a lease that is free."""
        subject = self._lease(name)
        last = await self._streams.last(self.stream, subject)
        if last is not None and await self._holds(last):
            return None
        condition = {EXPECTED: str(last.sequence if last is not None else 0)}
        data = msgspec.msgpack.encode(_Lease(ttl))
        try:
            sequence = await self._streams.put(self.stream, subject, data, condition)
        except WrongSequence:
            return None
        token_ = self._leases[name] = await self._token(sequence)
        return token_

    async def renew(self, name: str, token_: int, ttl: float) -> bool:
        """Keep a lease that is still held."""
        subject = self._lease(name)
        last = await self._streams.last(self.stream, subject)
        if last is None or await self._token_of(last) != token_ or not await self._holds(last):
            return False
        data = msgspec.msgpack.encode(_Lease(ttl, token_))
        try:
            await self._streams.put(self.stream, subject, data, {EXPECTED: str(last.sequence)})
        except WrongSequence:
            return False
        return True

    async def release(self, name: str, token_: int) -> None:
        """Free a lease, if it is this one still."""
        if self._leases.get(name) == token_:
            del self._leases[name]
        last = await self._streams.last(self.stream, self._lease(name))
        if last is not None and await self._token_of(last) == token_:
            await self._streams.delete(self.stream, last.sequence)

    def _lease(self, name: str) -> str:
        return f"{self._subject}.lease.{token(name)}"

    async def _holds(self, stored: Stored) -> bool:
        lease = _read(stored, _Lease)
        return lease is not None and stored.at + lease.ttl > await self._streams.now(self.stream)

    async def _token_of(self, stored: Stored) -> int | None:
        lease = _read(stored, _Lease)
        if lease is None:
            return None
        return lease.token or await self._token(stored.sequence)

    async def _token(self, sequence: int) -> int:
        # Places count from 1 again when the server has lost its disk: so the time of that counts
        # for more. It stays below 2**63 for longer than a century.
        created = int(await self._streams.created(self.stream) * 1000) - 1_700_000_000_000
        return (created << _TOKEN_BITS) + sequence

    # The end.

    async def take_back(self) -> None:
        """Take out all of this node."""
        for name, token_ in list(self._leases.items()):
            await self.release(name, token_)
        if self._tables:
            self._tables.clear()
            await self._take_out(self.node)
        if self._beat is not None:
            await self._streams.purge(self.stream.name, f"{self._subject}.node.{token(self.node)}")
            self._beat = None


def _part(key: str) -> int:
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % PARTS


def _read(stored: Stored, kind: type[T]) -> T | None:
    try:
        return msgspec.msgpack.decode(stored.data, type=kind)
    except (msgspec.MsgspecError, UnicodeError):
        return None
