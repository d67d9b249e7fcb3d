"""Messages to frames and back: encoded once per codec, however many get them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from falcon_pachinko.errors import EncodeError
from falcon_pachinko.typing import AsgiEvent, Frame

__all__ = [
    "CODECS",
    "DECODE_ERRORS",
    "DEFAULT_CODECS",
    "JSON",
    "MSGPACK",
    "SUBPROTOCOLS",
    "Codec",
    "Codecs",
    "DecHook",
    "EncHook",
    "Packet",
    "contains_raw",
    "pack_bytes",
    "pack_text",
]

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError)
"""All that decoding a client's bytes can raise (*measured*, msgspec 0.22).

A TypeError is an object that a client puts into a set.
"""

_ENCODE_ERRORS = (
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    NotImplementedError,  # what an enc_hook raises, as msgspec's documentation has it
    msgspec.MsgspecError,
)

EncHook = Callable[[Any], Any]
"""Takes an object that msgspec does not know; gives one that it does."""
DecHook = Callable[[type, Any], Any]
"""Takes a type that msgspec does not know and a decoded value; gives an instance of the type."""


class Packet(msgspec.Struct, gc=False):
    """One frame, ready for the ASGI server, and what it weighs.

    The event is shared by all connections that get the frame, so it must not be
    changed. It is a struct because one is made for every message, and a named tuple
    costs ten times as much.
    """

    event: AsgiEvent
    size: int
    """Its payload in bytes, and 1 for an empty one: it is no less a frame that waits."""


class Envelope(msgspec.Struct):
    """A message of the library's own around something of the application's."""

    if TYPE_CHECKING:
        payload: Any


class Codec:
    """One way to write messages; a connection has one, chosen by its subprotocol.

    Attributes:
        name: What errors and documents call it.
        subprotocol: What a client asks for to get it; None for the default.
        frame_type: What its frames are, ``str`` or ``bytes``.
        invalid: The error code of a frame that it cannot read at all.
    """

    __slots__ = ("_decoder", "_encode", "_is_whole", "frame_type", "invalid", "name", "subprotocol")

    def __init__(
        self,
        name: str,
        subprotocol: str | None,
        frame_type: type[Frame],
        *,
        encode: Callable[[Any], bytes],
        decoder: Callable[[Any], Callable[[Any], Any]],
        invalid: str,
    ) -> None:
        self.name, self.subprotocol, self.frame_type = name, subprotocol, frame_type
        self.invalid = invalid
        self._encode, self._decoder = encode, decoder
        self._is_whole = decoder(msgspec.Raw)

    def __repr__(self) -> str:
        return f"<Codec {self.name}>"

    def encode(self, message: Any) -> Packet:
        """Encode a message.

        A `msgspec.Raw` in it is written as it is if it is valid in this codec. Where
        members of both codecs get the message, see `contains_raw`.

        Raises:
            EncodeError: The message cannot be encoded: a foreign type, a lone surrogate,
                a number too large for the codec, a structure too deep, a `msgspec.Raw`
                that was written by another codec.

        >>> JSON.encode({"type": "said"}).event["text"]
        '{"type":"said"}'
        """
        try:
            data = self._encode(message)
            # msgspec writes a Raw without a look at it.  A reply in JSON is not read again: it is
            # the hot path, and what is not UTF-8 is found below.
            if (
                self.frame_type is bytes
                or type(message).__base__ is not Envelope
                or type(message.payload) is msgspec.Raw
            ):
                self._is_whole(data)
            if self.frame_type is str:
                return Packet({"type": "websocket.send", "text": data.decode()}, len(data))
        except _ENCODE_ERRORS as error:
            why = str(error) or f"{type(error).__name__} was raised, without a text"
            if isinstance(error, msgspec.DecodeError):
                why = f"it holds a msgspec.Raw that is not valid {self.name} ({error})"
            raise EncodeError(why) from error
        return Packet({"type": "websocket.send", "bytes": data}, len(data))

    def frame_of(self, message: Any) -> Frame:
        """Encode a message into a frame of this codec.

        Raises:
            EncodeError: The message cannot be encoded.
        """
        event = self.encode(message).event
        frame: Frame = event["text"] if self.frame_type is str else event["bytes"]
        return frame

    def decoder(self, wanted: Any) -> Callable[[Any], Any]:
        """Make a function that decodes frames into a type, and validates them on the way.

        The function raises one of `DECODE_ERRORS`.
        """
        return self._decoder(wanted)


class Codecs:
    """The codecs of one app: the same two everywhere, with the app's own types in them.

    Args:
        enc_hook: Takes an object that msgspec does not know, and returns one that it does.
        dec_hook: Takes a type that msgspec does not know and what was decoded, and
            returns an instance of the type. Both as in msgspec.

    Example::

        codecs = Codecs(enc_hook=str)
        codecs.json.encode({"at": pathlib.Path("/tmp")}).event["text"]  # '{"at":"/tmp"}'
    """

    __slots__ = ("by_subprotocol", "dec_hook", "enc_hook", "json", "msgpack", "tables")

    def __init__(self, enc_hook: EncHook | None = None, dec_hook: DecHook | None = None) -> None:
        self.enc_hook, self.dec_hook = enc_hook, dec_hook
        self.tables: dict[Any, Any] = {}
        """The app's handler tables, by those of the classes; see `HandlerTable.compiled`."""
        self.json = Codec(
            "JSON",
            None,
            str,
            encode=msgspec.json.Encoder(enc_hook=enc_hook).encode,
            decoder=lambda wanted: msgspec.json.Decoder(wanted, dec_hook=dec_hook).decode,
            invalid="invalid_json",
        )
        self.msgpack = Codec(
            "MessagePack",
            "pachinko.msgpack",
            bytes,
            encode=msgspec.msgpack.Encoder(enc_hook=enc_hook).encode,
            decoder=lambda wanted: msgspec.msgpack.Decoder(wanted, dec_hook=dec_hook).decode,
            invalid="invalid_message",
        )
        self.by_subprotocol: Mapping[str | None, Codec] = {
            codec.subprotocol: codec for codec in (self.json, self.msgpack)
        }

    def __iter__(self) -> Iterator[Codec]:
        return iter(self.by_subprotocol.values())

    def of(self, subprotocol: str | None) -> Codec:
        """Return the codec of a connection: JSON, unless its subprotocol is that of another."""
        return self.by_subprotocol.get(subprotocol, self.json)


