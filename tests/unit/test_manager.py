"""The manager: who is connected, in which rooms, and how a message gets to them."""

import asyncio
import json

import falcon
import pytest

from falcon_pachinko import (
    Delivery,
    DuplicateConnectionError,
    EncodeError,
    InvalidNameError,
    Limits,
    RoomLimitError,
    UnknownConnectionError,
    WebSocketConnectionManager,
    to,
)
from falcon_pachinko.manager import STRIDE

# Membership.


async def test_an_id_is_taken_once(wire, connect, manager):
    """A second connection of the same id would shadow the first."""
    ann = connect(wire)

    with pytest.raises(DuplicateConnectionError, match="'ann' is known already; remove it first"):
        connect(wire)

    assert manager.all() == {ann}


async def test_join_and_leave_are_idempotent(wire, connect, manager):
    """Being in a room twice is being in it; leaving one it is not in is nothing."""
    ann = connect(wire)

    await manager.join_room("ann", "lobby")
    await manager.join_room("ann", "lobby")
    members = await manager.get_connections_in_room("lobby")
    await manager.leave_room("ann", "lobby")
    await manager.leave_room("ann", "lobby")
    await manager.leave_room("ann", "elsewhere")

    assert members == [ann]
    assert await manager.get_connections_in_room("lobby") == []
    assert ann.rooms == frozenset()


async def test_joining_needs_a_connection_that_is_here(manager):
    """An id that was mistyped is noticed at once; one that has gone may leave and be removed."""
    with pytest.raises(UnknownConnectionError, match="'nobody'"):
        await manager.join_room("nobody", "lobby")
    await manager.leave_room("nobody", "lobby")
    await manager.remove_connection("nobody")

    assert await manager.get_rooms_by_prefix("") == []


@pytest.mark.parametrize("name", ["", None, "x" * 201, "\ud800"])
async def test_a_room_has_a_proper_name(wire, connect, manager, name):
    """A bad name puts nobody anywhere."""
    ann = connect(wire)

    with pytest.raises(InvalidNameError):
        await manager.join_room("ann", name)

    assert ann.rooms == frozenset()
    assert manager.status()["rooms"] == 0


async def test_a_connection_is_in_so_many_rooms_at_most(wire, connect, manager):
    """One more is refused with the limit's name; a room it is in already is not one more."""
    ann = connect(wire, rooms=2)
    await manager.join_room("ann", "a")
    await manager.join_room("ann", "b")

    with pytest.raises(RoomLimitError, match=r"2 rooms at once \(Limits.rooms\)"):
        await manager.join_room("ann", "c")
    await manager.join_room("ann", "b")
    await manager.leave_room("ann", "a")
    await manager.join_room("ann", "c")

    assert ann.rooms == {"b", "c"}


async def test_forgetting_leaves_no_trace(wire, connect, manager):
    """Rooms, tags and user forget it, and those that are empty vanish."""
    ann = connect(wire)
    ann.user_id = "u-1"
    await ann.add_tag("pro")
    for each in ("a", "b"):
        await manager.join_room("ann", each)

    await manager.remove_connection("ann")
    await manager.remove_connection("ann")

    status = manager.status()
    assert (status["connections"], status["rooms"], status["users"]) == (0, 0, 0)
    assert [each.select(manager) for each in (to.tag("pro"), to.user("u-1"), to.room("a"))] == [
        set()
    ] * 3
    assert (ann.rooms, ann.tags) == (frozenset(), frozenset())


async def test_one_that_has_gone_joins_and_wears_nothing(wire, connect, manager):
    """A handler that is still running may try; it changes nothing, quietly."""
    ann = connect(wire)
    await manager.remove_connection("ann")

    manager.join(ann, "lobby")
    await ann.add_tag("pro")
    ann.user_id = "u-1"

    assert manager.in_room("lobby") == set()
    assert manager.with_tag("pro") == set()
    assert manager.of_user("u-1") == set()


async def test_the_same_id_may_come_back(wire, connect, manager):
    """And the old connection's clean-up does not take the new one away."""
    old = connect(wire)
    await manager.remove_connection("ann")
    new = connect(wire)

    manager.forget(old)

    assert manager.with_id("ann") == {new}


