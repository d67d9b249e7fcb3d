"""Questions to other processes: what is awaited, what counts, and what is left of them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from faulty_backend import FaultyBackend, started, until
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import BackendError
from falcon_pachinko.backends import MemoryHub
from falcon_pachinko.backends.base import StateChanged
from falcon_pachinko.cluster import node as node_module
from falcon_pachinko.cluster import publishing
from falcon_pachinko.cluster.parcels import ALL, Answer, Broadcast, Question, encode, header
from falcon_pachinko.cluster.questions import Answers, Kind, Poll

AWAY = BackendError("memory", "away")
LATE = 0.3
"""Seconds to wait for what never comes."""
LONG = 30
"""Seconds that nothing in here takes."""

SQUARE = Kind("square", int, int)
RENAME = Kind("rename", str, int, acts=True)
read_int = SQUARE.read_part


# The answers so far.


def part(body, place=0, *, is_last=True):
    data = body if body is None else msgspec.msgpack.encode(body)
    return Answer(0, 0, 1, place, is_last, data)


def test_a_poll_is_over_when_all_who_are_there_have_answered():
    """In any order, before it is known who is there or after."""
    poll = Poll(read_int)
    poll.take("b", part(2))
    early = poll.is_over
    poll.expect({"a", "b"})
    between = poll.is_over
    poll.take("a", part(1))

    assert (early, between, poll.is_over) == (False, False, True)
    assert sorted(poll.answers().parts) == [1, 2]
    assert poll.answers()[1:] == (3, 3)


def test_a_poll_of_one_process_alone_is_over_at_once():
    """It has nobody to wait for."""
    poll = Poll(read_int)
    poll.expect(())

    assert poll.is_over
    assert poll.answers() == Answers([], 1, 1)


def test_an_answer_counts_when_all_its_parts_are_here():
    """They are given in their order, whichever came first."""
    poll = Poll(read_int)
    poll.expect({"a"})
    poll.take("a", part(30, 2))
    poll.take("a", part(10, 0, is_last=False))
    halfway = poll.answers()
    poll.take("a", part(20, 1, is_last=False))

    assert halfway == ([], 1, 2)
    assert poll.answers() == ([10, 20, 30], 2, 2)


def test_an_answer_counts_once():
    """A part that comes again changes nothing."""
    poll = Poll(read_int)
    poll.expect({"a"})
    for number in (1, 2):
        poll.take("a", part(number))

    assert poll.answers() == ([1], 2, 2)


@pytest.mark.parametrize("body", [3, None])
def test_of_one_process_it_need_not_be_known_who_else_is_there(body):
    """Its word ends the waiting."""
    poll = Poll(read_int, "a")
    poll.take("b", part(1))
    early = poll.is_over
    poll.take("a", part(body))

    assert (early, poll.is_over) == (False, True)


def test_who_cannot_answer_is_not_waited_for():
    """And has not answered."""
    poll = Poll(read_int)
    poll.expect({"a", "b"})
    poll.take("a", part(None))
    poll.take("b", part(2))

    assert poll.is_over
    assert poll.answers() == ([2], 2, 3)


def test_an_answer_that_cannot_be_read_is_none():
    """What came of it before is left out too."""
    poll = Poll(read_int)
    poll.expect({"a"})
    poll.take("a", part(1, 0, is_last=False))
    with pytest.raises(msgspec.ValidationError):
        poll.take("a", part("two", 1))

    assert poll.is_over
    assert poll.answers() == ([], 1, 2)


def test_who_answers_without_a_lease_is_there():
    """It has just begun: it is not waited for, and counts if it is in time."""
    poll = Poll(read_int)
    poll.expect({"a"})
    poll.take("new", part(5))
    poll.take("a", part(1))

    assert sorted(poll.answers().parts) == [1, 5]
    assert poll.answers()[1:] == (3, 3)


@pytest.mark.parametrize(
    ("answering", "expected"),
    [(("a",), ([1], 3, 3)), ((), ([], 2, 3)), (("gone",), ([1], 4, 4))],
)
def test_of_one_who_is_asked_alone_the_others_count(answering, expected):
    """They have nothing to answer, so that only this one can be missing."""
    only = answering[0] if answering else "a"
    poll = Poll(read_int, only)
    for node in answering:
        poll.take(node, part(1))
    poll.expect({"a", "b"})

    assert poll.answers() == expected


def test_one_who_is_gone_is_not_waited_for():
    """Nobody else can have what was asked about: so the answer is whole."""
    poll = Poll(read_int, "gone")
    poll.expect({"a", "b"})

    assert poll.is_over
    assert poll.answers() == ([], 3, 3)


events = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from("abcd"),
            st.builds(part, st.none() | st.just("?") | st.integers(0, 9), st.integers(0, 2)),
        ),
        st.builds(
            lambda node, place: (node, part(1, place, is_last=False)),
            st.sampled_from("abcd"),
            st.integers(0, 2),
        ),
    ),
    max_size=30,
)


@given(events, st.sets(st.sampled_from("abc")), st.integers(0, 30), st.none() | st.just("a"))
def test_whatever_arrives_the_numbers_agree(arriving, others, when, only):
    """Never more answers than processes, and an answer that is whole ends the waiting."""
    poll = Poll(read_int, only)
    for at, (node, answer) in enumerate([*arriving, ("a", part(None))]):
        if at == when:
            poll.expect(others)
        try:
            poll.take(node, answer)
        except msgspec.ValidationError:
            continue
    if when > len(arriving):
        assert not poll.is_over or only is not None
        poll.expect(others)
    parts, answered, processes = poll.answers()

    assert 1 <= answered <= processes
    assert processes >= 1 + len(others)
    assert len(parts) <= 3 * processes
    if answered == processes:
        assert poll.is_over


# Several processes.


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


class Node(node_module.Node):
    """A process that squares numbers, and can be renamed."""

    def __init__(self, hub):
        self.texts = []
        self.reported = []
        self.asked = []
        self.gate = asyncio.Event()
        self.gate.set()
        super().__init__(FaultyBackend(hub), self.take, self.note)
        self.questions.handle(SQUARE, self.square)
        self.questions.handle(RENAME, self.rename)

    async def take(self, node, parcel, channel, position):
        match parcel:
            case Question():
                await self.questions.answer(node, parcel)
            case Answer():
                self.questions.take(node, parcel)
            case _:
                self.texts.append(parcel.text)

    async def note(self, gap):
        self.reported.append(gap)

    async def square(self, number):
        self.asked.append(number)
        await self.gate.wait()
        if number < 0:
            raise ValueError("it has no square here")
        if number > 1000:
            raise ZeroDivisionError
        return [number, number * number]

    async def rename(self, name):
        self.asked.append(name)
        return [len(name)]

    async def ask(self, question=3, seconds=LONG, kind=SQUARE, only=None):
        with self.questions.put(kind, question, only) as asked:
            return await asked.answers(seconds)

    def become(self, state):
        self.backend.state = state
        self.backend._put(StateChanged(state, "a test"))


def running(count=3):
    hub = MemoryHub()
    return started([Node(hub) for _ in range(count)])


@pytest.fixture
async def nodes():
    async with running() as three:
        yield three


async def test_all_others_answer(nodes):
    """Each once, in its parts; the asker itself is not asked."""
    here, *others = nodes

    assert await here.ask() == ([3, 9, 3, 9], 3, 3)
    assert [each.asked for each in nodes] == [[], [3], [3]]
    assert here.questions._open == {}
    assert [each.texts for each in others] == [[], []]


async def test_a_process_counts_from_its_start_on(nodes):
    """Its lease is there before anybody can ask it for something."""
    late = Node(nodes[0].backend.hub)
    async with started([late]):
        assert (await nodes[0].ask())[1:] == (4, 4)
        assert (await late.ask())[1:] == (4, 4)
    assert (await nodes[0].ask())[1:] == (3, 3)


@pytest.mark.parametrize("count", [2, 10, 40])
async def test_a_question_costs_two_messages_for_each_process(count):
    """One there and one back: the others hear nothing of each other's answers."""
    async with running(count) as nodes:
        await until(lambda: not any(each.backend._events for each in nodes))
        heard = []
        for each in nodes:
            put = each.backend._put
            each.backend._put = lambda event, put=put: (heard.append(event), put(event))

        assert (await nodes[0].ask(kind=RENAME, question="tea"))[1:] == (count, count)

        assert len(heard) == count + (count - 1)  # with the asker's own echo
        assert sum(each.channel == ALL for each in heard) == count


