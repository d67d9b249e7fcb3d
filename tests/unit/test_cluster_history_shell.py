"""Rooms that remember: what each client sees of them, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt

import msgspec
import pytest
from faulty_backend import until
from hypothesis import given
from hypothesis import strategies as st
from remembering import HEAD, Client, Node, numbers, running

from falcon_pachinko import (
    BackendError,
    Connection,
    EncodeError,
    HistoryLimits,
    HistoryPosition,
    NoHistoryError,
    to,
)
from falcon_pachinko.backends.base import Received
from falcon_pachinko.cluster import history_shell, resync, stored
from falcon_pachinko.cluster import node as node_module
from falcon_pachinko.cluster.node import Gap
from falcon_pachinko.cluster.parcels import Broadcast, Mark, encode
from falcon_pachinko.messages.codec import MSGPACK

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
async def nodes():
    async with running() as both:
        yield both


# Whoever comes and goes.

steps = st.lists(
    st.tuples(st.sampled_from(["say", "come", "go", "cut", "wait"]), st.integers(0, 3)),
    max_size=40,
)


class Play:
    """Four clients of two processes, or of one."""

    def __init__(self, nodes):
        self.nodes, self.working, self.said = nodes, [], 0
        self.clients = [Client(nodes[number % 2]) for number in range(4)]

    def say(self, client):
        self.said += 1
        self.working.append(asyncio.create_task(client.node.say(self.said)))

    def come(self, client):
        if client.connection is None:
            client.come()
            self.working.append(asyncio.create_task(client.join()))

    def go(self, client):
        client.go()

    async def cut(self, client):
        """Lose whatever is on its way to a process."""
        events = client.node.backend._events
        for each in [each for each in events if isinstance(each, Received)]:
            events.remove(each)
        await client.node.lose()

    async def end(self):
        """Have everybody here, and see the last message."""
        await asyncio.gather(*self.working)
        for each in self.clients:
            if each.connection is None:
                await each.join()
        await self.nodes[0].say("end")
        for each in self.clients:
            await until(lambda each=each: "end" in each.texts)


@given(steps, st.booleans())
def test_every_client_sees_every_offset_once(steps, alone):
    """Over two processes or on one: what a client has seen is contiguous, whatever happened."""

    async def play():
        async with contextlib.AsyncExitStack() as stack:
            nodes = [Node()] * 2 if alone else await stack.enter_async_context(running())
            play = Play(nodes)
            for act, who in steps:
                client = play.clients[who]
                if act == "cut" and not alone:
                    await play.cut(client)
                elif act in {"say", "come", "go"}:
                    getattr(play, act)(client)
                await asyncio.sleep(0)
            await play.end()

            for each in play.clients:
                first = each.offsets[0]
                assert each.offsets == list(range(first, play.said + 2))
                each.go()
            assert not any(node.traces for node in nodes)

    asyncio.run(play())


# Coming back.


async def test_a_history_has_to_be_there(nodes):
    """The error names the call that gives a room one."""
    here, _ = nodes
    here._options.by_prefix.clear()
    with pytest.raises(NoHistoryError, match="configure_rooms"):
        await here.client().join()
    with pytest.raises(NoHistoryError):
        await here.history("tea")

    assert here.traces == {}


@pytest.mark.parametrize(
    "since",
    [
        HistoryPosition("", -1),
        HistoryPosition("x" * 10_000, 10**30),
        HistoryPosition("\0", -(10**30)),
    ],
)
async def test_any_position_gets_an_answer(nodes, since):
    """One that cannot be is not recovered, and gets what is kept."""
    here, _ = nodes
    await here.say("one")
    ann = here.client()
    await ann.join(since)

    assert ann.states[0]["recovered"] is False
    assert ann.texts == ["one"]


async def test_one_that_has_gone_gets_nothing_and_leaves_nothing(nodes):
    """Coming back ends with the connection, wherever it is."""
    here, _ = nodes
    await here.say("one")
    ann = here.client()
    ann.come()
    connection = ann.connection
    here._members.forget(connection)
    await here._members.join(connection, "tea", HistoryPosition())
    gate = here.backend.stall("read")
    bob = here.client()
    joining = asyncio.create_task(bob.join())
    await until(lambda: "read" in here.backend.calls)
    bob.go()
    gate.set()
    await joining

    assert (ann.states, bob.states) == ([], [])
    assert here.traces == {}


async def test_a_join_that_is_cancelled_is_none(nodes):
    """Else it would be a member that lacks what it was not sent."""
    here, _ = nodes
    ann = here.client()
    here.backend.stall("read")
    joining = asyncio.create_task(ann.join())
    await until(lambda: "read" in here.backend.calls)
    joining.cancel()
    await asyncio.wait((joining,))

    assert ann.connection.rooms == frozenset()
    assert here.traces == {}


async def test_who_leaves_and_comes_while_it_catches_up_gets_it_once(nodes):
    """The first coming is over."""
    here, _ = nodes
    await here.say("one")
    ann = here.client()
    gate = here.backend.stall("read")
    first = asyncio.create_task(ann.join())
    await until(lambda: "read" in here.backend.calls)
    here._members.leave(ann.connection, "tea")
    second = asyncio.create_task(ann.join())
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, second)
    await here.say("two")

    assert ann.texts == ["one", "two"]
    assert len(ann.states) == 1


async def test_leaving_in_the_middle_of_the_past_ends_it(nodes):
    """Not a message more than the room it left has."""
    here, _ = nodes
    for _ in range(10):
        await here.say("x" * 200)
    ann = here.client(outbox_bytes=400)
    ann.come()
    joining = asyncio.create_task(ann.join_at_its_pace())
    ann.reads.clear()
    await until(lambda: ann.connection.outbox_bytes)
    here._members.leave(ann.connection, "tea")
    ann.reads.set()
    await joining
    await until(lambda: not ann.connection.outbox_bytes)

    assert len(ann.texts) < 9
    assert here.traces == {}


async def test_one_who_takes_the_past_too_slowly_is_cut_off(nodes):
    """What is live meanwhile waits in its budget, and no further."""
    here, _ = nodes
    for _ in range(4):
        await here.say("x" * 400)
    ann = here.client(outbox_bytes=2_000)
    ann.come()
    joining = asyncio.create_task(ann.join_at_its_pace())
    ann.reads.clear()
    await until(lambda: here.traces and ann.states == [] and ann.connection.outbox_bytes)
    await until(lambda: ann.connection in here.traces["tea"].core.returning)
    for _ in range(10):
        await here.say("x" * 400)

    assert ann.connection.close_code == 1013
    assert "while it caught up (outbox_bytes)" in ann.connection.close_reason
    ann.reads.set()
    await joining
    ann.go()


async def test_a_long_past_lets_others_run(monkeypatch):
    """Some dozens of messages at a time."""
    monkeypatch.setattr(history_shell, "MESSAGES_PER_TURN", 2)
    node = Node()
    for number in range(20):
        await node.say(number)
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await asyncio.sleep(0)
    ann, before = node.client(), turns
    await ann.join()
    task.cancel()

    assert turns - before >= 10
    assert ann.texts == list(range(20))


async def test_while_the_backend_is_away_one_joins_for_what_is_live(nodes):
    """And is told that nothing is known."""
    here, _ = nodes
    here.fail("read")
    gate = here.backend.stall("read")
    ann = here.client()
    joining = asyncio.create_task(ann.join())
    await until(lambda: "read" in here.backend.calls)
    await here.say("live")
    gate.set()
    await joining

    assert ann.states == [{"room": "tea", "recovered": False}]
    assert ann.texts == ["live"]
    await here.lose()
    with pytest.raises(BackendError):
        await here.history("tea")


# Sending.


async def test_only_objects_have_room_for_a_place(nodes):
    """Another message is refused, and nobody gets it."""
    here, _ = nodes
    with pytest.raises(EncodeError, match="takes objects"):
        await here.broadcast_to_room("tea", ["a", "list"])

    assert await here.history("tea") == []


@pytest.mark.parametrize("alone", [True, False])
async def test_who_is_left_out_is_not_dropped(alone, nodes):
    """An exclusion is no loss; nor is one who is still catching up."""
    node = Node() if alone else nodes[0]
    ann, bob = node.client(), node.client()
    for each in (ann, bob):
        await each.join()
    delivery = await node.say("x", exclude=[ann.connection.id])

    assert delivery == (1, 0, not alone)
    assert (ann.texts, bob.texts) == ([], ["x"])


async def test_without_a_place_the_exclusion_counts_too(nodes):
    """While the backend is away, as ever."""
    here, _ = nodes
    ann, bob = here.client(), here.client()
    for each in (ann, bob):
        await each.join()
    here.fail("append")
    delivery = await here.say("x", exclude=ann.connection.id)

    assert delivery == (1, 0, False)
    assert (ann.texts, bob.texts) == ([], ["x"])


async def test_the_last_member_may_leave_while_a_message_is_under_way(nodes):
    """Nobody waits for what cannot come any more, and the history is whole."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    await there.say("before")
    epoch = (await there.history("tea"))[0]["history"]["epoch"]
    gate = here.backend.stall("append")
    sending = asyncio.create_task(here.say("x"))
    await until(lambda: here.backend.calls[-1] == "append")
    ann.go()
    await until(lambda: "room:tea" not in here.backend._channels)
    gate.set()
    async with asyncio.timeout(30):
        delivery = await sending

    assert delivery == (0, 0, True)
    assert [each["history"]["epoch"] for each in await there.history("tea")] == [epoch] * 2


