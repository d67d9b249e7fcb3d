"""Measure a room that spans two processes, beside other libraries: python benchmarks/cluster.py

A room of 1000 members, half of them on each of two server processes, which share a
Redis of their own. What counts is the CPU time of both servers, a delivery.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from run import HERE, Peer, missing, serving

BASE = "pachinko"
PEERS = {
    "channels": Peer("channels_redis", "channels-redis", ("channels", "channels_redis", "django")),
    "socketio": Peer(
        "python-socketio", "python-socketio", ("socketio", "redis"), dialect="socket.io"
    ),
    "litestar": Peer("Litestar", "litestar", ("litestar", "redis")),
    "pachinko": Peer("falcon_pachinko", "redis", ("msgspec", "falcon", "redis")),
}


@contextlib.contextmanager
def redis_server(core: int) -> Iterator[str]:
    """Run a Redis on a free port, on one core; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    os.sched_setaffinity(process.pid, {core})
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def measure(name: str, seconds: float, members: int, cores: tuple[int, int]) -> dict[str, Any]:
    """Measure one peer: two fresh servers, a fresh Redis; return what load.py found."""
    try:
        with contextlib.ExitStack() as stack:
            os.environ["BENCH_REDIS"] = stack.enter_context(redis_server(cores[1]))
            servers = [stack.enter_context(serving(name, cores[0])) for _ in range(2)]
            load = [sys.executable, str(HERE / "load.py"), "broadcast", f"--core={cores[1]}"]
            load += [f"--seconds={seconds}", f"--dialect={PEERS[name].dialect}"]
            load += [f"--members={members}"]
            for port, pid in servers:
                load += [f"--port={port}", f"--pid={pid}"]
            done = subprocess.run(load, capture_output=True, text=True, timeout=300, check=True)
            return json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        return {"error": error.stderr.strip().rpartition("\n")[2]}
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}


def report(rounds: list[dict[str, dict[str, Any]]], peers: list[str]) -> Iterator[str]:
    """Write a markdown table, a peer a line."""
    yield "| | CPU a delivery, µs | ours is cheaper by | deliveries a second | all have it, ms |"
    yield "| --- | --- | --- | --- | --- |"
    for name in peers:
        found = [each[name] for each in rounds if "figure" in each[name]]
        if not found:
            yield f"| {PEERS[name].title} | failed: {rounds[-1][name].get('error')} | | | |"
            continue
        figures = sorted(each["figure"] for each in found)
        pairs = [
            each for each in rounds if "figure" in each[name] and "figure" in each.get(BASE, ())
        ]
        ratios = [each[name]["figure"] / each[BASE]["figure"] for each in pairs]
        cheaper = "" if name == BASE or not ratios else f"**{median(ratios):.1f}**"
        rate = median(each["count"] / each["wall_s"] for each in found)
        latency = median(each["latency_s"] for each in found) * 1000
        spread = f"{median(figures):.1f} ({figures[0]:.1f}-{figures[-1]:.1f})"
        yield f"| {PEERS[name].title} | {spread} | {cheaper} | {rate:.0f} | {latency:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="how long to measure, each time")
    parser.add_argument("--members", type=int, default=1000, help="of the room, on both processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2 or shutil.which("redis-server") is None:
        sys.exit("This needs Linux, two cores, and redis-server.")
    absent = {name: lacks for name in asked.peers if (lacks := missing(PEERS[name].modules))}
    peers = [name for name in asked.peers if name not in absent]
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(asked.rounds):
        turn = number % len(peers)
        rounds.append({})
        for name in peers[turn:] + peers[:turn]:
            found = measure(name, asked.seconds, asked.members, (cores[0], cores[-1]))
            rounds[-1][name] = found
            shown = found.get("error") or f"{found['figure']:.1f}"
            print(f"round {number + 1}/{asked.rounds}  {name:10} {shown}", file=sys.stderr)
    print("\n".join(report(rounds, peers)))
    for name, lacks in absent.items():
        print(f"{PEERS[name].title} is missing ({', '.join(lacks)})")
    used = ["uvicorn", "uvloop", "redis", *(PEERS[name].distribution for name in peers)]
    versions = ", ".join(
        f"{each} {importlib.metadata.version(each)}" for each in dict.fromkeys(used)
    )
    date = time.strftime("%Y-%m-%d")
    python = platform.python_version()
    print(f"\n{date}, {asked.rounds} rounds, {len(cores)} cores; python {python}, {versions}.")
    if asked.json:
        asked.json.write_text(json.dumps(rounds, indent=1))


if __name__ == "__main__":
    main()
