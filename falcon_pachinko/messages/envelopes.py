"""The shape of a client's messages: structs made once per resource class.

In envelope style a message is ``{"type": ..., "payload": ..., "ref": ...}``; in
schema style the fields of the application's own tagged struct stand beside
``type``. Either way all messages of a resource are one tagged union, so that a
frame is decoded and validated in one pass, straight into what the handler wants.
"""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec.structs import force_setattr

from falcon_pachinko.errors import MessageError
from falcon_pachinko.messages.codec import CODECS, DECODE_ERRORS, Codec
from falcon_pachinko.messages.unknown_fields import checker_of, nested_in
from falcon_pachinko.typing import Frame

__all__ = [
    "Header",
    "NoPayload",
    "Opener",
    "Ref",
    "Refusal",
    "Shape",
    "becoming",
    "derived",
    "envelope_shape",
    "field_names",
    "members_of",
    "names_in",
    "read_header",
    "ref_of",
    "refusal_of",
]

Ref = str | int | None
"""A client's own mark on a message; the answer carries it back."""

SHOWN = 200
"""How much of a client's text an error repeats, in characters."""

Opener = Callable[[Any, Frame, Codec], Any]
"""Takes what was decoded, its frame and the codec; gives the payload."""


class NoPayload:
    """The payload type of a handler that takes none."""


class Shape(NamedTuple):
    """What one type of message decodes into, and how the payload is got out of it."""

    struct: type[msgspec.Struct]
    open: Opener


class Refusal(MessageError):  # noqa: N818  # an outcome, not a mistake of ours
    """A message that no handler wants as it is; ``ref`` is the client's mark on it."""

    def __init__(self, code: str, why: str, path: str | None = None, ref: Ref = None) -> None:
        self.ref = ref
        super().__init__(code, why, path=path)


class Header(msgspec.Struct):
    """What any message may have, whatever else is wrong with it."""

    type: Any = None
    ref: Any = None


class _Payload(msgspec.Struct):
    payload: Any = None


_header = {codec: codec.decoder(Header) for codec in CODECS.values()}
_payload = {codec: codec.decoder(_Payload) for codec in CODECS.values()}
_names = {codec: codec.decoder(dict[str, msgspec.Raw]) for codec in CODECS.values()}


def read_header(frame: Frame, codec: Codec) -> Header:
    """Read a message's type and ref, whatever the rest of it is.

    Raises:
        Refusal: It is no message: not of the codec, no object, no text ``type``,
            a ``ref`` that is neither text nor a whole number.
    """
    try:
        header: Header = _header[codec](frame)
    except msgspec.ValidationError as not_an_object:
        raise refusal_of("invalid_message", not_an_object) from None
    except RecursionError:
        raise Refusal(codec.invalid, "The message is nested too deeply.") from None
    except DECODE_ERRORS as unreadable:
        raise refusal_of(codec.invalid, unreadable) from None
    if not isinstance(header.ref, (str, int, type(None))) or isinstance(header.ref, bool):
        raise Refusal("invalid_message", "A ref is text or a whole number.", "$.ref")
    if not isinstance(header.type, str):
        why = "A message is an object with a text `type`."
        raise Refusal("invalid_message", why, "$.type", ref=header.ref)
    return header


def ref_of(frame: Frame, codec: Codec) -> Ref:
    """Return a message's ref, or None where it cannot be read."""
    try:
        ref: Ref = read_header(frame, codec).ref
    except Refusal as refusal:
        return refusal.ref
    return ref


def refusal_of(code: str, error: Exception, ref: Ref = None) -> Refusal:
    """Turn msgspec's error into ours, with the path it ends with: ``... - at `$.payload```."""
    sentence, path = _part(error)
    return Refusal(code, sentence, path, ref)


def _part(error: Exception) -> tuple[str, str | None]:
    sentence, _, path = str(error).partition(" - at `")
    return sentence[:SHOWN], path.removesuffix("`")[:SHOWN] or None


def names_in(frame: Frame, codec: Codec) -> dict[str, msgspec.Raw]:
    """Return the fields of a message, undecoded."""
    fields: dict[str, msgspec.Raw] = _names[codec](frame)
    return fields


