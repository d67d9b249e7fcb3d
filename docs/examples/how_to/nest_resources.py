import falcon
import falcon.asgi

from falcon_pachinko import WebSocketResource, WebSocketRouter, handles_message, install

TEAMS = {"tea": "The Tea Team"}


# region: resources
class Team(WebSocketResource):
    async def on_connect(self, req, ws, team):
        if team not in TEAMS:
            raise falcon.HTTPNotFound(description=f"There is no team called {team}.")
        self.state.room = f"team:{team}"
        self.title = TEAMS[team]
        return True


class Channel(WebSocketResource):
    async def on_connect(self, req, ws, number):
        self.state.room += f":{number}"
        await self.join_room(self.state.room)
        return True

    @handles_message("where")
    async def where(self, ws):
        return {"team": self.parent.title, "room": self.state.room}


# endregion


# region: factory
class Archive(WebSocketResource):
    def __init__(self, shelf, database):
        self.shelf, self.database = shelf, database

    @handles_message("read")
    async def read(self, ws):
        return self.database[self.shelf]


DATABASE = {"a": "Assam", "b": "Bancha"}


def make(resource, **arguments):
    if issubclass(resource, Archive):
        arguments["database"] = DATABASE
    return resource(**arguments)


app = falcon.asgi.App()
install(app, resource_factory=make)
app.add_websocket_route("/archive/b", Archive, shelf="b")
# endregion

# region: routes
teams = WebSocketRouter()
team = teams.add_route("/{team}", Team)
team.add_route("/channels/{number:int}", Channel, name="channel")
app.add_websocket_route("/teams", teams)
# endregion
