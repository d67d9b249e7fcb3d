"""The client in memory: it refuses what a server would, and can stop reading."""

import asyncio
from typing import ClassVar

import falcon
import falcon.asgi
import msgspec
import pytest

from falcon_pachinko import EncodeError, Limits, WebSocketResource, handles_message
from falcon_pachinko.testing import (
    Disconnected,
    HandshakeDenied,
    NothingReceivedError,
    UnexpectedFrameError,
    simulate,
)


class Join(msgspec.Struct, tag="join"):
    room: str


class Desk(WebSocketResource):
    subprotocols = ("tea",)

    @handles_message("echo")
    async def echo(self, ws, payload):
        return payload

    @handles_message("tell")
    async def tell(self, ws, payload):
        await ws.send_media(payload)

    @handles_message("bytes")
    async def bytes(self, ws):
        await ws.send_data(b"\x00")

    @handles_message("slow", concurrent=True)
    async def slow(self, ws, payload: str):
        await asyncio.sleep(0)
        return payload

    @handles_message("pour")
    async def pour(self, ws, payload: int):
        for number in range(payload):
            await ws.send_text(f"{number:01000}")

    @handles_message("close")
    async def close(self, ws):
        await ws.close(4000, "enough")


class Gate(WebSocketResource):
    schema: ClassVar = Join

    @handles_message(Join)
    async def join(self, ws, message: Join):
        return message.room


@pytest.fixture
def app(serve):
    return serve(Desk)


def raw(*events):
    """Make an app that sends these events, then waits until its client has gone."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        await receive()
        for event in events:
            await send(event)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    return app


ACCEPT = {"type": "websocket.accept"}


# Messages in the agreed codec.


@pytest.mark.parametrize(
    ("offered", "frame"),
    [
        ([], '{"type":"echo","payload":1,"ref":"1"}'),
        (["tea"], '{"type":"echo","payload":1,"ref":"1"}'),
        (["pachinko.msgpack"], b"\x83\xa4type\xa4echo\xa7payload\x01\xa3ref\xa11"),
    ],
)
async def test_messages_are_written_in_the_agreed_codec(app, offered, frame):
    """The same verbs work for JSON and for MessagePack."""
    async with simulate(app) as client, client.connect("/", subprotocols=offered) as ann:
        answer = await ann.request("echo", 1)
        await ann.send({"type": "tell", "payload": {"type": "told"}})
        told = await ann.expect("told")
        await ann.send({"type": "tell", "payload": 7})
        number = await ann.receive_message()

    assert ann.trace[0] == ("sent", frame)
    assert (answer["payload"], told, number) == (1, {"type": "told"}, 7)


async def test_a_message_in_the_other_codec_is_shown(app):
    """JSON where the codec is MessagePack, or bytes where it is JSON, is a failure."""
    async with simulate(app) as client:
        async with client.connect("/", subprotocols=["pachinko.msgpack"]) as ann:
            await ann.send({"type": "tell", "payload": {"type": "told"}})
            with pytest.raises(UnexpectedFrameError, match=r"a text frame was expected, .* b'"):
                await ann.receive_json()
        async with client.connect("/") as bob:
            await bob.send({"type": "bytes"})
            with pytest.raises(UnexpectedFrameError, match=r"in JSON was expected, .* b'"):
                await bob.receive_message()


async def test_text_that_is_no_json_is_shown():
    """Whichever verb reads it."""
    app = raw(ACCEPT, *[{"type": "websocket.send", "text": "tea?"}] * 3)
    async with simulate(app) as client, client.connect("/") as ann:
        with pytest.raises(UnexpectedFrameError, match=r"JSON was expected, .* 'tea\?'"):
            await ann.receive_json()
        with pytest.raises(UnexpectedFrameError, match=r"in JSON was expected, .* 'tea\?'"):
            await ann.receive_message()
        with pytest.raises(UnexpectedFrameError, match=r"in JSON was expected, .* 'tea\?'"):
            await ann.expect("told")


async def test_structs_are_sent_as_they_travel(serve):
    """By every verb that takes a message."""
    async with simulate(serve(Gate)) as client, client.connect("/") as ann:
        await ann.send(Join("tea"))
        await ann.send_json(Join("coffee"))
        answer = await ann.request(Join("milk"))

        assert [await ann.expect("reply", room) for room in ("tea", "coffee")]
    assert (answer["ref"], answer["payload"]) == ("1", "milk")


async def test_a_whole_message_may_be_requested(serve):
    """For the schema style, whose fields stand beside the type; the dict stays as it was."""
    message = {"type": "join", "room": "tea"}
    async with simulate(serve(Gate)) as client, client.connect("/") as ann:
        answer = await ann.request(message)

    assert answer["payload"] == "tea"
    assert message == {"type": "join", "room": "tea"}


async def test_requests_may_wait_side_by_side(app):
    """Each gets its own answer, in whatever order they come."""
    async with simulate(app) as client, client.connect("/") as ann:
        answers = await asyncio.gather(*(ann.request("slow", text) for text in "abc"))

    assert [answer["payload"] for answer in answers] == ["a", "b", "c"]


async def test_a_request_passes_over_what_is_no_message(serve):
    """A frame in another format is not its answer, and stays to be received."""

    class Chatty(WebSocketResource):
        @handles_message("echo")
        async def echo(self, ws, payload):
            await ws.send_data(b"\x00")
            await ws.send_text("not JSON")
            return payload

    async with simulate(serve(Chatty)) as client, client.connect("/") as ann:
        answer = await ann.request("echo", 1)
        rest = [await ann.receive(), await ann.receive()]

    assert (answer["payload"], rest) == (1, [b"\x00", "not JSON"])


async def test_a_payload_of_none_is_a_payload(app):
    """Only where none is given, none is sent."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.request("echo", None)

    assert '"payload":null' in ann.trace[0][1]


