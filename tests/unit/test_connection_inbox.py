"""What a client sends: judged as it arrives, in order, bounded, and read by one reader."""

import asyncio
import contextlib
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import Limits
from falcon_pachinko.connection import inbox as module
from falcon_pachinko.connection.ends import ABNORMAL
from falcon_pachinko.connection.inbox import FRAMES_PER_TURN, Inbox

PING = "ping"


class Client:
    """The far side: what it sends, and when."""

    def __init__(self):
        self.events = asyncio.Queue()
        self.pending = 0

    def say(self, *frames):
        for each in frames:
            kind = "text" if isinstance(each, str) else "bytes"
            self.events.put_nowait({"type": "websocket.receive", kind: each})

    def go(self, **event):
        self.events.put_nowait({"type": "websocket.disconnect", **event})

    async def receive(self):
        self.pending += 1
        assert self.pending == 1, "two readers"
        try:
            return await self.events.get()
        finally:
            self.pending -= 1

    @property
    def unread(self):
        return self.events.qsize()


class Life:
    """What a session is to its inbox: it is told of ends, excesses and pings."""

    def __init__(self):
        self.gone_at = asyncio.Event()
        self.excess = None
        self.refused = []
        self.pings = []
        self.inbox = None

    def gone(self):
        self.gone_at.set()

    def exceeded(self, excess, frame):
        self.excess = excess
        self.refused.append(frame)
        self.inbox.drain()

    def intercept(self, frame):
        if frame == PING:
            self.pings.append(frame)
        return frame == PING


class Bench:
    """An inbox with both of its sides."""

    def __init__(self, receive=None, **limits):
        self.client, self.life = Client(), Life()
        self.inbox = Inbox(receive or self.client.receive, Limits(**limits), self.life)
        self.life.inbox = self.inbox

    async def take(self, count=1):
        """Take frames, as a session does; what it gets is what there was when it ended."""
        taken = []
        async with asyncio.timeout(30):
            async for frame in self.inbox:
                taken.append(frame)
                if len(taken) == count:
                    break
        return taken


async def turn(times=5):
    for _ in range(times):
        await asyncio.sleep(0)


# Frames and ends.


async def test_frames_come_as_they_are():
    """Text or bytes, empty ones too, whichever key the server leaves out or sets to None."""
    bench = Bench()
    bench.client.say("text", b"bytes")
    bench.client.events.put_nowait({"type": "websocket.receive", "bytes": b"", "text": None})
    bench.client.events.put_nowait({"type": "websocket.receive", "text": "", "bytes": None})
    bench.client.events.put_nowait({"type": "websocket.receive", "text": None, "bytes": None})
    bench.client.events.put_nowait({"type": "websocket.receive"})

    assert await bench.take(6) == ["text", b"bytes", b"", "", b"", b""]


@pytest.mark.parametrize(
    ("event", "code", "reason"),
    [
        ({"code": 1000}, 1000, ""),
        ({"code": 4321, "reason": "x"}, 4321, "x"),
        ({"code": 1000, "reason": "é" * 100}, 1000, "é" * 61),
        ({"code": 1005, "reason": ""}, 1005, ""),
        ({"code": 1005}, ABNORMAL, ""),
        ({"code": None, "reason": None}, ABNORMAL, ""),
        ({}, ABNORMAL, ""),
    ],
)
async def test_the_end_carries_its_code_and_reason(event, code, reason):
    """1006 where the server knows of no close frame."""
    bench = Bench()
    bench.client.go(**event)

    assert await bench.take() == []
    assert (bench.inbox.code, bench.inbox.reason, bench.inbox.gone) == (code, reason, True)


async def test_the_end_comes_after_the_frames_before_it():
    """And once it has come, the iteration stays over."""
    bench = Bench()
    bench.inbox.read_ahead()
    bench.client.say("one", "two")
    bench.client.go(code=4000)
    await bench.life.gone_at.wait()

    assert await bench.take(9) == ["one", "two"]
    assert await bench.take(9) == []


