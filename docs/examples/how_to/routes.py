import falcon.asgi

from falcon_pachinko import WebSocketResource, install


# region: share
class Page:
    async def on_get(self, req, resp, room):
        resp.media = {"room": room}


class Room(WebSocketResource):
    audience = "members"

    async def on_connect(self, req, ws, room):
        await ws.send_media({"url": app.url_for("Room", room=room)})
        return True


# endregion


# region: middleware
class Audience:
    async def process_resource_ws(self, req, ws, resource, params):
        if isinstance(resource, WebSocketResource):
            req.context.audience = resource.audience


app = falcon.asgi.App(middleware=[Audience()])
install(app)
# endregion

# region: routes
app.add_route("/rooms/{room}", Page())
app.add_websocket_route("/rooms/{room}", Room)
# endregion
