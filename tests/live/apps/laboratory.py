"""An app that looks at itself: its memory, and what a connection's life leaves to the collector."""

import asyncio
import gc
from collections import Counter
from pathlib import Path

import falcon.asgi

from falcon_pachinko import Limits, WebSocketResource, handles_message, install, to

PAGE = 4096


class Desk(WebSocketResource):
    """Works as the path says, or as it is told."""

    async def on_connect(self, req, ws, manner):
        """Deny, fail, or let in and join a room."""
        if manner == "denied":
            raise falcon.HTTPForbidden
        if manner == "broken":
            raise ZeroDivisionError
        await self.join_room("lab")
        return True

    @handles_message("serial")
    async def serial(self, ws, payload: float):
        """Be busy for some seconds, with everything else waiting."""
        await asyncio.sleep(payload)
        return "done"

    @handles_message("concurrent", concurrent=True)
    async def concurrent(self, ws, payload: float):
        """Be busy for some seconds, beside everything else."""
        await asyncio.sleep(payload)
        return "done"

    @handles_message("fail")
    async def fail(self, ws):
        """Raise something."""
        raise ZeroDivisionError

    @handles_message("leave")
    async def leave(self, ws):
        """Close from here."""
        await ws.close(4001)


class Garbage:
    """The cycle collector, which is off, and keeps what it finds."""

    async def on_post(self, req, resp):
        """Begin: throw away what there is."""
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)

    async def on_get(self, req, resp):
        """Tell which objects of ours, of the app's or of Falcon's only the collector could free."""
        gc.collect()
        names = Counter(f"{type(each).__module__}.{type(each).__name__}" for each in gc.garbage)
        gc.garbage.clear()
        ours = ("falcon", "laboratory")
        resp.media = {name: count for name, count in names.items() if name.startswith(ours)}


def resident_bytes():
    """Return how much memory the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Memory:
    """How much of it the process has."""

    async def on_get(self, req, resp):
        """Answer in bytes."""
        resp.media = resident_bytes()


class Out:
    """The way out for everybody."""

    async def on_get(self, req, resp):
        """Disconnect all."""
        gone = await app.ws_connection_manager.disconnect(to.everyone, 4003, "out")
        resp.media = gone.total


class Status:
    """What the manager says."""

    async def on_get(self, req, resp):
        """Answer with the status."""
        resp.media = app.ws_connection_manager.status()


app = falcon.asgi.App()
install(app, limits=Limits(message_bytes=65_536, handler_grace=0.3))
app.add_websocket_route("/desk/{manner}", Desk)
app.add_route("/garbage", Garbage())
app.add_route("/memory", Memory())
app.add_route("/out", Out())
app.add_route("/status", Status())
