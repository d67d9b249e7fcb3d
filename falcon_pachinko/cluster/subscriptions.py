"""Which channels this process listens to: the one owner of the backend's subscriptions.

Rooms, users and tags with members here need their channels. Adding one never waits; a
join then awaits that channel alone::

    subscriptions.add("room:tea")
    await subscriptions.live("room:tea")

How a channel goes from one state to the next (→ by itself, once the backend has
answered; where that fails, to what is told again, see AGAIN and DOUBTFUL)::

        add             told             →
    ──▶ WANTED ──────▶ ASKED ──────▶ LIVE
          ▲              │ remove      │ remove   ▲ add
          │ →            ▼ →           ▼          │
       REGRETTED     ABANDONED ──▶ UNWANTED ──────┘
          ▲ add                        │ told
          └──────────── LEAVING ◀──────┘
                          │ →
                          ▼
                      (forgotten)
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Collection, Mapping
from contextvars import Context
from typing import TypeAlias

from falcon_pachinko.backends.base import Backend
from falcon_pachinko.cluster.outage import Outage

__all__ = ["CALLS_AT_ONCE", "State", "Subscriptions"]

log = logging.getLogger("falcon_pachinko.cluster")

CALLS_AT_ONCE = 16
"""How many calls of the backend may be open at once.

A few channels are told one by one, so that a slow one holds up no other; of many,
each call takes an equal part.
"""

LIVE_TIMEOUT = 5.0
"""Seconds that `Subscriptions.live` waits at most.

