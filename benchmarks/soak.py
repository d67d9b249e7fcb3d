"""Wear an application out, and see that nothing stays: python benchmarks/soak.py

Clients of every kind come, talk, stall and go, in every way there is, to one process
without a backend and to two that share a Redis, which is cut, stopped and killed in
between. After each round everything is awaited that a server may still have to do;
then what it holds is counted: connections, rooms, tasks, descriptors, threads, entries of
tables, objects of connections, keys and channels of the Redis. All of it must be what it was
after the first round, and memory must not grow in the last three fifths of the run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException

APPS = Path(__file__).parent / "apps"

AT_ONCE = 24
"""Clients of one setting at a time."""
PATIENCE = 60.0
"""Seconds that a server has to come back to where it was, on a machine that is busy."""
GROWTH = 1_500_000
"""Bytes that memory may seem to grow by in the last part; allocators keep some of what they had."""
SETTLED = ("connections", "rooms", "users", "outbox_bytes", "tasks", "threads", "descriptors")
"""What must be exactly what it was; so must be the objects of connections."""
TABLES = 40
"""Entries that tables may differ by: counters get a key for each code and type that they meet."""
WORST = (
    "never awaited", "was destroyed but it is pending", "never retrieved",
    "AssertionError", "AttributeError", "TypeError", "Unhandled exception",
)  # fmt: skip
"""What no log may have: the handlers of the application raise nothing that is not meant."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Redis:
    """A Redis server of its own, that can be cut, stopped and killed."""

    def __init__(self) -> None:
        self.port = free_port()
        # Short times, so that what ends by itself has ended soon after a round.
        self.url = f"redis://127.0.0.1:{self.port}/0?ttl=3&probe=0.5&timeout=1.5"
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", tempfile.gettempdir()]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        raise TimeoutError("the redis-server does not listen")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, *words: str) -> Any:
        with redis.Redis(port=self.port, protocol=2) as client:
            return client.execute_command(*words)

    def held(self) -> dict[str, Any]:
        """Count its keys and its channels; a key that ends by itself is not one."""
        keys = [key for key in self.ask("KEYS", "*") if self.ask("TTL", key) == -1]
        return {"keys": len(keys), "channels": len(self.ask("PUBSUB", "CHANNELS"))}

    async def disturb(self, chance: random.Random) -> None:
        """Take it away for a moment, in one of four ways."""
        match chance.randrange(4):
            case 0:
                await asyncio.to_thread(self.ask, "CLIENT", "KILL", "TYPE", "pubsub")
            case 1:
                await asyncio.to_thread(self.ask, "CLIENT", "KILL", "TYPE", "normal")
            case 2:
                self._process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(0.5, 4))
                self._process.send_signal(signal.SIGCONT)
            case _:
                await asyncio.to_thread(self.kill)
                await asyncio.sleep(chance.uniform(0, 2))
                await asyncio.to_thread(self.start)


