"""The testing kit: it waits with a deadline, and says what it saw."""

import asyncio
import json

import falcon
import falcon.asgi
import msgspec
import pytest

from falcon_pachinko import Limits, MessageError, WebSocketResource, handles_message
from falcon_pachinko.testing import (
    HandshakeDenied,
    NothingReceivedError,
    RequestError,
    UnexpectedFrameError,
    simulate,
)


class Desk(WebSocketResource):
    @handles_message("echo")
    async def echo(self, ws, payload):
        return payload

    @handles_message("news")
    async def news(self, ws, payload: list):
        for each in payload:
            await ws.send_media(each)
        return "done"

    @handles_message("silence")
    async def silence(self, ws):
        await asyncio.Event().wait()

    @handles_message("bytes")
    async def bytes(self, ws):
        await ws.send_data(b"\x00")

    @handles_message("close")
    async def close(self, ws):
        await ws.close(4000, "enough")

    async def on_message(self, ws, message):
        await ws.send_text(f"got {message!r}")


@pytest.fixture
async def client(serve):
    async with simulate(serve(Desk), timeout=2) as simulated:
        yield simulated


# Receiving.


async def test_a_receive_that_times_out_says_that_nothing_came(client):
    """And how long it waited."""
    async with client.connect("/") as ann:
        with pytest.raises(
            NothingReceivedError, match=r"no frame within 0.01 s; (none|nothing) came before"
        ):
            await ann.receive(timeout=0.01)


async def test_a_receive_that_times_out_says_what_came_before(client):
    """The last few frames, cut where they are long."""
    async with client.connect("/") as ann:
        for text in ("first", "a", "b", "x" * 1000):
            await ann.send_text(text)
            await ann.receive()
        with pytest.raises(NothingReceivedError) as nothing:
            await ann.receive_json(timeout=0.01)

    assert "4 came before, the last: \"got 'a'\", \"got 'b'\", " in str(nothing.value)
    assert "first" not in str(nothing.value)
    assert len(str(nothing.value)) < 400


async def test_a_client_has_a_timeout_of_its_own_if_it_wants(client):
    """In place of the simulator's."""
    async with client.connect("/", timeout=0.5) as ann:
        with pytest.raises(NothingReceivedError, match=r"within 0\.5 s"):
            await ann.receive()


async def test_a_frame_of_the_other_kind_is_shown(client):
    """Text where bytes were asked for, or the other way round."""
    async with client.connect("/") as ann:
        await ann.send_text("x")
        with pytest.raises(UnexpectedFrameError, match="binary frame was expected"):
            await ann.receive_data()
        await ann.send_json({"type": "bytes"})
        with pytest.raises(UnexpectedFrameError, match=r"text frame was expected, .*: b'"):
            await ann.receive_text()


async def test_expect_takes_the_next_message_of_a_type(client):
    """Another one is shown whole."""
    async with client.connect("/") as ann:
        await ann.send_json({"type": "news", "payload": [{"type": "a", "n": 1}, {"type": "b"}, 3]})

        assert await ann.expect("a") == {"type": "a", "n": 1}
        with pytest.raises(UnexpectedFrameError, match=r"'a' was expected, this came: .*b"):
            await ann.expect("a")
        with pytest.raises(UnexpectedFrameError, match=r"'a' was expected, this came: .*3"):
            await ann.expect("a")


async def test_expect_nothing_shows_what_came(client):
    """And silence is what it expects."""
    async with client.connect("/") as ann:
        await ann.expect_nothing(0.01)
        await ann.send_text("x")
        with pytest.raises(
            UnexpectedFrameError, match="nothing was expected, this came: \"got 'x'\""
        ):
            await ann.expect_nothing()


# Requests.


async def test_a_request_passes_over_other_messages(client):
    """They stay to be received, in their order, before what comes later."""
    async with client.connect("/") as ann:
        answer = await ann.request("news", ["a", "b", {"ref": "other"}])
        await ann.send_text("later")
        rest = [await ann.receive_json() for _ in range(3)]
        last = await ann.receive_text()

    assert answer["payload"] == "done"
    assert rest == ["a", "b", {"ref": "other"}]
    assert last == "got 'later'"


@pytest.mark.parametrize(
    ("asked", "code", "path", "status"),
    [
        (("news", "no list"), "invalid_payload", "$.payload", None),
        (("nobody handles this",), "unknown_type", "$.type", None),
        (("refuse", "full"), "full", None, None),
        (("refuse", "locked", 423), "locked", None, 423),
    ],
)
async def test_an_error_is_raised_by_its_request(serve, asked, code, path, status):
    """A test that forgets to look fails; one that looks finds all of it."""

    class Strict(Desk):
        on_message = WebSocketResource.on_message

        @handles_message("refuse")
        async def refuse(self, ws, payload: list):
            raise MessageError(payload[0], "Come back later.", status=(*payload, None)[1])

    name, *payload = asked
    if name == "refuse":
        payload = [payload]
    async with simulate(serve(Strict)) as client, client.connect("/") as ann:
        with pytest.raises(RequestError) as refused:
            await ann.request(name, *payload)
        alive = await ann.request("echo", 1)

    error = refused.value
    assert (error.code, error.path, error.status) == (code, path, status)
    assert error.answer["type"] == "error"
    assert error.message
    assert str(error) == (
        f"{name!r} was answered with {code}: {error.message}" + (f" (at {path})" if path else "")
    )
    assert alive["payload"] == 1