A backend is bounded by itself; this is for one that is not.
"""

RETRY_AFTER = 0.2
"""Seconds between a call that raised and the next try."""


class State(enum.Enum):
    """What the backend knows of a channel, and what is to become of it."""

    WANTED = "wanted"
    """To be subscribed to; the backend has not been told yet."""
    AGAIN = "again"
    """WANTED, but it is not known whether the backend has it: a call failed, or it was away."""
    ASKED = "asked"
    """The backend is being told to subscribe."""
    LIVE = "live"
    """Subscribed to: what anybody publishes from now on arrives."""
    ABANDONED = "abandoned"
    """ASKED, but not needed any more."""
    UNWANTED = "unwanted"
    """To be unsubscribed from; the backend has not been told yet."""
    DOUBTFUL = "doubtful"
    """UNWANTED, but it is not known whether the backend has it: a call failed, or it was away."""
    LEAVING = "leaving"
    """The backend is being told to unsubscribe."""
    REGRETTED = "regretted"
    """LEAVING, but somebody needs it again."""


_Moves: TypeAlias = Mapping[State | None, State | None]  # None: the channel is not known

_ADDED: _Moves = {
    None: State.WANTED,
    State.ABANDONED: State.ASKED,
    State.UNWANTED: State.LIVE,
    State.DOUBTFUL: State.AGAIN,
    State.LEAVING: State.REGRETTED,
}
_REMOVED: _Moves = {
    State.WANTED: None,
    State.AGAIN: State.DOUBTFUL,
    State.ASKED: State.ABANDONED,
    State.LIVE: State.UNWANTED,
    State.REGRETTED: State.LEAVING,
}
_SUCCEEDED: _Moves = {
    State.ASKED: State.LIVE,
    State.ABANDONED: State.UNWANTED,
    State.LEAVING: None,
    State.REGRETTED: State.WANTED,
}
_FAILED: _Moves = {
    # It may have been done all the same, or not.
    State.ASKED: State.AGAIN,
    State.ABANDONED: State.DOUBTFUL,
    State.LEAVING: State.DOUBTFUL,
    State.REGRETTED: State.AGAIN,
}
_TO_BE_ADDED = {State.WANTED, State.AGAIN}
_NEEDED = _TO_BE_ADDED | {State.ASKED, State.LIVE, State.REGRETTED}
_TO_BE_TOLD = _TO_BE_ADDED | {State.UNWANTED, State.DOUBTFUL}


class Subscriptions:
    """Keeps the backend's subscriptions to the channels that this process needs.

    Args:
        backend: What is told, and what knows whether bytes travel.
        ended: Called with each channel that is not listened to any more.
    """

    def __init__(self, backend: Backend, ended: Callable[[str], None] = lambda _: None) -> None:
        self._backend, self._ended = backend, ended
        self._states: dict[str, State] = {}
        # Holds WANTED before the start too; a channel that nobody needs and that the
        # backend does not know has no entry, so that nothing is left of it.
        self._untold: dict[str, None] = {}  # exactly the channels in a state of _TO_BE_TOLD
        self._waiting: dict[str, asyncio.Future[None]] = {}
        # One future a channel, for all who await it; resolved when it is live, when nobody
        # needs it any more, or when the backend is away.
        self._calls: set[asyncio.Task[None]] = set()  # at most CALLS_AT_ONCE
        self._next: asyncio.Handle | None = None  # when the backend is told next; at most one
        self._connection = 0  # counts outages: what was told in an earlier one is told again
        self._away = False  # whether the backend was reported away, and is not back yet
        self._running = False
        self._outage = Outage()

    def __contains__(self, channel: str) -> bool:
        """Whether somebody here needs a channel."""
        return self._states.get(channel) in _NEEDED

    def __len__(self) -> int:
        return len(self._states)

    def state(self, channel: str) -> State | None:
        """Return a channel's state; None for one that neither we nor the backend know."""
        return self._states.get(channel)

    def knows(self, channel: str) -> bool:
        """Whether messages may still arrive on a channel, needed or on its way out."""
        return channel in self._states

    def add(self, channel: str) -> None:
        """Need a channel, from now on; more than once is the same as once. Never waits."""
        self._move(channel, _ADDED)

    def remove(self, channel: str) -> None:
        """Need a channel no longer; one that is not needed is ignored. Never waits."""
        self._move(channel, _REMOVED)
        self._let_go(channel)
        if channel not in self._states:
            self._ended(channel)

    async def live(self, channel: str) -> None:
        """Wait until what others publish on a channel arrives here.

        Returns at once if it is live, if it is not needed here, or while the backend is
        not ``up``: then it is live when the backend is back. Waits for no other channel.
        Cancelling it changes nothing for others who wait.
        """
        state = self._states.get(channel)
        if state is State.LIVE or state not in _NEEDED:
            return
        if not self._running or self._away or self._backend.state != "up":
            return
        future = self._waiting.get(channel)
        if future is None:
            future = self._waiting[channel] = asyncio.get_running_loop().create_future()
        await asyncio.wait((future,), timeout=LIVE_TIMEOUT)

    async def all_live(self) -> None:
        """Wait for every channel that is needed now, as `live` does for one."""
        await asyncio.gather(*(self.live(channel) for channel in tuple(self._states)))

    def start(self) -> None:
        """Begin to tell the backend, which was started."""
        self._running, self._away = True, False
        self._outage = Outage()
        self._tell_soon()

    async def stop(self) -> None:
        """Tell the backend nothing more; what is needed stays needed, for another start."""
        self._running = False
        if self._next is not None:
            self._next.cancel()
            self._next = None
        calls = set(self._calls)
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls)
        for channel in tuple(self._waiting):
            self._let_go(channel)
        self._states = {each: State.WANTED for each in self._states if each in self}
        self._untold = dict.fromkeys(self._states)

    def backend_away(self) -> None:
        """Note that the backend is not up: no call waits for it any more."""
        self._away = True
        self._connection += 1
        for channel in tuple(self._waiting):
            self._let_go(channel)

    def backend_back(self) -> None:
        """Tell the backend all channels again, if it was away: it may have forgotten them."""
        if not self._away:
            return
        self._away = False
        for channel, state in self._states.items():
            if state is State.LIVE:
                self._states[channel] = State.AGAIN
                self._untold[channel] = None
            elif state is State.UNWANTED:
                self._states[channel] = State.DOUBTFUL
        self._tell_soon()

    # From state to state.

    def _move(self, channel: str, to: _Moves) -> None:
        before = self._states.get(channel)
        if before not in to:
            return
        state = to[before]
        if state is None:
            del self._states[channel]
        else:
            self._states[channel] = state
        if state in _TO_BE_TOLD:
            self._untold[channel] = None
            self._tell_soon()
        else:
            self._untold.pop(channel, None)

    def _let_go(self, channel: str) -> None:
        future = self._waiting.pop(channel, None)
        if future is not None and not future.done():
            future.set_result(None)

    # Telling the backend.

    def _tell_soon(self) -> None:
        if self._next is None and self._running and self._untold:
            # In the next turn of the loop: what is added in this one is told together.
            # And in a context of its own, which keeps no connection while a backend is away.
            self._next = asyncio.get_running_loop().call_soon(self._tell, context=Context())

    def _tell(self) -> None:
        """Give what is untold to as many calls as are free."""
        self._next = None
        untold, free = tuple(self._untold), CALLS_AT_ONCE - len(self._calls)
        parts = min(free, len(untold))
        for part in range(parts):
            self._call(untold[part::parts])

    def _call(self, channels: Collection[str]) -> None:
        more = [each for each in channels if self._states[each] in _TO_BE_ADDED]
        fewer = [each for each in channels if self._states[each] not in _TO_BE_ADDED]
        for channel in channels:
            del self._untold[channel]
        self._states.update(dict.fromkeys(more, State.ASKED))
        self._states.update(dict.fromkeys(fewer, State.LEAVING))
        call = asyncio.get_running_loop().create_task(self._run(more, fewer))
        self._calls.add(call)
        call.add_done_callback(self._call_ended)

    def _call_ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._tell_soon()

    async def _run(self, more: Collection[str], fewer: Collection[str]) -> None:
        connection = self._connection
        try:
            if more:
                await self._backend.subscribe(more)
                self._subscribed(more, again=connection != self._connection and not self._away)
                more = ()
            if fewer:
                await self._backend.unsubscribe(fewer)
                for channel in fewer:
                    self._move(channel, _SUCCEEDED)
                    self._ended(channel)
        except Exception as error:  # noqa: BLE001  # whatever a backend raises, it is tried again
            self._outage.report(
                log, "backend %s failed to subscribe; retrying: %r", self._backend.name, error
            )
            if self._next is not None:
                self._next.cancel()
            if self._running:
                self._next = asyncio.get_running_loop().call_later(RETRY_AFTER, self._tell)
            for channel in (*more, *fewer):
                self._move(channel, _FAILED)
        else:
            self._outage.over()

    def _subscribed(self, channels: Collection[str], *, again: bool) -> None:
        """Note what is live now; or ask once more, if the backend was away and back meanwhile."""
        for channel in channels:
            self._move(channel, _SUCCEEDED if not again else _FAILED)
            if self._states.get(channel) is State.LIVE:
                self._let_go(channel)
