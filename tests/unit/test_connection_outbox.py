"""What waits for one client, against a server that stalls, drains and breaks at will."""

import asyncio
import contextlib
import contextvars
import importlib
import sys
from collections import Counter

import falcon
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import ConnectionStateError, Limits
from falcon_pachinko.connection.ends import ABNORMAL, fit_reason
from falcon_pachinko.connection.outbox import Outbox
from falcon_pachinko.connection.stage import NEXT, Stage
from falcon_pachinko.connection.stepping import is_bare, resume
from falcon_pachinko.counters import Counters
from falcon_pachinko.messages.codec import pack_bytes, pack_text

ACCEPT = {"type": "websocket.accept"}
POLICIES = ["close", "drop_oldest", "drop_newest"]
VOICE = contextvars.ContextVar("VOICE", default="nobody's")


class Watch:
    """Who is told of an outbox's end, as a session is."""

    def __init__(self):
        self.told = []
        self.over = asyncio.Event()

    def closing(self, *, patient):
        self.told.append("closing patiently" if patient else "closing")

    def closed(self):
        self.told.append("closed")
        self.over.set()


def watched(outbox):
    outbox.watcher = watch = Watch()
    return watch


async def push_all(outbox, wire, texts, **options):
    """Push texts while the server stalls, and wait until one of them is stuck in it."""
    wire.stalled = True
    taken = [outbox.put(pack_text(each), **options) for each in texts]
    await wire.holds_one()
    return taken


def waiting_texts(outbox):
    return [each.packet.event["text"] for each in outbox._queue._frames] if outbox._queue else []


# Reasons.


@given(st.text())
def test_a_reason_fits_into_a_close_frame(reason):
    """At most 123 bytes, valid UTF-8, and a prefix of what was asked for."""
    sayable = reason.encode("utf-8", "replace").decode()
    fitted = fit_reason(reason)

    assert len(fitted.encode()) <= 123
    assert sayable.startswith(fitted)
    assert fitted == sayable or len(fitted.encode()) > 119


# A client that reads.


