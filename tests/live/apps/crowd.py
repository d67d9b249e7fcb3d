"""Rooms for a crowd, in which what is said is heard; and poison, which nobody may taste."""

import gc
import tracemalloc

import falcon.asgi
import msgspec
from pulse import Pulse

from falcon_pachinko import Limits, WebSocketResource, handles_message, install

POISON = {
    "object": object(),
    "surrogate": "\ud800",
    "function": print,
    "key": {object(): 1},
}


class Word(msgspec.Struct):
    """Something that one of the crowd says."""

    sender: int
    number: int
    ballast: str = ""


class Member(WebSocketResource):
    """One of the crowd, in its room and in the hall."""

    async def on_connect(self, req, ws, room):
        """Join the room, and the hall that everybody is in."""
        self.room = room
        await self.join_room(room)
        await self.join_room("hall")
        return True

    @handles_message("say")
    async def say(self, ws, payload: Word):
        """Tell the room."""
        await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})

    @handles_message("poison")
    async def poison(self, ws, payload: str):
        """Tell the room what cannot be told."""
        await self.broadcast_to_room(self.room, {"type": "said", "payload": POISON[payload]})

    async def on_disconnect(self, ws, close_code):
        """Tell the room who is left."""
        await self.broadcast_to_room(self.room, {"type": "left"})


class Memory:
    """How much memory all that is in this process holds, down to the byte."""

    async def on_get(self, req, resp):
        """Tell the bytes that Python has given out and not got back; see PYTHONTRACEMALLOC."""
        gc.collect()
        resp.media = tracemalloc.get_traced_memory()[0]


app = falcon.asgi.App()
install(app)
app.add_route("/memory", Memory())
app.add_websocket_route("/crowd/{room}", Member)
app.add_websocket_route(
    "/patient/{room}",
    Member,
    name="patient",
    # Whoever does not read stays, and costs this much.
    limits=Limits(outbox_bytes=262_144, on_overflow="drop_oldest", send_timeout=60),
)
Pulse(app)
