"""Messages to frames: encoded once, whoever gets them."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from falcon_pachinko.errors import EncodeError
from falcon_pachinko.typing import AsgiEvent

__all__ = ["DECODE_ERRORS", "Packet", "encode_json", "pack_bytes", "pack_text"]

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""All that decoding a client's bytes can raise (*measured*, msgspec 0.22)."""

_encode = msgspec.json.Encoder().encode


class Packet(NamedTuple):
    """One frame, ready for the ASGI server, and what it weighs.

    The event is shared by all who get the frame: nobody may change it.
    """

    event: AsgiEvent
    size: int


def encode_json(message: Any) -> Packet:
    """Encode a message as JSON text.

    Raises:
        EncodeError: It cannot be encoded: a foreign type, a lone surrogate, a
            number beyond 64 bits, a structure too deep.

    >>> encode_json({"type": "said"}).event["text"]
    '{"type":"said"}'
    """
    try:
        data = _encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise EncodeError(str(error)) from error
    return Packet({"type": "websocket.send", "text": data.decode()}, len(data))


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
