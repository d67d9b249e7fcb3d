"""What Redis is asked and what it answers, as bytes: RESP, version 2.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Refused", "Replies", "command"]

_MESSAGE = b"*3\r\n$7\r\nmessage\r\n$"
_NOTHING_YET = -1

MOST_LINE_BYTES = 65_536
"""How long a line may be; Redis writes short ones."""


class Refused(NamedTuple):
    """An error that the server answered with, such as ``NOSCRIPT No matching script``."""

    why: str

    @property
    def code(self) -> str:
        """Its first word."""
        return self.why.partition(" ")[0]


class _IncompleteError(Exception):
    """Bytes are missing: of what begins at ``at``, there are ``needed`` in all."""

    def __init__(self, needed: int) -> None:
        self.needed = needed


def command(*words: str | bytes | float) -> bytes:
    r"""Write a command; text goes out in UTF-8.

    >>> command("PING")
    b'*1\r\n$4\r\nPING\r\n'
    """
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(parts)


class Replies:
    r"""Reads replies from pieces of bytes, however they are cut, in linear time.

    >>> replies = Replies()
    >>> replies.feed(b"+OK\r\n*2\r\n:1\r\n$2\r\nh")
    [b'OK']
    >>> replies.feed(b"i\r\n$-1\r\n-ERR no\r\n")
    [[1, b'hi'], None, Refused(why='ERR no')]
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # what was not parsed yet: less than one element
        self._size = 0  # of all pieces
        self._needed = 0  # how many bytes that element has at least
        self._open: list[tuple[list[Any], int]] = []
        # The arrays that are not whole yet, the outermost first, each with its full length:
        # so an element that was parsed once is never parsed again.

    def feed(self, data: bytes) -> list[Any]:
        """Return the replies that are whole by now.

        Raises:
            ValueError: This is not RESP.
        """
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._needed:  # a long one is joined once, not with every piece
            return []
        whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        replies: list[Any] = []
        at, self._needed = 0, 0
        try:
            while at < len(whole):
                if not self._open and whole.startswith(_MESSAGE, at):
                    # Nearly everything that ever arrives.
                    message, at = _message(whole, at)
                    replies.append(message)
                else:
                    at = self._element(whole, at, replies)
        except _IncompleteError as missing:
            self._needed = missing.needed - at
        rest = whole[at:]
        self._pieces, self._size = [rest] if rest else [], len(rest)
        return replies

    def _element(self, data: bytes, at: int, replies: list[Any]) -> int:
        """Read one element, or the head of an array; close the arrays that are whole with it."""
        kind = data[at : at + 1]
        line, at = _line(data, at + 1)
        item: Any
        match kind:
            case b"$":
                item, at = (None, at) if line[:1] == b"-" else _bulk(data, at, int(line))
            case b":":
                item = int(line)
            case b"+":
                item = line
            case b"-":
                item = Refused(line.decode("utf-8", "replace"))
            case b"*":
                if (length := int(line)) > 0:
                    self._open.append(([], length))
                    return at
                item = [] if length == 0 else None
            case _:
                raise ValueError("not a Redis reply")
        while self._open:
            items, count = self._open[-1]
            items.append(item)
            if len(items) < count:
                return at
            self._open.pop()
            item = items
        replies.append(item)
        return at


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\r\n", at)
    if end == _NOTHING_YET:
        if len(data) - at > MOST_LINE_BYTES:
            raise ValueError("not a Redis reply: a line without an end")
        raise _IncompleteError(len(data) + 1)
    return data[at:end], end + 2


def _bulk(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    end = at + size
    if len(data) < end + 2:
        raise _IncompleteError(end + 2)
    return data[at:end], end + 2


def _message(data: bytes, at: int) -> tuple[list[bytes], int]:
    size, at = _line(data, at + len(_MESSAGE))
    channel, at = _bulk(data, at, int(size))
    size, at = _line(data, at + 1)
    payload, at = _bulk(data, at, int(size))
    return [b"message", channel, payload], at
