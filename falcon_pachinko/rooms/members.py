"""The connections of this process, from handshake to end, and the rooms that they are in."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from threading import get_ident
from typing import Any

from falcon_pachinko.backends.base import HistoryPosition
from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.connection.ends import CLOSE_WAIT
from falcon_pachinko.errors import (
    ConnectionStateError,
    NoHistoryError,
    UnknownConnectionError,
)
from falcon_pachinko.leases import check_lease
from falcon_pachinko.names import check_name
from falcon_pachinko.rooms.exchange import Exchange

__all__ = ["Members", "check_id"]

log = logging.getLogger("falcon_pachinko")


def check_id(connection_id: object) -> None:
    """Refuse what cannot be a connection's id, such as the connection itself.

    Raises:
        TypeError: It is not a str.
    """
    if not isinstance(connection_id, str):
        raise TypeError(f"a connection id is a str, not {connection_id!r:.200}; give ws.id")


class Members:
    """What happens to a connection as a member: registry, presence and histories agree.

    All of it belongs to one event loop, that of the app; `check_loop` holds it.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._registry, self._presence = exchange.registry, exchange.presence
        self.sessions: set[asyncio.Task[Any]] = set()
        """The sessions that live, until their last clean-up."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that the connections live in."""
        self.thread: int | None = None
        """The thread that runs it: what each message may ask, since it costs next to nothing."""

    def check_loop(self) -> None:
        """Refuse to be called from another event loop than the one that the connections live in.

        Raises:
            RuntimeError: Another loop runs them, or what connects other processes, in another
                thread.
        """
        loop = asyncio.get_running_loop()
        elsewhere = self.loop is not None and self.loop is not loop and self.loop.is_running()
        if elsewhere and (len(self._registry) or not self._exchange.cluster.alone):
            raise RuntimeError(
                "this manager belongs to the event loop of its app, which runs in another thread; "
                "call it there: asyncio.run_coroutine_threadsafe(manager.broadcast(...), loop)"
            )
        self.settle()

    def settle(self) -> None:
        """Note that the connections live in this event loop, from now on."""
        self.loop, self.thread = asyncio.get_running_loop(), get_ident()

    def known(self, connection_id: str) -> Connection:
        """Return a connection by its id.

        Raises:
            TypeError: It is not a str.
            UnknownConnectionError: No connection here has that id.
        """
        connection = self.find(connection_id)
        if connection is None:
            raise UnknownConnectionError(connection_id)
        return connection

    def find(self, connection_id: str) -> Connection | None:
        """Return a connection by its id, if it is here.

        Raises:
            TypeError: It is not a str, such as the connection itself.
        """
        check_id(connection_id)
        return self._registry.connections.get(connection_id)

    def begin(self, connection: Connection, session: asyncio.Task[Any]) -> None:
        """Know a connection whose handshake begins, and its session."""
        self.check_loop()
        self.sessions.add(session)
        self._registry.add(connection)
        self._exchange.revocations.begin(connection)

    def forget(self, connection: Connection) -> None:
        """Take a connection from everything, as one that has ended."""
        if self._registry.connections.get(connection.id) is not connection:
            return
        try:
            if not connection._outbox.accepted:  # never here, so it does not stay a while either
                for room in connection._rooms:
                    self._presence.untrack(connection, room)
            self._presence.gone(connection)
        except Exception:
            log.exception(
                "presence failed to forget %r", connection, extra=connection._outbox.where()
            )
        self._registry.forget(connection)  # whatever fails there: nobody sends to it any more

    async def join(
        self, connection: Connection, room: str, since: HistoryPosition | None = None
    ) -> None:
        """Put a connection into a room; see the manager's ``join_room``."""
        self.check_loop()
        if since is None:
            self._registry.join(connection, room)
            await self._exchange.live("room", room)
            return
        check_name(room, "room name")
        if not isinstance(since, HistoryPosition):
            raise TypeError(f"since={since!r:.200}: give HistoryPosition(epoch, offset), or None")
        try:
            await self._exchange.history.join(
                connection, room, since, lambda: self._registry.join(connection, room)
            )
        except (NoHistoryError, ConnectionStateError):
            raise
        except BaseException:
            self.leave(connection, room)  # it lacks what it was not sent
            raise

    def leave(self, connection: Connection, room: str) -> None:
        """Take a connection from a room."""
        self.check_loop()
        self._presence.untrack(connection, room)
        self._registry.leave(connection, room)

    async def track(
        self, connection: Connection, room: str, meta: Mapping[str, Any] | None
    ) -> None:
        """Make a connection present in a room, which it joins."""
        check_lease()
        self.check_loop()
        self._registry.join(connection, room)
        await self._presence.track(connection, room, {} if meta is None else meta)

    async def all_over(self, seconds: float | None) -> None:
        """Wait until all sessions have ended, and what a shutdown waits for besides them.

        What takes longer than so many seconds is cancelled, and logged.
        """
        loop = asyncio.get_running_loop()
        deadline = math.inf if seconds is None else loop.time() + seconds
        me = asyncio.current_task()
        while left := {*self.sessions, *self._exchange.endings} - {me}:
            if loop.time() >= deadline:
                log.error(
                    "cancelled %d clean-ups that took over %s s (shutdown_timeout)",
                    len(left), seconds,
                )  # fmt: skip
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=CLOSE_WAIT)
                return
            wait = None if seconds is None else deadline - loop.time()
            await asyncio.wait(left, timeout=wait)
