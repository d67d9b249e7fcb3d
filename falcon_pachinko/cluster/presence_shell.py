"""Who is here: per room, over all processes, told to members as it changes.

What is known and what members are told is decided in `presence`; here the backend's
tables are read and written, other processes are told, and messages are sent. A room
is read anew when something may have been missed, and the entries of a process that
died are forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from contextvars import Context
from typing import Any, Generic

import msgspec

from falcon_pachinko.clock import uniform
from falcon_pachinko.cluster.member import M
from falcon_pachinko.cluster.node import LEASE, Node
from falcon_pachinko.cluster.outage import Outage
from falcon_pachinko.cluster.parcels import PresenceDiff
from falcon_pachinko.cluster.presence import Roster, Write
from falcon_pachinko.cluster.room_roster import Entry, Present, RoomRoster, Table
from falcon_pachinko.errors import BackendError, EncodeError
from falcon_pachinko.names import check_text, stranger_key

__all__ = ["GRACE", "Presence", "Present"]

log = logging.getLogger("falcon_pachinko.presence")

GRACE = 3.0
"""Seconds that a user who went stays present, so that a reload is not a leave and a join."""

BEATS_PER_TTL = 6
"""How often a process gives a sign of life within ``Backend.ttl``."""

WRITE_AGAIN_AFTER = (0.5, 1.5)
"""Seconds until what could not be written is tried again; at random, apart from each other."""


class Presence(Generic[M]):
    """Who is present in which room; the manager has one.

    Args:
        node: This process among others.
        send: Sends a message to some connections of this process.
        grace: Returns for a room how many seconds its users stay after they went.
        encode: Writes a meta as MessagePack.
    """

    def __init__(
        self,
        node: Node,
        send: Callable[[Collection[M], Any], Awaitable[Any]],
        grace: Callable[[str], float],
        encode: Callable[[Any], bytes] = msgspec.msgpack.encode,
    ) -> None:
        self._node, self._send, self._grace, self._encode = node, send, grace, encode
        self._roster: Roster[M] = Roster()
        self._tasks: list[asyncio.Task[None]] = []  # the three jobs, while others can be told
        self._passing: set[asyncio.Task[None]] = set()  # that tell members, or read a room first
        self._reads: dict[RoomRoster[M], asyncio.Task[None]] = {}  # those that read it first
        self._telling: set[str] = set()  # rooms whose members a task is telling
        self._stale: dict[str, None] = {}  # rooms that are to be read anew
        self._waiting: dict[tuple[str, str], asyncio.Future[None]] = {}
        # By room and connection, who waits for its entry to be written; resolved when it is,
        # when it has gone, or when the backend fails.
        self._patient_until = float("-inf")  # until then, who is silent is not taken for dead
        # For the next one whose grace is over; and when that is.  Not asked from the handle: uvloop
        # gives one that does not tell, for what is due at once.
        self._expiry: asyncio.Handle | None = None
        self._expiry_at = 0.0
        self._write_work = asyncio.Event()
        self._read_work = asyncio.Event()
        self._read_outage, self._write_outage = Outage(), Outage()

    def start(self) -> None:
        """Begin to tell other processes, and to notice which of them die."""
        if self._tasks or self._node.alone:
            return
        self._write_work, self._read_work = asyncio.Event(), asyncio.Event()
        self._roster.begin(self._node.name)
        self._write_work.set()
        jobs = (self._write_changes(), self._read_stale(), self._beat())
        # The first of them may run before the last one is made: none looks at _tasks.
        self._tasks = [asyncio.get_running_loop().create_task(job) for job in jobs]

    async def stop(self) -> None:
        """Stop telling; the backend takes this process's entries back."""
        tasks, self._tasks = {*self._tasks, *self._passing}, []
        # Before anything is awaited: what still arrives is to find no room, and to begin nothing.
        self._roster = Roster()
        self._stale.clear()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for task in tasks:
            task.cancel()
        self._release_all()
        if tasks:
            await asyncio.wait(tasks)
        self._telling.clear()  # a task that is cancelled before its first step does not
        self._release_all()

    def _spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(job, context=Context())
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        return task

    # What connections do.

    async def track(self, member: M, room: str, meta: Any) -> None:
        """Make a member of a room present there, or change its meta.

        Returns when the room is read and the entry is written, or the backend is away. A
        connection that goes meanwhile is not present; nor is one whose call is cancelled
        before it was.

        Raises:
            EncodeError: The meta cannot be encoded.
        """
        entry = Entry(member.user_id or stranger_key(member.id), self._encoded(meta))
        if member.closed or room not in member._rooms:
            return  # it has gone, or is about to
        roster = self._roster
        roster.track(member, room, entry)
        try:
            await self._node.subscriptions.live(f"room:{room}")  # diffs arrive before it is read
            if roster is self._roster and roster.tracks(member, room, entry):
                await self._known(room)
        except BaseException:
            roster.withdraw(member, room, entry)
            raise
        if roster is not self._roster or not roster.tracks(member, room, entry):
            return  # it went meanwhile, tracks anew, or all of this has stopped
        roster.announce(member, room)
        self._changed()
        if self._tasks:
            await self._written(room, member.id)

    async def _known(self, room: str) -> RoomRoster[M]:
        """Return what is known of a room in which somebody tracks, read if it is new here."""
        known = self._roster.rooms[room]
        if not known.was_read and self._tasks and known not in self._reads:
            read = self._spawn(self._load(room, known))
            self._reads[known] = read
            read.add_done_callback(lambda _: self._reads.pop(known))
        if known in self._reads:
            await asyncio.wait((self._reads[known],))  # a task: whoever waits may be cancelled
        return known

    async def _written(self, room: str, connection_id: str) -> None:
        """Wait until an entry is written, or the backend is away, or the connection has gone."""
        place = room, connection_id
        if place not in self._waiting:
            self._waiting[place] = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._waiting[place],), timeout=self._node.backend.ttl)

    def _release(self, place: tuple[str, str]) -> None:
        future = self._waiting.pop(place, None)
        if future is not None and not future.done():
            future.set_result(None)

    def _release_all(self) -> None:
        for place in tuple(self._waiting):
            self._release(place)

    def untrack(self, member: M, room: str) -> None:
        """Make a member absent at once: it left the room, and meant to.

        Raises:
            TypeError: The room's name is not a str.
        """
        check_text(room, "room name")
        if self._roster.is_tracking(member.id):
            self._roster.untrack(member, room)
            self._release((room, member.id))
            self._changed()

    def gone(self, member: M) -> None:
        """Note that a connection ended, while it is in its rooms still; a user stays a while."""
        if member.id not in self._roster._rooms_of:
            return
        loop = asyncio.get_running_loop()
        self._roster.gone(member, loop.time(), self._grace)
        for room in member._rooms:
            self._release((room, member.id))
        self._changed()
        self._expire_in_time(loop)

    def _expire_in_time(self, loop: asyncio.AbstractEventLoop) -> None:
        deadline = self._roster.next_deadline()
        if deadline is None or (self._expiry is not None and self._expiry_at <= deadline):
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry_at = deadline
        # In a context of its own, so that it keeps no connection on whose behalf somebody left.
        self._expiry = loop.call_at(deadline, self._expire, loop, context=Context())

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._expiry = None
        # The clock may be a little behind the timer.
        self._roster.expire(max(loop.time(), self._roster.next_deadline() or 0.0))
        self._changed()
        self._expire_in_time(loop)

    def _changed(self) -> None:
        """Have members and other processes told of what has changed."""
        if self._roster.writes_due:
            self._write_work.set()
        for room in sorted(self._roster.news - self._telling):
            self._telling.add(room)
            self._spawn(self._tell(room))

    # What anybody may ask.

    async def present(self, room: str) -> Present:
        """Return who is present in a room, over all processes.

        Raises:
            BackendError: Nobody here tracks in that room, and the backend cannot be asked.
            TypeError: The room's name is not a str.
        """
        check_text(room, "room name")
        if room in self._roster.rooms:
            return (await self._known(room)).metas()
        known: RoomRoster[M] = RoomRoster()
        if self._tasks:
            known.take_over(await self._node.backend.entries(room), self._node.name, patient=False)
        return known.metas()

    async def count(self, room: str) -> int:
        """Count who is present in a room.

        Raises:
            BackendError: As for `present`.
            TypeError: The room's name is not a str.
        """
        check_text(room, "room name")
        if room in self._roster.rooms:
            return len((await self._known(room)).places)
        return len(await self.present(room))

    # What other processes tell.

    def take(self, node: str, room: str, diff: PresenceDiff) -> None:
        """Apply what another process changed."""
        self._roster.apply(node, room, diff.joins, diff.leaves)
        self._changed()

    def refresh(self, rooms: Iterable[str]) -> None:
        """Read rooms anew, those that are known here: diffs of other processes were missed."""
        known = self._roster.rooms
        self._stale.update(dict.fromkeys(room for room in rooms if room in known))
        self._read_work.set()

    async def _read_stale(self) -> None:
        """Read what is stale, one room after the other, until it is cancelled."""
        while True:
            await self._read_work.wait()
            self._read_work.clear()
            stale, self._stale = self._stale, {}
            for room in stale:
                known = self._roster.rooms.get(room)
                if known is not None and known in self._reads:
                    await asyncio.wait((self._reads[known],))
                if known is not None:
                    await self._load(room, known)

    async def _load(self, room: str, known: RoomRoster[M]) -> None:
        """Take over what the backend knows, then the diffs that came meanwhile."""
        roster, table = self._roster, None
        roster.begin_reading(known)
        try:
            table = await self._read(room)
        finally:
            roster.end_reading(room, known, table, patient=self._is_patient())
        if table is None and roster.rooms.get(room) is known:
            self._stale[room] = None  # it is read again with the next sign of life
        self._changed()

    async def _read(self, room: str) -> Table | None:
        """Return a room's table; None if it cannot be read now, which the log tells."""
        try:
            table = await self._node.backend.entries(room)
        except BackendError as error:
            self._read_outage.report(
                log, "could not load the presence of %.200r; retrying: %s", room, error
            )
        except Exception:
            log.exception("could not load the presence of %.200r; retrying", room)
        else:
            self._read_outage.over()
            return table
        return None

    def be_patient(self) -> None:
        """Take nobody for dead, for a while: after an outage the others may only be late."""
        if self._roster.rooms:  # else it is the start, and nobody is known yet
            lease = self._node.backend.ttl * LEASE
            self._patient_until = asyncio.get_running_loop().time() + lease

    def _is_patient(self) -> bool:
        return asyncio.get_running_loop().time() < self._patient_until

    # Telling members.

    async def _tell(self, room: str) -> None:
        """Send members what changed, and newcomers all of it: each of them knows the same then."""
        loop, roster = asyncio.get_running_loop(), self._roster
        try:
            while (due := roster.due(room)) is not None:
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                for recipients, message in roster.news_of(room, loop.time()):
                    # Some may have left while the one before was sent.
                    await self._send([each for each in recipients if room in each._rooms], message)
        except Exception:
            log.exception("could not tell the members of %.200r who is present", room)
        finally:
            self._telling.discard(room)

    # Telling other processes.

    def write_again(self) -> None:
        """Write all that this process knows of its own: the backend may have forgotten it."""
        self._roster.write_again()
        self._write_work.set()

    async def _write_changes(self) -> None:
        """Keep the backend's tables to what this process knows of its own, until cancelled."""
        while True:
            await self._write_work.wait()
            self._write_work.clear()
            if self._node.backend.state != "up":
                self._release_all()  # it is all written when the backend is back
                continue
            failed = await self._write_all()
            for write in failed:
                self._roster.not_written(write)
            if failed:
                self._release_all()
                await asyncio.sleep(uniform(*WRITE_AGAIN_AFTER))
                self._write_work.set()

    async def _write_all(self) -> list[Write]:
        """Write everything; return what failed. A backend that is away ends it."""
        failed = []
        while (write := self._roster.next_write()) is not None:
            try:
                await self._write(write)
            except BackendError as error:
                failed.append(write)
                self._write_outage.report(
                    log, "could not tell other processes who is present; retrying: %s", error
                )
                break
            except Exception:
                failed.append(write)
                log.exception("could not write the presence of %.200r; retrying", write.room)
            else:
                self._write_outage.over()
        return failed

    async def _write(self, write: Write) -> None:
        roster, (room, joins, leaves) = self._roster, write
        if joins:
            await self._node.backend.enter(room, joins)
        if leaves:
            await self._node.backend.leave(room, leaves)
        roster.wrote(write)
        self._node.publish(f"room:{room}", PresenceDiff(0, 0, joins, leaves))
        for connection_id in (*joins, *leaves):
            self._release((room, connection_id))

    async def _beat(self) -> None:
        """Give signs of life, and forget the entries of processes that give none any more."""
        loop, backend = asyncio.get_running_loop(), self._node.backend
        lease, pause = backend.ttl * LEASE, backend.ttl / BEATS_PER_TTL
        last, was_patient = float("-inf"), False
        while True:
            known = self._roster.nodes()
            try:
                alive = {*await self._node.give_sign_of_life()}
            except BackendError:
                pass  # its state says it
            except Exception:
                log.exception(
                    "backend %s failed to renew the lease of this process; retrying", backend.name
                )
            else:
                if loop.time() - last > lease:  # the others took this process for dead
                    self.be_patient()
                    self.write_again()
                last = loop.time()
                if not self._is_patient():
                    self._roster.forget_nodes(known - alive)
                    self._changed()
                    self._node.forget_dead(alive)
                    if was_patient:  # with who is back by now, and who is not
                        self.refresh(self._roster.rooms)
                was_patient = self._is_patient()
                self._read_work.set()  # what could not be read before
            await asyncio.sleep(pause)

    def _encoded(self, meta: Any) -> msgspec.Raw:
        """Write a meta; it has to have a form in each codec."""
        try:
            data = self._encode(meta)
            msgspec.json.encode(msgspec.msgpack.decode(data))
        except EncodeError:
            raise
        except (
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
            msgspec.MsgspecError,
        ) as error:
            raise EncodeError(str(error)) from error
        return msgspec.Raw(data)
