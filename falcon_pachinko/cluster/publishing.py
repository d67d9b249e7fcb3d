"""What this process sends to the others: numbered, queued, and marked where some is lost.

Publishing never waits for the backend. A parcel goes into a queue that one task
empties, in batches; while the backend is away it is counted as not published,
and its channel gets a `Mark` as soon as the backend is back, before anything else of
this process. Each parcel has a number and names the one before it on its channel: so
a receiver that missed one finds out with the next, or with the mark.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from falcon_pachinko.backends.base import Backend
from falcon_pachinko.cluster.outage import Outage
from falcon_pachinko.cluster.parcels import (
    ALL,
    NODE_BYTES,
    Broadcast,
    Mark,
    Parcel,
    encode,
    header,
)
from falcon_pachinko.errors import EncodeError

__all__ = ["Publishing"]

log = logging.getLogger("falcon_pachinko.cluster")

QUEUE_BYTES = 16 * 1_048_576
"""How many bytes may wait to be published; what exceeds that is counted as not published."""

PARCELS_PER_CALL = 512
"""How many parcels are given to the backend at once."""

MOST_HOLES = 100_000
"""How many channels may wait for a mark; for more, one mark tells all processes."""

CHANNELS_REMEMBERED = 1024
"""Of how many channels without members here the last number is remembered.

