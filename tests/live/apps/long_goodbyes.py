"""An app whose handlers are busy and whose goodbyes take their time."""

import asyncio

import falcon.asgi

from falcon_pachinko import Limits, WebSocketResource, handles_message, install


class Guest(WebSocketResource):
    """Takes as many seconds to say goodbye as its path says."""

    async def on_connect(self, req, ws, seconds):
        """Remember how long."""
        self.seconds = seconds
        return True

    @handles_message("think")
    async def think(self, ws, payload: float):
        """Say so, and be busy for some seconds."""
        await ws.send_media({"type": "thinking"})
        try:
            await asyncio.sleep(payload)
        except asyncio.CancelledError:
            print("interrupted", flush=True)
            raise
        print("thought", flush=True)

    async def on_disconnect(self, ws, close_code):
        """Say goodbye, whole or cut."""
        print("goes", flush=True)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            print("cut", flush=True)
            raise
        print("gone", flush=True)


def create_app(shutdown_timeout):
    """Make an app that gives its goodbyes so many seconds."""
    app = falcon.asgi.App()
    install(app, limits=Limits(handler_grace=0.5, shutdown_timeout=shutdown_timeout))
    app.add_websocket_route("/guest/{seconds:float}", Guest)
    return app


app, patient = create_app(1.5), create_app(60)
