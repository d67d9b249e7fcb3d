"""Cutting a connection off at the server's transport, best effort.

The transport is reached through the server's own ``send``: uvicorn's three back ends
have one. Elsewhere nothing happens here, and the server closes in its own time.
"""

from __future__ import annotations

import asyncio
from typing import Any

from falcon_pachinko.typing import AsgiSend

__all__ = ["cut", "cut_unread"]


def cut(send: AsgiSend) -> None:
    """Cut the connection, whatever waits."""
    transport = _transport_of(send)
    if transport is not None:
        transport.abort()


def cut_unread(send: AsgiSend, seconds: float) -> None:
    """Cut the connection after some seconds, if the client has bytes to read now."""
    transport = _transport_of(send)
    if transport is not None and transport.get_write_buffer_size() > 0:
        asyncio.get_running_loop().call_later(seconds, transport.abort)


def _transport_of(send: AsgiSend) -> Any:
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    return transport if hasattr(transport, "get_write_buffer_size") else None
