"""What this process asks of the others, and does for them."""

import asyncio
import itertools
import json

import pytest

from falcon_pachinko import Connection, Delivery, WebSocketConnectionManager, to
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.rooms.fanout import MEMBERS_PER_TURN

numbers = itertools.count()


class Sink:
    """A server that keeps what it gets."""

    def __init__(self):
        self.heard, self.closed = [], None
        self.changed = asyncio.Event()

    async def send(self, event):
        if event["type"] == "websocket.close":
            self.closed = (event["code"], event["reason"])
        else:
            self.heard.append(json.loads(event["text"]))
        self.changed.set()

    async def hears(self, *expected):
        async with asyncio.timeout(30):
            while self.heard != list(expected):
                self.changed.clear()
                await self.changed.wait()

    async def is_closed(self):
        async with asyncio.timeout(30):
            while self.closed is None:
                self.changed.clear()
                await self.changed.wait()
        return self.closed


@pytest.fixture
async def processes():
    """Two processes of one cluster."""
    hub = MemoryHub()
    both = [WebSocketConnectionManager(backend=MemoryBackend(hub)) for _ in range(2)]
    for each in both:
        await each.start()
    yield both
    for each in both:
        await each.stop()


async def come(manager, *rooms, user_id=None, tag=None):
    """Have somebody come; give what is sent there."""
    sink = Sink()
    made = Connection(f"c{next(numbers)}", sink.send, manager, direct=True, is_open=True)
    manager._registry.add(made)
    for each in rooms:
        await manager.join_room(made.id, each)
    if user_id is not None:
        made.user_id = user_id
        await manager._live("user", user_id)
    if tag is not None:
        await made.add_tag(tag)
    sink.connection = made
    return sink


@pytest.mark.parametrize(
    "target",
    [
        to.room("tea"),
        to.rooms("t"),
        to.user("bob"),
        to.tag("pro"),
        to.everyone,
        to.room("tea") & to.tag("pro"),
        to.user("bob") - to.room("coffee"),
    ],
)
async def test_a_broadcast_reaches_whom_a_target_names_elsewhere(processes, target):
    """It is evaluated where the connections live; the delivery tells of this process only."""
    here, there = processes
    meant = await come(there, "tea", user_id="bob", tag="pro")
    other = await come(there, "coffee", user_id="ann")

    delivery = await here.broadcast("hello", to=target)
    await here.broadcast("end", to=to.connection(other.connection.id))
    await meant.hears("hello")
    await other.hears(*(["hello", "end"] if target == to.everyone else ["end"]))

    assert delivery == Delivery(0, 0, published=True)


async def test_a_local_broadcast_stays_here(processes):
    """Each process tells its own."""
    here, there = processes
    mine, theirs = await come(here, "tea"), await come(there, "tea")

    local = await here.broadcast("local", to=to.room("tea"), local=True)
    both = await here.broadcast("both", to=to.room("tea"))
    await theirs.hears("both")

    assert mine.heard == ["local", "both"]
    assert (local.published, both.published) == (False, True)


async def test_what_is_for_one_connection_of_this_process_stays_here(processes):
    """No other process need hear of it."""
    here, there = processes
    mine, theirs = await come(here), await come(there)

    near = await here.send_to_connection(mine.connection.id, 1)
    far = await here.send_to_connection(theirs.connection.id, 2)
    await theirs.hears(2)

    assert mine.heard == [1]
    assert (near, far) == (Delivery(1, 0), Delivery(0, 0, published=True))


@pytest.mark.parametrize("how", ["list", "iterator", "connection", "single"])
async def test_an_exclusion_counts_elsewhere_too(processes, how):
    """By id, however it was given; an iterator gives its ids only once."""
    here, there = processes
    out, stays = await come(there, "tea"), await come(there, "tea")
    mine = await come(here, "tea")
    ids = [out.connection.id, mine.connection.id]
    exclude = {
        "list": ids,
        "iterator": iter(ids),
        "connection": [out.connection, mine.connection],
        "single": out.connection.id,
    }[how]

    await here.broadcast_to_room("tea", 1, exclude=exclude)
    await here.broadcast_to_room("tea", 2)
    await stays.hears(1, 2)
    await out.hears(2)

    assert mine.heard == ([1, 2] if how == "single" else [2])


async def test_options_of_sending_count_elsewhere_too(processes):
    """A client there that is behind is not kept waiting for what is of the moment only."""
    here, there = processes
    sink, reads = await come(there, "tea"), asyncio.Event()
    taken = []

    async def slowly(event):
        await reads.wait()
        taken.append(event["text"])

    sink.connection._outbox._send = slowly
    await here.broadcast_to_room("tea", "first")
    for each in ("x1", "x2"):
        await here.broadcast_to_room("tea", each, latest="x")
    await here.broadcast_to_room("tea", "now", volatile=True)
    async with asyncio.timeout(30):
        while not there.status()["dropped"]:  # noqa: ASYNC110  # another task does it
            await asyncio.sleep(0)
    reads.set()
    await sink.connection.drained()

    assert taken == ['"first"', '"x2"']
    assert there.status()["dropped"] == {"volatile": 1}


@pytest.mark.parametrize("target", [to.user("bob"), to.room("tea"), to.everyone])
async def test_a_disconnect_closes_elsewhere_too(processes, target):
    """And the answer counts those of both."""
    here, there = processes
    mine, theirs = await come(here, "tea", user_id="bob"), await come(there, "tea", user_id="bob")

    closed = await here.disconnect(target, 4403, "banned")

    assert closed == (2, 2, 2)
    assert [await each.is_closed() for each in (mine, theirs)] == [(4403, "banned")] * 2


async def test_a_disconnect_reaches_a_handshake_elsewhere(processes):
    """One that began before, and that nobody knows yet to be the one that was meant."""
    here, there = processes
    sink = Sink()
    new = Connection("new", sink.send, there, direct=True)
    there._registry.add(new)
    there._revocations.begin(new)

    await here.disconnect(to.user("bob"), 4403, "banned")
    new.user_id = "bob"
    there._revocations.apply(new)

    assert (new.close_code, sink.heard) == (4403, [])


async def test_nothing_arrives_for_those_who_have_left(processes):
    """The last one of a room is the end of listening to it."""
    here, there = processes
    left, stays = await come(there, "tea"), await come(there, "coffee")
    await there.leave_room(left.connection.id, "tea")

    await here.broadcast_to_room("tea", 1)
    await here.broadcast_to_room("coffee", 2)
    await stays.hears(2)

    assert left.heard == []


async def test_closing_many_lets_others_run(members, manager):
    """As a fan-out does."""
    members(*(str(number) for number in range(MEMBERS_PER_TURN + 1)))
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, "turn")

    assert (await manager.disconnect(to.everyone)).total == MEMBERS_PER_TURN + 1
    assert turns == ["turn"]


async def test_a_coroutine_that_is_spawned_is_waited_for_at_the_end(manager, until):
    """And forgotten when it is over."""
    ended = asyncio.Event()
    manager._exchange.spawn(ended.wait())
    (task,) = manager._exchange.endings
    stopping = asyncio.create_task(manager.stop())
    for _ in range(5):
        await asyncio.sleep(0)
    early = stopping.done()

    ended.set()
    await stopping
    await until(lambda: not manager._exchange.endings)

    assert (early, task.done()) == (False, True)
