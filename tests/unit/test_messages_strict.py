"""Strict twins: unknown fields refused however deep, hashing bounded, classes left alone."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
)

import annotated_types
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from falcon_pachinko.messages.codec import CODECS, JSON
from falcon_pachinko.messages.rules import foreign_rule
from falcon_pachinko.messages.strict import strict_type

T = TypeVar("T")
CODEC = pytest.mark.parametrize("codec", CODECS.values(), ids=repr)


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


class Ping(msgspec.Struct):
    pong: Optional["Pong"] = None


class Pong(msgspec.Struct):
    ping: Ping | None = None
    tree: Tree | None = None


class Described(msgspec.Struct):
    leaf: Annotated[Leaf, msgspec.Meta(description="A leaf")]
    leaves: Annotated[list[Leaf], msgspec.Meta(max_length=2)] = []


@dataclasses.dataclass
class Data:
    leaf: Leaf


class Typed(TypedDict):
    leaf: Leaf
    more: NotRequired[int]


class Named(NamedTuple):
    leaf: Leaf
    n: int = 0


Odd = TypedDict("Odd", {"in": Leaf, "a-b": int})


@CODEC
@pytest.mark.parametrize(
    ("wanted", "good", "bad", "path"),
    [
        (Leaf, {"a": 1}, {"z": 1}, ""),
        (Renamed, {"longName": 1}, {"long_name": 1}, ""),
        (list[Leaf], [{"a": 1}], [{"a": 1}, {"z": 1}], "[1]"),
        (tuple[int, Leaf], [1, {"a": 1}], [1, {"z": 1}], "[1]"),
        (tuple[Leaf, ...], [{"a": 1}], [{"z": 1}], "[0]"),
        (collections.abc.Sequence[Leaf], [{"a": 1}], [{"z": 1}], "[0]"),
        (dict[str, Leaf], {"any": {"a": 1}}, {"any": {"z": 1}}, "[...]"),
        (Data, {"leaf": {"a": 1}}, {"leaf": {"z": 1}}, ".leaf"),
        (Data, {"leaf": {"a": 1}}, {"leaf": {}, "z": 1}, ""),
        (Typed, {"leaf": {"a": 1}, "more": 1}, {"leaf": {}, "z": 1}, ""),
        (Odd, {"in": {"a": 1}, "a-b": 1}, {"in": {"z": 1}, "a-b": 1}, ".in"),
        (Leaf | None, {"a": 1}, {"z": 1}, ""),
        (Leaf | list[Leaf], [{"a": 1}], [{"z": 1}], "[0]"),
        (Cat | Dog, {"type": "dog", "b": 1}, {"type": "dog", "leaf": {}}, ""),
        (Cat | Dog, {"type": "cat", "leaf": {}}, {"type": "cat", "leaf": {"z": 1}}, ".leaf"),
        (Page[Leaf], {"items": [{"a": 1}]}, {"items": [{"z": 1}]}, ".items[0]"),
        (Page[int], {"items": [1]}, {"items": [1], "z": 1}, ""),
        (Tree, {"below": [{"below": []}]}, {"below": [{"twin": {"z": 1}}]}, ".below[0].twin"),
        (Ping, {"pong": {"tree": {}}}, {"pong": {"ping": {"z": 1}}}, ".pong.ping"),
        (Ping, {"pong": {"ping": {}}}, {"pong": {"tree": {"twin": {"z": 1}}}}, ".pong.tree.twin"),
        (Array, [{"a": 1}], [{"z": 1}], "[0]"),
        (list[Array], [[{"a": 1}]], [[{"z": 1}]], "[0][0]"),
        (Named, [{"a": 1}], [{"z": 1}], "[0]"),
        (list[Named], [[{"a": 1}, 2]], [[{"z": 1}]], "[0][0]"),
        (Described, {"leaf": {"a": 1}}, {"leaf": {"z": 1}}, ".leaf"),
        (Described, {"leaf": {}, "leaves": [{}]}, {"leaf": {}, "leaves": [{"z": 1}]}, ".leaves[0]"),
        (Annotated[Leaf, msgspec.Meta(title="x")], {"a": 1}, {"z": 1}, ""),
    ],
)  # fmt: skip
def test_an_unknown_field_is_found(codec, wanted, good, bad, path):
    """The error names the field and where it is; what fits passes."""
    decode = codec.decoder(strict_type(wanted, forbid_unknown_fields=True).wire)

    decode(codec.frame_of(good))
    with pytest.raises(msgspec.ValidationError) as found:
        decode(codec.frame_of(bad))

    sentence, _, where = str(found.value).partition(" - at ")
    assert "unknown field" in sentence
    assert where == (f"`${path}`" if path else "")


@CODEC
def test_one_item_too_many_is_an_unknown_field(codec):
    """The fields of an array have no names, and there are as many as were declared."""
    decode = codec.decoder(strict_type(Array, forbid_unknown_fields=True).wire)

    with pytest.raises(msgspec.ValidationError, match="at most length 1"):
        decode(codec.frame_of([{}, "more"]))


@pytest.mark.parametrize(
    "wanted",
    [int, str, Any, list[int], dict, dict[str, int], tuple[int, str], int | str,
     set[str], tuple[()]],
)  # fmt: skip
def test_a_type_that_is_strict_already_is_left_alone(wanted):
    """It is decoded in one pass, as it was declared."""
    strict = strict_type(wanted, forbid_unknown_fields=True)

    assert strict.wire is wanted
    assert strict.same


@pytest.mark.parametrize("wanted", [Leaf, Tree, Data, Typed, Named, list[Cat | Dog], Page[Leaf]])
def test_where_unknown_fields_are_allowed_nothing_is_replaced(wanted):
    """``forbid_unknown_fields=False`` leaves all to the application's own classes."""
    decode = JSON.decoder(strict_type(wanted, forbid_unknown_fields=False).wire)
    frames = {Named: '[{"z":1}]', list[Cat | Dog]: '[{"type":"dog","z":1}]'}

    frame = frames.get(wanted, '{"leaf":{},"items":[],"z":1}')

    assert decode(frame) is not None


