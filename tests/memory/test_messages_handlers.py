"""Handlers as people write them, in a whole app: guards, fakes, partials, payloads that decide."""

import asyncio
import functools

import falcon
import msgspec
import pytest

from falcon_pachinko import Hook, MessageError, WebSocketResource, handles_message
from falcon_pachinko.testing import RequestError, simulate

BIN = ["pachinko.msgpack"]
REGISTRY = []


class Event(msgspec.Struct):
    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        REGISTRY.append(cls)


class Said(Event):
    text: str

    def __post_init__(self):
        if type(self) is not Said:
            raise AssertionError("this is another class")
        if not self.text:
            raise MessageError("empty", "Say something.")
        if self.text == "bug":
            raise KeyError("a bug of the application's")
        if self.text == "taken":
            raise falcon.HTTPConflict(description="Somebody has said it.")


def members_only(handler):
    """An ordinary guard, which is not a coroutine itself."""

    @functools.wraps(handler)
    def guard(self, ws, *payload):
        if "member" not in ws.tags:
            raise MessageError("members_only")
        return handler(self, ws, *payload)

    return guard


def raising(error):
    def decorate(handler):
        @functools.wraps(handler)
        def guard(self, ws, *payload):
            raise error

        return guard

    return decorate


class Upper:
    """A handler that is an object."""

    async def __call__(self, ws, payload: str):
        return payload.upper()


class Desk(WebSocketResource):
    @handles_message("said")
    async def said(self, ws, payload: Said):
        return type(payload) is Said

    @members_only
    @handles_message("members")
    async def members(self, ws, payload: str):
        return f"welcome, {payload}"

    @raising(falcon.HTTPForbidden(description="not you"))
    @handles_message("forbidden")
    async def forbidden(self, ws): ...

    @raising(TypeError("a mistake"))
    @handles_message("mistake")
    async def mistake(self, ws): ...

    @handles_message("join")
    async def become_member(self, ws):
        await ws.add_tag("member")

    upper = handles_message("upper")(Upper())

    async def repeat(self, times, ws, payload: str):
        return payload * times

    twice = handles_message("twice")(functools.partialmethod(repeat, 2))

    @handles_message("limit")
    async def limit(self, ws, payload: int = 20):
        return payload


class Fallback(Desk):
    async def on_message(self, ws, message):
        return "on_message"


@pytest.fixture(params=[[], BIN], ids=["json", "msgpack"])
async def ann(request, serve):
    async with (
        simulate(serve(Desk)) as client,
        client.connect("/", subprotocols=request.param) as client,
    ):
        yield client


async def error(ann, *message):
    with pytest.raises(RequestError) as refused:
        await ann.request(*message)
    return refused.value.code


async def reply(ann, *message):
    answer = await ann.request(*message)
    assert answer["type"] == "reply", answer
    return answer["payload"]


async def test_a_payload_is_of_the_applications_own_class(ann):
    """Its registry has it once, and its ``__post_init__`` sees an instance of it."""
    assert await reply(ann, "said", {"text": "hi"}) is True
    assert [Said] == REGISTRY


async def test_a_message_error_of_a_post_init_is_the_answer(ann):
    """With the ref, and the connection goes on."""
    assert await error(ann, "said", {"text": ""}) == "empty"
    assert await reply(ann, "said", {"text": "hi"}) is True


async def test_a_bug_in_a_post_init_is_an_internal_error(ann, caplog):
    """Logged once; the client learns nothing of it."""
    assert await error(ann, "said", {"text": "bug"}) == "internal_error"
    assert "a bug of the application's" in caplog.text


async def test_an_http_error_of_a_post_init_is_the_answer(ann, caplog):
    """As one that a handler raises: by its name, and not in the log."""
    assert await error(ann, "said", {"text": "taken"}) == "conflict"
    assert caplog.text == ""


async def test_a_message_error_of_a_post_init_does_not_reach_on_message(serve):
    """There is a handler for the type, and it said no."""
    async with simulate(serve(Fallback)) as client, client.connect("/") as ann:
        assert await error(ann, "said", {"text": ""}) == "empty"
        assert await error(ann, "said", {"text": "hi", "loud": True}) == "invalid_payload"


async def test_what_a_guard_raises_is_the_answer(ann):
    """Before there is a coroutine, as after."""
    assert await error(ann, "members", "Ann") == "members_only"
    await reply(ann, "join")
    assert await reply(ann, "members", "Ann") == "welcome, Ann"


async def test_an_http_error_of_a_guard_is_the_answer(ann):
    assert await error(ann, "forbidden") == "forbidden"


async def test_a_mistake_in_a_guard_is_an_internal_error(ann, caplog):
    """The connection lives."""
    assert await error(ann, "mistake") == "internal_error"
    assert "TypeError: a mistake" in caplog.text
    assert await reply(ann, "limit") == 20


async def test_hooks_see_what_a_guard_raises(serve):
    """As they see what a handler raises."""
    seen = []

    class Sees(Hook):
        async def after_message(self, ws, message, error):
            seen.append((message.type, getattr(error, "code", None)))

    async with (
        simulate(serve(Desk, options={"hooks": [Sees()]})) as client,
        client.connect("/") as ann,
    ):
        await error(ann, "members", "Ann")

    assert seen == [("members", "members_only")]