async def test_a_bare_send_is_stepped_within_the_push(wire):
    """While the server takes frames at once, sending needs no task and no turn of the loop."""
    outbox = Outbox(wire.send, Limits(), Counters(), direct=True, is_open=True)

    taken = [outbox.push(pack_text("one")), outbox.push(pack_text("two"))]

    assert taken == [True, True]
    assert wire.frames == ["one", "two"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_frames_leave_in_the_order_of_the_calls(wire, post):
    """Text and bytes, however the server is reached."""
    outbox = post(wire)

    taken = [outbox.push(pack_text("one")), outbox.push(pack_bytes(b"two"))]
    await wire.took(2)

    assert taken == [True, True]
    assert wire.frames == ["one", b"two"]
    await outbox.drained()
    assert (outbox.bytes, outbox._writer) == (0, None)


async def test_after_the_writer_is_done_a_bare_send_is_stepped_again(wire):
    """Being slow once costs nothing later."""
    outbox = Outbox(wire.send, Limits(), Counters(), direct=True, is_open=True)
    await push_all(outbox, wire, ["one"])
    wire.drain()
    await outbox.drained()

    outbox.push(pack_text("two"))

    assert wire.frames == ["one", "two"]
    assert outbox._writer is None


async def test_a_frame_larger_than_the_budget_leaves_if_nothing_waits(wire, post):
    """The budget is for what piles up, not a limit of a message's size."""
    outbox = post(wire, outbox_bytes=4)

    taken = outbox.push(pack_text("larger than four"))
    await wire.took(1)

    assert taken
    assert wire.frames == ["larger than four"]


# A client that reads slowly.


async def test_frames_wait_in_order_behind_a_slow_one(wire, post):
    """No sender waits for a slow client, and it gets everything in order once it reads."""
    outbox = post(wire)

    await push_all(outbox, wire, "01234")
    waiting = outbox.bytes
    wire.drain()
    await wire.took(5)
    await outbox.drained()

    assert waiting == 5
    assert wire.frames == ["0", "1", "2", "3", "4"]
    assert outbox.bytes == 0


async def test_frames_pushed_while_the_writer_drains_keep_their_place(wire, post):
    """A frame sent at once would overtake those that wait; it waits too."""
    outbox = post(wire)
    await push_all(outbox, wire, ["one", "two"])
    wire.stalled = False

    outbox.push(pack_text("three"))
    wire.drain()
    await wire.took(3)

    assert wire.frames == ["one", "two", "three"]


async def test_one_writer_sends_at_a_time(wire, post):
    """However many frames wait, the server has one of them."""
    outbox = post(wire)
    await push_all(outbox, wire, "abcde")

    writers = asyncio.all_tasks() - {asyncio.current_task()}
    stuck = len(wire._waiting)

    assert (len(writers), stuck) == (1, 1)


async def test_an_empty_frame_waits_like_any_other(wire, post):
    """It has no bytes of payload, but it is written, and `drained` waits for it."""
    outbox = post(wire)
    await push_all(outbox, wire, ["", ""])

    draining = asyncio.create_task(outbox.drained())
    await asyncio.sleep(0)
    early = draining.done()
    dropped = not outbox.put(pack_text("x"), volatile=True)
    wire.drain()
    await draining

    assert (early, dropped) == (False, True)
    assert wire.frames == ["", ""]


@pytest.mark.parametrize("packet", [pack_text(""), pack_bytes(b"")])
async def test_empty_frames_do_not_pile_up_without_bound(wire, post, packet):
    """Each counts as something, or a million of them would fit into any budget."""
    outbox = post(wire, outbox_bytes=10, on_overflow="drop_newest")
    await push_all(outbox, wire, ["x"])

    taken = [outbox.push(packet) for _ in range(100)]

    assert taken.count(True) == 9


# A client that reads too slowly.


async def test_a_full_outbox_closes_by_default(wire, post, caplog):
    """The frame on its way still leaves, then 1013 and a reason that names the setting."""
    outbox = post(wire, outbox_bytes=10)
    await push_all(outbox, wire, ["12345", "12345"])

    fits = outbox.push(pack_text("x"))
    wire.drain()
    await wire.took(2)

    assert not fits
    assert wire.kinds == ["send", "close"]
    assert wire.events[1]["code"] == outbox.close_code == 1013
    assert "outbox_bytes" in wire.events[1]["reason"]
    assert outbox.counters.dropped == {"overflow": 2}
    assert "reads too slowly: 10 bytes wait (outbox_bytes=10)" in caplog.text


async def test_drop_newest_keeps_what_waits(wire, post):
    """The new frame is the one that is lost, and its sender can tell."""
    outbox = post(wire, outbox_bytes=3, on_overflow="drop_newest")
    taken = await push_all(outbox, wire, "a")

    taken += [outbox.push(pack_text(each)) for each in "bcde"]
    wire.drain()
    await wire.took(3)

    assert taken == [True, True, True, False, False]
    assert wire.frames == ["a", "b", "c"]
    assert outbox.counters.dropped == {"overflow": 2}
    assert outbox.stage is Stage.OPEN


async def test_drop_oldest_keeps_what_is_new(wire, post):
    """The oldest frames that wait make room; the one on its way cannot be called back."""
    outbox = post(wire, outbox_bytes=3, on_overflow="drop_oldest")
    taken = await push_all(outbox, wire, "a")

    taken += [outbox.push(pack_text(each)) for each in "bcde"]
    wire.drain()
    await wire.took(3)

    assert taken == [True] * 5
    assert wire.frames == ["a", "d", "e"]
    assert outbox.counters.dropped == {"overflow": 2}
    assert outbox.stage is Stage.OPEN


async def test_drop_oldest_drops_nothing_for_a_frame_that_could_not_fit(wire, post):
    """One that does not fit beside the frame on its way is the one that is lost."""
    outbox = post(wire, outbox_bytes=5, on_overflow="drop_oldest")
    await push_all(outbox, wire, ["12"])
    outbox.push(pack_text("3"))

    taken = outbox.push(pack_text("4567"))
    wire.drain()
    await wire.took(2)

    assert not taken
    assert wire.frames == ["12", "3"]
    assert outbox.counters.dropped == {"overflow": 1}


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_a_full_outbox_is_logged_once(wire, post, caplog, policy):
    """A client that stays slow does not fill the log as well."""
    outbox = post(wire, outbox_bytes=2, on_overflow=policy)
    await push_all(outbox, wire, ["ab"])

    for _ in range(10):
        outbox.push(pack_text("ab"))

    assert [record.connection_id for record in caplog.records] == ["ann"]


async def test_no_limit_drops_nothing(wire, post):
    """None switches the budget off, and with it everything that it would do."""
    outbox = post(wire, outbox_bytes=None)
    await push_all(outbox, wire, ["x" * 1000] * 50)

    behind = outbox.is_behind
    sent = await outbox.send(pack_text("y"))
    wire.drain()
    await wire.took(51)

    assert (behind, sent) == (False, True)


# Frames that are of the moment only.


async def test_a_volatile_frame_is_dropped_behind_one_that_is_being_written(wire, post):
    """And counted: no drop is silent."""
    outbox = post(wire)
    await push_all(outbox, wire, ["slow", "behind"])

    taken = outbox.put(pack_text("now"), volatile=True)
    wire.drain()
    await wire.took(2)

    assert not taken
    assert wire.frames == ["slow", "behind"]
    assert outbox.counters.dropped == {"volatile": 1}


async def test_a_volatile_frame_leaves_if_nothing_is_being_written(wire, post):
    """Waiting for the writer's first turn is not being behind."""
    outbox = post(wire)

    taken = [outbox.put(pack_text(each), volatile=True) for each in "abc"]
    await wire.took(3)

    assert taken == [True] * 3
    assert wire.frames == ["a", "b", "c"]


async def test_a_volatile_frame_is_kept_before_the_accept(wire, post):
    """Like any other: the client has not had the chance to read."""
    outbox = post(wire, is_open=False)

    taken = [outbox.put(pack_text(each), volatile=True) for each in "ab"]
    await outbox.accept(ACCEPT)
    await wire.took(3)

    assert taken == [True, True]
    assert wire.frames == ["a", "b"]


async def test_a_volatile_frame_never_waits_for_its_own_client(wire, post):
    """Not even in code of the connection's own, with half of the outbox full."""
    outbox = post(wire, outbox_bytes=10)
    await push_all(outbox, wire, ["1234567"])

    async with asyncio.timeout(5):
        taken = await outbox.send(pack_text("8"), volatile=True)

    assert not taken
    assert outbox.counters.dropped == {"volatile": 1}


# Frames of which the latest counts.


async def test_the_latest_replaces_what_waits_under_its_key_in_its_place(wire, post):
    """What was sent in between stays behind it, and what has another key is another value."""
    outbox = post(wire)
    await push_all(outbox, wire, ["slow"])
    outbox.put(pack_text("x1"), key="x")
    outbox.put(pack_text("y1"), key="y")
    outbox.push(pack_text("plain"))

    taken = outbox.put(pack_text("x2, longer"), key="x")
    bytes_waiting = outbox.bytes
    wire.drain()
    await wire.took(4)

    assert taken
    assert bytes_waiting == len("slowx2, longery1plain")
    assert wire.frames == ["slow", "x2, longer", "y1", "plain"]
    assert outbox.counters.dropped == {}


async def test_what_is_being_written_is_not_replaced(wire, post):
    """It has left; the new value waits behind it."""
    outbox = post(wire)
    await push_all(outbox, wire, ["x1"], key="x")

    outbox.put(pack_text("x2"), key="x")
    outbox.put(pack_text("x3"), key="x")
    wire.drain()
    await wire.took(2)

    assert wire.frames == ["x1", "x3"]


async def test_a_key_is_free_again_when_its_value_has_left(wire, post):
    """Nothing of it stays behind in the outbox."""
    outbox = post(wire)
    await push_all(outbox, wire, ["slow"])
    outbox.put(pack_text("x1"), key="x")
    wire.drain()
    await wire.took(2)
    await outbox.drained()
    keys = dict(outbox._queue._by_key)

    outbox.put(pack_text("x2"), key="x")
    await wire.took(3)

    assert keys == {}
    assert wire.frames == ["slow", "x1", "x2"]


async def test_a_value_is_replaced_before_the_accept_and_after_it(wire, post):
    """The client gets the last one, as long as none of them is being written."""
    outbox = post(wire, is_open=False)
    outbox.push(pack_text("hello"))
    outbox.put(pack_text("x1"), key="x")
    outbox.put(pack_text("x2"), key="x")
    wire.stalled = True
    accepting = asyncio.create_task(outbox.accept(ACCEPT))
    await wire.holds_one()
    outbox.put(pack_text("x3"), key="x")
    wire.let_one_through()
    await accepting
    await wire.holds_one()

    outbox.put(pack_text("x4"), key="x")
    wire.drain()
    await wire.took(3)

    assert wire.frames == ["hello", "x4"]


@pytest.mark.parametrize(
    ("policy", "frames", "stage"),
    [
        ("drop_newest", ["123", "45"], Stage.OPEN),
        ("drop_oldest", ["123", "7654321"], Stage.OPEN),
        ("close", ["123"], Stage.CLOSED),
    ],
)
async def test_a_value_that_does_not_fit_is_judged_as_if_the_old_were_gone(
    wire, post, policy, frames, stage
):
    """The old one goes in any case: it is out of date."""
    outbox = post(wire, outbox_bytes=10, on_overflow=policy)
    await push_all(outbox, wire, ["123"])
    outbox.push(pack_text("45"))
    outbox.put(pack_text("x"), key="x")

    taken = outbox.put(pack_text("7654321"), key="x")
    wire.drain()
    await wire.took(2)
    await outbox.drained()

    assert taken is (policy == "drop_oldest")
    assert wire.frames == frames
    assert outbox.stage is stage
    assert outbox.bytes == 0


async def test_a_value_that_a_policy_dropped_is_forgotten(wire, post):
    """The next one takes its place at the end, and is not lost with it."""
    outbox = post(wire, outbox_bytes=4, on_overflow="drop_oldest")
    await push_all(outbox, wire, ["s"])
    outbox.put(pack_text("x1"), key="x")
    outbox.push(pack_text("abc"))

    taken = outbox.put(pack_text("x"), key="x")
    waiting = waiting_texts(outbox)
    wire.drain()
    await wire.took(2)

    assert taken
    assert waiting == ["x"]
    assert wire.frames == ["s", "x"]
    assert outbox.counters.dropped == {"overflow": 2}


@pytest.mark.parametrize("policy", POLICIES)
async def test_the_only_value_that_waits_may_outgrow_the_budget(wire, post, policy):
    """As any frame may, when nothing else waits."""
    outbox = post(wire, is_open=False, outbox_bytes=4, on_overflow=policy)
    outbox.put(pack_text("x1"), key="x")

    taken = outbox.put(pack_text("larger than four"), key="x")
    await outbox.accept(ACCEPT)
    await wire.took(2)

    assert taken
    assert wire.frames == ["larger than four"]


# Keeping a client's pace.


async def test_a_sender_waits_before_it_adds_while_over_half_of_it_is_full(wire, post):
    """Else a handler in a loop would fill its client's outbox in no time."""
    outbox = post(wire, outbox_bytes=10)
    await push_all(outbox, wire, ["123456"])

    sending = asyncio.create_task(outbox.send(pack_text("next")))
    await asyncio.sleep(0)
    held_back, bytes_meanwhile = not sending.done(), outbox.bytes
    wire.drain()
    sent = await sending
    await wire.took(2)

    assert (held_back, bytes_meanwhile, sent) == (True, 6, True)
    assert wire.frames == ["123456", "next"]


async def test_a_sender_does_not_wait_while_half_of_it_is_free(wire, post):
    """A burst goes straight into the outbox: exactly half is not over half."""
    outbox = post(wire, outbox_bytes=10)
    await push_all(outbox, wire, ["12"])

    async with asyncio.timeout(5):
        await outbox.send(pack_text("345"))

    assert outbox.bytes == 5


async def test_senders_go_on_in_the_order_of_their_calls(wire, post):
    """One frame after the other, each as soon as the client has caught up."""
    outbox = post(wire, outbox_bytes=10)
    await push_all(outbox, wire, ["123456"])
    texts = [f"{each}: 12345" for each in range(4)]
    sending = []
    for each in texts:
        sending.append(asyncio.create_task(outbox.send(pack_text(each))))
        await asyncio.sleep(0)

    most = 0
    for _ in texts:
        wire.let_one_through()
        await wire.holds_one()
        most = max(most, outbox.bytes)
    wire.drain()
    await asyncio.gather(*sending)
    await wire.took(5)

    assert wire.frames == ["123456", *texts]
    assert most <= 10


async def test_a_sender_that_comes_when_the_client_has_just_caught_up_waits_its_turn(wire, post):
    """Between the moment the client caught up and the turn of one who waits, nobody goes first."""
    outbox = post(wire, outbox_bytes=10)
    await push_all(outbox, wire, ["123456"])
    first = asyncio.create_task(outbox.send(pack_text("first")))
    await asyncio.sleep(0)
    reads = asyncio.Event()

    async def come_late():
        await reads.wait()
        await outbox.send(pack_text("late"))

    late = asyncio.create_task(come_late())
    await asyncio.sleep(0)
    wire.drain()
    reads.set()  # it runs after the writer, and before the first one notices
    await asyncio.gather(first, late)
    await wire.took(3)

    assert wire.frames == ["123456", "first", "late"]


@pytest.mark.parametrize("when", ["while it waits", "when its turn has come"])
async def test_a_sender_that_is_cancelled_lets_the_next_one_go_on(wire, post, when):
    """And its own frame is not sent."""
    outbox = post(wire, outbox_bytes=10)
    await push_all(outbox, wire, ["123456"])
    first = asyncio.create_task(outbox.send(pack_text("cancelled")))
    second = asyncio.create_task(outbox.send(pack_text("second")))
    await asyncio.sleep(0)
    if when == "while it waits":
        first.cancel()
        wire.drain()
    else:
        outbox._paced._turns[0].set_result(None)
        first.cancel()
        wire.drain()
    await second
    with contextlib.suppress(asyncio.CancelledError):
        await first
    await wire.took(2)

    assert first.cancelled()
    assert wire.frames == ["123456", "second"]
    assert not outbox._paced


@pytest.mark.parametrize("ending", ["abort", "fail", "close", "lose"])
async def test_senders_that_wait_go_on_when_the_connection_ends(wire, post, ending):
    """They must not wait for ever for somebody who will never read; what they send is dropped."""
    outbox = post(wire, outbox_bytes=10)
    await push_all(outbox, wire, ["123456"])
    sending = [asyncio.create_task(outbox.send(pack_text("late"))) for _ in range(3)]
    await asyncio.sleep(0)

    if ending == "fail":
        wire.fail(OSError("gone"))
    elif ending == "close":
        outbox.close(4000)
    else:
        getattr(outbox, ending)()
    async with asyncio.timeout(5):
        taken = await asyncio.gather(*sending)

    assert taken == [False] * 3


async def test_a_sender_that_comes_after_the_end_does_not_wait(wire, post):
    """Even while others are still on their way out."""
    outbox = post(wire, outbox_bytes=10)
    await push_all(outbox, wire, ["123456"])
    waiting = asyncio.create_task(outbox.send(pack_text("early")))
    await asyncio.sleep(0)
    outbox.lose()

    async with asyncio.timeout(5):
        taken = await outbox.send(pack_text("late"))

    assert taken is False
    assert await waiting is False


@pytest.mark.parametrize("code", ["close", "lose"])
async def test_drained_returns_when_all_has_left_or_it_is_over(wire, post, code):
    """Several may wait for it."""
    outbox = post(wire)
    await push_all(outbox, wire, ["one", "two"])
    waiting = [asyncio.create_task(outbox.drained()) for _ in range(2)]
    wire.let_one_through()
    await wire.took(1)
    await wire.holds_one()
    early = any(each.done() for each in waiting)

    if code == "close":
        outbox.close(4000)
        wire.drain()
    else:
        outbox.lose()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)

    assert not early