class Server:
    """One process of the application."""

    def __init__(self, name: str, folder: Path, backend: str | None) -> None:
        self.name, self.port, self._log = name, free_port(), folder / f"{name}.log"
        command = [sys.executable, "-m", "uvicorn", "soak_app:app", "--app-dir", str(APPS)]
        command += ["--port", str(self.port), "--no-access-log", "--log-level", "warning"]
        environment = {key: value for key, value in os.environ.items() if key != "BACKEND"}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=environment | ({"BACKEND": backend} if backend else {}),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _request(self, method: str, path: str) -> bytes:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(
            urllib.request.Request(url, method=method), timeout=60
        ) as answer:
            return bytes(answer.read())

    async def facts(self) -> dict[str, Any]:
        return dict(json.loads(await asyncio.to_thread(self._request, "GET", "/facts")))

    async def send_away(self, user: str) -> None:
        await asyncio.to_thread(self._request, "DELETE", f"/users/{user}")

    async def is_up(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ChildProcessError(self.log)
            try:
                await self.facts()
            except urllib.error.HTTPError:
                raise RuntimeError(self.log) from None
            except OSError:
                await asyncio.sleep(0.1)
            else:
                return
        raise TimeoutError(self.log)


class Crowd:
    """The clients of one setting: some places, and one client after the other on each."""

    def __init__(self, servers: list[Server], chance: random.Random) -> None:
        self.servers, self.chance = servers, chance
        self.seen: Counter[str] = Counter()
        """What happened: a run in which nothing did is not a clean one."""
        self.names = itertools.count()

    async def come(self, until: float) -> None:
        """Have clients come and go for a while; when this returns, all of them are gone."""
        await asyncio.gather(*(Place(self).fill(until) for _ in range(AT_ONCE)))


class Place:
    """One client at a time: what it does, and how it goes."""

    def __init__(self, crowd: Crowd) -> None:
        self.servers, self.chance, self.seen = crowd.servers, crowd.chance, crowd.seen
        self._names = crowd.names
        self._open: list[ClientConnection] = []

    async def fill(self, until: float) -> None:
        lives = (
            self.talks, self.works, self.works_beside, self.does_not_read,
            self.is_present, self.comes_back, self.stands_at_the_door, self.talks_nonsense,
            self.expires,
        )  # fmt: skip
        while time.monotonic() < until:
            live = self.chance.choice(lives)
            self.seen[live.__name__] += 1
            with contextlib.suppress(WebSocketException, OSError, TimeoutError):
                await live()
            for ws in self._open:
                await self._vanish(ws)
            self._open.clear()

    def _new(self, kind: str) -> str:
        """Name a room, most often a new one: what is kept for a name would add up."""
        if self.chance.random() < 0.3:
            return f"{kind}:square"
        return f"{kind}:{next(self._names)}"

    async def _connect(self, room: str, **query: object) -> ClientConnection:
        port = self.chance.choice(self.servers).port
        text = "&".join(f"{key}={value}" for key, value in query.items())
        url = f"ws://127.0.0.1:{port}/desks/{room}?{text}"
        ws = await connect(url, compression=None, max_queue=None, open_timeout=20, close_timeout=5)
        self._open.append(ws)
        return ws

    async def _say(self, ws: ClientConnection, kind: str, payload: object, **more: object) -> None:
        await ws.send(json.dumps({"type": kind, "payload": payload, **more}))

    async def _goes(self, ws: ClientConnection, user: str | None = None) -> None:
        """End a connection at a random moment, in a random way."""
        await asyncio.sleep(self.chance.choice([0, 0, 0.01, 0.1, 0.24, 0.26, 0.5]))
        ways: list[Callable[[], Awaitable[object]]] = [
            ws.close,
            lambda: ws.close(4100, "enough"),
            lambda: self._vanish(ws),
            lambda: self._say(ws, "leave", 4002),
        ]
        if user is not None:
            ways.append(lambda: self.chance.choice(self.servers).send_away(user))
        await self.chance.choice(ways)()
        await self._listen(ws, self.chance.uniform(0, 3))
        await self._vanish(ws)

    async def _listen(self, ws: ClientConnection, seconds: float) -> list[dict[str, Any]]:
        heard = []
        with contextlib.suppress(WebSocketException, TimeoutError):
            async with asyncio.timeout(seconds):
                async for frame in ws:
                    self.seen["messages"] += 1
                    heard.append(json.loads(frame))
        return heard

    async def _vanish(self, ws: ClientConnection) -> None:
        ws.transport.abort()
        await ws.wait_closed()

    def _user(self) -> str:
        return f"user{next(self._names)}"

    async def talks(self) -> None:
        user = self._user()
        ws = await self._connect(self._new("plain"), name=user)
        for number in range(self.chance.randrange(1, 20)):
            await self._say(ws, self.chance.choice(["say", "say", "hop", "refuse"]), f"t{number}")
            await asyncio.sleep(self.chance.uniform(0, 0.05))
        await self._goes(ws, user)

    async def works(self) -> None:
        user = self._user()
        ws = await self._connect(
            self._new("plain"), name=user, goodbye=self.chance.choice([0, 0, 0.3])
        )
        for number in range(self.chance.randrange(1, 4)):
            seconds = self.chance.choice([0.01, 0.2, 0.25, 0.3, 0.6, 3])
            await self._say(ws, "work", seconds, ref=number)
        await self._goes(ws, user)

    async def works_beside(self) -> None:
        user = self._user()
        ws = await self._connect(
            self._new("plain"), name=user, goodbye=self.chance.choice([0, 0, 0.3])
        )
        for number in range(self.chance.randrange(1, 6)):
            seconds = self.chance.choice([0.01, 0.2, 0.25, 0.3, 0.6, 3])
            await self._say(ws, "beside", seconds, ref=number)
        await self._goes(ws, user)

    async def does_not_read(self) -> None:
        room = self._new("plain")
        ws, other = await self._connect(room), await self._connect(room)
        ws.transport.pause_reading()
        await self._say(other, "flood", self.chance.choice([10, 200, 1000]))
        await self._listen(other, self.chance.uniform(0, 4))
        if self.chance.random() < 0.5:
            ws.transport.resume_reading()
        await self._goes(ws)

    async def is_present(self) -> None:
        room, user = self._new("here"), self._user()
        tabs = [await self._connect(room, name=user) for _ in range(self.chance.randrange(1, 4))]
        for number, ws in enumerate(tabs):
            await self._say(ws, "meta", number)
        await asyncio.gather(*(self._goes(ws, user) for ws in tabs), return_exceptions=True)
        if self.chance.random() < 0.5:  # a reload
            await self._goes(await self._connect(room, name=user), user)

    async def comes_back(self) -> None:
        room, position = self._new("kept"), {}
        for _ in range(self.chance.randrange(1, 4)):
            ws = await self._connect(room, **position)
            for number in range(self.chance.randrange(5)):
                await self._say(ws, "say", f"k{number}")
            for message in await self._listen(ws, self.chance.uniform(0, 1)):
                place = message.get("history", {})
                position = {key: place[key] for key in ("epoch", "offset") if key in place}
            await self._goes(ws)

    async def stands_at_the_door(self) -> None:
        way = self.chance.choice(["denied", "broken", "closed", "slow", "slow"])
        room, door = self._new("plain"), self.chance.choice([0, 0.1, 0.3, 1.5])
        coming = asyncio.ensure_future(self._connect(room, way=way, door=door))
        done, _ = await asyncio.wait([coming], timeout=self.chance.choice([0.05, 0.2, 10]))
        if not done:
            coming.cancel()
            await asyncio.wait([coming])
        elif coming.exception() is None:
            await self._goes(coming.result())
        elif not isinstance(coming.exception(), InvalidHandshake):
            self.seen[f"handshake: {type(coming.exception()).__name__}"] += 1

    async def talks_nonsense(self) -> None:
        ws = await self._connect(self._new("plain"))
        frames = [
            "{",
            b"\x00\x01",
            '{"type": "nothing"}',
            '{"type": "work", "payload": "x"}',
            "x" * 70_000,
        ]
        for frame in self.chance.sample(frames, self.chance.randrange(1, len(frames))):
            await ws.send(frame)
        await self._goes(ws)

    async def expires(self) -> None:
        user = self._user()
        ws = await self._connect(self._new("plain"), name=user, expires=self.chance.uniform(0.1, 1))
        await self._say(
            ws, self.chance.choice(["work", "beside"]), self.chance.choice([0.1, 0.5, 2])
        )
        await self._listen(ws, 2)
        await self._goes(ws)


class Setting:
    """Some processes and their crowd, and what they held after each round."""

    def __init__(self, name: str, folder: Path, count: int, chance: random.Random) -> None:
        self.name = name
        self.redis = Redis() if count > 1 else None
        backend = self.redis.url if self.redis else None
        self.servers = [Server(f"{name}{number}", folder, backend) for number in range(count)]
        self.crowd = Crowd(self.servers, chance)
        self.rounds: list[list[dict[str, Any]]] = []
        self._chance, self._patience = chance, PATIENCE

    async def round(self, seconds: float) -> None:
        """Have the crowd come and go, with cuts in between, and count once all is quiet."""
        until = time.monotonic() + seconds
        coming = asyncio.ensure_future(self.crowd.come(until))
        if self.redis is not None:
            await asyncio.sleep(self._chance.uniform(0, seconds / 2))
            await self.redis.disturb(self._chance)
        await coming
        self.rounds.append(await self._quiet())
        for server, held in zip(self.servers, self.rounds[-1], strict=True):
            print(f"{time.strftime('%H:%M:%S')} {server.name}", json.dumps(held), flush=True)

    async def _held(self) -> list[dict[str, Any]]:
        held = list(await asyncio.gather(*(server.facts() for server in self.servers)))
        if self.redis is not None:
            held[0] |= await asyncio.to_thread(self.redis.held)
        return held

    async def _quiet(self) -> list[dict[str, Any]]:
        """Wait until all is as after the first round (or, then, changes no more); what it is."""
        deadline, before = time.monotonic() + self._patience, await self._held()
        while time.monotonic() < deadline:
            await asyncio.sleep(0.5 if self.rounds else 3)
            held = await self._held()
            if not list(self.faults(self.rounds[0] if self.rounds else before, held)):
                return held
            before = held
        self._patience = 5  # what is left is there for good
        return before

    def faults(self, first: list[dict[str, Any]], last: list[dict[str, Any]]) -> list[str]:
        """Compare what was held at two times; what is not back, in words."""
        found = []
        for server, then, now in zip(self.servers, first, last, strict=True):
            exact = [*SETTLED, "backend", *(key for key in ("keys", "channels") if key in then)]
            found += [
                f"{server.name}: {key} {then[key]} -> {now[key]}"
                for key in exact
                if then[key] != now[key]
            ]
            if now["connections"] or now["objects"]:
                found.append(f"{server.name}: {now['objects']} objects of connections")
            if now["overfull"]:
                found.append(f"{server.name}: {now['overfull']} memories are over their bounds")
            if abs(now["tables"] - then["tables"]) > TABLES:
                found.append(f"{server.name}: tables {then['tables']} -> {now['tables']}")
        return found

    def verdict(self, *, with_memory: bool) -> list[str]:
        """Return what stayed behind, or grew, or was logged."""
        found = self.faults(self.rounds[0], self.rounds[-1])
        for number, server in enumerate(self.servers):
            found += [
                f"{server.name}: the log has {words!r}" for words in WORST if words in server.log
            ]
            memory = [each[number]["memory"] for each in self.rounds][2 * len(self.rounds) // 5 :]
            third = max(1, len(memory) // 3)
            growth = median(memory[-third:]) - median(memory[:third])
            if with_memory and growth > GROWTH:
                found.append(
                    f"{server.name}: memory grew by {growth / 1e6:.1f} MB in the last part"
                )
        if not self.crowd.seen["messages"]:
            found.append(f"{self.name}: no client heard a message")
        return found

    async def stop(self) -> None:
        for server in self.servers:
            server.process.terminate()
        for server in self.servers:
            try:
                await asyncio.to_thread(server.process.wait, PATIENCE)
            except subprocess.TimeoutExpired:
                server.process.kill()
        if self.redis is not None:
            self.redis.kill()


async def soak(seconds: float, seed: int) -> list[str]:
    """Run both settings for so long; what is wrong, in words."""
    rounds = max(4, min(40, round(seconds / 12)))
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            Setting(name, Path(folder), count, random.Random(f"{seed} {name}"))
            for name, count in (("one", 1), ("two", 2))
        ]
        try:
            for setting in settings:
                await asyncio.gather(*(server.is_up() for server in setting.servers))
            for _ in range(rounds):
                each = seconds / rounds * 2 / 3  # the last third is for becoming quiet
                await asyncio.gather(*(setting.round(each) for setting in settings))
        finally:
            for setting in settings:
                await setting.stop()
        for setting in settings:
            print(setting.name, dict(setting.crowd.seen))
        return [
            fault for setting in settings for fault in setting.verdict(with_memory=seconds >= 600)
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1500, help="how long in all [1500]")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    if shutil.which("redis-server") is None:
        print("soak.py needs a redis-server: apt-get install redis-server", file=sys.stderr)
        return 2
    print(f"seed {options.seed}, {options.seconds:.0f} s")
    found = asyncio.run(soak(options.seconds, options.seed))
    print(*found or ["all is as it was"], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
