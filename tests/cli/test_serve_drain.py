"""`pachinko serve --no-reload` at its end: clients are sent away before sockets are closed."""

import contextlib
import json
import re
import signal
import socket
import time

import pytest
import websockets.exceptions
from websockets.sync.client import connect

DEADLINE = 40

APP = """
import asyncio
import time

import falcon.asgi
from falcon_pachinko import Limits, WebSocketResource, handles_message, install


class Guest(WebSocketResource):
    @handles_message("work")
    async def work(self, ws, payload: float):
        await ws.send_media({"type": "working"})
        try:
            await asyncio.sleep(payload)
        except asyncio.CancelledError:
            print("interrupted", flush=True)
            raise
        return "done"

    @handles_message("block")
    async def block(self, ws):
        await ws.send_media({"type": "blocking"})
        await asyncio.sleep(0)
        time.sleep(99)

    async def on_disconnect(self, ws, close_code):
        print("gone", close_code, flush=True)


class Slow:
    async def on_get(self, req, resp):
        print("asked", flush=True)
        await asyncio.sleep(1)
        resp.text = "slow"


class Lifespan:
    async def process_shutdown(self, scope, event):
        print("shut down", flush=True)


app = falcon.asgi.App(middleware=[Lifespan()])
install(app, limits=Limits(shutdown_timeout=2))
app.add_websocket_route("/ws", Guest)
app.add_route("/slow", Slow())
"""


@pytest.fixture
def project(tmp_path):
    """Give a folder with an app whose handlers take as long as they are told to."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def drained(serve):
    """Start it without reload; give the process, and a way to connect."""

    def start(*arguments):
        serving = serve("app:app", "--port", "0", "--no-reload", *arguments)
        url = _websocket_url(serving, as_json="--json" in arguments)
        return serving, lambda: connect(url, open_timeout=DEADLINE)

    return start


def _websocket_url(serving, *, as_json):
    if as_json:
        return json.loads(serving.until('"serving"').string)["websocket_url"] + "/ws"
    return serving.ready().replace("http", "ws", 1) + "/ws"


def ending(client):
    """Receive until the other side closes; give the close frame, and what came before it."""
    received = []
    try:
        while True:
            received.append(json.loads(client.recv(DEADLINE)))
    except websockets.exceptions.ConnectionClosed as closed:
        return closed.rcvd, received


def busy(client, seconds):
    """Have a handler busy for so long."""
    client.send(json.dumps({"type": "work", "payload": seconds, "ref": 1}))
    assert json.loads(client.recv(DEADLINE)) == {"type": "working"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_client_is_told_when_to_come_back(drained, number):
    """The close frame has 1012, and in its reason some seconds; the process ends soon after."""
    serving, dial = drained()

    with dial() as client:
        serving.process.send_signal(number)
        closed, _ = ending(client)
        exit_code = serving.all_gone()

    assert (closed.code, exit_code) == (1012, 0)
    assert re.fullmatch(r"the server restarts; retry in [\d.]+ s", closed.reason)
    assert "gone 1012" in serving.output
    assert "Traceback" not in serving.output


def test_batches_come_back_at_different_times(drained):
    """Sixty clients are told two different times."""
    serving, dial = drained()

    with contextlib.ExitStack() as clients:
        all_of_them = [clients.enter_context(dial()) for _ in range(60)]
        serving.process.terminate()
        reasons = {ending(client)[0].reason for client in all_of_them}
        serving.all_gone()

    assert reasons == {
        "the server restarts; retry in 1 s",
        "the server restarts; retry in 1.25 s",
    }


def test_a_handler_that_runs_may_finish(drained):
    """Its answer arrives, and only then the close; a message behind it is not begun."""
    serving, dial = drained()

    with dial() as client:
        busy(client, 1)
        client.send('{"type": "work", "payload": 60}')
        serving.process.terminate()
        closed, received = ending(client)
        serving.all_gone()

    assert received == [{"type": "reply", "ref": 1, "payload": "done"}]
    assert closed.code == 1012
    assert "interrupted" not in serving.output


def test_a_handler_that_does_not_finish_is_cut_when_the_time_is_over(drained):
    """The client is told all the same, the command says so, and the app is shut down."""
    serving, dial = drained("--drain", "0.5")

    with dial() as client:
        busy(client, 60)
        serving.process.terminate()
        closed, _ = ending(client)
        exit_code = serving.all_gone()

    assert (closed.code, exit_code) == (1012, 0)
    assert "Cut, since it was still busy: 1 connection" in serving.output
    assert "interrupted" in serving.output
    assert "shut down" in serving.output


def test_a_drain_of_nothing_waits_for_nobody(drained):
    """With `--drain 0` a busy client is closed at once; it still gets the reason."""
    serving, dial = drained("--drain", "0")

    with dial() as client:
        busy(client, 60)
        before = time.monotonic()
        serving.process.terminate()
        closed, _ = ending(client)
        serving.all_gone()
        took = time.monotonic() - before

    assert closed.reason.startswith("the server restarts; retry in")
    assert took < DEADLINE


def test_nobody_new_gets_in_while_it_drains(drained):
    """The port refuses connections while a busy client still has its time."""
    serving, dial = drained()

    with dial() as client:
        busy(client, 2)
        port = client.remote_address[1]
        serving.process.terminate()
        serving.until("Draining 1 connection, for up to 20 s")
        with socket.socket() as probe:
            refused = probe.connect_ex(("127.0.0.1", port)) != 0
        _, received = ending(client)

    assert refused
    assert received == [{"type": "reply", "ref": 1, "payload": "done"}]


def test_a_request_that_is_under_way_is_answered(drained):
    """HTTP has the same time as the sockets."""
    serving, dial = drained()
    with dial() as client:
        host, port = client.remote_address[:2]
    with socket.create_connection((host, port)) as request:
        request.settimeout(DEADLINE)
        request.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        serving.until("asked")
        serving.process.terminate()
        answer = b"".join(iter(lambda: request.recv(65_536), b""))

    assert answer.endswith(b"slow")
    assert serving.all_gone() == 0


@pytest.mark.quick
def test_the_drain_comes_before_the_shutdown_of_the_app(drained):
    """Every `on_disconnect` has run when the middleware's shutdown does."""
    serving, dial = drained()

    with dial(), dial():
        serving.process.terminate()
        serving.all_gone()

    words = [line for line in serving.output.splitlines() if line in {"gone 1012", "shut down"}]
    assert words == ["gone 1012", "gone 1012", "shut down"]


