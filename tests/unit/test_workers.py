"""Workers: checked when they are registered, supervised while they run, stopped in time."""

import asyncio
import contextlib
import functools
import inspect
import signal

import pytest

from falcon_pachinko import (
    DuplicateWorkerError,
    WorkerController,
    WorkerDefinitionError,
    worker,
)
from falcon_pachinko import workers as workers_module

SOON = (0.001, 0.002)


async def idle():
    await asyncio.Event().wait()


@pytest.fixture
async def controller():
    made = WorkerController(stop_timeout=1)
    yield made
    await made.stop()


# What can be registered.


class Callable:
    """An object whose call is a coroutine."""

    async def __call__(self):
        await idle()

    async def method(self):
        await idle()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (idle, "idle"),
        (functools.partial(functools.partial(idle)), "idle"),
        (Callable(), "Callable"),
        (Callable().method, "method"),
    ],
    ids=["function", "partial", "object", "method"],
)
async def test_whatever_makes_a_coroutine_can_be_a_worker(controller, function, name):
    """Functions, partials, methods and callable objects; named after what they are."""
    worker = controller.add(function)

    assert worker.name == name
    assert repr(worker) == f"<Worker {name} waiting>"


def plain():
    pass


async def generator():
    yield 1


@pytest.mark.parametrize(
    "function",
    [plain, generator, 3, None, "idle", lambda: None],
    ids=lambda each: repr(each)[:20],
)
def test_what_is_no_coroutine_function_is_refused(function):
    """At the registration, with the way to write it."""
    why = r"is not a coroutine; write `async def" if callable(function) else "is not a function"
    with pytest.raises(WorkerDefinitionError, match=why):
        WorkerController().add(function)


class Prices:
    async def poll(self, source): ...

    async def __call__(self, manager, source): ...


