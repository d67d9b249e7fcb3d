"""What applications call: who is connected, in which rooms, and how to send to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from falcon_pachinko.backends import open_backend
from falcon_pachinko.backends.base import Backend, HistoryPosition
from falcon_pachinko.cluster.node import Gap
from falcon_pachinko.cluster.presence_shell import GRACE, Present
from falcon_pachinko.connection.adopting import adopt
from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.counters import Counters
from falcon_pachinko.errors import ConnectionStateError, DuplicateConnectionError
from falcon_pachinko.limits import HistoryLimits, Limits
from falcon_pachinko.messages.codec import DEFAULT_CODECS, Codecs
from falcon_pachinko.messages.signatures import require_callback
from falcon_pachinko.rooms.asking import Asking
from falcon_pachinko.rooms.drain import Drained, drain
from falcon_pachinko.rooms.exchange import Exchange
from falcon_pachinko.rooms.members import Members, check_id
from falcon_pachinko.rooms.options import OptionsByPrefix, RoomOptions
from falcon_pachinko.rooms.sending import Delivery, Exclude, Sending
from falcon_pachinko.targets import ConnectionId, Everyone, Room, Target, User

if TYPE_CHECKING:
    from falcon.asgi import WebSocket


__all__ = ["WebSocketConnectionManager"]

Hook = TypeVar("Hook", bound=Callable[[Gap], Awaitable[None]])


class WebSocketConnectionManager(Asking):
    """Knows this process's connections and their rooms, and sends to any set of them.

    `install` makes one per app, as ``app.ws_connection_manager``. All of it
    belongs to the app's event loop: call it from there.

    Args:
        limits: What one client may cost, where its route does not say otherwise.
        backend: What connects this process with others: a URL, or a `Backend`.
        enc_hook: What encodes the application's own types, as for `install`.
        dec_hook: What decodes them.

    Example::

        await manager.broadcast({"type": "notice"}, to=to.rooms("chat:"), local=True)
    """

    def __init__(
        self,
        limits: Limits | None = None,
        backend: Backend | str | None = None,
        *,
        enc_hook: Callable[[Any], Any] | None = None,
        dec_hook: Callable[[type, Any], Any] | None = None,
    ) -> None:
        codecs = Codecs(enc_hook, dec_hook) if enc_hook or dec_hook else DEFAULT_CODECS
        self._limits, self._codecs = limits or Limits(), codecs
        self._counters = Counters()
        self._options = OptionsByPrefix()
        self._exchange = Exchange(open_backend(backend), self._options, self._counters, codecs)
        self._members = Members(self._exchange)
        self._sending = Sending(self._exchange, self._members)
        # Shortcuts to what the exchange has, for the paths that every message takes.
        self._registry, self._fanout = self._exchange.registry, self._exchange.fanout
        self._cluster, self._revocations = self._exchange.cluster, self._exchange.revocations
        self._live = self._exchange.live
        self._draining = False  # whether the server is going down: handshakes are denied
        self._gauges: dict[str, Callable[[], Any]] = {}  # of other parts, for `status`

    # Connections and rooms.

    async def add_connection(
        self, connection_id: str, ws: Connection | WebSocket, resource: object = None
    ) -> None:
        """Make a connection known; the library does it for its own.

        Use it for a `falcon.asgi.WebSocket` that an ``on_websocket`` of your own
        serves, so that rooms and broadcasts reach it too; accept it first, and
        `remove_connection` when it ends.

        Raises:
            DuplicateConnectionError: The id is taken.
            ConnectionStateError: It is the library's own, which has an id already.
        """
        self._members.check_loop()
        if isinstance(ws, Connection):
            if connection_id == ws.id and ws.manager is self and not ws.closed:
                if self._registry.connections.get(ws.id) is None:  # it was removed by hand
                    self._registry.add(ws)
                return
            raise ConnectionStateError(
                f"this connection is known already, as {ws.id!r}; set "
                f"ws.user_id = {connection_id!r:.200} to give its client a name"
            )
        if self._members.find(connection_id) is not None:
            raise DuplicateConnectionError(connection_id)
        connection = adopt(connection_id, ws, self, self._limits)
        connection.resource = resource
        self._registry.add(connection)

    async def remove_connection(self, connection_id: str) -> None:
        """Forget a connection and take it from its rooms; an unknown id is ignored."""
        connection = self._members.find(connection_id)
        if connection is not None:
            self._members.forget(connection)

    async def join_room(
        self, connection_id: str, room: str, *, since: HistoryPosition | None = None
    ) -> None:
        """Put a connection into a room; once more changes nothing.

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
        await self._members.join(self._members.known(connection_id), room, since)

    async def leave_room(self, connection_id: str, room: str) -> None:
        """Take a connection from a room; an unknown room or id is ignored.

        Nothing that was sent to the room arrives after it has returned.
        """
        connection = self._members.find(connection_id)
        if connection is not None:
            self._members.leave(connection, room)

    async def get_connections_in_room(self, room: str) -> list[Connection]:
        """Return a room's connections on this process, in no particular order."""
        return list(self._registry.in_room(room))

    async def connections(self, room: str | None = None) -> AsyncIterator[Connection]:
        """Go through the connections of this process, or of one room, as they are now."""
        members = self._registry.all() if room is None else self._registry.in_room(room)
        for connection in list(members):
            yield connection

    # Sending.

    async def broadcast(
        self,
        message: Any,
        *,
        to: Target,
        exclude: Exclude = (),
        store: bool | None = None,
        local: bool = False,
        volatile: bool = False,
        latest: str | None = None,
        idempotency_key: str | None = None,
    ) -> Delivery:
        """Send a message to the connections that a target names; encoded once, before any gets it.

        It waits for no other client: one that reads slowly has the message waiting
        in its outbox. If the client on whose behalf it is called is among them and
        behind, it waits for that one. A long fan-out lets other tasks run in between;
        each connection gets messages in the order of the calls.

        Args:
            message: What can be encoded: dicts, structs, lists, text, numbers ...
            to: ``to.room("lobby") & to.tag("pro") - to.user("bob")`` and the like.
            exclude: Connections that get nothing, by id or themselves.
            store: Whether rooms that keep a history keep it: by default they do, unless
                it is local, volatile or replaceable; ``exclude`` then is only about those
                who are there now.
            local: Send it on this process only.
            volatile: Drop it for clients that are behind, instead of having it wait.
            latest: Replace what still waits under this key, of the same target.
            idempotency_key: Names this message, in rooms with a history: within two minutes,
                what comes with the same key is not kept there, nor sent, once more.

        Raises:
            EncodeError: The message cannot be encoded; nobody got it.
            TypeError: ``to`` is not a target, or ``exclude`` has something else.
            ValueError: The options contradict each other; or an idempotency key is given, and
                the target is more than rooms with a history.
            LeaseLostError: A singleton worker sends it, after its lease ended.
        """
        key = self._sending.key_for(
            idempotency_key, to, store=store, local=local, volatile=volatile, latest=latest
        )
        return await self._sending.send(
            message,
            to,
            exclude=exclude,
            store=store,
            local=local,
            volatile=volatile,
            latest=latest,
            key=key,
        )

    async def broadcast_to_room(
        self,
        room: str,
        message: Any,
        *,
        exclude: Exclude = (),
        store: bool | None = None,
        local: bool = False,
        volatile: bool = False,
        latest: str | None = None,
        idempotency_key: str | None = None,
    ) -> Delivery:
        """Send a message to the members of a room, which may be empty. See `broadcast`."""
        if not isinstance(room, str):
            raise TypeError(f"a room name is a str, not {room!r:.200}; write str({room!r:.80})")
        to = Room(room)
        key = self._sending.key_for(
            idempotency_key, to, store=store, local=local, volatile=volatile, latest=latest
        )
        return await self._sending.send(
            message,
            to,
            exclude=exclude,
            store=store,
            local=local,
            volatile=volatile,
            latest=latest,
            key=key,
        )

    async def broadcast_to_all(
        self,
        message: Any,
        *,
        exclude: Exclude = (),
        store: bool | None = None,
        local: bool = False,
        volatile: bool = False,
        latest: str | None = None,
    ) -> Delivery:
        """Send a message to every connection; see `broadcast`."""
        to = Everyone()
        return await self._sending.send(
            message, to, exclude=exclude, store=store, local=local, volatile=volatile, latest=latest
        )

    async def send_to_connection(
        self,
        connection_id: str,
        message: Any,
        *,
        volatile: bool = False,
        latest: str | None = None,
    ) -> Delivery:
        """Send a message to one connection; one that has gone gets nothing, without an error."""
        check_id(connection_id)
        target = ConnectionId(connection_id)
        return await self._sending.send(message, target, volatile=volatile, latest=latest)

    async def send_to_user(
        self, user_id: str, message: Any, *, volatile: bool = False, latest: str | None = None
    ) -> Delivery:
        """Send a message to all connections of a user."""
        if not isinstance(user_id, str):
            raise TypeError(f"a user_id is a str, not {user_id!r:.200}; write str({user_id!r:.80})")
        return await self._sending.send(message, User(user_id), volatile=volatile, latest=latest)

    # Presence and history.

    async def track(
        self, connection_id: str, room: str, meta: Mapping[str, Any] | None = None
    ) -> None:
        """Make a connection present in a room, joining it if need be; again, to change its meta.

        It gets ``presence.state``, and ``presence.diff`` whenever anyone comes or goes.

        Raises:
            UnknownConnectionError: No connection here has that id.
            EncodeError: The meta cannot be encoded.
            InvalidNameError: The name cannot name a room.
            RoomLimitError: It is in as many rooms as it may be.
        """
        await self._members.track(self._members.known(connection_id), room, meta)

    async def untrack(self, connection_id: str, room: str) -> None:
        """Make a connection absent; it stays in the room. One that is not present is ignored."""
        connection = self._members.find(connection_id)
        if connection is not None:
            self._exchange.presence.untrack(connection, room)

    async def presence(self, room: str) -> Present:
        """Return who is present in a room, on all processes: ``{key: [meta, ...]}``.

        The key is the user's id, or the connection's where there is no user, which begins
        with ``~``; a user with several connections has several metas.

        Raises:
            BackendError: No connection of this process is present there, and the backend is away.
        """
        return await self._exchange.presence.present(room)

    async def count_present(self, room: str) -> int:
        """Count the users (and connections without one) that are present in a room."""
        return await self._exchange.presence.count(room)

    async def history(self, room: str) -> list[Any]:
        """Return the messages of a room that are kept, oldest first, as JSON clients get them.

        Raises:
            NoHistoryError: The room has no history; see `configure_rooms`.
            BackendError: The backend is away.
        """
        return await self._exchange.history.kept(room)

    def configure_rooms(
        self,
        prefix: str,
        *,
        history: HistoryLimits | None = None,
        presence_grace: float = GRACE,
        presence_limit: int = 1000,
        resync: bool = False,
    ) -> None:
        """Say what rooms do whose names begin with a plain string; the longest prefix counts.

        Call it where the app is made, alike in every process. With a backend, processes that
        do not configure a prefix, and a `Publisher`, do as those that have; where two processes
        differ, the log has a warning.

        Args:
            prefix: ``"chat:"``, or ``""`` for all rooms.
            history: Keep the messages, for clients that come back; see `join_room`. Each
                message then has the field ``history`` with its room, epoch and offset.
            presence_grace: Seconds that a user who went stays present, so that a reload of
                the page is no leave and a join.
            presence_limit: With more users (and connections without one) than this, clients
                are told only how many there are: ``presence.count``.
            resync: Send ``{"type": "resync", "payload": {"room": ...}}`` to a room's members
                when messages of other processes may be missing there.

        Example::

            manager.configure_rooms("chat:", history=HistoryLimits(count=50), resync=True)
        """
        grace, limit = presence_grace, presence_limit
        options = RoomOptions(
            resync=resync, history=history, presence_grace=grace, presence_limit=limit
        )
        self._options.put(prefix, options)

    def on_gap(self, hook: Hook) -> Hook:
        """Have a coroutine function called whenever messages of other processes may be missing.

        Example::

            @manager.on_gap
            async def reload_prices(gap):
                log.warning("missed something on %.200r: %s", gap.channel, gap.why)

        Raises:
            HandlerDefinitionError: It is not a coroutine function of one argument.
        """
        require_callback(hook, "on_gap", ("gap",), receiver="")
        self._exchange.on_gap.append(hook)
        return hook

    def status(self) -> dict[str, Any]:
        """Return what there is and what has happened, as plain data for ``/health`` or a log.

        Gauges (``connections``, ``rooms``, ``users``, ``outbox_bytes``, ``workers``) tell
        the moment; counters (see `Counters`) have grown since the process began.

        Example::

            class Health:
                async def on_get(self, req, resp):
                    resp.media = app.ws_connection_manager.status()
        """
        connections = self._registry.connections
        cluster = self._cluster
        return {
            "state": "draining" if self._draining else "serving",
            "connections": len(connections),
            "rooms": len(self._registry.rooms),
            "users": len(self._registry.users),
            "outbox_bytes": sum(each.outbox_bytes for each in connections.values()),
            "backend": cluster.status(),
            "gaps": cluster.gaps,
            "rejected": cluster.rejected,
            "unpublished": cluster.unpublished,
            **self._counters.status(),
            **{name: read() for name, read in self._gauges.items()},
        }

    # Starting and ending.

    async def start(self) -> None:
        """Join the other processes; the app's lifespan does it.

        Raises:
            BackendError: The backend is required, and cannot be reached.
        """
        self._members.settle()
        self._draining = False
        await self._cluster.start()
        await self._exchange.configuration.start()
        self._exchange.presence.start()

    async def stop(self) -> None:
        """Close who is still here, wait for all clean-ups, and leave the other processes.

        What takes longer than ``Limits.shutdown_timeout`` seconds is cancelled, and logged.
        """
        await self.drain(0)
        await self._members.all_over(self._limits.shutdown_timeout)
        await self._exchange.presence.stop()
        await self._exchange.configuration.stop()
        await self._cluster.stop()
        self._exchange.resyncs.stop()

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
        self._draining = True
        return await drain(self._registry.all(), seconds)
