"""Real servers in subprocesses on free ports, and clients that misbehave."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from asgi_servers import SERVERS, UVICORN
from websockets.asyncio.client import connect

APPS = Path(__file__).parent / "apps"


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    """Say which command runs what is not on the default server; asgi_servers tells the rule."""
    for item in items:
        if item.get_closest_marker("other_server"):
            everywhere = item.get_closest_marker("every_server")
            item.add_marker("slow" if everywhere else "exhaustive")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One server process, and what it has printed."""

    def __init__(self, kind: str, app: str, log: Path, options: tuple[str, ...]) -> None:
        self.kind, self.port, self._log = kind, free_port(), log
        self._clients = []
        if kind == "hypercorn":
            command = ["hypercorn", "--bind", f"127.0.0.1:{self.port}", *options, app]
        elif kind == "granian":
            command = ["granian", "--interface", "asgi", "--port", str(self.port), *options, app]
        elif kind == "daphne":
            command = ["daphne", "-p", str(self.port), *options, app]
        else:
            command = ["uvicorn", app, "--ws", kind, "--port", str(self.port), "--no-access-log"]
            command += ["--ws-per-message-deflate", "false", *options]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=APPS,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Hypercorn serves in a child, which goes with the group
            )

    @property
    def output(self) -> str:
        """All it has printed so far."""
        return self._log.read_text()

    def url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def connect(self, path: str, **options):
        return connect(self.url(path), compression=None, **options)

    async def dial(self, path: str, **options):
        """Connect a client that is gone after the test, whatever the test does with it."""
        client = await self.connect(path, **options)
        self._clients.append(client)
        return client

    def get(self, path: str):
        """GET a JSON document."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)

    def wait_until_up(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"no listener after {seconds} s:\n{self.output}")

    async def printed(self, line: str, seconds: float = 60) -> int:
        """Wait until it has printed a line; return how often it stands there then."""
        deadline = time.monotonic() + seconds
        while line not in self.output.splitlines():
            assert time.monotonic() < deadline, f"no {line!r} within {seconds} s:\n{self.output}"
            await asyncio.sleep(0.02)
        return self.output.splitlines().count(line)

    def terminate(self, seconds: float = 60) -> float:
        """Send SIGTERM and wait; return how many seconds it took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(seconds)
        return time.monotonic() - began

    async def stop(self) -> None:
        for client in self._clients:
            client.transport.abort()
            await client.wait_closed()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@pytest.fixture
async def start(tmp_path):
    """Start servers of any kind; they are gone after the test."""
    servers = []

    def start_one(kind: str, app: str = "seed_chat:app", *options: str) -> Server:
        server = Server(kind, app, tmp_path / f"server{len(servers)}.log", options)
        servers.append(server)
        server.wait_until_up()
        return server

    yield start_one
    for server in servers:
        await server.stop()


@pytest.fixture(params=SERVERS)
async def server(request, start):
    """The seed's chat, under every server."""
    return start(request.param)


@pytest.fixture(params=UVICORN)
async def uvicorn(request, start):
    """The seed's chat, under uvicorn's three back ends."""
    return start(request.param)


class Deaf:
    """A client that completes the handshake and never reads again."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket",
            "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "",
        )  # fmt: skip
        self.socket.sendall("\r\n".join(lines).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.socket.recv(1)
        assert b" 101 " in answer, answer

    def is_cut(self) -> bool:
        """Whether the server has ended the connection; takes what has come before."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def deaf():
    """Make clients that never read."""
    clients = []

    def make(port: int, path: str) -> Deaf:
        clients.append(Deaf(port, path))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def reset():
    """End a client's TCP connection with a reset instead of a close."""

    def send_reset(client) -> None:
        sock = client.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.transport.abort()

    return send_reset
