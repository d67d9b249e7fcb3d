"""Hooks: sorted once by what they override, run from the outside in and back."""

import contextlib
import functools
import re

import falcon.asgi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import (
    App,
    HandlerDefinitionError,
    Hook,
    MessageError,
    WebSocketResource,
    WebSocketRouter,
    install,
)
from falcon_pachinko.messages.hooks import HookChain, ReceivedMessage

MESSAGE = ReceivedMessage("say", {"text": "hi"}, 7)


class Noting(Hook):
    """Notes when it runs, and fails where it is told to."""

    def __init__(self, name, log, fails=()):
        self.name, self.log, self.fails = name, log, fails

    async def before_message(self, ws, message):
        self.log.append(f"{self.name} before")
        if "before" in self.fails:
            raise KeyError(self.name)

    async def after_message(self, ws, message, error):
        self.log.append(f"{self.name} after {error!r}")
        if "after" in self.fails:
            raise OSError(self.name)


def run(coroutine):
    """Step a coroutine that never waits to its end."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


def around(hooks, handling):
    return run(HookChain(hooks).around("ws", MESSAGE, handling))


async def answers():
    return "answer"


async def fails():
    raise ValueError("handler")


def test_layers_nest():
    """The outer hook comes first and last."""
    log = []
    answer = around([Noting("a", log), Noting("b", log)], answers)

    assert answer == "answer"
    assert log == ["a before", "b before", "b after None", "a after None"]


def test_a_failure_passes_every_layer_it_leaves():
    """Each hears what was raised, and it goes on to the caller."""
    log = []

    with pytest.raises(ValueError, match="handler"):
        around([Noting("a", log), Noting("b", log)], fails)

    assert log[2:] == ["b after ValueError('handler')", "a after ValueError('handler')"]


@given(st.lists(st.sets(st.sampled_from(["before", "after"])), max_size=4), st.booleans())
def test_after_runs_if_and_only_if_the_layer_was_entered(failing, handler_fails):
    """Whatever fails, wherever."""
    log = []
    hooks = [Noting(str(number), log, fails=each) for number, each in enumerate(failing)]
    with contextlib.suppress(KeyError, OSError, ValueError):
        around(hooks, fails if handler_fails else answers)

    entered = [line.split()[0] for line in log if line.endswith("before")]
    if any("before" in each for each in failing):
        entered.pop()  # the last one refused
    left = [line.split()[0] for line in log if " after " in line]
    assert left == entered[::-1]


def test_only_what_is_overridden_counts():
    """A point that nobody overrides costs nothing."""

    class Nothing(Hook): ...

    class Inherited(Noting): ...

    class Duck:
        async def after_connect(self, req, ws): ...

    chain = HookChain([Nothing(), Inherited("x", []), Duck()])

    assert (len(chain.layers), len(chain.after_connect)) == (1, 1)
    assert (chain.before_connect, chain.before_disconnect) == ((), ())


def test_a_layer_may_have_one_side_only():
    """What it does not override is passed over."""
    log = []

    class Before(Hook):
        async def before_message(self, ws, message):
            log.append("before")

    class After(Hook):
        async def after_message(self, ws, message, error):
            log.append(f"after {error!r}")

    around([Before(), After()], answers)
    with pytest.raises(ValueError, match="handler"):
        around([After(), Before()], fails)

    assert log == ["before", "after None", "before", "after ValueError('handler')"]


def test_goodbyes_run_from_the_inside_out():
    """As everything that ends does."""

    class First(Hook):
        async def before_disconnect(self, ws, close_code): ...

    class Second(First):
        pass

    chain = HookChain([First(), Second()])

    assert [type(method.__self__) for method in chain.before_disconnect] == [Second, First]


class NotAwaited:
    def before_message(self, ws, message):
        pass


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        (Noting, r"Noting is a class; hooks are instances: Noting\(\)"),
        (object(), "object is not a hook: it has none of before_connect"),
        (NotAwaited(), "is awaited by the library but is not a coroutine"),
        (3, "int is not a hook"),
    ],
    ids=["class", "object", "plain method", "number"],
)
def test_what_could_never_be_a_hook_is_refused(hook, why):
    """When it is given, with the reason."""
    with pytest.raises(HandlerDefinitionError, match=why):
        HookChain([hook])


async def nothing(): ...


async def one(a): ...


async def two(a, b): ...


async def three(a, b, c): ...


async def four(a, b, c, d): ...


async def needs_more(*args, key): ...


async def named(*, ws, message): ...


ARGUMENTS = {
    "before_connect": "req, ws, params",
    "after_connect": "req, ws",
    "before_message": "ws, message",
    "after_message": "ws, message, error",
    "before_disconnect": "ws, close_code",
    "on_refused": "ws, refusal, frame",
}


def wrong(point):
    """Give functions that cannot take what a point is called with."""
    fit = two if ARGUMENTS[point].count(",") == 1 else three
    return [each for each in (nothing, one, two, three, four, needs_more, named) if each is not fit]


class Holder:
    """A hook whose points are whatever it was given."""

    def __init__(self, **points):
        vars(self).update(points)


class Called:
    """An object that is called like a coroutine function of so many arguments."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *args):
        return self.function(*args)


CASES = [(point, function) for point in ARGUMENTS for function in wrong(point)]
TIERS = {
    "chain": lambda hook: HookChain([hook]),
    "app": lambda hook: install(falcon.asgi.App(), hooks=[hook]),
    "App": lambda hook: App(hooks=(hook,)),
    "router": lambda hook: WebSocketRouter(hooks=[hook]),
    "resource": lambda hook: type("Room", (WebSocketResource,), {"hooks": [hook]}),
}


