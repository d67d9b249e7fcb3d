"""SIGTERM and kill -9, by what runs at that moment: what is still run, and what the client sees."""

import asyncio
import json
import signal
import sys

import pytest
from asgi_servers import UVICORN
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

BUSY = ["nothing", "serial", "concurrent", "on_connect"]


async def begin(server, busy):
    """Connect a client that has the server busy; give what its end will be."""
    if busy == "on_connect":
        seeing = asyncio.create_task(see_answer(server))
        await server.printed("on_connect begins")
        return seeing
    client = await server.dial("/guest/plain")
    if busy != "nothing":
        await client.send(json.dumps({"type": busy}))
        await server.printed(f"{busy} begins")
    return asyncio.create_task(see_end(client))


async def see_answer(server):
    try:
        await server.dial("/guest/slowly")
    except InvalidStatus as denied:
        return f"HTTP {denied.response.status_code}"
    except (InvalidMessage, ConnectionError):
        return "no answer"


async def see_end(client):
    try:
        while True:
            await asyncio.wait_for(client.recv(), 60)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else "no close frame"


def story(server):
    """Return what was run after the signal."""
    told = (" is cancelled", " finishes")
    lines = server.output.splitlines()
    return [line for line in lines if line.startswith("on_disconnect ") or line.endswith(told)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", UVICORN)
@pytest.mark.parametrize(
    "options", [(), ("--timeout-graceful-shutdown", "2")], ids=["unset", "set"]
)
@pytest.mark.parametrize("busy", BUSY)
async def test_sigterm_gives_handlers_their_grace_and_every_goodbye_its_turn(
    start, kind, options, busy
):
    """The server closes with 1012 first; the app's shutdown waits for handlers and clean-ups."""
    server = start(kind, "served:app", *options)
    seeing = await begin(server, busy)

    await asyncio.to_thread(server.terminate)

    expected = {
        "nothing": ["on_disconnect 1012 ''"],
        "serial": ["serial is cancelled", "on_disconnect 1012 ''"],
        "concurrent": ["concurrent is cancelled", "on_disconnect 1012 ''"],
        "on_connect": ["on_connect is cancelled"],
    }
    assert story(server) == expected[busy]
    assert await seeing == ("HTTP 500" if busy == "on_connect" else 1012)
    assert "worker ends" in server.output


@pytest.mark.slow
@pytest.mark.parametrize("kind", UVICORN)
@pytest.mark.parametrize("busy", ["serial", "concurrent", "on_connect"])
async def test_a_session_that_the_server_cuts_off_is_no_error_in_the_log(start, kind, busy):
    """An end that was meant leaves no traceback, even of a handler that would go on for long."""
    server = start(kind, "served:patient", "--timeout-graceful-shutdown", "1")
    await begin(server, busy)

    await asyncio.to_thread(server.terminate)

    assert f"{busy} is cancelled" in server.output
    for word in ("Traceback", "CancelledError", "never retrieved", "was destroyed", "Exception"):
        assert word not in server.output


@pytest.mark.slow
@pytest.mark.parametrize("busy", ["nothing", "serial", "concurrent"])
async def test_hypercorn_ends_its_clients_in_time_on_python_3_11_alone(start, busy):
    """There, what is left after its `graceful_timeout` has no grace; later Pythons go on."""
    waits = sys.version_info >= (3, 12)
    app = "served:app" if waits else "served:patient"  # has a grace to go by, or one to lose
    server = start("hypercorn", app, "--graceful-timeout", "1")
    client = await server.dial("/guest/plain")
    if busy != "nothing":
        await client.send(json.dumps({"type": busy}))
        await server.printed(f"{busy} begins")
    seeing = asyncio.create_task(see_end(client))

    server.process.send_signal(signal.SIGTERM)
    if waits:
        await asyncio.sleep(2.5)  # it does nothing, and there is no event to wait for
        assert server.process.poll() is None
        assert not seeing.done()
        client.transport.abort()
    await asyncio.to_thread(server.process.wait, 60)

    cancelled = [] if busy == "nothing" else [f"{busy} is cancelled"]
    assert story(server) == [*cancelled, f"on_disconnect {1006 if waits else 1012} ''"]
    assert await seeing == ("no close frame" if waits else 1012)
    assert "worker ends" in server.output


@pytest.mark.parametrize("busy", BUSY)
async def test_kill_9_runs_nothing_more(start, busy):
    """There is nobody left to run it; the client sees its connection break off."""
    server = start("websockets-sansio", "served:app")
    seeing = await begin(server, busy)

    server.process.send_signal(signal.SIGKILL)

    assert await asyncio.wait_for(seeing, 60) in {"no close frame", "no answer"}
    assert story(server) == []
    assert "worker ends" not in server.output
