"""The hub in memory, reached as a server is: by a connection that may be slow, cut, or silent.

`MemoryBackend` is part of its hub and never fails. `RemoteMemoryBackend` has the same
connection, supervision, time-outs and retries as the backends of production, so that a
test sees what production would see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import ParamSpec, TypeVar

from falcon_pachinko.backends.base import Event, HistoryPosition, Past, StateChanged
from falcon_pachinko.backends.memory import MemoryBackend, MemoryHub
from falcon_pachinko.backends.settings import Settings
from falcon_pachinko.backends.supervision import SupervisedBackend
from falcon_pachinko.errors import BackendError
from falcon_pachinko.limits import HistoryLimits

__all__ = ["RemoteMemoryBackend"]

P = ParamSpec("P")
T = TypeVar("T")


class _Seat(MemoryBackend):
    """What the hub has of one process: what it listens to, its entries and its leases."""

    def __init__(
        self,
        hub: MemoryHub,
        ttl: float,
        arrive: Callable[[Event], None],
        cut: Callable[[str], None],
    ) -> None:
        super().__init__(hub, ttl)
        self._arrive, self._reset = arrive, cut

    def _put(self, event: Event) -> None:
        self._arrive(event)

    def _cut(self, why: str) -> None:
        self._reset(why)

    async def pong(self) -> None:
        """Answer."""


class RemoteMemoryBackend(SupervisedBackend):
    """Reaches a hub over a connection, whose faults a test commands.

    Args:
        hub: What it reaches.
        settings: What the URL of a server would say.

    Example::

        hub = MemoryHub()
        backend = RemoteMemoryBackend(hub, Settings(ttl=5))
        backend.sever()  # calls get no answer from now on; seconds later it is ``degraded``
        backend.restore()
    """

    def __init__(self, hub: MemoryHub, settings: Settings) -> None:
        super().__init__("memory", settings)
        self.hub = hub
        self.delay = 0.0
        """Seconds that every call and every delivery takes."""
        self._seat = _Seat(hub, settings.ttl, self._arrive, self._reset)
        self._wanted = self._seat._channels  # its own kind
        # Both sides share the set: a subscription is live at the hub as soon as it is asked for,
        # and a new connection begins with all of them.
        self._line: asyncio.Future[str] | None = None
        # The connection; done with the reason once it is of no use any more.
        self._last_at = 0.0  # when the last delivery on it arrives: the next does not overtake it
        self._severed = False
        self._passable: asyncio.Event = asyncio.Event()  # set while it is not severed

    # What tests do to it.

    @property
    def severed(self) -> bool:
        """Whether nothing passes, in either direction."""
        return self._severed

    def sever(self) -> None:
        """Let nothing pass any more, without a word to either side, as a partition does."""
        self._severed = True
        self._passable.clear()

    def restore(self) -> None:
        """Let new connections pass again; the one of before is reset, for nobody knows it now."""
        self._severed = False
        self._passable.set()
        self._reset("the connection was reset")

    def vanish(self) -> None:
        """Be gone as a process is that was killed: its connection is closed, and no more."""
        self._hang_up("the process was killed")

    # The connection.

    async def start(self, node: str) -> None:
        if self.state == "down":
            self._wanted.clear()
            self._passable = asyncio.Event()  # maybe in another loop than the last time
            if not self._severed:
                self._passable.set()
        await super().start(node)

    async def connect(self) -> None:
        await self._passable.wait()
        if self.delay:
            await asyncio.sleep(self.delay)
            await self._passable.wait()
        self._line, self._last_at = asyncio.get_running_loop().create_future(), 0.0
        await self._seat.start(self.node)

    async def disconnect(self) -> None:
        self._hang_up("the connection was closed")

    async def probe(self) -> None:
        await self._ask(self._seat.pong)

    async def self_test(self) -> str | None:
        return None  # nothing of a hub is ever missing

    async def take_back(self) -> None:
        await self._call(self._seat.stop)

    def wants_anything(self) -> bool:
        return bool(self._wanted)

    def _reset(self, why: str) -> None:
        """Notice at once that the connection is of no use any more."""
        if self._severed or self._line is None or self._line.done():
            return  # it does not pass, and a probe notices; or there is no connection to reset
        self._hang_up(why)
        self.cut(why)

    def _hang_up(self, why: str) -> None:
        if self.hub.nodes.get(self.node) is self._seat:
            del self.hub.nodes[self.node]
        if self._line is not None and not self._line.done():
            self._line.set_result(why)

    def _arrive(self, event: Event) -> None:
        """Hand over what the hub has for this process, when it has travelled."""
        if self._severed or isinstance(event, StateChanged):  # whose states are another matter
            return
        now = asyncio.get_running_loop().time()
        at = max(now + self.delay, self._last_at)
        if at <= now:
            self.queue.put(event)
        else:
            self._last_at = at
            self.hub.call_at(at, self._deliver, self._line, event)

    def _deliver(self, line: asyncio.Future[str], event: Event) -> None:
        if line is self._line and not line.done() and not self._severed:
            self.queue.put(event)

    async def _ask(self, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have the hub do something, and wait for its answer.

        It is done as soon as it is asked for; the answer takes the time. An answer that does not
        arrive does not tell whether it was done, as with any server.
        """
        line = self._line
        assert line is not None
        if not (self._severed or line.done()):
            answer = await method(*args, **kwargs)
            if self.delay:
                await asyncio.wait((line,), timeout=self.delay)
            if not (self._severed or line.done()):
                return answer
        await asyncio.wait((line,))
        raise ConnectionResetError(line.result())

    async def _call(
        self, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self.check_up()
        return await self.bounded(self._ask(method, *args, **kwargs))

    # The calls.

    async def publish(self, parcels: Sequence[tuple[str, bytes]]) -> None:
        await self._call(self._seat.publish, parcels)

    async def subscribe(self, channels: Collection[str]) -> None:
        self._wanted.update(channels)
        await self._tell()

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self._wanted.difference_update(channels)
        await self._tell()

    async def _tell(self) -> None:
        if self.state == "up":
            try:
                await self._call(self._seat.pong)
            except BackendError as error:
                self.cut(f"the subscriptions could not be changed: {error}")

    async def enter(self, table: str, entries: Mapping[str, bytes]) -> None:
        await self._call(self._seat.enter, table, entries)

    async def replace(self, table: str, entries: Mapping[str, bytes]) -> None:
        await self._call(self._seat.replace, table, entries)

    async def tables(self) -> Collection[str]:
        return await self._call(self._seat.tables)

    async def leave(self, table: str, keys: Collection[str]) -> None:
        await self._call(self._seat.leave, table, keys)

    async def entries(self, table: str) -> Mapping[str, Mapping[str, bytes]]:
        return await self._call(self._seat.entries, table)

    async def beat(self, ttl: float) -> Collection[str]:
        return await self._call(self._seat.beat, ttl)

    async def alive(self) -> Collection[str]:
        return await self._call(self._seat.alive)

    async def acquire(self, name: str, ttl: float) -> int | None:
        return await self._call(self._seat.acquire, name, ttl)

    async def renew(self, name: str, token: int, ttl: float) -> bool:
        return await self._call(self._seat.renew, name, token, ttl)

    async def release(self, name: str, token: int) -> None:
        await self._call(self._seat.release, name, token)

    async def remember(self, settings: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return await self._call(self._seat.remember, settings)

    async def recall(self) -> Mapping[str, bytes]:
        return await self._call(self._seat.recall)

    async def append(
        self, channel: str, data: bytes, limits: HistoryLimits, key: str = ""
    ) -> HistoryPosition:
        return await self._call(self._seat.append, channel, data, limits, key)

    async def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Past:
        return await self._call(self._seat.read, channel, after, limits)

    async def forget(self, channel: str) -> None:
        await self._call(self._seat.forget, channel)
