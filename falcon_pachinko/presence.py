"""Who is here: per room, over all processes, told to members as it changes.

Each process writes what its own connections track into the backend's tables, and
tells the others with a diff. Where somebody in a room tracks, the process keeps a
replica of the room: what `presence` answers from and what members are told of.
A replica is read anew when something may have been missed, and forgets the
entries of a process that died.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from falcon_pachinko.codec import DECODE_ERRORS
from falcon_pachinko.errors import BackendError, EncodeError
from falcon_pachinko.parcels import PresenceDiff

if TYPE_CHECKING:
    from falcon_pachinko.cluster import Cluster
    from falcon_pachinko.connection import Connection

__all__ = ["GRACE", "Presence", "Present"]

log = logging.getLogger("falcon_pachinko.presence")

BATCH = 0.05
"""Seconds within which changes of a room become one diff."""

GRACE = 3.0
"""Seconds that a user who went stays present, so that a reload is no leave and a join."""

BEATS = 6
"""How often a process gives a sign of life within ``Backend.ttl``."""

LEASE = 2 / 3
"""For which part of ``Backend.ttl`` a sign of life counts, so that the others notice in time."""

Present: TypeAlias = dict[str, list[Any]]
"""Who is present: for each key (the user's id, else the connection's) what was given as meta."""


class _Entry(msgspec.Struct, array_like=True):
    """What one connection tracks in one room."""

    key: str
    meta: msgspec.Raw


_Place: TypeAlias = tuple[str, str]  # node and connection id

_read_entry = msgspec.msgpack.Decoder(_Entry).decode
_write = msgspec.msgpack.Encoder().encode


class _Replica:
    """One room as this process knows it, and what its members here were told."""

    def __init__(self) -> None:
        self.entries: dict[_Place, _Entry] = {}
        self.told: Present = {}
        self.newcomers: list[Connection] = []
        self.members: set[Connection] = set()
        self.dirty: set[str] = set()
        self.telling: asyncio.Task[None] | None = None
        self.told_at = 0.0
        self.waiting: list[tuple[str, PresenceDiff]] | None = []  # until it is loaded

    def put(self, place: _Place, entry: _Entry | None) -> None:
        """Set or remove one entry, and note whom that is about."""
        before = self.entries.pop(place, None)
        if before is not None:
            self.dirty.add(before.key)
        if entry is not None:
            self.entries[place] = entry
            self.dirty.add(entry.key)

    def metas(self, keys: Collection[str] | None = None) -> Present:
        """Return what is known of some keys, or of all, in a stable order."""
        found: defaultdict[str, list[Any]] = defaultdict(list)
        for _, entry in sorted(self.entries.items(), key=lambda each: each[0]):
            if keys is None or entry.key in keys:
                found[entry.key].append(msgspec.msgpack.decode(entry.meta))
        return dict(found)

    def change(self) -> dict[str, Present]:
        """Return what changed since members were told last, by kind; and note that they are."""
        dirty, self.dirty = self.dirty, set()
        now = self.metas(dirty)
        joins = {key: metas for key, metas in now.items() if key not in self.told}
        updates = {
            key: metas for key, metas in now.items() if key in self.told and metas != self.told[key]
        }
        leaves = {key: self.told.pop(key) for key in dirty if key not in now and key in self.told}
        self.told.update(now)
        diff = {"joins": joins, "leaves": leaves}
        return diff | ({"updates": updates} if updates else {})


class Presence:
    """Who is present in which room; the manager has one.

    Args:
        cluster: This process among others.
        send: Sends a message to some connections of this process.
        grace: Tells for a room how many seconds its users stay after they went.
    """

    def __init__(
        self,
        cluster: Cluster,
        send: Callable[[Collection[Connection], Any], Awaitable[Any]],
        grace: Callable[[str], float],
    ) -> None:
        self._cluster, self._send, self._grace = cluster, send, grace
        self._own: dict[str, dict[str, _Entry]] = {}  # by room and connection id
        self._replicas: dict[str, _Replica] = {}
        self._rooms_of: dict[str, set[str]] = {}  # by connection id
        self._leaving: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._unwritten: dict[tuple[str, str], None] = {}
        self._written: asyncio.Future[None] | None = None
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._tellings: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to tell other processes, and to notice which of them die."""
        if self._tasks or self._cluster.alone:
            return
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._write_changes()), loop.create_task(self._beat())]

    async def stop(self) -> None:
        """Stop telling; the backend takes this process's entries back."""
        tasks, self._tasks = {*self._tasks, *self._tellings}, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for timer in self._leaving.values():
            timer.cancel()
        for kept in (self._leaving, self._own, self._replicas, self._rooms_of, self._unwritten):
            kept.clear()

    # What connections do.

    async def track(self, connection: Connection, room: str, meta: Any) -> None:
        """Make a member of a room present there, or change its meta.

        Raises:
            EncodeError: The meta cannot be encoded.
        """
        try:
            raw = msgspec.Raw(_write(meta))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise EncodeError(str(error)) from error
        if room not in connection.joined:
            return  # it has gone
        entry = _Entry(connection.user_id or connection.id, raw)
        self._own.setdefault(room, {})[connection.id] = entry
        self._rooms_of.setdefault(connection.id, set()).add(room)
        replica = self._replicas.get(room)
        if replica is None:
            replica = self._replicas[room] = _Replica()
            await self._load(room, replica)
        if connection.id not in self._own.get(room, ()):
            return  # it went meanwhile
        for place, known in list(replica.entries.items()):  # who came back within the grace
            if known.key == entry.key and (room, place[1]) in self._leaving:
                self._remove(room, place[1])
        replica.put((self._cluster.node, connection.id), entry)
        if connection not in replica.members:
            replica.members.add(connection)
            replica.newcomers.append(connection)
        self._tell_soon(room, replica)
        await self._store(room, connection.id)

    def untrack(self, connection: Connection, room: str) -> None:
        """Make a member absent at once: it left the room, and meant to."""
        if room in self._rooms_of.get(connection.id, ()):
            self._forget_member(connection, room)
            self._remove(room, connection.id)

    def gone(self, connection: Connection) -> None:
        """Note that a connection ended; a user stays present for a while."""
        for room in self._rooms_of.get(connection.id, ()):
            self._forget_member(connection, room)
            grace = self._grace(room) if connection.user_id is not None else 0
            if grace > 0:
                loop = asyncio.get_running_loop()
                self._leaving[room, connection.id] = loop.call_later(
                    grace, self._remove, room, connection.id
                )
        for room in tuple(self._rooms_of.get(connection.id, ())):
            if (room, connection.id) not in self._leaving:
                self._remove(room, connection.id)

    def _forget_member(self, connection: Connection, room: str) -> None:
        replica = self._replicas.get(room)
        if replica is not None:
            replica.members.discard(connection)
            if connection in replica.newcomers:
                replica.newcomers.remove(connection)

    def _remove(self, room: str, connection_id: str) -> None:
        timer = self._leaving.pop((room, connection_id), None)
        if timer is not None:
            timer.cancel()
        own = self._own.get(room, {})
        own.pop(connection_id, None)
        rooms = self._rooms_of.get(connection_id, set())
        rooms.discard(room)
        if not rooms:
            self._rooms_of.pop(connection_id, None)
        replica = self._replicas.get(room)
        if replica is not None:
            replica.put((self._cluster.node, connection_id), None)
            self._tell_soon(room, replica)
        if not own:
            self._own.pop(room, None)
            self._replicas.pop(room, None)
        self._unwritten[room, connection_id] = None
        self._work.set()

    # What anybody may ask.

    async def present(self, room: str) -> Present:
        """Return who is present in a room, over all processes.

        Raises:
            BackendError: Nobody here tracks in that room, and the backend cannot be asked.
        """
        replica = self._replicas.get(room)
        if replica is None:
            replica = _Replica()
            if not self._cluster.alone:
                await self._load(room, replica)
        return replica.metas()

    async def count(self, room: str) -> int:
        """Count who is present in a room.

        Raises:
            BackendError: As for `present`.
        """
        replica = self._replicas.get(room)
        if replica is None:
            return len(await self.present(room))
        return len({entry.key for entry in replica.entries.values()})

    # What other processes tell.

    def take(self, node: str, room: str, diff: PresenceDiff) -> None:
        """Apply what another process changed."""
        replica = self._replicas.get(room)
        if replica is None:
            return
        if replica.waiting is not None:
            replica.waiting.append((node, diff))
            return
        self._apply(replica, node, diff)
        self._tell_soon(room, replica)

    def _apply(self, replica: _Replica, node: str, diff: PresenceDiff) -> None:
        for connection_id in diff.leaves:
            replica.put((node, connection_id), None)
        for connection_id, data in diff.joins.items():
            entry = _opened(data)
            if entry is not None:
                replica.put((node, connection_id), entry)

    async def refresh(self, rooms: Iterable[str]) -> None:
        """Read rooms anew, those that are known here: diffs of other processes were missed."""
        for room in rooms:
            replica = self._replicas.get(room)
            if replica is None or replica.waiting is not None:
                continue
            replica.waiting = []
            await self._load(room, replica)
            self._tell_soon(room, replica)

    def write_again(self) -> None:
        """Write all that this process knows of its own: the backend may have forgotten it."""
        for room, entries in self._own.items():
            self._unwritten.update(dict.fromkeys((room, each) for each in entries))
        self._work.set()

    async def _load(self, room: str, replica: _Replica) -> None:
        """Take over what the backend knows, then the diffs that came meanwhile."""
        try:
            if not self._cluster.alone:
                table = await self._cluster.backend.entries(room)
                self._take_over(replica, table)
        except BackendError as error:
            log.warning("the presence of %r is only known of this process: %s", room, error)
        finally:
            waiting, replica.waiting = replica.waiting or [], None
            for node, diff in waiting:
                self._apply(replica, node, diff)

    def _take_over(self, replica: _Replica, table: Mapping[str, Mapping[str, bytes]]) -> None:
        others = {
            (node, connection_id): entry
            for node, entries in table.items()
            if node != self._cluster.node
            for connection_id, data in entries.items()
            if (entry := _opened(data)) is not None
        }
        for place in list(replica.entries):
            if place[0] != self._cluster.node and place not in others:
                replica.put(place, None)
        for place, entry in others.items():
            if replica.entries.get(place) != entry:
                replica.put(place, entry)

    # Telling members.

    def _tell_soon(self, room: str, replica: _Replica) -> None:
        if replica.telling is None:
            task = asyncio.get_running_loop().create_task(self._tell(room, replica))
            replica.telling = task
            self._tellings.add(task)
            task.add_done_callback(self._tellings.discard)

    async def _tell(self, room: str, replica: _Replica) -> None:
        """Send members what changed, and newcomers all of it: each of them knows the same then."""
        loop = asyncio.get_running_loop()
        try:
            while (replica.dirty or replica.newcomers) and replica.waiting is None:
                await asyncio.sleep(max(0.0, replica.told_at + BATCH - loop.time()))
                if replica.waiting is not None:
                    return  # who loads it has it told then
                replica.told_at = loop.time()
                change = replica.change()
                newcomers, replica.newcomers = replica.newcomers, []
                if any(change.values()):
                    diff = {"type": "presence.diff", "payload": {"room": room, **change}}
                    await self._send(replica.members.difference(newcomers), diff)
                if newcomers:
                    payload = {"room": room, "present": replica.told}
                    await self._send(newcomers, {"type": "presence.state", "payload": payload})
        finally:
            replica.telling = None

    # Telling other processes.

    async def _store(self, room: str, connection_id: str) -> None:
        """Have an entry written, and wait until it is, or the backend is away."""
        if self._cluster.alone:
            return
        self._unwritten[room, connection_id] = None
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        self._work.set()
        await asyncio.wait((self._written,), timeout=self._cluster.backend.ttl)

    async def _write_changes(self) -> None:
        """Keep the backend's tables to what this process knows of its own, while it lives."""
        while True:
            await self._work.wait()
            self._work.clear()
            unwritten, self._unwritten = self._unwritten, {}
            written, self._written = self._written, None
            try:
                await self._write_rooms(unwritten)
            except BackendError as error:
                log.warning("presence is not told to other processes for now: %s", error)
                self._unwritten = unwritten | self._unwritten
            except Exception:
                log.exception("presence could not be written")
            finally:
                if written is not None:
                    written.set_result(None)
            if self._unwritten and not self._work.is_set():
                await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311  # apart from each other
                self._work.set()

    async def _write_rooms(self, places: Iterable[tuple[str, str]]) -> None:
        by_room: defaultdict[str, list[str]] = defaultdict(list)
        for room, connection_id in places:
            by_room[room].append(connection_id)
        backend = self._cluster.backend
        for room, ids in by_room.items():
            own = self._own.get(room, {})
            joins = {each: _write(own[each]) for each in ids if each in own}
            leaves = tuple(each for each in ids if each not in own)
            if joins:
                await backend.enter(room, joins)
            if leaves:
                await backend.leave(room, leaves)
            self._cluster.publish(f"room:{room}", PresenceDiff(0, 0, joins, leaves))

    async def _beat(self) -> None:
        """Give signs of life, and forget the entries of processes that give none any more."""
        loop, backend = asyncio.get_running_loop(), self._cluster.backend
        lease, pause = backend.ttl * LEASE, backend.ttl / BEATS
        last = -lease
        while True:
            known = {node for each in self._replicas.values() for node, _ in each.entries}
            try:
                alive = await backend.beat(lease)
            except BackendError:
                pass  # its state says it
            else:
                if loop.time() - last > lease:
                    self.write_again()  # the others took this process for dead
                last = loop.time()
                self._bury(known.difference(alive, (self._cluster.node,)))
            await asyncio.sleep(pause)

    def _bury(self, dead: Collection[str]) -> None:
        if not dead:
            return
        for room, replica in self._replicas.items():
            left = [place for place in replica.entries if place[0] in dead]
            for place in left:
                replica.put(place, None)
            if left:
                self._tell_soon(room, replica)


def _opened(data: bytes) -> _Entry | None:
    """Read an entry; None for bytes that are none."""
    try:
        entry = _read_entry(data)
        msgspec.msgpack.decode(entry.meta)
    except DECODE_ERRORS:
        return None
    return entry
