"""What a module inside a project may be called; its class and its path follow from that."""

from __future__ import annotations

import builtins
import re
from dataclasses import dataclass

from pachinko_cli.errors import USAGE, CliError, shown
from pachinko_cli.names import DEVICES, KEYWORDS, LONGEST, suggestion

_UNUSUAL = re.compile(r"[^A-Za-z0-9 _-]")
_SEPARATORS = re.compile(r"[ _-]+")
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class ModuleName:
    """A name that was checked: `module` is the file's, `class_name` that of what is in it.

    `slug` is for paths, `title` for people.
    """

    module: str

    @property
    def class_name(self) -> str:
        """The name of the module's class."""
        return class_name(self.module)

    @property
    def slug(self) -> str:
        """The name as a part of a path."""
        return self.module.replace("_", "-")

    @property
    def title(self) -> str:
        """The name as words."""
        return self.module.replace("_", " ").capitalize()


def module_name(text: str, command: str) -> ModuleName:
    """Check a name, or refuse it with one that works.

    `command` is what the name is typed behind, for the refusal.  Unlike a project, a module of a
    package may be called like one of the standard library.

    >>> module_name("TeaParty", "add-resource")
    ModuleName(module='tea_party')

    Raises:
        CliError: It cannot be the name of a module (exit 2).
    """
    typed = text.strip(" _-")
    module = snake_case(typed)
    if reason := _unreadable(typed) or _unusable(module):
        near = suggestion(snake_case(typed[: 8 * LONGEST].removesuffix(".py"))).replace("-", "_")
        raise CliError(
            f"{shown(text)} {reason}", hint=f"try: pachinko {command} {near}", exit_code=USAGE
        )
    return ModuleName(module)


def snake_case(text: str) -> str:
    """Join words with underscores, in lower case; capitals begin words.

    >>> snake_case("TeaParty-2"), snake_case("HTTPStatus")
    ('tea_party_2', 'http_status')
    """
    return _SEPARATORS.sub("_", _HUMPS.sub("_", text)).lower().strip("_")


def class_name(text: str) -> str:
    """Join words by their capitals.

    >>> class_name("tea_party")
    'TeaParty'
    """
    return "".join(f"{word[0].upper()}{word[1:]}" for word in text.split("_") if word)


def first_free(*names: str, taken: frozenset[str]) -> str:
    """The first of the names that is neither taken nor a builtin; the last one if none is."""
    return next(
        (name for name in names if not (name in taken or hasattr(builtins, name))), names[-1]
    )


def _unreadable(typed: str) -> str | None:
    """Why a name is none as it was typed; None where it may be one."""
    if not typed:
        return "has no letter in it, and a module needs a name"
    if not typed.isascii():
        return "has letters that are not ASCII, which not every file system and import keeps apart"
    if "/" in typed or "\\" in typed or not typed.strip("."):
        return "is a path; give a name, and the file goes where its kind belongs"
    if typed.endswith(".py"):
        return "is a file; give its name without .py"
    if unusual := _UNUSUAL.search(typed):
        return f"contains {unusual[0]!r}; letters, digits and underscores will do"
    if len(typed) > LONGEST:
        return f"has {len(typed)} characters, and {LONGEST} is the most"
    return None


def _unusable(module: str) -> str | None:
    """Why no module can be called that; None where it can."""
    if not module.isidentifier():
        return "does not start with a letter, and a module has to"
    if len(module) > LONGEST:
        return f"becomes {len(module)} characters as {shown(module)}, and {LONGEST} is the most"
    if module in KEYWORDS:
        return "is a keyword of Python, and cannot be imported"
    if module in DEVICES:
        return "is a device on Windows, where no such file can be made"
    return None
