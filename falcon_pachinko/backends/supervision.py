"""What any backend with a connection needs: events, coming back, and telling what does not work.

A subclass of `SupervisedBackend` says how to connect, how to tell that the server
still answers and does all that an app uses, and how to say goodbye. The rest is here:
trying for ever with growing, jittered pauses; the states, their reasons and their
events; calls that end in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from typing import Any, TypeVar

from falcon_pachinko.backends.base import Backend, Event, Explained, Lost, State, StateChanged
from falcon_pachinko.backends.settings import Settings
from falcon_pachinko.clock import uniform
from falcon_pachinko.errors import BackendError

__all__ = ["EventQueue", "SupervisedBackend", "in_time", "let_go", "seen"]

T = TypeVar("T")

AHEAD = 16 * 1_048_576
"""How many bytes may have arrived that nobody has read yet; then the server is left waiting."""

PAUSES = (0.1, 2.0)
"""Seconds between two attempts to connect: at first, and at most."""

HEALTHY = 5.0
"""Seconds that a connection has to last for the pauses to begin anew."""

TEST_EVERY = 15
"""How many probes go by between two self-tests while all is well."""


class EventQueue:
    """Events on their way to their one reader."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._held: list[Event] | None = None
        self._ahead = 0
        self._closed = False
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()

    def put(self, event: Event) -> None:
        """Hand over an event."""
        if self._held is not None:
            self._held.append(event)
            return
        self._events.append(event)
        self._arrived.set()

    def hold(self) -> None:
        """Keep what is put from now on, until `release`."""
        self._held = []

    def release(self, *first: Event) -> None:
        """Hand over what was held, and some events before it."""
        held, self._held = self._held or [], None
        for event in (*first, *held):
            self.put(event)

    async def room_for(self, size: int) -> None:
        """Note that so many bytes have arrived; wait while too much of it is unread."""
        if not self._events:
            self._ahead = 0
        self._ahead += size
        while self._ahead > AHEAD and self._events and not self._closed:
            self._empty.clear()
            await self._empty.wait()
            self._ahead = 0

    @property
    def full(self) -> bool:
        """Whether whoever puts is waiting for the reader."""
        return self._ahead > AHEAD and bool(self._events)

    def close(self) -> None:
        """End it, after what it has by now."""
        self._closed = True
        self._arrived.set()
        self._empty.set()

    async def events(self) -> AsyncIterator[Event]:
        """Take the events out, in order, until it is closed."""
        while True:
            while self._events:
                yield self._events.popleft()
            self._empty.set()
            if self._closed:
                return
            self._arrived.clear()
            await self._arrived.wait()


