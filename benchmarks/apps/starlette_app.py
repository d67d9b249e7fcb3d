"""Starlette: a WebSocket endpoint with a loop and rooms written by hand, like bare Falcon's."""

import contextlib
import json

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

rooms = {}
connected = set()


class Member:
    def __init__(self, ws):
        self.ws, self.joined = ws, set()
        connected.add(self)

    async def ping(self, payload):
        await self.ws.send_json({"type": "pong", "payload": payload})

    async def join(self, payload):
        room = payload["room"]
        rooms.setdefault(room, set()).add(self.ws)
        self.joined.add(room)
        await self.ws.send_json({"type": "joined", "payload": {"room": room}})

    async def say(self, payload):
        text = json.dumps({"type": "said", "payload": payload})
        for ws in list(rooms.get(payload["room"], ())):
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # a member that went
                await ws.send_text(text)

    async def stats(self, payload):
        counts = {"connections": len(connected), "rooms": len(rooms)}
        await self.ws.send_json({"type": "stats", "payload": counts})

    def leave(self):
        connected.discard(self)
        for room in self.joined:
            rooms[room].discard(self.ws)
            if not rooms[room]:
                del rooms[room]


HANDLERS = {"ping": Member.ping, "join": Member.join, "say": Member.say, "stats": Member.stats}


async def chat(ws):
    await ws.accept()
    member = Member(ws)
    try:
        while True:
            message = await ws.receive_json()
            await HANDLERS[message["type"]](member, message["payload"])
    except WebSocketDisconnect:
        pass
    finally:
        member.leave()


app = Starlette(routes=[WebSocketRoute("/ws", chat)])
