"""What a NATS server remembers: JetStream's streams.

Of a stream that several servers have, only the leader's word counts: any of them
answers DIRECT.GET, and one that lags behind does not know of the latest. So there the
leader is asked what is the latest, and what comes from elsewhere has to reach up to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from falcon_pachinko.backends.nats.jetstream import (
    JetStream,
    Stored,
    stored,
    stored_at_leader,
    timestamp,
)
from falcon_pachinko.backends.nats.link import Link, NoResponders
from falcon_pachinko.backends.nats.refusals import NO_ROOM
from falcon_pachinko.errors import BackendError

if TYPE_CHECKING:
    from falcon_pachinko.backends.nats.client import NatsMessage

__all__ = ["Known", "Stream", "StreamGone", "Streams", "WrongSequence"]

NEEDED = (2, 11)
"""The first version that returns many messages at once, and can make one depend on another."""

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
"""The condition of a write: the last message of its subject."""

MOST_SEQUENCE = 2**63
_IMPOSSIBLE = str(MOST_SEQUENCE - 1)

_AT_ONCE = 1000  # messages that one question returns
_ASKED_AT_ONCE = 64  # questions to a leader that are on their way at the same time
_CLOCK = 30.0  # seconds after which the server's clock is read again
_FRESH = 0.25  # seconds for which it is known, among several servers, who has a stream
_TRACE_AFTER = 2  # a part of the timeout: for how long the servers may look for one
_LAGS = (0.02, 0.05, 0.1, 0.2)  # seconds to wait for a server that lags behind; then the leader
_WRONG_SEQUENCE = (10071, 10164)  # of what is stored, and of what is on its way
_NAME_IN_USE, _NOT_FOUND = 10058, (10037, 10043, 10059)


class WrongSequence(Exception):  # noqa: N818  # what NATS calls it
    """Another one wrote first: the condition of a write does not hold."""


class StreamGone(Exception):  # noqa: N818  # as the one above
    """The stream is not there any more; it is made again with the next write."""


class Stream(NamedTuple):
    """A stream as it is to be; equal ones are one."""

    name: str
    subjects: tuple[str, ...]
    kept: int
    """How many messages of each subject."""
    seconds: float = 0
    """How long; 0 for ever."""
    republish: tuple[str, str] | None = None


class Known(NamedTuple):
    """What is known of a stream."""

    created: str
    server: str
    """The server that has it, in this life of it, where only one has; else empty."""
    replicas: int
    behind: float
    """The server's clock minus this machine's monotonic one."""
    read: float
    """When that was, by this machine's monotonic clock."""


