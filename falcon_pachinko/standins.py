"""What Falcon's router, its middleware and `falcon.inspect` see of a WebSocket route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import falcon.routing

from falcon_pachinko.errors import SetupError

__all__ = [
    "ResourceStandIn",
    "ServesWebSockets",
    "SharedPath",
    "http_routes",
    "place_of",
    "shown_as",
]


class ServesWebSockets(Protocol):
    """What serves the WebSockets of a path."""

    on_websocket: Callable[..., Any]


class ResourceStandIn:
    """What middleware gets as ``resource``: it answers for the class that a route serves.

    A resource of ours is made once the handshake has been let in, so that middleware
    runs before there is one. This has all that its class has: attributes, properties
    and methods that look at nothing but the class; ``isinstance`` is true of it.

    Args:
        resource: The class; a base of it, where a function makes the resource and does
            not say of which class.
        untold: That function. What is asked about then has no answer: "no such attribute"
            would let everybody in where a middleware looks for what is required.
    """

    __slots__ = ("__served", "__untold")

    def __init__(self, resource: type, untold: object = None) -> None:
        self.__served, self.__untold = resource, untold

    @property  # type: ignore[misc]  # what isinstance looks at
    def __class__(self) -> type:
        return self.__served

    def __getattr__(self, name: str) -> Any:
        served = self.__served
        for each in served.__mro__:
            if name in each.__dict__:
                found = each.__dict__[name]
                bind = getattr(type(found), "__get__", None)
                return found if bind is None else bind(found, self, served)
        if self.__untold is not None and not name.startswith("__"):
            raise SetupError(
                f"the middleware asks for {name!r} of a resource whose class is not known, since "
                f"{self.__untold!r:.200} does not say what it makes; write `-> MyResource` on it"
            )
        raise AttributeError(
            f"the class {served.__name__} has no attribute {name!r}, and an instance of it is "
            "made only after the handshake was admitted",
            name=name,
            obj=self,
        )

    def __repr__(self) -> str:
        return f"<{self.__served.__name__}, before there is a connection>"


class SharedPath:
    """A path that serves HTTP by one resource, and WebSockets by another.

    Falcon takes it for one resource, with the responders of both.
    """

    def __init__(self, http: object, route: ServesWebSockets) -> None:
        self.http, self.route = http, route

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_websocket"):  # with a suffix, where the HTTP resource has one
            return self.route.on_websocket
        return getattr(self.http, name)


def shown_as(shown: type, kind: type) -> Any:
    """Make a subclass that has the name and the place of another class.

    `falcon.inspect` lists a route by the name, the file and the line of the class of
    what it finds there: those should be the application's.
    """
    return type(shown.__name__, (kind,), place_of(shown))


def place_of(shown: type) -> dict[str, Any]:
    """Return the members by which Python finds the source of a class.

    From Python 3.13 on, `inspect` reads the line off the class, and parses no source for it.

    >>> place_of(ServesWebSockets)["__qualname__"]
    'ServesWebSockets'
    """
    place = {"__module__": shown.__module__, "__qualname__": shown.__qualname__}
    if "__firstlineno__" in vars(shown):  # its own, not that of a class it inherits from
        place["__firstlineno__"] = vars(shown)["__firstlineno__"]
    return place


def http_routes(router: Any) -> Iterator[tuple[str, object, dict[str, Any]]]:
    """Go through what a router of Falcon's serves already.

    Falcon has `falcon.inspect` for that, which reads the sources of all responders.

    Yields:
        A template, its resource, and the arguments that it was added with. Of a router
        that is not Falcon's, nothing.
    """
    if not isinstance(router, falcon.routing.CompiledRouter):
        return
    nodes = list(router._roots)  # see above
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if node.resource is not None and node.uri_template is not None:
            suffix = _suffix_of(node.resource, node.method_map or {})
            yield node.uri_template, node.resource, {"suffix": suffix} if suffix else {}


def _suffix_of(resource: object, responders: dict[str, Any]) -> str | None:
    """Find out with which suffix a resource was added: ``on_get_item`` serves GET for "item"."""
    for method, responder in responders.items():
        plain, name = f"on_{method.lower()}_", getattr(responder, "__name__", "")
        if name.startswith(plain) and getattr(resource, name, None) == responder:
            return str(name.removeprefix(plain))
    return None
