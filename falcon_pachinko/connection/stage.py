"""How far a connection is: the stages of its life, and which may follow each."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

__all__ = ["CLOSED", "CLOSING", "CONNECTING", "FORGOTTEN", "NEXT", "OPEN", "Stage"]


class Stage(enum.IntEnum):
    """How far a connection is; the outbox alone moves it, and only as `NEXT` says."""

    CONNECTING = 0
    """The handshake is unanswered; what is sent waits for the accept."""
    OPEN = 1
    """Accepted: frames go both ways."""
    CLOSING = 2
    """A close frame is on its way, behind the frames that wait; no other frame is taken."""
    CLOSED = 3
    """Nothing is sent any more: the close frame is sent, or the client is gone."""
    FORGOTTEN = 4
    """It has left its rooms, and its handlers have ended; ``on_disconnect`` runs, or ran."""


CONNECTING: Final = Stage.CONNECTING
OPEN: Final = Stage.OPEN
CLOSING: Final = Stage.CLOSING
CLOSED: Final = Stage.CLOSED
FORGOTTEN: Final = Stage.FORGOTTEN

NEXT: Mapping[Stage, frozenset[Stage]] = {
    CONNECTING: frozenset({OPEN, CLOSING, CLOSED}),
    OPEN: frozenset({CLOSING, CLOSED}),
    CLOSING: frozenset({CLOSED}),
    CLOSED: frozenset({FORGOTTEN}),
    FORGOTTEN: frozenset(),
}
"""Which stages may follow each; `docs/explanation/architecture.md` draws it."""
