import falcon
import falcon.asgi

from falcon_pachinko import install


# region: adopt
class Ticker:
    async def on_websocket(self, req, ws):
        manager = app.ws_connection_manager
        await ws.accept()
        await manager.add_connection(req.get_param("id"), ws)
        try:
            await manager.join_room(req.get_param("id"), "ticker")
            while True:
                await ws.receive_text()
        except falcon.WebSocketDisconnected:
            pass
        finally:
            await manager.remove_connection(req.get_param("id"))


# endregion
app = falcon.asgi.App()
install(app)
app.add_route("/ticker", Ticker())
