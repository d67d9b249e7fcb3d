"""`pachinko serve` as a person runs it: the real command, in a folder, with real clients."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request

import pytest
import websockets.exceptions
from websockets.sync.client import connect

DEADLINE = 40

PYPROJECT = """
[project]
name = "tea-room"

[tool.pachinko]
package = "tea_room"
app = "tea_room.asgi:app"
"""

ASGI = """
from tea_room.app import create_app

app = create_app()
"""

APP = """
import asyncio
import time

import falcon.asgi
from falcon_pachinko import WebSocketResource, handles_message, install


class Page:
    async def on_get(self, req, resp):
        resp.text = "version 1"


class ChatRoom(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        return True

    @handles_message("say")
    async def say(self, ws, payload: str):
        return payload

    @handles_message("typing")
    async def typing(self, ws):
        return None


class Stuck(WebSocketResource):
    async def on_connect(self, req, ws):
        return True

    @handles_message("wait")
    async def wait(self, ws):
        await self.send({"type": "waiting"})
        await asyncio.Event().wait()


class Plain:
    async def on_websocket(self, req, ws):
        await ws.accept()
        await asyncio.Event().wait()


def blocking():
    print("blocking", flush=True)
    time.sleep(99)


async def announce(manager):
    await asyncio.Event().wait()


def create_app():
    app = falcon.asgi.App()
    install(app)
    app.add_route("/", Page())
    app.add_route("/ws/plain", Plain())
    app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
    app.add_websocket_route("/ws/stuck", Stuck)
    app.add_websocket_worker(announce, app.ws_connection_manager)
    return app
"""


@pytest.fixture
def project(tmp_path):
    """A small project in a folder of its own."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    package = tmp_path / "tea_room"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "asgi.py").write_text(ASGI)
    (package / "app.py").write_text(APP)
    return tmp_path


def get(url):
    """The status and the text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def websocket(url, path, **options):
    return connect(url.replace("http", "ws", 1) + path, open_timeout=DEADLINE, **options)


def save(project, before, after, file="app.py"):
    """Replace some text in the project's code, and save it."""
    path = project / "tea_room" / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def nobody_listens(url):
    port = int(url.rsplit(":", 1)[1])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.quick
def test_the_banner_says_where_and_what_is_served(serve):
    """URLs, HTTP routes, WebSocket routes with resource and message types, workers."""
    serving = serve("--port", "0")

    url = serving.ready()

    banner = re.sub(" +", " ", serving.output).replace(url[4:], "://HERE").splitlines()
    assert banner[:7] == [
        "Serving tea_room.asgi:app",
        " page http://HERE",
        " websocket ws://HERE/ws/chat/{room_name} ChatRoom: say, typing",
        " websocket ws://HERE/ws/stuck Stuck: wait",
        " websocket ws://HERE/ws/plain Plain",
        " http 1 route",
        " workers announce",
    ]


@pytest.mark.quick
def test_the_page_and_the_sockets_work(serve):
    """An HTTP request and a typed message get their answers."""
    url = serve("--port", "0").ready()

    page = get(url)
    with websocket(url, "/ws/chat/tea") as client:
        client.send('{"type": "say", "payload": "hi", "ref": "1"}')
        reply = json.loads(client.recv(DEADLINE))

    assert page == (200, "version 1")
    assert reply == {"type": "reply", "ref": "1", "payload": "hi"}


def test_a_sub_folder_serves_the_same_project(serve, project):
    """The project is found from any folder inside it."""
    url = serve("--port", "0", folder=project / "tea_room").ready()

    assert get(url) == (200, "version 1")


def test_json_prints_one_event_a_line(serve):
    """What the banner says, for machines; people's text does not get in between."""
    serving = serve("--port", "0", "--json", "-q")

    event = json.loads(serving.until('"serving"').string)

    assert event["app"] == "tea_room.asgi:app"
    assert event["http_routes"] == 1
    assert event["workers"] == ["announce"]
    assert {
        "template": "/ws/chat/{room_name}",
        "resource": "ChatRoom",
        "message_types": ["say", "typing"],
    } in event["websocket_routes"]
    assert get(event["url"]) == (200, "version 1")

    serving.signal(signal.SIGINT)
    assert serving.all_gone() == 0
    assert [json.loads(line)["event"] for line in serving.output.splitlines()] == [
        "serving",
        "stopping",
        "stopped",
    ]


def test_open_opens_the_page(serve, tmp_path):
    """`--open` starts the browser once somebody can answer it."""
    browser = tmp_path / "browser.py"
    browser.write_text("import sys; print('opened', sys.argv[1])")

    serving = serve("--port", "0", "--open", BROWSER=f"{sys.executable} {browser} %s")

    url = serving.url()

    assert serving.until("opened (.*)")[1] == url


@pytest.mark.parametrize("backend", ["websockets-sansio", "websockets", "wsproto"])
def test_a_message_above_64_kib_closes_with_1009(serve, backend):
    """65 536 bytes are answered; one more is refused by every back end."""
    url = serve("--port", "0", "--", "--ws", backend).ready()

    def message(size):
        empty = json.dumps({"type": "say", "ref": "1", "payload": ""})
        return empty[:-2] + "x" * (size - len(empty)) + empty[-2:]

    with websocket(url, "/ws/chat/tea") as client:
        client.send(message(65_536))
        reply = json.loads(client.recv(DEADLINE))
        client.send(message(65_537))
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            list(client)

    assert reply["type"] == "reply"
    assert closed.value.rcvd.code == 1009


def test_no_connection_is_compressed(serve):
    """A client that offers permessage-deflate is not taken up on it."""
    url = serve("--port", "0").ready()

    with websocket(url, "/ws/chat/tea", compression="deflate") as client:
        agreed = client.protocol.extensions

    assert agreed == []


def test_secrets_in_a_query_stay_out_of_the_log(serve):
    """Neither a request line nor a handshake line shows a token."""
    serving = serve("--port", "0")
    url = serving.ready()

    get(f"{url}/?page=2&token=hunter2")
    with websocket(url, "/ws/chat/tea?api_key=hunter2"):
        request = serving.until("GET .*").group()
        handshake = serving.until("WS .*").group()

    assert request.split()[1] == "/?page=2&token=***"
    assert handshake.split()[1] == "/ws/chat/tea?api_key=***"
    assert "hunter2" not in serving.output


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(serve):
    """The message names the port and what to do; the exit code is 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        serving = serve("--port", str(port))
        exit_code = serving.all_gone()

    assert exit_code == 1
    assert f"port {port} on 127.0.0.1 is taken" in serving.output
    assert "--port N" in serving.output
    assert "Traceback" not in serving.output


def test_the_next_free_port_is_found_when_none_was_asked_for(serve):
    """With 8000 taken, the app is served just above it, and the banner says so."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # taken by somebody else is as good
            stack.enter_context(socket.create_server(("127.0.0.1", 8000)))
        serving = serve()
        port = serving.until(r"Port 8000 is taken; this is (\d+)")[1]
        url = serving.ready()

    assert 8000 < int(port) < 8100
    assert url == f"http://127.0.0.1:{port}"


def test_outside_a_project_there_is_nothing_to_serve(serve, tmp_path_factory):
    """Exit code 4, and what to type instead."""
    serving = serve(folder=tmp_path_factory.mktemp("elsewhere"))

    assert serving.all_gone() == 4
    assert "is not inside a project" in serving.output
    assert "pachinko new" in serving.output


def test_an_app_that_was_named_needs_no_project(serve, project):
    """APP is imported from the current folder when no pyproject.toml speaks of a project."""
    (project / "pyproject.toml").unlink()

    url = serve("tea_room.asgi:app", "--port", "0").ready()

    assert get(url) == (200, "version 1")


def test_a_factory_is_called_when_uvicorn_is_told_so(serve):
    """`-- --factory` serves what the function returns, with its routes in the banner."""
    serving = serve("tea_room.app:create_app", "--port", "0", "--", "--factory")

    url = serving.url()
    serving.until("ChatRoom: say, typing")

    assert get(url) == (200, "version 1")


def test_what_follows_the_dashes_is_uvicorns(serve):
    """A header that uvicorn was told to send is in the answer."""
    url = serve("--port", "0", "--", "--header", "X-Brewed-By:pachinko").ready()

    with urllib.request.urlopen(url, timeout=DEADLINE) as response:
        brewer = response.headers["X-Brewed-By"]

    assert brewer == "pachinko"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--log-lvl", "debug"], "--log-level"),
        (["--log-level", "loud"], "'loud' is not one of"),
        (["--port", "8001"], "port: decided by serve itself"),
        (["--ssl-certfile", "nowhere.pem"], "No such file"),
        (["--loop", "nowhere:loop"], "nowhere"),
        (["stray"], "stray"),
    ],
)
def test_an_option_that_uvicorn_refuses_is_an_error(serve, options, complaint):
    """Exit code 2, and a sentence instead of a traceback."""
    serving = serve("--", *options)

    assert serving.all_gone() == 2
    assert complaint in serving.output
    assert "Traceback" not in serving.output


