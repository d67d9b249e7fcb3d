"""Who is connected, in which rooms, and how a message gets to all of them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, NamedTuple

from falcon_pachinko.codec import JSON, Codec, Packet
from falcon_pachinko.connection import LINGER, Connection, check_close_code
from falcon_pachinko.errors import (
    DuplicateConnectionError,
    RoomLimitError,
    UnknownConnectionError,
)
from falcon_pachinko.limits import Limits
from falcon_pachinko.rooms import Index, check_room_name
from falcon_pachinko.tally import Tally
from falcon_pachinko.targets import ConnectionId, Everyone, Room, Target, User

if TYPE_CHECKING:
    from falcon.asgi import WebSocket

    from falcon_pachinko.typing import AsgiEvent

__all__ = ["Delivery", "WebSocketConnectionManager"]

log = logging.getLogger("falcon_pachinko")

STRIDE = 256
"""How many members a fan-out serves before it lets other tasks run (about a millisecond)."""


class Delivery(NamedTuple):
    """What became of a broadcast on this process; no drop is silent."""

    queued: int
    """How many connections got the message, or have it waiting in their outbox."""
    dropped: int
    """How many did not: their outbox was full, or they were on their way out."""
    published: bool = False
    """Whether it went to other processes too."""


class _Packets(dict[Codec, Packet]):
    """A message by codec; one that a connection took up meanwhile is made when it is asked for."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __missing__(self, codec: Codec) -> Packet:
        packet = self[codec] = codec.encode(self._message)
        return packet


