"""Saying once that something fails, for as long as it does."""

from __future__ import annotations

import logging
from collections.abc import Callable

from falcon_pachinko.clock import monotonic

__all__ = ["Outage"]

QUIET = 10.0
"""Seconds after a WARNING in which there is no second one, even if there was a success between."""


class Outage:
    """A failure that may last: one WARNING tells of it, the rest is on DEBUG and counted.

    Args:
        clock: What tells the time, in seconds.

    Example::

        outage = Outage()
        outage.report(log, "could not read %.200r: %s", room, error)  # a WARNING
        outage.report(log, "could not read %.200r: %s", room, error)  # DEBUG
        outage.over()  # the next one is news again
    """

    __slots__ = ("_clock", "_ongoing", "_quiet_until", "suppressed")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._ongoing = False
        self._quiet_until = float("-inf")
        self.suppressed = 0
        """How many reports since the last WARNING were on DEBUG only."""

    def report(self, log: logging.Logger, message: str, *args: object) -> None:
        """Log a failure: as a WARNING if it is news, else on DEBUG."""
        now = self._clock()
        if self._ongoing or now < self._quiet_until:
            self.suppressed += 1
            log.debug(message, *args)
            return
        if self.suppressed:
            message += " (%d more since the last warning)"
            args = (*args, self.suppressed)
        self._ongoing, self.suppressed = True, 0
        self._quiet_until = now + QUIET
        log.warning(message, *args)

    def over(self) -> None:
        """Note a success: a failure after this is another outage."""
        self._ongoing = False
