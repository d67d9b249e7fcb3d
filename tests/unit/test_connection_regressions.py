import asyncio

from falcon_pachinko.codec import pack_text


class FutureWire:
    """A server that answers with futures."""

    def __init__(self):
        self.events = []

    def send(self, event):
        self.events.append(event)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


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
