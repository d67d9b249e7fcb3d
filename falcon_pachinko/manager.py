"""Who is connected, in which rooms, and how a message gets to all of them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from falcon_pachinko.backends import open_backend
from falcon_pachinko.backends.base import Backend, HistoryPosition
from falcon_pachinko.cluster.history import History
from falcon_pachinko.cluster.node import Cluster, Gap
from falcon_pachinko.cluster.parcels import (
    ALL,
    Broadcast,
    Disconnect,
    Parcel,
    ParcelPackets,
    PresenceDiff,
    channel_of,
    implied_by,
)
from falcon_pachinko.cluster.presence import GRACE, Presence, Present
from falcon_pachinko.connection.connection import LINGER, Connection, check_close_code
from falcon_pachinko.counters import Tally, type_of
from falcon_pachinko.errors import (
    ConnectionStateError,
    EncodeError,
    NoHistoryError,
    UnknownConnectionError,
)
from falcon_pachinko.leases import check_lease
from falcon_pachinko.limits import HistoryLimits, Limits
from falcon_pachinko.messages.codec import JSON, MSGPACK, Codec, Packet
from falcon_pachinko.names import check_name
from falcon_pachinko.rooms.drain import Drained, drain
from falcon_pachinko.rooms.options import OptionsByPrefix, RoomOptions
from falcon_pachinko.rooms.registry import Membership
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

    sent: int
    """How many connections got the message, or have it waiting in their outbox."""
    dropped: int
    """How many did not: their outbox was full, or they were on their way out."""
    published: bool = False
    """Whether it is on its way to other processes; False without a backend, or while it is away."""


class _Packets(dict[Codec, Packet]):
    """A message by codec; one that a connection took up meanwhile is made when it is asked for."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __missing__(self, codec: Codec) -> Packet:
        packet = self[codec] = codec.encode(self._message)
        return packet


