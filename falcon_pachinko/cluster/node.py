"""One process among others: what it publishes, what it listens to, and what it may have missed.

Sending never waits for the backend. A parcel goes into a queue that one task
empties, in batches; while the backend is away it is counted as not published,
and its channel gets a `Mark` as soon as it is back, before anything else of this
process. Parcels are numbered, and each names the one before it on its channel: so
whoever missed one finds out with the next, or with the mark.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import NamedTuple

from falcon_pachinko.backends.base import (
    Backend,
    Event,
    HistoryPosition,
    Lost,
    Received,
    StateChanged,
)
from falcon_pachinko.cluster.parcels import (
    ALL,
    NODE_BYTES,
    Hello,
    Mark,
    Parcel,
    decode,
    encode,
    header,
)
from falcon_pachinko.messages.codec import CODECS

__all__ = ["Cluster", "Gap"]

log = logging.getLogger("falcon_pachinko.cluster")

QUEUE_BYTES = 16 * 1_048_576
"""How many bytes may wait to be published; what exceeds that is counted as not published."""

BATCH = 512
"""How many parcels are given to the backend at once."""

MOST_CHANNELS = 100_000
"""How many channels a publisher remembers its last parcel of; of more, it forgets the oldest."""

PATIENCE = 64
"""How many events a process takes before it lets other tasks run."""

_SETTLE = 5.0  # seconds; a backend is bounded by itself, this is for one that is not
_PAUSE = 0.2  # seconds between what failed and the next try


class Gap(NamedTuple):
    """Some messages of other processes may be missing here; a hook gets it, see `on_gap`."""

    channel: str | None
    """Where: ``room:tea``, ``user:bob``, ``all``; None where nobody knows, which is anywhere."""
    node: str | None
    """Whose messages; None for anybody's."""
    why: str
    """A sentence for the log."""


class _Waiting(NamedTuple):
    """A parcel in the queue."""

    channel: str
    data: bytes
    seq: int
    is_mark: bool = False


