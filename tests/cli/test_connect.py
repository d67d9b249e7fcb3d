"""`pachinko connect` as a person or a script runs it, with a generated project that is served."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE = 40
GREETING = ["welcome", "history.state", "presence.state"]  # what a member of a chat room gets first
PACHINKO = (sys.executable, "-m", "pachinko_cli")

# More doors for the generated project, each for one thing that can happen to a client.
DOORS = '''
import asyncio

import falcon
import msgspec
from falcon_pachinko import Limits, WebSocketResource, handles_message


class Join(msgspec.Struct, tag="join"):
    name: str
    seats: int = 1


class Leave(msgspec.Struct, tag="leave"):
    pass


class Desk(WebSocketResource):
    """Schema style."""

    schema = Join | Leave

    @handles_message(Join)
    async def join(self, ws, message: Join):
        return [message.name, message.seats]


class Echo(WebSocketResource):
    """Sends back whatever comes, as it came."""

    async def on_message(self, ws, message):
        if isinstance(message, str):
            await ws.send_text(message)
        else:
            await ws.send_data(message)


class Painter(WebSocketResource):
    """Says what a terminal would obey."""

    async def on_connect(self, req, ws):
        await ws.send_text("bell \\x07 \\x1b[31mred\\x1b[0m \\x1b]0;title\\x07 \\x9b2J \\u202e")
        await self.send({"type": "painted", "payload": "\\x1b[2J \\x9b2J"})
        await ws.send_data(b"\\x00\\xff")
        return True


class Closer(WebSocketResource):
    """Closes with the code it is told."""

    @handles_message("end")
    async def end(self, ws, payload: int):
        await ws.close(payload, "so \\x1b[31m long")


class Mirror(WebSocketResource):
    """Says what the handshake had."""

    async def on_connect(self, req, ws):
        seen = {"token": req.get_header("X-Token"), "origin": req.get_header("Origin")}
        await self.send({"type": "seen", "payload": seen | {"day": req.get_param("day")}})
        return True

    async def on_disconnect(self, ws, close_code):
        print("mirror closed with", close_code, flush=True)


class Guarded(WebSocketResource):
    async def on_connect(self, req, ws, status):
        raise falcon.HTTPError(status, title="No \\x1b[31mtea", description="Come back at five.")


class Silent(WebSocketResource):
    """Never answers the handshake."""

    async def on_connect(self, req, ws):
        print("asked at", req.relative_uri, flush=True)
        await asyncio.Event().wait()


class Ticker(WebSocketResource):
    """Is never quiet."""

    async def on_connect(self, req, ws):
        self.ticking = asyncio.create_task(self.tick())
        return True

    async def tick(self):
        while True:
            await self.send({"type": "tick"})
            await asyncio.sleep(0.2)

    async def on_disconnect(self, ws, close_code):
        self.ticking.cancel()


def add_doors(app):
    app.add_websocket_route("/desk", Desk)
    app.add_websocket_route("/echo", Echo)
    app.add_websocket_route("/painter", Painter)
    app.add_websocket_route("/closer", Closer)
    app.add_websocket_route("/mirror", Mirror)
    app.add_websocket_route("/guarded/{status:int}", Guarded)
    app.add_websocket_route("/silent", Silent)
    app.add_websocket_route("/ticker", Ticker)
'''


class Server:
    """The project, served: its folder, its port, and what it prints."""

    def __init__(self, folder, environment):
        self.folder = folder
        self.process = subprocess.Popen(
            [*PACHINKO, "serve", "--port", "0", "--no-reload", "--json", "-q"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        event = json.loads(self.until('"serving"'))
        self.port = event["url"].rsplit(":", 1)[1]

    def until(self, text):
        """Read what it prints, until a line with `text`."""
        for line in self.process.stdout:
            if text in line:
                return line
        raise AssertionError(f"ended before {text!r}")


@pytest.fixture(scope="module")
def server(baked, environment, tmp_path_factory):
    """Serve a generated project with a few more doors; for all tests of this file."""
    folder = shutil.copytree(baked["chat"], tmp_path_factory.mktemp("served") / "tea-room")
    (folder / "tea_room" / "doors.py").write_text(DOORS)
    routes = folder / "tea_room" / "asgi.py"
    routes.write_text(routes.read_text() + "\nfrom .doors import add_doors\n\nadd_doors(app)\n")
    serving = Server(folder, environment)
    yield serving
    serving.process.kill()
    serving.process.wait(DEADLINE)
    serving.process.stdout.close()


class Done:
    """What came of a command: its exit code, and what it printed."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def messages(self):
        """The lines of stdout, as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def types(self):
        return [message["type"] for message in self.messages]


@pytest.fixture
def connect(server, environment):
    """Run `pachinko connect` in the project, with this input, and give what came of it."""

    def run(*arguments, typed="", cwd=server.folder, **variables):
        ran = subprocess.run(
            [*PACHINKO, "connect", *arguments],
            cwd=cwd,
            env=environment | variables,
            input=typed if isinstance(typed, bytes) else typed.encode(),
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        return Done(ran.returncode, ran.stdout.decode(), ran.stderr.decode())

    return lambda path, *arguments, **options: run(
        path, "--port", server.port, *arguments, **options
    )


@pytest.fixture
def at_prompt(server, terminal, tmp_path):
    """Start `pachinko connect` on a terminal, in a copy of the project, and wait for the prompt."""

    def start(path, *arguments, **variables):
        shutil.copytree(server.folder, tmp_path, dirs_exist_ok=True)
        opened = terminal("connect", path, "--port", server.port, *arguments, **variables)
        opened.expect("Ctrl-D ends it.")
        opened.expect("> ")
        return opened

    return start


def screen(raw):
    """What a terminal shows after `raw`: lines, the cursor's own commands obeyed."""
    rows, column = [""], 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\s\S]", raw):
        if token == "\n":
            rows, column = [*rows, ""], 0
        elif token == "\r":
            column = 0
        elif token == "\x1b[J":
            rows[-1] = rows[-1][:column]
        elif token.startswith("\x1b["):
            column += int(token[2:-1]) if token.endswith("C") else 0
        else:
            rows[-1] = rows[-1][:column].ljust(column) + token + rows[-1][column + 1 :]
            column += 1
    return rows


