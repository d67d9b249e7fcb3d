"""Cutting a connection off at the server's transport, best effort.

The transport is reached through the server's own ``send``: uvicorn's three back ends
have one. Elsewhere nothing happens here, and the server closes in its own time.
"""

from __future__ import annotations

import asyncio
from typing import Any

from falcon_pachinko.typing import AsgiSend

__all__ = ["cut"]


def cut(send: AsgiSend, *, unread_after: float | None = None) -> None:
    """Cut the connection, whatever waits.

    Args:
        send: The server's.
        unread_after: Do it only after so many seconds, and only if there are bytes now that
            the client has not read.
    """
    transport: Any = getattr(getattr(send, "__self__", None), "transport", None)
    if not hasattr(transport, "get_write_buffer_size"):
        return
    if unread_after is None:
        transport.abort()
    elif transport.get_write_buffer_size() > 0:
        asyncio.get_running_loop().call_later(unread_after, transport.abort)
