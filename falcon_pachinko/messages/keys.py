"""The keys of maps that nobody declared a type for, in MessagePack.

JSON's keys are text. MessagePack's may be anything, arrays included, and a
client can choose thousands of arrays that hash alike: a dict of 64 KiB then
takes seconds to build. So where a part of a payload is decoded as it comes,
the keys are looked at before one is hashed.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

__all__ = ["check_keys"]

MOST_NUMBERS = 1_024
"""Maps with more entries have text keys only: numbers are hashed by a rule that clients know."""

MOST_DEPTH = 1_000
"""How deep maps and arrays may be nested; about as deep as Python can go."""

_ONE_BYTE = re.compile(rb"[\x00-\x80\x90\xa0\xc0\xc2\xc3\xe0-\xff]+")
"""Numbers, nil, booleans, and what is empty."""

_WIDTH = [0] * 256
"""How many bytes an item has in all, by its first byte; 0 where that does not tell."""

_COUNTED = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0),  # bytes
    0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),  # extensions, with one byte for their kind
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),  # text
}  # fmt: skip
"""Of items with a length of their own: how many bytes it takes, and how many follow it."""

for _first in (*range(0x80), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)):
    _WIDTH[_first] = 1
for _first in range(0xA0, 0xC0):  # short text
    _WIDTH[_first] = 1 + _first - 0xA0
for _first, _width in {
    0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9,
    0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18,
}.items():  # fmt: skip
    _WIDTH[_first] = _width

_TEXT = frozenset((*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB))
_TEXT_OR_NUMBER = _TEXT | {*range(0x80), *range(0xCA, 0xD4), *range(0xE0, 0x100)}


def _ordinary(depth: int) -> Any:
    """Return the type of values with text keys only, nested so deep at most."""
    plain: Any = None | bool | int | float | str
    if depth:
        plain |= list[_ordinary(depth - 1)] | dict[str, _ordinary(depth - 1)]  # type: ignore[misc]  # known at run time only
    return plain


_ORDINARY = msgspec.msgpack.Decoder(_ordinary(4))
"""Reads most messages, much faster than the loop below, and hashes nothing but text."""


def check_keys(data: bytes) -> None:  # noqa: C901, PLR0912  # one loop, as fast as Python goes
    r"""Refuse MessagePack in which the keys of a map are neither text nor numbers.

    It takes time in proportion to the length, however the data is nested, and
    does not look for other mistakes: those are the decoder's to find.

    Raises:
        msgspec.ValidationError: A key is something else.
        RecursionError: Maps and arrays are nested more than 1000 deep.

    >>> check_keys(msgspec.msgpack.encode({"a": {1: [2]}}))
    >>> check_keys(b"\x81\x91\x01\x02")  # {[1]: 2}
    Traceback (most recent call last):
    msgspec.ValidationError: The keys of a map must be text or numbers
    """
    try:
        _ORDINARY.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    else:
        return
    above: list[tuple[int, frozenset[int] | None]] = []
    # Of the container that is being read: how many items are left, keys counted like
    # values, and for a map what a key may begin with. A key is due when an even number
    # of items is left.
    left, keys = 1, None
    at, end = 0, len(data)
    while at < end:
        while not left:
            if not above:
                return
            left, keys = above.pop()
        first = data[at]
        if keys is None:
            if left > 8 and (run := _ONE_BYTE.match(data, at, at + left)) is not None:
                left -= run.end() - at
                at = run.end()
                continue
        elif not left & 1 and first not in keys:
            if keys is _TEXT and first in _TEXT_OR_NUMBER:
                raise msgspec.ValidationError(
                    f"A map of more than {MOST_NUMBERS} entries must have text keys"
                )
            raise msgspec.ValidationError("The keys of a map must be text or numbers")
        left -= 1
        width = _WIDTH[first]
        if width:
            at += width
        elif first in _COUNTED:
            size, more = _COUNTED[first]
            start = at + 1 + size
            at = start + more + int.from_bytes(data[at + 1 : start])
        elif first == 0xC1:
            return  # never used
        else:
            if len(above) > MOST_DEPTH:
                raise RecursionError("too many maps and arrays within one another")
            above.append((left, keys))
            if first < 0xA0:
                count, is_map, at = first & 0x0F, first < 0x90, at + 1
            else:
                size = 2 if first in (0xDC, 0xDE) else 4
                count = int.from_bytes(data[at + 1 : at + 1 + size])
                is_map, at = first >= 0xDE, at + 1 + size
            left, keys = count, None
            if is_map:
                left, keys = 2 * count, _TEXT_OR_NUMBER if count <= MOST_NUMBERS else _TEXT