async def test_an_end_that_the_session_waits_for_is_not_told_besides():
    """It has it by its iteration being over."""
    bench = Bench()
    bench.client.go(code=1000)

    await bench.take()

    assert not bench.life.gone_at.is_set()


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("error", [RuntimeError("closed already"), OSError("gone"), KeyError("x")])
async def test_a_server_that_cannot_receive_has_no_client(caplog, ahead, error):
    """Whatever it raises is an end without a close frame, and one line in the log."""

    async def broken():
        raise error

    bench = Bench(broken)
    if ahead:
        bench.inbox.read_ahead()
        await asyncio.wait_for(bench.life.gone_at.wait(), 30)

    assert await bench.take() == []
    assert bench.inbox.code == ABNORMAL
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


async def test_a_receive_may_return_any_awaitable():
    """ASGI asks for no coroutine; a future is one too, be it done or not."""
    futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
    waiting = iter(futures)
    bench = Bench(lambda: next(waiting))
    futures[0].set_result({"type": "websocket.receive", "text": "done"})
    taking = asyncio.create_task(bench.take(9))
    await turn()

    futures[1].set_result({"type": "websocket.receive", "text": "later"})
    await turn()
    futures[2].set_exception(OSError("gone"))

    assert await taking == ["done", "later"]


async def test_a_receive_that_raises_at_once_is_an_end():
    """One that is no coroutine function raises when it is called."""

    def broken():
        raise RuntimeError("closed already")

    bench = Bench(broken)

    assert await bench.take() == []
    assert bench.inbox.gone


# One reader.


async def test_a_client_that_goes_is_noticed_while_nobody_takes():
    """That is what reading ahead is for; asking for it twice is asking once."""
    bench = Bench()
    bench.inbox.read_ahead()
    bench.inbox.read_ahead()
    bench.client.say("last words")
    bench.client.go(code=4000)
    await asyncio.wait_for(bench.life.gone_at.wait(), 30)

    assert bench.inbox.code == 4000
    assert await bench.take(9) == ["last words"]


async def test_a_session_that_waits_reads_itself():
    """There is nothing to read ahead of, and no task is made."""
    bench = Bench()
    taking = asyncio.create_task(bench.take())
    await turn()

    bench.inbox.read_ahead()
    tasks = asyncio.all_tasks() - {asyncio.current_task(), taking}
    bench.client.say("x")

    assert await taking == ["x"]
    assert tasks == set()


async def test_the_reading_ahead_ends_when_the_session_has_its_next_frame():
    """It has then caught up, and reads itself again."""
    bench = Bench()
    bench.inbox.read_ahead()
    taking = asyncio.create_task(bench.take())
    await turn()

    bench.client.say("x")
    taken = await taking
    await turn()

    assert taken == ["x"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert bench.client.pending == 0


async def test_two_readers_are_a_bug_that_shows():
    """Servers answer the wrong one, or raise: so it is an assertion."""
    bench = Bench()
    bench.inbox.read_ahead()
    await turn()

    with pytest.raises(AssertionError, match="by the session and the read-ahead"):
        await bench.inbox._read()

    await bench.inbox.stop()


# Fairness.


async def test_a_client_that_floods_lets_others_run():
    """After some dozens of frames without a pause, other tasks have their turn."""
    bench = Bench(inbox_messages=None)
    bench.client.say(*("x" * (FRAMES_PER_TURN + 1)))
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, "turn")

    first = await bench.take(FRAMES_PER_TURN - 1)
    before = list(turns)
    await bench.take(2)

    assert (len(first), before, turns) == (FRAMES_PER_TURN - 1, [], ["turn"])


async def test_a_session_that_waited_has_its_whole_turn_again():
    """Others ran meanwhile."""
    bench = Bench()
    bench.client.say(*("x" * (FRAMES_PER_TURN - 1)))
    await bench.take(FRAMES_PER_TURN - 1)
    taking = asyncio.create_task(bench.take())
    await turn()
    bench.client.say(*("x" * FRAMES_PER_TURN))
    await taking
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, "turn")

    await bench.take(FRAMES_PER_TURN - 2)

    assert turns == []


