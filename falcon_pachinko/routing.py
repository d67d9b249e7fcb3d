"""Which resource serves which path, and how routes are put together."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import falcon.asgi

from falcon_pachinko.clock import token_hex
from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.errors import (
    HandlerDefinitionError,
    ResourceTypeError,
    RouteTemplateError,
    SetupError,
    UnknownRouteError,
)
from falcon_pachinko.factories import (
    ResourceFactory,
    check_arguments,
    class_and_arguments,
    resource_class,
    route_option_error,
)
from falcon_pachinko.limits import Limits
from falcon_pachinko.manager import WebSocketConnectionManager
from falcon_pachinko.messages.definition import require_unwrapped
from falcon_pachinko.messages.hooks import HookChain, as_hooks
from falcon_pachinko.messages.query import QueryReader, query_type
from falcon_pachinko.names import CONNECTION_MARK
from falcon_pachinko.paths import PathTemplate
from falcon_pachinko.resource import WebSocketResource
from falcon_pachinko.session.admission import Admission
from falcon_pachinko.session.gate import Gate
from falcon_pachinko.session.handshake import Arguments, Handshake
from falcon_pachinko.session.session import Session
from falcon_pachinko.standins import ResourceStandIn

__all__ = [
    "Declaration",
    "Line",
    "ResourceFactory",
    "Route",
    "Site",
    "WebSocketRouter",
    "find_named",
]

_RESERVED = frozenset({"req", "ws", "self"})


class Site:
    """What all routes of one app share."""

    def __init__(
        self,
        manager: WebSocketConnectionManager,
        limits: Limits,
        admission: Admission,
        *,
        hooks: Iterable[object] = (),
        resource_factory: Callable[..., Any] | None = None,
        dec_hook: Callable[[type, Any], Any] | None = None,
        converters: Mapping[str, Any] | None = None,
    ) -> None:
        self.manager, self.limits, self.admission = manager, limits, admission
        self.hooks = as_hooks(hooks, "install()")
        self.resource_factory = resource_factory
        self.dec_hook = dec_hook
        self.codecs = manager._codecs
        self.converters = converters  # of the app's router; None if that is not Falcon's


class Declaration:
    """A route as it was declared: a template, what serves it, and what is nested under it.

    `WebSocketRouter.add_route` returns it, so that routes can be nested::

        room = router.add_route("/rooms/{room_id:int}", Room)
        room.add_route("/voice", Voice)  # /rooms/{room_id:int}/voice, Room is asked first
    """

    def __init__(
        self,
        template: str,
        factory: ResourceFactory,
        init_kwargs: dict[str, Any],
        *,
        name: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        if not (limits is None or isinstance(limits, Limits)):
            raise route_option_error(template, factory, "limits", limits, "Limits(...)")
        if not (name is None or isinstance(name, str)):
            raise route_option_error(template, factory, "name", name, "a str")
        self.template, self.factory, self.init_kwargs = template, factory, init_kwargs
        self.limits = limits
        self.resource = resource_class(template, factory)
        self.made_from = class_and_arguments(factory)
        self.name = name or self.resource.__name__
        self.children = WebSocketRouter()

    def add_route(
        self,
        template: str,
        resource: ResourceFactory | WebSocketRouter,
        *,
        name: str | None = None,
        limits: Limits | None = None,
        **init_kwargs: Any,
    ) -> Declaration | WebSocketRouter:
        """Nest a route, or a router, under this one; see `WebSocketRouter.add_route`.

        A connection to a nested route has a resource of each: this one's
        ``on_connect`` runs first, and denies for both; the nested one finds it as
        ``self.parent``, and both share ``self.state``.
        """
        return self.children.add_route(template, resource, name=name, limits=limits, **init_kwargs)


Line = tuple[tuple[str, Declaration], ...]
"""The declarations that lead to a route, outermost first, each with its whole path."""

Add = Callable[[Line, tuple[object, ...]], None]
"""Takes a line and its hooks, and makes a route of them."""


class WebSocketRouter:
    """Routes that belong together: put them under a prefix of an app, or of another router.

    Args:
        hooks: Hooks for all its routes, inside of those of what it is put into.

    Example::

        chat = WebSocketRouter(hooks=[Timed()])
        chat.add_route("/rooms/{room_name}", ChatRoom, name="room")
        app.add_websocket_route("/chat", chat)  # /chat/rooms/{room_name}
    """

    def __init__(self, *, hooks: Iterable[object] = ()) -> None:
        self.hooks = as_hooks(hooks, "WebSocketRouter")
        self._entries: list[tuple[str, Declaration | WebSocketRouter]] = []
        self._mounts: list[Callable[[str, Declaration | WebSocketRouter], None]] = []

    def add_route(
        self,
        template: str,
        resource: ResourceFactory | WebSocketRouter,
        *,
        name: str | None = None,
        limits: Limits | None = None,
        **init_kwargs: Any,
    ) -> Declaration | WebSocketRouter:
        """Add a route, or another router under a prefix.

        Args:
            template: A path as for Falcon's ``add_route``, below the router's own.
            resource: A `WebSocketResource` subclass, a function that returns an
                instance of one, or a router.
            name: What ``url_for`` calls it; by default the name of the class.
            limits: Limits that override the app's for this route and the routes nested
                under it; fields that are not named here keep the app's values.
            init_kwargs: What the resource is made with.

        Returns:
            The declaration, to nest routes under it; or the router.

        Raises:
            SetupError: What is routed is nothing to route, or its path is taken.
        """
        if not isinstance(template, str) or not template.startswith("/") or "//" in template:
            raise RouteTemplateError(template, "it must start with '/' and not have '//'")
        entry: Declaration | WebSocketRouter
        if isinstance(resource, WebSocketRouter):
            if init_kwargs or name or limits:
                raise SetupError(f"the router at {template!r} takes no name, limits or arguments")
            if self in resource.below():
                raise SetupError(f"the router at {template!r} would be within itself")
            entry = resource
        else:
            entry = Declaration(template, resource, init_kwargs, name=name, limits=limits)
        for visit in self._mounts:
            visit(template, entry)
        self._entries.append((template, entry))
        return entry

    def below(self) -> list[WebSocketRouter]:
        """Return this router and all that are within it."""
        found = [self]
        for _, entry in self._entries:
            inner = entry.children if isinstance(entry, Declaration) else entry
            found += inner.below()
        return found

    def mount(self, prefix: str, line: Line, hooks: tuple[object, ...], add: Add) -> None:
        """Have every route, now and later, added to an app.

        Args:
            prefix: The path it is put under.
            line: The declarations it is nested under.
            hooks: The hooks outside of its routes, its own included.
            add: What adds one route.
        """

        def visit(template: str, entry: Declaration | WebSocketRouter) -> None:
            path = prefix.rstrip("/") + template if template != "/" or not prefix else prefix
            if isinstance(entry, WebSocketRouter):
                entry.mount(path, line, (*hooks, *entry.hooks), add)
                return
            inner = (*line, (path, entry))
            own = (*hooks, *entry.resource.hooks)
            add(inner, own)
            entry.children.mount(path, inner, own, add)

        for template, entry in self._entries:
            visit(template, entry)
        self._mounts.append(visit)


class Route:
    """One WebSocket route of an app: what Falcon's router finds, and what makes its resources."""

    def __init__(self, line: Line, hooks: tuple[object, ...], site: Site) -> None:
        self.template, declaration = line[-1]
        self.name = declaration.name
        self.resource = declaration.resource
        self.limits = site.limits
        for _, each in line:
            if each.limits is not None:
                self.limits = self.limits.overridden_by(each.limits)
        self.hooks = HookChain(hooks)
        require_unwrapped(self.resource)
        self.resource.__pachinko_table__.compiled(site.codecs)  # refuses what it cannot decode
        is_told = declaration.made_from is not None or self.resource is not WebSocketResource
        self.stand_in = ResourceStandIn(self.resource, None if is_told else declaration.factory)
        """What middleware gets as the resource."""
        self._path = PathTemplate(self.template, site.converters)
        self._line = tuple(each for _, each in line)
        self._arguments = _arguments(line, site.dec_hook)
        self._site = site
        if site.resource_factory is not None and declaration.made_from is not None:
            cls, args, given = declaration.made_from
            check_arguments(
                self.template,
                functools.partial(site.resource_factory, cls, *args),
                {**given, **declaration.init_kwargs},
            )
        else:
            check_arguments(self.template, declaration.factory, declaration.init_kwargs)
            if inspect.isabstract(declaration.resource):
                missing = ", ".join(getattr(declaration.resource, "__abstractmethods__", ()))
                why = f"it is abstract; define {missing} in a subclass, and route that"
                raise ResourceTypeError(self.template, declaration.factory, why)

    def __repr__(self) -> str:
        return f"<Route {self.template} to {self.resource.__name__}>"

    @property
    def message_types(self) -> tuple[str, ...]:
        """The message types that the resource handles."""
        return self.resource.__pachinko_table__.types

    def create_resource(self) -> WebSocketResource:
        """Make a resource as for a new connection, for those who cannot wait.

        Raises:
            ResourceTypeError: The factory returned something else.
            SetupError: The app's ``resource_factory`` waits for something.
        """
        making = self.make_resource()
        try:
            making.send(None)
        except StopIteration as made:
            resource: WebSocketResource = made.value
            return resource
        making.close()
        raise SetupError(
            f"the resource_factory waits for something when it makes {self.resource.__name__}, "
            "which only a connection can; make the resource yourself"
        )

    async def make_resource(self) -> WebSocketResource:
        """Make a resource for a new connection, with its parents.

        Raises:
            ResourceTypeError: The factory returned something else.
        """
        resource: WebSocketResource | None = None
        for declaration in self._line:
            parent, make = resource, declaration.factory
            if self._site.resource_factory is not None and declaration.made_from is not None:
                cls, args, given = declaration.made_from
                made = self._site.resource_factory(
                    cls, *args, **{**given, **declaration.init_kwargs}
                )
                resource = (await made) if inspect.isawaitable(made) else made
            else:
                resource = make(**declaration.init_kwargs)
            if not isinstance(resource, WebSocketResource):
                why = f"it returned {resource!r:.200}, which is not a WebSocketResource"
                raise ResourceTypeError(self.template, self._site.resource_factory or make, why)
            if resource.hooks != declaration.resource.hooks:
                name = type(resource).__name__
                why = (
                    f"it returned a {name} with hooks that the route lacks; write `-> {name}` on it"
                )
                raise ResourceTypeError(self.template, make, why)
            resource.parent = parent
        assert resource is not None
        return resource

    def path(self, **params: object) -> str:
        """Fill the template in; see `Pachinko.url_for`."""
        return self._path.fill(params, self.name)

    async def on_websocket(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket, **params: Any
    ) -> None:
        """Serve one connection; Falcon calls it."""
        gate = Gate.of(req.scope)
        if gate is None or not ws.unaccepted:
            raise RuntimeError(
                f"a middleware answered the handshake of {self.template!r} itself; "
                "leave that to the resource's on_connect"
            )
        manager, send = self._site.manager, gate.take_over()
        connection = Connection(
            CONNECTION_MARK + manager._cluster.name + token_hex(12),
            send,
            manager,
            limits=self.limits,
            subprotocols=ws.subprotocols,
            route=self.template,
        )
        manager._revocations.hand_over(gate, connection)
        if self.limits.connections_per_address is not None:
            connection._address = req.remote_addr
        handshake = Handshake(
            req,
            params,
            self._arguments,
            self.make_resource,
            admission=self._site.admission,
            hooks=self.hooks,
        )
        await Session(connection, gate, self.hooks, handshake).serve()


