"""Rooms: names that are text, and indexes that behave like the plain sets they stand for."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import InvalidNameError
from falcon_pachinko.names import MAX_NAME_BYTES, check_name
from falcon_pachinko.rooms.index import Index, SortedNames

# Few letters, so that prefixes are shared; some beyond ASCII, some at the end of Unicode.
NAMES = st.text("ab:*é茶\U0001f375\U0010ffff", min_size=1, max_size=5)
PREFIXES = st.text("ab:*é茶\U0001f375\U0010ffff", max_size=3)


class NarrowNames(SortedNames):
    """The same with buckets so small that they split and vanish all the time."""

    __slots__ = ()

    BUCKET = 2


@given(st.lists(NAMES, max_size=60), PREFIXES)
def test_sorted_names_are_a_sorted_set(names, prefix):
    """Added, removed and asked for a prefix in any order, they answer as a set would."""
    there, model = NarrowNames(), set()
    for name in names:
        if name in model:
            there.remove(name)
        else:
            there.add(name)
        model ^= {name}

        assert list(there.with_prefix("")) == sorted(model)
        assert list(there.with_prefix(prefix)) == sorted(
            each for each in model if each.startswith(prefix)
        )


@given(st.sets(NAMES, max_size=60))
def test_buckets_stay_small_sorted_and_known_by_their_first(names):
    """What makes the costs bounded holds after any history."""
    there = NarrowNames()
    for name in names:
        there.add(name)
    for name in sorted(names)[::2]:
        there.remove(name)

    assert all(0 < len(bucket) <= 4 for bucket in there._buckets)
    assert [bucket[0] for bucket in there._buckets] == there._firsts
    assert list(itertools.chain(*there._buckets)) == sorted(sorted(names)[1::2])


def test_a_prefix_is_found_where_buckets_meet():
    """Names with one prefix that fill many buckets come out whole and in order."""
    there = SortedNames()
    names = [f"chat:{number:05}" for number in range(5000)]
    for name in [*names, "zoo", "bar"]:
        there.add(name)

    assert list(there.with_prefix("chat:")) == names
    assert len(there._buckets) > 2
    assert list(there.with_prefix("chat:0123")) == names[1230:1240]
    assert list(there.with_prefix("zz")) == []


def test_finding_a_prefix_does_not_look_at_every_name():
    """Of ten thousand names, a question for ten compares a handful, not ten thousand."""

    class Counted(str):
        __slots__ = ()
        compared = 0

        def startswith(self, *args):
            Counted.compared += 1
            return super().startswith(*args)

    there = SortedNames()
    for number in range(10_000):
        there.add(Counted(f"room:{number:05}"))

    assert len(list(there.with_prefix("room:0777"))) == 10
    assert Counted.compared == 11


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "discard"]), NAMES, st.integers(0, 3)), max_size=40
)


@given(OPERATIONS, PREFIXES)
def test_an_index_is_a_dict_of_sets(operations, prefix):
    """A name lives exactly as long as it has a member, whatever happened before."""
    index, model = Index(), {}
    for verb, name, member in operations:
        getattr(index, verb)(name, member)
        getattr(model.setdefault(name, set()), verb)(member)
        model = {each: members for each, members in model.items() if members}

        assert len(index) == len(model)
        assert index.names() == sorted(model)
        assert index.names(prefix) == sorted(each for each in model if each.startswith(prefix))
        assert (name in index) == (name in model)
        assert index.members(name) == model.get(name, set())


def test_a_name_nobody_has_has_no_members():
    """Asking is no error, and leaves nothing behind."""
    index = Index()

    assert index.members("nowhere") == frozenset()
    assert len(index) == 0


@given(st.text())
def test_a_room_name_is_text_of_1_to_200_bytes(name):
    """Any text with a UTF-8 form of that size is a name; nothing is a pattern or reserved."""
    size = len(name.encode("utf-8", "surrogatepass"))
    surrogate = any("\ud800" <= character <= "\udfff" for character in name)
    if surrogate or not 1 <= size <= MAX_NAME_BYTES:
        with pytest.raises(InvalidNameError):
            check_name(name, "room name")
    else:
        check_name(name, "room name")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is empty"),
        ("x" * 201, "it has 201 bytes in UTF-8, 200 are allowed"),
        ("é" * 101, "it has 202 bytes in UTF-8, 200 are allowed"),
        ("a\ud800", "it has a lone surrogate"),
    ],
)
def test_what_cannot_name_a_room_is_refused_with_the_reason(name, why):
    """The error holds the value and says what is wrong with it."""
    with pytest.raises(InvalidNameError, match=why) as refused:
        check_name(name, "room name")

    assert refused.value.name is name


@pytest.mark.parametrize("name", [None, b"lobby", 7, ["lobby"]])
def test_a_name_that_is_not_text_is_a_mistake_of_the_application(name):
    """A client could not have sent it as a name: the developer is told what to write."""
    with pytest.raises(TypeError, match=r"a room name is a str, not .*; write str\("):
        check_name(name, "room name")


@pytest.mark.parametrize("name", ["x" * 200, "é" * 100, "*", "[a-z]", " ", "a\nb", "../x", "\0"])
def test_a_name_is_opaque(name):
    """Nothing in it means anything."""
    index = Index()
    check_name(name, "room name")
    index.add(name, "ann")

    assert index.names(name) == [name]
