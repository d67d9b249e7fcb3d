"""One process among others: numbers, gaps, subscriptions, and backends that fail."""

from __future__ import annotations

import asyncio
import itertools
import logging

import msgspec
import pytest
from faulty_backend import DEADLINE, FaultyBackend, started, until
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import BackendError
from falcon_pachinko.backends import MemoryHub
from falcon_pachinko.backends.base import Lost, StateChanged
from falcon_pachinko.cluster import listening, publishing, subscriptions
from falcon_pachinko.cluster import node as node_module
from falcon_pachinko.cluster.listening import Gap
from falcon_pachinko.cluster.outage import Outage
from falcon_pachinko.cluster.parcels import ALL, Broadcast, Hello, Mark, encode, header

AWAY = BackendError("memory", "away")
JUNK = b"no parcel"


class Node(node_module.Node):
    """A process, and what has reached it."""

    def __init__(self, hub):
        self.texts = []
        self.reported = []
        self.ups = 0
        super().__init__(FaultyBackend(hub), self.take, self.note, self.up)

    async def take(self, node, parcel, channel, position):
        if parcel.text == '"bad"':
            raise ValueError("a mistake of the one who takes it")
        self.texts.append(msgspec.json.decode(parcel.text))

    async def note(self, gap):
        self.reported.append(gap)

    def up(self):
        self.ups += 1

    def say(self, text, channel="room:tea"):
        return self.publish(channel, Broadcast(0, 0, "", msgspec.json.encode(text).decode()))

    async def listens(self, channel="room:tea"):
        self.subscriptions.add(channel)
        await self.subscriptions.live(channel)

    async def become(self, state):
        self.backend.state = state
        self.backend._put(StateChanged(state, "a test"))
        await asyncio.sleep(0)

    def fail(self, *calls):
        self.backend.failing = dict.fromkeys(calls, AWAY)

    @property
    def channels(self):
        return {each.channel for each in self.reported}


def running(count=2):
    """Have some processes of one cluster run."""
    hub = MemoryHub()
    return started([Node(hub) for _ in range(count)])


@pytest.fixture
async def nodes(monkeypatch):
    for module in (publishing, listening, subscriptions):
        monkeypatch.setattr(module, "RETRY_AFTER", 0.001)
    async with running() as both:
        yield both


# Gaps.


async def test_what_is_lost_first_is_a_gap_too(nodes):
    """A process that was heard of nothing before tells what it lost, before it goes on."""
    here, there = nodes
    await there.listens()
    here.fail("publish")
    here.say("lost")
    await until(lambda: here.unpublished)
    here.fail()
    here.say("next")
    await until(lambda: there.texts)

    assert there.channels == {"room:tea"}
    assert here.unpublished == 1


async def test_what_waits_behind_a_loss_is_not_taken_for_the_first(nodes, monkeypatch):
    """A loss stays a gap if later messages of the same channel were in the queue by then."""
    monkeypatch.setattr(publishing, "PARCELS_PER_CALL", 1)
    here, there = nodes
    await there.listens()
    here.fail("publish")
    here.say("lost")
    here.say("next")
    await until(lambda: here.unpublished)
    here.fail()
    await until(lambda: there.texts)

    assert there.texts == ["next"]
    assert len(there.reported) == there.gaps == 1


@pytest.mark.parametrize("seq", [1, 3], ids=["before it", "the same again"])
async def test_what_comes_after_a_later_message_is_dropped_and_a_gap(nodes, seq):
    """A server that stood still lets it through when its sender talks by another one already."""
    here, there = nodes
    await there.listens()
    sender = header("0123456789ab")

    async def arrives(number, before, text):
        parcel = Broadcast(number, before, "", msgspec.json.encode(text).decode())
        await here.backend.publish([("room:tea", encode(sender, parcel))])

    await arrives(3, 0, "later")
    await arrives(seq, 0, "late")
    await arrives(4, 3, "next")
    await until(lambda: "next" in there.texts)

    assert there.texts == ["later", "next"]
    assert [each.channel for each in there.reported] == ["room:tea"]


