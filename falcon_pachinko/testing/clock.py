"""A clock that a test moves, on the event loop that the test runs on anyway."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from types import TracebackType
from typing import Any, Self

from falcon_pachinko.clock import SOURCES

__all__ = ["Patches", "VirtualClock"]

BEGINNING = 1_000.0
"""What the clock shows first, in seconds: the same in each run, so that sums are the same too."""

TURNS = 1_000
"""After so many turns of the loop in which something ran, time passes although nothing rests."""

_RUN_ONCE = asyncio.BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]  # of no stub


class Patches:
    """Methods of one event loop that are replaced for a while."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._before = loop, dict[str, Any]()

    def put(self, name: str, function: Callable[..., Any]) -> Any:
        """Replace a method; return the one of before."""
        before = getattr(self._loop, name)
        if name in vars(self._loop):  # somebody else's
            self._before[name] = before
        else:
            self._before[name] = None
        setattr(self._loop, name, function)
        return before

    def take_back(self) -> None:
        """Give the loop its methods again."""
        for name, before in self._before.items():
            if before is None:
                delattr(self._loop, name)
            else:
                setattr(self._loop, name, before)
        self._before.clear()


class _Timer(asyncio.TimerHandle):
    """A timer that no loop counts."""

    def cancel(self) -> None:
        asyncio.Handle.cancel(self)


