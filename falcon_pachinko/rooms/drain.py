"""How a server sends its clients away: some at a time, and none in the middle of its work."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import NamedTuple

from falcon_pachinko.connection.connection import Connection

__all__ = ["BATCH_PAUSE", "CONNECTIONS_PER_BATCH", "Drained", "drain", "fit_batch", "retry_reason"]

CONNECTIONS_PER_BATCH = 50
"""How many connections are closed together, where there is time for that."""

BATCH_PAUSE = 0.1
"""Seconds between two batches."""

_RESTART = 1012  # RFC 6455's registry: the server restarts, come back
_FIRST_RETRY, _LAST_RETRY, _BETWEEN_RETRIES = 1.0, 30.0, 0.25  # seconds


class Drained(NamedTuple):
    """What became of the connections that were sent away."""

    closed: int
    """How many were closed."""
    cut: int
    """How many of these were still busy when the time was over."""


def retry_reason(batch: int, batches: int) -> str:
    """Compose the reason that a batch is closed with, which says when to come back.

    The first batch is told a second, each one after it a quarter of a second
    more, or less where that would take the last one beyond half a minute.

    >>> retry_reason(0, 8), retry_reason(7, 8)
    ('the server restarts; retry in 1 s', 'the server restarts; retry in 2.75 s')
    """
    step = min(_BETWEEN_RETRIES, (_LAST_RETRY - _FIRST_RETRY) / batches)
    return f"the server restarts; retry in {round(_FIRST_RETRY + batch * step, 2):g} s"


def fit_batch(connections: int, seconds: float) -> int:
    """Tell how many connections to close together, for all to have had their turn in half the time.

    The other half is for those that are busy.

    >>> fit_batch(120, 20.0), fit_batch(50_000, 20.0)
    (50, 500)
    """
    if not seconds:
        return CONNECTIONS_PER_BATCH
    return max(CONNECTIONS_PER_BATCH, math.ceil(connections * BATCH_PAUSE * 2 / seconds))


async def drain(connections: Iterable[Connection], seconds: float) -> Drained:
    """Close connections with 1012, a batch after the other, and wait for their ends.

    Until its turn comes, a connection is served as ever. One that is busy then,
    with a handler or an ``on_connect``, is closed as soon as that is done and
    its answer sent; messages that it sends meanwhile are not handled. Who is
    busy when the time is over is closed all the same.

    Args:
        connections: Whom to close; those that come later are not among them.
        seconds: How long all of it may take. With 0, everybody is closed at once,
            busy or not, and no end is waited for.

    Raises:
        ValueError: The seconds are no finite number, or negative.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(f"drain({seconds!r}): give the seconds it may take, 0 or more")
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    ends = loop.time() + seconds
    leaving = [each for each in connections if not each.closed]
    sessions = {each._session.task for each in leaving if each._session is not None} - {None, me}
    size = fit_batch(len(leaving), seconds)
    batches = math.ceil(len(leaving) / size)
    busy: list[tuple[Connection, str]] = []
    for batch in range(batches):
        if batch and loop.time() < ends:
            await asyncio.sleep(BATCH_PAUSE)
        reason = retry_reason(batch, batches)
        for connection in leaving[batch * size : (batch + 1) * size]:
            # A drain that was called by a handler would wait for that handler's own connection.
            if seconds and _is_busy(connection) and not connection._session.owns(me):
                connection._session.hold()
                busy.append((connection, reason))
            else:
                connection._outbox.close(_RESTART, reason, patient=True)
        busy = _close_idle(busy)
    while busy and loop.time() < ends:
        await asyncio.sleep(BATCH_PAUSE / 2)
        busy = _close_idle(busy)
    for connection, reason in busy:
        connection._outbox.close(_RESTART, reason, patient=True)
    if sessions and loop.time() < ends:
        await asyncio.wait(sessions, timeout=ends - loop.time())
    return Drained(len(leaving), len(busy))


def _is_busy(connection: Connection) -> bool:
    return connection._session is not None and connection._session.is_busy


def _close_idle(busy: list[tuple[Connection, str]]) -> list[tuple[Connection, str]]:
    """Close those that have finished what they did; return the others."""
    left = []
    for connection, reason in busy:
        if _is_busy(connection) and not connection.closed:
            left.append((connection, reason))
        else:
            connection._outbox.close(_RESTART, reason, patient=True)
    return left
