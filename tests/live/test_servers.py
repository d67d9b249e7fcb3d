"""What each server lets through is what docs/reference/servers.md says, cell by cell."""

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest
from asgi_servers import ALL
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "servers.md"
COLUMNS = ("websockets-sansio", "websockets", "wsproto", "hypercorn", "granian", "daphne")
FLOOD = 1500  # messages of 8 kB: more than the kernel's buffers (4 MB) and the outbox hold together
EMPTY_CLOSE = b"\x88\x80\0\0\0\0"  # a close frame without a code, masked

pytestmark = [pytest.mark.slow, pytest.mark.every_server, pytest.mark.parametrize("kind", ALL)]


@pytest.fixture
def promised(kind):
    """Give what the page promises of a server: row by row, the cells of its column."""
    table = PAGE.read_text().partition("<!-- table: servers -->\n")[2].partition("\n\n")[0]
    column = COLUMNS.index(kind) + 1
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    promises, asked = {}, ""
    for row in rows:
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", row[0]).replace("`", "")
        if not title.startswith("its "):
            asked = title
        promises[title if title == asked else f"{asked}: {title}"] = row[column]
    return promises


async def end(client):
    """Receive until the server closes; give the code, and whether a reason came."""
    try:
        while True:
            await asyncio.wait_for(client.recv(), 60)
    except ConnectionClosed as closed:
        if closed.rcvd is None:
            return "no close frame", "no"
        return str(closed.rcvd.code), "yes" if closed.rcvd.reason else "no"


async def test_how_handshakes_are_answered(start, kind, promised):
    """With a subprotocol, with a status and what belongs to it, or with a close instead."""
    server = start(kind, "served:app")
    accepted = await server.dial("/guest/plain", subprotocols=["tea.v1"])
    with pytest.raises(InvalidStatus) as denied:
        await server.dial("/guest/stranger")
    readable = await end(await server.dial("/guest/stranger", subprotocols=["pachinko.json"]))
    response = denied.value.response
    whole = response.headers.get("WWW-Authenticate") == "Bearer" and b"Log in" in response.body

    assert promised["agrees on a subprotocol"] == "yes"
    assert accepted.subprotocol == "tea.v1"
    assert str(response.status_code) == promised["status of a denial, such as 401"]
    assert promised["status of a denial, such as 401: its headers and its body"] == (
        "yes" if whole else "no"
    )
    assert readable == (
        promised["close code of a readable denial"],
        promised["close code of a readable denial: its reason"],
    )


async def test_how_a_close_of_the_application_arrives(start, kind, promised):
    """The code always, the reason where the server sends one."""
    server = start(kind, "served:app")
    client = await server.dial("/guest/plain")

    await client.send('{"type": "leave"}')

    asked = "close code of the application"
    assert await end(client) == (promised[asked], promised[f"{asked}: its reason"])


async def test_how_a_close_of_the_client_arrives(start, kind, promised):
    """What ``on_disconnect`` is told of a code, a reason, and of having neither."""
    server = start(kind, "served:app")
    polite, mute, gone = [await server.dial("/guest/plain") for _ in range(3)]
    told = []

    for leave in (
        lambda: polite.close(4100, "done here"),
        lambda: asyncio.to_thread(mute.transport.write, EMPTY_CLOSE),
        lambda: asyncio.to_thread(gone.transport.abort),
    ):
        await leave()
        told.append(await goodbye(server, len(told) + 1))

    asked = "close code of the client, in on_disconnect"
    reason = (
        "'done here'" if promised[f"{asked}: its reason, in ws.close_reason"] == "yes" else "''"
    )
    assert told == [
        f"on_disconnect {promised[asked]} {reason}",
        f"on_disconnect {promised['a client that closes without a code']} ''",
        f"on_disconnect {promised['a client that disconnects without a close frame']} ''",
    ]


async def goodbye(server, number, seconds=60):
    """Wait for so many goodbyes; give the last."""
    async with asyncio.timeout(seconds):
        while True:
            told = [each for each in server.output.splitlines() if each.startswith("on_disc")]
            if len(told) >= number:
                return told[-1]
            await asyncio.sleep(0.02)  # its output is a file


async def test_how_messages_are_ordered(start, kind, promised):
    """Everybody hears each sender in the order in which that one spoke."""
    server = start(kind, "served:app")
    clients = [await server.dial("/guest/plain") for _ in range(5)]

    for number in range(100):
        for sender, client in enumerate(clients):
            await client.send(json.dumps({"type": "say", "payload": 1000 * sender + number}))
    heard = [
        [json.loads(await asyncio.wait_for(client.recv(), 60))["payload"] for _ in range(500)]
        for client in clients
    ]

    assert promised["order of messages"] == "kept"
    for each in heard:
        for sender in range(5):
            assert [n % 1000 for n in each if n // 1000 == sender] == list(range(100))


async def test_what_becomes_of_a_client_that_does_not_read(start, kind, promised, deaf):
    """The others lose nothing; it is closed as too slow, unless the server hides it."""
    server = start(kind, "served:app")
    deaf(server.port, "/guest/deaf")
    client = await server.dial("/guest/plain", max_queue=None)

    await client.send(json.dumps({"type": "flood", "payload": FLOOD}))
    numbers = [json.loads(await asyncio.wait_for(client.recv(), 60)) for _ in range(FLOOD)]

    assert [each["payload"] for each in numbers] == list(range(FLOOD))
    if promised["a client that does not read is closed"] == "yes":
        assert (await goodbye(server, 1)).startswith("on_disconnect 1013")
    else:
        status = await asyncio.to_thread(server.get, "/status")
        assert (status["connections"], status["dropped"]) == (2, {})


async def test_how_a_drain_ends_connections(start, kind, promised):
    """With 1012, and a reason that says when to come back, where the server sends one."""
    server = start(kind, "served:app")
    client = await server.dial("/guest/plain")

    draining = asyncio.create_task(asyncio.to_thread(server.get, "/drain"))
    seen = await end(client)

    asked = "what manager.drain() closes with"
    assert seen == (promised[asked], promised[f"{asked}: its reason, which says when to reconnect"])
    assert await draining == {"closed": 1, "cut": 0}


async def test_what_sigterm_does(start, kind, promised):
    """What the client sees of it, whether its goodbye is said, and whether workers end."""
    server = start(kind, "served:app")
    client = await server.dial("/guest/plain")
    await asyncio.to_thread(server.get, "/status")
    seeing = asyncio.create_task(end(client))

    server.process.send_signal(signal.SIGTERM)
    if promised["what a client sees when the server gets SIGTERM"] == "still open":
        await asyncio.wait([seeing], timeout=1)
        assert not seeing.done()
        client.transport.abort()
        await seeing
    else:
        code, _ = await seeing
        assert code == promised["what a client sees when the server gets SIGTERM"]
    await asyncio.to_thread(server.process.wait, 60)

    runs = promised["on_disconnect after SIGTERM"].startswith("runs")
    lifespan = promised["lifespan: workers, the backend, the shutdown"] == "yes"
    assert ("on_disconnect" in server.output) == runs
    assert ("worker begins" in server.output, "worker ends" in server.output) == (lifespan,) * 2


FATES = {
    "is cancelled after its grace": ["is cancelled", "on_disconnect 1012"],
    "goes on until its client leaves": ["is cancelled", "on_disconnect 1006"],
    "is lost": [],
}
"""What the page says of what runs when SIGTERM comes, and what is then run, in this order."""


@pytest.mark.parametrize("busy", ["serial", "concurrent"])
async def test_what_sigterm_does_to_a_handler_that_runs(start, kind, promised, busy):
    """It has its grace, or what the server gives it; then come the goodbyes."""
    server = start(kind, "served:app", *PATIENCE.get(kind, ()))
    client = await server.dial("/guest/plain")
    await client.send(json.dumps({"type": busy}))
    await server.printed(f"{busy} begins")

    server.process.send_signal(signal.SIGTERM)
    fate = promised["a handler that runs when the server gets SIGTERM"]
    if fate == "goes on until its client leaves":
        assert await no_more_is_printed(server)
        client.transport.abort()
    await asyncio.to_thread(server.process.wait, 60)

    told = [line.removeprefix(f"{busy} ")[:18] for line in story(server)]
    if kind == "granian" and told[-1] == "on_disconnect 1006":
        told[-1] = "on_disconnect 1012"  # it may report its own end first
    assert told == FATES[fate]


async def test_what_sigterm_does_to_an_on_connect_that_runs(start, kind, promised, tmp_path):
    """It is cancelled, or the server waits for it, or it is lost; a client sees what came of it."""
    server = start(kind, "served:app", *PATIENCE.get(kind, ()))
    opening = asyncio.create_task(answer(server, f"/guest/held?until={tmp_path / 'go'}"))
    await server.printed("on_connect begins")

    server.process.send_signal(signal.SIGTERM)
    fate = promised["an on_connect that runs when the server gets SIGTERM"]
    if fate.startswith("goes on"):
        assert await no_more_is_printed(server)
        (tmp_path / "go").touch()
        await server.printed("on_connect finishes")
    seen, client = await opening
    sight = promised["an on_connect that runs when the server gets SIGTERM: its client sees"]
    if sight == "an accept, still open":
        assert await no_more_is_printed(server)
        seen += ", still open"
        client.transport.abort()
    elif client is not None:
        code, _ = await end(client)
        seen += f", {code}"
    await asyncio.to_thread(server.process.wait, 60)

    expected = {
        "is cancelled after its grace": ["on_connect is cancelled"],
        "goes on to its end": ["on_connect finishes", "on_disconnect 1006 ''"],
        "is lost": [],
    }
    told = story(server)
    if kind == "granian" and told[-1].startswith("on_disconnect 1012 "):
        told[-1] = "on_disconnect 1006 ''"  # the app may have closed before it reports its own end
    assert told == expected[fate]
    assert seen == sight


PATIENCE = {"hypercorn": ("--graceful-timeout", "60")}
"""What has a server wait as long on Python 3.11, too."""


async def no_more_is_printed(server, seconds=1.5):
    """Tell whether what runs goes on, for longer than the grace that the app gives."""
    told = story(server)
    await asyncio.sleep(seconds)
    return story(server) == told and server.process.poll() is None


def story(server):
    """Return how what ran has ended, and the goodbyes."""
    ends = (" is cancelled", " finishes")
    lines = server.output.splitlines()
    return [line for line in lines if line.startswith("on_disconnect ") or line.endswith(ends)]


async def answer(server, path):
    """Say what a client sees of a handshake; and give the client, if it is let in."""
    try:
        return "an accept", await server.dial(path)
    except InvalidStatus as denied:
        return f"HTTP {denied.response.status_code}", None
    except (InvalidMessage, ConnectionError):
        return "no answer", None
