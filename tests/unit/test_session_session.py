"""One connection's life in the server: what it answers, in which order, and how it ends."""

import asyncio
import gc
import warnings

import falcon
import falcon.asgi
import falcon.testing
import msgspec
import pytest

from falcon_pachinko import (
    Limits,
    MessageError,
    WebSocketResource,
    handles_message,
    install,
    to,
)
from falcon_pachinko.connection.stepping import resume
from falcon_pachinko.session.answers import from_http
from falcon_pachinko.testing import HandshakeDenied, simulate


@pytest.fixture
def serve():
    def make(resource, limits=None):
        app = falcon.asgi.App()
        install(app, limits=limits)
        app.add_websocket_route("/", resource)
        return app

    return make


async def test_on_disconnect_that_raises_cancelled_error_is_logged(serve, caplog):
    """It is logged like any other error, and the server hears nothing of it."""

    class Odd(WebSocketResource):
        async def on_disconnect(self, ws, close_code):
            raise asyncio.CancelledError

    async with simulate(serve(Odd)) as client, client.connect("/"):
        pass

    assert "on_disconnect failed" in caplog.text


async def test_on_connect_that_raises_cancelled_error_is_a_500(serve, caplog):
    """The handshake is answered with 500, as for any other error."""

    class Odd(WebSocketResource):
        async def on_connect(self, req, ws):
            raise asyncio.CancelledError

    async with simulate(serve(Odd)) as client:
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/").__aenter__()

    assert denied.value.status == 500


async def test_a_concurrent_handler_that_never_began_leaves_no_warning(serve):
    """A handler that waits for its turn when the client goes is closed unstarted."""

    class Busy(WebSocketResource):
        @handles_message("wait", concurrent=True)
        async def wait(self, ws):
            await asyncio.Event().wait()

    limits = Limits(concurrency=1, handler_grace=0.02)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        app = serve(Busy, limits)
        async with simulate(app, timeout=3) as client, client.connect("/") as ann:
            await ann.send_json({"type": "wait"})
            await ann.send_json({"type": "wait"})
            await asyncio.sleep(0.3)
        gc.collect()

    assert [str(each.message) for each in caught] == []


async def test_a_payload_whose_post_init_fails_is_the_applications_failure(serve, answered):
    """What msgspec does not wrap fails the one message, and the connection lives."""

    class Explosive(msgspec.Struct):
        n: int = 0

        def __post_init__(self):
            raise KeyError("not one of msgspec's own")

    class Room(WebSocketResource):
        @handles_message("t")
        async def t(self, ws, payload: Explosive): ...

        @handles_message("echo")
        async def echo(self, ws, payload):
            return payload

    async with simulate(serve(Room)) as client, client.connect("/") as ann:
        answer = await answered(ann.request("t", {}))
        alive = await answered(ann.request("echo", 1))

    assert answer["payload"]["code"] == "internal_error"
    assert alive["payload"] == 1


async def test_websocket_disconnected_after_the_accept_closes(serve):
    """Raised by on_connect (of another socket, say) after it accepted: the client gets 1011."""

    class Odd(WebSocketResource):
        async def on_connect(self, req, ws):
            await ws.accept()
            raise falcon.WebSocketDisconnected(4000)

    async with simulate(serve(Odd), timeout=1) as client, client.connect("/") as ann:
        with pytest.raises(falcon.WebSocketDisconnected):
            await ann.receive()

    assert ann.close_code == 1011


async def test_a_handler_that_swallows_its_cancellation_once_is_cancelled_quietly(monkeypatch):
    """The second one ends it, and the server sees no cancellation at all."""
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)

    class Stubborn(WebSocketResource):
        @handles_message("wait")
        async def wait(self, ws):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.Event().wait()

    app = falcon.asgi.App()
    install(app, limits=Limits(handler_grace=0.02))
    app.add_websocket_route("/", Stubborn)
    events = asyncio.Queue()
    for event in (
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": '{"type":"wait"}'},
        {"type": "websocket.disconnect", "code": 1000},
    ):
        events.put_nowait(event)

    async def send(event): ...

    async with simulate(app):
        scope = falcon.testing.create_scope_ws("/", spec_version="2.3")
        serving = asyncio.create_task(app(scope, events.get, send))
        await asyncio.wait([serving], timeout=5)

    assert not serving.cancelled()