async def test_one_process_can_be_asked_alone(nodes):
    """The others are not even told."""
    here, there, third = nodes

    assert await here.ask(only=there.name) == ([3, 9], 3, 3)
    assert third.asked == []


async def test_who_asks_itself_alone_asks_nobody(nodes):
    """It knows how many others there are all the same."""
    assert await nodes[0].ask(only=nodes[0].name) == ([], 3, 3)
    assert [each.asked for each in nodes] == [[], [], []]


async def test_questions_do_not_mix(nodes):
    """Each gets its own answers, however many are open."""
    asked = [(each, number) for each in nodes for number in range(5)]

    answers = await asyncio.gather(*(each.ask(number) for each, number in asked))

    for (_, number), answer in zip(asked, answers, strict=True):
        assert answer == ([number, number * number] * 2, 3, 3)
    assert not any(each.questions._open for each in nodes)


async def test_who_is_late_is_missing(nodes):
    """Nothing is raised; what comes afterwards is dropped without a word."""
    here, _, third = nodes
    third.gate.clear()
    answer = await here.ask(seconds=LATE)
    third.gate.set()
    await until(lambda: not third.backend._events and third._publishing._idle.is_set())
    again = await here.ask(4)

    assert answer == ([3, 9], 2, 3)
    assert again == ([4, 16, 4, 16], 3, 3)
    assert [each.rejected + each.gaps for each in nodes] == [0, 0, 0]
    assert here.questions._open == {}