# What is expected.


async def test_expect_compares_the_payload_if_one_is_given(app):
    """A wrong one is shown, and so is a missing one."""
    told = {"type": "told", "payload": {"text": "tea"}}
    async with simulate(app) as client, client.connect("/") as ann:
        for message in (told, told, {"type": "told"}):
            await ann.send({"type": "tell", "payload": message})

        assert await ann.expect("told", {"text": "tea"}) == told
        with pytest.raises(UnexpectedFrameError, match=r"with the payload .*'milk'.* was expected"):
            await ann.expect("told", {"text": "milk"})
        with pytest.raises(UnexpectedFrameError, match="with the payload None was expected"):
            await ann.expect("told", None)


async def test_expect_close_waits_for_the_close(app):
    """It returns the code."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send({"type": "close"})

        assert await ann.expect_close() == 4000
        assert await ann.expect_close(4000) == 4000
    assert ann.close_reason == "enough"


async def test_expect_close_shows_what_came_instead(app):
    """Another code, a frame, or nothing at all."""
    async with simulate(app) as client, client.connect("/") as ann:
        with pytest.raises(NothingReceivedError, match=r"no close within 0\.01 s; nothing came"):
            await ann.expect_close(timeout=0.01)
        await ann.send({"type": "tell", "payload": "tea"})
        with pytest.raises(UnexpectedFrameError, match=r"a close was expected, .*tea"):
            await ann.expect_close()
        await ann.send({"type": "close"})
        with pytest.raises(UnexpectedFrameError, match=r"with 1000 .* closed with 4000, 'enough'"):
            await ann.expect_close(1000)


async def test_a_close_by_the_app_is_not_nothing(app):
    """A client that was thrown out hears nothing, but not because the app was silent."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send({"type": "close"})
        with pytest.raises(UnexpectedFrameError, match="nothing was expected; the app closed"):
            await ann.expect_nothing()


