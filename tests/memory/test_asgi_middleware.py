"""An ASGI middleware around the app sees its own connection only, and slows down nobody else."""

import asyncio
import contextlib
import contextvars

import anyio
import pytest

from falcon_pachinko import Limits, WebSocketResource, handles_message
from falcon_pachinko.testing import simulate

CURRENT = contextvars.ContextVar("CURRENT", default="nobody")
"""What a tracer or a logger of the application's keeps: whose connection this is."""


class Member(WebSocketResource):
    """Talks to everybody in one room."""

    async def on_connect(self, req, ws):
        await self.join_room("tea")
        return True

    @handles_message("say")
    async def say(self, ws, payload: str):
        await self.broadcast_to_room("tea", {"type": "said", "payload": payload})
        return CURRENT.get()

    @handles_message("beside", concurrent=True)
    async def beside(self, ws, payload: str):
        await self.broadcast_to_room("tea", {"type": "said", "payload": payload})
        return CURRENT.get()


class Around:
    """A middleware: wraps every send of every WebSocket in a context manager."""

    def __init__(self, app, context):
        self.app, self.context = app, context

    async def __call__(self, scope, receive, send):
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        name = scope["query_string"].decode()

        async def send_within(event):
            async with self.context(name, event):
                await send(event)

        token = CURRENT.set(name)
        try:
            await self.app(scope, receive, send_within)
        finally:
            CURRENT.reset(token)


@contextlib.asynccontextmanager
async def asyncio_timeout(name, event):
    async with asyncio.timeout(0.05):
        yield


@contextlib.asynccontextmanager
async def anyio_fail_after(name, event):
    with anyio.fail_after(0.05):
        yield


@contextlib.asynccontextmanager
async def anyio_cancel_scope(name, event):
    with anyio.CancelScope(deadline=anyio.current_time() + 0.05):
        yield


@contextlib.asynccontextmanager
async def task_group(name, event):
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        yield


@contextlib.asynccontextmanager
async def token(name, event):
    before = CURRENT.set(f"sending to {name}")
    try:
        yield
    finally:
        CURRENT.reset(before)


TIMEOUTS = [asyncio_timeout, anyio_fail_after, anyio_cancel_scope]


@pytest.mark.parametrize("kind", ["say", "beside"])
@pytest.mark.parametrize("context", TIMEOUTS)
async def test_a_timeout_around_send_ends_its_own_client_only(serve, context, kind):
    """Who broadcasts to one that does not read goes on, and is not cancelled in its place."""
    app = Around(serve(Member, limits=Limits(send_timeout=None)), context)
    async with (
        simulate(app, write_buffer=100) as client,
        client.connect("/?ann") as ann,
        client.connect("/?bob") as bob,
        client.connect("/?slow") as slow,
    ):
        await slow.stall()
        for number in range(5):
            await ann.send_json({"type": kind, "payload": "x" * 60, "ref": number})
        answers = [
            message
            for message in [await ann.receive_json() for _ in range(10)]
            if message["type"] == "reply"
        ]
        heard = [await bob.receive_json() for _ in range(5)]
        again = await bob.request("say", "still here")

    assert [each["ref"] for each in answers] == list(range(5))
    assert [each["payload"] for each in heard] == ["x" * 60] * 5
    assert again["type"] == "reply"


@pytest.mark.parametrize("kind", ["say", "beside"])
@pytest.mark.parametrize("context", [*TIMEOUTS, task_group, token])
async def test_a_context_around_send_is_left_where_it_was_entered(serve, context, kind):
    """No broadcast goes on in the context of one of its receivers."""
    app = Around(serve(Member), context)
    async with (
        simulate(app) as client,
        client.connect("/?ann") as ann,
        client.connect("/?bob") as bob,
    ):
        for _ in range(3):
            answer = await ann.request(kind, "hi")
            assert answer["payload"] == "ann"
        answer = await bob.request(kind, "hi")

    assert answer["payload"] == "bob"


class Tracer:
    """A middleware as tracers are: a span for the connection, and one for each event in it."""

    def __init__(self, app):
        self.app = app
        self.spans = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        name = scope["query_string"].decode()
        connection = CURRENT.set(name)

        async def receive_in_span():
            event = await receive()
            self.spans.append((CURRENT.get(), name, "receive"))
            return event

        async def send_in_span(event):
            parent = CURRENT.get()
            span = CURRENT.set(f"{name} sends")
            try:
                await send(event)
            finally:
                CURRENT.reset(span)
                self.spans.append((parent, name, "send"))

        try:
            await self.app(scope, receive_in_span, send_in_span)
        finally:
            CURRENT.reset(connection)


@pytest.mark.parametrize("stalls", [False, True], ids=["all read", "one stalls"])
@pytest.mark.parametrize("kind", ["say", "beside"])
async def test_a_tracer_books_every_send_on_the_right_connection(serve, kind, stalls):
    """A broadcast's send belongs to the one who gets it, not to the one who made it."""
    tracer = Tracer(serve(Member))
    async with (
        simulate(tracer, write_buffer=100) as client,
        client.connect("/?ann") as ann,
        client.connect("/?bob") as bob,
    ):
        if stalls:
            await bob.stall()
        for number in range(6):
            await ann.send_json({"type": kind, "payload": "x" * 60, "ref": number})
        for _ in range(12):
            await ann.receive_json()
        await bob.resume()
        heard = [await bob.receive_json() for _ in range(6)]

    assert len(heard) == 6
    assert {(parent, name) for parent, name, _ in tracer.spans} == {("ann", "ann"), ("bob", "bob")}
