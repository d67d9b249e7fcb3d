"""One process of several under load: rooms of three kinds, a lone worker, and what it all holds."""

import asyncio
import gc
import json
import logging
import os
import time
from collections import Counter
from pathlib import Path

import falcon.asgi
import msgspec

from falcon_pachinko import (
    HistoryLimits,
    HistoryPosition,
    Limits,
    WebSocketResource,
    current_lease,
    handles_message,
    install,
)

PAUSE = 0.05
"""Seconds between two shifts that the lone worker writes down."""

SHIFTS = os.open(os.environ["SHIFTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
"""Where the lone worker writes them; open from the start, so that it is the same everywhere."""

OF_A_CONNECTION = ("Connection", "Session", "Handshake", "Inbox", "Outbox", "Writer", "Seat")
"""Classes whose instances belong to one connection."""


OF_THE_WORKER = ("Worker._call", "keep")
"""Coroutines that run where the lone worker does, and nowhere else."""


class Numbered(msgspec.Struct):
    """A message as its sender counts it."""

    room: str
    life: int
    number: int


class Seat(WebSocketResource):
    """A client, with a place in several rooms."""

    async def on_connect(self, req, ws):
        """Come into the rooms that the query names: plain ones, with history, with presence."""
        ws.user_id = self.name = req.get_param("name")
        await ws.accept()
        for room, since in json.loads(req.get_param("rooms")).items():
            if room.startswith("kept:"):
                await self.join_room(room, since=HistoryPosition(*(since or ("", 0))))
            elif room.startswith("here:"):
                await self.track(room, {"life": req.get_param_as_int("life")})
            else:
                await self.join_room(room)
            await ws.send_media({"type": "joined", "payload": room})

    @handles_message("say")
    async def say(self, ws, payload: Numbered):
        """Tell everybody in the room; answer whether other processes get it."""
        told = {"by": self.name, "life": payload.life, "number": payload.number}
        message = {"type": "said", "payload": told | {"room": payload.room}}
        return (await self.broadcast_to_room(payload.room, message)).published


class Facts:
    """What this process knows, and holds."""

    async def on_get(self, req, resp):
        """Tell the state; and of the rooms that the query names, what is known of them."""
        manager = app.ws_connection_manager
        status = manager.status()
        room = req.get_param("room") or ""
        if room.startswith("here:"):
            resp.media = await manager.presence(room)
        elif room:
            kept = await manager.history(room)
            resp.media = [[each["history"], each["payload"]] for each in kept]
        else:
            resp.media = {key: status[key] for key in ("connections", "rooms", "users", "backend")}


class Holdings:
    """What this process holds at this moment."""

    async def on_get(self, req, resp):
        """Count, after all that can be freed was."""
        gc.collect()
        held = Counter(
            type(each).__name__
            for each in gc.get_objects()
            if type(each).__name__ in OF_A_CONNECTION
            and str(type(each).__module__).startswith(("falcon_pachinko", __name__))
        )
        status = app.ws_connection_manager.status()
        resp.media = {
            "connections": status["connections"],
            "rooms": status["rooms"],
            "users": status["users"],
            "outbox_bytes": status["outbox_bytes"],
            "objects": sum(held.values()),
            "tasks": sum(
                each.get_coro().__qualname__ not in OF_THE_WORKER for each in asyncio.all_tasks()
            ),
            "descriptors": descriptors(),
            "kilobytes": kilobytes(),
        }


def descriptors():
    """Count what this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def kilobytes():
    """Return how much only this process has in memory."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(each.split()[1]) for each in lines if each.startswith("Private_"))


async def write_shifts(manager):
    """Write down who is at work, and when: the clock is the machine's, not this process's."""
    while True:
        now = time.monotonic()  # before the check: the lease is held at this moment
        lease = current_lease()
        lease.check()
        os.write(SHIFTS, f"{lease.token} {os.getpid()} {now:.6f}\n".encode())
        await asyncio.sleep(PAUSE)


logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
app = falcon.asgi.App()
install(app, backend=os.environ["BACKEND"], limits=Limits(handler_grace=1.0))
app.add_websocket_route("/seat", Seat)
app.add_route("/facts", Facts())
app.add_route("/holdings", Holdings())
rooms = app.ws_connection_manager
rooms.configure_rooms("plain:", resync=True)
rooms.configure_rooms("here:", presence_grace=0.5, resync=True)
rooms.configure_rooms("kept:", history=HistoryLimits(count=100_000, bytes=100_000_000, seconds=900))
app.add_websocket_worker(write_shifts, singleton=True)