Of one that is forgotten, the next parcel names none before it, so that a receiver cannot
tell whether it missed one; a loss that this process knows of is told by a mark anyway.
"""

STOP_TIMEOUT = 5.0
"""Seconds that the end waits for what is queued."""

RETRY_AFTER = 0.2
"""Seconds between a call that failed and the next try."""

QUIET_AFTER = 10.0
"""After this many seconds without a message, a channel gets a mark, if the backend may lose
messages silently. Long enough for what has lost them to be over, in most cases."""

MOST_ACTIVE = 100_000
"""How many channels may wait for that; of more, those that were used longest ago get it at once."""


class _Queued(NamedTuple):
    channel: str
    data: bytes
    seq: int  # 0: outside of the channel's chain
    is_mark: bool = False
    unkept: bool = False


class _Hole(NamedTuple):
    """Parcels that did not get out."""

    seq: int
    """The number of the last of them."""
    unkept: bool = False
    """Whether one of them is in no history, either."""


class Publishing:
    """The way out of one process.

    Args:
        backend: What carries the bytes.
        has_members: Tells whether a channel has members here, for as long as which its
            last number is remembered.
    """

    def __init__(self, backend: Backend, has_members: Callable[[str], bool]) -> None:
        self._backend, self._has_members = backend, has_members
        self.unpublished = 0
        """How many messages others did not get: the backend was away, or too much waited."""
        self._seq = 0  # the last number given out; grows through every start
        self.reset("")

    def reset(self, name: str) -> None:
        """Be a process of that name (empty: alone), which has published nothing yet."""
        self.head = header(name or "0" * NODE_BYTES)
        """What every parcel of this process begins with."""
        self._last: dict[str, int] = {}
        # The last number on each channel with members here, for the next parcel to name.
        self._last_elsewhere: dict[str, int] = {}
        # The same for channels without, those used last at the end: CHANNELS_REMEMBERED at most.
        self._queue: deque[_Queued] = deque()
        self._queue_bytes = 0  # of what is in the queue
        self._holes: dict[str, _Hole] = {}
        # By channel, the last number that did not get out: a mark is due. MOST_HOLES at most.
        self._work = asyncio.Event()  # there is something to publish, or a mark may be due
        self._idle = asyncio.Event()  # the queue is empty, and the backend has all of it
        self._idle.set()
        self._outage = Outage()
        self._active: dict[str, float] = {}
        # Since when a channel has been quiet, the longest first; it gets a mark in the end, once.
        # Only while the backend may lose messages silently. MOST_ACTIVE at most.
        self._some_active = asyncio.Event()  # set while there is something in there

    def publish(self, channel: str, parcel: Parcel) -> bool:
        """Queue a parcel for a channel; never waits.

        Returns:
            False if it is not on its way: the backend is away, or too much waits already.
            That is counted, and the others are told of the loss.

        Raises:
            EncodeError: It is a broadcast that is too large for the backend, now and later.
        """
        try:
            channel.encode()
        except UnicodeEncodeError:
            return False  # a name without a UTF-8 form: no process can listen to it
        parcel.prev, parcel.seq = self._number(channel)
        data = encode(self.head, parcel)
        if isinstance(parcel, Broadcast):
            try:
                self._backend.check_size(len(data))
            except EncodeError:
                self._take_number_back(channel, parcel.prev)
                raise
        if self._backend.state != "up" or self._queue_bytes + len(data) > QUEUE_BYTES:
            self.unpublished += 1
            self._keep_hole(channel, _Hole(parcel.seq))
            return False
        if channel in self._holes:
            self._queue_mark(channel, self._holes.pop(channel))
        self._put(_Queued(channel, data, parcel.seq))
        if self._backend.loses_silently:
            self._note_active(channel)
        return True

    def publish_apart(self, channel: str, parcel: Parcel) -> bool:
        """Queue a parcel outside of its channel's chain, numbered 0; never waits.

        Its loss is not counted and no gap: for what only its sender misses, and can tell.

        Returns:
            False if it is not on its way.
        """
        data = encode(self.head, parcel)
        if self._backend.state != "up" or self._queue_bytes + len(data) > QUEUE_BYTES:
            return False
        self._put(_Queued(channel, data, 0))
        return True

    def number_alone(self, parcel: Parcel) -> bytes:
        """Give a parcel a number outside of its channel's chain, and write it.

        For a history, which has an order of its own.
        """
        self._seq = parcel.seq = self._seq + 1
        return encode(self.head, parcel)

    def note_hole(self, channel: str, *, unkept: bool = False) -> None:
        """Note that others may miss something on a channel: a mark tells them, when it can."""
        _, seq = self._number(channel)
        self._keep_hole(channel, _Hole(seq, unkept))
        self._work.set()

    def wake(self) -> None:
        """Go on, if there was nothing to do: the backend is back, and marks may be due."""
        self._work.set()

    def forget(self, channel: str) -> None:
        """Note that a channel has no members here any more."""
        last = self._last.pop(channel, None)
        if last is not None:
            self._remember_elsewhere(channel, last)

    def _number(self, channel: str) -> tuple[int, int]:
        """Return the last number on a channel (0 if it is not known) and the next one."""
        self._seq += 1
        before = self._last_elsewhere.pop(channel, 0) or self._last.get(channel, 0)
        if self._has_members(channel):
            self._last[channel] = self._seq
        else:
            self._last.pop(channel, None)
            self._remember_elsewhere(channel, self._seq)
        return before, self._seq

    def _take_number_back(self, channel: str, before: int) -> None:
        """Have the next one on a channel name ``before``: nothing was published with the last."""
        for last in (self._last, self._last_elsewhere):
            if channel in last and before:
                last[channel] = before
            else:
                last.pop(channel, None)

    def _remember_elsewhere(self, channel: str, seq: int) -> None:
        self._last_elsewhere[channel] = seq
        if len(self._last_elsewhere) > CHANNELS_REMEMBERED:
            del self._last_elsewhere[next(iter(self._last_elsewhere))]  # used longest ago

    def _keep_hole(self, channel: str, hole: _Hole) -> None:
        if channel not in self._holes and len(self._holes) >= MOST_HOLES:
            channel = ALL  # whoever listens to anything listens to this
            hole = _Hole(self._number(ALL)[1], hole.unkept)
        before = self._holes.get(channel, hole)
        # The last one counts.
        self._holes[channel] = _Hole(max(before.seq, hole.seq), before.unkept or hole.unkept)

    def _put(self, queued: _Queued) -> None:
        self._queue.append(queued)
        self._queue_bytes += len(queued.data)
        self._idle.clear()
        self._work.set()

    def _queue_mark(self, channel: str, hole: _Hole) -> None:
        data = encode(self.head, Mark(hole.seq, 0, hole.unkept))
        self._put(_Queued(channel, data, hole.seq, is_mark=True, unkept=hole.unkept))

    # Marks where nothing more comes: by them others find out that they lack the last message.

    def _note_active(self, channel: str) -> None:
        self._active.pop(channel, None)
        self._active[channel] = asyncio.get_running_loop().time()
        self._some_active.set()
        if len(self._active) > MOST_ACTIVE:
            self._mark_quiet(next(iter(self._active)))

    def _mark_quiet(self, channel: str) -> None:
        del self._active[channel]
        last = self._last.get(channel) or self._last_elsewhere.get(channel)
        if last is not None and channel not in self._holes:  # else a mark is due anyway
            mark = Mark(last, last)
            self._put(_Queued(channel, encode(self.head, mark), last, is_mark=True))

    async def mark_quiet(self) -> None:
        """Put a mark on each channel that has become quiet, until it is cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._some_active.wait()
            while self._active:
                channel, since = next(iter(self._active.items()))
                left = since + QUIET_AFTER - clock()
                if left > 0:
                    await asyncio.sleep(left)
                else:
                    self._mark_quiet(channel)
            self._some_active.clear()

    # The task that empties the queue.

    async def run(self) -> None:
        """Empty the queue, until it is cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._flush()
            except Exception as error:  # noqa: BLE001  # whatever a backend raises, the next may go
                self._outage.report(log, "could not publish to other processes: %s", error)
                await asyncio.sleep(RETRY_AFTER)
                self._work.set()
            else:
                self._outage.over()
                self._idle.set()

    async def finish(self) -> None:
        """Wait until everything that is queued is published, a few seconds at most."""
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._idle.wait()
        except TimeoutError:
            log.warning("stopped before %d messages were published", len(self._queue))

    async def _flush(self) -> None:
        if self._backend.state != "up":
            waiting, self._queue, self._queue_bytes = self._queue, deque(), 0
            for channel, hole in self._lost(waiting).items():
                self._keep_hole(channel, hole)
            return
        holes, self._holes = self._holes, {}
        for channel, hole in holes.items():
            self._queue_mark(channel, hole)
        while self._queue:
            count = min(PARCELS_PER_CALL, len(self._queue))
            batch = [self._queue.popleft() for _ in range(count)]
            self._queue_bytes -= sum(len(each.data) for each in batch)
            try:
                await self._backend.publish([(each.channel, each.data) for each in batch])
            except BaseException:
                waiting, self._queue = self._queue, deque()
                for channel, hole in self._lost(batch).items():
                    self._queue_mark(channel, hole)  # before what comes later on these channels
                self._queue += waiting
                raise

    def _lost(self, queued: Iterable[_Queued]) -> dict[str, _Hole]:
        """Count what may not have been published; return the last of it on each channel."""
        lost: dict[str, _Hole] = {}
        for each in queued:
            if each.seq:
                self.unpublished += not each.is_mark
                unkept = each.unkept or (each.channel in lost and lost[each.channel].unkept)
                lost[each.channel] = _Hole(each.seq, unkept)
        return lost
