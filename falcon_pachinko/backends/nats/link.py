"""One connection to a NATS server, which is given up when it fails, and never mended.

nats-py can reconnect by itself. It is not asked to: while it does, what is
published waits in a buffer of its own, an error of the server ends it for good, and
its back-off has no jitter. Here a connection is up, or it has ended, and the backend
makes another. Nothing here is bounded in time by itself: whoever calls sees to that,
and what a call waits for in vain fails that call, and not the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from falcon_pachinko.backends.nats.address import NatsUrl, Server
from falcon_pachinko.backends.nats.names import token
from falcon_pachinko.backends.nats.refusals import Denied, denied, explain_connection
from falcon_pachinko.backends.supervision import let_go, seen
from falcon_pachinko.errors import BackendError

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

    from falcon_pachinko.backends.nats.client import NatsMessage, TakingClient

__all__ = ["Link", "NoResponders", "NotAllowed"]

_CLOSE = 1.0  # seconds; then what still waits to be sent is thrown away
_NEVER = 10**8  # seconds between the PINGs of nats-py, which would get ours mixed up
_MOST_DENIED = 1000  # subjects that are remembered
_VERSION = re.compile(r"(\d+)\.(\d+)")


class NoResponders(BackendError):  # noqa: N818  # what NATS calls it
    """No one listens on the subject of a question."""


class NotAllowed(BackendError):  # noqa: N818  # as the one above
    """The user has no permission."""


class Link:
    """A connection, from `open` until it has ended.

    Args:
        where: Who we are, and how to encrypt.
        arrived: Called with each message of a channel.
        ended: Called once with this when it has ended.
    """

    def __init__(
        self,
        where: NatsUrl,
        *,
        arrived: Callable[[str, NatsMessage], None],
        ended: Callable[[Link], None],
    ) -> None:
        self.where = where
        self.channels: dict[str, Subscription | None] = {}
        self.why = ""
        """Why it ended; empty while it has not."""
        self.answers_denied = False
        """Whether the user may not subscribe to the answers to its questions."""
        self._arrived, self._ended = arrived, ended
        self._by_subject: dict[str, str] = {}
        self._client: TakingClient | None = None
        self._error: Exception | None = None
        self._inbox = ""
        self._asked: dict[
            str, tuple[str, asyncio.Future[NatsMessage], list[NatsMessage] | None]
        ] = {}
        self._traces: dict[str, asyncio.Future[dict[str, Any]]] = {}  # by where they go
        self._number = 0
        self._denied: dict[Denied, float] = {}  # and when; _MOST_DENIED at most
        self._prefix = f"{token(where.settings.namespace)}.pub."

    # What the server is.

    @property
    def info(self) -> dict[str, Any]:
        """What the server says of itself."""
        return self._client.info if self._client is not None else {}

    @property
    def version(self) -> tuple[int, int]:
        """The server's version, such as ``(2, 11)``."""
        found = _VERSION.match(str(self.info.get("version", "")))
        return (int(found[1]), int(found[2])) if found is not None else (0, 0)

    @property
    def is_alone(self) -> bool:
        """Whether there are no other servers that pass messages on to it."""
        return "cluster" not in self.info and self.where.domain is None

    @property
    def max_payload(self) -> int:
        """How many bytes the server takes at once."""
        return int(self.info.get("max_payload", 1_048_576))

    def discovered(self, server: Server) -> list[Server]:
        """Return the servers that this one knows of, as it names them."""
        found = []
        urls = self.info.get("connect_urls")
        for url in urls if isinstance(urls, list) else ():
            host, _, port = str(url).rpartition(":")
            host = host.strip("[]")
            if host and port.isascii() and port.isdigit():
                is_ip = host.replace(".", "").isdigit() or ":" in host
                # A certificate rarely has an address: it has the name by which we have come.
                name = (server.tls_name or server.host) if is_ip else None
                found.append(Server(host, int(port), name if name != host else None))
        return found

    # Its life.

    async def open(self, server: Server) -> None:
        """Connect to a server.

        Raises:
            BackendError: It could not be reached, or did not let us in.
        """
        from falcon_pachinko.backends.nats.client import TakingClient  # noqa: PLC0415  # an extra

        where = self.where
        options: dict[str, Any] = {}
        if where.tls is not None:
            options["tls"] = where.tls
        if server.tls_name is not None:
            options["tls_hostname"] = server.tls_name
        try:
            self._client = TakingClient(self._take, where.login, tls=where.tls is not None)
            await self._client.connect(
                servers=[server.url],
                error_cb=self._failed,
                closed_cb=self._closed,
                name="falcon-pachinko",
                allow_reconnect=False,
                # Two tries each; 0 would mean for ever.
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=where.settings.timeout,  # type: ignore[arg-type]  # it takes a float
                ping_interval=_NEVER,
                # No waiting for a full buffer, which nobody could cancel: each batch is
                # followed by a round trip instead.
                pending_size=0,
                flusher_queue_size=0,
                **options,
            )
            # Where the socket fails, this task of nats-py's ends with an error that it has told.
            reading = getattr(self._client, "_reading_task", None)
            if reading is not None:
                reading.add_done_callback(seen)
            self._inbox = f"{self._client.new_inbox()}."
            await self._client.subscribe(f"{self._inbox}*")
            await self.round_trip()
        except BaseException as error:
            await self.close()
            if isinstance(error, BackendError) or not isinstance(error, Exception):
                raise
            # What nats-py tells first is the cause, and what it raises the consequence.
            raise BackendError(where.name, self._explain(self._error or error)) from None
        self.answers_denied = self._was_denied("subscribe", f"{self._inbox}*")

    def _explain(self, error: BaseException | None) -> str:
        return explain_connection(error, self.where.login.kind)

    async def close(self) -> None:
        """End, in a bounded time; what still waits to be sent may be lost."""
        self.fail("it was closed")
        client = self._client
        if client is None:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE):
                await client.close()
        # nats-py leaves the socket where bytes still wait for a server that takes none.
        writer = getattr(getattr(client, "_transport", None), "_io_writer", None)
        if writer is not None:
            # Of what TLS has closed already, until Python 3.11.3 that is an AttributeError.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
        await asyncio.sleep(0)  # what nats-py has cancelled ends

    def fail(self, why: str) -> None:
        """Give it up; the first reason counts."""
        if not self.why:
            self.why = why
            for _, answer, _ in self._asked.values():
                if not answer.done():
                    answer.set_exception(self._over())
            for told in self._traces.values():
                if not told.done():
                    told.set_exception(self._over())
            if self._client is not None:
                self._client.end(self._over())
            self._ended(self)

    def _over(self) -> BackendError:
        return BackendError(self.where.name, self.why)

    async def _failed(self, error: Exception) -> None:
        refusal = denied(str(error))
        if refusal is None:
            self._error = self._error or error
            return
        self._denied.pop(refusal, None)
        self._denied[refusal] = asyncio.get_running_loop().time()
        if len(self._denied) > _MOST_DENIED:
            del self._denied[next(iter(self._denied))]
        if refusal.verb == "publish":  # which gets no answer
            for subject, answer, _ in self._asked.values():
                if subject.lower() == refusal.subject and not answer.done():
                    answer.set_exception(self._not_allowed("publish", subject))

    def _was_denied(self, verb: str, subject: str, since: float = 0.0) -> bool:
        return self._denied.get(Denied(verb, subject.lower()), -1.0) >= since

    def _not_allowed(self, verb: str, subject: str) -> NotAllowed:
        return NotAllowed(
            self.where.name,
            f"the user may not {verb} to {subject}; allow that in its permissions",
        )

    async def _closed(self) -> None:
        last = self._error or (self._client.last_error if self._client is not None else None)
        if last is None or denied(str(last)):
            self.fail("the server closed the connection")
        else:
            self.fail(self._explain(last))

    def _use(self) -> TakingClient:
        if self.why or self._client is None:
            raise BackendError(self.where.name, self.why or "not connected")
        return self._client

    # Channels.

    async def listen(self, channels: Iterable[str]) -> None:
        """Subscribe; it is live when this returns.

        Raises:
            NotAllowed: The user may not subscribe to one of them.
        """
        began, subjects = asyncio.get_running_loop().time(), []
        for channel in channels:
            if channel not in self.channels:
                self.channels[channel] = None
                subject = self._prefix + token(channel)
                subjects.append(subject)
                self._by_subject[subject] = channel
                self.channels[channel] = await self._do(self._use().subscribe(subject))
        await self.round_trip()
        for subject in subjects:
            if self._was_denied("subscribe", subject, began):
                raise self._not_allowed("subscribe", subject)

    async def unlisten(self, channels: Iterable[str]) -> None:
        """Unsubscribe."""
        for channel in channels:
            subscription = self.channels.pop(channel, None)
            if subscription is not None:
                self._by_subject.pop(self._prefix + token(channel), None)
                await self._do(subscription.unsubscribe())

    def _take(self, message: NatsMessage) -> None:
        if message.subject.startswith(self._inbox):
            self._answer(message)
            return
        channel = self._by_subject.get(message.subject)
        if channel is not None:
            self._arrived(channel, message)
        elif message.subject in self._traces:
            self._traced(self._traces[message.subject], message.data)

    async def publish(self, parcels: Sequence[tuple[str, bytes]]) -> None:
        """Send a batch, and wait until the server has it.

        Raises:
            NotAllowed: The user may not publish some of it.
            BackendError: Some of it is larger than the server allows, or the server is gone.
        """
        client, began = self._use(), asyncio.get_running_loop().time()
        most, too_large = self.max_payload, 0
        for channel, data in parcels:
            if len(data) > most:
                too_large = max(too_large, len(data))
            else:
                await self._do(client.publish(self._prefix + token(channel), data))
        await self.round_trip()
        if self._denied:
            for channel, _ in parcels:
                subject = self._prefix + token(channel)
                if self._was_denied("publish", subject, began):
                    raise self._not_allowed("publish", subject)
        if too_large:
            raise BackendError(self.where.name, too_large_sentence(too_large, most))

    async def try_out(self) -> None:
        """Subscribe and publish as an app does, where nobody listens.

        Raises:
            NotAllowed: The user may not.
        """
        began, subject = asyncio.get_running_loop().time(), f"{self._prefix}=test"
        subscription = await self._do(self._use().subscribe(subject))
        await self._do(subscription.unsubscribe())
        await self.try_to_publish(subject, f"{self._prefix}>")
        if self._was_denied("subscribe", subject, began):
            raise self._not_allowed("subscribe", f"{self._prefix}>")

    async def try_to_publish(self, subject: str, named: str) -> None:
        """Publish nothing; not as a question: others may listen there, who do not answer.

        Args:
            subject: Where to.
            named: What has to be allowed, for the error.

        Raises:
            NotAllowed: The user may not.
        """
        began = asyncio.get_running_loop().time()
        await self._do(self._use().publish(subject, b""))
        await self.round_trip()
        if self._was_denied("publish", subject, began):
            raise self._not_allowed("publish", named)

    async def round_trip(self) -> None:
        """Wait until the server has done all that it was told so far.

        By PING, for which one needs no permission and nobody else hears it.
        """
        await self._do(self._use().ping())

    # Questions.

    async def ask(
        self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None
    ) -> NatsMessage:
        """Ask, and return the answer.

        Raises:
            NoResponders: Nobody is there who could answer.
            NotAllowed: The user may not ask that, or may not hear the answer.
            BackendError: It is too large to ask, or the connection has ended.
        """
        message = await self._ask(subject, data, headers, None)
        if message.status == "503":
            raise NoResponders(self.where.name, f"no responders on {subject}")
        return message

    async def ask_many(self, subject: str, data: bytes) -> tuple[list[NatsMessage], NatsMessage]:
        """Ask what has several answers; return them, and the message with a status behind them."""
        answers: list[NatsMessage] = []
        last = await self._ask(subject, data, None, answers)
        return answers, last

    async def trace(self, subject: str, dest: str) -> dict[str, Any]:
        """Have the servers tell what would become of a message; return what JetStream's says.

        Args:
            subject: Where the message would go; it does not.
            dest: A subject that nobody else uses, and that the user may use.
        """
        client = self._use()
        told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._traces[dest] = told
        try:
            subscription = await self._do(client.subscribe(dest))
            try:
                headers = {"Nats-Trace-Dest": dest, "Nats-Trace-Only": "true"}
                await self._do(client.publish(subject, headers=headers))
                return await told
            finally:
                with contextlib.suppress(BackendError):
                    await self._do(subscription.unsubscribe())
        finally:
            let_go(told)
            del self._traces[dest]

    def _traced(self, told: asyncio.Future[dict[str, Any]], data: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeError):
            event = msgspec.json.decode(data, type=dict[str, Any])
            steps = event.get("events")
            of_jetstream = isinstance(steps, list) and any(
                each.get("type") == "js" for each in steps
            )
            if of_jetstream and not told.done():
                told.set_result(event)

    async def _ask(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None,
        before: list[NatsMessage] | None,
    ) -> NatsMessage:
        """Ask; return the answer, or the first one with a status, and put those before it away."""
        client = self._use()
        if self.answers_denied:
            raise self._not_allowed("subscribe", "_INBOX.>")
        most = self.max_payload
        size = len(data) + sum(
            len(name) + len(value) + 4 for name, value in (headers or {}).items()
        )
        if size + len("NATS/1.0\r\n\r\n") > most:
            raise BackendError(self.where.name, too_large_sentence(size, most))
        self._number += 1
        name = str(self._number)
        answer: asyncio.Future[NatsMessage] = asyncio.get_running_loop().create_future()
        self._asked[name] = subject, answer, before
        try:
            reply = f"{self._inbox}{name}"
            await self._do(client.publish(subject, data, reply=reply, headers=headers))
            return await answer
        finally:
            let_go(answer)
            del self._asked[name]

    def _answer(self, message: NatsMessage) -> None:
        asked = self._asked.get(message.subject.removeprefix(self._inbox))
        if asked is None or asked[1].done():
            return  # nobody waits for it any more
        _, answer, before = asked
        if before is not None and not message.status:
            before.append(message)
        else:
            answer.set_result(message)

    async def _do(self, work: Awaitable[Any]) -> Any:
        try:
            return await work
        except BackendError:
            raise
        except Exception as error:  # noqa: BLE001  # of all kinds where it was closed meanwhile
            self.fail(self._explain(error))
            raise self._over() from None


def too_large_sentence(size: int, most: int) -> str:
    """Tell what to do about a message that the server would not take."""
    return (
        f"a message of {size} bytes is larger than the server takes ({most}); "
        "set max_payload in its configuration, such as max_payload: 8MB"
    )
