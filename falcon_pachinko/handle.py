"""What `install` returns: an app's WebSocket side, with types."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import falcon
import falcon.asgi

from falcon_pachinko.errors import ResourceTypeError, RouteConflictError, UnknownRouteError
from falcon_pachinko.limits import Limits
from falcon_pachinko.manager import WebSocketConnectionManager
from falcon_pachinko.resource import WebSocketResource
from falcon_pachinko.routing import (
    Declaration,
    Line,
    ResourceFactory,
    Route,
    Site,
    WebSocketRouter,
    find_named,
)
from falcon_pachinko.session.admission import Admission
from falcon_pachinko.standins import SharedPath, http_routes, shown_as
from falcon_pachinko.typing import Scope
from falcon_pachinko.workers import Worker, WorkerController

__all__ = ["Pachinko"]

log = logging.getLogger("falcon_pachinko")


class Pachinko:
    """What `install` returns: the app's WebSocket side, with types.

    The app itself has the same methods; a type checker only knows them here, or
    on `falcon_pachinko.App`.
    """

    def __init__(
        self,
        app: falcon.asgi.App[Any, Any],
        options: Mapping[str, Any],
        falcons_add_route: Callable[..., None],
    ) -> None:
        self.app = app
        self._falcons_add_route = falcons_add_route
        self.options = options
        """What `install` was called with, by name, the defaults included."""
        self.limits: Limits = options["limits"]
        self.ws_connection_manager = WebSocketConnectionManager(
            self.limits,
            options["backend"],
            enc_hook=options["enc_hook"],
            dec_hook=options["dec_hook"],
        )
        """Who is connected to this app, and the way to send to them."""
        self.routes: list[Route] = []
        """The WebSocket routes, in the order in which they were added."""
        self.started = False
        """Whether `start` has run: the app's lifespan does it."""
        self.controller = WorkerController(
            self.ws_connection_manager,
            stop_timeout=self.limits.shutdown_timeout,
            backend=self.ws_connection_manager._cluster.backend,
        )
        self.ws_connection_manager._gauges["workers"] = self.controller.status
        self.admission = Admission(
            options["origins"], options["allowed_hosts"], options["authenticate"]
        )
        self._warned = False
        # What serves each path, by its template; Falcon's router does not say.
        self._by_template: dict[str, Route] = {}
        self._http: dict[str, tuple[object, dict[str, Any]]] = {
            template: (resource, given)
            for template, resource, given in http_routes(app._router)  # no public one
        }
        router_options = getattr(app._router, "options", None)  # see above
        self._site = Site(
            self.ws_connection_manager,
            self.limits,
            self.admission,
            hooks=options["hooks"],
            resource_factory=options["resource_factory"],
            dec_hook=options["dec_hook"],
            converters=getattr(router_options, "converters", None),
        )
        self._root = WebSocketRouter()
        self._root.mount("", (), self._site.hooks, self._add_route)

    @property
    def workers(self) -> list[Worker]:
        """The workers, in the order in which they were added."""
        return list(self.controller.workers.values())

    def add_websocket_route(
        self,
        template: str,
        resource: ResourceFactory | WebSocketRouter,
        *,
        name: str | None = None,
        limits: Limits | None = None,
        **init_kwargs: Any,
    ) -> Declaration | WebSocketRouter:
        """Serve WebSockets at a path.

        The route is one of Falcon's own: converters work, `falcon.inspect` lists
        it, and middleware runs.

        Args:
            template: A path as for ``add_route``, such as ``"/ws/chat/{room_name}"``;
                its fields are arguments of ``on_connect``. For a router, a prefix.
            resource: A `WebSocketResource` subclass, or a function that returns an
                instance of one, so that each connection gets an instance of its own;
                or a `WebSocketRouter`.
            name: What `url_for` calls it; by default the name of the class. A resource
                with an argument called ``name`` or ``limits`` gets it from
                ``functools.partial(Notes, name="tea")``.
            limits: Limits that override the app's for this route and the routes nested
                under it; fields that are not named here keep the app's values.
            init_kwargs: What the resource is made with.

        Returns:
            The declaration, to nest routes under it with ``add_route``; or the router.

        Raises:
            ResourceTypeError: It is not such a class or function, is abstract, or cannot be
                made with these arguments.
            HandlerDefinitionError: ``on_connect`` does not take the template's fields.
            RouteConflictError: Another resource serves WebSockets on that path. (An HTTP
                resource may share it.)
            RouteTemplateError: No path could match the template.
        """
        return self._root.add_route(template, resource, name=name, limits=limits, **init_kwargs)

    def _add_route(self, line: Line, hooks: tuple[object, ...]) -> None:
        resource = line[-1][1].resource
        route: Route = shown_as(resource, Route)(line, hooks, self._site)
        template, name = route.template, resource.__name__
        if template in self._by_template:
            owner = self._by_template[template].resource.__name__
            raise RouteConflictError(template, name, f"{owner} has that path already")
        there = self._http.get(template)
        try:
            if there is None:
                self._falcons_add_route(template, route)
            else:
                http, given = there
                self._falcons_add_route(
                    template, self._share(template, http, given, route), **given
                )
        except RouteConflictError:
            raise
        except (ValueError, TypeError) as error:
            raise RouteConflictError(template, name, str(error)) from None
        self._by_template[template] = route
        self.routes.append(route)

    def add_http_route(self, template: str, resource: object, **given: Any) -> None:
        """Add an HTTP route as Falcon does, beside a WebSocket route if there is one.

        Raises:
            ResourceTypeError: It serves WebSockets; says how to add it.
            RouteConflictError: It serves WebSockets with an ``on_websocket`` of its own, as
                does a WebSocket route.
        """
        kind = resource if isinstance(resource, type) else type(resource)
        if issubclass(kind, (WebSocketRouter, WebSocketResource)):
            shown = "router" if issubclass(kind, WebSocketRouter) else kind.__name__
            raise ResourceTypeError(
                str(template),
                resource,
                f"it serves WebSockets; write add_websocket_route({template!r}, {shown})",
            )
        route = self._by_template.get(template)
        if route is None:
            self._falcons_add_route(template, resource, **given)
        else:
            shared = self._share(template, resource, given, route)
            self._falcons_add_route(template, shared, **given)
        self._http[template] = (resource, given)

    def _share(
        self, template: str, http: object, given: Mapping[str, Any], route: Route
    ) -> SharedPath:
        """Serve a path's HTTP by one resource and its WebSockets by another."""
        suffix = given.get("suffix")
        responder = f"on_websocket_{suffix}" if suffix else "on_websocket"
        name, other = type(http).__name__, route.resource.__name__
        if hasattr(http, responder):
            why = f"{name}.{responder} serves WebSockets there"
            raise RouteConflictError(template, other, why)
        shared: SharedPath = shown_as(type(http), SharedPath)(http, route)
        return shared

    def url_for(self, name: str, /, **params: object) -> str:
        """Return the path of a route, with its fields filled in and quoted.

        The path leads back to the route with the same values: fields with a converter
        are written as that converter reads them. It has no prefix that a proxy or the
        server's ``root_path`` may add.

        Args:
            name: The route's ``name``, or the name of its resource's class.
            params: The fields of its template, all of them.

        Raises:
            UnknownRouteError: No WebSocket route has that name.
            SetupError: Several have it.
            TypeError: A field is missing, or one too many, or is not something that can
                be written as text.
            ValueError: No path has these values: a ``/`` in a plain field, a number out
                of its converter's range, ...

        Example::

            app.add_websocket_route('/rooms/{room}/{day:dt("%Y-%m-%d")}', Room)
            app.url_for("Room", room="tea room", day=date(2030, 1, 2))
            # "/rooms/tea%20room/2030-01-02"
        """
        return find_named(self.routes, name).path(**params)

    def create_websocket_resource(self, path: str) -> WebSocketResource:
        """Make a resource as a connection to a path would get it, for a test or a tool.

        Args:
            path: A template as it was added, or a path that one of them matches.

        Raises:
            UnknownRouteError: No WebSocket route has it.
            SetupError: The app's ``resource_factory`` is a coroutine function that waits.
        """
        route = self._by_template.get(path) or self.find_route(path)
        if route is None:
            raise UnknownRouteError(path, list(self._by_template))
        return route.create_resource()

    def find_route(self, path: str) -> Route | None:
        """Return the WebSocket route that a path leads to, if it is one of ours."""
        found = self.app._router.find(path)  # Falcon has no public look-up
        resource = None if found is None else found[0]
        if isinstance(resource, SharedPath):
            return cast("Route", resource.route)
        return resource if isinstance(resource, Route) else None

    def add_websocket_worker(
        self,
        function: Callable[..., Awaitable[Any]],
        *args: Any,
        name: str | None = None,
        **options: Any,
    ) -> Worker:
        """Run a coroutine function beside the app, from its startup to its shutdown.

        See `WorkerController.add` for the options. With no arguments of its own it
        is called with the app's connection manager.
        """
        return self.controller.add(function, *args, name=name, **options)

    def expect_started(self) -> None:
        """Warn, once, if clients come although the lifespan never ran, where that matters."""
        if self.started or self._warned:
            return
        asleep = [f"its workers ({', '.join(self.controller.workers)})"]
        if not self.controller.workers or self.controller.started:
            asleep = []
        cluster = self.ws_connection_manager._cluster
        if cluster.backend.shared and cluster.alone:
            asleep.append(f"its backend ({cluster.backend.name}), so it is alone")
        if asleep:
            self._warned = True
            log.warning(
                "the app's lifespan has not run, so these were not started: %s. Have the server "
                "run it (uvicorn: --lifespan on); where this app is mounted in another one, call "
                "`await pachinko.start()` and `.stop()` of what install() returned in that one's "
                "lifespan",
                " and ".join(asleep),
            )

    def refuses_elsewhere(self, scope: Scope) -> falcon.HTTPForbidden | None:
        """Return why a handshake on a route that is not ours is denied: its Host; None if not.

        What an ``on_websocket`` of the application's own serves needs ``allowed_hosts`` as much
        as HTTP does. On our routes, the session asks, after the middleware.
        """
        if self.options["allowed_hosts"] is None:
            return None
        found = self.app._router.find(scope["path"])  # Falcon has no public look-up
        if found is None or isinstance(found[0], (Route, SharedPath)):
            return None
        try:
            self.admission.check_host(scope)
        except falcon.HTTPForbidden as refusal:
            return refusal
        return None

    def may_read(self, scope: Scope) -> bool:
        """Tell whether a client may be told why it was denied, in a way that a page can read."""
        readable: bool = self.options["readable_denials"]
        return readable and self.admission.admits(scope)

    def without_root_path(self, scope: Scope) -> Scope:
        """Take the server's ``root_path`` off a path that begins with it.

        A path that a route matches as it came is left alone: a proxy has taken the prefix
        off already, and the route happens to begin like it.
        """
        root: str = (scope.get("root_path") or "").rstrip("/")
        path: str = scope["path"]
        if not root or not (path + "/").startswith(root + "/"):
            return scope
        if self.app._router.find(path) is not None:  # Falcon has no public look-up
            return scope
        changed = {**scope, "path": path[len(root) :] or "/"}
        raw, quoted = scope.get("raw_path"), root.encode()
        if raw is not None and raw.startswith(quoted):
            changed["raw_path"] = raw[len(quoted) :] or b"/"
        return changed

    async def start(self) -> None:
        """Join the other processes and start the workers; the app's lifespan does it.

        Raises:
            BackendError: The backend is required, and cannot be reached.
        """
        await self.ws_connection_manager.start()
        await self.controller.start()
        self.started = True

    async def stop(self) -> None:
        """Stop the workers, close who is connected, and wait for all clean-ups."""
        self.started = False
        await self.controller.stop()
        await self.ws_connection_manager.stop()
