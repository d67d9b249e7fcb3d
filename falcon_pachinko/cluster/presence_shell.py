"""Who is here: per room, over all processes, told to members as it changes.

What is known and what members are told is decided in `presence`; here the backend's
tables are read, and messages are sent. A room is read anew when something may have been
missed, many of them at a time, and the entries of a process that died are forgotten.
`presence_tables` writes, and tells other processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from contextvars import Context
from typing import Any, Generic

import msgspec

from falcon_pachinko.cluster.catching_up import CatchingUp
from falcon_pachinko.cluster.member import M
from falcon_pachinko.cluster.node import LEASE, Node
from falcon_pachinko.cluster.outage import Outage
from falcon_pachinko.cluster.parcels import PresenceDiff
from falcon_pachinko.cluster.presence import DIFF_SECONDS, NO_LIMIT, Roster
from falcon_pachinko.cluster.presence_tables import Tables
from falcon_pachinko.cluster.room_roster import Change, Entry, Present, RoomRoster, Table
from falcon_pachinko.errors import BackendError, EncodeError
from falcon_pachinko.names import check_text, stranger_key

__all__ = ["GRACE", "Presence", "Present"]

log = logging.getLogger("falcon_pachinko.presence")

GRACE = 3.0
"""Seconds that a user who went stays present, so that a reload is not a leave and a join."""

BEATS_PER_TTL = 6
"""How often a process gives a sign of life within ``Backend.ttl``."""

MOST_STAY = 86_400.0
"""Seconds that an entry stays at most after its process has ended, whatever that says."""


class Presence(Generic[M]):
    """Who is present in which room; the manager has one.

    Args:
        node: This process among others.
        send: Sends a message to some connections of this process.
        grace: Returns for a room how many seconds its users stay after they went.
        encode: Writes a meta as MessagePack.
        limit: Returns for a room above how many keys its members are told only their number.
        dropped: Called with each room in which the last one here has stopped tracking, also
            if that is the end of its grace.
    """

    def __init__(
        self,
        node: Node,
        send: Callable[[Collection[M], Any], Awaitable[Any]],
        grace: Callable[[str], float],
        encode: Callable[[Any], bytes] = msgspec.msgpack.encode,
        *,
        limit: Callable[[str], int] = lambda _: NO_LIMIT,
        dropped: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._node, self._send, self._grace, self._encode = node, send, grace, encode
        self._limit, self._dropped = limit, dropped
        self._beating: asyncio.Task[None] | None = None  # while others can be told
        self._beat_now = asyncio.Event()  # set to have the next sign of life at once
        self._passing: set[asyncio.Task[None]] = set()  # that read, write, or tell members
        self._reads: dict[RoomRoster[M], asyncio.Future[None]] = {}  # those that are being read
        self._telling: set[str] = set()  # rooms whose members a task is telling
        self._unread: dict[str, None] = {}  # rooms that could not be read anew
        self._patient_until = float("-inf")  # until then, who is silent is not taken for dead
        # For the next one whose grace is over; and when that is.  Not asked from the handle: uvloop
        # gives one that does not tell, for what is due at once.
        self._expiry: asyncio.Handle | None = None
        self._expiry_at = 0.0
        self._read_outage = Outage()
        self._renew()

    def _renew(self) -> None:
        """Know nothing of anybody, and do nothing."""
        self._roster: Roster[M] = Roster(limit=self._limit)
        self._tables = Tables(self._node, self._roster.ledger, self._spawn)
        self._catching_up = CatchingUp(self._read_anew, self._spawn)
        self._unread.clear()

    def start(self) -> None:
        """Begin to tell other processes, and to notice which of them die."""
        if self._beating is not None or self._node.alone:
            return
        self._beat_now = asyncio.Event()
        self._roster.begin(self._node.name)
        self._tables.start()
        self._tables.wake()
        self._beating = asyncio.get_running_loop().create_task(self._beat())

    async def stop(self) -> None:
        """Stop telling; the backend takes this process's entries back.

        The others keep users present that may come back on one of them within their grace.
        """
        roster, tables, beating = self._roster, self._tables, self._beating
        if beating is not None and self._node.backend.state == "up":
            now = asyncio.get_running_loop().time()
            for room, leaves, stays in roster.last_words(now, self._grace):
                diff = PresenceDiff(0, 0, {}, leaves, stays=stays)
                self._node.publish(f"room:{room}", diff)
        # Before anything is awaited: what still arrives is to find no room, and to begin nothing.
        self._renew()
        self._beating = None
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        tables.stop()
        for room in roster.rooms:
            self._dropped(room)
        tasks = {*self._passing, *([beating] if beating is not None else [])}
        for task in tasks:
            task.cancel()
        for known in tuple(self._reads):
            self._end_read(known)
        if tasks:
            await asyncio.wait(tasks)
        self._telling.clear()  # a task that is cancelled before its first step does not

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
            self._drop(roster)
            raise
        if roster is not self._roster or not roster.tracks(member, room, entry):
            return  # it went meanwhile, tracks anew, or all of this has stopped
        roster.announce(member, room)
        self._changed()
        self._catching_up.hurry(room)
        await self._tables.written(room, member.id)

    async def _known(self, room: str) -> RoomRoster[M]:
        """Return what is known of a room in which somebody tracks, read if it is new here."""
        known = self._roster.rooms[room]
        if not known.was_read and self._beating is not None and known not in self._reads:
            self._begin_read(known)
            self._spawn(self._load(room, known))  # a task: whoever waits may be cancelled
        if known in self._reads:
            await asyncio.wait((self._reads[known],))
        return known

    def untrack(self, member: M, room: str) -> None:
        """Make a member absent at once: it left the room, and meant to.

        Raises:
            TypeError: The room's name is not a str.
        """
        check_text(room, "room name")
        if self._roster.is_tracking(member.id):
            self._roster.untrack(member, room)
            self._tables.release(room, member.id)
            self._changed()

    def gone(self, member: M) -> None:
        """Note that a connection ended, while it is in its rooms still; a user stays a while."""
        if member.id not in self._roster._rooms_of:
            return
        loop = asyncio.get_running_loop()
        self._roster.gone(member, loop.time(), self._grace)
        for room in member._rooms:
            self._tables.release(room, member.id)
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
        self._tables.wake()
        self._drop(self._roster)
        for room in sorted(self._roster.news - self._telling):
            self._telling.add(room)
            self._spawn(self._tell(room))

    def _drop(self, roster: Roster[M]) -> None:
        for room in roster.take_dropped():
            self._dropped(room)

    # What anybody may ask.

    def knows(self, room: str) -> bool:
        """Whether somebody of this process tracks in a room, or is still in the grace there.

        As long as that is so, the diffs of other processes have to arrive.
        """
        return room in self._roster.rooms

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
        if self._beating is not None:
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
        loop = asyncio.get_running_loop()
        now = loop.time()
        until = {
            each: now + min(seconds, MOST_STAY)
            for each, seconds in diff.stays.items()
            if seconds > 0
        }
        self._roster.apply(room, Change(node, diff.joins, diff.leaves, diff.whole, until))
        self._changed()
        self._expire_in_time(loop)

    def refresh(self, rooms: Iterable[str]) -> None:
        """Read rooms anew, those that are known here: diffs of other processes were missed."""
        for room in rooms:
            if room not in self._roster.rooms or self._beating is None:
                continue
            if self._node.backend.state == "up":
                self._catching_up.want(room)
            else:
                self._unread[room] = None

    async def _read_anew(self, room: str) -> None:
        known = self._roster.rooms.get(room)
        if known is not None and known in self._reads:
            known.outdated = True  # by whoever reads it now
        elif known is not None:
            self._begin_read(known)
            await self._load(room, known)

    def _begin_read(self, known: RoomRoster[M]) -> None:
        self._reads[known] = asyncio.get_running_loop().create_future()

    def _end_read(self, known: RoomRoster[M]) -> None:
        future = self._reads.pop(known, None)
        if future is not None and not future.done():
            future.set_result(None)

    async def _load(self, room: str, known: RoomRoster[M]) -> None:
        """Take over what the backend knows, then the diffs that came meanwhile."""
        roster = self._roster
        try:
            while True:
                known.outdated, table = False, None
                roster.begin_reading(known)
                try:
                    table = await self._read(room)
                finally:
                    roster.end_reading(room, known, table, patient=self._is_patient())
                if table is None or not known.outdated:
                    break
        finally:
            self._end_read(known)
        if table is None and roster.rooms.get(room) is known:
            self._unread[room] = None  # it is read again with the next sign of life
        self._changed()
        self._expire_in_time(asyncio.get_running_loop())

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

    def back(self) -> None:
        """Make up for an outage of the backend, which may have forgotten all, or gone back in time.

        What this process has there is replaced, wherever that is.
        """
        self.be_patient()
        self._replace_all()
        self._read_unread()
        self._beat_now.set()

    def _replace_all(self) -> None:
        self._tables.write_anew(self._roster.own_rooms)

    def _read_unread(self) -> None:
        unread, self._unread = self._unread, {}
        self.refresh(unread)

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
                if (left := due - loop.time()) > 0:
                    # In steps, since somebody may come meanwhile who is told sooner.
                    await asyncio.sleep(min(left, DIFF_SECONDS))
                    continue
                for recipients, message in roster.news_of(room, loop.time()):
                    # Some may have left while the one before was sent.
                    await self._send([each for each in recipients if room in each._rooms], message)
        except Exception:
            log.exception("could not tell the members of %.200r who is present", room)
        finally:
            self._telling.discard(room)

    # Signs of life.

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
                    self._replace_all()
                last = loop.time()
                if not self._is_patient():
                    self._roster.forget_nodes(known - alive)
                    self._changed()
                    self._node.forget_dead(alive)
                    if was_patient:  # with who is back by now, and who is not
                        self.refresh(self._roster.rooms)
                was_patient = self._is_patient()
                self._read_unread()
                self._tables.sweep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._beat_now.wait()
            self._beat_now.clear()

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