# Pings.


async def test_a_ping_behind_a_busy_handler_is_taken_out():
    """It does not wait its turn, and is nobody's message."""
    bench = Bench()
    bench.inbox.read_ahead()
    bench.client.say("one", PING, "two", PING)
    await turn()
    pings = list(bench.life.pings)

    assert pings == [PING, PING]
    assert await bench.take(2) == ["one", "two"]


async def test_a_ping_that_the_session_waits_for_is_handled_like_any_other():
    """At once, and in its place."""
    bench = Bench()
    bench.client.say(PING)

    assert await bench.take() == [PING]
    assert bench.life.pings == []


async def test_a_ping_is_charged_to_the_rate():
    """Else it would be a way around it."""
    bench = Bench(burst=2, messages_per_second=0.001)
    bench.inbox.read_ahead()
    bench.client.say(PING, PING, PING)
    await turn()

    assert bench.life.pings == [PING, PING]
    assert bench.life.excess.code == "rate_limited"


# Bounds: reading stops, and goes on.


@pytest.mark.parametrize(
    ("limits", "frames", "read"),
    [
        ({"inbox_messages": 3}, ["x"] * 10, 3),
        ({"inbox_messages": 3}, [b""] * 10, 3),
        ({"inbox_bytes": 10, "message_bytes": 4}, ["1234"] * 10, 3),
        ({"inbox_bytes": 10, "message_bytes": 4}, [b"12"] * 10, 5),
        ({"inbox_bytes": 12, "message_bytes": 6}, ["茶茶"] * 10, 2),  # as on the wire
        ({"inbox_bytes": 2, "message_bytes": 8}, ["1234"] * 10, 2),
        ({"inbox_messages": None, "inbox_bytes": None}, ["x"] * 10, 10),
        ({"inbox_messages": None, "inbox_bytes": 5, "message_bytes": None}, ["xx"] * 10, 3),
    ],
)
async def test_a_full_inbox_stops_the_reading(limits, frames, read):
    """In frames or in bytes, of either kind; at least one message of the largest size fits."""
    bench = Bench(**limits)
    bench.inbox.read_ahead()
    bench.client.say(*frames)
    await turn(30)

    assert len(frames) - bench.client.unread == read
    assert bench.life.excess is None
    await bench.inbox.stop()


async def test_reading_goes_on_when_there_is_room():
    """Nothing is lost, and nothing is closed; the end is seen in its turn."""
    bench = Bench(inbox_messages=2)
    bench.inbox.read_ahead()
    bench.client.say(*"abcdef")
    bench.client.go(code=1000)
    await turn(20)
    unread = bench.client.unread

    taken = await bench.take(9)

    assert unread == 5
    assert taken == list("abcdef")
    assert bench.inbox.code == 1000


async def test_frames_that_wait_for_a_handlers_turn_take_room_too():
    """They are taken, but not done with."""
    bench = Bench(inbox_messages=2)
    bench.client.say(*"abc")
    for each in await bench.take(2):
        bench.inbox.hold(each)
    taking = asyncio.create_task(bench.take())
    await turn()
    early = (taking.done(), bench.client.unread)

    bench.inbox.release("a")

    assert early == (False, 1)
    assert await taking == ["c"]


async def test_their_bytes_take_room_too():
    """As those of frames that were not taken yet."""
    bench = Bench(inbox_bytes=8, message_bytes=8)
    bench.client.say("12345678", "x")
    (frame,) = await bench.take()
    bench.inbox.hold(frame)
    full = bench.inbox.is_full

    bench.inbox.release(frame)

    assert (full, bench.inbox.is_full) == (True, False)


# Rates.


async def test_a_burst_is_allowed_and_one_more_is_not():
    """The answer names the setting and its value; what waits is thrown away."""
    bench = Bench(burst=3, messages_per_second=0.001)
    bench.inbox.read_ahead()
    bench.client.say(*"abcd")
    await turn(10)

    excess = bench.life.excess
    assert (excess.close_code, excess.code) == (1008, "rate_limited")
    assert excess.sentence == "No more than 0.001 messages a second (messages_per_second)."
    assert bench.life.refused == ["d"]
    await bench.inbox.stop()


