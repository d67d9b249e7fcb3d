"""Several processes: what the pages promise, with real ones and a real Redis."""

import asyncio
import contextlib
import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from redis_server import RedisServer, free_port
from websockets.asyncio.client import connect

from falcon_pachinko import Backend
from falcon_pachinko.backends import open_backend
from falcon_pachinko.backends.settings import Settings

DEADLINE = 40


@pytest.fixture
def workers(root, tmp_path):
    """Run the command of the page, and give the Redis and the address of the app."""
    port, log = free_port(), tmp_path / "log"
    with RedisServer() as redis, log.open("wb") as output:
        command = [sys.executable, "-m", "uvicorn", "--workers", "2", "--port", str(port)]
        process = subprocess.Popen(
            [*command, "several_processes:app"],
            cwd=root / "docs/examples/how_to",
            env={**os.environ, "BACKEND": redis.url},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + DEADLINE
            while log.read_text().count("Application startup complete") < 2:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            socket.create_connection(("127.0.0.1", port), 5).close()
            yield redis, f"ws://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.mark.slow
async def test_a_room_spans_the_workers_of_uvicorn(workers):
    """With members in both workers, all of them hear what one says, once."""
    redis, url = workers
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        deadline = time.monotonic() + DEADLINE
        while redis.ask("PUBSUB", "NUMSUB", "pachinko:c:room:chat:tea")[1] < 2:
            assert time.monotonic() < deadline, f"{len(clients)} clients came to one worker"
            clients.append(await stack.enter_async_context(connect(f"{url}/chat/tea")))
        await clients[0].send(json.dumps({"type": "say", "payload": {"text": "hi"}}))
        heard = [json.loads(await client.recv()) for client in clients]

    assert heard == [{"type": "said", "payload": {"text": "hi"}}] * len(clients)


@pytest.mark.slow
async def test_any_worker_answers_for_all(workers):
    """The page's resource counts the members of both, and sends them all away."""
    redis, url = workers

    async def request(method):
        address = url.replace("ws:", "http:") + "/rooms/tea"
        asked = urllib.request.Request(address, method=method)
        with await asyncio.to_thread(urllib.request.urlopen, asked, timeout=DEADLINE) as answer:
            return json.load(answer)

    async with contextlib.AsyncExitStack() as stack:
        clients = []
        while redis.ask("PUBSUB", "NUMSUB", "pachinko:c:room:chat:tea")[1] < 2:
            assert len(clients) < 200, "all came to one worker"
            clients.append(await stack.enter_async_context(connect(f"{url}/chat/tea")))
        counted = await request("GET")
        closed = await request("DELETE")
        left = await request("GET")
        for each in clients:
            await each.wait_closed()

    assert counted == {"members": len(clients), "of_all": True}
    assert closed == {"closed": len(clients), "of_all": True}
    assert left == {"members": 0, "of_all": True}
    assert {each.close_code for each in clients} == {4003}


def test_the_settings_are_those_of_every_backend(pages):
    """Each has its name and its default in the table."""
    table = pages["docs/how-to/run-several-processes.md"].table("settings")

    assert {name: default for name, default, _ in table} == {
        f"`{name}`": f"`{default:g}`" if isinstance(default, float) else f"`{default}`".lower()
        for name, default in Settings._field_defaults.items()
    }


def test_the_reference_has_every_method_of_a_backend(pages):
    """With its arguments, in the order of the class."""
    table = [row[0] for row in pages["docs/reference/backends.md"].table("Backend")]

    assert table == [
        f"`{name}({', '.join(list(inspect.signature(method).parameters)[1:])})`"
        for name, method in vars(Backend).items()
        if inspect.isfunction(method)
    ]


@pytest.mark.slow
def test_the_suite_runs_as_the_page_shows_it(root):
    """A third party's test file needs nothing else."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    ran = subprocess.run(
        [*command, str(root / "docs/examples/test_backend.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout


def test_every_url_that_is_shown_names_a_backend(pages):
    """As it is written."""
    rows = pages["docs/how-to/run-several-processes.md"].table("urls")
    urls = [url for row in rows for url in re.findall(r"`([a-z+]+://[^`]*\w[^`]*)`", row[0])]

    assert len(urls) == len(rows) + 1
    for url in urls:
        assert open_backend(url).shared
