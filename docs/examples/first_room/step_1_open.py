import falcon.asgi

from falcon_pachinko import WebSocketResource, install


class ChatRoom(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        await self.send({"type": "welcome", "payload": {"room": room_name}})
        return True


app = falcon.asgi.App()
install(app)
app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