async def test_drained_is_immediate_if_nothing_waits(wire, post):
    """Before the accept too: nothing can leave before it."""
    outbox, unaccepted = post(wire), post(wire, is_open=False)
    unaccepted.push(pack_text("hello"))

    async with asyncio.timeout(5):
        await outbox.drained()
        await unaccepted.drained()

    assert wire.events == []


async def test_one_who_stops_waiting_for_drained_leaves_the_others_waiting(wire, post):
    """They wait for the same thing, not for one another."""
    outbox = post(wire)
    await push_all(outbox, wire, ["one"])
    first, second = (asyncio.create_task(outbox.drained()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    early = second.done()

    wire.drain()
    await second

    assert not early


# The deadline.


async def test_a_client_that_takes_nothing_is_cut(server_wire, post, caplog):
    """Past its deadline the transport is aborted, and the end counts as abnormal."""
    outbox = post(server_wire, send_timeout=0.01)
    watch = watched(outbox)
    server_wire.stalled = True

    outbox.push(pack_text("one"))
    outbox.push(pack_text("two"))
    async with asyncio.timeout(5):
        await server_wire.transport.aborted.wait()

    assert outbox.close_code == ABNORMAL
    assert outbox.stage is Stage.CLOSED
    assert outbox.bytes == 0
    assert outbox.counters.dropped == {"gone": 1}
    assert watch.told == ["closed"]
    sentence = "send timed out after 0.01 s (send_timeout); aborted with 6 bytes unsent"
    assert sentence in caplog.text


async def test_a_deadline_is_each_frames_own(server_wire, post):
    """A client that takes one frame, however late, has the whole time again for the next."""
    outbox = post(server_wire, send_timeout=0.6)
    await push_all(outbox, server_wire, ["one", "two"])
    loop = asyncio.get_running_loop()
    a_while = asyncio.Event()
    loop.call_later(0.2, a_while.set)

    await a_while.wait()
    server_wire.let_one_through()
    await server_wire.took(1)
    await server_wire.holds_one()
    second_began = loop.time()
    async with asyncio.timeout(5):
        await server_wire.transport.aborted.wait()

    assert loop.time() >= second_began + 0.5


async def test_a_server_without_a_transport_is_cut_as_well(wire, post):
    """Its writer is stopped, and the session hears that it is over."""
    outbox = post(wire, send_timeout=0.01)
    watch = watched(outbox)

    outbox.push(pack_text("one"))
    wire.stalled = True
    outbox.push(pack_text("two"))
    async with asyncio.timeout(5):
        await watch.over.wait()

    assert outbox.close_code == ABNORMAL
    assert "two" not in wire.frames


async def test_a_client_that_reads_in_time_leaves_no_timer(wire, post):
    """The deadline ends with the writer."""
    outbox = post(wire, send_timeout=60)
    await push_all(outbox, wire, ["one"])
    deadline = outbox._writer._deadline

    wire.drain()
    await outbox.drained()

    assert deadline.cancelled()
    assert outbox._writer is None


async def test_without_a_deadline_a_frame_may_take_for_ever(wire, post):
    """``send_timeout=None`` makes no timer at all."""
    outbox = post(wire, send_timeout=None)

    await push_all(outbox, wire, ["one"])

    assert outbox._writer._deadline is None


async def test_a_writer_that_never_ran_leaves_no_timer(server_wire, post, caplog):
    """A client that goes within the same turn of the loop is not reported as slow later."""
    outbox = post(server_wire, send_timeout=0.01)
    server_wire.stalled = True
    loop = asyncio.get_running_loop()
    past_the_deadline = asyncio.Event()

    outbox.push(pack_text("stuck"))
    outbox.forget(now=False)
    loop.call_later(0.03, past_the_deadline.set)
    await past_the_deadline.wait()

    assert caplog.records == []


# A client that is gone.


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("closed"), KeyError("odd")])
async def test_a_server_that_fails_means_the_client_is_gone(wire, post, error):
    """The sender is not bothered: nothing is raised, and later frames go nowhere."""
    outbox = post(wire)
    watch = watched(outbox)
    wire.error = error

    outbox.push(pack_text("one"))
    async with asyncio.timeout(5):
        await watch.over.wait()
    taken = outbox.push(pack_text("two"))

    assert not taken
    assert outbox.stage is Stage.CLOSED
    assert watch.told == ["closed"]
    assert wire.events == []


