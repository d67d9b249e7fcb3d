"""What a client sends: in order, within its rate and size, read ahead only where asked to."""

import asyncio

import falcon
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import Connection, Limits, WebSocketConnectionManager
from falcon_pachinko.connection.inbox import Inbox
from falcon_pachinko.connection.outbox import ABNORMAL


class Client:
    """The far side: what it sends, and when."""

    def __init__(self):
        self.events = asyncio.Queue()

    def say(self, frame):
        kind = "text" if isinstance(frame, str) else "bytes"
        self.events.put_nowait({"type": "websocket.receive", kind: frame})

    def go(self, **event):
        self.events.put_nowait({"type": "websocket.disconnect", **event})

    async def receive(self):
        return await self.events.get()


class Bench:
    """An inbox with both of its sides."""

    def __init__(self, **limits):
        self.client = Client()
        self.closed = []
        self.gone = asyncio.Event()
        self.connection = Connection(
            "ann",
            self._send,
            WebSocketConnectionManager(),
            limits=Limits(**limits),
            is_open=True,
        )
        self.inbox = Inbox(self.client.receive, self.connection, self.gone.set)

    async def _send(self, event):
        self.closed.append(event["code"])


async def test_frames_come_as_they_are():
    """Text or bytes, empty ones too, whichever key the server leaves out or sets to None."""
    bench = Bench()
    bench.client.say("text")
    bench.client.say(b"bytes")
    bench.client.events.put_nowait({"type": "websocket.receive", "bytes": b"", "text": None})
    bench.client.events.put_nowait({"type": "websocket.receive", "text": "", "bytes": None})

    assert [await bench.inbox.take() for _ in range(4)] == ["text", b"bytes", b"", ""]


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"code": 1000}, 1000),
        ({"code": 4321, "reason": "x"}, 4321),
        ({"code": 1005, "reason": ""}, 1005),
        ({"code": 1005}, ABNORMAL),
        ({"code": None}, ABNORMAL),
        ({}, ABNORMAL),
    ],
)
async def test_the_end_carries_its_code(event, code):
    """1006 where the server knows of no close frame."""
    bench = Bench()
    bench.client.go(**event)

    with pytest.raises(falcon.WebSocketDisconnected) as gone:
        await bench.inbox.take()

    assert (gone.value.code, bench.inbox.code) == (code, code)


STEPS = st.lists(st.sampled_from(["say", "take", "read ahead", "turn"]), max_size=25)


@given(STEPS)
def test_frames_keep_their_order_however_they_are_read(steps):
    """Read ahead or not, taken early or late: what comes out is what went in."""

    async def play():
        bench, said, taken = Bench(), [], []
        taking = None
        for step in steps:
            if step == "say":
                said.append(str(len(said)))
                bench.client.say(said[-1])
            elif step == "read ahead" and taking is None:
                bench.inbox.read_ahead()
            elif step == "take" and taking is None:
                taking = asyncio.create_task(bench.inbox.take())
            await asyncio.sleep(0)
            if taking is not None and taking.done():
                taken.append(taking.result())
                taking = None
        if taking is not None and len(taken) < len(said):
            taken.append(await asyncio.wait_for(taking, 30))
        elif taking is not None:
            bench.client.say("last")
            assert await asyncio.wait_for(taking, 30) == "last"
        while len(taken) < len(said):
            taken.append(await asyncio.wait_for(bench.inbox.take(), 30))
        bench.inbox.stop()
        return said, taken

    said, taken = asyncio.run(play())

    assert taken == said


async def test_a_client_that_goes_is_noticed_while_nobody_takes():
    """That is what reading ahead is for; the end comes after the frames before it."""
    bench = Bench()
    bench.inbox.read_ahead()
    bench.inbox.read_ahead()
    bench.client.say("last words")
    bench.client.go(code=4000)
    await asyncio.wait_for(bench.gone.wait(), 30)

    assert bench.inbox.code == 4000
    assert await bench.inbox.take() == "last words"
    with pytest.raises(falcon.WebSocketDisconnected):
        await bench.inbox.take()


