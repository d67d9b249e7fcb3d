"""Keeping the backend's tables to who is present here, and telling the other processes.

Many rooms are written at once, so that a reconnect with thousands of them takes no
longer than it must; a room with somebody new comes first. While the backend is away
nobody waits: all of it is written when it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any

from falcon_pachinko.clock import uniform
from falcon_pachinko.cluster.node import Node
from falcon_pachinko.cluster.outage import Outage
from falcon_pachinko.cluster.parcels import PresenceDiff
from falcon_pachinko.cluster.presence_ledger import Ledger, Write
from falcon_pachinko.errors import BackendError

__all__ = ["WRITES_AT_ONCE", "Tables"]

log = logging.getLogger("falcon_pachinko.presence")

WRITES_AT_ONCE = 32
"""How many rooms are written at once: more would only have a newcomer's own write wait longer."""

WRITE_AGAIN_AFTER = (0.5, 1.5)
"""Seconds until what could not be written is tried again; at random, apart from each other."""


class Tables:
    """Writes what a ledger says; between `start` and `stop`.

    Args:
        node: This process among others.
        ledger: What is to be written.
        spawn: Runs a coroutine in a task of its own, which ends before the presence does.
    """

    def __init__(
        self,
        node: Node,
        ledger: Ledger,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._node, self._ledger, self._spawn = node, ledger, spawn
        self._running = False
        self._writers: set[asyncio.Task[None]] = set()
        # At most WRITES_AT_ONCE; each ends when it finds nothing to write.
        self._waiting: dict[tuple[str, str], asyncio.Future[None]] = {}
        # By room and connection, those who wait for its entry to be written; resolved when it
        # is, when the connection has gone, when writing fails, or the backend is away.
        self._again: asyncio.TimerHandle | None = None  # when what failed is tried again
        self._paused = False  # until then, whether only somebody new is a reason to try
        self._sweep_due = False  # whether the server may have tables that are not known here
        self._sweeper: asyncio.Task[None] | None = None  # what looks for them; at most one
        self._outage = Outage()

    def start(self) -> None:
        """Begin to write."""
        self._running = True
        self._ledger.begin()

    def stop(self) -> None:
        """Write no more; the tasks that were spawned are to be cancelled."""
        self._running = False
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self.release_all()

    async def written(self, room: str, connection_id: str) -> None:
        """Wait until an entry is written, or the backend is away, or the connection has gone."""
        if not self._running or self._node.backend.state != "up":
            return
        place = room, connection_id
        if place not in self._waiting:
            self._waiting[place] = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._waiting[place],), timeout=self._node.backend.ttl)

    def release(self, room: str, connection_id: str) -> None:
        """Have nobody wait for an entry any more."""
        future = self._waiting.pop((room, connection_id), None)
        if future is not None and not future.done():
            future.set_result(None)

    def release_all(self) -> None:
        """Have nobody wait."""
        for place in tuple(self._waiting):
            self.release(*place)

    def write_anew(self, rooms: Iterable[str]) -> None:
        """Have what this process has in its rooms replace what the server has of it, anywhere."""
        self._paused = False
        self._ledger.write_anew(rooms)
        self._sweep_due = self._ledger.doubtful
        self.wake()
        self.sweep()

    def sweep(self) -> None:
        """Look for tables in which the server has what is over, if it may have any."""
        up = self._running and self._node.backend.state == "up"
        if up and self._sweep_due and self._sweeper is None:
            self._sweeper = self._spawn(self._sweep())

    def wake(self) -> None:
        """Write what there is to write, unless the backend is away."""
        if not self._running:
            return
        if self._node.backend.state != "up":
            self.release_all()  # all of it is written when the backend is back
            return
        useful = self._ledger.underway + self._ledger.ready(urgent=self._paused)
        while len(self._writers) < min(useful, WRITES_AT_ONCE):
            writer = self._spawn(self._run())
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)

    async def _run(self) -> None:
        """Write one room after the other, until nothing is left to write."""
        ledger, backend = self._ledger, self._node.backend
        while backend.state == "up" and (write := ledger.next(urgent=self._paused)) is not None:
            try:
                await self._write(write)
            except Exception as error:
                ledger.failed(write)
                if isinstance(error, BackendError):
                    self._paused = True  # others would most likely fail, too
                    self._outage.report(
                        log, "could not tell other processes who is present; retrying: %s", error
                    )
                else:
                    log.exception("could not write the presence of %.200r; retrying", write.room)
                self._retry_later()
            else:
                self._outage.over()
            for connection_id in (*write.joins, *write.leaves):
                self.release(write.room, connection_id)
        if backend.state != "up":
            self.release_all()

    async def _write(self, write: Write) -> None:
        backend, (room, joins, leaves, whole) = self._node.backend, write
        if whole:
            await backend.replace(room, joins)
        else:
            if joins:
                await backend.enter(room, joins)
            if leaves:
                await backend.leave(room, leaves)
        self._ledger.wrote(write)
        self._node.publish(f"room:{room}", PresenceDiff(0, 0, joins, leaves, whole))

    def _retry_later(self) -> None:
        if self._again is None:
            loop, seconds = asyncio.get_running_loop(), uniform(*WRITE_AGAIN_AFTER)
            # In a context of its own, so that it keeps no connection on whose behalf it failed.
            self._again = loop.call_later(seconds, self._retry, context=Context())

    def _retry(self) -> None:
        self._again, self._paused = None, False
        self._ledger.retry()
        self.wake()

    async def _sweep(self) -> None:
        """Take out what the server has of this process in rooms where nobody tracks any more."""
        self._sweep_due = False
        try:
            tables = await self._node.backend.tables()
        except Exception as error:
            self._sweep_due = True  # tried again with the next sign of life
            if not isinstance(error, BackendError):  # whose state says it
                log.exception("could not look for presence that is over; retrying")
        else:
            self._ledger.take_out(tables)
            self._ledger.doubtful = self._sweep_due  # there may have been another outage
            self.wake()
        finally:
            self._sweeper = None
