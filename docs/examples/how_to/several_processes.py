import logging
import os

import falcon.asgi
import msgspec

from falcon_pachinko import WebSocketResource, handles_message, install, to

log = logging.getLogger(__name__)


class Line(msgspec.Struct):
    text: str


class Chat(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        self.room = f"chat:{room_name}"
        await self.join_room(self.room)
        return True

    @handles_message("say")
    async def say(self, ws, payload: Line):
        await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})


# region: install
app = falcon.asgi.App()
install(app, backend=os.environ.get("BACKEND"))
app.add_websocket_route("/chat/{room_name}", Chat)
# endregion


# region: gaps
async def report(gap):
    log.warning("messages may be missing on %s: %s", gap.channel, gap.why)


app.ws_connection_manager.on_gap(report)
app.ws_connection_manager.configure_rooms("chat:", resync=True)
# endregion


# region: ask
class Rooms:
    async def on_get(self, req, resp, room_name):
        manager = app.ws_connection_manager
        found = await manager.count(to.room(f"chat:{room_name}"), cluster=True, timeout=1)
        resp.media = {"members": found.total, "of_all": found.answered == found.processes}

    async def on_delete(self, req, resp, room_name):
        manager = app.ws_connection_manager
        gone = await manager.disconnect(to.room(f"chat:{room_name}"), 4003, "Closed.")
        resp.media = {"closed": gone.total, "of_all": gone.answered == gone.processes}


# endregion


app.add_route("/rooms/{room_name}", Rooms())
