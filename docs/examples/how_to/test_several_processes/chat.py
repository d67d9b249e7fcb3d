import asyncio
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


class Chat(WebSocketResource):
    async def on_connect(self, req, ws, room):
        ws.user_id = req.get_param("user", required=True)
        self.room = f"chat:{room}"
        await self.join_room(self.room, since=HistoryPosition.of(req))
        await self.track(self.room)
        return True

    @handles_message("say")
    async def say(self, ws, payload: str):
        await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})


async def announce(manager):
    while True:
        await manager.broadcast_to_all({"type": "news", "payload": current_lease().token})
        await asyncio.sleep(60)


def create_app():
    app = falcon.asgi.App()
    install(app, backend=os.environ.get("BACKEND", "redis://localhost:6379/0"))
    app.ws_connection_manager.configure_rooms("chat:", history=HistoryLimits())
    app.add_websocket_route("/chat/{room}", Chat)
    app.add_websocket_worker(announce, singleton=True)
    return app
