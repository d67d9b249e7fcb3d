"""Whatever the application raises, wherever: the rest goes on, and nothing is left behind."""

import asyncio
import contextlib
import logging
from urllib.parse import quote

import falcon
import falcon.asgi
import pytest

from falcon_pachinko import Gap, Limits, WebSocketResource, handles_message, install, to
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.testing import Disconnected, HandshakeDenied, simulate


class Unusual(BaseException):
    """An exception that is no Exception, as some libraries have them."""


SURVIVED = [
    ZeroDivisionError("secret"),
    ExceptionGroup("secret", [OSError("secret"), ExceptionGroup("inner", [KeyError("secret")])]),
    asyncio.CancelledError("secret"),
    TimeoutError("secret"),
    StopIteration("secret"),
    StopAsyncIteration("secret"),
    RecursionError("secret"),
    falcon.WebSocketDisconnected(4000),
    falcon.HTTPStatus(200, text="secret"),
]


def named(error):
    return type(error).__name__


class Fragile(WebSocketResource):
    """Fails where and as it is told to."""

    def __init__(self, error, where, seen):
        self.error, self.where, self.seen = error, where, seen

    async def on_connect(self, req, ws):
        await self.join_room("lobby")
        return True

    @handles_message("echo")
    async def echo(self, ws, payload):
        return payload

    @handles_message("fail")
    async def fail(self, ws):
        if self.where == "after a wait":
            await asyncio.sleep(0)
        raise self.error

    async def on_message(self, ws, message):
        raise self.error

    async def on_disconnect(self, ws, close_code):
        self.seen.append(close_code)
        if self.where == "on_disconnect":
            raise self.error


@pytest.fixture
def seen():
    return []


@pytest.fixture
def fragile(serve, seen):
    def make(error, where, **limits):
        return serve(Fragile, error=error, where=where, seen=seen, limits=Limits(**limits))

    return make


@pytest.mark.parametrize("where", ["at once", "after a wait"])
@pytest.mark.parametrize("error", SURVIVED, ids=named)
async def test_a_handler_that_raises_fails_one_message(
    fragile, seen, caplog, error, where, answered
):
    """Logged once with its traceback; the client hears that, not what; the connection lives."""
    async with simulate(fragile(error, where)) as client:
        async with client.connect("/") as ann:
            answer = await answered(ann.request("fail"))
            alive = await answered(ann.request("echo", 1))
        status = client.manager.status()

    (record,) = caplog.records
    assert answer["payload"] == {
        "code": "internal_error",
        "message": "Internal error while handling this message.",
    }
    assert alive["payload"] == 1
    assert record.getMessage() == "Fragile failed on 'fail'"
    assert len(record.connection_id) == 25
    assert record.exc_info[1] is error or record.exc_info[1].__cause__ is error
    assert (status["errors"], status["connections"], status["rooms"]) == ({"fail": 1}, 0, 0)
    assert seen == [1000]


@pytest.mark.parametrize("error", SURVIVED, ids=named)
async def test_on_message_that_raises_fails_one_frame(fragile, seen, error):
    """As a handler does."""
    async with simulate(fragile(error, "at once")) as client, client.connect("/") as ann:
        await ann.send_text("unclaimed")
        fault = await ann.receive_json()
        alive = await ann.request("echo", 1)

    assert fault["payload"]["code"] == "internal_error"
    assert alive["payload"] == 1


@pytest.mark.parametrize(
    "error", [each for each in SURVIVED if not isinstance(each, asyncio.CancelledError)], ids=named
)
async def test_on_disconnect_that_raises_is_logged(fragile, seen, caplog, error):
    """Once; everything is cleaned up all the same."""
    async with simulate(fragile(error, "on_disconnect")) as client:
        async with client.connect("/"):
            pass
        status = client.manager.status()

    (record,) = caplog.records
    assert seen == [1000]
    assert "on_disconnect failed for Fragile" in record.getMessage()
    assert (status["connections"], status["rooms"]) == (0, 0)


async def test_on_disconnect_that_hangs_is_cut_off(serve, caplog):
    """After ``shutdown_timeout``, with a line in the log."""
    cancelled = []

    class Hangs(WebSocketResource):
        async def on_disconnect(self, ws, close_code):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(close_code)
                raise

    async with (
        simulate(serve(Hangs, limits=Limits(shutdown_timeout=0.01))) as client,
        client.connect("/"),
    ):
        pass

    assert cancelled == [1000]
    assert "on_disconnect failed for Hangs" in caplog.text
    assert "TimeoutError" in caplog.text


