"""Hooks: sorted once by what they override, run from the outside in and back."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import HandlerDefinitionError, Hook, MessageError
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
