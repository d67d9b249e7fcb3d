"""Senders that wait for one client to catch up: for the connection's own code, and nobody else."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from falcon_pachinko.connection.stage import OPEN, Stage

__all__ = ["Pace", "Paced"]


class Paced(Protocol):
    """What is waited for; the outbox is one."""

    stage: Stage

    @property
    def is_behind(self) -> bool:
        """Whether its client has to catch up first."""
        ...

    def caught_up(self) -> None:
        """Note that nobody waits any more."""


class Pace:
    """Senders that wait, and go on in the order of their calls, one after the other.

    An outbox has one while somebody waits.
    """

    __slots__ = ("_paced", "_turns")

    def __init__(self, paced: Paced) -> None:
        self._paced = paced
        self._turns: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Wait for the turn of whoever calls this."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._turns.append(turn)
        try:
            await turn
        finally:
            # Only now, so that nobody who comes meanwhile goes first; and the next one is let on
            # when this one has added its frame.
            self._turns.remove(turn)
            if self._turns:
                loop.call_soon(self.let_on)
            else:
                self._paced.caught_up()

    def let_on(self) -> None:
        """Let the next sender go on, if the client has caught up; all of them after the end."""
        if self._paced.is_behind:
            return
        for turn in self._turns:
            if not turn.done():
                turn.set_result(None)
            if self._paced.stage is OPEN:
                return
