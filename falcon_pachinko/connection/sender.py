"""Who sends: the connection on whose behalf code runs, and those that are heard no more."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

__all__ = ["MUTED", "SENDER", "check_sending", "is_muted", "mute"]

SENDER: ContextVar[Any] = ContextVar("falcon_pachinko_sender", default=None)
"""The connection on whose behalf code runs: set once by its session, and inherited by every
task that is made there.  It decides who waits for a client, and for no other client."""

MUTED: dict[Any, set[asyncio.Task[Any]]] = {}
"""The connections that we have closed while handlers of theirs ran, with the tasks of these:
what they send reaches nobody any more.  Nearly always empty, so that a look costs nothing."""


def mute(connection: Any, tasks: set[asyncio.Task[Any]]) -> None:
    """Have what these tasks of a connection send reach nobody; all others are heard again."""
    if tasks:
        MUTED[connection] = tasks
    else:
        MUTED.pop(connection, None)


def is_muted(sender: Any) -> bool:
    """Whether the current task was told to end when the connection, which it is for, closed.

    Those of a handler's own, in a TaskGroup, a gather or a wait_for, are cancelled with it.
    """
    tasks = MUTED.get(sender)
    if not tasks:
        return False
    task = asyncio.current_task()
    return task in tasks or (task is not None and task.cancelling() > 0)


def check_sending(
    latest: str | None, *, volatile: bool, store: bool | None = None, local: bool = False
) -> None:
    """Refuse options of sending that contradict each other, or mean nothing.

    Raises:
        ValueError: They do, or the key is not a non-empty text.
    """
    if latest is not None:
        if volatile:
            raise ValueError("volatile= and latest= exclude each other: choose one")
        if not isinstance(latest, str) or not latest:
            raise ValueError(f"latest={latest!r:.200}: give a non-empty text that names the value")
    if store and (local or volatile or latest is not None):
        what = "local" if local else "volatile" if volatile else "latest"
        raise ValueError(f"store=True with {what}= contradicts itself: a history cannot keep it")
