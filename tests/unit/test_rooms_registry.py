"""Who is connected to this process and where, whom a target names, and what that makes known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import (
    Connection,
    DuplicateConnectionError,
    InvalidNameError,
    Limits,
    MessageError,
    RoomLimitError,
    WebSocketConnectionManager,
    to,
)
from falcon_pachinko.messages.codec import MSGPACK


class Noted:
    """Who is told of names that come into use and go out of it."""

    def __init__(self):
        self.names, self.lefts, self.losses, self.spoken = set(), [], [], []

    def came(self, kind, name):
        assert (kind, name) not in self.names
        self.names.add((kind, name))

    def went(self, kind, name):
        self.names.remove((kind, name))

    def left(self, connection, room, *, last):
        self.lefts.append((connection.id, room, last))

    def lost(self, connection):
        self.losses.append(connection.id)

    def speaks(self, subprotocol):
        self.spoken.append(subprotocol)


@pytest.fixture
def noted(registry):
    registry._observer = noted = Noted()
    return noted


@pytest.fixture
def registry(manager):
    return manager._registry


async def test_the_first_one_makes_a_name_known_and_the_last_one_ends_it(
    registry, noted, connect, wire
):
    """By room, user and tag; in between nothing changes."""
    ann, bob = connect(wire, "ann"), connect(wire, "bob")
    for each in (ann, bob):
        registry.join(each, "tea")
        registry.tag(each, "pro")
        each.user_id = "eve"
    during = set(noted.names)
    registry.leave(ann, "tea")
    registry.untag(ann, "pro")
    registry.untag(ann, "never worn")
    ann.user_id = None
    still = set(noted.names)
    registry.forget(bob)

    assert during == still == {("room", "tea"), ("tag", "pro"), ("user", "eve")}
    assert noted.names == set()
    assert noted.lefts == [("ann", "tea", False), ("bob", "tea", True)]


@pytest.mark.parametrize("gone", ["forgotten", "closing", "closed"])
async def test_one_that_has_gone_joins_nothing(registry, noted, connect, wire, gone):
    """Quietly: whoever is late for that cannot know."""
    ann = connect(wire)
    if gone == "forgotten":
        registry.forget(ann)
        registry.forget(ann)
    else:
        wire.stalled = gone == "closing"
        ann._outbox.close(4000)

    registry.join(ann, "tea")
    registry.leave(ann, "tea")

    assert (ann.rooms, noted.names, noted.lefts) == (frozenset(), set(), [])


async def test_one_that_was_forgotten_gets_neither_tag_nor_user(registry, noted, connect, wire):
    """It may have them, as its own; nobody is reached by them."""
    ann = connect(wire)
    registry.forget(ann)

    registry.tag(ann, "pro")
    ann.user_id = "ann"

    assert (ann.tags, noted.names, registry.of_user("ann")) == (frozenset(), set(), set())
    assert (len(registry), len(registry.users), len(registry.rooms)) == (0, 0, 0)


async def test_one_of_the_same_id_is_refused_and_harms_nobody(registry, connect, manager, wire):
    """And its end is not the other's."""
    ann = connect(wire)
    registry.join(ann, "tea")
    other = Connection("ann", wire.send, manager)
    with pytest.raises(DuplicateConnectionError):
        registry.add(other)
    registry.forget(other)

    assert registry.with_id("ann") == {ann}
    assert registry.in_room("tea") == {ann}


async def test_the_same_id_may_come_back(registry, connect, wire):
    """And the old connection's clean-up does not take the new one away."""
    old = connect(wire)
    registry.forget(old)
    new = connect(wire)

    registry.forget(old)

    assert registry.with_id("ann") == {new}


async def test_a_connection_and_the_index_agree_about_its_rooms(registry, connect, wire):
    """A room is one of the connection's if and only if the connection is in that room."""
    ann = connect(wire)
    for each in ("a", "b", "c"):
        registry.join(ann, each)
    registry.leave(ann, "b")
    before = {each for each in "abc" if ann in registry.in_room(each)}

    registry.forget(ann)

    assert before == {"a", "c"}
    assert ann.rooms == frozenset()
    assert registry.rooms.names() == []


