"""The algebra of targets is the algebra of sets."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import Target, to

PEOPLE = frozenset(range(8))
SOME = st.frozensets(st.sampled_from(sorted(PEOPLE)))
NAMES = ("a", "b")

LEAVES = st.one_of(
    st.just(("everyone", "")),
    st.tuples(st.sampled_from(["room", "user", "tag", "connection"]), st.sampled_from(NAMES)),
)
TREES = st.recursive(
    LEAVES, lambda inner: st.tuples(st.sampled_from("|&-"), inner, inner), max_leaves=8
)
WORDS = {"room": to.room, "user": to.user, "tag": to.tag, "connection": to.connection}


class Directory:
    """Who has which name: plain sets."""

    def __init__(self, known):
        self.known = known

    def _look_up(self, kind, name):
        return self.known.get((kind, name), frozenset())

    def in_room(self, name):
        return self._look_up("room", name)

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
        return known.get(tree, frozenset())
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