async def test_a_sender_that_is_cancelled_leaves_nobody_without_it():
    """On a process alone the fan-out goes on, to its end."""
    node = Node()
    clients = [node.client() for _ in range(600)]
    for each in clients:
        await each.join_plainly()
    sending = asyncio.create_task(node.say("x"))
    await until(lambda: clients[-1].texts or any(each.texts for each in clients))
    sending.cancel()
    await asyncio.wait((sending,))
    await until(lambda: all(each.texts for each in clients))

    assert sending.cancelled()
    await node.stop()


async def test_a_message_is_given_up_once_only(nodes):
    """One that comes back too late is not delivered a second time."""
    here, _ = nodes
    ann = here.client()
    await ann.join()
    here.backend.timeout = 0.05
    here.backend.stall("append")
    delivery = await here.say("x")
    place = here.backend.hub.histories["room:tea"]
    seq = next(iter(here._history.given_up.messages))
    late = Broadcast(seq, 0, "said", '{"type":"said","text":"x"}')
    late_at = HistoryPosition(place.epoch, place.offset + 1)
    await here._history.deliver(here.cluster.name, "tea", late, late_at)

    assert delivery == (1, 0, False)
    assert ann.texts == ["x"]
    assert not here._history.given_up.messages


async def test_who_came_after_a_message_was_given_up_gets_it_if_it_is_kept_after_all(nodes):
    """It was told of a history that the message is part of; the others have it already."""
    here, _ = nodes
    ann, bob = here.client(), here.client()
    await ann.join()
    here.backend.timeout = 0.05
    gate = here.backend.stall("append")
    await here.say("x")
    gate.set()
    await bob.join()
    await until(lambda: len(ann.states) == 2)
    place = here.backend.hub.histories["room:tea"]
    seq = next(iter(here._history.given_up.messages))
    late = Broadcast(seq, 0, "said", '{"type":"said","text":"x"}')
    late_at = HistoryPosition(place.epoch, place.offset + 1)
    before = list(ann.offsets)
    await here._history.deliver(here.cluster.name, "tea", late, late_at)

    assert (bob.texts, bob.offsets) == (["x"], [late_at.offset])
    assert ann.offsets == before == []
    assert here._history.given_up._ids == 0


