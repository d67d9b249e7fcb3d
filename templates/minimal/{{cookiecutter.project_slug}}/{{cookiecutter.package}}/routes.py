"""Where everything is: the paths of the app, and what answers them."""

from falcon_pachinko import App, WebSocketResource

from .resources.echo import Echo
from .resources.health import Health

# WebSocket paths.  Every connection gets a resource of its own.
ROUTES: list[tuple[str, type[WebSocketResource]]] = [
    ("/ws/echo", Echo),
]


def add_routes(app: App) -> None:
    """Give the app its paths: HTTP first, then WebSockets from the table."""
    app.add_route("/health", Health())
    for path, resource in ROUTES:
        app.add_websocket_route(path, resource)
