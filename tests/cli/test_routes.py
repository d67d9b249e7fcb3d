"""`pachinko routes`: what an app answers, and where that is written."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

ROUTES = """
from falcon_pachinko import App, WebSocketResource, handles_message
from msgspec import Struct


class Move(Struct, tag="move"):
    x: int


class Board(WebSocketResource):
    schema = Move

    @handles_message(Move)
    async def move(self, ws, payload: Move): ...

    @handles_message("clear")
    async def wipe(self, ws): ...

    @handles_message("paint")
    async def paint(self, ws, payload: dict[str, list[int]]): ...


class Clock:
    async def on_websocket(self, req, ws): ...

    async def on_get(self, req, resp): ...


async def anything(req, resp, **fields): ...


async def tick(manager): ...


app = App(allowed_hosts=["localhost"])
app.add_websocket_route("/board/{number:int}", Board, name="board")
app.add_route("/clock", Clock())
app.add_sink(anything, "/old")
app.add_websocket_worker(tick, name="ticker")
"""


@pytest.fixture
def listed(pachinko, project):
    """Give what `routes --json` says of the project, whose app this code may replace."""

    def look(code=None, *arguments):
        if code is not None:
            (project / "tea_room/asgi.py").write_text(code)
        done = pachinko("routes", "--json", *arguments, cwd=project)
        return json.loads(done.stdout)

    return look


def without_lines(text):
    return re.sub(r"\.py:\d+", ".py:?", text)


def line_of(project, file, text):
    lines = (project / file).read_text().splitlines()
    return f"{file}:{next(n for n, line in enumerate(lines, 1) if text in line)}"


@pytest.mark.quick
def test_a_new_project_s_routes_are_a_table(pachinko, project):
    """Paths, message types with method and payload, and the line each is written on."""
    done = pachinko("routes", cwd=project / "tea_room/static")

    rows = [line.split() for line in done.stdout.splitlines()]
    chat = "tea_room/resources/chat.py"
    assert done.returncode == 0
    assert rows[:4] == [
        ["WebSocket", "Handler", "Source"],
        ["/ws/chat/{room_name}", "ChatRoom", line_of(project, chat, "class ChatRoom")],
        ["say", "say(Say)", line_of(project, chat, '@handles_message("say")')],
        ["typing", "typing(Typing)", line_of(project, chat, '@handles_message("typing")')],
    ]
    assert ["GET", "on_get", line_of(project, "tea_room/resources/health.py", "def on_get")] in rows
    assert ["/static/*", "tea_room/static"] in rows
    assert rows[-1][:2] == ["announce", "announce"]


def test_the_documentation_shows_what_a_new_project_has(pachinko, project):
    """The page has this very table; only its lines may be other ones by now."""
    page = (Path(__file__).parents[2] / "docs/how-to/look-at-a-project.md").read_text()
    done = pachinko("routes", cwd=project)

    assert f"```text\n{without_lines(done.stdout)}```\n" in without_lines(page)


def test_a_table_fits_eighty_columns_and_a_pipe(pachinko, project):
    """Nothing is cut, and nothing is put behind the last column."""
    done = pachinko("routes", cwd=project)

    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())


def test_a_narrow_terminal_folds_what_a_pipe_leaves_whole(terminal, project, pachinko):
    """No word is lost on a small screen; a program gets one line a row."""
    shown = terminal("routes", COLUMNS="50", cwd=project)
    code, text = shown.end()

    assert code == 0
    assert max(map(len, text.splitlines())) <= 50
    assert "tea_room/resources/chat.py" in pachinko("routes", cwd=project, COLUMNS="50").stdout


def test_every_kind_of_part_is_listed(listed):
    """Schemas, types without a payload, plain `on_websocket`, sinks, names of routes, workers."""
    document = listed(ROUTES)

    board, clock = document["websocket"]
    assert (board["path"], board["name"], board["resource"]) == (
        "/board/{number:int}",
        "board",
        "Board",
    )
    assert {each["type"]: (each["handler"], each["payload"]) for each in board["messages"]} == {
        "move": ("move", "Move"),
        "clear": ("wipe", None),
        "paint": ("paint", "dict[str, list[int]]"),
    }
    assert (clock["path"], clock["messages"]) == ("/clock", [])
    assert [each["path"] for each in document["http"]] == ["/clock"]
    assert [(each["prefix"], each["handler"]) for each in document["sinks"]] == [
        ("/old", "anything")
    ]
    assert [(each["name"], each["handler"]) for each in document["workers"]] == [("ticker", "tick")]


@pytest.mark.parametrize("wanted", ["/board", "PAINT", "Board"])
def test_a_filter_leaves_what_has_the_words(listed, wanted):
    """A part of a path, of a name or of a message type is enough, in any case."""
    document = listed(ROUTES, wanted)

    assert [each["path"] for each in document["websocket"]] == ["/board/{number:int}"]
    assert not document["http"]
    assert not document["workers"]


def test_a_filter_that_fits_nothing_is_an_error(pachinko, project):
    """An empty answer would look like an app without routes; exit 1."""
    done = pachinko("routes", "coffee", cwd=project)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: tea_room.asgi:app has nothing with 'coffee' in it\n"
        "  see them all: pachinko routes\n"
    )


def test_outside_a_project_there_are_no_routes(pachinko):
    """Exit 4, with what to do."""
    done = pachinko("routes")

    assert done.returncode == 4
    assert "is not inside a project" in done.stderr


def test_an_app_that_does_not_import_shows_the_user_s_own_lines(pachinko, project):
    """The project's frames and the exception, and nobody else's; exit 1."""
    (project / "tea_room/resources/chat.py").write_text("def brew():\n    1 / 0\n\n\nbrew()\n")
    done = pachinko("routes", cwd=project)

    assert (done.returncode, done.stdout) == (1, "")
    assert "tea_room.asgi:app does not import" in done.stderr
    assert 'chat.py", line 2, in brew' in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "pachinko_cli" not in done.stderr


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import falcon\napp = falcon.App()", "is a falcon.App, which is WSGI"),
        ("def app(): ...", "is a function, not a falcon.asgi.App"),
        ("app = 7", "is of type int, not a falcon.asgi.App"),
        ("import os\nos._exit(9)", "ended with exit code 9"),
        ("raise SystemExit('no tea')", "no tea"),
        ("from falcon_pachinko import App\napp = App()", "has no routes and no workers"),
    ],
)
def test_what_has_no_routes_is_a_sentence(pachinko, project, code, said):
    """Whatever `app` is, there is no traceback of ours; exit 1."""
    (project / "tea_room/asgi.py").write_text(code)
    done = pachinko("routes", cwd=project)

    assert done.returncode == 1
    assert said in done.stderr
    assert "pachinko_cli" not in done.stderr


def test_what_an_import_prints_is_not_in_the_document(pachinko, project):
    """It goes to stderr, whichever way it was printed."""
    asgi = project / "tea_room/asgi.py"
    asgi.write_text(f"import os\nprint('loud')\nos.system('echo louder')\n{asgi.read_text()}")
    done = pachinko("routes", "--json", cwd=project)

    assert json.loads(done.stdout)["app"] == "tea_room.asgi:app"
    assert set(done.stderr.split()) == {"loud", "louder"}


def test_nothing_of_the_app_runs_afterwards(pachinko, project, until):
    """Threads that never end and processes that were started end with the command."""
    asgi = project / "tea_room/asgi.py"
    asgi.write_text(
        "import subprocess, sys, threading\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "endless = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(999)'])\n"
        "print('started', endless.pid, flush=True)\n" + asgi.read_text()
    )
    done = pachinko("routes", cwd=project)

    pid = int(done.stderr.split()[1])
    assert done.returncode == 0
    assert until(lambda: not is_running(pid))


def test_ctrl_c_ends_an_import_that_never_comes_back(begin, project, until):
    """The command ends with 130, and what it waited for ends too."""
    (project / "tea_room/asgi.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(f'{os.getpid()}\\n')\n"
        "time.sleep(999)\n"
    )
    process = begin("routes", cwd=project)
    until(lambda: (project / "pid").exists() and (project / "pid").read_text().endswith("\n"))
    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 130
    assert until(lambda: not is_running(int((project / "pid").read_text())))


def is_running(pid):
    """Whether a process is there, and more than an entry that nobody asked about yet."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - gone between two calls, perhaps
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