# Scripts: --send, --expect, pipes. A room keeps what is said: who says something has one alone.


@pytest.mark.quick
def test_what_is_expected_comes_and_that_is_success(connect):
    """The message goes out in short form, the answer ends it with exit code 0."""
    done = connect("/ws/chat/green", "--send", "say text=hi there", "--expect", "said")

    assert (done.code, done.types) == (0, [*GREETING, "said"])
    assert done.messages[-1]["payload"]["text"] == "hi there"


def test_several_types_are_expected_in_their_order(connect):
    """`said` came before `welcome` was over, so a second `welcome` is missing."""
    right = connect(
        "/ws/chat/black", "--send", "say text=hi", "--expect", "welcome", "--expect", "said"
    )
    wrong = connect(
        *("/ws/chat/white", "--send", "say text=hi", "--timeout", "4"),
        *("--expect", "said", "--expect", "welcome"),
    )

    assert (right.code, wrong.code) == (0, 1)
    assert wrong.err.splitlines()[-2:] == [
        "error: welcome did not come within 4 s",
        "  nothing came after said",
    ]


def test_what_came_instead_is_told(connect):
    """An error frame with its code and message, other messages by their type."""
    done = connect(
        *("/ws/chat/tea", "--no-check", "--timeout", "4"),
        *("--send", "say text=hi wrong=1", "--expect", "said"),
    )

    refused = "error invalid_payload: Object contains unknown field `wrong`"
    assert done.code == 1
    assert done.err.splitlines()[-2:] == [
        "error: said did not come within 4 s",
        f"  what came: {'; '.join([*GREETING, refused])}",
    ]