async def test_members_that_have_what_was_given_up_are_not_remembered_for_ever(nodes, monkeypatch):
    """Their number is bounded too, whatever the number of messages."""
    monkeypatch.setattr(stored, "MOST_GIVEN_TO", 5)
    here, _ = nodes
    for _ in range(2):
        await here.client().join()
    here.fail("append", "forget")
    for number in range(20):
        await here.say(number)

    assert len(here._history.given_up.messages) == 2
    assert here._history.given_up._ids == 4


async def test_what_was_given_up_is_not_remembered_for_ever(nodes, monkeypatch):
    """A backend that keeps nothing for a long time does not fill the memory."""
    monkeypatch.setattr(stored, "MOST_GIVEN_UP", 5)
    here, _ = nodes
    here.fail("append", "forget")
    for number in range(20):
        await here.say(number)

    assert len(here._history.given_up.messages) == 5


async def test_a_history_with_a_hole_ends(nodes):
    """At the next message, at the next read or when the backend is back, whichever is first."""
    here, there = nodes
    ann = there.client()
    await ann.join()
    await there.say("one")
    old = ann.position
    here.fail("append", "forget")
    await here.say("lost")
    await here._history.stored.mend()
    assert set(here._history.stored.broken) == {"tea"}
    here.fail()
    await here._history.stored.mend()
    await until(lambda: ann.resyncs)
    await here.say("two")
    await until(lambda: "two" in ann.texts)

    assert ann.position.epoch != old.epoch
    assert not here._history.stored.broken


