import asyncio

import falcon
import falcon.asgi
import falcon.testing

from falcon_pachinko import Limits, WebSocketResource, handles_message, install
from falcon_pachinko.testing import simulate


async def test_a_handler_that_swallows_its_cancellation_once_is_cancelled_quietly(monkeypatch):
    """The second one ends it, and the server sees no cancellation at all."""
    monkeypatch.setattr("falcon_pachinko.session.session.READ_AHEAD_AFTER", 0.001)

    class Stubborn(WebSocketResource):
        @handles_message("wait")
        async def wait(self, ws):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.Event().wait()

    app = falcon.asgi.App()
    install(app, limits=Limits(handler_grace=0.02))
    app.add_websocket_route("/", Stubborn)
    events = asyncio.Queue()
    for event in (
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": '{"type":"wait"}'},
        {"type": "websocket.disconnect", "code": 1000},
    ):
        events.put_nowait(event)

    async def send(event): ...

    async with simulate(app):
        scope = falcon.testing.create_scope_ws("/", spec_version="2.3")
        serving = asyncio.create_task(app(scope, events.get, send))
        await asyncio.wait([serving], timeout=5)

    assert not serving.cancelled()
