"""Which method handles which message: a table made once per resource class.

Clients reach what is in the table and nothing else: a method's name never
matters to them.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import FrameType
from typing import Any, TypeAlias, TypeVar, Union, get_type_hints

import msgspec

from falcon_pachinko.errors import DuplicateHandlerError, HandlerDefinitionError
from falcon_pachinko.messages.codec import CODECS, DECODE_ERRORS, JSON, Codec
from falcon_pachinko.messages.envelopes import (
    SHOWN,
    NoPayload,
    Opener,
    Ref,
    Refusal,
    Shape,
    becoming,
    derived,
    envelope_shape,
    field_names,
    members_of,
    names_in,
    read_header,
    refusal_of,
)
from falcon_pachinko.typing import Frame

__all__ = ["Handler", "HandlerTable", "handles_message", "require_coroutine"]

_MARK = "__pachinko_handles__"

Struct: TypeAlias = type[msgspec.Struct]

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


@dataclasses.dataclass(frozen=True, slots=True)
class _Claim:
    """What `handles_message` leaves on a method."""

    message_type: str
    payload: Any
    forbid_unknown_fields: bool
    concurrent: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Handler:
    """One row of the table: a type, and the method that handles it."""

    type: str  # the wire's own word
    function: Callable[..., Coroutine[Any, Any, Any]]
    payload: Any
    """The type that the message or its payload is decoded into; `NoPayload` for none."""
    forbid_unknown_fields: bool = True
    concurrent: bool = False
    struct: Struct | None = None
    """In schema style, the struct that the whole message is; None in envelope style."""
    takes_payload: bool = dataclasses.field(init=False)
    """Whether the method has a parameter for the payload."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "takes_payload", self.payload is not NoPayload)


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
    it takes the struct itself. What it returns answers the client, as
    ``{"type": "reply", "ref": ..., "payload": ...}``; None answers only a
    message that has a ``ref``.

    Args:
        message_type: The ``type`` of the messages, or a struct of the schema,
            whose tag it is; only these reach the method.
        forbid_unknown_fields: Refuse fields that the type does not have.
        concurrent: Do not let the next message wait for this one. At most
            ``Limits.concurrency`` of a connection's handlers run at once; their
            order, and that of their answers, is then open.

    Raises:
        HandlerDefinitionError: The method is not a coroutine, or has parameters that
            nobody could fill.

    Example::

        class Say(msgspec.Struct):
            text: str

        class ChatRoom(WebSocketResource):
            @handles_message("say")
            async def say(self, ws, payload: Say):
                await self.broadcast_to_room("lobby", {"type": "said", "payload": payload})
    """
    tag = _tag_of(message_type) if isinstance(message_type, type) else message_type
    if not isinstance(tag, str) or not tag:
        raise HandlerDefinitionError(
            f"handles_message({message_type!r})",
            'needs the message type first, as text: @handles_message("say")',
        )
    if not tag.isprintable():
        raise HandlerDefinitionError(
            f"handles_message({tag!a})", "has a type that cannot be printed"
        )

    def claim(function: F) -> F:
        payload = _payload_type(function, tag)
        claims = getattr(function, _MARK, ())
        setattr(function, _MARK, (*claims, _Claim(tag, payload, forbid_unknown_fields, concurrent)))
        return function

    return claim


def require_coroutine(function: object, what: str) -> None:
    """Refuse a method that cannot be awaited.

    Raises:
        HandlerDefinitionError: It is no coroutine function; the text says how to make it one.
    """
    if inspect.iscoroutinefunction(function):
        return
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isasyncgenfunction(function):
        raise HandlerDefinitionError(name, f"{what} but has a `yield`; return a value instead")
    plain = getattr(function, "__name__", "handler")
    raise HandlerDefinitionError(
        name, f"{what} but is not a coroutine; write `async def {plain}(...)`"
    )


def _tag_of(struct: type) -> object:
    return struct.__struct_config__.tag if issubclass(struct, msgspec.Struct) else None


def _payload_type(function: Callable[..., Any], message_type: str) -> Any:
    """Read from a handler's signature what it wants its payload to be."""
    require_coroutine(function, f"handles {message_type!r}")
    kinds = inspect.Parameter
    takes, wants_more = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD):
            takes.append(parameter)
        elif parameter.kind is kinds.KEYWORD_ONLY and parameter.default is kinds.empty:
            wants_more = True
    wants_more = wants_more or any(p.default is kinds.empty for p in takes[3:])
    just_payload = len(takes) == 2 and takes[1].name == "payload"
    if len(takes) < 2 or wants_more or just_payload:
        raise HandlerDefinitionError(
            function.__qualname__,
            f"handles {message_type!r} and is called with (self, ws) or (self, ws, payload); "
            f"it is written as {function.__name__}{inspect.signature(function)}",
        )
    if len(takes) == 2:
        return NoPayload
    return _annotations(function).get(takes[2].name, Any)


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Resolve annotations, also such that name what is local to the scope around the class."""
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        pass
    local: dict[str, Any] = {}
    scope: FrameType | None = sys._getframe(1)  # inspect's way walks the whole stack
    while scope is not None:
        if scope.f_globals is function.__globals__:
            local = {**scope.f_locals, **local}
        scope = scope.f_back
    try:
        return get_type_hints(function, localns=local, include_extras=True)
    except NameError as error:
        raise HandlerDefinitionError(
            function.__qualname__,
            f"has an annotation that cannot be resolved: {error}; import the type at "
            "run time (not under `if TYPE_CHECKING:`) and define it before the class",
        ) from None


class HandlerTable:
    """The message types of one resource class, and what opens their frames."""

    __slots__ = ("_decode", "_lenient", "_shapes", "_structs", "handlers")

    def __init__(self, resource: str, handlers: Iterable[Handler], schema: Any = None) -> None:
        structs = _schema_structs(resource, schema)
        self.handlers: dict[str, Handler] = {}
        self._shapes: dict[type, tuple[Handler, Opener]] = {}
        for claimed in handlers:
            twin = self.handlers.get(claimed.type)
            if twin is not None:
                first, second = twin.function.__name__, claimed.function.__name__
                raise DuplicateHandlerError(resource, claimed.type, first, second)
            handler = _in_style(claimed, structs.get(claimed.type))
            shape = _shape(handler)
            self.handlers[handler.type] = handler
            self._shapes[shape.struct] = (handler, shape.open)
        self._decode = _decoders(self._shapes)
        # In schema style a ref is one field too many for the first pass; a second one knows it.
        own = (handler.struct for handler in self.handlers.values())
        self._structs = {derived(each, forbid=False): each for each in own if each is not None}
        self._lenient = _decoders(self._structs)

    @classmethod
    def of(cls, resource: type, schema: Any = None) -> HandlerTable:
        """Collect what a class and its bases claim with `handles_message`.

        A subclass that redefines a handler's method redefines the handler, with
        or without the decorator; one that sets it to None takes it away.

        Raises:
            DuplicateHandlerError: Two methods claim one type.
            HandlerDefinitionError: A method could not be called, or the schema is none.
        """
        claims: dict[str, tuple[_Claim, ...]] = {}
        for owner in reversed(resource.__mro__):
            for name, member in vars(owner).items():
                if isinstance(member, (staticmethod, classmethod)):
                    _refuse_unbound(member.__func__)
                own = getattr(member, _MARK, None)
                if own is not None:
                    claims[name] = own
                elif name in claims:
                    claims[name] = tuple(_redefined(claims[name], member))
        handlers = (
            Handler(
                each.message_type,
                getattr(resource, name),
                each.payload,
                each.forbid_unknown_fields,
                each.concurrent,
            )
            for name, of_method in claims.items()
            for each in of_method
        )
        return cls(resource.__name__, handlers, schema)

    @property
    def types(self) -> tuple[str, ...]:
        """The message types, in the order in which the class defines them."""
        return tuple(self.handlers)

    def open(self, frame: Frame, codec: Codec = JSON) -> tuple[Handler, Any, Ref]:
        """Decode a frame: its handler, its payload in the declared type, its ref.

        Raises:
            Refusal: No handler wants it as it is. The code is the codec's own
                (``invalid_json``), ``invalid_message`` (no object with a text
                ``type``), ``unknown_type``, ``invalid_payload`` or
                ``unsupported_frame``; the ref is that of the message, where it
                could be read.
        """
        if type(frame) is not codec.frame_type:
            kind = "text" if codec.frame_type is str else "binary"
            raise Refusal("unsupported_frame", f"This speaks {codec.name}, in {kind} frames.")
        try:
            decoded = self._decode[codec](frame)
            handler, opener = self._shapes[type(decoded)]
            ref = decoded.ref if handler.struct is None else None
            return handler, opener(decoded, frame, codec), ref
        except DECODE_ERRORS as error:
            return self._open_slowly(frame, codec, error)

    def _open_slowly(
        self, frame: Frame, codec: Codec, error: Exception
    ) -> tuple[Handler, Any, Ref]:
        """Look again at a frame that the first pass refused: for a ref, or for what is wrong."""
        header = read_header(frame, codec)
        handler = self.handlers.get(header.type)
        if handler is None:
            shown = header.type[:SHOWN]
            raise Refusal("unknown_type", f"Nothing here handles {shown!r}.", "$.type", header.ref)
        if handler.struct is None:
            raise refusal_of("invalid_payload", error, header.ref) from None
        try:
            message = self._lenient[codec](frame)
            becoming(self._structs[type(message)])(message)
            if handler.forbid_unknown_fields:
                _check_names(names_in(frame, codec), handler.struct)
        except DECODE_ERRORS as wrong:
            raise refusal_of("invalid_payload", wrong, header.ref) from None
        return handler, message if handler.takes_payload else None, header.ref


def _decoders(structs: Iterable[type]) -> dict[Codec, Callable[[Any], Any]]:
    """Make a decoder of the union of these structs, for each codec."""
    union: Any = Union[tuple(structs) or (_Nothing,)]  # noqa: UP007  # known at run time only
    return {codec: codec.decoder(union) for codec in CODECS.values()}


class _Nothing(msgspec.Struct, tag=""):
    """What a resource without handlers decodes: no message has an empty type and nothing else."""

    nothing: None


def _refuse_unbound(function: Callable[..., Any]) -> None:
    if hasattr(function, _MARK):
        why = "handles messages and so is a method of an instance; drop its @staticmethod"
        raise HandlerDefinitionError(function.__qualname__, why)


def _redefined(claims: Iterable[_Claim], member: object) -> Iterator[_Claim]:
    """Carry a base's claims over to the method that a subclass puts in its place."""
    if member is None:
        return
    for claim in claims:
        if not callable(member):
            raise HandlerDefinitionError(
                repr(member), f"stands where a handler of {claim.message_type!r} was"
            )
        payload = _payload_type(member, claim.message_type)
        yield dataclasses.replace(claim, payload=claim.payload if payload is Any else payload)


