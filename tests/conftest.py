"""What all rings share: how many examples, which event loop, and what a run leaves out."""

import asyncio
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from falcon_pachinko.testing import RequestError

# `make test` takes the first, `make test-slow` the second, `make test-all` the third.  No
# deadline for one example: it would depend on how fast the machine is.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("slow", max_examples=100, deadline=None)
settings.register_profile("exhaustive", max_examples=1000, deadline=None)
settings.load_profile("quick")

DEADLINE = 30
"""Seconds that anything a test waits for may take."""


def _eager_loop():
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def _uvloop():
    import uvloop  # noqa: PLC0415  # not on every platform

    return uvloop.new_event_loop()


LOOPS = {"asyncio": asyncio.new_event_loop, "eager": _eager_loop, "uvloop": _uvloop}


def pytest_addoption(parser):
    parser.addoption(
        "--loop",
        choices=LOOPS,
        default="asyncio",
        help="the event loop of async tests: asyncio's, the same with "
        "asyncio.eager_task_factory (Python 3.12 or later), or uvloop",
    )


SLOW_RINGS = {Path(__file__).parent / ring for ring in ("browser", "cli", "packaging")}
"""Each test starts programs, and there are many: `make test` takes those marked `quick`."""


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(config, items):
    exhaustive = config.getoption("--hypothesis-profile") == "exhaustive"
    for item in items:
        if item.path.parent in SLOW_RINGS and not item.get_closest_marker("quick"):
            item.add_marker("slow")
        if exhaustive and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))  # forty times the examples


SHARING = (
    "tests/packaging/test_matrix.py",
    "tests/packaging/test_wheel.py",
    "tests/cli/test_add_checks.py",
)
"""Files whose tests share what takes long to make: one worker runs them all."""


class KeepingTogether(LoadScopeScheduling):
    """Gives workers one test at a time, but the files of `SHARING` as a whole, and those first."""

    def _split_scope(self, nodeid):
        path, _, _ = nodeid.partition("::")
        return path if path in SHARING else nodeid


def pytest_xdist_make_scheduler(config, log):
    together = config.getoption("dist") == "loadscope"
    return KeepingTogether(config, log) if together else None


class OtherLoop:
    """A plugin of pytest-asyncio's: it runs async tests in another loop than asyncio's."""

    def __init__(self, name):
        self.factories = {name: LOOPS[name]}

    def pytest_asyncio_loop_factories(self):
        return self.factories


def pytest_configure(config):
    name = config.getoption("--loop")
    if name != "asyncio":
        config.pluginmanager.register(OtherLoop(name))


@pytest.fixture(scope="session", autouse=True)
def _sigint_as_on_a_terminal():
    """Give the processes that tests start a SIGINT that interrupts them.

    A run in the background, or below `nohup` and its like, ignores SIGINT, and so would all
    that it starts.  A handler of Python's, unlike "ignored", is not inherited; this one does
    nothing, so that the run itself goes on ignoring it.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, lambda *_: None)
    yield
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture
def until():
    """Let the loop turn until something is true."""

    async def wait(condition):
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110  # anything may make it true
                await asyncio.sleep(0)

    return wait


@pytest.fixture
def answered():
    """Await a request; give the whole answer, an ``error`` too."""

    async def wait(request):
        try:
            return await request
        except RequestError as refused:
            return refused.answer

    return wait