class WebSocketConnectionManager(Membership):
    """Knows this process's connections and their rooms, and sends to any set of them.

    `install` makes one per app, as ``app.ws_connection_manager``. All of it
    belongs to the app's event loop: call it from there.

    Example::

        for room in await manager.get_rooms_by_prefix("chat:"):
            await manager.broadcast_to_room(room, {"type": "notice"})
    """

    def __init__(self, limits: Limits | None = None, backend: Backend | str | None = None) -> None:
        self.limits = limits or Limits()
        super().__init__(Cluster(open_backend(backend), self._arrived, self._missed, self._is_back))
        self._presence = Presence(
            self.cluster, self._send_to, lambda room: self._options.of(room).presence_grace
        )
        self._history = History(
            self.cluster,
            self._rooms.members,
            self._fan_out_parcel,
            lambda room: self._options.of(room).history,
            self._background,
        )
        self.tally = Tally()
        """What has happened so far; see `status`."""
        self.draining = False
        """Whether the server is going down: nobody new is accepted."""
        self._options = OptionsByPrefix()
        self._on_gap: list[Callable[[Gap], Awaitable[None]]] = []
        self._gauges: dict[str, Callable[[], Any]] = {}
        self._endings: set[asyncio.Task[Any]] = set()

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

    async def join_room(
        self, connection_id: str, room: str, *, since: HistoryPosition | None = None
    ) -> None:
        """Put a connection into a room; being in it already is no error.

        Returns when broadcasts of other processes reach it, or their backend is away.

        Args:
            connection_id: The connection.
            room: The room.
            since: Where the client was when it was here last, in a room with a history:
                it gets ``history.state``, what it missed, and then what is live.

        Raises:
            UnknownConnectionError: No connection here has that id.
            InvalidNameError: The name cannot name a room.
            RoomLimitError: It is in as many rooms as it may be.
            NoHistoryError: ``since`` is given, and the room has no history.
            ConnectionStateError: ``since`` is given, and the connection is in it already.
        """
        await self.bring_into(self._known(connection_id), room, since)

    async def leave_room(self, connection_id: str, room: str) -> None:
        """Take a connection from a room; a room or an id that is not there is no error."""
        connection = self._connections.get(connection_id)
        if connection is not None:
            self.leave(connection, room)

    # Sending.

    async def broadcast(
        self, message: Any, *, to: Target, exclude: Collection[str] = (), store: bool | None = None
    ) -> Delivery:
        """Send a message to whom a target names; encoded once, before anybody gets it.

        It waits for no client: one that reads slowly has the message waiting in
        its outbox. A long fan-out lets other tasks run in between.

        Args:
            message: What can be encoded: dicts, structs, lists, text, numbers, ...
            to: ``room("lobby") & tag("pro") - user("bob")`` and the like.
            exclude: Ids of connections that do not get it.
            store: Whether a room that has a history remembers it: by default it does;
                ``exclude`` then is only about those who are there now.

        Raises:
            EncodeError: The message cannot be encoded; nobody got it.
            LeaseLostError: A singleton worker sends it, after its lease ended.
        """
        check_lease()
        if (
            store is not False
            and self._options
            and type(to) is Room
            and self._options.of(to.name).history
        ):
            return await self._broadcast_kept(message, to.name, exclude)
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
        published = False
        if not self.cluster.alone:
            published = self._publish(message, packets, to, exclude)
        sent = await self._fan_out(chosen, packets)
        self.tally.count_sent(type_of(message), sent)
        return Delivery(sent, len(chosen) - sent, published)

    async def _fan_out(self, chosen: list[Connection], packets: dict[Codec, Packet]) -> int:
        """Give a frame to connections, and let other tasks run now and then; say how many took it.

        No task per connection: a frame that leaves at once costs one step of the server's ``send``.
        """
        sent = 0
        for start in range(0, len(chosen), STRIDE):
            if start:
                await asyncio.sleep(0)
            for connection in chosen[start : start + STRIDE]:
                sent += connection.push(packets[connection.codec])
        return sent

    async def broadcast_to_room(
        self, room: str, message: Any, *, exclude: Collection[str] = (), store: bool | None = None
    ) -> Delivery:
        """Send a message to the members of a room; an empty room is no error."""
        return await self.broadcast(message, to=Room(room), exclude=exclude, store=store)

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
        """Close whom a target names, each after what waits for it; return how many here.

        With a backend, those of other processes are closed too, and not counted.

        Args:
            to: A target, or the id of one connection.
            code: The close code they get.
            reason: A few words; what does not fit into 123 bytes is cut off.

        Raises:
            ValueError: The code is not one that may be sent.
        """
        check_close_code(code)
        check_lease()
        target = ConnectionId(to) if isinstance(to, str) else to
        if not self.cluster.alone and not self._is_here(target):
            self.cluster.publish(channel_of(target), Disconnect(0, 0, code, reason, target))
        return await self._disconnect_here(target, code, reason)

    async def _disconnect_here(self, target: Target, code: int, reason: str) -> int:
        closing = [each for each in target.select(self) if not each.closed]
        for count, connection in enumerate(closing, 1):
            connection.begin_close(code, reason)
            if not count % STRIDE:
                await asyncio.sleep(0)
        return len(closing)

    # Other processes.

    def _publish(
        self, message: Any, packets: _Packets, to: Target, exclude: Collection[str]
    ) -> bool:
        """Let the other processes send a message to whom the target names there."""
        if self._is_here(to):
            return False
        channel = channel_of(to)
        parcel = self._parcel(message, packets, exclude, self.cluster.subprotocols)
        if implied_by(channel) != to:
            parcel.target = to
        return self.cluster.publish(channel, parcel)

    def _parcel(
        self, message: Any, packets: _Packets, exclude: Collection[str], spoken: Collection[str]
    ) -> Broadcast:
        excluded = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        data = packets[MSGPACK].event["bytes"] if spoken else None
        return Broadcast(0, 0, type_of(message), packets[JSON].event["text"], data, excluded)

    async def _broadcast_kept(self, message: Any, room: str, exclude: Collection[str]) -> Delivery:
        spoken = self.cluster.subprotocols | self.cluster.own_subprotocols
        parcel = self._parcel(message, _Packets(message), exclude, spoken)
        return Delivery(*await self._history.send(room, parcel))

    def _is_here(self, target: Target) -> bool:
        """Whether a target is one connection, of this process: nobody else need hear of it."""
        return isinstance(target, ConnectionId) and target.name in self._connections

    async def _arrived(
        self, node: str, parcel: Parcel, channel: str, position: HistoryPosition | None
    ) -> None:
        """Do here what another process asked for."""
        kind, _, name = channel.partition(":")
        match parcel:
            case Broadcast() if position is not None:
                if kind == "room":
                    await self._history.deliver(node, name, parcel, position)
            case PresenceDiff() if kind == "room":
                self._presence.take(node, name, parcel)
            case Broadcast():
                target = parcel.target or implied_by(channel) or Everyone()
                members, excluded = target.select(self), set(parcel.exclude)
                chosen = [each for each in members if each.id not in excluded]
                await self._fan_out_parcel(chosen, ParcelPackets(parcel))
            case Disconnect(code=code, reason=reason, target=target):
                try:
                    check_close_code(code)
                except ValueError as error:
                    self.cluster.reject(str(error))
                else:
                    await self._disconnect_here(target, code, reason)

    async def _fan_out_parcel(self, chosen: list[Connection], packets: ParcelPackets) -> int:
        """`_fan_out` for what came encoded; who speaks what has no form of it is left out."""
        for codec in tuple(self._codecs):
            try:
                packets[codec]
            except EncodeError as error:
                self.cluster.reject(str(error))
                chosen = [each for each in chosen if each.codec is not codec]
        sent = await self._fan_out(chosen, packets)
        self.tally.count_sent(packets.type, sent)
        return sent

    async def _missed(self, gap: Gap) -> None:
        """Make up for a gap, and tell the hooks, and the clients of rooms that asked for it."""
        for hook in self._on_gap:
            self._background(self._tell(hook, gap))  # one that waits for a message gets it
        kind, _, name = (gap.channel or "").partition(":")
        everywhere = gap.channel is None or gap.channel == ALL
        rooms = self._rooms.names() if everywhere else [name] if kind == "room" else []
        if gap.channel is None:
            self._presence.be_patient()
        self._presence.refresh(rooms)
        for count, room in enumerate(rooms if self._options else (), 1):
            await self._history.catch_up(room)
            if self._options.of(room).resync:
                resync = {"type": "resync", "payload": {"room": room}}
                await self._send_to(self._rooms.members(room), resync)
            if not count % STRIDE:
                await asyncio.sleep(0)

    async def _tell(self, hook: Callable[[Gap], Awaitable[None]], gap: Gap) -> None:
        try:
            await hook(gap)
        except Exception:
            log.exception("a hook on gaps failed")

    def _is_back(self) -> None:
        """The backend is up: tell it what it may have forgotten, or never heard."""
        self._presence.be_patient()
        self._presence.write_again()
        self._background(self._history.mend())

    def _background(self, job: Coroutine[Any, Any, None]) -> None:
        self.expect_end_of(asyncio.get_running_loop().create_task(job))

    async def _send_to(self, connections: Collection[Connection], message: Any) -> None:
        """Send a message of the library's own to connections of this process."""
        sent = await self._fan_out(list(connections), _Packets(message))
        self.tally.count_sent(type_of(message), sent)

    def on_gap(self, hook: Callable[[Gap], Awaitable[None]]) -> None:
        """Have a coroutine function called whenever messages of other processes may be missing.

        Example::

            async def reload_prices(gap):
                log.warning("missed something on %s: %s", gap.channel, gap.why)

            manager.on_gap(reload_prices)
        """
        self._on_gap.append(hook)

    def configure_rooms(
        self,
        prefix: str,
        *,
        history: HistoryLimits | None = None,
        presence_grace: float = GRACE,
        resync: bool = False,
    ) -> None:
        """Say what rooms do whose names begin with a plain string; the longest prefix counts.

        Call it where the app is made, alike in every process.

        Args:
            prefix: ``"chat:"``, or ``""`` for all rooms.
            history: Keep the messages, for clients that come back; see `join_room`. Each
                message then has the field ``history`` with its room, epoch and offset.
            presence_grace: Seconds that a user who went stays present, so that a reload of
                the page is no leave and a join.
            resync: Send ``{"type": "resync", "payload": {"room": ...}}`` to a room's members
                when messages of other processes may be missing there.

        Example::

            manager.configure_rooms("chat:", history=HistoryLimits(count=50), resync=True)
        """
        if not isinstance(prefix, str):
            raise TypeError(f"configure_rooms({prefix!r}): give what the rooms' names begin with")
        if history is not None and not isinstance(history, HistoryLimits):
            raise TypeError(f"history={history!r}: give HistoryLimits(), or None")
        if not (math.isfinite(presence_grace) and presence_grace >= 0):
            raise ValueError(f"presence_grace={presence_grace!r}: give a number of seconds")
        options = RoomOptions(resync=resync, history=history, presence_grace=presence_grace)
        self._options.put(prefix, options)

    # Presence and history.

    async def track(
        self, connection_id: str, room: str, meta: Mapping[str, Any] | None = None
    ) -> None:
        """Make a connection present in a room, joining it if need be; again, to change its meta.

        It gets ``presence.state``, and ``presence.diff`` whenever somebody comes or goes.

        Raises:
            UnknownConnectionError: No connection here has that id.
            EncodeError: The meta cannot be encoded.
            InvalidNameError: The name cannot name a room.
            RoomLimitError: It is in as many rooms as it may be.
        """
        await self.track_here(self._known(connection_id), room, meta)

    async def untrack(self, connection_id: str, room: str) -> None:
        """Make a connection absent; it stays in the room. One that is not present is no error."""
        connection = self._connections.get(connection_id)
        if connection is not None:
            self._presence.untrack(connection, room)

    async def presence(self, room: str) -> Present:
        """Return who is present in a room, on all processes: ``{key: [meta, ...]}``.

        The key is the user's id, or the connection's where there is no user; a user with
        several connections has several metas.

        Raises:
            BackendError: Nobody on this process is present there, and the backend is away.
        """
        return await self._presence.present(room)

    async def count_present(self, room: str) -> int:
        """Count the users (and connections without one) that are present in a room."""
        return await self._presence.count(room)

    async def history(self, room: str) -> list[Any]:
        """Return the messages of a room that are kept, oldest first, as JSON clients get them.

        Raises:
            NoHistoryError: The room has no history; see `configure_rooms`.
            BackendError: The backend is away.
        """
        return await self._history.kept(room)

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
            "backend": self.cluster.backend.state if self.cluster.backend.shared else None,
            "gaps": self.cluster.gaps,
            "rejected": self.cluster.rejected,
            "unpublished": self.cluster.unpublished,
            **self.tally.status(),
            **{name: read() for name, read in self._gauges.items()},
        }

    # The same without looking the connection up, for the resource.

    async def bring_into(
        self, connection: Connection, room: str, since: HistoryPosition | None = None
    ) -> None:
        """`join_room`, for a connection."""
        if since is None:
            self.join(connection, room)
            await self.cluster.settled()
            return
        check_name(room, "room name")
        try:
            await self._history.join(connection, room, since, lambda: self.join(connection, room))
        except (NoHistoryError, ConnectionStateError):
            raise
        except BaseException:
            self.leave(connection, room)  # it lacks what it was not sent
            raise

    async def track_here(
        self, connection: Connection, room: str, meta: Mapping[str, Any] | None
    ) -> None:
        """`track`, for a connection."""
        check_lease()
        self.join(connection, room)
        await self._presence.track(connection, room, {} if meta is None else meta)

    def forget(self, connection: Connection) -> None:
        """`remove_connection`, for a connection: costs as much as it has rooms and tags."""
        if self._connections.get(connection.id) is connection:
            self._presence.gone(connection)
            super().forget(connection)

    def leave(self, connection: Connection, room: str) -> None:
        """`leave_room`, for a connection."""
        self._presence.untrack(connection, room)
        super().leave(connection, room)

    def has_left(self, connection: Connection, room: str, *, last: bool) -> None:
        """Note that a connection has left a room, and whether it was the last one here."""
        self._history.left(connection, room, last=last)

    def add_gauge(self, name: str, read: Callable[[], Any]) -> None:
        """Let `status` tell what another part of the app knows, under a name of its own."""
        self._gauges[name] = read

    def expect_end_of(self, task: asyncio.Task[Any]) -> None:
        """Have `shut_down` wait for a task that cleans up."""
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def drain(self, seconds: float) -> Drained:
        """Send everybody away, without haste: for a server that is about to stop.

        From now on handshakes are denied with 503. Connections are closed with
        1012, a batch after the other, and the reason tells each batch another time to
        come back; see `close-codes` in the reference. Handlers that run may finish
        first. It returns when everybody is gone, or the time is over.

        Args:
            seconds: How long it may take; with 0, everybody is closed at once.

        Example::

            gone = await app.ws_connection_manager.drain(20)
            log.info("%d closed, %d of them busy", gone.closed, gone.cut)
        """
        self.draining = True
        return await drain(self.all(), seconds)

    async def start(self) -> None:
        """Join the other processes; the app's lifespan does it.

        Raises:
            BackendError: The backend is required, and cannot be reached.
        """
        self.draining = False
        await self.cluster.start()
        self._presence.start()

    async def stop(self) -> None:
        """Close who is still here, wait for all clean-ups, and leave the other processes."""
        await self.shut_down()
        await self._presence.stop()
        await self.cluster.stop()

    async def shut_down(self) -> None:
        """Close who is still here with 1012, and wait until all clean-ups are done.

        What takes longer than ``Limits.shutdown_timeout`` seconds is cancelled, and logged.
        """
        sessions = {each.task for each in self.all() if each.task is not None}
        await self.drain(0)
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
