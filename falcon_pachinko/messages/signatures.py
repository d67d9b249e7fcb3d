"""What a handler takes: read from its signature, its annotations and its class's type arguments."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, ForwardRef, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from falcon_pachinko.errors import HandlerDefinitionError
from falcon_pachinko.messages.envelopes import NoPayload
from falcon_pachinko.messages.openers import MISSING

__all__ = [
    "UNANNOTATED",
    "Takes",
    "arguments_of",
    "fill_in",
    "is_coroutine_function",
    "is_handler",
    "misfit",
    "name_of",
    "refuse_falcon_hook",
    "require_callback",
    "require_coroutine",
    "resolved",
    "substituted",
    "takes",
]

UNANNOTATED: Any = inspect.Parameter.empty
"""The payload type of a handler that does not annotate it."""

_WANTED = "is called with (self, ws) or (self, ws, payload)"


class Takes(NamedTuple):
    """What a handler takes besides the connection."""

    payload: Any
    """The declared type, `UNANNOTATED` or `NoPayload`."""
    default: Any
    """The parameter's default, or `MISSING`."""


def name_of(member: object) -> str:
    """Return what errors call a function, a `functools.partialmethod` or a callable object."""
    inner = member
    while isinstance(inner, (functools.partial, functools.partialmethod)):
        inner = inner.func
    return getattr(inner, "__qualname__", None) or repr(member)


def is_handler(member: object) -> bool:
    """Tell whether a class's attribute could be called as one of its methods."""
    return callable(member) or isinstance(member, functools.partialmethod)


def is_coroutine_function(function: object) -> bool:
    """Tell whether calling it gives a coroutine: a function, a partial of one, an object."""
    while isinstance(function, (functools.partial, functools.partialmethod)):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004  # looked at, not tested for
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def misfit(function: Any, arguments: Sequence[str], *, and_more: bool = False) -> str | None:
    """Return the signature of a function that cannot be called with these arguments, in order.

    None if it can, or has no signature to look at. Where a decorator uses
    `functools.wraps`, its own signature counts as well as that of what it wraps.

    Args:
        function: The function, bound if it is a method.
        arguments: What it is called with.
        and_more: Whether it is called with more than these, by name.

    >>> misfit(lambda req, ws: None, ("req",)), misfit(lambda req, ws=None: None, ("req",))
    ('(req, ws)', None)
    """
    shown = None
    for follow in (True, False):
        try:
            signature = inspect.signature(function, follow_wrapped=follow)
        except (TypeError, ValueError):
            if not inspect.ismethod(function):
                return None
            return "()"  # it has not even a self
        shown = shown or str(signature)
        try:
            (signature.bind_partial if and_more else signature.bind)(*arguments)
        except TypeError:
            continue
        return None
    return shown


def require_callback(
    method: object, point: str, arguments: Sequence[str], more: str = "", receiver: str = "self, "
) -> None:
    """Refuse what the library could not call and await.

    Args:
        method: The bound method, or a function.
        point: What it should be called.
        arguments: What it is called with, in this order.
        more: What else it is called with, in words.
        receiver: What comes before these in the definition of a method.

    Raises:
        HandlerDefinitionError: It is not a coroutine, or has a parameter too few or too many.
    """
    require_coroutine(method, "is awaited by the library")
    takes = misfit(method, arguments, and_more=bool(more))
    if takes is not None:
        given = ", ".join(arguments)
        raise HandlerDefinitionError(
            name_of(method),
            f"is called with ({given}){more}, and takes {takes}; "
            f"write `async def {point}({receiver}{given}{', ...' if more else ''})`",
        )


def require_coroutine(function: object, what: str) -> None:
    """Refuse a method that cannot be awaited.

    Raises:
        HandlerDefinitionError: It is not a coroutine function; the text says how to make it one.
    """
    if is_coroutine_function(function):
        return
    name, inner = name_of(function), _inner(function)
    if inspect.isasyncgenfunction(inner):
        raise HandlerDefinitionError(name, f"{what} but has a `yield`; return a value instead")
    plain = getattr(inner, "__name__", "handler")
    raise HandlerDefinitionError(
        name, f"{what} but is not a coroutine; write `async def {plain}(...)`"
    )


def refuse_falcon_hook(member: Any, name: str) -> None:
    """Refuse a method that `falcon.before` or `falcon.after` has wrapped.

    Their wrappers pass a request and a response on, and return nothing.

    Raises:
        HandlerDefinitionError: It is wrapped; the text names what there is instead.
    """
    while member is not None:
        if getattr(member, "__globals__", {}).get("__name__") == "falcon.hooks":
            raise HandlerDefinitionError(
                name,
                "is wrapped by falcon.before or falcon.after, which are for HTTP responders; "
                "write a Hook (before_connect, before_message, after_message) and set hooks=, "
                "or decorate the on_get methods one by one",
            )
        member = getattr(member, "__wrapped__", None)


