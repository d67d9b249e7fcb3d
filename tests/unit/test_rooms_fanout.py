"""A message to many: in the order of the calls for each of them, and without a task per member."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import (
    Connection,
    Delivery,
    EncodeError,
    Limits,
    WebSocketConnectionManager,
    to,
)
from falcon_pachinko.messages.codec import JSON, MSGPACK
from falcon_pachinko.rooms.fanout import MEMBERS_PER_TURN, packets_of

MANY = MEMBERS_PER_TURN * 2 + 1


class Sink:
    """A server that keeps what it gets."""

    def __init__(self):
        self.heard = []

    async def send(self, event):
        self.heard.append(json.loads(event["text"]))


class Crowd:
    """Many connections, all in one room."""

    def __init__(self, manager, count=MANY):
        self.manager, self.sinks = manager, {}
        for number in range(count):
            sink = self.sinks[str(number)] = Sink()
            made = Connection(
                str(number), sink.send, manager, limits=Limits(), direct=True, is_open=True
            )
            manager._registry.add(made)
            manager._registry.join(made, "lobby")

    def __getitem__(self, name):
        return self.manager._registry.connections[str(name)]

    def say(self, message, **options):
        """Have it said to the room, by a task of its own."""
        return asyncio.create_task(self.manager.broadcast_to_room("lobby", message, **options))

    @property
    def last(self):
        """One whose turn has not come after the first batch."""
        (fanout,) = self.manager._fanout.underway[:1]
        return next(iter(fanout.pending)).id

    @property
    def heard(self):
        return [sink.heard for sink in self.sinks.values()]


@pytest.fixture
def crowd(manager):
    return Crowd(manager)


# Packets.


def test_a_message_is_encoded_once_for_each_codec():
    """When it is asked for; all who speak that codec get the same frame."""
    packets = packets_of({"n": 1})

    assert packets[JSON] is packets[JSON]
    assert packets[MSGPACK].event["bytes"] == b"\x81\xa1n\x01"
    with pytest.raises(EncodeError):
        packets_of(object())[JSON]


# Order.


async def test_everybody_gets_it_once(crowd):
    """And the delivery counts them."""
    delivery = await crowd.say(1)

    assert delivery == Delivery(MANY, 0, published=False)
    assert crowd.heard == [[1]] * MANY


async def test_a_long_fan_out_lets_others_run(crowd):
    """A broadcast to thousands does not stop the loop."""
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, "turn")

    await crowd.manager.broadcast_to_all("hello")

    assert turns == ["turn"]


async def test_a_short_one_does_not_suspend(manager):
    """It costs no turn of the loop: all have it when the call has run once."""
    crowd = Crowd(manager, MEMBERS_PER_TURN)

    with pytest.raises(StopIteration):
        crowd.manager.broadcast_to_all("hello").send(None)

    assert crowd.heard == [["hello"]] * MEMBERS_PER_TURN


@pytest.mark.parametrize("count", [2, 3, 5])
async def test_fan_outs_reach_everybody_in_the_order_of_their_calls(crowd, count):
    """However many are underway at once."""
    await asyncio.gather(*(crowd.say(number) for number in range(count)))

    assert crowd.heard == [list(range(count))] * MANY
    assert crowd.manager._fanout.underway == []


async def test_a_small_one_does_not_overtake_a_large_one(crowd):
    """Those whom both address get both in order, at once."""
    large = crowd.say("large")
    await asyncio.sleep(0)
    last = crowd.last

    await crowd.manager.broadcast("small", to=to.connection(last))
    heard = list(crowd.sinks[last].heard)
    await large

    assert heard == ["large", "small"]
    assert crowd.sinks[last].heard == ["large", "small"]


@pytest.mark.parametrize("verb", ["send_media", "send_text"])
async def test_what_is_sent_to_one_directly_does_not_overtake_either(crowd, verb):
    """It waits for nobody: that member is served first."""
    fan_outs = [crowd.say(number) for number in range(2)]
    await asyncio.sleep(0)
    last = crowd.last

    await getattr(crowd[last], verb)("3")
    heard = list(crowd.sinks[last].heard)
    deliveries = await asyncio.gather(*fan_outs)

    assert heard[:2] == [0, 1]
    assert len(heard) == len(crowd.sinks[last].heard) == 3
    assert [each.sent for each in deliveries] == [MANY, MANY]


@given(st.lists(st.sampled_from(["all", "some", "one", "turn"]), max_size=12))
def test_each_member_hears_in_the_order_of_the_calls(steps):
    """Large and small ones, direct ones, and turns of the loop in between."""

    async def play():
        crowd = Crowd(WebSocketConnectionManager(), MEMBERS_PER_TURN + 2)
        expected = {each: [] for each in crowd.sinks}
        calls = []
        for number, step in enumerate(steps):
            if step == "turn":
                await asyncio.sleep(0)
                continue
            whom = list(expected)
            if step == "some":
                whom = whom[:3]
                target = to.connection("0") | to.connection("1") | to.connection("2")
                calls.append(asyncio.create_task(crowd.manager.broadcast(number, to=target)))
            elif step == "one":
                whom = whom[-1:]
                calls.append(asyncio.create_task(crowd[whom[0]].send_media(number)))
            else:
                calls.append(crowd.say(number))
            for each in whom:
                expected[each].append(number)
        await asyncio.gather(*calls)
        return expected, {each: sink.heard for each, sink in crowd.sinks.items()}

    expected, heard = asyncio.run(play())

    assert heard == expected


# Coming and going meanwhile.


async def test_one_that_leaves_the_room_meanwhile_is_left_out(crowd):
    """Nothing that was sent to the room arrives after ``leave_room`` has returned."""
    fan_out = crowd.say("hello")
    await asyncio.sleep(0)
    last = crowd.last

    await crowd.manager.leave_room(last, "lobby")
    delivery = await fan_out

    assert crowd.sinks[last].heard == []
    assert (delivery.sent, delivery.dropped) == (MANY - 1, 0)


async def leaves(one):
    await one.manager.leave_room(one.id, "lobby")


async def loses_its_tag(one):
    await one.remove_tag("pro")


async def logs_out(one):
    one.user_id = None


@pytest.mark.parametrize(
    ("target", "changes"),
    [
        (to.tag("pro"), loses_its_tag),
        (to.room("lobby") & to.tag("pro"), loses_its_tag),
        (to.user("ann"), logs_out),
        (to.user("ann") | to.tag("beta"), logs_out),
        (to.rooms("lob"), leaves),
    ],
    ids=["tag", "room and tag", "user", "user or tag", "rooms"],
)
async def test_one_that_is_not_meant_any_more_is_left_out(crowd, target, changes):
    """Whatever it was meant by: a tag that was taken away, a user that has logged out."""
    for name in crowd.sinks:
        crowd[name].user_id = "ann"
        await crowd[name].add_tag("pro")
    fan_out = asyncio.create_task(crowd.manager.broadcast("hello", to=target))
    await asyncio.sleep(0)
    last = crowd.last

    await changes(crowd[last])
    delivery = await fan_out

    assert crowd.sinks[last].heard == []
    assert delivery == Delivery(MANY - 1, 0)


async def test_one_that_leaves_and_comes_back_missed_it(crowd):
    """It has left the fan-out, too."""
    fan_out = crowd.say("hello")
    await asyncio.sleep(0)
    last = crowd.last

    await crowd.manager.leave_room(last, "lobby")
    await crowd.manager.join_room(last, "lobby")
    await fan_out

    assert crowd.sinks[last].heard == []


async def test_one_who_still_matches_is_not_left_out(crowd):
    """It has left a room, but not all that the message is addressed to."""
    for each in crowd.sinks:
        await crowd[each].add_tag("pro")
    target = to.room("lobby") | to.tag("pro")
    fan_out = asyncio.create_task(crowd.manager.broadcast("hello", to=target))
    await asyncio.sleep(0)
    last = crowd.last

    await crowd.manager.leave_room(last, "lobby")
    delivery = await fan_out

    assert crowd.sinks[last].heard == ["hello"]
    assert delivery.sent == MANY


async def test_one_that_comes_meanwhile_gets_what_is_said_later(crowd, manager):
    """A fan-out serves who was there when it began."""
    fan_out = crowd.say("early")
    await asyncio.sleep(0)
    sink = Sink()
    late = Connection("late", sink.send, manager, direct=True, is_open=True)
    manager._registry.add(late)
    manager._registry.join(late, "lobby")

    await crowd.say("late")
    await fan_out

    assert sink.heard == ["late"]


async def test_those_who_end_meanwhile_get_nothing(crowd):
    """The members that are left do."""
    fan_out = crowd.say("hello")
    await asyncio.sleep(0)
    last = crowd.last

    await crowd[last].close(4000)
    crowd.sinks[last].heard.clear()
    await crowd.manager.remove_connection(last)
    await fan_out

    assert crowd.sinks[last].heard == []
    assert sum(each == ["hello"] for each in crowd.heard) == MANY - 1


# Cancellation and failure.


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_broadcaster_that_is_cancelled_has_reached_everybody_all_the_same(
    crowd, until, turns
):
    """A message that was begun is not half of the members' only."""
    fan_outs = [crowd.say("first"), crowd.say("second")]
    await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)

    for each in fan_outs:
        each.cancel()
    await asyncio.wait(fan_outs)
    await crowd.manager.broadcast_to_room("lobby", "third")
    await until(lambda: not crowd.manager._exchange.endings)

    assert crowd.heard == [["first", "second", "third"]] * MANY
    assert crowd.manager._fanout.underway == []


