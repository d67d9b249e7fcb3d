"""A connection and its outbox, against a server that stalls, drains and breaks at will."""

import asyncio
import contextlib
import importlib
import logging

import falcon
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import ConnectionStateError, EncodeError
from falcon_pachinko.connection.connection import check_close_code
from falcon_pachinko.connection.outbox import ABNORMAL, fit_reason, resume
from falcon_pachinko.messages.codec import pack_text

# Close codes and reasons.


@given(st.text())
def test_a_reason_fits_into_a_close_frame(reason):
    """At most 123 bytes, valid UTF-8, and a prefix of what was asked for."""
    sayable = reason.encode("utf-8", "replace").decode()
    fitted = fit_reason(reason)

    assert len(fitted.encode()) <= 123
    assert sayable.startswith(fitted)
    assert fitted == sayable or len(fitted.encode()) > 119


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1008, 1014, 3000, 4000, 4999])
def test_a_code_that_an_endpoint_may_send_is_taken(code):
    """The registered ones, and the ranges for libraries and applications."""
    check_close_code(code)


@pytest.mark.parametrize("code", [0, -1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 10**9])
def test_a_code_that_nobody_may_send_is_refused(code):
    """Reserved codes name what was *not* sent; a server would fail on them."""
    with pytest.raises(ValueError, match=f"{code} cannot be sent.*4000-4999"):
        check_close_code(code)


@pytest.mark.parametrize("code", ["1000", 1000.0, None, True])
def test_a_code_is_a_whole_number(code):
    """And the error shows what came instead."""
    with pytest.raises(TypeError, match="a close code is a whole number"):
        check_close_code(code)


# A client that reads.


