"""The application under soak.py: handlers, rooms and ends of every kind, and what it holds."""

# ruff: noqa: SLF001  # it counts what the library holds, wherever that is

import asyncio
import gc
import os
import threading
import time
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from pathlib import Path

import falcon
import falcon.asgi

from falcon_pachinko import (
    HistoryLimits,
    HistoryPosition,
    Limits,
    MessageError,
    Principal,
    WebSocketResource,
    handles_message,
    install,
    to,
)
from falcon_pachinko.cluster.listening import GAP_LOG_CHANNELS
from falcon_pachinko.cluster.publishing import CHANNELS_REMEMBERED
from falcon_pachinko.cluster.stored import MOST_GIVEN_UP

BALLAST = "x" * 8000

OF_A_CONNECTION = (
    "Connection", "Session", "Handshake", "Inbox", "Outbox", "Gate",
    "Dispatcher", "Tasks", "Writer", "Pace", "WaitingFrames",
)  # fmt: skip
"""The library's classes whose instances belong to one connection."""


class Desk(WebSocketResource):
    """A client's place: the path says in which room, the query how it is let in and goes."""

    async def on_connect(self, req, ws, room):
        """Join the room as its kind wants it; or be slow, deny, or fail."""
        self.room = room
        self.goodbye = req.get_param_as_float("goodbye") or 0
        await asyncio.sleep(req.get_param_as_float("door") or 0)
        match req.get_param("way"):
            case "denied":
                return False
            case "broken":
                raise falcon.HTTPServiceUnavailable
            case "closed":
                await ws.accept()
                await ws.close(4001, "as asked")
                return None
        if room.startswith("here:"):
            await self.track(room, {"since": time.time()})
        elif room.startswith("kept:"):
            await self.join_room(room, since=HistoryPosition.of(req))
        else:
            await self.join_room(room)
        return True

    @handles_message("say")
    async def say(self, ws, payload: str):
        """Tell the room."""
        await self.broadcast_to_room(self.room, {"type": "said", "payload": payload})

    @handles_message("work")
    async def work(self, ws, payload: float):
        """Be busy, and hold up the next message."""
        await asyncio.sleep(payload)
        return payload

    @handles_message("beside", concurrent=True)
    async def work_beside(self, ws, payload: float):
        """Be busy beside the next message."""
        await asyncio.sleep(payload)
        return payload

    @handles_message("flood")
    async def flood(self, ws, payload: int):
        """Send more than a client that does not read can take."""
        for _ in range(payload):
            await self.broadcast_to_room(self.room, {"type": "flood", "payload": BALLAST})

    @handles_message("hop")
    async def hop(self, ws, payload: str):
        """Go through another room, and be marked on the way."""
        await self.join_room(payload)
        await ws.add_tag(payload)
        await self.broadcast_to_room(payload, {"type": "hopped"})
        await ws.remove_tag(payload)
        await self.leave_room(payload)

    @handles_message("meta")
    async def change_meta(self, ws, payload: int):
        """Be present with another meta."""
        await self.track(self.room, {"number": payload})

    @handles_message("refuse")
    async def refuse(self, ws):
        """Refuse a message, as applications do."""
        raise MessageError("refused")

    @handles_message("leave")
    async def leave(self, ws, payload: int):
        """Close from within a handler."""
        await ws.close(payload)

    async def on_disconnect(self, ws, close_code):
        """Say goodbye, which may take a while."""
        await asyncio.sleep(self.goodbye)
        await self.broadcast_to_room(self.room, {"type": "left"})


class Door:
    """Where the server sends a user away."""

    async def on_delete(self, req, resp, user):
        """Disconnect them."""
        await app.ws_connection_manager.disconnect(to.user(user), 4003, "sent away")


class Facts:
    """What this process holds at this moment."""

    async def on_get(self, req, resp):
        """Count, after all that can be freed was."""
        gc.collect()
        manager = app.ws_connection_manager
        status = manager.status()
        resp.media = {
            "connections": status["connections"],
            "rooms": status["rooms"],
            "users": status["users"],
            "outbox_bytes": status["outbox_bytes"],
            "backend": status["backend"] and status["backend"]["state"],
            "tasks": len(asyncio.all_tasks()),
            "threads": threading.active_count(),
            "descriptors": descriptors(),
            "objects": sum(objects().values()),
            "tables": entries(manager, but=[id(each) for each, _ in memories(manager)]),
            "remembered": sum(len(each) for each, _ in memories(manager)),
            "overfull": sum(len(each) > most for each, most in memories(manager)),
            "memory": private_memory(),
        }


def objects():
    """Count the objects that belong to connections, by class."""
    return Counter(
        type(each).__name__
        for each in gc.get_objects()
        if issubclass(type(each), Desk)  # a route only says that it is one
        or (is_ours(type(each)) and type(each).__name__ in OF_A_CONNECTION)
    )


def is_ours(kind):
    """Tell whether a class is the library's, or this application's."""
    return str(kind.__module__).startswith(("falcon_pachinko", __name__))


def memories(manager):
    """Give the collections that are meant to remember what is over, and their stated bounds."""
    cluster, history = manager._cluster, manager._exchange.history
    return (
        (cluster._publishing._last_elsewhere, CHANNELS_REMEMBERED),
        (cluster._listening._gap_log._named, GAP_LOG_CHANNELS),
        (history.given_up.messages, MOST_GIVEN_UP),
    )


def entries(root, but=()):
    """Count the entries of all dicts, sets, lists and queues that can be reached from an object.

    It goes through the library's own objects, and through the collections that they hold,
    but for those with the ids in `but`.
    """
    seen, waiting, found = {id(root), *but}, [root], 0
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | set | list | deque):
            found += len(each)
        for held in gc.get_referents(each):
            kept = isinstance(held, dict | set | list | deque) or is_ours(type(held))
            if id(held) not in seen and kept:
                seen.add(id(held))
                waiting.append(held)
    return found


def descriptors():
    """Count what this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def private_memory():
    """Return the bytes that only this process has in memory."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(each.split()[1]) for each in lines if each.startswith("Private_")) * 1024


async def authenticate(req):
    """Believe the query, which also says for how long."""
    name, seconds = req.get_param("name"), req.get_param_as_float("expires")
    if name is None:
        return None
    ends = datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
    return Principal(user_id=name, expires_at=ends)


app = falcon.asgi.App()
install(
    app,
    backend=os.environ.get("BACKEND"),
    authenticate=authenticate,
    limits=Limits(outbox_bytes=65_536, send_timeout=1.5, handler_grace=1.0),
)
app.add_websocket_route("/desks/{room}", Desk)
app.add_route("/facts", Facts())
app.add_route("/users/{user}", Door())
rooms = app.ws_connection_manager
rooms.configure_rooms(
    "kept:", history=HistoryLimits(count=20, bytes=50_000, seconds=2), resync=True
)
rooms.configure_rooms("here:", presence_grace=0.5)