async def test_a_fan_out_that_fails_stops_no_other(crowd):
    """What is wrong with one message is the business of that one."""
    fanout = crowd.manager._fanout
    chosen = list(crowd.manager._registry.in_room("lobby"))
    broken = asyncio.create_task(fanout.deliver(chosen, packets_of(object())))
    fine = asyncio.create_task(fanout.deliver(chosen, packets_of("hello")))

    with pytest.raises(EncodeError):
        await broken

    assert await fine == (MANY, 0)
    assert fanout.underway == []


# Options.


async def test_a_long_fan_out_counts_what_was_dropped(crowd, wire, connect):
    """A full outbox is no silence, and a volatile message is not kept for who is behind."""
    slow = connect(wire, "slow", outbox_bytes=2, on_overflow="drop_newest")
    crowd.manager._registry.join(slow, "lobby")
    wire.stalled = True

    deliveries = [
        await crowd.say("a"),
        await crowd.say("b"),
        await crowd.say("c", volatile=True),
    ]

    assert [(each.sent, each.dropped) for each in deliveries] == [
        (MANY + 1, 0), (MANY, 1), (MANY, 1),
    ]  # fmt: skip
    assert crowd.manager.status()["dropped"] == {"overflow": 1, "volatile": 1}


async def test_the_latest_replaces_what_waits_in_a_long_fan_out_too(crowd, wire, connect):
    """Under the key of the room."""
    slow = connect(wire, "slow")
    crowd.manager._registry.join(slow, "lobby")
    wire.stalled = True
    await crowd.say("first")

    deliveries = [await crowd.say(each, latest="x") for each in ("x1", "x2")]
    wire.drain()
    await wire.took(2)

    assert [each.sent for each in deliveries] == [MANY + 1] * 2
    assert wire.frames == ['"first"', '"x2"']
