import falcon
import falcon.asgi
import msgspec

from falcon_pachinko import Limits, MessageError, WebSocketResource, handles_message, install


# region: order
class Order(msgspec.Struct):
    tea: str
    cups: int = 1


class Counter(WebSocketResource):
    @handles_message("order")
    async def order(self, ws, payload: Order):
        return {"tea": payload.tea, "price": 3 * payload.cups}

    @handles_message("note", forbid_unknown_fields=False)
    async def note(self, ws, payload: Order):
        return payload

    @handles_message("tip")
    async def tip(self, ws, payload: int | None):
        return payload

    @handles_message("ring")
    async def ring(self, ws):
        await self.send({"type": "rang"})


# endregion


# region: refusals
class Till(WebSocketResource):
    @handles_message("coffee")
    async def coffee(self, ws):
        raise MessageError("sold_out", "We have tea.", path="$.type")

    @handles_message("open_till")
    async def open_till(self, ws):
        raise falcon.HTTPForbidden(description="Staff only.")

    @handles_message("split_bill")
    async def split_bill(self, ws, payload: int):
        return 12 / payload

    @handles_message("sit")
    async def sit(self, ws, payload: str):
        await self.join_room(payload)

    @handles_message("badge")
    async def badge(self, ws, payload: str):
        await ws.add_tag(payload)


# endregion


# region: fallback
class Guestbook(Counter):
    async def on_message(self, ws, message):
        await self.send({"type": "wrote", "payload": message})


# endregion


# region: schema
class Join(msgspec.Struct, tag="join"):
    name: str


class Leave(msgspec.Struct, tag="leave"):
    pass


class Lounge(WebSocketResource):
    schema = Join | Leave

    @handles_message(Join)
    async def join(self, ws, message: Join):
        return f"Welcome, {message.name}."

    @handles_message(Leave)
    async def leave(self, ws):
        await ws.close()


# endregion

# region: limits
app = falcon.asgi.App()
install(app)
app.add_websocket_route("/counter", Counter, limits=Limits(message_bytes=128))
app.add_websocket_route("/till", Till, limits=Limits(rooms=1, tags=1))
app.add_websocket_route("/queue", Counter, limits=Limits(burst=2, messages_per_second=0.01))
# endregion
app.add_websocket_route("/guestbook", Guestbook)
app.add_websocket_route("/lounge", Lounge)
