"""The messages that a route takes: their types, their fields, and what is wrong with one."""

from __future__ import annotations

import difflib
import json
import types
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import falcon.asgi
import msgspec
from msgspec import inspect

from falcon_pachinko.app import installed
from falcon_pachinko.messages.codec import JSON, Codec
from falcon_pachinko.messages.envelopes import NoPayload, Refusal
from falcon_pachinko.messages.handlers import Handler, HandlerTable
from pachinko_cli.client.display import printable
from pachinko_cli.errors import CliError

_OBJECTS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)


class MessageRefusedError(CliError):
    """A message that the server would refuse, or that is none; it was not sent."""


@dataclass(frozen=True)
class Field:
    """One field of a message, by its name on the wire."""

    name: str
    type: Any
    default: str | None
    """The default as JSON; None where the field is required."""

    def __str__(self) -> str:
        default = "" if self.default is None else f" = {self.default}"
        return f"{self.name}: {type_name(self.type)}{default}"


class MessageType:
    """One message type: what it takes, and who handles it."""

    def __init__(self, handler: Handler) -> None:
        self.name = handler.type
        self.is_schema = handler.struct is not None
        self.payload = handler.struct if self.is_schema else handler.payload
        self.has_payload = self.is_schema or self.payload is not NoPayload
        self.fields = _fields(self.payload) if self.has_payload else ()
        """What `name=value` may set; None where the payload is no object of known fields."""
        first, _, _ = (handler.function.__doc__ or "").strip().partition("\n")
        self.summary = printable(first)

    def __str__(self) -> str:
        """The type and its fields, as `/types` shows them."""
        if self.fields is None:
            return f"{self.name} {type_name(self.payload)}"
        return " ".join([self.name, ", ".join(map(str, self.fields))]).rstrip()

    def message(self, payload: Any = msgspec.UNSET) -> dict[str, Any]:
        """The message of this type: the payload in its envelope, or beside the type."""
        if self.is_schema and isinstance(payload, dict):
            return {"type": self.name, **payload}
        return {"type": self.name} | ({} if payload is msgspec.UNSET else {"payload": payload})


