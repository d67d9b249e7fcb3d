"""A message's journey: to its handler, and its answer back, in either codec."""

import asyncio
import json

import falcon
import msgspec
import pytest

from falcon_pachinko import Limits, MessageError, WebSocketResource, handles_message
from falcon_pachinko.testing import simulate

BIN = ["pachinko.msgpack"]


class Say(msgspec.Struct):
    text: str


class Desk(WebSocketResource):
    """Answers in every way there is."""

    @handles_message("echo")
    async def echo(self, ws, payload):
        return payload

    @handles_message("say")
    async def say(self, ws, payload: Say):
        return payload

    @handles_message("mute")
    async def mute(self, ws):
        pass

    @handles_message("refuse")
    async def refuse(self, ws, payload: dict):
        raise MessageError(**payload)

    @handles_message("http")
    async def http(self, ws, payload: int):
        raise falcon.HTTPError(payload, description="why not")

    @handles_message("odd")
    async def odd(self, ws, payload: str):
        return {"object": object(), "surrogate": "\ud800", "deep": nested()}[payload]

    @handles_message("refuse oddly")
    async def refuse_oddly(self, ws):
        raise MessageError("odd", "\ud800")


def nested():
    inner = []
    for _ in range(100_000):
        inner = [inner]
    return inner


class Fallback(Desk):
    """Takes what no handler claims."""

    async def on_message(self, ws, message):
        if message == "refuse":
            raise MessageError("refused", "not this")
        if message == "answer":
            return "answered"
        await ws.send_media(["unclaimed", repr(message)])
        return None


@pytest.fixture
async def client(serve):
    async with simulate(serve(Desk)) as simulated:
        yield simulated


# Answers.


async def test_a_ref_is_answered_with_what_the_handler_returned(client):
    """Exactly once, with the ref as it came."""
    async with client.connect("/") as ann:
        for ref in ("7", 7, -1, "", 0, 2**70):
            await ann.send_json({"type": "echo", "ref": ref, "payload": [1, "two"]})

            assert await ann.receive_json() == {"type": "reply", "ref": ref, "payload": [1, "two"]}
        await ann.expect_nothing(0.01)


async def test_a_ref_is_answered_even_if_there_is_nothing_to_say(client):
    """The client waits for it."""
    async with client.connect("/") as ann:
        await ann.send_json({"type": "mute", "ref": 1})

        assert await ann.receive_json() == {"type": "reply", "ref": 1, "payload": None}


async def test_without_a_ref_only_a_value_is_an_answer(client):
    """None sends nothing; a null ref is none."""
    async with client.connect("/") as ann:
        await ann.send_json({"type": "mute"})
        await ann.send_json({"type": "mute", "ref": None})
        await ann.send_json({"type": "echo", "payload": 0})

        assert await ann.receive_json() == {"type": "reply", "payload": 0}


async def test_a_struct_that_is_returned_is_encoded(client):
    """A payload may go back as it came."""
    async with client.connect("/") as ann:
        answer = await ann.request("say", {"text": "hi"})

    assert answer["payload"] == {"text": "hi"}


# Refusals.


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"code": "full"}, {"code": "full", "message": ""}),
        ({"code": "full", "message": "Two play."}, {"code": "full", "message": "Two play."}),
        (
            {"code": "full", "message": "m", "path": "$.payload.seat", "status": 409},
            {"code": "full", "message": "m", "path": "$.payload.seat", "status": 409},
        ),
    ],
)
async def test_a_message_error_becomes_the_answer(client, payload, error):
    """With what it was raised with, and with the ref if there is one."""
    async with client.connect("/") as ann:
        await ann.send_json({"type": "refuse", "payload": payload})
        await ann.send_json({"type": "refuse", "payload": payload, "ref": "7"})

        assert await ann.receive_json() == {"type": "error", "payload": error}
        assert await ann.receive_json() == {"type": "error", "ref": "7", "payload": error}


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "forbidden"), (404, "not_found"), (429, "too_many_requests"), (799, "http_799")],
)
async def test_an_http_error_becomes_the_answer(client, status, code, answered):
    """The status's name is the code, the number stands beside it."""
    async with client.connect("/") as ann:
        answer = await answered(ann.request("http", status))

    assert answer["payload"] == {"code": code, "message": "why not", "status": status}


