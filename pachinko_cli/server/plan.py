"""What `pachinko serve` was asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pachinko_cli.console import Console

# How long a handler that does not end by itself may hold up a save, and a production stop.
_GRACE_WITH_RELOAD = 1
_GRACE = 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to serve and how; the same for every reload, and handed to every child process.

    `uvicorn` holds the arguments of `uvicorn.Config` that the user gave; they go before ours.
    """

    root: Path
    app: str
    host: str
    console: Console
    reload: bool = True
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
            "timeout_graceful_shutdown": _GRACE_WITH_RELOAD if self.reload else _GRACE,
            **self.uvicorn,
        }
