"""What all processes are asked about connections and rooms, and what each of them answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from falcon_pachinko.cluster.node import Node
from falcon_pachinko.cluster.parcels import channel_of
from falcon_pachinko.cluster.questions import Kind
from falcon_pachinko.connection.ends import check_close_code
from falcon_pachinko.rooms.fanout import MEMBERS_PER_TURN
from falcon_pachinko.rooms.registry import Registry
from falcon_pachinko.rooms.revocations import Revocations
from falcon_pachinko.targets import AnyTarget, ConnectionId, Target

__all__ = ["ClusterAnswer", "ClusterAnswers", "ClusterRooms"]

PART_BYTES = 131_072
"""About how many bytes of names one message has: servers bound what a message may have."""


class ClusterAnswer(NamedTuple):
    """How many connections, over all processes; complete if ``answered == processes``."""

    total: int
    """The connections of all processes that answered in time."""
    answered: int
    """How many processes that were, this one included."""
    processes: int
    """How many there were when they were asked, this one included: with one that was killed, until
    the backend's ``ttl`` is over."""


class ClusterRooms(NamedTuple):
    """The rooms of all processes; complete if ``answered == processes``."""

    rooms: list[str]
    """The rooms of all processes that answered in time: sorted, each once."""
    answered: int
    """How many processes that were, this one included."""
    processes: int
    """How many there were when they were asked, this one included; see `ClusterAnswer`."""


class _Targeted(msgspec.Struct, array_like=True):
    target: AnyTarget


class _Disconnect(msgspec.Struct, array_like=True):
    target: AnyTarget
    code: int
    reason: str


_COUNT = Kind("count", _Targeted, int)
_ROOMS = Kind("rooms", str, list[str])
_DISCONNECT = Kind("disconnect", _Disconnect, int, acts=True)


class ClusterAnswers:
    """Asks all processes, and answers them for this one; the exchange has one.

    Args:
        cluster: This process among others.
        registry: The connections of this process.
        revocations: What remembers disconnects for handshakes that are underway.
    """

    def __init__(self, cluster: Node, registry: Registry, revocations: Revocations) -> None:
        self._cluster, self._registry, self._revocations = cluster, registry, revocations
        questions = self._questions = cluster.questions
        questions.handle(_COUNT, self._answer_count)
        questions.handle(_ROOMS, self._answer_rooms)
        questions.handle(_DISCONNECT, self._answer_disconnect)

    # On this process.

    def count_here(self, target: Target) -> int:
        """Count the connections that a target names, but those that are closed or about to be."""
        return sum(not each.closed for each in self._registry.select(target))

    async def disconnect_here(self, target: Target, code: int, reason: str) -> int:
        """Close the connections that a target names; return how many were open."""
        self._revocations.note(target, code, reason)
        closing = [
            each
            for each in self._registry.select(target)
            if not (each.closed or self._revocations.defers(each, target))
        ]
        for count, connection in enumerate(closing, 1):
            connection._outbox.close(code, reason)
            if not count % MEMBERS_PER_TURN:
                await asyncio.sleep(0)
        return len(closing)

    # On all.

    async def count(self, target: Target, seconds: float | None) -> ClusterAnswer:
        """Count on all processes; see the manager's ``count``."""
        question = _Targeted(target)
        with self._questions.put(_COUNT, question, self._only(target)) as asked:
            here = self.count_here(target)
            parts, *of = await asked.answers(self._bounded(seconds))
        return ClusterAnswer(here + sum(parts), *of)

    async def rooms(self, prefix: str, seconds: float | None) -> ClusterRooms:
        """Find rooms on all processes; see the manager's ``get_rooms_by_prefix``."""
        here = self._registry.rooms.names(prefix)
        with self._questions.put(_ROOMS, prefix) as asked:
            parts, *of = await asked.answers(self._bounded(seconds))
        return ClusterRooms(sorted({*here}.union(*parts)), *of)

    async def disconnect(
        self, target: Target, code: int, reason: str, seconds: float | None
    ) -> ClusterAnswer:
        """Disconnect on all processes; see the manager's ``disconnect``."""
        question = _Disconnect(target, code, reason)
        # A handshake elsewhere may belong to the target, and not know it yet: so all hear of any
        # target but an id, which a connection has from the beginning.
        only = self._only(target) if isinstance(target, ConnectionId) else None
        with self._questions.put(_DISCONNECT, question, only) as asked:
            here = await self.disconnect_here(target, code, reason)
            parts, *of = await asked.answers(self._bounded(seconds))
        return ClusterAnswer(here + sum(parts), *of)

    def _only(self, target: Target) -> str | None:
        """Return the one process that can have connections of a target, if that is known."""
        if isinstance(target, ConnectionId) and target.name in self._registry.connections:
            return self._cluster.name
        kind, _, name = channel_of(target).partition(":")
        return name if kind == "node" else None

    def _bounded(self, seconds: float | None) -> float:
        self._cluster.reaches_others()  # warns where it was never started
        return self._cluster.backend.timeout if seconds is None else seconds

    # What other processes ask.

    async def _answer_count(self, asked: _Targeted) -> list[int]:
        return [self.count_here(asked.target)]

    async def _answer_rooms(self, prefix: str) -> list[list[str]]:
        return list(_parts(self._registry.rooms.names(prefix)))

    async def _answer_disconnect(self, asked: _Disconnect) -> list[int]:
        check_close_code(asked.code)
        return [await self.disconnect_here(asked.target, asked.code, asked.reason)]


def _parts(names: list[str]) -> Iterator[list[str]]:
    """Part names so that each message has room for its part; at least one part, maybe empty.

    >>> [len(part) for part in _parts(["x" * 200] * 1000)]
    [656, 344]
    """
    part: list[str] = []
    size = 0
    for name in names:
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
        part.append(name)
        size += len(name.encode())
    yield part
