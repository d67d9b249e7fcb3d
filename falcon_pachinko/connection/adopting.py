"""A plain `falcon.asgi.WebSocket`, served by the application itself, as a connection of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.limits import Limits
from falcon_pachinko.typing import AsgiEvent

if TYPE_CHECKING:
    from falcon.asgi import WebSocket

__all__ = ["adopt"]


def adopt(connection_id: str, ws: WebSocket, manager: Any, limits: Limits) -> Connection:
    """Wrap a plain Falcon WebSocket, so that it can be sent to like any connection."""

    async def send(event: AsgiEvent) -> None:
        if event["type"] == "websocket.close":
            await ws.close(event["code"], event["reason"] or None)
        elif "text" in event:
            await ws.send_text(event["text"])
        else:
            await ws.send_data(event["bytes"])

    connection = Connection(
        connection_id,
        send,
        manager,
        limits=limits,
        subprotocols=getattr(ws, "subprotocols", ()),
        is_open=True,
    )
    # Falcon does not keep what was agreed on; the gate, to which its send leads, does.
    gate = getattr(getattr(ws, "_asgi_send", None), "__self__", None)
    agreed = getattr(gate, "subprotocol", None)
    if isinstance(agreed, str):
        connection._speak(agreed, manager._codecs.of(agreed))
    return connection