def takes(member: Any, message_type: str) -> Takes:
    """Read from a handler's signature what it wants its payload to be.

    Raises:
        HandlerDefinitionError: It is not a coroutine, could not be called, or its payload's
            annotation cannot be resolved.
    """
    require_coroutine(member, f"handles {message_type!r}")
    kinds = inspect.Parameter
    given = list(_without_self(member).parameters.values())
    places = [p for p in given if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    named = [p for p in given if p.kind is kinds.KEYWORD_ONLY]
    wants_more = any(p.default is kinds.empty for p in (*places[2:], *named))
    just_payload = len(places) == 1 and places[0].name == "payload"
    if not places or wants_more or just_payload:
        shown = inspect.signature(_inner(member))
        plain = getattr(_inner(member), "__name__", type(member).__name__)
        raise HandlerDefinitionError(
            name_of(member), f"handles {message_type!r} and {_WANTED}; it is written as "
            f"{plain}{shown}",
        )  # fmt: skip
    if len(places) == 1:
        return Takes(NoPayload, MISSING)
    payload = places[1]
    default = MISSING if payload.default is kinds.empty else payload.default
    annotation = payload.annotation
    if annotation is not kinds.empty:
        annotation = resolved(member, annotation)
    return Takes(annotation, default)


def _inner(member: Any) -> Any:
    return member.func if isinstance(member, functools.partialmethod) else member


def _without_self(member: Any) -> inspect.Signature:
    """Return the signature with which the attribute of an instance is called."""
    if isinstance(member, functools.partialmethod):
        member = functools.partial(member.func, None, *member.args, **member.keywords)
        return inspect.signature(member)
    signature = inspect.signature(member)
    if not hasattr(type(member), "__get__"):
        return signature  # an object that is called: it is not bound, and gets no self
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        return signature.replace(parameters=parameters[1:])
    return inspect.Signature()


# Annotations.


def resolved(member: Any, annotation: Any) -> Any:
    """Resolve one annotation, also if it names what is local to the scope around the class.

    Only this one is looked at, so that the others may name what only a type checker imports.

    Raises:
        HandlerDefinitionError: A name in it cannot be found.
    """
    function = inspect.unwrap(_inner(member))
    function = getattr(function, "func", function)  # of a functools.partial
    if not hasattr(function, "__globals__"):
        function = getattr(type(function), "__call__", function)  # noqa: B004  # not tested for
    known = getattr(function, "__globals__", {})
    only = types.SimpleNamespace(__annotations__={"payload": annotation})
    try:
        return get_type_hints(only, known, include_extras=True)["payload"]
    except NameError:
        pass
    local: dict[str, Any] = {}
    scope: FrameType | None = sys._getframe(1)  # inspect's way walks the whole stack
    while scope is not None:
        if scope.f_globals is known:
            local = {**scope.f_locals, **local}
        scope = scope.f_back
    try:
        return get_type_hints(only, known, local, include_extras=True)["payload"]
    except NameError as error:
        raise HandlerDefinitionError(
            name_of(member),
            f"has an annotation that cannot be resolved: {error}; import the type at "
            "run time (not under `if TYPE_CHECKING:`) and define it before the class",
        ) from None


# Type arguments.


def arguments_of(resource: type) -> dict[type, dict[Any, Any]]:
    """Tell what each class of the MRO has its type parameters filled in with.

    >>> import typing
    >>> T = TypeVar("T")
    >>> Base = types.new_class("Base", (typing.Generic[T],))
    >>> Sub = types.new_class("Sub", (Base[int],))
    >>> arguments_of(Sub)[Base]
    {~T: <class 'int'>}
    """
    found: dict[type, dict[Any, Any]] = {}

    def visit(cls: type, given: dict[Any, Any]) -> None:
        found.setdefault(cls, given)
        for base in vars(cls).get("__orig_bases__", cls.__bases__):
            origin = get_origin(base) or base
            parameters = getattr(origin, "__parameters__", ())
            arguments = [substituted(each, given) for each in get_args(base)]
            if isinstance(origin, type):
                visit(origin, dict(zip(parameters, arguments, strict=False)))

    visit(resource, {})
    return found


def substituted(annotation: Any, given: dict[Any, Any]) -> Any:
    """Put type arguments in the place of type parameters; those not given stay."""
    if isinstance(annotation, TypeVar):
        return given.get(annotation, annotation)
    parameters = () if isinstance(annotation, type) else _parameters(annotation)
    if not parameters:
        return annotation
    return annotation[tuple(given.get(each, each) for each in parameters)]


def _parameters(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, TypeVar):
        return (annotation,)
    return () if isinstance(annotation, type) else getattr(annotation, "__parameters__", ())


def fill_in(
    annotation: Any, *, still_open: Callable[[Any], bool], name: str
) -> tuple[Any, str | None]:
    """Fill in the type parameters that no subclass has filled in.

    Such a parameter stands for its default, its bound or its constraints.

    Args:
        annotation: The declared type, with the arguments that are known.
        still_open: Tells of a parameter whether a subclass can still fill it in.
        name: The handler, for errors.

    Returns:
        The type; and what is wrong if a parameter is left, and a subclass can fill it in.

    Raises:
        HandlerDefinitionError: A parameter is left, and nothing can fill it in.
    """
    left: str | None = None
    stand_ins: dict[Any, Any] = {}
    for parameter in _parameters(annotation):
        stand_in = _stand_in(parameter)
        if stand_in is MISSING:
            why = (
                f"takes a payload of {annotation!r}, and nothing says what {parameter!r} is; "
                "derive from it with the type, as in `class Messages(Base[Say])`, or give "
                f"{parameter!r} a bound"
            )
            if not still_open(parameter):
                raise HandlerDefinitionError(name, why)
            left, stand_in = why, Any
        stand_ins[parameter] = stand_in
    return substituted(annotation, stand_ins), left


def _stand_in(parameter: Any) -> Any:
    default = getattr(parameter, "__default__", None)  # since Python 3.13
    if default is not None and type(default).__name__ != "NoDefaultType":
        return default
    bound = getattr(parameter, "__bound__", None)
    if isinstance(bound, ForwardRef):
        only = types.SimpleNamespace(__annotations__={"bound": bound})
        bound = get_type_hints(only, vars(sys.modules[parameter.__module__]))["bound"]
    if bound is not None:
        return bound
    constraints = getattr(parameter, "__constraints__", ())
    return Union[constraints] if constraints else MISSING  # noqa: UP007  # known at run time only
