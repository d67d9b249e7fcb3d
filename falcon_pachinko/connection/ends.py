"""How a connection may end: the codes, the reasons beside them, and how long an end may take."""

from __future__ import annotations

from typing import Protocol

__all__ = [
    "ABNORMAL",
    "CLOSE_WAIT",
    "STAND_IN_CODES",
    "Watcher",
    "check_close_code",
    "fit_reason",
]

CLOSE_WAIT = 0.5
"""Seconds that the other side has to take note of an end before it is forced on it."""

ABNORMAL = 1006
"""The close code of a connection that ended without a close frame (RFC 6455, 7.1.5)."""

STAND_IN_CODES = {1001: 3503, 1008: 3403, 1009: 3413, 1012: 3503, 1013: 3503}
"""A server that sends no codes between 1001 and 2999 (Daphne) gets the code of a denial that says
the same; else the client would never be told of its end."""

_REASON_BYTES = 123  # RFC 6455, 5.5: a control frame has 125 bytes, the code takes two


def fit_reason(reason: str) -> str:
    """Cut a close reason to the 123 bytes a close frame has room for (RFC 6455, 5.5).

    The cut falls between characters, so the result is always valid UTF-8 and
    never longer than 123 bytes; a short reason comes back unchanged.

    >>> len(fit_reason("é" * 100).encode())
    122
    """
    data = reason.encode("utf-8", "replace")
    return data[:_REASON_BYTES].decode("utf-8", "ignore")


def check_close_code(code: int) -> None:
    """Refuse a code that no endpoint may put into a close frame (RFC 6455, 7.4).

    Raises:
        ValueError: It is not 1000-1003, 1007-1014 or 3000-4999.
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"a close code is a whole number, not {code!r:.200}")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ValueError(
            f"{code} cannot be sent as a close code; use 1000-1003, 1007-1014 or, "
            "for the application's own, 4000-4999"
        )


class Watcher(Protocol):
    """What an outbox tells of its end; the session is one, a floor above."""

    def closing(self, *, patient: bool) -> None:
        """Note that we have begun to close; unless patient, handlers are to end at once."""

    def closed(self) -> None:
        """Note that nothing more will be sent."""
