"""What a NATS server remembers: JetStream's streams, by questions of its public API.

Asked directly, because one question then gets all that is kept of a subject, and
because its answers tell what nats-py leaves out: the server's time.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from falcon_pachinko.backends.nats.link import Link, NoResponders
from falcon_pachinko.errors import BackendError

if TYPE_CHECKING:
    from falcon_pachinko.backends.nats.client import NatsMessage

__all__ = ["Stored", "Stream", "Streams", "WrongSequence", "timestamp"]

NEEDED = (2, 11)
"""The first version that returns many messages at once, and can make one depend on another."""

SEQUENCE, STAMP = "Nats-Sequence", "Nats-Time-Stamp"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
"""The condition of a write: the last message of its subject, or of ``EXPECTED-Subject``."""

_AT_ONCE = 1000  # messages that one question returns
_CLOCK = 30.0  # seconds after which the server's clock is read again
_WRONG_SEQUENCE, _NAME_IN_USE, _NOT_FOUND = 10071, 10058, (10037, 10043, 10059)


class WrongSequence(Exception):  # noqa: N818  # what NATS calls it
    """Another one wrote first: the condition of a write does not hold."""


class Stream(NamedTuple):
    """A stream as it is to be; equal ones are one."""

    name: str
    subjects: tuple[str, ...]
    kept: int
    """How many messages of each subject."""
    seconds: float = 0
    """How long; 0 for ever."""
    republish: tuple[str, str] | None = None


class Stored(NamedTuple):
    """A message of a stream."""

    sequence: int
    at: float
    """When the server got it, by the server's clock."""
    data: bytes
    headers: dict[str, str]
    subject: str


class _Known(NamedTuple):
    created: float
    behind: float  # the server's clock minus this machine's monotonic one
    read: float  # when that was


