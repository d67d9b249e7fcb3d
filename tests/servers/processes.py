"""Several processes of one app, on one server of either kind; none of it outlives its ``with``."""

import asyncio
import contextlib
import json
import signal
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from nats_server import NatsServer
from redis_server import RedisServer
from search_path import search_path

from falcon_pachinko.testing import serve

APPS = Path(__file__).parents[1] / "live" / "apps"


@contextlib.contextmanager
def running(kind, folder):
    """Run a server, and give it; ``kind`` is ``redis`` or ``nats``."""
    with RedisServer() if kind == "redis" else NatsServer(folder) as server:
        yield server


def come_back_empty(server):
    """Kill a server and start it again, without anything that it knew."""
    server.kill()
    if isinstance(server, NatsServer):  # a RedisServer is always empty when it starts
        server.wipe()
    server.start()


class Processes:
    """Processes of an app, and clients of them; all are gone after the ``async with``.

    Args:
        app: Where the app is, among ``tests/live/apps``.
        env: More environment variables.
    """

    def __init__(self, app="shared:app", **env):
        self._app, self._env = app, env
        self._started = []
        self._clients = contextlib.AsyncExitStack()

    async def __aenter__(self):
        return self

    async def __aexit__(self, kind, *exc):
        for each in self._started:
            if each.process.poll() is None:
                each.process.send_signal(signal.SIGCONT)
                if kind is not None:
                    each.process.kill()
        await self._clients.aclose()
        await asyncio.gather(*(each.stop() for each in self._started))

    async def start(self, *backends, **env):
        """Start a process for each backend's URL, all at once."""

        async def one(backend):
            own = {"BACKEND": backend, "PYTHONPATH": search_path(APPS), **self._env, **env}
            process = serve(self._app, env=own, timeout=20)
            self._started.append(await process.__aenter__())
            return process

        return await asyncio.gather(*map(one, backends))

    async def connect(self, process, path, **query):
        """Connect a client to a process, for as long as the test lasts."""
        client = process.connect(f"{path}?{urlencode(query)}")
        return await self._clients.enter_async_context(client)


async def facts(process, **query):
    """GET what a process knows."""

    def get():
        url = f"{process.http_url}/facts?{urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)

    return await asyncio.to_thread(get)


async def until(condition, seconds=60):
    """Ask a coroutine function until it says yes; return how many seconds it took."""
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() < began + seconds, f"not within {seconds} s"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def all_are(state, processes, seconds=60):
    """Wait until the backend of all is in a state."""

    async def so():
        states = {(await facts(each))["backend"]["state"] for each in processes}
        return states == {state}

    return await until(so, seconds)
