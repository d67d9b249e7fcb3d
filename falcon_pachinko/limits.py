"""What one client may cost, as one frozen set of numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

__all__ = ["HistoryLimits", "Limits"]

_POLICIES = ("close", "drop_oldest", "drop_newest")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may cost; every number is finite by default.

    Give one to ``install(app, limits=...)`` for all routes, or to
    ``add_websocket_route(..., limits=...)`` for one. A limit that is reached is
    named in the close reason or the error that the client gets.

    Example::

        install(app, limits=Limits(message_bytes=4096, on_overflow="drop_oldest"))

    Raises:
        ValueError: A number is not positive, or the policy is unknown.
    """

    message_bytes: int = 65_536
    """The largest message a client may send, in bytes; a larger one closes with 1009."""

    outbox_bytes: int = 1_048_576
    """How many bytes may wait for a client that reads too slowly."""

    on_overflow: Literal["close", "drop_oldest", "drop_newest"] = "close"
    """What happens when the outbox is full: close with 1013, or drop frames."""

    send_timeout: float = 10.0
    """Seconds that one frame may take to leave; then the connection is aborted."""

    inbox_messages: int = 256
    """How many messages may wait behind a busy handler; one more closes with 1008."""

    messages_per_second: float = 1_000
    """How many messages a client may send per second, in the long run."""

    burst: int = 2_000
    """How many messages a client may send at once, before the rate counts."""

    concurrency: int = 8
    """How many of a connection's concurrent handlers may run at once; the next one waits."""

    rooms: int = 128
    """How many rooms a connection may be in at once."""

    connections: int = 100_000
    """How many connections the process takes; one more is answered with 503."""

    connections_per_address: int | None = None
    """The same per client address, 429; off by default (a proxy makes all one address)."""

    connections_per_user: int | None = None
    """The same per user id, 429; off by default."""

    handler_grace: float = 5.0
    """Seconds that a handler may go on after its client went; then it is cancelled."""

    shutdown_timeout: float = 20.0
    """Seconds that a clean-up (``on_disconnect``, a worker's end) may take at most."""

    def __post_init__(self) -> None:
        if self.on_overflow not in _POLICIES:
            raise ValueError(f"on_overflow={self.on_overflow!r}: choose one of {_POLICIES}")
        _check_numbers(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLimits:
    """How much of a room's history is kept; what exceeds one of the limits is forgotten first.

    Example::

        manager.configure_rooms("chat:", history=HistoryLimits(count=50, seconds=600))

    Raises:
        ValueError: A number is not positive.
    """

    count: int = 100
    """How many messages."""

    bytes: int = 262_144
    """How many bytes they have together."""

    seconds: float = 3600.0
    """How old one may become. A history that gets none for so long ends, and the next is new."""

    def __post_init__(self) -> None:
        _check_numbers(self)


def _check_numbers(limits: Limits | HistoryLimits) -> None:
    for field in dataclasses.fields(limits):
        value = getattr(limits, field.name)
        if field.name == "on_overflow" or (value is None and field.default is None):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{field.name}={value!r}: give a number")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{field.name}={value!r}: give a finite number above 0")
