"""Which method handles which message: a table made once per resource class.

Clients reach what is in the table and nothing else: a method's name never
matters to them. A frame is decoded once, straight into the payload's type:
all envelopes of a resource are one tagged union of structs, made with the class.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import FrameType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec.structs import force_setattr

from falcon_pachinko.codec import DECODE_ERRORS
from falcon_pachinko.errors import DuplicateHandlerError, HandlerError, MessageError

__all__ = ["Handler", "HandlerTable", "Ref", "handles_message", "require_coroutine"]

Ref = str | int | None
"""A client's own mark on a message; the answer carries it back."""

_MARK = "__pachinko_handles__"
_SHOWN = 200  # how much of a client's text an error repeats, in characters

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


class _NoPayload:
    """What a handler that takes no payload declares."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Claim:
    """What `handles_message` leaves on a method."""

    type: str
    payload: Any
    strict: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Handler:
    """One row of the table: a type, and the method that handles it."""

    type: str
    function: Callable[..., Coroutine[Any, Any, Any]]
    payload: Any
    """The type the payload is decoded into; None if the handler takes no payload."""
    strict: bool

    @property
    def takes_payload(self) -> bool:
        """Whether the method has a parameter for the payload."""
        return self.payload is not _NoPayload


def handles_message(message_type: str, *, strict: bool = True) -> Callable[[F], F]:
    """Make a method of a resource the handler of one message type.

    The method is a coroutine that takes the connection and, if it wants it, the
    payload; the payload is decoded into the type it is annotated with, and the
    handler is not called if that fails. What it returns answers the client, as
    ``{"type": "reply", "ref": ..., "payload": ...}``; None answers only a
    message that has a ``ref``.

    Args:
        message_type: The ``type`` of the messages; only these reach the method.
        strict: Refuse a payload with fields that its type does not have.

    Raises:
        HandlerError: The method is not a coroutine, or has parameters that
            nobody could fill.

    Example::

        class Say(msgspec.Struct):
            text: str

        class ChatRoom(WebSocketResource):
            @handles_message("say")
            async def say(self, ws, payload: Say):
                await self.broadcast_to_room("lobby", {"type": "said", "payload": payload})
    """
    if not isinstance(message_type, str) or not message_type:
        raise HandlerError(
            f"handles_message({message_type!r})",
            'needs the message type first, as text: @handles_message("say")',
        )

    def claim(function: F) -> F:
        payload = _payload_type(function, message_type, _caller())
        claims = getattr(function, _MARK, ())
        setattr(function, _MARK, (*claims, _Claim(message_type, payload, strict)))
        return function

    return claim


def require_coroutine(function: object, what: str) -> None:
    """Refuse a method that cannot be awaited.

    Raises:
        HandlerError: It is no coroutine function; the text says how to make it one.
    """
    if inspect.iscoroutinefunction(function):
        return
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isasyncgenfunction(function):
        raise HandlerError(name, f"{what} but has a `yield`; return a value instead")
    plain = getattr(function, "__name__", "handler")
    raise HandlerError(name, f"{what} but is not a coroutine; write `async def {plain}(...)`")


def _payload_type(function: Callable[..., Any], message_type: str, frame: FrameType) -> Any:
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
        raise HandlerError(
            function.__qualname__,
            f"handles {message_type!r} and is called with (self, ws) or (self, ws, payload); "
            f"it is written as {function.__name__}{inspect.signature(function)}",
        )
    if len(takes) == 2:
        return _NoPayload
    return _annotations(function, frame).get(takes[2].name, Any)


def _caller() -> FrameType:
    """Return the frame that called the function that calls this: a class's body, mostly."""
    return sys._getframe(2)  # noqa: SLF001  # inspect's own way costs a walk through the whole stack


def _annotations(function: Callable[..., Any], frame: FrameType) -> dict[str, Any]:
    """Resolve annotations, also such that name what is local to the scope around the class."""
    try:
        return get_type_hints(function)
    except NameError:
        scopes: dict[str, Any] = dict(frame.f_locals)
        outer = frame.f_back
        while outer is not None and outer.f_globals is frame.f_globals:
            scopes = {**outer.f_locals, **scopes}
            outer = outer.f_back
        try:
            return get_type_hints(function, localns=scopes)
        except NameError as error:
            raise HandlerError(
                function.__qualname__,
                f"has an annotation that cannot be resolved: {error}; import the type at "
                "run time (not under `if TYPE_CHECKING:`) and define it before the class",
            ) from None