async def test_a_server_that_fails_later_means_the_client_is_gone(wire, post):
    """What waited is forgotten and counted, and the session hears of it once."""
    outbox = post(wire)
    watch = watched(outbox)
    await push_all(outbox, wire, ["one", "two", "three"])

    wire.fail(OSError("gone"))
    async with asyncio.timeout(5):
        await watch.over.wait()
    await outbox.drained()
    outbox.lose()

    assert watch.told == ["closed"]
    assert wire.events == []
    assert outbox.counters.dropped == {"gone": 2}


async def test_a_writer_that_somebody_else_cancels_means_the_client_is_gone(wire, post, until):
    """What waits behind the frame that was cut off can never leave in order."""
    outbox = post(wire)
    watch = watched(outbox)
    await push_all(outbox, wire, ["one", "two"])
    await asyncio.sleep(0)

    outbox._writer._task.cancel()
    await until(lambda: outbox._writer is None)
    taken = outbox.push(pack_text("three"))

    assert not taken
    assert watch.told == ["closed"]
    assert wire.events == []


async def test_lost_once_is_lost(wire, post):
    """Noting it again changes nothing, and the code of an earlier close stays."""
    outbox = post(wire)
    watch = watched(outbox)
    outbox.close(4001, "ours")
    await wire.took(1)
    async with asyncio.timeout(5):
        await watch.over.wait()

    outbox.lose()
    outbox.lose()

    assert watch.told == ["closing", "closed"]
    assert (outbox.close_code, outbox.close_reason) == (4001, "ours")


