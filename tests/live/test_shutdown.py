"""SIGTERM while handlers are busy and goodbyes take long: each is done or cut, and then it ends."""

import asyncio
from collections import Counter

import pytest
from asgi_servers import UVICORN

SHORT, LONG = 0.5, 90.0  # seconds that a goodbye takes; the app allows 1.5
SHUTDOWN = 1.5  # the app's shutdown_timeout
EACH = 3


async def crowd(server, seconds):
    """Connect some clients, and keep half of their handlers busy for a minute."""
    busy = [await server.dial(f"/guest/{seconds}") for _ in range(EACH)]
    for client in busy:
        await client.send('{"type": "think", "payload": 60}')
        await asyncio.wait_for(client.recv(), 30)
    for _ in range(EACH):
        await server.dial(f"/guest/{seconds}")


def endings(server):
    """Return how handlers and goodbyes ended, and how many did so."""
    words = ("thought", "interrupted", "goes", "gone", "cut")
    return Counter(line for line in server.output.splitlines() if line in words)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("--timeout-graceful-shutdown", "1")], ids=["unset", "set"]
)
@pytest.mark.parametrize("kind", UVICORN)
async def test_sigterm_lets_short_goodbyes_end_and_cuts_long_ones(start, kind, options):
    """Busy handlers are interrupted, every client's goodbye is heard, and the bound holds."""
    server = start(kind, "long_goodbyes:app", *options)
    await crowd(server, SHORT)
    await crowd(server, LONG)

    seconds = await asyncio.to_thread(server.terminate)

    assert endings(server) == {
        "interrupted": 2 * EACH,
        "goes": 4 * EACH,
        "gone": 2 * EACH,
        "cut": 2 * EACH,
    }
    assert server.output.count("on_disconnect failed for Guest") == 2 * EACH
    assert SHUTDOWN <= seconds < 30


async def test_sigterm_waits_no_longer_than_the_last_goodbye(start):
    """Nobody waits for a timeout that nothing needs."""
    server = start("websockets-sansio", "long_goodbyes:patient")
    for _ in range(EACH):
        await server.dial(f"/guest/{SHORT}")

    seconds = await asyncio.to_thread(server.terminate)

    assert endings(server) == {"goes": EACH, "gone": EACH}
    assert SHORT <= seconds < 30  # it would be given 60
