"""What a running app answers, for the banner and for `--json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pachinko_cli.server.plan import Plan


@dataclass(frozen=True)
class WebSocketRoute:
    """One route that accepts WebSockets; `message_types` is empty where nobody declared them."""

    template: str
    resource: str
    message_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class Overview:
    """The app's routes and workers in plain words, so that one process can tell another.

    `http_routes` counts templates and static folders; sinks answer anything and count for nothing.
    """

    http_routes: int = 0
    websocket_routes: tuple[WebSocketRoute, ...] = ()
    workers: tuple[str, ...] = ()


def of(app: Any) -> Overview:
    """What there is to know about `app`; nothing, when it is no Falcon application.

    Its WebSocket routes are those that `falcon_pachinko` knows, with their message types, and
    those of resources with a plain `on_websocket`.
    """
    import falcon.asgi  # noqa: PLC0415 - only after the app, so that its own imports fail first
    import falcon.inspect  # noqa: PLC0415

    from falcon_pachinko.extension import installed  # noqa: PLC0415

    if not isinstance(app, falcon.asgi.App):
        return Overview()
    pachinko = installed(app)
    known = {
        route.template: WebSocketRoute(
            route.template, route.resource.__name__, tuple(route.message_types)
        )
        for route in (pachinko.routes if pachinko else ())
    }
    try:
        routes = falcon.inspect.inspect_routes(app)
    except TypeError:  # a router of the user's own, into which Falcon cannot look
        routes = []
    http_routes = len(falcon.inspect.inspect_static_routes(app))
    for route in routes:
        methods = {method.method for method in route.methods if not method.internal}
        if "WEBSOCKET" in methods:
            known.setdefault(route.path, WebSocketRoute(route.path, route.class_name))
        http_routes += bool(methods - {"WEBSOCKET"})
    return Overview(
        http_routes,
        tuple(known.values()),
        tuple(worker.name for worker in (pachinko.workers if pachinko else ())),
    )


def url(host: str, port: int, *, secure: bool) -> str:
    """Where a browser on this machine finds the server.

    >>> url("0.0.0.0", 8000, secure=False)
    'http://127.0.0.1:8000'
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - no bind here
    return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def announce(plan: Plan, overview: Overview, page: str, shown: Overview | None) -> None:
    """Print the banner, or a single line when the last banner, `shown`, said the same."""
    sockets = page.replace("http", "ws", 1)
    plan.console.event("serving", app=plan.app, url=page, websocket_url=sockets, **asdict(overview))
    if overview == shown:
        plan.console.line("Ready again", style="dim")
        return
    say = plan.console.line
    say(f"Serving {plan.app}", style="bold")
    say(f"  page       {page}")
    width = max((len(route.template) for route in overview.websocket_routes), default=0)
    for route in overview.websocket_routes:
        types = f": {', '.join(route.message_types)}" if route.message_types else ""
        say(f"  websocket  {sockets}{route.template:<{width}}  {route.resource}{types}")
    say(f"  http       {overview.http_routes} route{'s'[: overview.http_routes != 1]}")
    if overview.workers:
        say(f"  workers    {', '.join(overview.workers)}")
    if plan.reload:
        say(f"Saving a .py file in {plan.root} reloads it. Ctrl-C ends it.")
