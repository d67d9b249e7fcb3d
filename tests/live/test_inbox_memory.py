"""A client that sends more than its handler takes costs a bounded amount of memory."""

import asyncio
import json

import pytest
from asgi_servers import UVICORN
from websockets.exceptions import ConnectionClosed

MIB = 2**20


async def push(client, frames):
    """Send as long as the server takes."""
    try:
        for frame in frames:
            await client.send(frame)
    except ConnectionClosed:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", UVICORN)
@pytest.mark.parametrize("busy", ["serial", "concurrent"])
async def test_frames_far_over_the_limit_do_not_pile_up(start, kind, busy):
    """15 MiB each, behind a handler that is busy: the first one ends the connection, with 1009."""
    server = start(kind, "laboratory:app")
    before = await asyncio.to_thread(server.get, "/memory")
    client = await server.dial("/desk/in", max_size=None)
    await client.send(json.dumps({"type": busy, "payload": 30}))

    pushing = asyncio.create_task(push(client, ["x" * (15 * MIB)] * 20))
    try:
        while True:
            await asyncio.wait_for(client.recv(), 60)
    except ConnectionClosed as closed:
        code = closed.rcvd.code
    await pushing

    after = await asyncio.to_thread(server.get, "/memory")
    assert code == 1009
    assert after - before < 100 * MIB  # a frame or two, as the server has them; not twenty


@pytest.mark.slow
@pytest.mark.parametrize("kind", UVICORN)
async def test_frames_within_the_limit_stop_the_reading(start, kind):
    """A hundred clients of 60 kB frames wait, read no further, and all is handled later."""
    server = start(kind, "laboratory:app")
    before = await asyncio.to_thread(server.get, "/memory")
    clients = [await server.dial("/desk/in") for _ in range(10)]
    for client in clients:
        await client.send(json.dumps({"type": "serial", "payload": 3, "ref": "busy"}))
    filler = json.dumps({"type": "unknown", "payload": "x" * 60_000})

    async def flood(client):
        await push(client, [filler] * 200)
        await client.send(json.dumps({"type": "serial", "payload": 0, "ref": "last"}))

    async def hear(client):
        refs = []
        while "last" not in refs:
            refs.append(json.loads(await asyncio.wait_for(client.recv(), 60)).get("ref"))
        return refs

    flooding = [asyncio.create_task(flood(client)) for client in clients]
    answered = asyncio.gather(*map(hear, clients))
    most = 0
    while not answered.done():
        most = max(most, await asyncio.to_thread(server.get, "/memory"))
        await asyncio.sleep(0.05)
    await asyncio.gather(*flooding)

    for refs in await answered:
        assert (refs[0], refs[-1], len(refs)) == ("busy", "last", 202)
    assert most - before < 80 * MIB  # 120 MB were sent; each may have 1 MiB waiting