def test_help_loads_nothing_heavy():
    """`serve --help` answers before the server, the library or a template engine is imported."""
    program = """
        import sys
        from pachinko_cli.__main__ import main
        sys.argv = ["pachinko", "serve", "--help"]
        try:
            main()
        finally:
            print("LOADED", *sys.modules)
    """
    shown = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    ).stdout
    text, loaded = shown.split("LOADED")

    heavy = {"rich", "cookiecutter", "jinja2", "uvicorn", "watchfiles", "falcon", "msgspec"}
    assert "pachinko serve --port 8080 --open" in [line.strip() for line in text.splitlines()]
    assert heavy & set(loaded.split()) == set()


def test_each_save_is_served(serve, project):
    """Save after save, the page is the new one; two saves within a second count as two."""
    serving = serve("--port", "0")
    url = serving.ready()

    pages = []
    for number in range(1, 6):
        save(project, f"version {number}", f"version {number + 1}")
        serving.until("Saved tea_room/app.py")
        serving.until("Ready again")
        pages.append(get(url))

    assert pages == [(200, f"version {number}") for number in range(2, 7)]


def test_a_route_that_was_added_is_in_the_next_banner(serve, project):
    """The banner comes again when it says something new."""
    serving = serve("--port", "0")
    serving.ready()

    save(project, '"/ws/stuck"', '"/ws/waiting"')

    serving.until("/ws/waiting +Stuck: wait")


