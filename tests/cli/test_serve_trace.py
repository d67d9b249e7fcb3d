"""`pachinko serve --trace`: what travels, as it travels."""

import contextlib
import json
import re

import msgspec
import pytest
import websockets.exceptions
from websockets.sync.client import connect

DEADLINE = 40

APP = """
import asyncio

import falcon.asgi
from falcon_pachinko import Hook, WebSocketResource, handles_message, install


class ChatRoom(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        if room_name == "guarded":
            raise falcon.HTTPConflict(title="Seat taken")
        if room_name == "early":
            await ws.close(4409, "not yet")
        return room_name != "closed"

    @handles_message("say")
    async def say(self, ws, payload: dict):
        await ws.send_media({"type": "said", "payload": payload})

    @handles_message("wait")
    async def wait(self, ws):
        await asyncio.sleep(0.05)

    @handles_message("fail")
    async def fail(self, ws):
        raise ZeroDivisionError

    @handles_message("leave")
    async def leave(self, ws):
        await ws.close(4000, "as you wish")

    async def on_message(self, ws, message):
        pass


class Plain:
    async def on_websocket(self, req, ws):
        await ws.accept()
        await ws.send_text(await ws.receive_text())
        await ws.close(4001)


app = falcon.asgi.App()
install(app)
app.add_websocket_route("/ws/{room_name}", ChatRoom)
app.add_route("/plain", Plain())
"""


@pytest.fixture
def project(tmp_path):
    """Give a folder with an app that has some handlers."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def traced(serve):
    """Start it with a trace; give the process, and a way to connect."""

    def start(*arguments):
        serving = serve("app:app", "--port", "0", "--trace", *arguments)
        if "--json" in arguments:
            url = json.loads(serving.until('"serving"').string)["websocket_url"]
        else:
            url = serving.ready().replace("http", "ws", 1)
        return serving, lambda path, **more: connect(url + path, open_timeout=DEADLINE, **more)

    return start


def traces(serving):
    """Wait for the end of a connection; give all its events so far."""
    serving.until('"what": "(closed|denied)"')
    events = [json.loads(line) for line in serving.output.splitlines() if line.startswith("{")]
    return [event for event in events if event["event"] == "trace"]


def test_a_conversation_is_shown_line_by_line(traced):
    """In the order in which it happens: who, which way, the type, the size, the handler."""
    serving, dial = traced()

    with dial("/ws/tea") as client:
        client.send('{"type": "say", "payload": {"text": "hi"}}')
        client.recv(DEADLINE)
    serving.until("closed")

    lines = [line for line in serving.output.splitlines() if re.search(r"  (\w{6})  \w+ +", line)]
    who = re.search(r"\.\d{3}  (\w{6})  open", lines[0])[1]
    patterns = [
        rf"{who}  open    /ws/tea  /ws/{{room_name}}",
        rf"{who}  in      say +42 B   '{{\"type\": \"say\", \"payload\": {{\"text\": \"hi\"}}}}'",
        rf"{who}  out     said +\d+ B   '{{\"type\": \"said\"",
        rf"{who}  done    say +\d+\.\d ms  ChatRoom\.say",
        rf"{who}  closed  1000 by the client after \d+\.\d s",
    ]
    assert len(lines) == len(patterns), serving.output
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.match(r"\d\d:\d\d:\d\d\.\d{3}  " + pattern, line), line


def test_machines_get_an_event_for_each(traced):
    """One JSON object a line, with everything in fields."""
    serving, dial = traced("--json", "-q")

    with dial("/ws/tea") as client:
        client.send('{"type": "wait", "ref": 7}')
        client.recv(DEADLINE)
        client.send('{"type": "fail"}')
        client.recv(DEADLINE)

    events = traces(serving)
    assert [(event["what"], event.get("type")) for event in events] == [
        ("open", None),
        ("in", "wait"),
        ("done", "wait"),
        ("out", "reply"),
        ("in", "fail"),
        ("failed", "fail"),
        ("out", "error"),
        ("closed", None),
    ]
    assert {event["route"] for event in events} == {"/ws/{room_name}"}
    assert {event["path"] for event in events} == {"/ws/tea"}
    assert len({event["connection"] for event in events}) == 1
    done, failed = events[2], events[5]
    assert (done["handler"], done["seconds"] >= 0.05) == ("ChatRoom.wait", True)
    assert (failed["handler"], failed["error"]) == ("ChatRoom.fail", "ZeroDivisionError")
    assert events[1]["bytes"] == len('{"type": "wait", "ref": 7}')


@pytest.mark.parametrize(
    ("path", "options", "status", "why"),
    [
        ("/ws/closed", {}, 403, "Forbidden"),
        ("/nowhere", {}, 404, "Not Found"),
        ("/ws/tea", {"origin": "http://evil.example"}, 403, "origins"),
    ],
)
def test_a_denial_is_shown(traced, path, options, status, why):
    """With its status, and the reason that the client gets."""
    serving, dial = traced("--json", "-q")

    with pytest.raises(websockets.exceptions.InvalidStatus):
        dial(path, **options).__enter__()
    (denied,) = traces(serving)

    assert (denied["what"], denied["status"], denied["path"]) == ("denied", status, path)
    assert why in denied["body"]


@pytest.mark.parametrize(
    ("path", "offer", "code", "why"),
    [
        ("/nowhere", "pachinko.json", 3404, "Not Found"),
        ("/ws/closed", "pachinko.msgpack", 3403, "Forbidden"),
        ("/ws/guarded", "pachinko.json", 3409, "Seat taken"),
        ("/ws/early", "pachinko.msgpack", 4409, "not yet"),
    ],
)
def test_a_denial_that_a_page_can_read_is_shown_as_one(traced, path, offer, code, why):
    """With a session or without: it never was open, though it is an accept and a close."""
    serving, dial = traced("--json", "-q")

    with dial(path, subprotocols=[offer]) as client:
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            client.recv(DEADLINE)
        closed_with = client.close_code
    (denied,) = traces(serving)

    status = code - 3000 if code < 4000 else 403
    assert (denied["what"], denied["path"], closed_with) == ("denied", path, code)
    assert (denied["status"], denied["code"]) == (status, code)
    assert why in denied["body"]


def test_such_a_denial_is_one_line_for_people(traced):
    """It says the status, and how the client was told."""
    serving, dial = traced()

    closed = contextlib.suppress(websockets.exceptions.ConnectionClosed)
    with dial("/nowhere", subprotocols=["pachinko.json"]) as client, closed:
        client.recv(DEADLINE)

    serving.until(r"-       denied  404  /nowhere  .*Not Found.*  \(told by closing with 3404\)")
    assert "open  " not in serving.output


def test_who_closed_is_shown(traced):
    """The server's own close has its code and its reason."""
    serving, dial = traced()

    with dial("/ws/tea") as client:
        client.send('{"type": "leave"}')
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            client.recv(DEADLINE)

    serving.until("closed  4000 by the server after .* s: 'as you wish'")


