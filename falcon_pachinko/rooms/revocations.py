"""Disconnects that are remembered for handshakes that began before them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.rooms.registry import Registry
from falcon_pachinko.targets import Both, Except, Target, Union

__all__ = ["Revocations"]

MOST = 10_000
"""How many disconnects are remembered at most while one handshake takes its time."""


class _Revocation(NamedTuple):
    number: int
    target: Target
    code: int
    reason: str


class _Underway:
    """One handshake that has no answer yet."""

    __slots__ = ("is_identified", "since")

    def __init__(self, since: int) -> None:
        self.since = since  # the number of the first disconnect that came after it began
        self.is_identified = False  # whether authenticate and the hooks have said who it is


class Revocations:
    """Disconnects that came while handshakes were underway.

    A handshake that has read "she may come in" before she was disconnected would let her in
    afterwards. So each disconnect is applied once more to the handshakes that began before it:
    when they know who the client is, after each step of the application's, and right before
    the accept. A handshake begins when it reaches the app, before any middleware.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._number = 0  # of the next disconnect
        self._lost = -1  # the newest one that was forgotten although a handshake might need it
        # The handshakes that are underway, in the order in which they began, and by what stands
        # for each: the gate it came through, then its connection.
        self._underway: dict[_Underway, None] = {}
        self._by_key: dict[object, _Underway] = {}
        self._noted: deque[_Revocation] = deque()  # none older than the oldest handshake

    def begin(self, key: object) -> None:
        """Note that a handshake begins; one that is noted already stays as it is."""
        if key not in self._by_key:
            self._by_key[key] = underway = _Underway(self._number)
            self._underway[underway] = None

    def hand_over(self, key: object, connection: Connection) -> None:
        """Let a connection stand for a handshake from now on, if it is underway."""
        underway = self._by_key.pop(key, None)
        if underway is not None:
            self._by_key[connection] = underway

    def end(self, key: object) -> None:
        """Note that a handshake has its answer, and forget what only it could have needed."""
        underway = self._by_key.pop(key, None)
        if underway is None:
            return
        del self._underway[underway]
        oldest = next(iter(self._underway)).since if self._underway else self._number
        while self._noted and self._noted[0].number < oldest:
            self._noted.popleft()

    def note(self, target: Target, code: int, reason: str) -> None:
        """Remember a disconnect, if a handshake is underway."""
        if self._underway:
            self._noted.append(_Revocation(self._number, target, code, reason))
            self._number += 1
            if len(self._noted) > MOST:
                self._lost = self._noted.popleft().number

    def identified(self, connection: Connection) -> None:
        """Note that whatever the application says of a client before ``on_connect`` is known."""
        underway = self._by_key.get(connection)
        if underway is not None:
            underway.is_identified = True

    def defers(self, connection: Connection, target: Target) -> bool:
        """Tell whether a disconnect must wait until it is known who a client is.

        A client that nobody has named yet is in ``to.everyone - to.user("bob")``, and may
        turn out to be Bob.
        """
        underway = self._by_key.get(connection)
        return underway is not None and not underway.is_identified and _has_exceptions(target)

    def apply(self, connection: Connection) -> None:
        """Close a connection that somebody has disconnected since its handshake began."""
        underway = self._by_key.get(connection)
        if underway is None:
            return
        if underway.since <= self._lost:  # she may have been among those
            reason = "too many were disconnected during this handshake"
            connection._outbox.close(1013, reason)
            return
        first: _Revocation | None = None
        for each in reversed(self._noted):
            if each.number < underway.since:
                break  # one handshake that hangs makes none of the others slow
            if self.defers(connection, each.target):
                continue
            if connection in each.target.select(self._registry):
                first = each
        if first is not None:
            connection._outbox.close(first.code, first.reason)


def _has_exceptions(target: Target) -> bool:
    """Tell whether a target can lose a connection by what becomes known of it."""
    if isinstance(target, (Both, Union)):
        return _has_exceptions(target.left) or _has_exceptions(target.right)
    return isinstance(target, Except)
