"""Rooms that are read anew in the background, and what arrives for them meanwhile."""

import asyncio
import itertools

import pytest
from faulty_backend import FaultyBackend, started, until
from remembering import AWAY, HEAD, Node, running

from falcon_pachinko import HistoryLimits, HistoryPosition
from falcon_pachinko.backends import MemoryHub
from falcon_pachinko.backends.base import Lost, StateChanged
from falcon_pachinko.cluster import catching_up
from falcon_pachinko.cluster.catching_up import Arrived, CatchingUp, Held
from falcon_pachinko.cluster.parcels import Broadcast, encode

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = HistoryLimits()
numbers = itertools.count(1)


@pytest.fixture
async def nodes():
    async with running() as both:
        yield both


def arrived(number, text="x", epoch="1"):
    return Arrived("n", Broadcast(number, 0, "said", text), HistoryPosition(epoch, number))


async def keep(node, text):
    """Keep a message in the room, past all that its process knows of it."""
    parcel = Broadcast(next(numbers), 0, "said", f'{{"type":"said","text":"{text}"}}')
    return await node.backend.append("room:tea", encode(HEAD, parcel), LIMITS)


# What is held.


def test_what_is_held_comes_out_in_its_order():
    """What is put back comes before what has arrived since."""
    held = Held()
    for number in (1, 2, 3):
        held.add(arrived(number))
    first, *rest = held.take()
    held.add(arrived(4))
    held.put_back(rest)

    assert first == arrived(1)
    assert held.take() == [arrived(2), arrived(3), arrived(4)]
    assert held.take() == []


def test_too_much_is_read_again_instead(monkeypatch):
    """What would be more than there is room for is in what is kept."""
    monkeypatch.setattr(catching_up, "HELD_BYTES", 10)
    held = Held()
    held.add(arrived(1, "x" * 6))
    held.ask()
    held.add(arrived(2, "x" * 6))

    assert (held.messages, held.before, held.again) == ([], 0, True)
    held.add(arrived(3, "x" * 6))
    assert held.messages == [arrived(3, "x" * 6)]


async def test_many_rooms_are_read_at_a_time_and_no_more(monkeypatch):
    """Each once, in the order in which they were wanted, but for one that is in a hurry."""
    monkeypatch.setattr(catching_up, "READS_AT_ONCE", 3)
    begun, gates = [], {}

    async def read(room):
        begun.append(room)
        gates[room] = asyncio.Event()
        await gates[room].wait()

    def spawn(job):
        return asyncio.get_running_loop().create_task(job)

    reading = CatchingUp(read, spawn)
    for room in "abcdefg":
        reading.want(room)
        reading.want(room)
    reading.hurry("f")
    reading.hurry("nobody")
    await until(lambda: len(begun) == 3)
    for _ in range(5):
        await asyncio.sleep(0)
    most = len(begun)
    for _ in "abcdefg":
        for gate in gates.values():
            gate.set()
        await asyncio.sleep(0.01)

    assert most == 3
    assert sorted(begun) == list("abcdefg")
    assert begun.index("f") < begun.index("d")


async def test_a_room_is_not_read_twice_at_a_time():
    """One that is wanted while it is read is read again once that has ended, once."""
    begun, gates = [], []

    async def read(room):
        begun.append(room)
        gates.append(asyncio.Event())
        await gates[-1].wait()

    reading = CatchingUp(read, lambda job: asyncio.get_running_loop().create_task(job))
    reading.want("tea")
    await until(lambda: begun == ["tea"])
    reading.want("tea")
    reading.want("tea")
    reading.want("milk")
    await until(lambda: begun == ["tea", "milk"])
    gates[0].set()
    await until(lambda: begun == ["tea", "milk", "tea"])
    for gate in gates:
        gate.set()
    await until(lambda: not reading._readers)

    assert begun == ["tea", "milk", "tea"]


async def test_a_room_that_cannot_be_read_stops_no_other(caplog):
    """Its traceback is in the log."""
    done = []

    async def read(room):
        if room == "bad":
            raise ValueError("a mistake")
        done.append(room)

    reading = CatchingUp(read, lambda job: asyncio.get_running_loop().create_task(job))
    for room in ("bad", "good"):
        reading.want(room)
    await until(lambda: done)

    assert "could not read 'bad' anew" in caplog.text


# What members see.


