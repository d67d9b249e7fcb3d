"""Which method handles which message: a table made once per resource class.

Clients reach what is in the table and nothing else: a method's name never
matters to them. A table is made in two steps: `HandlerTable.of` collects what the
class's methods handle, and for each a `Shape` is made that its messages are
decoded into. `HandlerTable.open` is what every message goes through.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, NoReturn, TypeAlias, TypeVar

import msgspec

from falcon_pachinko.errors import DuplicateHandlerError, HandlerDefinitionError, MessageError
from falcon_pachinko.messages.codec import DECODE_ERRORS, DEFAULT_CODECS, JSON, Codec, Codecs
from falcon_pachinko.messages.envelopes import (
    SHOWN,
    NoPayload,
    Ping,
    Ref,
    Refusal,
    Shape,
    careful_shape,
    envelope_shape,
    read_header,
    refusal_of,
    schema_shape,
)
from falcon_pachinko.messages.guards import NO_CHECKS, Checks, decoder_of
from falcon_pachinko.messages.openers import MISSING, Opener, open_nothing
from falcon_pachinko.messages.rules import foreign_rule
from falcon_pachinko.messages.schema import schema_structs
from falcon_pachinko.messages.signatures import (
    UNANNOTATED,
    arguments_of,
    fill_in,
    is_handler,
    name_of,
    refuse_falcon_hook,
    substituted,
    takes,
)
from falcon_pachinko.typing import Frame

__all__ = ["PING", "Handler", "HandlerTable", "handles", "handles_message"]

_MARK = "__pachinko_handles__"

Struct: TypeAlias = type[msgspec.Struct]
Method: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]

F = TypeVar("F", bound="Method | functools.partialmethod[Any]")


@dataclasses.dataclass(frozen=True, slots=True)
class _Claim:
    """What `handles_message` leaves on a method."""

    message_type: str
    payload: Any
    default: Any
    forbid_unknown_fields: bool
    concurrent: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Handler:
    """One row of the table: a type, and the method that handles it."""

    type: str
    """The message type, as on the wire."""
    function: Method
    """The attribute of the class, for what shows it; what is called is ``resource.<name>``."""
    payload: Any
    """The type that the message or its payload is decoded into; `NoPayload` for none."""
    forbid_unknown_fields: bool = True
    concurrent: bool = False
    struct: Struct | None = None
    """In schema style, the struct that the whole message is; None in envelope style."""
    name: str = ""
    """The attribute's name: ``getattr(resource, name)(ws, payload)`` handles a message."""
    default: Any = MISSING
    """What the payload's parameter says a missing payload is, or `MISSING`."""
    takes_payload: bool = dataclasses.field(init=False)
    """Whether the method has a parameter for the payload."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "takes_payload", self.payload is not NoPayload)


async def _pong() -> None:
    """Stand in the place of a method; the session answers a ping itself."""


PING = Handler("ping", _pong, NoPayload, name="ping")
"""What `HandlerTable.open` returns for a ``ping`` that the resource does not handle itself."""


def handles_message(
    message_type: str | type[msgspec.Struct],
    *,
    forbid_unknown_fields: bool = True,
    concurrent: bool = False,
) -> Callable[[F], F]:
    """Make a method of a resource the handler of one message type.

    The method is a coroutine that takes the connection and, if it wants it, the
    payload; the payload is decoded into the type it is annotated with, and the
    handler is not called if that fails. For a type of the resource's ``schema``
    it takes the struct itself. A message without a payload gets the parameter's
    default; without one it counts as ``{}`` for a struct or dict, and as None
    otherwise. What the method returns answers the client, as
    ``{"type": "reply", "ref": ..., "payload": ...}``; None answers only a
    message that has a ``ref``.

    Args:
        message_type: The ``type`` of the messages, or a struct of the schema,
            whose tag it is; only these reach the method.
        forbid_unknown_fields: Refuse fields that the payload's type does not have,
            however deep they are.
        concurrent: Do not let the next message wait for this one. At most
            ``Limits.concurrency`` of a connection's handlers run at once; their
            order, and that of their answers, is then open.

    Raises:
        HandlerDefinitionError: The method is not a coroutine, or has parameters that
            the library cannot fill in.

    Example::

        class Say(msgspec.Struct):
            text: str

        class ChatRoom(WebSocketResource):
            @handles_message("say")
            async def say(self, ws, payload: Say):
                await self.broadcast_to_room("lobby", {"type": "said", "payload": payload})
    """
    tag: object = message_type
    if isinstance(message_type, type):
        of_ours = issubclass(message_type, msgspec.Struct)
        tag = message_type.__struct_config__.tag if of_ours else None
    if not isinstance(tag, str) or not tag:
        raise HandlerDefinitionError(
            f"handles_message({message_type!r})",
            'needs the message type first, as text: @handles_message("say")',
        )
    tag = str.__str__(tag)  # of a StrEnum's member, its value
    if not tag.isprintable():
        raise HandlerDefinitionError(
            f"handles_message({tag!a})", "has a type that cannot be printed"
        )

    def claim(function: F) -> F:
        payload, default = takes(function, tag)
        claims = getattr(function, _MARK, ())
        mine = _Claim(tag, payload, default, forbid_unknown_fields, concurrent)
        setattr(function, _MARK, (*claims, mine))
        return function

    return claim


def handles(member: object) -> bool:
    """Tell whether `handles_message` has been used on a class's attribute."""
    return bool(getattr(member, _MARK, ()))