async def test_an_unusual_exception_leaves_nothing_behind(fragile, by_hand, seen):
    """What is no Exception goes up to the server, and the clean-up runs on its way."""
    app = fragile(Unusual(), "at once")
    async with simulate(app) as client:
        server = by_hand(app)
        server.start()
        server.say('{"type": "fail"}')
        await server.ended()
        status = client.manager.status()

    assert isinstance(server.task.exception(), Unusual)
    assert seen == [1011]
    assert (status["connections"], status["rooms"]) == (0, 0)


async def test_close_on_error_closes_after_the_error_frame(serve, closing, answered):
    """For those who prefer 1011 to going on."""

    class Strict(WebSocketResource):
        close_on_error = True

        @handles_message("fail")
        async def fail(self, ws):
            raise ZeroDivisionError

        @handles_message("unknown payload")
        async def typed(self, ws, payload: int): ...

    async with simulate(serve(Strict)) as client, client.connect("/") as ann:
        refused = await answered(ann.request("unknown payload", "text"))
        failed = await answered(ann.request("fail"))
        code = await closing(ann)

    assert [each["payload"]["code"] for each in (refused, failed)] == [
        "invalid_payload", "internal_error",
    ]  # fmt: skip
    assert (code, ann.close_reason) == (1011, "internal error")


async def test_one_failing_connection_does_not_touch_the_others(fragile, answered):
    """They are in the same room, and hear each other as before."""
    async with (
        simulate(fragile(ZeroDivisionError(), "at once")) as client,
        client.connect("/") as ann,
        client.connect("/") as bob,
    ):
        await answered(ann.request("fail"))
        await client.manager.broadcast_to_room("lobby", "still here")
        heard = [await each.receive_json() for each in (ann, bob)]

    assert heard == ["still here"] * 2


# Cancellation from outside.


async def test_a_server_that_cancels_waits_for_the_clean_up(serve, by_hand, seen, until):
    """The call returns normally, since servers log whatever escapes from it as an error."""

    class Polite(WebSocketResource):
        @handles_message("wait")
        async def wait(self, ws):
            await asyncio.Event().wait()

        async def on_disconnect(self, ws, close_code):
            await asyncio.sleep(0)
            seen.append(close_code)

    app = serve(Polite)
    async with simulate(app) as client:
        server = by_hand(app)
        server.start()
        server.say('{"type": "wait"}')
        await until(lambda: client.manager.status()["received"])
        server.task.cancel()
        await server.ended()
        status = client.manager.status()

    assert server.task.exception() is None
    assert seen == [1012]
    assert status["connections"] == 0


async def idle(manager, server, until):
    """The session waits for a frame."""


async def busy(manager, server, until):
    """A handler runs, which ends with its cancellation."""
    server.say('{"type": "wait"}')
    await until(lambda: manager.status()["received"])


async def stubborn(manager, server, until):
    """A handler runs, which goes on after its cancellation, and ends well."""
    server.say('{"type": "endure"}')
    await until(lambda: manager.status()["received"])


async def closed_before(manager, server, until):
    """The connection was closed before, and its close frame waits."""
    await manager.disconnect(to.room("lobby"), 1012)


async def drained_before(manager, server, until):
    """The process drains, and the close frame waits."""
    await manager.drain(0)


@pytest.mark.parametrize("state", [idle, busy, stubborn, closed_before, drained_before])
async def test_a_server_that_cancels_need_not_report_an_end(serve, by_hand, seen, until, state):
    """A client that does not read keeps neither a frame, nor a server that never tells its end."""

    class Deaf(WebSocketResource):
        async def on_connect(self, req, ws):
            await self.join_room("lobby")
            return True

        @handles_message("wait")
        async def wait(self, ws):
            await asyncio.Event().wait()

        @handles_message("endure")
        async def endure(self, ws):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        async def on_disconnect(self, ws, close_code):
            seen.append(close_code)

    app = serve(Deaf, limits=Limits(send_timeout=None, handler_grace=None, shutdown_timeout=60))
    async with simulate(app) as client:
        server = by_hand(app)
        server.start()
        await until(lambda: server.kinds == ["websocket.accept"])
        server.reads.clear()
        await client.manager.broadcast_to_all("Hello?")
        await state(client.manager, server, until)
        server.task.cancel()
        await server.ended()

    assert seen == [1012]
    assert server.kinds == ["websocket.accept"]


