"""The time and the chance that the library goes by: the machine's, unless a test brings its own.

Timers are the event loop's affair. What is compared with a moment that was noted before, and what
is drawn at random, is asked for here. So a test's virtual clock can answer instead, on its
own loop only: there, an hour passes at once, and one script has one outcome.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from typing import Protocol

__all__ = ["SOURCES", "Nature", "monotonic", "token_hex", "uniform"]


class Nature(Protocol):
    """What tells the time and rolls the dice on one event loop."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""

    def uniform(self, low: float, high: float) -> float:
        """Return a number between two others."""

    def token_hex(self, size: int) -> str:
        """Return that many random bytes in hexadecimal digits."""


SOURCES: dict[asyncio.AbstractEventLoop, Nature] = {}
"""What replaces the machine's on a loop. Empty in production, so that asking costs no look-up."""


def monotonic() -> float:
    """Return the seconds of a clock that never goes back, from an arbitrary beginning."""
    if SOURCES and (source := _source()) is not None:
        return source.monotonic()
    return time.monotonic()


def uniform(low: float, high: float) -> float:
    """Return a random number between two others; it keeps processes apart, and guards no secret."""
    if SOURCES and (source := _source()) is not None:
        return source.uniform(low, high)
    return random.uniform(low, high)  # noqa: S311  # as the docstring says


def token_hex(size: int) -> str:
    """Return a name that is not given twice: ``size`` random bytes in hexadecimal digits."""
    if SOURCES and (source := _source()) is not None:
        return source.token_hex(size)
    return secrets.token_hex(size)


def _source() -> Nature | None:
    try:
        return SOURCES.get(asyncio.get_running_loop())
    except RuntimeError:  # a thread without a loop works for the one loop that there is
        return next(iter(SOURCES.values())) if len(SOURCES) == 1 else None
