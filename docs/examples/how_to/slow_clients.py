import logging

import falcon.asgi

from falcon_pachinko import Limits, WebSocketResource, handles_message, install

log = logging.getLogger(__name__)


# region: policies
class Prices(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("prices")
        return True


class Orders(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("orders")
        return True


app = falcon.asgi.App()
install(app)
app.add_websocket_route("/orders", Orders)
app.add_websocket_route(
    "/prices",
    Prices,
    limits=Limits(outbox_bytes=65_536, on_overflow="drop_oldest", send_timeout=5),
)
# endregion


# region: delivery
async def publish(manager, order):
    delivery = await manager.broadcast_to_room("orders", {"type": "order", "payload": order})
    if delivery.dropped:
        log.warning("order %s: %d clients missed it", order, delivery.dropped)
    return delivery


# endregion


# region: history
class History(WebSocketResource):
    @handles_message("history")
    async def history(self, ws):
        for number in range(10_000):
            await self.send({"type": "order", "payload": number})


# endregion
app.add_websocket_route("/history", History, limits=Limits(outbox_bytes=4096))
