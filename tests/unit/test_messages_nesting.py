"""Objects of recursive unions: few may be open before their tags, any number after them."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko.messages.nesting import (
    MOST_OPEN,
    check_json_tags,
    check_msgpack_tags,
    recursive_tags,
)


class Leaf(msgspec.Struct, tag="leaf"):
    value: int = 0


class Bare(msgspec.Struct, tag="bare"):
    pass


class Pair(msgspec.Struct, tag="pair"):
    left: "Leaf | Pair | None" = None


class Kind(msgspec.Struct, tag="kind", tag_field="kind"):
    more: "dict[str, tuple[Kind | Other, ...]]" = {}


class Other(msgspec.Struct, tag="other", tag_field="kind"):
    pass


class Row(msgspec.Struct, tag=1, array_like=True):
    below: "list[Row | Column]"


class Column(msgspec.Struct, tag=2, array_like=True):
    below: "list[Row | Column]"


class Tree(msgspec.Struct):
    below: "list[Tree]" = []
    shape: Leaf | Bare | None = None


class Holder(msgspec.Struct):
    kind: list[Kind | Other]
    pair: Leaf | Pair


@pytest.mark.parametrize(
    ("wanted", "tags"),
    [
        (Leaf | Pair, {"type"}),
        (list[Kind | Other | None], {"kind"}),
        (Holder, {"kind", "type"}),
        (dict[str, Holder] | None, {"kind", "type"}),
        (Leaf | Bare, set()),  # nothing within itself
        (Tree, set()),  # the tree has no tag, and what has one ends there
        (Row | Column, set()),  # an array's tag comes first
        (Leaf, set()),
        (int | str, set()),
    ],
)
def test_only_unions_that_can_be_within_themselves_are_looked_at(wanted, tags):
    """For other types nothing is done before a message is decoded."""
    assert recursive_tags(msgspec.inspect.type_info(wanted)) == tags


ITEMS = st.recursive(
    st.none() | st.integers(-(2**63), 2**63) | st.text('{}"\\:type', max_size=6) | st.just("type"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(
            st.tuples(st.sampled_from(["type", "a", "b", '{"type":', "\\"]), inner),
            max_size=4,
            unique_by=lambda pair: pair[0],
        ).map(dict)
    ),
    max_leaves=60,
)


def deepest(item, around=0):
    """The most objects that are without their tag where another one begins."""
    if isinstance(item, list):
        return max((deepest(each, around) for each in item), default=0)
    if not isinstance(item, dict):
        return 0
    most, keys = around, list(item)
    for key, value in item.items():
        without = "type" not in keys[: keys.index(key) + 1]
        most = max(most, deepest(value, around + without))
    return most


def wrapped(item, levels):
    for level in range(levels):
        item = {"a": item, "type": ""} if level % 3 else [{"type": "", "c": {"b": [item]}}]
    return item


def is_refused(check, frame):
    try:
        check(frame)
    except msgspec.ValidationError as refused:
        assert str(refused) == "Objects nested more than 8 deep must begin with their `type`"  # noqa: PT017  # both outcomes are right
        return True
    return False


@given(ITEMS, st.integers(0, 12), st.sampled_from([None, 2]))
def test_json_is_refused_if_too_many_are_open(item, levels, indent):
    """As many as there are, whatever stands in texts."""
    item = wrapped(item, levels)

    refused = is_refused(check_json_tags("type"), json.dumps(item, indent=indent))

    assert refused == (deepest(item) > MOST_OPEN)


@given(ITEMS, st.integers(0, 12))
def test_messagepack_is_refused_if_too_many_are_open(item, levels):
    """By the same rule."""
    item = wrapped(item, levels)

    refused = is_refused(check_msgpack_tags("type"), msgspec.msgpack.encode(item))

    assert refused == (deepest(item) > MOST_OPEN)


@given(st.text('{}[]":\\,t '))
def test_any_text_is_looked_through(text):
    """What is malformed is left to the decoder."""
    is_refused(check_json_tags("t"), text)


@given(st.binary())
def test_any_bytes_are_looked_through(data):
    """Nothing but the one refusal is raised."""
    is_refused(check_msgpack_tags("type"), b"\x82\xa1a" * 9 + data)


def test_a_large_map_counts_like_a_small_one():
    """Whatever form its length has."""
    for begin in (b"\xde\x00\x02\xa1a", b"\xdf\x00\x00\x00\x02\xa1a"):
        assert is_refused(check_msgpack_tags("type"), begin * 20)


def test_any_number_may_stand_beside_one_another():
    """A list of a thousand, each with its tag at the end."""
    many = [{"a": {"b": 1, "type": "x"}, "type": "y"}] * 1000

    check_json_tags("type")(json.dumps(many))
    check_msgpack_tags("type")(msgspec.msgpack.encode(many))


def test_what_follows_a_whole_message_is_left_to_the_decoder():
    """It is refused there, whatever it is."""
    check_json_tags("type")('{"a":1}}' + '{"a":' * 20)
    check_msgpack_tags("type")(b"\x81\xa1a\x01" + b"\x82\xa1a" * 20)
    check_msgpack_tags("type")(b"\xc1" + b"\x82\xa1a" * 20)
