"""Put one load on one WebSocket server, and print what it cost as one line of JSON.

run.py starts this program beside each server, on a core of its own. It speaks
the protocol by hand, over plain sockets and one epoll: every frame is built
once, so that the client costs less than any server it measures. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

PING = {"n": 1, "text": "abcdefghijklmnopqrst"}
ROOM = "r00000"
TEXT = 0x81  # the first byte of an unfragmented text frame
BUFFER = memoryview(bytearray(262_144))  # what all reads go through
PATIENCE = 8.0  # seconds without a single frame after which a server counts as frozen


class LoadError(Exception):
    """The server did something that makes the measurement worthless."""


class FrozenError(LoadError):
    """Frames that were due did not come."""


def frame(text: str) -> bytes:
    """Build a client's text frame; its mask is zero, which a server applies like any other."""
    data = text.encode()
    size = len(data)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([TEXT]) + length + bytes(4) + data


class Dialect(NamedTuple):
    """How a peer writes its messages, and what a connection begins with."""

    path: str
    write: Callable[[str, Any], str]
    read: Callable[[str], Any]
    greeting: str | None = None  # sent after the server's first frame; answered by one

    def frame(self, message_type: str, payload: Any) -> bytes:
        """Build the frame of one message."""
        return frame(self.write(message_type, payload))


DIALECTS = {
    "json": Dialect(
        path="/ws",
        write=lambda kind, payload: json.dumps({"type": kind, "payload": payload}),
        read=lambda text: json.loads(text)["payload"],
    ),
    "socket.io": Dialect(
        path="/socket.io/?EIO=4&transport=websocket",
        write=lambda kind, payload: "42" + json.dumps([kind, payload]),
        read=lambda text: json.loads(text[2:])[1],
        greeting="40",
    ),
}