class VirtualClock:
    """Time that stands still while anything can run, and jumps to the next timer when nothing can.

    Within ``with clock:``, all timers of the running loop are the clock's: ``asyncio.sleep``,
    ``asyncio.timeout``, ``loop.call_later`` and what is built on them, in the application, in
    the library and in the test. So nobody waits for real: a receive with a time-out of five
    seconds either gets its frame, or fails after five seconds that took none. `advance`
    lets a certain time pass.

    Timers run in the order of their times, those of the same time in the order in which
    they were set; and what the library draws at random is the same in each run. Work in threads
    (``asyncio.to_thread``) is waited for, with the clock standing still. What comes from elsewhere,
    such as an answer of a database over a socket, is not: give the clock ``patience``.
    ``time.time`` and ``datetime.now`` are not touched. A loop that spins in ``asyncio.sleep(0)``
    does not stop the clock: after 1000 turns, time passes nevertheless.

    Args:
        seed: Chooses another run of what is random in the library.
        patience: Seconds of real time for which nothing must have happened before
            the clock jumps.

    Example::

        with VirtualClock() as clock:
            pause = asyncio.create_task(asyncio.sleep(3600))
            await clock.advance(3600)
            assert pause.done()
    """

    def __init__(self, *, seed: int = 0, patience: float = 0.0) -> None:
        if not (math.isfinite(patience) and patience >= 0):
            raise ValueError(f"patience={patience!r} is not a number of seconds")
        self._now = BEGINNING
        self._patience = patience
        self._random = random.Random(seed)  # noqa: S311  # it is to be foreseeable
        self._users = 0  # how many blocks are open, all on `_loop`
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timers: list[tuple[float, int, int, _Timer]] = []
        # A heap: when, 1 for the end of an `advance` (what is due at the same time comes before
        # it) and else 0, a number in the order of the calls, and what to do.
        self._count = 0
        self._purge_at = 256  # how many timers there may be before cancelled ones are taken out
        self._calls = 0  # how often anything was told to run; grows
        self._seen = -1  # the same, when the watch was there last
        self._turns = 0  # of the loop, since time passed last
        self._threads = 0  # how many are at work
        self._watching: asyncio.Handle | None = None  # the watch, in the next turn of the loop
        self._really = False  # whether the loop's own methods are to use each other

    def time(self) -> float:
        """Return what the clock shows, in seconds; it begins with 1000."""
        return self._now

    async def advance(self, seconds: float) -> None:
        """Let time pass: every timer up to that moment runs, and all that follows from it.

        With 0, it returns when nothing can run any more without time passing.

        Raises:
            ValueError: It is negative, or not a number.
            RuntimeError: The clock is not in use, or on another event loop.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a clock goes forward by a number of seconds, not by {seconds!r}")
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            raise RuntimeError("the clock is not in use on this loop; write `with clock:`")
        over = loop.create_future()
        self._push(self._now + seconds, 1, _Timer(0.0, _resolve, (over,), loop))
        self._calls += 1
        self._watch_soon()
        await over

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._users and loop is not self._loop:
            raise RuntimeError("the clock is in use on another loop")
        if not self._users:
            if loop in SOURCES:
                raise RuntimeError("another clock is in use on this loop; share that one")
            self._install(loop)
        self._users += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._users -= 1
        if not self._users:
            self._remove()

    def _install(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, SOURCES[loop] = loop, self
        self._patches = Patches(loop)
        put = self._patches.put
        self._loops_time = put("time", self._read)
        self._loops_call_soon = put("call_soon", self._call_soon)
        self._loops_call_at = put("call_at", self._call_at)
        self._loops_call_later = put("call_later", self._call_later)
        self._loops_run_in_executor = put("run_in_executor", self._run_in_executor)

    def _remove(self) -> None:
        """Give the loop its own time again; what still waits goes on by that."""
        loop, self._loop = self._loop, None
        assert loop is not None
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        self._patches.take_back()
        del SOURCES[loop]
        for when, _, _, timer in sorted(self._timers):
            if not timer.cancelled():
                loop.call_later(max(0.0, when - self._now), _run, timer, context=Context())
        self._timers.clear()

    # What the library asks for, see falcon_pachinko.clock.

    def monotonic(self) -> float:
        """Return what `time` does."""
        return self._now

    def uniform(self, low: float, high: float) -> float:
        """Return a number between two others, the same in each run."""
        return self._random.uniform(low, high)

    def token_hex(self, size: int) -> str:
        """Return a name in hexadecimal digits, the same in each run."""
        return self._random.randbytes(size).hex()

    # The loop's methods.

    def _read(self) -> float:
        """Be the loop's ``time``; its own, which timers of before go by, for the loop itself."""
        if self._really or sys._getframe(1).f_code is _RUN_ONCE:
            own: float = self._loops_time()
            return own
        return self._now

    def _call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        self._calls += 1
        self._watch_soon()
        handle: asyncio.Handle = self._loops_call_soon(callback, *args, context=context)
        return handle

    def _call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self._call_at(self._now + delay, callback, *args, context=context)

    def _call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if self._really:
            own: asyncio.TimerHandle = self._loops_call_at(when, callback, *args, context=context)
            return own
        assert self._loop is not None
        timer = _Timer(when, callback, args, self._loop, context)
        if when <= self._now:
            self._call_soon(_run, timer)
        else:
            self._push(when, 0, timer)
            self._watch_soon()
        return timer

    def _run_in_executor(
        self, executor: Any, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loops_run_in_executor(executor, function, *args)
        self._threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1

    # Passing time.

    def _push(self, when: float, rank: int, timer: _Timer) -> None:
        self._count += 1
        # To the nanosecond, so that 0.1 + 0.2 and 0.3 are one moment.
        heapq.heappush(self._timers, (round(when, 9), rank, self._count, timer))
        if len(self._timers) > self._purge_at:
            self._timers = [each for each in self._timers if not each[3].cancelled()]
            heapq.heapify(self._timers)
            self._purge_at = 256 + 2 * len(self._timers)

    def _watch_soon(self) -> None:
        if self._watching is None and self._loop is not None:
            self._watching = self._loops_call_soon(self._watch, context=Context())

    def _watch(self) -> None:
        """See whether anything ran in this turn of the loop; if nothing did, let time pass.

        What runs in a turn was told to before this, and tells what is to run in the next turn
        before this is there again. So where nothing was told between two looks, nothing waits.
        """
        self._watching = None
        if self._calls != self._seen and self._turns < TURNS:
            self._seen = self._calls
            self._turns += 1
            self._watch_soon()
        elif self._threads and self._turns < TURNS:
            self._turns = 0  # the end of the thread's work is told, and calls the watch again
        elif self._patience and self._turns < TURNS:
            with self._loops_own():
                self._loops_call_later(self._patience, self._pass_if_still, self._calls)
        else:
            self._pass()

    @contextmanager
    def _loops_own(self) -> Iterator[None]:
        self._really = True
        try:
            yield
        finally:
            self._really = False

    def _pass_if_still(self, calls: int) -> None:
        if self._loop is not None and self._calls == calls and self._watching is None:
            self._pass()

    def _pass(self) -> None:
        """Go on to the next timer, and run all that are of the same time."""
        self._turns = 0
        timers = self._timers
        while timers and timers[0][3].cancelled():
            heapq.heappop(timers)
        if not timers:
            return
        moment = timers[0][:2]
        self._now = max(self._now, moment[0])
        while timers and timers[0][:2] == moment:
            timer = heapq.heappop(timers)[3]
            if not timer.cancelled():
                self._call_soon(_run, timer)


def _run(timer: _Timer) -> None:
    if not timer.cancelled():
        timer._run()  # as any loop does


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
