"""One process of several: rooms that cross, and what it thinks of its backend."""

import os

import falcon.asgi
from pulse import Pulse

from falcon_pachinko import WebSocketResource, handles_message, install


class Room(WebSocketResource):
    """A room by any name, which the query has."""

    async def on_connect(self, req, ws, **params):
        """Join it."""
        self.room = req.get_param("room")
        await self.join_room(self.room)
        return True

    @handles_message("say")
    async def say(self, ws, payload: dict):
        """Tell everybody."""
        delivery = await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})
        return delivery.published

    @handles_message("tell")
    async def tell(self, ws, payload: dict):
        """Tell everybody, and answer nothing."""
        await self.say(ws, payload)


async def note(gap):
    """Print what may be missing."""
    print(f"gap on {gap.channel}", flush=True)


app = falcon.asgi.App()
install(app, backend=os.environ["BACKEND"])
app.add_websocket_route("/rooms", Room)
app.ws_connection_manager.configure_rooms("sync", resync=True)
app.ws_connection_manager.on_gap(note)
Pulse(app)
