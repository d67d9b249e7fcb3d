"""Processes that meet on a Redis server, 6.2 or later, or on a Redis Cluster.

redis-py opens the connections, with all it knows of addresses, TLS and passwords.
What travels on them is read and written here, many requests and many messages at
a time: one connection for commands, one for the subscriptions.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import ssl as tls
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from falcon_pachinko.backends.base import HistoryPosition, Kept, Lost, Past, Received
from falcon_pachinko.backends.redis.address import parse
from falcon_pachinko.backends.redis.calls import Call, Calls
from falcon_pachinko.backends.redis.link import Link
from falcon_pachinko.backends.redis.primary import Host, Primary, look
from falcon_pachinko.backends.redis.refusals import NOT_HERE, PASSING, explain, refused_command
from falcon_pachinko.backends.redis.replies import Refused, command
from falcon_pachinko.backends.redis.scripts import SCRIPTS, TEST
from falcon_pachinko.backends.supervision import SupervisedBackend, in_time
from falcon_pachinko.errors import BackendError, SetupError
from falcon_pachinko.limits import HistoryLimits

__all__ = ["RedisBackend"]

CHANNELS_AT_ONCE = 1000
"""How many channels one command subscribes to, so that no command blocks the server for long."""

CHANNELS_IN_TIME = 20_000
"""How many channels a slow server subscribes to within the time of one call."""

_KEPT, _PLAIN = b"\xfeK", b"\xfeP"  # what begins with neither was published as it is
_STAMP = 13  # digits in front of what a history keeps: milliseconds
_MOST_DIGITS = 19  # of an offset


class RedisBackend(SupervisedBackend):
    """Publishes, keeps and remembers on a Redis server.

    Args:
        url: ``redis://``, ``rediss://`` (TLS, and the host name is checked), ``unix://``,
            ``redis+sentinel://host,other/mymaster/0`` or ``rediss+sentinel://``, with any of
            ``namespace``, ``required``, ``ttl``, ``timeout`` and ``probe`` in its query.
            Nodes of a Redis Cluster are recognized; several may be named.
        ssl: What to check the server's certificate with; makes the connection one with TLS.
        credential_provider: One of redis-py's, for passwords that change.

    Raises:
        SetupError: The URL has an unknown setting or a bad value, a certificate cannot be
            read, or redis-py is missing.

    Example::

        install(app, backend="redis://:secret@db.example:6379/0?namespace=shop&required=true")
    """

    def __init__(
        self,
        url: str,
        *,
        ssl: tls.SSLContext | None = None,
        credential_provider: Any = None,
    ) -> None:
        try:
            import redis.asyncio.connection as connection  # noqa: PLC0415, PLR0402  # an extra, absent in some
        except ImportError:
            raise SetupError(
                "a redis:// backend needs redis-py, which is not installed: "
                "pip install 'falcon-pachinko[redis]'"
            ) from None
        where = parse(url, ssl)
        super().__init__(where.name, where.settings)
        if credential_provider is not None and (where.username or where.password):
            raise SetupError(
                f"{where.name}: the URL has a user or a password, and so has "
                "credential_provider=; give one of them"
            )
        self._where, self._credentials = where, credential_provider
        self._kinds = connection
        self._connection(where.hosts[0] if where.hosts else None)  # so that it fails now, if at all
        self._primary = Primary(where, self._connection, self._connection_to_sentinel)
        self._commands = Link(self.name, self.cut)
        self._subscription = Link(self.name, self.cut, self._arrive, self._room_for)
        self._calls = Calls(where.space, "", "")
        self._unknown: str | None = None  # why the server's incarnation is not known
        self._by_digest = True  # whether the server runs scripts by their digest
        self._wanted: set[str] = set()  # what the app listens to
        self._live: set[str] = set()  # what this connection is subscribed to, or was told to be
        self._changed: dict[str, None] = {}  # where the two differ: what the server is told next
        self._adjusting = asyncio.Lock()
        self._held: dict[str, int] = {}
        self._lease_end = math.inf

    # Connecting.

    def _connection(self, host: Host | None) -> Any:
        """Make one of redis-py's connections, not open yet."""
        where = self._where
        login = {"username": where.username, "password": where.password}
        if self._credentials is not None:
            login = {"credential_provider": self._credentials}
        return self._make(host, db=where.db, **login)

    def _connection_to_sentinel(self, host: Host) -> Any:
        where = self._where
        return self._make(host, username=where.sentinel_username, password=where.sentinel_password)

    def _make(self, host: Host | None, **options: Any) -> Any:
        options |= {"protocol": 2, "socket_connect_timeout": self.settings.timeout}
        if host is None:
            return self._kinds.UnixDomainSocketConnection(path=self._where.socket or "", **options)
        options |= {"host": host[0], "port": host[1]}
        if self._where.tls is None:
            return self._kinds.Connection(**options)
        made = self._kinds.SSLConnection(**options)
        made.ssl_context.context = self._where.tls  # what redis-py would make of its own options
        return made

    async def start(self, node: str) -> None:
        if self.state == "down":
            self._adjusting = asyncio.Lock()
            self._lease_end = math.inf
            for names in (self._wanted, self._live, self._changed, self._held):
                names.clear()
        await super().start(node)

    async def connect(self) -> None:
        server = await self._primary.open(self._commands, lambda: Calls(self._tag, "", "").nodes)
        space = self._tag if server.cluster else self._where.space
        self._calls = Calls(space, self.node, server.incarnation)
        self._unknown = server.unknown
        await self._subscription.open(self._connection(self._primary.host))
        for link in (self._commands, self._subscription):
            link.send(command("CLIENT", "SETNAME", f"pachinko-{self.node}"))  # if we may
        self._by_digest = True
        for script in SCRIPTS:
            self._commands.send(command("SCRIPT", "LOAD", script))  # if we may
        self._live.clear()
        self._changed = dict.fromkeys(self._wanted)
        while self._changed:
            await self._adjust()

    @property
    def _tag(self) -> str:
        """The beginning of all names on a Cluster, which puts them on one node."""
        return f"{{{self._where.namespace}}}"

    @property
    def connect_timeout(self) -> float:
        return self.settings.timeout * (1 + len(self._wanted) / CHANNELS_IN_TIME)

    async def disconnect(self) -> None:
        self._live.clear()
        self._changed = dict.fromkeys(self._wanted)
        await self._commands.close()
        await self._subscription.close()
        await self._primary.close()

    async def probe(self) -> None:
        test = Call(TEST, (f"{self._calls.space}:test",), ())
        write = self._commands.send(self._request(test, by_digest=self._by_digest))
        server = await look(self._commands)
        if server.replica_of is not None:
            raise BackendError(
                self.name, f"it is a read-only replica of {server.replica_of} now; looking for it"
            )
        (answer,) = await write
        if isinstance(answer, Refused) and answer.code != "NOSCRIPT":
            self.doubt()
        await self._subscribed(command("PING"), 1)
        if (
            self._where.master is not None
            and await self._primary.by_sentinel() != self._primary.host
        ):
            raise BackendError(self.name, "the Sentinels name another primary now")

    async def _subscribed(self, requests: bytes, count: int) -> list[Any]:
        """Ask on the connection of the subscriptions, unless nobody takes what comes there."""
        if self.queue.full:
            return []
        answer = self._subscription.send(requests, count)
        while not answer.done() and not self.queue.full:
            await asyncio.wait((answer,), timeout=self.settings.timeout / 4)
        return answer.result() if answer.done() else []

    async def self_test(self) -> str | None:
        channel = self._calls.channel("=test")
        words = command("SUBSCRIBE", channel) + command("UNSUBSCRIBE", channel)
        publish = self._commands.send(command("PUBLISH", channel, b""))
        for reply in (*await self._subscribed(words, 2), *await publish):
            if isinstance(reply, Refused):
                raise BackendError(self.name, explain(reply.why))
        lacking: dict[str, list[str]] = {}  # by reason, what does not work for it
        for what, calls in self._calls.trials(self.ttl).items():
            answers = await asyncio.gather(*map(self._evaluate, calls))
            for call, answer in zip(calls, answers, strict=True):
                if isinstance(answer, Refused):
                    why = explain(answer.why, call.script)
                    if answer.code in NOT_HERE:
                        raise BackendError(self.name, why)
                    lacking.setdefault(why, []).append(what)
                    break
        if self._unknown is not None:
            lacking.setdefault(self._unknown, []).append("telling of a restart of the server")
        told = (f"no {', no '.join(what)}: {why}" for why, what in lacking.items())
        return "; ".join(told) or None

    def wants_anything(self) -> bool:
        return bool(self._wanted)

    # Channels.

    async def publish(self, parcels: Sequence[tuple[str, bytes]]) -> None:
        self.check_up()
        if not parcels:
            return
        channel = self._calls.channel
        requests = b"".join(
            command("PUBLISH", channel(name), _PLAIN + data if data[:1] == b"\xfe" else data)
            for name, data in parcels
        )
        replies = await self.bounded(self._commands.send(requests, len(parcels)))
        self._check(replies)

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
                self._subscription.send(command(verb, *map(self._calls.channel, part)), len(part))
                for verb, names in (("SUBSCRIBE", more), ("UNSUBSCRIBE", fewer))
                for part in _parts(names)
            ]
            for answer in answers:
                self._check(await answer)

    async def _room_for(self, size: int) -> None:
        await self.queue.room_for(size)

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
        self.queue.put(Received(self._calls.channel_of(channel), data, position))

    # Commands.

    def _check(self, replies: Iterable[Any], script: str = "") -> None:
        """Raise what the server refused; where it is not the one to talk to, find another."""
        for reply in replies:
            if isinstance(reply, Refused):
                why = explain(reply.why, script)
                if reply.code in NOT_HERE:
                    self.cut(why)
                else:
                    self.doubt()
                raise self.failed(why, passing=reply.code in PASSING)

    def _request(self, call: Call, *, by_digest: bool) -> bytes:
        """Write a call: the script's digest, which the server knows, or all of the script."""
        words = (str(len(call.keys)), *call.keys, *call.arguments)
        if not by_digest:
            return command("EVAL", call.script, *words)
        digest = hashlib.sha1(call.script.encode(), usedforsecurity=False).hexdigest()
        return command("EVALSHA", digest, *words)

    async def _evaluate(self, call: Call) -> Any:
        """Run a script; what the server answers may be `Refused`."""
        by_digest = self._by_digest
        (reply,) = await self._commands.send(self._request(call, by_digest=by_digest))
        if not by_digest or not isinstance(reply, Refused):
            return reply
        if refused_command(reply.why) == "evalsha":
            self._by_digest = False
        elif reply.code != "NOSCRIPT":
            return reply
        (reply,) = await self._commands.send(self._request(call, by_digest=False))
        return reply

    async def _run(self, call: Call) -> Any:
        self.check_up()
        reply = await self.bounded(self._evaluate(call))
        self._check((reply,), call.script)
        return reply

    async def enter(self, table: str, entries: Mapping[str, bytes]) -> None:
        await self._run(self._calls.enter(table, entries, self.ttl))

    async def replace(self, table: str, entries: Mapping[str, bytes]) -> None:
        await self._run(self._calls.enter(table, entries, self.ttl, replace=True))

    async def leave(self, table: str, keys: Collection[str]) -> None:
        await self._run(self._calls.leave(table, keys))

    async def tables(self) -> Collection[str]:
        return [name.decode() for name in await self._run(self._calls.tables())]

    async def entries(self, table: str) -> Mapping[str, Mapping[str, bytes]]:
        found = await self._run(self._calls.entries(table))
        nodes = zip(found[::2], found[1::2], strict=True)
        return {
            node.decode(): {
                key.decode(): value for key, value in zip(flat[::2], flat[1::2], strict=True)
            }
            for node, flat in nodes
        }

    async def beat(self, ttl: float) -> Collection[str]:
        while True:
            began, before = asyncio.get_running_loop().time(), self._lease_end
            lapsed, more, *alive = await self._run(self._calls.beat(ttl, again=before != math.inf))
            self._lease_end = began + ttl
            if lapsed or began > before:
                self.queue.put(Lost("this process gave no sign of life for longer than its lease"))
            if not more:
                return [node.decode() for node in alive]

    async def alive(self) -> Collection[str]:
        return [node.decode() for node in await self._run(self._calls.alive())]

    async def acquire(self, name: str, ttl: float) -> int | None:
        token = await self._run(self._calls.acquire(name, ttl))
        if token is None:
            return None
        self._held[name] = int(token)
        return int(token)

    async def renew(self, name: str, token: int, ttl: float) -> bool:
        return bool(await self._run(self._calls.renew(name, token, ttl)))

    async def release(self, name: str, token: int) -> None:
        await self._run(self._calls.release(name, token))
        if self._held.get(name) == token:
            del self._held[name]

    async def take_back(self) -> None:
        for name, token in tuple(self._held.items()):
            await self.release(name, token)
        while await self._run(self._calls.take_back()):
            pass

    # Settings.

    async def remember(self, settings: Mapping[str, bytes]) -> Mapping[str, bytes]:
        if not settings:
            return {}
        found = await self._run(self._calls.remember(settings))
        return {name: data for name, data in zip(settings, found, strict=True) if data is not None}

    async def recall(self) -> Mapping[str, bytes]:
        flat = await self._run(self._calls.recall())
        return {name.decode(): data for name, data in zip(flat[::2], flat[1::2], strict=True)}

    # History.

    async def append(
        self,
        channel: str,
        data: bytes,
        limits: HistoryLimits,
        key: str = "",
    ) -> HistoryPosition:
        call = self._calls.append(channel, data, limits, key)
        epoch, offset = await self._run(call)
        return HistoryPosition(epoch.decode(), int(offset))

    async def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Past:
        found = await self._run(self._calls.read(channel, after, limits))
        epoch, offset, forgotten, complete, items = found
        since = after.offset if complete == 1 else int(forgotten)
        entries = _kept(items, epoch, since, int(offset))
        whole = complete == 1 and len(entries) == int(offset) - since
        return Past(HistoryPosition(epoch.decode(), int(offset)), entries, whole)

    async def forget(self, channel: str) -> None:
        await self._run(self._calls.forget(channel))


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


def _parts(names: list[str]) -> Iterable[list[str]]:
    return (
        names[start : start + CHANNELS_AT_ONCE] for start in range(0, len(names), CHANNELS_AT_ONCE)
    )
