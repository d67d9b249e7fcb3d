"""What turns a decoded message into what its handler takes: made once per type, run per message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import astuple

from falcon_pachinko.errors import MessageError
from falcon_pachinko.messages.codec import Codec, Codecs
from falcon_pachinko.messages.strict import Builder
from falcon_pachinko.typing import Frame

__all__ = [
    "MISSING",
    "Opener",
    "building_opener",
    "open_nothing",
    "payload_opener",
    "second_opener",
    "second_struct_opener",
    "struct_opener",
    "when_missing_of",
]

MISSING: Any = msgspec.UNSET
"""Stands for a default that a handler's parameter does not have."""

Opener = Callable[[Any, Frame, Codec], Any]
"""Takes what was decoded, its frame and the codec; gives the payload."""


def open_nothing(_envelope: Any, _frame: Frame, _codec: Codec) -> None:
    """Open the envelope of a handler that takes no payload."""


def payload_opener(when_missing: Callable[[], Any]) -> Opener:
    """Make what opens an envelope whose payload is of the declared type already."""

    def open_envelope(envelope: Any, _frame: Frame, _codec: Codec) -> Any:
        payload = envelope.payload
        return when_missing() if payload is msgspec.UNSET else payload

    return open_envelope


def building_opener(builders: dict[type, Builder], when_missing: Callable[[], Any]) -> Opener:
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


def second_opener(
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


def when_missing_of(payload: Any, default: Any, codecs: Codecs) -> Callable[[], Any]:
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


def struct_opener(build: Builder) -> Opener:
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


def second_struct_opener(struct: type[msgspec.Struct], codecs: Codecs) -> Opener:
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
