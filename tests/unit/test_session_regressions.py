"""Ends that sessions once missed, and must not again."""

import asyncio
import gc
import warnings

import falcon
import falcon.asgi
import msgspec
import pytest

from falcon_pachinko import Limits, WebSocketResource, handles_message, install
from falcon_pachinko.testing import HandshakeDenied, simulate


@pytest.fixture
def serve():
    def make(resource, limits=None):
        app = falcon.asgi.App()
        install(app, limits=limits)
        app.add_websocket_route("/", resource)
        return app

    return make


async def test_on_disconnect_that_raises_cancelled_error_is_logged(serve, caplog):
    """It is logged like any other error, and the server hears nothing of it."""

    class Odd(WebSocketResource):
        async def on_disconnect(self, ws, close_code):
            raise asyncio.CancelledError

    async with simulate(serve(Odd)) as client, client.connect("/"):
        pass

    assert "on_disconnect failed" in caplog.text


async def test_on_connect_that_raises_cancelled_error_is_a_500(serve, caplog):
    """The handshake is answered with 500, as for any other error."""

    class Odd(WebSocketResource):
        async def on_connect(self, req, ws):
            raise asyncio.CancelledError

    async with simulate(serve(Odd)) as client:
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/").__aenter__()

    assert denied.value.status == 500


async def test_a_concurrent_handler_that_never_began_leaves_no_warning(serve):
    """A handler that waits for its turn when the client goes is closed unstarted."""

    class Busy(WebSocketResource):
        @handles_message("wait", concurrent=True)
        async def wait(self, ws):
            await asyncio.Event().wait()

    limits = Limits(concurrency=1, handler_grace=0.02)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        app = serve(Busy, limits)
        async with simulate(app, timeout=3) as client, client.connect("/") as ann:
            await ann.send_json({"type": "wait"})
            await ann.send_json({"type": "wait"})
            await asyncio.sleep(0.3)
        gc.collect()

    assert [str(each.message) for each in caught] == []


async def test_a_payload_whose_post_init_fails_is_the_applications_failure(serve, caplog, answered):
    """What msgspec does not wrap fails the one message, and the connection lives."""

    class Explosive(msgspec.Struct):
        n: int = 0

        def __post_init__(self):
            raise KeyError("not one of msgspec's own")

    class Room(WebSocketResource):
        @handles_message("t")
        async def t(self, ws, payload: Explosive): ...

        @handles_message("echo")
        async def echo(self, ws, payload):
            return payload

    async with simulate(serve(Room)) as client, client.connect("/") as ann:
        answer = await answered(ann.request("t", {}))
        alive = await answered(ann.request("echo", 1))

    assert answer["payload"]["code"] == "internal_error"
    assert alive["payload"] == 1


async def test_websocket_disconnected_after_the_accept_closes(serve):
    """Raised by on_connect (of another socket, say) after it accepted: the client gets 1011."""

    class Odd(WebSocketResource):
        async def on_connect(self, req, ws):
            await ws.accept()
            raise falcon.WebSocketDisconnected(4000)

    async with simulate(serve(Odd), timeout=1) as client, client.connect("/") as ann:
        with pytest.raises(falcon.WebSocketDisconnected):
            await ann.receive()

    assert ann.close_code == 1011
