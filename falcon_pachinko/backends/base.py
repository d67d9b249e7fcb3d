"""What a backend is: names and bytes between processes, and a little memory that they share.

A backend knows nothing of connections, rooms or messages. It carries bytes on
named channels, remembers who is present and what was kept, and grants leases.
Subclass `Backend` for another server, and hold it to
`falcon_pachinko.testing.conformance`.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from falcon_pachinko.limits import HistoryLimits

__all__ = [
    "Backend",
    "Event",
    "Explained",
    "HistoryPosition",
    "Kept",
    "Lost",
    "Past",
    "Received",
    "State",
    "StateChanged",
]

State: TypeAlias = Literal["up", "degraded", "down"]
"""``up``: bytes travel both ways. ``degraded``: they do not, and the backend tries again.
``down``: it was not started, or was stopped."""


class HistoryPosition(msgspec.Struct, frozen=True):
    """A place in a channel's history: an offset only means something within its epoch.

    The position of a client that has nothing yet is ``HistoryPosition()``.
    """

    epoch: str = ""
    offset: int = 0

    @classmethod
    def of(cls, req: Any) -> HistoryPosition:
        """Read a position from a request's query, ``?epoch=...&offset=...``.

        Without one it is ``HistoryPosition()``.

        Raises:
            falcon.HTTPInvalidParam: The offset is not a whole number.
        """
        return cls(req.get_param("epoch") or "", req.get_param_as_int("offset") or 0)


class Received(NamedTuple):
    """Bytes that arrived on a channel that is subscribed to; with their place, if they are kept."""

    channel: str
    data: bytes
    position: HistoryPosition | None = None


class Lost(NamedTuple):
    """Some bytes may be missing, on any channel; all of them are subscribed to again.

    This node's presence entries and leases may be gone too: enter them again, renew.
    """

    why: str


class StateChanged(NamedTuple):
    """The backend's state is another one; ``why`` is a sentence for the log."""

    state: State
    why: str


class Explained(NamedTuple):
    """What does not work is another thing, though the state is the same.

    While the state is ``up``: what of the server does not work, and why; None once all of
    it works again.  While it is ``degraded``: a reason that was not told yet.
    """

    why: str | None


Event: TypeAlias = Received | Lost | StateChanged | Explained


class Kept(NamedTuple):
    """One message of a history."""

    offset: int
    data: bytes


class Past(NamedTuple):
    """What a history has after a position."""

    position: HistoryPosition
    """Where the history stands: what arrives from now on has a larger offset."""
    entries: tuple[Kept, ...]
    """What came after the position that was asked about, oldest first; if that cannot be
    told, or not all of it is kept any more, then everything that is kept."""
    complete: bool
    """Whether what came after that position is all there: False if the epoch is another
    one, if the offset is not reached yet, or if some of it is forgotten."""