class HandlerTable:
    """The message types of one resource class, and what opens their frames.

    Args:
        resource: The class's name.
        handlers: Its handlers.
        schema: Its schema, if any.
        codecs: Those that frames are opened with.
        answers_ping: Take a ``ping`` that it has no handler for as one.
        unfilled: What is wrong if a type parameter of the class is still open.
    """

    __slots__ = (
        "_custom",
        "_decode",
        "_resource",
        "_schema",
        "_shapes",
        "_unfilled",
        "answers_ping",
        "handlers",
    )

    def __init__(
        self,
        resource: str,
        handlers: Iterable[Handler],
        schema: Any = None,
        *,
        codecs: Codecs = DEFAULT_CODECS,
        answers_ping: bool = True,
        unfilled: HandlerDefinitionError | None = None,
    ) -> None:
        structs = schema_structs(resource, schema)
        self._resource, self._schema, self._unfilled = resource, schema, unfilled
        self._custom: tuple[Handler, type] | None = None
        self.handlers: dict[str, Handler] = {}
        self._shapes: dict[type, tuple[Handler, Opener]] = {}
        stands_in: dict[Struct, tuple[Struct, Checks]] = {}
        for claimed in handlers:
            twin = self.handlers.get(claimed.type)
            if twin is not None:
                raise DuplicateHandlerError(resource, claimed.type, twin.name, claimed.name)
            handler = _in_style(claimed, structs.get(claimed.type))
            shape = _shape(handler, codecs)
            self.handlers[handler.type] = handler
            self._shapes[shape.struct] = (handler, shape.open)
            if shape.checks is not NO_CHECKS:
                careful = careful_shape(handler.type, shape, codecs)
                stands_in[shape.struct] = (careful.struct, careful.checks)
                self._shapes[careful.struct] = (handler, careful.open)
            if shape.custom and self._custom is None:
                self._custom = (handler, shape.custom[0])
        self.answers_ping = answers_ping and "ping" not in self.handlers
        if self.answers_ping:
            self._shapes[Ping] = (PING, open_nothing)
        # There are two structs at least: of a single one, msgspec takes a message without a `type`.
        self._shapes[_Nothing] = (PING, _open_nothing)
        direct = self._shapes.keys() - {careful for careful, _ in stands_in.values()}
        self._decode = {codec: decoder_of(codec, direct, stands_in) for codec in codecs}

    @classmethod
    def of(cls, resource: type, schema: Any = None, *, falls_back: bool = False) -> HandlerTable:
        """Collect what a class and its bases claim with `handles_message`.

        Args:
            resource: The class.
            schema: Its schema, if any.
            falls_back: Whether it overrides ``on_message``; without handlers and schema
                that takes every frame then, pings included.

        A subclass that redefines a handler's method redefines the handler, with
        or without the decorator; one that sets it to None takes it away.

        Raises:
            DuplicateHandlerError: Two methods claim one type.
            HandlerDefinitionError: A method could not be called, or the schema is not one.
        """
        arguments = arguments_of(resource)
        own_parameters = getattr(resource, "__parameters__", ())
        claims: dict[str, tuple[_Claim, ...]] = {}
        unfilled: HandlerDefinitionError | None = None
        for owner in reversed(resource.__mro__):
            for name, member in vars(owner).items():
                if isinstance(member, (staticmethod, classmethod)) and handles(member.__func__):
                    why = (
                        "handles messages and so is a method of an instance; drop its @staticmethod"
                    )
                    raise HandlerDefinitionError(name_of(member.__func__), why)
                given = arguments.get(owner, {})
                own = getattr(member, _MARK, None)
                if own is not None:
                    claims[name] = tuple(
                        dataclasses.replace(each, payload=substituted(each.payload, given))
                        for each in own
                    )
                elif name in claims:
                    claims[name] = tuple(_redefined(claims[name], member, given))
        handlers = []
        for name, of_method in claims.items():
            function = inspect.getattr_static(resource, name)
            refuse_falcon_hook(function, f"{resource.__name__}.{name}")
            for each in of_method:
                payload = Any if each.payload is UNANNOTATED else each.payload
                where = f"{resource.__name__}.{name}"
                payload, left = fill_in(payload, still_open=own_parameters.__contains__, name=where)
                if left is not None:
                    unfilled = HandlerDefinitionError(where, left)
                handlers.append(
                    Handler(
                        each.message_type,
                        function,
                        payload,
                        each.forbid_unknown_fields,
                        each.concurrent,
                        name=name,
                        default=each.default,
                    )
                )
        pings = bool(handlers) or schema is not None or not falls_back
        return cls(resource.__name__, handlers, schema, answers_ping=pings, unfilled=unfilled)

    def compiled(self, codecs: Codecs) -> HandlerTable:
        """Return the table with which an app opens frames: this one if the app has no hooks.

        It is made once per app and table.

        Raises:
            HandlerDefinitionError: A payload's type needs a ``dec_hook`` and the app has
                none, or a type parameter of the class is still open.
        """
        if self._unfilled is not None:
            raise self._unfilled
        if self._custom is not None and codecs.dec_hook is None:
            handler, foreign = self._custom
            raise HandlerDefinitionError(
                f"{self._resource}.{handler.name}",
                f"takes a payload with {getattr(foreign, '__name__', foreign)!r} in it, which "
                "msgspec does not know; decode it with install(app, dec_hook=...), as in msgspec",
            )
        if codecs is DEFAULT_CODECS:
            return self
        known: HandlerTable | None = codecs.tables.get(self)
        if known is None:
            known = codecs.tables[self] = HandlerTable(
                self._resource,
                self.handlers.values(),
                self._schema,
                codecs=codecs,
                answers_ping=self.answers_ping,
            )
        return known

    @property
    def types(self) -> tuple[str, ...]:
        """The message types, in the order in which the class defines them."""
        return tuple(self.handlers)

    def open(self, frame: Frame, codec: Codec = JSON) -> tuple[Handler, Any, Ref]:
        """Decode a frame: its handler, its payload in the declared type, its ref.

        The handler of a ``ping`` that the class does not handle is `PING`.

        Raises:
            Refusal: The message is refused. The code is the codec's own
                (``invalid_json``), ``invalid_message`` (not an object with a text
                ``type``), ``unknown_type``, ``invalid_payload``, ``unsupported_frame``,
                or that of a `MessageError` which the payload's ``__post_init__``
                raised; the ref is that of the message, where it could be read.
        """
        if type(frame) is not codec.frame_type:
            kind = "text" if codec.frame_type is str else "binary"
            why = f"This connection takes {codec.name} in {kind} frames."
            raise Refusal("unsupported_frame", why)
        try:
            decoded = self._decode[codec](frame)
            handler, opener = self._shapes[type(decoded)]
            return handler, opener(decoded, frame, codec), decoded.ref
        except (*DECODE_ERRORS, MessageError) as error:
            self._refuse(frame, codec, error)

    def _refuse(self, frame: Frame, codec: Codec, error: Exception) -> NoReturn:
        """Look again at a frame that could not be opened, for its ref and for what is wrong."""
        message_type, ref = read_header(frame, codec)
        if message_type not in self.handlers:
            # Without its cause, whose text has what the client sent as it is.
            why = f"Unknown message type {message_type[:SHOWN]!r}."
            raise Refusal("unknown_type", why, "$.type", ref) from None
        cause = error if isinstance(error, MessageError) else error.__cause__
        if isinstance(cause, MessageError):  # of a __post_init__, which msgspec may have wrapped
            raise Refusal(
                cause.code, cause.message, cause.path, ref, status=cause.status, claimed=True
            ) from cause
        raise refusal_of("invalid_payload", error, ref, claimed=True) from None


