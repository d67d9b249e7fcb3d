"""What arrives from other processes: opened, checked for gaps, and handed on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from falcon_pachinko.backends.base import (
    Backend,
    Event,
    Explained,
    HistoryPosition,
    Lost,
    Received,
    StateChanged,
)
from falcon_pachinko.clock import monotonic
from falcon_pachinko.cluster.parcels import (
    Broadcast,
    Hello,
    Mark,
    Parcel,
    PresenceDiff,
    decode,
)

__all__ = ["Gap", "GapGate", "GapLog", "Listening"]

log = logging.getLogger("falcon_pachinko.cluster")

EVENTS_PER_TURN = 64
"""How many events are taken before other tasks run."""

GAP_LOG_SECONDS = 10.0
"""Seconds for which a gap on a channel is logged once."""

GAP_LOG_CHANNELS = 16
"""How many channels are named in the log within that time; the gaps of more are counted."""

GAP_SECONDS = 1.0
"""For how long after a gap on a channel further ones there are held back; see `GapGate`."""

MOST_GAP_SECONDS = 10.0
"""How long that becomes while gaps go on."""

RETRY_AFTER = 0.2
"""Seconds between a failure of the backend and the next try."""


class Gap(NamedTuple):
    """Some messages of other processes may be missing here; a hook gets it, see `on_gap`."""

    channel: str | None
    """Where: ``room:tea``, ``user:bob``, ``all``; None if that is not known: anywhere."""
    node: str | None
    """The process whose messages are missing; None if that is not known: any."""
    why: str
    """A sentence for the log."""
    unkept: bool = False
    """Whether a message is missing that the room's history does not have either."""


class GapLog:
    """Logs gaps: once per channel and period, however many come.

    Args:
        clock: What tells the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._until = float("-inf")  # the end of this period
        self._named: set[str | None] = set()  # the channels that were logged in it
        self._more = 0  # gaps that were not

    def note(self, gap: Gap) -> None:
        """Log a gap, or count it."""
        now = self._clock()
        if now >= self._until:
            if self._more:
                log.warning("%d more gaps since the last warning", self._more)
            self._until, self._more = now + GAP_LOG_SECONDS, 0
            self._named.clear()
        if gap.channel in self._named or len(self._named) >= GAP_LOG_CHANNELS:
            self._more += 1
            log.debug("messages may be missing on %.200r: %s", gap.channel, gap.why)
            return
        self._named.add(gap.channel)
        where = "any channel" if gap.channel is None else f"{gap.channel!r:.200}"
        log.warning("messages from other processes may be missing on %s: %s", where, gap.why)


@dataclass(slots=True)
class _Held:
    """A channel that a gap was told of a while ago."""

    until: float
    seconds: float
    """How long that is, from when the gap was told."""
    gap: Gap | None = None
    """What came since; one gap stands for all of them."""


class GapGate:
    """Bounds how often a gap is told: anybody who can write to the bus can forge them.

    The first on a channel is told at once. Those of the `GAP_SECONDS` after it are told
    together at their end, so that none is lost; and while they go on, twice as
    long after that, up to `MOST_GAP_SECONDS`.

    Args:
        clock: What tells the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._held: dict[str | None, _Held] = {}
        # The channels whose last gap was told less than its time ago. A gap is either told, or
        # in here until `due` returns it, or its channel is not listened to any more.

    def __bool__(self) -> bool:
        """Whether there is anything that `due` may return, or drop, later."""
        return bool(self._held)

    def admit(self, gap: Gap) -> bool:
        """Tell whether a gap is to be told now; else `due` returns it in its time."""
        held = self._held.get(gap.channel)
        if held is None or (held.gap is None and self._clock() >= held.until):
            self._held[gap.channel] = _Held(self._clock() + GAP_SECONDS, GAP_SECONDS)
            return True
        if held.gap is not None and held.gap.node != gap.node:
            gap = gap._replace(node=None)
        if held.gap is not None and held.gap.unkept:
            gap = gap._replace(unkept=True)
        held.gap = gap
        return False

    def due(self) -> list[Gap]:
        """Return the gaps whose time has come, each once."""
        now = self._clock()
        gaps = []
        for channel, held in list(self._held.items()):
            if now < held.until:
                continue
            if held.gap is None:
                del self._held[channel]
                continue
            gaps.append(held.gap)
            seconds = min(2 * held.seconds, MOST_GAP_SECONDS)
            self._held[channel] = _Held(now + seconds, seconds)
        return gaps

    def forget(self, channel: str) -> None:
        """Forget a channel that is not listened to any more."""
        self._held.pop(channel, None)