class Backend(ABC):
    """Carries bytes between processes.

    One instance serves one app in one process. All methods belong to the event
    loop of `start`. Each is bounded in time, and raises `BackendError` where it
    could not do what it promises; `subscribe` and `unsubscribe` never do, since
    the backend catches up by itself when it is back.

    Attributes:
        name: What logs call it, without its secrets: ``redis://db.example:6379/0``.
        state: Whether bytes travel; see `State`. Every change is also an event.
        why: A sentence about what does not work, for ``status()``: why the state is not
            ``up``, or, while it is, what the server refuses; None where there is nothing
            to say. Every change is also an event.
        since: Since when state and reason are these, in UTC; None before the first start.
        failed_calls: How many calls have raised `BackendError` since the process began.
        shared: Whether other processes can be reached at all.
        ttl: Seconds after its last sign of life at which a process counts as dead, for
            presence and leases; a setting (``?ttl=5`` in a URL).
        timeout: Seconds that a call may take, and that a question to all processes waits for
            their answers; a setting (``?timeout=1`` in a URL).
        loses_silently: Whether bytes may be lost, now, without a `Lost`: each channel then
            gets a mark when nothing more comes on it, by which the others see what they lack.
    """

    name: str = "backend"
    state: State = "down"
    why: str | None = None
    since: dt.datetime | None = None
    failed_calls: int = 0
    shared: bool = True
    ttl: float = 15.0
    timeout: float = 3.0

    @property
    def loses_silently(self) -> bool:
        return False

    @abstractmethod
    async def start(self, node: str) -> None:
        """Try to connect, as the process that ``node`` names, and go on trying afterwards.

        A server that is not there yet is not an error: the state is ``degraded``, and
        the backend goes on trying, unless it was told that it is required.

        Raises:
            BackendError: The server is required, and cannot be reached.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Take back this node's entries and leases, and end; once more changes nothing."""

    @abstractmethod
    def events(self) -> AsyncIterator[Event]:
        """Return the stream of what happens, for one reader; it ends with `stop`.

        The bytes of one publisher on one channel come in the order in which they
        were published. A reader that is slow is waited for where the server has
        room for that; what it has none for is `Lost`, never left out silently.
        """

    # Channels: bytes to those who listen now.

    @abstractmethod
    async def publish(self, parcels: Sequence[tuple[str, bytes]]) -> None:
        """Send bytes to channels, in this order; this node gets them too, where it listens.

        Raises:
            BackendError: Some of them, or all, may not have been sent.
        """

    def check_size(self, size: int) -> None:  # noqa: B027  # most take any size
        """Refuse a message that could never be published or kept.

        Args:
            size: How many bytes it has.

        Raises:
            EncodeError: It is too large; the text says what to set.
        """

    @abstractmethod
    async def subscribe(self, channels: Collection[str]) -> None:
        """Listen to channels; names are literal, never patterns.

        Returns when the subscription is live: what anybody publishes from then on
        arrives. While the state is not ``up`` it returns at once, and is live when
        the state is ``up`` again. Calls for different channels may overlap.
        """

    @abstractmethod
    async def unsubscribe(self, channels: Collection[str]) -> None:
        """Stop listening; a few events of these channels may still come."""

    # Presence: each node's entries in tables, gone when its lease ends.

    @abstractmethod
    async def enter(self, table: str, entries: Mapping[str, bytes]) -> None:
        """Put entries of this node into a table, in place of those with the same keys."""

    @abstractmethod
    async def replace(self, table: str, entries: Mapping[str, bytes]) -> None:
        """Make these all that this node has in a table, in one step.

        Whoever is back after an outage does so: what it had there before may be wrong.
        """

    @abstractmethod
    async def tables(self) -> Collection[str]:
        """Return the tables in which this node has entries, as the server knows it."""

    @abstractmethod
    async def leave(self, table: str, keys: Collection[str]) -> None:
        """Take entries of this node out of a table; a key that is not there is ignored."""

    @abstractmethod
    async def entries(self, table: str) -> Mapping[str, Mapping[str, bytes]]:
        """Return a table, by node and key; entries of nodes whose lease ended are not in it."""

    @abstractmethod
    async def beat(self, ttl: float) -> Collection[str]:
        """Renew this node's lease for ``ttl`` seconds, and return the nodes that have one.

        If it had ended since the last beat, this node's entries may be gone, and a `Lost` tells.
        """

    async def alive(self) -> Collection[str]:
        """Return the nodes that have a lease now.

        By default it renews this node's own to find out; a backend that can look without
        writing does that.
        """
        return await self.beat(self.ttl * 2 / 3)

    # Leases: one holder at a time.

    @abstractmethod
    async def acquire(self, name: str, ttl: float) -> int | None:
        """Take a free lease for ``ttl`` seconds; None if another node holds it.

        Returns:
            The fencing token: larger than that of every earlier holder.
        """

    @abstractmethod
    async def renew(self, name: str, token: int, ttl: float) -> bool:
        """Keep a lease for another ``ttl`` seconds; False if it is lost."""

    @abstractmethod
    async def release(self, name: str, token: int) -> None:
        """Give a lease back; one that is lost already is ignored."""

    # Settings: a few names that all nodes share, and that stay when they have gone.

    @abstractmethod
    async def remember(self, settings: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Keep some bytes under each name, in place of what is there; no node's end takes them.

        Returns:
            What was replaced, in the same step: where two nodes write at once, the second gets
            what the first has written.
        """

    @abstractmethod
    async def recall(self) -> Mapping[str, bytes]:
        """Return all that is remembered, by name."""

    # History: channels that remember.

    @abstractmethod
    async def append(
        self,
        channel: str,
        data: bytes,
        limits: HistoryLimits,
        key: str = "",
    ) -> HistoryPosition:
        """Keep bytes and publish them: one step, so that all subscribers see one order.

        Those who are subscribed, this node included, get them as `Received` with
        their position.

        Args:
            channel: The channel.
            data: The bytes.
            limits: How much of the channel is kept.
            key: What tells this message from any other, where it may have been kept already,
                as by a call that failed. If a message with this key, or with the very same
                bytes, was kept within the last two minutes, its position is returned, and
                nothing else is done.
        """

    @abstractmethod
    async def read(self, channel: str, after: HistoryPosition, limits: HistoryLimits) -> Past:
        """Return what a history has after a position; it is there even if nothing was kept yet."""

    @abstractmethod
    async def forget(self, channel: str) -> None:
        """End a history: the next one has another epoch, so that no old position is valid."""