def test_a_pipe_sends_a_line_each_and_ends_when_it_is_quiet(connect):
    """Every line of stdin is a message, the last one too; each frame is a line on stdout."""
    typed = 'say text=one\n\n{"type": "say", "payload": {"text": "two"}}\nsay {"text": "three"}'

    done = connect("/ws/chat/quiet", typed=typed)

    assert (done.code, done.types) == (0, [*GREETING, "said", "said", "said"])
    assert [each["payload"]["text"] for each in done.messages[3:]] == ["one", "two", "three"]


def test_a_pipe_ends_even_where_it_is_never_quiet(connect):
    """At most --timeout seconds after stdin has ended."""
    done = connect("/ticker", "--timeout", "2", typed="")

    assert done.code == 0
    assert len(done.types) > 5


def test_a_line_that_would_be_refused_ends_a_pipe(connect):
    """The lines before it were sent, none after it; exit 1."""
    done = connect("/ws/chat/mint", "--json", typed="say text=one\nsay txt=two\nsay text=three\n")

    sent = [event for event in done.messages if event["event"] == "sent"]
    assert done.code == 1
    assert [event["message"]["payload"]["text"] for event in sent] == ["one"]
    assert "error: invalid_payload: Object contains unknown field `txt`" in done.err


def test_input_that_is_not_utf_8_is_refused_with_its_line(connect):
    """Guessing would send something else."""
    done = connect("/echo", typed=b"/text fine\n/text \xff\n")

    assert (done.code, "line 2 of the input is not UTF-8" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (
            "sai text=hi",
            "unknown_type: /ws/chat/{room_name} takes no 'sai'\n  did you mean say?",
        ),
        ("say text=", "invalid_payload: Expected `str` of length >= 1 at $.payload.text"),
        ("say", "invalid_payload: Object missing required field `text` at $.payload"),
        ("typing active=maybe", "invalid_payload: Expected `bool`, got `str` at $.payload.active"),
        (
            '{"type": 1}',
            "invalid_message: A message must be an object with a text `type` at $.type",
        ),
        ('{"type": ', "invalid_json: "),
        ("say {", "the payload is no JSON: "),
        (f"say text={'a' * 66_000}", "the message has 66036 bytes, and this route takes 65536"),
    ],
)
def test_a_message_is_checked_before_anything_is_sent(connect, server, message, error):
    """Type, payload and size, with the words of the server's own error; exit 2."""
    done = connect("/ws/chat/tea", "--send", message)

    assert (done.code, done.out) == (2, "")
    assert f": {error}" in done.err
    assert "Connected" not in done.err


def test_a_schema_s_fields_stand_beside_the_type(connect):
    """The same short form; a number is a number where the field is one."""
    fine = connect("/desk", "--json", "--send", "join name=5 seats=2", "--expect", "reply")
    wrong = connect("/desk", "--send", "join seats=two")

    assert fine.messages[1]["message"] == {"type": "join", "name": "5", "seats": 2}
    assert fine.messages[2]["message"]["payload"] == ["5", 2]
    assert wrong.code == 2
    assert "it takes: join name: str, seats: int = 1" in wrong.err


def test_a_resource_that_takes_anything_is_sent_anything(connect):
    """With `on_message`, what no handler claims is no mistake; /text is not even JSON."""
    done = connect("/echo", typed="/text  plain\nanything goes=true\n[1, 2]\n")

    assert (done.code, done.out.splitlines()) == (
        0,
        [" plain", '{"type":"anything","payload":{"goes":true}}', "[1, 2]"],
    )


