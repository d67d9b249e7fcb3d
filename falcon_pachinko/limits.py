"""What one client may cost, as one frozen set of numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, Self

__all__ = ["HistoryLimits", "Limits", "bound"]

_POLICIES = ("close", "drop_oldest", "drop_newest")


class _Named:
    """Notes which fields are written down, as opposed to those that have their defaults."""

    # Not a field of the dataclass, since two sets of limits are equal if their values are; and a
    # class of its own, since a class's own __new__ would hide the signature of its __init__.
    def __new__(cls, **named: Any) -> Self:
        made = object.__new__(cls)
        object.__setattr__(made, "_named", frozenset(named))
        return made

    @property
    def named(self) -> frozenset[str]:
        """The fields that were given, whatever their values.

        >>> sorted(Limits(rooms=128, burst=10).named)
        ['burst', 'rooms']
        """
        named: frozenset[str] = self.__dict__["_named"]
        return named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits(_Named):
    """What one client may cost; by default every limit but the two per address and user is on.

    Give one to ``install(app, limits=...)`` for all routes. One that is given to
    ``add_websocket_route(..., limits=...)`` overrides, for that route and the routes nested
    under it, the fields that it names and no others. A limit that is reached is named in
    the close reason or the error that the client gets.

    None switches a limit off. 0 means that none is allowed, for ``rooms`` and ``tags``;
    elsewhere it is an error.

    Example::

        install(app, limits=Limits(message_bytes=4096, on_overflow="drop_oldest"))
        app.add_websocket_route("/till", Till, limits=Limits(rooms=1))  # 4096 bytes here too

    Raises:
        TypeError: A value is not a number.
        ValueError: A number is not positive or not finite, a count is not a whole number,
            or the policy is unknown.
    """

    message_bytes: int | None = 65_536
    """The largest message a client may send, in bytes; a larger one closes with 1009."""

    outbox_bytes: int | None = 1_048_576
    """How many bytes may wait for a client that reads too slowly."""

    on_overflow: Literal["close", "drop_oldest", "drop_newest"] = "close"
    """What happens when the outbox is full: close with 1013, or drop frames."""

    send_timeout: float | None = 10.0
    """Seconds that one frame may take to leave; then the connection is aborted."""

    inbox_messages: int | None = 256
    """How many messages may wait behind a busy handler; then reading stops until there is room."""

    inbox_bytes: int | None = 1_048_576
    """The same in bytes. A value below ``message_bytes`` counts as ``message_bytes``."""

    messages_per_second: float | None = 1_000
    """How many messages a client may send per second, in the long run."""

    burst: int | None = 2_000
    """How many messages a client may send at once, before the rate counts."""

    concurrency: int | None = 8
    """How many of a connection's concurrent handlers may run at once; the next one waits."""

    rooms: int | None = 128
    """How many rooms a connection may be in at once."""

    tags: int | None = 128
    """How many tags a connection may have at once."""

    connections: int | None = 100_000
    """How many connections the process takes; one more is answered with 503."""

    connections_per_address: int | None = None
    """The same per client address, 429; off by default (a proxy makes all one address)."""

    connections_per_user: int | None = None
    """The same per user id, 429; off by default."""

    handler_grace: float | None = 5.0
    """Seconds that a handler may go on after its client left; then it is cancelled."""

    shutdown_timeout: float | None = 20.0
    """Seconds that a clean-up (``on_disconnect``, a worker's end) may take at most."""

    def __post_init__(self) -> None:
        if self.on_overflow not in _POLICIES:
            raise ValueError(f"on_overflow={self.on_overflow!r}: choose one of {_POLICIES}")
        _check_numbers(self, countable=_COUNTS, none_allowed=True)

    def overridden_by(self, other: Limits) -> Limits:
        """Return these limits with the fields that another set names taken from there.

        >>> Limits(rooms=1).overridden_by(Limits(burst=9)) == Limits(rooms=1, burst=9)
        True
        """
        named = self.named | other.named
        return Limits(
            **{name: getattr(other if name in other.named else self, name) for name in named}
        )


_TIMES = {"send_timeout", "messages_per_second", "handler_grace", "shutdown_timeout"}
_COUNTS = frozenset(
    each.name for each in dataclasses.fields(Limits) if each.name not in {"on_overflow", *_TIMES}
)
_MAY_BE_ZERO = frozenset({"rooms", "tags"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLimits:
    """How much of a room's history is kept; what exceeds one of the limits is forgotten first.

    Example::

        manager.configure_rooms("chat:", history=HistoryLimits(count=50, seconds=600))

    Raises:
        TypeError: A value is not a number.
        ValueError: A number is not positive, or a count is not a whole number.
    """

    count: int = 100
    """How many messages."""

    bytes: int = 262_144
    """How many bytes they have together, as MessagePack and some 40 bytes for each; a message
    that has more by itself is an `EncodeError`."""

    seconds: float = 3600.0
    """How old one may become. A history that gets none for so long ends, and the next is new."""

    def __post_init__(self) -> None:
        _check_numbers(self, countable=frozenset({"count", "bytes"}), none_allowed=False)


def bound(limit: float | None) -> float:
    """Return a limit as a number to compare with: one that is switched off is infinite.

    >>> bound(3), bound(None)
    (3, inf)
    """
    return math.inf if limit is None else limit


def _check_numbers(
    limits: Limits | HistoryLimits, *, countable: frozenset[str], none_allowed: bool
) -> None:
    off = ", or None for no limit" if none_allowed else ""
    for field in dataclasses.fields(limits):
        name, value = field.name, getattr(limits, field.name)
        if name == "on_overflow" or (value is None and none_allowed):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}={value!r}: give a number{off}")
        lowest = "0 or above" if name in _MAY_BE_ZERO else "above 0"
        if not (math.isfinite(value) and (value > 0 or (value == 0 and name in _MAY_BE_ZERO))):
            raise ValueError(f"{name}={value!r}: give a finite number {lowest}{off}")
        if name in countable and not isinstance(value, int):
            raise ValueError(f"{name}={value!r}: give a whole number {lowest}{off}")