# Closing.


async def test_a_close_follows_the_frames_that_wait(wire, post):
    """Nothing that was sent before is lost, nothing after is taken."""
    outbox = post(wire)
    await push_all(outbox, wire, ["one", "two"])

    outbox.close(4001, "enough")
    late = outbox.push(pack_text("three"))
    wire.drain()
    await wire.took(3)

    assert wire.frames == ["one", "two"]
    assert wire.events[2] == {"type": "websocket.close", "code": 4001, "reason": "enough"}
    assert not late


@pytest.mark.parametrize("stalled", [True, False])
async def test_closing_twice_is_harmless(wire, post, stalled):
    """The first code counts, be it on its way or gone."""
    outbox = post(wire)
    wire.stalled = stalled

    outbox.close(4001, "first")
    outbox.close(4002, "second")
    await wire.until(lambda wire: wire.is_stuck or wire.events)
    wire.drain()
    await wire.took(1)
    outbox.close(4003, "third")

    assert [event["code"] for event in wire.events] == [4001]
    assert (outbox.close_code, outbox.close_reason) == (4001, "first")


@pytest.mark.parametrize(("patient", "told"), [(False, "closing"), (True, "closing patiently")])
async def test_a_close_is_told_before_the_end(wire, post, patient, told):
    """The session ends its handlers, or lets them finish, as the close says."""
    outbox = post(wire)
    watch = watched(outbox)
    wire.stalled = True

    outbox.close(4001, patient=patient)
    at_first = list(watch.told), outbox.stage
    await wire.holds_one()
    wire.drain()
    async with asyncio.timeout(5):
        await watch.over.wait()

    assert at_first == ([told], Stage.CLOSING)
    assert watch.told == [told, "closed"]
    assert outbox.stage is Stage.CLOSED


async def test_a_long_reason_is_cut(wire, post):
    """What the client gets fits into a close frame."""
    outbox = post(wire)

    outbox.close(1000, "é" * 200)
    await wire.took(1)

    assert wire.events[0]["reason"] == outbox.close_reason == "é" * 61


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_a_close_that_comes_too_late_is_no_error(wire, post, when):
    """The client may always have gone first."""
    outbox = post(wire)
    watch = watched(outbox)
    if when == "at once":
        wire.error = OSError("gone")
        outbox.close(4001)
    else:
        wire.stalled = True
        outbox.close(4001)
        await wire.holds_one()
        wire.fail(OSError("gone"))
    async with asyncio.timeout(5):
        await watch.over.wait()

    assert outbox.stage is Stage.CLOSED
    assert outbox.close_code == 4001


