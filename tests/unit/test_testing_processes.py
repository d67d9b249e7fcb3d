"""Several processes on one loop: what belongs to whom, and what a kill stops."""

import asyncio
import gc
import sys

import pytest

from falcon_pachinko.testing.processes import Process, Processes


@pytest.fixture
async def processes():
    processes = Processes()
    processes.install()
    yield processes
    processes.remove()


@pytest.fixture
async def two(processes):
    """Two processes, which end."""
    made = [Process(0), Process(1)]
    yield made
    for each in made:
        await processes.end(each)


def spawn(processes, process, coroutine):
    with processes.within(process):
        return asyncio.get_running_loop().create_task(coroutine)


async def test_what_code_of_a_process_begins_is_of_that_process(processes, two):
    """Tasks, callbacks and timers, however far that goes; not what it wakes."""
    loop, seen, woken = asyncio.get_running_loop(), [], asyncio.Event()

    def note(where):
        seen.append((where, processes.current))

    async def child():
        note("child")
        loop.call_soon(note, "soon")
        loop.call_later(0, note, "later")
        loop.call_at(loop.time(), note, "at")
        woken.set()

    async def parent():
        note("parent")
        await asyncio.create_task(child())
        note("parent again")

    async def waiter():
        await woken.wait()
        note("other")

    waiting = spawn(processes, two[1], waiter())
    await asyncio.sleep(0)
    await spawn(processes, two[0], parent())
    await waiting
    await asyncio.sleep(0.01)
    note("test")

    assert dict(seen) == {
        **dict.fromkeys(["parent", "child", "parent again", "soon", "later", "at"], two[0]),
        "other": two[1],
        "test": None,
    }


async def test_a_killed_process_never_runs_again(processes, two):
    """What it waited for may come; its clean-ups do not run, even when all is collected."""
    ran, event = [], asyncio.Event()

    async def numbers():
        try:
            yield 1
            await event.wait()
        finally:
            ran.append("generator")

    async def work():
        try:
            async for _ in numbers():
                pass
        finally:
            ran.append("work")

    loop = asyncio.get_running_loop()
    task = spawn(processes, two[0], work())
    other = spawn(processes, two[1], event.wait())
    with processes.within(two[0]):
        loop.call_later(0.001, ran.append, "timer")
        loop.call_soon(ran.append, "soon")
    del loop
    await asyncio.sleep(0)
    assert ran == ["soon"]
    processes.kill(two[0])
    assert task not in asyncio.all_tasks()
    event.set()
    await other
    del task
    gc.collect()
    await asyncio.sleep(0.01)

    assert ran == ["soon"]


async def test_a_process_that_ends_cleans_up(processes):
    """Tasks that are left are cancelled, generators that are left are closed."""
    process, ran = Process(0), []

    async def numbers():
        try:
            yield 1
        finally:
            ran.append("generator")

    async def begin():
        numbered = numbers()
        await anext(numbered)
        return numbered

    async def work():
        try:
            await asyncio.sleep(3600)
        finally:
            ran.append("work")

    numbered = await spawn(processes, process, begin())
    task = spawn(processes, process, work())
    await asyncio.sleep(0)
    await processes.end(process)

    assert ran == ["work", "generator"]
    assert task.cancelled()
    assert process.dead
    del numbered


async def test_a_coroutine_can_run_as_code_of_a_process(processes, two):
    """In the task of the caller, whose errors and cancellations it gets."""

    async def ask(event):
        task = asyncio.current_task()
        try:
            await event.wait()
        except asyncio.CancelledError:
            return "cancelled", processes.current, task
        return "done", processes.current, task

    async def fail():
        await asyncio.sleep(0)
        raise ZeroDivisionError

    event = asyncio.Event()
    event.set()
    assert await processes.run(two[0], ask(event)) == ("done", two[0], asyncio.current_task())
    with pytest.raises(ZeroDivisionError):
        await processes.run(two[0], fail())
    asking = asyncio.create_task(processes.run(two[1], ask(asyncio.Event())))
    await asyncio.sleep(0)
    asking.cancel()
    assert await asking == ("cancelled", two[1], asking)
    assert processes.current is None


async def test_a_coroutine_that_is_given_up_is_closed(processes, two):
    """As one that is awaited is."""
    closed = []

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    running = processes.run(two[0], wait())
    running.send(None)
    running.close()

    assert closed == [True]


async def test_the_loop_is_as_before(processes):
    """The hooks of async generators, too."""
    hooks = sys.get_asyncgen_hooks()
    with processes.within(Process(0)):
        assert sys.get_asyncgen_hooks().firstiter != hooks.firstiter
    assert sys.get_asyncgen_hooks() == hooks