@pytest.mark.parametrize("answers", [True, False])
async def test_a_disconnect_does_not_cut_the_accept_off(serve, until, monkeypatch, answers):
    """Once the server has answered, the client is in, and is closed with the code it was given.

    If the server never does, the handshake is given up after a moment.
    """
    monkeypatch.setattr("falcon_pachinko.session.session.CLOSE_WAIT", 0.05)
    goodbyes, sent, answered = [], [], asyncio.Event()

    class Door(WebSocketResource):
        async def on_connect(self, req, ws):
            ws.user_id = "ann"
            await ws.accept()

        async def on_disconnect(self, ws, close_code):
            goodbyes.append((close_code, ws.accepted))

    async def send(event):
        sent.append((event["type"], event.get("code")))
        if event["type"] == "websocket.accept":
            await answered.wait()
        else:
            events.put_nowait({"type": "websocket.disconnect", "code": event["code"]})

    app, events = serve(Door), asyncio.Queue()
    events.put_nowait({"type": "websocket.connect"})
    async with simulate(app) as client:
        scope = falcon.testing.create_scope_ws("/", spec_version="2.3")
        serving = asyncio.create_task(app(scope, events.get, send))
        await until(lambda: sent)
        await client.manager.disconnect(to.user("ann"), 4403, "banned")
        if answers:
            answered.set()
        await asyncio.wait_for(serving, 30)

    if answers:
        assert sent == [("websocket.accept", None), ("websocket.close", 4403)]
        assert goodbyes == [(4403, True)]
    else:
        assert goodbyes == []


# Concurrent handlers.


def begin_at_once(loop, coroutine, **options):
    """Be a task factory that starts coroutines at once, for a Python that has none."""
    try:
        waiting_for = coroutine.send(None)
    except StopIteration as done:
        future = loop.create_future()
        future.set_result(done.value)
        return future
    return asyncio.Task(_go_on(coroutine, waiting_for), loop=loop)


async def _go_on(coroutine, waiting_for):
    class Rest:
        def __await__(self):
            return resume(coroutine, waiting_for)

    return await Rest()


EAGER = getattr(asyncio, "eager_task_factory", begin_at_once)


@pytest.mark.parametrize("eager", [True, False])
async def test_every_message_that_waits_for_its_turn_gets_it(serve, eager):
    """Also where a handler is done before its task is: the next one has its turn then."""
    first_may_end = asyncio.Event()
    handled = []

    class Busy(WebSocketResource):
        @handles_message("note", concurrent=True)
        async def note(self, ws, payload: int):
            if payload == 0:
                await first_may_end.wait()
            handled.append(payload)
            if payload == 4:
                await ws.send_media({"type": "done"})

        @handles_message("go")
        async def go(self, ws):
            if eager:
                asyncio.get_running_loop().set_task_factory(EAGER)
            first_may_end.set()

    async with simulate(serve(Busy, Limits(concurrency=1))) as client, client.connect("/") as ann:
        for number in range(5):
            await ann.send_json({"type": "note", "payload": number})
        await ann.send_json({"type": "go"})
        done = await ann.receive_json()
        asyncio.get_running_loop().set_task_factory(None)

    assert done == {"type": "done"}
    assert handled == [0, 1, 2, 3, 4]


# What a client is told.

INTERNAL = {"code": "internal_error", "message": "Internal error while handling this message."}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (falcon.HTTPForbidden(), "forbidden", "403 Forbidden"),
        (falcon.HTTPForbidden(title="No"), "forbidden", "No"),
        (falcon.HTTPForbidden(title="No", description="Not you."), "forbidden", "Not you."),
        (falcon.HTTPError(799), "http_799", "799 End of the world"),
        (falcon.HTTPError("451 Burnt"), "unavailable_for_legal_reasons", "451 Burnt"),
    ],
)
def test_an_http_error_is_told_by_its_name(error, code, message):
    """The status's name is the code, what it says the sentence, the number stands beside."""
    told = from_http(error)

    assert (told.code, told.message, told.status) == (code, message, error.status_code)


@pytest.mark.parametrize("status", [falcon.HTTPStatus(200), falcon.HTTPStatus("204 No Content")])
def test_a_status_of_success_is_no_error(status):
    """Raising one answers nothing."""
    assert from_http(status) is None


def test_a_redirect_is_told_by_its_name():
    """A client has no use for it but to know."""
    told = from_http(falcon.HTTPStatus(303))

    assert (told.code, told.status) == ("see_other", 303)


@pytest.mark.parametrize(
    ("error", "payload"),
    [
        (MessageError("taken", "Somebody sits."), {"code": "taken", "message": "Somebody sits."}),
        (
            falcon.HTTPConflict(title="Taken"),
            {"code": "conflict", "message": "Taken", "status": 409},
        ),
        (KeyError("secret"), INTERNAL),
        (falcon.HTTPStatus(200), INTERNAL),
        (asyncio.CancelledError(), INTERNAL),
    ],
)
async def test_what_a_handler_raises_is_the_one_answer(serve, error, payload):
    """By its ref; the connection lives, and the exception's own text stays here."""

    class Failing(WebSocketResource):
        @handles_message("fail")
        async def fail(self, ws):
            raise error

        @handles_message("echo")
        async def echo(self, ws, payload):
            return payload

    async with simulate(serve(Failing)) as client, client.connect("/") as ann:
        await ann.send_json({"type": "fail", "ref": "1"})
        await ann.send_json({"type": "echo", "ref": 2, "payload": "alive"})
        answers = [await ann.receive_json() for _ in range(2)]

    assert answers == [
        {"type": "error", "ref": "1", "payload": payload},
        {"type": "reply", "ref": 2, "payload": "alive"},
    ]
