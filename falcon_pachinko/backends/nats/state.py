"""Who is present, who holds a lease, and settings: one small stream, with the last of each subject.

A lease ends at the time of its message plus its length, by the server's clock: those
of the nodes need not agree. Whoever finds a node's lease ended takes its entries
out, so that nothing stays of a node that died.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

import msgspec

from falcon_pachinko.backends.nats.jetstream import Stored
from falcon_pachinko.backends.nats.names import name_of, token
from falcon_pachinko.backends.nats.streams import (
    EXPECTED,
    Stream,
    StreamGone,
    Streams,
    WrongSequence,
)

__all__ = ["SharedState"]

T = TypeVar("T")

PARTS = 16
"""Into how many messages a node's entries in one table are parted, by key: so many are
read at most, and an entry more writes a 16th of them."""

_TRIES, _PAUSE = 5, 0.02  # to write to a stream that was just made; seconds, the more the later
_MICROSECONDS = 1_000_000


class _Beat(msgspec.Struct, array_like=True):
    node: str
    ttl: float


class _Part(msgspec.Struct, array_like=True):
    node: str
    entries: dict[str, bytes]
    table: str = ""


class _Setting(msgspec.Struct, array_like=True):
    name: str
    data: bytes


class _Lease(msgspec.Struct, array_like=True):
    ttl: float  # 0 once it was given back: what is left of it is its token
    token: int


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
        self._of_lease = f"{namespace}.lease"
        self.stream = Stream(
            f"{namespace.replace('/', '=2F')}-state",
            (f"{self._subject}.>", f"{self._of_lease}.>"),
            kept=1,
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
        of = f"{self._subject}.entries.*.{token(self.node)}.*"
        await self._streams.ensure(self.stream)
        found: dict[str, None] = {}
        for subject in await self._streams.subjects(self.stream, of):
            written = subject.removeprefix(f"{self._subject}.entries.").partition(".")[0]
            name = name_of(written)
            if name is None:  # too long for a subject
                last = await self._streams.last(self.stream, subject)
                part = _read(last, _Part) if last is not None else None
                name = part.table if part is not None else None
            if name is not None:
                found[name] = None
        return list(found)

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
        sequence = await self._put(subject, data)
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
        except (WrongSequence, StreamGone):
            ended = True
            self._tables.clear()
            await self._take_out(self.node)
            place = await self._put(subject, data)
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

    async def _put(self, subject: str, data: bytes) -> int:
        for attempt in range(_TRIES):
            # One that was just made is not known to all servers of a cluster yet.
            await asyncio.sleep(attempt * _PAUSE)
            with contextlib.suppress(StreamGone):
                return await self._streams.put(self.stream, subject, data)
        raise StreamGone

    async def try_out(self) -> None:
        """Do what presence and leases do, once, and leave nothing."""
        subject = f"{self._subject}.test.{token(self.node)}"
        # Of the size that there was no room for: smaller ones may fit still.
        size = self._streams.no_room_for
        sequence = await self._put(subject, bytes(size))
        self._streams.no_room_for -= size
        await self._streams.last(self.stream, subject)
        await self._streams.of_leader(self.stream, {"last_by_subj": subject})
        await self._streams.all(self.stream, f"{self._subject}.test.*")
        await self._streams.subjects(self.stream, subject)
        await self._streams.delete(self.stream, sequence)
        await self._streams.purge(self.stream.name, subject)

    async def _take_out(self, node: str) -> None:
        subject = f"{self._subject}.entries.*.{token(node)}.*"
        await self._streams.purge(self.stream.name, subject)

    # Settings.

    async def remember(self, settings: Mapping[str, bytes]) -> dict[str, bytes]:
        """Keep settings; return those that were replaced."""
        replaced: dict[str, bytes] = {}
        for name, data in settings.items():
            subject = f"{self._subject}.setting.{token(name)}"
            written = msgspec.msgpack.encode(_Setting(name, data))
            while True:
                last = await self._streams.last(self.stream, subject)
                condition = {EXPECTED: str(last.sequence if last is not None else 0)}
                with contextlib.suppress(WrongSequence):
                    await self._streams.put(self.stream, subject, written, condition)
                    break
            before = _read(last, _Setting) if last is not None else None
            if before is not None:
                replaced[name] = before.data
        return replaced

    async def recall(self) -> dict[str, bytes]:
        """Return all settings."""
        stored = await self._streams.all(self.stream, f"{self._subject}.setting.*")
        settings = (_read(each, _Setting) for each in stored)
        return {each.name: each.data for each in settings if each is not None}

    # Leases.

    async def acquire(self, name: str, ttl: float) -> int | None:
        """Take a lease that is free."""
        last = await self._streams.last(self.stream, self._lease(name))
        lease, now = self._read_lease(last), await self._streams.now(self.stream)
        if last is not None and lease is not None and lease.ttl and last.at + lease.ttl > now:
            return None
        # The time, so that it is larger than what a server has forgotten; and one more than the
        # last, so that it is larger where another clock was ahead.
        taken = max(int(now * _MICROSECONDS), lease.token + 1 if lease is not None else 0)
        if not await self._write_lease(name, _Lease(ttl, taken), last):
            return None
        self._leases[name] = taken
        return taken

    async def renew(self, name: str, token_: int, ttl: float) -> bool:
        """Keep a lease that is still held."""
        last = await self._streams.last(self.stream, self._lease(name))
        lease, now = self._read_lease(last), await self._streams.now(self.stream)
        if last is None or lease is None or lease.token != token_ or last.at + lease.ttl <= now:
            return False
        return await self._write_lease(name, _Lease(ttl, token_), last)

    async def release(self, name: str, token_: int) -> None:
        """Free a lease, if it is this one still."""
        if self._leases.get(name) == token_:
            del self._leases[name]
        last = await self._streams.last(self.stream, self._lease(name))
        lease = self._read_lease(last)
        if lease is not None and lease.token == token_:
            await self._write_lease(name, _Lease(0, token_), last)

    def _lease(self, name: str) -> str:
        return f"{self._of_lease}.{token(name)}"

    def _read_lease(self, stored: Stored | None) -> _Lease | None:
        return _read(stored, _Lease) if stored is not None else None

    async def _write_lease(self, name: str, lease: _Lease, last: Stored | None) -> bool:
        """Write a lease behind the last one; False if another one was faster."""
        condition = {EXPECTED: str(last.sequence if last is not None else 0)}
        data = msgspec.msgpack.encode(lease)
        try:
            await self._streams.put(self.stream, self._lease(name), data, condition)
        except (WrongSequence, StreamGone):
            return False
        return True

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
