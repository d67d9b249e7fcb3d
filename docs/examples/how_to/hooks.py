import falcon.asgi

from falcon_pachinko import Hook, WebSocketResource, WebSocketRouter, handles_message, install


# region: hook
class Note(Hook):
    def __init__(self, tier):
        self.tier = tier

    async def before_connect(self, req, ws, params):
        await note(ws, f"{self.tier}: before_connect")

    async def after_connect(self, req, ws):
        await note(ws, f"{self.tier}: after_connect")

    async def before_message(self, ws, message):
        await note(ws, f"{self.tier}: before_message {message.type}")

    async def after_message(self, ws, message, error):
        await note(ws, f"{self.tier}: after_message {message.type}")

    async def before_disconnect(self, ws, close_code):
        await note(ws, f"{self.tier}: before_disconnect {close_code}")


async def note(ws, text):
    await ws.manager.broadcast_to_room("notes", text, exclude=ws.id)


# endregion


# region: resources
class Team(WebSocketResource):
    async def on_connect(self, req, ws, team):
        await note(ws, "Team.on_connect")
        return True

    async def on_disconnect(self, ws, close_code):
        await note(ws, "Team.on_disconnect")


class Channel(WebSocketResource):
    hooks = (Note("resource"),)

    async def on_connect(self, req, ws, number):
        await note(ws, "Channel.on_connect")
        return True

    @handles_message("say")
    async def say(self, ws):
        await note(ws, "Channel.say")

    async def on_disconnect(self, ws, close_code):
        await note(ws, "Channel.on_disconnect")


# endregion


class Notes(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("notes")
        return True


# region: tiers
app = falcon.asgi.App()
install(app, hooks=[Note("app")])

teams = WebSocketRouter(hooks=[Note("router")])
teams.add_route("/{team}", Team).add_route("/channels/{number:int}", Channel)
app.add_websocket_route("/teams", teams)
# endregion
app.add_websocket_route("/notes", Notes)
