"""One process of several whose handshakes take their time, for who is thrown out meanwhile."""

import asyncio
import os

import falcon.asgi

from falcon_pachinko import WebSocketResource, install, to


class Door(WebSocketResource):
    """Takes its time before it lets somebody in."""

    async def on_connect(self, req, ws):
        """Wait where the query says, in a room and present."""
        await self.track("hall")
        print("on_connect", flush=True)
        if req.get_param("slow") == "on_connect":
            await asyncio.sleep(1.5)
        return True


class Out:
    """The way out for one user."""

    async def on_get(self, req, resp):
        """Disconnect that user everywhere."""
        await app.ws_connection_manager.disconnect(to.user(req.get_param("user")), 4403, "out")
        resp.media = "out"


class Hall:
    """Who is there."""

    async def on_get(self, req, resp):
        """Answer with the names."""
        resp.media = sorted(await app.ws_connection_manager.presence("hall"))


class Status:
    """What the manager says."""

    async def on_get(self, req, resp):
        """Answer with the status."""
        resp.media = app.ws_connection_manager.status()


async def authenticate(req):
    """Be whom the query names, after a while if it says so."""
    if req.get_param("slow") == "authenticate":
        print("authenticate", flush=True)
        await asyncio.sleep(1.5)
    return req.get_param("user")


app = falcon.asgi.App()
install(app, authenticate=authenticate, backend=os.environ["BACKEND"])
app.add_websocket_route("/door", Door)
app.add_route("/out", Out())
app.add_route("/hall", Hall())
app.add_route("/status", Status())
