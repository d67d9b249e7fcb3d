"""Rooms that remember: a client that comes back gets what it missed, then what is live.

The backend gives each message of such a room its place, and all processes
deliver in that order, the sender's own included. So a sender waits for the
backend here, as nowhere else. Without it the members of this process get the
message anyway, and the history ends: no client is told that one with a hole is
complete. What each member gets is decided in `history`; here it is sent.

A room is either live, or it is read anew (`HistoryRoom.held`), since something may have been
missed; then all that arrives is held until that is done. So the order is one, and
whoever listens to the backend never waits for a room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Generic

from falcon_pachinko.backends.base import HistoryPosition, Past
from falcon_pachinko.cluster.catching_up import Arrived, CatchingUp, Held
from falcon_pachinko.cluster.history import (
    Returning,
    RoomHistory,
    Verdict,
    opened,
    packet_for,
    place,
)
from falcon_pachinko.cluster.history_room import Echo, HistoryRoom
from falcon_pachinko.cluster.keeping import write_kept
from falcon_pachinko.cluster.member import M
from falcon_pachinko.cluster.node import Node
from falcon_pachinko.cluster.parcels import Broadcast, ParcelPackets, is_object
from falcon_pachinko.cluster.stored import GivenUp, Stored
from falcon_pachinko.errors import ConnectionStateError, NoHistoryError
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.names import check_text

__all__ = ["History"]

log = logging.getLogger("falcon_pachinko.history")

MESSAGES_PER_TURN = 64
"""How many messages a client that comes back gets before other tasks run."""

SILENCE = 0.9
"""After which part of its time without a message a history has ended by that: not all of it,
since what tells the time there is another clock."""


class History(Generic[M]):
    """What rooms remember; the manager has one.

    Args:
        node: This process among others.
        members: Returns who is in a room here.
        select: Returns whom of a room's members here a message is for: by its target,
            its exclusions, and the rooms in which it was kept before.
        fan_out: Sends packets to members of a room, and returns how many took them; who
            leaves the room meanwhile is left out.
        limits: Returns how much of a room is kept; None for a room without a history.
        spawn: Runs a coroutine in a task of its own, whose end is waited for.
    """

    def __init__(
        self,
        node: Node,
        *,
        members: Callable[[str], Collection[M]],
        select: Callable[[str, Broadcast], list[M]],
        fan_out: Callable[[str, list[M], ParcelPackets], Awaitable[int]],
        limits: Callable[[str], HistoryLimits | None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._node, self._members, self._select = node, members, select
        self._fan_out, self._limits, self._spawn = fan_out, limits, spawn
        self._rooms: dict[
            str, HistoryRoom[M]
        ] = {}  # those with members here that something was done in
        self.stored = Stored(node)
        self.given_up = GivenUp()
        self._catching_up = CatchingUp(self._catch_up, spawn)

    def _room(self, name: str) -> HistoryRoom[M] | None:
        """Return what is known of a room with members here."""
        room = self._rooms.get(name)
        if room is None and self._members(name):
            room = self._rooms[name] = HistoryRoom(name)
        return room

    # Sending.

    async def send(self, name: str, parcel: Broadcast, key: str = "") -> tuple[int, int, bool]:
        """Keep a message in one room, and have its members get it with its place.

        Waits for the place, ``Backend.timeout`` seconds at most; then the members here get
        the message without one, and the history ends. Nothing ends if it has its place and
        only the members here do not have it yet: they get it. One that is cancelled has
        been sent all the same, maybe.

        Args:
            name: A room that has a history.
            parcel: The message as JSON and, where it has that form, as MessagePack. Its
                target, exclusions and ``kept_in`` say which members get it now.
            key: See `Backend.append`: if it was kept before, nobody gets it again.

        Returns:
            How many members here took it, how many did not, and whether it is published.

        Raises:
            EncodeError: The message is not an object, so that it has no room for its place,
                has more bytes than the history keeps altogether, or is too large for the
                backend. It was not sent.
            NoHistoryError: The room has no history.
        """
        limits = self._limits(name)
        if limits is None:
            raise NoHistoryError(name)
        kept, data = write_kept(name, parcel, limits, self._node.number_alone)
        self._node.backend.check_size(len(data))
        self._node.reaches_others()  # which warns where nobody can be reached
        room, echo = self._room(name), Echo()
        if room is not None:
            room.echoes[kept.seq] = echo
        position = None
        try:
            async with asyncio.timeout(self._node.backend.timeout):
                position = await self.stored.append(name, kept.seq, data, limits, key)
                if room is not None:
                    if key and not echo.over.is_set() and self._is_known(room, name, position):
                        echo.end(0, 0)  # it was kept before, so that nothing comes back
                    elif self._node.alone:
                        self._spawn(self.deliver(self._node.name, name, kept, position))
                    self._catching_up.hurry(name)
                    await echo.over.wait()
        except Exception as error:  # whatever a backend raises, the members here get it
            if position is None and not echo.arrived:
                why = str(error) or "it did not come back in time"
                return await self._send_without_place(name, parcel, kept.seq, why)
            if not isinstance(error, TimeoutError):
                raise
        finally:
            if room is not None:
                del room.echoes[kept.seq]
        taken = (0, 0)
        if room is not None and (echo.arrived or echo.over.is_set()):
            taken = await echo.taken
        return *taken, not self._node.alone

    def _is_known(self, room: HistoryRoom[M], name: str, position: HistoryPosition) -> bool:
        """Whether all members here have what is at a place."""
        known = room.core.known_by_all(self._members(name))
        return known.epoch == position.epoch and position.offset <= known.offset

    async def _send_without_place(
        self, name: str, parcel: Broadcast, seq: int, why: str
    ) -> tuple[int, int, bool]:
        """Give a message to the members here, and end the history: it has a hole now."""
        self.stored.note_hole(name, why)
        chosen = self._select(name, parcel)
        self.given_up.add(seq, tuple(each.id for each in chosen))
        sent = await self._fan_out(name, chosen, ParcelPackets(parcel))
        return sent, len(chosen) - sent, False

    async def deliver(
        self, node: str, name: str, parcel: Broadcast, position: HistoryPosition
    ) -> None:
        """Give a message with a place to the members here, in its turn, once."""
        if not is_object(parcel):
            self._node.reject(f"dropped a kept message of {name!r:.200} that is not an object")
            return
        while (room := self._room(name)) is not None:
            if room.held is not None:
                room.held.add(Arrived(node, parcel, position))
                return
            async with room.order:
                if self._rooms.get(name) is not room or room.held is not None:
                    continue  # all have left, and others have come; or it is to be read
                if self._limits(name) is None:
                    room.core.lose_track()  # there is nothing here that could be read
                if await self._deliver_here(room, node, name, parcel, position):
                    return
                self._hold(name)

    async def _deliver_here(
        self,
        room: HistoryRoom[M],
        node: str,
        name: str,
        parcel: Broadcast,
        position: HistoryPosition,
    ) -> bool:
        """Give a message to the members, if it is news; False if the room has to be read first."""
        verdict = room.core.judge(position)
        if verdict is Verdict.FOREIGN:
            return False
        own = node == self._node.name
        echo, taken = room.echoes.get(parcel.seq) if own else None, (0, 0)
        try:
            # Who has come since it was given up was told of a history that it is part of.
            have_it = self.given_up.take(parcel.seq) if own else ()
            if verdict is Verdict.NEWS:
                room.core.accept(position)
                room.delivered_at = asyncio.get_running_loop().time()
                if echo is not None:
                    echo.arrived = True
                    echo.over.set()
                placed = place(name, parcel, position)
                chosen = self._select(name, parcel)
                if have_it:
                    chosen = [each for each in chosen if each.id not in have_it]
                live, too_slow = room.core.route(chosen, placed)
                for member in too_slow:  # to take its past
                    budget = member.limits.outbox_bytes
                    reason = f"too slow: over {budget} bytes came while it caught up (outbox_bytes)"
                    member._outbox.close(1013, reason)
                sent = await self._fan_out(name, live, placed.packets)
                taken = sent, len(live) - sent
            elif verdict is Verdict.ENDED and echo is not None:
                # Its history has ended since: the members get it as one without a place.
                echo.arrived = True
                chosen = self._select(name, parcel)
                sent = await self._fan_out(name, chosen, ParcelPackets(parcel))
                taken = sent, len(chosen) - sent
        finally:
            if echo is not None:
                echo.end(*taken)
        return True

    # Coming back.

    async def join(
        self, member: M, name: str, since: HistoryPosition, join: Callable[[], None]
    ) -> None:
        """Put a connection into a room, and send it what came after a position, then what is live.

        Cancelled, or with an error, it leaves a member that was not sent everything: the
        caller then takes it out of the room.

        Args:
            member: The connection.
            name: The room.
            since: Where the client was when it was here last.
            join: Puts it into the room.

        Raises:
            NoHistoryError: The room has no history.
            ConnectionStateError: The connection is in that room already.
        """
        if name in member._rooms:
            raise ConnectionStateError(
                f"the connection is in {name!r:.200} already: give since= to the first join_room()"
            )
        limits = self._limits(name)
        if limits is None:
            raise NoHistoryError(name)
        join()
        room = self._room(name)
        if room is None or name not in member._rooms:
            return  # it has gone
        core = room.core
        returning = core.come_back(member)
        try:
            await self._node.subscriptions.live(f"room:{name}")
            at = await self._send_past(core, member, returning, since, limits)
            if not core.is_returning(member, returning):
                return  # it has left
            for placed in core.caught_up(member, at):
                packet = packet_for(placed, member)
                if packet is not None:
                    member._outbox.push(packet)
        finally:
            if core.is_returning(member, returning):
                del core.returning[member]

    async def _send_past(
        self,
        core: RoomHistory[M],
        member: M,
        returning: Returning,
        since: HistoryPosition,
        limits: HistoryLimits,
    ) -> HistoryPosition | None:
        """Send a member its past, again where that has changed; return up to where it goes."""
        at = None
        while core.is_returning(member, returning):
            returning.restart()
            past = await self.stored.read(core.name, at or since, limits)
            if returning.stale or not core.is_returning(member, returning):
                continue
            at = await self._replay(core, member, past)
            if not returning.stale:
                break
        return at

    async def _replay(
        self, core: RoomHistory[M], member: M, past: Past | None, *, certain: bool = False
    ) -> HistoryPosition | None:
        """Tell a member where it stands, and send it what the backend has for it."""
        replay = core.replay(member, past, certain=certain)
        if past is not None and core.epoch != past.position.epoch:
            self._hold(core.name)  # those who were here before know another epoch
        await member.send_media({"type": "history.state", "payload": replay.state})
        for count, placed in enumerate(replay.entries, 1):
            if core.name not in member._rooms:
                break  # it has left meanwhile
            packet = packet_for(placed, member)
            if packet is not None:
                await member._send(packet, volatile=False, latest=None)
            if not count % MESSAGES_PER_TURN:
                await asyncio.sleep(0)
        return replay.position

    async def kept(self, name: str) -> list[Any]:
        """Return the messages of a room that are kept, oldest first, as JSON clients get them.

        Raises:
            NoHistoryError: The room has no history.
            BackendError: The backend is away.
            TypeError: The room's name is not a str.
        """
        check_text(name, "room name")
        limits = self._limits(name)
        if limits is None:
            raise NoHistoryError(name)
        return await self.stored.messages(name, limits)

    # Gaps.

    def catch_up(self, name: str, *, unkept: bool = False) -> None:
        """Have a room read, since something may have been missed; what arrives is held meanwhile.

        Never waits. A room without members here, or without a history, has nothing to read.

        Args:
            name: The room.
            unkept: Whether what was missed is not in what is kept either.
        """
        held = self._hold(name)
        if held is not None:
            held.missed = True
            held.unkept = held.unkept or unkept

    def _hold(self, name: str) -> Held | None:
        """Hold what arrives for a room, until it is read."""
        room = self._room(name)
        if room is None or self._limits(name) is None:
            return None
        if room.held is None:
            room.held = Held()
        room.held.again = True
        self._catching_up.want(name)
        return room.held

    async def _catch_up(self, name: str) -> None:
        """Deliver what was missed, then what was held; the room is live again after that.

        While the backend is away it stays as it is: whoever is back has missed something, and
        reads all rooms.
        """
        room, loop = self._rooms.get(name), asyncio.get_running_loop()
        while room is not None and room.held is not None:
            limits, held = self._limits(name), room.held
            if limits is None:
                room.held = None  # it remembers nothing any more
                return
            missed, unkept = held.missed, held.unkept
            held.ask()
            known = room.core.known_by_all(self._members(name))
            if unkept and room.core.uncertain != room.core.epoch:
                known = HistoryPosition()  # what they miss is not in what came after
            past = await self.stored.read(name, known, limits)
            if past is None and self._node.backend.state != "up":
                return
            async with room.order:
                if self._rooms.get(name) is not room:
                    return  # all have left meanwhile
                silence = loop.time() - room.delivered_at
                certain = not missed and silence > limits.seconds * SILENCE
                await self._take_over(room, name, past, certain=certain, unkept=unkept)
                if past is not None:
                    room.core.end(each.position.epoch for each in held.messages[: held.before])
                if await self._release(room, held):
                    room.held = None
                    return

    async def _take_over(
        self, room: HistoryRoom[M], name: str, past: Past | None, *, certain: bool, unkept: bool
    ) -> None:
        """Have the members know what was read; None if it cannot be.

        Args:
            room: The room.
            name: Its name.
            past: What was read.
            certain: Whether members have had all that came before it: its history has ended
                by its time, in silence, and nothing was missed.
            unkept: Whether they miss something that is in no history.
        """
        core = room.core
        if past is None:
            core.lose_track()
            for member in [each for each in self._members(name) if each not in core.returning]:
                await self._replay(core, member, None)
        elif past.complete and core.epoch == past.position.epoch:
            for node, parcel, position in opened(past):
                await self._deliver_here(room, node, name, parcel, position)
        else:
            await self._begin_anew(room, name, past, certain=certain, unkept=unkept)

    async def _release(self, room: HistoryRoom[M], held: Held) -> bool:
        """Deliver what was held, in its order; False if the room has to be read once more."""
        core = room.core
        while held.messages and not held.again:
            arrived = held.take()
            for count, each in enumerate(arrived):
                if not await self._deliver_here(room, each.node, core.name, *each[1:]):
                    held.put_back(arrived[count:])
                    return False
        return not held.again

    async def _begin_anew(
        self, room: HistoryRoom[M], name: str, past: Past, *, certain: bool, unkept: bool
    ) -> None:
        """Give what is kept to all members: nobody can tell what they missed, or nothing is."""
        members = [each for each in self._members(name) if each not in room.core.returning]
        room.core.begin_anew(past, certain=certain, unkept=unkept)
        room.delivered_at = asyncio.get_running_loop().time()
        for member in members:
            # Sending waits now and then; who has left meanwhile is to leave nothing here.
            if name in member._rooms and self._rooms.get(name) is room:
                await self._replay(room.core, member, past, certain=certain)
        for node, parcel, _ in opened(past):
            echo = room.echoes.get(parcel.seq)
            if echo is not None and node == self._node.name:
                echo.arrived = True
                echo.end(len(members), 0)

    def left(self, member: M, name: str, *, last: bool) -> None:
        """Note that a connection is not in a room any more; maybe it was the last one here."""
        room = self._rooms.get(name)
        if room is None:
            return
        room.core.leave(member)
        if last:
            del self._rooms[name]
            for echo in room.echoes.values():
                echo.end(0, 0)  # it is not listened to any more