async def test_a_full_queue_is_a_gap(nodes, monkeypatch):
    """What has no room to wait is counted, and told; once for each listener."""
    here, there = nodes
    await there.listens()
    monkeypatch.setattr(publishing, "QUEUE_BYTES", 100)
    sent = [here.say("x" * 20) for _ in range(5)]
    await until(lambda: not here._publishing._queue_bytes)
    again = here.say("y")
    await until(lambda: "y" in there.texts)

    assert again
    assert sent.count(True) == len(there.texts) - 1
    assert here.unpublished == sent.count(False)
    assert len(there.reported) == 1


async def test_what_has_arrived_after_all_is_no_gap(nodes):
    """A publisher that cannot know tells a number; who has it, has everything."""
    here, there = nodes
    await there.listens()
    here.say("one")
    await until(lambda: there.texts)
    await there._listening._check("room:tea", here.name, Mark(here._publishing._seq, 0))

    assert there.reported == []


async def test_a_loss_is_told_once_on_each_channel(nodes):
    """However long the backend was away, and however much was lost."""
    here, there = nodes
    for channel in ("room:a", "room:b"):
        await there.listens(channel)
        here.say("before", channel)
    await until(lambda: len(there.texts) == 2)
    await here.become("degraded")
    lost = [here.say("lost", channel) for channel in ("room:a", "room:b", "room:a")]
    await here.become("up")
    here.say("after", "room:a")
    await until(lambda: len(there.reported) == 2)
    here.say("end", "room:a")
    await until(lambda: there.texts[-1] == "end")

    assert lost == [False] * 3
    assert [each.channel for each in there.reported].count("room:a") == 1
    assert here.unpublished == 3


async def test_more_losses_than_can_be_remembered_are_one_on_the_channel_of_all(nodes, monkeypatch):
    """Which whoever listens to anything hears."""
    monkeypatch.setattr(publishing, "MOST_HOLES", 3)
    here, there = nodes
    await here.become("degraded")
    for number in range(10):
        here.say("lost", f"room:{number}")
    assert len(here._publishing._holes) <= 4
    await here.become("up")
    await until(lambda: there.reported)

    assert ALL in there.channels


async def test_numbers_of_channels_without_members_here_are_few(nodes, monkeypatch):
    """Of more than are remembered, the one that was used longest ago is forgotten."""
    monkeypatch.setattr(publishing, "CHANNELS_REMEMBERED", 3)
    here, there = nodes
    await there.listens("user:busy")
    for number in range(10):
        here.say("x", "user:busy")
        here.say("x", f"user:{number}")

    assert list(here._publishing._last_elsewhere) == ["user:8", "user:busy", "user:9"]
    assert here._publishing._last.keys() <= {ALL}


async def test_numbers_of_channels_with_members_here_last_as_long_as_those(nodes, monkeypatch):
    """However many others are sent to meanwhile; afterwards they are as any other."""
    monkeypatch.setattr(publishing, "CHANNELS_REMEMBERED", 3)
    here, _ = nodes
    for name in ("a", "b"):
        await here.listens(f"room:{name}")
        here.say("x", f"room:{name}")
    for number in range(10):
        here.say("x", f"user:{number}")
    during = {"room:a", "room:b"} <= here._publishing._last.keys()
    for name in ("a", "b"):
        here.subscriptions.remove(f"room:{name}")
    await until(lambda: "room:b" in here._publishing._last_elsewhere)

    assert during
    assert here._publishing._last.keys() <= {ALL}
    assert len(here._publishing._last_elsewhere) == 3


async def test_a_loss_after_the_last_member_here_left_is_a_gap(nodes):
    """A process goes on numbering what it sends to rooms that it is not in any more."""
    here, there = nodes
    for node in (here, there):
        await node.listens()
    here.say("one")
    await until(lambda: there.texts)
    here.subscriptions.remove("room:tea")
    await until(lambda: "room:tea" not in here.backend._channels)
    there.backend._channels.discard("room:tea")
    here.say("lost on the way")
    await until(here._publishing._idle.is_set)
    there.backend._channels.add("room:tea")
    here.say("two")
    await until(lambda: "two" in there.texts)

    assert there.channels == {"room:tea"}


