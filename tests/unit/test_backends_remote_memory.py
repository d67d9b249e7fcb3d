"""The hub in memory at a distance: what the conformance suite does not ask."""

import asyncio

import pytest

from falcon_pachinko.backends import MemoryHub
from falcon_pachinko.backends.base import Lost, Received, StateChanged
from falcon_pachinko.backends.remote_memory import RemoteMemoryBackend
from falcon_pachinko.backends.settings import Settings
from falcon_pachinko.errors import BackendError
from falcon_pachinko.testing import VirtualClock


@pytest.fixture
async def clock():
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
async def hub(clock):
    return MemoryHub(clock.time)


@pytest.fixture
async def pair(hub):
    """Two processes."""
    made = [RemoteMemoryBackend(hub, Settings()) for _ in range(2)]
    for number, each in enumerate(made):
        await each.start(f"n{number}")
    yield made
    for each in made:
        await each.stop()


@pytest.fixture
async def taken(pair):
    """What the second one is told, as it comes."""
    events = []

    async def take():
        async for event in pair[1].events():
            events.append(event)  # noqa: PERF401  # it never ends

    task = asyncio.create_task(take())
    yield events
    task.cancel()


async def test_it_notices_silence_by_its_probe(pair, clock):
    """Within ``probe`` and ``timeout``, and a call within ``timeout``."""
    pair[1].sever()
    with pytest.raises(BackendError, match="no answer within 3 s"):
        await pair[1].beat(10)
    assert clock.time() == 1003
    await clock.advance(2)

    assert [each.state for each in pair] == ["up", "degraded"]
    with pytest.raises(BackendError, match="not connected"):
        await pair[1].beat(10)


async def test_a_reset_is_noticed_at_once(pair, clock):
    """By the calls that are under way, too, which may have been done."""
    pair[1].delay = 1.0
    asking = asyncio.create_task(pair[1].enter("t", {"k": b"v"}))
    await clock.advance(0.5)
    pair[1].restore()
    with pytest.raises(BackendError, match="reset"):
        await asking

    assert clock.time() == 1000.5
    assert pair[1].state == "degraded"
    assert await pair[0].entries("t") == {}  # it has given no sign of life
    assert pair[0].hub.tables == {"t": {"n1": {"k": b"v"}}}


async def test_what_was_on_its_way_is_lost_with_the_connection(pair, taken, clock):
    """Which is told; what comes after that arrives."""
    await pair[1].subscribe(["x"])
    for each in pair:
        each.delay = 0.5
    await pair[0].publish([("x", b"1")])
    pair[1].delay = 2.0
    await pair[0].publish([("x", b"2")])
    pair[1].restore()
    for each in pair:
        each.delay = 0.0
    await clock.advance(5)
    await pair[0].publish([("x", b"3")])
    await clock.advance(0)

    assert [each.data for each in taken if isinstance(each, Received)] == [b"1", b"3"]
    assert [type(each) for each in taken if not isinstance(each, Received)] == [
        StateChanged,
        StateChanged,
        Lost,
        StateChanged,
    ]


async def test_a_connection_takes_the_delay_too(hub, clock):
    """And one that is cut off meanwhile waits until it is not."""
    backend = RemoteMemoryBackend(hub, Settings())
    backend.delay = 1.0
    starting = asyncio.create_task(backend.start("a"))
    await clock.advance(0.5)
    backend.sever()
    await clock.advance(1)
    assert (backend.state, hub.nodes) == ("down", {})
    backend.restore()
    await starting

    assert backend.state == "up"
    assert clock.time() == 1001.5
    await backend.stop()


async def test_it_may_start_cut_off(hub, clock):
    """And is there when it is not any more."""
    backend = RemoteMemoryBackend(hub, Settings())
    backend.sever()
    await backend.start("a")
    assert backend.severed
    assert (backend.state, clock.time()) == ("degraded", 1003)
    backend.restore()
    await clock.advance(3)

    assert backend.state == "up"
    await backend.stop()
    assert hub.nodes == {}


async def test_subscriptions_that_cannot_be_told_cost_the_connection(pair, clock):
    """Since nobody knows whether they are live."""
    pair[1].sever()
    await pair[1].subscribe(["x"])

    assert clock.time() == 1003
    await clock.advance(0)
    assert pair[1].state == "degraded"


async def test_a_process_that_vanished_leaves_what_it_had(pair, clock):
    """Until its lease ends; nothing is sent to it any more."""
    for each in pair:
        await each.beat(10)
        await each.enter("t", {"k": b"v"})
    pair[1].vanish()

    assert set(await pair[0].entries("t")) == {"n0", "n1"}
    assert set(pair[0].hub.nodes) == {"n0"}
    await clock.advance(10)
    assert set(await pair[0].entries("t")) == {"n0"}


async def test_a_restart_cuts_it(pair, hub, taken, clock):
    """Unless nothing passes anyway."""
    pair[0].sever()
    hub.restart()
    await clock.advance(0)

    assert [each.state for each in pair] == ["up", "degraded"]
    await clock.advance(3)
    assert pair[1].state == "up"
