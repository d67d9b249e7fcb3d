"""The backend within one process: what the conformance suite does not ask."""

from __future__ import annotations

import asyncio

import pytest

from falcon_pachinko import HistoryLimits, HistoryPosition
from falcon_pachinko.backends import Backend, MemoryBackend, MemoryHub, memory, open_backend
from falcon_pachinko.backends.base import Lost, Received, StateChanged
from falcon_pachinko.errors import SetupError


class Clock:
    """A clock that tests move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def hub(clock):
    return MemoryHub(clock)


@pytest.fixture
async def backend(hub):
    made = MemoryBackend(hub)
    await made.start("a")
    yield made
    await made.stop()


async def test_histories_that_ended_are_forgotten(backend, hub, clock):
    """However many rooms there have been, those of today count."""
    limits = HistoryLimits(seconds=10)
    for day in range(20):
        clock.now = day * 100.0
        for number in range(100):
            await backend.append(f"room:{day}:{number}", b"x", limits)

    assert len(hub.histories) <= 2 * memory.SWEEP


async def test_histories_that_go_on_are_kept(backend, clock):
    """A sweep takes nothing that somebody may come back to."""
    limits = HistoryLimits(seconds=10)
    place = await backend.append("mine", b"1", limits)
    for number in range(3 * memory.SWEEP):
        await backend.read(str(number), HistoryPosition(), limits)
    clock.now = 9.0

    assert (await backend.read("mine", HistoryPosition(place.epoch, 0), limits)).complete


async def test_what_no_reader_takes_is_lost_and_told(backend, monkeypatch):
    """A queue has an end, and its loss is an event."""
    monkeypatch.setattr(memory, "MOST_EVENTS", 3)
    await backend.subscribe(["x"])
    await backend.publish([("x", b"%d" % number) for number in range(6)])
    events = backend.events()

    taken = [await anext(events) for _ in range(3)]
    assert isinstance(taken[0], Lost)
    assert taken[-1] == Received("x", b"5")


async def test_a_lease_that_lapsed_is_told(backend, clock):
    """Who was silent for too long hears that its entries may be gone."""
    events = backend.events()
    assert isinstance(await anext(events), StateChanged)
    await backend.beat(5)
    clock.now = 6.0
    await backend.beat(5)

    assert isinstance(await anext(events), Lost)


async def test_entries_of_the_dead_are_not_shown(backend, hub, clock):
    """Only of those whose lease goes on, and of the one that asks."""
    other = MemoryBackend(hub)
    await other.start("b")
    for each in (backend, other):
        await each.beat(5)
        await each.enter("t", {"k": b"v"})
    clock.now = 6.0

    assert await backend.entries("t") == {"a": {"k": b"v"}}
    await other.stop()


async def test_leaving_what_one_is_not_in_is_no_error(backend, hub):
    """And leaves nothing behind."""
    await backend.leave("t", ["k"])
    await backend.enter("t", {"k": b"v"})
    await backend.leave("t", ["k", "other"])

    assert hub.tables == {}


def test_an_instance_serves_one_loop_after_the_other():
    """Such as one app in several tests: it can be started again, in another loop."""
    backend = MemoryBackend(MemoryHub())

    async def live():
        await backend.start("a")
        events = backend.events()
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await backend.subscribe(["x"])
        await asyncio.sleep(0)
        await backend.publish([("x", b"1")])
        received = await asyncio.wait_for(waiting, 30)
        await backend.stop()
        return received

    assert asyncio.run(live()) == asyncio.run(live()) == Received("x", b"1")


async def test_stopping_twice_changes_nothing(backend, hub):
    """Nor does stopping what another one has replaced."""
    other = MemoryBackend(hub)
    await other.start("a")
    await backend.stop()

    assert hub.nodes == {"a": other}
    await other.stop()
    await other.stop()
    assert hub.nodes == {}


def test_a_name_is_one_hub():
    """All apps of a process that name it share it; without a name, each is on its own."""
    one, same = open_backend("memory://tea"), open_backend("memory://tea")

    assert isinstance(one, MemoryBackend)
    assert one.hub is same.hub
    assert one.shared
    assert not open_backend(None).shared
    assert open_backend(one) is one


@pytest.mark.parametrize("given", ["", "tea", "http://user:secret@host", 5])
def test_what_names_no_backend_says_what_would(given):
    """Without the password that may be in it."""
    with pytest.raises(SetupError, match="redis://host:6379/0") as refused:
        open_backend(given)

    assert "secret" not in str(refused.value)


def test_a_backend_is_abstract():
    """Whoever writes one has to write all of it."""
    with pytest.raises(TypeError):
        Backend()


async def test_a_lease_is_kept_by_its_holder_alone(backend, clock):
    """As long as it has not ended."""
    token = await backend.acquire("bill", 5)
    kept = [await backend.renew("bill", token, 5), await backend.renew("bill", token + 1, 5)]
    clock.now = 6.0

    assert kept == [True, False]
    assert not await backend.renew("bill", token, 5)
    await backend.release("bill", token + 1)