async def test_an_error_of_another_request_is_not_this_ones(client):
    """What has no ``ref``, or another, stays to be received."""
    async with client.connect("/") as ann:
        await ann.send_json({"type": "news", "payload": "no list"})
        answer = await ann.request("echo", 1)
        error = await ann.receive_json()

    assert (answer["payload"], error["type"]) == (1, "error")


# Reading into types.


class Reply(msgspec.Struct, tag_field="type", tag="reply"):
    payload: int


class Other(msgspec.Struct, tag_field="type", tag="other"):
    pass


@pytest.mark.parametrize("offered", [[], ["pachinko.msgpack"]])
@pytest.mark.parametrize(
    ("wanted", "read"),
    [
        (Reply, Reply(1)),
        (Reply | Other, Reply(1)),
        (dict, {"type": "reply", "payload": 1}),
        (dict[str, str | int], {"type": "reply", "payload": 1}),
    ],
)
async def test_a_frame_is_read_into_a_type(client, offered, wanted, read):
    """The whole of it, in the codec that was agreed on."""
    async with client.connect("/", subprotocols=offered) as ann:
        await ann.send({"type": "echo", "payload": 1})

        assert await ann.receive(wanted) == read


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Other, "Other was expected, this came: .*reply.*Invalid value 'reply'"),
        (list, "list was expected"),
        (dict[str, bool], r"dict was expected.*Expected `bool`, got `str`"),
    ],
)
async def test_a_frame_that_is_something_else_is_shown(client, wanted, why):
    """With the decoder's own reason."""
    async with client.connect("/") as ann:
        await ann.send({"type": "echo", "payload": 1})
        with pytest.raises(UnexpectedFrameError, match=why):
            await ann.receive(wanted)


async def test_a_frame_of_the_other_kind_is_not_read(client):
    """A binary frame is no JSON."""
    async with client.connect("/") as ann:
        await ann.send({"type": "bytes"})
        with pytest.raises(UnexpectedFrameError, match=r"Reply, as a message in JSON, was"):
            await ann.receive(Reply)


async def test_without_a_type_the_frame_is_the_frame(client):
    """A str or bytes, as it came; a deadline may be given with a type or without."""
    async with client.connect("/") as ann:
        await ann.send({"type": "echo", "payload": 1})
        assert await ann.receive(timeout=2) == '{"type":"reply","payload":1}'
        with pytest.raises(NothingReceivedError, match=r"within 0.01 s"):
            await ann.receive(Reply, timeout=0.01)


async def test_a_request_that_is_not_answered_times_out(serve, monkeypatch):
    """Like any receive."""
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)
    app = serve(Desk, limits=Limits(handler_grace=0.01))
    async with simulate(app, timeout=0.2) as client, client.connect("/") as ann:
        with pytest.raises(NothingReceivedError, match=r"no .* within 0.2 s"):
            await ann.request("silence")


async def test_a_request_that_is_closed_upon_raises(client):
    """What came before the close can still be received."""
    async with client.connect("/") as ann:
        await ann.send_json({"type": "news", "payload": ["a"]})
        await ann.send_json({"type": "close"})
        with pytest.raises(falcon.WebSocketDisconnected):
            await ann.request("echo")


# The trace.


async def test_the_trace_has_all_frames_in_order(client):
    """Both ways, a request's answer included."""
    async with client.connect("/") as ann:
        await ann.send_text("x")
        await ann.receive()
        await ann.send_data(b"y")
        await ann.receive()
        await ann.request("echo", 1)

    assert ann.trace[:4] == [
        ("sent", "x"),
        ("received", "got 'x'"),
        ("sent", b"y"),
        ("received", "got b'y'"),
    ]
    assert [(direction, json.loads(frame)["ref"]) for direction, frame in ann.trace[4:]] == [
        ("sent", "1"),
        ("received", "1"),
    ]


# Ends.


async def test_the_close_is_there_to_look_at(client):
    """Code and reason; receiving and sending raise what Falcon's kit raises."""
    async with client.connect("/") as ann:
        still_open = (ann.closed, ann.close_code)
        await ann.send_json({"type": "close"})
        with pytest.raises(falcon.WebSocketDisconnected) as gone:
            await ann.receive()
        with pytest.raises(falcon.WebSocketDisconnected):
            await ann.receive()
        with pytest.raises(falcon.WebSocketDisconnected):
            await ann.send_text("too late")
        with pytest.raises(falcon.WebSocketDisconnected):
            await ann.send_data(b"too late")

    assert still_open == (False, None)
    assert (ann.closed, ann.close_code, ann.close_reason) == (True, 4000, "enough")
    assert gone.value.code == 4000


