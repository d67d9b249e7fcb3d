"""Every exception of the library.

::

    PachinkoError
    ├── SetupError                 the application is put together wrongly; raised while it is built
    │   ├── AlreadyInstalledError  install() again, with other options
    │   ├── RouteConflictError     two resources claim one path
    │   ├── RouteTemplateError     no path could match a template
    │   ├── UnknownRouteError      no WebSocket route has that path
    │   ├── ResourceTypeError      not a WebSocketResource, nor a factory of one
    │   ├── HandlerDefinitionError a handler or hook that could never be called
    │   ├── DuplicateHandlerError  two handlers of one resource claim a type
    │   ├── WorkerDefinitionError  a worker that could never run
    │   └── DuplicateWorkerError   two workers of one app share a name
    ├── MessageError               a message, or a handshake, is refused; the client is told
    │   ├── InvalidNameError       not a name of a room, tag or user: empty, or over 200 bytes
    │   └── RoomLimitError         one more room than a connection may be in
    ├── EncodeError                a message cannot be put on the wire; nobody gets it
    ├── ConnectionStateError       a verb that the connection's state does not allow
    ├── NoHistoryError             the room keeps no history
    ├── UnknownConnectionError     no connection here has that id
    ├── DuplicateConnectionError   a connection here has that id already
    ├── BackendError               the server between the processes did not do as asked
    └── LeaseLostError             a singleton worker acts after it lost its lease

Each holds its data as attributes first; its text is a sentence that names the
offending value and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AlreadyInstalledError",
    "BackendError",
    "ConnectionStateError",
    "DuplicateConnectionError",
    "DuplicateHandlerError",
    "DuplicateWorkerError",
    "EncodeError",
    "HandlerDefinitionError",
    "InvalidNameError",
    "LeaseLostError",
    "MessageError",
    "NoHistoryError",
    "PachinkoError",
    "ResourceTypeError",
    "RoomLimitError",
    "RouteConflictError",
    "RouteTemplateError",
    "SetupError",
    "UnknownConnectionError",
    "UnknownRouteError",
    "WorkerDefinitionError",
]


class PachinkoError(Exception):
    """The root of the tree: ``except PachinkoError`` catches all of it."""


class SetupError(PachinkoError):
    """The application is put together wrongly; raised while it is built, never later."""


class AlreadyInstalledError(SetupError):
    """`install` was called again for the same app, with other options."""

    def __init__(self, changed: Iterable[str]) -> None:
        self.changed = tuple(changed)
        names = ", ".join(f"{name}=" for name in self.changed)
        super().__init__(
            f"falcon_pachinko is installed on this app already, with another {names}; "
            "call install() once per app, with all its options"
        )


class RouteConflictError(SetupError, ValueError):
    """Two resources claim one path."""

    def __init__(self, template: str, resource: str, why: str) -> None:
        self.template, self.resource = template, resource
        super().__init__(
            f"cannot route {template!r} to {resource}: {why}; give one of them another path"
        )


class RouteTemplateError(SetupError, ValueError):
    """No path could match this template."""

    def __init__(self, template: object, why: str) -> None:
        self.template = template
        super().__init__(f"no path can match the template {template!r:.200}: {why}")


class UnknownRouteError(SetupError, LookupError):
    """No WebSocket route has this path."""

    def __init__(self, path: str, known: Iterable[str]) -> None:
        self.path, self.known = path, tuple(known)
        have = ", ".join(self.known) or "none yet; add one with add_websocket_route()"
        super().__init__(f"no WebSocket route matches {path!r}; the routes are: {have}")


class ResourceTypeError(SetupError, TypeError):
    """What was routed is not a `WebSocketResource`, nor a factory of one."""

    def __init__(self, template: str, got: object, why: str) -> None:
        self.template, self.got = template, got
        super().__init__(f"cannot route {template!r} to {got!r}: {why}")


class HandlerDefinitionError(SetupError, TypeError):
    """A handler that could never be called, and what is wrong with it."""

    def __init__(self, handler: str, why: str) -> None:
        self.handler = handler
        super().__init__(f"{handler} {why}")


class DuplicateHandlerError(SetupError, ValueError):
    """Two methods of one resource claim the same message type."""

    def __init__(self, resource: str, message_type: str, first: str, second: str) -> None:
        self.resource, self.message_type = resource, message_type
        self.first, self.second = first, second
        super().__init__(
            f"{resource}.{first} and .{second} both handle {message_type!r}; "
            "keep one, or give the other its own type"
        )


class WorkerDefinitionError(SetupError, TypeError):
    """A worker that could never run, and what is wrong with it."""

    def __init__(self, worker: str, why: str) -> None:
        self.worker = worker
        super().__init__(f"worker {worker} {why}")


class DuplicateWorkerError(SetupError, ValueError):
    """Two workers of one app share a name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"a worker named {name!r} is registered already; "
            "tell the second one apart with name=..."
        )