# What comes from elsewhere.


@pytest.mark.parametrize(
    "data",
    [
        b"junk",
        encode(HEAD, Mark(1, 0)),
        encode(HEAD, Broadcast(1, 0, "said", "[1]")),
        encode(HEAD, Broadcast(1, 0, "said", '{"type":')),
        encode(HEAD, Broadcast(1, 0, "said", "{}", b"\x90")),
    ],
)
async def test_what_is_no_message_with_a_place_is_left_out(nodes, data):
    """Live, and of the past: it is counted, and everything else is delivered."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    await there.say("one")
    await there.backend.append("room:tea", data, HistoryLimits())
    await there.say("two")
    await until(lambda: "two" in ann.texts)
    bob = here.client()
    await bob.join()

    assert ann.texts == bob.texts == ["one", "two"]
    assert bob.states[0]["messages"] == 2


async def test_a_form_that_cannot_be_made_harms_no_other_codec(nodes):
    """A number of a hundred digits has no MessagePack; who speaks JSON gets it."""
    here, there = nodes
    ann, frames = here.client(), []

    async def take(event):
        frames.append(event)

    bob = Connection("bob", take, here, direct=True, is_open=True)
    here._registry.add(bob)
    bob._speak("pachinko.msgpack", MSGPACK)
    await here._members.join(bob, "tea", HistoryPosition())
    await ann.join()
    text = '{"type":"said","text":"x","n":%s}' % ("1" * 100)
    await there.backend.append(
        "room:tea", encode(HEAD, Broadcast(1, 0, "said", text)), HistoryLimits()
    )
    await there.backend.publish([("room:tea", encode(HEAD, Broadcast(2, 0, "said", text)))])
    await until(lambda: len(ann.texts) == 2)
    here._members.leave(bob, "tea")
    await here._members.join(bob, "tea", HistoryPosition())

    assert len(frames) == 2
    assert here.status()["rejected"] == 2


async def test_a_place_on_another_channel_is_none(nodes):
    """Only rooms have histories."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    here.cluster.subscriptions.add("user:tea")
    await here.cluster.subscriptions.live("user:tea")
    data = encode(HEAD, Broadcast(1, 0, "said", "{}"))
    await there.backend.append("user:tea", data, HistoryLimits())
    await there.say("end")
    await until(lambda: ann.texts)

    assert ann.texts == ["end"]


# Gaps.


