"""Tools to test an app's WebSockets: clients in memory, with the app's whole life around them.

::

    async with simulate(app) as client:
        async with client.connect("/ws/chat/tea") as ann, client.connect("/ws/chat/tea") as bob:
            await ann.send_json({"type": "say", "payload": {"text": "hi"}})
            assert (await bob.receive_json())["payload"] == {"text": "hi"}
            await bob.expect_nothing()
"""

from falcon_pachinko.testing.client import (
    Client,
    HandshakeDenied,
    NothingReceivedError,
    UnexpectedFrameError,
)
from falcon_pachinko.testing.simulator import Simulator, simulate

__all__ = [
    "Client",
    "HandshakeDenied",
    "NothingReceivedError",
    "Simulator",
    "UnexpectedFrameError",
    "simulate",
]
