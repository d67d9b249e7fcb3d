"""nats-py's client, with the messages taken where it has read them, and TLS or nothing.

By itself nats-py has a queue and a task for each subscription: so messages of two
channels change places, each takes two turns of the event loop (measured: 1.7 times
as long), and what is too much is dropped per channel, with no bound on the whole. It
encrypts where the server asks for that, so that a man in the middle who does not ask
is told the password. And it takes a PONG that comes late for one too many, and stops
reading.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from nats.aio.client import Client

from falcon_pachinko.backends.nats.login import Login, LoginError
from falcon_pachinko.backends.supervision import let_go

__all__ = ["NatsMessage", "NotAsItHasToBeError", "TakingClient"]

NEEDED = (
    "_process_msg",
    "_process_pong",
    "_process_info",
    "_connect_command",
    "_send_command",
    "_flush_pending",
)
"""The names of nats-py's own that this depends on: the same from 2.9 to 2.16 at least.

The client does not connect where one of them is missing; and nats-py is told no secret,
so that it can send none, whatever it does."""

CONNECT = b"CONNECT "


class NotAsItHasToBeError(ConnectionError):
    """The connection is not one on which to log in; its text says why."""


class NatsMessage(NamedTuple):
    """What arrived."""

    subject: str
    data: bytes
    status: str
    """What the server says itself: 503 nobody is there, 404 nothing, 204 the end; or empty."""
    headers: dict[str, str]


class TakingClient(Client):
    """A client that gives each message to one function, at once and in order.

    Args:
        take: Called with each message of any subscription.
        login: Who we are.
        tls: Whether nothing may be sent without TLS.
    """

    def __init__(
        self, take: Callable[[NatsMessage], None], login: Login, *, tls: bool = False
    ) -> None:
        missing = [name for name in NEEDED if not hasattr(Client, name)]
        if missing:
            raise NotAsItHasToBeError(
                f"this version of nats-py is not supported: it has no {', '.join(missing)}; "
                "install another one"
            )
        super().__init__()
        self.info: dict[str, Any] = {}
        """What the server says of itself."""
        self._take, self._login, self._must_encrypt = take, login, tls
        self._pings: deque[asyncio.Future[None]] = deque()  # whose PONG has not come yet

    def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> Any:  # noqa: FBT001, FBT002  # nats-py's signature
        self.info = {**self.info, **info}  # later ones tell less
        if self._must_encrypt and initial_connection:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NotAsItHasToBeError(
                    "it offers no TLS, and the connection has to have it (tls:// in the URL, or "
                    "tls=); nothing was sent"
                )
            info["tls_required"] = True  # which makes nats-py encrypt before it sends anything
        return super()._process_info(info, initial_connection)  # a coroutine in some versions

    def _connect_command(self) -> bytes:
        if not self._is_encrypted() and self._must_encrypt:
            raise NotAsItHasToBeError("it was not encrypted, and has to be; nothing was sent")
        command = super()._connect_command()
        if not command.startswith(CONNECT):
            raise NotAsItHasToBeError("this version of nats-py is not supported; install another")
        options = msgspec.json.decode(command.removeprefix(CONNECT), type=dict[str, Any])
        try:
            options |= self._login.fields(self.info.get("nonce"))
        except LoginError as error:
            raise NotAsItHasToBeError(str(error)) from None
        return CONNECT + msgspec.json.encode(options) + b"\r\n"

    def _is_encrypted(self) -> bool:
        """Whether it certainly is: where nats-py has another form, it is not known to be."""
        writer = getattr(getattr(self, "_transport", None), "_io_writer", None)
        if writer is None or writer.get_extra_info("ssl_object") is None:
            return False
        # asyncio warns at the end of a connection whose protocol was made before its TLS.
        protocol = writer.transport.get_protocol()
        if hasattr(protocol, "_over_ssl"):
            protocol._over_ssl = True
        return True

    async def ping(self) -> None:
        """Wait until the server has read all that was sent so far."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pings.append(pong)
        try:
            # Not `flush`, which overtakes what waits to be written.
            await self._send_command(b"PING\r\n")
            await self._flush_pending()
            await pong
        finally:
            let_go(pong)

    async def _process_pong(self) -> None:
        if self._pings:
            pong = self._pings.popleft()
            if not pong.done():  # nobody waits for it any more
                pong.set_result(None)

    def end(self, error: Exception) -> None:
        """Tell those who wait for a PONG that none will come."""
        while self._pings:
            pong = self._pings.popleft()
            if not pong.done():
                pong.set_exception(error)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        status, read = read_headers(headers) if headers else ("", {})
        self._take(NatsMessage(subject.decode("utf-8", "replace"), data, status, read))


def read_headers(raw: bytes) -> tuple[str, dict[str, str]]:
    r"""Read a block of headers: the status, if it has one, and the rest.

    >>> read_headers(b"NATS/1.0 503\r\n\r\n")
    ('503', {})
    >>> read_headers(b"NATS/1.0\r\nNats-Sequence: 7\r\nno header\r\n\r\n")
    ('', {'Nats-Sequence': '7'})
    """
    first, *lines = raw.decode("utf-8", "replace").split("\r\n")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value.strip()
    return first[len("NATS/1.0") :].strip()[:3], headers
