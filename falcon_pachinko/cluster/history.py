"""Rooms that remember: a client that comes back gets what it missed, then what is live.

The backend gives each message of such a room its place, and all processes
deliver in that order, the sender's own included. So a sender waits for the
backend here, as nowhere else. Without it the members of this process get the
message anyway, and the history ends: no client is told that one with a hole is
complete.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from falcon_pachinko.backends.base import HistoryPosition, Past
from falcon_pachinko.cluster.parcels import Broadcast, ParcelPackets, decode, is_object
from falcon_pachinko.errors import BackendError, ConnectionStateError, EncodeError, NoHistoryError
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.messages.codec import JSON, Packet

if TYPE_CHECKING:
    from falcon_pachinko.cluster.node import Cluster
    from falcon_pachinko.connection.connection import Connection

__all__ = ["History"]

log = logging.getLogger("falcon_pachinko.history")

TIMEOUT = 3.0
"""Seconds that a sender waits for the backend to give its message a place."""

KEY = "history"
"""The field of a message that tells a client its place."""

STRIDE = 64
"""How many messages a client that comes back gets before other tasks run."""

_MOST_GIVEN_UP = 10_000


class _Placed(NamedTuple):
    """A message with its place."""

    position: HistoryPosition
    packets: ParcelPackets


class _Echo:
    """A message of our own, on its way back from the backend."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        """Set when it has arrived, or nobody is here any more to wait for it."""
        self.arrived = False
        self.taken: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        """By how many of this process it was taken, and by how many not."""

    def end(self, sent: int, dropped: int) -> None:
        self.over.set()
        if not self.taken.done():
            self.taken.set_result((sent, dropped))


class _Returning:
    """What is live for a connection that still gets what it missed."""

    def __init__(self) -> None:
        self.placed: list[_Placed] = []
        self.size = 0

    def hold(self, connection: Connection, placed: _Placed) -> None:
        """Have a message follow; cut off a client that takes the past too slowly for that."""
        packet = _packet(placed, connection)
        if packet is None or connection.closed:
            return
        self.placed.append(placed)
        self.size += packet.size
        budget = connection.limits.outbox_bytes
        if budget is not None and self.size > budget:
            self.placed.clear()
            reason = f"too slow: over {budget} bytes came while it caught up (outbox_bytes)"
            connection._outbox.close(1013, reason)


class _Room:
    """One room with a history, as long as it has members here."""

    def __init__(self) -> None:
        self.order = asyncio.Lock()  # one message at a time, to all of the room
        self.last: HistoryPosition | None = None  # what was delivered here last
        self.echoes: dict[int, _Echo] = {}  # by the number of the parcel
        self.returning: dict[Connection, _Returning] = {}
        self.floors: dict[
            Connection, HistoryPosition
        ] = {}  # what a connection has from the history

    def is_news(self, position: HistoryPosition) -> bool:
        """Whether a place was not delivered yet; from now on it is."""
        if self.last is not None and not _is_after(position, self.last):
            return False
        self.last = position
        return True

    def live(self, members: Collection[Connection], placed: _Placed) -> list[Connection]:
        """Choose who gets a message now: not those who have it, or who get it later."""
        if not self.returning and not self.floors:
            return list(members)
        live = []
        for each in members:
            returning = self.returning.get(each)
            floor = self.floors.get(each)
            if returning is not None:
                returning.hold(each, placed)
            elif floor is None or _is_after(placed.position, floor):
                live.append(each)
                self.floors.pop(each, None)
        return live

    def known_by_all(self, members: Collection[Connection]) -> HistoryPosition:
        """Return up to where every member has everything."""
        if self.last is not None:
            return self.last
        floors = [self.floors.get(each) for each in members if each not in self.returning]
        known = [each for each in floors if each is not None]
        if len(known) < len(floors) or len({each.epoch for each in known}) != 1:
            return HistoryPosition()
        return min(known, key=lambda each: each.offset)


class History:
    """What rooms remember; the manager has one.

    Args:
        cluster: This process among others.
        members: Tells who is in a room here.
        fan_out: Gives packets to connections, and returns how many took it.
        limits: Tells how much of a room is kept; None for one that remembers nothing.
        spawn: Runs a coroutine in a task of its own, whose end is waited for.
    """

    def __init__(
        self,
        cluster: Cluster,
        members: Callable[[str], Collection[Connection]],
        fan_out: Callable[[list[Connection], ParcelPackets], Awaitable[int]],
        limits: Callable[[str], HistoryLimits | None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._cluster, self._members, self._fan_out = cluster, members, fan_out
        self._limits, self._spawn = limits, spawn
        self._rooms: dict[str, _Room] = {}
        self._given_up: dict[int, None] = {}  # our own that were delivered without a place
        self._broken: set[str] = set()  # rooms with a message that could not be kept

    def _room(self, name: str) -> _Room | None:
        """Return what is known of a room with members here."""
        room = self._rooms.get(name)
        if room is None and self._members(name):
            room = self._rooms[name] = _Room()
        return room

    # Sending.

    async def send(self, name: str, parcel: Broadcast) -> tuple[int, int, bool]:
        """Keep a message and have everybody get it; return sent, dropped, published.

        Raises:
            EncodeError: The message is no object, so that it has no room for its place.
        """
        if not is_object(parcel):
            raise EncodeError("a room with a history takes objects, which have room for a place")
        data = self._cluster.number_alone(parcel)
        room, echo = self._room(name), _Echo()
        if room is not None:
            room.echoes[parcel.seq] = echo
        try:
            async with asyncio.timeout(TIMEOUT):
                position = await self._append(name, data)
                if room is not None:
                    if self._cluster.alone:
                        node = self._cluster.node
                        self._spawn(self.deliver(node, name, parcel, position))
                    await echo.over.wait()
        except (BackendError, TimeoutError) as error:
            if not echo.arrived:
                why = str(error) or "it did not come back in time"
                return await self._send_without_place(name, parcel, why)
        finally:
            if room is not None:
                del room.echoes[parcel.seq]
        taken = await echo.taken if room is not None else (0, 0)
        return *taken, not self._cluster.alone

    async def _append(self, name: str, data: bytes) -> HistoryPosition:
        limits = self._limits(name)
        assert limits is not None
        await self._cluster.settled()
        await self._end_if_broken(name)
        return await self._cluster.backend.append(f"room:{name}", data, limits)

    async def _send_without_place(
        self, name: str, parcel: Broadcast, why: str
    ) -> tuple[int, int, bool]:
        """Give a message to the members here, and end the history: it has a hole now."""
        log.warning("a message to %.200r was not kept: %s", name, why)
        self._broken.add(name)
        self._given_up[parcel.seq] = None
        if len(self._given_up) > _MOST_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]
        excluded = set(parcel.exclude)
        chosen = [each for each in self._members(name) if each.id not in excluded]
        sent = await self._fan_out(chosen, ParcelPackets(parcel))
        return sent, len(chosen) - sent, False

    async def deliver(
        self, node: str, name: str, parcel: Broadcast, position: HistoryPosition
    ) -> None:
        """Give a message with a place to the members here, in its turn, once."""
        room = self._room(name)
        if room is None:
            return
        if not is_object(parcel):
            self._cluster.reject(f"a message to {name[:200]!r} has no room for its place")
            return
        own = node == self._cluster.node
        async with room.order:
            echo, taken = room.echoes.get(parcel.seq) if own else None, (0, 0)
            try:
                news = room.is_news(position)
                if news and not (own and parcel.seq in self._given_up):
                    if echo is not None:
                        echo.arrived = True
                        echo.over.set()
                    taken = await self._deliver_here(room, name, parcel, position)
                if own:
                    self._given_up.pop(parcel.seq, None)
            finally:
                if echo is not None:
                    echo.end(*taken)

    async def _deliver_here(
        self, room: _Room, name: str, parcel: Broadcast, position: HistoryPosition
    ) -> tuple[int, int]:
        members: Collection[Connection] = self._members(name)
        if parcel.exclude:
            excluded = set(parcel.exclude)
            members = [each for each in members if each.id not in excluded]
        placed = _placed(name, parcel, position)
        live = room.live(members, placed)
        sent = await self._fan_out(live, placed.packets)
        return sent, len(live) - sent

    # Coming back.

    async def join(
        self, connection: Connection, name: str, since: HistoryPosition, join: Callable[[], None]
    ) -> None:
        """Put a connection into a room, and send it what came after a position, then what is live.

        Raises:
            NoHistoryError: The room has no history.
            ConnectionStateError: The connection is in that room already.
        """
        if name in connection._rooms:
            raise ConnectionStateError(
                f"the connection is in {name!r:.200} already: give since= to the first join_room()"
            )
        limits = self._limits(name)
        if limits is None:
            raise NoHistoryError(name)
        join()
        room = self._room(name)
        if room is None or name not in connection._rooms:
            return  # it has gone
        returning = room.returning[connection] = _Returning()
        try:
            await self._cluster.settled()
            past = await self._read(name, since, limits)
            if room.returning.get(connection) is not returning:
                return  # it has left
            await self._replay(connection, room, name, past)
            if room.returning.get(connection) is not returning:
                return
            at = past.position if past is not None else None
            for placed in returning.placed:
                if at is None or _is_after(placed.position, at):
                    at = placed.position
                    _push(connection, placed)
        finally:
            if room.returning.get(connection) is returning:
                del room.returning[connection]

    async def _read(self, name: str, since: HistoryPosition, limits: HistoryLimits) -> Past | None:
        """Ask the backend; None if it is away."""
        try:
            await self._end_if_broken(name)
            return await self._cluster.backend.read(f"room:{name}", since, limits)
        except BackendError as error:
            log.warning("the history of %.200r cannot be read: %s", name, error)
            return None

    async def _replay(
        self, connection: Connection, room: _Room, name: str, past: Past | None
    ) -> None:
        """Tell a client where it stands, and send it what the backend has for it."""
        state: dict[str, Any] = {"room": name, "recovered": False}
        entries: list[_Placed] = []
        if past is not None:
            position, entries = past.position, _all_placed(name, past)
            floor = room.floors.get(connection)
            recovered = past.complete
            if floor is not None and _is_within(floor, past):  # from where nothing was forgotten
                recovered = True
                entries = [each for each in entries if _is_after(each.position, floor)]
            state |= {"recovered": recovered, "epoch": position.epoch}
            state |= {"offset": position.offset, "messages": len(entries)}
            room.floors[connection] = position
        await connection.send_media({"type": "history.state", "payload": state})
        for count, placed in enumerate(entries, 1):
            if name not in connection._rooms:
                return  # it has left meanwhile
            packet = _packet(placed, connection)
            if packet is not None:
                await connection._send(packet, volatile=False, latest=None)
            if not count % STRIDE:
                await asyncio.sleep(0)

    async def kept(self, name: str) -> list[Any]:
        """Return the messages of a room that are kept, oldest first, as JSON clients get them.

        Raises:
            NoHistoryError: The room has no history.
            BackendError: The backend is away.
        """
        limits = self._limits(name)
        if limits is None:
            raise NoHistoryError(name)
        past = await self._cluster.backend.read(f"room:{name}", HistoryPosition(), limits)
        texts = (each.packets[JSON].event["text"] for each in _all_placed(name, past))
        return [msgspec.json.decode(text) for text in texts]

    # Gaps.

    async def catch_up(self, name: str) -> None:
        """Deliver what was missed while this process was cut off from the backend."""
        limits, room = self._limits(name), self._room(name)
        if limits is None or room is None:
            return
        past = await self._read(name, room.known_by_all(self._members(name)), limits)
        if past is None:
            return
        if past.complete:
            for node, parcel, position in _opened(past):
                await self.deliver(node, name, parcel, position)
            return
        async with room.order:
            await self._begin_from(room, name, past)

    async def _begin_from(self, room: _Room, name: str, past: Past) -> None:
        """Give what is kept to all members: nobody can tell what they missed."""
        members = list(self._members(name))
        room.last = past.position
        for connection in members:
            returning = room.returning.get(connection)
            if returning is None:
                await self._replay(connection, room, name, past)
            else:
                for placed in _all_placed(name, past):
                    returning.hold(connection, placed)
        for node, parcel, _ in _opened(past):
            echo = room.echoes.get(parcel.seq)
            if echo is not None and node == self._cluster.node:
                echo.arrived = True
                echo.end(len(members), 0)

    def left(self, connection: Connection, name: str, *, last: bool) -> None:
        """Note that a connection is not in a room any more; maybe it was the last one here."""
        room = self._rooms.get(name)
        if room is None:
            return
        room.returning.pop(connection, None)
        room.floors.pop(connection, None)
        if last:
            del self._rooms[name]
            for echo in room.echoes.values():
                echo.end(0, 0)  # it is not listened to any more

    async def _end_if_broken(self, name: str) -> None:
        """End a history that has a hole; then tell the others, who read it anew."""
        if name in self._broken:
            self._broken.discard(name)
            try:
                await self._cluster.backend.forget(f"room:{name}")
            except BaseException:
                self._broken.add(name)
                raise
            self._cluster.note_hole(f"room:{name}")

    async def mend(self) -> None:
        """End all histories that have a hole: the backend is there again."""
        for name in list(self._broken):
            try:
                await self._end_if_broken(name)
            except BackendError as error:
                log.warning("the history of %.200r has a hole, and is kept: %s", name, error)


def _placed(name: str, parcel: Broadcast, position: HistoryPosition) -> _Placed:
    place = {"room": name, "epoch": position.epoch, "offset": position.offset}
    return _Placed(position, ParcelPackets(parcel, {KEY: place}))


def _all_placed(name: str, past: Past) -> list[_Placed]:
    return [_placed(name, parcel, position) for _, parcel, position in _opened(past)]


def _opened(past: Past) -> list[tuple[str, Broadcast, HistoryPosition]]:
    """Open what the backend has kept; what is no message that can have a place is left out."""
    found = ((decode(data) or ("", None), offset) for offset, data in past.entries)
    return [
        (node, parcel, HistoryPosition(past.position.epoch, offset))
        for (node, parcel), offset in found
        if isinstance(parcel, Broadcast) and is_object(parcel)
    ]


def _packet(placed: _Placed, connection: Connection) -> Packet | None:
    """Write a message as a connection speaks; None if that cannot be."""
    try:
        return placed.packets[connection._codec]
    except EncodeError:
        return None


def _push(connection: Connection, placed: _Placed) -> None:
    packet = _packet(placed, connection)
    if packet is not None:
        connection._outbox.push(packet)


def _is_within(position: HistoryPosition, past: Past) -> bool:
    """Whether a history still has everything after a position."""
    if position.epoch != past.position.epoch:
        return False
    oldest = past.entries[0].offset if past.entries else past.position.offset
    return oldest <= position.offset <= past.position.offset


def _is_after(position: HistoryPosition, other: HistoryPosition) -> bool:
    return position.epoch != other.epoch or position.offset > other.offset