async def test_who_died_counts_while_it_has_its_lease(nodes):
    """It was there a moment ago: the answer says that something is missing."""
    here, _, third = nodes
    del here.backend.hub.nodes[third.name]  # it hears nothing any more
    with_lease = await here.ask(seconds=LATE)
    here.backend.hub.beats[third.name] = 0.0
    without = await here.ask()

    assert with_lease[1:] == (2, 3)
    assert without[1:] == (2, 2)


async def test_a_cancelled_question_leaves_nothing(nodes):
    """Whether it waits for who is there, or for the answers."""
    here, there, _ = nodes
    there.gate.clear()
    tasks = asyncio.all_tasks()
    waiting = asyncio.create_task(here.ask())
    await until(lambda: there.asked)
    gate = here.backend.stall("alive")
    looking = asyncio.create_task(here.ask())
    await until(lambda: here.backend.calls.count("alive") == 2)
    for each in (waiting, looking):
        each.cancel()
    await asyncio.wait((waiting, looking))
    gate.set()
    there.gate.set()

    assert here.questions._open == {}
    assert asyncio.all_tasks() - tasks == set()
    assert (await here.ask())[1:] == (3, 3)


@pytest.mark.parametrize("state", ["degraded", "down"])
async def test_while_the_backend_is_away_nobody_is_asked(nodes, state):
    """The answer is this process's own, at once; and what only asks is no loss for the others."""
    here = nodes[0]
    here.backend.state = state

    assert await here.ask() == ([], 1, 1)
    assert (here.unpublished, here._publishing._holes) == (0, {})
    assert "alive" not in here.backend.calls


async def test_what_acts_and_is_not_told_is_a_gap(nodes):
    """The others are to know that they have missed something."""
    here, there, _ = nodes
    here.backend.state = "degraded"
    answer = await here.ask("tea", kind=RENAME)
    here.become("up")
    await until(lambda: there.reported)

    assert answer == ([], 1, 1)
    assert here.unpublished == 1
    assert there.asked == []


async def test_a_lost_question_is_no_gap(nodes):
    """The asker alone misses something, and it knows."""
    here, there, _ = nodes
    here.backend.failing = {"publish": AWAY}
    answer = await here.ask(seconds=LATE)
    here.backend.failing = {}
    here.publish(ALL, Broadcast(0, 0, "x", '"x"'))
    await until(lambda: there.texts)

    assert answer[1:] == (1, 3)
    assert (here.unpublished, there.gaps) == (0, 0)


async def test_an_outage_ends_what_is_asked(nodes):
    """No answer arrives any more: it is not waited for."""
    here, there, _ = nodes
    there.gate.clear()
    asking = asyncio.create_task(here.ask())
    await until(lambda: there.asked)
    here.become("degraded")

    assert await asking == ([3, 9], 2, 3)
    there.gate.set()


async def test_a_stop_ends_what_is_asked(nodes):
    """A shutdown waits for no other process."""
    here, there, _ = nodes
    there.gate.clear()
    asking = asyncio.create_task(here.ask())
    await until(lambda: there.asked)
    await quiet([here])
    await here.stop()

    assert (await asking)[1:] == (2, 3)
    assert await here.ask() == ([], 1, 1)
    there.gate.set()


@pytest.mark.parametrize("error", [AWAY, OSError("not ours")])
async def test_a_backend_that_does_not_say_who_is_alive_leaves_what_was_known(nodes, error):
    """It is asked in vain, so that what the last sign of life has told counts."""
    here = nodes[0]
    await here.give_sign_of_life()
    here.backend.failing = {"alive": error}

    assert await here.ask() == ([3, 9, 3, 9], 3, 3)