@pytest.mark.parametrize(("point", "function"), CASES)
@pytest.mark.parametrize("tier", TIERS)
def test_a_point_that_cannot_take_its_arguments_is_refused(tier, point, function):
    """Where it is given, with what it should be written like; not at the first handshake."""
    method = type("Timed", (Hook,), {point: staticmethod(function)})()
    wanted = re.escape(f"write `async def {point}(self, {ARGUMENTS[point]})`")
    for hook in (method, Holder(**{point: function})):
        with pytest.raises(HandlerDefinitionError, match=wanted):
            TIERS[tier](hook)


async def anything(*args): ...


async def optional(a, b, c=None, d=None): ...


def forwarded(function):
    @functools.wraps(function)
    async def call(*args):
        return await function("database", *args)

    return call


class Bound:
    async def of_three(self, extra, a, b): ...

    async def __call__(self, a, b): ...


@pytest.mark.parametrize(
    "method",
    [
        anything,
        optional,
        two,
        functools.partial(three, 1),
        functools.partial(Bound().of_three, "extra"),
        Bound(),
        forwarded(three),
    ],
    ids=["any", "optional", "two", "partial", "partial of a method", "object", "wrapped"],
)
@pytest.mark.parametrize("tier", TIERS)
def test_whatever_can_take_its_arguments_is_taken(tier, method):
    """A function, a partial, an object that is called, a decorated one."""
    for point in ("after_connect", "before_message", "before_disconnect"):
        TIERS[tier](Holder(**{point: method}))


@pytest.mark.parametrize("point", ARGUMENTS)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("method", [lambda *_args: None, Called(anything), print, len])
def test_a_point_that_is_not_a_coroutine_is_refused_everywhere(tier, point, method):
    """Though it could be called, what it returns could not be awaited for sure."""
    with pytest.raises(HandlerDefinitionError, match="is not a coroutine; write `async def"):
        TIERS[tier](Holder(**{point: method}))


@pytest.mark.parametrize(
    "function", [anything, functools.partial(anything), print, Bound().of_three]
)
@pytest.mark.parametrize("tier", TIERS)
def test_a_function_is_not_a_hook(tier, function):
    """It would not say when it is to be called."""
    with pytest.raises(HandlerDefinitionError, match="is a function, and a hook is an object with"):
        TIERS[tier](function)


@pytest.mark.parametrize("hooks", [Hook(), 5, None, "hooks", b"hooks"])
def test_hooks_are_a_list(hooks):
    """One alone is told so, where it is given."""
    with pytest.raises(HandlerDefinitionError, match=r"WebSocketRouter has hooks=.*; give a list"):
        WebSocketRouter(hooks=hooks)
    with pytest.raises(HandlerDefinitionError, match=r"Room has hooks=.*; give a list"):
        type("Room", (WebSocketResource,), {"hooks": hooks})


# What is refused.


class Refusing(Hook):
    """Answers a refusal with what it was given, or raises it."""

    def __init__(self, name, log, answer=None):
        self.name, self.log, self.answer = name, log, answer

    async def on_refused(self, ws, refusal, frame):
        self.log.append((self.name, ws, refusal.code, frame))
        if isinstance(self.answer, MessageError) or not isinstance(self.answer, Exception):
            return self.answer
        raise self.answer


REFUSAL = MessageError("unknown_type", "Unknown message type 'x'.")
OTHER = MessageError("upgrade", "Get the new version.")


def refused(hooks, own=None):
    return run(HookChain(hooks).refused("ws", REFUSAL, "frame", own))


def test_a_refusal_is_what_it_was_where_nothing_answers():
    """No hook, no method, or hooks that only look."""
    log = []

    assert refused([]) is REFUSAL
    assert (
        refused([Refusing("a", log), Noting("b", log)], Refusing("own", log).on_refused) is REFUSAL
    )
    assert log == [(name, "ws", "unknown_type", "frame") for name in ("a", "own")]


def test_the_first_answer_to_a_refusal_counts():
    """From the outside in, the resource's own method last; the others are not asked."""
    log = []
    hooks = [Refusing("a", log), Refusing("b", log, OTHER), Refusing("c", log, REFUSAL)]

    assert refused(hooks, Refusing("own", log, REFUSAL).on_refused) is OTHER
    assert [name for name, *_ in log] == ["a", "b"]


@pytest.mark.parametrize("answer", [True, "text", 5, {"code": "x"}, MessageError])
def test_what_is_not_an_error_is_not_an_answer(answer):
    """Also a class that was not called."""
    log = []

    assert refused([Refusing("a", log, answer)], Refusing("own", log, OTHER).on_refused) is OTHER


def test_what_is_raised_on_a_refusal_is_logged_once(caplog):
    """It counts as no answer, and the others are asked."""
    log = []
    hooks = [Refusing("a", log, KeyError("bug")), Refusing("b", log, OTHER)]

    assert refused(hooks) is OTHER
    assert len(caplog.records) == 1
    assert "on_refused failed" in caplog.text
    assert "KeyError: 'bug'" in caplog.text


def test_an_on_refused_that_is_not_a_coroutine_is_refused():
    """With the chain, like the other points."""

    class Plain:
        def on_refused(self, ws, refusal, frame): ...

    with pytest.raises(HandlerDefinitionError, match="is not a coroutine"):
        HookChain([Plain()])