async def test_what_was_missed_in_a_gap_comes_before_what_is_live(nodes, monkeypatch):
    """To those who have everything else; once."""
    monkeypatch.setattr(resync, "SPREAD", (0.0, 0.001))
    here, there = nodes
    ann = here.client()
    await ann.join()
    await there.say("one")
    await until(lambda: ann.texts)
    here.backend._channels.discard("room:tea")
    await there.say("missed")
    here.backend._channels.add("room:tea")
    await here.lose()
    await there.say("live")
    await until(lambda: "live" in ann.texts)

    await until(lambda: ann.resyncs)

    assert ann.texts == ["one", "missed", "live"]
    assert (ann.resyncs, len(ann.states)) == (1, 1)


async def test_a_gap_in_a_quiet_room_is_recovered(nodes):
    """Who came with a position is known to have everything up to there."""
    here, there = nodes
    await there.say("before")
    ann = here.client()
    await ann.join()
    await here.lose()
    await there.say("after")
    await until(lambda: "after" in ann.texts)

    assert ann.texts == ["before", "after"]
    assert len(ann.states) == 1


@pytest.mark.parametrize("plainly", [True, False])
async def test_a_gap_that_cannot_be_made_up_for_is_told(nodes, plainly):
    """With what is kept; also to one who is still catching up, in its turn."""
    here, there = nodes
    ann, bob = here.client(), here.client()
    await (ann.join_plainly() if plainly else ann.join())
    await there.say("one")
    await until(lambda: ann.texts)
    gate = here.backend.stall("read")
    joining = asyncio.create_task(bob.join())
    await until(lambda: here.backend.calls[-1] == "read")
    await there.backend.forget("room:tea")
    here.backend._channels.discard("room:tea")
    await there.say("two")
    here.backend._channels.add("room:tea")
    losing = asyncio.create_task(here.lose())
    gate.set()
    await asyncio.gather(joining, losing)
    await there.say("three")
    await until(lambda: "three" in ann.texts and "three" in bob.texts)

    assert ann.states[-1]["recovered"] is False
    assert ann.texts == ["two", "three"]
    assert bob.texts == ["two", "three"]


async def test_a_gap_in_a_room_without_members_costs_nothing(nodes):
    """Nor in one without a history."""
    here, _ = nodes
    await here._exchange._missed(Gap("room:nobody", None, "a test"))
    here._options.by_prefix.clear()
    ann = here.client()
    await ann.join_plainly()
    here._history.catch_up("tea")

    assert "read" not in here.backend.calls


async def test_rooms_without_members_leave_no_trace(nodes):
    """However many there have been, on a process alone as well."""
    here, _ = nodes
    alone = Node()
    for node in (here, alone):
        for number in range(50):
            await node.say("x", room=str(number))
            ann = node.client()
            await ann.join(room=str(number))
            await node.say("y", room=str(number))
            ann.go()

        assert node.traces == {}
        assert not node._history.given_up.messages


async def test_a_hook_on_gaps_may_send(nodes):
    """What it waits for is delivered meanwhile: a history too is no dead end."""
    here, there = nodes
    ann, answered = here.client(), asyncio.get_running_loop().create_future()
    await ann.join()

    async def answer(gap):
        answered.set_result(await here.say("after the gap"))

    async def fail(gap):
        raise ValueError("a mistake")

    here.on_gap(fail)
    here.on_gap(answer)
    there.cluster.note_hole("room:tea")
    async with asyncio.timeout(30):
        delivery = await answered

    assert delivery == (1, 0, True)


async def test_what_comes_twice_is_delivered_once(nodes):
    """By its place, whoever sent it."""
    here, there = nodes
    ann = here.client()
    await ann.join()
    await there.say("one")
    await until(lambda: ann.texts)
    again = Broadcast(1, 0, "said", '{"type":"said","text":"one"}')
    await here._history.deliver(there.cluster.name, "tea", again, ann.position)

    assert ann.texts == ["one"]