async def test_a_close_frame_has_a_deadline_too(server_wire, post):
    """A client that does not take the close frame is cut; the code stays that of the close."""
    outbox = post(server_wire, send_timeout=0.01)
    server_wire.stalled = True

    outbox.close(4001)
    async with asyncio.timeout(5):
        await server_wire.transport.aborted.wait()

    assert (outbox.stage, outbox.close_code) == (Stage.CLOSED, 4001)


# The handshake.


async def test_frames_before_the_accept_leave_right_after_it(wire, post):
    """In the order in which they were pushed, by whomever."""
    outbox = post(wire, is_open=False)

    outbox.push(pack_text("welcome"))
    outbox.push(pack_text("joined"))
    before = list(wire.events)
    await outbox.accept(ACCEPT)
    outbox.push(pack_text("after"))
    await wire.took(4)

    assert before == []
    assert wire.kinds == ["accept", "send", "send", "send"]
    assert wire.frames == ["welcome", "joined", "after"]
    assert (outbox.accepted, outbox.stage, outbox.counters.accepted) == (True, Stage.OPEN, 1)


async def test_frames_pushed_while_the_accept_is_on_its_way_wait_for_it(wire, post):
    """Another task may broadcast in between; the accept comes first all the same."""
    outbox = post(wire, is_open=False)
    wire.stalled = True
    accepting = asyncio.create_task(outbox.accept(ACCEPT))
    await wire.holds_one()

    outbox.push(pack_text("early"))
    early = list(wire.events)
    wire.drain()
    await accepting
    await wire.took(2)

    assert early == []
    assert wire.kinds == ["accept", "send"]


async def test_frames_before_the_accept_survive_a_server_that_stalls_after_it(wire, post):
    """The first one waits in the server, the rest behind it."""
    outbox = post(wire, is_open=False)
    for each in "abc":
        outbox.push(pack_text(each))
    wire.stalled = True
    accepting = asyncio.create_task(outbox.accept(ACCEPT))
    await wire.holds_one()

    wire.let_one_through()
    await accepting
    waiting = outbox.bytes
    await wire.holds_one()
    wire.drain()
    await wire.took(4)

    assert waiting == 3
    assert wire.frames == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "size"), [({}, 2), ({"volatile": True}, 2), ({"key": "x"}, 2), ({}, 400)]
)
async def test_a_sender_before_the_accept_is_told_to_accept_first(wire, post, options, size):
    """It cannot wait for a client that reads nothing before the accept."""
    outbox = post(wire, is_open=False, outbox_bytes=3)
    await outbox.send(pack_text("ab"))

    with pytest.raises(ConnectionStateError, match="accept first"):
        await outbox.send(pack_text("c" * size), **options)
    await outbox.accept(ACCEPT)
    await wire.took(2)

    assert wire.frames == ["ab"]


async def test_a_sender_before_the_accept_does_not_wait(wire, post):
    """Over half of it may be full: there is no client yet whose pace could be kept."""
    outbox = post(wire, is_open=False, outbox_bytes=10)

    async with asyncio.timeout(5):
        await outbox.send(pack_text("1234567"))
        await outbox.send(pack_text("890"))

    assert outbox.bytes == 10


async def test_a_value_may_be_replaced_before_the_accept_though_little_room_is_left(wire, post):
    """It takes the place of the old one, and needs no room beside it."""
    outbox = post(wire, is_open=False, outbox_bytes=10)
    await outbox.send(pack_text("123456"), key="x")

    sent = await outbox.send(pack_text("654321"), key="x")
    await outbox.accept(ACCEPT)
    await wire.took(2)

    assert sent
    assert wire.frames == ["654321"]


@pytest.mark.parametrize("policy", POLICIES)
async def test_what_others_send_before_the_accept_has_a_budget_too(wire, post, policy):
    """A handshake that is never answered holds no more than an outbox."""
    outbox = post(wire, is_open=False, outbox_bytes=3, on_overflow=policy)

    taken = [outbox.push(pack_text("ab")), outbox.push(pack_text("cd"))]

    assert taken == [True, policy == "drop_oldest"]
    assert outbox.bytes == (0 if policy == "close" else 2)
    assert (outbox.stage is Stage.CLOSED) == (policy == "close")
    assert wire.events == []


async def test_a_close_before_the_accept_sends_nothing(wire, post):
    """Whoever answers the handshake denies it; what was sent is discarded."""
    outbox = post(wire, is_open=False)
    watch = watched(outbox)
    outbox.push(pack_text("secret"))

    outbox.close(4001, "no")

    assert wire.events == []
    assert watch.told == ["closing", "closed"]
    assert (outbox.stage, outbox.bytes, outbox.accepted) == (Stage.CLOSED, 0, False)
    assert (outbox.close_code, outbox.close_reason) == (4001, "no")


@pytest.mark.parametrize(
    ("how", "waiting"),
    [("close", ["one"]), ("close", ["one", "two", ""]), ("lose", ["one", "two"]), ("close", [])],
)
async def test_what_waits_for_an_accept_that_never_comes_is_counted(wire, post, how, waiting):
    """No drop is silent, whoever ends the handshake: we, or the client."""
    outbox = post(wire, is_open=False)
    for text in waiting:
        outbox.push(pack_text(text))

    outbox.close(4403, "no") if how == "close" else outbox.lose()

    assert +outbox.counters.dropped == +Counter(gone=len(waiting))
    assert (outbox.bytes, wire.events) == (0, [])


@pytest.mark.parametrize("error", [OSError("gone"), ConnectionResetError("gone")])
async def test_a_client_that_goes_before_the_accept_was_never_there(wire, post, error):
    """``accept()`` says so as Falcon's does, and the connection does not count as accepted."""
    outbox = post(wire, is_open=False)
    wire.error = error

    with pytest.raises(falcon.WebSocketDisconnected):
        await outbox.accept(ACCEPT)

    assert (outbox.accepted, outbox.stage, outbox.counters.accepted) == (False, Stage.CLOSED, 0)


