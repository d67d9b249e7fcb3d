"""The shape of a client's messages: structs made once per resource class.

In envelope style a message is ``{"type": ..., "payload": ..., "ref": ...}``; in
schema style the fields of the application's own tagged struct stand beside
``type``. Either way all messages of a resource are one tagged union, so that a
frame is decoded and validated in one pass. What is decoded are structs of ours
(see `strict`); a `Shape` holds what turns them into what the handler declared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec.structs import astuple

from falcon_pachinko.errors import MessageError
from falcon_pachinko.messages.codec import DECODE_ERRORS, DEFAULT_CODECS, Codec, Codecs
from falcon_pachinko.messages.guards import NO_CHECKS, Checks, checks_of, guarded
from falcon_pachinko.messages.strict import Builder, strict_type, struct_twin
from falcon_pachinko.typing import Frame

__all__ = [
    "MISSING",
    "Header",
    "NoPayload",
    "Opener",
    "Ping",
    "Ref",
    "Refusal",
    "Shape",
    "careful_shape",
    "envelope_shape",
    "field_names",
    "members_of",
    "read_header",
    "read_ping",
    "ref_of",
    "refusal_of",
    "schema_shape",
]

Ref = str | int | None
"""A client's own mark on a message; the answer carries it back."""

_INDEX = re.compile(r"\[\d+\]")

SHOWN = 200
"""How much of a client's text an error repeats, in characters."""

MISSING: Any = msgspec.UNSET
"""Stands for a default that a handler's parameter does not have."""

Opener = Callable[[Any, Frame, Codec], Any]
"""Takes what was decoded, its frame and the codec; gives the payload."""


class NoPayload:
    """The payload type of a handler that takes none."""


class Shape(NamedTuple):
    """What one type of message decodes into, and how the payload is got out of it."""

    struct: type[msgspec.Struct]
    open: Opener
    checks: Checks
    """What its frames are checked for before they are decoded; see `careful_shape`."""
    custom: tuple[type, ...]
    """The types in it that need the application's ``dec_hook``."""


class Refusal(MessageError):  # noqa: N818  # an outcome, not a mistake of ours
    """A message that is refused before its handler runs."""

    ref: Ref
    """The client's mark on the message, where it could be read."""
    claimed: bool
    """True if a handler is there for its type; ``on_message`` is then not asked."""

    def __init__(
        self,
        code: str,
        why: str,
        path: str | None = None,
        ref: Ref = None,
        *,
        status: int | None = None,
        claimed: bool = False,
    ) -> None:
        self.ref, self.claimed = ref, claimed
        super().__init__(code, why, path=path, status=status)


# What any message may have.

_NOTHING = msgspec.Raw(b"")


class _RawHeader(msgspec.Struct):
    """Type and ref as they came: decoded without a type, they could take seconds."""

    type: msgspec.Raw = _NOTHING
    ref: msgspec.Raw = _NOTHING


class Header(NamedTuple):
    """What any message has, whatever else is wrong with it."""

    type: str
    ref: Ref


class Ping(msgspec.Struct, tag="ping", tag_field="type"):
    """A client's sign of life; it is answered with a ``pong``."""

    ref: Ref = None


class _Readers(NamedTuple):
    """Decoders that no application's hook changes anything about, of one kind of codec."""

    header: Callable[[Any], _RawHeader]
    text: Callable[[Any], str]
    ref: Callable[[Any], Ref]
    ping: Callable[[Any], Ping]
    needle: Any


_readers = {
    codec.subprotocol: _Readers(
        codec.decoder(_RawHeader),
        codec.decoder(str),
        codec.decoder(Ref),
        codec.decoder(Ping),
        "ping" if codec.frame_type is str else b"ping",
    )
    for codec in DEFAULT_CODECS
}


