from typing import Literal

import falcon.asgi
import msgspec

from falcon_pachinko import WebSocketResource, handles_message, install


# region: query
class Paging(msgspec.Struct, rename="kebab"):
    page: int = 1
    per_page: int = 20
    sort: Literal["price", "name"] = "name"
    tags: list[str] = []


class Shop(WebSocketResource):
    async def on_connect(self, req, ws, shop, *, query: Paging):
        self.shop, self.query = shop, query
        return True

    @handles_message("show")
    async def show(self, ws):
        return self.query


# endregion
app = falcon.asgi.App()
install(app)
app.add_websocket_route("/shops/{shop}", Shop)
