"""Channels that remember: a stream for each set of limits, which republishes what it keeps.

A channel has two subjects in it: ``data``, with what is kept, and ``epoch``, whose last
record says which epoch is on, and from which sequence on. So nothing that many write at
once depends on anything: who writes has looked a while ago, and what it calls the epoch
does not count if a later record says otherwise, neither for who reads nor for who listens.

A place is a sequence of the stream. A position is valid if its very message is still
there, in the epoch that is on: nothing between it and the newest can be missing, because
the oldest go first. For that the stream keeps a little more than the limits say: one
message, and half the time again.

A record also says in which life of the stream it was written: an epoch does not
outlive it. Where one server has the stream, a life ends when that server ends; where
several have it, when it turns out that it has lost what it had confirmed.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from falcon_pachinko.backends.base import HistoryPosition, Kept, Past, Received
from falcon_pachinko.backends.nats.jetstream import SEQUENCE, Stored
from falcon_pachinko.backends.nats.names import token
from falcon_pachinko.backends.nats.streams import (
    EXPECTED,
    MOST_SEQUENCE,
    Stream,
    StreamGone,
    Streams,
    WrongSequence,
)
from falcon_pachinko.errors import BackendError
from falcon_pachinko.limits import HistoryLimits

if TYPE_CHECKING:
    from falcon_pachinko.backends.nats.client import NatsMessage

__all__ = ["Histories"]

EPOCH = "Pachinko-Epoch"
BEGIN, SINCE = "Pachinko-Begin", "Pachinko-Since"
"""On a record: from which sequence on its epoch is (empty for its own), and since when."""

LIFE = "Pachinko-Life"

STREAM = "Nats-Stream"
"""On what a stream republishes."""

KEY_SECONDS = 120.0
"""For how long a message is known by its key, or its bytes."""

SHORTEST = 0.1
"""Seconds: the server keeps nothing for a shorter time."""

_DIGEST = 24  # hexadecimal digits that tell two of anything apart
_DIGITS = 20  # more than a sequence has
_TRIES = 20  # each fails only because another one has succeeded
_PAUSE = 0.01  # seconds between them, the more the later
_MOST_KNOWN = 10_000  # channels whose epoch is remembered


class _Epoch(NamedTuple):
    """An epoch that is on, as its record says."""

    name: str
    begin: int
    """What is kept of it has a larger sequence."""
    since: float
    """When it began, by the server's clock."""
    record: int
    """The sequence of the record."""
    at: float
    """When the record was written, by the server's clock."""


class _Known(NamedTuple):
    """What this process knows of a channel."""

    name: str
    begin: int
    """The epoch's name, and from which sequence on it is."""
    life: str
    """In which life of the stream it was begun."""
    looked: float
    """When that was so, by this machine's monotonic clock."""


