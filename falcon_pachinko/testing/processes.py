"""Several processes on one event loop: whose code runs is known, so that one of them can be killed.

Python cannot kill a task: cancelling it runs its clean-ups, and so does collecting it. A
process that is killed here is never run again, and what it was doing is kept for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys
import types
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import Context
from typing import Any, TypeVar

from falcon_pachinko.testing.clock import Patches

__all__ = ["Process", "Processes"]

T = TypeVar("T")

ENDING = 5.0
"""Seconds that tasks which are left over may take to end, once they are cancelled."""


class Process:
    """One of several processes: what it runs, and whether it may."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.dead = False
        """Whether it was killed: nothing of it runs any more."""
        # The async generators that it has begun to go through.
        self._generators: weakref.WeakSet[Any] = weakref.WeakSet()

    def begin_generator(self, generator: Any) -> None:
        """Note an async generator: a loop would close those of all processes at its own end."""
        self._generators.add(generator)

    async def close_generators(self) -> None:
        """Close the async generators that were left halfway, as a loop does at its end."""
        for generator in list(self._generators):
            # One that is running belongs to a task that did not end.
            with contextlib.suppress(RuntimeError):
                await generator.aclose()


class Processes:
    """Keeps apart what several processes do on one event loop, from `install` to `remove`."""

    def __init__(self) -> None:
        self.current: Process | None = None
        """Whose code runs; None for the test's own."""
        self._owners: weakref.WeakKeyDictionary[asyncio.Task[Any], Process | None] = (
            weakref.WeakKeyDictionary()
        )
        # Whose each task is; one that is not in here yet is being made, by whoever runs.

    def install(self) -> None:
        """Begin to note, for all that the running loop is told to do, on whose behalf it is."""
        self._owners.update(dict.fromkeys(asyncio.all_tasks()))
        self._patches = Patches(asyncio.get_running_loop())
        put = self._patches.put
        self._loops_call_soon = put("call_soon", self._call_soon)
        self._loops_call_at = put("call_at", self._call_at)
        self._loops_call_later = put("call_later", self._call_later)
        self._loops_create_task = put("create_task", self._create_task)

    def remove(self) -> None:
        """Give the loop its own methods again."""
        self._patches.take_back()

    @contextlib.contextmanager
    def within(self, process: Process | None) -> Iterator[None]:
        """Have what begins in this block belong to a process; None: to nobody."""
        before, self.current = self.current, process
        hooks = sys.get_asyncgen_hooks()
        if process is not None:
            sys.set_asyncgen_hooks(firstiter=process.begin_generator)
        try:
            yield
        finally:
            self.current = before
            sys.set_asyncgen_hooks(firstiter=hooks.firstiter)

    @types.coroutine
    def run(self, process: Process, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Await a coroutine in the caller's task, as code of a process."""
        resume: Callable[..., Any] = coroutine.send
        argument: Any = None
        while True:
            with self.within(process):
                try:
                    awaited = resume(argument)
                except StopIteration as returned:
                    result: T = returned.value
                    return result
            try:
                argument = yield awaited
                resume = coroutine.send
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001  # also a CancelledError is the coroutine's
                argument, resume = error, coroutine.throw

    def kill(self, process: Process) -> None:
        """Never run anything of a process again, its clean-ups included."""
        process.dead = True
        for task in self._tasks_of(process):
            # A coroutine that is collected is closed, which runs its clean-ups: so it stays, and
            # with it what it refers to, until the tests' own process ends.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(task))
            asyncio._unregister_task(task)  # the loop is not to wait for it, nor to cancel it

    async def end(self, process: Process) -> None:
        """End what a process has left, as `asyncio.run` does; what does not end is killed."""
        left = [task for task in self._tasks_of(process) if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=ENDING)
        await process.close_generators()
        self.kill(process)

    def _tasks_of(self, process: Process) -> list[asyncio.Task[Any]]:
        return [
            task for task, owner in self._owners.items() if owner is process and not task.done()
        ]

    # The loop's methods.

    def _call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        owner = self.current
        task = getattr(callback, "__self__", None)
        if isinstance(task, asyncio.Task):  # what goes on is the task's, whoever it waited for
            owner = self._owners.get(task, owner)
        if owner is None:
            unowned: asyncio.Handle = self._loops_call_soon(callback, *args, context=context)
            return unowned
        handle: asyncio.Handle = self._loops_call_soon(
            self._run, owner, callback, *args, context=context
        )
        return handle

    def _call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        owned = (callback,) if self.current is None else (self._run, self.current, callback)
        timer: asyncio.TimerHandle = self._loops_call_at(when, *owned, *args, context=context)
        return timer

    def _call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        owned = (callback,) if self.current is None else (self._run, self.current, callback)
        timer: asyncio.TimerHandle = self._loops_call_later(delay, *owned, *args, context=context)
        return timer

    def _create_task(self, coroutine: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:
        task: asyncio.Task[T] = self._loops_create_task(coroutine, **options)
        self._owners[task] = self.current
        return task

    def _run(self, owner: Process, callback: Callable[..., object], *args: Any) -> None:
        if not owner.dead:
            with self.within(owner):
                callback(*args)