async def test_a_frame_leaves_within_the_send(wire, connect):
    """While the server takes frames at once, sending needs no task and no turn of the loop."""
    ann = connect(wire)

    taken = [ann.push(pack_text("one")), ann.push(pack_text("two"))]

    assert taken == [True, True]
    assert wire.frames == ["one", "two"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_every_kind_of_frame_can_be_sent(wire, connect):
    """Messages as JSON, text and bytes as they are."""
    ann = connect(wire)

    await ann.send_media({"type": "hello"})
    await ann.send_text("plain")
    await ann.send_data(bytearray(b"\x00\x01"))

    assert wire.frames == ['{"type":"hello"}', "plain", b"\x00\x01"]


@pytest.mark.parametrize(
    ("verb", "argument", "error"),
    [
        ("send_media", object(), EncodeError),
        ("send_text", b"bytes", TypeError),
        ("send_text", "\ud800", EncodeError),
        ("send_data", "text", TypeError),
    ],
)
async def test_what_cannot_be_sent_fails_the_sender(wire, connect, verb, argument, error):
    """And nothing leaves, not even a part; the connection stays open."""
    ann = connect(wire)

    with pytest.raises(error):
        await getattr(ann, verb)(argument)

    assert wire.events == []
    assert not ann.closed


# A client that reads slowly.


async def test_frames_wait_in_order_behind_a_slow_one(wire, connect):
    """No sender waits for a slow client, and it gets everything in order once it reads."""
    ann = connect(wire)
    wire.stalled = True

    for number in range(5):
        await ann.send_text(str(number))
    waiting = ann.outbox_bytes
    wire.drain()
    await wire.took(5)

    assert waiting == 5
    assert wire.frames == ["0", "1", "2", "3", "4"]
    assert ann.outbox_bytes == 0


@given(st.lists(st.sampled_from(["send", "let through", "stall", "flow"]), max_size=30))
def test_no_schedule_reorders_or_loses_frames(play_with_connection, steps):
    """However a server stalls and goes on in between, the client sees what was sent."""

    async def play(wire, ann):
        for number, step in enumerate(steps):
            if step == "send":
                ann.push(pack_text(str(number)))
            elif step == "let through" and wire._waiting:
                wire.let_one_through()
                await asyncio.sleep(0)
            else:
                wire.stalled = step == "stall"
        wire.drain()
        sent = [str(number) for number, step in enumerate(steps) if step == "send"]
        await wire.took(len(sent))
        return sent

    wire, sent = play_with_connection(play)

    assert wire.frames == sent


async def test_every_kind_of_frame_waits(wire, connect):
    """Messages, text and bytes, in the order in which they were sent."""
    ann = connect(wire)
    wire.stalled = True

    await ann.send_text("one")
    await ann.send_media({"n": 2})
    await ann.send_data(b"three")
    wire.drain()
    await wire.took(3)

    assert wire.frames == ["one", '{"n":2}', b"three"]


async def test_frames_sent_while_the_writer_drains_keep_their_place(wire, connect):
    """A frame sent at once would overtake those that wait; it waits too."""
    ann = connect(wire)
    wire.stalled = True
    await ann.send_text("one")
    await ann.send_text("two")
    wire.stalled = False

    await ann.send_text("three")
    wire.drain()
    await wire.took(3)

    assert wire.frames == ["one", "two", "three"]


async def test_after_the_writer_is_done_frames_leave_at_once_again(wire, connect):
    """Being slow once costs nothing later."""
    ann = connect(wire)
    wire.stalled = True
    await ann.send_text("one")
    writer = ann._writer
    wire.drain()
    await writer

    await ann.send_text("two")

    assert wire.frames == ["one", "two"]
    assert ann._writer is None


# A client that reads too slowly.


async def test_a_full_outbox_closes_by_default(wire, connect, manager, caplog):
    """The frame on its way still leaves, then 1013 and a reason that names the setting."""
    ann = connect(wire, outbox_bytes=10)
    wire.stalled = True
    for _ in range(2):
        await ann.send_text("12345")

    fits = ann.push(pack_text("x"))
    wire.drain()
    await wire.took(2)

    assert not fits
    assert wire.kinds == ["send", "close"]
    assert wire.events[1]["code"] == ann.close_code == 1013
    assert "outbox_bytes" in wire.events[1]["reason"]
    assert manager.tally.dropped == {"overflow": 2}
    assert "reads too slowly: 10 bytes wait (outbox_bytes=10)" in caplog.text


async def test_drop_newest_keeps_what_waits(wire, connect, manager):
    """The new frame is the one that is lost, and its sender can tell."""
    ann = connect(wire, outbox_bytes=3, on_overflow="drop_newest")
    wire.stalled = True

    taken = [ann.push(pack_text(each)) for each in "abcde"]
    wire.drain()
    await wire.took(3)

    assert taken == [True, True, True, False, False]
    assert wire.frames == ["a", "b", "c"]
    assert manager.tally.dropped == {"overflow": 2}
    assert not ann.closed


async def test_drop_oldest_keeps_what_is_new(wire, connect, manager):
    """The oldest frames that wait make room; the one on its way cannot be called back."""
    ann = connect(wire, outbox_bytes=3, on_overflow="drop_oldest")
    wire.stalled = True

    taken = [ann.push(pack_text(each)) for each in "abcde"]
    wire.drain()
    await wire.took(3)

    assert taken == [True] * 5
    assert wire.frames == ["a", "d", "e"]
    assert manager.tally.dropped == {"overflow": 2}
    assert not ann.closed


@pytest.mark.parametrize("policy", ["close", "drop_oldest", "drop_newest"])
@given(sizes=st.lists(st.integers(1, 12), max_size=30))
def test_an_outbox_never_holds_more_than_its_budget(play_with_connection, policy, sizes):
    """Whatever is sent: at most the budget waits, or the one frame that is on its way."""
    budget = 20

    async def play(wire, ann):
        wire.stalled = True
        most = 0
        for size in sizes:
            ann.push(pack_text("x" * size))
            most = max(most, ann.outbox_bytes)
        ann.release(now=True)
        return most

    _, most = play_with_connection(play, outbox_bytes=budget, on_overflow=policy)

    assert most <= budget


async def test_a_frame_larger_than_the_budget_leaves_if_nothing_waits(wire, connect):
    """The budget is for what piles up, not a limit of a message's size."""
    ann = connect(wire, outbox_bytes=4)

    await ann.send_text("larger than four")

    assert wire.frames == ["larger than four"]


async def test_a_full_outbox_is_logged_once(wire, connect, caplog):
    """A client that stays slow does not fill the log as well."""
    ann = connect(wire, outbox_bytes=2, on_overflow="drop_newest")
    wire.stalled = True

    for _ in range(10):
        ann.push(pack_text("ab"))
    ann.release(now=True)

    assert [record.connection_id for record in caplog.records] == ["ann"]


async def test_a_client_that_takes_nothing_is_cut(server_wire, connect, caplog):
    """Past its deadline the transport is aborted, and the end counts as abnormal."""
    ann = connect(server_wire, send_timeout=0.01)
    server_wire.stalled = True

    await ann.send_text("one")
    await ann.send_text("two")
    async with asyncio.timeout(30):
        await server_wire.transport.aborted.wait()

    assert ann.close_code == ABNORMAL
    assert ann.closed
    assert ann.outbox_bytes == 0
    assert "took nothing for 0.01 s (send_timeout); cut, with 6 bytes waiting" in caplog.text


async def test_a_deadline_is_each_frames_own(server_wire, connect):
    """A client that takes one frame, however late, has the whole time again for the next."""
    ann = connect(server_wire, send_timeout=0.05)
    server_wire.stalled = True
    loop = asyncio.get_running_loop()
    await ann.send_text("one")
    await ann.send_text("two")
    first_deadline, a_while = ann._deadline, asyncio.Event()
    loop.call_later(0.02, a_while.set)

    await a_while.wait()
    server_wire.let_one_through()
    await server_wire.took(1)
    await server_wire.holds_one()
    second_began = loop.time()
    async with asyncio.timeout(30):
        await server_wire.transport.aborted.wait()

    assert loop.time() >= second_began + 0.04
    assert first_deadline is not ann._deadline


async def test_a_server_without_a_transport_is_cut_as_well(wire, connect):
    """Its writer is stopped, and the session hears that it is over."""
    ann = connect(wire, send_timeout=0.01)
    over = asyncio.Event()
    ann.on_end = over.set
    wire.stalled = True

    await ann.send_text("one")
    async with asyncio.timeout(30):
        await over.wait()

    assert ann.close_code == ABNORMAL
    assert wire.events == []


# A client that is gone.


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("closed"), KeyError("odd")])
async def test_a_server_that_fails_at_once_means_the_client_is_gone(wire, connect, error):
    """The sender is not bothered: nothing is raised, and later frames go nowhere."""
    ann = connect(wire)
    wire.error = error

    taken = [ann.push(pack_text("one")), ann.push(pack_text("two"))]
    await ann.send_media({"type": "three"})

    assert taken == [False, False]
    assert ann.closed
    assert wire.events == []


