"""Processes that meet on a Redis server, 6.2 or later; not on a Redis Cluster.

redis-py opens the connections, with all it knows of addresses, TLS and passwords.
What travels on them is read and written here, many requests and many messages at
a time: one connection for commands, one for the subscriptions.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from falcon_pachinko.backends.base import HistoryPosition, Kept, Lost, Past, Received
from falcon_pachinko.backends.redis.replies import Refused, Replies, command
from falcon_pachinko.backends.redis.scripts import (
    ACQUIRE,
    APPEND,
    BEAT,
    ENTER,
    ENTRIES,
    LEAVE,
    READ,
    RELEASE,
    RENEW,
    SCRIPTS,
    TAKE_BACK,
)
from falcon_pachinko.backends.supervision import SupervisedBackend, in_time, read_settings
from falcon_pachinko.errors import BackendError, SetupError
from falcon_pachinko.limits import HistoryLimits

__all__ = ["RedisBackend"]

CHANNELS_AT_ONCE = 1000
"""How many channels one command subscribes to, so that no command blocks the server for long."""

CHANNELS_IN_TIME = 20_000
"""How many channels a slow server subscribes to within the time of one call."""

READ_BYTES = 262_144

_OF_THE_CLIENT = (
    "db", "username", "password", "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile",
    "ssl_check_hostname", "ssl_keyfile", "ssl_min_version",
)  # fmt: skip
_KEPT, _PLAIN = b"\xfeK", b"\xfeP"  # what begins with neither was published as it is
_STAMP = 13  # digits in front of what a history keeps: milliseconds
_MOST_DIGITS = 19  # of an offset


class _Link:
    """One connection: requests go out at once, and their replies come in the same order."""

    def __init__(self, backend: RedisBackend, take: Callable[[list[Any]], None] | None) -> None:
        self.backend = backend
        self._take = take
        self._connection: Any = None
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int, list[Any]]] = deque()
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._connection = self.backend.make_connection()
        await self._connection.connect()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait((reader,))
        self._fail("the connection was closed")
        connection, self._connection = self._connection, None
        writer = getattr(connection, "_writer", None)
        if writer is not None:
            writer.transport.abort()  # whoever hung would keep a close waiting
        if connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(0.5):
                    await connection.disconnect(nowait=True)

    def send(self, data: bytes, replies: int = 1) -> asyncio.Future[list[Any]]:
        """Send requests; the result is their replies, of which some may be `Refused`."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if self._reader is None or self._reader.done():
            future.set_exception(BackendError(self.backend.name, "it is not connected"))
            future.exception()  # whoever asked may have failed already
        else:
            self._waiting.append((future, replies, []))
            # redis-py's own way to write waits, and to read awaits five times for each message.
            self._connection._writer.write(data)  # there since redis-py 4.2
        return future

    async def _read(self) -> None:
        stream, replies = self._connection._reader, Replies()  # as above
        why = "the server closed the connection"
        try:
            while data := await stream.read(READ_BYTES):
                for reply in replies.feed(data):
                    if self._take is not None and type(reply) is list and reply[0] == b"message":
                        self._take(reply)
                    else:
                        self._answer(reply)
                if self._take is not None:
                    await self.backend.queue.room_for(len(data))
        except (OSError, ValueError) as error:
            why = str(error) or type(error).__name__
        except asyncio.CancelledError:
            why = "the connection was closed"
            raise
        finally:
            self._fail(why)
            self.backend.cut(why)

    def _answer(self, reply: Any) -> None:
        if not self._waiting:
            raise ValueError("unexpected reply from the server")
        future, count, replies = self._waiting[0]
        replies.append(reply)
        if len(replies) >= count:
            self._waiting.popleft()
            if not future.done():
                future.set_result(replies)

    def _fail(self, why: str) -> None:
        while self._waiting:
            future, _, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(BackendError(self.backend.name, why))
                future.exception()  # whoever waited may have given up