# Sending.


async def test_a_broadcast_reaches_each_member_once(members, manager):
    """Nobody else, and the delivery counts them."""
    wires = members("ann", "bob", "eve")
    for each in ("ann", "bob"):
        await manager.join_room(each, "lobby")

    delivery = await manager.broadcast_to_room("lobby", {"n": 1})

    assert delivery == Delivery(sent=2, dropped=0, published=False)
    assert {each: own.frames for each, own in wires.items()} == {
        "ann": ['{"n":1}'], "bob": ['{"n":1}'], "eve": [],
    }  # fmt: skip


async def test_a_broadcast_is_encoded_once(members, manager):
    """All get the very same event, however many they are."""
    wires = members("ann", "bob")

    await manager.broadcast_to_all({"n": 1})

    assert wires["ann"].events[0] is wires["bob"].events[0]


@pytest.mark.parametrize("excluded", [["ann"], {"ann", "nobody"}, ("ann",), "ann"])
async def test_a_broadcast_leaves_out_whom_it_should(members, manager, excluded):
    """By their ids, in any collection; a single id need not be wrapped."""
    wires = members("ann", "bob", "a")
    for each in wires:
        await manager.join_room(each, "lobby")

    to_room = await manager.broadcast_to_room("lobby", 1, exclude=excluded)
    to_all = await manager.broadcast_to_all(2, exclude=excluded)

    assert (to_room.sent, to_all.sent) == (2, 2)
    assert [own.frames for own in wires.values()] == [[], ["1", "2"], ["1", "2"]]


async def test_a_message_that_cannot_be_encoded_reaches_nobody(members, manager):
    """Nobody gets half of it: it fails the caller before the first send."""
    wires = members("ann", "bob")

    with pytest.raises(EncodeError):
        await manager.broadcast({"bad": object()}, to=to.everyone)

    assert [own.events for own in wires.values()] == [[], []]


async def test_a_target_may_be_any_expression(members, manager):
    """Rooms, users, tags and ids, combined."""
    wires = members("ann", "bob", "eve", "kim")
    for each in ("ann", "bob", "eve"):
        await manager.join_room(each, "lobby")
    for each in ("ann", "bob", "kim"):
        (known,) = manager.with_id(each)
        await known.add_tag("pro")
        known.user_id = f"u-{each}"

    delivery = await manager.broadcast(1, to=to.room("lobby") & to.tag("pro") - to.user("u-bob"))
    await manager.broadcast(2, to=to.connection("kim") | to.user("u-ann"))

    assert delivery.sent == 1
    assert {each: own.frames for each, own in wires.items() if own.frames} == {
        "ann": ["1", "2"], "kim": ["2"],
    }  # fmt: skip


async def test_one_connection_or_one_user_can_be_reached(members, manager):
    """All of a user's connections; an id that has gone gets nothing, quietly."""
    wires = members("laptop", "phone", "other")
    for each in ("laptop", "phone"):
        (known,) = manager.with_id(each)
        known.user_id = "ann"

    deliveries = [
        await manager.send_to_user("ann", 1),
        await manager.send_to_connection("phone", 2),
        await manager.send_to_connection("gone", 3),
        await manager.send_to_user("nobody", 4),
    ]

    assert [each.sent for each in deliveries] == [2, 1, 0, 0]
    assert [own.frames for own in wires.values()] == [["1"], ["1", "2"], []]


async def test_a_delivery_counts_what_was_dropped(connect, manager, wire):
    """A full outbox is no silence."""
    ann = connect(wire, outbox_bytes=2, on_overflow="drop_newest")
    wire.stalled = True

    deliveries = [await manager.broadcast_to_all(each) for each in (11, 22, 33)]
    ann.release(now=True)

    assert deliveries == [Delivery(1, 0), Delivery(0, 1), Delivery(0, 1)]
    assert manager.status()["dropped"] == {"overflow": 2}