async def test_a_backend_that_never_knew_who_is_alive_costs_all_of_the_time(nodes):
    """Anybody may be there: those count who have answered, and one alone is enough for its own."""
    here, there, _ = nodes
    here.questions.saw(())
    here.backend.failing = {"alive": AWAY}
    alone = await asyncio.wait_for(here.ask(only=there.name), LONG / 2)

    assert await here.ask(seconds=LATE) == ([3, 9, 3, 9], 3, 3)
    assert alone == ([3, 9], 2, 2)


async def test_a_backend_that_hangs_costs_no_more_than_the_time(nodes):
    """Who is there is part of the answer, and the time is for both."""
    here = nodes[0]
    await here.give_sign_of_life()
    gate = here.backend.stall("alive")

    assert (await here.ask(seconds=LATE))[1:] == (3, 3)
    gate.set()


async def test_a_full_queue_asks_nobody(nodes, monkeypatch):
    """It is not waited for what cannot come."""
    monkeypatch.setattr(publishing, "QUEUE_BYTES", 0)

    assert await nodes[0].ask() == ([], 1, 3)


async def test_a_name_without_utf_8_asks_nobody(nodes):
    """No process can have anything of that name."""
    assert await nodes[0].ask("\ud800", kind=RENAME) == ([], 1, 3)
    assert nodes[0].unpublished == 0


# Processes of other code, and hostile ones.


async def test_a_kind_that_others_do_not_know_is_not_waited_for(nodes):
    """As while a new version is rolled out."""
    here, there, third = nodes
    newer = Kind("newer", int, int)
    third.questions.handle(newer, third.square)

    assert await here.ask(kind=newer) == ([3, 9], 2, 3)
    assert there.rejected == 0


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xa1x", b"\xff" * 90])
async def test_a_question_that_cannot_be_read_is_counted_and_answered(nodes, body, caplog):
    """The asker need not wait; nobody is hurt."""
    here, there, third = nodes
    odd = Kind("square", msgspec.Raw, int)

    assert await here.ask(msgspec.Raw(body), kind=odd) == ([], 1, 3)
    assert (there.rejected, third.rejected) == (1, 1)
    assert "Traceback" not in caplog.text


async def test_an_answer_that_cannot_be_read_is_counted(nodes):
    """That process has not answered."""
    here = nodes[0]
    strict = Kind("square", int, str)

    assert await here.ask(kind=strict) == ([], 1, 3)
    assert here.rejected == 2


async def test_who_refuses_is_not_waited_for(nodes, caplog):
    """A question may make no sense to the one that handles it; it is counted there."""
    here, there, _ = nodes

    assert await here.ask(-1) == ([], 1, 3)
    assert there.rejected == 1
    assert "Traceback" not in caplog.text


async def test_who_fails_is_not_waited_for(nodes, caplog):
    """Its log has the traceback; and it goes on."""
    here = nodes[0]

    assert await here.ask(1001) == ([], 1, 3)
    assert await here.ask() == ([3, 9, 3, 9], 3, 3)
    assert "ZeroDivisionError" in caplog.text


async def test_a_parcel_of_another_version_breaks_nobody(nodes):
    """It is counted and dropped, and the next question is answered."""
    here, there, _ = nodes
    question = encode(header("0123456789ab"), Question(0, 0, 1, "square", b"\x03"))
    await here.backend.publish([(ALL, b"\x02" + question[1:])])

    assert await here.ask() == ([3, 9, 3, 9], 3, 3)
    assert (there.rejected, there.asked) == (1, [3])


async def test_forged_answers_end_nothing_and_stay_nowhere(nodes):
    """Of a number that nobody has asked, or of a place that there is not."""
    here, there, _ = nodes
    there.gate.clear()
    asking = asyncio.create_task(here.ask())
    await until(lambda: there.asked)
    (number,) = here.questions._open
    head = header(there.name)
    forged = [
        Answer(0, 0, number + 5, 0, is_last=True, body=b"\x01"),
        Answer(0, 0, number, 2**62, is_last=True, body=b"\x01"),
        Answer(0, 0, number, 0, is_last=False, body=b"\x01"),
    ]
    await here.backend.publish([(f"node:{here.name}", encode(head, each)) for each in forged])
    await until(lambda: not here.backend._events)
    early = asking.done()
    here.questions.give_up()

    assert not early
    assert (await asking)[1:] == (2, 3)
    assert here.questions._open == {}
    there.gate.set()
