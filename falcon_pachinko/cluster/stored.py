"""What the backend keeps of this process's rooms: written, read, and ended where it has a hole.

A history that lacks a message is never gone on with: it ends before it is used again, by
whoever has found that, and the others are told with a mark.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import msgspec

from falcon_pachinko.backends.base import HistoryPosition, Past
from falcon_pachinko.cluster.history import place_all
from falcon_pachinko.cluster.node import Node
from falcon_pachinko.cluster.outage import Outage
from falcon_pachinko.cluster.parcels import ALL
from falcon_pachinko.errors import BackendError, EncodeError
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.messages.codec import JSON

__all__ = ["GivenUp", "Stored"]

log = logging.getLogger("falcon_pachinko.history")

MOST_GIVEN_UP = 10_000
"""How many of our own messages are remembered as delivered without a place."""

MOST_GIVEN_TO = 200_000
"""How many members are remembered for all of these messages together."""

MOST_BROKEN = 100_000
"""How many rooms are remembered whose history is to end; more are only told to the others."""

ENDED_AT_ONCE = 64
"""How many of them are ended at once, when the backend is back."""


class GivenUp:
    """Our own messages that members here got without a place, and to whom.

    These members do not get them again if they come back after all.
    """

    def __init__(self) -> None:
        self.messages: dict[int, tuple[str, ...]] = {}
        # The ids of the members, by the number of the message. MOST_GIVEN_UP messages at most,
        # and MOST_GIVEN_TO ids, the oldest go first.
        self._ids = 0  # how many are in there

    def add(self, seq: int, ids: tuple[str, ...]) -> None:
        """Note a message."""
        self.messages[seq] = ids
        self._ids += len(ids)
        while len(self.messages) > MOST_GIVEN_UP or self._ids > MOST_GIVEN_TO:
            self.take(next(iter(self.messages)))

    def take(self, seq: int) -> tuple[str, ...]:
        """Return who has a message, which is forgotten with that."""
        ids = self.messages.pop(seq, ())
        self._ids -= len(ids)
        return ids


class Stored:
    """The histories in the backend.

    Args:
        node: This process among others.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.broken: dict[str, None] = {}
        # Rooms whose history lacks a message, and has to end before it is used again.
        # MOST_BROKEN at most.
        self._outage = Outage()

    async def append(
        self, name: str, seq: int, data: bytes, limits: HistoryLimits, key: str
    ) -> HistoryPosition:
        """Have a message kept; where the connection is cut meanwhile, on the next one.

        Raises:
            BackendError: The server refuses it, or is away for longer than its ``timeout``.
        """
        append = self._node.backend.append
        more = (key,) if key else ()
        while True:
            outages = self._node.outages
            await self._node.subscriptions.live(f"room:{name}")  # else it would not come back
            try:
                await self.end_if_broken(name)
                position = await append(f"room:{name}", data, limits, *more)
            except BackendError as error:
                more = (key or f"{self._node.name}:{seq}",)  # it may have been kept
                if not await self._node.comes_back(outages, passing=error.passing):
                    raise
            else:
                self._outage.over()
                return position

    async def read(self, name: str, since: HistoryPosition, limits: HistoryLimits) -> Past | None:
        """Ask the backend; None if it is away."""
        try:
            await self.end_if_broken(name)
            past = await self._node.backend.read(f"room:{name}", since, limits)
        except BackendError as error:
            self._outage.report(log, "could not read the history of %.200r: %s", name, error)
            return None
        self._outage.over()
        return past

    async def messages(self, name: str, limits: HistoryLimits) -> list[Any]:
        """Return what is kept of a room, oldest first, as JSON clients get it.

        Raises:
            BackendError: The backend is away.
        """
        past = await self._node.backend.read(f"room:{name}", HistoryPosition(), limits)
        kept = []
        for each in place_all(name, past):
            with contextlib.suppress(EncodeError):  # what JSON has no form for
                kept.append(msgspec.json.decode(each.packets[JSON].event["text"]))
        return kept

    def note_hole(self, name: str, why: str) -> None:
        """Note that a message was not kept: the history of its room ends before it is used."""
        self._outage.report(
            log, "could not keep a message to %.200r, so its history ends: %s", name, why
        )
        self._node.count_unpublished()
        self._node.not_stored += 1
        if name in self.broken or len(self.broken) < MOST_BROKEN:
            self.broken[name] = None
        else:
            self._node.note_hole(ALL, unkept=True)

    async def end_if_broken(self, name: str) -> None:
        """End a history that has a hole; then tell the others, who read it anew."""
        if name in self.broken:
            del self.broken[name]
            try:
                await self._node.backend.forget(f"room:{name}")
            except BaseException:
                self.broken[name] = None
                raise
            self._node.note_hole(f"room:{name}", unkept=True)

    async def mend(self) -> None:
        """End all histories that have a hole: the backend is there again."""
        broken = tuple(self.broken)
        for start in range(0, len(broken), ENDED_AT_ONCE):
            if self._node.backend.state != "up":
                return  # all of them are tried again when it is back
            await asyncio.gather(*map(self._mend, broken[start : start + ENDED_AT_ONCE]))

    async def _mend(self, name: str) -> None:
        try:
            await self.end_if_broken(name)
        except BackendError as error:
            message = "could not end the history of %.200r, which lacks a message: %s"
            self._outage.report(log, message, name, error)
