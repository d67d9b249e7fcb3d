"""What runs beside the connections: one file a worker, started and stopped with the app."""

from collections.abc import Awaitable, Callable

from falcon_pachinko import App, WebSocketConnectionManager

from ..config import Config
from .announcements import announce

Worker = Callable[[WebSocketConnectionManager, Config], Awaitable[None]]

# Coroutine functions.  Each is called with the connection manager and the config.
WORKERS: list[Worker] = [
    announce,
]


def add_workers(app: App, config: Config) -> None:
    """Register every worker; the app starts them, and awaits their end when it stops."""
    for worker in WORKERS:
        app.add_websocket_worker(worker, app.ws_connection_manager, config)