async def test_a_server_that_fails_later_means_the_client_is_gone(wire, connect):
    """What waited is forgotten, and the session hears of it once."""
    ann = connect(wire)
    ends = []
    ann.on_end = lambda: ends.append("end")
    wire.stalled = True
    await ann.send_text("one")
    await ann.send_text("two")
    await wire.holds_one()
    writer = ann._writer

    wire.fail(OSError("gone"))
    await writer
    ann.lose()

    assert ends == ["end"]
    assert ann.outbox_bytes == 0
    assert wire.events == []


# Closing.


async def test_a_close_follows_the_frames_that_wait(wire, connect):
    """Nothing that was sent before is lost, nothing after is taken."""
    ann = connect(wire)
    wire.stalled = True
    await ann.send_text("one")
    await ann.send_text("two")

    await ann.close(4001, "enough")
    late = ann.push(pack_text("three"))
    wire.drain()
    await wire.took(3)

    assert wire.frames == ["one", "two"]
    assert wire.events[2] == {"type": "websocket.close", "code": 4001, "reason": "enough"}
    assert not late


async def test_closing_twice_is_harmless(wire, connect):
    """The first code counts."""
    ann = connect(wire)

    await ann.close(4001, "first")
    await ann.close(4002, "second")

    assert [event["code"] for event in wire.events] == [4001]
    assert (ann.close_code, ann.close_reason) == (4001, "first")


async def test_a_close_has_a_code_that_may_be_sent(wire, connect):
    """A bad code fails the caller and closes nothing."""
    ann = connect(wire)

    with pytest.raises(ValueError, match="1006 cannot be sent"):
        await ann.close(1006)

    assert not ann.closed
    assert wire.events == []


async def test_a_long_reason_is_cut(wire, connect):
    """What the client gets fits into a close frame."""
    ann = connect(wire)

    await ann.close(1000, "é" * 200)

    assert wire.events[0]["reason"] == "é" * 61


async def test_a_close_that_the_server_takes_slowly_ends_later(wire, connect):
    """Until the close frame has left, the connection is closing, not closed."""
    ann = connect(wire)
    over = asyncio.Event()
    ann.on_end = over.set
    wire.stalled = True

    await ann.close()
    closing = repr(ann)
    wire.drain()
    async with asyncio.timeout(30):
        await over.wait()

    assert closing == "<Connection ann closing>"
    assert repr(ann) == "<Connection ann closed>"


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_a_close_that_comes_too_late_is_no_error(wire, connect, when):
    """The client may always have gone first."""
    ann = connect(wire)
    over = asyncio.Event()
    ann.on_end = over.set
    if when == "at once":
        wire.error = OSError("gone")
        await ann.close(4001)
    else:
        wire.stalled = True
        await ann.close(4001)
        await wire.holds_one()
        wire.fail(OSError("gone"))
    async with asyncio.timeout(30):
        await over.wait()

    assert ann.closed
    assert ann.close_code == 4001