def _schema_structs(resource: str, schema: Any) -> dict[str, type[msgspec.Struct]]:
    """Return the structs of a ``schema`` by their tags.

    Raises:
        HandlerDefinitionError: One is no struct, has no tag, or has fields that the wire needs.
    """
    structs: dict[str, type[msgspec.Struct]] = {}
    for member in members_of(schema) if schema is not None else ():
        name = f"{resource}.schema"
        if not (isinstance(member, type) and issubclass(member, msgspec.Struct)):
            raise HandlerDefinitionError(name, f"has {member!r}, which is no msgspec.Struct")
        config = member.__struct_config__
        if not isinstance(config.tag, str) or config.tag_field != "type" or config.array_like:
            raise HandlerDefinitionError(
                name,
                f"has {member.__name__} without a `type` on the wire; write "
                f'class {member.__name__}(msgspec.Struct, tag="{member.__name__.lower()}")',
            )
        if "ref" in field_names(member):
            raise HandlerDefinitionError(
                name, f"has {member.__name__}.ref, but `ref` is the client's mark; rename the field"
            )
        if config.tag in structs:
            first = structs[config.tag].__name__
            raise HandlerDefinitionError(
                name, f"has two structs tagged {config.tag!r}: {first} and {member}"
            )
        structs[config.tag] = member
    return structs