async def test_a_refusal_is_no_error_in_the_log(client, caplog, answered):
    """It is an outcome; whoever wants to see it has hooks."""
    async with client.connect("/") as ann:
        await answered(ann.request("refuse", {"code": "full"}))
        await answered(ann.request("http", 404))
        await answered(ann.request("nobody handles this"))

    assert caplog.records == []
    assert client.manager.status()["errors"] == {}


@pytest.mark.parametrize("what", ["object", "surrogate", "deep"])
async def test_an_answer_that_cannot_be_encoded_is_the_handlers_failure(
    client, caplog, what, answered
):
    """The client is told that it failed, the log why; the connection lives."""
    async with client.connect("/") as ann:
        answer = await answered(ann.request("odd", what))
        again = await answered(ann.request("echo", "alive"))

    assert answer["payload"]["code"] == "internal_error"
    assert "cannot be encoded" in caplog.text
    assert again["payload"] == "alive"


async def test_a_refusal_that_cannot_be_encoded_is_the_handlers_failure(client, caplog, answered):
    """It does not turn in circles over its own error."""
    async with client.connect("/") as ann:
        answer = await answered(ann.request("refuse oddly"))

    assert answer["payload"]["code"] == "internal_error"
    assert "Desk failed on 'odd'" in caplog.text


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("oops", "invalid_json"),
        ("", "invalid_json"),
        ("[" * 10_000, "invalid_message"),
        ('{"type":"echo","payload":' + "[" * 10_000, "invalid_json"),
        ("[1]", "invalid_message"),
        ('{"type":["echo"]}', "invalid_message"),
        ('{"type":"echo","ref":{}}', "invalid_message"),
        ('{"type":"on_connect"}', "unknown_type"),
        ('{"type":"say","payload":{"text":1}}', "invalid_payload"),
        ('{"type":"say","payload":{"text":"a","b":1}}', "invalid_payload"),
        ('{"type":"say"}', "invalid_payload"),
        ('{"type":"\\ud800"}', "invalid_json"),
        (b'{"type":"echo"}', "unsupported_frame"),
        (b"\xff", "unsupported_frame"),
        (b"", "unsupported_frame"),
    ],
    ids=lambda each: repr(each)[:24],
)
async def test_a_bad_frame_is_answered_with_one_error(client, caplog, frame, code):
    """Whatever a client sends: one error frame, no traceback, and the connection lives."""
    async with client.connect("/") as ann:
        await (ann.send_text(frame) if isinstance(frame, str) else ann.send_data(frame))
        error = await ann.receive_json()
        again = await ann.request("echo", "alive")

    assert (error["type"], error["payload"]["code"]) == ("error", code)
    assert again["payload"] == "alive"
    assert caplog.records == []


# What no handler claims.


@pytest.mark.parametrize(
    ("frame", "shown"),
    [
        ("plain text", "'plain text'"),
        (b"\x00", r"b'\x00'"),
        ("[1]", "'[1]'"),
        ('{"type": "unknown"}', '\'{"type": "unknown"}\''),
        ("", "''"),
    ],
)
async def test_on_message_takes_what_no_handler_claims(serve, frame, shown):
    """As text or bytes, just as it came, instead of the automatic error."""
    async with simulate(serve(Fallback)) as client, client.connect("/") as ann:
        await (ann.send_text(frame) if isinstance(frame, str) else ann.send_data(frame))

        assert await ann.receive_json() == ["unclaimed", shown]


async def test_on_message_does_not_take_a_known_type_with_a_bad_payload(serve, answered):
    """That message was claimed; the client is told what is wrong with it."""
    async with simulate(serve(Fallback)) as client, client.connect("/") as ann:
        answer = await answered(ann.request("say", {"text": 1}))

    assert answer["payload"]["code"] == "invalid_payload"


