"""Questions to JetStream, the part of a NATS server that remembers, by its public API.

Asked directly, because one question then gets all that is kept of a subject, and
because its answers tell what nats-py leaves out: the server's time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from falcon_pachinko.backends.nats.link import Link, NoResponders
from falcon_pachinko.backends.nats.refusals import PASSING, explain_jetstream
from falcon_pachinko.errors import BackendError

if TYPE_CHECKING:
    from falcon_pachinko.backends.nats.client import NatsMessage

__all__ = ["SEQUENCE", "JetStream", "Stored", "stored", "stored_at_leader", "timestamp"]

SEQUENCE, STAMP = "Nats-Sequence", "Nats-Time-Stamp"

_ONCE_MORE = 0.3  # seconds until a question is asked once more; then twice as long, and so on


class Stored(NamedTuple):
    """A message of a stream."""

    sequence: int
    at: float
    """When the server got it, by the server's clock."""
    data: bytes
    headers: dict[str, str]
    subject: str


class JetStream:
    """What answers questions.

    Args:
        name: The server's, for errors.
        link: Returns the connection, or raises `BackendError`.
    """

    def __init__(self, name: str, link: Callable[[], Link]) -> None:
        self.name, self._link = name, link

    async def _ask(self, what: str, question: dict[str, Any]) -> dict[str, Any]:
        link, wait = self._link(), _ONCE_MORE
        subject, data = f"{link.where.api}.{what}", msgspec.json.encode(question)
        while True:
            # Of a cluster, only a leader answers, and for a moment there may be none. All that is
            # asked here may be asked twice.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    message = await self._answered(link, subject, data)
                    return msgspec.json.decode(message.data, type=dict[str, Any])
            wait *= 2

    async def _answered(self, link: Link, subject: str, data: bytes) -> NatsMessage:
        try:
            return await link.ask(subject, data)
        except NoResponders:
            if link.where.domain is not None:
                why = f"there is no JetStream of the domain {link.where.domain}, or it is away"
            else:
                why = (
                    "JetStream is not enabled there, and presence, singleton workers and history "
                    "need it; start the server as: nats-server -js -sd /var/lib/nats"
                )
            raise BackendError(self.name, why) from None

    def _check(self, answer: dict[str, Any], *allowed: int) -> None:
        error = answer.get("error")
        if error and error.get("err_code") not in allowed:
            passing = error.get("err_code") in PASSING
            raise BackendError(self.name, explain_jetstream(error), passing=passing)


def timestamp(text: str) -> float:
    """Read a time as NATS writes it, in nanoseconds.

    >>> timestamp("1970-01-01T00:00:01.250000001Z")
    1.25
    """
    return dt.datetime.fromisoformat(text).timestamp()


def stored(message: NatsMessage) -> Stored:
    """Read a message as any server that has the stream sends it."""
    headers = message.headers
    return Stored(
        int(headers[SEQUENCE]),
        timestamp(headers[STAMP]),
        message.data,
        headers,
        headers["Nats-Subject"],
    )


def stored_at_leader(message: dict[str, Any]) -> Stored:
    """Read a message as the leader of its stream writes it."""
    from falcon_pachinko.backends.nats.client import read_headers  # noqa: PLC0415  # needs nats-py

    headers = base64.b64decode(message.get("hdrs", ""))
    return Stored(
        int(message["seq"]),
        timestamp(message["time"]),
        base64.b64decode(message.get("data", "")),
        read_headers(headers)[1] if headers else {},
        message["subject"],
    )
