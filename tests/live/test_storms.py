"""Crowds that come, stall and go: nobody else pays, and nothing stays behind."""

import asyncio
import base64
import json
import os
import resource
import socket
import struct
import time
from pathlib import Path

import pytest
from asgi_servers import UVICORN, on

CLIENTS = 20
MESSAGES = 60  # a client; 1200 of 8 kB are twice what the kernel holds for one that does not read
BALLAST = "x" * 8000
BUDGET = 262_144  # the outbox of the app's /patient
TRANSPORT = 65_536 + len(BALLAST)  # asyncio's high-water mark, and the frame that goes beyond it
CONNECTION = 100_000  # what a server and the library need for a connection, twice over
FRAMES = CLIENTS * len(BALLAST)  # each of the others may hold a frame more or less than before

STORM = 2500
BATCH = 250
ROOMS = 50


async def converse(client, me):
    """Say one thing after the other, each when the one before is heard; return what was heard."""

    async def say(number):
        word = {"sender": me, "number": number, "ballast": BALLAST}
        await client.send(json.dumps({"type": "say", "payload": word}))

    heard = [[] for _ in range(CLIENTS)]
    await say(0)
    for _ in range(CLIENTS * MESSAGES):
        word = json.loads(await client.recv())["payload"]
        heard[word["sender"]].append(word["number"])
        if word["sender"] == me and len(heard[me]) < MESSAGES:
            await say(len(heard[me]))
    return heard


async def chatter(clients):
    """Have all converse at once; return what each heard of each, in the order in which it came."""
    async with asyncio.timeout(60):
        return await asyncio.gather(*map(converse, clients, range(CLIENTS)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        on("websockets-sansio", ()),
        on("wsproto", ()),
        # This one waits 20 s for a client that does not read, unless it is told not to.
        on("websockets", ("--timeout-graceful-shutdown", "1")),
    ],
)
async def test_a_stalled_reader_costs_twenty_busy_clients_nothing(
    start, deaf, kind, options, monkeypatch
):
    """They hear everything in order, the memory grows by one outbox, and SIGTERM is not delayed.

    The memory is what Python has given out: how many pages the process has for that depends
    on where its allocator finds room, and goes up and down by megabytes.
    """
    monkeypatch.setenv("PYTHONTRACEMALLOC", "1")
    server = start(kind, "crowd:app", *options)
    clients = [await server.dial("/patient/square", max_queue=None) for _ in range(CLIENTS)]
    everything = [[list(range(MESSAGES))] * CLIENTS] * CLIENTS
    heard_before = await chatter(clients)
    for _ in range(2):  # the first request makes what stays
        before = await asyncio.to_thread(server.get, "/memory")

    deaf(server.port, "/patient/square")
    heard = await chatter(clients)
    growth = await asyncio.to_thread(server.get, "/memory") - before
    stalled = await asyncio.to_thread(server.get, "/pulse")
    seconds = await asyncio.to_thread(server.terminate)

    assert heard_before == heard == everything
    assert BUDGET / 2 < stalled["outbox_bytes"] <= BUDGET
    assert stalled["dropped"]["overflow"] > 0
    assert BUDGET / 2 < growth < BUDGET + TRANSPORT + CONNECTION + FRAMES
    assert seconds < 15  # who waits for that client waits for 20


def handshake(port, path):
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def frame(opcode, payload):
    """Return a short frame, masked with zeros, which leave the payload as it is."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


SAY = frame(1, b'{"type":"say","payload":{"sender":0,"number":0}}')

LAST_WORDS = (b"", SAY, SAY[:9], frame(8, b"\x03\xe8"))  # nothing, a message, half of one, a close


def reset(client):
    """Vanish: what was sent or is unread counts for nothing any more."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def come(port, first, last):
    """Connect a batch of clients, each in one of the rooms."""
    clients = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(first, last)]
    for number, client in enumerate(clients, first):
        client.sendall(handshake(port, f"/crowd/{number % ROOMS}"))
    for client in clients:
        answer = b""
        while b"\r\n\r\n" not in answer and (piece := client.recv(4096)):
            answer += piece
        assert b" 101 " in answer, answer
    return clients


def gather(port):
    """Connect the storm, batch by batch."""
    batches = [come(port, first, first + BATCH) for first in range(0, STORM, BATCH)]
    return [client for batch in batches for client in batch]


def vanish(clients, port):
    """Let all clients go at once, and some more at the door, half of them with half a request."""
    for number, client in enumerate(clients):
        client.sendall(LAST_WORDS[number % len(LAST_WORDS)])
        reset(client)
    for number in range(BATCH):
        client = socket.create_connection(("127.0.0.1", port), 20)
        client.sendall(handshake(port, "/crowd/1")[: None if number % 2 else -2])
        reset(client)


def standing(server):
    """Return what the server holds: connections, rooms, tasks, file descriptors."""
    pulse = server.get("/pulse")
    descriptors = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    return pulse["connections"], pulse["rooms"], pulse["tasks"], descriptors


def settled(server, wanted, seconds=60):
    """Wait until the server holds what is wanted; return what it holds in the end."""
    deadline = time.monotonic() + seconds
    while (held := standing(server)) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


@pytest.fixture
def descriptors():
    """Let this process, and those it starts, open as many files as the storm has clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard == resource.RLIM_INFINITY or hard > STORM + 100, f"raise ulimit -Hn, now {hard}"
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("kind", UVICORN)
async def test_a_storm_of_drops_leaves_no_connection_room_task_or_descriptor(start, kind):
    """Thousands vanish, in the middle of a frame or a handshake too, and all is as before."""
    server = start(kind, "crowd:app")
    before = await asyncio.to_thread(standing, server)

    clients = await asyncio.to_thread(gather, server.port)
    there = await asyncio.to_thread(standing, server)
    await asyncio.to_thread(vanish, clients, server.port)
    after = await asyncio.to_thread(settled, server, before)

    assert there[:2] == (STORM, ROOMS + 1)
    assert there[3] >= STORM
    assert after == before
    assert "Traceback" not in server.output