async def test_a_client_that_closed_hears_nothing(app):
    """That is what it asked for."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.close()
        await ann.expect_nothing()

        with pytest.raises(Disconnected, match="the client closed with 1000; nothing came before"):
            await ann.receive()


async def test_frames_before_a_close_are_received_after_it(app):
    """In their order, and only then the end."""
    async with simulate(app) as client, client.connect("/") as ann:
        for message in ({"type": "tell", "payload": 1}, {"type": "close"}):
            await ann.send(message)
        await asyncio.wait_for(asyncio.shield(ann.task), 30)
        first = await ann.receive_json()
        with pytest.raises(Disconnected) as gone:
            await ann.receive()

    assert first == 1
    assert (gone.value.code, gone.value.reason) == (4000, "enough")


# What a server would refuse.


async def test_a_message_over_ws_max_size_ends_with_1009(app):
    """Bytes count, not characters; the app hears of the end, not of the message."""
    async with simulate(app, ws_max_size=1000) as client:
        async with client.connect("/") as ann:
            await ann.request("echo", "é" * 400)
            await ann.send_json({"type": "echo", "payload": "x" * 1000})

            assert await ann.expect_close(1009) == 1009
        status = client.manager.status()

    assert "1000 bytes" in ann.close_reason
    assert (status["connections"], status["received"]) == (0, {"echo": 1})


@pytest.mark.parametrize(
    ("verb", "wrong", "hint"),
    [
        ("send_text", b"tea", "send_data takes bytes"),
        ("send_data", "tea", "send_text takes a str"),
        ("send_text", {"type": "tea"}, "send any message"),
    ],
)
async def test_a_frame_is_text_or_bytes(app, verb, wrong, hint):
    """The error names the verb to use instead."""
    async with simulate(app) as client, client.connect("/") as ann:
        with pytest.raises(TypeError, match=hint):
            await getattr(ann, verb)(wrong)


async def test_a_message_that_cannot_be_encoded_is_not_sent(app):
    """Nothing of it is on the wire."""
    async with simulate(app) as client, client.connect("/") as ann:
        with pytest.raises(EncodeError):
            await ann.send({"type": "\ud800"})

    assert ann.trace == []


async def test_a_reason_has_123_bytes(app):
    """A client's close frame has no room for more."""
    async with simulate(app) as client, client.connect("/") as ann:
        with pytest.raises(ValueError, match="123 bytes"):
            await ann.close(1000, "é" * 62)


@pytest.mark.parametrize(
    ("event", "error", "match"),
    [
        ({"type": "websocket.close", "code": 1006}, ValueError, "1006 cannot be sent"),
        ({"type": "websocket.close", "reason": "x" * 124}, ValueError, "123 bytes"),
        ({"type": "websocket.send", "text": "\ud800"}, UnicodeEncodeError, "surrogates"),
        (ACCEPT, RuntimeError, "no server takes 'websocket.accept' after the accept"),
        (
            {"type": "websocket.http.response.start", "status": 404},
            RuntimeError,
            "no server takes 'websocket.http.response.start' after the accept",
        ),
    ],
)
async def test_what_no_server_can_send_fails_the_app(event, error, match):
    """And its test, with the app's own traceback."""
    async with simulate(raw(ACCEPT, event)) as client:
        with pytest.raises(error, match=match):
            async with client.connect("/"):
                pass


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([(b"x-name", b"a\r\nset-cookie: admin=1")], "no server sends the header b'x-name'"),
        ([(b"x-name", b"a\nb")], "no server sends"),
        ([(b"x-name", b"a\0")], "no server sends"),
        ([(b"x name", b"a")], "no server sends"),
        ([(b"x:", b"a")], "no server sends"),
        ([(b"Sec-WebSocket-Protocol", b"chat")], "agreed on by accept"),
    ],
)
@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.http.response.start"])
async def test_a_header_that_no_server_sends_fails_the_app(kind, headers, why):
    """Be it in the accept or in a denial."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": kind, "status": 403, "headers": headers})

    client = simulate(falcon.asgi.App())
    client.app = app
    with pytest.raises(ValueError, match=why):
        async with client.connect("/"):
            pass


async def test_an_app_sends_nothing_after_its_close():
    """A second close neither."""
    close = {"type": "websocket.close"}
    async with simulate(raw(ACCEPT, close, close)) as client:
        with pytest.raises(RuntimeError, match=r"'websocket\.close' after the close"):
            async with client.connect("/"):
                pass


async def test_sending_to_a_client_that_went_is_an_os_error():
    """As the ASGI specification has it since 2.4."""
    sent = asyncio.Queue()

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        await receive()
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError as error:
            sent.put_nowait(str(error))

    async with simulate(falcon.asgi.App()) as client:
        client.app = app
        async with client.connect("/") as ann:
            await ann.close()

    assert sent.get_nowait() == "the client has gone"


async def test_a_subprotocol_that_was_not_offered_fails_the_handshake():
    """A real client would not go on either."""
    app = raw({**ACCEPT, "subprotocol": "milk"})
    async with simulate(app) as client:
        with pytest.raises(UnexpectedFrameError, match=r"'milk'.* offered: tea, coffee"):
            async with client.connect("/", subprotocols=["tea", "coffee"]):
                pass


async def test_an_app_that_returns_without_a_close_is_gone():
    """Its server drops the connection."""

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)

    async with simulate(falcon.asgi.App()) as client:
        client.app = app
        async with client.connect("/") as ann:
            with pytest.raises(Disconnected, match=r"the app went without a close frame \(1006\)"):
                await ann.receive()


async def test_a_crash_is_the_cause_of_what_the_client_sees():
    """The test that waits for a frame shows why none comes."""

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        await receive()
        raise ZeroDivisionError

    async with simulate(falcon.asgi.App()) as client:
        client.app = app
        ann = client.connect("/")
        await ann.__aenter__()
        await ann.send_text("go")
        with pytest.raises(Disconnected) as gone:
            await ann.receive()

    assert isinstance(gone.value.__cause__, ZeroDivisionError)


async def test_a_close_before_the_accept_is_a_403():
    """Whatever its code: no server puts that into an HTTP answer."""
    async with simulate(raw({"type": "websocket.close", "code": 4401})) as client:
        with pytest.raises(HandshakeDenied, match="denied with 403"):
            async with client.connect("/"):
                pass


async def test_a_denial_may_come_in_parts():
    """The body is put together."""
    start = {"type": "websocket.http.response.start", "status": 418, "headers": [(b"X-A", b"b")]}
    body = "websocket.http.response.body"
    parts = [
        {"type": body, "body": b"short and ", "more_body": True},
        {"type": body, "body": b"stout"},
    ]
    async with simulate(raw(start, *parts)) as client:
        with pytest.raises(HandshakeDenied, match="denied with 418: short and stout") as denied:
            async with client.connect("/"):
                pass

    assert denied.value.headers == {"x-a": "b"}


# A client that does not read.


async def test_a_stalled_client_gets_everything_once_it_reads(app):
    """In order; what it was told before can be received at once."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send({"type": "tell", "payload": "before"})
        await asyncio.sleep(0)
        await ann.stall()
        for number in range(3):
            await ann.send({"type": "tell", "payload": number})

        assert await ann.receive_json() == "before"
        with pytest.raises(NothingReceivedError, match="the client is stalled, resume"):
            await ann.receive(timeout=0.01)
        await ann.resume()
        assert [await ann.receive_json() for _ in range(3)] == [0, 1, 2]


