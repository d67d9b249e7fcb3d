import falcon.asgi

from falcon_pachinko import WebSocketResource, WebSocketRouter, handles_message, install


class Team(WebSocketResource):
    async def on_connect(self, req, ws, team):
        return True


class Channel(WebSocketResource):
    async def on_connect(self, req, ws, number):
        return True


# region: links
class Lobby(WebSocketResource):
    @handles_message("channel")
    async def channel(self, ws, payload: int):
        return app.url_for("channel", team="the tea team", number=payload)


# endregion

app = falcon.asgi.App()
install(app)
teams = WebSocketRouter()
teams.add_route("/{team}", Team).add_route("/channels/{number:int}", Channel, name="channel")
app.add_websocket_route("/teams", teams)
app.add_websocket_route("/lobby", Lobby)
