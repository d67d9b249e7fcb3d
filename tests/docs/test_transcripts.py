"""Every exchange that a page shows is played against the example that it names."""

import asyncio
import contextlib
import re
import subprocess
import sys

import falcon
import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.frames import Close

from falcon_pachinko.testing import simulate

DEADLINE = 20  # seconds for a server to start, or a frame to come

BINARY = "(binary) "  # as the client of `python -m websockets` marks such a frame

MSGPACK = "pachinko.msgpack"  # the pages show such frames as JSON

_FRAME = re.compile(r"(?:(\w+) )?([<>]) (.*)")
_CONNECTS = re.compile(r"(\w+) connects to (\S+)")
_CLOSES = re.compile(r"(\w+) closes")
_CLOSED = re.compile(r"Connection closed: (.*)")


class Player(contextlib.AsyncExitStack):
    """Does what a transcript says, line by line, and compares what the clients receive."""

    def __init__(self, connect_to):
        super().__init__()
        self.connect_to = connect_to
        self.clients = {}

    async def connect(self, name, path, **options):
        self.clients[name] = await self.enter_async_context(self.connect_to(path, **options))

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
            await self.connect(*connects.groups())
        elif closes := _CLOSES.fullmatch(line):
            await self.clients.pop(closes[1]).close()
        elif closed := _CLOSED.fullmatch(line):
            await self.see_closed(self.clients.pop(""), closed[1])
        else:
            pytest.fail(f"a transcript has no such line: {line!r}")

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
        assert frame == text

    async def see_closed(self, client, how):
        with pytest.raises(falcon.WebSocketDisconnected):
            await client.receive()
        assert str(Close(client.close_code, client.close_reason)) == how


async def test_a_transcript_is_what_happens(transcript, load):
    """The clients receive what the page shows, in that order, and nothing else."""
    example, *path_and_offers = transcript.source.split()
    async with simulate(load(example).app) as client, Player(client.connect) as player:
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

    async def receive(self, seconds=DEADLINE):
        return await asyncio.wait_for(self.connection.recv(), seconds)

    async def expect_nothing(self):
        with pytest.raises(TimeoutError):
            await self.receive(0.05)


@pytest.fixture
def uvicorn(tmp_path):
    """Start ``uvicorn chat:app`` in a folder where ``chat.py`` is; give the server's address."""
    with contextlib.ExitStack() as stack:

        def start():
            process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "chat:app", "--port", "0"],
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            said = ""
            for line in process.stderr:
                if running := re.search(r"running on http://([\w.:]+)", line):
                    return running[1]
                said += line
            raise AssertionError(said)

        yield start


async def test_the_readmes_server_runs_as_it_stands(tmp_path, pages, uvicorn):
    """Copied from the README to a file and run by uvicorn, it does what the README shows."""
    example, transcript = (block for block in pages["README.md"].blocks if block.marker)
    (tmp_path / "chat.py").write_text(example.text, "utf-8")
    address = uvicorn()

    async with Player(lambda path: RealClient(f"ws://{address}{path}")) as player:
        await player.play(transcript.text)
