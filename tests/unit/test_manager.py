"""The manager: who is connected, in which rooms, and how a message gets to them."""

import asyncio
import functools
import json

import falcon
import pytest

from falcon_pachinko import (
    ConnectionStateError,
    Delivery,
    DuplicateConnectionError,
    EncodeError,
    HandlerDefinitionError,
    InvalidNameError,
    Limits,
    RoomLimitError,
    UnknownConnectionError,
    WebSocketConnectionManager,
    to,
)
from falcon_pachinko.connection.sender import SENDER, mute

# Membership.


async def test_an_id_is_taken_once(wire, connect, manager):
    """A second connection of the same id would shadow the first."""
    ann = connect(wire)

    with pytest.raises(DuplicateConnectionError, match="'ann' is known already; remove it first"):
        connect(wire)

    assert manager._registry.all() == {ann}


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


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("", InvalidNameError),
        ("x" * 201, InvalidNameError),
        ("é" * 101, InvalidNameError),
        ("\ud800", InvalidNameError),
        (None, TypeError),
        (b"tea", TypeError),
    ],
)
async def test_a_room_has_a_proper_name(wire, connect, manager, name, error):
    """A bad name puts nobody anywhere."""
    ann = connect(wire)

    with pytest.raises(error):
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
    assert [
        await manager.count(each) for each in (to.tag("pro"), to.user("u-1"), to.room("a"))
    ] == [0] * 3
    assert (ann.rooms, ann.tags) == (frozenset(), frozenset())


async def test_a_connection_is_forgotten_though_presence_fails(
    wire, connect, manager, monkeypatch, caplog
):
    """What one part of the leaving raises leaves nobody behind for the others."""
    ann = connect(wire)
    await manager.join_room("ann", "lobby")

    def fail(member):
        raise RuntimeError("presence is broken")

    monkeypatch.setattr(manager._exchange.presence, "gone", fail)

    await manager.remove_connection("ann")

    assert "presence is broken" in caplog.text
    status = manager.status()
    assert (status["connections"], status["rooms"]) == (0, 0)
    assert ann.rooms == frozenset()


@pytest.mark.parametrize("verb", ["join_room", "track"])
async def test_an_id_that_has_gone_joins_nothing(wire, connect, manager, verb):
    """Whoever has only its id is told."""
    connect(wire)
    await manager.remove_connection("ann")

    with pytest.raises(UnknownConnectionError):
        await getattr(manager, verb)("ann", "lobby")

    assert manager.status()["rooms"] == 0


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
        known = manager._registry.connections[each]
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
        known = manager._registry.connections[each]
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
    ann._outbox.forget(now=True)

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


class Life:
    """A session, as far as the manager knows one."""

    def __init__(self, *tasks):
        self.tasks = tasks

    def owns(self, task):
        return task in self.tasks


def in_a_handler(ann, calling, *, own=True):
    """Call something in a task of a connection's session, or in one that its handler made."""

    async def run():
        SENDER.set(ann)
        ann._session = Life(asyncio.current_task()) if own else Life()
        return await calling

    return asyncio.create_task(run())


async def test_a_broadcast_waits_for_the_client_that_it_is_made_for(
    wire, connect, members, manager
):
    """After it has served everybody: a client that does not read holds back its own handler."""
    bob = members("bob")["bob"]
    ann = connect(wire, outbox_bytes=10)
    wire.stalled = True
    handler = in_a_handler(ann, manager.broadcast_to_all("123456"))
    await wire.holds_one()
    for _ in range(5):
        await asyncio.sleep(0)

    held_back, heard = not handler.done(), list(bob.frames)
    wire.drain()

    assert (await handler).sent == 2
    assert (held_back, heard) == (True, ['"123456"'])


@pytest.mark.parametrize("why", ["not addressed", "a task of its own", "volatile", "not behind"])
async def test_a_broadcast_waits_for_nobody_else(wire, connect, members, manager, why):
    """Nor for its own client, where the message is of the moment only."""
    members("bob")
    ann = connect(wire, outbox_bytes=100 if why == "not behind" else 10)
    wire.stalled = True
    await ann.send_text("123456")
    target = to.connection("bob") if why == "not addressed" else to.everyone
    calling = manager.broadcast("x", to=target, volatile=why == "volatile")

    async with asyncio.timeout(5):
        delivery = await in_a_handler(ann, calling, own=why != "a task of its own")

    assert delivery.sent == (2 if why in ("a task of its own", "not behind") else 1)