class RedisBackend(SupervisedBackend):
    """Publishes, keeps and remembers on a Redis server.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with any of ``namespace``,
            ``required``, ``ttl``, ``timeout`` and ``probe`` in its query.

    Raises:
        SetupError: The URL has an unknown setting or a bad value, or redis-py is missing.

    Example::

        install(app, backend="redis://:secret@db.example:6379/0?namespace=shop&required=true")
    """

    def __init__(self, url: str) -> None:
        try:
            from redis.asyncio.connection import Connection, parse_url  # noqa: PLC0415  # an extra
        except ImportError:
            raise SetupError(
                "a redis:// backend needs redis-py, which is not installed: "
                "pip install 'falcon-pachinko[redis]'"
            ) from None
        rest, settings, name = read_settings(url, _OF_THE_CLIENT)
        super().__init__(name, settings)
        try:
            self._options: dict[str, Any] = dict(parse_url(rest))
            self._make: Any = self._options.pop("connection_class", Connection)
            self._make(**self._options, protocol=2)
        except Exception as error:  # whatever redis-py thinks of the URL
            raise SetupError(
                f"{name}: redis-py refuses these settings ({type(error).__name__})"
            ) from error
        space = settings.namespace
        self._prefix = f"{space}:c:".encode()
        self._nodes, self._tokens = f"{space}:nodes", f"{space}:tokens"
        self._commands, self._subscription = _Link(self, None), _Link(self, self._arrive)
        self._wanted: set[str] = set()  # what the app listens to
        self._live: set[str] = set()  # what this connection is subscribed to, or was told to be
        self._changed: dict[str, None] = {}  # where the two differ: what the server is told next
        self._adjusting = asyncio.Lock()
        self._held: dict[str, int] = {}
        self._lease_end = math.inf

    # Connecting.

    def make_connection(self) -> Any:
        """Make one of redis-py's connections, not open yet."""
        return self._make(
            **self._options,
            protocol=2,
            client_name=f"pachinko-{self.node}",
            socket_connect_timeout=self.settings.timeout,
        )

    async def start(self, node: str) -> None:
        if self.state == "down":
            self._adjusting = asyncio.Lock()
            self._lease_end = math.inf
            for names in (self._wanted, self._live, self._changed, self._held):
                names.clear()
        await super().start(node)

    async def connect(self) -> None:
        await self._commands.open()
        await self._subscription.open()
        loads = b"".join(command("SCRIPT", "LOAD", script) for script in SCRIPTS)
        _check(self.name, await self._commands.send(loads, len(SCRIPTS)))
        self._live.clear()
        self._changed = dict.fromkeys(self._wanted)
        while self._changed:
            await self._adjust()

    @property
    def connect_timeout(self) -> float:
        return self.settings.timeout * (1 + len(self._wanted) / CHANNELS_IN_TIME)

    async def disconnect(self) -> None:
        self._live.clear()
        self._changed = dict.fromkeys(self._wanted)
        await self._commands.close()
        await self._subscription.close()

    async def probe(self) -> None:
        await self._commands.send(command("PING"))
        if not self.queue.full:
            pong = self._subscription.send(command("PING"))
            while not pong.done() and not self.queue.full:
                await asyncio.wait((pong,), timeout=self.settings.timeout / 4)

    def wants_anything(self) -> bool:
        return bool(self._wanted)

    # Channels.

    def _channel(self, name: str) -> bytes:
        return self._prefix + name.encode()

    async def publish(self, parcels: Sequence[tuple[str, bytes]]) -> None:
        self.check_up()
        if not parcels:
            return
        requests = b"".join(
            command("PUBLISH", self._channel(name), _PLAIN + data if data[:1] == b"\xfe" else data)
            for name, data in parcels
        )
        _check(self.name, await self.bounded(self._commands.send(requests, len(parcels))))

    async def subscribe(self, channels: Collection[str]) -> None:
        self._wanted.update(channels)
        await self._change(channels)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self._wanted.difference_update(channels)
        await self._change(channels)

    async def _change(self, channels: Collection[str]) -> None:
        for name in channels:
            # What comes and goes while the server is away leaves nothing to tell.
            if (name in self._wanted) is not (name in self._live):
                self._changed[name] = None
            else:
                self._changed.pop(name, None)
        if self.state != "up":
            return
        try:
            await in_time(self._adjust(), self.connect_timeout)
        except (BackendError, TimeoutError) as error:
            self.cut(f"the subscriptions could not be changed: {error}")

    async def _adjust(self) -> None:
        """Tell the server about the channels that are wanted by now, or no longer."""
        async with self._adjusting:
            changed, self._changed = self._changed, {}
            more = [name for name in changed if name in self._wanted and name not in self._live]
            fewer = [name for name in changed if name in self._live and name not in self._wanted]
            self._live.update(more)
            self._live.difference_update(fewer)
            answers = [
                self._subscription.send(command(verb, *map(self._channel, part)), len(part))
                for verb, names in (("SUBSCRIBE", more), ("UNSUBSCRIBE", fewer))
                for part in _parts(names)
            ]
            for answer in answers:
                _check(self.name, await answer)

    def _arrive(self, message: list[Any]) -> None:
        """Hand over what was published."""
        _, channel, data = message
        position = None
        if data[:1] == b"\xfe":
            if data.startswith(_PLAIN):
                data = data[2:]
            elif data.startswith(_KEPT):
                with contextlib.suppress(ValueError):  # somebody else's bytes
                    epoch, offset, rest = data[2:].split(b":", 2)
                    position, data = HistoryPosition(epoch.decode("ascii"), int(offset)), rest
        name = channel[len(self._prefix) :].decode()
        self.queue.put(Received(name, data, position))

    # Commands.

    async def _run(self, script: str, keys: Sequence[str], *values: str | bytes | float) -> Any:
        """Run a script on the server, which knows it by its digest unless it forgot."""
        self.check_up()
        words = [str(len(keys)), *keys, *values]
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        request = command("EVALSHA", digest, *words)
        reply = (await self.bounded(self._commands.send(request)))[0]
        if isinstance(reply, Refused) and reply.code == "NOSCRIPT":
            request = command("EVAL", script, *words)
            reply = (await self.bounded(self._commands.send(request)))[0]
        _check(self.name, [reply])
        return reply

    def _keys(self, table: str, node: str) -> tuple[str, str, str]:
        """Name where a node's entries in a table are, who is in the table, and its tables."""
        space = self.settings.namespace
        return f"{space}:e:{len(node)}:{node}:{table}", f"{space}:t:{table}", f"{space}:n:{node}"

    async def enter(self, table: str, entries: Mapping[str, bytes]) -> None:
        pairs = [each for pair in entries.items() for each in pair]
        keys = (*self._keys(table, self.node), self._nodes)
        await self._run(ENTER, keys, self.node, table, _ms(self.ttl), *pairs)

    async def leave(self, table: str, keys: Collection[str]) -> None:
        await self._run(LEAVE, self._keys(table, self.node), self.node, table, *keys)

    async def entries(self, table: str) -> Mapping[str, Mapping[str, bytes]]:
        keys = (self._keys(table, "")[1], self._nodes)
        found = await self._run(ENTRIES, keys, self.settings.namespace, table, self.node)
        nodes = zip(found[::2], found[1::2], strict=True)
        return {
            node.decode(): {
                key.decode(): value for key, value in zip(flat[::2], flat[1::2], strict=True)
            }
            for node, flat in nodes
        }

    async def beat(self, ttl: float) -> Collection[str]:
        began = asyncio.get_running_loop().time()
        before = self._lease_end
        alive = await self._run(
            BEAT,
            (self._nodes,),
            self.settings.namespace,
            self.node,
            _ms(ttl),
            "0" if before == math.inf else "1",
        )
        self._lease_end = began + ttl
        if alive.pop(0) or began > before:
            self.queue.put(Lost("this process gave no sign of life for longer than its lease"))
        return [node.decode() for node in alive]

    async def acquire(self, name: str, ttl: float) -> int | None:
        token = await self._run(ACQUIRE, (self._lease(name), self._tokens), _ms(ttl))
        if token is None:
            return None
        self._held[name] = int(token)
        return int(token)

    async def renew(self, name: str, token: int, ttl: float) -> bool:
        return bool(await self._run(RENEW, (self._lease(name),), str(token), _ms(ttl)))

    async def release(self, name: str, token: int) -> None:
        await self._run(RELEASE, (self._lease(name),), str(token))
        if self._held.get(name) == token:
            del self._held[name]

    def _lease(self, name: str) -> str:
        return f"{self.settings.namespace}:l:{name}"

    async def take_back(self) -> None:
        for name, token in tuple(self._held.items()):
            await self.release(name, token)
        await self._run(TAKE_BACK, (self._nodes,), self.settings.namespace, self.node)

    # History.

    def _history(self, channel: str) -> tuple[str, str]:
        space = self.settings.namespace
        return f"{space}:h:{channel}", f"{space}:k:{channel}"

    async def append(self, channel: str, data: bytes, limits: HistoryLimits) -> HistoryPosition:
        epoch, offset = await self._run(
            APPEND, self._history(channel), *_bounds(limits), self._channel(channel), data
        )
        return HistoryPosition(epoch.decode(), int(offset))

    async def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Past:
        epoch, offset, forgotten, complete, items = await self._run(
            READ, self._history(channel), *_bounds(limits), after.epoch, str(after.offset)
        )
        since = after.offset if complete == 1 else int(forgotten)
        entries = _kept(items, epoch, since, int(offset))
        whole = complete == 1 and len(entries) == int(offset) - since
        return Past(HistoryPosition(epoch.decode(), int(offset)), entries, whole)

    async def forget(self, channel: str) -> None:
        self.check_up()
        request = command("DEL", *self._history(channel))
        _check(self.name, await self.bounded(self._commands.send(request)))


def _kept(items: Iterable[bytes], epoch: bytes, since: int, last: int) -> tuple[Kept, ...]:
    """Read what a list holds of one epoch, in order; leave out what is not of our making."""
    kept = []
    for item in items:
        of, _, rest = item[_STAMP:].partition(b":")
        number, colon, data = rest.partition(b":")
        if of != epoch or not colon or not number.isdigit() or len(number) > _MOST_DIGITS:
            continue
        offset = int(number)
        if since < offset <= last:
            kept.append(Kept(offset, data))
            since = offset
    return tuple(kept)


def _bounds(limits: HistoryLimits) -> tuple[str, str, str]:
    return str(limits.count), str(limits.bytes), _ms(limits.seconds)


def _ms(seconds: float) -> str:
    return str(max(1, math.ceil(seconds * 1000)))


def _parts(names: list[str]) -> Iterable[list[str]]:
    return (
        names[start : start + CHANNELS_AT_ONCE] for start in range(0, len(names), CHANNELS_AT_ONCE)
    )


def _check(name: str, replies: list[Any]) -> None:
    """Raise what the server refused."""
    for reply in replies:
        if isinstance(reply, Refused):
            raise BackendError(name, f"the server answered: {reply.why}")