async def test_one_that_does_not_read_delays_nobody(members, manager):
    """The broadcast is over at once, and all others have it."""
    wires = members("deaf", "ann", "bob")
    wires["deaf"].stalled = True

    deliveries = [await manager.broadcast_to_all(number) for number in range(3)]
    waiting = manager.status()["outbox_bytes"]
    wires["deaf"].drain()
    await wires["deaf"].took(3)

    assert deliveries == [Delivery(3, 0)] * 3
    assert waiting == 3
    assert [own.frames for own in wires.values()] == [["0", "1", "2"]] * 3


async def test_a_long_fan_out_lets_others_run(members, manager):
    """A broadcast to thousands does not stop the loop."""
    members(*(str(number) for number in range(STRIDE + 1)))
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, "turn")

    await manager.broadcast_to_all("hello")

    assert turns == ["turn"]


async def test_members_may_come_and_go_during_a_fan_out(members, manager):
    """It serves who was there when it began; nobody trips over a set that changes."""
    wires = members(*(str(number) for number in range(STRIDE + 1)))
    last = str(STRIDE)

    broadcast = asyncio.create_task(manager.broadcast_to_all("hello"))
    await asyncio.sleep(0)
    for each in wires:
        await manager.remove_connection(each)
    await manager.broadcast_to_all("nobody is here")

    assert (await broadcast).sent == STRIDE + 1
    assert wires[last].frames == ['"hello"']


# Closing.


async def test_disconnect_closes_whom_a_target_names(members, manager):
    """With code and reason, once each; the count is of those who were open."""
    wires = members("ann", "bob", "eve")

    closed = [
        await manager.disconnect(to.connection("ann") | to.connection("bob"), 4003, "banned"),
        await manager.disconnect(to.everyone),
        await manager.disconnect("ann"),
        await manager.disconnect("nobody"),
    ]

    assert closed == [2, 1, 0, 0]
    assert [(own.events[0]["code"], own.events[0]["reason"]) for own in wires.values()] == [
        (4003, "banned"), (4003, "banned"), (1000, ""),
    ]  # fmt: skip


async def test_disconnect_needs_a_code_that_may_be_sent(members, manager):
    """Else nobody is closed."""
    wires = members("ann")

    with pytest.raises(ValueError, match="1006"):
        await manager.disconnect(to.everyone, 1006)

    assert wires["ann"].events == []


async def test_closing_many_lets_others_run(members, manager):
    """As a fan-out does."""
    members(*(str(number) for number in range(STRIDE + 1)))
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, "turn")

    assert await manager.disconnect(to.everyone) == STRIDE + 1
    assert turns == ["turn"]


# Looking.


async def test_rooms_are_found_by_a_plain_prefix(members, manager):
    """Sorted, and no character of it is a pattern."""
    members("ann")
    for each in ("chat:tea", "chat:b*", "chat:b", "game:x"):
        await manager.join_room("ann", each)

    assert await manager.get_rooms_by_prefix("chat:") == ["chat:b", "chat:b*", "chat:tea"]
    assert await manager.get_rooms_by_prefix("chat:b*") == ["chat:b*"]
    assert await manager.get_rooms_by_prefix("") == ["chat:b", "chat:b*", "chat:tea", "game:x"]
    assert await manager.get_rooms_by_prefix("nope") == []


async def test_connections_can_be_counted_and_gone_through(members, manager):
    """All of them or those of one room; removing some meanwhile is no error."""
    members("ann", "bob", "eve")
    await manager.join_room("ann", "lobby")

    in_lobby = [each.id async for each in manager.connections("lobby")]
    everybody = []
    async for each in manager.connections():
        everybody.append(each.id)
        await manager.remove_connection(each.id)

    assert (in_lobby, sorted(everybody)) == (["ann"], ["ann", "bob", "eve"])
    assert await manager.count() == await manager.count(to.everyone) == len(manager) == 0


async def test_counting_takes_any_target(members, manager):
    """And a target that names nobody counts nobody, not everybody."""
    members("ann", "bob")
    await manager.join_room("ann", "lobby")

    assert await manager.count(to.room("lobby")) == 1
    assert await manager.count(to.everyone - to.room("lobby")) == 1
    assert await manager.count(to.room("nowhere")) == 0
    assert await manager.count() == 2