class Histories:
    """The histories of one namespace.

    Args:
        streams: What keeps them.
        state: The stream in which it is noted that another one has lost something.
        namespace: The namespace, as a token.
    """

    def __init__(self, streams: Streams, state: Stream, namespace: str) -> None:
        self._streams, self._state, self._namespace = streams, state, namespace
        self._epochs: dict[str, dict[str, _Known]] = {}
        # By channel and stream, those used last at the end: _MOST_KNOWN channels at most.

    def forget_all_epochs(self) -> None:
        """Ask the server again: it may be another one."""
        self._epochs.clear()

    def _know(self, channel: str, stream: str, news: _Known) -> None:
        known = self._epochs.pop(channel, {})
        before = known.get(stream)
        if before is None or news.begin >= before.begin:  # else it is news of yesterday
            known[stream] = news
        self._epochs[channel] = known
        if len(self._epochs) > _MOST_KNOWN:
            del self._epochs[next(iter(self._epochs))]

    def _doubt(self, channel: str) -> None:
        """Look again before the next append."""
        known = self._epochs.get(channel, {})
        known.update({name: each._replace(looked=float("-inf")) for name, each in known.items()})

    def _stream(self, limits: HistoryLimits) -> Stream:
        written = f"{limits.count} {limits.bytes} {limits.seconds!r}"
        tag = hashlib.sha256(written.encode()).hexdigest()[:12]
        prefix = f"{self._namespace}.keep.{tag}"
        return Stream(
            f"{self._namespace.replace('/', '=2F')}-history-{tag}",
            (f"{prefix}.>",),
            kept=limits.count + 1,
            seconds=max(limits.seconds * 1.5, SHORTEST),
            republish=(f"{prefix}.*.*", f"{self._namespace}.pub." + "{{wildcard(1)}}"),
        )

    def _subject(self, stream: Stream, channel: str, kind: str) -> str:
        return f"{stream.subjects[0].removesuffix('>')}{token(channel)}.{kind}"

    # Epochs.

    async def _life(self, stream: Stream, *, make: bool = True) -> str:
        """Return the name of the life that a stream has now: another one after a loss."""
        known = await self._streams.fresh(stream, make=make)
        if known.replicas == 1:
            self._streams.rolled_back.discard(stream.name)  # its server has begun anew
            return _digest(known.created, known.server)
        losses = f"{self._namespace}.state.lost.{stream.name.rpartition('-')[2]}"
        if stream.name in self._streams.rolled_back:
            await self._streams.put(self._state, losses, b"")
            self._streams.rolled_back.discard(stream.name)
        loss = await self._streams.last(self._state, losses)
        return _digest(known.created, str(loss.sequence if loss is not None else ""))

    def _read_record(self, record: Stored | None, life: str) -> _Epoch | None:
        """Read a record; None if its epoch is over."""
        if record is None or record.headers.get(LIFE) != life:
            return None
        begin, since = _number(record.headers.get(BEGIN, "")), record.headers.get(SINCE, "")
        try:
            return _Epoch(
                record.headers[EPOCH],
                begin or record.sequence,
                float(since) if since else record.at,
                record.sequence,
                record.at,
            )
        except (KeyError, ValueError):  # somebody else's
            return None

    async def _begin(self, stream: Stream, channel: str, life: str, last: Stored | None) -> _Epoch:
        """Begin an epoch behind the last record.

        Raises:
            WrongSequence: Another one has done so.
        """
        name, looked = secrets.token_hex(8), asyncio.get_running_loop().time()
        record = await self._write_record(
            stream, channel, life, last.sequence if last is not None else 0, {EPOCH: name}
        )
        self._know(channel, stream.name, _Known(name, record, life, looked))
        now = await self._streams.now(stream)
        return _Epoch(name, record, now, record, now)

    async def _write_record(
        self,
        stream: Stream,
        channel: str,
        life: str,
        behind: int | None,
        headers: dict[str, str],
    ) -> int:
        headers = {BEGIN: "", **headers, LIFE: life}
        if behind is not None:
            headers[EXPECTED] = str(behind)
        subject = self._subject(stream, channel, "epoch")
        return await self._streams.put(stream, subject, b"", headers)

    async def _current(
        self, stream: Stream, channel: str, limits: HistoryLimits
    ) -> tuple[_Epoch, str]:
        """Return the epoch that is on, begun if there was none, and the life of the stream.

        Raises:
            WrongSequence: Another one has begun an epoch meanwhile.
        """
        record, newest, life = await asyncio.gather(
            self._streams.last(stream, self._subject(stream, channel, "epoch")),
            self._streams.last(stream, self._subject(stream, channel, "data")),
            self._life(stream),
        )
        epoch, now = self._read_record(record, life), await self._streams.now(stream)
        used = max((each.at for each in (record, newest) if each is not None), default=0.0)
        if epoch is None or used + limits.seconds <= now:
            return await self._begin(stream, channel, life, record), life
        if epoch.at + limits.seconds / 2 <= now:  # else it would go before what is kept
            headers = {EPOCH: epoch.name, BEGIN: str(epoch.begin), SINCE: repr(epoch.since)}
            await self._write_record(stream, channel, life, epoch.record, headers)
        return epoch, life

    # What is kept.

    async def append(
        self, channel: str, data: bytes, limits: HistoryLimits, key: str = ""
    ) -> HistoryPosition:
        """Keep bytes; the server publishes them in the order of their places."""
        stream = self._stream(limits)
        subject = self._subject(stream, channel, "data")
        clock = asyncio.get_running_loop().time
        for attempt in range(_TRIES):
            await asyncio.sleep(attempt * _PAUSE)
            began = clock()
            used = self._epochs.get(channel, {}).get(stream.name)
            try:
                if (
                    used is None
                    or began - used.looked > limits.seconds / 2
                    or not (self._streams.is_alone or used.life == await self._life(stream))
                ):
                    epoch, life = await self._current(stream, channel, limits)
                    used = _Known(epoch.name, epoch.begin, life, began)
                    self._know(channel, stream.name, used)
                headers = {EPOCH: used.name}
                if key:
                    again = await self._kept_already(stream, subject, data, used)
                    if again is not None:
                        return HistoryPosition(used.name, again)
                    headers["Nats-Msg-Id"] = _digest(channel, key)
                sequence = await self._streams.put(stream, subject, data, headers)
            except StreamGone:
                self._epochs.pop(channel, None)
            except WrongSequence:
                self._doubt(channel)
            except BackendError:
                self._doubt(channel)
                raise
            else:
                return HistoryPosition(
                    self._name(channel, stream.name, used.name, sequence), sequence
                )
        raise self._contended(channel)

    async def _kept_already(
        self, stream: Stream, subject: str, data: bytes, known: _Known
    ) -> int | None:
        """Return where the very same bytes were kept: by a call that failed, as it seemed."""
        last = await self._streams.last(stream, subject)
        if last is None:
            return None
        kept = await self._streams.since(stream, subject, known.begin + 1, last)
        after = await self._streams.now(stream) - KEY_SECONDS
        same = (each for each in reversed(kept) if each.data == data and each.at > after)
        return next((each.sequence for each in same), None)

    def _name(self, channel: str, stream: str, label: str, sequence: int) -> str:
        """Return of which epoch a message is, whatever who wrote it has called that."""
        known = self._epochs.get(channel, {}).get(stream)
        return known.name if known is not None and sequence > known.begin else label

    def _contended(self, channel: str) -> BackendError:
        return BackendError(self._streams.name, f"too many concurrent writes to {channel!r:.200}")

    async def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Past:
        """Return what was kept after a position; begin a history where there is none."""
        stream = self._stream(limits)
        for attempt in range(_TRIES):
            await asyncio.sleep(attempt * _PAUSE)
            try:
                return await self._read(stream, channel, after, limits)
            except (WrongSequence, StreamGone):
                self._doubt(channel)
        raise self._contended(channel)

    async def _read(
        self, stream: Stream, channel: str, after: HistoryPosition, limits: HistoryLimits
    ) -> Past:
        record_at = self._subject(stream, channel, "epoch")
        subject = self._subject(stream, channel, "data")
        began, known = asyncio.get_running_loop().time(), await self._streams.ensure(stream)
        await self._streams.fence(stream, record_at)
        last: Stored | None = None
        record: Stored | None
        if known.replicas > 1:
            record, last, life = await asyncio.gather(
                self._streams.last(stream, record_at),
                self._streams.last(stream, subject),
                self._life(stream),
            )
        else:
            record, life = await asyncio.gather(
                self._streams.last(stream, record_at), self._life(stream)
            )
        epoch, now = self._read_record(record, life), await self._streams.now(stream)
        if epoch is None:
            return _empty(await self._begin(stream, channel, life, record))
        self._know(channel, stream.name, _Known(epoch.name, epoch.begin, life, began))

        async def since(first: int) -> list[Stored]:
            if known.replicas > 1 and last is None:
                return []
            found = await self._streams.since(stream, subject, first, last)
            return [each for each in found if each.sequence > epoch.begin]

        # What came after the position, with its own message as the proof; and all, without it.
        kept = []
        if after.epoch == epoch.name and epoch.begin < after.offset < MOST_SEQUENCE:
            kept = await since(after.offset)
        proven = bool(kept) and kept[0].sequence == after.offset
        if not proven:
            kept = await since(epoch.begin + 1)
            # As long as nothing had to go, all is there that came since the beginning.
            proven = (
                after == HistoryPosition(epoch.name, epoch.begin)
                and len(kept) <= limits.count
                and epoch.since + limits.seconds > now
            )
        used = max(epoch.at, kept[-1].at if kept else 0.0)
        if used + limits.seconds <= now:
            return _empty(await self._begin(stream, channel, life, record))
        return _past(kept, epoch, after, limits, now, proven=proven)

    def received(self, channel: str, message: NatsMessage) -> Received | None:
        """Read what arrived on a channel; None for a record, which says which epoch is on."""
        headers = message.headers
        if EPOCH not in headers and BEGIN not in headers:
            return Received(channel, message.data)
        stream, sequence = headers.get(STREAM, ""), _number(headers.get(SEQUENCE, ""))
        if BEGIN in headers:
            begin = _number(headers[BEGIN]) or sequence
            looked = asyncio.get_running_loop().time()
            known = _Known(headers.get(EPOCH, ""), begin, headers.get(LIFE, ""), looked)
            self._know(channel, stream, known)
            return None
        if not sequence:
            return Received(channel, message.data)
        epoch = self._name(channel, stream, headers[EPOCH], sequence)
        return Received(channel, message.data, HistoryPosition(epoch, sequence))

    async def forget(self, channel: str) -> None:
        """End a history, whatever its limits are."""
        self._doubt(channel)
        for name in await self._streams.names(f"{self._namespace}.keep.*.{token(channel)}.data"):
            prefix = f"{self._namespace}.keep.{name.rpartition('-')[2]}"
            stream = Stream(name, (f"{prefix}.>",), kept=0)
            life = await self._life(stream, make=False)
            # Another epoch: whatever is before its record does not count any more.
            headers = {EPOCH: secrets.token_hex(8)}
            record = await self._write_record(stream, channel, life, None, headers)
            await self._streams.purge(name, self._subject(stream, channel, "data"), before=record)


