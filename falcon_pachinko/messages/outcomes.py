"""What the exceptions that come out of handlers mean for the client."""

from __future__ import annotations

import falcon

from falcon_pachinko.errors import MessageError

__all__ = ["sole_error"]


def sole_error(group: BaseExceptionGroup) -> MessageError | falcon.HTTPError | None:
    """Return the one error for the client that a group holds, or None.

    An `asyncio.TaskGroup` raises a group even where a single task failed; a handler
    that uses one refuses a message as it does without.

    >>> sole_error(ExceptionGroup("tasks", [MessageError("sold_out")])).code
    'sold_out'
    """
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        if len(inner.exceptions) != 1:
            return None
        inner = inner.exceptions[0]
    return inner if isinstance(inner, (MessageError, falcon.HTTPError)) else None
