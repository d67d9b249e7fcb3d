"""Measure falcon_pachinko beside its peers, on this machine, in one run: python benchmarks/run.py

Every figure is the server's own CPU time (or memory), so that another program
which takes the core for a while does not count; and every ratio is made within
one round, so that a machine that is slower for a minute is so for all peers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from load import CASES

HERE = Path(__file__).resolve().parent
INSTALL = f"pip install -r {HERE / 'requirements.txt'}"


class Peer(NamedTuple):
    """A server to measure: its app is apps/NAME_app.py."""

    title: str
    distribution: str  # what to install for it
    modules: tuple[str, ...]  # what that brings
    dialect: str = "json"


BASE = "falcon"
PEERS = {
    "falcon": Peer("bare Falcon", "falcon", ("falcon",)),
    "starlette": Peer("Starlette", "starlette", ("starlette",)),
    "channels": Peer("Django Channels", "channels", ("channels", "django")),
    "socketio": Peer("python-socketio", "python-socketio", ("socketio",), "socket.io"),
    "pachinko": Peer("falcon_pachinko", "msgspec", ("msgspec", "falcon")),
}
SERVER = ("uvicorn", "uvloop", "websockets")
SETTINGS = (
    "--ws=websockets-sansio",
    "--loop=uvloop",
    "--ws-per-message-deflate=false",
    "--ws-ping-interval=3600",  # no heartbeat within the measured time
    "--backlog=4096",
    "--log-level=warning",
    "--no-access-log",
)


@contextlib.contextmanager
def serving(name: str, core: int) -> Iterator[tuple[int, int]]:
    """Run a peer's app under uvicorn, on one core; gives its port and its process's id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", f"{name}_app:app", f"--port={port}", *SETTINGS]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=HERE / "apps",
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            stdout=log,
            stderr=log,
        )
        os.sched_setaffinity(process.pid, {core})
        try:
            if not listens(port, process):
                log.seek(0)
                last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise RuntimeError(f"{name}_app does not start; its last words: {last!r}")
            yield port, process.pid
        finally:
            process.kill()  # there is nothing to save, and a frozen one would not end
            process.wait()


def listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a server takes connections; False if it ends, or takes half a minute."""
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.05)
    return False


def measure(name: str, case: str, seconds: float, cores: tuple[int, int]) -> dict[str, Any]:
    """Put one case on a fresh server of one peer; return what load.py found, or an error."""
    load = [sys.executable, str(HERE / "load.py"), case, f"--core={cores[1]}"]
    load += [f"--seconds={seconds}", f"--dialect={PEERS[name].dialect}"]
    try:
        with serving(name, cores[0]) as (port, pid):
            load += [f"--port={port}", f"--pid={pid}"]
            done = subprocess.run(load, capture_output=True, text=True, timeout=300, check=True)
            return json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        return {"error": error.stderr.strip().rpartition("\n")[2]}
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}


def measure_all(asked: argparse.Namespace, peers: list[str], cores: tuple[int, int]) -> Figures:
    """Go through the cases, round by round; within a case the peers take turns at being first."""
    records = []
    seconds = 0.4 if asked.quick else 1.2
    for number in range(asked.rounds):
        turn = number % len(peers)
        for case in asked.cases:
            for name in peers[turn:] + peers[:turn]:
                found = measure(name, case, seconds, cores)
                records.append({"round": number, "case": case, "peer": name, **found})
                shown = found.get("error") or f"{found['figure']:.1f}"
                progress = (
                    f"round {number + 1}/{asked.rounds}  {CASES[case][0]:24} {name:10} {shown}"
                )
                print(progress, file=sys.stderr)
    return Figures(records)


class Figures:
    """What was measured, by case, peer and round."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records = records

    def of(self, case: str, peer: str, what: str = "figure") -> dict[int, Any]:
        """Return one figure of each round that has it."""
        return {
            each["round"]: each[what]
            for each in self.records
            if (each["case"], each["peer"]) == (case, peer) and what in each
        }

    def ratio(self, above: tuple[str, str], below: tuple[str, str]) -> str:
        """Write the median of the rounds' ratios of one case and peer to another."""
        over, under = self.of(*above), self.of(*below)
        ratios = [over[number] / under[number] for number in under if number in over]
        return f"{median(ratios):.2f}" if ratios else "-"

    def limited(self, case: str, peer: str) -> bool:
        """Whether the client was too busy to be sure that it did not limit the server."""
        return median(self.of(case, peer, "client_busy").values()) > 0.9

    def cell(self, case: str, peer: str) -> str:
        """Write what a case costs a peer."""
        values = sorted(self.of(case, peer).values())
        if not values:
            return "failed"
        if case == "stalled":
            if values[0] < 100:
                return f"**frozen** at {values[0]:.0f} %"
            slowest = max(self.of(case, peer, "slowest_s").values())
            grown = median(self.of(case, peer, "grown_mib").values())
            return f"all; {slowest:.2f} s, {grown:+.1f} MiB"
        ratio = "" if peer == BASE else f"**{self.ratio((case, BASE), (case, peer))}** · "
        mark = " †" if self.limited(case, peer) else ""
        return f"{ratio}{median(values):.1f} ({values[0]:.1f}-{values[-1]:.1f}){mark}"


