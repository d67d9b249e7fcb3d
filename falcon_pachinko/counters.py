"""What has happened since the process began, counted."""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import Any

import msgspec

__all__ = ["MOST_CLIENT_CODES", "MOST_TYPES", "Counters", "Handled", "type_of"]

MOST_TYPES = 500
"""How many message types are counted apart; more, which only a mistake makes, count as one."""

MOST_CLIENT_CODES = 30
"""How many close codes that clients made up are counted apart; further ones count as one."""

UNTYPED = "(untyped)"
OTHER = "(other)"

_KNOWN_CODES = frozenset(
    {
        *range(1000, 1016),  # RFC 6455 and the IANA registry
        *(3000 + status for status in HTTPStatus),  # denials that a browser can read
        4401,  # an authentication that has expired
    }
)


def type_of(message: Any) -> str:
    """Return the type of a message that the application sends, as counters name it.

    >>> type_of({"type": "said"})
    'said'
    """
    if type(message) is dict:
        name = message.get("type")
    elif isinstance(message, msgspec.Struct):
        name = message.__struct_config__.tag
    else:
        name = None
    return name if isinstance(name, str) else UNTYPED


class Handled(msgspec.Struct):
    """How many messages of a type were handled, and how long that took."""

    count: int = 0
    seconds: float = 0.0


class Counters:
    """Counters that only grow; plain numbers, cheap enough to count every message.

    Attributes:
        accepted: Connections that were accepted.
        denied: Handshakes that were denied, or left before an answer.
        closed: Connections that ended, by close code; see `count_closed`.
        received: Messages from clients that a handler took, by type: how many, and
            how many seconds their handlers took in total, waiting included.
        sent: Messages to clients, by type; one per client.
        dropped: Frames that did not reach their client, by reason: ``overflow``
            of an outbox, ``gone`` (they waited when the connection was cut), or
            ``volatile`` (the client was behind).
        errors: Handlers that raised what they should not have, by message type.
    """

    __slots__ = (
        "_client_codes",
        "accepted",
        "closed",
        "denied",
        "dropped",
        "errors",
        "received",
        "sent",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.denied = 0
        self.closed: Counter[int | str] = Counter()
        self._client_codes: set[int] = set()  # those in `closed` that only clients know
        self.received: dict[str, Handled] = {}
        self.sent: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def count_sent(self, message: Any, times: int = 1) -> None:
        """Count a message that went, or waits to go, to so many clients."""
        if type(message) is dict:  # `type_of`, written out: one call less for every message
            name = message.get("type")
        elif isinstance(message, msgspec.Struct):
            name = message.__struct_config__.tag
        else:
            name = None
        if not isinstance(name, str):
            name = UNTYPED
        sent = self.sent
        if name not in sent and len(sent) >= MOST_TYPES:
            name = OTHER
        sent[name] += times

    def count_sent_type(self, name: str, times: int = 1) -> None:
        """`count_sent` for a message whose type is known."""
        sent = self.sent
        if name not in sent and len(sent) >= MOST_TYPES:
            name = OTHER
        sent[name] += times

    def count_closed(self, code: int, *, by_client: bool) -> None:
        """Count a connection that ended.

        A client may close with any of two thousand codes. What counts apart is what the
        standard, the library and the application name, and the first few of the rest.

        Args:
            code: Its close code.
            by_client: Whether the client chose it.
        """
        key: int | str = code
        if by_client and code not in _KNOWN_CODES and code not in self.closed:
            if len(self._client_codes) < MOST_CLIENT_CODES:
                self._client_codes.add(code)
            else:
                key = OTHER
        elif code not in self.closed and len(self.closed) >= MOST_TYPES:
            key = OTHER
        self.closed[key] += 1

    def count_error(self, name: str) -> None:
        """Count a handler that raised what it should not have, by its message type."""
        if name not in self.errors and len(self.errors) >= MOST_TYPES:
            name = OTHER
        self.errors[name] += 1

    def handling(self, message_type: str) -> Handled:
        """Count a message that a handler takes; the caller adds the seconds."""
        handled = self.received.get(message_type)
        if handled is None:
            handled = self.received[message_type] = Handled()
        handled.count += 1
        return handled

    def status(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {
            "accepted": self.accepted,
            "denied": self.denied,
            "closed": {str(code): count for code, count in self.closed.items()},
            "received": {name: handled.count for name, handled in self.received.items()},
            "sent": dict(self.sent),
            "dropped": dict(self.dropped),
            "errors": dict(self.errors),
            "handler_seconds": {name: each.seconds for name, each in self.received.items()},
        }