def read_header(frame: Frame, codec: Codec) -> Header:
    """Read a message's type and ref, whatever the rest of it is.

    Raises:
        Refusal: The frame is not a message: not of the codec, not an object, without a
            text ``type``, or with a ``ref`` that is neither text nor a whole number.
    """
    readers = _readers[codec.subprotocol]
    try:
        raw = readers.header(frame)
    except msgspec.ValidationError as not_an_object:
        raise refusal_of("invalid_message", not_an_object) from None
    except RecursionError:
        raise Refusal(codec.invalid, "The message is nested too deeply.") from None
    except DECODE_ERRORS as unreadable:
        raise refusal_of(codec.invalid, unreadable) from None
    try:
        ref = None if raw.ref is _NOTHING else readers.ref(raw.ref)
    except DECODE_ERRORS:
        why = "A ref must be text or a whole number."
        raise Refusal("invalid_message", why, "$.ref") from None
    try:
        return Header(readers.text(raw.type), ref)
    except DECODE_ERRORS:
        why = "A message must be an object with a text `type`."
        raise Refusal("invalid_message", why, "$.type", ref) from None


def ref_of(frame: Frame, codec: Codec) -> Ref:
    """Return a message's ref, or None where it cannot be read."""
    try:
        return read_header(frame, codec).ref
    except Refusal as refusal:
        return refusal.ref


def read_ping(frame: Frame, codec: Codec) -> Ping | None:
    """Return a frame as a `Ping`, or None if it is anything else.

    It costs next to nothing for a frame without the word in it, so that a frame can
    be looked at while it waits for its turn. A ``ping`` that is unusually long, or
    whose ``ref`` is not legal, is left to be answered in its turn.
    """
    readers = _readers[codec.subprotocol]
    if len(frame) > 1_024 or type(frame) is not codec.frame_type or readers.needle not in frame:
        return None
    try:
        return readers.ping(frame)
    except DECODE_ERRORS:
        return None


def refusal_of(code: str, error: Exception, ref: Ref = None, *, claimed: bool = False) -> Refusal:
    """Turn msgspec's error into ours, with the path it ends with: ``... - at `$.payload```."""
    sentence, _, path = str(error).partition(" - at `")
    path = path.removesuffix("`")[:SHOWN]
    if sentence.startswith("Object contains unknown field"):
        path = _INDEX.sub("[...]", path)  # one mistake, whichever items of a list have it
    return Refusal(code, sentence[:SHOWN], path or None, ref, claimed=claimed)


# Types.


def members_of(union: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type that it is."""
    return get_args(union) if get_origin(union) in (Union, UnionType) else (union,)


def field_names(struct: Any) -> frozenset[str]:
    """Return the names that an object type's fields have on the wire."""
    return frozenset(field.encode_name for field in msgspec.inspect.type_info(struct).fields)  # type: ignore[attr-defined]  # object types have them


def envelope_shape(
    message_type: str,
    payload: Any,
    *,
    forbid_unknown_fields: bool,
    default: Any = MISSING,
    codecs: Codecs = DEFAULT_CODECS,
) -> Shape:
    """Make the struct that an envelope of one type decodes into, and what opens it.

    Args:
        message_type: The message type.
        payload: The declared type of the payload, or `NoPayload`.
        forbid_unknown_fields: Refuse unknown fields in the payload.
        default: What a missing payload is, as the handler's parameter says.
        codecs: Those of the app.

    Raises:
        TypeError: msgspec cannot decode the payload's type, or not in bounded time.
        NameError: An annotation in it cannot be resolved.
    """
    if payload is NoPayload:
        struct = _envelope(message_type, [])
        _check_decodable(struct, codecs)
        return Shape(struct, _nothing, NO_CHECKS, custom=())
    declared = _envelope(message_type, [_payload_field(payload)])
    strict = strict_type(payload, forbid_unknown_fields=forbid_unknown_fields)
    struct = _envelope(message_type, [_payload_field(strict.wire)])
    _check_decodable(declared, codecs)
    _check_decodable(struct, codecs)
    counted = strict.counted and _envelope(message_type, [_payload_field(strict.counted)])
    checks = checks_of(strict, counted, codecs, "$.payload")
    when_missing = _when_missing(payload, default, codecs)
    if strict.same:
        opener = _payload_opener(when_missing)
    elif strict.builders:
        opener = _building_opener(strict.builders, when_missing)
    else:
        opener = _second_opener(declared, when_missing, codecs)
    return Shape(struct, opener, checks, strict.custom)


def _envelope(message_type: str, fields: Iterable[tuple[Any, ...]]) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        message_type, [("ref", Ref, None), *fields], tag=message_type, tag_field="type"
    )


