"""An app whose on_connect takes its time."""

import asyncio

import falcon.asgi

from falcon_pachinko import Limits, WebSocketResource, install


class SlowDoor(WebSocketResource):
    """Joins a room, then thinks for a minute before it would accept."""

    async def on_connect(self, req, ws):
        """Think."""
        await self.join_room("hall")
        print("asked", flush=True)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("left at the door", flush=True)
            raise
        return True

    async def on_disconnect(self, ws, close_code):
        """Never to be reached."""
        print("bye", flush=True)


class Status:
    """What the manager says, over HTTP."""

    async def on_get(self, req, resp):
        """Answer with the status."""
        resp.media = app.ws_connection_manager.status()


app = falcon.asgi.App()
install(app, limits=Limits(handler_grace=0.2))
app.add_route("/status", Status())
app.add_websocket_route("/ws/slow", SlowDoor)
