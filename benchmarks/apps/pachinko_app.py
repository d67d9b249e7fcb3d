"""falcon_pachinko: a resource with typed handlers; rooms are the library's."""

import os

import falcon.asgi
import msgspec

from falcon_pachinko import Limits, WebSocketResource, handles_message, install


class Ping(msgspec.Struct):
    n: int
    text: str


class Join(msgspec.Struct):
    room: str


class Say(msgspec.Struct):
    room: str
    text: str


class Chat(WebSocketResource):
    @handles_message("ping")
    async def ping(self, ws, payload: Ping):
        await ws.send_media({"type": "pong", "payload": payload})

    @handles_message("join")
    async def join(self, ws, payload: Join):
        await self.join_room(payload.room)
        await ws.send_media({"type": "joined", "payload": payload})

    @handles_message("say")
    async def say(self, ws, payload: Say):
        await self.broadcast_to_room(payload.room, {"type": "said", "payload": payload})

    @handles_message("stats")
    async def stats(self, ws, payload: dict):
        status = ws.manager.status()
        counts = {"connections": status["connections"], "rooms": status["rooms"]}
        await ws.send_media({"type": "stats", "payload": counts})


app = falcon.asgi.App()
install(
    app,
    backend=os.environ.get("BENCH_REDIS"),
    limits=Limits(messages_per_second=1e9),  # counted like any rate, never reached
)
app.add_websocket_route("/ws", Chat)