async def test_objects_and_partial_methods_handle_messages(ann):
    """They are called as attributes of the instance are."""
    assert await reply(ann, "upper", "hi") == "HI"
    assert await reply(ann, "twice", "hi") == "hihi"


async def test_a_missing_payload_is_the_default(ann):
    assert await reply(ann, "limit") == 20
    assert await reply(ann, "limit", 3) == 3


async def test_a_handler_that_a_test_replaces_is_the_one_that_is_called(ann, monkeypatch):
    """On the class, also while connections are open."""

    async def fake(self, ws, payload):
        return f"fake {payload}"

    monkeypatch.setattr(Desk, "limit", fake)

    assert await reply(ann, "limit", 3) == "fake 3"


async def test_a_ping_is_answered_with_a_pong(ann):
    """With its ref, if it has one."""
    await ann.send({"type": "ping", "ref": "1"})
    await ann.send({"type": "ping"})
    assert await ann.receive_message() == {"type": "pong", "ref": "1"}
    assert await ann.receive_message() == {"type": "pong"}


@pytest.mark.parametrize("ref", [0, "", -1, "text"])
async def test_any_legal_ref_comes_back(ann, ref):
    """As it was."""
    await ann.send({"type": "limit", "ref": ref})

    assert await ann.receive_message() == {"type": "reply", "ref": ref, "payload": 20}


async def test_a_resource_that_takes_every_frame_answers_pings_itself(serve):
    """It has no handler, and so ``on_message`` gets them all."""

    class TakesAll(WebSocketResource):
        async def on_message(self, ws, message):
            await ws.send_media(["took", message])

    async with simulate(serve(TakesAll)) as client, client.connect("/") as ann:
        await ann.send_text('{"type":"ping"}')

        assert await ann.receive_message() == ["took", '{"type":"ping"}']


class Slow:
    """Something that can be awaited, and is not a coroutine."""

    def __init__(self, handling):
        self.handling = handling

    def __await__(self):
        return self.handling.__await__()


def passing_on(how):
    """A guard that does not return the handler's coroutine itself."""

    def decorate(handler):
        @functools.wraps(handler)
        def guard(self, ws, *payload):
            return how(handler(self, ws, *payload))

        return guard

    return decorate


@pytest.mark.parametrize("concurrent", [False, True], ids=["serial", "concurrent"])
@pytest.mark.parametrize(
    "how",
    [asyncio.ensure_future, asyncio.shield, functools.partial(asyncio.wait_for, timeout=9), Slow],
    ids=["task", "shield", "wait_for", "awaitable"],
)
async def test_a_guard_may_return_anything_that_can_be_awaited(serve, how, concurrent):
    """A task, a shielded one, one with a time-out: what it comes to is the answer."""

    class Guarded(WebSocketResource):
        @passing_on(how)
        @handles_message("say", concurrent=concurrent)
        async def say(self, ws, payload: str):
            await asyncio.sleep(0)
            return f"said {payload}"

    async with simulate(serve(Guarded)) as client, client.connect("/") as ann:
        assert await reply(ann, "say", "hi") == "said hi"


@pytest.mark.parametrize("given", [None, {"a": 1}, "text"], ids=repr)
async def test_a_guard_that_returns_something_else_is_a_bug_of_the_application(
    serve, caplog, given
):
    """The log has it; the connection lives."""

    class Guarded(WebSocketResource):
        @handles_message("hi")
        async def hi(self, ws):
            return "hi"

        @raising(None)
        @handles_message("say")
        async def say(self, ws): ...

    def guard(self, ws):
        return given

    guard.__dict__ = Guarded.say.__dict__
    Guarded.say = guard
    async with simulate(serve(Guarded)) as client, client.connect("/") as ann:
        assert await error(ann, "say") == "internal_error"
        assert await reply(ann, "hi") == "hi"

    assert "'await' expression" in caplog.text


def grouped(*errors):
    return ExceptionGroup("unhandled errors in a TaskGroup", errors)


@pytest.mark.parametrize("where", ["handler", "concurrent", "on_message", "hook"])
@pytest.mark.parametrize(
    ("group", "code"),
    [
        (grouped(MessageError("sold_out")), "sold_out"),
        (grouped(grouped(falcon.HTTPConflict())), "conflict"),
        (grouped(MessageError("a"), MessageError("b")), "internal_error"),
        (grouped(KeyError("a")), "internal_error"),
    ],
    ids=["message", "http", "two", "bug"],
)
async def test_a_group_of_one_error_is_that_error(serve, where, group, code):
    """A task group raises one even where a single task has failed; of two, nobody can choose."""

    class Shop(WebSocketResource):
        @handles_message("handler")
        async def serial(self, ws):
            raise group

        @handles_message("concurrent", concurrent=True)
        async def beside(self, ws):
            raise group

        @handles_message("hook")
        async def fine(self, ws): ...

        async def on_message(self, ws, message):
            raise group

    class Strict(Hook):
        async def before_message(self, ws, message):
            if message.type == "hook":
                raise group

    app = serve(Shop, options={"hooks": [Strict()]})
    async with simulate(app) as client, client.connect("/") as ann:
        assert await error(ann, where) == code