def _payload_field(payload: Any) -> tuple[str, Any, Any]:
    return ("payload", Union[payload, msgspec.UnsetType], msgspec.UNSET)  # noqa: UP007  # `|` fails on some generics


def _check_decodable(struct: type[msgspec.Struct], codecs: Codecs) -> None:
    for codec in codecs:
        codec.decoder(struct)


def _nothing(_envelope: Any, _frame: Frame, _codec: Codec) -> None:
    """Open the envelope of a handler that takes no payload."""


def _payload_opener(when_missing: Callable[[], Any]) -> Opener:
    """Make what opens an envelope whose payload is of the declared type already."""

    def open_envelope(envelope: Any, _frame: Frame, _codec: Codec) -> Any:
        payload = envelope.payload
        return when_missing() if payload is msgspec.UNSET else payload

    return open_envelope


def _building_opener(builders: dict[type, Builder], when_missing: Callable[[], Any]) -> Opener:
    """Make what opens an envelope whose payload is made from a struct of ours."""
    if len(builders) == 1:
        ((twin, builder),) = builders.items()
        if builder.in_order:  # nearly all payloads are like this, so it has a way of its own
            return _struct_payload_opener(twin, builder.make, when_missing)
    builder_of = builders.get

    def open_envelope(envelope: Any, _frame: Frame, _codec: Codec) -> Any:
        payload = envelope.payload
        build = builder_of(payload.__class__)
        if build is not None:
            try:
                return build(payload)
            except (ValueError, TypeError) as error:
                raise _from_post_init(error, " - at `$.payload`") from error
        return when_missing() if payload is msgspec.UNSET else payload

    return open_envelope


def _struct_payload_opener(
    twin: Any, make: Callable[..., Any], when_missing: Callable[[], Any]
) -> Opener:
    """Make what opens an envelope whose payload is, or may be, one struct."""

    def open_envelope(envelope: Any, _frame: Frame, _codec: Codec) -> Any:
        payload = envelope.payload
        if payload.__class__ is twin:
            try:
                return make(*astuple(payload))
            except (ValueError, TypeError) as error:
                raise _from_post_init(error, " - at `$.payload`") from error
        return when_missing() if payload is msgspec.UNSET else payload

    return open_envelope


def _second_opener(
    declared: type[msgspec.Struct], when_missing: Callable[[], Any], codecs: Codecs
) -> Opener:
    """Make what opens an envelope by decoding it again, now that it is known to be fine."""
    decode = {codec: codec.decoder(declared) for codec in codecs}

    def open_envelope(envelope: Any, frame: Frame, codec: Codec) -> Any:
        if envelope.payload is msgspec.UNSET:
            return when_missing()
        return decode[codec](frame).payload

    return open_envelope


def _from_post_init(error: Exception, where: str) -> Exception:
    """Say what a ``__post_init__`` raised as msgspec does; a MessageError stays what it is."""
    return error if isinstance(error, MessageError) else msgspec.ValidationError(f"{error}{where}")


