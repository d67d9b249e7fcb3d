"""This process among others: its name, what it sends to them and what it hears of them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from falcon_pachinko.backends.base import Backend, Explained, HistoryPosition, StateChanged
from falcon_pachinko.backends.supervision import in_time
from falcon_pachinko.clock import token_hex
from falcon_pachinko.cluster.listening import Gap, Listening
from falcon_pachinko.cluster.parcels import ALL, NODE_BYTES, Hello, Parcel
from falcon_pachinko.cluster.publishing import Publishing
from falcon_pachinko.cluster.questions import Questions
from falcon_pachinko.cluster.subscriptions import Subscriptions
from falcon_pachinko.messages.codec import CODECS

__all__ = ["LEASE", "Gap", "Node"]

log = logging.getLogger("falcon_pachinko.cluster")

STATE_SECONDS = 0.05
"""Seconds within which a connection that has failed a call is known to be cut."""

LEASE = 2 / 3
"""For which part of ``Backend.ttl`` a sign of life counts, so that the others notice in time."""


class Node:
    """This process, as one of several; the manager has one, with any backend.

    Args:
        backend: What carries bytes.
        deliver: Awaited with a node, a parcel from it, the channel it came by and its
            position, if it was kept; those that were come from this node itself, too.
        gap: Awaited with gaps; of each channel now and then, however many there are.
        back: Called when the backend is up, for the first time or again, and when it may
            have forgotten what this process told it.
        held_back: Awaited at once with a gap that ``gap`` gets a while later.
    """

    def __init__(
        self,
        backend: Backend,
        deliver: Callable[[str, Parcel, str, HistoryPosition | None], Awaitable[None]],
        gap: Callable[[Gap], Awaitable[None]],
        back: Callable[[], None] = lambda: None,
        held_back: Callable[[Gap], Awaitable[None]] | None = None,
    ) -> None:
        self.backend = backend
        self.name = ""
        """This process's name: `NODE_BYTES` hexadecimal digits, other ones at each start."""
        self.subprotocols: set[str] = set()
        """The codecs that clients of other processes speak, besides JSON."""
        self.own_subprotocols: set[str] = set()
        """The codecs that clients of this process speak, or spoke, besides JSON."""
        self.configured: Callable[[], None] = lambda: None
        """Called when another process has stored that rooms are configured otherwise."""
        self.subscriptions = Subscriptions(backend, self._channel_ended)
        """Which channels arrive here."""
        self.not_stored = 0
        """How many messages to rooms with a history were not kept."""
        self.outages = 0
        """How often the backend was away."""
        self._away_since: float | None = None  # None while it is not
        self._changed = asyncio.Event()  # set, and replaced, when its state changes
        self._gap, self._back = gap, back
        self._publishing = Publishing(backend, self.subscriptions.__contains__)
        self._listening = Listening(
            backend,
            subscribed=self.subscriptions.knows,
            deliver=deliver,
            hello=self._greeted,
            gap=self._missed,
            held_back=held_back or _ignore,
            changed=self._backend_changed,
            lost=self._forgotten,
        )
        self.questions = Questions(
            backend, self.publish, self.publish_apart, self._listening.reject
        )
        """What this process asks the others, and answers them."""
        self._listens = False  # whether what answers a greeting arrives: before, there is none
        self._started = False  # True from before the tasks run until before they end
        self._tasks: list[asyncio.Task[None]] = []  # the way in, the way out, what is told late
        self._start_missed = False  # whether the log knows, or need not, that start() is missing

    @property
    def alone(self) -> bool:
        """Whether messages reach this process only: no shared backend, or not started."""
        return not self._started

    @property
    def gaps(self) -> int:
        """How often messages of other processes may have been missed."""
        return self._listening.gaps

    @property
    def rejected(self) -> int:
        """How many messages of other processes could not be delivered."""
        return self._listening.rejected

    @property
    def unpublished(self) -> int:
        """How many messages other processes did not get."""
        return self._publishing.unpublished

    def status(self) -> dict[str, Any] | None:
        """Return how the backend is, and what did not get to other processes because of it."""
        backend = self.backend
        if not backend.shared:
            return None
        since = backend.since.isoformat(timespec="seconds") if backend.since is not None else None
        return {
            "state": backend.state,
            "why": backend.why,
            "since": since,
            "gaps": self.gaps,
            "failed_calls": backend.failed_calls,
            "not_stored": self.not_stored,
            "unpublished": self.unpublished,
        }

    async def start(self) -> None:
        """Take a name, connect, and begin to listen; once more changes nothing.

        Raises:
            BackendError: The backend is required, and cannot be reached.
        """
        if self._started or not self.backend.shared:
            return
        self._start_missed = True  # a broadcast after the end is no mistake
        self.name = token_hex(NODE_BYTES // 2)
        await self.backend.start(self.name)
        self._publishing.reset(self.name)
        self._listening.reset(self._publishing.head)
        self._listens, self._away_since = False, None
        for channel in (ALL, f"node:{self.name}"):
            self.subscriptions.add(channel)
        self.subscriptions.start()
        self._started = True
        loop = asyncio.get_running_loop()
        jobs = (
            self._listening.run(),
            self._publishing.run(),
            self._listening.tell_late(),
            self._publishing.mark_quiet(),
        )
        self._tasks = [loop.create_task(job) for job in jobs]
        await self.subscriptions.all_live()
        self._listens = True
        self.questions.begin(self.name)
        if self.backend.state == "up":
            self._greet()
            # Whoever asks all processes from now on counts this one. What fails is tried again,
            # and logged, by what gives the further signs of life.
            with contextlib.suppress(Exception):
                await in_time(self.give_sign_of_life(), self.backend.timeout)

    async def give_sign_of_life(self) -> Collection[str]:
        """Renew this process's lease; return the processes that have one, this one included.

        Raises:
            BackendError: The backend is away.
        """
        alive = {*await self.backend.beat(self.backend.ttl * LEASE), self.name}
        self.questions.saw(alive)
        return alive

    async def stop(self) -> None:
        """Publish what waits, and leave; once more changes nothing."""
        if not self._started:
            return
        self.questions.end()
        await self._publishing.finish()
        self._started = False
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for channel in (ALL, f"node:{self.name}"):
            self.subscriptions.remove(channel)
        await self.subscriptions.stop()
        try:
            await self.backend.stop()
        except Exception:
            log.exception("backend %s failed to stop", self.backend.name)
        self._publishing.reset(self.name)
        self._listening.reset(self._publishing.head)

    # Sending.

    def reaches_others(self) -> bool:
        """Whether what is sent now can go to other processes.

        Warns, once, of a shared backend that was never started: without that, each
        process would be alone and nothing would say so.
        """
        if self._started:
            return True
        if self.backend.shared and not self._start_missed:
            self._start_missed = True
            log.warning(
                "backend %s is configured but was never started, so messages reach this process "
                "only. The app's lifespan starts it: run the server with lifespan on (uvicorn: "
                "--lifespan on). For an app that is mounted in another one, or a manager of your "
                "own, await manager.start() at startup and manager.stop() at shutdown",
                self.backend.name,
            )
        return False

    def publish(self, channel: str, parcel: Parcel) -> bool:
        """Send a parcel to the other processes, soon; never waits.

        Returns:
            Whether it is on its way; False if there is no other process to send to, the
            backend is away, or too much waits already.
        """
        return self._started and self._publishing.publish(channel, parcel)

    def publish_apart(self, channel: str, parcel: Parcel) -> bool:
        """Send a parcel whose loss is no gap; see `Publishing.publish_apart`."""
        return self._started and self._publishing.publish_apart(channel, parcel)

    def number_alone(self, parcel: Parcel) -> bytes:
        """Number and write a parcel that a history keeps, which has an order of its own."""
        return self._publishing.number_alone(parcel)

    def note_hole(self, channel: str, *, unkept: bool = False) -> None:
        """Note that others may miss something on a channel: a mark tells them, when it can.

        Args:
            channel: The channel.
            unkept: Whether it is not in a history, either.
        """
        if self._started:
            self._publishing.note_hole(channel, unkept=unkept)

    def count_unpublished(self) -> None:
        """Count a message that other processes do not get, sent by another way than `publish`."""
        self._publishing.unpublished += 1

    # Listening.

    def reject(self, why: str) -> None:
        """Count a message that arrived and cannot be delivered; the log has the first one."""
        self._listening.reject(why)

    def forget_dead(self, alive: Collection[str]) -> None:
        """Forget what was heard of processes that are not alive any more."""
        self._listening.forget_dead(alive)

    async def _missed(self, gap: Gap) -> None:
        if gap.channel in {ALL, f"node:{self.name}"}:
            self._greet()  # it may have been a greeting, or the answer to one
        await self._gap(gap)

    def _backend_changed(self, event: StateChanged | Explained) -> None:
        name, state = self.backend.name, self.backend.state
        if isinstance(event, Explained):
            if event.why is not None:
                log.warning("backend %s is %s, but: %s", name, state, event.why)
            else:
                log.info("backend %s is %s, and all of it works again", name, state)
                self._back()  # what was refused meanwhile is told again
            return
        level = logging.INFO if event.state == "up" else logging.WARNING
        log.log(level, "backend %s is %s: %s", name, event.state, event.why)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if event.state == "up":
            self._away_since = None
            self.subscriptions.backend_back()
            self._tell_again()
        else:
            self.outages += 1
            if self._away_since is None:
                self._away_since = asyncio.get_running_loop().time()
            self.subscriptions.backend_away()
            self.questions.give_up()

    def _forgotten(self) -> None:
        """Tell the backend again, unless it is about to report that it is back, and why."""
        if self._away_since is None:
            self._tell_again()

    async def comes_back(self, outages: int, *, passing: bool = False) -> bool:
        """Wait, after a call has failed, until it may be tried again; False if that is no use.

        That is where the connection was never cut, so that the server has refused the call,
        and not just for a moment; and where the backend is away for longer than its
        ``timeout``.

        Args:
            outages: How many there had been when the call began.
            passing: Whether what failed may work in a moment.
        """
        loop, backend = asyncio.get_running_loop(), self.backend
        if self.outages == outages and backend.state == "up":
            if self._is_limited_for_long():
                return False
            await self._wait_for_change(STATE_SECONDS)
            if self.outages == outages and backend.state == "up":
                return passing
        while backend.state != "up":
            if self._away_since is None:  # what reports it comes later
                self._away_since = loop.time()
            left = self._away_since + backend.timeout - loop.time()
            if left <= 0 or backend.state == "down" or not await self._wait_for_change(left):
                return False
        return True

    def _is_limited_for_long(self) -> bool:
        """Whether something does not work for longer than its ``timeout``, though it is up."""
        backend = self.backend
        if backend.why is None or backend.since is None:
            return False
        seconds = (dt.datetime.now(dt.UTC) - backend.since).total_seconds()
        return seconds > backend.timeout

    async def _wait_for_change(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _tell_again(self) -> None:
        """Tell the backend and the others what they may have missed, or forgotten."""
        self._greet()
        self._publishing.wake()
        self._back()

    def _channel_ended(self, channel: str) -> None:
        self._listening.forget(channel)
        self._publishing.forget(channel)

    # Codecs: which forms of a message some process needs.

    def speaks(self, subprotocol: str) -> None:
        """Note that a client of this process speaks a codec besides JSON; tell the others once."""
        if subprotocol not in self.own_subprotocols:
            self.own_subprotocols.add(subprotocol)
            self.publish(ALL, self._hello())

    def _greeted(self, node: str, hello: Hello) -> None:
        self.subprotocols.update(each for each in hello.subprotocols if each in CODECS)
        if hello.configured:
            self.configured()
        # To who asks alone: were the answers for all, P processes that come back at once would
        # send P * P messages to P processes. And only what is news there.
        if hello.reply and not self.own_subprotocols.issubset(hello.known):
            self.publish(f"node:{node}", self._hello())

    def tell_configured(self) -> None:
        """Tell the others that how rooms are configured is stored, and is news."""
        hello = self._hello()
        hello.configured = True
        self.publish(ALL, hello)

    def _greet(self) -> None:
        """Say what the clients here speak, and ask the others."""
        if self._listens:
            self.publish(ALL, self._hello(reply=True))

    def _hello(self, *, reply: bool = False) -> Hello:
        return Hello(0, 0, tuple(self.own_subprotocols), reply, tuple(self.subprotocols))


async def _ignore(_gap: Gap) -> None:
    """Do nothing about a gap before it is told."""