def test_a_twin_is_not_a_subclass():
    """The application's class is not changed and has no child."""
    strict = strict_type(Tree, forbid_unknown_fields=True)

    assert Tree.__subclasses__() == []
    assert not issubclass(strict.wire, Tree)
    assert msgspec.json.decode('{"z":1}', type=Tree) == Tree()


# Hashing.


class Kind(enum.Enum):
    A = "a"


class Frozen(msgspec.Struct, frozen=True):
    a: int
    b: int


class FrozenArray(msgspec.Struct, frozen=True, array_like=True):
    a: int


class Fields(msgspec.Struct):
    seen: set[tuple[int, int]]


@pytest.mark.parametrize(
    "wanted",
    [
        set[float], set[tuple[int, int]], set[tuple[int, ...]], frozenset[FrozenArray], set[Frozen],
        set[Any], set, frozenset, set[frozenset[str]], set[decimal.Decimal], set[uuid.UUID],
        set[str | float], set[Annotated[float, msgspec.Meta(ge=0)]], dict[decimal.Decimal, int],
        dict[uuid.UUID, int], list[set[float]], Fields, set[NamedTuple("Pair", [("x", int)])],
        dict[str, set[tuple[str, str]]], set[msgspec.Raw], collections.abc.Set[float],
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("forbid", [True, False])
def test_what_clients_can_make_hash_alike_is_refused(wanted, forbid):
    """The sentence says why, and what to write instead."""
    with pytest.raises(TypeError, match=r"may not be .* that hash alike.*or a list"):
        strict_type(wanted, forbid_unknown_fields=forbid)


@CODEC
@pytest.mark.parametrize(
    ("wanted", "sent", "value"),
    [
        (set[int], [1, 2, 1], {1, 2}),
        (frozenset[str], ["a"], frozenset("a")),
        (set[str | int], ["a", 1], {"a", 1}),
        (set[Kind], ["a"], {Kind.A}),
        (set[Literal["x", "y"]], ["x"], {"x"}),
        (set[bool | None], [True, None], {True, None}),
        (set[dt.date], ["2026-01-02"], {dt.date(2026, 1, 2)}),
        (set[Annotated[int, msgspec.Meta(gt=0)]], [1], {1}),
        (Annotated[set[int], msgspec.Meta(max_length=2)], [1], {1}),
        (dict[int, str], {1: "a"}, {1: "a"}),
        (dict[float, str], {1.5: "a"}, {1.5: "a"}),
        (dict[Kind, int], {"a": 1}, {Kind.A: 1}),
    ],
)
def test_what_can_be_hashed_safely_is_as_it_was_declared(codec, wanted, sent, value):
    """Text, whole numbers, enums, literals and dates; as keys all numbers."""
    strict = strict_type(wanted, forbid_unknown_fields=True)

    decoded = codec.decoder(strict.wire)(codec.frame_of(sent))

    assert strict.same
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(
    ("wanted", "frame"),
    [
        (set[int], f"[{2**61 - 1 + 2**70}]"),
        (dict[int, int], f'{{"{2**64}":1}}'),
        (set[int | str], f"[-{2**64}]"),
        (set[Annotated[int, msgspec.Meta(gt=0)]], f"[{2**63}]"),
        (list[frozenset[int]], f"[[{2**80}]]"),
    ],
)
def test_a_number_that_is_hashed_has_64_bits(wanted, frame):
    """Of larger ones, a client could send thousands with one hash."""
    decode = JSON.decoder(strict_type(wanted, forbid_unknown_fields=True).wire)

    with pytest.raises(msgspec.ValidationError, match="Expected `int` "):
        decode(frame)


# What only other libraries know.


@pydantic.dataclasses.dataclass
class Transfer:
    amount: Annotated[int, pydantic.Field(gt=0)]


class Holder(msgspec.Struct):
    amount: Annotated[int, annotated_types.Le(3)]


class Above(msgspec.Struct):
    holders: list[Holder]


class HoldsTransfer(TypedDict):
    transfer: Transfer | None


@pytest.mark.parametrize(
    ("wanted", "rule"),
    [
        (Annotated[int, annotated_types.Gt(0)], r"msgspec ignores Gt\(gt=0\); write Annotated"),
        (list[Annotated[str, annotated_types.Len(1, 2)]], "msgspec ignores Len"),
        (dict[str, Annotated[int, pydantic.Field(gt=0)]], "msgspec ignores FieldInfo"),
        (Holder, "msgspec ignores Le"),
        (Above | None, "msgspec ignores Le"),
        (Transfer, "pydantic dataclass Transfer"),
        (HoldsTransfer, "pydantic dataclass Transfer"),
    ],
)
def test_a_rule_that_msgspec_would_ignore_is_found(wanted, rule):
    """However deep it is: validation is never off without a word."""
    with pytest.raises(AssertionError, match=rule):
        assert foreign_rule(wanted) is None, foreign_rule(wanted)


@pytest.mark.parametrize(
    "wanted",
    [Annotated[int, msgspec.Meta(gt=0)], Annotated[Leaf, "a note"], Tree, Ping, Data, Named,
     int, Any, Page[int]],
)  # fmt: skip
def test_msgspecs_own_rules_are_fine(wanted):
    """And so are notes that are not rules."""
    assert foreign_rule(wanted) is None