class HandlerTable:
    """The message types of one resource class, and what opens their frames."""

    __slots__ = ("_decode", "_open", "handlers")

    def __init__(self, resource: str, handlers: Iterable[Handler]) -> None:
        self.handlers: dict[str, Handler] = {}
        for handler in handlers:
            twin = self.handlers.get(handler.type)
            if twin is not None:
                first, second = twin.function.__name__, handler.function.__name__
                raise DuplicateHandlerError(resource, handler.type, first, second)
            self.handlers[handler.type] = handler
        self._open: dict[type, tuple[Handler, _Opener]] = {}
        for handler in self.handlers.values():
            envelope, opener = _envelope(handler)
            self._open[envelope] = (handler, opener)
        self._decode = msgspec.json.Decoder(Union[tuple(self._open)]).decode if self._open else None  # noqa: UP007  # a union of types known at run time only

    @classmethod
    def of(cls, resource: type) -> HandlerTable:
        """Collect what a class and its bases claim with `handles_message`.

        A subclass that redefines a handler's method redefines the handler, with
        or without the decorator; one that sets it to None takes it away.

        Raises:
            DuplicateHandlerError: Two methods claim one type.
            HandlerError: A method could not be called.
        """
        claims: dict[str, tuple[_Claim, ...]] = {}
        for owner in reversed(resource.__mro__):
            for name, member in vars(owner).items():
                own = getattr(member, _MARK, None)
                if own is not None:
                    claims[name] = own
                elif name in claims:
                    claims[name] = tuple(_redefined(claims[name], member))
        return cls(
            resource.__name__,
            (
                Handler(claim.type, getattr(resource, name), claim.payload, claim.strict)
                for name, of_method in claims.items()
                for claim in of_method
            ),
        )

    @property
    def types(self) -> tuple[str, ...]:
        """The message types, in the order in which the class defines them."""
        return tuple(self.handlers)

    def open(self, text: str) -> tuple[Handler, Any, Ref]:
        """Decode a text frame: its handler, its payload in the declared type, its ref.

        Raises:
            MessageError: No handler wants it as it is; see `explain`. It carries the
                message's ``ref``, where that could be read.
        """
        try:
            envelope = self._decode(text)  # type: ignore[misc]  # None raises TypeError, below
            handler, opener = self._open[type(envelope)]
            return handler, opener(envelope, text), envelope.ref
        except DECODE_ERRORS as error:
            raise self.explain(text, error) from None
        except TypeError:
            if self._decode is not None:
                raise
            raise self.explain(text, None) from None

    def explain(self, text: str, error: Exception | None) -> Refusal:
        """Tell a client why its frame reached no handler, off the fast path.

        The code is ``invalid_json``, ``invalid_message`` (no object with a text
        ``type``), ``unknown_type`` or ``invalid_payload``.
        """
        try:
            header = _decode_header(text)
        except msgspec.ValidationError as not_an_object:
            return Refusal("invalid_message", *_split(not_an_object))
        except RecursionError:
            return Refusal("invalid_json", "The message is nested too deeply.")
        except DECODE_ERRORS as no_json:
            return Refusal("invalid_json", *_split(no_json))
        if not isinstance(header.ref, (str, int, type(None))) or isinstance(header.ref, bool):
            return Refusal("invalid_message", "A ref is text or a whole number.", "$.ref")
        if not isinstance(header.type, str):
            why = "A message is an object with a text `type`."
            return Refusal("invalid_message", why, "$.type", ref=header.ref)
        if header.type not in self.handlers or error is None:
            shown = header.type[:_SHOWN]
            return Refusal("unknown_type", f"Nothing here handles {shown!r}.", "$.type", header.ref)
        return Refusal("invalid_payload", *_split(error), ref=header.ref)


class Refusal(MessageError):  # noqa: N818  # an outcome, not a mistake of ours
    """A message that no handler wants as it is; ``ref`` is the client's mark on it."""

    def __init__(self, code: str, why: str, path: str | None = None, ref: Ref = None) -> None:
        self.ref = ref
        super().__init__(code, why, path=path)


class _Header(msgspec.Struct):
    type: Any = None
    ref: Any = None


_decode_header = msgspec.json.Decoder(_Header).decode

_Opener = Callable[[Any, str], Any]
"""Takes a decoded envelope and its text, gives the payload."""


def _redefined(claims: Iterable[_Claim], member: object) -> Iterator[_Claim]:
    """Carry a base's claims over to the method that a subclass puts in its place."""
    if member is None:
        return
    for claim in claims:
        if not callable(member):
            raise HandlerError(repr(member), f"stands where a handler of {claim.type!r} was")
        payload = _payload_type(member, claim.type, _caller())
        yield _Claim(claim.type, payload if payload is not Any else claim.payload, claim.strict)


def _split(error: Exception) -> tuple[str, str | None]:
    """Part msgspec's sentence from the path at its end: ``... - at `$.payload.text```."""
    sentence, _, path = str(error).partition(" - at `")
    return sentence[:_SHOWN], path.removesuffix("`")[:_SHOWN] or None


