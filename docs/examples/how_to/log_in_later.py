import falcon.asgi

from falcon_pachinko import MessageError, WebSocketResource, handles_message, install

TOKENS = {"5f2a": "ann"}


# region: later
class Desk(WebSocketResource):
    @handles_message("log_in")
    async def log_in(self, ws, payload: str):
        if payload not in TOKENS:
            raise MessageError("unknown_token", "Ask for a new one.")
        ws.user_id = TOKENS[payload]
        await ws.add_tag("staff")

    @handles_message("open_till")
    async def open_till(self, ws):
        if ws.user_id is None:
            raise MessageError("log_in_first")
        return {"opened_by": ws.user_id}


# endregion
app = falcon.asgi.App()
install(app)
app.add_websocket_route("/desk", Desk)
