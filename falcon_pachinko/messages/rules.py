"""Rules that other libraries know and msgspec does not: found, and never ignored without a word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

__all__ = ["foreign_rule"]


def foreign_rule(wanted: Any) -> str | None:
    """Return what in a type msgspec would ignore without a word, or None.

    That is pydantic's dataclasses, whose validators do not run, and constraints of
    ``annotated_types`` and pydantic.
    """
    return next(_foreign_rules(wanted, set()), None)


def _foreign_rules(wanted: Any, seen: set[Any]) -> Iterator[str]:
    if get_origin(wanted) is Annotated:
        for rule in wanted.__metadata__:
            library = type(rule).__module__.partition(".")[0]
            if library in ("annotated_types", "pydantic") and type(rule).__name__ != "DocInfo":
                yield f"msgspec ignores {rule!r:.100}; write Annotated[..., msgspec.Meta(...)]"
    value = getattr(wanted, "__value__", None)  # of `type X = ...`
    for part in (*get_args(wanted), *((value,) if value is not None else ())):
        yield from _foreign_rules(part, seen)
    owner = get_origin(wanted) or wanted
    if not isinstance(owner, type) or owner in seen:
        return
    seen.add(owner)
    if hasattr(owner, "__pydantic_validator__") and is_dataclass(owner):
        yield (
            f"msgspec would not run the validators of the pydantic dataclass {owner.__name__}; "
            "write a msgspec.Struct, or a pydantic model and install(dec_hook=...)"
        )
    named = issubclass(owner, tuple) and hasattr(owner, "_fields")
    if (
        issubclass(owner, msgspec.Struct)
        or is_dataclass(owner)
        or is_typeddict(owner)
        or named
        or hasattr(owner, "__attrs_attrs__")
    ):
        try:
            hints = get_type_hints(owner, include_extras=True)
        except NameError:
            return  # the decoder's own error says which name
        for hint in hints.values():
            yield from _foreign_rules(hint, seen)
