"""An app that drains itself when it is asked to, under whichever server."""

import asyncio

import falcon.asgi

from falcon_pachinko import WebSocketResource, handles_message, install


class Guest(WebSocketResource):
    """Works for as long as it is told."""

    @handles_message("work")
    async def work(self, ws, payload: float):
        """Say so, and take some seconds."""
        await ws.send_media({"type": "working"})
        await asyncio.sleep(payload)
        return "done"


class Drain:
    """Send everybody away."""

    async def on_get(self, req, resp):
        """Drain for at most 15 seconds, and tell what came of it."""
        resp.media = (await app.ws_connection_manager.drain(15))._asdict()


app = falcon.asgi.App()
install(app)
app.add_websocket_route("/guest", Guest)
app.add_route("/drain", Drain())
