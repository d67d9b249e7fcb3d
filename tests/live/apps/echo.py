"""An app that returns every frame as it came, for those who look at the protocol itself."""

import falcon.asgi

from falcon_pachinko import WebSocketResource, install


class Echo(WebSocketResource):
    """Claims no message: all frames are on_message's."""

    async def on_message(self, ws, message):
        """Return text as text, and bytes as bytes."""
        if isinstance(message, str):
            await ws.send_text(message)
        else:
            await ws.send_data(message)


app = falcon.asgi.App()
install(app)
app.add_websocket_route("/echo", Echo)
