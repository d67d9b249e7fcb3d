"""What presence and histories know of a connection."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any, Protocol, TypeVar

from falcon_pachinko.limits import Limits
from falcon_pachinko.messages.codec import Codec, Packet

__all__ = ["M", "Member"]


class _Outbox(Protocol):
    """What waits for a member's client."""

    def push(self, packet: Packet) -> bool:
        """Send a frame without waiting; False if it was dropped."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """Close, after what waits."""
        ...


class Member(Protocol):
    """A connection of this process, as one of a room; hashable, and equal only to itself.

    The underscores are a connection's own: what has them is the library's, and not the
    user's.
    """

    @property
    def id(self) -> str:
        """Its id, which no other connection has, on any process."""
        ...

    @property
    def user_id(self) -> str | None:
        """Its user, if it has one."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it takes no frame any more."""
        ...

    @property
    def limits(self) -> Limits:
        """What it may cost: ``outbox_bytes`` counts here."""
        ...

    @property
    def _rooms(self) -> AbstractSet[str]:
        """The rooms that it is in; none once it has gone."""
        ...

    @property
    def _codec(self) -> Codec:
        """How its messages are written."""
        ...

    @property
    def _outbox(self) -> _Outbox: ...

    async def send_media(self, message: Any) -> None:
        """Encode a message and send it, at the client's pace where its own code sends it."""
        ...

    async def _send(self, packet: Packet, *, volatile: bool, latest: str | None) -> bool:
        """Send a frame, at the same pace."""
        ...


M = TypeVar("M", bound=Member)
