"""What `pachinko serve` was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pachinko_cli.console import Console

DRAIN_SECONDS = 20.0

# How long a handler that does not end by itself may hold up a save, and what is busy when a drain
# is over.
_GRACE = 1.0

# What the app's own shutdown gets after all that, before its process is killed.
_SHUTDOWN_WITH_RELOAD, _SHUTDOWN = 4.0, 30.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to serve and how; the same for every reload, and handed to every child process.

    `drain` is how many seconds clients have when the server stops; only without `reload`.
    `processes` is how many serve the one port.  `uvicorn` holds the arguments of `uvicorn.Config`
    that the user gave; they go before ours.
    """

    root: Path
    app: str
    host: str
    console: Console
    reload: bool = True
    processes: int = 1
    drain: float = DRAIN_SECONDS
    trace: bool = False
    open_page: bool = False
    uvicorn: dict[str, Any]

    def options(self) -> dict[str, Any]:
        """The arguments for `uvicorn.Config`: what it leaves open, set, and then the user's."""
        return {
            # Refused with 1009 before it is whole in memory; uvicorn's own limit is 16 MiB.
            "ws_max_size": 65_536,
            # It doubles the memory of an idle connection, and lets a client turn a few kilobytes
            # on the wire into a thousand times as many here.
            "ws_per_message_deflate": False,
            # Without one, a handler that is not receiving holds up a reload, and SIGTERM, for ever.
            "timeout_graceful_shutdown": _GRACE,
            **self.uvicorn,
        }

    @property
    def patience(self) -> float:
        """Seconds after which a process that was asked to end is killed."""
        grace: float = self.options()["timeout_graceful_shutdown"]
        return grace + (_SHUTDOWN_WITH_RELOAD if self.reload else self.drain + _SHUTDOWN)