def _in_style(handler: Handler, struct: type[msgspec.Struct] | None) -> Handler:
    """Make a handler of a type that the schema has one of the schema's style."""
    if struct is None:
        return handler
    if handler.takes_payload and handler.payload not in (Any, struct):
        raise HandlerDefinitionError(
            handler.function.__qualname__,
            f"handles {handler.type!r}, which the schema says is {struct.__name__}, "
            f"but takes {handler.payload!r}; annotate it with {struct.__name__}",
        )
    return dataclasses.replace(handler, struct=struct)


def _shape(handler: Handler) -> Shape:
    """Make what the handler's messages decode into."""
    if handler.struct is not None:
        become = becoming(handler.struct)

        def open_struct(message: Any, frame: Frame, codec: Codec) -> Any:
            become(message)
            return message

        return Shape(derived(handler.struct, forbid=True), open_struct)
    try:
        if _is_foreign(handler.payload):
            raise TypeError("it is no type that msgspec knows")
        return envelope_shape(
            handler.type, handler.payload, forbid_unknown_fields=handler.forbid_unknown_fields
        )
    except (TypeError, NotImplementedError) as error:
        raise HandlerDefinitionError(
            handler.function.__qualname__,
            f"takes a payload of {handler.payload!r}, which msgspec cannot decode: {error}",
        ) from None


def _is_foreign(payload: Any) -> bool:
    """Whether nothing on the wire could ever become this type."""
    if payload is NoPayload:
        return False
    known = msgspec.inspect.type_info(payload)
    return isinstance(known, msgspec.inspect.CustomType)


def _check_names(given: Iterable[str], struct: type[msgspec.Struct]) -> None:
    known = field_names(struct)
    for name in given:
        if name not in known and name not in ("type", "ref"):
            raise msgspec.ValidationError(f"Object contains unknown field `{name[:SHOWN]}`")
