"""Fields that a type does not have are found, however deep they are, and no others."""

import dataclasses
from typing import Any, Generic, NamedTuple, Optional, TypedDict, TypeVar

import msgspec
import pytest

from falcon_pachinko.messages.unknown_fields import checker_of, nested_in

T = TypeVar("T")


class Leaf(msgspec.Struct):
    a: int = 0


class Renamed(msgspec.Struct, rename="camel"):
    long_name: int = 0


class Array(msgspec.Struct, array_like=True):
    leaf: Leaf


class Cat(msgspec.Struct, tag="cat"):
    leaf: Leaf


class Dog(msgspec.Struct, tag="dog"):
    b: int = 0


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Tree(msgspec.Struct):
    below: list["Tree"] = []
    twin: Optional["Tree"] = None


@dataclasses.dataclass
class Data:
    leaf: Leaf


class Typed(TypedDict):
    leaf: Leaf


class Named(NamedTuple):
    leaf: Leaf


@pytest.mark.parametrize(
    ("wanted", "good", "bad", "path"),
    [
        (Leaf, {"a": 1}, {"z": 1}, "$"),
        (Renamed, {"longName": 1}, {"long_name": 1}, "$"),
        (list[Leaf], [{"a": 1}], [{"a": 1}, {"z": 1}], "$[...]"),
        (set[Leaf], [{"a": 1}], [{"z": 1}], "$[...]"),
        (tuple[int, Leaf], [1, {"a": 1}], [1, {"z": 1}], "$[...]"),
        (tuple[Leaf, ...], [{"a": 1}], [{"z": 1}], "$[...]"),
        (dict[str, Leaf], {"any": {"a": 1}}, {"any": {"z": 1}}, "$[...]"),
        (Data, {"leaf": {"a": 1}}, {"leaf": {"z": 1}}, "$.leaf"),
        (Typed, {"leaf": {"a": 1}}, {"leaf": {}, "z": 1}, "$"),
        (Leaf | None, {"a": 1}, {"z": 1}, "$"),
        (Leaf | list[Leaf], [{"a": 1}], [{"z": 1}], "$[...]"),
        (Cat | Dog, {"type": "dog", "b": 1}, {"type": "dog", "leaf": {}}, "$"),
        (Cat | Dog, {"type": "cat", "leaf": {}}, {"type": "cat", "leaf": {"z": 1}}, "$.leaf"),
        (Page[Leaf], {"items": [{"a": 1}]}, {"items": [{"z": 1}]}, "$.items[...]"),
        (Tree, {"below": [{"below": []}]}, {"below": [{"twin": {"z": 1}}]}, "$.below[...].twin"),
    ],
)
def test_an_unknown_field_is_found(wanted, good, bad, path):
    """The error names the field and where it is; what fits passes."""
    check = checker_of(wanted)
    assert check is not None

    check(good, "$")
    with pytest.raises(msgspec.ValidationError) as found:
        check(bad, "$")

    assert "unknown field" in str(found.value)
    assert str(found.value).endswith(f" - at `{path}`")


@pytest.mark.parametrize(
    "wanted",
    [int, str, Any, list[int], dict, dict[str, int], tuple[int, str], int | str, Array, Named],
)
def test_a_type_without_names_needs_no_look(wanted):
    """Nothing is decoded a second time for it."""
    assert checker_of(wanted) is None


@pytest.mark.parametrize(
    "wanted", [Leaf, list[Leaf], tuple[int, Leaf], dict[str, Leaf], Cat | Dog, Leaf | None]
)
@pytest.mark.parametrize("value", [5, "x", None, [], {}, {"type": "bird"}])
def test_values_of_other_kinds_are_left_to_the_decoder(wanted, value):
    """What is wrong with them is not a name; only a field that is there can be unknown."""
    check = checker_of(wanted)
    assert check is not None
    try:
        check(value, "$")
    except msgspec.ValidationError as found:
        assert value == {"type": "bird"}, found  # noqa: PT017  # both outcomes are right for it


def test_only_what_is_nested_counts_as_nested():
    """A struct's own fields are refused in the first pass."""
    assert not nested_in(Leaf)
    assert nested_in(Cat)