async def test_rooms_and_tags_have_names_and_limits(registry, noted, connect, wire):
    """What is refused leaves nothing behind; one that it has already is not one more."""
    ann = connect(wire, rooms=1, tags=0)
    registry.join(ann, "tea")
    registry.join(ann, "tea")
    with pytest.raises(RoomLimitError):
        registry.join(ann, "coffee")
    with pytest.raises(InvalidNameError):
        registry.join(ann, "")
    with pytest.raises(TypeError):
        registry.join(ann, 5)
    with pytest.raises(MessageError) as refused:
        registry.tag(ann, "pro")

    assert refused.value.code == "tag_limit"
    assert noted.names == {("room", "tea")}


async def test_no_limit_is_no_limit(registry, connect, wire):
    """None switches it off."""
    ann = connect(wire, rooms=None, tags=None)

    for number in range(300):
        registry.join(ann, str(number))
        registry.tag(ann, str(number))

    assert (len(ann.rooms), len(ann.tags)) == (300, 300)


@pytest.mark.parametrize(
    ("user_id", "error"), [(5, TypeError), ("\ud800", InvalidNameError), ("", InvalidNameError)]
)
async def test_a_user_has_a_name_that_travels(registry, connect, wire, user_id, error):
    """A number would be another user on another process; who it was before, it stays."""
    ann = connect(wire)
    ann.user_id = "ann"
    with pytest.raises(error):
        ann.user_id = user_id

    assert ann.user_id == "ann"
    assert registry.of_user("ann") == {ann}


async def test_addresses_are_counted_where_they_are_known(registry, manager, wire):
    """And forgotten with the last connection from there."""
    ann = Connection("ann", wire.send, manager)
    ann._address = "192.0.2.7"
    registry.add(ann)
    there = set(registry.at_address("192.0.2.7"))
    registry.forget(ann)

    assert there == {ann}
    assert not registry.at_address("192.0.2.7")


async def test_codecs_are_counted_and_told_of(registry, noted, connect, wire):
    """Those besides JSON: other processes are to send in them, too."""
    connect(wire, "ann")
    before = list(noted.spoken)
    bob = connect(wire, "bob", is_open=False, subprotocols=["pachinko.msgpack"])
    bob._speak("pachinko.msgpack", MSGPACK)
    during = {each.name: count for each, count in registry.codecs.items()}
    registry.forget(bob)
    registry.recode(bob, bob._codec)

    assert (before, noted.spoken) == ([], ["pachinko.msgpack"])
    assert during == {"JSON": 1, "MessagePack": 1}
    assert [each.name for each in registry.codecs] == ["JSON"]


# Whom a target names.


@pytest.fixture
def people(registry, connect, wire):
    """Four of them: two in the lobby, one of these a pro, and a pro elsewhere."""
    named = {each: connect(wire, each) for each in ("ann", "bob", "eve", "kim")}
    for each, rooms, tags in (
        ("ann", ["lobby", "lobby:2"], ["pro"]),
        ("bob", ["lobby"], []),
        ("kim", ["garden"], ["pro"]),
    ):
        for room in rooms:
            registry.join(named[each], room)
        for tag in tags:
            registry.tag(named[each], tag)
    return named


def ids(connections):
    return sorted(each.id for each in connections)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (to.room("lobby"), ["ann", "bob"]),
        (to.room("nowhere"), []),
        (to.rooms("lobby"), ["ann", "bob"]),
        (to.rooms("lobby:"), ["ann"]),
        (to.rooms(""), ["ann", "bob", "kim"]),
        (to.rooms("l*"), []),
        (to.tag("pro"), ["ann", "kim"]),
        (to.connection("eve"), ["eve"]),
        (to.connection("gone"), []),
        (to.everyone, ["ann", "bob", "eve", "kim"]),
        (to.everyone - to.rooms(""), ["eve"]),
        (to.room("lobby") & to.tag("pro"), ["ann"]),
    ],
)
async def test_a_target_selects_each_once(registry, people, target, named):
    """As a list of its own, which may be kept while members come and go."""
    chosen = registry.select(target)
    for each in people.values():
        registry.forget(each)

    assert ids(chosen) == named


