"""A connection's life makes no reference cycles, so that nothing waits for the collector."""

import asyncio
import json
import urllib.request

import pytest
from asgi_servers import UVICORN
from websockets.exceptions import ConnectionClosed, InvalidStatus

TIMES = 5


async def close(server, client):
    await client.close(4100)


async def vanish(server, client):
    client.transport.abort()


async def is_thrown_out(server, client):
    await asyncio.to_thread(server.get, "/out")


async def asks_to_leave(server, client):
    await client.send('{"type": "leave"}')


async def exceeds(server, client):
    await client.send("x" * 70_000)


ENDS = [close, vanish, is_thrown_out, asks_to_leave, exceeds]
BUSY = {
    "nothing": None,
    "serial": {"type": "serial", "payload": 0.5},
    "concurrent": {"type": "concurrent", "payload": 0.5},
    "failed": {"type": "fail"},
}


async def live(server, busy, end):
    """Connect, be busy, end; wait until it is over."""
    client = await server.dial("/desk/in")
    if busy:
        await client.send(json.dumps(busy))
        await asyncio.sleep(0.02)  # into the handler, most of the time; each time counts
    await end(server, client)
    try:
        while True:
            await asyncio.wait_for(client.recv(), 30)
    except ConnectionClosed:
        pass


async def nobody_left(server):
    """Wait until the server has forgotten everybody, with all their clean-ups."""
    async with asyncio.timeout(30):
        while True:
            status = await asyncio.to_thread(server.get, "/status")
            if not status["connections"]:
                break
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.8)  # the longest that a handler may still run


def collect(server):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/garbage", method="POST", data=b""
    )
    urllib.request.urlopen(request, timeout=30).close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", UVICORN)
async def test_no_end_leaves_a_cycle(start, kind):
    """Every way to end, with every thing that may run then."""
    server = start(kind, "laboratory:app")
    left = {}

    for name, busy in BUSY.items():
        for end in ENDS:
            await asyncio.to_thread(collect, server)
            for _ in range(TIMES):
                await live(server, busy, end)
            await nobody_left(server)
            left[name, end.__name__] = await asyncio.to_thread(server.get, "/garbage")

    assert {case: garbage for case, garbage in left.items() if garbage} == {}


@pytest.mark.slow
@pytest.mark.parametrize("protocols", [[], ["pachinko.json"]], ids=["status", "readable"])
@pytest.mark.parametrize("path", ["/desk/denied", "/desk/broken", "/nowhere"])
async def test_no_denial_leaves_a_cycle(start, path, protocols):
    """By the resource, by a failure, by Falcon itself."""
    server = start("websockets-sansio", "laboratory:app")
    await asyncio.to_thread(collect, server)

    for _ in range(TIMES):
        try:
            client = await server.dial(path, subprotocols=protocols or None)
            await client.wait_closed()
        except InvalidStatus:
            pass
    await asyncio.sleep(0.2)

    assert await asyncio.to_thread(server.get, "/garbage") == {}
