"""How what several processes cost grows: python benchmarks/growth.py

Counted are the commands that a Redis gets, the bytes that it gets and sends, and the CPU time of
it and of all processes (which are managers within this one): none of that depends on how busy
the machine is, as times do. Each case is run at several sizes; the exponent says how its cost
grows with the size: 0 not at all, 1 in proportion, 2 with the square.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import redis.asyncio as redis
from cluster import redis_server

from falcon_pachinko import Connection, HistoryLimits, HistoryPosition, WebSocketConnectionManager

AT_ONCE = 200


class Cost(NamedTuple):
    """What something has cost."""

    commands: float
    kilobytes: float
    cpu: float
    """Milliseconds, of Redis and of all processes."""


class Case(NamedTuple):
    """Something whose cost is measured, at several sizes."""

    title: str
    run: Callable[[Measurement, int], Awaitable[Cost]]
    sizes: tuple[int, ...]


class Client:
    """A connection of a manager, whose messages are counted."""

    def __init__(self, manager: WebSocketConnectionManager, name: str, user: str | None) -> None:
        self.types: list[str] = []
        self.connection = Connection(name, self._take, manager, direct=True, is_open=True)
        manager._registry.add(self.connection)  # noqa: SLF001  # what a session does, without one
        if user is not None:
            self.connection.user_id = user

    async def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "websocket.send":
            self.types.append(json.loads(event["text"])["type"])


class Measurement:
    """A Redis, and processes that share it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url, protocol=2)
        self.managers: list[WebSocketConnectionManager] = []

    async def start(self, count: int) -> list[WebSocketConnectionManager]:
        """Start so many processes."""
        await self.client.flushall()
        for _ in range(count):
            manager = WebSocketConnectionManager(backend=f"{self.url}?probe=600&ttl=3600")
            manager.configure_rooms("kept:", history=HistoryLimits())
            await manager.start()
            self.managers.append(manager)
        return self.managers

    async def stop(self) -> None:
        """Stop all of them."""
        for manager in self.managers:
            await manager.stop()
        self.managers.clear()

    async def quiet(self) -> None:
        """Wait until nothing travels any more."""
        before = -1
        while (now := await self._commands()) != before:
            before = now + 1  # asking is one, too
            await asyncio.sleep(0.2)

    async def _commands(self) -> int:
        return int((await self.client.info("stats"))["total_commands_processed"])

    async def _now(self) -> tuple[float, float, float]:
        stats, cpu = await self.client.info("stats"), await self.client.info("cpu")
        size = stats["total_net_input_bytes"] + stats["total_net_output_bytes"]
        spent = cpu["used_cpu_user"] + cpu["used_cpu_sys"] + time.process_time()
        return stats["total_commands_processed"], size / 1000, spent * 1000

    @contextlib.asynccontextmanager
    async def cost_of(self, costs: list[Cost]) -> AsyncIterator[None]:
        """Measure what is done within."""
        await self.quiet()
        before = await self._now()
        yield
        await self.quiet()
        after = await self._now()
        costs.append(Cost(*(now - then for now, then in zip(after, before, strict=True))))

    async def cut(self) -> None:
        """Cut all connections of all processes, and wait until they are back."""
        await self.client.client_kill_filter(_type="pubsub")
        while not all(map(_is_back, self.managers)):  # noqa: ASYNC110  # other tasks do it
            await asyncio.sleep(0.05)


def _is_back(manager: WebSocketConnectionManager) -> bool:
    status = manager.status()
    return bool(status["gaps"]) and status["backend"]["state"] == "up"


async def many(count: int, work: Callable[[int], Awaitable[Any]]) -> None:
    """Do something so many times, some at once."""
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(work(n) for n in range(start, min(count, start + AT_ONCE))))


async def _rooms(measured: Measurement, rooms: int) -> WebSocketConnectionManager:
    """Have one process with so many rooms of one member each, and another one."""
    here, _ = await measured.start(2)

    async def fill(number: int) -> None:
        client = Client(here, f"c{number}", None)
        await here.join_room(client.connection.id, f"room:{number}")

    await many(rooms, fill)
    return here


async def join_beside_rooms(measured: Measurement, rooms: int) -> Cost:
    """One connection joins one more room, a hundred times."""
    here, costs = await _rooms(measured, rooms), []
    client = Client(here, "one", None)
    async with measured.cost_of(costs):
        for number in range(100):
            await here.join_room("one", f"more:{number}")
    assert client.types == []
    return costs[0]


async def send_beside_rooms(measured: Measurement, rooms: int) -> Cost:
    """Somebody elsewhere sends to one room, a hundred times."""
    await _rooms(measured, rooms)
    _, there = measured.managers
    costs: list[Cost] = []
    async with measured.cost_of(costs):
        for number in range(100):
            await there.broadcast_to_room("room:7", {"type": "said", "payload": number})
            await asyncio.sleep(0)
    return costs[0]


async def reconnect_with_rooms(measured: Measurement, rooms: int) -> Cost:
    """All connections are cut, and come back."""
    await _rooms(measured, rooms)
    costs: list[Cost] = []
    async with measured.cost_of(costs):
        await measured.cut()
    return costs[0]


