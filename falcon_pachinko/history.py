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
import weakref
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from falcon_pachinko.backends.base import Past, Position
from falcon_pachinko.codec import JSON, Codec, Packet
from falcon_pachinko.errors import BackendError, EncodeError, NotAllowedError
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.parcels import Broadcast, ParcelPackets, decode

if TYPE_CHECKING:
    from falcon_pachinko.cluster import Cluster
    from falcon_pachinko.connection import Connection

__all__ = ["History"]

log = logging.getLogger("falcon_pachinko.history")

TIMEOUT = 3.0
"""Seconds that a sender waits for the backend to give its message a place."""

KEY = "history"
"""The field of a message that tells a client its place."""

_Placed: TypeAlias = tuple[Position, ParcelPackets]


class History:
    """What rooms remember; the manager has one.

    Args:
        cluster: This process among others.
        members: Tells who is in a room here.
        fan_out: Gives packets to connections, and returns how many took it.
        limits: Tells how much of a room is kept; None for one that remembers nothing.
    """

    def __init__(
        self,
        cluster: Cluster,
        members: Callable[[str], Collection[Connection]],
        fan_out: Callable[[list[Connection], dict[Codec, Packet]], Awaitable[int]],
        limits: Callable[[str], HistoryLimits | None],
    ) -> None:
        self._cluster, self._members, self._fan_out = cluster, members, fan_out
        self._limits = limits
        self._order = asyncio.Lock()  # one message at a time, to all of a room
        self._last: dict[str, Position] = {}  # by room, what was delivered here last
        self._echoes: dict[int, asyncio.Future[int]] = {}  # by number, our own under way
        self._given_up: set[int] = set()  # of those, which were delivered without a place
        self._broken: set[str] = set()  # rooms with a message that could not be kept
        self._catching_up: dict[tuple[str, str], list[_Placed]] = {}  # by room and connection
        self._floors: weakref.WeakKeyDictionary[Connection, dict[str, Position]] = (
            weakref.WeakKeyDictionary()
        )  # what a connection has from the history, and is not to get once more

    async def send(self, room: str, parcel: Broadcast) -> tuple[int, int, bool]:
        """Keep a message and have everybody get it; return queued, dropped, published.

        Raises:
            EncodeError: The message is no object, so that it has no room for its place.
        """
        if not parcel.text.startswith("{"):
            raise EncodeError("a room with a history takes objects, which have room for a place")
        here = len(self._members(room))
        data = self._cluster.number_alone(parcel)
        echo = self._echoes[parcel.seq] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(TIMEOUT):
                position = await self._append(room, data)
                if self._cluster.alone:
                    await self.deliver(self._cluster.node, room, parcel, position)
                queued = await echo if here else 0
        except (BackendError, TimeoutError) as error:
            log.warning("a message to %.200r was not kept: %s", room, error or "no echo in time")
            self._broken.add(room)
            self._given_up.add(parcel.seq)
            chosen = list(self._members(room))
            queued = await self._fan_out(chosen, ParcelPackets(parcel))
            return queued, len(chosen) - queued, False
        finally:
            del self._echoes[parcel.seq]
        return queued, max(here - queued, 0), not self._cluster.alone

    async def _append(self, room: str, data: bytes) -> Position:
        backend, channel, limits = self._cluster.backend, f"room:{room}", self._limits(room)
        assert limits is not None
        await self._cluster.settled()
        if room in self._broken:
            await backend.forget(channel)
            self._broken.discard(room)
        return await backend.append(channel, data, limits)

    async def deliver(self, node: str, room: str, parcel: Broadcast, position: Position) -> None:
        """Give a message with a place to the members here, in its turn, once."""
        async with self._order:
            queued = 0
            own = node == self._cluster.node
            if self._is_news(room, position) and not (own and parcel.seq in self._given_up):
                packets = self._packets(room, parcel, position)
                excluded = set(parcel.exclude)
                live = [
                    each
                    for each in self._members(room)
                    if each.id not in excluded and not self._is_elsewhere(each, room, packets)
                ]
                queued = await self._fan_out(live, packets[1])
            echo = self._echoes.get(parcel.seq) if own else None
            if echo is not None and not echo.done():
                echo.set_result(queued)
            self._given_up.discard(parcel.seq)

    def _packets(self, room: str, parcel: Broadcast, position: Position) -> _Placed:
        place = {"room": room, "epoch": position.epoch, "offset": position.offset}
        return position, ParcelPackets(parcel, {KEY: place})

    def _is_news(self, room: str, position: Position) -> bool:
        """Whether a place was not delivered yet; from now on it is."""
        last = self._last.get(room)
        if last is not None and last.epoch == position.epoch and last.offset >= position.offset:
            return False
        self._last[room] = position
        return True

    def _is_elsewhere(self, connection: Connection, room: str, placed: _Placed) -> bool:
        """Whether a connection gets a message by the history, or has it from there."""
        catching_up = self._catching_up.get((room, connection.id))
        if catching_up is not None:
            catching_up.append(placed)
            return True
        floor = self._floors.get(connection, {}).get(room)
        return floor is not None and not _is_after(placed[0], floor)

    # Coming back.

    async def join(
        self, connection: Connection, room: str, since: Position, join: Callable[[], None]
    ) -> None:
        """Put a connection into a room, and send it what came after a position, then what is live.

        Raises:
            NotAllowedError: It is in that room already, or the room has no history.
        """
        if room in connection.joined:
            raise NotAllowedError(
                f"the connection is in {room!r} already; a history is for who joins"
            )
        limits = self._limits(room)
        if limits is None:
            raise NotAllowedError(
                f"{room!r} has no history; give it one: "
                "manager.configure_rooms(prefix, history=HistoryLimits())"
            )
        buffer = self._catching_up[room, connection.id] = []
        try:
            join()
            await self._cluster.settled()
            past = await self._read(room, since, limits)
            await self._replay(connection, room, past)
            for position, packets in buffer:  # may grow meanwhile
                if past is None or _is_after(position, past.position):
                    connection.push(packets[connection.codec])
        finally:
            del self._catching_up[room, connection.id]

    async def _read(self, room: str, since: Position, limits: HistoryLimits) -> Past | None:
        """Ask the backend; None if it is away."""
        try:
            if room in self._broken:
                await self._cluster.backend.forget(f"room:{room}")
                self._broken.discard(room)
            return await self._cluster.backend.read(f"room:{room}", since, limits)
        except BackendError as error:
            log.warning("the history of %.200r cannot be read: %s", room, error)
            return None

    async def _replay(self, connection: Connection, room: str, past: Past | None) -> None:
        state: dict[str, Any] = {"room": room, "recovered": False}
        entries: list[_Placed] = []
        if past is not None:
            entries = self._opened(room, past)
            position = past.position
            state |= {"recovered": past.complete, "epoch": position.epoch}
            state |= {"offset": position.offset, "messages": len(entries)}
            self._floors.setdefault(connection, {})[room] = position
        await connection.send_media({"type": "history.state", "payload": state})
        for _, packets in entries:
            await connection.send_packet(packets[connection.codec])

    def _opened(self, room: str, past: Past) -> list[_Placed]:
        placed = []
        for offset, data in past.entries:
            opened = decode(data)
            if opened is not None and isinstance(opened[1], Broadcast):
                position = Position(past.position.epoch, offset)
                placed.append(self._packets(room, opened[1], position))
        return placed

    async def kept(self, room: str) -> list[Any]:
        """Return the messages of a room that are kept, oldest first, as JSON clients get them.

        Raises:
            NotAllowedError: The room has no history.
            BackendError: The backend is away.
        """
        limits = self._limits(room)
        if limits is None:
            raise NotAllowedError(f"{room!r} has no history")
        past = await self._cluster.backend.read(f"room:{room}", Position(), limits)
        texts = (packets[JSON].event["text"] for _, packets in self._opened(room, past))
        return [msgspec.json.decode(text) for text in texts]

    # Gaps.

    async def catch_up(self, room: str) -> None:
        """Deliver what was missed while this process was cut off from the backend."""
        limits = self._limits(room)
        if limits is None or not self._members(room):
            return
        since = self._last.get(room, Position())
        past = await self._read(room, since, limits)
        if past is None:
            return
        if not past.complete:
            for connection in list(self._members(room)):
                if (room, connection.id) not in self._catching_up:
                    await self._replay(connection, room, past)
            self._last[room] = past.position
            return
        for offset, data in past.entries:
            opened = decode(data)
            if opened is not None and isinstance(opened[1], Broadcast):
                place = Position(past.position.epoch, offset)
                await self.deliver(opened[0], room, opened[1], place)

    def emptied(self, room: str) -> None:
        """Note that nobody here is in a room any more."""
        self._last.pop(room, None)

    async def mend(self) -> None:
        """End the histories that have a hole: the backend is there again."""
        broken, self._broken = self._broken, set()
        self._given_up.clear()
        for room in broken:
            try:
                await self._cluster.backend.forget(f"room:{room}")
            except BackendError:
                self._broken.add(room)


def _is_after(position: Position, other: Position) -> bool:
    return position.epoch != other.epoch or position.offset > other.offset
