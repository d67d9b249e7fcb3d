"""The path of a WebSocket route as it is typed: `/ws/notes/{room_name}`."""

from __future__ import annotations

import builtins
import keyword
import re
import shlex
from dataclasses import dataclass

from pachinko_cli.errors import USAGE, CliError, shown
from pachinko_cli.messages import AMBIGUOUS, ATTRIBUTES

LONGEST = 80
LONGEST_PARAMETER = 40

# Falcon's converters: what a handler gets, what a client may write, and how much of it.
CONVERTERS = {
    "": ("str", "tea"),
    "int": ("int", "1"),
    "float": ("float", "1.5"),
    "uuid": ("UUID", "0b8a3c6e-5d1f-4a7b-9c2d-3e4f5a6b7c8d"),
    "dt": ("datetime", "2026-01-02T03:04:05Z"),
    "path": ("str", "tea/green"),
}
_UNBOUNDED = {"": "a", "int": "1", "path": "a"}
# What the methods of a resource call something else.
_NOT_PARAMETERS = (
    ATTRIBUTES | AMBIGUOUS | {"args", "close_code", "message", "payload", "req", "self"}
)

_LITERAL = re.compile(r"[A-Za-z0-9._~-]+")
_PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")


@dataclass(frozen=True)
class Parameter:
    """What stands for a part of the path, and the converter that reads it."""

    name: str
    converter: str = ""

    @property
    def annotation(self) -> str:
        """Its type in Python."""
        return CONVERTERS[self.converter][0]

    @property
    def signature(self) -> str:
        """It as a parameter of a method."""
        return f"{self.name}: {self.annotation}"


@dataclass(frozen=True)
class RoutePath:
    """A path that Falcon's router takes."""

    template: str
    parameters: tuple[Parameter, ...] = ()

    @property
    def sample(self) -> str:
        """A path that a client may ask for."""
        return _PARAMETER.sub(lambda found: CONVERTERS[found[2] or ""][1], self.template)

    @property
    def unbounded(self) -> tuple[str, str, str] | None:
        """Around the first parameter of any length: what is before it, a letter of it, the rest."""
        for found in _PARAMETER.finditer(self.template):
            if letter := _UNBOUNDED.get(found[2] or ""):
                return (
                    RoutePath(self.template[: found.start()]).sample,
                    letter,
                    RoutePath(self.template[found.end() :]).sample,
                )
        return None


def route_path(text: str) -> RoutePath:
    """Check a path as it is typed.

    >>> route_path("/ws/notes/{note_id:int}").parameters
    (Parameter(name='note_id', converter='int'),)

    Raises:
        CliError: Falcon or the generated code would not take it (exit 2).
    """
    if not text.startswith("/"):
        raise _refused(text, "does not begin with a slash", f"/{text[:LONGEST]}")
    if len(text) > LONGEST:
        raise _refused(text, f"has {len(text)} characters, and {LONGEST} is the most")
    segments = text[1:].split("/")
    parameters = tuple(found for each in segments if (found := _segment(text, each)))
    names = [each.name for each in parameters]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _refused(text, f"has the parameter {shown(twice)} twice")
    if any(each.converter == "path" for each in parameters[:-1]) or (
        parameters and parameters[-1].converter == "path" and not segments[-1].startswith("{")
    ):
        raise _refused(text, "has something behind a path parameter, which takes all there is")
    return RoutePath(text, parameters)


def clash(first: str, second: str) -> bool:
    """Whether Falcon's router would refuse two paths beside each other.

    It does when they are the same, and when they have differing parameters in the same place.

    >>> clash("/ws/{room}", "/ws/{name}/log"), clash("/ws/{room}", "/ws/log")
    (True, False)
    """
    ours, theirs = first.strip("/").split("/"), second.strip("/").split("/")
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            return bool(_PARAMETER.fullmatch(mine) and _PARAMETER.fullmatch(other))
    return len(ours) == len(theirs)


def _segment(text: str, segment: str) -> Parameter | None:
    """The parameter that a segment is; None for one that is itself."""
    if not segment:
        raise _refused(text, "has an empty part", re.sub("//+", "/", text[:LONGEST]).rstrip("/"))
    if _LITERAL.fullmatch(segment):
        return None
    found = _PARAMETER.fullmatch(segment)
    if not found:
        raise _refused(
            text,
            f"has the part {shown(segment)}; letters, digits, - . _ ~ and a {{parameter}} will do",
        )
    name, converter = found[1], found[2] or ""
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
        raise _refused(text, f"has the parameter {shown(name)}, which is no name in Python")
    if hasattr(builtins, name):
        better = text.replace(f"{{{name}", f"{{item_{name}")
        raise _refused(text, f"has the parameter {shown(name)}, a builtin of Python", better)
    if name in _NOT_PARAMETERS or name.startswith("_") or len(name) > LONGEST_PARAMETER:
        raise _refused(text, f"has the parameter {shown(name)}, which a resource cannot use")
    if converter not in CONVERTERS:
        known = ", ".join(f":{each}" for each in CONVERTERS if each)
        raise _refused(
            text,
            f"has the converter {shown(converter)}; {known} will do, "
            "and others can be written into routes.py afterwards",
        )
    return Parameter(name, converter)


def _refused(text: str, why: str, better: str = "/ws/notes/{room_name}") -> CliError:
    return CliError(
        f"the path {shown(text, 80)} {why}",
        hint=f"try: {shlex.quote(better or '/ws')}" if better.isprintable() else "",
        exit_code=USAGE,
    )