async def test_a_client_closes_once(client):
    """The first code counts, whoever gave it."""
    async with client.connect("/") as ann:
        await ann.close(4001, "first")
        await ann.close(4002, "second")
        await ann.drop()

    assert (ann.close_code, ann.close_reason) == (4001, "first")


async def test_a_client_closes_with_a_code_that_may_be_sent(client):
    """No real client could send another."""
    async with client.connect("/") as ann:
        with pytest.raises(ValueError, match="1006 cannot be sent"):
            await ann.close(1006)


async def test_a_client_sends_what_a_wire_can_carry(client):
    """A lone surrogate has no UTF-8 form; no client could send it."""
    async with client.connect("/") as ann:
        with pytest.raises(UnicodeEncodeError):
            await ann.send_text("\ud800")

        assert (await ann.request("echo", "fine"))["payload"] == "fine"


async def test_a_failing_test_fails_with_its_own_error(client):
    """Not with what the clean-up finds afterwards."""
    with pytest.raises(ZeroDivisionError):
        async with client.connect("/"):
            raise ZeroDivisionError


# Handshakes.


async def test_a_denied_handshake_says_with_what(serve):
    """Status, headers and body."""

    class Denies(WebSocketResource):
        async def on_connect(self, req, ws):
            raise falcon.HTTPGone(title="Moved away")

    async with simulate(serve(Denies)) as client:
        with pytest.raises(HandshakeDenied, match=r"denied with 410: .*Moved away") as denied:
            async with client.connect("/"):
                pass

    assert denied.value.code == 3410
    assert denied.value.headers["content-type"] == "application/json"


async def test_an_app_that_never_answers_is_told_apart(serve):
    """From one that denies: the handshake times out."""
    asked = asyncio.Event()

    class Ponders(WebSocketResource):
        async def on_connect(self, req, ws):
            asked.set()
            await asyncio.Event().wait()

    async with simulate(serve(Ponders), timeout=0.5) as client:
        ann = client.connect("/")
        with pytest.raises(
            NothingReceivedError, match=r"not answered within 0.5 s: on_connect nei"
        ):
            await ann.__aenter__()

    assert asked.is_set()


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (None, NothingReceivedError, "the app returned without answering"),
        ({"type": "websocket.send", "text": "x"}, RuntimeError, "before the accept"),
        ({"type": "http.response.start"}, RuntimeError, "before the accept"),
    ],
)
async def test_an_app_that_breaks_the_protocol_is_shown(answer, error, match):
    """As a server would refuse it."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        elif answer is not None:
            await send(answer)

    falcons = falcon.asgi.App()
    client = simulate(falcons)
    client.app = app
    with pytest.raises(error, match=match):
        await client.connect("/").__aenter__()


async def test_an_app_that_breaks_the_protocol_later_is_shown():
    """An accept comes once."""

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.accept"})

    client = simulate(falcon.asgi.App())
    client.app = app
    with pytest.raises(RuntimeError, match=r"websocket.accept.? after the accept"):
        async with client.connect("/"):
            pass


async def test_an_app_that_does_not_end_is_told(serve):
    """The close was heard, and the session goes on all the same."""
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        await gate.wait()

    client = simulate(falcon.asgi.App(), timeout=0.5)
    client.app = app
    ann = client.connect("/")
    with pytest.raises(NothingReceivedError, match=r"did not end this connection within 0.5 s"):
        async with ann:
            pass


async def test_a_client_has_headers_query_address_and_subprotocols(serve):
    """As a real one has."""

    class Shows(WebSocketResource):
        subprotocols = ("tea",)

        async def on_connect(self, req, ws):
            await ws.accept(headers={"X-Seen": "yes"})
            await ws.send_media([req.params, req.get_header("X-A"), req.remote_addr, req.host])

    async with simulate(serve(Shows)) as client:
        path, headers = "/?a=1", {"X-A": "b", "Host": "tea.example"}
        options = {"headers": headers, "subprotocols": ["tea"], "remote_addr": "10.0.0.9"}
        async with client.connect(path, **options) as ann:
            seen = await ann.receive_json()

    assert seen == [{"a": "1"}, "b", "10.0.0.9", "tea.example"]
    assert (ann.subprotocol, ann.headers) == ("tea", {"x-seen": "yes"})


async def test_the_manager_is_the_apps(client):
    """So that a test can look and send."""
    assert client.manager is client.app.ws_connection_manager


async def test_an_app_without_install_has_no_manager():
    """The error says what to call."""
    with pytest.raises(TypeError, match=r"install\(app\) first"):
        _ = simulate(falcon.asgi.App()).manager
