"""What a process answers others about its connections and rooms: the parts that need no server."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import WebSocketConnectionManager, to
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.rooms import answers

names = st.lists(st.text(min_size=1, max_size=60), max_size=40)


@given(names, st.integers(1, 200))
def test_parts_have_all_names_in_order_and_a_bounded_size(given_names, size):
    """One name may go over it; a part more is begun before a second does."""
    before, answers.PART_BYTES = answers.PART_BYTES, size
    try:
        parts = list(answers._parts(given_names))
    finally:
        answers.PART_BYTES = before

    assert [name for part in parts for name in part] == given_names
    assert parts
    assert all(sum(len(each.encode()) for each in part[:-1]) < size for part in parts)
    assert all(parts[1:])


@pytest.fixture
async def three():
    """Three processes of one cluster."""
    hub = MemoryHub()
    managers = [WebSocketConnectionManager(backend=MemoryBackend(hub)) for _ in range(3)]
    for each in managers:
        await each.start()
    yield managers
    for each in managers:
        await each.stop()


@pytest.mark.parametrize(
    "target",
    [to.user("\ud800"), to.room("\udfff") | to.user("ann"), to.everyone - to.tag("a\ud800")],
)
async def test_a_name_that_nothing_can_have_is_no_error(three, target):
    """No process can be asked about it, and the answer says so."""
    manager = three[0]

    assert await manager.count(target, cluster=True) == (0, 1, 3)
    assert await manager.disconnect(target) == (0, 1, 3)
    assert await manager.get_rooms_by_prefix("\ud800", cluster=True) == ([], 1, 3)


async def test_many_questions_at_once_get_their_own_answers(three):
    """Of all kinds, from all processes."""
    answered = await asyncio.gather(
        *(each.count(cluster=True) for each in three * 20),
        *(each.get_rooms_by_prefix("", cluster=True) for each in three * 20),
        *(each.disconnect(to.everyone) for each in three * 20),
    )

    assert set(answered[:60]) | set(answered[120:]) == {(0, 3, 3)}
    assert answered[60:120] == [([], 3, 3)] * 60
