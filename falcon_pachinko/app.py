"""The way in: `install` gives a Falcon app WebSocket routes, rooms and workers."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import falcon
import falcon.asgi
import falcon.inspect

from falcon_pachinko.backends import Backend
from falcon_pachinko.errors import (
    AlreadyInstalledError,
    BackendError,
    RouteConflictError,
    SetupError,
    UnknownRouteError,
)
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
from falcon_pachinko.session.admission import Admission, Authenticate
from falcon_pachinko.session.gate import Gate
from falcon_pachinko.typing import AsgiEvent, AsgiReceive, AsgiSend, Scope
from falcon_pachinko.workers import Worker, WorkerController

__all__ = ["App", "Pachinko", "install", "installed"]

log = logging.getLogger("falcon_pachinko")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What `install` was called with; two calls are the same if these are equal."""

    backend: Backend | str | None
    limits: Limits
    origins: tuple[str, ...] | None
    allowed_hosts: tuple[str, ...] | None
    authenticate: Authenticate | None
    hooks: tuple[object, ...]
    resource_factory: Callable[..., Any] | None

    @classmethod
    def of(
        cls,
        *,
        backend: Backend | str | None = None,
        limits: Limits | None = None,
        origins: Iterable[str] | str | None = None,
        allowed_hosts: Iterable[str] | str | None = None,
        authenticate: Authenticate | None = None,
        hooks: Iterable[object] = (),
        resource_factory: Callable[..., Any] | None = None,
    ) -> _Options:
        return cls(
            backend=backend,
            limits=limits or Limits(),
            origins=_names(origins),
            allowed_hosts=_names(allowed_hosts),
            authenticate=authenticate,
            hooks=tuple(hooks),
            resource_factory=resource_factory,
        )

    def changed(self, other: _Options) -> list[str]:
        """Name the options in which another call differs."""
        names = (field.name for field in dataclasses.fields(self))
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def _names(given: Iterable[str] | str | None) -> tuple[str, ...] | None:
    return (given,) if isinstance(given, str) else None if given is None else tuple(given)