async def test_nobody_who_listens_waits_for_a_room(nodes):
    """While one is read, what others send arrives; what is for that room comes after its past."""
    here, there = nodes
    ann, bob = here.client(), here.client()
    await ann.join()
    await bob.join_plainly(room="other")
    await there.say("one")
    await until(lambda: ann.texts)
    gate = here.backend.stall("read")
    here.backend._channels.discard("room:tea")
    await there.say("missed")
    here.backend._channels.add("room:tea")
    await here.lose()
    await there.say("live")
    await there.broadcast_to_room("other", {"type": "said", "text": "plain"}, store=False)
    await until(lambda: bob.texts)
    before = list(ann.texts)
    gate.set()
    await until(lambda: "live" in ann.texts)

    assert before == ["one"]
    assert ann.texts == ["one", "missed", "live"]
    assert len(ann.states) == 1


async def test_a_sender_gets_its_answer_while_the_room_is_read(nodes):
    """Its message has its place in time, and ends nothing."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    await there.say("one")
    await until(lambda: ann.texts)
    gate = here.backend.stall("read")
    await here.lose()
    saying = asyncio.create_task(here.say("two"))
    await until(lambda: here.backend.calls.count("append") == 1)
    gate.set()

    assert await saying == (1, 0, True)
    assert ann.texts == ["one", "two"]
    assert len(ann.states) == 1


async def test_one_that_has_its_place_ends_nothing(nodes):
    """Not even where the members here get it later than its sender may wait."""
    here, _ = nodes
    ann = here.client()
    await ann.join()
    epoch = ann.position.epoch
    here.backend.timeout = 0.05
    gate = here.backend.stall("read")
    await here.lose()
    delivery = await here.say("x")
    gate.set()
    await until(lambda: ann.texts)

    assert delivery == (0, 0, True)
    assert ann.texts == ["x"]
    assert (ann.position.epoch, len(ann.states)) == (epoch, 1)


async def test_no_member_sees_another_epoch_untold(nodes):
    """A message of one is read about first: then comes where the members stand, then it."""
    here, there = nodes
    ann, bob = here.client(), here.client()
    await ann.join()
    await bob.join_plainly()
    await there.say("one")
    await until(lambda: ann.texts and bob.texts)
    await there.backend.forget("room:tea")
    place = await keep(there, "two")
    await until(lambda: "two" in ann.texts and "two" in bob.texts)

    for each in (ann, bob):
        assert each.states[-1]["recovered"] is False
        assert each.states[-1]["epoch"] == place.epoch == each.position.epoch
        assert each.texts == ["two"]


async def test_a_silence_costs_nobody_anything(nodes):
    """A history that has ended by its time is no loss to those who were here."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    await keep(there, "one")
    await until(lambda: ann.texts)
    here.traces["tea"].delivered_at -= LIMITS.seconds  # so long nobody has said anything
    await there.backend.forget("room:tea")
    place = await keep(there, "two")
    await until(lambda: "two" in ann.texts)

    assert ann.texts == ["one", "two"]
    assert ann.states[-1] == {
        "room": "tea",
        "recovered": True,
        "epoch": place.epoch,
        "offset": 1,
        "messages": 1,
    }


async def test_a_hole_is_told_even_after_a_silence(nodes):
    """Once: what another process could not keep is in no history, whatever was read since."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    await keep(there, "one")
    await until(lambda: ann.texts)
    here.traces["tea"].delivered_at -= LIMITS.seconds
    await there.backend.forget("room:tea")
    await keep(there, "two")
    await until(lambda: "two" in ann.texts)
    for _ in range(2):  # the second is told of already
        there.cluster.note_hole("room:tea", unkept=True)
        await until(lambda: here.traces["tea"].held is not None)
        await until(lambda: here.traces["tea"].held is None)
        here.cluster._listening._gate.forget("room:tea")
    await keep(there, "three")
    await until(lambda: "three" in ann.texts)

    assert [each["recovered"] for each in ann.states] == [False, True, False]
    assert ann.texts == ["two", "three"]


async def test_several_gaps_at_a_time_tell_members_once(nodes):
    """What is read on behalf of the second knows what the first has told."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    await there.say("one")
    await until(lambda: ann.texts)
    await there.backend.forget("room:tea")
    reads = here.backend.calls.count("read")
    gate = here.backend.stall("read")
    for _ in range(3):
        await here.lose()
        await until(lambda: here.backend.calls.count("read") > reads)
    await keep(there, "two")
    gate.set()
    await until(lambda: "two" in ann.texts and not here._history._catching_up._readers)

    assert ann.texts == ["two"]
    assert [each["recovered"] for each in ann.states] == [False, False]