async def test_a_stalled_client_cannot_tell_that_nothing_comes(app):
    """It would hear nothing whatever happened."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.stall()
        with pytest.raises(RuntimeError, match=r"stalled .* resume\(\) it first"):
            await ann.expect_nothing()


async def test_the_app_waits_once_a_buffer_is_full(until):
    """Before, it does not; and it goes on when the client reads."""
    sent = []

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        await receive()
        for number in range(5):
            await send({"type": "websocket.send", "bytes": bytes(400)})
            sent.append(number)
        await receive()

    async with simulate(falcon.asgi.App(), write_buffer=1000) as client:
        client.app = app
        async with client.connect("/") as ann:
            await ann.stall()
            await ann.send_text("go")
            await until(lambda: len(sent) == 3)
            await asyncio.sleep(0)
            before = len(sent)
            await ann.resume()
            for _ in range(5):
                await ann.receive()

    assert (before, len(sent)) == (3, 5)


async def test_a_stalled_client_that_drops_ends_the_wait():
    """The ``send`` that waits fails, as under a server."""
    failed = asyncio.Event()

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        await receive()
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(400)})
        except OSError:
            failed.set()

    async with simulate(falcon.asgi.App()) as client:
        client.app = app
        async with client.connect("/") as ann:
            await ann.stall()
            await ann.send_text("go")
            await ann.drop()
            await asyncio.wait_for(failed.wait(), 30)

    assert ann.close_code == 1006
    assert ann.trace == [("sent", "go")]


async def test_a_slow_client_is_cut_as_on_a_server(serve):
    """After ``send_timeout`` the connection is aborted: what was underway is lost."""
    app = serve(Desk, limits=Limits(send_timeout=0.02))
    async with simulate(app, write_buffer=5000) as client, client.connect("/") as ann:
        await ann.stall()
        await ann.send({"type": "pour", "payload": 20})

        assert await ann.expect_close(1006) == 1006


async def test_a_full_outbox_is_seen_in_memory(serve):
    """The policy holds: close with 1013, after what the server has taken already."""
    app = serve(Desk, limits=Limits(outbox_bytes=3000))
    async with simulate(app, write_buffer=2000) as client, client.connect("/") as ann:
        await ann.stall()
        for number in range(20):
            await client.manager.broadcast_to_all(f"{number:01000}")
        await ann.resume()
        heard = [await ann.receive_json() for _ in range(3)]

        assert await ann.expect_close(1013) == 1013
    assert heard == [f"{number:01000}" for number in range(3)]


async def test_a_close_waits_behind_what_is_underway(app):
    """A stalled client learns of it when it reads."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.stall()
        await ann.send({"type": "tell", "payload": "last"})
        await ann.send({"type": "close"})
        await asyncio.wait_for(asyncio.shield(ann.task), 30)
        closed_before = ann.closed
        await ann.resume()

        assert await ann.receive_json() == "last"
        assert await ann.expect_close(4000) == 4000
    assert not closed_before


