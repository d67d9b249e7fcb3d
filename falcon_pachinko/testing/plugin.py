"""The pytest plugin: fixtures around the fixture ``app``, which is the project's own.

A project that has ``falcon-pachinko[testing]`` installed has them without any import::

    @pytest.fixture
    def app():
        return create_app()

    async def test_in_memory(pachinko_client):
        async with pachinko_client.connect("/ws/chat/tea") as ann:
            await ann.expect("welcome")

    async def test_on_a_real_server(pachinko_server):
        async with pachinko_server.connect("/ws/chat/tea") as ann:
            await ann.expect("welcome")

The fixtures are pytest-asyncio's, in its strict mode and in its auto mode. Tests with
anyio's mark have them too, in either mode.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from falcon_pachinko.testing import LiveServer, Simulator

# pytest loads this at its start, whatever it is going to run: the rest of the kit,
# uvicorn and websockets are imported by the fixtures that need them.


def _async_fixture(function: Any) -> Any:
    """Make an async fixture; without pytest-asyncio, one that says what is missing."""
    name = function.__name__
    try:
        import pytest_asyncio  # noqa: PLC0415  # an extra
    except ImportError:
        return pytest.fixture(name=name)(lambda: _refuse(name))
    return pytest_asyncio.fixture(function)


def _refuse(name: str) -> None:
    pytest.fail(
        f"{name} needs pytest-asyncio, which is not installed: "
        "pip install 'falcon-pachinko[testing]'",
        pytrace=False,
    )


_WITHIN_ITS_TEST = pytest.StashKey["Simulator"]()


@_async_fixture
async def pachinko_client(app: Any, request: pytest.FixtureRequest) -> AsyncIterator[Simulator]:
    """The project's ``app``, running in memory; ``connect`` makes its clients."""
    from falcon_pachinko.testing.simulator import simulate  # noqa: PLC0415  # see above

    simulator = simulate(app)
    if _runs_in_another_loop(request):
        request.node.stash[_WITHIN_ITS_TEST] = simulator
        yield simulator
    else:
        async with simulator:
            yield simulator


def _runs_in_another_loop(request: pytest.FixtureRequest) -> bool:
    """Tell whether anyio runs this fixture, and pytest-asyncio the test.

    That is what becomes of anyio's mark in pytest-asyncio's auto mode.
    """
    kinds = type(request.node).__mro__
    by_pytest_asyncio = any(kind.__module__.startswith("pytest_asyncio") for kind in kinds)
    return by_pytest_asyncio and "anyio_backend" in request.fixturenames


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run the app around a test whose fixtures have another loop: both in the test's own."""
    simulator = item.stash.get(_WITHIN_ITS_TEST, None)
    if simulator is None or not isinstance(item, pytest.Function):
        return (yield)
    test = item.obj

    @functools.wraps(test)
    async def within_the_app(*args: Any, **kwargs: Any) -> None:
        async with simulator:
            await test(*args, **kwargs)

    item.obj = within_the_app
    try:
        return (yield)
    finally:
        item.obj = test


@_async_fixture
async def pachinko_server(app: Any) -> AsyncIterator[LiveServer]:
    """The project's ``app`` on a real server, in a thread; ``connect`` makes its clients."""
    from falcon_pachinko.testing.live import serve  # noqa: PLC0415  # see above

    async with serve(app) as server:
        yield server