class Client:
    """One connection, that counts the frames it gets."""

    __slots__ = ("latest", "send", "socket", "unfinished")

    def __init__(self, port: int, receive_buffer: int | None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(PATIENCE)
        self.send = self.socket.sendall
        self.unfinished = b""
        self.latest = b""  # the payload of the frame that came last

    def ask_upgrade(self, path: str) -> None:
        """Send the handshake."""
        self.send(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    def finish_upgrade(self, greeting: str | None) -> None:
        """Wait for the handshake's answer, and greet where the dialect wants it."""
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := self.socket.recv(65_536)):
                raise LoadError("the server hung up within the handshake")
            head += data
        if not head.startswith(b"HTTP/1.1 101"):
            raise LoadError(f"no WebSocket: {head[:60]!r}")
        self.unfinished = head.partition(b"\r\n\r\n")[2]
        if greeting is not None:
            self.next()
            self.send(frame(greeting))
            self.next()

    def receive(self, mark: bytes = b"") -> int:
        """Read what is there, and return how many frames that completes; the last has the mark."""
        size = self.socket.recv_into(BUFFER)
        if not size:
            raise LoadError("the server hung up")
        data = BUFFER[:size].tobytes()
        count = self._count(self.unfinished + data if self.unfinished else data)
        if count and mark not in self.latest:
            raise LoadError(f"no {mark.decode()}: {self.latest[:80]!r}")
        return count

    def next(self) -> str:
        """Wait for one frame, with nothing else in flight, and return its text."""
        pending, self.unfinished = self.unfinished, b""
        got = self._count(pending) if pending else 0
        while not got:
            got = self.receive()
        return self.latest.decode()

    def _count(self, data: bytes) -> int:
        count = at = begin = 0
        end = len(data)
        while end - at >= 4:
            size, head = data[at + 1], at + 2
            if data[at] != TEXT or size > 126:
                raise LoadError(f"not a text frame of a reply's size: {data[at : at + 40]!r}")
            if size == 126:
                size, head = (data[at + 2] << 8) + data[at + 3], at + 4
            if head + size > end:
                break
            count, begin, at = count + 1, head, head + size
        if count:
            self.latest = data[begin:at]
        self.unfinished = data[at:]
        return count


class Crowd:
    """All connections to one server, be it one process or several, and the loop that reads them."""

    def __init__(
        self, ports: Sequence[int], pids: Sequence[int], dialect: Dialect, seconds: float
    ) -> None:
        self.ports, self.pids, self.dialect = ports, pids, dialect
        self.seconds = seconds  # how long to go on with what has no end of its own
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}

    def open(self, count: int, receive_buffer: int | None = None) -> list[Client]:
        """Open connections, some at a time: the accept queue is finite."""
        opened: list[Client] = []
        while len(opened) < count:
            batch = [
                Client(self.ports[number % len(self.ports)], receive_buffer)
                for number in range(len(opened), min(len(opened) + 100, count))
            ]
            for client in batch:
                client.ask_upgrade(self.dialect.path)
            for client in batch:
                client.finish_upgrade(self.dialect.greeting)
                self._clients[client.socket.fileno()] = client
                self._epoll.register(client.socket, select.EPOLLIN)
            opened += batch
        return opened

    def ignore(self, client: Client) -> None:
        """Never read what that client gets from now on."""
        self._epoll.unregister(client.socket)

    def ready(self) -> list[Client]:
        """Wait for clients that have something to read."""
        events = self._epoll.poll(PATIENCE)
        if not events:
            raise FrozenError(f"nothing came for {PATIENCE:g} s")
        return [self._clients[number] for number, _ in events]

    def gather(self, frames: int, mark: bytes) -> None:
        """Read until that many frames came altogether."""
        while frames > 0:
            for client in self.ready():
                frames -= client.receive(mark)
        if frames:
            raise LoadError(f"{-frames} frames too many")

    def join(self, client: Client, *rooms: str) -> None:
        """Have a client join rooms."""
        client.send(b"".join(self.dialect.frame("join", {"room": room}) for room in rooms))
        self.gather(len(rooms), b"joined")

    @contextlib.contextmanager
    def metered(self) -> Iterator[dict[str, float]]:
        """Meter a block: the server's CPU seconds, and how busy both sides were."""
        cost: dict[str, float] = {}
        wall, own, server = time.perf_counter(), time.process_time(), self.cpu_seconds()
        yield cost
        cost["cpu_s"] = self.cpu_seconds() - server
        cost["wall_s"] = time.perf_counter() - wall
        cost["client_busy"] = (time.process_time() - own) / cost["wall_s"]
        cost["server_busy"] = cost["cpu_s"] / cost["wall_s"]

    def settle(self) -> None:
        """Wait until the server has had nothing to do for a tenth of a second."""
        idle, before = 0, self.cpu_seconds()
        while idle < 5:
            time.sleep(0.02)
            now = self.cpu_seconds()
            idle = idle + 1 if now - before < 0.0005 and not any(map(runnable, self.pids)) else 0
            before = now

    def cpu_seconds(self) -> float:
        """Return the CPU time of all of the server's processes."""
        return sum(map(cpu_seconds, self.pids))

    def heap_kib(self) -> int:
        """Return the memory of all of the server's processes, in KiB."""
        return sum(map(heap_kib, self.pids))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a whole process, ended threads included, to the nanosecond.

    Linux makes a clock of any process: the complement of its id, shifted, and
    the kind of clock (2: what the scheduler counts) in the lowest bits.
    """
    return time.clock_gettime((~pid << 3) | 2)


def runnable(pid: int) -> bool:
    """Whether a process runs, or would if it had a core: then it is not idle, only waiting."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "R"


