"""Disconnects that are remembered for handshakes that began before them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.rooms.registry import Registry
from falcon_pachinko.targets import Target

__all__ = ["Revocations"]

MOST = 10_000
"""How many disconnects are remembered at most while one handshake takes its time."""


class _Revocation(NamedTuple):
    number: int
    target: Target
    code: int
    reason: str


class Revocations:
    """Disconnects that came while handshakes were underway.

    A handshake that has read "she may come in" before she was disconnected would let her in
    afterwards. So each disconnect is applied once more to the handshakes that began before it,
    when they know who the client is, and right before the accept.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._number = 0  # of the next disconnect
        self._began: dict[Connection, int] = {}  # by handshake that is underway, in their order
        self._noted: deque[_Revocation] = deque()  # none older than the oldest handshake

    def begin(self, connection: Connection) -> None:
        """Note that a handshake begins."""
        self._began[connection] = self._number

    def end(self, connection: Connection) -> None:
        """Note that a handshake has its answer, and forget what only it could have needed."""
        if self._began.pop(connection, None) is None:
            return
        oldest = next(iter(self._began.values()), self._number)
        while self._noted and self._noted[0].number < oldest:
            self._noted.popleft()

    def note(self, target: Target, code: int, reason: str) -> None:
        """Remember a disconnect, if a handshake is underway."""
        if self._began:
            self._noted.append(_Revocation(self._number, target, code, reason))
            self._number += 1
            if len(self._noted) > MOST:
                self._noted.popleft()

    def apply(self, connection: Connection) -> None:
        """Close a connection that somebody has disconnected since its handshake began."""
        since = self._began.get(connection)
        if since is None:
            return
        for each in self._noted:
            if each.number >= since and connection in each.target.select(self._registry):
                connection._outbox.close(each.code, each.reason)
                return