LEGEND = """
Server CPU a message, a delivery or a dropped connection, or memory a connection: **how many
times cheaper than bare Falcon** (the median of the rounds' ratios) · median (lowest-highest).
One of 26 reads nothing: did the others get all; their longest wait, what the server grew by.
† The client was busy over 90 % of the time, and may have limited the server."""


def report(figures: Figures, peers: list[str], cases: list[str], about: dict[str, Any]) -> str:
    """Write a markdown table, a case a line, and what has to be known beside it."""
    rows = [["", *(PEERS[name].title for name in peers)], ["---"] * (len(peers) + 1)]
    rows += [[CASES[case][0], *(figures.cell(case, name) for name in peers)] for case in cases]
    if {"drop1k", "drop10k"} <= set(cases):
        growth = (figures.ratio(("drop10k", name), ("drop1k", name)) for name in peers)
        rows.append(["drop, 10 000 rooms : 1000", *growth])
    lines = [f"| {' | '.join(row)} |" for row in rows] + [LEGEND]
    failed = [each for each in figures.records if "error" in each]
    lines += [f"{each['case']}, {each['peer']} failed: {each['error']}" for each in failed]
    for name, lacks in about["missing"].items():
        install = f"pip install {PEERS[name].distribution}"
        lines.append(f"{PEERS[name].title} is missing ({', '.join(lacks)}): {install}")
    used = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines += ["", f"{about['date']}, {about['rounds']} rounds, {about['cores']} cores; {used}."]
    shares = [
        each["server_busy"]
        for each in figures.records
        if each.get("count") and each["case"] == "echo64x16"
    ]
    if shares:
        share = f"{median(shares):.0%}"
        lines.append(f"In echo 64 x 16 the servers had {share} of their core (near 100 %: quiet).")
    return "\n".join(lines)


def missing(modules: tuple[str, ...]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="short rounds, two at most")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    asked = parser.parse_args()
    asked.rounds = max(min(asked.rounds, 2) if asked.quick else asked.rounds, 1)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        sys.exit("This needs Linux and two cores: one for the server, one for the client.")
    if lacking := missing(SERVER):
        sys.exit(f"All peers run on uvicorn; not installed: {', '.join(lacking)}\n{INSTALL}")
    absent = {name: lacks for name in asked.peers if (lacks := missing(PEERS[name].modules))}
    peers = [name for name in asked.peers if name not in absent]
    if not peers:
        sys.exit(f"None of these peers is installed.\n{INSTALL}")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # a socket a connection, each side
    distributions = dict.fromkeys([*SERVER, *(PEERS[name].distribution for name in peers)])
    used = {name: importlib.metadata.version(name) for name in distributions}
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "rounds": asked.rounds,
        "cores": len(cores),
        "versions": {"python": platform.python_version(), **used},
        "missing": absent,
    }
    figures = measure_all(asked, peers, (cores[0], cores[-1]))
    print(report(figures, peers, asked.cases, about))
    if asked.json:
        asked.json.write_text(json.dumps({"about": about, "records": figures.records}, indent=1))


if __name__ == "__main__":
    main()
