"""One port and two processes, on a real Redis or NATS: uvicorn's, and `pachinko serve`'s."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from processes import APPS, running
from search_path import search_path
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage

pytestmark = pytest.mark.slow

DEADLINE = 40
APART = "no backend that joins them"

UVICORN = ("uvicorn", "shared:app", "--workers", "2", "--timeout-graceful-shutdown", "2")
PACHINKO = ("pachinko_cli", "serve", "shared:app", "--workers", "2", "--no-reload", "--drain", "0")


@pytest.fixture(params=["redis", "nats"])
def server(request, tmp_path):
    with running(request.param, tmp_path) as server:
        yield server


class Service:
    """A command that serves one port with several processes."""

    def __init__(self, words, folder, backend):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._log = folder / "service.log"
        env = {
            **os.environ,
            "PYTHONPATH": search_path(APPS),
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words, "--port", str(self.port)],
                cwd=folder,
                env=env | ({"BACKEND": backend} if backend else {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that all of its processes can be found, and ended
            )

    @property
    def output(self):
        return self._log.read_text()

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    async def printed(self, what):
        await self.comes_true(lambda: re.search(what, self.output), f"printed {what!r}")

    async def comes_true(self, condition, what):
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"not {what} in {DEADLINE} s:\n{self.output}"
            await asyncio.sleep(0.02)

    def all_gone(self):
        """Whether no process of it is left."""
        if self.process.poll() is None:
            return False
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def serve(tmp_path):
    """Start services; no process of one outlives the test."""
    services = []

    def start(words, backend=None):
        services.append(Service(words, tmp_path, backend))
        return services[-1]

    yield start
    for each in services:
        each.signal(signal.SIGKILL)
        each.process.wait(60)


async def dial(service, name):
    """Connect a client; return it, and the process that took it."""
    deadline = time.monotonic() + DEADLINE
    url = f"ws://127.0.0.1:{service.port}/lounge?room=lounge:tea&name={name}"
    while True:
        assert service.process.poll() is None, service.output
        try:
            client = await connect(url, compression=None)
        except (OSError, InvalidMessage):  # nobody listens yet
            assert time.monotonic() < deadline, service.output
            await asyncio.sleep(0.05)
        else:
            return client, json.loads(await client.recv())["payload"]


async def one_of_each(service, clients):
    """Connect clients until both processes have taken one; return these two, by their names."""
    found = {}
    for number in range(200):
        client, pid = await dial(service, f"guest{number}")
        await clients.enter_async_context(client)
        if pid not in found:
            found[pid] = f"guest{number}", client
        else:
            await client.close()
        if len(found) == 2:
            return found
        await asyncio.sleep(0.02)  # the second process may not be up yet
    raise AssertionError(f"one process took 200 clients:\n{service.output}")


async def hears(client, wanted):
    """Take messages until one is as wanted."""
    async with asyncio.timeout(DEADLINE):
        while not wanted(json.loads(await client.recv())):
            pass


@pytest.mark.parametrize("words", [UVICORN, PACHINKO], ids=["uvicorn", "pachinko"])
async def test_two_processes_on_one_port_are_one_app(server, serve, words):
    """Clients of both see each other and hear each other; SIGTERM ends all, and all who were on."""
    service = serve(words, server.url)
    async with contextlib.AsyncExitStack() as clients:
        found = await one_of_each(service, clients)
        (_, ann), (name, bob) = found.values()
        await hears(ann, lambda message: name in message["payload"].get("joins", ()))
        await bob.send(json.dumps({"type": "say", "payload": "hello"}))
        await hears(ann, lambda message: message == {"type": "said", "payload": "hello"})
        await ann.send(json.dumps({"type": "say", "payload": "there"}))
        await hears(bob, lambda message: message == {"type": "said", "payload": "there"})
        service.process.send_signal(signal.SIGTERM)
        for client in (ann, bob):
            with pytest.raises(ConnectionClosed):
                await hears(client, lambda _: False)
            assert client.close_code == 1012
    await service.comes_true(service.all_gone, "gone")

    assert APART not in service.output
    assert "Traceback" not in service.output


async def test_the_banner_names_the_backend(server, serve):
    """`pachinko serve` says what joins the rooms, and warns of nothing."""
    service = serve(PACHINKO, server.url)
    await service.printed(f"joined by {re.escape(server.url)}; they do not reload")
    async with contextlib.AsyncExitStack() as clients:
        await one_of_each(service, clients)  # all that it has to say at the start is said

    assert "warning" not in service.output


async def test_without_a_backend_there_is_a_warning(serve):
    """`pachinko serve` says that rooms are apart, and what to write."""
    service = serve(PACHINKO)
    await service.printed(f"warning: 2 processes, and {APART}: each has its own rooms")

    await service.printed(r'install\(app, backend="redis://localhost"\)')
