"""The algebra of targets is the algebra of sets."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import Target, to
from falcon_pachinko.targets import AnyTarget, check_target

PEOPLE = frozenset(range(8))
SOME = st.frozensets(st.sampled_from(sorted(PEOPLE)))
NAMES = ("a", "ab")

LEAVES = st.one_of(
    st.just(("everyone", "")),
    st.tuples(
        st.sampled_from(["room", "rooms", "user", "tag", "connection"]), st.sampled_from(NAMES)
    ),
)
TREES = st.recursive(
    LEAVES, lambda inner: st.tuples(st.sampled_from("|&-"), inner, inner), max_leaves=8
)
WORDS = {
    "room": to.room,
    "rooms": to.rooms,
    "user": to.user,
    "tag": to.tag,
    "connection": to.connection,
}


LOOK_UPS = {
    "room": "in_room",
    "rooms": "in_rooms",
    "user": "of_user",
    "tag": "with_tag",
    "connection": "with_id",
}


class Directory:
    """Who has which name: plain sets."""

    def __init__(self, known):
        self.known = known

    def _look_up(self, kind, name):
        return self.known.get((kind, name), frozenset())

    def in_room(self, name):
        return self._look_up("room", name)

    def in_rooms(self, prefix):
        named = [
            who
            for (kind, name), who in self.known.items()
            if kind == "room" and name.startswith(prefix)
        ]
        return frozenset().union(*named)

    def of_user(self, name):
        return self._look_up("user", name)

    def with_tag(self, name):
        return self._look_up("tag", name)

    def with_id(self, name):
        return self._look_up("connection", name)

    def all(self):
        return PEOPLE


def as_target(tree):
    if tree[0] == "everyone":
        return to.everyone
    if tree[0] in WORDS:
        return WORDS[tree[0]](tree[1])
    left, right = map(as_target, tree[1:])
    return {"|": left.__or__, "&": left.__and__, "-": left.__sub__}[tree[0]](right)


def as_set(tree, known):
    if tree[0] == "everyone":
        return PEOPLE
    if tree[0] in WORDS:
        return getattr(Directory(known), LOOK_UPS[tree[0]])(tree[1])
    left, right = (as_set(each, known) for each in tree[1:])
    return {"|": left.__or__, "&": left.__and__, "-": left.__sub__}[tree[0]](right)


@given(
    TREES, st.dictionaries(st.tuples(st.sampled_from(list(WORDS)), st.sampled_from(NAMES)), SOME)
)
def test_a_target_selects_what_the_sets_would(tree, known):
    """``|``, ``&`` and ``-`` of targets are those of the sets that they name."""
    assert as_target(tree).select(Directory(known)) == as_set(tree, known)


def test_python_binds_minus_first():
    """``room & tag - user`` takes the user from the tag; the result is the same either way."""
    plain = to.room("a") & to.tag("b") - to.user("a")

    assert plain == to.room("a") & (to.tag("b") - to.user("a"))


@pytest.mark.parametrize("other", ["lobby", None, {"a"}, 3])
@pytest.mark.parametrize("combine", [lambda a, b: a | b, lambda a, b: a & b, lambda a, b: a - b])
def test_a_target_combines_with_targets_only(combine, other):
    """A bare room name in an expression is a mistake that shows at once."""
    with pytest.raises(TypeError):
        combine(to.room("lobby"), other)


def test_a_bare_target_names_nobody():
    """The base class says which words to use."""
    with pytest.raises(TypeError, match=r"names no connections; use to\.room\(\)"):
        Target().select(Directory({}))


def test_targets_are_values():
    """Equal by what they name, usable as keys, and never changed."""
    assert {to.room("a"): 1}[to.room("a")] == 1
    assert to.room("a") != to.user("a")
    with pytest.raises(AttributeError):
        to.room("a").name = "b"


@pytest.mark.parametrize(
    "target", [to.everyone, to.room("a"), to.user("a") | to.tag("b"), to.everyone - to.room("a")]
)
def test_a_target_can_travel(target):
    """It becomes bytes that name its kind, so that other processes can evaluate it."""
    assert msgspec.json.decode(msgspec.json.encode(target))["target"]


@given(TREES)
def test_a_target_prints_as_python_would_read_it(tree):
    """With the parentheses that it needs: what is read is the same target again."""
    target = as_target(tree)

    assert eval(repr(target), {"to": to}) == target


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (to.room("lobby"), "to.room('lobby')"),
        (to.rooms("l"), "to.rooms('l')"),
        (to.everyone, "to.everyone"),
        (to.room("a") & to.tag("b") - to.user("c"), "to.room('a') & to.tag('b') - to.user('c')"),
        ((to.room("a") & to.tag("b")) - to.tag("c"), "(to.room('a') & to.tag('b')) - to.tag('c')"),
        (to.tag("a") - (to.tag("b") - to.tag("c")), "to.tag('a') - (to.tag('b') - to.tag('c'))"),
        (to.room("a") | to.room("b") | to.room("c"), "to.room('a') | to.room('b') | to.room('c')"),
    ],
)  # fmt: skip
def test_a_target_shows_how_it_was_written(target, shown):
    """So that a log line can be typed again."""
    assert repr(target) == shown


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("given_name", [5, None, b"tea", ["tea"]])
def test_a_name_that_is_no_text_is_refused_at_once(word, given_name):
    """With what to write instead: it would name nobody, silently."""
    with pytest.raises(TypeError, match=rf"to\.{word}\(\) takes a str.*write to\.{word}\(str"):
        WORDS[word](given_name)


@pytest.mark.parametrize("given_target", ["lobby", None, {"a"}, Target])
def test_what_is_no_target_is_refused_with_what_was_meant(given_target):
    """A bare room name most of all."""
    with pytest.raises(TypeError, match=r"is not a target; write to=to\.room\("):
        check_target(given_target)


@given(TREES)
def test_any_target_arrives_as_it_was_sent(tree):
    """However deep it is."""
    target = as_target(tree)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(target), type=AnyTarget) == target