class MessageError(PachinkoError):
    """Raise it in a handler to refuse a message: the client gets it as an ``error`` frame.

    In ``on_connect`` it denies the handshake, with ``status`` or 400.

    Args:
        code: A word for programs, such as ``"room_full"``.
        message: A sentence for people. It is sent as it is: put no secrets into it.
        path: Where in the message the fault is, such as ``"$.payload.text"``.
        status: An HTTP status to send beside the code, for clients that know those; also
            the one that a handshake is denied with.

    Example::

        if len(self.players) == 2:
            raise MessageError("room_full", "Two are playing already.")
    """

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        path: str | None = None,
        status: int | None = None,
    ) -> None:
        self.code, self.message, self.path, self.status = code, message, path, status
        sentence = f"{code}: {message}" if message else str(code)
        # A client's text may have come in here; what a log cannot be written with is escaped.
        super().__init__(sentence.encode("utf-8", "backslashreplace").decode())


class EncodeError(PachinkoError, ValueError):
    """A message cannot be encoded, and was not sent to anyone."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the message cannot be encoded, so it was not sent: {why}. Send msgspec structs, "
            "dataclasses, dicts, lists, str, numbers, bool, None, datetime, UUID or bytes; "
            "encode other types with install(app, enc_hook=...)"
        )


class ConnectionStateError(PachinkoError, RuntimeError):
    """A verb that the connection's state does not allow, such as a second ``accept()``."""


class NoHistoryError(PachinkoError, LookupError):
    """The room keeps no history, so there is none to read or to come back to."""

    def __init__(self, room: str) -> None:
        self.room = room
        super().__init__(
            f"{room!r:.200} has no history; give it one: "
            "manager.configure_rooms(prefix, history=HistoryLimits())"
        )


class UnknownConnectionError(PachinkoError, LookupError):
    """No connection of this process has this id; it may have gone in the meantime."""

    def __init__(self, connection_id: str) -> None:
        self.connection_id = connection_id
        super().__init__(f"no connection here has the id {connection_id!r}; it may have gone")


class DuplicateConnectionError(PachinkoError, ValueError):
    """A connection of this process has this id already."""

    def __init__(self, connection_id: str) -> None:
        self.connection_id = connection_id
        super().__init__(
            f"a connection with the id {connection_id!r} is known already; remove it first"
        )


class InvalidNameError(MessageError, ValueError):
    """Not a name: rooms, tags and users are called by 1 to 200 bytes of UTF-8.

    Names often come from clients: a handler that lets it through tells the
    client, as ``invalid_name``, and an ``on_connect`` denies with 400.
    """

    def __init__(self, name: object, kind: str, why: str) -> None:
        self.name, self.kind = name, kind
        shown = ascii(name)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        super().__init__("invalid_name", f"{shown} cannot be a {kind}: {why}.")


class RoomLimitError(MessageError):
    """One more room than ``Limits.rooms`` lets a connection be in.

    Raised by ``join_room``; a handler that lets it through tells the client, as
    ``room_limit``.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(
            "room_limit",
            f"A connection may be in {limit} rooms at once (Limits.rooms); leave one first.",
        )


class BackendError(PachinkoError, ConnectionError):
    """The server between the processes is not there, or did not do as asked in time.

    Broadcasts never raise it: members on this process get them anyway, and
    ``Delivery.published`` tells. What needs the server does: presence of a whole
    cluster, a position in a history, a required backend at the start.
    """

    def __init__(self, backend: str, why: str, *, passing: bool = False) -> None:
        self.backend, self.why = backend, why
        self.passing = passing
        """Whether the server may do it in a moment: it is full, or busy."""
        super().__init__(f"{backend}: {why}")


class LeaseLostError(PachinkoError, RuntimeError):
    """A singleton worker wants to send after its lease ended: another process runs it by now.

    Let it pass: the worker ends here, and waits for its turn.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        super().__init__(
            f"worker {worker} has lost its lease, so another process may run it already; "
            "nothing was sent"
        )