async def test_a_server_that_cannot_receive_has_no_client():
    """Whatever it raises is an end without a close frame."""
    bench = Bench()

    async def broken():
        raise RuntimeError("closed already")

    bench.inbox._receive = broken
    bench.inbox.read_ahead()
    await asyncio.wait_for(bench.gone.wait(), 30)

    assert bench.inbox.code == ABNORMAL


async def test_a_client_that_sends_on_and_on_to_a_busy_handler_is_closed():
    """With 1008 and the setting's name; what waits is thrown away."""
    bench = Bench(inbox_messages=3)
    bench.inbox.read_ahead()
    for number in range(10):
        bench.client.say(str(number))
    bench.client.go(code=1000)
    await asyncio.wait_for(bench.gone.wait(), 30)

    assert bench.closed == [1008]
    assert bench.connection.close_reason == "over 3 messages wait (inbox_messages)"


async def test_stopping_reads_no_more():
    """And stopping what does not read is nothing."""
    bench = Bench()
    bench.inbox.stop()
    bench.inbox.read_ahead()
    reader = bench.inbox._reader
    bench.inbox.stop()
    await asyncio.wait([reader])
    bench.client.say("unheard")

    assert reader.cancelled()
    assert bench.client.events.qsize() == 1


# Rates.


async def test_a_burst_is_allowed_and_one_more_is_not():
    """The answer names the setting and its value."""
    bench = Bench(burst=3, messages_per_second=0.001)

    excesses = [bench.inbox.excess("x") for _ in range(4)]

    assert excesses[:3] == [None] * 3
    assert excesses[3] == (
        1008, "rate_limited", "No more than 0.001 messages a second (messages_per_second).",
    )  # fmt: skip


@given(
    gaps=st.lists(st.floats(0, 3), max_size=40),
    burst=st.integers(1, 5),
    rate=st.integers(1, 3),
)
def test_a_client_gets_the_burst_and_what_the_rate_has_earned(gaps, burst, rate):
    """No more than that in the long run, and the burst in any case."""

    async def play():
        bench = Bench(burst=burst, messages_per_second=rate)
        loop = asyncio.get_running_loop()
        began = now = loop.time()
        loop.time, real = (lambda: now), loop.time
        admitted = []
        try:
            for gap in gaps:
                now += gap
                if bench.inbox.excess("x") is None:
                    admitted.append(now - began)
        finally:
            loop.time = real
        return admitted

    admitted = asyncio.run(play())

    assert len(admitted) <= burst + rate * sum(gaps) + 1e-6
    assert len(admitted) >= min(len(gaps), burst)


# Sizes.


@given(st.text(max_size=40) | st.binary(max_size=40), st.integers(1, 60))
def test_a_frame_is_measured_in_bytes(frame, most):
    """Of its UTF-8, as the wire has it."""
    size = len(frame.encode("utf-8", "surrogatepass")) if isinstance(frame, str) else len(frame)

    async def play():
        return Bench(message_bytes=most).inbox.excess(frame)

    excess = asyncio.run(play())

    if size <= most:
        assert excess is None
    else:
        sentence = f"A message has at most {most} bytes (message_bytes)."
        assert excess == (1009, "too_large", sentence)


@given(
    gaps=st.lists(st.floats(0, 3), max_size=40),
    burst=st.integers(1, 5),
    rate=st.integers(1, 3),
)
def test_no_stretch_of_time_has_more_than_the_burst_and_its_rate(gaps, burst, rate):
    """No more than that in the long run, and the burst in any case."""

    async def play():
        bench = Bench(burst=burst, messages_per_second=rate)
        loop = asyncio.get_running_loop()
        began = now = loop.time()
        loop.time, real = (lambda: now), loop.time
        admitted = []
        try:
            for gap in gaps:
                now += gap
                if bench.inbox.excess("x") is None:
                    admitted.append(now - began)
        finally:
            loop.time = real
        return admitted

    admitted = asyncio.run(play())

    for first, begin in enumerate(admitted):
        for last, end in enumerate(admitted[first:], first):
            assert last - first + 1 <= burst + rate * (end - begin) + 1e-6
