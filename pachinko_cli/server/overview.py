"""What a running app answers, for the banner and for `--json`."""

from __future__ import annotations

import re
import threading
import webbrowser
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pachinko_cli.console import warn
from pachinko_cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Callable

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
    `backend` is what joins the rooms of several processes, None where nothing does.
    `allowed_hosts` are the names that requests may be for, None for any.
    """

    http_routes: int = 0
    websocket_routes: tuple[WebSocketRoute, ...] = ()
    workers: tuple[str, ...] = ()
    backend: str | None = None
    allowed_hosts: tuple[str, ...] | None = None


def of(app: Any) -> Overview:
    """What there is to know about `app`; nothing, when it is no Falcon application.

    Its WebSocket routes are those that `falcon_pachinko` knows, with their message types, and
    those of resources with a plain `on_websocket`.
    """
    import falcon.asgi  # noqa: PLC0415 - only after the app, so that its own imports fail first
    import falcon.inspect  # noqa: PLC0415 - see above

    from falcon_pachinko.app import installed  # noqa: PLC0415 - see above

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
        _backend(pachinko.ws_connection_manager) if pachinko else None,
        pachinko.options["allowed_hosts"] if pachinko else None,
    )


def _backend(manager: Any) -> str | None:
    """The name of what joins the manager's process with others, if anything does."""
    backend = manager._cluster.backend  # noqa: SLF001 - `status` tells its state, and not its name
    return str(backend.name) if backend.shared else None


def url(host: str, port: int, *, secure: bool) -> str:
    """Where a browser on this machine finds the server.

    >>> url("0.0.0.0", 8000, secure=False)
    'http://127.0.0.1:8000'
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - no bind here
    return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def open_page(page: str) -> None:
    """Open the page in the user's browser."""
    # A browser in the terminal would block: not whoever serves, please.
    threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()


def announcer(
    plan: Plan, shown: Overview | None = None, *, keys: bool = False
) -> Callable[[Overview, str], None]:
    """What announces an app that is ready, and opens its page if that was asked for.

    The banner, or a single line when the last banner, `shown`, said the same; with `keys` it names
    those that do something.
    """

    def announce(overview: Overview, page: str) -> None:
        _announce(plan, overview, page, shown, keys=keys)
        if plan.open_page and shown is None:
            open_page(page)

    return announce


def _announce(
    plan: Plan, overview: Overview, page: str, shown: Overview | None, *, keys: bool
) -> None:
    sockets = page.replace("http", "ws", 1)
    plan.console.event(
        "serving",
        app=plan.app,
        url=page,
        websocket_url=sockets,
        processes=plan.processes,
        **asdict(overview),
    )
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
    if plan.processes > 1:
        rooms = f"joined by {overview.backend}" if overview.backend else "each has its own rooms"
        say(f"  processes  {plan.processes}, {rooms}; they do not reload")
    if plan.trace:
        say("  trace      every frame, on stderr")
    if keys:
        say("  keys       r restart, o open the page, q quit")
    if plan.reload:
        say(f"Saving a .py file in {plan.root} reloads it. Ctrl-C ends it.")
    else:
        say(f"Ctrl-C ends it; clients get up to {plan.drain:g} s for that.")
    _warn_of_hosts(plan, overview)


def _warn_of_hosts(plan: Plan, overview: Overview) -> None:
    """Say so if requests for the host that is served are going to be refused."""
    host, allowed = plan.host, overview.allowed_hosts
    everywhere = host in {"0.0.0.0", "::"}  # noqa: S104 - no bind here
    if allowed is None or (everywhere and not _LOOPBACK.issuperset(allowed)):
        return
    if not everywhere and any(_is_for(host, pattern) for pattern in allowed):
        return
    which = "from other machines" if everywhere else f"for {host}"
    package = re.split("[.:]", plan.app)[0]
    warn(
        CliError(
            f"requests {which} are going to be refused: allowed_hosts is {', '.join(allowed)}",
            hint="name this server there: install(app, allowed_hosts=[...]); in a project made "
            f"by pachinko new, set {package.upper()}_ALLOWED_HOSTS",
        )
    )


_LOOPBACK = {"localhost", "127.0.0.1", "[::1]", "::1"}


def _is_for(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return pattern in {host, f"[{host}]"}