async def test_status_is_plain_data(members, manager):
    """Counts of now and of ever, and what other parts of the app add."""
    members("ann")
    await manager.join_room("ann", "lobby")
    manager.add_gauge("moon", lambda: "full")

    status = manager.status()
    assert json.loads(json.dumps(status)) == status
    assert {name: status[name] for name in ("state", "connections", "rooms", "users", "moon")} == {
        "state": "serving", "connections": 1, "rooms": 1, "users": 0, "moon": "full",
    }  # fmt: skip


# Connections of other kinds.


async def test_a_connection_may_be_added_under_another_id(wire, connect, manager):
    """Its id is what it was added as, and its resource what was given."""
    ann = connect(wire)
    await manager.remove_connection("ann")

    await manager.add_connection("seat-1", ann, resource="the table")

    assert (ann.id, ann.resource) == ("seat-1", "the table")
    assert manager.with_id("seat-1") == {ann}


class PlainWebSocket:
    """What an ``on_websocket`` of one's own has: Falcon's verbs, as far as we use them."""

    subprotocols = ("v1",)

    def __init__(self):
        self.said = []

    async def send_text(self, text):
        self.said.append(text)

    async def send_data(self, data):
        self.said.append(data)

    async def close(self, code=None, reason=None):
        self.said.append((code, reason))


async def test_a_falcon_websocket_can_be_added(manager):
    """Rooms, broadcasts and ``disconnect`` reach it as any other."""
    ws = PlainWebSocket()

    await manager.add_connection("plain", ws)
    await manager.join_room("plain", "lobby")
    await manager.broadcast_to_room("lobby", 1)
    (known,) = await manager.get_connections_in_room("lobby")
    await known.send_data(b"2")
    await manager.disconnect("plain", 4000)

    assert ws.said == ["1", b"2", (4000, None)]
    assert (known.ready, known.subprotocols) == (False, ("v1",))


async def test_a_falcon_websocket_that_is_gone_is_lost_quietly(manager):
    """Falcon raises on a closed WebSocket; a broadcast does not."""

    class Gone(PlainWebSocket):
        async def send_text(self, text):
            raise falcon.WebSocketDisconnected(1001)

    await manager.add_connection("plain", Gone())

    assert await manager.broadcast_to_all(1) == Delivery(0, 1)


async def test_one_that_has_gone_may_still_choose_its_codec(wire, connect, manager):
    """It is counted no more: a broadcast encodes for those who are here."""
    ann = connect(wire, is_open=False, subprotocols=["tea", "pachinko.msgpack"])
    await manager.remove_connection("ann")

    await ann.accept("pachinko.msgpack")
    await ann.send_media(1)

    assert wire.frames == [b"\x01"]
    assert await manager.broadcast_to_all(2**70) == Delivery(0, 0)


# Shutting down.


async def test_shut_down_closes_everybody_with_1012(members, manager):
    """That code tells a client to come back."""
    wires = members("ann", "bob")

    await manager.shut_down()

    assert [own.events[0]["code"] for own in wires.values()] == [1012, 1012]


async def test_shut_down_waits_for_clean_ups(manager):
    """A clean-up that is under way is not cut off."""
    may_end = asyncio.Event()
    ended = []

    async def clean_up():
        await may_end.wait()
        ended.append("ended")

    manager.expect_end_of(asyncio.create_task(clean_up()))
    shutting_down = asyncio.create_task(manager.shut_down())
    await asyncio.sleep(0)
    before = list(ended)
    may_end.set()
    await shutting_down

    assert (before, ended) == ([], ["ended"])


async def test_shut_down_is_bounded(caplog):
    """A clean-up that hangs is cancelled after ``shutdown_timeout``, and the log says so."""
    manager = WebSocketConnectionManager(Limits(shutdown_timeout=0.01))
    hanging = asyncio.create_task(asyncio.Event().wait())
    manager.expect_end_of(hanging)

    await manager.shut_down()

    assert hanging.cancelled()
    assert "cancelled 1 clean-ups that took over 0.01 s (shutdown_timeout)" in caplog.text


async def test_shut_down_with_nobody_here_is_nothing(manager):
    """And it may be called again."""
    await manager.shut_down()
    await manager.shut_down()

    assert len(manager) == 0
