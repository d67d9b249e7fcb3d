"""Bare Falcon: ``on_websocket`` with a loop and rooms written by hand; the base of all ratios."""

import contextlib
import json

import falcon
import falcon.asgi

rooms = {}
connected = set()


class Member:
    def __init__(self, ws):
        self.ws, self.joined = ws, set()
        connected.add(self)

    async def ping(self, payload):
        await self.ws.send_media({"type": "pong", "payload": payload})

    async def join(self, payload):
        room = payload["room"]
        rooms.setdefault(room, set()).add(self.ws)
        self.joined.add(room)
        await self.ws.send_media({"type": "joined", "payload": {"room": room}})

    async def say(self, payload):
        text = json.dumps({"type": "said", "payload": payload})
        for ws in list(rooms.get(payload["room"], ())):
            with contextlib.suppress(falcon.WebSocketDisconnected):
                await ws.send_text(text)

    async def stats(self, payload):
        counts = {"connections": len(connected), "rooms": len(rooms)}
        await self.ws.send_media({"type": "stats", "payload": counts})

    def leave(self):
        connected.discard(self)
        for room in self.joined:
            rooms[room].discard(self.ws)
            if not rooms[room]:
                del rooms[room]


HANDLERS = {"ping": Member.ping, "join": Member.join, "say": Member.say, "stats": Member.stats}


class Chat:
    async def on_websocket(self, req, ws):
        await ws.accept()
        member = Member(ws)
        try:
            while True:
                message = await ws.receive_media()
                await HANDLERS[message["type"]](member, message["payload"])
        except falcon.WebSocketDisconnected:
            pass
        finally:
            member.leave()


app = falcon.asgi.App()
app.add_route("/ws", Chat())
