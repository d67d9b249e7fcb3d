"""One connection to a NATS server, which is given up when it fails, and never mended.

nats-py can reconnect by itself. It is not asked to: while it does, what is
published waits in a buffer of its own, an error of the server ends it for good, a
late PONG ends its reading without a word, and its back-off has no jitter. Here a
connection is up, or it has ended, and the backend makes another.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from falcon_pachinko.backends.nats.names import NatsUrl, token
from falcon_pachinko.errors import BackendError

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

    from falcon_pachinko.backends.nats.client import NatsMessage

__all__ = ["Link", "NoResponders"]

_CLOSE = 1.0  # seconds; then what still waits to be sent is thrown away


class NoResponders(BackendError):  # noqa: N818  # what NATS calls it
    """No one listens on the subject of a question."""


class Link:
    """A connection, from `open` until it has ended.

    Args:
        where: Servers and credentials; any of the servers is taken.
        arrived: Called with each message of a channel.
        ended: Called once with why it ended.
        tls: What certificates to trust, where a server wants TLS; by default the system's.
    """

    def __init__(
        self,
        where: NatsUrl,
        *,
        arrived: Callable[[str, NatsMessage], None],
        ended: Callable[[str], None],
        tls: ssl.SSLContext | None,
    ) -> None:
        from falcon_pachinko.backends.nats.client import TakingClient  # noqa: PLC0415  # an extra

        self.where = where
        self.channels: dict[str, Subscription | None] = {}
        self.why = ""
        """Why it ended; empty while it has not."""
        self._arrived, self._ended, self._tls = arrived, ended, tls
        self._by_subject: dict[str, str] = {}
        self._client = TakingClient(self._take)
        self._error: Exception | None = None
        self._inbox = ""
        self._asked: dict[str, tuple[asyncio.Future[NatsMessage], list[NatsMessage] | None]] = {}
        self._number = 0
        self._prefix = f"{token(where.settings.namespace)}.pub."

    @property
    def version(self) -> tuple[int, int]:
        """The server's version, such as ``(2, 11)``."""
        version = self._client.connected_server_version
        return version.major, version.minor

    async def open(self) -> None:
        """Connect, within the timeout.

        Raises:
            BackendError: No server could be reached, or none let us in.
        """
        where = self.where
        try:
            async with asyncio.timeout(where.settings.timeout):
                await self._client.connect(
                    servers=list(where.servers),
                    error_cb=self._failed,
                    closed_cb=self._closed,
                    name="falcon-pachinko",
                    allow_reconnect=False,
                    # Two tries each; 0 would mean for ever.
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=where.settings.timeout,  # type: ignore[arg-type]  # it takes a float
                    # No waiting for a full buffer, which nobody could cancel: each batch is
                    # followed by a round trip instead.
                    pending_size=0,
                    flusher_queue_size=0,
                    tls=self._tls,
                    user=where.user,
                    password=where.password,
                    token=where.secret,
                )
                self._inbox = f"{self._client.new_inbox()}."
                await self._client.subscribe(f"{self._inbox}*")
            await self.round_trip()
        except BackendError:
            await self.close()
            raise
        except Exception as error:  # noqa: BLE001  # nats-py raises of all kinds
            await self.close()
            cause = self._error or error
            # A refusal and the end of the connection come together; nats-py sees either first.
            broken = isinstance(cause, (ConnectionResetError, BrokenPipeError))
            hint = "; see whether it wants an authorization, or another one" if broken else ""
            raise BackendError(where.name, _sentence(cause) + hint) from None

    async def close(self) -> None:
        """End, in a bounded time; what still waits to be sent may be lost."""
        self.fail("it was closed")
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE):
                await self._client.close()
        # nats-py leaves the socket where bytes still wait for a server that takes none.
        writer = getattr(getattr(self._client, "_transport", None), "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        await asyncio.sleep(0)  # what nats-py has cancelled ends

    def fail(self, why: str) -> None:
        """Give it up; the first reason counts."""
        if not self.why:
            self.why = why
            for answer, _ in self._asked.values():
                if not answer.done():
                    answer.set_exception(BackendError(self.where.name, why))
            self._ended(why)

    async def _failed(self, error: Exception) -> None:
        self._error = error

    async def _closed(self) -> None:
        last = self._client.last_error or self._error
        self.fail(_sentence(last) if last else "the server closed the connection")

    # Channels.

    async def listen(self, channels: Iterable[str]) -> None:
        """Subscribe; it is live after the next round trip."""
        for channel in channels:
            if channel not in self.channels:
                self.channels[channel] = None
                subject = self._prefix + token(channel)
                self._by_subject[subject] = channel
                self.channels[channel] = await self._do(self._client.subscribe(subject))

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

    async def publish(self, parcels: Sequence[tuple[str, bytes]]) -> None:
        """Send a batch, and wait until the server has it.

        Raises:
            BackendError: Some of it is larger than the server allows, or the server is gone.
        """
        most, too_large = self._client.max_payload, 0
        for channel, data in parcels:
            if len(data) > most:
                too_large = max(too_large, len(data))
            else:
                await self._do(self._client.publish(self._prefix + token(channel), data))
        await self.round_trip()
        if too_large:
            raise BackendError(self.where.name, too_large_sentence(too_large, most))

    async def round_trip(self) -> None:
        """Wait until the server has done all that it was told so far."""
        # Nobody listens there, and the server says so, after what it was told before. PING would
        # do, but nats-py takes the PONG that comes late for one too many, and stops reading.
        with contextlib.suppress(NoResponders):
            await self.ask(self._prefix + "=probe")

    # Questions.

    async def ask(
        self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None
    ) -> NatsMessage:
        """Ask, and return the answer.

        Raises:
            NoResponders: Nobody is there who could answer.
            BackendError: No answer came in time, or it is too large to ask.
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

    async def _ask(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None,
        before: list[NatsMessage] | None,
    ) -> NatsMessage:
        """Ask; return the answer, or the first one with a status, and put those before it away."""
        if self.why:
            raise BackendError(self.where.name, self.why)
        most = self._client.max_payload
        size = len(data) + sum(
            len(name) + len(value) + 4 for name, value in (headers or {}).items()
        )
        if size + len("NATS/1.0\r\n\r\n") > most:
            raise BackendError(self.where.name, too_large_sentence(size, most))
        loop = asyncio.get_running_loop()
        self._number += 1
        name = str(self._number)
        answer: asyncio.Future[NatsMessage] = loop.create_future()
        self._asked[name] = answer, before
        half = self.where.settings.timeout / 2
        timer = loop.call_later(half, self._wait_once_more, answer, half)
        try:
            reply = f"{self._inbox}{name}"
            await self._do(self._client.publish(subject, data, reply=reply, headers=headers))
            return await answer
        finally:
            timer.cancel()
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # it may never have been awaited
            del self._asked[name]

    def _wait_once_more(self, answer: asyncio.Future[NatsMessage], seconds: float) -> None:
        # In two steps, so that a loop that was busy looks at its sockets before it gives up.
        asyncio.get_running_loop().call_later(seconds, self._give_up, answer)

    def _give_up(self, answer: asyncio.Future[NatsMessage]) -> None:
        if not answer.done():
            hint = f"; it has said: {_sentence(self._error)}" if self._error else ""
            seconds = self.where.settings.timeout
            self.fail(f"the server has not answered for {seconds:g} s{hint}")

    def _answer(self, message: NatsMessage) -> None:
        name = message.subject.removeprefix(self._inbox)
        answer, before = self._asked.get(name, (None, None))
        if answer is None or answer.done():
            return
        if before is not None and not message.status:
            before.append(message)
        else:
            answer.set_result(message)

    async def _do(self, work: Awaitable[Any]) -> Any:
        try:
            return await work
        except Exception as error:  # noqa: BLE001  # of all kinds where it was closed meanwhile
            self.fail(_sentence(error))
            raise BackendError(self.where.name, self.why) from None


def too_large_sentence(size: int, most: int) -> str:
    """Tell what to do about a message that the server would not take."""
    return (
        f"a message of {size} bytes is larger than the server takes ({most}); "
        "set max_payload in its configuration, such as max_payload: 8MB"
    )


def _sentence(error: BaseException | None) -> str:
    text = str(error).removeprefix("nats: ").strip("' ") if error is not None else ""
    if isinstance(error, TimeoutError) and not text:
        return "the server did not answer in time"
    return text or type(error).__name__
