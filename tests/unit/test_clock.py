"""The time and the chance that the library goes by, and how a loop gets others."""

import asyncio
import threading
import time

import pytest

from falcon_pachinko import clock


class Still:
    """A world in which nothing happens."""

    def monotonic(self):
        return 42.0

    def uniform(self, low, high):
        return low

    def token_hex(self, size):
        return "00" * size


@pytest.fixture
async def still():
    loop = asyncio.get_running_loop()
    clock.SOURCES[loop] = Still()
    yield
    del clock.SOURCES[loop]


def drawn():
    return clock.monotonic(), clock.uniform(1, 2), clock.token_hex(3)


def test_the_machine_is_asked_where_nothing_else_is():
    """With or without a loop."""
    before = time.monotonic()
    now, number, name = drawn()

    assert before <= now <= time.monotonic()
    assert 1 <= number <= 2
    assert len(bytes.fromhex(name)) == 3
    assert clock.token_hex(16) != clock.token_hex(16)


async def test_a_loop_may_have_a_world_of_its_own(still):
    """Which its threads share."""
    assert drawn() == (42.0, 1, "000000")
    assert await asyncio.to_thread(drawn) == (42.0, 1, "000000")


async def test_another_loop_keeps_the_machines(still):
    """One test's time is nobody else's."""
    times = []

    def run():
        async def ask():
            times.append(clock.monotonic())

        asyncio.run(ask())

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)

    assert times != [42.0]
