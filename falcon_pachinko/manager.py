"""What applications call: who is connected, in which rooms, and how to send to them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from falcon_pachinko.backends import open_backend
from falcon_pachinko.backends.base import Backend, HistoryPosition
from falcon_pachinko.cluster.node import Gap
from falcon_pachinko.cluster.parcels import (
    ALL,
    Disconnect,
    channel_of,
    is_within,
    rooms_named,
)
from falcon_pachinko.cluster.presence_shell import GRACE, Present
from falcon_pachinko.connection.connection import (
    SENDER,
    Connection,
    check_sending,
)
from falcon_pachinko.connection.ends import CLOSE_WAIT, check_close_code
from falcon_pachinko.connection.stage import CONNECTING
from falcon_pachinko.counters import Counters
from falcon_pachinko.errors import (
    ConnectionStateError,
    DuplicateConnectionError,
    NoHistoryError,
    UnknownConnectionError,
)
from falcon_pachinko.leases import check_lease
from falcon_pachinko.limits import HistoryLimits, Limits
from falcon_pachinko.messages.codec import DEFAULT_CODECS, Codecs
from falcon_pachinko.names import check_name
from falcon_pachinko.rooms.drain import Drained, drain
from falcon_pachinko.rooms.exchange import Exchange
from falcon_pachinko.rooms.fanout import Packets
from falcon_pachinko.rooms.options import OptionsByPrefix, RoomOptions
from falcon_pachinko.targets import (
    ConnectionId,
    Everyone,
    Room,
    Target,
    User,
    check_target,
)

if TYPE_CHECKING:
    from falcon.asgi import WebSocket

    from falcon_pachinko.typing import AsgiEvent

__all__ = ["Delivery", "Exclude", "WebSocketConnectionManager"]

log = logging.getLogger("falcon_pachinko")

Exclude = Iterable["str | Connection"]
"""Connections that get nothing, by id or themselves."""

Hook = TypeVar("Hook", bound=Callable[[Gap], Awaitable[None]])


class Delivery(NamedTuple):
    """What became of a broadcast on this process; no drop is silent."""

    sent: int
    """How many connections the message was handed to; they have not acknowledged it."""
    dropped: int
    """How many did not get it: their outbox was full, or they were on their way out."""
    published: bool = False
    """Whether it was handed to the backend, for other processes; False without one, or while
    it is away."""


class WebSocketConnectionManager:
    """Knows this process's connections and their rooms, and sends to any set of them.

    `install` makes one per app, as ``app.ws_connection_manager``. All of it
    belongs to the app's event loop: call it from there.

    Args:
        limits: What one client may cost, where its route does not say otherwise.
        backend: What connects this process with others: a URL, or a `Backend`.
        codecs: How messages are written, where the app has hooks for its own types.

    Example::

        await manager.broadcast({"type": "notice"}, to=to.rooms("chat:"), local=True)
    """

    def __init__(
        self,
        limits: Limits | None = None,
        backend: Backend | str | None = None,
        codecs: Codecs = DEFAULT_CODECS,
    ) -> None:
        self._limits = limits or Limits()
        self._codecs = codecs
        self._counters = Counters()
        self._options = OptionsByPrefix()
        self._exchange = Exchange(open_backend(backend), self._options, self._counters, codecs)
        # Shortcuts to what the exchange has, for the paths that every message takes.
        self._registry, self._fanout = self._exchange.registry, self._exchange.fanout
        self._cluster, self._revocations = self._exchange.cluster, self._exchange.revocations
        self._live = self._exchange.live
        self._is_shared = self._cluster.backend.shared  # whether there may be other processes
        self._draining = False  # whether the server is going down: handshakes are denied
        self._sessions: set[asyncio.Task[Any]] = set()  # those that live, until their last clean-up
        self._gauges: dict[str, Callable[[], Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that all of this belongs to

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
        self._check_loop()
        if isinstance(ws, Connection):
            if connection_id == ws.id and self._registry.connections.get(ws.id) is ws:
                return
            raise ConnectionStateError(
                f"this connection is known already, as {ws.id!r}; set "
                f"ws.user_id = {connection_id!r:.200} to give its client a name"
            )
        if connection_id in self._registry.connections:
            raise DuplicateConnectionError(connection_id)
        connection = _adopt(connection_id, ws, self)
        connection.resource = resource
        self._registry.add(connection)

    async def remove_connection(self, connection_id: str) -> None:
        """Forget a connection and take it from its rooms; an unknown id is no error."""
        connection = self._registry.connections.get(connection_id)
        if connection is not None:
            self._forget(connection)

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
        await self._join(self._known(connection_id), room, since)

    async def leave_room(self, connection_id: str, room: str) -> None:
        """Take a connection from a room; a room or an id that is not there is no error.

        Nothing that was sent to the room arrives after it has returned.
        """
        connection = self._registry.connections.get(connection_id)
        if connection is not None:
            self._leave(connection, room)

    async def get_connections_in_room(self, room: str) -> list[Connection]:
        """Return a room's connections on this process, in no particular order."""
        return list(self._registry.in_room(room))

    async def get_rooms_by_prefix(self, prefix: str) -> list[str]:
        """Return the rooms of this process whose names start with a plain string, sorted.

        The cost is that of the answer, however many other rooms there are. To send
        to such rooms on all processes, use ``to.rooms(prefix)``.
        """
        return self._registry.rooms.names(prefix)

    async def count(self, to: Target | None = None) -> int:
        """Count the connections that a target names on this process; without one, all of them."""
        if to is None:
            return len(self._registry)
        check_target(to)
        return len(to.select(self._registry))

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

        Raises:
            EncodeError: The message cannot be encoded; nobody got it.
            TypeError: ``to`` is not a target, or ``exclude`` has something else.
            ValueError: The options contradict each other.
            LeaseLostError: A singleton worker sends it, after its lease ended.
        """
        check_lease()
        if not isinstance(to, Target):
            check_target(to)
        if asyncio.get_running_loop() is not self._loop:
            self._check_loop()
        sender = SENDER.get()
        if sender is not None and sender._muted and asyncio.current_task() in sender._muted:
            return Delivery(0, 0)  # its connection was closed by us: it is heard no more
        if latest is not None or volatile or local or store:
            _check_options(store=store, local=local, volatile=volatile, latest=latest)
        ids: tuple[str, ...] = ()
        if exclude:
            exclude = tuple(_several(exclude))  # it may be an iterator, which gives its ids once
            chosen = self._registry.select(to, exclude)
            ids = tuple(each if isinstance(each, str) else each.id for each in exclude)
        else:
            chosen = self._registry.select(to)
        key = None if latest is None else _key_of(to, latest)
        if sender is not None and sender._outbox.stage is CONNECTING and sender in chosen:
            sender._outbox.check_room(sender._codec.encode(message).size, key)
        kept_in: tuple[str, ...] = ()
        kept = 0, 0, True
        lossy = volatile or latest is not None
        if self._options.by_prefix and store is not False and not (local or lossy):
            named = rooms_named(to, self._registry.rooms.names)
            kept_in = tuple(room for room in named if self._options.of(room).history)
            if kept_in:
                kept = await self._exchange.send_kept(message, to, kept_in, ids)
                if is_within(to, kept_in):
                    await _keep_pace(sender, chosen)
                    return Delivery(*kept)
                # The others whom it names, who are in none of these rooms.
                members = set[Connection]().union(*map(self._registry.in_room, kept_in))
                selected = self._registry.select(to, exclude)
                chosen = [each for each in selected if each not in members]
        codecs = self._registry.codecs
        packets = Packets()
        packets.message = message
        spoken = codecs if len(codecs) == 1 else {each._codec for each in chosen}
        for codec in spoken or (self._codecs.json,):
            packets[codec] = codec.encode(message)
        if len(packets) > 1 or self._cluster.subprotocols:
            self._exchange.check_raw(message)
        published = False
        if self._is_shared and not local and self._cluster.reaches_others():
            published = self._exchange.publish(
                message, packets, to, ids, volatile=volatile, latest=latest, kept_in=kept_in
            )
        sent, dropped = await self._fanout.deliver(chosen, packets, to, volatile=volatile, key=key)
        self._counters.count_sent(message, sent)
        if sender is not None and sender._outbox.bytes and not volatile:
            await _keep_pace(sender, chosen)
        return Delivery(kept[0] + sent, kept[1] + dropped, published and kept[2])

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
    ) -> Delivery:
        """Send a message to the members of a room; an empty room is no error. See `broadcast`."""
        if not isinstance(room, str):
            raise TypeError(f"a room name is a str, not {room!r:.200}; write str({room!r:.80})")
        return await self.broadcast(
            message,
            to=Room(room),
            exclude=exclude,
            store=store,
            local=local,
            volatile=volatile,
            latest=latest,
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
        return await self.broadcast(
            message,
            to=Everyone(),
            exclude=exclude,
            store=store,
            local=local,
            volatile=volatile,
            latest=latest,
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
        if not isinstance(connection_id, str):
            raise TypeError(f"a connection id is a str, not {connection_id!r:.200}; give ws.id")
        target = ConnectionId(connection_id)
        return await self.broadcast(message, to=target, volatile=volatile, latest=latest)

    async def send_to_user(
        self, user_id: str, message: Any, *, volatile: bool = False, latest: str | None = None
    ) -> Delivery:
        """Send a message to all connections of a user."""
        if not isinstance(user_id, str):
            raise TypeError(f"a user_id is a str, not {user_id!r:.200}; write str({user_id!r:.80})")
        return await self.broadcast(message, to=User(user_id), volatile=volatile, latest=latest)

    async def disconnect(self, to: Target | str, code: int = 1000, reason: str = "") -> int:
        """Close the connections that a target names, each after what waits for it.

        Their handlers are cancelled at once. Handshakes that began before are denied,
        as soon as it shows that they belong to the target. With a backend, connections
        of other processes are closed too, and not counted.

        Args:
            to: A target, or the id of one connection.
            code: The close code they get.
            reason: A few words; what does not fit into 123 bytes is cut off.

        Returns:
            How many connections of this process were closed.

        Raises:
            ValueError: The code is not one that may be sent.
        """
        check_close_code(code)
        check_lease()
        target = ConnectionId(to) if isinstance(to, str) else to
        check_target(target)
        self._check_loop()
        if self._cluster.reaches_others() and not self._exchange.is_here(target):
            # A handshake elsewhere may belong to the target, and not know it yet: so all hear it.
            channel = channel_of(target) if isinstance(target, ConnectionId) else ALL
            self._cluster.publish(channel, Disconnect(0, 0, code, reason, target))
        return await self._exchange.disconnect(target, code, reason)

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
        await self._track(self._known(connection_id), room, meta)

    async def untrack(self, connection_id: str, room: str) -> None:
        """Make a connection absent; it stays in the room. One that is not present is no error."""
        connection = self._registry.connections.get(connection_id)
        if connection is not None:
            self._exchange.presence.untrack(connection, room)

    async def presence(self, room: str) -> Present:
        """Return who is present in a room, on all processes: ``{key: [meta, ...]}``.

        The key is the user's id, or the connection's where there is no user; a user with
        several connections has several metas.

        Raises:
            BackendError: Nobody on this process is present there, and the backend is away.
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
            raise TypeError(
                f"configure_rooms({prefix!r:.200}): give what the rooms' names begin with"
            )
        if history is not None and not isinstance(history, HistoryLimits):
            raise TypeError(f"history={history!r:.200}: give HistoryLimits(), or None")
        if not (math.isfinite(presence_grace) and presence_grace >= 0):
            raise ValueError(f"presence_grace={presence_grace!r}: give a number of seconds")
        options = RoomOptions(resync=resync, history=history, presence_grace=presence_grace)
        self._options.put(prefix, options)

    def on_gap(self, hook: Hook) -> Hook:
        """Have a coroutine function called whenever messages of other processes may be missing.

        Example::

            @manager.on_gap
            async def reload_prices(gap):
                log.warning("missed something on %.200r: %s", gap.channel, gap.why)
        """
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
            "backend": cluster.backend.state if cluster.backend.shared else None,
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
        self._loop = asyncio.get_running_loop()
        self._draining = False
        await self._cluster.start()
        self._exchange.presence.start()

    async def stop(self) -> None:
        """Close who is still here, wait for all clean-ups, and leave the other processes.

        What takes longer than ``Limits.shutdown_timeout`` seconds is cancelled, and logged.
        """
        await self.drain(0)
        await self._wait_for_clean_ups()
        await self._exchange.presence.stop()
        await self._cluster.stop()

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

    async def _wait_for_clean_ups(self) -> None:
        loop, timeout = asyncio.get_running_loop(), self._limits.shutdown_timeout
        deadline = math.inf if timeout is None else loop.time() + timeout
        me = asyncio.current_task()
        while left := {*self._sessions, *self._exchange.endings} - {me}:
            if loop.time() >= deadline:
                log.error(
                    "cancelled %d clean-ups that took over %s s (shutdown_timeout)",
                    len(left), timeout,
                )  # fmt: skip
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=CLOSE_WAIT)
                return
            wait = None if timeout is None else deadline - loop.time()
            await asyncio.wait(left, timeout=wait)

    # For the library's own floors: the same, for a connection and not for its id.

    def _begin(self, connection: Connection, session: asyncio.Task[Any]) -> None:
        """Know a connection whose handshake begins, and its session."""
        if asyncio.get_running_loop() is not self._loop:
            self._check_loop()
        self._sessions.add(session)
        self._registry.add(connection)
        self._revocations.begin(connection)

    def _forget(self, connection: Connection) -> None:
        """Take a connection from everything, as one that has ended."""
        if self._registry.connections.get(connection.id) is connection:
            if (
                not connection._outbox.accepted
            ):  # never here, so it does not stay for a while either
                for room in connection._rooms:
                    self._exchange.presence.untrack(connection, room)
            self._exchange.presence.gone(connection)
            self._registry.forget(connection)

    async def _join(
        self, connection: Connection, room: str, since: HistoryPosition | None = None
    ) -> None:
        """`join_room`, for a connection."""
        if since is None:
            self._registry.join(connection, room)
            await self._live("room", room)
            return
        check_name(room, "room name")
        try:
            await self._exchange.history.join(
                connection, room, since, lambda: self._registry.join(connection, room)
            )
        except (NoHistoryError, ConnectionStateError):
            raise
        except BaseException:
            self._leave(connection, room)  # it lacks what it was not sent
            raise

    def _leave(self, connection: Connection, room: str) -> None:
        """`leave_room`, for a connection."""
        self._exchange.presence.untrack(connection, room)
        self._registry.leave(connection, room)

    async def _track(
        self, connection: Connection, room: str, meta: Mapping[str, Any] | None
    ) -> None:
        """`track`, for a connection."""
        check_lease()
        self._registry.join(connection, room)
        await self._exchange.presence.track(connection, room, {} if meta is None else meta)

    def _add_gauge(self, name: str, read: Callable[[], Any]) -> None:
        """Let `status` tell what another part of the app knows, under a name of its own."""
        self._gauges[name] = read

    def _known(self, connection_id: str) -> Connection:
        try:
            return self._registry.connections[connection_id]
        except KeyError:
            raise UnknownConnectionError(connection_id) from None

    def _check_loop(self) -> None:
        """Refuse to be called from another event loop than the one that the connections live in.

        Raises:
            RuntimeError: Another loop runs them, in another thread.
        """
        loop = asyncio.get_running_loop()
        elsewhere = self._loop is not None and self._loop is not loop and self._loop.is_running()
        if elsewhere and len(self._registry):
            raise RuntimeError(
                "this manager belongs to the event loop of its app, which runs in another thread; "
                "call it there: asyncio.run_coroutine_threadsafe(manager.broadcast(...), loop)"
            )
        self._loop = loop


def _several(exclude: Any) -> Iterable[Any]:
    return (exclude,) if isinstance(exclude, (str, Connection)) else exclude


def _key_of(to: Target, latest: str) -> object:
    """Return what a replaceable message is replaced by: one of the same key and target."""
    return ("connection" if type(to) is ConnectionId else to, latest)


async def _keep_pace(sender: Connection | None, chosen: list[Connection]) -> None:
    """Wait for the client that a broadcast is made for, if a task of its session makes it."""
    if sender is None or not sender._outbox.is_behind or sender not in chosen:
        return
    session = sender._session
    if session is not None and session.owns(asyncio.current_task()):
        await sender._outbox.keep_pace()


def _check_options(*, store: bool | None, local: bool, volatile: bool, latest: str | None) -> None:
    """Refuse options of sending that contradict each other.

    Raises:
        ValueError: They do.
    """
    check_sending(latest, volatile=volatile)
    if store and (local or volatile or latest is not None):
        what = "local" if local else "volatile" if volatile else "latest"
        raise ValueError(f"store=True with {what}= contradicts itself: a history cannot keep it")


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
        connection_id,
        send,
        manager,
        limits=manager._limits,
        subprotocols=getattr(ws, "subprotocols", ()),
        is_open=True,
    )