def _number(text: str) -> int:
    """Read a sequence; 0 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else 0


def _digest(*said: str) -> str:
    return hashlib.sha256(" ".join(map(token, said)).encode()).hexdigest()[:_DIGEST]


def _empty(epoch: _Epoch) -> Past:
    return Past(HistoryPosition(epoch.name, epoch.begin), (), complete=False)


def _past(
    kept: Sequence[Stored],
    epoch: _Epoch,
    after: HistoryPosition,
    limits: HistoryLimits,
    now: float,
    *,
    proven: bool,
) -> Past:
    """Cut what is kept to the limits, and tell whether all after a position is in it.

    Args:
        kept: What the stream has, from the position on, or all of the epoch.
        epoch: The epoch.
        after: The position.
        limits: What is kept of it.
        now: The time, by the server's clock.
        proven: Whether nothing after the position has gone from the stream.
    """
    # Of what somebody else wrote there, nothing says an epoch: it counts as nothing.
    messages = [each for each in kept if EPOCH in each.headers]
    position = HistoryPosition(epoch.name, messages[-1].sequence if messages else epoch.begin)
    if proven:
        messages = [each for each in messages if each.sequence > after.offset]
        position = HistoryPosition(epoch.name, max(position.offset, after.offset))
    chosen: list[Stored] = []
    size = 0
    for each in reversed(messages):
        size += len(each.data)
        if len(chosen) == limits.count or size > limits.bytes or each.at + limits.seconds <= now:
            break
        chosen.append(each)
    chosen.reverse()
    entries = tuple(Kept(each.sequence, each.data) for each in chosen)
    return Past(position, entries, complete=proven and len(chosen) == len(messages))
