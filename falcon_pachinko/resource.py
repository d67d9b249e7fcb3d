"""The class that a route serves: one instance per connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import falcon
import falcon.asgi

from falcon_pachinko.backends.base import HistoryPosition
from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.errors import MessageError, SetupError
from falcon_pachinko.manager import WebSocketConnectionManager
from falcon_pachinko.messages.definition import check_class
from falcon_pachinko.messages.handlers import HandlerTable
from falcon_pachinko.messages.hooks import as_hooks
from falcon_pachinko.rooms.sending import Delivery

__all__ = ["WebSocketResource"]


class _NotConnected:
    """Stands in the place of ``ws`` until a resource has its connection."""

    def __get__(self, resource: object, owner: type) -> Any:
        if resource is None:
            return self
        raise SetupError(
            f"{owner.__name__} has no connection yet: rooms, state and sending are "
            "there from on_connect on, not in __init__"
        )


class WebSocketResource:
    """What serves one route: subclass it, and give it handlers.

    Every connection has an instance of its own, so ``self`` is the place for
    what belongs to one client. The library sets ``ws`` and ``parent`` and needs
    no ``__init__``; besides the methods here, every other name is yours.

    Example::

        class ChatRoom(WebSocketResource):
            async def on_connect(self, req, ws, room_name):
                self.room = f"chat:{room_name}"
                await self.join_room(self.room)
                return True

            @handles_message("say")
            async def say(self, ws, payload: Say):
                await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})
    """

    ws: Connection = _NotConnected()  # type: ignore[assignment]  # until the handshake sets it
    """The connection that this instance serves; there from ``on_connect`` on."""

    parent: WebSocketResource | None = None
    """The resource this one's route is nested under, of the same connection; None at the top."""

    schema: ClassVar[Any] = None
    """Tagged structs, ``Join | Say``, whose fields stand beside ``type`` on the wire."""

    subprotocols: ClassVar[tuple[str, ...]] = ()
    """The application's own subprotocols; the first that a client offers is agreed on."""

    hooks: ClassVar[tuple[object, ...]] = ()
    """Hooks for this resource, inside of its routers' and the app's; see `Hook`."""

    close_on_error: ClassVar[bool] = False
    """Close with 1011 when a handler fails, instead of going on after the error frame."""

    __pachinko_table__: ClassVar[HandlerTable] = HandlerTable("WebSocketResource", ())
    __pachinko_falls_back__: ClassVar[bool] = False  # whether on_message is overridden
    __pachinko_says_goodbye__: ClassVar[bool] = False  # whether on_disconnect is
    __pachinko_refuses__: ClassVar[bool] = False  # whether on_refused is

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_class(cls, WebSocketResource)
        as_hooks(cls.hooks, cls.__name__)  # refuses what could never be one
        falls_back = cls.on_message is not WebSocketResource.on_message
        cls.__pachinko_table__ = HandlerTable.of(cls, cls.schema, falls_back=falls_back)
        cls.__pachinko_falls_back__ = falls_back
        cls.__pachinko_says_goodbye__ = cls.on_disconnect is not WebSocketResource.on_disconnect
        cls.__pachinko_refuses__ = cls.on_refused is not WebSocketResource.on_refused

    @property
    def state(self) -> falcon.Context:
        """The connection's bag of values: attributes or items, shared with the parent."""
        return self.ws.state

    async def on_connect(
        self, req: falcon.asgi.Request, ws: Connection, *args: Any, **params: Any
    ) -> bool | None:
        """Decide about a handshake; override it, with the route's parameters by name.

        It may join rooms, send and broadcast at once: what is for this client
        leaves right after the accept, and is discarded on a denial.

        Returns:
            True to accept, False to deny; None only after ``ws.accept()`` or ``ws.close()``.

        Raises:
            falcon.HTTPError: Deny with that status, where the server can send it.
        """
        return True

    async def on_disconnect(self, ws: Connection, close_code: int) -> None:
        """Clean up; override it. Runs exactly once if ``on_connect`` returned True or accepted.

        However the connection ended, also if the handshake failed after it. The rooms are
        left already; broadcasts to them still work.

        Args:
            ws: The connection; what is sent to it goes nowhere.
            close_code: The code the connection was closed with; 1006 where there
                was no close frame, or the connection was never accepted.
        """

    async def on_message(self, ws: Connection, message: str | bytes) -> None:
        """Take a frame that no handler claims; override it.

        As long as it is not overridden, such a frame is answered with an error.
        """

    async def on_refused(
        self, ws: Connection, refusal: MessageError, frame: str | bytes
    ) -> MessageError | None:
        """See a message that the library turned away before any hook or handler; override it.

        It is asked after the hooks of that name, unless one of them has answered. The
        answer that a ``ref`` is owed, and the close that follows a message that is too
        large or one too many, come all the same.

        Args:
            ws: The connection.
            refusal: The error that is about to be sent.
            frame: The message as it came.

        Returns:
            Another `MessageError` to send instead, or None.
        """
        return None

    async def join_room(self, room: str, *, since: HistoryPosition | None = None) -> None:
        """Put this connection into a room; one that has gone joins nothing, quietly.

        Returns when broadcasts of other processes reach it, or their backend is away.

        Args:
            room: The room.
            since: Where the client was when it was here last, in a room with a history:
                it gets ``history.state``, what it missed, and then what is live.

        Raises:
            InvalidNameError: The name cannot name a room.
            RoomLimitError: It is in as many rooms as it may be; unless caught,
                the client is told.
            NoHistoryError: ``since`` is given, and the room has no history.
            ConnectionStateError: ``since`` is given, and the connection is in it already.
        """
        connection = self.ws
        await connection.manager._members.join(connection, room, since)

    async def track(self, room: str, meta: Mapping[str, Any] | None = None) -> None:
        """Join a room and be present there; again, to change the meta.

        This client gets ``presence.state``, and the room's others ``presence.diff``;
        see ``manager.presence``.

        Args:
            room: The room; leaving it, or ending, ends the presence.
            meta: What the others are to know, such as ``{"name": "Ann"}``.

        Raises:
            EncodeError: The meta cannot be encoded.
            InvalidNameError: The name cannot name a room.
            RoomLimitError: It is in as many rooms as it may be.
        """
        connection = self.ws
        await connection.manager._members.track(connection, room, meta)

    async def leave_room(self, room: str) -> None:
        """Take this connection from a room; one it is not in is ignored."""
        connection = self.ws
        connection.manager._members.leave(connection, room)

    async def broadcast_to_room(
        self,
        room: str,
        message: Any,
        exclude_self: bool = False,  # noqa: FBT001, FBT002  # as it was asked for
        *,
        store: bool | None = None,
        local: bool = False,
        volatile: bool = False,
        latest: str | None = None,
    ) -> Delivery:
        """Send a message to the members of a room, to this client too if it is one.

        Args:
            room: The room; this connection need not be in it.
            message: What can be encoded.
            exclude_self: Leave this client out.
            store: Whether a room that has a history keeps it: by default it does.
            local: Send it on this process only.
            volatile: Drop it for clients that are behind, instead of having it wait.
            latest: Replace what still waits under this key in the room.

        Raises:
            EncodeError: The message cannot be encoded; nobody got it.
            ValueError: The options contradict each other.
        """
        connection = self.ws
        manager: WebSocketConnectionManager = connection.manager
        return await manager.broadcast_to_room(
            room,
            message,
            exclude=(connection,) if exclude_self else (),
            store=store,
            local=local,
            volatile=volatile,
            latest=latest,
        )

    async def send(
        self, message: Any, *, volatile: bool = False, latest: str | None = None
    ) -> None:
        """Send a message to this client; see `Connection.send_media`.

        Raises:
            EncodeError: The message cannot be encoded.
        """
        await self.ws.send_media(message, volatile=volatile, latest=latest)