@dataclass(frozen=True)
class Vocabulary:
    """What is known of the route that a path leads to; empty outside a project.

    `types` is None where nobody declared what the route takes.
    """

    route: str | None = None
    types: dict[str, MessageType] | None = None
    routes: tuple[str, ...] = ()
    """The templates of all WebSocket routes of the application."""
    subprotocols: tuple[str, ...] = ()
    _table: HandlerTable | None = field(default=None, repr=False)
    _codec: Codec = field(default=JSON, repr=False)
    _takes_anything: bool = False
    _most_bytes: int | None = None

    @classmethod
    def of(cls, app: Any, path: str) -> Vocabulary:
        """What `app` takes at `path`; empty when it is no Falcon app with the library installed."""
        pachinko = installed(app)
        if pachinko is None or not isinstance(app, falcon.asgi.App):
            return cls()
        routes = tuple(route.template for route in pachinko.routes)
        route = pachinko.find_route(path)
        if route is None:
            found = app._router.find(path)  # noqa: SLF001 - Falcon has no public look-up
            return cls(route=found[3] if found is not None else None, routes=routes)
        # With the application's hooks, as a session opens them.
        codecs = pachinko.ws_connection_manager._codecs  # noqa: SLF001 - nobody else needs them
        table = route.resource.__pachinko_table__.compiled(codecs)
        return cls(
            route=route.template,
            types={name: MessageType(handler) for name, handler in table.handlers.items()},
            routes=routes,
            subprotocols=route.resource.subprotocols,
            _table=table,
            _codec=codecs.json,
            _takes_anything=route.resource.__pachinko_falls_back__,
            _most_bytes=route.limits.message_bytes,
        )

    def check(self, frame: str) -> None:
        """Refuse a message that the route's resource would answer with an error.

        `frame` is JSON, whatever it travels as.  A resource that overrides `on_message` takes what
        no handler claims.

        Raises:
            MessageRefusedError: With the words of the server's own error.
        """
        if self._table is None:
            return
        size = len(frame.encode(errors="replace"))
        if self._most_bytes is not None and size > self._most_bytes:
            raise MessageRefusedError(
                f"the message has {size} bytes, and this route takes {self._most_bytes}",
                hint="see Limits.message_bytes; --no-check sends it anyway",
            )
        try:
            self._table.open(frame, self._codec)
        except Refusal as refusal:
            if refusal.claimed or not self._takes_anything:
                raise self._refused(frame, refusal) from None
        except Exception as error:
            # A payload's own __post_init__ may raise anything, there as here.
            raise MessageRefusedError(
                f"{type(error).__name__}: {printable(str(error))}",
                hint="the application's own check refused it; --no-check sends it anyway",
            ) from error

    def _refused(self, frame: str, refusal: Refusal) -> MessageRefusedError:
        where = f" at {refusal.path}" if refusal.path else ""
        sentence = f"{refusal.code}: {refusal.message}".removesuffix(".") + where
        if refusal.code == "invalid_payload":
            kind = (self.types or {})[json.loads(frame)["type"]]
            return MessageRefusedError(printable(sentence), hint=f"it takes: {kind}")
        if refusal.code == "unknown_type":
            return self.unknown_type(json.loads(frame)["type"])
        return MessageRefusedError(
            printable(sentence), hint='a message is {"type": ..., "payload": ...}'
        )

    def unknown_type(self, name: str) -> MessageRefusedError:
        """The error for a type that nothing here handles, with the one that was meant."""
        known = list(self.types or ())
        near = difflib.get_close_matches(name, known, n=1)
        does = f"did you mean {near[0]}? " if near else ""
        return MessageRefusedError(
            f"unknown_type: {self.route} takes no {printable(name)!r}",
            hint=f"{does}it takes: {', '.join(known) or 'no messages'}",
        )


def type_name(wanted: Any) -> str:
    """A type as one writes it, without its constraints.

    >>> type_name(list[int] | None), type_name(Annotated[str, msgspec.Meta(min_length=1)])
    ('list[int] | None', 'str')
    """
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is None or wanted is type(None):
        return "None"
    if origin is Annotated:
        return type_name(inner[0])
    if origin is Literal:
        return " | ".join(json.dumps(each) for each in inner)
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_name, inner))
    if origin is not None:
        of = ", ".join("..." if each is ... else type_name(each) for each in inner)
        return f"{getattr(origin, '__name__', origin)}[{of}]"
    return getattr(wanted, "__name__", None) or str(wanted)


def accepts(wanted: Any, value: Any) -> bool:
    """Whether a value from JSON would become this type."""
    try:
        msgspec.convert(value, wanted)
    except Exception:  # noqa: BLE001 - also what the application's own __post_init__ raises
        return False
    return True


def _fields(payload: Any) -> tuple[Field, ...] | None:
    """The fields of a payload's type; None where it is no object that declares them."""
    known = inspect.type_info(payload)
    if not isinstance(known, _OBJECTS) or getattr(known, "array_like", False):
        return None
    hints = _hints(known.cls)
    return tuple(
        Field(each.encode_name, hints.get(each.name, Any), _default(each)) for each in known.fields
    )


def _hints(owner: Any) -> dict[str, Any]:
    if issubclass(owner, msgspec.Struct):
        return {each.name: each.type for each in msgspec.structs.fields(owner)}
    from typing import get_type_hints  # noqa: PLC0415 - the common case needs none

    return get_type_hints(owner, include_extras=True)


def _default(each: inspect.Field) -> str | None:
    if each.required:
        return None
    try:
        value = each.default_factory() if each.default is msgspec.NODEFAULT else each.default
        return printable(msgspec.json.encode(value).decode())
    except Exception:  # noqa: BLE001 - the application's own factory, or a value without JSON
        return "..."