def heap_kib(pid: int) -> int:
    """Return a process's memory that no file backs, in KiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Anonymous:"))


# The cases.  Each returns its figure under the name "figure", and what explains it.


def echo(crowd: Crowd, connections: int, depth: int) -> dict[str, Any]:
    """Keep requests in flight on each connection: a reply triggers the next request."""
    clients = crowd.open(connections)
    request = crowd.dialect.frame("ping", PING)
    requests = [request * count for count in range(depth + 1)]
    for client in clients:
        client.send(requests[depth])

    def keep_going(seconds: float) -> int:
        replies, until = 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            for client in crowd.ready():
                got = client.receive(b"pong")
                replies += got
                client.send(requests[got])
        return replies

    keep_going(crowd.seconds / 4)  # warms up
    with crowd.metered() as cost:
        replies = keep_going(crowd.seconds)
    return {"figure": cost["cpu_s"] / replies * 1e6, "count": replies, **cost}


def broadcast(crowd: Crowd, members: int) -> dict[str, Any]:
    """Have one member of a room say something again and again, once all have the last."""
    clients = crowd.open(members)
    for client in clients:
        crowd.join(client, ROOM)
    said = crowd.dialect.frame("say", {"room": ROOM, "text": "x" * 32})

    def keep_saying(seconds: float) -> int:
        count, until = 0, time.perf_counter() + seconds
        while count < 3 or time.perf_counter() < until:
            clients[0].send(said)
            crowd.gather(members, b"said")
            count += 1
        return count * members

    keep_saying(crowd.seconds / 4)  # warms up
    with crowd.metered() as cost:
        deliveries = keep_saying(crowd.seconds)
    latency = cost["wall_s"] / (deliveries / members)
    return {"figure": cost["cpu_s"] / deliveries * 1e6, "count": deliveries, **cost} | {
        "latency_s": latency
    }


def stalled(crowd: Crowd, members: int, broadcasts: int) -> dict[str, Any]:
    """Broadcast to a room in which one more member never reads: do the others get all?"""
    clients = crowd.open(members)
    for client in clients:
        crowd.join(client, ROOM)
    sleeper = crowd.open(1, receive_buffer=4096)[0]
    crowd.join(sleeper, ROOM)
    crowd.ignore(sleeper)
    said = crowd.dialect.frame("say", {"room": ROOM, "text": "x" * 16_000})
    before = crowd.heap_kib()
    delivered, slowest = 0, 0.0
    with crowd.metered() as cost, contextlib.suppress(FrozenError):
        for _ in range(broadcasts):
            start = time.perf_counter()
            clients[0].send(said)
            crowd.gather(members, b"said")
            delivered, slowest = delivered + 1, max(slowest, time.perf_counter() - start)
    grown = (crowd.heap_kib() - before) / 1024
    cost |= {"slowest_s": slowest, "grown_mib": grown}
    return {"figure": 100 * delivered / broadcasts, **cost}


def drop(crowd: Crowd, leavers: int, rooms: int) -> dict[str, Any]:
    """Reset many connections at once, each in ten rooms, while others keep all rooms alive."""
    names = [f"r{number:05}" for number in range(rooms)]
    keepers = crowd.open(rooms // 100)
    for number, keeper in enumerate(keepers):
        crowd.join(keeper, *names[100 * number : 100 * number + 100])
    leaving = crowd.open(leavers)
    for number, client in enumerate(leaving):
        crowd.join(client, *(names[(10 * number + more) % rooms] for more in range(10)))
    crowd.settle()
    with crowd.metered() as cost:
        for client in leaving:  # a reset: no close frame, no goodbye
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.socket.close()
        crowd.settle()
    keepers[0].send(crowd.dialect.frame("stats", {}))
    counts = crowd.dialect.read(keepers[0].next())
    if counts != (expected := {"connections": len(keepers), "rooms": rooms}):
        raise LoadError(f"{counts} are left, not {expected}")
    return {"figure": cost["cpu_s"] / leavers * 1e6, "count": leavers, **cost}


def idle(crowd: Crowd, connections: int) -> dict[str, Any]:
    """Open connections that say nothing, and see what the server grows by."""
    crowd.open(100)  # what is allocated once is there
    crowd.settle()
    before = crowd.heap_kib()
    with crowd.metered() as cost:
        crowd.open(connections)
        crowd.settle()
    grown = crowd.heap_kib() - before
    return {"figure": grown / connections, "count": connections, **cost}


CASES: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    "echo1x1": ("echo, 1 x 1, µs", partial(echo, connections=1, depth=1)),
    "echo64x1": ("echo, 64 x 1, µs", partial(echo, connections=64, depth=1)),
    "echo64x16": ("echo, 64 x 16, µs", partial(echo, connections=64, depth=16)),
    "broadcast": ("broadcast to 1000, µs", partial(broadcast, members=1000)),
    "stalled": ("one of 26 reads nothing", partial(stalled, members=25, broadcasts=800)),
    "drop1k": ("drop, 1000 rooms, µs", partial(drop, leavers=1000, rooms=1000)),
    "drop10k": ("drop, 10 000 rooms, µs", partial(drop, leavers=1000, rooms=10_000)),
    "idle": ("idle connection, KiB", partial(idle, connections=2000)),
}
"""Each case: its title, with the figure's unit, and what runs it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--port", type=int, required=True, action="append")
    parser.add_argument(
        "--pid", type=int, required=True, action="append", help="the server's process, for each"
    )
    parser.add_argument("--core", type=int, required=True, help="where this program runs")
    parser.add_argument("--dialect", choices=DIALECTS, default="json")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure")
    parser.add_argument("--members", type=int, default=1000, help="of the room, in broadcast")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {asked.core})
    crowd = Crowd(asked.port, asked.pid, DIALECTS[asked.dialect], asked.seconds)
    try:
        more = {"members": asked.members} if asked.case == "broadcast" else {}
        result = CASES[asked.case][1](crowd, **more)
    except (LoadError, OSError) as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
