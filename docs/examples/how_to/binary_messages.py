import falcon
import falcon.asgi
import msgspec

from falcon_pachinko import MessageError, WebSocketResource, handles_message, install


# region: album
class Add(msgspec.Struct, tag="add"):
    name: str
    picture: bytes


class Remove(msgspec.Struct, tag="remove"):
    name: str


class Album(WebSocketResource):
    schema = Add | Remove

    async def on_connect(self, req, ws):
        await self.join_room("album")
        return True

    @handles_message(Add)
    async def add(self, ws, message: Add):
        await self.broadcast_to_room("album", message, exclude_self=True)
        return len(message.picture)

    @handles_message(Remove)
    async def remove(self, ws, message: Remove):
        await self.broadcast_to_room("album", message, exclude_self=True)


# endregion


# region: microphone
class Microphone(WebSocketResource):
    async def on_connect(self, req, ws, stage):
        self.stage = f"stage:{stage}"
        await self.join_room(self.stage)
        return True

    async def on_message(self, ws, message):
        if isinstance(message, str):
            raise MessageError("unsupported_frame", "Sound comes in binary frames.")
        for listener in await ws.manager.get_connections_in_room(self.stage):
            if listener is not ws:
                await listener.send_data(message)


# endregion


# region: versions
class Prices(WebSocketResource):
    subprotocols = ("prices.v2", "prices.v1")

    async def on_connect(self, req, ws):
        if ws.subprotocol not in self.subprotocols:
            raise falcon.HTTPBadRequest(description="Offer prices.v2 or prices.v1.")
        return True

    @handles_message("mint")
    async def mint(self, ws):
        return {"cents": 300} if ws.subprotocol == "prices.v2" else 3.0


# endregion
app = falcon.asgi.App()
install(app)
app.add_websocket_route("/album", Album)
app.add_websocket_route("/stages/{stage}", Microphone)
app.add_websocket_route("/prices", Prices)