async def test_a_straggler_of_an_ended_epoch_is_nobody_s(nodes):
    """It does not come twice, and takes nobody back to the epoch that was."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    old = await keep(there, "one")
    await until(lambda: ann.texts)
    await there.backend.forget("room:tea")
    await keep(there, "two")
    await until(lambda: "two" in ann.texts)
    late = Broadcast(next(numbers), 0, "said", '{"type":"said","text":"late"}')
    for offset in (1, 2, 9):
        await here._history.deliver("0123456789ab", "tea", late, HistoryPosition(old.epoch, offset))
    await keep(there, "three")
    await until(lambda: "three" in ann.texts)

    assert ann.texts == ["two", "three"]
    assert [each["recovered"] for each in ann.states] == [False, False]


async def test_a_straggler_of_an_epoch_that_nobody_knew_changes_nothing(nodes):
    """The room is read, and what is read says which epoch is on."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    await keep(there, "one")
    await until(lambda: ann.texts)
    late = Broadcast(next(numbers), 0, "said", '{"type":"said","text":"late"}')
    await here._history.deliver("0123456789ab", "tea", late, HistoryPosition("older", 7))
    await keep(there, "two")
    await until(lambda: "two" in ann.texts)

    assert ann.texts == ["one", "two"]
    assert "older" in here.traces["tea"].core.ended


async def test_those_who_were_here_are_told_of_what_a_newcomer_read(nodes):
    """The newcomer's past is of another epoch than theirs: theirs is over."""
    here, there = nodes
    ann, bob = here.client(), here.client()
    await ann.join()
    await keep(there, "one")
    await until(lambda: ann.texts)
    await there.backend.forget("room:tea")
    await bob.join()
    await until(lambda: len(ann.states) == 2)

    assert ann.states[-1]["epoch"] == bob.states[-1]["epoch"]
    assert ann.states[-1]["recovered"] is False


async def test_a_room_that_cannot_be_read_goes_on(nodes):
    """Its members are told that nothing is certain, and get what arrives."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    await there.say("one")
    await until(lambda: ann.texts)
    here.fail("read")
    await here.lose()
    await there.say("two")
    await until(lambda: "two" in ann.texts)

    assert ann.states[-1] == {"room": "tea", "recovered": False}


async def test_more_than_can_be_held_is_read(nodes, monkeypatch):
    """Nothing is missing, and nothing comes twice."""
    monkeypatch.setattr(catching_up, "HELD_BYTES", 200)
    here, there = nodes
    ann = here.client()
    await ann.join()
    await there.say(0)
    await until(lambda: ann.texts)
    gate = here.backend.stall("read")
    await here.lose()
    for number in range(1, 20):
        await there.say(number)
    gate.set()
    await until(lambda: 19 in ann.texts)

    assert ann.texts == list(range(20))
    assert len(ann.states) == 1


# Senders, while the connection is cut.


class Cut(FaultyBackend):
    """Its connection is cut, and comes back, on demand."""

    def cut(self):
        self.state = "degraded"
        self._put(StateChanged("degraded", "it was cut"))

    def come_back(self):
        self.state = "up"
        self._put(Lost("the connection was cut"))
        self._put(StateChanged("up", "it is back"))


class CutNode(Node):
    def __init__(self, hub=None):
        super().__init__(hub)
        self.backend.__class__ = Cut


@pytest.mark.parametrize("kept", [False, True])
async def test_a_short_cut_costs_no_history(kept):
    """A sender waits for the next connection, and its message is kept once, kept before or not."""
    async with started([CutNode(MemoryHub())]) as (here,):
        ann = here.client()
        await ann.join()
        append, calls = here.backend.append, []

        async def fail_once(*arguments):
            calls.append(arguments)
            if kept or len(calls) > 1:
                place = await append(*arguments)
            if len(calls) == 1:
                here.backend.cut()
                raise AWAY
            return place

        here.backend.append = fail_once
        saying = asyncio.create_task(here.say("x"))
        await until(lambda: here.backend.state == "degraded")
        await asyncio.sleep(0.01)
        assert not saying.done()
        here.backend.come_back()
        await saying
        await until(lambda: ann.texts)
        await here.say("y")

        assert ann.texts == ["x", "y"]
        assert len(ann.states) == 1
        assert here.status()["gaps"] == 1
        assert here.cluster.not_stored == 0


async def test_a_long_cut_is_not_waited_for():
    """Who sends while it has been away for long gets its answer at once."""
    async with started([CutNode(MemoryHub())]) as (here,):
        ann = here.client()
        await ann.join()
        here.backend.timeout = 30
        here.backend.cut()
        here.fail("append")
        await until(lambda: here.cluster.outages)
        here.cluster._away_since -= 30  # for so long it has been away

        assert await asyncio.wait_for(here.say("x"), 5) == (1, 0, False)
        assert here.status()["unpublished"] == here.cluster.not_stored == 1


async def test_what_the_server_refuses_is_not_tried_for_long(nodes):
    """It is not away: it does not want to."""
    here, _ = nodes
    ann = here.client()
    await ann.join()
    here.fail("append")

    assert await asyncio.wait_for(here.say("x"), 5) == (1, 0, False)
    assert here.backend.calls.count("append") == 1
