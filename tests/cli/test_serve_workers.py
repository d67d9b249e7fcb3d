"""`pachinko serve --workers N`: several processes on one port, supervised."""

import contextlib
import json
import os
import re
import signal
import socket
import time
import urllib.request

import pytest
import websockets.exceptions
from websockets.sync.client import connect

DEADLINE = 40

APP = """
import os

import falcon.asgi
from falcon_pachinko import WebSocketResource, handles_message, install


class Who(WebSocketResource):
    async def on_connect(self, req, ws):
        await ws.send_media(os.getpid())
        return True

    @handles_message("die")
    async def die(self, ws):
        os._exit(7)


class Page:
    async def on_get(self, req, resp):
        resp.media = os.getpid()


app = falcon.asgi.App()
install(app)
app.add_websocket_route("/ws", Who)
app.add_route("/", Page())
"""


@pytest.fixture
def project(tmp_path):
    """Give a folder with an app that tells which process serves."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def dial(url):
    return connect(url.replace("http", "ws", 1) + "/ws", open_timeout=DEADLINE)


def processes(url, count, clients):
    """Connect clients until so many processes have served one; give one client of each."""
    found = {}
    deadline = time.monotonic() + DEADLINE
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {len(found)} processes answer"
        client = clients.enter_context(dial(url))
        found.setdefault(json.loads(client.recv(DEADLINE)), client)
    return found


def nobody_listens(url):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) != 0


@pytest.mark.quick
def test_several_processes_serve_one_port(serve):
    """Clients meet both of them, over HTTP and over WebSockets."""
    url = serve("app:app", "--port", "0", "--workers", "2").ready()

    with contextlib.ExitStack() as clients:
        found = processes(url, 2, clients)
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            page = json.load(answer)

    assert page in found


def test_the_banner_says_what_several_processes_mean(serve):
    """How many they are, that they do not reload, and that their rooms are apart."""
    serving = serve("app:app", "--port", "0", "--workers", "2")

    serving.until("processes +2, each has its own rooms; they do not reload")
    serving.until("warning: 2 processes, and no backend that joins them")
    serving.until("install.app, backend=")

    assert serving.output.count("Serving app:app") == 1


def test_one_that_dies_is_started_again(serve):
    """It is said, with its exit code; the other one goes on; then there are two again."""
    serving = serve("app:app", "--port", "0", "--workers", "2")
    url = serving.ready()

    with contextlib.ExitStack() as clients:
        (victim, client), (_, survivor) = processes(url, 2, clients).items()
        client.send('{"type": "die"}')
        serving.until(r"process \d ended by itself, with exit code 7")
        serving.until("it starts again in 0.5 s")
        serving.until(r"Process \d serves again")
        survivor.ping().wait(DEADLINE)
        new = processes(url, 2, clients)

    assert victim not in new


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_all(serve, number):
    """Every client of every process is told when to come back; nobody is left on the port."""
    serving = serve("app:app", "--port", "0", "--workers", "2")
    url = serving.ready()

    with contextlib.ExitStack() as clients:
        both = processes(url, 2, clients)
        serving.signal(number)  # to all of them, as a terminal or systemd does
        reasons = []
        for client in both.values():
            with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                client.recv(DEADLINE)
            reasons.append(str(closed.value.rcvd))
        exit_code = serving.all_gone()

    assert exit_code == 0
    assert all("1012" in each and "the server restarts; retry in" in each for each in reasons)
    assert nobody_listens(url)
    assert "Traceback" not in serving.output


def test_a_second_signal_kills_all(serve, project):
    """Nobody is waited for, whatever they do."""
    busy = "    async def on_disconnect(self, ws, code):\n        __import__('time').sleep(99)\n\n"
    text = APP.replace("class Page", busy + "\nclass Page")
    (project / "app.py").write_text(text)
    serving = serve("app:app", "--port", "0", "--workers", "2", "--json")
    url = json.loads(serving.until('"serving"').string)["url"]

    with contextlib.ExitStack() as clients:
        processes(url, 2, clients)
        serving.process.terminate()
        serving.until('"stopping"')
        serving.process.terminate()
        exit_code = serving.all_gone()

    assert exit_code == 0
    assert nobody_listens(url)


def test_a_supervisor_that_was_killed_leaves_nobody_on_the_port(serve):
    """The processes notice that they are alone, and end."""
    serving = serve("app:app", "--port", "0", "--workers", "2")
    url = serving.ready()
    with contextlib.ExitStack() as clients:
        processes(url, 2, clients)

    serving.process.kill()

    assert serving.all_gone() == -signal.SIGKILL
    assert nobody_listens(url)


def test_an_app_that_does_not_import_is_told_once(serve, project):
    """The user's own line, once, and exit code 1."""
    (project / "app.py").write_text("1 / 0\n")
    serving = serve("app:app", "--port", "0", "--workers", "4")

    assert serving.all_gone() == 1
    assert serving.output.count("ZeroDivisionError") == 1
    assert "importlib" not in serving.output


def test_one_that_cannot_start_again_is_tried_again_and_again(serve, project):
    """Each time after a longer pause, with the reason; the others go on."""
    serving = serve("app:app", "--port", "0", "--workers", "2")
    url = serving.ready()
    with contextlib.ExitStack() as clients:
        pid = next(iter(processes(url, 2, clients)))
        (project / "app.py").write_text("1 / 0\n")
        os.kill(pid, signal.SIGKILL)

        serving.until("exit code -9")
        serving.until(r"process \d ended by itself, with exit code 1: app:app does not import")
        serving.until("it starts again in 1 s")

        (project / "app.py").write_text(APP)
        serving.until(r"Process \d serves again")
        assert len(processes(url, 2, clients)) == 2


def test_machines_are_told_who_died(serve):
    """An event has the number, the pid and the exit code."""
    serving = serve("app:app", "--port", "0", "--workers", "2", "--json")
    started = json.loads(serving.until('"serving"').string)
    with contextlib.ExitStack() as clients:
        pid = next(iter(processes(started["url"], 2, clients)))
        os.kill(pid, signal.SIGKILL)
        ended = json.loads(serving.until('"process_ended"').string)
        again = json.loads(serving.until('"process_started"').string)

    assert started["processes"] == 2
    assert (ended["pid"], ended["exit_code"]) == (pid, -signal.SIGKILL)
    assert again["process"] == ended["process"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--workers", "2", "--reload"], "--reload serves one process, not 2"),
        (["--workers", "0"], "--workers"),
        (["--workers", "many"], "--workers"),
    ],
)
def test_what_makes_no_sense_is_refused(serve, arguments, complaint):
    """Exit code 2, and no traceback."""
    serving = serve("app:app", *arguments)

    assert serving.all_gone() == 2
    assert complaint in serving.output
    assert "Traceback" not in serving.output


def test_a_backend_joins_the_rooms(serve, project):
    """With one, nothing warns."""
    made = """
from falcon_pachinko.backends.memory import MemoryBackend, MemoryHub

pigeons = MemoryBackend(MemoryHub())
pigeons.name = "pigeons"
"""
    text = APP.replace("install(app)", "install(app, backend=pigeons)")
    (project / "app.py").write_text(made + text)
    serving = serve("app:app", "--port", "0", "--workers", "2")
    url = serving.ready()
    with contextlib.ExitStack() as clients:
        processes(url, 2, clients)

    assert re.search("processes +2, joined by pigeons", serving.output)
    assert "warning" not in serving.output
