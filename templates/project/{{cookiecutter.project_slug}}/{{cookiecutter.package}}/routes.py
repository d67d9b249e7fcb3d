"""Where everything is: the paths of the app, and what answers them."""

from pathlib import Path

from falcon_pachinko import App, WebSocketResource

from .resources.chat import ChatRoom
from .resources.health import Health
from .resources.page import Page

# WebSocket paths.  Every connection gets a resource of its own.
ROUTES: list[tuple[str, type[WebSocketResource]]] = [
    ("/ws/chat/{room_name}", ChatRoom),
]


def add_routes(app: App) -> None:
    """Give the app its paths: HTTP first, then WebSockets from the table."""
    static = Path(__file__).parent / "static"
    app.add_route("/", Page(static / "index.html"))
    app.add_route("/health", Health())
    app.add_static_route("/static", static)
    for path, resource in ROUTES:
        app.add_websocket_route(path, resource)