async def test_a_broadcast_before_the_accept_is_told_to_accept_first(
    wire, connect, members, manager
):
    """If what it would have waiting for its own client does not fit; nobody gets it."""
    bob = members("bob")["bob"]
    ann = connect(wire, is_open=False, outbox_bytes=10)
    await in_a_handler(ann, manager.broadcast_to_all(12345678))

    with pytest.raises(ConnectionStateError, match="accept first"):
        await in_a_handler(ann, manager.broadcast_to_all(999))
    await manager.broadcast(1, to=to.everyone - to.connection("ann"))

    assert bob.frames == ["12345678", "1"]


async def test_a_value_that_is_replaced_before_the_accept_needs_no_room(wire, connect, manager):
    """It takes the place of the old one."""
    ann = connect(wire, is_open=False, outbox_bytes=10)

    deliveries = [
        await in_a_handler(ann, manager.broadcast_to_all(number, latest="x"))
        for number in (12345678, 87654321)
    ]
    await ann.accept()

    assert [each.sent for each in deliveries] == [1, 1]
    assert wire.frames == ["87654321"]


async def no_gap(): ...


async def gap_and_more(gap, more): ...


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        (no_gap, r"no_gap is called with \(gap\), and takes \(\); write `async def on_gap\(gap\)`"),
        (gap_and_more, r"takes \(gap, more\); write `async def on_gap\(gap\)`"),
        (functools.partial(gap_and_more, 1, 2), r"takes \(\); write"),
        (print, "is not a coroutine"),
        (lambda _gap: None, "is not a coroutine"),
        (5, "is not a coroutine"),
    ],
)
def test_a_hook_on_gaps_that_could_never_run_is_refused(manager, hook, why):
    """When it is given, not at the first gap."""
    with pytest.raises(HandlerDefinitionError, match=why):
        manager.on_gap(hook)


@pytest.mark.parametrize("muted", [True, False])
async def test_a_handler_that_we_have_ended_is_heard_no_more(
    wire, connect, members, manager, muted
):
    """What it broadcasts on its way out reaches nobody; another task's does."""
    bob = members("bob")["bob"]
    ann = connect(wire)

    async def broadcast():
        if muted:
            mute(ann, {asyncio.current_task()})
        try:
            return await manager.broadcast_to_all(1)
        finally:
            mute(ann, set())

    delivery = await in_a_handler(ann, broadcast())

    assert delivery == (Delivery(0, 0) if muted else Delivery(2, 0))
    assert bob.frames == ([] if muted else ["1"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"latest": "x", "volatile": True}, "exclude each other"),
        ({"latest": ""}, "non-empty text"),
        ({"latest": 5}, "non-empty text"),
        ({"store": True, "local": True}, "store=True with local="),
        ({"store": True, "volatile": True}, "store=True with volatile="),
        ({"store": True, "latest": "x"}, "store=True with latest="),
    ],
)
@pytest.mark.parametrize("verb", ["broadcast_to_all", "broadcast_to_room"])
async def test_options_that_contradict_each_other_are_refused(
    members, manager, verb, options, error
):
    """And nobody gets anything."""
    wires = members("ann")
    arguments = [1] if verb == "broadcast_to_all" else ["lobby", 1]

    with pytest.raises(ValueError, match=error):
        await getattr(manager, verb)(*arguments, **options)

    assert wires["ann"].events == []


@pytest.mark.parametrize("target", ["lobby", None, {"ann"}, 5])
async def test_what_is_no_target_is_refused(members, manager, target):
    """With the call that was probably meant."""
    members("ann")
    meant = r"to\.room\('lobby'\)" if target == "lobby" else r'to\.room\("lobby"\)'

    with pytest.raises(TypeError, match=meant):
        await manager.broadcast(1, to=target)


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("broadcast_to_room", (5, 1)),
        ("send_to_user", (5, 1)),
        ("send_to_connection", (None, 1)),
    ],
)
async def test_a_name_that_is_no_text_is_refused(manager, verb, arguments):
    """A number would never match, and nobody would notice."""
    with pytest.raises(TypeError, match="is a str, not"):
        await getattr(manager, verb)(*arguments)


async def test_the_latest_of_a_room_is_not_that_of_another(wire, connect, manager):
    """The key belongs to the target; equal targets are one."""
    connect(wire)
    for each in ("a", "b"):
        await manager.join_room("ann", each)
    wire.stalled = True
    await manager.broadcast_to_all("slow")

    await manager.broadcast_to_room("a", 1, latest="x")
    await manager.broadcast_to_room("b", 2, latest="x")
    await manager.broadcast(3, to=to.room("a"), latest="x")
    wire.drain()
    await wire.took(3)

    assert wire.frames == ['"slow"', "3", "2"]


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

    assert closed == [(2, 1, 1), (1, 1, 1), (0, 1, 1), (0, 1, 1)]
    assert [(own.events[0]["code"], own.events[0]["reason"]) for own in wires.values()] == [
        (4003, "banned"), (4003, "banned"), (1000, ""),
    ]  # fmt: skip


