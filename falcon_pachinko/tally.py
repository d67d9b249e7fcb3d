"""What has happened since the process began, counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

__all__ = ["MOST_TYPES", "Tally", "type_of"]

MOST_TYPES = 500
"""How many message types are counted apart; more, which only a mistake makes, count as one."""

UNTYPED = "(untyped)"
OTHER = "(other)"


def type_of(message: Any) -> str:
    """Return the type of a message that the application sends, as counters name it.

    >>> type_of({"type": "said"})
    'said'
    """
    if isinstance(message, dict):
        name = message.get("type")
    elif isinstance(message, msgspec.Struct):
        name = message.__struct_config__.tag
    else:
        name = None
    return name if isinstance(name, str) else UNTYPED


class Tally:
    """Counters that only grow; plain numbers, cheap enough to count every message.

    Attributes:
        accepted: Connections that were accepted.
        denied: Handshakes that were denied, or left before an answer.
        closed: Connections that ended, by close code.
        received: Messages from clients, by type.
        sent: Messages to clients, by type; one per client.
        dropped: Frames that did not reach their client, by reason: ``overflow``
            of an outbox, or ``gone`` (they waited when the connection was cut).
        errors: Handlers that raised what they should not have, by message type.
        handled: How often handlers of each type have run.
        handler_seconds: How many seconds they took in total, waiting included.
    """

    __slots__ = (
        "accepted",
        "closed",
        "denied",
        "dropped",
        "errors",
        "handled",
        "handler_seconds",
        "received",
        "sent",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.denied = 0
        self.closed: Counter[int] = Counter()
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.handled: Counter[str] = Counter()
        self.handler_seconds: Counter[str] = Counter()

    def count_sent(self, message: Any, times: int = 1) -> None:
        """Count a message that went, or waits to go, to so many clients."""
        name = type_of(message)
        if name not in self.sent and len(self.sent) >= MOST_TYPES:
            name = OTHER
        self.sent[name] += times

    def count_handled(self, message_type: str, seconds: float) -> None:
        """Count a handler's run."""
        self.handled[message_type] += 1
        self.handler_seconds[message_type] += seconds  # type: ignore[assignment]  # seconds add up too

    def status(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {
            "accepted": self.accepted,
            "denied": self.denied,
            "closed": {str(code): count for code, count in self.closed.items()},
            "received": dict(self.received),
            "sent": dict(self.sent),
            "dropped": dict(self.dropped),
            "errors": dict(self.errors),
            "handlers": {
                name: {"count": count, "seconds": self.handler_seconds[name]}
                for name, count in self.handled.items()
            },
        }