@pytest.mark.parametrize("ends", ["the server cancels", "somebody closes"])
@pytest.mark.parametrize("who", ["on_connect", "the library"])
async def test_a_server_that_never_answers_an_accept_is_not_waited_for(serve, by_hand, who, ends):
    """Whoever has called it: the session ends soon after its connection does."""
    reached = asyncio.Queue()

    class Welcoming(WebSocketResource):
        async def on_connect(self, req, ws):
            reached.put_nowait(ws)
            if who == "on_connect":
                await ws.accept()
            return True

    class Stuck(by_hand):
        async def _send(self, event):
            if event["type"] == "websocket.accept":
                reached.put_nowait("accept")
                await asyncio.Event().wait()

    app = serve(Welcoming, limits=Limits(send_timeout=None, handler_grace=None))
    async with simulate(app) as client:
        server = Stuck(app)
        server.start()
        ws, _ = await reached.get(), await reached.get()
        if ends == "the server cancels":
            server.task.cancel()
        else:
            await ws.close(4001)
        await server.ended()
        connections = client.manager.status()["connections"]

    assert server.task.exception() is None
    assert connections == 0


async def test_a_clean_up_survives_a_second_cancellation(serve, by_hand, until):
    """A server in a hurry may cancel again; ``on_disconnect`` still runs to its end."""
    began, may_end = asyncio.Event(), asyncio.Event()
    ended = []

    class Slow(WebSocketResource):
        async def on_disconnect(self, ws, close_code):
            began.set()
            await may_end.wait()
            ended.append(close_code)

    app = serve(Slow)
    async with simulate(app):
        server = by_hand(app)
        server.start()
        await until(lambda: server.kinds == ["websocket.accept"])
        server.task.cancel()
        await began.wait()
        server.task.cancel()
        may_end.set()
        await server.ended()

    assert ended == [1012]


FORGED = "tea\nCRITICAL root: all is lost\x1b[31m\r"
"""What a client says that wants a line of its own in the log."""


class Careless(WebSocketResource):
    """Fails, and logs, whatever a client wants."""

    async def on_connect(self, req, ws, room):
        self.room = room
        await self.join_room(room)
        return True

    @handles_message("fail")
    async def fail(self, ws, payload: str):
        raise KeyError(len(payload))

    @handles_message("close")
    async def close(self, ws, payload: str):
        await ws.close(4000, payload)

    @handles_message("identify")
    async def identify(self, ws, payload: str):
        ws.user_id = payload

    async def on_message(self, ws, message):
        raise KeyError(len(message))


def says(message_type, payload=FORGED):
    async def say(client):
        async with client.connect("/" + quote(FORGED)) as ann:
            await ann.send_json({"type": message_type, "payload": payload, "ref": FORGED})
            with contextlib.suppress(Disconnected):
                await ann.receive()

    return say


def knocks(**headers):
    async def knock(client):
        with pytest.raises(HandshakeDenied):
            await client.connect("/tea", headers=headers).__aenter__()

    return knock


async def leaves(client):
    async with client.connect("/tea") as ann:
        await ann.close(4000, FORGED)


async def reads_too_slowly(client):
    async with client.connect("/" + quote(FORGED)) as ann:
        for _ in range(9):
            await client.manager.broadcast_to_room(FORGED, "x" * 60_000)
        await ann.drop()


async def is_missed(client):
    gap = Gap(f"room:{FORGED}", FORGED, FORGED)
    async with client.connect("/" + quote(FORGED)):
        await client.manager._exchange._missed(gap)


@pytest.mark.parametrize(
    "attempt",
    [
        says("fail"), says("close"), says("identify"), says(FORGED), says("fail", {FORGED: 1}),
        knocks(Origin=f"https://{FORGED.splitlines()[0]}\x1b.example"), knocks(Host="tea\x1b"),
        leaves, reads_too_slowly, is_missed,
    ],
    ids=["payload", "reason", "user", "type", "key", "origin", "host", "goodbye", "room", "gap"],
)  # fmt: skip
async def test_no_client_writes_a_line_of_the_log(attempt, caplog):
    """Nor colours one: what it chose is shown escaped, in tracebacks too."""
    app = falcon.asgi.App()
    install(
        app, limits=Limits(outbox_bytes=100_000), allowed_hosts=["localhost"],
        backend=MemoryBackend(MemoryHub()),
    )  # fmt: skip
    app.ws_connection_manager.configure_rooms("", resync=True)
    app.add_websocket_route("/{room}", Careless)
    with caplog.at_level(logging.DEBUG, "falcon_pachinko"):
        async with simulate(app) as client:
            await attempt(client)

    assert not [line for line in caplog.text.splitlines() if line.startswith("CRITICAL")]
    assert "\x1b" not in caplog.text


async def test_a_failed_on_message_is_not_told_with_a_refusal(serve, caplog):
    """The log has what the application raised, and nothing that came before it."""
    async with (
        simulate(serve(Careless, "/{room}")) as client,
        client.connect("/tea") as ann,
    ):
        await ann.send_json({"type": "unknown", "ref": 1})
        await ann.receive_json()

    assert "KeyError" in caplog.text
    assert "During handling" not in caplog.text