def test_a_responder_of_its_own_is_traced_too(traced):
    """Where the library has no part, there are frames all the same."""
    serving, dial = traced()

    with dial("/plain") as client:
        client.send("hello")
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            while True:
                client.recv(DEADLINE)

    serving.until("-       open    /plain  a responder of its own")
    serving.until("-       in      - +5 B   'hello'")
    serving.until("-       out     - +5 B   'hello'")
    serving.until("closed  4001 by the server")


@pytest.mark.quick
def test_messagepack_is_shown_as_json(traced):
    """The type is read, and so is the message."""
    serving, dial = traced()

    with dial("/ws/tea", subprotocols=["pachinko.msgpack"]) as client:
        client.send(msgspec.msgpack.encode({"type": "say", "payload": {"text": "hi"}}))
        client.recv(DEADLINE)

    serving.until("open .* pachinko.msgpack")
    serving.until(r"in      say +\d+ B   '{\"type\": \"say\", \"payload\": {\"text\": \"hi\"}}'")


@pytest.mark.parametrize(
    "frame",
    [
        '{"type": "say", "payload": {"accessToken": "hunter2", "deep": [{"password": "hunter2"}]}}',
        '{"type": "say", "payload": {"secret": {"really": "hunter2"}}}',
        "token=hunter2&page=1",
        "Authorization: hunter2",
        '{"password": "hunter2", and no JSON',
    ],
)
def test_secrets_are_not_shown(traced, frame):
    """Neither in a query nor in a frame, JSON or not; what is named like one has three stars."""
    serving, dial = traced()

    with dial("/ws/tea?api_key=hunter2") as client:
        client.send(frame)
    serving.until("closed")

    assert "***" in serving.output
    assert "hunter2" not in serving.output


def test_a_client_cannot_move_the_cursor(traced):
    """Its text comes quoted, escaped, and no more of it than two hundred characters."""
    serving, dial = traced()

    with dial("/ws/tea?name=%1b[31m") as client:
        client.send("\x1b[31m red \x9b\u202e" + "x" * 5_000)
        client.send(json.dumps({"type": "\x1b[2J" + "y" * 5_000}))
    serving.until("closed")

    traced_lines = [line for line in serving.output.splitlines() if "  in  " in line]
    assert len(traced_lines) == 2
    assert all(line.isprintable() and len(line) < 600 for line in traced_lines)
    assert "'\\x1b[31m red" in serving.output


def test_a_trace_survives_a_reload(traced, project):
    """The next process traces as well, with what was saved."""
    serving, dial = traced()

    (project / "app.py").write_text(APP.replace('"said"', '"whispered"'))
    serving.until("Ready again")
    with dial("/ws/tea") as client:
        client.send('{"type": "say", "payload": {}}')
        client.recv(DEADLINE)

    serving.until("out     whispered")


def test_several_processes_trace_too(traced):
    """The banner says where it goes; every line is whole."""
    serving, dial = traced("--workers", "2")

    serving_line = "trace      every frame, on stderr"
    for _ in range(4):
        with dial("/ws/tea") as client:
            client.send('{"type": "wait"}')
            client.send('{"type": "say", "payload": {}}')
            client.recv(DEADLINE)
        serving.until("done    say .*ms  ChatRoom.say$")

    assert serving_line in serving.output


def test_without_it_nothing_is_traced_and_nothing_is_in_between(serve, project):
    """Neither a hook nor a wrapper is there: `send` is the server's own."""
    text = APP.replace(
        "return room_name",
        "from pathlib import Path\n"
        "        route = req.scope['falcon_pachinko.gate'].take_over().__qualname__\n"
        "        import sys\n"
        "        print('send is', route, 'pachinko_cli.server.trace' in sys.modules, flush=True)\n"
        "        return room_name",
    )
    (project / "app.py").write_text(text)
    serving = serve("app:app", "--port", "0")
    url = serving.ready().replace("http", "ws", 1)

    with connect(url + "/ws/tea", open_timeout=DEADLINE):
        pass

    assert serving.until("send is (.*)")[1] == "WebSocketsSansIOProtocol.send False"