async def test_a_hole_of_a_history_is_told(nodes):
    """What was given to the members of one process alone is a gap for the others."""
    here, there = nodes
    await there.listens()
    here.note_hole("room:tea")
    await until(lambda: there.reported)

    assert there.channels == {"room:tea"}


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["send", "fail", "away"])),
        max_size=25,
    )
)
def test_every_loss_is_a_gap_and_nothing_else_is(steps):
    """Whatever is lost in whichever way: who listened finds out; who lost nothing hears of none."""

    async def play():
        async with running() as (here, there):
            for name in ("a", "b"):
                await there.listens(name)
            lost, sent = set(), 0
            for channel, fate in steps:
                if fate == "send":
                    here.say(sent, channel)
                    sent += 1
                elif fate == "away":
                    here.backend.state = "degraded"
                    here.say("lost", channel)
                    here.backend.state = "up"
                    lost.add(channel)
                else:
                    await until(here._publishing._idle.is_set)
                    before = here.unpublished
                    here.fail("publish")
                    here.say("lost", channel)
                    lost.add(channel)
                    await until(lambda before=before: here.unpublished > before)
                    here.fail()
            here._publishing.wake()
            for channel in ("a", "b"):
                here.say("end", channel)
            await until(lambda: there.texts.count("end") == 2)

            assert [each for each in there.texts if each != "end"] == list(range(sent))
            assert there.channels == lost

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "RETRY_AFTER", 0.0)
        asyncio.run(play())


# Publishing.


@pytest.mark.parametrize("error", [AWAY, OSError("a bug of the backend")])
async def test_publishing_goes_on_after_any_failure(nodes, error, caplog):
    """Whatever the backend raises; and the log is told of it once."""
    here, there = nodes
    await there.listens()
    here.backend.failing = {"publish": error}
    here.say("lost")
    await until(lambda: here.backend.calls.count("publish") > 5)
    here.backend.failing = {}
    here.say("next")
    await until(lambda: there.texts)

    assert there.texts == ["next"]
    assert here.unpublished == 1
    warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert sum("could not publish to" in each for each in warnings) == 1


async def test_a_name_without_a_utf_8_form_reaches_nobody(nodes):
    """Nobody can have it; and it harms nothing that is sent beside it."""
    here, there = nodes
    await there.listens()

    assert not here.say("x", "user:\ud800")
    assert here.say("fine")
    await until(lambda: there.texts)


async def test_what_waits_is_published_before_the_end(nodes):
    """Stopping takes leave of nothing that was accepted."""
    here, there = nodes
    await there.listens()
    here.say("bye")
    await here.stop()
    await until(lambda: there.texts)

    assert there.texts == ["bye"]
    assert not here.say("too late")
    here.note_hole("room:tea")


async def test_an_end_is_bounded_in_time(nodes, monkeypatch, caplog):
    """A backend that never takes it is left behind, and nobody waits for a subscription."""
    monkeypatch.setattr(publishing, "STOP_TIMEOUT", 0.01)
    here, _ = nodes
    gate = here.backend.stall("publish")
    here.say("x")
    here.backend.stall("subscribe")
    here.subscriptions.add("room:a")
    await until(lambda: here.backend.calls[-2:].count("subscribe"))
    here.subscriptions.add("room:b")
    waiting = asyncio.create_task(here.subscriptions.live("room:b"))
    await asyncio.wait_for(here.stop(), DEADLINE)
    await asyncio.wait_for(waiting, DEADLINE)
    gate.set()

    assert "messages were published" in caplog.text


async def test_a_backend_that_does_not_stop_is_reported(nodes, caplog):
    """The rest of the shutdown goes on."""
    here, _ = nodes
    here.fail("stop")
    await here.stop()
    await here.stop()

    assert here.alone
    assert "failed to stop" in caplog.text
    here.fail()
    await here.backend.stop()


# Listening.


