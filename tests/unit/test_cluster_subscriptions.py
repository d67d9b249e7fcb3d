"""Which channels a process listens to: states, futures, and a backend that fails."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from faulty_backend import DEADLINE, FaultyBackend, until
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from falcon_pachinko import BackendError
from falcon_pachinko.backends import MemoryHub
from falcon_pachinko.cluster import subscriptions as module
from falcon_pachinko.cluster.subscriptions import CALLS_AT_ONCE, State, Subscriptions

AWAY = BackendError("memory", "away")


@pytest.fixture
async def started(monkeypatch):
    """Subscriptions of a backend that is up, and that backend."""
    monkeypatch.setattr(module, "RETRY_AFTER", 0.001)
    backend = FaultyBackend(MemoryHub())
    await backend.start("0" * 12)
    subscriptions = Subscriptions(backend)
    subscriptions.start()
    yield subscriptions, backend
    backend.mend()
    await subscriptions.stop()
    await backend.stop()


class SlowFor(FaultyBackend):
    """A backend whose server never answers about some channels."""

    slow = "slow"

    async def subscribe(self, channels):
        if any(self.slow in each for each in channels):
            await asyncio.Event().wait()
        await super().subscribe(channels)


@contextlib.asynccontextmanager
async def slow_for_some():
    backend = SlowFor(MemoryHub())
    await backend.start("0" * 12)
    subscriptions = Subscriptions(backend)
    subscriptions.start()
    try:
        yield subscriptions
    finally:
        await subscriptions.stop()
        await backend.stop()


# Waiting for a channel.


@pytest.mark.parametrize("before", [[], ["room:slow"], ["room:slow", "user:slow", "room:x"]])
async def test_a_channel_waits_for_no_other_one(before):
    """However long the backend takes for another, and though both were asked for at once."""
    async with slow_for_some() as subscriptions:
        for channel in [*before, "room:tea"]:
            subscriptions.add(channel)
        async with asyncio.timeout(DEADLINE):
            await subscriptions.live("room:tea")

        assert subscriptions.state("room:tea") is State.LIVE
        assert all(subscriptions.state(each) is State.ASKED for each in before if "slow" in each)


async def test_it_waits_until_the_channel_is_live(started):
    """Neither before the backend was told, nor while it is being told, is it over."""
    subscriptions, backend = started
    gate = backend.stall("subscribe")
    subscriptions.add("room:a")
    waiting = [asyncio.create_task(subscriptions.live("room:a")) for _ in range(2)]
    await until(lambda: subscriptions.state("room:a") is State.ASKED)
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    gate.set()
    await asyncio.gather(*waiting)

    assert backend._channels == {"room:a"}
    assert backend.calls.count("subscribe") == 1


async def test_one_that_gives_up_leaves_the_others_waiting(started):
    """Cancelling is about the one who waits, not about the channel."""
    subscriptions, backend = started
    gate = backend.stall("subscribe")
    subscriptions.add("room:a")
    first, second = (asyncio.create_task(subscriptions.live("room:a")) for _ in range(2))
    await until(lambda: subscriptions.state("room:a") is State.ASKED)
    first.cancel()
    await asyncio.wait((first,))
    gate.set()
    await second

    assert subscriptions.state("room:a") is State.LIVE


@pytest.mark.parametrize(
    "how", ["not needed", "already live", "the backend is away", "not started"]
)
async def test_there_is_nothing_to_wait_for(started, how):
    """It is live already, or nobody could tell when it will be."""
    subscriptions, backend = started
    if how == "not started":
        await subscriptions.stop()
    elif how == "the backend is away":
        backend.state = "degraded"
        backend.stall("subscribe")
    if how != "not needed":
        subscriptions.add("room:a")
    if how == "already live":
        await subscriptions.live("room:a")
    step = subscriptions.live("room:a")

    with pytest.raises(StopIteration):
        step.send(None)


@pytest.mark.parametrize("how", ["leaves", "away", "stop"])
async def test_whoever_waits_is_let_go(started, how):
    """When nobody needs the channel any more, the backend goes away, or all of it ends."""
    subscriptions, backend = started
    backend.stall("subscribe")
    subscriptions.add("room:a")
    waiting = asyncio.create_task(subscriptions.live("room:a"))
    await until(lambda: subscriptions.state("room:a") is State.ASKED)
    await asyncio.sleep(0)
    if how == "leaves":
        subscriptions.remove("room:a")
    elif how == "away":
        subscriptions.backend_away()
    else:
        await subscriptions.stop()
    async with asyncio.timeout(DEADLINE):
        await waiting


async def test_a_backend_that_never_answers_is_waited_for_in_bounds(monkeypatch):
    """Then the join goes on; the channel is live when it is."""
    monkeypatch.setattr(module, "LIVE_TIMEOUT", 0.01)
    async with slow_for_some() as subscriptions:
        subscriptions.add("room:slow")
        async with asyncio.timeout(DEADLINE):
            await subscriptions.live("room:slow")

        assert subscriptions.state("room:slow") is State.ASKED


# Telling the backend.


async def test_many_channels_are_told_in_few_calls(started):
    """One call for each would take a round trip for each."""
    subscriptions, backend = started
    for number in range(1_000):
        subscriptions.add(f"room:{number}")
    await subscriptions.all_live()

    assert len(backend._channels) == 1_000
    assert backend.calls.count("subscribe") <= CALLS_AT_ONCE


async def test_what_comes_and_goes_at_once_is_never_told(started):
    """Nor does anything stay of it."""
    subscriptions, backend = started
    for number in range(100):
        subscriptions.add(f"room:{number}")
        subscriptions.remove(f"room:{number}")
    await asyncio.sleep(0)

    assert len(subscriptions) == 0
    assert backend.calls == ["start"]


@pytest.mark.parametrize("state", ["up", "degraded"])
async def test_rooms_that_come_and_go_leave_nothing(started, state):
    """Also while the backend is away: there is nothing to tell it when it is back."""
    subscriptions, backend = started
    backend.state = state
    if state != "up":
        subscriptions.backend_away()
    for number in range(100):
        subscriptions.add(f"room:{number}")
        await asyncio.sleep(0)
        subscriptions.remove(f"room:{number}")
    await until(lambda: len(subscriptions) == 0)
    await asyncio.sleep(0)

    assert backend._channels == set()
    assert not subscriptions._untold
    assert not subscriptions._waiting


@pytest.mark.parametrize("call", ["subscribe", "unsubscribe"])
async def test_a_call_that_failed_is_tried_again(started, call, caplog):
    """A backend should never raise there; one that does is told again, and the log knows once."""
    subscriptions, backend = started
    subscriptions.add("room:old")
    await subscriptions.live("room:old")
    backend.failing = {call: AWAY}
    subscriptions.add("room:new")
    subscriptions.remove("room:old")
    await until(lambda: backend.calls.count(call) > 2)
    backend.failing = {}
    await until(lambda: backend._channels == {"room:new"})

    assert caplog.text.count("failed to subscribe; retrying") == 1


async def test_after_an_outage_the_backend_is_told_all_of_it_again(started):
    """It may have forgotten; what is needed no more is not told."""
    subscriptions, backend = started
    for channel in ("room:a", "room:b", "room:c"):
        subscriptions.add(channel)
    await subscriptions.all_live()
    subscriptions.backend_away()
    backend.state = "degraded"
    backend._channels.clear()
    subscriptions.remove("room:a")
    backend.state = "up"
    subscriptions.backend_back()
    await until(lambda: backend._channels == {"room:b", "room:c"})
    await until(lambda: subscriptions.state("room:b") is State.LIVE)
    told = len(backend.calls)
    subscriptions.backend_back()
    await asyncio.sleep(0)

    assert len(backend.calls) == told


async def test_what_was_asked_before_an_outage_is_asked_again(started):
    """An answer from before it says nothing of the connection that is there now."""
    subscriptions, backend = started
    gate = backend.stall("subscribe")
    subscriptions.add("room:a")
    await until(lambda: "subscribe" in backend.calls)
    subscriptions.backend_away()
    subscriptions.backend_back()
    gate.set()
    await until(lambda: subscriptions.state("room:a") is State.LIVE)

    assert backend.calls.count("subscribe") == 2


async def done_but_unanswered(subscriptions, backend):
    """The backend subscribes, and the answer is lost."""
    subscriptions.add("room:a")
    await until(lambda: backend.calls.count("subscribe"))
    backend._channels.add("room:a")
    await until(lambda: subscriptions.state("room:a") is State.AGAIN)


async def unanswered_unsubscribe(subscriptions, backend):
    """It does not unsubscribe, raises, and the channel is needed again."""
    backend.failing = {"unsubscribe": AWAY}
    subscriptions.add("room:a")
    await subscriptions.live("room:a")
    subscriptions.remove("room:a")
    await until(lambda: backend.calls.count("unsubscribe"))
    subscriptions.add("room:a")
    await until(lambda: subscriptions.state("room:a") is State.AGAIN)


async def away_and_back(subscriptions, backend):
    """It was away, and has forgotten nothing."""
    subscriptions.add("room:a")
    await subscriptions.live("room:a")
    subscriptions.backend_away()
    subscriptions.backend_back()
    assert subscriptions.state("room:a") is State.AGAIN


@pytest.mark.parametrize("doubt", [done_but_unanswered, unanswered_unsubscribe, away_and_back])
async def test_a_channel_that_the_backend_may_have_is_taken_from_it(started, monkeypatch, doubt):
    """Needed no more before it was told again: unsubscribed from all the same."""
    subscriptions, backend = started
    if doubt is done_but_unanswered:
        backend.failing = {"subscribe": AWAY}
    if doubt is not away_and_back:
        monkeypatch.setattr(module, "RETRY_AFTER", 0.3)  # the next try comes after the removal
    await doubt(subscriptions, backend)
    backend.failing = {}
    subscriptions.remove("room:a")
    assert subscriptions.knows("room:a")
    await until(lambda: not subscriptions.knows("room:a"))

    assert backend._channels == set()


async def test_what_is_needed_outlives_a_stop(started):
    """The members are there still, if the process starts again."""
    subscriptions, backend = started
    for channel in ("room:a", "room:b"):
        subscriptions.add(channel)
    await subscriptions.all_live()
    subscriptions.remove("room:b")
    await subscriptions.stop()
    backend._channels.clear()
    subscriptions.start()
    await subscriptions.live("room:a")

    assert backend._channels == {"room:a"}
    assert "room:b" not in subscriptions


async def test_the_end_of_a_channel_is_told(started):
    """Once nothing arrives on it any more, so that what was heard can be forgotten."""
    _, backend = started
    ended = []
    subscriptions = Subscriptions(backend, ended.append)
    subscriptions.start()
    subscriptions.add("room:a")
    await subscriptions.live("room:a")
    subscriptions.remove("room:a")
    assert ended == []
    assert subscriptions.knows("room:a")
    await until(lambda: not subscriptions.knows("room:a"))

    assert ended == ["room:a"]
    await subscriptions.stop()


# Everything at once, against a set.

CHANNELS = st.sampled_from(["a", "b", "c"])


class Server(FaultyBackend):
    """A backend that answers, fails and forgets when it is told to, and watches what it is told."""

    def __init__(self):
        super().__init__(MemoryHub())
        self.open = []
        self.talking = {}

    async def _answer(self, channels, act):
        for each in channels:
            assert each not in self.talking, "two calls about one channel at once"
        self.talking.update(dict.fromkeys(channels, act))
        answer = asyncio.get_running_loop().create_future()
        self.open.append(answer)
        try:
            if await answer == "lost":
                raise AWAY
        finally:
            for each in channels:
                del self.talking[each]

    async def subscribe(self, channels):
        for each in channels:
            assert each not in self._channels or self.unsure, "subscribed to twice"
        await self._answer(channels, "subscribe")
        self._channels.update(channels)

    async def unsubscribe(self, channels):
        await self._answer(channels, "unsubscribe")
        self._channels.difference_update(channels)

    unsure = False
    """Whether a call has failed, or the connection was cut: then it may be told twice."""


class SubscriptionsMachine(RuleBasedStateMachine):
    """The model is a set: the channels that somebody needs."""

    @initialize()
    def begin(self):
        self.runner = asyncio.Runner()
        self.needed = set()
        self.ended = []
        self.waiting = {}

        async def start():
            self.server = Server()
            await self.server.start("0" * 12)
            self.subscriptions = Subscriptions(self.server, self.ended.append)
            self.subscriptions.start()

        self.run(start())

    def run(self, work):
        return self.runner.run(work)

    async def turns(self):
        for _ in range(4):
            await asyncio.sleep(0)

    @rule(channel=CHANNELS)
    def add(self, channel):
        async def act():
            self.subscriptions.add(channel)

        self.needed.add(channel)
        self.run(act())

    @rule(channel=CHANNELS)
    def remove(self, channel):
        async def act():
            self.subscriptions.remove(channel)

        self.needed.discard(channel)
        self.run(act())

    @rule(channel=CHANNELS)
    def wait_for(self, channel):
        async def act():
            task = asyncio.create_task(self.subscriptions.live(channel))
            await asyncio.sleep(0)
            return task

        if channel not in self.waiting:
            self.waiting[channel] = self.run(act())

    @rule()
    def turn(self):
        self.run(self.turns())

    @rule(which=st.integers(0, 20), fails=st.booleans())
    def answer(self, which, fails):
        async def act():
            if self.server.open:
                answer = self.server.open.pop(which % len(self.server.open))
                if not answer.done():
                    answer.set_result("lost" if fails else "done")
            await self.turns()

        self.server.unsure |= fails
        self.run(act())

    @rule()
    def outage(self):
        async def act():
            self.server.state = "degraded"
            self.subscriptions.backend_away()
            await self.turns()
            self.server._channels.clear()
            self.server.unsure = True
            self.server.state = "up"
            self.subscriptions.backend_back()
            await self.turns()

        self.run(act())

    @invariant()
    def states_say_what_is_needed(self):
        if not hasattr(self, "subscriptions"):
            return
        assert {each for each in "abc" if each in self.subscriptions} == self.needed
        # Whoever waits does so for a channel that is needed and not live.
        for channel, task in tuple(self.waiting.items()):
            if task.done():
                del self.waiting[channel]

    def teardown(self):
        if not hasattr(self, "subscriptions"):
            return

        async def finish():
            for _ in range(200):
                for answer in self.server.open:
                    if not answer.done():
                        answer.set_result("done")
                self.server.open.clear()
                await asyncio.sleep(0.0005)
            settled = set(self.server._channels)
            states = {each: self.subscriptions.state(each) for each in "abc"}
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for channel in self.needed:
                self.subscriptions.remove(channel)
            for _ in range(50):
                for answer in self.server.open:
                    if not answer.done():
                        answer.set_result("done")
                self.server.open.clear()
                await asyncio.sleep(0)
            ended = len(self.subscriptions), set(self.server._channels)
            await self.subscriptions.stop()
            return settled, states, left, ended

        try:
            settled, states, left, ended = self.run(finish())

            # The backend has exactly what is needed, nobody waits, and nothing is left of it.
            assert settled == self.needed
            assert states == {each: State.LIVE if each in self.needed else None for each in "abc"}
            assert not left
            assert ended == (0, set())
            assert not self.subscriptions._waiting
        finally:
            self.runner.close()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch):
    monkeypatch.setattr(module, "RETRY_AFTER", 0.0005)


SubscriptionsMachine.TestCase.settings = settings(stateful_step_count=30, deadline=None)
TestSubscriptionsMachine = SubscriptionsMachine.TestCase