class Streams:
    """The streams behind one backend.

    Args:
        name: The server's, for errors.
        link: Returns the connection, or raises `BackendError`.
    """

    def __init__(self, name: str, link: Callable[[], Link]) -> None:
        self.name, self._link = name, link
        self._known: dict[str, _Known] = {}
        self._making = asyncio.Lock()

    def forget(self) -> None:
        """Forget what is known of the server: it may be another one."""
        self._known.clear()

    async def ensure(self, stream: Stream) -> _Known:
        """Have a stream; return what is known of it.

        Raises:
            BackendError: The server cannot, or will not, and its text says what to do.
        """
        known = self._known.get(stream.name)
        if known is None or asyncio.get_running_loop().time() - known.read > _CLOCK:
            async with self._making:
                if self._known.get(stream.name) is known:
                    if known is None:
                        await self._make(stream)
                    known = self._known[stream.name] = await self._look(stream)
                known = self._known[stream.name]
        return known

    async def created(self, stream: Stream) -> float:
        """Return when it was made, by the server's clock."""
        return (await self.ensure(stream)).created

    async def now(self, stream: Stream) -> float:
        """Return the time by the server's clock, the one that all nodes share."""
        known = await self.ensure(stream)
        return asyncio.get_running_loop().time() + known.behind

    async def _make(self, stream: Stream) -> None:
        version = self._link().version
        if version < NEEDED:
            raise BackendError(
                self.name,
                f"presence, leases and history need nats-server {NEEDED[0]}.{NEEDED[1]} or later; "
                f"this is {version[0]}.{version[1]}",
            )
        age = int(stream.seconds * 1e9)
        config: dict[str, Any] = {
            "name": stream.name,
            "subjects": stream.subjects,
            "max_msgs_per_subject": stream.kept,
            "max_age": age,
            "duplicate_window": min(age or 120_000_000_000, 120_000_000_000),
            "storage": "file",
            "discard": "old",
            "allow_direct": True,
        }
        if stream.republish is not None:
            config["republish"] = dict(zip(("src", "dest"), stream.republish, strict=True))
        answer = await self._ask(f"STREAM.CREATE.{stream.name}", config)
        # In use with other settings is fine too: an operator has changed it.
        self._check(answer, _NAME_IN_USE)

    async def _look(self, stream: Stream) -> _Known:
        answer = await self._ask(f"STREAM.INFO.{stream.name}", {})
        self._check(answer)
        read = asyncio.get_running_loop().time()
        return _Known(timestamp(answer["created"]), timestamp(answer["ts"]) - read, read)

    # Writing.

    async def put(
        self, stream: Stream, subject: str, data: bytes, headers: dict[str, str] | None = None
    ) -> int:
        """Write a message; return its sequence.

        Raises:
            WrongSequence: The headers made a condition, which does not hold.
            BackendError: It may not have been written.
        """
        await self.ensure(stream)
        try:
            message = await self._link().ask(subject, data, headers)
        except NoResponders:
            # Somebody has deleted the stream.
            self.forget()
            await self.ensure(stream)
            message = await self._link().ask(subject, data, headers)
        return self._written(message)

    async def mark(self, subject: str) -> int:
        """Write an empty message to a stream that is there already; return its sequence."""
        return self._written(await self._link().ask(subject))

    def _written(self, message: NatsMessage) -> int:
        answer = msgspec.json.decode(message.data, type=dict[str, Any])
        if answer.get("error", {}).get("err_code") == _WRONG_SEQUENCE:
            raise WrongSequence
        self._check(answer)
        return int(answer["seq"])

    async def delete(self, stream: Stream, sequence: int) -> None:
        """Take a message out; one that is not there is ignored."""
        question = {"seq": sequence, "no_erase": True}
        answer = await self._ask(f"STREAM.MSG.DELETE.{stream.name}", question)
        self._check(answer, 10057, *_NOT_FOUND)

    async def purge(self, stream: str, subject: str) -> None:
        """Take all messages of a subject out, which may have wildcards."""
        answer = await self._ask(f"STREAM.PURGE.{stream}", {"filter": subject})
        self._check(answer, *_NOT_FOUND)

    # Reading.

    async def last(self, stream: Stream, subject: str) -> Stored | None:
        """Return the last message of a subject."""
        await self.ensure(stream)
        question = msgspec.json.encode({"last_by_subj": subject})
        message = await self._link().ask(f"$JS.API.DIRECT.GET.{stream.name}", question)
        return None if message.status else _stored(message)

    async def all(self, stream: Stream, subject: str) -> list[Stored]:
        """Return all messages of a subject, which may have wildcards; the oldest first."""
        await self.ensure(stream)
        found: list[Stored] = []
        while True:
            question = {
                "seq": found[-1].sequence + 1 if found else 1,
                "next_by_subj": subject,
                "batch": _AT_ONCE,
            }
            messages, end = await self._link().ask_many(
                f"$JS.API.DIRECT.GET.{stream.name}", msgspec.json.encode(question)
            )
            found += map(_stored, messages)
            if end.status not in ("204", "404"):
                raise BackendError(self.name, f"{stream.name} could not be read: {end.status}")
            if not messages or int(end.headers.get("Nats-Num-Pending", 0)) == 0:
                return found

    async def names(self, subject: str) -> list[str]:
        """Return the streams that keep a subject."""
        answer = await self._ask("STREAM.NAMES", {"subject": subject})
        self._check(answer)
        return list(answer.get("streams") or ())

    async def _ask(self, what: str, question: dict[str, Any]) -> dict[str, Any]:
        try:
            message = await self._link().ask(f"$JS.API.{what}", msgspec.json.encode(question))
        except NoResponders:
            raise BackendError(
                self.name,
                "JetStream is not enabled there, and presence, singleton workers and history "
                "need it; start the server as: nats-server -js -sd /var/lib/nats",
            ) from None
        return msgspec.json.decode(message.data, type=dict[str, Any])

    def _check(self, answer: dict[str, Any], *allowed: int) -> None:
        error = answer.get("error")
        if error and error.get("err_code") not in allowed:
            said = error.get("description", "it gave no reason")
            raise BackendError(self.name, f"JetStream refused: {said}")


def timestamp(text: str) -> float:
    """Read a time as NATS writes it, in nanoseconds.

    >>> timestamp("1970-01-01T00:00:01.250000001Z")
    1.25
    """
    return dt.datetime.fromisoformat(text).timestamp()


def _stored(message: NatsMessage) -> Stored:
    headers = message.headers
    return Stored(
        int(headers[SEQUENCE]),
        timestamp(headers[STAMP]),
        message.data,
        headers,
        headers["Nats-Subject"],
    )
