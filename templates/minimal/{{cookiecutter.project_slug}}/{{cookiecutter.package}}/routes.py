"""The paths of the app, and the resources that serve them."""

from falcon_pachinko import App, WebSocketResource

from .resources.echo import Echo
from .resources.health import Health

# WebSocket paths.  Every connection gets its own instance of the resource.
ROUTES: list[tuple[str, type[WebSocketResource]]] = [
    ("/ws/echo", Echo),
]


def add_routes(app: App) -> None:
    """Add the paths: HTTP first, then WebSockets from the table."""
    app.add_route("/health", Health())
    for path, resource in ROUTES:
        app.add_websocket_route(path, resource)