async def test_on_message_may_answer_and_refuse(serve):
    """Like a handler, though there is no ref."""
    async with simulate(serve(Fallback)) as client, client.connect("/") as ann:
        await ann.send_text("answer")
        await ann.send_text("refuse")

        assert await ann.receive_json() == {"type": "reply", "payload": "answered"}
        assert (await ann.receive_json())["payload"] == {"code": "refused", "message": "not this"}


# The other codec.


async def test_messagepack_is_spoken_where_it_is_agreed_on(client):
    """Binary frames both ways, the same handlers, errors included."""
    async with client.connect("/", subprotocols=BIN) as ann:
        answers = []
        for payload in ({"text": "hi"}, {"text": 1}):
            message = {"type": "say", "ref": 7, "payload": payload}
            await ann.send_data(msgspec.msgpack.encode(message))
            answers.append(msgspec.msgpack.decode(await ann.receive_data()))
        await ann.send_text('{"type":"mute"}')
        answers.append(msgspec.msgpack.decode(await ann.receive_data()))

    assert ann.subprotocol == "pachinko.msgpack"
    assert answers[0] == {"type": "reply", "ref": 7, "payload": {"text": "hi"}}
    assert answers[1]["payload"]["path"] == "$.payload.text"
    assert answers[2]["payload"]["code"] == "unsupported_frame"


async def test_a_broadcast_reaches_both_codecs(client):
    """Encoded once for each."""
    async with client.connect("/") as ann, client.connect("/", subprotocols=BIN) as bob:
        delivery = await client.manager.broadcast_to_all({"n": 1})
        heard = [await ann.receive_json(), msgspec.msgpack.decode(await bob.receive_data())]

    assert heard == [{"n": 1}, {"n": 1}]
    assert delivery.sent == 2


async def test_a_message_for_one_codec_only_reaches_nobody(client):
    """A number of 70 bits has no MessagePack form: nobody gets half of the broadcast."""
    async with client.connect("/") as ann, client.connect("/", subprotocols=BIN):
        with pytest.raises(ValueError, match="cannot be encoded"):
            await client.manager.broadcast_to_all(2**70)

        await ann.expect_nothing(0.01)


async def test_without_messagepack_clients_nobody_pays_for_them(client):
    """The same message is fine once the other is gone."""
    async with client.connect("/", subprotocols=BIN):
        pass
    async with client.connect("/") as ann:
        await client.manager.broadcast_to_all(2**70)

        assert await ann.receive_json() == 2**70


async def test_a_resource_may_choose_the_codec_in_its_accept(serve):
    """Unless something was sent already, which the other side could not read."""

    class Chooses(Desk):
        async def on_connect(self, req, ws):
            if req.params:
                await ws.send_media("too early")
            await ws.accept(subprotocol="mine")

    async with simulate(serve(Chooses)) as client:
        async with client.connect("/", subprotocols=[*BIN, "mine"]) as ann:
            answer = await ann.request("echo", 1)
        async with client.connect("/?early=1", subprotocols=[*BIN, "mine"]) as early:
            code = await early.expect_close()

    assert (ann.subprotocol, answer["payload"]) == ("mine", 1)
    assert code == 3500


# Order and concurrency.


class Steps(WebSocketResource):
    """Has handlers that wait for each other."""

    def __init__(self, gates):
        self.gates = gates

    @handles_message("wait")
    async def wait(self, ws, payload: str):
        await self.gates[payload].wait()
        return payload

    @handles_message("beside", concurrent=True)
    async def beside(self, ws, payload: str):
        self.gates["running"].append(payload)
        await self.gates[payload].wait()
        return payload

    @handles_message("fail beside", concurrent=True)
    async def fail_beside(self, ws):
        raise ZeroDivisionError


@pytest.fixture
def gates():
    return {"a": asyncio.Event(), "b": asyncio.Event(), "c": asyncio.Event(), "running": []}


