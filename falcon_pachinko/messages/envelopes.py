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

from falcon_pachinko.errors import MessageError
from falcon_pachinko.messages.codec import DECODE_ERRORS, DEFAULT_CODECS, Codec, Codecs
from falcon_pachinko.messages.guards import NO_CHECKS, Checks, checks_of, guarded
from falcon_pachinko.messages.openers import (
    MISSING,
    Opener,
    building_opener,
    open_nothing,
    payload_opener,
    second_opener,
    second_struct_opener,
    struct_opener,
    when_missing_of,
)
from falcon_pachinko.messages.strict import strict_type, struct_twin
from falcon_pachinko.typing import Frame

__all__ = [
    "Header",
    "NoPayload",
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
        return Shape(struct, open_nothing, NO_CHECKS, custom=())
    declared = _envelope(message_type, [_payload_field(payload)])
    strict = strict_type(payload, forbid_unknown_fields=forbid_unknown_fields)
    struct = _envelope(message_type, [_payload_field(strict.wire)])
    _check_decodable(declared, codecs)
    _check_decodable(struct, codecs)
    counted = strict.counted and _envelope(message_type, [_payload_field(strict.counted)])
    checks = checks_of(strict, counted, codecs, "$.payload")
    when_missing = when_missing_of(payload, default, codecs)
    if strict.same:
        opener = payload_opener(when_missing)
    elif strict.builders:
        opener = building_opener(strict.builders, when_missing)
    else:
        opener = second_opener(declared, when_missing, codecs)
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
    opener = struct_opener(build) if build is not None else second_struct_opener(struct, codecs)
    checks = checks_of(strict, strict.counted, codecs, "$")
    return Shape(twin, opener, checks, strict.custom)
