"""What a resource class may define: checked when the class is made, and when it is routed."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from falcon_pachinko.errors import HandlerDefinitionError
from falcon_pachinko.messages.handlers import handles
from falcon_pachinko.messages.signatures import (
    is_handler,
    refuse_falcon_hook,
    require_callback,
    require_coroutine,
)

__all__ = ["RESERVED", "check_class", "require_unwrapped"]

_CALLBACKS = {
    "on_connect": ("req", "ws"),
    "on_disconnect": ("ws", "close_code"),
    "on_message": ("ws", "message"),
    "on_refused": ("ws", "refusal", "frame"),
}
"""What the library calls, and with what: coroutines to override, and not handlers."""

_SETTINGS = ("schema", "subprotocols", "hooks", "close_on_error")
"""What a class sets to a value."""

_OWN = (
    "join_room", "leave_room", "broadcast_to_room", "send", "track", "untrack", "spawn",
    "ws", "state", "parent",
)  # fmt: skip
"""What the library gives to a resource; overriding a verb to add to it is fine."""

RESERVED = ("spawn", "untrack", "emits", "asks", "topics", "around_message")
"""Names that have, or will have, a meaning of the library's own."""


def check_class(resource: type, base: type) -> None:
    """Refuse a resource class that defines one of the library's names for something else.

    Args:
        resource: The class that is being made.
        base: `WebSocketResource`.

    Raises:
        HandlerDefinitionError: It names what is wrong, and the remedy.
    """
    for owner in resource.__mro__:
        if owner is base or issubclass(base, owner):
            continue
        for name, member in vars(owner).items():
            if name in _CALLBACKS:
                _check_callback(owner, name, member)
            elif name in _SETTINGS:
                _check_setting(f"{owner.__name__}.{name}", name, member)
            elif name in _OWN or name in RESERVED:
                _check_own(owner, name, member, getattr(base, name, None))


def _check_callback(owner: type, name: str, member: Any) -> None:
    where = f"{owner.__name__}.{name}"
    if handles(member):
        raise HandlerDefinitionError(
            where, f"is called by the library and cannot handle messages, too; {_remedy(name)}"
        )
    refuse_falcon_hook(member, where)
    # As an instance has it, so that a static or class method is what it will be.
    method = member.__get__(object(), owner) if hasattr(type(member), "__get__") else member
    more = " and the fields of its path by name" if name == "on_connect" else ""
    require_callback(method, name, _CALLBACKS[name], more)


def _check_setting(where: str, name: str, member: Any) -> None:
    if handles(member):
        raise HandlerDefinitionError(where, _taken(name, member))
    if hasattr(type(member), "__get__"):  # a property: what it returns is known per instance only
        return
    if name == "subprotocols":
        several = isinstance(member, Iterable) and not isinstance(member, (str, bytes))
        if not several or not all(isinstance(each, str) and each for each in member):
            example = member if isinstance(member, str) and member else "chat.v1"
            raise HandlerDefinitionError(
                where, f"is {member!r:.200}; give a tuple of names, subprotocols = ({example!r},)"
            )
    elif name == "close_on_error" and not isinstance(member, bool):
        raise HandlerDefinitionError(where, f"is {member!r:.200}; give True or False")


def _check_own(owner: type, name: str, member: Any, verb: Any) -> None:
    where = f"{owner.__name__}.{name}"
    if verb is None and name in RESERVED:
        raise HandlerDefinitionError(
            where, f"has a name that is reserved for the library; {_remedy(name)}"
        )
    if handles(member) or not inspect.iscoroutinefunction(verb) or not is_handler(member):
        raise HandlerDefinitionError(where, _taken(name, member))
    wanted = [
        parameter.name
        for parameter in inspect.signature(verb).parameters.values()
        if parameter.default is parameter.empty
    ]
    try:
        inspect.signature(member).bind(*wanted)
        require_coroutine(member, "overrides a verb of the library")
    except (TypeError, ValueError):
        raise HandlerDefinitionError(where, _taken(name, member)) from None


def _taken(name: str, member: Any) -> str:
    return (
        f"takes the name of the resource's own `{name}`, so that self.{name} would no longer be "
        f"what the library means by it; {_remedy(name, is_method=is_handler(member))}"
    )


def _remedy(name: str, *, is_method: bool = True) -> str:
    if not is_method:
        return f"call it something else, such as `my_{name}`"
    return (
        f"call the method something else, such as `handle_{name.removeprefix('on_')}`; "
        "the message type may stay as it is"
    )


def require_unwrapped(resource: type) -> None:
    """Refuse a resource class that was decorated for HTTP after it was made.

    Raises:
        HandlerDefinitionError: `falcon.before` or `falcon.after` has wrapped its callbacks.
    """
    for name in _CALLBACKS:
        refuse_falcon_hook(getattr(resource, name, None), f"{resource.__name__}.{name}")