async def test_messages_are_handled_one_after_the_other(serve, gates):
    """A later one does not overtake, though its handler would be done at once."""
    gates["b"].set()
    async with simulate(serve(Steps, gates=gates)) as client, client.connect("/") as ann:
        await ann.send_json({"type": "wait", "payload": "a"})
        await ann.send_json({"type": "wait", "payload": "b"})
        await ann.expect_nothing(0.01)
        gates["a"].set()
        heard = [(await ann.receive_json())["payload"] for _ in "ab"]

    assert heard == ["a", "b"]


async def test_concurrent_handlers_do_not_wait_for_each_other(serve, gates):
    """Nor does anything else for them; each answer has its ref."""
    gates["b"].set()
    async with simulate(serve(Steps, gates=gates)) as client, client.connect("/") as ann:
        await ann.send_json({"type": "beside", "payload": "a", "ref": 1})
        await ann.send_json({"type": "beside", "payload": "b", "ref": 2})
        await ann.send_json({"type": "wait", "payload": "b", "ref": 3})
        first = {(await ann.receive_json())["ref"] for _ in "ab"}
        gates["a"].set()
        last = await ann.receive_json()

    assert first == {2, 3}
    assert last == {"type": "reply", "ref": 1, "payload": "a"}


async def test_concurrency_is_bounded(serve, gates, until):
    """``Limits.concurrency`` run, the next one waits, and so does what comes after it."""
    app = serve(Steps, gates=gates, limits=Limits(concurrency=2))
    async with simulate(app) as client, client.connect("/") as ann:
        for each in "abc":
            await ann.send_json({"type": "beside", "payload": each})
        await until(lambda: gates["running"] == ["a", "b"])
        await ann.expect_nothing(0.01)
        held_back = list(gates["running"])
        gates["b"].set()
        first = (await ann.receive_json())["payload"]
        await until(lambda: gates["running"] == ["a", "b", "c"])
        gates["a"].set()
        gates["c"].set()
        rest = {(await ann.receive_json())["payload"] for _ in "ac"}

    assert (held_back, first, rest) == (["a", "b"], "b", {"a", "c"})


async def test_a_concurrent_handler_that_fails_is_answered_too(serve, gates, caplog, answered):
    """Logged, and told as usual."""
    async with simulate(serve(Steps, gates=gates)) as client, client.connect("/") as ann:
        answer = await answered(ann.request("fail beside"))

    assert answer["payload"]["code"] == "internal_error"
    assert "ZeroDivisionError" in caplog.text


async def test_a_handler_sees_the_connection(serve):
    """``ws`` and ``self.ws`` are the same; id, state and rooms are there."""

    class Looks(WebSocketResource):
        @handles_message("look")
        async def look(self, ws):
            self.state.n = 1
            await self.join_room("lobby")
            return [ws is self.ws, len(ws.id), ws.state.n, list(ws.rooms), ws.closed, ws.user_id]

    async with simulate(serve(Looks)) as client, client.connect("/") as ann:
        answer = await ann.request("look")

    assert answer["payload"] == [True, 25, 1, ["lobby"], False, None]


async def test_a_flooding_client_does_not_starve_the_rest(serve, by_hand):
    """A session that handles many frames without suspending lets others run."""
    turns = []

    class Counts(WebSocketResource):
        async def on_message(self, ws, message):
            if not turns:
                asyncio.get_running_loop().call_soon(turns.append, "another task")
            turns.append("handled")

    app = serve(Counts)
    async with simulate(app):
        server = by_hand(app)
        server.start()
        for _ in range(200):  # all of it there already: receiving never suspends
            server.say("x")
        server.go(code=1000)
        await server.ended()

    assert turns.count("handled") == 200
    assert turns.index("another task") < 100


async def test_json_keys_may_stand_in_any_order(client):
    """Also a type that comes last."""
    async with client.connect("/") as ann:
        await ann.send_text(json.dumps({"payload": 1, "ref": 2, "more": 3, "type": "echo"}))

        assert await ann.receive_json() == {"type": "reply", "ref": 2, "payload": 1}