def members_of(union: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type that it is."""
    return get_args(union) if get_origin(union) in (Union, UnionType) else (union,)


def field_names(struct: Any) -> frozenset[str]:
    """Return the names that an object type's fields have on the wire."""
    return frozenset(field.encode_name for field in msgspec.inspect.type_info(struct).fields)  # type: ignore[attr-defined]  # object types have them


def derived(struct: type[msgspec.Struct], *, forbid: bool) -> type[msgspec.Struct]:
    """Make a subclass of the application's struct that refuses, or ignores, unknown fields.

    It has the same layout, so that `becoming` turns its instances into the application's own.
    """
    return msgspec.defstruct(
        struct.__name__, [], bases=(struct,), forbid_unknown_fields=forbid, kw_only=True
    )


def becoming(struct: type[msgspec.Struct]) -> Callable[[msgspec.Struct], None]:
    """Return what makes an instance of a `derived` class one of the original."""

    def become(instance: msgspec.Struct) -> None:
        force_setattr(instance, "__class__", struct)

    return become


def envelope_shape(message_type: str, payload: Any, *, forbid_unknown_fields: bool) -> Shape:
    """Make the struct that an envelope of one type decodes into, and what opens it.

    Raises:
        TypeError: msgspec cannot decode the payload's type.
    """
    fields: list[tuple[str, Any, Any]] = [("ref", Ref, None)]
    opener: Opener = _nothing
    if payload is not NoPayload:
        wire_type, finish = _strict(payload) if forbid_unknown_fields else (payload, None)
        opener = _payload_opener(payload, finish)
        fields.append(("payload", Union[wire_type, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007  # `|` fails on some generics
    struct = msgspec.defstruct(message_type, fields, tag=message_type, tag_field="type")
    for codec in CODECS.values():
        codec.decoder(struct)
    return Shape(struct, opener)


def _nothing(envelope: Any, frame: Frame, codec: Codec) -> None:
    """Open the envelope of a handler that takes no payload."""


def _payload_opener(payload_type: Any, finish: Opener | None) -> Opener:
    """Make what opens an envelope with a payload.

    A missing payload counts as ``{}`` for a struct or dict, and as None otherwise.

    Args:
        payload_type: What the payload is.
        finish: What is left to do to a payload that was decoded, if anything.
    """
    empty: dict[str, Any] | None = {} if _is_object(payload_type) else None

    def open_envelope(envelope: Any, frame: Frame, codec: Codec) -> Any:
        payload = envelope.payload
        if payload is msgspec.UNSET:
            try:
                return msgspec.convert(empty, payload_type)
            except msgspec.ValidationError as error:
                sentence, path = _part(error)
                within = f"$.payload{(path or '$')[1:]}"
                raise msgspec.ValidationError(f"{sentence} - at `{within}`") from None
        return payload if finish is None else finish(payload, frame, codec)

    return open_envelope


def _is_object(payload_type: Any) -> bool:
    """Whether a missing payload of this type reads as an empty object."""
    objects = (
        msgspec.inspect.StructType,
        msgspec.inspect.DictType,
        msgspec.inspect.DataclassType,
        msgspec.inspect.TypedDictType,
    )
    known = msgspec.inspect.type_info(payload_type)
    if isinstance(known, msgspec.inspect.UnionType):
        return not known.includes_none and any(isinstance(t, objects) for t in known.types)
    return isinstance(known, objects)


def _strict(payload: Any) -> tuple[Any, Opener | None]:
    """Return what to decode in a payload's stead so that unknown fields are refused.

    A struct ignores unknown fields unless its class says otherwise, and that
    class is the application's. So the frame is decoded into a subclass that
    forbids them, in the same pass, and the instance then becomes one of the
    application's class. Everything else that may have fields, nested or not, is
    compared by name in a second look.
    """
    members = members_of(payload)
    originals = {derived(m, forbid=True): m for m in members if _is_open_struct(m)}
    others = tuple(member for member in members if not _is_open_struct(member))
    check = None
    if any(map(nested_in, originals.values())) or any(checker_of(each) for each in others):
        check = checker_of(payload)
    if not originals and check is None:
        return payload, None

    def finish(value: Any, frame: Frame, codec: Codec) -> Any:
        original = originals.get(type(value))
        if original is not None:
            force_setattr(value, "__class__", original)
        if check is not None:
            check(_payload[codec](frame).payload, "$.payload")
        return value

    return Union[(*originals, *others)], finish  # known at run time only


def _is_open_struct(payload: Any) -> bool:
    """Whether a type is a struct class that would ignore unknown fields."""
    if not (isinstance(payload, type) and issubclass(payload, msgspec.Struct)):
        return False
    config = payload.__struct_config__
    return not (config.forbid_unknown_fields or config.array_like)
