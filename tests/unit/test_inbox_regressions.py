import asyncio

from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import Connection, Limits, WebSocketConnectionManager
from falcon_pachinko.inbox import Inbox


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
