import falcon.asgi

from falcon_pachinko import WebSocketResource, install

# region: origins
app = falcon.asgi.App()
install(
    app,
    origins=["https://shop.example", "https://*.shop.example"],
    allowed_hosts=["api.shop.example", "localhost"],
)
# endregion
app.add_websocket_route("/desk", WebSocketResource)
