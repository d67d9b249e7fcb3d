"""Every exchange that a page shows is played against the example that it names."""

import asyncio
import contextlib
import re

import falcon
import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.frames import Close

from falcon_pachinko.testing import HandshakeDenied, simulate

DEADLINE = 20  # seconds for a server to start, or a frame to come

BINARY = "(binary) "  # as the client of `python -m websockets` marks such a frame

MSGPACK = "pachinko.msgpack"  # the pages show such frames as JSON

_FRAME = re.compile(r"(?:(\w+) )?([<>]) (.*)")
_CONNECTS = re.compile(
    r"(\w+) connects to (\S+?)(?: offering (\S+?))?(?: with (.+?))?(?:: HTTP (\d+) (.*))?"
)
_ASKS = re.compile(r"([A-Z]+) (/\S*)(?: (.+?))?: HTTP (\d+) (.*)")
_EPOCH = re.compile(r'(?<="epoch":")[0-9a-f]+(?=")')  # random, so the pages call it EPOCH
_CLOSES = re.compile(r"(\w+) closes")
_CLOSED = re.compile(r"(?:Connection|(\w+) is) closed: (.*)")


class Player(contextlib.AsyncExitStack):
    """Does what a transcript says, line by line, and compares what the clients receive."""

    def __init__(self, connect_to, http=None):
        super().__init__()
        self.connect_to, self.http = connect_to, http
        self.clients = {}
        self.epoch = ""

    async def connect(self, name, path, **options):
        path = path.replace("EPOCH", self.epoch)
        self.clients[name] = await self.enter_async_context(self.connect_to(path, **options))

    async def knock(self, line):
        """Connect as a line says, or be denied as it says."""
        name, path, offers, headers, status, body = line.groups()
        options = {}
        if offers:
            options["subprotocols"] = offers.split(",")
        if headers:
            options["headers"] = dict(each.split(": ", 1) for each in headers.split(" and "))
        if status is None:
            await self.connect(name, path, **options)
            return
        with pytest.raises(HandshakeDenied) as denied:
            await self.connect(name, path, **options)
        assert (denied.value.status, denied.value.body.decode()) == (int(status), body)

    async def play(self, text):
        for line in text.splitlines():
            await self.play_line(line)
        for client in self.clients.values():
            await client.expect_nothing()

    async def play_line(self, line):
        if frame := _FRAME.fullmatch(line):
            name, direction, text = frame.groups()
            client = self.clients[name or ""]
            await (self.send if direction == ">" else self.receive)(client, text)
        elif connects := _CONNECTS.fullmatch(line):
            await self.knock(connects)
        elif asks := _ASKS.fullmatch(line):
            await self.ask(*asks.groups())
        elif closes := _CLOSES.fullmatch(line):
            await self.clients.pop(closes[1]).close()
        elif closed := _CLOSED.fullmatch(line):
            await self.see_closed(self.clients.pop(closed[1] or ""), closed[2])
        else:
            pytest.fail(f"a transcript has no such line: {line!r}")

    async def ask(self, method, path, body, status, answer):
        """Make an HTTP request, and see that it is answered as a line says."""
        headers = {"Content-Type": "application/json"}
        answered = await self.http.simulate_request(method, path, body=body, headers=headers)
        assert (answered.status_code, answered.text) == (int(status), answer)

    async def send(self, client, text):
        if client.subprotocol == MSGPACK:
            await client.send_data(msgspec.msgpack.encode(msgspec.json.decode(text)))
        elif text.startswith(BINARY):
            await client.send_data(bytes.fromhex(text.removeprefix(BINARY)))
        else:
            await client.send_text(text)

    async def receive(self, client, text):
        frame = await client.receive()
        if client.subprotocol == MSGPACK:
            frame = msgspec.json.encode(msgspec.msgpack.decode(frame)).decode()
        elif isinstance(frame, bytes):
            frame = f"{BINARY}{frame.hex()}"
        if epoch := _EPOCH.search(frame):
            self.epoch = epoch[0]
            frame = _EPOCH.sub("EPOCH", frame)
        assert frame == text

    async def see_closed(self, client, how):
        with pytest.raises(falcon.WebSocketDisconnected):
            await client.receive()
        assert str(Close(client.close_code, client.close_reason)) == how


async def test_a_transcript_is_what_happens(transcript, load):
    """The clients receive what the page shows, in that order, and nothing else."""
    example, *path_and_offers = transcript.source.split()
    app = load(example).app
    async with simulate(app) as client, Player(client.connect, client.http) as player:
        if path_and_offers:
            path, *offers = path_and_offers
            await player.connect("", path, subprotocols=offers)

        await player.play(transcript.text)


class RealClient:
    """What a transcript needs of a client, on a real socket."""

    subprotocol = None

    def __init__(self, url):
        self.connecting = connect(url)

    async def __aenter__(self):
        self.connection = await self.connecting
        self.send_text, self.close = self.connection.send, self.connection.close
        return self

    async def __aexit__(self, *error):
        await self.connection.close()

    async def receive(self, timeout=DEADLINE):  # noqa: ASYNC109  # as the kit's clients have it
        return await asyncio.wait_for(self.connection.recv(), timeout)

    async def expect_nothing(self):
        with pytest.raises(TimeoutError):
            await self.receive(timeout=0.05)


async def test_the_readmes_server_runs_as_it_stands(tmp_path, pages, uvicorn):
    """Copied from the README to a file and run by uvicorn, it does what the README shows."""
    example, transcript = (block for block in pages["README.md"].blocks if block.marker)
    (tmp_path / "chat.py").write_text(example.text, "utf-8")
    address = uvicorn("chat:app")

    async with Player(lambda path: RealClient(f"ws://{address}{path}")) as player:
        await player.play(transcript.text)
