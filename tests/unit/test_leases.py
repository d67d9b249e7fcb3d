"""What a singleton worker holds, and how its end is felt."""

from __future__ import annotations

import asyncio
import contextvars
import time

import pytest

from falcon_pachinko import LeaseLostError, current_lease
from falcon_pachinko.leases import Lease, check_lease, hold


def under(lease, act, *args):
    """Do something as the worker that holds a lease."""
    context = contextvars.copy_context()
    context.run(hold, lease)
    return context.run(act, *args)


@pytest.fixture
def held():
    return Lease("bill", 7, time.monotonic() + 60)


@pytest.fixture
def over():
    return Lease("bill", 7, time.monotonic())


def test_outside_of_singleton_workers_there_is_none():
    """Then nothing is refused either."""
    check_lease()

    assert current_lease() is None


def test_within_one_it_is_at_hand(held):
    """With its number, which another system can refuse."""
    assert under(held, current_lease).token == 7
    assert held.held
    under(held, check_lease)
    held.check()


def test_when_it_has_ended_it_says_so(over):
    """By its clock on this machine, whatever the backend thinks."""
    assert not over.held
    with pytest.raises(LeaseLostError, match="worker bill has lost its lease"):
        over.check()
    with pytest.raises(LeaseLostError):
        under(over, check_lease)


async def test_tasks_of_the_worker_act_under_it_too(over):
    """What a worker starts is as fenced as the worker."""

    async def act():
        check_lease()

    with pytest.raises(LeaseLostError):
        await under(over, asyncio.ensure_future, act())


@pytest.mark.parametrize(
    ("who", "verb", "args"),
    [
        ("manager", "broadcast_to_all", ({"type": "x"},)),
        ("manager", "send_to_user", ("ann", {"type": "x"})),
        ("manager", "disconnect", ("ann",)),
        ("manager", "track", ("ann", "tea")),
        ("ann", "send_media", ({"type": "x"},)),
        ("ann", "send_text", ("x",)),
        ("ann", "send_data", (b"x",)),
        ("ann", "close", ()),
    ],
)
async def test_nothing_is_sent_after_its_end(who, verb, args, over, wire, connect, manager):
    """Through the manager or through a connection: it is refused, and nobody gets it."""
    ann = connect(wire)
    act = getattr({"manager": manager, "ann": ann}[who], verb)
    with pytest.raises(LeaseLostError):
        await under(over, asyncio.ensure_future, act(*args))

    assert wire.events == []
