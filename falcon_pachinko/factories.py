"""What makes a route's resources: a class, a partial of one, or a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Self

from falcon_pachinko.errors import ResourceTypeError
from falcon_pachinko.resource import WebSocketResource

__all__ = [
    "ResourceFactory",
    "check_arguments",
    "class_and_arguments",
    "resource_class",
    "route_option_error",
]

ResourceFactory = Callable[..., WebSocketResource]
"""What makes a resource for each connection: a `WebSocketResource` subclass, or a function."""


def class_and_arguments(
    factory: object,
) -> tuple[type[WebSocketResource], tuple[Any, ...], dict[str, Any]] | None:
    """Return the class that a factory makes an instance of, and what it is made with.

    None if it is a function of the application's own: only a class, or a
    `functools.partial` of one, can be looked into.
    """
    args: tuple[Any, ...] = ()
    given: dict[str, Any] = {}
    while isinstance(factory, functools.partial):
        args, given = (*factory.args, *args), {**factory.keywords, **given}
        factory = factory.func
    if isinstance(factory, type) and issubclass(factory, WebSocketResource):
        return factory, args, given
    return None


def resource_class(template: str, factory: object) -> type[WebSocketResource]:
    """Return the class that a route serves; a factory may tell by its return annotation."""
    known = class_and_arguments(factory)
    if known is not None:
        return known[0]
    if isinstance(factory, type):
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
    if returns is Self:  # a classmethod of the resource's
        returns = getattr(factory, "__self__", None)
    if isinstance(returns, type) and issubclass(returns, WebSocketResource):
        return returns
    return WebSocketResource


_OF_THE_ROUTE = ("name", "limits")


def route_option_error(
    template: str, factory: object, option: str, value: object, wanted: str
) -> ResourceTypeError:
    """Say that an option of the route is not an argument of the resource."""
    return ResourceTypeError(
        template, factory, f"{option}={value!r:.80} is not {wanted}; {by_partial(factory, option)}"
    )


def by_partial(factory: object, option: str) -> str:
    known = class_and_arguments(factory)
    called = "factory" if known is None else known[0].__name__
    return (
        f"{option}= is the route's own, a resource with an argument of that name gets it from "
        f"functools.partial({called}, {option}=...)"
    )


def check_arguments(template: str, factory: ResourceFactory, given: dict[str, Any]) -> None:
    """Refuse arguments that the resource's ``__init__`` could not take."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return  # no signature to compare with
    try:
        signature.bind(**given)
    except TypeError as error:
        hints = [
            f"; {by_partial(factory, option)}"
            for option in _OF_THE_ROUTE
            if str(error) == f"missing a required argument: {option!r}"
        ]
        raise ResourceTypeError(
            template, factory, "".join([f"it cannot be made with {sorted(given)}: {error}", *hints])
        ) from None