# The handshake.


async def test_frames_before_the_accept_leave_right_after_it(wire, connect):
    """In the order in which they were sent, by whomever."""
    ann = connect(wire, is_open=False)

    await ann.send_text("welcome")
    ann.push(pack_text("joined"))
    before = list(wire.events)
    await ann.accept()

    assert before == []
    assert wire.kinds == ["accept", "send", "send"]
    assert wire.frames == ["welcome", "joined"]
    assert (ann.accepted, ann.ready, ann.outbox_bytes) == (True, True, 0)


async def test_frames_sent_while_the_accept_is_on_its_way_wait_for_it(wire, connect):
    """Another task may broadcast in between; the accept comes first all the same."""
    ann = connect(wire, is_open=False)
    wire.stalled = True
    accepting = asyncio.create_task(ann.accept())
    await wire.holds_one()

    ann.push(pack_text("early"))
    early = list(wire.events)
    wire.drain()
    await accepting

    assert early == []
    assert wire.kinds == ["accept", "send"]


async def test_frames_before_the_accept_survive_a_server_that_stalls_after_it(wire, connect):
    """The first one waits in the server, the rest behind it."""
    ann = connect(wire, is_open=False)
    for each in "abc":
        await ann.send_text(each)
    wire.stalled = True
    accepting = asyncio.create_task(ann.accept())
    await wire.holds_one()

    wire.let_one_through()
    await accepting
    waiting = ann.outbox_bytes
    wire.drain()
    await wire.took(4)

    assert waiting == 3
    assert wire.frames == ["a", "b", "c"]


async def test_frames_before_the_accept_have_a_budget_too(wire, connect):
    """A handshake that is never answered holds no more than an outbox."""
    ann = connect(wire, is_open=False, outbox_bytes=3)

    taken = [ann.push(pack_text("ab")), ann.push(pack_text("cd"))]

    assert taken == [True, False]
    assert ann.closed
    assert wire.kinds == ["close"]


async def test_a_denial_discards_what_was_sent(wire, connect):
    """A client that may not come in learns nothing."""
    ann = connect(wire, is_open=False)
    await ann.send_text("secret")

    await ann.close(1008)

    assert wire.kinds == ["close"]
    assert (ann.accepted, ann.outbox_bytes) == (False, 0)


async def test_an_accept_carries_subprotocol_and_headers(wire, connect):
    """Names in lower case and bytes, as ASGI wants them; a mapping or pairs."""
    ann = connect(wire, is_open=False, subprotocols=["v2", "v1"])
    bob = connect(wire, "bob", is_open=False)

    await ann.accept("v1", {"X-Who": "ann"})
    await bob.accept(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])

    assert wire.events == [
        {"type": "websocket.accept", "subprotocol": "v1", "headers": [(b"x-who", b"ann")]},
        {"type": "websocket.accept", "headers": [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]},
    ]
    assert (ann.subprotocol, bob.subprotocol) == ("v1", None)


async def test_a_subprotocol_that_was_not_offered_is_refused(wire, connect):
    """A browser would drop the connection; the error says what was offered."""
    ann = connect(wire, is_open=False, subprotocols=["v2", "v1"])
    bob = connect(wire, "bob", is_open=False)

    with pytest.raises(ValueError, match="'v3'; it offered: v2, v1"):
        await ann.accept("v3")
    with pytest.raises(ValueError, match="'v3'; it offered: none"):
        await bob.accept("v3")

    assert wire.events == []


async def test_accept_comes_once(wire, connect):
    """A second one, or one after a close, says in what state the connection is."""
    ann = connect(wire, is_open=False)
    await ann.accept()

    with pytest.raises(ConnectionStateError, match="this connection is accepted"):
        await ann.accept()
    await ann.close()
    with pytest.raises(ConnectionStateError, match="this connection is closed"):
        await ann.accept()

    assert wire.kinds == ["accept", "close"]


async def test_a_client_that_goes_before_the_accept_was_never_there(wire, connect):
    """``accept()`` says so as Falcon's does, and the connection does not count as accepted."""
    ann = connect(wire, is_open=False)
    wire.error = OSError("gone")

    with pytest.raises(falcon.WebSocketDisconnected):
        await ann.accept()

    assert (ann.accepted, ann.closed) == (False, True)