@pytest.mark.parametrize("limits", [{"messages_per_second": None, "burst": 1}, {"burst": None}])
async def test_without_rate_or_burst_nobody_is_too_fast(limits):
    """None switches either off."""
    bench = Bench(**limits)
    bench.client.say(*("x" * 50))

    assert len(await bench.take(50)) == 50
    assert bench.life.excess is None


class Clock:
    """The inbox's clock, in the test's hands."""

    def __init__(self):
        self.now, self.real = 1000.0, module.monotonic

    def __enter__(self):
        module.monotonic = lambda: self.now
        return self

    def __exit__(self, *_):
        module.monotonic = self.real


async def test_what_was_left_unread_is_not_judged_as_if_it_came_at_once():
    """A client that kept its rate while we did not read has done nothing wrong."""
    bench = Bench(burst=2, messages_per_second=1)
    with Clock() as clock:
        bench.client.say("first")
        await bench.take()
        bench.inbox.leave_unread()  # a handler is busy
        clock.now += 10
        bench.client.say(*("x" * 10))
        taken = await bench.take(10)

    assert len(taken) == 10
    assert bench.life.excess is None


async def test_what_was_left_unread_earns_no_more_than_its_time():
    """Ten seconds are worth ten messages, and the burst, at one a second."""
    bench = Bench(burst=2, messages_per_second=1)
    with Clock() as clock:
        bench.inbox.leave_unread()
        bench.inbox.read_ahead()
        clock.now += 10
        bench.client.say(*("x" * 14))
        await turn(30)

    assert bench.life.excess.code == "rate_limited"


def admitted_at(gaps, burst, rate):
    """Send frames with gaps between them; return when those came that were taken."""

    async def play():
        bench = Bench(burst=burst, messages_per_second=rate)
        admitted = []
        with Clock() as clock:
            began = clock.now
            taking = None
            for gap in gaps:
                clock.now += gap
                if taking is None:
                    taking = asyncio.ensure_future(anext(bench.inbox))
                    await turn(3)
                bench.client.say("x")
                await turn(4)
                if taking.done():
                    taking.result()
                    taking = None
                    admitted.append(clock.now - began)
            if taking is not None:
                taking.cancel()
                await asyncio.wait([taking])
        return admitted

    return asyncio.run(play())


rates = {
    "gaps": st.lists(st.floats(0, 3), max_size=30),
    "burst": st.integers(1, 5),
    "rate": st.integers(1, 3),
}


@given(**rates)
def test_a_client_gets_the_burst_and_what_the_rate_has_earned(gaps, burst, rate):
    """No more than that in any stretch of time, and the burst in any case."""
    admitted = admitted_at(gaps, burst, rate)

    assert len(admitted) >= min(len(gaps), burst)
    for first, begin in enumerate(admitted):
        for last, end in enumerate(admitted[first:], first):
            assert last - first + 1 <= burst + rate * (end - begin) + 1e-6


# Sizes.


@given(st.text(max_size=40) | st.binary(max_size=40), st.integers(1, 60))
def test_a_frame_is_measured_in_bytes(frame, most):
    """Of its UTF-8, as the wire has it; one byte more than allowed is too much."""
    size = len(frame.encode("utf-8", "surrogatepass")) if isinstance(frame, str) else len(frame)

    async def play():
        bench = Bench(message_bytes=most)
        bench.client.say(frame)
        bench.client.go(code=1000)
        return await bench.take(), bench.life.excess

    taken, excess = asyncio.run(play())

    if size <= most:
        assert (taken, excess) == ([frame], None)
    else:
        assert taken == []
        assert (excess.close_code, excess.code) == (1009, "too_large")
        assert excess.sentence == f"A message has at most {most} bytes (message_bytes)."


