"""One process among others: what it publishes, what it listens to, and what it may have missed.

Sending never waits for the backend. A parcel goes into a queue that one task
empties, in batches; while the backend is away it is counted as not published,
and its channel gets a `Mark` as soon as it is back. Parcels are numbered, and
each names the one before it on its channel: so whoever missed one finds out with
the next.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from falcon_pachinko.backends.base import (
    Backend,
    Event,
    Lost,
    Position,
    Received,
    StateChanged,
)
from falcon_pachinko.errors import BackendError
from falcon_pachinko.parcels import (
    ALL,
    NODE_BYTES,
    Hello,
    Mark,
    Parcel,
    decode,
    encode,
    header,
)

__all__ = ["Cluster", "Gap"]

log = logging.getLogger("falcon_pachinko.cluster")

QUEUE_BYTES = 16 * 1_048_576
"""How many bytes may wait to be published; what exceeds that is counted as not published."""

BATCH = 512
"""How many parcels are given to the backend at once."""

MOST_CHANNELS = 100_000
"""How many channels a publisher remembers its last parcel of; of more, it forgets the oldest."""

_SETTLE = 5.0  # seconds; a backend is bounded by itself, this is for one that is not
_PAUSE = 0.2  # seconds between a publish that failed and the next


class Gap(NamedTuple):
    """Some messages of other processes may be missing here; a hook gets it, see `on_gap`."""

    channel: str | None
    """Where: ``room:tea``, ``user:bob``, ``all``; None where nobody knows, which is anywhere."""
    node: str | None
    """Whose messages; None for anybody's."""
    why: str
    """A sentence for the log."""


