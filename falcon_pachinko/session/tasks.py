"""The tasks in which one client's handlers run, and how they are ended.

The session's own task runs whatever is serial: the handshake, one handler after the
other, the goodbye. Each concurrent handler has a task of its own; where as many run
as may, the next waits for its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from math import inf
from typing import Any, NamedTuple

from falcon_pachinko.connection.ends import CLOSE_WAIT
from falcon_pachinko.connection.inbox import READ_AHEAD_AFTER, Inbox
from falcon_pachinko.connection.stepping import resume
from falcon_pachinko.typing import Frame

__all__ = ["Tasks", "take_cancellation_back"]


class _Turn(NamedTuple):
    """A message that waits until one more concurrent handler may run."""

    begin: Callable[[], Coroutine[Any, Any, None]]
    frame: Frame


class Tasks:
    """The tasks of one session: its own, and those of its concurrent handlers.

    Invariant: only here is a task cancelled by us, so that `ended_by_us` tells our
    cancellations from the application's own.

    Args:
        most: How many concurrent handlers may run at once; None for no bound.
    """

    __slots__ = ("_beside", "_cancels", "_ended", "_most", "_turns", "in_handler", "inbox", "own")

    inbox: Inbox
    """Where the messages that wait for their turn are counted; the session sets it."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self.own: asyncio.Task[Any] | None = None
        """The session's task, which it sets when it begins."""
        self.in_handler = False
        """Whether that is in the application's code, and may be cancelled to end it."""
        # How often we have cancelled it, and not taken that back: more would be somebody else's.
        self._cancels = 0
        # Most connections never need the parts that are None here.
        self._beside: set[asyncio.Task[Any]] | None = None  # concurrent handlers that run
        self._turns: deque[_Turn] | None = None  # and messages that wait for their turn
        self._ended: set[asyncio.Task[None]] | None = None  # those that we have cancelled

    @property
    def is_busy(self) -> bool:
        """Whether a concurrent handler runs, or waits for its turn."""
        return bool(self._beside or self._turns)

    def owns(self, task: object) -> bool:
        """Tell whether a task is the session's own, or that of one of its handlers."""
        return task is self.own or (self._beside is not None and task in self._beside)

    @types.coroutine
    def attend(self, handling: Any, patience: float | None = None) -> Generator[Any, Any, Any]:
        """Await the application's code, in this very task; if it is busy for long, read ahead.

        Nearly all of it finishes in its first step, which costs no timer and no task.

        Args:
            handling: The coroutine, or whatever else can be awaited.
            patience: Seconds until it reads ahead; 0 for as soon as the code waits for
                something, None for `READ_AHEAD_AFTER`.
        """
        try:
            waiting_for = handling.send(None)
        except StopIteration as done:
            return done.value
        except AttributeError:
            if hasattr(handling, "send"):
                raise
            # A guard may return a task, or shield one; asking first would cost each message.
            handling, waiting_for = _awaiting(handling), None
        inbox, timer = self.inbox, None
        if patience == 0:
            inbox.read_ahead()
        else:
            inbox.leave_unread()
            seconds = READ_AHEAD_AFTER if patience is None else patience
            timer = asyncio.get_running_loop().call_later(seconds, inbox.read_ahead)
        self.in_handler = True
        try:
            return (yield from resume(handling, waiting_for))
        finally:
            self.in_handler = False
            if timer is not None:
                timer.cancel()

    # Concurrent handlers.

    def take(self, begin: Callable[[], Coroutine[Any, Any, None]], frame: Frame) -> None:
        """Run a handler beside the others, now or when its turn comes."""
        if self._turns or (self._most is not None and len(self._beside or ()) >= self._most):
            if self._turns is None:
                self._turns = deque()
            self._turns.append(_Turn(begin, frame))
            self.inbox.hold(frame)
        else:
            self.start(begin())

    def start(self, handling: Coroutine[Any, Any, None]) -> None:
        """Run something in a task of its own, bound or not."""
        task = asyncio.get_running_loop().create_task(handling)
        if not task.done():  # an eager task factory may have run it to its end by now
            if self._beside is None:
                self._beside = set()
            self._beside.add(task)
            task.add_done_callback(self._is_over)

    def _is_over(self, task: asyncio.Task[None]) -> None:
        """Let the message that waits longest have its turn; if that is done at once, the next."""
        assert self._beside is not None
        self._beside.discard(task)
        while self._turns and (self._most is None or len(self._beside) < self._most):
            turn = self._turns.popleft()
            self.inbox.release(turn.frame)
            self.start(turn.begin())

    def drop_turns(self) -> None:
        """Forget the messages that wait for their turn."""
        while self._turns:
            self.inbox.release(self._turns.popleft().frame)

    # Ends.

    def cancel(self) -> None:
        """Cancel the session's own task."""
        assert self.own is not None
        self._cancels += 1
        self.own.cancel()

    def wind_up(self) -> None:
        """Begin no more handlers; and take back that we cancelled the task that calls this."""
        if self._turns:
            self.drop_turns()
        while self._cancels:
            self._cancels -= 1
            self.own.uncancel()  # type: ignore[union-attr]  # it is the one that calls this

    async def forgive(self) -> None:
        """Take back that the application cancelled the session's task in a handler's last step."""
        own = self.own
        assert own is not None
        if own.cancelling() > self._cancels:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # it is raised where the task suspends next
        while own.cancelling() > self._cancels:
            own.uncancel()

    def end_beside(self) -> set[asyncio.Task[None]]:
        """Cancel the concurrent handlers, but for one that calls this; return them."""
        ending = {*(self._beside or ())} - {asyncio.current_task()}
        if ending:
            self._ended = ending if self._ended is None else self._ended | ending
            for task in ending:
                task.cancel()
        return ending

    def ended_by_us(self) -> bool:
        """Tell whether it is we who have cancelled the current task."""
        # Not written where it is asked: a frame that holds its own task, and is part of the
        # traceback of what that task ended with, is a reference cycle.
        task = asyncio.current_task()
        if task is self.own:
            return self._cancels > 0
        return self._ended is not None and task in self._ended

    async def finish(self, grace: float | None) -> set[asyncio.Task[Any]]:
        """Let the concurrent handlers finish for so many seconds, then cancel them.

        Args:
            grace: None for as long as they take.

        Returns:
            Those that go on although they were cancelled, as long as they do: a live set.
        """
        now = asyncio.get_running_loop().time
        deadline = inf if grace is None else now() + grace
        while self._beside and (left := deadline - now()) > 0:
            await asyncio.wait(tuple(self._beside), timeout=None if left == inf else left)
        if self._beside:
            await asyncio.wait(self.end_beside(), timeout=CLOSE_WAIT)
        self._ended = None
        return self._beside or set()


async def _awaiting(given: Awaitable[Any]) -> Any:
    return await given


def take_cancellation_back() -> bool:
    """Take back that the current task was cancelled; False if CancelledError was only raised."""
    task = asyncio.current_task()
    assert task is not None
    was_cancelled = task.cancelling() > 0
    while task.cancelling():
        task.uncancel()
    return was_cancelled