async def reconnect_with_histories(measured: Measurement, rooms: int) -> Cost:
    """The same, where each room has a history, and a member with a position."""
    here, _ = await measured.start(2)

    async def fill(number: int) -> None:
        client = Client(here, f"c{number}", None)
        members = here._members  # noqa: SLF001  # what `ws.join_room(since=...)` does, without one
        await members.join(client.connection, f"kept:{number}", HistoryPosition())
        await here.broadcast_to_room(f"kept:{number}", {"type": "said", "payload": number})

    await many(rooms, fill)
    costs: list[Cost] = []
    async with measured.cost_of(costs):
        await measured.cut()
    return costs[0]


async def send_to_processes(measured: Measurement, processes: int) -> Cost:
    """One process sends to a room with a member on each, a hundred times."""
    managers = await measured.start(processes)
    for number, manager in enumerate(managers):
        Client(manager, f"c{number}", None)
        await manager.join_room(f"c{number}", "all")
    costs: list[Cost] = []
    async with measured.cost_of(costs):
        for number in range(100):
            await managers[0].broadcast_to_room("all", {"type": "said", "payload": number})
            await asyncio.sleep(0)
    return costs[0]


async def reconnect_processes(measured: Measurement, processes: int) -> Cost:
    """All processes are cut at once, and greet each other again."""
    await measured.start(processes)
    costs: list[Cost] = []
    async with measured.cost_of(costs):
        await measured.cut()
    return costs[0]


async def count_processes(measured: Measurement, processes: int) -> Cost:
    """One process counts the connections of all."""
    managers = await measured.start(processes)
    costs: list[Cost] = []
    async with measured.cost_of(costs):
        answer = await managers[0].count(cluster=True)
    assert answer.answered == processes
    return costs[0]


async def track_beside_users(measured: Measurement, users: int) -> Cost:
    """One more user is present in a room with so many, on another process."""
    here, there = await measured.start(2)

    async def fill(number: int) -> None:
        Client(here, f"c{number}", f"u{number}")
        await here.track(f"c{number}", "lobby")

    await many(users, fill)
    Client(there, "first", "first")
    await there.track("first", "lobby")
    Client(there, "one", "one")
    costs: list[Cost] = []
    async with measured.cost_of(costs):
        await there.track("one", "lobby")
    return costs[0]


async def reconnect_with_presence(measured: Measurement, rooms: int) -> Cost:
    """All connections are cut, and come back, with a user present in each of so many rooms."""
    here, _ = await measured.start(2)

    async def fill(number: int) -> None:
        Client(here, f"c{number}", f"u{number}")
        await here.track(f"c{number}", f"lobby:{number}")

    await many(rooms, fill)
    costs: list[Cost] = []
    async with measured.cost_of(costs):
        await measured.cut()
    return costs[0]


CASES = {
    "join": Case("join a room, beside so many (x 100)", join_beside_rooms, (1000, 10_000, 100_000)),
    "send": Case(
        "send to one of so many rooms (x 100)", send_beside_rooms, (1000, 10_000, 100_000)
    ),
    "cut": Case("a cut, with so many rooms", reconnect_with_rooms, (1000, 10_000, 100_000)),
    "histories": Case(
        "a cut, with so many rooms that have a history",
        reconnect_with_histories,
        (200, 2000, 20_000),
    ),
    "processes": Case("send to so many processes (x 100)", send_to_processes, (5, 10, 50)),
    "greet": Case("a cut of so many processes", reconnect_processes, (5, 10, 50)),
    "count": Case("ask so many processes", count_processes, (5, 10, 50)),
    "track": Case("one more user in a room with so many", track_beside_users, (250, 1000, 4000)),
    "presence": Case(
        "a cut, with a user in each of so many rooms", reconnect_with_presence, (250, 1000, 4000)
    ),
}


def exponent(costs: list[float], sizes: tuple[int, ...]) -> str:
    """Say how a cost grows with a size, from the first to the last."""
    if len(sizes) == 1 or min(costs[0], costs[-1]) <= 0:
        return "-"
    return f"{math.log(costs[-1] / costs[0]) / math.log(sizes[-1] / sizes[0]):.2f}"


async def measure(url: str, case: Case, sizes: tuple[int, ...]) -> list[Cost]:
    """Run a case at each of its sizes."""
    costs = []
    for size in sizes:
        measured = Measurement(url)
        try:
            costs.append(await case.run(measured, size))
        finally:
            await measured.stop()
            await measured.client.aclose()
    return costs


def main() -> None:
    """Print a table, in Markdown."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--largest", type=int, default=100_000, help="leave out larger sizes")
    given = parser.parse_args()
    print("| case | sizes | commands | kB | CPU, ms | exponents |")
    print("| --- | --- | --- | --- | --- | --- |")
    with redis_server(0) as url:
        for name in given.cases:
            case = CASES[name]
            sizes = tuple(size for size in case.sizes if size <= given.largest)
            costs = asyncio.run(measure(url, case, sizes))
            columns = list(zip(*costs, strict=True))
            shown = [" · ".join(f"{value:.0f}" for value in column) for column in columns]
            grows = " · ".join(exponent(list(column), sizes) for column in columns)
            print(
                f"| {case.title} | {' · '.join(map(str, sizes))} | {' | '.join(shown)} | {grows} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