class Streams(JetStream):
    """The streams behind one backend.

    Args:
        name: The server's, for errors.
        link: Returns the connection, or raises `BackendError`.
    """

    def __init__(self, name: str, link: Callable[[], Link]) -> None:
        super().__init__(name, link)
        self._known: dict[str, Known] = {}
        self._making = asyncio.Lock()
        self._last: dict[str, tuple[str, int]] = {}
        # By stream, of which creation, and the last sequence that is certain: none is given twice.
        self.rolled_back: set[str] = set()
        """Streams that were found to have lost what they had confirmed."""
        self.refused: dict[str, Stream] = {}
        """Streams that could not be made."""
        self.no_room_for = 0
        """How many bytes a message had for which there was no room; 0 for none."""

    def forget(self) -> None:
        """Forget what is known of the server: it may be another one."""
        self._known.clear()
        self._making = asyncio.Lock()  # whoever has the old one waits for a server that is gone

    async def ensure(self, stream: Stream, within: float = _CLOCK, *, make: bool = True) -> Known:
        """Have a stream; return what is known of it.

        Args:
            stream: The stream.
            within: How old that may be, in seconds.
            make: Whether to make one that is not there.

        Raises:
            BackendError: The server cannot, or will not, and its text says what to do.
        """
        clock = asyncio.get_running_loop().time
        known = self._known.get(stream.name)
        if known is not None and clock() - known.read <= within:
            return known
        async with self._making:
            known = self._known.get(stream.name)
            if known is not None and clock() - known.read <= within:
                return known
            try:
                if known is None and make:
                    await self._make(stream)
                known = self._known[stream.name] = await self._look(stream)
            except BackendError:
                self.refused[stream.name] = stream
                raise
            self.refused.pop(stream.name, None)
            return known

    @property
    def is_alone(self) -> bool:
        """Whether the server that we are connected to is the one that has the streams."""
        return self._link().is_alone

    async def fresh(self, stream: Stream, *, make: bool = True) -> Known:
        """Return what is known of a stream now, though another server than ours may have it."""
        # A server that is alone has not begun anew: the connection to it would have ended.
        return await self.ensure(stream, _CLOCK if self.is_alone else _FRESH, make=make)

    async def now(self, stream: Stream) -> float:
        """Return the time by the server's clock, the one that all nodes share."""
        known = await self.ensure(stream)
        return asyncio.get_running_loop().time() + known.behind

    async def _make(self, stream: Stream) -> None:
        link = self._link()
        if link.version < NEEDED:
            raise BackendError(
                self.name,
                f"presence, leases and history need nats-server {NEEDED[0]}.{NEEDED[1]} or later; "
                f"this is {link.version[0]}.{link.version[1]}",
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
            "num_replicas": link.where.replicas or 1,
        }
        if stream.republish is not None:
            config["republish"] = dict(zip(("src", "dest"), stream.republish, strict=True))
        answer = await self._ask(f"STREAM.CREATE.{stream.name}", config)
        # In use with other settings is fine too: an operator has changed it.
        self._check(answer, _NAME_IN_USE)

    async def _look(self, stream: Stream) -> Known:
        began, certain = asyncio.get_running_loop().time(), self._last.get(stream.name)
        answer = await self._ask(f"STREAM.INFO.{stream.name}", {})
        if answer.get("error", {}).get("err_code") in _NOT_FOUND:
            self._known.pop(stream.name, None)
        self._check(answer)
        read = asyncio.get_running_loop().time()
        replicas = int(answer["config"].get("num_replicas", 1))
        leader = (answer.get("cluster") or {}).get("leader", "")
        server = await self._server(stream, leader) if replicas == 1 else ""
        created, last = answer["created"], int(answer["state"]["last_seq"])
        if certain is not None and certain[0] == created and last < certain[1]:
            self.rolled_back.add(stream.name)
            self._last[stream.name] = created, last
        else:
            self._last[stream.name] = max((created, last), self._last.get(stream.name, ("", 0)))
        return Known(created, server, replicas, timestamp(answer["ts"]) - read, began)

    async def _server(self, stream: Stream, leader: str) -> str:
        """Return which server has a stream that only one has: another name at each start of it."""
        link = self._link()
        if leader == link.info.get("server_name") or link.is_alone:
            return str(link.info.get("server_id", ""))
        if not leader:
            raise BackendError(self.name, f"no server has {stream.name} just now", passing=True)
        # Its name may be the same again. Only itself tells that, when it gets a message.
        subject = stream.subjects[0].replace(">", "=trace")
        dest = f"{subject.partition('.')[0]}.trace.{secrets.token_hex(8)}"
        try:
            async with asyncio.timeout(link.where.settings.timeout / _TRACE_AFTER):
                told = await link.trace(subject, dest)
        except TimeoutError:
            raise BackendError(
                self.name, f"the server {leader!r:.80}, which has {stream.name}, cannot be reached"
            ) from None
        return str(told.get("server", {}).get("id", ""))

    @contextlib.contextmanager
    def _is_it_there(self, stream: Stream) -> Iterator[None]:
        """Look for the stream again after a question that nobody answers.

        Where somebody listens to everything, the server does not say that nobody does: then
        the question is given up in the end.
        """
        try:
            yield
        except (NoResponders, asyncio.CancelledError) as error:
            self._known.pop(stream.name, None)
            if isinstance(error, NoResponders):
                raise StreamGone from None
            raise

    # Writing.

    async def put(
        self, stream: Stream, subject: str, data: bytes, headers: dict[str, str] | None = None
    ) -> int:
        """Write a message; return its sequence.

        Raises:
            WrongSequence: The headers made a condition, which does not hold.
            StreamGone: Somebody has deleted the stream.
            BackendError: It may not have been written; or the stream had lost what came before.
        """
        known = await self.ensure(stream)
        before = self._last.get(stream.name, ("", 0))[1]
        with self._is_it_there(stream):
            message = await self._link().ask(subject, data, headers)
        sequence, is_new = self._written(message, len(data))
        if not is_new:
            return sequence
        of, last = self._last.get(stream.name, (known.created, 0))
        if of == known.created and sequence <= before:
            # It has lost what it had confirmed, and gives out its places once more.
            self.rolled_back.add(stream.name)
            self._known.pop(stream.name, None)
            self._last[stream.name] = known.created, sequence
            raise BackendError(self.name, f"{stream.name} has lost some of what it had stored")
        self._last[stream.name] = of, max(sequence, last)
        return sequence

    def _written(self, message: NatsMessage, size: int) -> tuple[int, bool]:
        """Return where a message is now, and whether it was not there before."""
        answer = msgspec.json.decode(message.data, type=dict[str, Any])
        code = answer.get("error", {}).get("err_code")
        if code in _WRONG_SEQUENCE:
            raise WrongSequence
        if code in NO_ROOM:
            self.no_room_for = max(self.no_room_for, size)
        self._check(answer)
        return int(answer["seq"]), not answer.get("duplicate", False)

    async def fence(self, stream: Stream, subject: str) -> None:
        """Wait until the server that has a stream knows of all that we have subscribed to.

        Another server is told of a subscription in passing. What it does later for us it
        knows by then, if it is asked on the same way, which is that of messages; so it gets
        one that it cannot take.
        """
        if self.is_alone:
            return
        with contextlib.suppress(WrongSequence):
            await self.put(stream, subject, b"", {EXPECTED: _IMPOSSIBLE})

    async def delete(self, stream: Stream, sequence: int) -> None:
        """Take a message out; one that is not there is ignored."""
        question = {"seq": sequence, "no_erase": True}
        answer = await self._ask(f"STREAM.MSG.DELETE.{stream.name}", question)
        self._check(answer, 10057, *_NOT_FOUND)

    async def purge(self, stream: str, subject: str, before: int | None = None) -> None:
        """Take all messages of a subject out, which may have wildcards.

        A server does that fast: 20 000 messages within 30 ms.

        Args:
            stream: The stream's name.
            subject: The subject.
            before: Only those with a lower sequence.
        """
        question: dict[str, Any] = {"filter": subject}
        if before is not None:
            question["seq"] = before
        answer = await self._ask(f"STREAM.PURGE.{stream}", question)
        self._check(answer, *_NOT_FOUND)

    # Reading.

    async def last(self, stream: Stream, subject: str) -> Stored | None:
        """Return the last message of a subject, as the leader knows it."""
        known = await self.ensure(stream)
        if known.replicas > 1:
            return await self.of_leader(stream, {"last_by_subj": subject})
        question = msgspec.json.encode({"last_by_subj": subject})
        with self._is_it_there(stream):
            message = await self._link().ask(self._direct(stream), question)
        return None if message.status else stored(message)

    async def all(self, stream: Stream, subject: str) -> list[Stored]:
        """Return the last message of each subject that fits one with wildcards."""
        known = await self.ensure(stream)
        if known.replicas == 1:
            return await self._batch(stream, subject, 1)
        subjects, gate = await self.subjects(stream, subject), asyncio.Semaphore(_ASKED_AT_ONCE)

        async def last(each: str) -> Stored | None:
            async with gate:
                return await self.of_leader(stream, {"last_by_subj": each})

        found = await asyncio.gather(*map(last, subjects))
        return sorted(each for each in found if each is not None)

    async def since(
        self, stream: Stream, subject: str, first: int, last: Stored | None = None
    ) -> list[Stored]:
        """Return the messages of a subject from a sequence on; the oldest first.

        Args:
            stream: The stream.
            subject: The subject, without wildcards.
            first: The sequence.
            last: The last message of the subject, where several servers have the stream:
                whatever does not reach up to it is not believed.

        Raises:
            BackendError: It could not be read.
        """
        if last is None or last.sequence <= first:
            if last is not None:
                return [last] if last.sequence == first else []
            return await self._batch(stream, subject, first)
        for wait in _LAGS:
            found = await self._batch(stream, subject, first)
            if found and found[-1].sequence >= last.sequence:
                return found
            await asyncio.sleep(wait)
        found = []
        while first <= last.sequence:
            question = {"seq": first, "next_by_subj": subject}
            each = await self.of_leader(stream, question)
            if each is None:
                break
            found.append(each)
            first = each.sequence + 1
        return found

    async def _batch(self, stream: Stream, subject: str, first: int) -> list[Stored]:
        found: list[Stored] = []
        while True:
            question = {
                "seq": found[-1].sequence + 1 if found else first,
                "next_by_subj": subject,
                "batch": _AT_ONCE,
            }
            with self._is_it_there(stream):
                messages, end = await self._link().ask_many(
                    self._direct(stream), msgspec.json.encode(question)
                )
                if end.status == "503":
                    raise NoResponders(self.name, f"nobody has {stream.name}")
            found += map(stored, messages)
            if end.status not in ("204", "404"):
                raise BackendError(self.name, f"{stream.name} could not be read: {end.status}")
            if not messages or int(end.headers.get("Nats-Num-Pending", 0)) == 0:
                return found

    async def of_leader(self, stream: Stream, question: dict[str, Any]) -> Stored | None:
        """Return a message that a stream's leader knows, which of several servers is one."""
        answer = await self._ask(f"STREAM.MSG.GET.{stream.name}", question)
        self._check(answer, *_NOT_FOUND)
        message = answer.get("message")
        return None if message is None else stored_at_leader(message)

    async def subjects(self, stream: Stream, subject: str) -> list[str]:
        """Return the subjects of a stream that fit one with wildcards."""
        found: list[str] = []
        while True:
            question = {"subjects_filter": subject, "offset": len(found)}
            answer = await self._ask(f"STREAM.INFO.{stream.name}", question)
            self._check(answer)
            page = answer["state"].get("subjects") or ()
            found += page
            if not page or len(found) >= int(answer.get("total", 0)):
                return found

    async def names(self, subject: str) -> list[str]:
        """Return the streams that keep a subject."""
        answer = await self._ask("STREAM.NAMES", {"subject": subject})
        self._check(answer)
        return list(answer.get("streams") or ())

    def _direct(self, stream: Stream) -> str:
        return f"{self._link().where.api}.DIRECT.GET.{stream.name}"