def _when_missing(payload: Any, default: Any, codecs: Codecs) -> Callable[[], Any]:
    """Make what gives the payload of a message without one.

    The parameter's own default comes first; else it counts as ``{}`` for a struct
    or dict, and as None otherwise.
    """
    if default is not MISSING:
        return lambda: default
    empty: dict[str, Any] | None = {} if _is_object(payload) else None

    def convert() -> Any:
        try:
            return msgspec.convert(empty, payload, dec_hook=codecs.dec_hook)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, MessageError):
                raise error.__cause__ from None
            sentence, _, path = str(error).partition(" - at `$")
            within = f"$.payload{path.removesuffix('`')}"
            raise msgspec.ValidationError(f"{sentence} - at `{within}`") from None

    return convert


def _is_object(payload_type: Any) -> bool:
    """Whether a missing payload of this type reads as an empty object."""
    objects = (
        msgspec.inspect.StructType,
        msgspec.inspect.DictType,
        msgspec.inspect.DataclassType,
        msgspec.inspect.TypedDictType,
    )
    known = msgspec.inspect.type_info(payload_type)
    while isinstance(known, msgspec.inspect.Metadata):
        known = known.type
    if isinstance(known, msgspec.inspect.UnionType):
        return not known.includes_none and any(isinstance(t, objects) for t in known.types)
    return isinstance(known, objects)


def careful_shape(message_type: str, shape: Shape, codecs: Codecs) -> Shape:
    """Make what stands in for a shape: it has no payload, and is checked before it is decoded."""
    decode = {
        codec: guarded(codec.decoder(shape.struct), shape.checks.of(codec)) for codec in codecs
    }

    def open_carefully(_message: Any, frame: Frame, codec: Codec) -> Any:
        return shape.open(decode[codec](frame), frame, codec)

    return shape._replace(struct=_envelope(message_type, []), open=open_carefully)


def schema_shape(
    struct: type[msgspec.Struct], *, forbid_unknown_fields: bool, codecs: Codecs = DEFAULT_CODECS
) -> Shape:
    """Make the struct that a message of the schema decodes into, with its ref beside its fields.

    Raises:
        TypeError: msgspec cannot decode the struct, or not in bounded time.
        NameError: An annotation in it cannot be resolved.
    """
    forbids = struct.__struct_config__.forbid_unknown_fields
    twin, build, strict = struct_twin(
        struct, [("ref", Ref, None)], forbid=forbid_unknown_fields or forbids
    )
    _check_decodable(struct, codecs)
    _check_decodable(twin, codecs)
    opener = _struct_opener(build) if build is not None else _second_struct_opener(struct, codecs)
    checks = checks_of(strict, strict.counted, codecs, "$")
    return Shape(twin, opener, checks, strict.custom)


def _struct_opener(build: Builder) -> Opener:
    """Make what opens a message whose struct is made from its twin, without the ref."""
    make: Callable[..., Any] = build.make

    def open_struct(message: Any, _frame: Frame, _codec: Codec) -> Any:
        try:
            return make(*astuple(message)[:-1])
        except (ValueError, TypeError) as error:
            raise _from_post_init(error, "") from error

    def open_by_name(message: Any, _frame: Frame, _codec: Codec) -> Any:
        try:
            return build(message)
        except (ValueError, TypeError) as error:
            raise _from_post_init(error, "") from error

    return open_struct if build.in_order else open_by_name


def _second_struct_opener(struct: type[msgspec.Struct], codecs: Codecs) -> Opener:
    """Make what decodes a struct with nested objects again, into the declared types."""
    decode = {codec: codec.decoder(struct) for codec in codecs}
    fields = {codec: codec.decoder(dict[str, msgspec.Raw]) for codec in codecs}
    forbids = struct.__struct_config__.forbid_unknown_fields

    def open_struct(_message: Any, frame: Frame, codec: Codec) -> Any:
        if forbids:  # a ref beside its own fields, too, so take that out
            given = fields[codec](frame)
            if given.pop("ref", None) is not None:
                frame = codec.frame_of(given)
        return decode[codec](frame)

    return open_struct
