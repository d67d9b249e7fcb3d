"""Frames and events as they are printed: safe for a terminal, and one line each."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import msgspec

_WHITESPACE = re.compile(r"[\t\n\r]+ *")

_SHORT = 40  # characters of a frame without a type, in a list

MSGPACK = "pachinko.msgpack"
"""The subprotocol whose binary frames are messages."""

# What the codes mean to who is at this end; docs/reference/close-codes.md has the library's.
_CODES = {
    1000: "done",
    1001: "going away: connect again later",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no code",
    1006: "the connection broke, without a close frame",
    1007: "invalid data",
    1008: "against the server's rules, or too many messages",
    1009: "a message was too big",
    1010: "missing extension",
    1011: "an error within the application; its log says more",
    1012: "the server restarts: connect again",
    1013: "too slow or too busy: connect again later",
    1014: "bad gateway",
    3000: "unauthorized",
    4401: "the time of this login is over: log in again",
}


def meaning(code: int) -> str:
    """What a close code means, in words.

    >>> meaning(1012), meaning(3403), meaning(4000)
    ('the server restarts: connect again', 'HTTP status 403', "the application's own code")
    """
    if code in _CODES:
        return _CODES[code]
    if 3400 <= code <= 3599:
        return f"HTTP status {code - 3000}"
    return "the application's own code" if 4000 <= code <= 4999 else "unknown code"


def printable(text: str) -> str:
    r"""`text` with every character escaped that a terminal could obey, or not show.

    Escapes are JSON's, so that JSON stays JSON of the same meaning.

    >>> print(printable("bell \x07, red \x1b[31m, café"))
    bell \u0007, red \u001b[31m, café
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if character != "\x7f" else r"\u007f"


def one_line(frame: str) -> str:
    r"""A text frame as one printable line; JSON stays JSON.

    >>> one_line('{\n  "type": "tick"\n}')
    '{ "type": "tick" }'
    """
    if not frame.isprintable() and _is_json(frame):
        # Between the values of JSON these are mere layout; within one they stand escaped already.
        frame = _WHITESPACE.sub(" ", frame)
    return printable(frame)


def _is_json(frame: str) -> bool:
    try:
        msgspec.json.decode(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


class Received:
    """One frame that came, read as far as it can be.

    Attributes:
        message: The message, where it is JSON, or MessagePack and that was agreed on; else unset.
        type: Its `type`; None where it has none.
    """

    def __init__(self, frame: str | bytes, *, msgpack: bool) -> None:
        self.frame = frame
        self.message: Any = msgspec.UNSET
        try:
            if isinstance(frame, str):
                self.message = msgspec.json.decode(frame)
            elif msgpack:
                self.message = _plain(msgspec.msgpack.decode(frame))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
        kind = self.message.get("type") if isinstance(self.message, dict) else None
        self.type = kind if isinstance(kind, str) else None

    @property
    def line(self) -> str:
        """What people read: the frame, or `(binary)` and its hexadecimal digits."""
        if isinstance(self.frame, str):
            return one_line(self.frame)
        if self.message is msgspec.UNSET:
            return f"(binary) {self.frame.hex()}"
        return printable(msgspec.json.encode(self.message).decode())

    @property
    def fields(self) -> dict[str, Any]:
        """What machines read: one of `message`, `text`, `base64`."""
        return described(self.frame, self.message)

    @property
    def summary(self) -> str:
        """The type; of an error its code and message, too; else a bit of what it is instead."""
        if self.type is None:
            return self.line if len(self.line) <= _SHORT else f"{self.line[:_SHORT]}…"
        said = self.message.get("payload")
        if self.type == "error" and isinstance(said, dict):
            return printable(f"error {said.get('code')}: {said.get('message')}")
        return printable(self.type)


def described(frame: str | bytes, message: Any = msgspec.UNSET) -> dict[str, Any]:
    """A frame as fields of a JSON event."""
    if message is not msgspec.UNSET:
        return {"message": message}
    if isinstance(frame, str):
        return {"text": frame}
    return {"base64": base64.b64encode(frame).decode()}


def _plain(value: Any) -> Any:
    """What MessagePack holds, as JSON can: bytes as base64, keys as text, times in ISO 8601."""
    return json.loads(msgspec.json.encode(value, enc_hook=repr, order=None).decode())