class Listening:
    """The way in to one process.

    Args:
        backend: What reports events.
        subscribed: Tells whether a channel is listened to.
        deliver: Awaited with a node, a parcel from it, the channel it came by and its
            position, if it was kept; those that were kept come from this process, too.
        hello: Called with another process, and what it says of itself.
        gap: Awaited with gaps, of each channel as often as `GapGate` allows.
        held_back: Awaited at once with a gap that is told later.
        changed: Called with each change of the backend's state.
        lost: Called when the backend may have forgotten what this process told it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        subscribed: Callable[[str], bool],
        deliver: Callable[[str, Parcel, str, HistoryPosition | None], Awaitable[None]],
        hello: Callable[[str, Hello], None],
        gap: Callable[[Gap], Awaitable[None]],
        held_back: Callable[[Gap], Awaitable[None]],
        changed: Callable[[StateChanged | Explained], None],
        lost: Callable[[], None],
    ) -> None:
        self._backend, self._subscribed = backend, subscribed
        self._deliver, self._hello, self._gap = deliver, hello, gap
        self._held_back = held_back
        self._changed, self._lost = changed, lost
        self.gaps = 0
        """How often messages of other processes may have been missed."""
        self.rejected = 0
        """How much arrived that could not be delivered."""
        self._gap_log = GapLog()
        self.reset(b"")

    def reset(self, head: bytes) -> None:
        """Be a process whose parcels begin with ``head``, and which has heard nothing yet."""
        self._head = head
        self._gate = GapGate()
        self._some_held = asyncio.Event()  # set while there is something in the gate
        self._heard: dict[str, dict[str, int]] = {}
        # By channel and process, the last number; only of channels that are listened to.
        self._nodes: set[str] = set()  # the processes in there, or that were

    async def run(self) -> None:
        """Take what the backend reports, until its events end."""
        while True:
            try:
                count = 0
                async for event in self._backend.events():
                    await self._take(event)
                    count += 1
                    if not count % EVENTS_PER_TURN:
                        await asyncio.sleep(0)
            except Exception:
                log.exception("backend %s failed to report events; retrying", self._backend.name)
                await self._take(Lost("the backend failed to report events"))
                await asyncio.sleep(RETRY_AFTER)
            else:
                return

    async def tell_late(self) -> None:
        """Tell the gaps that were held back, each in its time, until it is cancelled."""
        while True:
            await self._some_held.wait()
            while self._gate:
                await asyncio.sleep(GAP_SECONDS)
                for gap in self._gate.due():
                    try:
                        await self._gap(gap)
                    except Exception:
                        log.exception("failed to handle a gap on %.200r", gap.channel)
            self._some_held.clear()

    async def _take(self, event: Event) -> None:
        """Handle one event; whatever it raises is logged, and the next one comes."""
        try:
            match event:
                case Received():
                    await self._receive(event)
                case Lost(why):
                    self._heard.clear()
                    self._lost()
                    await self._report(Gap(None, None, why))
                case StateChanged() | Explained():
                    self._changed(event)
        except Exception:
            self.rejected += 1
            log.exception("failed to deliver a message from another process")

    async def _receive(self, event: Received) -> None:
        channel, data, position = event
        if position is None and data.startswith(self._head):
            return  # an echo of our own
        opened = decode(data)
        if opened is None:
            self.reject(f"dropped an undecodable message on {channel!r:.200}")
            return
        node, parcel = opened
        if position is None and parcel.seq and self._subscribed(channel):
            late = await self._check(channel, node, parcel)
            if late and isinstance(parcel, Broadcast | PresenceDiff):
                return
        if isinstance(parcel, Hello):
            self._hello(node, parcel)
        elif not isinstance(parcel, Mark):
            await self._deliver(node, parcel, channel, position)

    def reject(self, why: str) -> None:
        """Count a message that cannot be delivered; the log has the first one."""
        self.rejected += 1
        if self.rejected == 1:
            log.warning("%s; further ones are only counted", why)

    async def _check(self, channel: str, node: str, parcel: Parcel) -> bool:
        """Note a parcel's number; report a gap if another one should have come before it.

        Returns:
            Whether a later one of its process has come already: a server that stood still, or
            a link that was given up, has let it through after all. To deliver it would break
            the order of its sender; that it is missing is told.
        """
        heard = self._heard.get(channel)
        if heard is None:
            heard = self._heard[channel] = {}
        self._nodes.add(node)
        last = heard.get(node)
        if isinstance(parcel, Mark):
            if last is not None and last >= parcel.seq:
                return False  # what may have been lost has arrived
            # One with a number before it only tells what was the last: who has heard nothing
            # before may have come since.
            missed = last is not None or not parcel.prev
        elif last is not None and parcel.seq <= last:
            await self._report(Gap(channel, node, "a message of another process came too late"))
            return True
        else:
            missed = last is not None and parcel.prev not in {0, last}
        heard[node] = parcel.seq
        if missed:
            why = "another process lost its connection, or could not publish"
            await self._report(Gap(channel, node, why, isinstance(parcel, Mark) and parcel.unkept))
        return False

    async def _report(self, gap: Gap) -> None:
        self.gaps += 1
        self._gap_log.note(gap)
        if gap.channel is None:  # the backend's own word, which nobody else can forge
            await self._gap(gap)
            return
        admitted = self._gate.admit(gap)
        self._some_held.set()
        if admitted:
            await self._gap(gap)
        else:
            await self._held_back(gap)

    def forget(self, channel: str) -> None:
        """Forget the numbers of a channel that is not listened to any more."""
        self._heard.pop(channel, None)
        self._gate.forget(channel)

    def forget_dead(self, alive: Collection[str]) -> None:
        """Forget the numbers of processes that are not alive any more."""
        dead = self._nodes.difference(alive)
        if dead:
            self._nodes -= dead
            for heard in self._heard.values():
                for node in dead.intersection(heard):
                    del heard[node]
