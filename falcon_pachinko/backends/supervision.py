"""What any backend with a connection needs: settings in its URL, events, and coming back.

A subclass of `SupervisedBackend` says how to connect, how to tell that the server
still answers, and how to say goodbye. The rest is here: trying for ever with
growing, jittered pauses; the states and their events; calls that end in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import math
import random
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Collection, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from falcon_pachinko.backends.base import Backend, Event, Lost, State, StateChanged
from falcon_pachinko.errors import BackendError, SetupError

__all__ = ["EventQueue", "Settings", "SupervisedBackend", "in_time", "read_settings"]

log = logging.getLogger("falcon_pachinko.backends")

T = TypeVar("T")

AHEAD = 16 * 1_048_576
"""How many bytes may have arrived that nobody has read yet; then the server is left waiting."""

PAUSES = (0.1, 2.0)
"""Seconds between two attempts to connect: at first, and at most."""

HEALTHY = 5.0
"""Seconds that a connection has to last for the pauses to begin anew."""

_YES_OR_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Settings(NamedTuple):
    """What a URL's query says about any backend; times are in seconds."""

    namespace: str = "pachinko"
    """What every name on the server begins with: two apps of one namespace are one cluster."""
    required: bool = False
    """Whether a server that is not there ends the start, instead of ``degraded``."""
    ttl: float = 15.0
    """After which silence a process counts as dead."""
    timeout: float = 3.0
    """How long connecting may take, and any other call."""
    probe: float = 2.0
    """How often the server is asked whether it is still there."""


def unreadable(url: str) -> SetupError:
    """Make the error of a URL without a readable host; Python's own may hold the password."""
    scheme = url.partition(":")[0]
    return SetupError(
        f"backend={scheme}://... names no host and port: Port is not a number from 0 to 65535, "
        "or an IPv6 address is not in brackets; write a special character of a password as % and "
        "two digits"
    )


def read_settings(url: str, known: Collection[str] = ()) -> tuple[str, Settings, str]:
    """Split a backend's URL into what the server's client gets, and what is ours.

    Args:
        url: ``redis://user:secret@host:6379/0?namespace=shop&ttl=5``
        known: More names that the query may have; they stay in the URL.

    Returns:
        The URL without our settings, the settings, and the name for the log, without secrets.

    Raises:
        SetupError: A setting is unknown, or has a bad value.
    """
    try:
        parts = urlsplit(url)
        address = f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    except ValueError:
        raise unreadable(url) from None
    if ":" in (parts.hostname or ""):
        address = address.replace(parts.hostname or "", f"[{parts.hostname}]", 1)
    name = f"{parts.scheme}://{address}{parts.path}"
    given, rest = {}, []
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key in Settings._fields:
            given[key] = _read_setting(name, key, value)
        elif key in known:
            rest.append((key, value))
        else:
            names = [*Settings._fields, *known]
            close = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
            raise SetupError(f"{name} has no setting {key!r:.80}; {hint}")
    return urlunsplit(parts._replace(query=urlencode(rest))), Settings(**given), name


def _read_setting(name: str, key: str, value: str) -> Any:
    if key == "namespace":
        if not value or not value.isprintable() or " " in value or len(value) > 100:
            raise SetupError(f"{name}: namespace={value!r:.120} is not 1 to 100 visible characters")
        return value
    if key == "required":
        if value.lower() not in _YES_OR_NO:
            raise SetupError(f"{name}: required={value!r:.80} is neither true nor false")
        return _YES_OR_NO[value.lower()]
    with contextlib.suppress(ValueError):
        number = float(value)
        if math.isfinite(number) and number > 0:
            return number
    raise SetupError(f"{name}: {key}={value!r:.80} is not a number of seconds above 0")


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
    task.add_done_callback(_seen)
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

    Args:
        name: What logs call it, without secrets.
        settings: What its URL says.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.state = "down"
        self.ttl = settings.ttl
        self.node = ""
        self.queue = EventQueue()
        self.queue.close()
        self._cut: asyncio.Future[str] | None = None
        self._supervisor: asyncio.Task[None] | None = None

    # What a subclass says.

    @abstractmethod
    async def connect(self) -> None:
        """Connect, and subscribe to all that is wanted; anything it raises is a failure."""

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
        tried: asyncio.Future[str] = asyncio.get_running_loop().create_future()
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
        self.state = "down"
        self.queue.close()

    def events(self) -> AsyncIterator[Event]:
        return self.queue.events()

    def cut(self, why: str) -> None:
        """Tell that the connection is of no use any more; another one is made."""
        if self._cut is not None and not self._cut.done():
            self._cut.set_result(why)

    async def bounded(self, work: asyncio.Future[T] | Coroutine[Any, Any, T]) -> T:
        """Await a call to the server, for ``timeout`` seconds.

        Raises:
            BackendError: It failed, or was late.
        """
        try:
            return await in_time(work, self.settings.timeout)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(self.name, _sentence(error)) from error

    def check_up(self) -> None:
        """Raise `BackendError` unless the state is ``up``."""
        if self.state != "up":
            raise BackendError(self.name, f"not connected now ({self.state})")

    def _become(self, state: State, why: str, *first: Event) -> None:
        changed, self.state = self.state != state, state
        self.queue.release(*first, *((StateChanged(state, why),) if changed else ()))

    async def _supervise(self, tried: asyncio.Future[str]) -> None:
        """Connect, watch, and connect again, as long as the backend is started."""
        loop = asyncio.get_running_loop()
        pause, was_up = PAUSES[0], False
        while True:
            self._cut = loop.create_future()
            began = loop.time()
            self.queue.hold()
            try:
                await in_time(self.connect(), self.connect_timeout)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is told and tried again
                why = _sentence(error)
            else:
                again = was_up or self.wants_anything()
                was_up = True
                lost = (Lost("the connection to the server was cut"),) if again else ()
                self._become("up", f"connected as {self.node}", *lost)
                if not tried.done():
                    tried.set_result("")
                why = await self._watch(self._cut)
            if loop.time() - began > HEALTHY + self.settings.timeout:
                pause = PAUSES[0]
            self._become("degraded", f"{why}; retrying")
            if not tried.done():
                tried.set_result(why)
            await self.disconnect()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
            pause = min(pause * 2, PAUSES[1])

    async def _watch(self, cut: asyncio.Future[str]) -> str:
        """Return why the connection is of no use any more, as soon as it is so."""
        while True:
            await asyncio.wait((cut,), timeout=self.settings.probe)
            if cut.done():
                return cut.result()
            try:
                await in_time(_first(self.probe(), cut), self.settings.timeout)
            except Exception as error:  # noqa: BLE001  # whatever it is, the server did not answer
                return cut.result() if cut.done() else _sentence(error)


async def _first(work: Awaitable[Any], cut: asyncio.Future[str]) -> None:
    """Await something, or that the connection is cut, whatever is first."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_seen)
    try:
        await asyncio.wait((task, cut), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


def _seen(task: asyncio.Future[Any]) -> None:
    """Look at how a task ended: what is cancelled may raise, and that is not an error."""
    if not task.cancelled():
        task.exception()


def _sentence(error: BaseException) -> str:
    """Say what went wrong, on one line."""
    said: Sequence[str] = str(error).split("\n")
    return said[0][:300] or type(error).__name__