def _arguments(line: Line, dec_hook: Callable[[type, Any], Any] | None) -> tuple[Arguments, ...]:
    """Tell for each resource of a line what its ``on_connect`` gets besides ``req`` and ``ws``.

    Those fields of its own part of the path it must take; those of its parents', it may.

    Raises:
        HandlerDefinitionError: It does not take a field, or needs one that the path has not,
            or its ``query`` cannot be read from a query string.
    """
    chosen, before = [], frozenset[str]()
    for path, declaration in line:
        resource = declaration.resource
        fields = frozenset(PathTemplate(path).fields)
        query = query_type(resource.on_connect, dec_hook)
        if query is not None and "query" in fields:
            raise HandlerDefinitionError(
                f"{resource.__name__}.on_connect",
                f"takes a `query`, which {path!r} has as a field too: rename the field",
            )
        takes = _fields_for(resource, path, fields - before, before, has_query=query is not None)
        chosen.append((takes, None if query is None else QueryReader(query, dec_hook)))
        before = fields
    return tuple(chosen)


def _fields_for(
    resource: type[WebSocketResource],
    path: str,
    own: frozenset[str],
    parents: frozenset[str],
    *,
    has_query: bool,
) -> frozenset[str]:
    name = f"{resource.__name__}.on_connect"
    for field in own & _RESERVED:
        raise HandlerDefinitionError(
            name, f"cannot take the field {{{field}}} of {path!r}: rename it"
        )
    signature = inspect.signature(resource.on_connect)
    takes_all = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    given = own | (parents if takes_all else parents & signature.parameters.keys())
    try:
        more = {"query"} if has_query else set[str]()
        signature.bind("self", "req", "ws", **dict.fromkeys(given | more))
    except TypeError as error:
        takes = ", ".join(["self", "req", "ws", *sorted(own)])
        raise HandlerDefinitionError(
            name, f"does not fit the route {path!r}: {error}; write on_connect({takes})"
        ) from None
    return given


def find_named(routes: Iterable[Route], name: str) -> Route:
    """Return the one route of a name.

    Raises:
        UnknownRouteError: None has it.
        SetupError: Several have it.
    """
    known = list(routes)
    named = [route for route in known if route.name == name]
    if not named:
        raise UnknownRouteError(name, [route.name for route in known])
    if len(named) > 1:
        paths = ", ".join(route.template for route in named)
        raise SetupError(f"several routes are called {name!r} ({paths}); give them name=...")
    return named[0]
