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
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from falcon_pachinko.cluster.parcels import PresenceDiff
from falcon_pachinko.errors import BackendError, EncodeError
from falcon_pachinko.messages.codec import DECODE_ERRORS

if TYPE_CHECKING:
    from falcon_pachinko.cluster.node import Cluster
    from falcon_pachinko.connection.connection import Connection

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

_place = itemgetter(0)
_read_entry = msgspec.msgpack.Decoder(_Entry).decode
_write = msgspec.msgpack.Encoder().encode


class _Replica:
    """One room as this process knows it, and what its members here were told."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, _Entry]] = {}  # by node and connection id
        self.places: dict[str, dict[_Place, _Entry]] = {}  # the same, by key
        self.told: Present = {}
        self.members: set[Connection] = set()
        self.newcomers: dict[Connection, None] = {}  # members that were told nothing yet
        self.dirty: set[str] = set()
        self.telling: asyncio.Task[None] | None = None
        self.told_at = 0.0
        self.loading: asyncio.Task[None] | None = None  # for the first time
        self.waiting: list[tuple[str, PresenceDiff]] | None = None  # while it is read

    def put(self, place: _Place, entry: _Entry | None) -> None:
        """Set or remove one entry, and note whom that is about."""
        node, connection_id = place
        before = self.entries.get(node, {}).pop(connection_id, None)
        if before is not None:
            self.dirty.add(before.key)
            del self.places[before.key][place]
            if not self.places[before.key]:
                del self.places[before.key]
            if not self.entries[node]:
                del self.entries[node]
        if entry is not None:
            self.dirty.add(entry.key)
            self.places.setdefault(entry.key, {})[place] = entry
            self.entries.setdefault(node, {})[connection_id] = entry

    def forget(self, node: str) -> None:
        """Remove what a node has here."""
        for connection_id in tuple(self.entries.get(node, ())):
            self.put((node, connection_id), None)

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
        self._leaving: dict[tuple[str, str], dict[str, asyncio.TimerHandle]] = {}
        # ... by room and key, the connections that ended within the grace
        self._unwritten: dict[tuple[str, str], None] = {}
        self._written: asyncio.Future[None] | None = None
        self._stale: dict[str, None] = {}  # rooms that are to be read anew
        self._patient_until = 0.0
        self._work = asyncio.Event()
        self._reading = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []  # none, while there is nobody to tell
        self._passing: set[asyncio.Task[None]] = set()  # that tell, or read for the first time

    def start(self) -> None:
        """Begin to tell other processes, and to notice which of them die."""
        if self._tasks or self._cluster.alone:
            return
        self._work, self._reading = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        jobs = (self._write_changes(), self._read_stale(), self._beat())
        self._tasks = [loop.create_task(job) for job in jobs]

    async def stop(self) -> None:
        """Stop telling; the backend takes this process's entries back."""
        tasks, self._tasks = {*self._tasks, *self._passing}, []
        for timers in self._leaving.values():
            for timer in timers.values():
                timer.cancel()
        # Before anything is awaited: what still arrives is to find no room, and to begin nothing.
        for kept in (self._leaving, self._own, self._replicas, self._rooms_of):
            kept.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._note_written(self._written)
        self._written = None
        self._unwritten.clear()
        self._stale.clear()

    def _spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(job)
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        return task

    # What connections do.

    async def track(self, connection: Connection, room: str, meta: Any) -> None:
        """Make a member of a room present there, or change its meta.

        Raises:
            EncodeError: The meta cannot be encoded.
        """
        raw = _encoded(meta)
        if room not in connection._rooms:
            return  # it has gone
        entry = _Entry(connection.user_id or connection.id, raw)
        self._stay(room, connection.id)
        self._own.setdefault(room, {})[connection.id] = entry
        self._rooms_of.setdefault(connection.id, set()).add(room)
        await self._cluster.settled()  # the room's diffs arrive before it is read
        if self._own.get(room, {}).get(connection.id) is not entry:
            return  # it went meanwhile, or tracks anew
        replica = await self._replica(room)
        if (
            self._replicas.get(room) is not replica
            or self._own.get(room, {}).get(connection.id) is not entry
        ):
            return
        for gone in tuple(self._leaving.get((room, entry.key), ())):
            self._remove(room, gone)  # who came back within the grace
        replica.put((self._cluster.node, connection.id), entry)
        if connection not in replica.members:
            replica.members.add(connection)
            replica.newcomers[connection] = None
        self._tell_soon(room, replica)
        await self._store(room, connection.id)

    async def _replica(self, room: str) -> _Replica:
        """Return what is known of a room, read from the backend if it is new here."""
        replica = self._replicas.get(room)
        if replica is None:
            replica = self._replicas[room] = _Replica()
            if self._tasks:
                replica.loading = self._spawn(self._load(room, replica))
        if replica.loading is not None:
            await asyncio.wait((replica.loading,))  # a task: whoever waits may be cancelled
        return replica

    def untrack(self, connection: Connection, room: str) -> None:
        """Make a member absent at once: it left the room, and meant to."""
        if room in self._rooms_of.get(connection.id, ()):
            self._forget_member(connection, room)
            self._remove(room, connection.id)

    def gone(self, connection: Connection) -> None:
        """Note that a connection ended; a user stays present for a while."""
        for room in tuple(self._rooms_of.get(connection.id, ())):
            self._forget_member(connection, room)
            key = self._own[room][connection.id].key
            grace = self._grace(room) if key != connection.id else 0
            leaving = self._leaving.get((room, key), {})
            if grace <= 0:
                self._remove(room, connection.id)
            elif connection.id not in leaving:
                loop = asyncio.get_running_loop()
                timer = loop.call_later(grace, self._remove, room, connection.id)
                self._leaving.setdefault((room, key), {})[connection.id] = timer

    def _forget_member(self, connection: Connection, room: str) -> None:
        replica = self._replicas.get(room)
        if replica is not None:
            replica.members.discard(connection)
            replica.newcomers.pop(connection, None)

    def _stay(self, room: str, connection_id: str) -> None:
        """Have a connection not leave when its grace is over."""
        entry = self._own.get(room, {}).get(connection_id)
        if entry is None:
            return
        leaving = self._leaving.get((room, entry.key), {})
        timer = leaving.pop(connection_id, None)
        if timer is not None:
            timer.cancel()
            if not leaving:
                del self._leaving[room, entry.key]

    def _remove(self, room: str, connection_id: str) -> None:
        self._stay(room, connection_id)
        own = self._own[room]
        del own[connection_id]
        rooms = self._rooms_of[connection_id]
        rooms.discard(room)
        if not rooms:
            del self._rooms_of[connection_id]
        replica = self._replicas.get(room)
        if not own:
            del self._own[room]
            self._replicas.pop(room, None)
        elif replica is not None:
            replica.put((self._cluster.node, connection_id), None)
            self._tell_soon(room, replica)
        if self._tasks:
            self._unwritten[room, connection_id] = None
            self._work.set()

    # What anybody may ask.

    async def present(self, room: str) -> Present:
        """Return who is present in a room, over all processes.

        Raises:
            BackendError: Nobody here tracks in that room, and the backend cannot be asked.
        """
        if room in self._replicas:
            return (await self._replica(room)).metas()
        replica = _Replica()
        if self._tasks:
            self._take_over(replica, await self._cluster.backend.entries(room))
        return replica.metas()

    async def count(self, room: str) -> int:
        """Count who is present in a room.

        Raises:
            BackendError: As for `present`.
        """
        if room in self._replicas:
            return len((await self._replica(room)).places)
        return len(await self.present(room))

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

    def refresh(self, rooms: Iterable[str]) -> None:
        """Read rooms anew, those that are known here: diffs of other processes were missed."""
        self._stale.update(dict.fromkeys(room for room in rooms if room in self._replicas))
        self._reading.set()

    async def _read_stale(self) -> None:
        """Read what is stale, one room after the other, while the process lives."""
        while True:
            await self._reading.wait()
            self._reading.clear()
            stale, self._stale = self._stale, {}
            for room in stale:
                replica = self._replicas.get(room)
                if replica is not None and replica.loading is not None:
                    await asyncio.wait((replica.loading,))
                if replica is not None:
                    await self._load(room, replica)

    def be_patient(self) -> None:
        """Take nobody for dead, for a while: after an outage the others may only be late."""
        if self._replicas:  # else it is the start, and nobody is known yet
            lease = self._cluster.backend.ttl * LEASE
            self._patient_until = asyncio.get_running_loop().time() + lease

    @property
    def _patient(self) -> bool:
        return asyncio.get_running_loop().time() < self._patient_until

    def write_again(self) -> None:
        """Write all that this process knows of its own: the backend may have forgotten it."""
        for room, entries in self._own.items():
            self._unwritten.update(dict.fromkeys((room, each) for each in entries))
        self._work.set()

    async def _load(self, room: str, replica: _Replica) -> None:
        """Take over what the backend knows, then the diffs that came meanwhile."""
        replica.waiting = []
        try:
            self._take_over(replica, await self._cluster.backend.entries(room))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told and tried again
            level = logging.WARNING if isinstance(error, BackendError) else logging.ERROR
            log.log(level, "the presence in %.200r is not known whole for now: %s", room, error)
            if self._replicas.get(room) is replica:
                self._stale[room] = None  # it is read with the next sign of life
        finally:
            waiting, replica.waiting, replica.loading = replica.waiting, None, None
        for node, diff in waiting:
            self._apply(replica, node, diff)
        self._tell_soon(room, replica)

    def _take_over(self, replica: _Replica, table: Mapping[str, Mapping[str, bytes]]) -> None:
        others = {
            (node, connection_id): entry
            for node, entries in table.items()
            if node != self._cluster.node
            for connection_id, data in entries.items()
            if (entry := _opened(data)) is not None
        }
        known = {
            (node, connection_id): entry
            for node, entries in replica.entries.items()
            if node != self._cluster.node
            for connection_id, entry in entries.items()
        }
        patient = self._patient  # then who is not in the table at all may only be late
        for place in known.keys() - others.keys():
            if not patient or place[0] in table:
                replica.put(place, None)
        for place, entry in others.items():
            if known.get(place) != entry:
                replica.put(place, entry)

    # Telling members.

    def _tell_soon(self, room: str, replica: _Replica) -> None:
        if replica.telling is None:
            replica.telling = self._spawn(self._tell(room, replica))

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
                newcomers, replica.newcomers = replica.newcomers, {}
                if any(change.values()):
                    diff = {"type": "presence.diff", "payload": {"room": room, **change}}
                    await self._send(replica.members.difference(newcomers), diff)
                if newcomers:
                    payload = {"room": room, "present": replica.told}
                    here = replica.members.intersection(newcomers)
                    await self._send(here, {"type": "presence.state", "payload": payload})
        except Exception:
            log.exception("the members of %.200r were not told who is present", room)
        finally:
            replica.telling = None

    # Telling other processes.

    async def _store(self, room: str, connection_id: str) -> None:
        """Have an entry written, and wait until it is, or the backend is away."""
        if not self._tasks:
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
            finally:
                self._note_written(written)
            if self._unwritten and not self._work.is_set():
                await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311  # apart from each other
                self._work.set()

    def _note_written(self, written: asyncio.Future[None] | None) -> None:
        if written is not None and not written.done():
            written.set_result(None)

    async def _write_rooms(self, places: Iterable[tuple[str, str]]) -> None:
        """Write rooms; the first that fails is tried again later, with all that come after it."""
        by_room: defaultdict[str, list[str]] = defaultdict(list)
        for room, connection_id in places:
            by_room[room].append(connection_id)
        failed = False
        for room, ids in by_room.items():
            if not failed:
                try:
                    await self._write_room(room, ids)
                except BackendError as error:
                    failed = True
                    log.warning("presence is not told to other processes for now: %s", error)
                except Exception:
                    log.exception("the presence in %.200r could not be written", room)
                else:
                    continue
            self._unwritten.update(dict.fromkeys((room, each) for each in ids))

    async def _write_room(self, room: str, ids: Collection[str]) -> None:
        own, backend = self._own.get(room, {}), self._cluster.backend
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
        last, was_patient = -lease, False
        while True:
            known = {node for each in self._replicas.values() for node in each.entries}
            try:
                alive = {*await backend.beat(lease), self._cluster.node}
            except BackendError:
                pass  # its state says it
            except Exception:
                log.exception("backend %s did not take a sign of life", backend.name)
            else:
                if loop.time() - last > lease:  # the others took this process for dead
                    self.be_patient()
                    self.write_again()
                last = loop.time()
                if not self._patient:
                    self._bury(known - alive)
                    self._cluster.forget_dead(alive)
                    if was_patient:  # with who is back by now, and who is not
                        self.refresh(self._replicas)
                was_patient = self._patient
                self._reading.set()  # what could not be read before
            await asyncio.sleep(pause)

    def _bury(self, dead: Collection[str]) -> None:
        if not dead:
            return
        for room, replica in self._replicas.items():
            for node in dead:
                replica.forget(node)
            if replica.dirty:
                self._tell_soon(room, replica)


def _encoded(meta: Any) -> msgspec.Raw:
    """Write a meta; it has to have a form in each codec."""
    try:
        data = _write(meta)
        _check(data)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise EncodeError(str(error)) from error
    return msgspec.Raw(data)


def _check(data: bytes | msgspec.Raw) -> None:
    msgspec.json.encode(msgspec.msgpack.decode(data))


def _opened(data: bytes) -> _Entry | None:
    """Read an entry; None for bytes that are none."""
    try:
        entry = _read_entry(data)
        _check(entry.meta)
    except (*DECODE_ERRORS, ValueError, OverflowError):
        return None
    return entry
