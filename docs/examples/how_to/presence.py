from falcon_pachinko import App, WebSocketResource, handles_message


# region: track
class Lobby(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        ws.user_id = req.get_param("name")
        self.room = f"lobby:{room_name}"
        await self.track(self.room, {"mood": "awake"})
        return True

    @handles_message("mood")
    async def change_mood(self, ws, payload: str):
        await self.track(self.room, {"mood": payload})


# endregion


# region: ask
class Guests:
    async def on_get(self, req, resp, room_name):
        manager = app.ws_connection_manager
        resp.media = await manager.presence(f"lobby:{room_name}")


# endregion


app = App()
# region: grace
app.ws_connection_manager.configure_rooms("lobby:", presence_grace=0)
# endregion
# region: limit
app.ws_connection_manager.configure_rooms("stage:", presence_limit=200)
# endregion
app.add_websocket_route("/lobbies/{room_name}", Lobby)
app.add_route("/lobbies/{room_name}/guests", Guests())
