"""Disconnects that come while a handshake is underway."""

import pytest

from falcon_pachinko import to
from falcon_pachinko.rooms import revocations as module


@pytest.fixture
def revocations(manager):
    return manager._revocations


async def test_a_handshake_that_began_before_is_closed(revocations, connect, wire):
    """As soon as it is known to be the one that was meant."""
    ann = connect(wire, is_open=False)
    revocations.begin(ann)
    revocations.note(to.user("ann"), 4403, "banned")
    revocations.apply(ann)
    unknown = ann.closed
    ann.user_id = "ann"

    revocations.apply(ann)

    assert not unknown
    assert (ann.close_code, ann.close_reason) == (4403, "banned")


async def test_a_handshake_that_began_after_is_let_be(revocations, connect, wire):
    """She may have been let in again meanwhile."""
    other, ann = connect(wire, "other", is_open=False), connect(wire, is_open=False)
    revocations.begin(other)
    revocations.note(to.connection("ann"), 4403, "")

    revocations.begin(ann)
    revocations.apply(ann)

    assert not ann.closed


@pytest.mark.parametrize(
    "target", [to.user("bob"), to.room("lobby"), to.connection("bob"), to.everyone - to.user("ann")]
)
async def test_who_is_not_meant_is_let_be(revocations, connect, wire, target):
    """Whatever the target is."""
    ann = connect(wire, is_open=False)
    ann.user_id = "ann"
    revocations.begin(ann)
    revocations.note(target, 4403, "")

    revocations.apply(ann)

    assert not ann.closed


@pytest.mark.parametrize(
    "target", [to.user("ann"), to.tag("pro"), to.everyone, to.tag("pro") & to.user("ann")]
)
async def test_who_is_meant_may_be_named_in_any_way(revocations, connect, wire, target):
    """By all that is known of it by then."""
    ann = connect(wire, is_open=False)
    revocations.begin(ann)
    revocations.note(target, 4403, "")
    ann.user_id = "ann"
    await ann.add_tag("pro")

    revocations.apply(ann)

    assert ann.close_code == 4403


async def test_the_first_disconnect_counts(revocations, connect, wire):
    """As when a connection is closed twice."""
    ann = connect(wire, is_open=False)
    revocations.begin(ann)
    for code in (4001, 4002):
        revocations.note(to.everyone, code, "")

    revocations.apply(ann)

    assert ann.close_code == 4001


async def test_one_whose_handshake_is_over_is_not_looked_at(revocations, connect, wire):
    """A disconnect closes it directly; ending twice, or never having begun, is nothing."""
    ann, bob = connect(wire, is_open=False), connect(wire, "bob", is_open=False)
    for each in (ann, bob):
        revocations.begin(each)
    revocations.end(ann)
    revocations.end(ann)
    revocations.note(to.everyone, 4001, "")

    revocations.apply(ann)
    revocations.apply(bob)

    assert (ann.closed, bob.closed) == (False, True)


async def test_what_no_handshake_needs_is_forgotten(revocations, connect, wire):
    """A disconnect is remembered as long as a handshake that is older than it."""
    first, second = connect(wire, "1", is_open=False), connect(wire, "2", is_open=False)
    revocations.note(to.everyone, 4001, "")
    unneeded = len(revocations._noted)
    revocations.begin(first)
    revocations.note(to.user("a"), 4001, "")
    revocations.begin(second)
    revocations.note(to.user("b"), 4001, "")
    sizes = [len(revocations._noted)]
    for each in (first, second):
        revocations.end(each)
        sizes.append(len(revocations._noted))

    assert unneeded == 0
    assert sizes == [2, 1, 0]


async def test_no_more_than_so_many_are_remembered(revocations, connect, wire, monkeypatch):
    """A handshake that never ends does not fill the memory."""
    monkeypatch.setattr(module, "MOST", 10)
    ann = connect(wire, is_open=False)
    revocations.begin(ann)

    for number in range(100):
        revocations.note(to.user(str(number)), 4001, "")

    assert len(revocations._noted) == 10


async def test_a_disconnect_reaches_a_handshake_that_is_underway(
    manager, revocations, connect, wire
):
    """Though it names nobody who is known when it comes; the count is of those who were closed."""
    ann = connect(wire, is_open=False)
    revocations.begin(ann)

    closed = (await manager.disconnect(to.user("ann"), 4403)).total
    ann.user_id = "ann"
    revocations.apply(ann)

    assert closed == 0
    assert ann.close_code == 4403


async def test_a_handshake_begins_at_its_gate(revocations, connect, wire):
    """A disconnect during a middleware counts: the connection takes the gate's place."""
    gate = object()
    revocations.begin(gate)
    revocations.note(to.user("ann"), 4403, "")
    ann = connect(wire, is_open=False)
    revocations.hand_over(gate, ann)
    revocations.begin(ann)
    revocations.end(gate)
    ann.user_id = "ann"

    revocations.apply(ann)

    assert ann.close_code == 4403


async def test_a_gate_that_nobody_knows_hands_nothing_over(revocations, connect, wire):
    """As when its handshake was answered by then."""
    ann = connect(wire, is_open=False)

    revocations.hand_over(object(), ann)
    revocations.note(to.everyone, 4403, "")
    revocations.apply(ann)

    assert not ann.closed


@pytest.mark.parametrize(
    ("target", "deferred"),
    [
        (to.everyone, False),
        (to.user("ann") | to.tag("pro"), False),
        (to.everyone - to.user("bob"), True),
        (to.user("cat") | (to.everyone - to.user("bob")), True),
        ((to.everyone - to.tag("staff")) & to.room("lobby"), True),
    ],
)
async def test_who_may_turn_out_to_be_spared_is_not_closed_yet(
    revocations, connect, wire, target, deferred
):
    """Until the application has said who it is."""
    ann = connect(wire, is_open=False)
    before = revocations.defers(ann, target)
    revocations.begin(ann)
    meanwhile = revocations.defers(ann, target)
    revocations.identified(ann)

    assert (before, meanwhile, revocations.defers(ann, target)) == (False, deferred, False)


async def test_a_handshake_that_lacks_a_disconnect_is_told_to_come_back(
    revocations, connect, wire, monkeypatch
):
    """What was forgotten may have been about it; one that began later is let be."""
    monkeypatch.setattr(module, "MOST", 3)
    old, new = connect(wire, "old", is_open=False), connect(wire, "new", is_open=False)
    revocations.begin(old)
    revocations.note(to.user("ann"), 4001, "")
    revocations.begin(new)
    for number in range(3):
        revocations.note(to.user(str(number)), 4001, "")

    revocations.apply(old)
    revocations.apply(new)

    assert (old.close_code, new.closed) == (1013, False)
