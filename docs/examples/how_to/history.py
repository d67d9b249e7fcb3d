import msgspec

from falcon_pachinko import App, HistoryLimits, HistoryPosition, WebSocketResource, handles_message


class Line(msgspec.Struct):
    text: str


# region: limits
app = App()
app.ws_connection_manager.configure_rooms(
    "chat:", history=HistoryLimits(count=50, bytes=65_536, seconds=600)
)
# endregion


# region: join
class Chat(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        self.room = f"chat:{room_name}"
        await self.join_room(self.room, since=HistoryPosition.of(req))
        return True

    @handles_message("say")
    async def say(self, ws, payload: Line):
        await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})

    @handles_message("typing")
    async def typing(self, ws):
        await self.broadcast_to_room(self.room, {"type": "typing"}, exclude_self=True, store=False)


# endregion

app.add_websocket_route("/chat/{room_name}", Chat)
