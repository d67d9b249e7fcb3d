"""Processes that meet on a NATS server, or on several that form a cluster.

Channels are subjects of core NATS. Presence, leases and histories are kept by its
JetStream, 2.11 or later, which a server offers when it was started with ``-js``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from falcon_pachinko.backends.base import Event, HistoryPosition, Lost, Past, Received
from falcon_pachinko.backends.nats.address import Server, parse_url
from falcon_pachinko.backends.nats.history import Histories
from falcon_pachinko.backends.nats.link import Link, NotAllowed
from falcon_pachinko.backends.nats.names import token
from falcon_pachinko.backends.nats.state import SharedState
from falcon_pachinko.backends.nats.streams import StreamGone, Streams, WrongSequence
from falcon_pachinko.backends.supervision import SupervisedBackend, in_time
from falcon_pachinko.errors import BackendError, EncodeError, SetupError
from falcon_pachinko.limits import HistoryLimits

if TYPE_CHECKING:
    from falcon_pachinko.backends.nats.client import NatsMessage

__all__ = ["NatsBackend"]

P = ParamSpec("P")
T = TypeVar("T")

AHEAD = 64 * 1_048_576
"""How many bytes may have arrived that nobody has read yet; more is dropped, and `Lost` tells.

NATS has no more patience than that either: a server that has so much for a client closes the
connection. To stop reading would keep back the answers of the server, too.
"""

EVENT_BYTES = 200
"""What an event takes besides its bytes, roughly."""


HEADERS = 512
"""How many bytes of a message a history needs for itself."""

CHANNELS_IN_TIME = 20_000
"""How many channels a slow server subscribes to within the time of one call."""

MOST_SERVERS = 100
"""How many servers of a cluster are remembered besides those of the URL."""

TEST_TIME = 2
"""What part of a call's time the test of JetStream may take: plain rooms wait for it."""