class Cluster:
    """This process, as one node of several; the manager has one, with any backend.

    Args:
        backend: What carries bytes.
        deliver: Awaited with a node, a parcel from it, the channel it came by and its
            position, if it was kept; those that were come from this node itself, too.
        gap: Awaited with each gap.
        back: Called when the backend is up, for the first time or again, and when it may
            have forgotten what this process told it.
    """

    def __init__(
        self,
        backend: Backend,
        deliver: Callable[[str, Parcel, str, HistoryPosition | None], Awaitable[None]],
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
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted: set[str] = set()
        self._seq = 0
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Know nothing of others: what a process that starts, or starts again, begins with."""
        self._head = header(self.node or "0" * NODE_BYTES)
        # Publishing.
        self._last: dict[str, int] = {}  # the last parcel on each channel, for the next to name
        self._queue: deque[_Waiting] = deque()
        self._queue_bytes = 0
        self._holes: dict[str, int] = {}  # by channel, the last parcel that did not get that far
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        # Listening.
        self._heard: dict[str, dict[str, int]] = {}  # by channel and node, the last parcel
        self._nodes: set[str] = set()  # of which something was heard
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
        self._begin_anew()
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
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)  # nobody is to wait for what will not come
        try:
            await self.backend.stop()
        except Exception:
            log.exception("backend %s did not stop as it should", self.backend.name)
        self._wanted -= {ALL, f"node:{self.node}"}
        self._begin_anew()

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
        try:
            channel.encode()
            data = self._number(channel, parcel)
        except UnicodeEncodeError:
            return False  # a name without a UTF-8 form: nobody has it
        if self.backend.state != "up" or self._queue_bytes + len(data) > QUEUE_BYTES:
            self.unpublished += 1
            self._keep_hole(channel, parcel.seq)
            return False
        if channel in self._holes:
            self._put_mark(channel, self._holes.pop(channel))
        self._put(_Waiting(channel, data, parcel.seq))
        return True

    def _number(self, channel: str, parcel: Parcel) -> bytes:
        """Give a parcel its number, and write it; from then on its loss would be noticed."""
        parcel.prev, parcel.seq = self._last.get(channel, 0), self._seq + 1
        data = encode(self._head, parcel)
        self._note_last(channel, parcel.seq)
        return data

    def _note_last(self, channel: str, seq: int) -> None:
        self._last.pop(channel, None)
        self._seq = self._last[channel] = seq
        if len(self._last) > MOST_CHANNELS:
            del self._last[next(iter(self._last))]  # that was used longest ago

    def number_alone(self, parcel: Parcel) -> bytes:
        """Give a parcel a number outside of the chain, and write it: a history has an own order."""
        self._seq = parcel.seq = self._seq + 1
        return encode(self._head, parcel)

    def note_hole(self, channel: str) -> None:
        """Note that others may miss something on a channel: a mark tells them, when it can."""
        if not self.alone:
            self._note_last(channel, self._seq + 1)
            self._keep_hole(channel, self._seq)
            self._work.set()

    def _keep_hole(self, channel: str, seq: int) -> None:
        if channel not in self._holes and len(self._holes) >= MOST_CHANNELS:
            channel = ALL  # which tells those who listen to any
            self._note_last(channel, self._seq)
        self._holes[channel] = max(seq, self._holes.get(channel, 0))  # the last one counts

    def _put(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._queue_bytes += len(waiting.data)
        self._idle.clear()
        self._work.set()

    def _put_mark(self, channel: str, seq: int) -> None:
        self._put(_Waiting(channel, encode(self._head, Mark(seq, 0)), seq, is_mark=True))

    async def _publish(self) -> None:
        """Empty the queue, as long as the process lives."""
        failing = False
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._flush()
            except Exception as error:  # noqa: BLE001  # whatever a backend raises, the next may go
                log.log(logging.DEBUG if failing else logging.WARNING, "not published: %s", error)
                failing = True
                await asyncio.sleep(_PAUSE)
                self._work.set()
            else:
                failing = False
                self._idle.set()

    async def _flush(self) -> None:
        if self.backend.state != "up":
            waiting, self._queue, self._queue_bytes = self._queue, deque(), 0
            for channel, seq in self._lost(waiting).items():
                self._keep_hole(channel, seq)
            return
        holes, self._holes = self._holes, {}
        for channel, seq in holes.items():
            self._put_mark(channel, seq)
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._queue_bytes -= sum(len(each.data) for each in batch)
            try:
                await self.backend.publish([(each.channel, each.data) for each in batch])
            except BaseException:
                waiting, self._queue = self._queue, deque()
                for channel, seq in self._lost(batch).items():
                    self._put_mark(channel, seq)  # before what comes later on these channels
                self._queue += waiting
                raise

    def _lost(self, waiting: Iterable[_Waiting]) -> dict[str, int]:
        """Count what may not have been published; return the last of it on each channel."""
        lost = {}
        for each in waiting:
            self.unpublished += not each.is_mark
            lost[each.channel] = each.seq
        return lost

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
                log.exception(
                    "backend %s failed to subscribe; it is tried again", self.backend.name
                )
                self._changed = changed | self._changed
                await asyncio.sleep(_PAUSE)
                self._members.set()
            finally:
                if self._settling is not None and not self._settling.done():
                    self._settling.set_result(None)
                self._settling = None

    async def _adjust(self, changed: Iterable[str]) -> None:
        more = [each for each in changed if each in self._wanted and each not in self._live]
        fewer = [each for each in changed if each in self._live and each not in self._wanted]
        if more:
            self._live.update(more)
            try:
                await self.backend.subscribe(more)
            except BaseException:
                self._live.difference_update(more)
                raise
        if fewer:
            await self.backend.unsubscribe(fewer)
            self._live.difference_update(fewer)
            for channel in fewer:
                self._heard.pop(channel, None)

    async def _listen(self) -> None:
        """Take what the backend reports, as long as the process lives."""
        while True:
            try:
                await self._take_all()
            except Exception:
                log.exception("backend %s failed to report; it is asked again", self.backend.name)
                await self._try(Lost("the backend failed to report what came"))
                await asyncio.sleep(_PAUSE)
            else:
                return

    async def _take_all(self) -> None:
        taken = 0
        async for event in self.backend.events():
            await self._try(event)
            taken += 1
            if not taken % PATIENCE:
                await asyncio.sleep(0)

    async def _try(self, event: Event) -> None:
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
                self._begin_to_speak()
                await self._report(Gap(None, None, why))
            case StateChanged(state, why):
                level = logging.INFO if state == "up" else logging.WARNING
                log.log(level, "backend %s is %s: %s", self.backend.name, state, why)
                if state == "up":
                    self._begin_to_speak()

    def _begin_to_speak(self) -> None:
        """Tell the backend and the others what they may have missed, or never heard."""
        self._greet(reply=True)
        self._work.set()
        self._back()

    async def _receive(self, event: Received) -> None:
        channel, data, position = event
        if data.startswith(self._head) and position is None:
            return  # an echo of our own
        opened = decode(data)
        if opened is None:
            self.reject(f"bytes on {channel[:200]!r} are no parcel")
            return
        node, parcel = opened
        if position is None and channel in self._live:
            await self._check(channel, node, parcel)
        if isinstance(parcel, Hello):
            self.subprotocols.update(each for each in parcel.subprotocols if each in CODECS)
            if parcel.reply:
                self._greet(reply=False)
        elif not isinstance(parcel, Mark):
            await self._deliver(node, parcel, channel, position)

    def reject(self, why: str) -> None:
        """Count what came from elsewhere and cannot be delivered; the log has the first."""
        self.rejected += 1
        if self.rejected == 1:
            log.warning("%s; such are counted, and dropped", why)

    async def _check(self, channel: str, node: str, parcel: Parcel) -> None:
        """Note a parcel's number; report a gap if another one should have come before it."""
        heard = self._heard.get(channel)
        if heard is None:
            heard = self._heard[channel] = {}
        self._nodes.add(node)
        last = heard.get(node)
        if isinstance(parcel, Mark):
            if last is not None and last >= parcel.seq:
                return  # what may have been lost has arrived
            missed = True
        else:
            missed = last is not None and parcel.prev not in {0, last}
        heard[node] = parcel.seq
        if missed:
            if channel == ALL:
                self._greet(reply=True)  # it may have been a greeting
            await self._report(Gap(channel, node, "another process could not publish, or was cut"))

    def forget_dead(self, alive: Collection[str]) -> None:
        """Forget the numbers of processes that are not alive any more."""
        dead = self._nodes.difference(alive)
        if dead:
            self._nodes -= dead
            for heard in self._heard.values():
                for node in dead.intersection(heard):
                    del heard[node]

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