async def test_an_answer_that_the_server_cannot_send_is_the_callers_mistake(wire, post):
    """A header that it refuses, say: the handshake is still unanswered."""
    outbox = post(wire, is_open=False)
    wire.error = ValueError("no such header")

    with pytest.raises(ValueError, match="no such header"):
        await outbox.accept(ACCEPT)
    wire.error = None
    await outbox.accept(ACCEPT)

    assert wire.kinds == ["accept"]


async def test_a_close_while_the_accept_is_on_its_way_follows_it(wire, post):
    """Whoever closes in between does not get in the accept's way."""
    outbox = post(wire, is_open=False)
    watch = watched(outbox)
    outbox.push(pack_text("never sent"))
    wire.stalled = True
    accepting = asyncio.create_task(outbox.accept(ACCEPT))
    await wire.holds_one()

    outbox.close(4001)
    wire.drain()
    with pytest.raises(falcon.WebSocketDisconnected):
        await accepting
    await wire.took(2)
    async with asyncio.timeout(5):
        await watch.over.wait()

    assert wire.kinds == ["accept", "close"]
    assert wire.events[1]["code"] == 4001
    assert (outbox.accepted, outbox.stage) == (True, Stage.CLOSED)


async def test_a_client_that_goes_while_the_accept_is_on_its_way_was_never_there(wire, post):
    """Nothing is sent to it after the accept."""
    outbox = post(wire, is_open=False)
    wire.stalled = True
    accepting = asyncio.create_task(outbox.accept(ACCEPT))
    await wire.holds_one()

    outbox.lose()
    wire.drain()
    with pytest.raises(falcon.WebSocketDisconnected):
        await accepting

    assert wire.kinds == ["accept"]
    assert outbox.stage is Stage.CLOSED


# The end of a session.


async def test_an_end_cuts_a_frame_that_is_still_on_its_way(server_wire, post):
    """A client that does not read must not keep the socket."""
    outbox = post(server_wire)
    await push_all(outbox, server_wire, ["stuck"])
    writer = outbox._writer._task

    outbox.forget(now=False)
    with contextlib.suppress(asyncio.CancelledError):
        await writer

    assert server_wire.transport.aborted.is_set()
    assert (outbox.stage, outbox.bytes) == (Stage.FORGOTTEN, 0)


@pytest.mark.parametrize("now", [True, False])
async def test_an_end_gives_unwritten_bytes_their_time(server_wire, post, monkeypatch, now):
    """``send_timeout`` in normal life, a moment when the server goes down; then it cuts."""
    module = importlib.import_module("falcon_pachinko.connection.outbox")
    monkeypatch.setattr(module, "CLOSE_WAIT", 0.01)
    outbox = post(server_wire, send_timeout=60 if now else 0.01)
    server_wire.transport.unwritten = 1

    outbox.forget(now=now)
    at_once = server_wire.transport.aborted.is_set()
    async with asyncio.timeout(5):
        await server_wire.transport.aborted.wait()

    assert not at_once


async def test_an_end_leaves_a_clean_transport_alone(server_wire, post):
    """With all bytes written, the server closes in its own time."""
    outbox = post(server_wire, send_timeout=0.01)

    outbox.forget(now=False)

    assert outbox.stage is Stage.FORGOTTEN
    assert not server_wire.transport.aborted.is_set()


async def test_a_forgotten_outbox_tells_nobody_and_takes_nothing(wire, post):
    """Its session has ended; what is left is only a name."""
    outbox = post(wire)
    watch = watched(outbox)

    outbox.forget(now=False)
    taken = outbox.push(pack_text("late"))
    outbox.close(4000)
    outbox.lose()

    assert not taken
    assert watch.told == []
    assert (wire.events, outbox.stage) == ([], Stage.FORGOTTEN)


# Who calls the server's ``send``, and in which context.


class FutureWire:
    """A server that answers with futures: ASGI asks for an awaitable only."""

    def __init__(self):
        self.events = []

    def send(self, event):
        self.events.append(event)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


async def test_a_send_that_returns_a_future_works(until):
    """From the accept to the close; it is never stepped."""
    wire = FutureWire()
    outbox = Outbox(wire.send, Limits(), Counters())

    await outbox.accept(ACCEPT)
    outbox.push(pack_text("one"))
    outbox.close(1000)
    await until(lambda: outbox.stage is Stage.CLOSED)

    kinds = [event["type"] for event in wire.events]
    assert kinds == ["websocket.accept", "websocket.send", "websocket.close"]


def test_a_known_servers_own_send_is_bare():
    """A coroutine method of an object whose class, or a base of it, is a server's."""

    class Cycle:
        async def send(self, event): ...

    Cycle.__module__ = "uvicorn.protocols.websockets.some_impl"
    inherits = type("Inherits", (Cycle,), {})

    assert is_bare(Cycle().send)
    assert is_bare(inherits().send)


@pytest.mark.parametrize(
    "make",
    [
        lambda wire: wire.send,
        lambda _: FutureWire().send,
        lambda wire: wrapping(wire.send),
        lambda wire: type("Odd", (), {"__call__": wire.send})(),
        lambda _: contextvars.copy_context,
    ],
    ids=["method of another's", "plain method", "function", "callable object", "builtin"],
)
def test_whatever_may_be_a_middlewares_send_is_not_bare(make):
    """Only what is known to be the server's own may be stepped by hand."""

    class Other:
        async def send(self, event): ...

    assert not is_bare(make(Other()))


def wrapping(send):
    async def wrapped(event):
        await send(event)

    return wrapped