class Cluster:
    """This process, as one node of several; the manager has one, with any backend.

    Args:
        backend: What carries bytes.
        deliver: Awaited with a node, a parcel from it, the channel it came by and its
            position, if it was kept; those that were come from this node itself, too.
        gap: Awaited with each gap.
        back: Called when the backend is up, for the first time or again.
    """

    def __init__(
        self,
        backend: Backend,
        deliver: Callable[[str, Parcel, str, Position | None], Awaitable[None]],
        gap: Callable[[Gap], Awaitable[None]],
        back: Callable[[], None] = lambda: None,
    ) -> None:
        self.backend = backend
        self.node = ""
        """This process's name, of `NODE_BYTES` hexadecimal digits; a new one at each start."""
        self.gaps = 0
        self.rejected = 0
        self.unpublished = 0
        self.subprotocols: set[str] = set()
        """The codecs that clients of other processes speak, besides JSON."""
        self.own_subprotocols: set[str] = set()
        self._deliver, self._gap, self._back = deliver, gap, back
        self._head = header("0" * NODE_BYTES)
        self._tasks: list[asyncio.Task[None]] = []
        # Publishing.
        self._seq = 0
        self._last: dict[str, int] = {}  # the last parcel on each channel, for the next to name
        self._queue: deque[tuple[str, bytes]] = deque()
        self._queue_bytes = 0
        self._holes: set[str] = set()  # channels on which parcels were lost
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        # Listening.
        self._heard: dict[str, dict[str, int]] = {}  # by channel and node, the last parcel
        self._wanted: set[str] = set()
        self._changed: dict[str, None] = {}  # channels to subscribe to, or no longer
        self._live: set[str] = set()
        self._settled: asyncio.Future[None] | None = None  # for what is in _changed
        self._settling: asyncio.Future[None] | None = None  # for what the backend is told now
        self._members = asyncio.Event()

    @property
    def alone(self) -> bool:
        """Whether there is nobody to publish to: no backend, or none that was started."""
        return not self._tasks

    async def start(self) -> None:
        """Take a name, connect, and begin to listen; once more changes nothing.

        Raises:
            BackendError: The backend is required, and cannot be reached.
        """
        if self._tasks or not self.backend.shared:
            return
        self.node = secrets.token_hex(NODE_BYTES // 2)
        self._head = header(self.node)
        await self.backend.start(self.node)
        loop = asyncio.get_running_loop()
        jobs = (self._listen(), self._publish(), self._subscribe())
        self._tasks = [loop.create_task(job) for job in jobs]
        for channel in (ALL, f"node:{self.node}", *self._wanted):
            self.want(channel)
        await self.settled()

    async def stop(self) -> None:
        """Publish what waits, and leave; once more changes nothing."""
        if not self._tasks:
            return
        await self._wait_for_queue()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self.backend.stop()
        self._wanted.clear()
        self._live.clear()
        self._changed.clear()
        self._heard.clear()
        self._queue.clear()
        self._queue_bytes = 0

    async def _wait_for_queue(self) -> None:
        try:
            async with asyncio.timeout(_SETTLE):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d parcels were not published before the end", len(self._queue))

    # Publishing.

    def publish(self, channel: str, parcel: Parcel) -> bool:
        """Send a parcel to the other processes, soon; never waits.

        Returns:
            Whether it is on its way; False if there is nobody, the backend is away or
            too much waits already.
        """
        if self.alone:
            return False
        data = self.number(channel, parcel)
        if self.backend.state != "up" or self._queue_bytes + len(data) > QUEUE_BYTES:
            self._note_hole(channel)
            return False
        self._queue.append((channel, data))
        self._queue_bytes += len(data)
        self._idle.clear()
        self._work.set()
        return True

    def number(self, channel: str, parcel: Parcel) -> bytes:
        """Give a parcel its number, and write it; from then on its loss would be noticed."""
        last = self._last
        parcel.prev = last.get(channel, 0)
        self._seq = parcel.seq = last[channel] = self._seq + 1
        if len(last) > MOST_CHANNELS:
            del last[next(iter(last))]
        return encode(self._head, parcel)

    def number_alone(self, parcel: Parcel) -> bytes:
        """Give a parcel a number outside of the chain, and write it: a history has an own order."""
        self._seq = parcel.seq = self._seq + 1
        return encode(self._head, parcel)

    def _note_hole(self, channel: str, parcels: int = 1) -> None:
        self.unpublished += parcels
        self._holes.add(channel)

    async def _publish(self) -> None:
        """Empty the queue, as long as the process lives."""
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._flush()
            except BackendError as error:
                log.warning("not published: %s", error)
                await asyncio.sleep(_PAUSE)
                self._work.set()
            else:
                self._idle.set()

    async def _flush(self) -> None:
        if self.backend.state != "up":
            self._abandon(list(self._queue))
            self._queue.clear()
            self._queue_bytes = 0
            return
        holes, self._holes = self._holes, set()
        for channel in holes:
            data = self.number(channel, Mark(0, 0))
            self._queue.append((channel, data))
            self._queue_bytes += len(data)
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._queue_bytes -= sum(len(data) for _, data in batch)
            try:
                await self.backend.publish(batch)
            except BackendError:
                self._abandon(batch)
                raise
            except asyncio.CancelledError:
                self._abandon(batch)
                raise

    def _abandon(self, batch: Iterable[tuple[str, bytes]]) -> None:
        for channel, _ in batch:
            self._note_hole(channel)

    # Listening.

    def want(self, channel: str) -> None:
        """Listen to a channel, from soon on; see `settled`."""
        self._wanted.add(channel)
        self._change(channel)

    def unwant(self, channel: str) -> None:
        """Stop listening to a channel."""
        self._wanted.discard(channel)
        self._change(channel)

    def _change(self, channel: str) -> None:
        if self._tasks:
            if self._settled is None:
                self._settled = asyncio.get_running_loop().create_future()
            self._changed[channel] = None
            self._members.set()

    async def settled(self) -> None:
        """Wait until every channel that is wanted by now is live, or the backend is away."""
        settled = self._settled or self._settling
        if settled is not None:
            await asyncio.wait((settled,), timeout=_SETTLE)

    async def _subscribe(self) -> None:
        """Keep the backend's subscriptions to what is wanted, as long as the process lives."""
        while True:
            await self._members.wait()
            self._members.clear()
            changed, self._changed = self._changed, {}
            self._settling, self._settled = self._settled, None
            try:
                await self._adjust(changed)
            except Exception:
                log.exception("the backend failed to subscribe")
            finally:
                if self._settling is not None and not self._settling.done():
                    self._settling.set_result(None)
                self._settling = None

    async def _adjust(self, changed: Iterable[str]) -> None:
        more = [each for each in changed if each in self._wanted and each not in self._live]
        fewer = [each for each in changed if each in self._live and each not in self._wanted]
        if more:
            self._live.update(more)
            await self.backend.subscribe(more)
        if fewer:
            self._live.difference_update(fewer)
            await self.backend.unsubscribe(fewer)
            for channel in fewer:
                self._heard.pop(channel, None)

    async def _listen(self) -> None:
        """Take what the backend reports, as long as the process lives."""
        async for event in self.backend.events():
            try:
                await self._take(event)
            except Exception:
                self.rejected += 1
                log.exception("a parcel from another process failed")

    async def _take(self, event: Event) -> None:
        match event:
            case Received():
                await self._receive(event)
            case Lost(why):
                self._heard.clear()
                await self._report(Gap(None, None, why))
            case StateChanged(state, why):
                level = logging.INFO if state == "up" else logging.WARNING
                log.log(level, "backend %s is %s: %s", self.backend.name, state, why)
                if state == "up":
                    self._greet(reply=True)
                    self._work.set()
                    self._back()

    async def _receive(self, event: Received) -> None:
        channel, data, position = event
        if data.startswith(self._head) and position is None:
            return  # an echo of our own
        opened = decode(data)
        if opened is None:
            self.rejected += 1
            if self.rejected == 1:
                log.warning("bytes on %.200r are no parcel; such are counted, and dropped", channel)
            return
        node, parcel = opened
        if position is None:
            await self._check(channel, node, parcel)
        if isinstance(parcel, Hello):
            self.subprotocols.update(parcel.subprotocols)
            if parcel.reply:
                self._greet(reply=False)
        elif not isinstance(parcel, Mark):
            await self._deliver(node, parcel, channel, position)

    async def _check(self, channel: str, node: str, parcel: Parcel) -> None:
        """Note a parcel's number; report a gap if another one should have come before it."""
        heard = self._heard.get(channel)
        if heard is None:
            heard = self._heard[channel] = {}
        last = heard.get(node)
        heard[node] = parcel.seq
        missed = parcel.prev and last != parcel.prev
        if missed and (last is not None or isinstance(parcel, Mark)):
            await self._report(Gap(channel, node, "another process could not publish, or was cut"))

    async def _report(self, gap: Gap) -> None:
        self.gaps += 1
        log.warning("messages from other processes may be missing on %s: %s", gap.channel, gap.why)
        await self._gap(gap)

    # Codecs: which forms of a message some process needs.

    def speaks(self, subprotocol: str) -> None:
        """Note that a client of this process speaks a codec besides JSON; tell the others once."""
        if subprotocol not in self.own_subprotocols:
            self.own_subprotocols.add(subprotocol)
            self._greet(reply=False)

    def _greet(self, *, reply: bool) -> None:
        if self.own_subprotocols or reply:
            self.publish(ALL, Hello(0, 0, tuple(self.own_subprotocols), reply))
