"""The keys of maps that nobody declared a type for, in MessagePack.

JSON's keys are text. MessagePack's may be anything, arrays included, and a
client can choose thousands of arrays that hash alike: a dict of 64 KiB then
takes seconds to build. So where a part of a payload is decoded as it comes,
the keys are looked at before one is hashed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec

__all__ = ["COUNTED", "MOST_NUMBERS", "WIDTH", "check_keys", "count_of"]

MOST_NUMBERS = 512
"""Containers that hash more than this many items hash no numbers.

Clients know how numbers are hashed, so they can send numbers of which each is compared
with all that came before it. Up to here that takes a few times as long as with any others.
"""

# The items of MessagePack, by their first byte.

WIDTH = [0] * 256
"""How many bytes an item has in all; 0 for containers, and where the first byte does not tell."""

COUNTED = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0),  # bytes
    0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),  # extensions, with one byte for their kind
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),  # text
}  # fmt: skip
"""Of items with a length of their own: how many bytes it takes, and how many follow it."""

for _first in (*range(0x80), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)):
    WIDTH[_first] = 1
for _first in range(0xA0, 0xC0):  # short text
    WIDTH[_first] = 1 + _first - 0xA0
for _first, _width in {
    0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9,
    0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18,
}.items():  # fmt: skip
    WIDTH[_first] = _width

_EMPTY = (0x80, 0x90)
_STEP = [1 if first in _EMPTY else width for first, width in enumerate(WIDTH)]
"""How far to go from an item to the next one; 0 where that takes more than a look here."""
_GROWTH = [first - 0x91 if 0x90 <= first < 0xA0 else -1 for first in range(256)]
"""How many more items an array has then: what is within an array in it is counted with its own."""
_IN_ARRAY = [1 if 0x90 <= first < 0xA0 else step for first, step in enumerate(_STEP)]

_TEXT = frozenset((*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB))
_TEXT_OR_NUMBER = _TEXT | {*range(0x80), *range(0xCA, 0xD4), *range(0xE0, 0x100)}


def _ordinary(depth: int) -> Any:
    """Return the type of values with text keys only, nested so deep at most."""
    plain: Any = None | bool | int | float | str
    if depth:
        plain |= list[_ordinary(depth - 1)] | dict[str, _ordinary(depth - 1)]  # type: ignore[misc]  # known at run time only
    return plain


_ORDINARY = msgspec.msgpack.Decoder(_ordinary(6))
"""Reads most messages, much faster than the loop below, and hashes nothing but text."""


# Going on by many items at once: a loop in Python takes ten times as long for each as msgspec.

_RUN, _PAIRS = 32, 8
"""How many items of an array, or pairs of a map, one pattern below takes."""
_PAUSE = 64
"""For how many bytes no pattern is tried where one has just failed."""
_SHORT = 9
"""The patterns know items of up to so many bytes; longer ones are few, for their bytes."""
_ONE_BYTE = re.compile(rb"[\x00-\x80\x90\xa0\xc0\xc2\xc3\xe0-\xff]+")
"""Numbers, nil, booleans, and what is empty."""


class _Runs(NamedTuple):
    items: re.Pattern[bytes]
    pairs: re.Pattern[bytes]
    pairs_with_text: re.Pattern[bytes]


@functools.cache
def _runs() -> _Runs:
    """Compile the patterns, when they are needed first.

    An item is a short scalar, or a small array or map of these; so where one begins is
    never in doubt.
    """
    any_scalar, number_or_text = _scalars(range(256)), _scalars(_TEXT_OR_NUMBER)
    small = "|".join(
        rf"\x9{count}{any_scalar}{{{count}}}|\x8{count}(?:{number_or_text}{any_scalar}){{{count}}}"
        for count in (1, 2, 3)
    )
    item = f"(?:{any_scalar}|{small})"
    patterns = (
        f"{item}{{{_RUN}}}",
        f"(?:{number_or_text}{item}){{{_PAIRS}}}",
        f"(?:{_scalars(_TEXT)}{item}){{{_PAIRS}}}",
    )
    return _Runs(*(re.compile(pattern.encode(), re.DOTALL) for pattern in patterns))


def _scalars(firsts: Collection[int]) -> str:
    """Write the pattern of one short scalar, or empty container, that begins with one of these."""
    by_width: dict[int, list[int]] = {}
    for first in firsts:
        if 0 < _STEP[first] <= _SHORT:
            by_width.setdefault(_STEP[first], []).append(first)
    parts = [_any_of(by_width[width]) + _bytes(width - 1) for width in sorted(by_width)]
    for extra in (0, 1):
        # The lengths of one, two and four bytes of which only the last is not zero.
        starts = [
            _any_of(begin) + r"\x00" * (size - 1)
            for size in (1, 2, 4)
            if (begin := [each for each in firsts if COUNTED.get(each) == (size, extra)])
        ]
        if starts:
            lengths = (rf"\x{length:02x}{_bytes(length + extra)}" for length in range(_SHORT))
            parts.append(f"(?:{'|'.join(starts)})(?:{'|'.join(lengths)})")
    return f"(?:{'|'.join(parts)})"


def _any_of(firsts: Sequence[int]) -> str:
    return "[" + "".join(rf"\x{first:02x}" for first in firsts) + "]"


def _bytes(count: int) -> str:
    return f".{{{count}}}" if count else ""


def count_of(data: bytes, at: int) -> tuple[int, int]:
    """Return how many items, or pairs, the container at a place has, and where they begin."""
    first = data[at]
    if first < 0xA0:
        return first & 0x0F, at + 1
    start = at + (5 if first & 1 else 3)
    return int.from_bytes(data[at + 1 : start]), start


def check_keys(data: bytes) -> None:  # noqa: C901, PLR0912, PLR0915  # one loop, as fast as Python goes
    r"""Refuse MessagePack in which the keys of a map are neither text nor numbers.

    It takes time in proportion to the length, however the data is nested, and
    does not look for other mistakes: those are the decoder's to find.

    Raises:
        msgspec.ValidationError: A key is something else, or a number in a map of more than
            `MOST_NUMBERS` entries.

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
    items, *pairs_of = _runs()
    above: list[tuple[int, frozenset[int] | None]] = []
    # Of the containers around: what `left` and `keys` were. One of which nothing is left is
    # not in there.
    left, keys = 1, None
    # How many items of an array are still to come, what is in arrays within it counted as its
    # own; or how many pairs of a map, and what their keys may begin with.
    at = again = 0  # where the patterns are tried again
    try:
        while True:
            while not left:
                if not above:
                    return
                left, keys = above.pop()
            if at >= again:
                if keys is not None:
                    if left >= _PAIRS:
                        run = pairs_of[keys is _TEXT].match(data, at)
                        if run is not None:
                            left, at = left - _PAIRS, run.end()
                            continue
                        again = at + _PAUSE
                elif left >= _RUN:
                    run = _ONE_BYTE.match(data, at, at + left)
                    if run is not None and run.end() - at >= _RUN:
                        left, at = left - run.end() + at, run.end()
                        continue
                    run = items.match(data, at)
                    if run is not None:
                        left, at = left - _RUN, run.end()
                        continue
                    again = at + _PAUSE
            first = data[at]
            if keys is None:
                step = _IN_ARRAY[first]
                if step:
                    left, at = left + _GROWTH[first], at + step
                    continue
            else:
                if first not in keys:
                    if first in _TEXT_OR_NUMBER:
                        raise msgspec.ValidationError(
                            f"A map of more than {MOST_NUMBERS} entries must have text keys"
                        )
                    raise msgspec.ValidationError("The keys of a map must be text or numbers")
                step = WIDTH[first]
                if not step:
                    size, _ = COUNTED[first]
                    step = 1 + size + int.from_bytes(data[at + 1 : at + 1 + size])
                at += step
                first = data[at]
                step = _STEP[first]
                if step:
                    left, at = left - 1, at + step
                    continue
            left -= 1
            if first in COUNTED:
                size, more = COUNTED[first]
                at += 1 + size + more + int.from_bytes(data[at + 1 : at + 1 + size])
                continue
            if first == 0xC1:
                return  # never used
            is_map = first < 0x90 or first >= 0xDE
            if first < 0xA0:
                count, at = first & 0x0F, at + 1
            else:
                count, at = count_of(data, at)
                if keys is None and not is_map:
                    left += count
                    continue
            if left:
                above.append((left, keys))
            left, keys = count, None
            if is_map:
                keys = _TEXT_OR_NUMBER if count <= MOST_NUMBERS else _TEXT
    except IndexError:
        return  # it ends too early
