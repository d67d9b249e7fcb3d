import falcon.asgi
import msgspec

from falcon_pachinko import WebSocketResource, handles_message, install, to


class Notice(msgspec.Struct):
    text: str


# region: lounge
class Lounge(WebSocketResource):
    async def on_connect(self, req, ws, lounge):
        ws.user_id = req.get_param("name", required=True)
        if req.get_param_as_bool("pro"):
            await ws.add_tag("pro")
        self.lounge = f"lounge:{lounge}"
        await self.join_room(self.lounge)
        return True

    @handles_message("to_room")
    async def to_room(self, ws, payload: Notice):
        await self.broadcast_to_room(self.lounge, payload, exclude_self=True)

    @handles_message("to_pros")
    async def to_pros(self, ws, payload: Notice):
        pros = to.room(self.lounge) & to.tag("pro") - to.user(ws.user_id)
        delivery = await ws.manager.broadcast(payload, to=pros)
        return {"reached": delivery.sent}


# endregion


# region: notices
class Notices:
    async def on_post(self, req, resp):
        notice = Notice(**await req.get_media())
        delivery = await app.ws_connection_manager.broadcast(notice, to=to.everyone)
        resp.media = {"reached": delivery.sent}


class Users:
    async def on_delete(self, req, resp, name):
        gone = await app.ws_connection_manager.disconnect(to.user(name), 4003, "Goodbye.")
        resp.media = {"closed": gone.total}


# endregion
app = falcon.asgi.App()
install(app)
app.add_websocket_route("/lounges/{lounge}", Lounge)
app.add_route("/notices", Notices())
app.add_route("/users/{name}", Users())