def test_a_file_that_is_not_the_projects_code_reloads_nothing(serve, project):
    """Neither a static file nor a virtual environment counts as a save."""
    serving = serve("--port", "0")
    serving.ready()

    for file in (".venv/lib/thing.py", "venv/lib/site-packages/thing.py", "tea_room/page.html"):
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        (project / file).write_text("")
    save(project, "version 1", "version 2")
    serving.until("Ready again")

    assert re.findall("Saved .*", serving.output) == ["Saved tea_room/app.py"]


def test_a_reload_closes_sockets_with_1012_and_ends_a_handler_that_never_does(serve, project):
    """A client is told to come back, and a handler that waits for ever costs a second or so."""
    serving = serve("--port", "0")
    url = serving.ready()

    with websocket(url, "/ws/chat/tea") as idle, websocket(url, "/ws/stuck") as stuck:
        stuck.send('{"type": "wait"}')
        stuck.recv(DEADLINE)
        with websocket(url, "/ws/plain"):
            before = time.monotonic()
            save(project, "version 1", "version 2")
            with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                idle.recv(DEADLINE)
            serving.until("Ready again")
            took = time.monotonic() - before

    assert closed.value.rcvd.code == 1012
    assert took < DEADLINE
    assert get(url) == (200, "version 2")


BLOCKING = (
    "await ws.accept()\n        await asyncio.Event().wait()",
    "await ws.accept()\n        await ws.receive_text()\n        blocking()",
)


def test_a_handler_that_blocks_the_loop_is_killed(serve, project):
    """Code that waits without await holds up a reload for some seconds, and is told."""
    save(project, *BLOCKING)
    serving = serve("--port", "0")
    url = serving.ready()

    with websocket(url, "/ws/plain") as client:
        client.send("go on")
        serving.until("blocking")
        save(project, "version 1", "version 2")
        serving.until("was still busy after 5 s, and was killed")
        serving.until("Ready again")

    assert get(url) == (200, "version 2")


@pytest.mark.quick
def test_a_syntax_error_is_shown_and_the_next_save_recovers(serve, project):
    """The user's own line is shown, in the terminal and in the browser, and nobody else's."""
    serving = serve("--port", "0")
    url = serving.ready()

    save(project, "def create_app():", "def create_app(:")
    serving.until(r'File ".*/tea_room/app.py", line \d+')
    serving.until("Waiting for the next save")
    status, page = get(url)

    assert status == 503
    assert "SyntaxError: invalid syntax" in page
    assert "importlib" not in serving.output
    assert "site-packages" not in serving.output

    save(project, "def create_app(:", "def create_app():")
    serving.until("Ready again")
    assert get(url) == (200, "version 1")


@pytest.mark.parametrize(
    ("change", "complaints"),
    [
        (("app.py", "import asyncio", "import asincio"), ["app.py", "No module named 'asincio'"]),
        (("app.py", "install(app)", "1 / 0"), ["app.py", "1 / 0", "ZeroDivisionError"]),
        (("app.py", "install(app)", "exit('no key')"), ["app.py", "SystemExit: no key"]),
        (("app.py", '"/ws/stuck"', '"/ws/plain"'), ["app.py", "Plain.on_websocket serves"]),
        (("asgi.py", "app = ", "application = "), ["no attribute 'app'", "it is looked for in"]),
    ],
)
def test_an_app_that_does_not_import_is_told_and_recovers(serve, project, change, complaints):
    """Whatever goes wrong at import, the user's part of it is shown, and the next save helps."""
    file, before, after = change
    save(project, before, after, file)
    serving = serve("--port", "0")

    serving.until("Waiting for the next save")

    assert all(complaint in serving.output for complaint in complaints)
    assert "importlib" not in serving.output
    assert "site-packages" not in serving.output

    (project / "tea_room" / file).write_text(APP if file == "app.py" else ASGI)
    assert get(serving.ready()) == (200, "version 1")


