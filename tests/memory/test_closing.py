"""What waits for a slow client when the server closes leaves first, whatever runs meanwhile."""

import asyncio

import falcon.asgi
import pytest

from falcon_pachinko import WebSocketResource, handles_message, install, to
from falcon_pachinko.testing import Disconnected, simulate


class Desk(WebSocketResource):
    """Has a handler of each kind that goes on until it is cancelled."""

    def __init__(self):
        self.running = asyncio.Event()

    async def on_connect(self, req, ws):
        self.ws = ws
        return True

    @handles_message("serial")
    async def serial(self, ws):
        await self.wait()

    @handles_message("concurrent", concurrent=True)
    async def concurrent(self, ws):
        await self.wait()

    @handles_message("nothing")
    async def nothing(self, ws):
        self.running.set()

    async def wait(self):
        self.running.set()
        await asyncio.Event().wait()


async def disconnect(manager, desk):
    await manager.disconnect(to.everyone, 4001, "out")


async def close(manager, desk):
    await desk.ws.close(4001, "out")


@pytest.mark.parametrize("pause", [0, 0.05])
@pytest.mark.parametrize("busy", ["nothing", "serial", "concurrent"])
@pytest.mark.parametrize("end", [disconnect, close])
async def test_what_waits_leaves_before_the_close(end, busy, pause):
    desk, app = Desk(), falcon.asgi.App()
    install(app)
    manager = app.ws_connection_manager
    app.add_websocket_route("/", lambda: desk)

    async with simulate(app, write_buffer=1) as client, client.connect("/") as ann:
        await ann.send_json({"type": busy})
        await desk.running.wait()
        await ann.stall()
        for number in range(4):
            await manager.broadcast_to_all({"n": number})
        ending = asyncio.ensure_future(end(manager, desk))
        await asyncio.sleep(pause)
        await ann.resume()

        heard = [(await ann.receive_json())["n"] for _ in range(4)]
        with pytest.raises(Disconnected):
            await ann.receive_json()
        await ending

    assert (heard, ann.close_code) == ([0, 1, 2, 3], 4001)
