"""One room with a history, on one process: what is decided, and what is underway."""

from __future__ import annotations

import asyncio
from typing import Generic

from falcon_pachinko.cluster.catching_up import Held
from falcon_pachinko.cluster.history import RoomHistory
from falcon_pachinko.cluster.member import M

__all__ = ["Echo", "HistoryRoom"]


class Echo:
    """A message of our own, on its way back from the backend."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        """Set when it has arrived, or there is no member here any more to wait for it."""
        self.arrived = False
        self.taken: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        """How many members here took it, and how many did not."""

    def end(self, sent: int, dropped: int) -> None:
        """Note that it is over, and who took it; only the first time counts."""
        self.over.set()
        if not self.taken.done():
            self.taken.set_result((sent, dropped))


class HistoryRoom(Generic[M]):
    """What the shell needs of a room beside the decisions; lives as long as those."""

    def __init__(self, name: str) -> None:
        self.core: RoomHistory[M] = RoomHistory(name)
        self.order = asyncio.Lock()
        # Held while one message goes to all of the room, or what was read does.
        self.delivered_at = asyncio.get_running_loop().time()  # when the last message was
        self.held: Held | None = None
        # What arrived since the room has to be read; None while it is live. Only `_catch_up`
        # ends that, and only while it has the order.
        self.echoes: dict[int, Echo] = {}  # by the number of the parcel, while a sender waits
