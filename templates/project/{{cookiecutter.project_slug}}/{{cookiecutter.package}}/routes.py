"""The paths of the app, and the resources that serve them."""

from pathlib import Path

from falcon_pachinko import App, WebSocketResource

from .resources.chat import ChatRoom
from .resources.health import Health
from .resources.page import Page

# WebSocket paths.  Every connection gets its own instance of the resource.
ROUTES: list[tuple[str, type[WebSocketResource]]] = [
    ("/ws/chat/{room_name}", ChatRoom),
]


def add_routes(app: App) -> None:
    """Add the paths: HTTP first, then WebSockets from the table."""
    static = Path(__file__).parent / "static"
    app.add_route("/", Page(static / "index.html"))
    app.add_route("/health", Health())
    app.add_static_route("/static", static)
    for path, resource in ROUTES:
        app.add_websocket_route(path, resource)
