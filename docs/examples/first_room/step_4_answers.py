import falcon.asgi
import msgspec

from falcon_pachinko import WebSocketResource, handles_message, install


class Say(msgspec.Struct):
    text: str


class Member(msgspec.Struct):
    name: str


class Said(msgspec.Struct):
    name: str
    text: str


class ChatRoom(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        self.room = f"chat:{room_name}"
        self.member = Member(name=req.get_param("name", default="Guest"))
        await self.join_room(self.room)
        await self.send({"type": "welcome", "payload": {"room": room_name}})
        await self.broadcast_to_room(
            self.room, {"type": "joined", "payload": self.member}, exclude_self=True
        )
        return True

    @handles_message("say")
    async def say(self, ws, payload: Say):
        said = Said(name=self.member.name, text=payload.text)
        await self.broadcast_to_room(self.room, {"type": "said", "payload": said})

    @handles_message("who")
    async def who(self, ws):
        here = await ws.manager.get_connections_in_room(self.room)
        return sorted(connection.resource.member.name for connection in here)

    async def on_message(self, ws, message):
        await self.send({"type": "help", "payload": {"types": ["say", "who"]}})

    async def on_disconnect(self, ws, close_code):
        await self.broadcast_to_room(self.room, {"type": "left", "payload": self.member})


app = falcon.asgi.App()
install(app)
app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