class Pachinko:
    """What `install` returns: the app's WebSocket side, with types.

    The app itself has the same methods; a type checker only knows them here, or
    on `falcon_pachinko.App`.
    """

    def __init__(self, app: falcon.asgi.App[Any, Any], options: _Options) -> None:
        self.app = app
        self.options = options
        self.limits = limits = options.limits
        self.ws_connection_manager = WebSocketConnectionManager(limits, options.backend)
        """Who is connected to this app, and the way to send to them."""
        self.routes: list[Route] = []
        """The WebSocket routes, in the order in which they were added."""
        self.controller = WorkerController(
            self.ws_connection_manager,
            stop_timeout=limits.shutdown_timeout,
            backend=self.ws_connection_manager._cluster.backend,
        )
        self.ws_connection_manager._add_gauge("workers", self.controller.status)
        self._warned = False
        self._site = Site(
            self.ws_connection_manager,
            limits,
            Admission(options.origins, options.allowed_hosts, options.authenticate),
            hooks=options.hooks,
            resource_factory=options.resource_factory,
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
            name: What `url_for` calls it; by default the name of the class.
            limits: Limits that override the app's for this route and the routes nested
                under it; fields that are not named here keep the app's values.
            init_kwargs: What the resource is made with.

        Returns:
            The declaration, to nest routes under it with ``add_route``; or the router.

        Raises:
            ResourceTypeError: It is no such class or function, or cannot be made
                with these arguments.
            HandlerDefinitionError: ``on_connect`` does not take the template's fields.
            RouteConflictError: Another resource has that path.
        """
        return self._root.add_route(template, resource, name=name, limits=limits, **init_kwargs)

    def _add_route(self, line: Line, hooks: tuple[object, ...]) -> None:
        route = Route(line, hooks, self._site)
        template, name = route.template, route.resource.__name__
        owner = self._owner_of(template)
        if owner is not None:
            raise RouteConflictError(template, name, f"{owner} has that path already")
        try:
            super(_Installed, self.app).add_route(template, route)  # type: ignore[misc]  # the app's own
        except (ValueError, TypeError) as error:
            raise RouteConflictError(template, name, str(error)) from None
        self.routes.append(route)

    def url_for(self, name: str, /, **params: object) -> str:
        """Return the path of a route, with its fields filled in and quoted.

        Args:
            name: The route's ``name``, or the name of its resource's class.
            params: The fields of its template, all of them.

        Raises:
            UnknownRouteError: No WebSocket route has that name.
            SetupError: Several have it.
            TypeError: A field is missing, or one too many.
        """
        return find_named(self.routes, name).path(**params)

    def create_websocket_resource(self, path: str) -> WebSocketResource:
        """Make a resource as a connection to a path would get it, for a test or a tool.

        Args:
            path: A template as it was added, or a path that one of them matches.

        Raises:
            UnknownRouteError: No WebSocket route has it.
        """
        for route in self.routes:
            if route.template == path:
                return route.create_resource()
        found = self.app._router.find(path)  # Falcon has no public look-up
        if found is not None and isinstance(found[0], Route):
            return found[0].create_resource()
        raise UnknownRouteError(path, [route.template for route in self.routes])

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

    def _owner_of(self, template: str) -> str | None:
        """Name what serves a path; Falcon itself would silently put a new resource in its place."""
        for route in self.routes:
            if route.template == template:
                return route.resource.__name__
        if "{" not in template or ":" not in template:  # a path that its own template matches
            found = self.app._router.find(template)  # Falcon has no public look-up
            return type(found[0]).__name__ if found and found[-1] == template else None
        try:
            taken = falcon.inspect.inspect_routes(self.app)  # reads sources, which takes its time
        except TypeError:  # a router of the user's own, which nobody can look into
            return None
        return next((each.class_name for each in taken if each.path == template), None)

    def may_read(self, scope: Scope) -> bool:
        """Tell whether a denied client may be told why, in a way that a web page can read."""
        return self._site.admission.admits(scope)

    def expect_started(self) -> None:
        """Warn, once, if clients come although the workers never started."""
        if self.controller.workers and not self.controller.started and not self._warned:
            self._warned = True
            log.warning(
                "workers are registered but not running: the server did not start the app's "
                "lifespan; with uvicorn, use --lifespan on"
            )

    async def start(self) -> None:
        """Join the other processes and start the workers; the app's lifespan does it.

        Raises:
            BackendError: The backend is required, and cannot be reached.
        """
        await self.ws_connection_manager.start()
        await self.controller.start()

    async def stop(self) -> None:
        """Stop the workers, close who is connected, and wait for all clean-ups."""
        await self.controller.stop()
        await self.ws_connection_manager.stop()


class _Installed:
    """What an app gains by `install`; stands before the app's own class."""

    __slots__ = ()

    _pachinko: Pachinko

    @property
    def ws_connection_manager(self) -> WebSocketConnectionManager:
        """Who is connected to this app, and the way to send to them."""
        return self._pachinko.ws_connection_manager

    def add_websocket_route(
        self,
        template: str,
        resource: ResourceFactory | WebSocketRouter,
        *,
        name: str | None = None,
        limits: Limits | None = None,
        **init_kwargs: Any,
    ) -> Declaration | WebSocketRouter:
        """Serve WebSockets at a path; see `Pachinko.add_websocket_route`."""
        return self._pachinko.add_websocket_route(
            template, resource, name=name, limits=limits, **init_kwargs
        )

    def url_for(self, name: str, /, **params: object) -> str:
        """Return the path of a WebSocket route; see `Pachinko.url_for`."""
        return self._pachinko.url_for(name, **params)

    def create_websocket_resource(self, path: str) -> WebSocketResource:
        """Make a resource as a connection would get it; see `Pachinko`."""
        return self._pachinko.create_websocket_resource(path)

    def add_websocket_worker(
        self,
        function: Callable[..., Awaitable[Any]],
        *args: Any,
        name: str | None = None,
        **options: Any,
    ) -> Worker:
        """Run a coroutine function beside the app; see `Pachinko.add_websocket_worker`."""
        return self._pachinko.add_websocket_worker(function, *args, name=name, **options)

    def add_route(self, uri_template: str, resource: Any, **kwargs: Any) -> None:
        """Add an HTTP route as Falcon does, but never silently over a WebSocket route."""
        for route in self._pachinko.routes:
            if route.template == uri_template:
                why = f"{route.resource.__name__} serves WebSockets there"
                raise RouteConflictError(uri_template, type(resource).__name__, why)
        super().add_route(uri_template, resource, **kwargs)  # type: ignore[misc]  # Falcon's

    async def __call__(self, scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Serve one request, WebSocket or lifespan, as Falcon does."""
        falcons = super().__call__  # type: ignore[misc]  # Falcon's
        kind = scope["type"]
        if kind == "websocket":
            self._pachinko.expect_started()
            pachinko = self._pachinko
            gate = Gate(
                scope, receive, send, pachinko.ws_connection_manager._counters, pachinko.may_read
            )
            try:
                await falcons(scope, receive, gate.send)
            finally:
                gate.leave()
        elif kind == "lifespan":
            try:
                await falcons(scope, *_lifespan(self._pachinko, receive, send))
            finally:  # a server that is itself cancelled sends no shutdown
                await self._pachinko.stop()
        else:
            await falcons(scope, receive, send)


def _lifespan(
    pachinko: Pachinko, receive: AsgiReceive, send: AsgiSend
) -> tuple[AsgiReceive, AsgiSend]:
    """Run the workers within the lifespan: after every startup hook, before every shutdown hook."""

    async def receive_for_falcon() -> AsgiEvent:
        event = await receive()
        if event["type"] == "lifespan.shutdown":
            await pachinko.stop()
        return event

    async def send_for_falcon(event: AsgiEvent) -> None:
        if event["type"] == "lifespan.startup.complete":
            try:
                await pachinko.start()
            except BackendError as error:
                event = {"type": "lifespan.startup.failed", "message": str(error)}
        await send(event)

    return receive_for_falcon, send_for_falcon


class App(_Installed, falcon.asgi.App[Any, Any]):  # type: ignore[misc]  # Falcon wraps __call__
    """A `falcon.asgi.App` with everything installed, for people who use a type checker.

    It takes Falcon's own arguments, and those of `install` by name.

    Example::

        app = App(middleware=[Sessions()], limits=Limits(message_bytes=4096))
        app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
    """

    def __init__(
        self,
        *args: Any,
        backend: Backend | str | None = None,
        limits: Limits | None = None,
        origins: Iterable[str] | str | None = None,
        allowed_hosts: Iterable[str] | str | None = None,
        authenticate: Authenticate | None = None,
        hooks: Iterable[object] = (),
        resource_factory: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        options = _Options.of(
            backend=backend,
            limits=limits,
            origins=origins,
            allowed_hosts=allowed_hosts,
            authenticate=authenticate,
            hooks=hooks,
            resource_factory=resource_factory,
        )
        self._pachinko = Pachinko(self, options)


def install(
    app: falcon.asgi.App[Any, Any],
    *,
    backend: Backend | str | None = None,
    limits: Limits | None = None,
    origins: Iterable[str] | str | None = None,
    allowed_hosts: Iterable[str] | str | None = None,
    authenticate: Authenticate | None = None,
    hooks: Iterable[object] = (),
    resource_factory: Callable[..., Any] | None = None,
) -> Pachinko:
    """Give a Falcon app WebSocket routes, a connection manager and workers.

    The app gains ``add_websocket_route``, ``create_websocket_resource``,
    ``add_websocket_worker`` and ``ws_connection_manager``; the handle that is
    returned has the same, with types. The same call again changes nothing.

    Args:
        app: A `falcon.asgi.App`, or an instance of a subclass of it.
        backend: What connects this process with others that serve the same app:
            ``"redis://host:6379/0"``, ``"nats://host:4222"``, or a `Backend`. Without
            one, rooms end at the process.
        limits: What one client may cost, for all routes that do not say otherwise.
        origins: Web origins whose pages may connect, besides the server's own:
            ``["https://app.example", "https://*.app.example"]``; ``"*"`` for any.
            A client that sends no Origin is no browser, and may.
        allowed_hosts: The names this server goes by, as in a Host header but without
            the port; None checks nothing. Set it where DNS rebinding matters.
        authenticate: A coroutine function that gets the request before
            ``on_connect`` and returns a user id, a `Principal`, or None for a
            stranger; it denies by raising ``falcon.HTTPUnauthorized``.
        hooks: Layers around every connection's life; see `Hook`.
        resource_factory: What makes the resources, for those who use a container:
            called with the class and its arguments, ``resource_factory(cls, **kwargs)``.

    Raises:
        SetupError: It is no ASGI app of Falcon's, or an option is not as it should be.
        AlreadyInstalledError: The app has it, with other options.

    Example::

        app = falcon.asgi.App()
        install(app, origins=["https://app.example"])
        app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
    """
    if not isinstance(app, falcon.asgi.App):
        got = "falcon.App, which is WSGI" if isinstance(app, falcon.App) else repr(app)
        raise SetupError(f"install() takes a falcon.asgi.App, not {got}")
    options = _Options.of(
        backend=backend,
        limits=limits,
        origins=origins,
        allowed_hosts=allowed_hosts,
        authenticate=authenticate,
        hooks=hooks,
        resource_factory=resource_factory,
    )
    there = installed(app)
    if there is not None:
        changed = there.options.changed(options)
        if changed:
            raise AlreadyInstalledError(changed)
        return there
    pachinko = Pachinko(app, options)
    # An App has __slots__ and no __dict__: nothing can be put on it.  So this one
    # app gets a class of its own, which adds no slots and hence fits the instance.
    own = type(app)
    members = {
        "__slots__": (),
        "__module__": own.__module__,
        "__qualname__": own.__qualname__,
        "__doc__": own.__doc__,
        "_pachinko": pachinko,
    }
    app.__class__ = cast(
        "type[falcon.asgi.App[Any, Any]]", type(own.__name__, (_Installed, own), members)
    )
    return pachinko


def installed(app: object) -> Pachinko | None:
    """Return what `install` returned for an app; None if it has nothing installed."""
    return app._pachinko if isinstance(app, _Installed) else None  # this module's own
