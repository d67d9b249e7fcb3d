"""Which resource serves which path."""

from __future__ import annotations

import inspect
import secrets
import string
from collections.abc import Callable
from typing import Any

import falcon.asgi

from falcon_pachinko.connection import Connection
from falcon_pachinko.errors import HandlerError, ResourceTypeError
from falcon_pachinko.handshake import Admission, Gate
from falcon_pachinko.limits import Limits
from falcon_pachinko.manager import WebSocketConnectionManager
from falcon_pachinko.resource import WebSocketResource
from falcon_pachinko.session import Session

__all__ = ["ResourceFactory", "Route"]

ResourceFactory = Callable[..., WebSocketResource]
"""What makes a resource for each connection: a `WebSocketResource` subclass, or a function."""

_RESERVED = frozenset({"req", "ws", "self"})


class Route:
    """One WebSocket route: what Falcon's router finds, and what makes its resources."""

    def __init__(
        self,
        template: str,
        factory: ResourceFactory,
        init_kwargs: dict[str, Any],
        *,
        manager: WebSocketConnectionManager,
        limits: Limits,
        admission: Admission,
    ) -> None:
        self.template = template
        self.limits = limits
        self._factory = factory
        self._init_kwargs = init_kwargs
        self._manager = manager
        self._admission = admission
        self.resource = _resource_class(template, factory)
        _check_arguments(template, factory, init_kwargs)
        _check_fields(template, self.resource)

    def __repr__(self) -> str:
        return f"<Route {self.template} to {self.resource.__name__}>"

    @property
    def message_types(self) -> tuple[str, ...]:
        """The message types that the resource handles."""
        return self.resource.__pachinko_table__.types

    def create_resource(self) -> WebSocketResource:
        """Make a resource, as for a new connection.

        Raises:
            ResourceTypeError: The factory returned something else.
        """
        resource = self._factory(**self._init_kwargs)
        if not isinstance(resource, WebSocketResource):
            raise ResourceTypeError(
                self.template, self._factory, f"it returned {resource!r}, no WebSocketResource"
            )
        return resource

    async def on_websocket(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket, **params: Any
    ) -> None:
        """Serve one connection; Falcon calls it."""
        gate = Gate.of(req.scope)
        if not ws.unaccepted:
            raise RuntimeError(
                f"a middleware answered the handshake of {self.template!r} itself; "
                "leave that to the resource's on_connect"
            )
        resource = self.create_resource()
        connection = Connection(
            secrets.token_hex(12),
            gate.take_over(),
            self._manager,
            limits=self.limits,
            subprotocols=ws.subprotocols,
            understood=resource.subprotocols,
        )
        connection.resource = resource
        if self.limits.connections_per_address is not None:
            connection.address = req.remote_addr
        await Session(connection, resource, gate, self._admission).serve(req, params)


def _resource_class(template: str, factory: object) -> type[WebSocketResource]:
    """Return the class that a route serves; a factory may tell by its return annotation."""
    if isinstance(factory, type):
        if issubclass(factory, WebSocketResource):
            return factory
        raise ResourceTypeError(
            template, factory, f"derive {factory.__name__} from WebSocketResource"
        )
    if isinstance(factory, WebSocketResource):
        name = type(factory).__name__
        raise ResourceTypeError(
            template,
            factory,
            f"pass the class {name}: every connection gets an instance of its own",
        )
    if not callable(factory) or inspect.iscoroutinefunction(factory):
        raise ResourceTypeError(
            template, factory, "pass a WebSocketResource subclass, or a function that returns one"
        )
    try:
        returns = inspect.signature(factory, eval_str=True).return_annotation
    except (NameError, TypeError, ValueError):
        returns = None
    if isinstance(returns, type) and issubclass(returns, WebSocketResource):
        return returns
    return WebSocketResource


def _check_arguments(template: str, factory: ResourceFactory, given: dict[str, Any]) -> None:
    """Refuse arguments that the resource's ``__init__`` could not take."""
    try:
        inspect.signature(factory).bind(**given)
    except TypeError as error:
        raise ResourceTypeError(
            template, factory, f"it cannot be made with {sorted(given)}: {error}"
        ) from None
    except ValueError:
        return  # no signature to compare with


def _check_fields(template: str, resource: type[WebSocketResource]) -> None:
    """Refuse a template whose fields ``on_connect`` does not take."""
    fields = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    name = f"{resource.__name__}.on_connect"
    for field in fields:
        if field in _RESERVED:
            raise HandlerError(
                name, f"cannot take the field {{{field}}} of {template!r}: rename it"
            )
    try:
        signature = inspect.signature(resource.on_connect)
        signature.bind(*("self", "req", "ws"), **dict.fromkeys(fields))
    except TypeError as error:
        takes = ", ".join(["self", "req", "ws", *fields])
        raise HandlerError(
            name, f"does not fit the route {template!r}: {error}; write on_connect({takes})"
        ) from None