DEFAULT_CODECS = Codecs()
"""Those of apps that have no hooks."""

JSON = DEFAULT_CODECS.json
"""Messages as JSON in text frames: what a client gets that does not ask for anything else."""

MSGPACK = DEFAULT_CODECS.msgpack
"""Messages as MessagePack in binary frames, by the subprotocol ``pachinko.msgpack``."""

CODECS = DEFAULT_CODECS.by_subprotocol
"""The codecs by subprotocol; all others mean JSON."""

SUBPROTOCOLS = ("pachinko.json", "pachinko.msgpack")
"""The subprotocols that are the library's own: JSON under its name, and MessagePack."""


def contains_raw(message: Any, enc_hook: EncHook | None = None) -> bool:
    """Tell whether a message has a `msgspec.Raw` in it, however deep.

    Such a message cannot go to members of both codecs: what it holds was written by
    one of them. It walks the whole message, so ask only where a message is about to be
    encoded by a second codec.

    >>> contains_raw({"type": "relayed", "payload": msgspec.Raw(b"1")})
    True
    """
    return any(_raws_in(message, enc_hook))


def _raws_in(message: Any, enc_hook: EncHook | None) -> Iterator[bool]:
    kind = type(message)
    if kind in _CANNOT_HOLD_RAW:
        return
    if isinstance(message, msgspec.Raw):
        yield True
        return
    parts: Iterable[Any] = ()
    if isinstance(message, Mapping):
        parts = message.values()
    elif isinstance(message, (list, tuple, set, frozenset)):
        parts = message
    elif isinstance(message, msgspec.Struct):
        parts = (getattr(message, name) for name in message.__struct_fields__)
    elif dataclasses.is_dataclass(kind):
        parts = (getattr(message, name, None) for name in kind.__dataclass_fields__)
    elif hasattr(kind, "__attrs_attrs__"):
        parts = (getattr(message, field.name, None) for field in kind.__attrs_attrs__)
    elif enc_hook is not None and kind.__module__ not in _STANDARD:
        parts = (enc_hook(message),)
    for part in parts:
        yield from _raws_in(part, enc_hook)


_CANNOT_HOLD_RAW = frozenset((str, int, float, bool, type(None), bytes, bytearray))
_STANDARD = ("datetime", "decimal", "enum", "uuid")  # what msgspec encodes itself


def pack_text(text: str) -> Packet:
    """Make a text frame of text that is encoded already.

    Raises:
        TypeError: It is not a str.
        EncodeError: It has no UTF-8 form (a lone surrogate).
    """
    if not isinstance(text, str):
        raise TypeError(f"a text frame takes a str, not {type(text).__name__}")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise EncodeError(str(error)) from error
    return Packet({"type": "websocket.send", "text": text}, size or 1)


def pack_bytes(data: bytes | bytearray | memoryview) -> Packet:
    """Make a binary frame.

    Raises:
        TypeError: It is not a bytes-like object.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"a binary frame takes bytes, not {type(data).__name__}")
    data = bytes(data)
    return Packet({"type": "websocket.send", "bytes": data}, len(data) or 1)
