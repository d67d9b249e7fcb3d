"""The backend within one process: what the conformance suite does not ask."""

from __future__ import annotations

import asyncio
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
def until():
    """Wait until something is true, which takes real time."""

    async def wait(condition):
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110  # anything may make it true
                await asyncio.sleep(0.005)

    return wait


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

    assert len(hub.histories) == 100
    assert len(hub._due) == 100


async def test_histories_that_go_on_are_kept(backend, hub, clock):
    """A sweep takes nothing that somebody may come back to."""
    limits = HistoryLimits(seconds=10)
    place = await backend.append("mine", b"1", limits)
    for number in range(500):
        await backend.read(str(number), HistoryPosition(), limits)
    clock.now = 9.0
    hub.sweep()

    assert (await backend.read("mine", HistoryPosition(place.epoch, 0), limits)).complete


async def test_old_messages_go_though_their_room_is_idle(backend, hub, clock):
    """One after the other, and nobody has to ask for them."""
    limits = HistoryLimits(seconds=10)
    for now in (0.0, 4.0, 8.0):
        clock.now = now
        await backend.append("idle", b"x" * 100, limits)
    clock.now = 12.0
    hub.sweep()
    young = hub.histories["idle"].size
    clock.now = 17.9
    hub.sweep()

    assert (young, hub.histories["idle"].size) == (200, 100)
    clock.now = 18.2
    hub.sweep()
    assert not hub.histories


async def test_a_quiet_process_forgets_in_time(until):
    """Nothing happens there any more: it is the time itself that ends a history."""
    hub = MemoryHub()
    backend = MemoryBackend(hub)
    for number in range(50):
        await backend.append(f"room:{number}", b"x", HistoryLimits(seconds=0.05))
        await backend.read(f"empty:{number}", HistoryPosition(), HistoryLimits(seconds=0.05))
    await until(lambda: not hub.histories)

    assert not hub._due
    assert hub._timer is None


async def test_a_loop_that_does_not_tell_when_forgets_as_well(hasty_loop, until):
    """Whatever is due, and however often it is planned anew within one turn of the loop."""
    hub = MemoryHub()
    backend = MemoryBackend(hub)
    for number, seconds in enumerate((0.0001, 0.0001, 0.05, 0.0001)):
        await backend.append(f"room:{number}", b"x", HistoryLimits(seconds=seconds))

    await until(lambda: not hub.histories)


async def test_a_shorter_time_counts_from_then_on(backend, hub, clock):
    """Whoever configures a room anew is obeyed, also where an older timer is set."""
    await backend.append("room", b"x", HistoryLimits(seconds=1000))
    await backend.read("room", HistoryPosition(), HistoryLimits(seconds=5))
    clock.now = 5.0
    hub.sweep()

    assert not hub.histories


async def test_a_history_that_is_begun_anew_is_looked_at_once(backend, hub):
    """However often it was forgotten, it has one place in the plan that counts."""
    limits = HistoryLimits(seconds=10)
    for _ in range(20):
        await backend.append("room", b"x", limits)
        await backend.forget("room")
    await backend.append("room", b"x", limits)
    hub.clock.now = 10.0
    hub.sweep()

    assert not hub.histories
    assert not hub._due


def test_a_hub_serves_one_loop_after_the_other(until):
    """The timer of a loop that has ended is not waited for."""
    hub = MemoryHub()

    async def live(number):
        await MemoryBackend(hub).append(f"r{number}", b"x", HistoryLimits(seconds=60))
        await MemoryBackend(hub).append(f"s{number}", b"x", HistoryLimits(seconds=0.01))
        await until(lambda: f"s{number}" not in hub.histories)

    asyncio.run(live(1))
    asyncio.run(live(2))

    assert set(hub.histories) == {"r1", "r2"}


async def test_tables_end_with_their_last_node(hub):
    """Whether it leaves, stops or dies: a hub that lives long has no empty ones."""
    for number in range(5):
        backend = MemoryBackend(hub)
        await backend.start(f"n{number}")
        await backend.enter("nothing", {})
        await backend.enter(f"room{number}", {"k": b"v"})
        await backend.enter("lobby", {"k": b"v"})
        await backend.stop()

    assert hub.tables == {}


async def test_tables_of_the_dead_are_dropped(backend, hub, clock):
    """By whoever gives the next sign of life; and the dead one hears of it, if it returns."""
    dead = MemoryBackend(hub)
    await dead.start("b")
    await dead.beat(5)
    await dead.enter("room", {"k": b"v"})
    clock.now = 6.0
    await backend.beat(5)
    gone = dict(hub.tables)
    await dead.beat(5)
    events = dead.events()
    told = [await anext(events), await anext(events)]
    await dead.stop()

    assert gone == {}
    assert isinstance(told[1], Lost)


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


# Restarts.

LIMITS = HistoryLimits(count=5, seconds=100)


