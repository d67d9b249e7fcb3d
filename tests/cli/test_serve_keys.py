"""The keys of `pachinko serve`, on a terminal of its own."""

import contextlib
import http.client
import os
import re
import shlex
import signal
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

DEADLINE = 40

APP = """
import falcon.asgi
from falcon_pachinko import WebSocketResource, install


class Echo(WebSocketResource):
    pass


class Page:
    async def on_get(self, req, resp):
        stopped_here = "version 1"
        resp.text = stopped_here


app = falcon.asgi.App()
install(app)
app.add_websocket_route("/ws", Echo)
app.add_route("/", Page())
"""

KEYS = "keys       r restart, o open the page, q quit"


@pytest.fixture
def serving(tmp_path, terminal):
    """Start it on a terminal; give that, and where the page is."""
    (tmp_path / "app.py").write_text(APP)

    def start(*arguments, **variables):
        screen = terminal("serve", "app:app", "--port", "0", *arguments, **variables)
        screen.expect("page       ")
        url = screen.expect("\n").strip()
        screen.expect("Ctrl-C ends it")
        return screen, url

    return start


@contextlib.contextmanager
def asking(url):
    """Send a request, for its answer to be read later."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        yield connection


def get(url):
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        return answer.read().decode()


def test_the_banner_names_the_keys(serving):
    """Each with what it does."""
    screen, _ = serving()

    assert KEYS in screen.raw


@pytest.mark.quick
def test_q_ends_it(serving):
    """Like Ctrl-C: exit code 0, and the terminal as it was."""
    screen, _ = serving()
    before_and_in_it = screen.modes()

    screen.type("q")
    exit_code, _ = screen.end()

    assert exit_code == 0
    assert (before_and_in_it, screen.modes()) == ((False, False), (True, True))


def test_r_restarts_the_app(serving, tmp_path):
    """Without a save; clients are told to come back, and the app is a new process."""
    screen, url = serving()
    with connect(url.replace("http", "ws", 1) + "/ws", open_timeout=DEADLINE) as client:
        screen.type("r")
        screen.expect("Restarting")
        screen.expect("Ready again")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(DEADLINE)

    screen.type("q")
    assert (closed.value.rcvd.code, screen.end()[0]) == (1012, 0)


def test_o_opens_the_page(serving, tmp_path):
    """The browser gets the address of the banner."""
    browser = tmp_path / "browser.sh"
    browser.write_text('#!/bin/sh\necho "opened $1"\n')
    browser.chmod(0o755)
    screen, url = serving(BROWSER=f"{browser} %s")

    screen.type("o")

    screen.expect(f"opened {url}")


def test_other_keys_do_nothing(serving):
    """They are neither shown nor heard."""
    screen, _ = serving()

    screen.type("xyz\x1b[A\x04 ")
    screen.type("r")
    before = screen.expect("Restarting")

    assert not re.search("[xyz]", before.partition("quit")[2].partition("Ctrl-C")[2])


def test_ctrl_c_ends_it_and_restores_the_terminal(serving):
    """A signal, as ever."""
    screen, _ = serving()

    screen.interrupt()

    assert screen.end()[0] == 0
    assert screen.modes() == (True, True)


def test_a_killed_app_leaves_the_keys_as_they_are(serving, until):
    """Its death is told, and `r` starts another."""
    screen, url = serving()
    get(url)  # its supervisor knows by now that the banner was shown
    (child,) = children(screen.process.pid)

    os.kill(child, signal.SIGKILL)
    screen.expect("ended by itself, with exit code -9")
    screen.type("r")
    screen.expect("Ready again")

    assert get(url) == "version 1"


def test_a_killed_supervisor_leaves_a_usable_terminal(serving, terminal, tmp_path, until):
    """The app that it leaves behind puts the terminal right, and ends."""
    pachinko = [sys.executable, "-m", "pachinko_cli", "serve", "app:app", "--port", "0"]
    first, _ = serving()
    shell = type(first)  # a terminal on which something else goes on when the command has died
    script = f"{shlex.join(pachinko)} & echo pid $!; fg"
    with contextlib.closing(
        shell(["bash", "-mc", script], tmp_path, {**os.environ, "TERM": "xterm", "CI": ""})
    ) as screen:
        screen.expect("pid ")
        pid = int(screen.expect("\n"))
        screen.expect("Ctrl-C ends it")
        during = screen.modes()
        (app,) = children(pid)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{app}").exists())

        assert (during, screen.modes()) == ((False, False), (True, True))


def test_an_app_that_does_not_import_is_restarted_by_a_key(serving, tmp_path):
    """Keys work while it waits for a save."""
    screen, _ = serving()
    (tmp_path / "app.py").write_text("1 / 0\n")
    screen.expect("Waiting for the next save")

    screen.type("r")
    screen.expect("Restarting")
    screen.expect("Waiting for the next save")
    screen.type("q")

    assert screen.end()[0] == 0


@pytest.mark.parametrize("ask", ["breakpoint()", "input('name? ')"])
def test_a_breakpoint_has_the_keyboard(serving, tmp_path, ask):
    """What is typed is shown and goes to whoever asks; after a save the keys are back."""
    text = APP.replace("        resp.text", f"        {ask}\n        resp.text")
    (tmp_path / "app.py").write_text(text)
    screen, url = serving(PYTHONBREAKPOINT="")
    asked = "name? " if "input" in ask else "(Pdb) "

    with asking(url) as request:
        screen.expect("The keyboard is the app's now")
        screen.expect(asked)
        assert screen.modes()[1] or "input" not in ask  # readline shows what is typed by itself
        screen.type("p 'r' * 3\n" if asked == "(Pdb) " else "quiet\n")
        if asked == "(Pdb) ":
            screen.expect("'rrr'")
            screen.type("continue\n")
        answer = request.getresponse().read()
    assert answer.endswith(b"version 1")

    (tmp_path / "app.py").write_text(APP)
    screen.expect("Ready again")
    screen.type("q")
    assert screen.end()[0] == 0
    assert screen.modes() == (True, True)


def test_ctrl_c_ends_it_while_a_debugger_waits(serving, tmp_path):
    """Nobody has to leave the debugger first, and the terminal is as it was."""
    text = APP.replace("        resp.text", "        breakpoint()\n        resp.text")
    (tmp_path / "app.py").write_text(text)
    screen, url = serving(PYTHONBREAKPOINT="")

    with asking(url):
        screen.expect("(Pdb) ")
        screen.interrupt()
        exit_code, _ = screen.end()

    assert exit_code == 0
    assert screen.modes() == (True, True)


@pytest.mark.parametrize("variables", [{"CI": "true"}])
def test_under_ci_there_are_no_keys(serving, variables):
    """The terminal is left alone."""
    screen, _ = serving(**variables)

    assert "keys " not in screen.raw
    assert screen.modes() == (True, True)


def test_production_has_no_keys(serving):
    """A key that is pressed by mistake ends no server."""
    screen, _ = serving("--no-reload")

    assert "keys " not in screen.raw
    assert screen.modes() == (True, True)


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_trace_has_colours_unless_they_are_not_wanted(serving, variables, coloured):
    """`NO_COLOR` switches them off, as everywhere."""
    screen, url = serving("--trace", **variables)
    with connect(url.replace("http", "ws", 1) + "/ws", open_timeout=DEADLINE):
        screen.expect("open")

    (line,) = (line for line in screen.raw.splitlines() if "  /ws" in line and "open" in line)
    assert ("\x1b[" in line) is coloured


def children(pid):
    """Give the processes of the app that a supervisor has."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(p) for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