# Misuse.


async def test_a_client_is_of_no_use_before_it_connects(app):
    """The error shows how to connect."""
    async with simulate(app) as client:
        ann = client.connect("/")
        for verb in (ann.receive(), ann.send_text("x"), ann.expect_nothing(), ann.expect_close()):
            with pytest.raises(RuntimeError, match="not connected yet; write `async with"):
                await verb


async def test_leaving_before_connecting_is_harmless(app):
    """There is nothing to leave."""
    async with simulate(app) as client:
        closed, dropped = client.connect("/"), client.connect("/")
        await closed.close()
        await dropped.drop()

    assert (closed.task, dropped.task) == (None, None)


async def test_a_client_makes_one_connection(app):
    """Another one is another client."""
    async with simulate(app) as client, client.connect("/") as ann:
        with pytest.raises(RuntimeError, match="a client makes one connection"):
            await ann.__aenter__()


async def test_a_client_that_gives_up_on_the_handshake_has_gone(serve):
    """To cancel the connecting is to leave: the app hears a disconnect."""
    asked, may_come_in = asyncio.Event(), asyncio.Event()

    class Ponders(WebSocketResource):
        async def on_connect(self, req, ws):
            asked.set()
            await may_come_in.wait()
            return True

    async with simulate(serve(Ponders)) as client:
        ann = client.connect("/")
        connecting = asyncio.create_task(ann.__aenter__())
        await asked.wait()
        connecting.cancel()
        may_come_in.set()
        await asyncio.wait([connecting])
        status = client.manager.status()

    assert connecting.cancelled()
    assert (ann.close_code, status["connections"], status["accepted"]) == (1006, 0, 0)


async def test_a_drop_ends_the_handshake(serve):
    """The one who waits for it hears that the client went."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    class Ponders(WebSocketResource):
        async def on_connect(self, req, ws):
            asked.set()
            await may_answer.wait()
            return True

    async with simulate(serve(Ponders)) as client:
        ann = client.connect("/")
        connecting = asyncio.create_task(ann.__aenter__())
        await asked.wait()
        await ann.drop()
        may_answer.set()
        with pytest.raises(Disconnected, match="the client went without a close frame"):
            await connecting


async def test_a_failing_test_does_not_wait_for_an_app_that_hangs(serve):
    """The app's part is cancelled, and the failure stays the test's own."""

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        await asyncio.Event().wait()

    async with simulate(falcon.asgi.App(), timeout=0.5) as client:
        client.app = app
        with pytest.raises(ZeroDivisionError):
            async with client.connect("/") as ann:
                raise ZeroDivisionError

    assert ann.task.cancelled()


async def test_the_scope_is_a_servers(app):
    """Lists and tuples, which can be read more than once."""
    scope = simulate(app).connect("/ws?a=1", remote_addr="10.0.0.9").scope

    assert scope["client"][0] == "10.0.0.9"
    assert tuple(scope["server"]) == scope["server"]
    assert (scope["path"], scope["query_string"]) == ("/ws", b"a=1")
    assert scope["extensions"] == {"websocket.http.response": {}}


async def test_the_scope_is_as_falcon_would_make_it(app):
    """Whatever its own tools can leave out can be left out."""
    scope = simulate(app).connect("/", remote_addr=None, include_server=False).scope

    assert not {"client", "server"} & set(scope)