def test_a_second_signal_does_not_wait(drained):
    """The handler is not waited for, nor is anything else."""
    serving, dial = drained("--drain", "600")

    with dial() as client:
        busy(client, 600)
        serving.process.send_signal(signal.SIGINT)
        serving.until("Draining")
        before = time.monotonic()
        serving.process.send_signal(signal.SIGINT)
        closed, _ = ending(client)
        serving.all_gone()
        took = time.monotonic() - before

    assert closed.code == 1012
    assert took < DEADLINE


def test_a_second_signal_ends_a_process_that_blocks(drained):
    """Code that waits without await keeps nobody from their prompt."""
    serving, dial = drained()

    with dial() as client:
        client.send('{"type": "block"}')
        client.recv(DEADLINE)
        serving.process.send_signal(signal.SIGINT)
        serving.process.send_signal(signal.SIGTERM)
        exit_code = serving.all_gone()

    assert exit_code == 1


def test_machines_are_told(drained):
    """`draining` and `drained` are events, with numbers."""
    serving, dial = drained("--json")

    with dial():
        serving.process.terminate()
        serving.all_gone()

    events = [json.loads(line) for line in serving.output.splitlines() if line.startswith("{")]
    told = {event["event"]: event for event in events}
    assert told["draining"]["connections"] == 1
    assert (told["drained"]["closed"], told["drained"]["cut"]) == (1, 0)
    assert events[-1]["event"] == "stopped"


def test_drain_goes_without_reload(drained, serve):
    """With reload there is nothing to drain; exit code 2 and what to type."""
    serving = serve("app:app", "--drain", "5")

    assert serving.all_gone() == 2
    assert "add --no-reload" in serving.output
