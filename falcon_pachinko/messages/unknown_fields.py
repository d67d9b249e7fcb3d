"""Finds fields that a type does not have, however deep they are.

msgspec ignores an unknown field unless the struct's class forbids it, and the
classes are the application's. What is nested is therefore compared by name, in a
second look at the decoded values; types in which nothing is nested need none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect

__all__ = ["Checker", "checker_of", "nested_in"]

Checker = Callable[[Any, str], None]
"""Takes a value, decoded without a type, and its path; raises `msgspec.ValidationError`."""

_SHOWN = 200  # how much of a client's text an error repeats, in characters

_OBJECTS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
_ARRAYS = (
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.VarTupleType,
    inspect.CollectionType,
)


def checker_of(wanted: Any) -> Checker | None:
    """Make what finds unknown fields in values of a type; None if it could have none."""
    return _checker(inspect.type_info(wanted), {})


def nested_in(struct: Any) -> bool:
    """Whether values within a struct, below its own fields, could have unknown fields."""
    fields = inspect.type_info(struct).fields  # type: ignore[attr-defined]  # it is a struct
    return any(_checker(field.type, {}) is not None for field in fields)


def _checker(known: inspect.Type, above: dict[Any, Checker]) -> Checker | None:
    if isinstance(known, _OBJECTS) and not getattr(known, "array_like", False):
        return _object_checker(known, above)
    if isinstance(known, _ARRAYS):
        return _items_checker(_checker(known.item_type, above))
    if isinstance(known, inspect.TupleType):
        return _tuple_checker([_checker(each, above) for each in known.item_types])
    if isinstance(known, inspect.DictType):
        return _values_checker(_checker(known.value_type, above))
    if isinstance(known, inspect.UnionType):
        return _union_checker(known, above)
    return None


def _object_checker(known: Any, above: dict[Any, Checker]) -> Checker:
    if known.cls in above:  # a type within itself
        return above[known.cls]
    names = {field.encode_name for field in known.fields} | {getattr(known, "tag_field", None)}
    within: dict[str, Checker] = {}

    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict):
            return
        for name in value:
            if name not in names:
                sentence = f"Object contains unknown field `{str(name)[:_SHOWN]}`"
                raise msgspec.ValidationError(f"{sentence} - at `{path}`")
        for name, checker in within.items():
            if name in value:
                checker(value[name], f"{path}.{name}")

    above[known.cls] = check
    for field in known.fields:
        checker = _checker(field.type, above)
        if checker is not None:
            within[field.encode_name] = checker
    return check


def _items_checker(item: Checker | None) -> Checker | None:
    if item is None:
        return None

    def check(value: Any, path: str) -> None:
        if isinstance(value, list):
            for each in value:
                item(each, f"{path}[...]")

    return check


def _tuple_checker(items: list[Checker | None]) -> Checker | None:
    if not any(items):
        return None

    def check(value: Any, path: str) -> None:
        if isinstance(value, list):
            for each, item in zip(value, items, strict=False):
                if item is not None:
                    item(each, f"{path}[...]")

    return check


def _values_checker(of_values: Checker | None) -> Checker | None:
    if of_values is None:
        return None

    def check(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for each in value.values():
                of_values(each, f"{path}[...]")

    return check


def _union_checker(known: inspect.UnionType, above: dict[Any, Checker]) -> Checker | None:
    """Check with the member that the value is; msgspec lets objects differ by their tag only."""
    tagged: dict[Any, Checker] = {}
    others: list[Checker] = []
    tag_field = None
    for member in known.types:
        checker = _checker(member, above)
        if checker is None:
            continue
        if getattr(member, "tag", None) is not None:
            tag_field = member.tag_field  # type: ignore[attr-defined]  # what has a tag has this
            tagged[member.tag] = checker  # type: ignore[attr-defined]  # see above
        else:
            others.append(checker)
    if not tagged and not others:
        return None

    def check(value: Any, path: str) -> None:
        if isinstance(value, dict) and tag_field in value:
            checker = tagged.get(value[tag_field])
            if checker is not None:
                checker(value, path)
                return
        for checker in others:  # each looks at its own kind of value only
            checker(value, path)

    return check
