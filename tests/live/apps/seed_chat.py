"""The chat of the seed, word for word where it names one, plus what the tests look at."""

import asyncio

import falcon
import falcon.asgi
import msgspec

from falcon_pachinko import Limits, WebSocketResource, handles_message, install


class Say(msgspec.Struct):
    """A message to the room."""

    text: str


class ChatRoom(WebSocketResource):
    """Joins, greets and tells the others before it accepts."""

    async def on_connect(self, req, ws, room_name):
        """Refuse one room, fail on another, welcome to the rest."""
        if room_name == "closed":
            return False
        if room_name == "members-only":
            raise falcon.HTTPUnauthorized(description="Log in first.", challenges=["Bearer"])
        if room_name == "broken":
            raise ZeroDivisionError
        if room_name == "undecided":
            return None
        self.room = f"chat:{room_name}"
        await self.join_room(self.room)
        await ws.send_media({"type": "welcome", "payload": {"room": room_name}})
        await self.broadcast_to_room(self.room, {"type": "joined"}, exclude_self=True)
        return True

    @handles_message("say")
    async def say(self, ws, payload: Say):
        """Tell everybody."""
        await self.broadcast_to_room(self.room, {"type": "said", "payload": {"text": payload.text}})

    @handles_message("flood")
    async def flood(self, ws, payload: int):
        """Broadcast a lot, numbered, at a pace that a client that reads can keep."""
        for number in range(payload):
            message = {"type": "flood", "payload": {"number": number, "ballast": "x" * 8000}}
            await self.broadcast_to_room(self.room, message)
            await asyncio.sleep(0.001)

    @handles_message("add")
    async def add(self, ws, payload: list[int]):
        """Answer."""
        return sum(payload)

    @handles_message("think")
    async def think(self, ws, payload: float):
        """Be busy for some seconds."""
        await asyncio.sleep(payload)
        print("thought", flush=True)
        return "thought"

    @handles_message("leave")
    async def leave(self, ws):
        """Close from here."""
        await ws.close(4001, "as you wish")

    async def on_message(self, ws, message):
        """Take what no handler claims."""
        await ws.send_text(f"unclaimed: {message!r}")

    async def on_disconnect(self, ws, close_code):
        """Report the end, after a moment that a hurried shutdown would cut off."""
        await asyncio.sleep(0.05)
        await self.broadcast_to_room(self.room, {"type": "left"})
        print(f"bye {self.room} {close_code}", flush=True)


async def announce(manager):
    """Remind the rooms, as the seed's worker does."""
    try:
        while True:
            await asyncio.sleep(0.2)
            for room in await manager.get_rooms_by_prefix("chat:noticed"):
                await manager.broadcast_to_room(room, {"type": "notice"})
    finally:
        print("worker stopped", flush=True)


class Status:
    """What the manager says, over HTTP."""

    async def on_get(self, req, resp):
        """Answer with the status."""
        resp.media = app.ws_connection_manager.status()


app = falcon.asgi.App()
install(app, limits=Limits(outbox_bytes=200_000, send_timeout=1.5, handler_grace=1.0))
app.add_route("/status", Status())
app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
app.add_websocket_worker(announce, app.ws_connection_manager)
