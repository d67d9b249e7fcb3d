"""One process of several, which asks all of them when it is asked by HTTP."""

import os
import time

import falcon.asgi

from falcon_pachinko import WebSocketResource, install, to


class Room(WebSocketResource):
    """A room by the name that the query has, for a user that it has too."""

    async def on_connect(self, req, ws):
        """Join it."""
        ws.user_id = req.get_param("user")
        await self.join_room(req.get_param("room"))
        return True


class Questions:
    """What all processes answer, and after how many seconds."""

    async def on_get(self, req, resp, verb):
        """Ask what the path says, about the room or the user that the query has."""
        manager = app.ws_connection_manager
        options = {"timeout": req.get_param_as_float("timeout")}
        user = req.get_param("user")
        target = to.user(user) if user else to.rooms("")
        began = time.monotonic()
        match verb:
            case "count":
                answer = await manager.count(target, cluster=True, **options)
            case "rooms":
                answer = await manager.get_rooms_by_prefix("", cluster=True, **options)
            case _:
                answer = await manager.disconnect(target, 4003, "out", **options)
        counted = await manager.count(target)
        resp.media = {
            "answer": list(answer),
            "seconds": time.monotonic() - began,
            "here": counted,
            "backend": manager.status()["backend"]["state"],
            "gaps": manager.status()["gaps"],
            "unpublished": manager.status()["unpublished"],
        }


app = falcon.asgi.App()
install(app, backend=os.environ.get("BACKEND"))
app.add_websocket_route("/room", Room)
app.add_route("/ask/{verb}", Questions())
