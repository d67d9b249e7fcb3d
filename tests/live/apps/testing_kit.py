"""What the testing kit is tried on: it echoes, pours, closes, broadcasts, and fails on request."""

import asyncio
import os
import sys

import falcon.asgi

from falcon_pachinko import Limits, WebSocketResource, handles_message, install


class Desk(WebSocketResource):
    subprotocols = ("tea",)

    async def on_connect(self, req, ws):
        if req.get_header("X-Nothing"):
            await asyncio.Event().wait()
        self.host = req.host
        await self.join_room("desk")
        return True

    @handles_message("echo")
    async def echo(self, ws, payload):
        return payload

    @handles_message("host")
    async def tell_host(self, ws):
        return self.host

    @handles_message("bytes")
    async def bytes(self, ws):
        await ws.send_data(b"\x00")

    @handles_message("pour")
    async def pour(self, ws, payload: int):
        for number in range(payload):
            await ws.send_text(f"{number:0100000}")
        return "poured"

    @handles_message("close")
    async def close(self, ws):
        await ws.close(4000, "enough")

    @handles_message("where")
    async def where(self, ws):
        return {"pid": os.getpid(), "tea": os.environ.get("TEA", "none")}

    async def on_disconnect(self, ws, close_code):
        print(f"goodbye {close_code}", flush=True)
        await self.broadcast_to_room("desk", {"type": "left", "payload": close_code})


class Health:
    async def on_get(self, req, resp):
        resp.media = {"status": "ok"}


class Request:
    async def on_put(self, req, resp):
        body = await req.stream.read()
        resp.media = {
            "query": req.params,
            "tea": req.get_header("X-Tea"),
            "type": req.content_type,
            "body": body.decode(),
            "host": req.host,
        }


class Ponder(WebSocketResource):
    """Never answers a handshake."""

    async def on_connect(self, req, ws):
        await asyncio.Event().wait()


class Broken:
    async def process_startup(self, scope, event):
        raise ZeroDivisionError("no tea")


class Stuck:
    async def process_startup(self, scope, event):
        await asyncio.Event().wait()


class Clinging:
    async def process_shutdown(self, scope, event):
        await asyncio.Event().wait()


def create(*middleware):
    made = falcon.asgi.App(middleware=list(middleware))
    install(made, limits=Limits(handler_grace=0.1))
    made.add_websocket_route("/desk", Desk)
    made.add_websocket_route("/ponder", Ponder)
    made.add_route("/health", Health())
    made.add_route("/request", Request())
    return made


def exits():
    print("I go", file=sys.stderr)
    sys.exit(7)


app = create()
broken = create(Broken())
stuck = create(Stuck())
clinging = create(Clinging())