async def test_a_close_while_the_accept_is_on_its_way_follows_it(wire, connect):
    """Whoever closes in between does not get in the accept's way."""
    ann = connect(wire, is_open=False)
    wire.stalled = True
    accepting = asyncio.create_task(ann.accept())
    await wire.holds_one()

    ann.begin_close(4001)
    wire.drain()
    with pytest.raises(falcon.WebSocketDisconnected):
        await accepting

    assert wire.kinds == ["accept", "close"]
    assert ann.closed


# A server whose ``send`` is no coroutine function: ASGI asks for an awaitable only.


class FutureWire:
    """A server that answers with futures."""

    def __init__(self):
        self.events = []

    def send(self, event):
        self.events.append(event)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


async def test_a_send_that_returns_a_future_works(connect):
    """From the accept to the close."""
    wire = FutureWire()
    ann = connect(wire, is_open=False)

    await ann.accept()
    await ann.send_text("one")
    await ann.close()

    kinds = [event["type"] for event in wire.events]
    assert kinds == ["websocket.accept", "websocket.send", "websocket.close"]


# Keeping a client's pace.


async def test_a_session_waits_for_its_own_slow_client(wire, connect):
    """Else a handler in a loop would fill its client's outbox in no time."""
    ann = connect(wire, outbox_bytes=10)
    wire.stalled = True
    ann.task = session = asyncio.create_task(send_all(ann, ["123456", "next"]))
    await wire.holds_one()

    held_back = not session.done()
    wire.drain()
    await session

    assert held_back
    assert wire.frames == ["123456", "next"]


async def test_a_session_does_not_wait_while_little_waits(wire, connect):
    """Up to half of the budget, a burst goes straight into the outbox."""
    ann = connect(wire, outbox_bytes=10)
    wire.stalled = True
    ann.task = asyncio.create_task(send_all(ann, ["12", "345"]))

    await ann.task

    assert ann.outbox_bytes == 5
    ann.release(now=True)


async def test_nobody_else_waits_for_a_slow_client(wire, connect):
    """A broadcaster goes on at once, whatever piles up."""
    ann = connect(wire, outbox_bytes=10)
    wire.stalled = True

    await send_all(ann, ["123456", "7890"])

    assert ann.outbox_bytes == 10
    ann.release(now=True)


@pytest.mark.parametrize("ending", ["cut", "lost"])
async def test_a_session_that_waits_goes_on_when_its_client_is_gone(wire, connect, ending):
    """It must not wait for ever for somebody who will never read."""
    ann = connect(wire, outbox_bytes=10)
    wire.stalled = True
    ann.task = session = asyncio.create_task(send_all(ann, ["123456", "next"]))
    await wire.holds_one()
    await asyncio.sleep(0)

    if ending == "cut":
        ann.abort()
    else:
        wire.fail(OSError("gone"))
    await asyncio.wait_for(session, 30)

    assert ann.closed


async def send_all(ann, frames):
    for each in frames:
        await ann.send_text(each)


# The end of a session.


async def test_a_release_cuts_a_frame_that_is_still_on_its_way(server_wire, connect):
    """A client that does not read must not keep the socket."""
    ann = connect(server_wire)
    server_wire.stalled = True
    await ann.send_text("stuck")
    await server_wire.holds_one()
    writer = ann._writer

    ann.release(now=False)
    with contextlib.suppress(asyncio.CancelledError):
        await writer

    assert server_wire.transport.aborted.is_set()


@pytest.mark.parametrize("now", [True, False])
async def test_a_release_gives_unwritten_bytes_their_time(server_wire, connect, monkeypatch, now):
    """``send_timeout`` in normal life, a moment when the server goes down; then it cuts."""
    module = importlib.import_module("falcon_pachinko.connection.connection")
    monkeypatch.setattr(module, "LINGER", 0.01)
    ann = connect(server_wire, send_timeout=60 if now else 0.01)
    server_wire.transport.unwritten = 1

    ann.release(now=now)
    at_once = server_wire.transport.aborted.is_set()
    async with asyncio.timeout(30):
        await server_wire.transport.aborted.wait()

    assert not at_once


async def test_a_release_leaves_a_clean_transport_alone(server_wire, connect):
    """With all bytes written, the server closes in its own time."""
    ann = connect(server_wire, send_timeout=0.01)

    ann.release(now=False)

    assert ann.closed
    assert not server_wire.transport.aborted.is_set()