async def test_a_flood_does_not_starve_the_loop(nodes):
    """Other tasks run while a process takes thousands of parcels."""
    here, there = nodes
    await there.listens()
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await asyncio.sleep(0)
    await here.backend.publish([("room:tea", JUNK)] * 5_000)
    before = turns
    await until(lambda: there.rejected == 5_000)
    task.cancel()

    assert turns - before > 5_000 / listening.EVENTS_PER_TURN / 2


async def test_a_parcel_that_fails_harms_no_other(nodes, caplog):
    """It is counted, and its traceback is in the log."""
    here, there = nodes
    await there.listens()
    here.say("bad")
    here.say("good")
    await until(lambda: there.texts)

    assert there.rejected == 1
    assert "failed to deliver a message from another process" in caplog.text


@given(st.lists(st.binary(max_size=60), max_size=30))
def test_hostile_bytes_are_counted_and_nothing_is_kept_of_them(datas):
    """Whatever comes on a channel, what comes after it is delivered."""

    async def play():
        async with running() as (here, there):
            await there.listens()
            await here.backend.publish([("room:tea", data) for data in datas])
            here.say("end")
            await until(lambda: there.texts)

            assert there.texts == ["end"]
            assert there.rejected == len(datas)
            assert set(there._listening._heard["room:tea"]) == {here.name}

    asyncio.run(play())


async def test_listening_goes_on_after_the_backend_failed_to_report(nodes, caplog):
    """It is asked again, and what it may have left out is a gap."""
    here, there = nodes
    await there.listens()
    there.backend.failing = {"events": OSError("broken")}
    here.say("one")
    await until(lambda: there.reported)
    here.say("two")
    await until(lambda: "two" in there.texts)

    assert there.channels == {None}
    assert "failed to report events" in caplog.text


async def test_what_the_backend_may_have_forgotten_is_told_again(nodes):
    """After a loss as after an outage: what others keep of this process may be gone."""
    _, there = nodes
    await until(lambda: there.ups == 1)
    there.backend._put(Lost("a test"))
    await until(lambda: there.ups == 2)

    assert there.channels == {None}


async def test_numbers_of_the_dead_are_forgotten(nodes):
    """A process that lives long has heard of many that are no more."""
    here, there = nodes
    for number in range(50):
        head = header(f"{number:012x}")
        await here.backend.publish([(ALL, encode(head, Hello(1, 0, ())))])
    await until(lambda: len(there._listening._nodes) >= 50)
    there.forget_dead({there.name, here.name})

    assert there._listening._nodes <= {here.name}
    assert set(there._listening._heard[ALL]) <= {here.name}
    there.forget_dead({here.name})


async def test_late_events_of_a_channel_leave_nothing_behind(nodes):
    """Some may come after nobody listens any more."""
    here, there = nodes
    await there.listens()
    there.subscriptions.remove("room:tea")
    await until(lambda: "room:tea" not in there.backend._channels)
    there.backend._channels.add("room:tea")
    here.say("late")
    await until(lambda: there.texts)

    assert "room:tea" not in there._listening._heard


# Many gaps: some are told.


def gate_at(now):
    return listening.GapGate(clock=lambda: now[0])


def test_the_first_gap_on_a_channel_is_told_at_once_and_the_next_at_the_end_of_its_time():
    """Both are told, and each channel has a time of its own."""
    now = [0.0]
    gate = gate_at(now)
    told_at_once = [
        gate.admit(Gap(channel, "a", "why")) for channel in ("room:a", "room:a", "room:b")
    ]
    before = gate.due()
    now[0] = listening.GAP_SECONDS
    told_late = gate.due()

    assert told_at_once == [True, False, True]
    assert before == []
    assert told_late == [Gap("room:a", "a", "why")]


@pytest.mark.parametrize("nodes", [["a", "a", "a"], ["a", "b", "c"], ["b", None, "b"]])
def test_many_gaps_within_a_time_are_told_as_one(nodes):
    """It names the process if all are of that one, and none otherwise."""
    now = [0.0]
    gate = gate_at(now)
    gate.admit(Gap("room:a", None, "why"))
    for node in nodes:
        assert not gate.admit(Gap("room:a", node, "why"))
    now[0] = listening.GAP_SECONDS

    (told,) = gate.due()

    assert told.node == ("a" if set(nodes) == {"a"} else None)
    assert gate.due() == []