@pytest.fixture
async def old(clock):
    """A hub that can go back in time, and a backend of it."""
    hub = MemoryHub(clock, rewindable=True)
    made = MemoryBackend(hub)
    await made.start("a")
    yield hub, made
    await made.stop()


def contents(hub):
    """Say what a hub knows, its incarnation aside."""
    histories = {
        name: (each.epoch, each.offset, each.forgotten, each.size, tuple(each.entries))
        for name, each in hub.histories.items()
    }
    return copy.deepcopy((hub.beats, hub.tables, hub.leases, histories))


CHANGES = st.one_of(
    st.tuples(st.just("append"), st.sampled_from("xy")),
    st.tuples(st.just("forget"), st.sampled_from("xy")),
    st.tuples(st.just("enter"), st.sampled_from("xy"), st.sampled_from("jk")),
    st.tuples(st.just("leave"), st.sampled_from("xy"), st.sampled_from("jk")),
    st.tuples(st.just("acquire"), st.sampled_from("xy")),
    st.tuples(st.just("renew"), st.sampled_from("xy")),
    st.tuples(st.just("release"), st.sampled_from("xy")),
    st.tuples(st.just("beat")),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("wipe")),
)


async def change(hub, backend, tokens, what, name="", key=""):
    match what:
        case "append":
            await backend.append(name, b"x" * (hub.tokens + 1), LIMITS)
        case "enter":
            await backend.enter(name, {key: b"%d" % len(tokens)})
        case "leave":
            await backend.leave(name, [key])
        case "acquire":
            tokens[name] = await backend.acquire(name, 3) or tokens.get(name, 0)
        case "renew":
            await backend.renew(name, tokens.get(name, 0), 3)
        case "release":
            await backend.release(name, tokens.get(name, 0))
        case "beat":
            await backend.beat(3)
        case "sweep":
            hub.sweep()
        case "wipe":
            hub.restart(lose=True)
        case _:
            await backend.forget(name)


@given(st.lists(st.tuples(st.integers(0, 40), CHANGES), max_size=40), st.integers(0, 200))
def test_a_hub_goes_back_to_what_it_was(steps, seconds):
    """Exactly, whatever has happened since; what happened at that very moment is kept."""

    async def live():
        clock = Clock()
        hub = MemoryHub(clock, rewindable=True)
        one, two = MemoryBackend(hub), MemoryBackend(hub)
        await one.start("a")
        await two.start("b")
        await two.beat(5)
        states, tokens = [(0.0, contents(hub))], {}
        for number, (pause, step) in enumerate(steps):
            clock.now += pause
            await change(hub, (one, two)[number % 2], tokens, *step)
            states.append((clock.now, contents(hub)))
        then = clock.now - seconds
        known = [state for when, state in states if when <= then]
        hub.restart(lose=float(seconds))
        return contents(hub), known[-1] if known else ({}, {}, {}, {})

    found, wanted = asyncio.run(live())
    assert found == wanted


async def test_a_restart_begins_other_epochs(old):
    """Though nothing is lost: offsets go on, and old positions are not valid."""
    hub, backend = old
    await backend.subscribe(["x"])
    place = await backend.append("x", b"1", LIMITS)
    hub.restart()
    past = await backend.read("x", place, LIMITS)
    after = await backend.append("x", b"2", LIMITS)
    again = await backend.read("x", past.position, LIMITS)

    assert ([each.data for each in past.entries], past.complete) == ([b"1"], False)
    assert after.offset == 2
    assert after.epoch != place.epoch
    assert ([each.data for each in again.entries], again.complete) == ([b"2"], True)
    events = backend.events()
    kinds = [type(await anext(events)) for _ in range(4)]
    assert kinds == [StateChanged, Received, Lost, Received]


@pytest.mark.parametrize("lose", [False, True, 1.0])
async def test_tokens_go_on_after_a_restart(old, lose):
    """Even if the last lease is forgotten."""
    hub, backend = old
    first = await backend.acquire("x", 0)
    hub.restart(lose=lose)

    assert await backend.acquire("x", 5) > first


async def test_what_was_rewound_ends_in_its_time(old, clock):
    """The plan of what is looked at is that of the time before, too."""
    hub, backend = old
    await backend.append("x", b"1", LIMITS)
    clock.now = 50.0
    await backend.append("x", b"2", LIMITS)
    hub.restart(lose=10.0)
    clock.now = 100.0
    hub.sweep()

    assert not hub.histories


@pytest.mark.parametrize("lose", [-1, float("nan"), float("inf")])
async def test_a_hub_goes_back_by_a_number_of_seconds(old, lose):
    """And says so."""
    with pytest.raises(ValueError, match="number of seconds"):
        old[0].restart(lose=lose)


async def test_only_a_hub_that_remembers_goes_back(hub):
    """Every other one can keep all, or nothing."""
    with pytest.raises(ValueError, match="rewindable=True"):
        hub.restart(lose=2.0)
    hub.restart(lose=True)
    hub.restart()

    assert hub.incarnation == 2