def test_a_startup_that_fails_is_told_and_recovers(serve, project):
    """A startup hook that raises is shown, and the next save is served."""
    hook = """
    class Startup:
        async def process_startup(self, scope, event):
            raise RuntimeError("no database")

    app.add_middleware(Startup())
    return app
    """
    save(project, "    return app\n", textwrap.indent(textwrap.dedent(hook), "    "))
    serving = serve("--port", "0")

    serving.until("no database")
    serving.until("its startup failed")
    serving.until("Waiting for the next save")

    save(project, 'raise RuntimeError("no database")', "return None")
    assert get(serving.ready()) == (200, "version 1")


def test_an_app_that_dies_is_told_and_recovers(serve, project):
    """A process that ends by itself is missed, and the next save starts another."""
    save(project, "install(app)", "__import__('os')._exit(7)")
    serving = serve("--port", "0")

    serving.until("ended by itself, with exit code 7")

    save(project, "__import__('os')._exit(7)", "install(app)")
    assert get(serving.ready()) == (200, "version 1")


def test_without_reload_an_app_that_does_not_import_ends_the_command(serve, project):
    """Exit code 1, and the user's own line."""
    save(project, "install(app)", "1 / 0")
    serving = serve("--no-reload")

    assert serving.all_gone() == 1
    assert 'tea_room/app.py", line ' in serving.output
    assert "ZeroDivisionError" in serving.output
    assert "importlib" not in serving.output


ENDINGS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", ENDINGS)
@pytest.mark.parametrize("arguments", [[], ["--no-reload"]])
def test_a_signal_ends_everything_though_sockets_are_open(serve, number, arguments):
    """Exit code 0, no traceback, no process, nobody on the port; clients get 1012."""
    serving = serve("--port", "0", *arguments)
    url = serving.url()

    with websocket(url, "/ws/chat/tea") as client:
        serving.signal(number)
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            client.recv(DEADLINE)
        exit_code = serving.all_gone()

    assert exit_code == 0
    assert closed.value.rcvd.code == 1012
    assert "Traceback" not in serving.output
    assert nobody_listens(url)


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_ends_everything_though_a_handler_never_does(serve, number):
    """A handler that is not receiving costs a second or so, and no traceback."""
    serving = serve("--port", "0")
    url = serving.ready()

    with websocket(url, "/ws/plain"):
        before = time.monotonic()
        serving.signal(number)
        exit_code = serving.all_gone()
        took = time.monotonic() - before

    assert exit_code == 0
    assert took < DEADLINE
    assert "Traceback" not in serving.output
    assert nobody_listens(url)


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_ends_everything_though_the_app_did_not_import(serve, project, number):
    """Waiting for a save ends at once, too."""
    save(project, "install(app)", "1 / 0")
    serving = serve("--port", "0")
    serving.until("Waiting for the next save")

    serving.signal(number)

    assert serving.all_gone() == 0
    assert serving.output.count("Traceback") == 1


def test_sigterm_to_the_supervisor_alone_ends_the_app(serve):
    """A process manager knows one process; that one takes the other along."""
    serving = serve("--port", "0")
    url = serving.ready()

    serving.process.terminate()

    assert serving.all_gone() == 0
    assert nobody_listens(url)


def test_a_supervisor_that_was_killed_leaves_nobody_on_the_port(serve):
    """The app notices that it is alone, and ends."""
    serving = serve("--port", "0")
    url = serving.ready()

    serving.process.kill()

    assert serving.all_gone() == -signal.SIGKILL
    assert nobody_listens(url)


@pytest.mark.quick
def test_a_second_ctrl_c_does_not_wait(serve, project):
    """Who presses twice gets the prompt back, whatever the app does."""
    save(project, *BLOCKING)
    serving = serve("--port", "0", "--json")
    url = json.loads(serving.until('"serving"').string)["url"]

    with websocket(url, "/ws/plain") as client:
        client.send("go on")
        serving.until("blocking")
        before = time.monotonic()
        serving.process.send_signal(signal.SIGINT)
        serving.until('"stopping"')
        serving.process.send_signal(signal.SIGINT)
        exit_code = serving.all_gone()
        took = time.monotonic() - before

    assert exit_code == 0
    assert took < DEADLINE


def test_a_breakpoint_reaches_the_terminal(serve, project):
    """What is typed goes to the debugger, though the app runs in a child process."""
    save(project, 'resp.text = "version 1"', 'breakpoint(); resp.text = "version 2"')
    serving = serve("--port", "0", PYTHONBREAKPOINT="pdb.set_trace")
    url = serving.ready()

    serving.process.stdin.write("continue\n")
    serving.process.stdin.flush()

    assert get(url) == (200, "version 2")
