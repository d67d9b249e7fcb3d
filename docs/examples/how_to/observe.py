import logging

import falcon
import falcon.asgi

from falcon_pachinko import WebSocketResource, handles_message, install
from falcon_pachinko.metrics import MetricsResource


class Counter(WebSocketResource):
    @handles_message("order")
    async def order(self, ws, payload: str):
        return {"tea": payload}

    @handles_message("split_bill")
    async def split_bill(self, ws, payload: int):
        return 12 / payload


# region: endpoints
class Health:
    async def on_get(self, req, resp):
        resp.media = app.ws_connection_manager.status()
        if resp.media["state"] == "draining":
            resp.status = falcon.HTTP_503


app = falcon.asgi.App()
install(app)
app.add_websocket_route("/counters/{number}", Counter)
app.add_route("/health", Health())
app.add_route("/metrics", MetricsResource(app))
# endregion


# region: logging
def log_to(stream):
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        logging.Formatter(
            "%(levelname)s %(route)s %(connection_id)s %(message)s",
            defaults={"route": "-", "connection_id": "-"},
        )
    )
    logging.getLogger("falcon_pachinko").addHandler(handler)


# endregion