def test_messagepack_is_shown_and_typed_as_json(connect):
    """The frames are binary; nobody sees that."""
    done = connect(
        *("/ws/chat/herbal", "--subprotocol", "pachinko.msgpack"),
        *("--send", "say text=täa", "--expect", "said"),
    )

    assert (done.code, done.types) == (0, [*GREETING, "said"])
    assert '"text":"täa"' in done.out


def test_json_prints_one_event_a_line(connect):
    """Open, sent, received, closed; nothing else is on stdout, nothing at all on stderr."""
    done = connect("/ws/chat/assam", "--json", "--send", "say text=hi", "--expect", "said")

    events = [event["event"] for event in done.messages]
    assert (done.code, done.err) == (0, "")
    assert sorted(events) == ["closed", "open", *["received"] * 4, "sent"]
    assert done.messages[0]["route"] == "/ws/chat/{room_name}"
    assert done.messages[-1] == {"event": "closed", "code": 1000, "reason": "", "by": "client"}


def test_json_tells_apart_what_is_no_message(connect):
    """A text frame is `text`, a binary one `base64`."""
    done = connect("/painter", "--json")

    received = [event for event in done.messages if event["event"] == "received"]
    assert [next(iter(each.keys() - {"event"})) for each in received] == [
        "text",
        "message",
        "base64",
    ]
    assert received[2]["base64"] == "AP8="


def test_quiet_prints_only_what_failed(connect):
    """For a script that needs the exit code."""
    fine = connect("/ws/chat/tea", "-q", "--expect", "welcome")
    failed = connect("/ws/chat/tea", "-q", "--expect", "tea", "--timeout", "2")

    assert (fine.code, fine.out, fine.err) == (0, "", "")
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.startswith("error: tea did not come within 2 s")


def test_verbose_prints_the_handshake_s_headers_and_what_is_sent(connect):
    """On stderr: stdout is for what came."""
    done = connect("/ws/chat/oolong", "-v", "--send", "say text=hi", "--expect", "said")

    assert "  Upgrade: websocket" in done.err
    assert '> {"type":"say","payload":{"text":"hi"}}' in done.err