def test_gaps_that_go_on_are_told_ever_more_rarely_and_never_not_at_all():
    """Somebody forges some each tenth of a second, for a minute."""
    now, told = [0.0], []
    gate = gate_at(now)
    for tick in range(600):
        now[0] = tick / 10
        if gate.admit(Gap("room:a", f"{tick}", "why")):
            told.append(now[0])
        told += [now[0]] * len(gate.due())

    assert [round(each) for each in told] == [0, 1, 3, 7, 15, 25, 35, 45, 55]
    assert gate


def test_after_a_time_without_gaps_the_next_one_is_told_at_once():
    """And nothing is remembered of the channel meanwhile, nor of one that is not listened to."""
    now = [0.0]
    gate = gate_at(now)
    for channel in ("room:a", "room:b"):
        gate.admit(Gap(channel, None, "why"))
        gate.admit(Gap(channel, None, "why"))
    gate.forget("room:b")
    now[0] = 1.5
    late = gate.due()
    now[0] = 60.0
    nothing = gate.due()

    assert [gap.channel for gap in late] == ["room:a"]
    assert (nothing, bool(gate)) == ([], False)
    assert gate.admit(Gap("room:a", None, "why"))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 4), st.booleans()), max_size=60))
def test_after_every_gap_one_is_told_within_ten_seconds(steps):
    """Whenever it comes, and however rarely anybody looks; never two within a second."""
    now, told, gaps = [0.0], [], []
    gate = gate_at(now)

    def look():
        told.extend((now[0], gap.channel) for gap in gate.due())

    for channel, seconds, looks in steps:
        now[0] += seconds
        if looks:
            look()
        gaps.append((now[0], channel))
        if gate.admit(Gap(channel, None, "why")):
            told.append((now[0], channel))
    for _ in range(11):
        now[0] += 1
        look()

    for when, channel in gaps:
        assert any(told_of == channel and when <= at for at, told_of in told)
    for channel in "ab":
        times = [at for at, told_of in told if told_of == channel]
        assert all(late - early > 0.999 for early, late in itertools.pairwise(times))


async def test_forged_marks_are_told_once_and_the_rest_of_them_together(nodes, monkeypatch):
    """Of a room, and of the channel of all; each is counted."""
    monkeypatch.setattr(listening, "GAP_SECONDS", 0.2)
    here, there = nodes
    await there.listens()
    for number in range(300):
        mark = encode(header(f"{number:012x}"), Mark(1, 0))
        await here.backend.publish([("room:tea", mark), (ALL, mark)])
    await until(lambda: there.gaps == 600)
    await until(lambda: len(there.reported) >= 4)
    told = [each.channel for each in there.reported]

    assert told[:2] == ["room:tea", ALL]
    assert set(told[2:]) == {"room:tea", ALL}
    assert len(told) < 20


async def test_forged_marks_make_no_storm_of_greetings(nodes):
    """One on the channel of all asks the others for theirs, and each of them answers."""
    here, there = nodes
    await until(lambda: not there._publishing._queue)
    before = there.backend.calls.count("publish")
    for number in range(300):
        await here.backend.publish([(ALL, encode(header(f"{number:012x}"), Mark(1, 0)))])
    await until(lambda: there.gaps == 300)
    await asyncio.wait_for(there._publishing._idle.wait(), DEADLINE)

    assert there.backend.calls.count("publish") - before < 10


async def test_a_real_gap_behind_a_forged_one_is_told(nodes, monkeypatch):
    """At the end of the time, though nothing arrives any more."""
    monkeypatch.setattr(listening, "GAP_SECONDS", 0.2)
    here, there = nodes
    await there.listens()
    await here.backend.publish([("room:tea", encode(header("f" * 12), Mark(1, 0)))])
    await until(lambda: there.reported)
    here.note_hole("room:tea")
    await until(lambda: there.gaps == 2)
    await until(lambda: len(there.reported) == 2)

    assert [each.node for each in there.reported] == ["f" * 12, here.name]


