"""Objects within objects whose type a decoder has to look for.

Where a type is a union of structs, msgspec looks for an object's tag first, and
reads past all that stands before it, to read it again once the tag is known. Where
such objects are within one another, as often as a client likes, the innermost are read
as often as they are deep: 64 KiB can take a third of a second. So a payload of a type
that is recursive in this way is looked through first: a few objects may have others
before their tags, and any number after them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

from falcon_pachinko.messages.keys import COUNTED, WIDTH, count_of

__all__ = ["MOST_OPEN", "check_json_tags", "check_msgpack_tags", "recursive_tags"]

MOST_OPEN = 8
"""How many objects around one may still be without their tag where it begins."""


def recursive_tags(known: inspect.Type) -> frozenset[str]:
    """Return the tag fields of the unions in a type that can be within themselves.

    >>> class Leaf(msgspec.Struct, tag=True): ...
    >>> recursive_tags(inspect.type_info(Leaf | None))
    frozenset()
    """
    within: dict[Any, set[Any]] = {}  # a union or class, and those of its parts
    tags: dict[Any, str] = {}  # the unions that have tags to look for
    for name, parts, tag in _named(known, within):
        within[name] = {part for part, _, _ in parts}
        if tag is not None:
            tags[name] = tag
    return frozenset(tag for name, tag in tags.items() if name in _reached_from(name, within))


def _named(known: inspect.Type, seen: dict[Any, set[Any]]) -> Iterator[Any]:
    """Yield all unions and classes in a type, each with the next ones in it."""
    todo = list(_next(known))
    while todo:
        name, inner, tag = todo.pop()
        if name not in seen:
            parts = [part for each in inner for part in _next(each)]
            todo += parts
            yield name, parts, tag


def _next(known: inspect.Type) -> Iterator[tuple[Any, list[inspect.Type], str | None]]:
    """Yield the unions and classes next in a type: name, what is in it, its tag field."""
    if isinstance(known, inspect.UnionType):
        structs = [each for each in known.types if isinstance(each, inspect.StructType)]
        tagged = [each for each in structs if not each.array_like and each.tag_field is not None]
        if len(tagged) > 1:
            name = frozenset(each.cls for each in tagged)
            yield name, list(known.types), tagged[0].tag_field
            return
    fields = getattr(known, "fields", None)
    if fields is not None:
        yield known.cls, [field.type for field in fields], None  # type: ignore[attr-defined]  # what has fields is a class
        return
    for each in _parts(known):
        yield from _next(each)


def _parts(known: inspect.Type) -> Iterator[inspect.Type]:
    for name in ("type", "item_type", "key_type", "value_type"):
        part = getattr(known, name, None)
        if isinstance(part, inspect.Type):
            yield part
    for name in ("types", "item_types"):
        yield from getattr(known, name, ())


def _reached_from(name: Any, within: dict[Any, set[Any]]) -> set[Any]:
    reached: set[Any] = set()
    todo = list(within[name])
    while todo:
        each = todo.pop()
        if each not in reached:
            reached.add(each)
            todo += within[each]
    return reached


def check_json_tags(tag: str) -> Callable[[Any], None]:
    """Make what refuses JSON with too many objects within one another, before their tags.

    What it returns takes the text, and time in proportion to its length. It does not
    look for other mistakes.

    Raises:
        msgspec.ValidationError: More than `MOST_OPEN` objects around one are without their
            tag where it begins.

    >>> check_json_tags("type")('{"type":"not","arg":' * 100 + '{"type":"any"}' + "}" * 100)
    >>> check_json_tags("type")('{"arg":' * 100 + '{"type":"any"}' + ',"type":"not"}' * 100)
    Traceback (most recent call last):
    msgspec.ValidationError: Objects nested more than 8 deep must begin with their `type`
    """
    key = re.escape(msgspec.json.encode(tag).decode())
    begins_with_tag = re.compile(rf"\{{\s*{key}\s*:")
    token = re.compile(
        rf'\{{\s*{key}\s*:|{key}\s*:|\{{\s*\}}|[{{}}]|"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL
    )  # text without an end goes on to the end, so that it is read once

    def check(frame: str) -> None:
        objects = frame.count("{")
        if objects <= MOST_OPEN or objects - len(begins_with_tag.findall(frame)) <= MOST_OPEN:
            return
        above: list[bool] = []  # of the objects around: whether their tag has come
        has_tag, without = True, 0  # of this one; how many of those around are without
        for found in token.findall(frame):
            first = found[0]
            if first == "{":
                if without + (not has_tag) > MOST_OPEN:
                    raise _too_many(tag)
                if found[-1] == "}":
                    continue  # an empty one
                above.append(has_tag)
                without += not has_tag
                has_tag = found != "{"
            elif first == "}":
                if not above:
                    return
                has_tag = above.pop()
                without -= not has_tag
            elif found[-1] == ":":
                has_tag = True

    return check


def check_msgpack_tags(tag: str) -> Callable[[Any], None]:
    """Make what refuses MessagePack with too many objects in one another; see `check_json_tags`."""
    key = msgspec.msgpack.encode(tag)
    begins_with_tag = re.compile(rb"[\x81-\x8f]" + re.escape(key))
    may_be_map = re.compile(rb"[\x81-\x8f\xde\xdf]")

    def check(frame: bytes) -> None:
        objects = len(may_be_map.findall(frame))
        if objects <= MOST_OPEN or objects - len(begins_with_tag.findall(frame)) <= MOST_OPEN:
            return
        try:
            _check_msgpack_tags(frame, tag, key)
        except IndexError:
            return  # it ends too early

    return check


def _check_msgpack_tags(frame: bytes, tag: str, key: bytes) -> None:
    above: list[tuple[int, bool]] = []
    # Of the containers around: how many items are left, keys counted like values, and
    # whether a map's tag has come; True for an array, which has none.
    left, has_tag, without = 1, True, 0
    at = 0
    while True:
        while not left:
            if not above:
                return
            left, has_tag = above.pop()
            without -= not has_tag
        first = frame[at]
        left -= 1
        width = WIDTH[first]
        if width:
            if not has_tag and left & 1 and frame.startswith(key, at):
                has_tag = True
            at += width
        elif first in COUNTED:
            size, more = COUNTED[first]
            at += 1 + size + more + int.from_bytes(frame[at + 1 : at + 1 + size])
        elif first == 0xC1:
            return  # never used
        else:
            count, at = count_of(frame, at)
            is_map = first < 0x90 or first >= 0xDE
            if has_tag and not is_map:  # its items count as those of what it is in
                left += count
                continue
            above.append((left, has_tag))
            without += not has_tag
            left, has_tag = count, True
            if is_map:
                if without > MOST_OPEN:
                    raise _too_many(tag)
                left, has_tag = 2 * count, not count


def _too_many(tag: str) -> msgspec.ValidationError:
    return msgspec.ValidationError(
        f"Objects nested more than {MOST_OPEN} deep must begin with their `{tag[:60]}`"
    )