async def test_a_gap_that_swallows_our_own_message_keeps_no_sender_waiting(nodes):
    """It is found in what is kept, and everybody has it from there."""
    here, _ = nodes
    ann = here.client()
    await ann.join_plainly()
    here.backend._channels.discard("room:tea")
    sending = asyncio.create_task(here.say("x"))
    await until(lambda: "append" in here.backend.calls)
    await here.lose()
    async with asyncio.timeout(30):
        delivery = await sending

    assert delivery == (1, 0, True)
    assert ann.texts == ["x"]


# Members that leave while something is under way.


@pytest.mark.parametrize("leaves", ["all but one", "all", "all, and others come"])
async def test_who_leaves_while_a_gap_is_made_up_for_is_forgotten(nodes, leaves):
    """Membership is looked at again after each message that waited."""
    here, there = nodes
    stay = here.client()
    await stay.join()
    clients = [here.client() for _ in range(20)]
    for each in clients:
        await each.join()
    for number in range(200):
        await there.say(number)
    await until(lambda: clients[-1].texts and clients[-1].texts[-1] == 199)
    await there.backend.forget("room:tea")
    here.backend._channels.discard("room:tea")
    for number in range(100):
        await there.say(number)
    here.backend._channels.add("room:tea")
    for each in clients:
        each.reads.clear()
    losing = asyncio.create_task(here.lose())
    await until(lambda: any(each.states[1:] for each in (stay, *clients)) or losing.done())
    for each in clients:
        each.reads.set()
        each.go()
    if leaves != "all but one":
        stay.go()
    late = here.client()
    if leaves == "all, and others come":
        await late.join()
    await losing

    members = here._registry.in_room("tea")
    room = here.traces.get("tea")
    assert (room is None) == (leaves == "all")
    if room is not None:
        assert room.core.floors.keys() <= members
        assert room.core.returning == {}


# What is kept.

IMAGE = b"\xff\x00"
WHEN = dt.datetime(2020, 1, 2, 3, tzinfo=dt.UTC)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("value", [IMAGE, WHEN, {"deep": [IMAGE, WHEN]}, {1: IMAGE}])
async def test_what_is_kept_is_kept_without_loss(nodes, alone, value):
    """Bytes and times come back as such, whoever was there when they were sent."""
    here, there = (Node(),) * 2 if alone else nodes
    json, live, late = there.client(), [], []
    await json.join()
    await here.broadcast_to_room("tea", {"type": "said", "text": value})
    await until(lambda: json.texts)

    async def packed(into, since):
        async def take(event):
            into.append(msgspec.msgpack.decode(event["bytes"]))

        name = f"m{next(numbers)}"
        made = Connection(name, take, there, direct=True, is_open=True)
        there._registry.add(made)
        made._speak("pachinko.msgpack", MSGPACK)
        await there._members.join(made, "tea", since)

    await packed(late, HistoryPosition())
    await packed(live, None)
    await here.broadcast_to_room("tea", {"type": "said", "text": value})
    await until(lambda: live and len(late) == 3 and len(json.texts) == 2)
    told = msgspec.json.decode(msgspec.json.encode(value))

    assert [each["text"] for each in (*late[1:], *live)] == [value] * 3
    assert json.texts == [told] * 2
    assert [each["text"] for each in await here.history("tea")] == [told] * 2


async def test_what_messagepack_has_no_form_of_is_kept_as_json(nodes):
    """A number of thirty digits reaches the clients that can read it, and stays."""
    here, there = nodes
    ann = there.client()
    await ann.join()
    await here.say(10**30)
    await until(lambda: ann.texts)

    assert ann.texts == [10**30]
    assert [each["text"] for each in await there.history("tea")] == [10**30]


