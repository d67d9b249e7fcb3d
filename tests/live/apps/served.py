"""An app that tells what its server lets through: answers, codes, ends, and the lifespan."""

import asyncio
from pathlib import Path

import falcon
import falcon.asgi

from falcon_pachinko import Limits, WebSocketResource, handles_message, install

LONG = 60.0
"""Seconds that whoever works takes, unless it is ended."""


class Guest(WebSocketResource):
    """Is let in or not, talks, works, and prints what becomes of it."""

    subprotocols = ("tea.v1",)

    async def on_connect(self, req, ws, manner):
        """Do as the path says."""
        if manner == "stranger":
            raise falcon.HTTPUnauthorized(description="Log in first.", challenges=["Bearer"])
        if manner == "early":
            raise falcon.HTTPServiceUnavailable(retry_after=7)
        if manner == "slowly":
            await self.work("on_connect")
        if manner == "held":
            await self.wait_for(Path(req.get_param("until")))
        await self.join_room("guests")
        return True

    async def work(self, what):
        """Work for long, and print how it ended."""
        print(f"{what} begins", flush=True)
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            print(f"{what} is cancelled", flush=True)
            raise

    async def wait_for(self, file):
        """Wait until a file is there, which the server's shutdown cannot keep from coming."""
        print("on_connect begins", flush=True)
        try:
            while not file.exists():  # noqa: ASYNC110  # another process makes it
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            print("on_connect is cancelled", flush=True)
            raise
        print("on_connect finishes", flush=True)

    @handles_message("serial")
    async def serial(self, ws):
        """Work, with all other messages behind it."""
        await self.work("serial")

    @handles_message("concurrent", concurrent=True)
    async def concurrent(self, ws):
        """Work, beside all other messages."""
        await self.work("concurrent")

    @handles_message("say")
    async def say(self, ws, payload: int):
        """Tell everybody a number."""
        await self.broadcast_to_room("guests", {"type": "said", "payload": payload})

    @handles_message("flood")
    async def flood(self, ws, payload: int):
        """Broadcast a lot, at a pace that a client that reads can keep."""
        for number in range(payload):
            message = {"type": "said", "payload": number, "ballast": "x" * 8000}
            await self.broadcast_to_room("guests", message)
            await asyncio.sleep(0.001)

    @handles_message("leave")
    async def leave(self, ws):
        """Close from here."""
        await ws.close(4001, "as you wish")

    async def on_disconnect(self, ws, close_code):
        """Print the end, after a moment that a hurried shutdown would cut off."""
        await asyncio.sleep(0.05)
        print(f"on_disconnect {close_code} {ws.close_reason!r}", flush=True)


async def pulse(manager):
    """Print when the lifespan begins, and when it ends."""
    print("worker begins", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("worker ends", flush=True)


class Status:
    """What the manager says, over HTTP."""

    def __init__(self, manager):
        self.manager = manager

    async def on_get(self, req, resp):
        """Answer with the status."""
        resp.media = self.manager.status()


class Drain(Status):
    """A way to send everybody away."""

    async def on_get(self, req, resp):
        """Drain for at most 15 seconds, and tell what came of it."""
        resp.media = (await self.manager.drain(15))._asdict()


def create_app(handler_grace):
    """Make an app with all of these."""
    made = falcon.asgi.App()
    limits = Limits(outbox_bytes=200_000, send_timeout=1.5, handler_grace=handler_grace)
    install(made, limits=limits)
    made.add_route("/status", Status(made.ws_connection_manager))
    made.add_route("/drain", Drain(made.ws_connection_manager))
    made.add_websocket_route("/guest/{manner}", Guest)
    made.add_websocket_worker(pulse)
    return made


app = create_app(handler_grace=1.0)
patient = create_app(handler_grace=30.0)
"""The same, with handlers that may go on for longer than a server waits."""