class _Nothing(msgspec.Struct, tag=""):
    """What no handler handles: the empty type."""


def _open_nothing(_nothing: _Nothing, _frame: Frame, _codec: Codec) -> NoReturn:
    raise msgspec.ValidationError("A message type must not be empty")


def _redefined(claims: Iterable[_Claim], member: object, given: dict[Any, Any]) -> Iterator[_Claim]:
    """Carry a base's claims over to the method that a subclass puts in its place."""
    if member is None:
        return
    for claim in claims:
        if not is_handler(member):
            raise HandlerDefinitionError(
                repr(member),
                f"replaces the handler of {claim.message_type!r}, and cannot be called",
            )
        payload, default = takes(member, claim.message_type)
        payload = claim.payload if payload is UNANNOTATED else substituted(payload, given)
        yield dataclasses.replace(claim, payload=payload, default=default)


def _in_style(handler: Handler, struct: type[msgspec.Struct] | None) -> Handler:
    """Make a handler of a type that the schema has one of the schema's style."""
    if struct is None:
        return handler
    if handler.takes_payload and handler.payload not in (Any, object, struct):
        raise HandlerDefinitionError(
            name_of(handler.function),
            f"handles {handler.type!r}, which the schema says is {struct.__name__}, "
            f"but takes {handler.payload!r}; annotate it with {struct.__name__}",
        )
    return dataclasses.replace(handler, struct=struct)


def _shape(handler: Handler, codecs: Codecs) -> Shape:
    """Make what the handler's messages decode into.

    Raises:
        HandlerDefinitionError: It cannot be decoded, or not as it is meant.
    """
    wanted = handler.payload if handler.struct is None else handler.struct
    name, forbid = name_of(handler.function), handler.forbid_unknown_fields
    rule = foreign_rule(wanted)
    if rule is not None:
        raise HandlerDefinitionError(name, f"takes a payload of {wanted!r}, but {rule}")
    try:
        if handler.struct is not None:
            return schema_shape(handler.struct, forbid_unknown_fields=forbid, codecs=codecs)
        return envelope_shape(
            handler.type,
            wanted,
            forbid_unknown_fields=forbid,
            default=handler.default,
            codecs=codecs,
        )
    except NameError as error:
        raise HandlerDefinitionError(
            name,
            f"takes a payload of {wanted!r}, in which an annotation cannot be resolved: {error}; "
            "import the type at run time, and define a struct that refers to itself at the top "
            "of a module",
        ) from None
    except (TypeError, NotImplementedError) as error:
        raise HandlerDefinitionError(
            name, f"takes a payload of {wanted!r}, which msgspec cannot decode: {error}"
        ) from None