async def needs_nothing(): ...


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (needs_nothing, (1,)),
        (Prices().poll, ()),
        (Prices().poll, (1, 2)),
        (Prices(), ("manager",)),
        (functools.partial(Prices().poll, "source"), (1,)),
    ],
)
def test_a_worker_that_cannot_take_its_arguments_is_refused(function, args):
    """A method, an object that is called, a partial: when it is added, not when it starts."""
    with pytest.raises(WorkerDefinitionError, match=r"cannot be called with \(.*\): "):
        WorkerController().add(function, *args)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"restart": "always"}, 'restart=\'always\'; use "on-failure" or "never"'),
        ({"backoff": (0, 1)}, r"backoff=\(0, 1\); give \(first, largest\) seconds"),
        ({"backoff": (2, 1)}, r"backoff=\(2, 1\)"),
        ({"unknown": 1}, r"worker idle cannot be called with \(unknown=\.\.\.\)"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(given, why):
    """The text names the worker, the value and the choice."""
    with pytest.raises(WorkerDefinitionError, match=why):
        WorkerController().add(idle, **given)


# Options beside the function.


@worker
async def bare():
    await idle()


@worker()
async def empty():
    await idle()


@worker(name="told", restart="never", backoff=(1, 2))
async def with_options():
    await idle()


def test_the_decorator_needs_no_options():
    """With parentheses or without, the function is the function."""
    controller = WorkerController()
    made = [controller.add(each) for each in (bare, empty, with_options)]

    assert inspect.iscoroutinefunction(bare)
    assert [each.name for each in made] == ["bare", "empty", "told"]
    assert [each.restart for each in made] == ["on-failure", "on-failure", "never"]


@pytest.mark.parametrize(
    "function",
    [
        worker(name="told")(functools.partial(idle)),
        functools.partial(with_options),
        worker(name="told")(Callable()),
    ],
    ids=["a partial", "a partial of one", "an object"],
)
def test_options_stand_beside_whatever_can_be_a_worker(function):
    """On the thing itself, or on what it calls."""
    assert WorkerController().add(function).name == "told"


@pytest.mark.parametrize("given", ["prices", 3, (1, 2)])
def test_an_option_without_its_name_is_told(given):
    """``@worker("prices")`` would be a decorator of a text."""
    with pytest.raises(WorkerDefinitionError, match=r"is not a function; write @worker, or"):
        worker(given)


def test_arguments_that_do_not_fit_are_refused():
    """Before the app starts, not after."""
    with pytest.raises(
        WorkerDefinitionError, match=r"cannot be called with \(1, 2\): too many positional"
    ):
        WorkerController().add(idle, 1, 2)


def test_a_name_is_taken_once():
    """Two workers in a log must be told apart."""
    controller = WorkerController()
    controller.add(idle)
    controller.add(idle, name="second")

    with pytest.raises(DuplicateWorkerError, match="'idle' is registered already"):
        controller.add(idle)


# What they are called with.


async def test_a_worker_gets_its_own_arguments_or_the_defaults():
    """With none of its own, those of the controller: an app's manager."""
    calls = []

    async def note(*args, **kwargs):
        calls.append((args, kwargs))

    controller = WorkerController("default")
    controller.add(note, name="a")
    controller.add(note, 1, two=2, name="b")
    controller.add(note, three=3, name="c")
    await controller.start()
    await until(lambda: len(calls) == 3)
    await controller.stop()

    assert calls == [(("default",), {}), ((1,), {"two": 2}), ((), {"three": 3})]


# Their life.


async def test_workers_start_and_stop(controller):
    """Starting or stopping again changes nothing, and a stopped controller starts anew."""
    controller.add(idle)
    states = [controller.status()["idle"]["state"]]

    for verb in (controller.start, controller.start, controller.stop, controller.stop):
        await verb()
        await asyncio.sleep(0)
        states.append(controller.status()["idle"]["state"])
    await controller.start()
    await asyncio.sleep(0)
    states.append(controller.status()["idle"]["state"])

    assert states == ["waiting", "running", "running", "stopped", "stopped", "running"]


async def test_a_worker_added_later_starts_at_once(controller):
    """As those before it did."""
    started = asyncio.Event()

    async def late():
        started.set()

    await controller.start()
    controller.add(late)

    await asyncio.wait_for(started.wait(), 30)


async def test_a_worker_that_returns_is_done(controller):
    """It is not started again."""

    async def once():
        pass

    worker = controller.add(once)
    await controller.start()
    await until(lambda: worker.state not in ("waiting", "running"))

    assert controller.status() == {"once": {"state": "done", "restarts": 0}}


@pytest.mark.parametrize(
    "error",
    [ValueError("oops"), ExceptionGroup("many", [OSError("oops")]), asyncio.CancelledError()],
)
async def test_a_crash_is_logged_at_once_and_survived(controller, caplog, error):
    """With its traceback, whatever it was; then the worker starts again."""
    runs = []
    again = asyncio.Event()

    async def flaky():
        runs.append("run")
        if len(runs) == 1:
            raise error
        again.set()
        await idle()

    worker = controller.add(flaky, backoff=SOON)
    await controller.start()
    await asyncio.wait_for(again.wait(), 30)

    (crash, pause) = caplog.records
    assert (crash.getMessage(), crash.exc_info[1]) == ("worker flaky crashed", error)
    assert pause.getMessage() == "worker flaky starts again in 0.0 s"
    assert (worker.state, worker.restarts) == ("running", 1)


async def test_the_pauses_double_up_to_the_largest(controller, monkeypatch):
    """Give or take a fifth, so that many workers do not come back in step."""
    pauses = []
    enough = asyncio.Event()

    async def note(seconds):
        pauses.append(seconds)
        if len(pauses) == 6:
            enough.set()
            await idle()

    class NoWaiting:
        """The module's asyncio, but for its sleep."""

        sleep = staticmethod(note)

        def __getattr__(self, name):
            return getattr(asyncio, name)

    monkeypatch.setattr(workers_module, "asyncio", NoWaiting())

    async def broken():
        raise OSError

    controller.add(broken, backoff=(1, 10))
    await controller.start()
    await asyncio.wait_for(enough.wait(), 30)

    for pause, middle in zip(pauses, [1, 2, 4, 8, 10, 10], strict=True):
        assert 0.8 * middle <= pause <= 1.2 * middle


async def test_a_healthy_run_starts_the_pauses_over(controller, monkeypatch, caplog):
    """A crash after a healthy while counts as the first again."""
    monkeypatch.setattr(workers_module, "HEALTHY", 0)
    monkeypatch.setattr(workers_module, "uniform", lambda *_: 1)
    runs = []
    enough = asyncio.Event()

    async def flaky():
        runs.append("run")
        if len(runs) == 20:  # twenty doublings would be ten minutes
            enough.set()
            await idle()
        raise OSError

    controller.add(flaky, backoff=(0.001, 60))
    await controller.start()

    await asyncio.wait_for(enough.wait(), 30)


async def test_a_worker_may_be_left_at_its_first_crash(controller, caplog):
    """``restart="never"``: it is logged, and has failed."""

    async def broken():
        raise OSError

    worker = controller.add(broken, restart="never")
    await controller.start()
    await until(lambda: worker.state == "failed")

    assert [record.getMessage() for record in caplog.records] == ["worker broken crashed"]


async def test_a_critical_worker_takes_the_process_down(controller, caplog):
    """By the signal that servers shut down on, so that everybody's clean-up runs."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)

    async def vital():
        raise OSError

    worker = controller.add(vital, critical=True)
    await controller.start()
    try:
        await asyncio.wait_for(stopped.wait(), 30)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)

    assert worker.state == "failed"
    assert "worker vital is critical: the server stops" in caplog.text


async def test_what_a_critical_crash_ends_in_can_be_changed(controller, caplog):
    """Also after the worker was added: a test wants to hear of it, and to live on."""
    told = []

    async def vital():
        raise OSError("no tea")

    made = controller.add(vital, critical=True)
    controller.on_critical = lambda *crash: told.append(crash)
    await controller.start()
    await until(lambda: made.state == "failed")

    assert [(crashed, str(error)) for crashed, error in told] == [(made, "no tea")]
    assert "the server stops" not in caplog.text


async def test_stopping_without_a_timeout_waits_for_the_ends():
    """For those who switch the limit off."""
    controller = WorkerController(stop_timeout=None)
    controller.add(idle)
    await controller.start()
    await asyncio.sleep(0)
    await controller.stop()

    assert controller.status() == {"idle": {"state": "stopped", "restarts": 0}}


@pytest.mark.parametrize("kind", ["a thread", "a thread with a loop", "a coroutine"])
async def test_another_thread_is_told_whose_loop_it_is(controller, kind):
    """A worker there would send from the wrong loop; the error names the way."""
    controller.add(idle, name="first")
    await controller.start()

    async def add():
        controller.add(idle)

    ask = {
        "a thread": lambda: controller.add(idle),
        "a thread with a loop": lambda: asyncio.run(add()),
        "a coroutine": lambda: asyncio.run(controller.stop()),
    }[kind]
    with pytest.raises(RuntimeError, match=r"another event loop; .*run_coroutine_threadsafe"):
        await asyncio.to_thread(ask)

    assert list(controller.status()) == ["first"]
    assert controller.started


@pytest.mark.parametrize("stop_first", [True, False])
def test_workers_whose_loop_is_gone_start_anew_in_another(stop_first):
    """A server that was torn down has not said goodbye."""
    controller = WorkerController()
    made = controller.add(idle)

    async def run_and_tear_down():
        await controller.start()
        await asyncio.sleep(0)

    async def run_again():
        if stop_first:
            await controller.stop()
        await controller.start()
        await asyncio.sleep(0)
        seen = made.state
        await controller.stop()
        return seen

    asyncio.run(run_and_tear_down())

    assert asyncio.run(run_again()) == "running"


async def test_before_the_start_workers_may_be_added_anywhere(controller):
    """As modules do when they are imported."""
    await asyncio.to_thread(controller.add, idle)
    await controller.start()
    await asyncio.sleep(0)

    assert controller.status()["idle"]["state"] == "running"


async def test_stopping_waits_for_the_ends(controller):
    """A worker that says goodbye is heard."""
    said = []

    async def polite():
        try:
            await idle()
        finally:
            await asyncio.sleep(0)
            said.append("bye")

    controller.add(polite)
    await controller.start()
    await asyncio.sleep(0)

    await controller.stop()

    assert said == ["bye"]


async def test_stopping_is_bounded(caplog):
    """A worker that does not end is named in the log, and left behind."""
    controller = WorkerController(stop_timeout=0.01)
    go = asyncio.Event()

    async def stubborn():
        while not go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go.wait()

    controller.add(stubborn)
    await controller.start()
    await asyncio.sleep(0)
    (task,) = controller._tasks.values()

    await controller.stop()
    go.set()
    await asyncio.wait([task])

    assert "worker stubborn did not end within 0.01 s; no longer waited for" in caplog.text


async def test_a_worker_that_waits_for_its_restart_can_be_stopped(controller):
    """The pause may be half a minute; a shutdown does not wait for it."""

    async def broken():
        raise OSError

    worker = controller.add(broken, backoff=(60, 60))
    await controller.start()
    await until(lambda: worker.state == "waiting" and worker._run is not None)

    await asyncio.wait_for(controller.stop(), 30)


async def until(condition):
    """Let the loop turn until something is true."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # anything may make it true
            await asyncio.sleep(0)
