"""What `install` and `App` can be told, spelled once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

import falcon.asgi

from falcon_pachinko.backends import Backend
from falcon_pachinko.errors import SetupError
from falcon_pachinko.limits import Limits
from falcon_pachinko.messages.signatures import is_coroutine_function, misfit
from falcon_pachinko.session.admission import Authenticate

__all__ = ["DEFAULTS", "AppOptions", "InstallOptions", "read_options", "spelled_out"]


class InstallOptions(TypedDict, total=False):
    """The options of `install`, which `App` takes too."""

    backend: Backend | str | None
    limits: Limits | None
    origins: Iterable[str] | str | None
    allowed_hosts: Iterable[str] | str | None
    authenticate: Authenticate | None
    hooks: Iterable[object]
    resource_factory: Callable[..., Any] | None
    enc_hook: Callable[[Any], Any] | None
    dec_hook: Callable[[type, Any], Any] | None
    readable_denials: bool


class AppOptions(InstallOptions, total=False):
    """The same, and the options of `falcon.asgi.App`."""

    media_type: str
    request_type: type[falcon.asgi.Request] | None
    response_type: type[falcon.asgi.Response] | None
    middleware: object
    router: object
    independent_middleware: bool
    cors_enable: bool
    sink_before_static_route: bool


DEFAULTS = InstallOptions(
    backend=None,
    limits=None,
    origins=None,
    allowed_hosts=None,
    authenticate=None,
    hooks=(),
    resource_factory=None,
    enc_hook=None,
    dec_hook=None,
    readable_denials=True,
)
_FUNCTIONS = {
    "resource_factory": ("cls", "*args", "**kwargs"),
    "enc_hook": ("obj",),
    "dec_hook": ("type", "obj"),
}
"""The options that are plain functions, and what they are called with."""

F = TypeVar("F", bound=Callable[..., Any])


def spelled_out(function: F) -> F:
    """Have `inspect` and ``help()`` show the options of `install` one by one."""
    signature = inspect.signature(function)
    *first, last = signature.parameters.values()
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=InstallOptions.__annotations__[name].__forward_arg__,
        )
        for name, default in DEFAULTS.items()
    ]
    falcons = [last.replace(name="falcon_options", annotation="Any")]
    more = falcons if "AppOptions" in str(last.annotation) else []
    spelled_out = signature.replace(parameters=[*first, *options, *more])
    function.__signature__ = spelled_out  # type: ignore[attr-defined]  # what inspect looks at
    return function


def read_options(given: Mapping[str, Any]) -> dict[str, Any]:  # a check per option
    """Fill in the defaults, in a form in which equal options are equal values.

    Raises:
        TypeError: There is no such option.
        SetupError: An option has a wrong value.
    """
    for name in given:
        if name not in DEFAULTS:
            known = ", ".join(DEFAULTS)
            raise TypeError(f"install() has no option {name!r}; it has {known}")
    options = {**DEFAULTS, **given}
    for name in ("origins", "allowed_hosts", "hooks"):
        value = options[name]
        if isinstance(value, str):
            options[name] = (value,)
        elif isinstance(value, Iterable):
            options[name] = tuple(value)
        elif value is not None or name == "hooks":
            raise SetupError(f"{name}={value!r:.200}: give a list")
    options["limits"] = Limits() if options["limits"] is None else options["limits"]
    if not isinstance(options["limits"], Limits):
        raise SetupError(f"limits={options['limits']!r:.200}: give Limits(...)")
    for name, arguments in _FUNCTIONS.items():
        if options[name] is not None:
            _check_function(name, options[name], arguments)
    if not isinstance(options["readable_denials"], bool):
        raise SetupError(f"readable_denials={options['readable_denials']!r:.200}: True or False")
    return options


def _check_function(name: str, function: Any, arguments: Sequence[str]) -> None:
    given = f"{name}={function!r:.200}"
    call = f"{name}({', '.join(arguments)})"
    if not callable(function):
        raise SetupError(f"{given}: give a function, or None")
    if is_coroutine_function(function) and name != "resource_factory":
        raise SetupError(f"{given} is a coroutine function; write a plain one: `def {call}: ...`")
    # What a resource is made with differs by route, and is checked there.
    positional = [each for each in arguments if "*" not in each]
    takes = misfit(function, positional, and_more=name == "resource_factory")
    if takes is not None:
        raise SetupError(f"{given} is called as {call}, and takes {takes}")