@pytest.mark.parametrize(("option", "line"), [("", '{"type":"tick"}'), ("--json", '{"event": "o')])
def test_a_reader_that_goes_ends_it_without_a_traceback(server, environment, option, line):
    """`pachinko connect ... | head -1`."""
    arguments = f"connect /ticker --port {server.port} --timeout 20 {option}"
    command = f"set -o pipefail; {' '.join(PACHINKO)} {arguments} | head -1"

    done = subprocess.run(
        ["bash", "-c", command],
        cwd=server.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout.startswith(line)
    assert "Traceback" not in done.stderr


# The handshake.


def test_headers_origin_and_query_reach_the_application(connect, server):
    """What an application decides by can all be said."""
    done = connect(
        *("/mirror?day=two days", "--header", "X-Token: abc", "--expect", "seen"),
        *("--origin", f"http://127.0.0.1:{server.port}"),
    )

    seen = done.messages[0]["payload"]
    assert seen == {"token": "abc", "origin": f"http://127.0.0.1:{server.port}", "day": "two days"}
    assert "mirror closed with 1000" in server.until("mirror closed")


def test_a_whole_url_needs_no_project(connect, server, environment, tmp_path):
    """Outside of one nothing is known of the route, and nothing is checked."""
    done = subprocess.run(
        [*PACHINKO, "connect", f"http://127.0.0.1:{server.port}/ws/chat/tea", "--expect", "error"],
        cwd=tmp_path,
        env=environment,
        input="nothing like=this\n",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert done.returncode == 0
    assert "unknown_type" in done.stdout
    assert f"Connected to ws://127.0.0.1:{server.port}/ws/chat/tea" in done.stderr


def test_a_server_s_url_takes_a_path(connect, server, tmp_path):
    """--url is for a server that is elsewhere; here the path of the URL comes first."""
    done = subprocess.run(
        [
            *(*PACHINKO, "connect", "chat/tea", "--url", f"http://localhost:{server.port}/ws/"),
            *("--expect", "welcome"),
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (done.returncode, '"room":"tea"' in done.stdout) == (0, True)


def test_nobody_there_is_told_with_what_starts_the_server(connect):
    """A port where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else's
        done = connect("/ws/chat/tea", "--port", str(taken.getsockname()[1]))

    assert done.code == 1
    assert re.match(r"error: nothing listens at ws://127.0.0.1:\d+/ws/chat/tea\n", done.err)
    assert "pachinko serve" in done.err


def test_a_path_without_a_route_is_told_with_those_there_are(connect):
    """404, and the route that was meant."""
    done = connect("/ws/chet/tea")

    assert done.code == 1
    assert "denied the handshake: 404 Not Found\n  did you mean /ws/chat/{room_name}?" in done.err


@pytest.mark.parametrize(
    ("status", "phrase", "hint"),
    [
        (401, "Unauthorized", "--header 'Authorization: Bearer ...'"),
        (403, "Forbidden", "origins="),
        (503, "Service Unavailable", "try again"),
        (418, "I'm a Teapot", "log"),
    ],
)
def test_a_denied_handshake_is_told_with_its_title_and_description(connect, status, phrase, hint):
    """The server's own words, which a terminal cannot be made to obey."""
    done = connect(f"/guarded/{status}")

    assert done.code == 1
    assert (
        f"denied the handshake: {status} {phrase}: No \\u001b[31mtea. Come back at five."
        in done.err
    )
    assert hint in done.err.splitlines()[-1]
    assert "\x1b" not in done.err


@pytest.mark.parametrize("subprotocol", ["pachinko.json", "pachinko.msgpack"])
def test_a_denial_that_a_browser_could_read_is_told_with_the_same_advice(connect, subprotocol):
    """It comes as a close, with 3000 and the status, to whoever offers the library's own."""
    done = connect("/guarded/401", "--subprotocol", subprotocol)

    assert done.code == 1
    assert "closed the connection: 3401 No \\u001b[31mtea (HTTP status 401)" in done.err
    assert "--header 'Authorization: Bearer ...'" in done.err.splitlines()[-1]


def test_a_foreign_origin_is_refused_with_the_settings_that_decide(connect):
    """403 can have many causes; the origin is one of them."""
    done = connect("/ws/chat/tea", "--origin", "https://evil.example")

    assert (done.code, "403 Forbidden" in done.err, "origins=" in done.err) == (1, True, True)


def test_a_page_is_no_websocket(connect):
    """/health answers HTTP only."""
    done = connect("/health")

    assert (done.code, "that path answers HTTP, not WebSockets" in done.err) == (1, True)


def test_a_handshake_without_an_answer_times_out(connect):
    """After --timeout seconds."""
    done = connect("/silent", "--timeout", "0.5")

    assert done.code == 1
    assert "did not answer the handshake within 0.5 s" in done.err


def test_a_server_without_tls_says_so(connect, server):
    """wss:// where ws:// would be right."""
    done = connect("/x", "--url", f"wss://127.0.0.1:{server.port}", "--json")
    wrong = subprocess.run(
        [*PACHINKO, "connect", f"wss://127.0.0.1:{server.port}/ws/chat/tea"],
        cwd=server.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (done.code, wrong.returncode) == (2, 1)  # --url beside --port is one too many
    assert "error: no TLS with wss://" in wrong.stderr
    assert "a server without TLS is at ws://" in wrong.stderr


def test_something_else_than_a_websocket_server_is_told(connect):
    """It takes the connection and says something of its own."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        command = [*PACHINKO, "connect", f"ws://127.0.0.1:{other.getsockname()[1]}/"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            other.settimeout(DEADLINE)
            peer, _ = other.accept()
            peer.sendall(b"220 mail.example ESMTP\r\n")
            peer.close()
            error = process.stderr.read().decode()

    assert process.returncode == 1
    assert "does not speak WebSocket" in error


def test_a_subprotocol_that_nobody_knows_is_told(connect):
    """The server agreed on none: a browser fails then, too."""
    done = connect("/ws/chat/tea", "--subprotocol", "chat.v9")

    assert done.code == 1
    assert "agreed on none of the subprotocols chat.v9" in done.err
    assert "knows pachinko.json, pachinko.msgpack" in done.err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["ftp://tea.example/"], "ftp:// is not for WebSockets"),
        (["localhost:8000/ws"], "neither a path nor a URL"),
        (["/ws/#tea"], "has a '#'"),
        (["ws://tea.example/", "--host", "other"], "says already where the server is"),
        (["/ws", "--header", "X-Token"], "which is no header"),
        (["/ws", "--header", "X: a\nY: b"], "characters that a header cannot carry"),
        (["/ws", "--header", "Origin: https://tea.example"], "use --origin ORIGIN"),
        (["/ws", "--subprotocol", "two words"], "cannot be one"),
        (["/ws", "--origin", "tea.example"], "which no browser would send"),
        (["/ws", "--expect", ""], "--expect is empty"),
        (["/ws", "--timeout", "inf"], "--timeout is inf"),
    ],
)
def test_what_cannot_be_asked_is_refused(pachinko, arguments, error):
    """Exit 2, a sentence and what to type; nothing was sent."""
    done = pachinko("connect", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert error in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_an_app_that_does_not_import_is_a_warning(server, connect, tmp_path):
    """The server may run older code: what is typed goes out unchecked."""
    broken = shutil.copytree(server.folder, tmp_path / "broken")
    (broken / "tea_room" / "messages.py").write_text("1 / 0\n")

    done = connect("/ws/chat/tea", "--send", "sai", "--expect", "error", cwd=broken)

    assert done.code == 0
    assert "warning: tea_room.asgi:app does not import: ZeroDivisionError" in done.err
    assert "messages are sent unchecked" in done.err


def test_what_the_app_prints_when_imported_is_not_on_stdout(server, connect, tmp_path):
    """Stdout is for what came."""
    chatty = shutil.copytree(server.folder, tmp_path / "chatty")
    asgi = chatty / "tea_room" / "asgi.py"
    asgi.write_text("print('hello from the import')\n" + asgi.read_text())

    done = connect("/ws/chat/tea", "--json", "--expect", "welcome", cwd=chatty)

    assert (done.code, "hello from the import" in done.err) == (0, True)
    assert all(event["event"] for event in done.messages)


# How it ends.


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (1008, "against the server's rules"),
        (1011, "an error within the application"),
        (1012, "the server restarts"),
        (1013, "too slow or too busy"),
        (4401, "log in again"),
        (4000, "the application's own code"),
    ],
)
def test_a_close_by_the_server_is_told_in_words(connect, code, meaning):
    """Exit 1, with code, reason and meaning; the reason is made harmless."""
    done = connect("/closer", "--send", f"end {code}", "--timeout", "5")

    assert done.code == 1
    assert f"error: the server closed the connection: {code} so \\u001b[31m long" in done.err
    assert meaning in done.err


def test_a_normal_close_by_the_server_is_no_error(connect):
    """1000: it was done."""
    done = connect("/closer", "--json", "--send", "end 1000")

    assert done.code == 0
    assert done.messages[-1]["by"] == "server"


def test_a_close_before_what_was_expected_came_is_a_failure(connect):
    """Whatever its code."""
    done = connect("/closer", "--send", "end 1000", "--expect", "tea")

    assert done.code == 1
    assert "error: tea did not come: the server closed the connection: 1000" in done.err


def test_one_can_close_with_a_code_of_one_s_own(connect, server):
    """/close, in a pipe as at the prompt."""
    done = connect("/mirror", "--json", typed="/close 4321 my tea is cold\n/text never sent\n")

    assert done.code == 0
    assert [e for e in done.messages if e["event"] == "sent"] == []
    assert "mirror closed with 4321" in server.until("mirror closed")


@pytest.mark.parametrize(
    ("expected", "code"), [(["--expect", "tea", "--timeout", "60"], 130), ([], 0)]
)
def test_ctrl_c_closes_cleanly(server, environment, expected, code):
    """130 while something was expected, 0 when nothing was pending; the server sees 1000."""
    process = subprocess.Popen(
        [*PACHINKO, "connect", "/mirror", "--port", server.port, *expected],
        cwd=server.folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        process.stdout.readline()  # it is open
        process.send_signal(signal.SIGINT)
        error = process.stderr.read().decode()

    assert process.returncode == code
    assert "mirror closed with 1000" in server.until("mirror closed")
    assert ("error: interrupted before tea came" in error) is (code == 130)
    assert "Traceback" not in error


def test_ctrl_c_ends_a_handshake(server, environment):
    """Nothing is open yet, and something is pending."""
    process = subprocess.Popen(
        [*PACHINKO, "connect", "/silent?once", "--port", server.port, "--timeout", "60"],
        cwd=server.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        server.until("asked at /silent?once")
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()

    assert process.returncode == 130
    assert "Traceback" not in error


# On a terminal.


def test_the_prompt_tells_what_the_route_takes(at_prompt):
    """Types, fields and what they are for; Ctrl-D ends it with exit code 0."""
    terminal = at_prompt("/ws/chat/tea")

    shown = terminal.raw.replace("\r\n", "\n")
    terminal.type("\x04")
    code, rest = terminal.end()

    page = (Path(__file__).parents[2] / "docs/how-to/connect.md").read_text("utf-8")
    told = page.partition("<!-- the-prompt -->\n```text\n")[2].partition("```")[0]
    assert told.startswith("/ws/chat/{room_name} takes:\n  say text: str ")
    assert told in shown
    assert (code, "Closed: 1000 (done)" in rest) == (0, True)


@pytest.mark.quick
def test_a_message_in_short_is_sent_and_answered(at_prompt):
    """What was typed stays, what comes stands below with its mark."""
    terminal = at_prompt("/ws/chat/jasmine")

    terminal.type("say text=hi there\n")
    terminal.expect('"text":"hi there"')
    terminal.type("/quit\n")
    code, _ = terminal.end()

    assert code == 0
    assert "> say text=hi there" in screen(terminal.raw)


def test_a_mistake_at_the_prompt_is_told_and_may_be_corrected(at_prompt):
    """The error has msgspec's words; the line comes back with the arrow key."""
    terminal = at_prompt("/ws/chat/rooibos")

    terminal.type("say txt=hi\n")
    terminal.expect("error: invalid_payload: Object contains unknown field `txt`")
    terminal.expect("it takes: say text: str")
    terminal.type("\x1b[A" + "\x1b[D" * 5 + "e\n")  # t|xt: te|xt
    terminal.expect('"text":"hi"')
    terminal.type("\x04")

    assert terminal.end()[0] == 0


def test_frames_do_not_garble_the_line_being_typed(at_prompt, connect):
    """They appear above it; text and cursor are where they were."""
    terminal = at_prompt("/ws/chat/busy")
    terminal.expect('"welcome"')
    terminal.type("say text=hello world" + "\x1b[D" * 5)
    terminal.expect("world")

    connect("/ws/chat/busy", "--send", "say text=knock knock", "--expect", "said")
    terminal.expect('"leaves":{"')
    terminal.expect("> say text=hello world")
    rows = screen(terminal.raw)
    terminal.type("big ")
    terminal.expect("big world")
    after = screen(terminal.raw)
    terminal.type("\n")
    terminal.expect('"text":"hello big world"')
    terminal.type("\x04")

    assert terminal.end()[0] == 0
    assert rows[-1] == "> say text=hello world"
    assert any('"text":"knock knock"' in row and row.startswith("< ") for row in rows)
    assert after[-1] == "> say text=hello big world"


def test_tab_completes_types_and_fields(at_prompt):
    """As far as it is certain; where it is not, the choices are listed."""
    terminal = at_prompt("/ws/chat/tea")

    terminal.type("\t")
    terminal.expect("say  typing")
    terminal.type("ty\t\ttrue\n/types\n")
    terminal.expect("> typing active=true")
    terminal.expect("takes:")
    terminal.type("\x04")
    code, rest = terminal.end()

    assert (code, "error" in rest) == (0, False)


def test_a_pasted_message_is_one_message(at_prompt):
    """Though it has several lines."""
    terminal = at_prompt("/ws/chat/matcha")

    terminal.type('\x1b[200~{\r  "type": "say",\r  "payload": {"text": "hi"}\r}\x1b[201~\n')
    terminal.expect('"said"')
    terminal.type("\x04")

    assert terminal.end()[0] == 0


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_nothing_that_comes_can_command_the_terminal(at_prompt, variables):
    """Control characters are shown as JSON writes them; without colour there is none at all."""
    terminal = at_prompt("/painter", **variables)
    terminal.expect("(binary) 00ff")
    terminal.type("\x04")
    code, _ = terminal.end()

    ours = re.sub(
        r"\x1b\[(J|\?2004[hl]|[0-9]+C" + ("" if variables else r"|[0-9;]*m") + ")", "", terminal.raw
    )
    assert code == 0
    assert r"bell \u0007 \u001b[31mred\u001b[0m \u001b]0;title\u0007 \u009b2J \u202e" in ours
    assert not set(ours) & {"\x1b", "\x07", "\x9b", "\u202e"}


@pytest.mark.quick
def test_ctrl_c_at_the_prompt_is_a_clean_end(at_prompt):
    """Nothing was pending: exit 0, and the terminal is as it was."""
    terminal = at_prompt("/ws/chat/tea")
    terminal.type("half a li")
    terminal.expect("half a li")

    terminal.interrupt()
    code, rest = terminal.end()

    assert (code, "Closed: 1000 (done)" in rest) == (0, True)
    assert terminal.raw.rindex("\x1b[?2004l") > terminal.raw.rindex("\x1b[?2004h")


def test_a_close_by_the_server_ends_the_prompt(at_prompt):
    """Nothing more could be sent; the shell gets its terminal back."""
    terminal = at_prompt("/closer")

    terminal.type("end 1012\n")
    code, rest = terminal.end()

    assert code == 1
    assert "the server closed the connection: 1012" in rest


def test_with_expectations_a_terminal_is_not_asked(terminal, server, tmp_path):
    """--expect is for one question: it sends, waits and ends."""
    shutil.copytree(server.folder, tmp_path, dirs_exist_ok=True)
    opened = terminal(
        *("connect", "/ws/chat/sencha", "--port", server.port),
        *("--send", "say text=hi", "--expect", "said"),
    )

    code, shown = opened.end()

    assert code == 0
    assert '> {"type":"say","payload":{"text":"hi"}}' in shown
    assert '< {"type":"said"' in shown
    assert "/help" not in shown


def test_a_terminal_without_a_cursor_gets_plain_lines(terminal, server, tmp_path):
    """TERM=dumb: what is typed is read a line at a time, by the terminal's own means."""
    shutil.copytree(server.folder, tmp_path, dirs_exist_ok=True)
    opened = terminal("connect", "/ws/chat/darjeeling", "--port", server.port, TERM="dumb")
    opened.expect('"welcome"')

    opened.type("say text=hi\n")
    opened.expect('"said"')
    opened.type("\x04")
    code, _ = opened.end()

    assert code == 0
    assert "\x1b" not in opened.raw
