"""`VirtualClock`: hours that pass at once, on the loop that is there."""

import asyncio
import time

import pytest

from falcon_pachinko import clock as library
from falcon_pachinko.testing import VirtualClock


@pytest.fixture
async def clock():
    with VirtualClock() as clock:
        yield clock


async def test_it_stands_still_while_anything_can_run(clock):
    """However long that takes."""
    for _ in range(500):
        await asyncio.sleep(0)
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(100)))

    assert clock.time() == 1000
    assert asyncio.get_running_loop().time() == library.monotonic() == 1000


async def test_it_jumps_when_everything_waits(clock):
    """By just as much as that takes, and without real time."""
    began = time.monotonic()
    await asyncio.sleep(86_400)

    assert clock.time() == 87_400
    assert time.monotonic() - began < 60


async def test_timers_run_in_the_order_of_their_times(clock):
    """Those of one time as they were set; a sum of times is the time that it is written as."""
    loop, order = asyncio.get_running_loop(), []
    loop.call_later(0.3, order.append, "first of 0.3")
    loop.call_later(0.2, loop.call_later, 0.1, order.append, "third of 0.3")
    loop.call_later(0.1, order.append, "0.1")
    loop.call_at(1000.1 + 0.2, order.append, "second of 0.3")
    loop.call_later(0.4, order.append, "never").cancel()
    await clock.advance(0.3)

    assert order == ["0.1", "first of 0.3", "second of 0.3", "third of 0.3"]
    await clock.advance(1)
    assert len(order) == 4


async def test_an_advance_ends_when_all_of_its_time_is_done(clock):
    """What is due at its very end, and what follows from that, comes before."""
    done = []

    async def work():
        await asyncio.sleep(5)
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        done.append(clock.time())
        await asyncio.sleep(0.001)
        done.append("later")

    working = asyncio.create_task(work())
    await clock.advance(5)
    assert done == [1005]
    assert clock.time() == 1005
    await working


async def test_advancing_by_nothing_lets_everything_settle(clock):
    """Without time."""
    steps = []

    async def work():
        for number in range(100):
            await asyncio.sleep(0)
            steps.append(number)

    working = asyncio.create_task(work())
    await clock.advance(0)

    assert working.done()
    assert clock.time() == 1000


async def test_two_may_advance_at_once(clock):
    """Each for its own time."""
    ends = []

    async def advance(seconds):
        await clock.advance(seconds)
        ends.append((seconds, clock.time()))

    await asyncio.gather(advance(3), advance(1), advance(2))

    assert ends == [(1, 1001), (2, 1002), (3, 1003)]


async def test_what_asyncio_builds_on_timers_goes_by_it(clock):
    """Time-outs, waits, and one that is put off."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 20)
    waiting = asyncio.create_task(asyncio.Event().wait())
    await asyncio.wait([waiting], timeout=30)
    waiting.cancel()
    async with asyncio.timeout(1) as limit:
        limit.reschedule(clock.time() + 50)
        await asyncio.sleep(40)

    assert clock.time() == 1100


async def test_a_cancelled_advance_leaves_nothing(clock):
    """And time goes on."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await clock.advance(10)
    await clock.advance(20)

    assert clock.time() == 1021


async def test_threads_are_waited_for(clock):
    """The clock stands still while they work."""
    pause = asyncio.create_task(asyncio.sleep(3600))
    await asyncio.to_thread(time.sleep, 0.05)

    assert clock.time() == 1000
    pause.cancel()


async def test_a_loop_that_spins_does_not_stop_it(clock):
    """As tests do that wait for something to become true."""
    pause = asyncio.create_task(asyncio.sleep(3600))
    while not pause.done():  # noqa: ASYNC110  # this is what is tested
        await asyncio.sleep(0)

    assert clock.time() == 4600