@pytest.mark.parametrize(
    "exclude",
    [
        lambda _: ["ann", "gone"],
        lambda people: [people["ann"]],
        lambda people: {people["ann"], "nobody"},
        lambda _: (each for each in ("ann",)),
        lambda _: "ann",
        lambda people: people["ann"],
        lambda _: {"ann": 1}.keys(),
    ],
)
async def test_a_selection_leaves_out_ids_and_connections(registry, people, exclude):
    """In any iterable, or a single one; an id that is not here is of another process."""
    assert ids(registry.select(to.room("lobby"), exclude(people))) == ["bob"]
    assert ids(registry.select(to.everyone, exclude(people))) == ["bob", "eve", "kim"]


@pytest.mark.parametrize("exclude", [[5], [None], [b"ann"], b"ann", [["ann"]], ["ann", object()]])
async def test_what_is_neither_an_id_nor_a_connection_is_a_mistake(registry, people, exclude):
    """Else somebody would get what was not meant for him."""
    with pytest.raises(TypeError, match=r"exclude has .*; give ids or connections"):
        registry.select(to.everyone, exclude)


async def test_an_excluded_connection_of_the_same_id_is_told_apart(registry, people, wire, manager):
    """One that has gone excludes nobody else who has its id now."""
    old = Connection("ann", wire.send, manager)

    assert ids(registry.select(to.room("lobby"), [old])) == ["ann", "bob"]
    assert ids(registry.select(to.room("lobby"), ["ann"])) == ["bob"]


class Counted(str):  # noqa: SLOT000  # it counts on the class
    """An id that counts how often it was looked at."""

    looks = 0

    def __hash__(self):
        Counted.looks += 1
        return super().__hash__()

    def __eq__(self, other):
        Counted.looks += 1
        return super().__eq__(other)


@pytest.mark.parametrize("members", [1, 500])
async def test_a_long_exclusion_costs_its_own_length(registry, connect, wire, members):
    """Each id is looked up once, however many members there are."""
    for number in range(members):
        registry.join(connect(wire, str(number)), "lobby")
    exclude = [Counted(number) for number in range(5_000)]
    Counted.looks = 0

    chosen = registry.select(to.room("lobby"), exclude)

    assert chosen == []
    assert Counted.looks <= 3 * len(exclude)


# Whatever happens.

steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "tag", "untag", "user", "forget", "add"]),
        st.integers(0, 2),
        st.sampled_from("xyz"),
    ),
    max_size=40,
)


@given(steps)
def test_what_is_known_is_what_there_is(steps):
    """Whatever happens, the names are those of the members, and nothing stays behind."""
    manager = WebSocketConnectionManager()
    registry = manager._registry
    registry._observer = noted = Noted()
    people = [Connection(str(n), None, manager, limits=Limits(rooms=9)) for n in range(3)]
    for act, who, name in steps:
        one = people[who]
        if act == "add" and not registry.with_id(one.id):
            registry.add(one)
        elif act == "user":
            one.user_id = name
        elif act == "forget":
            registry.forget(one)
        elif act != "add":
            getattr(registry, act)(one, name)

    here = [each for each in people if registry.with_id(each.id)]
    expected = {("room", name) for each in here for name in each.rooms}
    expected |= {("tag", name) for each in here for name in each.tags}
    expected |= {("user", each.user_id) for each in here if each.user_id}
    assert noted.names == expected
    assert len(registry) == len(here)
    assert all(
        (each in registry.in_room(name)) == (name in each.rooms)
        for each in people
        for name in "xyz"
    )