class WebSocketConnectionManager:
    """Knows this process's connections and their rooms, and sends to any set of them.

    `install` makes one per app, as ``app.ws_connection_manager``. All of it
    belongs to the app's event loop: call it from there.

    Example::

        for room in await manager.get_rooms_by_prefix("chat:"):
            await manager.broadcast_to_room(room, {"type": "notice"})
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.tally = Tally()
        """What has happened so far; see `status`."""
        self.draining = False
        """Whether the server is going down: nobody new is accepted."""
        self._connections: dict[str, Connection] = {}
        self._rooms: Index[Connection] = Index()
        self._users: Index[Connection] = Index()
        self._tags: Index[Connection] = Index()
        self._addresses: Index[Connection] = Index()
        self._gauges: dict[str, Callable[[], Any]] = {}
        self._codecs: Counter[Codec] = Counter()  # how many connections speak which
        self._endings: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._connections)

    # Membership.

    async def add_connection(
        self, connection_id: str, ws: Connection | WebSocket, resource: object = None
    ) -> None:
        """Make a connection known; the library does it for its own.

        Use it for a `falcon.asgi.WebSocket` that an ``on_websocket`` of your own
        serves, so that rooms and broadcasts reach it too; accept it first, and
        `remove_connection` when it ends.

        Raises:
            DuplicateConnectionError: The id is taken.
        """
        if not isinstance(ws, Connection):
            ws = _adopt(connection_id, ws, self)
        if resource is not None:
            ws.resource = resource
        self.add(ws, connection_id)

    async def remove_connection(self, connection_id: str) -> None:
        """Forget a connection and take it from its rooms; an unknown id is no error."""
        connection = self._connections.get(connection_id)
        if connection is not None:
            self.forget(connection)

    async def join_room(self, connection_id: str, room: str) -> None:
        """Put a connection into a room; being in it already is no error.

        Raises:
            UnknownConnectionError: No connection here has that id.
            RoomNameError: The name cannot name a room.
            RoomLimitError: It is in as many rooms as it may be.
        """
        self.join(self._known(connection_id), room)

    async def leave_room(self, connection_id: str, room: str) -> None:
        """Take a connection from a room; a room or an id that is not there is no error."""
        connection = self._connections.get(connection_id)
        if connection is not None:
            self.leave(connection, room)

    # Sending.

    async def broadcast(
        self, message: Any, *, to: Target, exclude: Collection[str] = ()
    ) -> Delivery:
        """Send a message to whom a target names; encoded once, before anybody gets it.

        It waits for no client: one that reads slowly has the message waiting in
        its outbox. A long fan-out lets other tasks run in between.

        Args:
            message: What can be encoded: dicts, structs, lists, text, numbers, ...
            to: ``room("lobby") & tag("pro") - user("bob")`` and the like.
            exclude: Ids of connections that do not get it.

        Raises:
            EncodeError: The message cannot be encoded; nobody got it.
        """
        members = to.select(self)
        if exclude:
            excluded = {exclude} if isinstance(exclude, str) else exclude
            chosen = [member for member in members if member.id not in excluded]
        else:
            chosen = list(members)
        codecs = self._codecs if len(self._codecs) == 1 else {each.codec for each in chosen}
        packets = _Packets(message)
        for codec in codecs or (JSON,):
            packets[codec] = codec.encode(message)
        queued = 0
        for start in range(0, len(chosen), STRIDE):
            if start:
                await asyncio.sleep(0)
            for connection in chosen[start : start + STRIDE]:
                queued += connection.push(packets[connection.codec])
        self.tally.count_sent(message, queued)
        return Delivery(queued, len(chosen) - queued)

    async def broadcast_to_room(
        self, room: str, message: Any, *, exclude: Collection[str] = ()
    ) -> Delivery:
        """Send a message to the members of a room; an empty room is no error."""
        return await self.broadcast(message, to=Room(room), exclude=exclude)

    async def broadcast_to_all(self, message: Any, *, exclude: Collection[str] = ()) -> Delivery:
        """Send a message to every connection."""
        return await self.broadcast(message, to=Everyone(), exclude=exclude)

    async def send_to_connection(self, connection_id: str, message: Any) -> Delivery:
        """Send a message to one connection; one that has gone gets nothing, quietly."""
        return await self.broadcast(message, to=ConnectionId(connection_id))

    async def send_to_user(self, user_id: str, message: Any) -> Delivery:
        """Send a message to all connections of a user."""
        return await self.broadcast(message, to=User(user_id))

    async def disconnect(self, to: Target | str, code: int = 1000, reason: str = "") -> int:
        """Close whom a target names, each after what waits for it; return how many.

        Args:
            to: A target, or the id of one connection.
            code: The close code they get.
            reason: A few words; what does not fit into 123 bytes is cut off.

        Raises:
            ValueError: The code is not one that may be sent.
        """
        check_close_code(code)
        target = ConnectionId(to) if isinstance(to, str) else to
        closing = [each for each in target.select(self) if not each.closed]
        for count, connection in enumerate(closing, 1):
            connection.begin_close(code, reason)
            if not count % STRIDE:
                await asyncio.sleep(0)
        return len(closing)

    # Looking.

    async def get_connections_in_room(self, room: str) -> list[Connection]:
        """Return a room's connections on this process, in no particular order."""
        return list(self._rooms.members(room))

    async def get_rooms_by_prefix(self, prefix: str) -> list[str]:
        """Return the rooms whose names start with a plain string, sorted.

        The cost is that of the answer, however many other rooms there are.
        """
        return self._rooms.names(prefix)

    async def count(self, to: Target | None = None) -> int:
        """Count whom a target names on this process; without one, every connection."""
        return len((to or Everyone()).select(self))

    async def connections(self, room: str | None = None) -> AsyncIterator[Connection]:
        """Go through the connections of this process, or of one room, as they are now."""
        members = self.all() if room is None else self.in_room(room)
        for connection in list(members):
            yield connection

    def status(self) -> dict[str, Any]:
        """Return what there is and what has happened, as plain data for ``/health`` or a log.

        Gauges (``connections``, ``rooms``, ``users``, ``outbox_bytes``, ``workers``) tell
        the moment; counters (see `Tally`) have grown since the process began.

        Example::

            class Health:
                async def on_get(self, req, resp):
                    resp.media = app.ws_connection_manager.status()
        """
        return {
            "state": "draining" if self.draining else "serving",
            "connections": len(self._connections),
            "rooms": len(self._rooms),
            "users": len(self._users),
            "outbox_bytes": sum(each.outbox_bytes for each in self._connections.values()),
            **self.tally.status(),
            **{name: read() for name, read in self._gauges.items()},
        }

    # The directory that targets look members up in.

    def in_room(self, name: str) -> AbstractSet[Connection]:
        """Return a room's members, as a live view."""
        return self._rooms.members(name)

    def of_user(self, name: str) -> AbstractSet[Connection]:
        """Return a user's connections, as a live view."""
        return self._users.members(name)

    def at_address(self, address: str) -> AbstractSet[Connection]:
        """Return who comes from an address, where that is counted, as a live view."""
        return self._addresses.members(address)

    def with_tag(self, name: str) -> AbstractSet[Connection]:
        """Return who wears a tag, as a live view."""
        return self._tags.members(name)

    def with_id(self, name: str) -> AbstractSet[Connection]:
        """Return the connection of that id, if it is here."""
        connection = self._connections.get(name)
        return {connection} if connection is not None else set()

    def all(self) -> AbstractSet[Connection]:
        """Return every connection."""
        return set(self._connections.values())

    # The same without waiting, for the session, the resource and the connection.

    def add(self, connection: Connection, connection_id: str | None = None) -> None:
        """`add_connection`, for a connection."""
        known_as = connection_id or connection.id
        if known_as in self._connections:
            raise DuplicateConnectionError(known_as)
        connection.id = known_as
        self._connections[known_as] = connection
        self._codecs[connection.codec] += 1
        if connection.address is not None:
            self._addresses.add(connection.address, connection)
        self.identify(connection, None)

    def forget(self, connection: Connection) -> None:
        """`remove_connection`, for a connection: costs as much as it has rooms and tags."""
        if self._connections.get(connection.id) is not connection:
            return
        del self._connections[connection.id]
        self._count_codec(connection.codec, -1)
        for room in connection.joined:
            self._rooms.discard(room, connection)
        for tag in connection.worn:
            self._tags.discard(tag, connection)
        connection.joined.clear()
        connection.worn.clear()
        if connection.address is not None:
            self._addresses.discard(connection.address, connection)
        if connection.user_id is not None:
            self._users.discard(connection.user_id, connection)

    def recode(self, connection: Connection, before: Codec) -> None:
        """Note that a connection speaks another codec than before."""
        if connection.id in self._connections:
            self._count_codec(before, -1)
            self._count_codec(connection.codec, 1)

    def _count_codec(self, codec: Codec, by: int) -> None:
        self._codecs[codec] += by
        if not self._codecs[codec]:
            del self._codecs[codec]

    def identify(self, connection: Connection, before: str | None) -> None:
        """Note that a connection belongs to another user than before."""
        if before is not None:
            self._users.discard(before, connection)
        if connection.user_id is not None and connection.id in self._connections:
            self._users.add(connection.user_id, connection)

    def join(self, connection: Connection, room: str) -> None:
        """`join_room`, for a connection; one that has gone joins nothing, quietly."""
        check_room_name(room)
        if room in connection.joined or connection.id not in self._connections:
            return
        limit = connection.limits.rooms
        if len(connection.joined) >= limit:
            raise RoomLimitError(limit)
        connection.joined.add(room)
        self._rooms.add(room, connection)

    def leave(self, connection: Connection, room: str) -> None:
        """`leave_room`, for a connection."""
        if room in connection.joined:
            connection.joined.discard(room)
            self._rooms.discard(room, connection)

    def tag(self, connection: Connection, tag: str) -> None:
        """Put a tag on a connection; one that has gone wears nothing."""
        check_room_name(tag)
        if connection.id in self._connections:
            connection.worn.add(tag)
            self._tags.add(tag, connection)

    def untag(self, connection: Connection, tag: str) -> None:
        """Take a tag off a connection."""
        connection.worn.discard(tag)
        self._tags.discard(tag, connection)

    def add_gauge(self, name: str, read: Callable[[], Any]) -> None:
        """Let `status` tell what another part of the app knows, under a name of its own."""
        self._gauges[name] = read

    def expect_end_of(self, task: asyncio.Task[Any]) -> None:
        """Have `shut_down` wait for a task that cleans up."""
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def shut_down(self) -> None:
        """Close who is still here with 1012, and wait until all clean-ups are done.

        What takes longer than ``Limits.shutdown_timeout`` seconds is cancelled, and logged.
        """
        self.draining = True
        sessions = set()
        for connection in self.all():
            connection.begin_close(1012, "the server restarts; come back")
            if connection.task is not None:
                sessions.add(connection.task)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.limits.shutdown_timeout
        while left := {task for task in sessions | self._endings if not task.done()}:
            if loop.time() >= deadline:
                log.error(
                    "cancelled %d clean-ups that took over %s s (shutdown_timeout)",
                    len(left), self.limits.shutdown_timeout,
                )  # fmt: skip
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=LINGER)
                return
            await asyncio.wait(left, timeout=deadline - loop.time())

    def _known(self, connection_id: str) -> Connection:
        try:
            return self._connections[connection_id]
        except KeyError:
            raise UnknownConnectionError(connection_id) from None


def _adopt(connection_id: str, ws: WebSocket, manager: WebSocketConnectionManager) -> Connection:
    """Wrap a plain Falcon WebSocket, so that it can be sent to like any connection."""

    async def send(event: AsgiEvent) -> None:
        if event["type"] == "websocket.close":
            await ws.close(event["code"], event["reason"] or None)
        elif "text" in event:
            await ws.send_text(event["text"])
        else:
            await ws.send_data(event["bytes"])

    return Connection(
        connection_id, send, manager, subprotocols=getattr(ws, "subprotocols", ()), is_open=True
    )