def _envelope(handler: Handler) -> tuple[type, _Opener]:
    """Make the struct that a handler's frames decode into, and what opens it."""
    fields: list[tuple[str, Any, Any]] = [("ref", Ref, None)]
    opener: _Opener = _nothing
    if handler.takes_payload:
        wire_type, becoming = (
            _strict(handler.payload) if handler.strict else (handler.payload, None)
        )
        opener = _filled(handler.payload, becoming)
        fields.append(("payload", Union[wire_type, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007  # `|` fails on text and on some generics
    envelope = msgspec.defstruct(handler.type, fields, tag=handler.type, tag_field="type")
    try:
        msgspec.json.Decoder(envelope)
    except (TypeError, NotImplementedError) as error:
        raise HandlerError(
            handler.function.__qualname__,
            f"takes a payload of {handler.payload!r}, which msgspec cannot decode: {error}",
        ) from None
    return envelope, opener


def _nothing(envelope: Any, text: str) -> None:  # an opener like the others
    """Open the envelope of a handler that takes no payload."""


def _filled(payload_type: Any, opener: _Opener | None) -> _Opener:
    """Let a missing payload count as ``{}`` for a struct or dict, and as None otherwise."""
    empty: dict[str, Any] | None = {} if _is_object(payload_type) else None

    def open_envelope(envelope: Any, text: str) -> Any:
        payload = envelope.payload
        if payload is msgspec.UNSET:
            try:
                return msgspec.convert(empty, payload_type)
            except msgspec.ValidationError as error:
                raise _below_payload(error) from None
        return payload if opener is None else opener(envelope, text)

    return open_envelope


def _below_payload(error: msgspec.ValidationError) -> msgspec.ValidationError:
    """Say of an error that it happened within the payload."""
    sentence, path = _split(error)
    return msgspec.ValidationError(f"{sentence} - at `$.payload{(path or '$')[1:]}`")


def _is_object(payload_type: Any) -> bool:
    try:
        known = msgspec.inspect.type_info(payload_type)
    except TypeError:
        return False  # said better where the decoder is made
    objects = (
        msgspec.inspect.StructType,
        msgspec.inspect.DictType,
        msgspec.inspect.DataclassType,
        msgspec.inspect.TypedDictType,
    )
    if isinstance(known, msgspec.inspect.UnionType):
        return not known.includes_none and any(isinstance(t, objects) for t in known.types)
    return isinstance(known, objects)


def _strict(payload: Any) -> tuple[Any, _Opener | None]:
    """Return what to decode in a payload's stead so that unknown fields are refused.

    A struct ignores unknown fields unless its class says otherwise, and that
    class is the user's. So the frame is decoded into a subclass that forbids
    them, in the same pass, and the instance then becomes one of the user's class,
    which has the same layout. The field names of a dataclass or TypedDict are
    compared in a second, shallow pass.
    """
    members = get_args(payload) if get_origin(payload) in (Union, UnionType) else (payload,)
    forbidding = {_forbidding(member): member for member in members if _is_open_struct(member)}
    if forbidding:
        others = tuple(member for member in members if not _is_open_struct(member))

        def become_users(envelope: Any, text: str) -> Any:  # noqa: ARG001  # an opener
            struct = envelope.payload
            original = forbidding.get(type(struct))
            if original is not None:
                force_setattr(struct, "__class__", original)
            return struct

        return Union[(*forbidding, *others)], become_users  # known at run time only
    fields = getattr(msgspec.inspect.type_info(payload), "fields", None)
    if fields is None or isinstance(msgspec.inspect.type_info(payload), msgspec.inspect.StructType):
        return payload, None
    known = frozenset(field.encode_name for field in fields)

    def compare_names(envelope: Any, text: str) -> Any:
        for name in _decode_names(text).payload:
            if name not in known:
                sentence = f"Object contains unknown field `{name[:_SHOWN]}`"
                raise msgspec.ValidationError(f"{sentence} - at `$.payload`")
        return envelope.payload

    return payload, compare_names


def _is_open_struct(payload: Any) -> bool:
    """Whether a type is a struct class that would ignore unknown fields."""
    if not (isinstance(payload, type) and issubclass(payload, msgspec.Struct)):
        return False
    config = payload.__struct_config__
    return not (config.forbid_unknown_fields or config.array_like)


def _forbidding(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    return msgspec.defstruct(struct.__name__, [], bases=(struct,), forbid_unknown_fields=True)


class _Names(msgspec.Struct):
    payload: dict[str, msgspec.Raw]


_decode_names = msgspec.json.Decoder(_Names).decode