class NatsBackend(SupervisedBackend):
    """Connects the processes of an app by way of NATS.

    Args:
        url: ``nats://user:password@host:4222,other:4222?namespace=shop``, or with a token in
            place of user and password, ``?nkey=FILE`` or ``?credentials=FILE``. ``tls://``
            means TLS or nothing. ``?domain=`` and ``?replicas=`` are about JetStream.
        tls: What to check the servers' certificates with; by default, what the system
            trusts. With it, nothing is sent without TLS either.

    Raises:
        SetupError: The URL has an unknown setting or a bad value, a file cannot be read, or
            nats-py is not installed.

    Example::

        install(app, backend="nats://localhost:4222?namespace=shop")
    """

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._where = parse_url(url, tls)
        if importlib.util.find_spec("nats") is None:
            raise SetupError(
                f"backend={self._where.name} needs nats-py, which is not installed: "
                "pip install 'falcon-pachinko[nats]'"
            )
        super().__init__(self._where.name, self._where.settings)
        self._link: Link | None = None
        self._discovered: dict[Server, None] = {}
        # Servers that others have named, besides those of the URL; MOST_SERVERS at most.
        self._wanted: dict[str, None] = {}
        self._largest: int | None = None  # what the server takes at once, once that is known
        self._ahead = 0  # bytes that nobody has read yet
        self._overrun = False  # whether the last thing that arrived was too much
        namespace = token(self.settings.namespace)
        self._kept_below = f"{namespace}.keep"
        self._streams = Streams(self.name, self._linked)
        self._state = SharedState(self._streams, namespace, self._lease_ended)
        self._histories = Histories(self._streams, self._state.stream, namespace)

    def _linked(self) -> Link:
        if self._link is None:
            raise BackendError(self.name, "the connection was just lost")
        return self._link

    async def _run(self, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have JetStream do something; what is late or refused fails this call alone."""
        self.check_up()

        async def run() -> T:
            try:
                return await work(*args, **kwargs)
            except (StreamGone, WrongSequence):
                raise BackendError(self.name, "its streams were deleted meanwhile") from None

        try:
            return await self.bounded(run())
        except BackendError:
            self.doubt()
            raise

    # Connecting.

    async def start(self, node: str) -> None:
        if self.state == "down":
            self._wanted.clear()
            self._ahead, self._overrun = 0, False
            self._state.begin(node)
        await super().start(node)

    @property
    def connect_timeout(self) -> float:
        return self.settings.timeout * (1 + len(self._wanted) / CHANNELS_IN_TIME)

    @property
    def loses_silently(self) -> bool:
        # Two servers of a cluster may lose sight of each other, and no client is told.
        return self._link is not None and not self._link.is_alone

    async def connect(self) -> None:
        self._streams.forget()
        self._histories.forget_all_epochs()
        link = await self._open()
        self._largest = link.max_payload
        # What is wanted may change meanwhile.
        while missing := [each for each in self._wanted if each not in link.channels]:
            await link.listen(missing)
        await link.unlisten([each for each in link.channels if each not in self._wanted])

    async def _open(self) -> Link:
        """Connect to any of the servers."""
        named, others = list(self._where.servers), list(self._discovered)
        random.shuffle(named)
        random.shuffle(others)
        servers, first = [*named, *others], None
        until = asyncio.get_running_loop().time() + self.settings.timeout
        for place, server in enumerate(servers):
            link = Link(self._where, arrived=self._arrived, ended=self._ended)
            left = until - asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(left / (len(servers) - place)):
                    await link.open(server)
            except (BackendError, TimeoutError) as error:
                await link.close()
                why = "the server did not answer in time"
                why = error.why if isinstance(error, BackendError) else why
                # What a server says counts for more than that one is not there.
                if first is None or "Connect call failed" in first:
                    first = why
                continue
            self._link = link
            for each in link.discovered(server):
                if each not in servers and len(self._discovered) < MOST_SERVERS:
                    self._discovered[each] = None
            return link
        raise BackendError(self.name, first or "no server is named")

    def _ended(self, link: Link) -> None:
        if link is self._link:  # else it is one that we have left, or never took
            self.cut(link.why)

    async def disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def probe(self) -> None:
        await self._linked().round_trip()

    async def self_test(self) -> str | None:
        await self._linked().try_out()
        trials = {
            "no presence, no leases": self._state.try_out,
            "no histories": self._try_histories,
        }

        async def lacks(trial: Callable[[], Awaitable[None]]) -> str | None:
            try:
                await in_time(_coroutine(trial), self.settings.timeout / TEST_TIME)
            except TimeoutError:
                if not self._linked().info.get("jetstream"):
                    return "JetStream does not answer, and that server has none; start it with -js"
                return f"JetStream has not answered for {self.settings.timeout / TEST_TIME:g} s"
            except (WrongSequence, StreamGone):
                return "its streams were deleted just now"
            except BackendError as error:
                return error.why
            return None

        lacking: dict[str, list[str]] = {}  # by reason, what does not work for it
        for what, why in zip(
            trials, await asyncio.gather(*map(lacks, trials.values())), strict=True
        ):
            if why is not None:
                lacking.setdefault(why, []).append(what)
        if len(lacking) == 1 and len(next(iter(lacking.values()))) == len(trials):
            return f"no presence, no histories, no leases: {next(iter(lacking))}"
        return "; ".join(f"{', '.join(what)}: {why}" for why, what in lacking.items()) or None

    async def _try_histories(self) -> None:
        """Do what histories do, as far as that leaves nothing."""
        await self._streams.ensure(self._state.stream)
        subject = f"{self._kept_below}.=test.data"
        await self._streams.names(subject)
        await self._linked().try_to_publish(subject, f"{self._kept_below}.>")
        if self._streams.no_room_for:
            await self._state.try_out()  # which tries whether there is by now
        for stream in tuple(self._streams.refused.values()):
            await self._streams.ensure(stream)

    def wants_anything(self) -> bool:
        return bool(self._wanted)

    async def take_back(self) -> None:
        await self._state.take_back()

    # Channels.

    def check_size(self, size: int) -> None:
        if self._largest is not None and size > self._largest - HEADERS:
            raise EncodeError(
                f"it has {size} bytes, and NATS takes at most {self._largest}, of which {HEADERS} "
                "are for headers; set max_payload in its configuration, such as max_payload: 8MB"
            )

    async def publish(self, parcels: Sequence[tuple[str, bytes]]) -> None:
        self.check_up()
        try:
            await self.bounded(self._linked().publish(parcels))
        except NotAllowed:
            self.doubt()
            raise

    async def subscribe(self, channels: Collection[str]) -> None:
        self._wanted.update(dict.fromkeys(channels))
        if self.state == "up" and self._link is not None:
            try:
                await in_time(self._link.listen(channels), self.connect_timeout)
            except (BackendError, TimeoutError) as error:
                self.cut(error.why if isinstance(error, BackendError) else str(error))

    async def unsubscribe(self, channels: Collection[str]) -> None:
        for channel in channels:
            self._wanted.pop(channel, None)
        if self.state == "up" and self._link is not None:
            try:
                await in_time(self._link.unlisten(channels), self.connect_timeout)
            except (BackendError, TimeoutError) as error:
                self.cut(str(error))

    def _arrived(self, channel: str, message: NatsMessage) -> None:
        event = self._histories.received(channel, message)
        if event is None:
            return
        if self._ahead + len(event.data) > AHEAD:
            if not self._overrun:
                self._overrun = True
                self.queue.put(Lost("messages arrived faster than this process could handle them"))
            return
        self._overrun = False
        self._ahead += len(event.data) + EVENT_BYTES
        self.queue.put(event)

    async def events(self) -> AsyncIterator[Event]:
        async for event in super().events():
            if isinstance(event, Received):
                self._ahead -= len(event.data) + EVENT_BYTES
            yield event

    # Presence, leases, history.

    async def enter(self, table: str, entries: Mapping[str, bytes]) -> None:
        await self._run(self._state.enter, table, entries)

    async def replace(self, table: str, entries: Mapping[str, bytes]) -> None:
        await self._run(self._state.replace, table, entries)

    async def tables(self) -> Collection[str]:
        return await self._run(self._state.tables)

    async def leave(self, table: str, keys: Collection[str]) -> None:
        await self._run(self._state.leave, table, keys)

    async def entries(self, table: str) -> Mapping[str, Mapping[str, bytes]]:
        return await self._run(self._state.entries, table)

    async def beat(self, ttl: float) -> Collection[str]:
        return await self._run(self._state.beat, ttl)

    async def alive(self) -> Collection[str]:
        return await self._run(self._state.alive)

    def _lease_ended(self) -> None:
        self.queue.put(Lost("this process gave no sign of life for longer than its lease"))

    async def acquire(self, name: str, ttl: float) -> int | None:
        return await self._run(self._state.acquire, name, ttl)

    async def renew(self, name: str, token: int, ttl: float) -> bool:
        return await self._run(self._state.renew, name, token, ttl)

    async def release(self, name: str, token: int) -> None:
        await self._run(self._state.release, name, token)

    async def remember(self, settings: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return await self._state.remember(settings)

    async def recall(self) -> Mapping[str, bytes]:
        return await self._state.recall()

    async def append(
        self,
        channel: str,
        data: bytes,
        limits: HistoryLimits,
        key: str = "",
    ) -> HistoryPosition:
        return await self._run(self._histories.append, channel, data, limits, key)

    async def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Past:
        return await self._run(self._histories.read, channel, after, limits)

    async def forget(self, channel: str) -> None:
        await self._run(self._histories.forget, channel)


async def _coroutine(work: Callable[[], Awaitable[None]]) -> None:
    await work()