async def test_a_frame_is_refused_when_it_arrives():
    """Not when its turn comes: what waited before it is thrown away with it."""
    bench = Bench(message_bytes=3)
    bench.inbox.read_ahead()
    bench.client.say("one", "four")
    await turn(10)

    assert bench.life.refused == ["four"]
    assert not bench.inbox._frames
    await bench.inbox.stop()


# Our own ends.


async def test_a_drained_inbox_throws_away_what_comes_and_waits_for_the_end():
    """A server that goes down handles no more messages, and still hears who leaves."""
    bench = Bench(message_bytes=3)
    bench.inbox.read_ahead()
    bench.client.say("one")
    await turn()
    bench.inbox.drain()
    bench.client.say("two", PING, "too large")
    bench.client.go(code=1000)

    assert await bench.take(9) == []
    assert (bench.inbox.gone, bench.life.pings, bench.life.excess) == (True, [], None)


async def test_an_ended_inbox_gives_out_nothing():
    """What waits is thrown away, and the iteration is over without another event."""
    bench = Bench()
    bench.inbox.read_ahead()
    bench.client.say("one")
    await turn()

    bench.inbox.end()

    assert await bench.take(9) == []
    await bench.inbox.stop()


async def test_stopping_reads_no_more():
    """Nothing of it runs when that returns, and what comes later stays with the server."""
    bench = Bench()
    bench.inbox.read_ahead()
    await turn()

    await bench.inbox.stop()
    bench.client.say("unheard")
    bench.inbox.read_ahead()
    await turn()

    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (bench.client.unread, bench.client.pending) == (1, 0)
    assert await bench.take() == []


@pytest.mark.parametrize("reads", [True, False])
async def test_stopping_twice_is_stopping_once(reads):
    """And stopping what does not read is nothing."""
    bench = Bench()
    if reads:
        bench.inbox.read_ahead()

    await bench.inbox.stop()
    await bench.inbox.stop()

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_stopping_ends_a_reader_that_waits_for_room():
    """As one that waits for the client."""
    bench = Bench(inbox_messages=1)
    bench.inbox.read_ahead()
    bench.client.say("one", "two")
    await turn()

    await bench.inbox.stop()

    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert bench.client.unread == 1


# Whatever happens.

STEPS = st.lists(
    st.sampled_from(["say", "say", "take", "take", "read ahead", "turn", "ping", "busy"]),
    max_size=40,
)


@given(STEPS, st.booleans(), st.integers(1, 4))
def test_every_frame_is_taken_once_and_in_order(steps, goes, most):
    """However they arrive, are read ahead and taken; and there are never two receives."""

    async def play():
        bench, said, taken, held = Bench(inbox_messages=most), [], [], []
        taking = None

        async def collect():
            nonlocal taking
            await turn(3)
            if taking is not None and taking.done():
                taken.append(taking.result())
                taking = None

        for number, step in enumerate(steps):
            if step == "say":
                said.append(str(number))
                bench.client.say(said[-1])
            elif step == "ping":
                bench.client.say(PING)
            elif step == "read ahead":
                bench.inbox.read_ahead()
            elif step == "take" and taking is None:
                taking = asyncio.ensure_future(anext(bench.inbox))
            elif step == "busy" and taken and not held:
                held.append(taken[-1])
                bench.inbox.hold(held[-1])
            elif step == "turn" and held:
                bench.inbox.release(held.pop())
            await collect()
            assert len(bench.inbox._frames or ()) + len(held) <= most + 1
        for each in held:
            bench.inbox.release(each)
        if goes:
            bench.client.go(code=4000)
        else:
            bench.client.events.put_nowait({"type": "websocket.disconnect"})
        if taking is not None:
            with contextlib.suppress(StopAsyncIteration):
                taken.append(await asyncio.wait_for(taking, 30))
        taken += await bench.take(1000)
        await bench.inbox.stop()
        assert bench.client.pending == 0
        assert bench.inbox.code == (4000 if goes else ABNORMAL)
        assert (bench.inbox._held_frames, bench.inbox._bytes) == (0, 0)
        return said, [each for each in taken if each != PING]

    said, taken = asyncio.run(play())

    assert taken == said
