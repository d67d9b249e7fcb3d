"""What presence and histories know of a connection."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any, Protocol, TypeVar

from falcon_pachinko.limits import Limits
from falcon_pachinko.messages.codec import Codec, Packet

__all__ = ["M", "Member"]


class Member(Protocol):
    """A connection of this process, as one of a room; hashable, and equal only to itself."""

    @property
    def id(self) -> str:
        """Its id, which no other connection has, on any process."""
        ...

    @property
    def user_id(self) -> str | None:
        """Its user, if it has one."""
        ...

    @property
    def joined(self) -> AbstractSet[str]:
        """The rooms that it is in; none once it has gone."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it takes no frame any more."""
        ...

    @property
    def codec(self) -> Codec:
        """How its messages are written."""
        ...

    @property
    def limits(self) -> Limits:
        """What it may cost: ``outbox_bytes`` counts here."""
        ...

    def push(self, packet: Packet) -> bool:
        """Send a frame without waiting; False if it was dropped."""
        ...

    async def send_media(self, message: Any) -> None:
        """Encode a message and send it; waits as `send_packet` does."""
        ...

    async def send_packet(self, packet: Packet) -> None:
        """Send a frame, and wait while too much of its outbox is full, where that is meant to."""
        ...

    def begin_close(self, code: int, reason: str = "") -> None:
        """Close it, after what waits for it."""
        ...


M = TypeVar("M", bound=Member)
