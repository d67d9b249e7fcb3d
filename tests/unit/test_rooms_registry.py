"""Who is connected to this process, and what that makes it listen to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import Connection, Limits, WebSocketConnectionManager
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.errors import DuplicateConnectionError, InvalidNameError, RoomLimitError


@pytest.fixture
def manager():
    """One of several processes, not started: what it wants is known already."""
    return WebSocketConnectionManager(backend=MemoryBackend(MemoryHub()))


def wanted(manager):
    return set(manager.cluster.subscriptions._states)


async def test_the_first_one_is_listened_for_and_the_last_one_ends_it(manager, connect, wire):
    """By room, user and tag; in between nothing changes."""
    ann, bob = connect(wire, "ann"), connect(wire, "bob")
    for each in (ann, bob):
        manager.join(each, "tea")
        manager.tag(each, "pro")
        each.user_id = "eve"
    during = set(wanted(manager))
    manager.leave(ann, "tea")
    manager.untag(ann, "pro")
    manager.untag(ann, "never worn")
    ann.user_id = None
    still = set(wanted(manager))
    manager.forget(bob)

    assert during == still == {"room:tea", "tag:pro", "user:eve"}
    assert wanted(manager) == set()


async def test_one_that_has_gone_joins_and_wears_nothing(manager, connect, wire):
    """Quietly: whoever is late for that cannot know."""
    ann = connect(wire)
    manager.forget(ann)
    manager.forget(ann)
    manager.join(ann, "tea")
    manager.tag(ann, "pro")
    ann.user_id = "ann"
    manager.leave(ann, "tea")

    assert wanted(manager) == set()
    assert (len(manager), len(manager._users), len(manager._rooms)) == (0, 0, 0)


async def test_one_of_the_same_id_is_refused_and_harms_nobody(manager, connect, wire):
    """And its end is not the other's."""
    ann = connect(wire)
    manager.join(ann, "tea")
    other = Connection("ann", wire.send, manager)
    with pytest.raises(DuplicateConnectionError):
        manager.add(other)
    manager.forget(other)

    assert manager.with_id("ann") == {ann}
    assert manager.in_room("tea") == {ann}


async def test_a_room_has_a_name_and_a_limit(manager, connect, wire):
    """What is refused leaves nothing behind."""
    ann = connect(wire, rooms=1)
    manager.join(ann, "tea")
    manager.join(ann, "tea")
    with pytest.raises(RoomLimitError):
        manager.join(ann, "coffee")
    with pytest.raises(InvalidNameError):
        manager.tag(ann, "")

    assert wanted(manager) == {"room:tea"}


@pytest.mark.parametrize(("user_id", "error"), [(5, TypeError), ("\ud800", ValueError)])
async def test_a_user_has_a_name_that_travels(manager, connect, wire, user_id, error):
    """A number would be another user on another process; who it was before, it stays."""
    ann = connect(wire)
    ann.user_id = "ann"
    with pytest.raises(error):
        ann.user_id = user_id

    assert ann.user_id == "ann"
    assert manager.of_user("ann") == {ann}


async def test_addresses_are_counted_where_they_are_known(manager, wire):
    """And forgotten with the last connection from there."""
    ann = Connection("ann", wire.send, manager)
    ann.address = "192.0.2.7"
    manager.add(ann)
    there = set(manager.at_address("192.0.2.7"))
    manager.forget(ann)

    assert there == {ann}
    assert not manager.at_address("192.0.2.7")


async def test_codecs_are_told_to_the_others(manager, connect, wire):
    """As soon as the first client speaks one."""
    connect(wire, "ann")
    assert manager.cluster.own_subprotocols == set()
    bob = connect(wire, "bob", subprotocols=["pachinko.msgpack"])
    manager.forget(bob)
    manager.recode(bob, bob.codec)

    assert manager.cluster.own_subprotocols == {"pachinko.msgpack"}
    assert len(manager._codecs) == 1


steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "tag", "untag", "user", "forget", "add"]),
        st.integers(0, 2),
        st.sampled_from("xyz"),
    ),
    max_size=40,
)


@given(steps)
def test_what_is_listened_to_is_what_there_is(steps):
    """Whatever happens, the channels are those of the members, and nothing stays behind."""
    manager = WebSocketConnectionManager(backend=MemoryBackend(MemoryHub()))
    people = [Connection(str(n), None, manager, limits=Limits(rooms=9)) for n in range(3)]
    for act, who, name in steps:
        one = people[who]
        if act == "add" and not manager.with_id(one.id):
            manager.add(one)
        elif act == "user":
            one.user_id = name
        elif act == "forget":
            manager.forget(one)
        elif act != "add":
            getattr(manager, act)(one, name)

    here = [each for each in people if manager.with_id(each.id)]
    expected = {f"room:{name}" for each in here for name in each.rooms}
    expected |= {f"tag:{name}" for each in here for name in each.tags}
    expected |= {f"user:{each.user_id}" for each in here if each.user_id}
    assert wanted(manager) == expected
    assert len(manager) == len(here)
