"""Telling clients to load anew what they show: spread over time, once per room and outage.

After an outage of the backend that concerns every room of every process. If all of their
clients came at the same moment, they would be the next outage.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any

from falcon_pachinko.clock import uniform

__all__ = ["Resyncs"]

SPREAD = (1.0, 10.0)
"""Seconds after an outage within which rooms are told, each at a random time."""


class Resyncs:
    """The rooms whose members are to be told, and when.

    Args:
        tell: Tells the members of a room.
        spawn: Runs a coroutine in a task of its own, whose end is waited for.
    """

    def __init__(
        self,
        tell: Callable[[str], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._tell, self._spawn = tell, spawn
        self._due: list[tuple[float, str]] = []  # a heap: when each of `_rooms` is told
        self._rooms: set[str] = set()
        # One timer for all of them: for the first, and when that is.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def __contains__(self, room: str) -> bool:
        """Whether a room's members are to be told."""
        return room in self._rooms

    def tell_later(self, rooms: Iterable[str]) -> None:
        """Have the members of rooms be told, at a random time; those that will be anyway, then."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for room in rooms:
            if room not in self._rooms:
                self._rooms.add(room)
                heapq.heappush(self._due, (now + uniform(*SPREAD), room))
        self._set_timer(loop)

    def stop(self) -> None:
        """Tell nobody any more."""
        self._due.clear()
        self._rooms.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._due or (self._timer is not None and self._timer_at <= self._due[0][0]):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._due[0][0]
        # In a context of its own: it is on nobody's behalf.
        self._timer = loop.call_at(self._timer_at, self._wake, loop, context=Context())

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        rooms, now = [], max(loop.time(), self._timer_at)  # the clock may be behind the timer
        self._timer = None
        while self._due and self._due[0][0] <= now:
            rooms.append(heapq.heappop(self._due)[1])
        self._rooms.difference_update(rooms)
        self._spawn(self._tell_all(rooms))
        self._set_timer(loop)

    async def _tell_all(self, rooms: Iterable[str]) -> None:
        for room in rooms:
            await self._tell(room)
