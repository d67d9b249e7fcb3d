import falcon.asgi
import msgspec

from falcon_pachinko import HistoryLimits, WebSocketResource, handles_message, install, to


class Point(msgspec.Struct):
    x: int
    y: int


# region: board
class Board(WebSocketResource):
    async def on_connect(self, req, ws, board):
        self.board = f"board:{board}"
        await self.join_room(self.board)
        return True

    @handles_message("line")
    async def line(self, ws, payload: list[Point]):
        message = {"type": "line", "payload": payload}
        await self.broadcast_to_room(self.board, message, exclude_self=True)

    @handles_message("cursor")
    async def cursor(self, ws, payload: Point):
        message = {"type": "cursor", "payload": payload}
        await self.broadcast_to_room(self.board, message, exclude_self=True, volatile=True)

    @handles_message("zoom")
    async def zoom(self, ws, payload: int):
        message = {"type": "zoom", "payload": payload}
        await self.broadcast_to_room(self.board, message, latest="zoom")

    @handles_message("typing")
    async def typing(self, ws):
        await self.broadcast_to_room(self.board, {"type": "typing"}, store=False)


# endregion


# region: announce
async def announce(manager, first_of_this_process, text):
    await manager.broadcast(
        {"type": "notice", "payload": text},
        to=to.rooms("board:"),
        exclude=[first_of_this_process],
        local=True,
    )


# endregion


# region: drained
class Export(WebSocketResource):
    @handles_message("export")
    async def export(self, ws, payload: int):
        for page in range(payload):
            await self.send({"type": "page", "payload": page})
        await ws.drained()
        await ws.close(4000, "All of it was sent.")


# endregion
app = falcon.asgi.App()
install(app)
app.ws_connection_manager.configure_rooms("board:", history=HistoryLimits())
app.add_websocket_route("/boards/{board}", Board)
app.add_websocket_route("/export", Export)