# Who it is.


async def test_state_is_a_bag_of_the_applications_own(wire, connect):
    """Attributes or items, and another connection has another one."""
    ann, bob = connect(wire), connect(wire, "bob")

    ann.state.seat = 3

    assert ann.state["seat"] == 3
    assert "seat" not in bob.state


async def test_rooms_and_tags_are_there_to_look_at(wire, connect, manager):
    """As frozen copies: only the manager changes them."""
    ann = connect(wire)

    manager.join(ann, "lobby")
    await ann.add_tag("pro")
    await ann.add_tag("old")
    await ann.remove_tag("old")
    await ann.remove_tag("never worn")

    assert (ann.rooms, ann.tags) == (frozenset({"lobby"}), frozenset({"pro"}))
    assert manager.with_tag("pro") == {ann}
    assert manager.with_tag("old") == set()


async def test_a_user_id_may_be_set_and_changed(wire, connect, manager):
    """What is sent to a user follows the connection."""
    ann = connect(wire)

    ann.user_id = "ann"
    ann.user_id = "anna"

    assert manager.of_user("ann") == set()
    assert manager.of_user("anna") == {ann}
    ann.user_id = None
    assert manager.of_user("anna") == set()


@pytest.mark.parametrize(
    ("is_open", "shown"), [(True, "<Connection ann open>"), (False, "<Connection ann connecting>")]
)
async def test_a_connection_shows_its_id_and_stage(wire, connect, is_open, shown):
    """So that a log line tells which one, and how far it is."""
    assert repr(connect(wire, is_open=is_open)) == shown


async def test_a_new_connection_logs_nothing(wire, connect, caplog):
    """The ordinary course of things is quiet."""
    with caplog.at_level(logging.DEBUG, "falcon_pachinko"):
        ann = connect(wire, is_open=False)
        await ann.accept()
        await ann.send_text("hello")
        await ann.close()

    assert caplog.records == []


# Going on with a coroutine that was stepped by hand.


class Resumed:
    """`resume`, for an ``await``."""

    def __init__(self, step, waiting_for):
        self.parts = step, waiting_for

    def __await__(self):
        return resume(*self.parts)


async def test_a_resumed_coroutine_returns_its_value():
    """As if it had been awaited from the start."""
    gap = asyncio.get_running_loop().create_future()

    async def add():
        first = await gap
        await asyncio.sleep(0)
        return first + 1

    step = add()
    waiting_for = step.send(None)
    gap.set_result(41)

    assert await Resumed(step, waiting_for) == 42


async def test_a_resumed_coroutine_gets_exceptions():
    """What it waits for may fail, and it may survive that."""
    gap = asyncio.get_running_loop().create_future()

    async def survive():
        try:
            await gap
        except OSError as error:
            return f"survived {error}"

    step = survive()
    waiting_for = step.send(None)
    gap.set_exception(OSError("that"))

    assert await Resumed(step, waiting_for) == "survived that"


async def test_a_resumed_coroutine_is_cancelled_with_its_task():
    """And its ``finally`` runs."""
    ended = []

    async def wait_for_ever():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("ended")

    async def go_on():
        step = wait_for_ever()
        await Resumed(step, step.send(None))

    task = asyncio.create_task(go_on())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended == ["ended"]


async def test_closing_the_outer_closes_the_resumed():
    """A task that is thrown away throws the inner coroutine away too."""
    ended = []

    async def wait_for_ever():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("ended")

    step = wait_for_ever()
    outer = resume(step, step.send(None))
    next(outer)

    outer.close()

    assert ended == ["ended"]


async def test_a_send_that_returns_a_future_can_deny(connect):
    """There the close is the first event."""
    wire = FutureWire()
    ann = connect(wire, is_open=False)

    await ann.close(1008)

    assert [event["type"] for event in wire.events] == ["websocket.close"]


async def test_a_writer_that_never_ran_leaves_no_timer(server_wire, connect, caplog):
    """A client that goes within the same turn of the loop is not reported as slow later."""
    ann = connect(server_wire, send_timeout=0.01)
    server_wire.stalled = True
    loop = asyncio.get_running_loop()
    past_the_deadline = asyncio.Event()

    ann.push(pack_text("stuck"))
    ann.release(now=False)
    loop.call_later(0.03, past_the_deadline.set)
    await past_the_deadline.wait()

    assert caplog.records == []
