"""One process of several, with all that they share: who is here, what was said, who is at work."""

import asyncio
import itertools
import os

import falcon.asgi

from falcon_pachinko import (
    HistoryLimits,
    HistoryPosition,
    WebSocketResource,
    current_lease,
    handles_message,
    install,
)

PAUSE = 0.05


class Lounge(WebSocketResource):
    """A room in which everybody sees who is here."""

    async def on_connect(self, req, ws):
        """Tell which process this is, and be present, as the query says."""
        ws.user_id = req.get_param("name")
        self.room = req.get_param("room")
        await ws.send_media({"type": "process", "payload": os.getpid()})
        await self.track(self.room, {"mood": req.get_param("mood") or "awake"})
        return True

    @handles_message("mood")
    async def change_mood(self, ws, payload: str):
        """Be present with another mood."""
        await self.track(self.room, {"mood": payload})

    @handles_message("say")
    async def say(self, ws, payload: str):
        """Tell everybody in the room."""
        await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})


class Chat(WebSocketResource):
    """A room that remembers."""

    async def on_connect(self, req, ws):
        """Join it, from where the query says on."""
        self.room = req.get_param("room")
        await self.join_room(self.room, since=HistoryPosition.of(req))
        return True

    @handles_message("say")
    async def say(self, ws, payload: str):
        """Tell everybody; answer whether other processes get it."""
        message = {"type": "said", "payload": payload}
        return (await self.broadcast_to_room(self.room, message)).published


class Gallery(WebSocketResource):
    """Where one sees the ticks."""

    async def on_connect(self, req, ws):
        """Join."""
        await self.join_room("ticks")
        return True


class Facts:
    """What this process knows."""

    async def on_get(self, req, resp):
        """Tell its own state, and about the room that the query names, if there is one."""
        manager = app.ws_connection_manager
        resp.media = manager.status()
        room = req.get_param("room") or ""
        if room.startswith(("lounge:", "quick:")):
            resp.media |= {"present": await manager.presence(room)}
        elif room:
            resp.media |= {"kept": [each["payload"] for each in await manager.history(room)]}


async def tick(manager):
    """Tell the gallery who is at work."""
    token = current_lease().token
    for number in itertools.count():
        payload = {"token": token, "pid": os.getpid(), "number": number}
        await manager.broadcast_to_room("ticks", {"type": "tick", "payload": payload})
        await asyncio.sleep(PAUSE)


app = falcon.asgi.App()
install(app, backend=os.environ.get("BACKEND"))
app.add_websocket_route("/lounge", Lounge)
app.add_websocket_route("/chat", Chat)
app.add_websocket_route("/ticks", Gallery)
app.add_route("/facts", Facts())
rooms = app.ws_connection_manager
rooms.configure_rooms("lounge:", presence_grace=2)
rooms.configure_rooms("quick:", presence_grace=0)
rooms.configure_rooms("chat:", history=HistoryLimits(count=10_000, bytes=10_000_000))
rooms.configure_rooms("brief:", history=HistoryLimits(seconds=1.5))
if os.environ.get("TICKS"):
    app.add_websocket_worker(tick, singleton=True)
