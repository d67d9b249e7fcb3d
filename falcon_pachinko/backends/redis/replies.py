"""What Redis is asked and what it answers, as bytes: RESP, version 2.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Refused", "Replies", "command"]

_MESSAGE = b"*3\r\n$7\r\nmessage\r\n$"
_NOTHING_YET = -1


class Refused(NamedTuple):
    """An error that the server answered with, such as ``NOSCRIPT No matching script``."""

    why: str

    @property
    def code(self) -> str:
        """Its first word."""
        return self.why.partition(" ")[0]


class _IncompleteError(Exception):
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
    r"""Reads replies from pieces of bytes, however they are cut.

    >>> replies = Replies()
    >>> replies.feed(b"+OK\r\n*2\r\n:1\r\n$2\r\nh")
    [b'OK']
    >>> replies.feed(b"i\r\n$-1\r\n-ERR no\r\n")
    [[1, b'hi'], None, Refused(why='ERR no')]
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._needed = 0

    def feed(self, data: bytes) -> list[Any]:
        """Return the replies that are whole by now.

        Raises:
            ValueError: This is no RESP.
        """
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._needed:  # a long one is joined once, not with every piece
            return []
        whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        replies, at, self._needed = [], 0, 0
        try:
            while at < len(whole):
                reply, at = _parse(whole, at)
                replies.append(reply)
        except _IncompleteError as missing:
            self._needed = missing.needed - at
        rest = whole[at:]
        self._pieces, self._size = [rest] if rest else [], len(rest)
        return replies


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\r\n", at)
    if end == _NOTHING_YET:
        if len(data) - at > 65_536:
            raise ValueError("a line without an end is no answer of Redis")
        raise _IncompleteError(len(data) + 1)
    return data[at:end], end + 2


def _bulk(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    end = at + size
    if len(data) < end + 2:
        raise _IncompleteError(end + 2)
    return data[at:end], end + 2


def _parse(data: bytes, at: int) -> tuple[Any, int]:
    if data.startswith(_MESSAGE, at):  # nearly everything that ever arrives
        size, at = _line(data, at + len(_MESSAGE))
        channel, at = _bulk(data, at, int(size))
        size, at = _line(data, at + 1)
        payload, at = _bulk(data, at, int(size))
        return [b"message", channel, payload], at
    kind = data[at : at + 1]
    line, at = _line(data, at + 1)
    match kind:
        case b"+":
            return line, at
        case b"-":
            return Refused(line.decode("utf-8", "replace")), at
        case b":":
            return int(line), at
        case b"$":
            length = int(line)
            return (None, at) if length < 0 else _bulk(data, at, length)
        case b"*":
            count = int(line)
            if count < 0:
                return None, at
            items = []
            for _ in range(count):
                item, at = _parse(data, at)
                items.append(item)
            return items, at
    raise ValueError("this is no answer of Redis")