async def test_a_loss_that_the_backend_reports_is_told_each_time(nodes):
    """No process can forge it."""
    _, there = nodes
    for _ in range(3):
        there.backend._put(Lost("a test"))
    await until(lambda: len(there.reported) == 3)

    assert there.channels == {None}


async def test_a_gap_that_cannot_be_handled_late_ends_nothing(nodes, monkeypatch, caplog):
    """The log has it, and later ones are told all the same."""
    monkeypatch.setattr(listening, "GAP_SECONDS", 0.05)
    here, there = nodes
    await there.listens()
    note, there.failing = there._gap, True

    async def note_or_fail(gap):
        if there.reported and there.failing:
            there.failing = False
            raise ValueError("a test")
        await note(gap)

    there._gap = note_or_fail
    for number in range(2):
        await here.backend.publish([("room:tea", encode(header(f"{number:012x}"), Mark(1, 0)))])
    await until(lambda: not there.failing)
    here.note_hole("room:tea")
    await until(lambda: len(there.reported) == 2)

    assert sum("failed to handle a gap" in each.message for each in caplog.records) == 1


# What the log says.


async def test_forged_marks_are_one_line_a_channel_and_period(nodes, caplog):
    """Whoever can write to the bus fills neither the disk nor the memory; each is counted."""
    here, there = nodes
    await there.listens()
    for number in range(500):
        mark = encode(header(f"{number:012x}"), Mark(1, 0))
        await here.backend.publish([("room:tea", mark)])
    await until(lambda: there.gaps == 500)

    warnings = [each for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == 1


def test_gaps_are_logged_anew_after_a_while(caplog):
    """With how many there were between; and of many channels, some are named."""
    now = 0.0
    gaps = listening.GapLog(clock=lambda: now)
    for channel in ("room:a", "room:a", None, None, "room:b"):
        gaps.note(Gap(channel, None, "why"))
    now = listening.GAP_LOG_SECONDS
    gaps.note(Gap("room:a", None, "why"))
    for number in range(50):
        gaps.note(Gap(f"room:{number}", None, "why"))

    warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert warnings[:5] == [
        "messages from other processes may be missing on 'room:a': why",
        "messages from other processes may be missing on any channel: why",
        "messages from other processes may be missing on 'room:b': why",
        "2 more gaps since the last warning",
        "messages from other processes may be missing on 'room:a': why",
    ]
    assert len(warnings) == 4 + listening.GAP_LOG_CHANNELS


@pytest.mark.parametrize("name", ["x\nCRITICAL root: all is lost", "x\r\x1b[2J", "y" * 5_000])
async def test_names_that_clients_choose_forge_no_line(nodes, name, caplog):
    """They are in the log as Python writes them, cut: in a gap, and in what is rejected."""
    here, there = nodes
    channel = f"room:{name}"
    await there.listens(channel)
    await here.backend.publish([(channel, JUNK)])
    await here.backend.publish([(channel, encode(header("0" * 12), Mark(1, 0)))])
    await until(lambda: there.gaps and there.rejected)

    assert len(caplog.records) >= 2
    for record in caplog.records:
        assert record.message.isprintable()
        assert len(record.message) < 500


def test_a_failure_that_lasts_is_told_once(caplog):
    """And a later one is news, with how often it was before."""
    now = 0.0
    log = logging.getLogger("falcon_pachinko.test")
    outage = Outage(clock=lambda: now)
    for _ in range(100):
        outage.report(log, "failed: %s", "why")
    outage.over()
    outage.report(log, "failed: %s", "too soon after it")
    outage.over()
    now = 60.0
    outage.report(log, "failed: %s", "again")

    warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert warnings == ["failed: why", "failed: again (100 more since the last warning)"]


# A backend that nobody starts.


@pytest.mark.parametrize("times", [1, 5])
async def test_a_backend_that_was_never_started_is_told_once(times, caplog):
    """With the remedy: the processes would be alone, and nothing would say so."""
    node = Node(MemoryHub())
    reached = [node.reaches_others() for _ in range(times)]

    assert reached == [False] * times
    assert caplog.text.count("was never started") == 1
    assert "--lifespan on" in caplog.text
    assert "manager.start()" in caplog.text


@pytest.mark.parametrize("how", ["started", "stopped", "no backend"])
async def test_where_nothing_is_forgotten_nothing_is_told(how, caplog):
    """One that runs, one that has ended, and one that is alone by choice."""
    node = Node(MemoryHub() if how != "no backend" else None)
    await node.start()
    if how == "stopped":
        await node.stop()

    assert node.reaches_others() is (how == "started")
    assert "never started" not in caplog.text
    await node.stop()


# Starting and stopping.


async def test_a_required_backend_that_is_away_is_an_error():
    """Nothing runs then, and it can be tried again."""
    node = Node(MemoryHub())
    node.fail("start")
    with pytest.raises(BackendError):
        await node.start()
    assert node.alone
    node.fail()
    await node.start()
    await node.start()

    assert not node.alone
    await node.stop()


def test_it_can_be_started_again_in_another_loop():
    """With another name, and nothing of before: such as an app in several tests."""
    hub = MemoryHub()
    here, there = Node(hub), Node(hub)
    there.subscriptions.add("room:tea")

    async def live():
        for each in (here, there):
            await each.start()
        here.say("hi")
        await until(lambda: there.texts)
        names = here.name, there.name
        for each in (here, there):
            await each.stop()
        return names

    first = asyncio.run(live())
    there.texts.clear()
    second = asyncio.run(live())

    assert there.texts == ["hi"]
    assert there.reported == []
    assert not {*first} & {*second}


# Codecs.


async def test_processes_tell_each_other_what_their_clients_speak(nodes):
    """Once; and whoever comes later asks."""
    here, there = nodes
    here.speaks("pachinko.msgpack")
    here.speaks("pachinko.msgpack")
    await until(lambda: there.subprotocols)

    late = Node(here.backend.hub)
    await late.start()
    await until(lambda: late.subprotocols)
    await late.stop()
    assert there.subprotocols == late.subprotocols == {"pachinko.msgpack"}


async def test_only_codecs_that_there_are_are_noted(nodes):
    """A process of another version, or a hostile one, may name anything."""
    here, there = nodes
    here.publish(ALL, Hello(0, 0, tuple(map(str, range(100)))))
    here.publish(ALL, Hello(0, 0, ("pachinko.msgpack",)))
    await until(lambda: there.subprotocols)

    assert there.subprotocols == {"pachinko.msgpack"}


async def test_a_greeting_that_was_missed_is_asked_for(nodes):
    """A gap on the channel of all may have been one."""
    here, there = nodes
    here.publish(ALL, Hello(0, 0, ()))
    await until(
        lambda: there._listening._heard.get(ALL, {}).get(here.name) == here._publishing._seq
    )
    here.own_subprotocols.add("pachinko.msgpack")
    here._publishing._seq += 1
    here._publishing._last[ALL] = here._publishing._seq
    here.publish(ALL, Hello(0, 0, ()))
    await until(lambda: there.subprotocols)

    assert there.channels == {ALL}


async def test_what_waits_when_the_backend_goes_away_is_told_later(nodes):
    """It is counted as not published, and is a gap for those who listen."""
    here, there = nodes
    await there.listens()
    here.say("waiting")
    here.backend.state = "degraded"
    await until(lambda: here.unpublished)
    await here.become("up")
    await until(lambda: there.reported)

    assert here.unpublished == 1
    assert there.texts == []


async def test_a_backend_that_ends_its_events_ends_the_listening(nodes):
    """As one does that was stopped: nothing runs on."""
    here, _ = nodes
    listening = here._tasks[0]
    await here.backend.stop()
    await asyncio.wait_for(listening, DEADLINE)

    assert here.gaps == 0


# Greetings: how many there are.


class Spread:
    """Counts what travels between processes."""

    def __init__(self, nodes):
        self.published = self.delivered = 0
        for each in nodes:
            each.backend.publish = self._counted(each.backend.publish)
            each.backend._put = self._arriving(each.backend._put)

    def _counted(self, publish):
        async def counted(parcels):
            self.published += len(parcels)
            await publish(parcels)

        return counted

    def _arriving(self, put):
        def counted(event):
            self.delivered += not isinstance(event, (Lost, StateChanged))
            put(event)

        return counted


async def quiet(nodes):
    """Wait until nothing is underway any more."""
    calm = 0
    while calm < 20:
        await asyncio.sleep(0)
        busy = any(
            each.backend._events or each._publishing._queue or not each._publishing._idle.is_set()
            for each in nodes
        )
        calm = 0 if busy else calm + 1


@pytest.mark.parametrize("count", [5, 10, 50])
async def test_greetings_after_an_outage_grow_with_the_processes_only(count):
    """All come back at once: each says one thing to the others, since all is known already."""
    async with running(count) as nodes:
        for each in nodes:
            each.speaks("pachinko.msgpack")
        await quiet(nodes)
        spread = Spread(nodes)
        for each in nodes:
            await each.become("degraded")
        await quiet(nodes)
        for each in nodes:
            each.backend.state = "up"
            each.backend._put(Lost("cut"))
            await each.become("up")
        await quiet(nodes)

        assert [each.ups for each in nodes] == [2] * count
        assert spread.published == count
        assert spread.delivered == count * count


@pytest.mark.parametrize("count", [5, 10, 50])
async def test_who_comes_new_gets_the_answers_alone(count):
    """One of each process, and nobody else hears them."""
    async with running(count) as nodes:
        for each in nodes:
            each.speaks("pachinko.msgpack")
        late = Node(nodes[0].backend.hub)
        await quiet(nodes)
        spread = Spread([*nodes, late])
        async with started([late]):
            await quiet([*nodes, late])

            assert late.subprotocols == {"pachinko.msgpack"}
            assert spread.published == 1 + count
            assert spread.delivered == (count + 1) + count


async def test_processes_that_start_at_once_hear_each_others_greetings():
    """None asks before it can hear the answer."""
    hub = MemoryHub()
    nodes = [Node(hub) for _ in range(5)]
    for each in nodes[:2]:
        each.own_subprotocols.add("pachinko.msgpack")
    await asyncio.gather(*(each.start() for each in nodes))
    await quiet(nodes)
    spoken = [each.subprotocols for each in nodes]
    for each in nodes:
        await each.stop()

    assert spoken == [{"pachinko.msgpack"}] * 5


async def test_a_lost_answer_to_a_greeting_is_asked_for_again(nodes):
    """A gap on a process's own channel may have been one."""
    here, there = nodes
    await quiet(nodes)
    there.own_subprotocols.add("pachinko.msgpack")
    lost = encode(header(there.name), Mark(10**6, 0))
    await there.backend.publish([(f"node:{here.name}", lost)])
    await until(lambda: here.subprotocols)

    assert here.subprotocols == {"pachinko.msgpack"}


@pytest.mark.parametrize("error", [AWAY, OSError("not ours")])
async def test_a_process_starts_without_a_sign_of_life(error):
    """It gives the first one before others can ask for it; if that fails, it is not held up."""
    node = Node(MemoryHub())
    node.backend.failing = {"beat": error}
    async with started([node]):
        assert not node.alone
        assert node.backend.hub.beats == {}


async def test_a_sign_of_life_that_hangs_holds_up_no_start():
    """A call is bounded, by the backend's own time at the latest."""
    node = Node(MemoryHub())
    node.backend.timeout = 0.01
    node.backend.stall("beat")
    async with started([node]):
        assert not node.alone


async def test_a_process_has_its_lease_when_it_has_started(nodes):
    """So that whoever asks for all processes from then on knows of it."""
    assert {*await nodes[0].backend.alive()} == {each.name for each in nodes}
