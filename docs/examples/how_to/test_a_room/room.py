import asyncio

import falcon
import falcon.asgi

from falcon_pachinko import Limits, WebSocketResource, handles_message, install


class Room(WebSocketResource):
    async def on_connect(self, req, ws, name):
        if name == "closed":
            raise falcon.HTTPGone(description="This room is closed.")
        self.room = name
        await self.join_room(name)
        return True

    @handles_message("say")
    async def say(self, ws, payload: str):
        await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})

    @handles_message("count")
    async def count(self, ws):
        return len(await ws.manager.get_connections_in_room(self.room))


async def tick(manager, every):
    while True:
        await asyncio.sleep(every)
        await manager.broadcast_to_all({"type": "tick"})


class Health:
    async def on_get(self, req, resp):
        resp.media = {"ok": True}


def create_app(tick_every=20.0):
    app = falcon.asgi.App()
    install(app, limits=Limits(outbox_bytes=4096))
    app.add_websocket_route("/rooms/{name}", Room)
    app.add_websocket_worker(tick, app.ws_connection_manager, tick_every)
    app.add_route("/health", Health())
    return app
