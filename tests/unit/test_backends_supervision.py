"""The queue of a backend's events, and calls that end in time."""

import asyncio
import gc

import pytest

from falcon_pachinko.backends.base import Lost, Received, StateChanged
from falcon_pachinko.backends.supervision import AHEAD, EventQueue, in_time, let_go


async def test_what_is_held_comes_after_what_is_first():
    """While a connection is made, what arrives waits for the word that it is there."""
    queue = EventQueue()
    queue.put(StateChanged("degraded", ""))
    queue.hold()
    queue.put(Received("a", b"1"))
    queue.release(Lost("cut"), StateChanged("up", ""))
    queue.close()

    assert [event async for event in queue.events()] == [
        StateChanged("degraded", ""),
        Lost("cut"),
        StateChanged("up", ""),
        Received("a", b"1"),
    ]


async def test_a_full_queue_is_waited_for():
    """Whoever puts more than there is room for waits until the reader has taken it."""
    queue = EventQueue()
    queue.put(Received("a", b""))
    putting = asyncio.ensure_future(queue.room_for(AHEAD + 1))
    await asyncio.sleep(0)
    waited = (putting.done(), queue.full)
    queue.close()
    async for _ in queue.events():
        pass
    await putting

    assert waited == (False, True)


async def test_what_is_late_is_cancelled():
    """A call that takes too long ends with TimeoutError, and runs no more when it does."""
    work = asyncio.get_running_loop().create_future()

    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        await in_time(work, 0.01)

    assert work.cancelled()


async def fails_when_cancelled():
    """As client libraries do, with an error of their own."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ConnectionError("the client library's own") from None


@pytest.fixture
async def unseen():
    """What nobody has retrieved by the end of the test."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


@pytest.mark.parametrize("how", ["late", "cancelled", "cancelled twice"])
async def test_an_error_on_the_way_out_is_no_news(unseen, how):
    """What is cut off may raise what it likes; the log has nothing of it."""
    if how == "late":
        with pytest.raises(TimeoutError, match="no answer within"):
            await in_time(fails_when_cancelled(), 0.01)
    else:
        task = asyncio.create_task(in_time(fails_when_cancelled(), 5))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        if how == "cancelled twice":
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        del task
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0)

    assert unseen == []


@pytest.mark.parametrize("how", ["an error", "a result", "cancelled", "not over"])
async def test_a_future_that_nobody_awaits_any_more_says_nothing(how, caplog):
    """However it has ended: no line of asyncio's tells that it was never retrieved."""
    future = asyncio.get_running_loop().create_future()
    match how:
        case "an error":
            future.set_exception(ValueError("a test"))
        case "a result":
            future.set_result(1)
        case "cancelled":
            future.cancel()
    let_go(future)
    was_over = future.done()
    del future
    gc.collect()

    assert was_over
    assert not caplog.records