async def test_disconnect_needs_a_code_that_may_be_sent(members, manager):
    """Else nobody is closed."""
    wires = members("ann")

    with pytest.raises(ValueError, match="1006"):
        await manager.disconnect(to.everyone, 1006)

    assert wires["ann"].events == []


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
    assert await manager.count() == await manager.count(to.everyone) == 0


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
    manager._gauges["moon"] = lambda: "full"

    status = manager.status()
    assert json.loads(json.dumps(status)) == status
    assert {name: status[name] for name in ("state", "connections", "rooms", "users", "moon")} == {
        "state": "serving", "connections": 1, "rooms": 1, "users": 0, "moon": "full",
    }  # fmt: skip


# Connections of other kinds.


async def test_a_connection_of_the_librarys_own_has_its_id(wire, connect, manager):
    """Adding it again changes nothing; another name for it is refused, with the remedy."""
    ann = connect(wire)

    await manager.add_connection("ann", ann)
    with pytest.raises(ConnectionStateError, match=r"ws\.user_id = 'seat-1'"):
        await manager.add_connection("seat-1", ann)

    assert [each async for each in manager.connections()] == [ann]


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


async def test_a_falcon_websocket_can_be_added(manager, until):
    """Rooms, broadcasts and ``disconnect`` reach it as any other."""
    ws = PlainWebSocket()

    await manager.add_connection("plain", ws, resource="a table")
    await manager.join_room("plain", "lobby")
    await manager.broadcast_to_room("lobby", 1)
    (known,) = await manager.get_connections_in_room("lobby")
    await known.send_data(b"2")
    await known.drained()
    await manager.disconnect("plain", 4000)
    await until(lambda: len(ws.said) == 3)

    assert ws.said == ["1", b"2", (4000, None)]
    assert (known.ready, known.subprotocols, known.resource) == (False, ("v1",), "a table")


async def test_a_falcon_websocket_that_is_gone_is_lost_quietly(manager, until):
    """Falcon raises on a closed WebSocket; a broadcast does not."""

    class Gone(PlainWebSocket):
        async def send_text(self, text):
            raise falcon.WebSocketDisconnected(1001)

    await manager.add_connection("plain", Gone())
    await manager.broadcast_to_all(1)
    (known,) = [each async for each in manager.connections()]
    await until(lambda: known.closed)

    assert await manager.broadcast_to_all(1) == Delivery(0, 1)


async def test_one_that_has_gone_may_still_choose_its_codec(wire, connect, manager):
    """It is counted no more: a broadcast encodes for those who are here."""
    ann = connect(wire, is_open=False, subprotocols=["tea", "pachinko.msgpack"])
    await manager.remove_connection("ann")

    await ann.accept("pachinko.msgpack")
    await ann.send_media(1)

    assert wire.frames == [b"\x01"]
    assert await manager.broadcast_to_all(2**70) == Delivery(0, 0)


# Going down.


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_a_manager_belongs_to_one_event_loop(wire, connect, manager, elsewhere):
    """From another thread a call is refused, with the one that works."""
    if elsewhere:
        connect(wire)
    manager._members.check_loop()

    def call():
        return asyncio.run(manager.broadcast_to_all(1))

    if elsewhere:
        with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(call)
    else:
        assert await asyncio.to_thread(call) == Delivery(0, 0)


async def test_a_stop_closes_everybody_with_1012(members, manager):
    """That code tells a client to come back."""
    wires = members("ann", "bob")

    await manager.stop()

    assert [own.events[0]["code"] for own in wires.values()] == [1012, 1012]


async def test_a_stop_waits_for_clean_ups(manager):
    """A clean-up that is under way is not cut off."""
    may_end = asyncio.Event()
    ended = []

    async def clean_up():
        await may_end.wait()
        ended.append("ended")

    session = asyncio.create_task(clean_up())
    manager._members.sessions.add(session)
    session.add_done_callback(manager._members.sessions.discard)
    stopping = asyncio.create_task(manager.stop())
    await asyncio.sleep(0)
    before = list(ended)
    may_end.set()
    await stopping

    assert (before, ended) == ([], ["ended"])


async def test_a_stop_is_bounded(caplog):
    """A clean-up that hangs is cancelled after ``shutdown_timeout``, and the log says so."""
    manager = WebSocketConnectionManager(Limits(shutdown_timeout=0.01))
    hanging = asyncio.create_task(asyncio.Event().wait())
    manager._members.sessions.add(hanging)

    await manager.stop()

    assert hanging.cancelled()
    assert "cancelled 1 clean-ups that took over 0.01 s (shutdown_timeout)" in caplog.text


async def test_a_stop_with_nobody_here_is_nothing(manager):
    """And it may be called again."""
    await manager.stop()
    await manager.stop()

    assert await manager.count() == 0
