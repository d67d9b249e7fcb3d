import falcon.asgi
import msgspec

from falcon_pachinko import WebSocketResource, handles_message, install


class Say(msgspec.Struct):
    text: str


class ChatRoom(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        self.room = f"chat:{room_name}"
        await self.join_room(self.room)
        await self.send({"type": "welcome", "payload": {"room": room_name}})
        return True

    @handles_message("say")
    async def say(self, ws, payload: Say):
        await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})


app = falcon.asgi.App()
install(app)
app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