async def test_with_patience_it_waits_for_what_comes_from_elsewhere():
    """For so long in real time; here, from a thread that the loop knows nothing of."""
    with VirtualClock(patience=0.5) as clock:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        async def elsewhere():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            writer.close()
            arrived.set()

        async def serve(reader, writer):
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        asking = loop.create_task(elsewhere())
        async with asyncio.timeout(60):
            await arrived.wait()
        await asking
        server.close()

        assert clock.time() == 1000


async def test_with_patience_it_jumps_when_nothing_comes():
    """However often."""
    with VirtualClock(patience=0.001) as clock:
        await asyncio.sleep(3600)
        await clock.advance(3600)

        assert clock.time() == 8200


async def test_what_is_due_already_runs_at_once(clock):
    """Without time."""
    loop, ran = asyncio.get_running_loop(), []
    loop.call_at(clock.time() - 5, ran.append, "late")
    loop.call_later(0, ran.append, "now")
    loop.call_later(0, ran.append, "cancelled").cancel()
    await clock.advance(0)

    assert ran == ["late", "now"]
    assert clock.time() == 1000


async def test_time_does_not_stop_at_a_timer_that_was_cancelled(clock):
    """It is as if it had never been."""
    asyncio.get_running_loop().call_later(1, print).cancel()
    await asyncio.sleep(2)

    assert clock.time() == 1002


async def test_many_cancelled_timers_are_not_kept(clock):
    """A time-out that is never needed costs nothing in the long run."""
    for _ in range(5_000):
        asyncio.get_running_loop().call_later(60, print).cancel()

    assert len(clock._timers) < 1_000


async def test_what_still_waits_goes_on_in_real_time():
    """Where the block ends before a timer of it."""
    with VirtualClock() as clock:
        pause = asyncio.create_task(asyncio.sleep(0.05))
        gone = asyncio.get_running_loop().call_later(0.01, pytest.fail, "it was cancelled")
        await clock.advance(0.001)
        gone.cancel()

    await asyncio.wait_for(pause, 30)


async def test_what_waited_before_goes_by_real_time():
    """A time-out around the block, for example."""
    before = asyncio.get_running_loop().call_later(3600, print)
    with VirtualClock() as clock:
        await clock.advance(36_000)

        assert not before.cancelled()
        assert asyncio.get_running_loop().time() == 37_000
    assert before.when() > asyncio.get_running_loop().time()
    before.cancel()


async def test_a_clock_may_be_shared_and_used_again():
    """By several blocks of one loop; it goes on where it was."""
    clock = VirtualClock()
    with clock:
        with clock:
            await clock.advance(5)
        await clock.advance(5)
    with clock:
        assert clock.time() == 1010


async def test_a_loop_has_one_clock(clock):
    """And a clock that is not in use cannot be moved."""
    with pytest.raises(RuntimeError, match="another clock"), VirtualClock():
        pass
    with pytest.raises(RuntimeError, match="not in use"):
        await VirtualClock().advance(1)
    assert clock.time() == 1000


async def test_a_clock_has_one_loop(clock):
    """A thread with another one cannot take it."""

    def enter():
        async def enter():
            with clock:
                pass

        asyncio.run(enter())

    with pytest.raises(RuntimeError, match="on another loop"):
        await asyncio.to_thread(enter)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
async def test_time_goes_forward_by_a_number(clock, seconds):
    """And a patience is one."""
    with pytest.raises(ValueError, match="number of seconds"):
        await clock.advance(seconds)
    with pytest.raises(ValueError, match="number of seconds"):
        VirtualClock(patience=seconds)


async def test_what_is_random_is_so_by_its_seed():
    """The same one twice is the same run."""

    def draw(seed):
        with VirtualClock(seed=seed):
            return library.uniform(0, 1), library.token_hex(8)

    assert draw(1) == draw(1) != draw(2)


async def test_an_error_in_a_timer_is_told_as_by_any_loop(clock):
    """And stops nothing."""
    told = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

    def fail():
        raise OSError

    loop.call_later(1, fail)
    await clock.advance(2)

    assert [type(each) for each in told] == [OSError]
