"""An app that answers handshakes when it is told to, in every way there is."""

import asyncio

import falcon
import falcon.asgi

from falcon_pachinko import MessageError, WebSocketResource, install


class Hesitant(WebSocketResource):
    """Waits, and then answers as the path says."""

    async def on_connect(self, req, ws, answer):
        """Decide."""
        await asyncio.shield(go.told)
        if answer == "http":
            raise falcon.HTTPForbidden(description="not you")
        if answer == "message":
            raise MessageError("full", status=409)
        if answer == "close":
            await ws.close(4001, "not you")
        if answer == "accept":
            await ws.accept()
        if answer == "send":
            await self.send({"type": "welcome"})
        return answer != "false"


class Status:
    """What the manager says, over HTTP."""

    async def on_get(self, req, resp):
        """Answer with the status."""
        resp.media = app.ws_connection_manager.status()


class Go:
    """Lets all handshakes have their answers."""

    async def on_get(self, req, resp):
        """Tell them, and let the next ones wait again."""
        self.told.set_result(None)
        self.told = asyncio.get_running_loop().create_future()
        resp.media = "told"

    async def process_startup(self, scope, event):
        """Make what they wait for, in the loop of the server."""
        self.told = asyncio.get_running_loop().create_future()


go = Go()
app = falcon.asgi.App(middleware=[go])
install(app)
app.add_route("/status", Status())
app.add_route("/go", go)
app.add_websocket_route("/door/{answer}", Hesitant)