async def test_a_wrapped_send_begins_as_early_as_python_can(wire):
    """Within the push from 3.12 on, with the writer's first turn before."""
    outbox = Outbox(wrapping(wire.send), Limits(), Counters(), is_open=True)

    outbox.push(pack_text("one"))
    at_once = wire.frames
    await wire.took(1)

    assert at_once == (["one"] if sys.version_info >= (3, 12) else [])
    assert wire.frames == ["one"]


async def test_no_timeout_of_a_middleware_reaches_the_sender(wire, until):
    """It ends the writer, and with it the connection; the sender notices nothing."""

    async def impatient(event):
        async with asyncio.timeout(0.001):
            await wire.send(event)

    outbox = Outbox(impatient, Limits(), Counters(), is_open=True)
    wire.stalled = True

    for _ in range(3):
        outbox.push(pack_text("x"))
        await asyncio.sleep(0)
    await until(lambda: outbox.stage is Stage.CLOSED)

    assert not asyncio.current_task().cancelling()
    assert outbox.bytes == 0


async def test_no_context_variable_of_a_middleware_reaches_the_sender(wire):
    """Nor one of the sender's the middleware: it is called in the session's context."""
    heard = []

    async def noting(event):
        heard.append(VOICE.get())
        VOICE.set("the middleware's")
        await wire.send(event)

    outbox = Outbox(noting, Limits(), Counters(), is_open=True)
    VOICE.set("the session's")
    outbox.adopt_context()
    VOICE.set("the sender's")

    for each in "ab":
        outbox.push(pack_text(each))
        await wire.took(1)
        await outbox.drained()

    assert set(heard) <= {"the session's", "the middleware's"}
    assert heard[0] == "the session's"
    assert VOICE.get() == "the sender's"


async def test_a_bare_send_needs_no_context_of_its_own(wire):
    """Stepped by hand, it runs where the sender does, which costs nothing."""
    outbox = Outbox(wire.send, Limits(), Counters(), direct=True, is_open=True)

    outbox.adopt_context()

    assert outbox._context is None


# Stages.


class Recorded(Outbox):
    """An outbox that remembers how it went from stage to stage."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.moves = []

    def _move(self, stage):
        self.moves.append((self.stage, stage))
        super()._move(stage)


CONNECTING, OPEN, CLOSING, CLOSED, FORGOTTEN = Stage

LIVES = {
    "accepted, closed by us": (["accept", "close", "forget"], [OPEN, CLOSING, CLOSED, FORGOTTEN]),
    "accepted, lost": (["accept", "lose", "forget"], [OPEN, CLOSED, FORGOTTEN]),
    "accepted, cut": (["accept", "abort", "forget"], [OPEN, CLOSED, FORGOTTEN]),
    "denied": (["close", "forget"], [CLOSING, CLOSED, FORGOTTEN]),
    "gone before an answer": (["lose", "forget"], [CLOSED, FORGOTTEN]),
    "never answered": (["forget"], [CLOSED, FORGOTTEN]),
}


async def live(outbox, steps, until):
    for step in steps:
        if step == "accept":
            await outbox.accept(ACCEPT)
        elif step == "close":
            outbox.close(4000)
            await until(lambda: outbox.stage is Stage.CLOSED)
        elif step == "forget":
            outbox.forget(now=True)
        else:
            getattr(outbox, step)()


@pytest.mark.parametrize("name", LIVES)
async def test_a_connection_goes_from_stage_to_stage(wire, direct, until, name):
    """One way only, whatever becomes of it."""
    steps, stages = LIVES[name]
    outbox = Recorded(wire.send, Limits(), Counters(), direct=direct)

    await live(outbox, steps, until)

    assert outbox.moves == list(zip([CONNECTING, *stages], stages, strict=False))


def test_every_way_from_stage_to_stage_is_taken_by_some_life():
    """What `NEXT` allows is what can happen, and nothing more."""
    taken = set()
    for _, stages in LIVES.values():
        taken |= set(zip([CONNECTING, *stages], stages, strict=False))

    assert taken == {(each, after) for each in Stage for after in NEXT[each]}


@pytest.mark.parametrize("stage", Stage)
async def test_no_other_way_is_possible(wire, stage):
    """A mistake of ours shows at once, and not as a connection that never ends."""
    for after in set(Stage) - NEXT[stage]:
        outbox = Outbox(wire.send, Limits(), Counters())
        outbox.stage = stage
        with pytest.raises(AssertionError):
            outbox._move(after)


@pytest.mark.parametrize(("is_open", "shown"), [(True, "open"), (False, "connecting")])
async def test_an_outbox_shows_its_connection_and_stage(wire, is_open, shown):
    """So that a log line tells which one, and how far it is."""
    outbox = Outbox(wire.send, Limits(), Counters(), name="ann", route="/ws", is_open=is_open)

    assert repr(outbox) == f"<Connection ann {shown}>"
    assert outbox.where() == {"connection_id": "ann", "route": "/ws"}


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


@pytest.mark.parametrize(
    ("code", "sent"),
    [(1012, 3503), (1013, 3503), (1008, 3403), (1009, 3413), (1011, 3500), (1003, 3500)],
)
async def test_a_server_that_refuses_a_code_gets_one_that_says_the_same(code, sent):
    """The client is told of its end, and the application of the code that it gave."""
    codes = []

    async def send(event):
        codes.append(event["code"])
        if event["code"] < 3000:
            raise ValueError(f"Invalid close code {event['code']} (must be 1000 or 3000 to 4999)")

    outbox = Outbox(send, Limits(), Counters(), name="c1", is_open=True)
    outbox.close(code, "bye")
    await outbox.finished()

    assert codes == [code, sent]
    assert (outbox.close_code, outbox.close_reason) == (code, "bye")