async def test_the_bound_in_bytes_counts_one_encoding():
    """Not the JSON as well: as many messages are kept as fit, with a few dozen bytes for each."""
    node = Node(limits=HistoryLimits(count=1_000, bytes=100_000))
    for number in range(120):
        await node.say(f"{number:0900}")

    assert 100 <= len(await node.history("tea")) <= 111


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("size", [1_000, 50_000])
async def test_a_message_larger_than_the_history_is_refused(alone, size):
    """It is its sender's mistake; it wipes nothing, and nobody gets half of it."""
    limits = HistoryLimits(bytes=1_000)
    async with running(1, limits) as (shared,):
        node = Node(limits=limits) if alone else shared
        ann = node.client()
        await ann.join()
        await node.say("small")
        with pytest.raises(EncodeError, match=r"HistoryLimits\.bytes"):
            await node.say("x" * size)
        await node.say("too", store=False) if size < 2_000 else None

        assert [each["text"] for each in await node.history("tea")] == ["small"]
        await until(lambda: ann.texts)
        assert "x" * size not in ann.texts


# Targets.


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("target", "reached", "kept"),
    [
        (to.room("tea") - to.user("bob"), "ann", "tea"),
        (to.room("tea") & to.user("bob"), "bob", "tea"),
        (to.room("tea") | to.room("milk"), "ann bob cid", "tea milk"),
        (to.room("tea") | to.user("cid"), "ann bob cid", "tea"),
        (to.rooms("te") - to.user("ann"), "bob", "tea"),
        (to.user("ann"), "ann", ""),
        (to.everyone - to.room("tea"), "cid", ""),
    ],
)
async def test_every_room_that_a_target_names_keeps_it(nodes, alone, target, reached, kept):
    """Once each; and everybody whom it names gets it once, whatever it takes away."""
    here, there = (Node(),) * 2 if alone else nodes
    clients = {"ann": here.client(), "bob": there.client(), "cid": there.client()}
    for name, each in clients.items():
        for room in ("tea", "milk") if name == "bob" else ("milk",) if name == "cid" else ("tea",):
            if each.connection is None:
                each.come()
            await each.node._members.join(each.connection, room)
        each.connection.user_id = name
    await there.cluster.subscriptions.all_live()
    await here.broadcast({"type": "said", "text": "x"}, to=target)
    await here.say("end", room="tea")
    await here.say("end", room="milk")
    for each in clients.values():
        await until(lambda each=each: "end" in each.texts)

    got = {name: each.texts.count("x") for name, each in clients.items()}
    assert got == {name: int(name in reached) for name in clients}
    for room in ("tea", "milk"):
        texts = [each["text"] for each in await here.history(room)]
        assert texts.count("x") == int(room in kept)


# Outages.


@pytest.mark.parametrize("rooms", [1, 300])
async def test_an_outage_is_one_line(nodes, rooms, caplog, monkeypatch):
    """However many messages and rooms it is about; each is counted as not published."""
    monkeypatch.setattr(node_module, "STATE_SECONDS", 0.0)
    here, _ = nodes
    here.fail("append", "read", "forget")
    ann = here.client()
    await ann.join()
    before = here.status()["unpublished"]
    for number in range(300):
        await here.say(number, room=f"room{number % rooms}")
    await here._history.stored.mend()

    records = [each for each in caplog.records if each.name == "falcon_pachinko.history"]
    warnings = [each.message for each in records if each.levelname == "WARNING"]
    assert len(warnings) == 1
    assert here.status()["unpublished"] == before + 300
    assert len(here._history.stored.broken) == rooms


async def test_broken_rooms_are_remembered_in_bounds(nodes, monkeypatch):
    """Of more, the others hear as of a loss anywhere."""
    monkeypatch.setattr(stored, "MOST_BROKEN", 5)
    here, there = nodes
    here.fail("append", "forget")
    for number in range(20):
        await here.say(number, room=f"room{number}")
    here.fail()
    await until(lambda: there.status()["gaps"])

    assert len(here._history.stored.broken) == 5


async def test_names_that_clients_choose_forge_no_line(nodes, caplog):
    """In what is said of their rooms."""
    here, _ = nodes
    here.fail("append")
    await here.say("x", room="tea\nCRITICAL root: all is lost")

    assert caplog.records
    assert all(each.message.isprintable() for each in caplog.records)
