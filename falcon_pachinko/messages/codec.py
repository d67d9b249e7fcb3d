"""Messages to frames and back: encoded once per codec, whoever gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from falcon_pachinko.errors import EncodeError
from falcon_pachinko.typing import AsgiEvent, Frame

__all__ = [
    "CODECS",
    "DECODE_ERRORS",
    "JSON",
    "MSGPACK",
    "Codec",
    "Packet",
    "pack_bytes",
    "pack_text",
]

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError)
"""All that decoding a client's bytes can raise (*measured*, msgspec 0.22).

A TypeError is an object that a client puts into a set.
"""

_ENCODE_ERRORS = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


class Packet(msgspec.Struct, gc=False):
    """One frame, ready for the ASGI server, and what it weighs.

    The event is shared by all who get the frame: nobody may change it. A struct,
    because one is made for every message, and a named tuple costs ten times as much.
    """

    event: AsgiEvent
    size: int


class Codec:
    """One way to write messages; a connection has one, by its subprotocol.

    Attributes:
        name: What errors and documents call it.
        subprotocol: What a client asks for to get it; None for the default.
        frame_type: What its frames are, ``str`` or ``bytes``.
        invalid: The error code of a frame that it cannot read at all.
    """

    __slots__ = ("_decoder", "_encode", "frame_type", "invalid", "name", "subprotocol")

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

    def __repr__(self) -> str:
        return f"<Codec {self.name}>"

    def encode(self, message: Any) -> Packet:
        """Encode a message.

        Raises:
            EncodeError: It cannot be encoded: a foreign type, a lone surrogate, a
                number too large for the codec, a structure too deep.

        >>> JSON.encode({"type": "said"}).event["text"]
        '{"type":"said"}'
        """
        try:
            data = self._encode(message)
            if self.frame_type is str:
                return Packet({"type": "websocket.send", "text": data.decode()}, len(data))
        except _ENCODE_ERRORS as error:
            raise EncodeError(str(error)) from error
        return Packet({"type": "websocket.send", "bytes": data}, len(data))

    def decoder(self, wanted: Any) -> Callable[[Any], Any]:
        """Make a function that decodes frames into a type, and validates them on the way.

        The function raises one of `DECODE_ERRORS`.
        """
        return self._decoder(wanted)


JSON = Codec(
    "JSON",
    None,
    str,
    encode=msgspec.json.Encoder().encode,
    decoder=lambda wanted: msgspec.json.Decoder(wanted).decode,
    invalid="invalid_json",
)
"""Messages as JSON in text frames: what every client speaks that asks for nothing else."""

MSGPACK = Codec(
    "MessagePack",
    "pachinko.msgpack",
    bytes,
    encode=msgspec.msgpack.Encoder().encode,
    decoder=lambda wanted: msgspec.msgpack.Decoder(wanted).decode,
    invalid="invalid_message",
)
"""Messages as MessagePack in binary frames, by the subprotocol ``pachinko.msgpack``."""

CODECS = {None: JSON, "pachinko.json": JSON, "pachinko.msgpack": MSGPACK}
"""The codecs by subprotocol; all others speak JSON."""


def pack_text(text: str) -> Packet:
    """Make a text frame of text that is encoded already.

    Raises:
        TypeError: It is no str.
        EncodeError: It has no UTF-8 form (a lone surrogate).
    """
    if not isinstance(text, str):
        raise TypeError(f"a text frame takes a str, not {type(text).__name__}")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise EncodeError(str(error)) from error
    return Packet({"type": "websocket.send", "text": text}, size)


def pack_bytes(data: bytes | bytearray | memoryview) -> Packet:
    """Make a binary frame.

    Raises:
        TypeError: It is no bytes-like object.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"a binary frame takes bytes, not {type(data).__name__}")
    data = bytes(data)
    return Packet({"type": "websocket.send", "bytes": data}, len(data))
