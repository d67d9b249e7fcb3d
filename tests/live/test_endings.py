"""However a connection ends, its clean-up runs once, and nothing is left behind."""

import asyncio
import signal
import time

import pytest
from asgi_servers import UVICORN


async def baseline(server, seconds=60):
    """Wait until the server knows no connection and no room."""
    deadline = time.monotonic() + seconds
    while (status := await asyncio.to_thread(server.get, "/status"))["connections"]:
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.02)
    return status


async def close(client):
    await client.close()


async def close_with_code(client):
    await client.close(4100, "done here")


async def drop(client):
    client.transport.abort()


ENDINGS = {"clean": (close, 1000), "code": (close_with_code, 4100), "drop": (drop, 1006)}


@pytest.mark.every_server
@pytest.mark.parametrize("ending", ENDINGS)
async def test_on_disconnect_runs_once(uvicorn, ending):
    """With the peer's own code, or 1006 where there was no close frame."""
    end, code = ENDINGS[ending]
    client = await uvicorn.dial("/ws/chat/tea")
    await client.recv()

    await end(client)

    assert await uvicorn.printed(f"bye chat:tea {code}") == 1
    status = await baseline(uvicorn)
    assert status["rooms"] == 0
    assert uvicorn.output.count("bye") == 1


async def test_on_disconnect_runs_once_after_a_reset(uvicorn, reset):
    """A reset is an end without a close frame."""
    client = await uvicorn.dial("/ws/chat/tea")
    await client.recv()

    reset(client)

    assert await uvicorn.printed("bye chat:tea 1006") == 1
    await baseline(uvicorn)
    assert uvicorn.output.count("bye") == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", [close, close_with_code, drop])
async def test_hypercorn_reports_every_end_as_1006(start, end):
    """Hypercorn keeps the peer's code to itself; the clean-up runs once all the same."""
    server = start("hypercorn")
    client = await server.dial("/ws/chat/tea")
    await client.recv()

    await end(client)

    assert await server.printed("bye chat:tea 1006") == 1
    await baseline(server)
    assert server.output.count("bye") == 1


async def test_on_disconnect_runs_once_when_the_server_stops(uvicorn):
    """SIGTERM with clients connected: everyone's clean-up ends before the process does."""
    clients = [await uvicorn.dial("/ws/chat/tea") for _ in range(5)]
    for client in clients:
        await client.recv()

    await asyncio.to_thread(uvicorn.terminate)

    ends = [line for line in uvicorn.output.splitlines() if line.startswith("bye")]
    assert len(ends) == 5, uvicorn.output
    assert "worker stopped" in uvicorn.output
    assert "Traceback" not in uvicorn.output


@pytest.mark.slow
async def test_hypercorn_stops_when_its_clients_have_left(start):
    """From Python 3.12 on it waits for them; the clean-ups and the worker end all the same."""
    server = start("hypercorn")
    clients = [await server.dial("/ws/chat/tea") for _ in range(5)]
    for client in clients:
        await client.recv()

    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.transport.abort()
    await asyncio.to_thread(server.process.wait, 10)

    ends = [line for line in server.output.splitlines() if line.startswith("bye")]
    assert len(ends) == 5, server.output
    assert "worker stopped" in server.output


@pytest.mark.slow
async def test_a_busy_handler_is_cancelled_after_its_grace(uvicorn):
    """Its client went; the handler has a second, then the clean-up runs."""
    client = await uvicorn.dial("/ws/chat/tea")
    await client.recv()
    await client.send('{"type": "think", "payload": 60}')
    await asyncio.to_thread(uvicorn.get, "/status")

    await client.close()

    assert await uvicorn.printed("bye chat:tea 1000") == 1
    assert "thought" not in uvicorn.output


async def test_a_busy_handler_may_finish_within_its_grace(uvicorn):
    """A client that goes does not cut off what it asked for."""
    client = await uvicorn.dial("/ws/chat/tea")
    await client.recv()
    await client.send('{"type": "think", "payload": 0.6}')
    await asyncio.to_thread(uvicorn.get, "/status")

    await client.close()

    assert await uvicorn.printed("bye chat:tea 1000") == 1
    assert "thought" in uvicorn.output


@pytest.mark.slow
async def test_the_server_stops_while_a_handler_is_busy(start):
    """The handler is cancelled, its client's clean-up runs whole, and the process ends."""
    server = start("websockets-sansio", "seed_chat:app", "--timeout-graceful-shutdown", "1")
    client = await server.dial("/ws/chat/tea")
    await client.recv()
    await client.send('{"type": "think", "payload": 60}')
    await asyncio.to_thread(server.get, "/status")

    seconds = await asyncio.to_thread(server.terminate)

    assert server.output.count("bye chat:tea 1012") == 1
    assert seconds < 30  # the handler would go on for 60


async def test_a_client_that_goes_during_on_connect_was_never_there(start):
    """No on_disconnect, and its room is left."""
    server = start("websockets-sansio", "slow_door:app")
    attempt = asyncio.create_task(server.dial("/ws/slow"))
    await server.printed("asked")

    attempt.cancel()

    await server.printed("left at the door")
    await baseline(server)
    assert "bye" not in server.output


ANSWERS = ["true", "false", "http", "message", "close", "accept", "send"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", UVICORN)
async def test_a_client_that_goes_before_its_answer_is_no_error_in_the_log(start, kind):
    """Whatever the answer is, and whoever could have read it: the server has nothing to report."""
    server = start(kind, "hesitant:app")
    for protocol in ("", "Sec-WebSocket-Protocol: pachinko.json\r\n"):
        writers = []
        for answer in ANSWERS:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                f"GET /door/{answer} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"{protocol}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            writers.append(writer)
        await count(server, len(ANSWERS))
        for number, writer in enumerate(writers):
            if number % 2:
                writer.transport.abort()
            else:
                writer.close()
        await asyncio.to_thread(server.get, "/go")
        await count(server, 0)

    await asyncio.to_thread(server.terminate)
    for word in ("Traceback", "ERROR", "WARNING", "never retrieved", "without sending handshake"):
        assert word not in server.output


async def count(server, connections):
    """Wait until so many connections are there, handshakes included."""
    deadline = time.monotonic() + 60
    while (status := await asyncio.to_thread(server.get, "/status"))["connections"] != connections:
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.02)


async def test_a_storm_of_drops_leaves_nothing(start):
    """Two hundred clients vanish at once; connections, rooms and tasks are back at their start."""
    server = start("websockets-sansio")
    before = await asyncio.to_thread(server.get, "/status")
    clients = [await server.dial(f"/ws/chat/{n % 20}") for n in range(200)]
    there = await asyncio.to_thread(server.get, "/status")

    for client in clients:
        client.transport.abort()

    after = await baseline(server)
    assert (there["connections"], there["rooms"]) == (200, 20)
    assert (after["connections"], after["rooms"]) == (before["connections"], before["rooms"])
