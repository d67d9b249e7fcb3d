"""Hooks: sorted once by what they override, run from the outside in and back."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import HandlerDefinitionError, Hook
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
