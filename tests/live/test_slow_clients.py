"""A client that stops reading costs nobody else anything."""

import asyncio
import json

import pytest

FLOOD = 1500  # messages of 8 kB: more than the kernel's buffers (4 MB) and the outbox hold together
STEP = 20  # of these at a time: less than one outbox holds, however late a client comes to read


async def flood_numbers(client, count=FLOOD):
    numbers = []
    while len(numbers) < count:
        message = json.loads(await asyncio.wait_for(client.recv(), 30))
        if message["type"] == "flood":
            numbers.append(message["payload"]["number"])
    return numbers


@pytest.mark.every_server
async def test_a_client_that_does_not_read_delays_nobody_and_is_cut(uvicorn, deaf):
    """The others get every message in order at once; the deaf one is gone within its deadline."""
    slow = deaf(uvicorn.port, "/ws/chat/tea")
    clients = [await uvicorn.dial("/ws/chat/tea", max_queue=None) for _ in range(5)]

    received = []
    for _ in range(FLOOD // STEP):
        await clients[0].send(json.dumps({"type": "flood", "payload": STEP}))
        received += await asyncio.gather(*(flood_numbers(client, STEP) for client in clients))
    await uvicorn.printed("bye chat:tea 1013", seconds=60)

    assert received == [list(range(STEP))] * (5 * FLOOD // STEP)
    assert await asyncio.to_thread(slow.is_cut)
    status = await asyncio.to_thread(uvicorn.get, "/status")
    assert status["connections"] == 5
    assert status["dropped"]["overflow"] > 0


@pytest.mark.slow
async def test_sigterm_ends_the_server_at_once_with_a_deaf_client(uvicorn, deaf):
    """Unread bytes keep no process alive."""
    deaf(uvicorn.port, "/ws/chat/tea")
    client = await uvicorn.dial("/ws/chat/tea", max_queue=None)
    await client.send(json.dumps({"type": "flood", "payload": FLOOD}))
    await flood_numbers(client)
    await client.close()

    seconds = await asyncio.to_thread(uvicorn.terminate)

    assert seconds < 15  # a wait for its pong would take 20
    assert uvicorn.output.count("bye") == 2


@pytest.mark.slow
async def test_one_warning_for_a_slow_client(uvicorn, deaf):
    """The log names the client and the setting once, not once per frame."""
    deaf(uvicorn.port, "/ws/chat/tea")
    client = await uvicorn.dial("/ws/chat/tea", max_queue=None)
    await client.send(json.dumps({"type": "flood", "payload": FLOOD}))
    await flood_numbers(client)
    await uvicorn.printed("bye chat:tea 1013", seconds=60)
    await client.close()

    assert uvicorn.output.count("outbox_bytes=200000") == 1


@pytest.mark.slow
async def test_a_healthy_client_behind_a_busy_handler_survives_the_pings(start):
    """Reading goes on while a handler is busy, so its pongs are seen."""
    server = start(
        "websockets-sansio", "seed_chat:app",
        "--ws-ping-interval", "0.3", "--ws-ping-timeout", "0.3",
    )  # fmt: skip
    async with server.connect("/ws/chat/tea") as client:
        await client.recv()
        await client.send('{"type": "think", "payload": 2, "ref": 1}')
        for number in range(5):
            await client.send(json.dumps({"type": "add", "payload": [number], "ref": number}))

        answers = [json.loads(await client.recv()) for _ in range(6)]

    assert [answer["payload"] for answer in answers] == ["thought", 0, 1, 2, 3, 4]