async def in_time(work: asyncio.Future[T] | Coroutine[Any, Any, T], seconds: float) -> T:
    """Await something for some seconds; what is late is cancelled, and that awaited.

    A loop that was busy for longer gets the answer that has arrived meanwhile:
    the time is over only when the loop has looked at its sockets since.

    Raises:
        TimeoutError: It did not end in time.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(seen)
    try:
        for _ in range(2):
            await asyncio.wait((task,), timeout=seconds / 2)
            if task.done():
                return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
    raise TimeoutError(f"no answer within {seconds:g} s")


class SupervisedBackend(Backend):
    """A backend whose connection may break at any time, and comes back by itself.

    The state is ``up`` exactly while `_watch` runs, and `why` then says what of the
    server does not work; nobody else sets either.

    Args:
        name: What logs call it, without secrets.
        settings: What its URL says.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.state = "down"
        self.why, self.since = None, None
        self.ttl, self.timeout = settings.ttl, settings.timeout
        self.failed_calls = 0
        self.node = ""
        self.queue = EventQueue()
        self.queue.close()
        self._cut: asyncio.Future[str] | None = None
        self._doubt: asyncio.Future[None] | None = None  # that `why` is right still
        self._told: set[str] = set()  # the reasons that were told since it was up last
        self._supervisor: asyncio.Task[None] | None = None

    # What a subclass says.

    @abstractmethod
    async def connect(self) -> None:
        """Connect, and subscribe to all that is wanted; anything it raises is a failure."""

    @abstractmethod
    async def self_test(self) -> str | None:
        """Do all that an app does, once, and return what of it does not work, and why.

        Anything it raises means that plain messages do not travel.
        """

    @abstractmethod
    async def disconnect(self) -> None:
        """Leave nothing of a connection, whatever state it is in; quick, and raises nothing."""

    @abstractmethod
    async def probe(self) -> None:
        """Have the server answer; anything it raises, and being late, is a failure."""

    @abstractmethod
    async def take_back(self) -> None:
        """Take back this node's entries and leases, and raise `BackendError` if that fails."""

    @abstractmethod
    def wants_anything(self) -> bool:
        """Whether there is a subscription on which something may have been missed."""

    @property
    def connect_timeout(self) -> float:
        """Seconds that `connect` may take; longer for who has to subscribe to very much."""
        return self.settings.timeout

    # What it gets for that.

    async def start(self, node: str) -> None:
        if self._supervisor is not None:
            return
        self.node, self.queue = node, EventQueue()
        tried: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise(tried))
        try:
            failure = await asyncio.shield(tried)
        except asyncio.CancelledError:
            await self._end()
            raise
        if failure and self.settings.required:
            await self._end()
            raise BackendError(self.name, f"{failure} (the URL says ?required=true)")

    async def stop(self) -> None:
        if self._supervisor is None:
            return
        if self.state == "up":
            with contextlib.suppress(BackendError, TimeoutError):
                await in_time(self.take_back(), self.settings.timeout)
        await self._end()

    async def _end(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        while supervisor is not None and not supervisor.done():
            supervisor.cancel()  # a client library may swallow one
            await asyncio.wait((supervisor,), timeout=1)
        await self.disconnect()
        self._note("down", None)
        self.queue.close()

    def events(self) -> AsyncIterator[Event]:
        return self.queue.events()

    def cut(self, why: str) -> None:
        """Tell that the connection is of no use any more; another one is made."""
        if self._cut is not None and not self._cut.done():
            self._cut.set_result(why)

    def doubt(self) -> None:
        """Have the self-test done again, now: something that worked was refused."""
        if self._doubt is not None and not self._doubt.done():
            self._doubt.set_result(None)

    async def bounded(self, work: asyncio.Future[T] | Coroutine[Any, Any, T]) -> T:
        """Await a call to the server, for ``timeout`` seconds.

        Raises:
            BackendError: It failed, or was late.
        """
        try:
            return await in_time(work, self.settings.timeout)
        except BackendError:
            self.failed_calls += 1
            raise
        except Exception as error:
            raise self.failed(_sentence(error)) from error

    def check_up(self) -> None:
        """Raise `BackendError` unless the state is ``up``."""
        if self.state != "up":
            raise self.failed(f"not connected now ({self.why or self.state})")

    def failed(self, why: str, *, passing: bool = False) -> BackendError:
        """Count a call that failed, and return its error."""
        self.failed_calls += 1
        return BackendError(self.name, why, passing=passing)

    def _note(self, state: State, why: str | None) -> None:
        if (self.state, self.why) != (state, why):
            self.state, self.why, self.since = state, why, dt.datetime.now(dt.UTC)

    def _become(self, state: State, why: str, *first: Event) -> None:
        """Be ``up`` or ``degraded``; tell of it, or only of a reason that is news."""
        changed, news = self.state != state, why not in self._told
        self._told.add(why)
        if state == "up":
            self._told.clear()
            self._note(state, None)
            told: tuple[Event, ...] = (StateChanged(state, why),) if changed else ()
        else:
            self._note(state, why)
            told = (StateChanged(state, f"{why}; retrying"),) if changed else ()
            if news and not changed:
                told = (Explained(why),)
        self.queue.release(*first, *told)

    def _explain(self, why: str | None) -> None:
        """Note what does not work while the state is ``up``."""
        if why != self.why:
            self._note("up", why)
            self.queue.put(Explained(why))

    async def _supervise(self, tried: asyncio.Future[str | None]) -> None:
        """Connect, watch, and connect again, as long as the backend is started."""
        loop = asyncio.get_running_loop()
        pause, was_up = PAUSES[0], False
        while True:
            self._cut = loop.create_future()
            began = loop.time()
            self.queue.hold()
            try:
                await in_time(self.connect(), self.connect_timeout)
                lacking = await in_time(self.self_test(), self.settings.timeout)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is told and tried again
                why = _sentence(error)
            else:
                again = was_up or self.wants_anything()
                was_up = True
                lost = (Lost("the connection to the server was cut"),) if again else ()
                self._become("up", f"connected as {self.node}", *lost)
                self._explain(lacking)
                if not tried.done():
                    tried.set_result(lacking)
                why = await self._watch(self._cut)
            if loop.time() - began > HEALTHY + self.settings.timeout:
                pause = PAUSES[0]
            self._become("degraded", why)
            if not tried.done():
                tried.set_result(why)
            await self.disconnect()
            await asyncio.sleep(pause * uniform(0.5, 1.0))
            pause = min(pause * 2, PAUSES[1])

    async def _watch(self, cut: asyncio.Future[str]) -> str:
        """Return why the connection is of no use any more, as soon as it is so."""
        probes = 0
        while True:
            doubt = self._doubt = asyncio.get_running_loop().create_future()
            await asyncio.wait(
                (cut, doubt), timeout=self.settings.probe, return_when=asyncio.FIRST_COMPLETED
            )
            if cut.done():
                return cut.result()
            try:
                await in_time(_first(self.probe(), cut), self.settings.timeout)
                probes += 1
                if doubt.done() or self.why is not None or not probes % TEST_EVERY:
                    lacking = await in_time(_first(self.self_test(), cut), self.settings.timeout)
                    if not cut.done():
                        self._explain(lacking)
            except Exception as error:  # noqa: BLE001  # whatever it is, the server did not answer
                return cut.result() if cut.done() else _sentence(error)
            if doubt.done():  # whatever is refused over and over is not tested all the time
                await asyncio.wait((cut,), timeout=self.settings.probe / 2)


async def _first(work: Awaitable[T], cut: asyncio.Future[str]) -> T | None:
    """Await something, or that the connection is cut, whatever is first."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(seen)
    try:
        await asyncio.wait((task, cut), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


def let_go(future: asyncio.Future[Any]) -> None:
    """Wait for a future no longer; how it ended, if it has, counts as looked at."""
    if not future.cancel():
        seen(future)


def seen(task: asyncio.Future[Any]) -> None:
    """Look at how a task ended: what is cancelled may raise, and that is not an error."""
    if not task.cancelled():
        task.exception()


def _sentence(error: BaseException) -> str:
    """Say what went wrong, on one line."""
    if isinstance(error, BackendError):
        return error.why
    said: Sequence[str] = str(error).split("\n")
    return said[0][:300] or type(error).__name__
