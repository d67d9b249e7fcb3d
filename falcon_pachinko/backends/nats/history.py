"""Channels that remember: a stream for each set of limits, which republishes what it keeps.

Every message says to which epoch it belongs, and its place is its sequence in the
stream. So a position is valid if its very message is still there, in the epoch
that is still on: nothing between it and the newest can be missing, because the
oldest go first. For that the stream keeps a little more than the limits say:
one message, and half the time again.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from falcon_pachinko.backends.base import HistoryPosition, Kept, Past, Received
from falcon_pachinko.backends.nats.names import token
from falcon_pachinko.backends.nats.streams import (
    EXPECTED,
    SEQUENCE,
    Stored,
    Stream,
    Streams,
    WrongSequence,
)
from falcon_pachinko.errors import BackendError
from falcon_pachinko.limits import HistoryLimits

if TYPE_CHECKING:
    from falcon_pachinko.backends.nats.client import NatsMessage

__all__ = ["Histories", "received"]

EPOCH = "Pachinko-Epoch"
BEGIN = "Pachinko-Begin"
"""Marks a message that only gives an empty history a place."""

SHORTEST = 0.1
"""Seconds: the server keeps nothing for a shorter time."""

_TRIES = 20  # each fails only because another one has succeeded
_MOST_KNOWN = 10_000  # channels whose epoch is remembered


class _Epoch(NamedTuple):
    """What an append has to know of a channel."""

    name: str
    forgotten: int  # the place where the history was last forgotten, 0 for never
    used: float  # when, by this machine's monotonic clock


class Histories:
    """The histories of one namespace.

    Args:
        streams: What keeps them.
        namespace: The namespace, as a token.
    """

    def __init__(self, streams: Streams, namespace: str) -> None:
        self._streams, self._namespace = streams, namespace
        self._epochs: dict[tuple[str, str], _Epoch] = {}

    def forget_all_epochs(self) -> None:
        """Ask the server again: it may be another one."""
        self._epochs.clear()

    def _stream(self, limits: HistoryLimits) -> Stream:
        written = f"{limits.count} {limits.bytes} {limits.seconds!r}"
        tag = hashlib.sha256(written.encode()).hexdigest()[:12]
        prefix = f"{self._namespace}.keep.{tag}"
        return Stream(
            f"{self._namespace.replace('/', '=2F')}-history-{tag}",
            (f"{prefix}.>",),
            kept=limits.count + 1,
            seconds=max(limits.seconds * 1.5, SHORTEST),
            republish=(f"{prefix}.*.data", f"{self._namespace}.pub." + "{{wildcard(1)}}"),
        )

    def _subject(self, stream: Stream, channel: str, kind: str) -> str:
        return f"{stream.subjects[0].removesuffix('>')}{token(channel)}.{kind}"

    async def append(
        self, channel: str, data: bytes, limits: HistoryLimits, key: str = ""
    ) -> HistoryPosition:
        """Keep bytes; the server publishes them in the order of their places."""
        stream = self._stream(limits)
        subject = self._subject(stream, channel, "data")
        clock = asyncio.get_running_loop().time
        for _ in range(_TRIES):
            began = clock()
            epoch = self._epochs.get((stream.name, channel))
            condition = {}
            if epoch is None or began - epoch.used > limits.seconds / 2:
                forgotten, kept = await self._look(stream, channel)
                epoch = _Epoch(await self._epoch(stream, kept, limits), forgotten, began)
                if not epoch.name:
                    epoch = epoch._replace(name=_new_epoch())
                    newest = await self._streams.last(stream, subject)
                    condition = {EXPECTED: str(newest.sequence if newest else 0)}
            if not condition:
                marker = self._subject(stream, channel, "forgotten")
                condition = {EXPECTED: str(epoch.forgotten), f"{EXPECTED}-Subject": marker}
            try:
                headers = {EPOCH: epoch.name, **condition}
                if key:
                    headers["Nats-Msg-Id"] = f"{token(channel)}.{token(key)}"
                sequence = await self._streams.put(stream, subject, data, headers)
            except WrongSequence:
                self._epochs.pop((stream.name, channel), None)
                continue
            self._epochs[stream.name, channel] = epoch._replace(used=began)
            if len(self._epochs) > _MOST_KNOWN:
                del self._epochs[next(iter(self._epochs))]
            return HistoryPosition(epoch.name, sequence)
        raise BackendError(self._streams.name, f"too many concurrent writes to {channel!r:.200}")

    async def _look(self, stream: Stream, channel: str) -> tuple[int, list[Stored]]:
        """Return where a history was last forgotten, and what has come since."""
        stored = await self._streams.all(stream, self._subject(stream, channel, "*"))
        marker = self._subject(stream, channel, "forgotten")
        forgotten = max((each.sequence for each in stored if each.subject == marker), default=0)
        return forgotten, [each for each in stored if each.sequence > forgotten]

    async def _epoch(self, stream: Stream, kept: Sequence[Stored], limits: HistoryLimits) -> str:
        """Return the epoch that is on; empty if there is none."""
        # Of what somebody else wrote there, nothing says an epoch: it counts as nothing.
        ours = [each for each in kept if EPOCH in each.headers]
        if not ours or ours[-1].at + limits.seconds <= await self._streams.now(stream):
            return ""
        return ours[-1].headers[EPOCH]

    async def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Past:
        """Return what was kept after a position; begin a history where there is none."""
        stream = self._stream(limits)
        subject = self._subject(stream, channel, "data")
        for _ in range(_TRIES):
            _, kept = await self._look(stream, channel)
            epoch = await self._epoch(stream, kept, limits)
            if epoch:
                now = await self._streams.now(stream)
                current = [each for each in kept if each.headers.get(EPOCH) == epoch]
                return _past(current, epoch, after, limits, now)
            epoch = _new_epoch()
            newest = await self._streams.last(stream, subject)
            headers = {EPOCH: epoch, BEGIN: "1"}
            headers[EXPECTED] = str(newest.sequence if newest else 0)
            try:
                place = await self._streams.put(stream, subject, b"", headers)
            except WrongSequence:
                continue
            return Past(HistoryPosition(epoch, place), (), complete=False)
        raise BackendError(self._streams.name, f"too many concurrent writes to {channel!r:.200}")

    async def forget(self, channel: str) -> None:
        """End a history, whatever its limits are."""
        written = token(channel)
        for name in await self._streams.names(f"{self._namespace}.keep.*.{written}.data"):
            prefix = f"{self._namespace}.keep.{name.rpartition('-')[2]}"
            # From this message on, whatever is before it does not count.
            await self._streams.mark(f"{prefix}.{written}.forgotten")
            self._epochs.pop((name, channel), None)
            await self._streams.purge(name, f"{prefix}.{written}.data")


def _new_epoch() -> str:
    return secrets.token_hex(8)


def _past(
    current: Sequence[Stored], epoch: str, after: HistoryPosition, limits: HistoryLimits, now: float
) -> Past:
    """Cut what is kept to the limits, and tell whether all after a position is in it."""
    messages = [each for each in current if BEGIN not in each.headers]
    chosen: list[Stored] = []
    size = 0
    for each in reversed(messages):
        size += len(each.data)
        if len(chosen) == limits.count or size > limits.bytes or each.at + limits.seconds <= now:
            break
        chosen.append(each)
    chosen.reverse()
    forgotten = max((each.sequence for each in messages[: len(messages) - len(chosen)]), default=0)
    complete = (
        after.epoch == epoch
        and after.offset >= forgotten
        and any(each.sequence == after.offset for each in current)
    )
    entries = tuple(
        Kept(each.sequence, each.data)
        for each in chosen
        if not complete or each.sequence > after.offset
    )
    return Past(HistoryPosition(epoch, current[-1].sequence), entries, complete=complete)


def received(channel: str, message: NatsMessage) -> Received | None:
    """Read what arrived on a channel; None for what only gave an empty history a place."""
    headers = message.headers
    if EPOCH not in headers:
        return Received(channel, message.data)
    if BEGIN in headers:
        return None
    offset = headers.get(SEQUENCE, "")
    if not (offset.isascii() and offset.isdigit() and len(offset) < 20):
        return Received(channel, message.data)
    return Received(channel, message.data, HistoryPosition(headers[EPOCH], int(offset)))
