"""python-socketio: events and rooms of its own, over WebSocket only, no polling first."""

import os

import socketio

redis = os.environ.get("BENCH_REDIS")
server = socketio.AsyncServer(
    client_manager=socketio.AsyncRedisManager(redis) if redis else None,
    async_mode="asgi",
    transports=["websocket"],
    cors_allowed_origins="*",
    ping_interval=3600,  # as for the others, the measured time has no heartbeat in it
)
connected = set()


@server.event
async def connect(sid, _environ, _auth=None):
    connected.add(sid)


@server.event
async def disconnect(sid, _reason=None):
    connected.discard(sid)


@server.event
async def ping(sid, payload):
    await server.emit("pong", payload, to=sid)


@server.event
async def join(sid, payload):
    await server.enter_room(sid, payload["room"])
    await server.emit("joined", {"room": payload["room"]}, to=sid)


@server.event
async def say(_sid, payload):
    await server.emit("said", payload, room=payload["room"])


@server.event
async def stats(sid, _payload):
    own = {None, *connected}  # besides those joined, each connection has a room of its own
    rooms = sum(room not in own for room in server.manager.rooms.get("/", ()))
    await server.emit("stats", {"connections": len(connected), "rooms": rooms}, to=sid)


app = socketio.ASGIApp(server)
