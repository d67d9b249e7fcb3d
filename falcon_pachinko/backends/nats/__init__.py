"""Processes that meet on a NATS server, or on several that form a cluster.

Channels are subjects of core NATS. Presence, leases and histories are kept by its
JetStream, 2.11 or later, which a server offers when it was started with ``-js``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ssl
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from falcon_pachinko.backends.base import Event, HistoryPosition, Lost, Past, Received
from falcon_pachinko.backends.nats.history import Histories, received
from falcon_pachinko.backends.nats.link import Link
from falcon_pachinko.backends.nats.names import parse_url, token
from falcon_pachinko.backends.nats.state import SharedState
from falcon_pachinko.backends.nats.streams import Streams
from falcon_pachinko.backends.supervision import SupervisedBackend
from falcon_pachinko.errors import BackendError, SetupError
from falcon_pachinko.limits import HistoryLimits

if TYPE_CHECKING:
    from falcon_pachinko.backends.nats.client import NatsMessage

__all__ = ["NatsBackend"]

AHEAD = 64 * 1_048_576
"""How many bytes may have arrived that nobody has read yet; more is dropped, and `Lost` tells.

NATS has no more patience than that either: a server that has so much for a client closes the
connection. To stop reading would keep back the answers of the server, too.
"""

EVENT_BYTES = 200
"""What an event takes besides its bytes, roughly."""


class NatsBackend(SupervisedBackend):
    """Connects the processes of an app by way of NATS.

    Args:
        url: ``nats://user:password@host:4222,other:4222?namespace=shop``, or with a token in
            place of user and password; ``tls://`` for servers with TLS.
        tls: What certificates to trust, where a server wants TLS; by default the system's.

    Raises:
        SetupError: The URL has an unknown setting or a bad value, or nats-py is not installed.

    Example::

        install(app, backend="nats://localhost:4222?namespace=shop")
    """

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._where = parse_url(url)
        if importlib.util.find_spec("nats") is None:
            raise SetupError(
                f"backend={self._where.name} needs nats-py, which is not installed: "
                "pip install 'falcon-pachinko[nats]'"
            )
        super().__init__(self._where.name, self._where.settings)
        self._tls = tls
        self._link: Link | None = None
        self._wanted: dict[str, None] = {}
        self._ahead = 0  # bytes that nobody has read yet
        self._overrun = False  # whether the last thing that arrived was too much
        namespace = token(self.settings.namespace)
        self._streams = Streams(self.name, self._linked)
        self._state = SharedState(self._streams, namespace, self._lease_ended)
        self._histories = Histories(self._streams, namespace)

    def _linked(self) -> Link:
        self.check_up()
        if self._link is None:
            raise BackendError(self.name, "the connection was just lost")
        return self._link

    async def start(self, node: str) -> None:
        if self.state == "down":
            self._wanted.clear()
            self._ahead, self._overrun = 0, False
            self._state.begin(node)
        await super().start(node)

    async def connect(self) -> None:
        self._streams.forget()
        self._histories.forget_all_epochs()
        link = self._link = Link(
            self._where,
            arrived=self._arrived,
            ended=self.cut,
            tls=self._tls,
        )
        await link.open()
        # What is wanted may change meanwhile.
        while missing := [each for each in self._wanted if each not in link.channels]:
            await link.listen(missing)
            await link.round_trip()
        await link.unlisten([each for each in link.channels if each not in self._wanted])

    async def disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def probe(self) -> None:
        # A link that gets no answer has cut the connection by itself.
        with contextlib.suppress(BackendError):
            await self._linked().round_trip()

    async def self_test(self) -> str | None:
        link = self._link
        if link is None:
            raise BackendError(self.name, "the connection was just lost")
        try:
            await Streams(self.name, lambda: link).ensure(self._state.stream)
        except BackendError as error:
            return f"no presence, no histories, no leases: {error.why}"
        return None

    def wants_anything(self) -> bool:
        return bool(self._wanted)

    async def take_back(self) -> None:
        await self._state.take_back()

    # Channels.

    async def publish(self, parcels: Sequence[tuple[str, bytes]]) -> None:
        await self._linked().publish(parcels)

    async def subscribe(self, channels: Collection[str]) -> None:
        self._wanted.update(dict.fromkeys(channels))
        if self.state == "up" and self._link is not None:
            try:
                await self._link.listen(channels)
                await self._link.round_trip()
            except BackendError as error:
                self.cut(str(error))

    async def unsubscribe(self, channels: Collection[str]) -> None:
        for channel in channels:
            self._wanted.pop(channel, None)
        if self.state == "up" and self._link is not None:
            try:
                await self._link.unlisten(channels)
            except BackendError as error:
                self.cut(str(error))

    def _arrived(self, channel: str, message: NatsMessage) -> None:
        event = received(channel, message)
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
        await self._state.enter(table, entries)

    async def replace(self, table: str, entries: Mapping[str, bytes]) -> None:
        await self._state.replace(table, entries)

    async def tables(self) -> Collection[str]:
        return await self._state.tables()

    async def leave(self, table: str, keys: Collection[str]) -> None:
        await self._state.leave(table, keys)

    async def entries(self, table: str) -> Mapping[str, Mapping[str, bytes]]:
        return await self._state.entries(table)

    async def beat(self, ttl: float) -> Collection[str]:
        return await self._state.beat(ttl)

    async def alive(self) -> Collection[str]:
        return await self._state.alive()

    def _lease_ended(self) -> None:
        self.queue.put(Lost("this process gave no sign of life for longer than its lease"))

    async def acquire(self, name: str, ttl: float) -> int | None:
        return await self._state.acquire(name, ttl)

    async def renew(self, name: str, token: int, ttl: float) -> bool:
        return await self._state.renew(name, token, ttl)

    async def release(self, name: str, token: int) -> None:
        await self._state.release(name, token)

    async def append(
        self,
        channel: str,
        data: bytes,
        limits: HistoryLimits,
        key: str = "",
    ) -> HistoryPosition:
        return await self._histories.append(channel, data, limits, key)

    async def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Past:
        return await self._histories.read(channel, after, limits)

    async def forget(self, channel: str) -> None:
        await self._histories.forget(channel)
