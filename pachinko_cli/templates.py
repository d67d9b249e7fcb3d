"""Finds the project templates: in the wheel, or beside the code in a checkout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pachinko_cli.errors import USAGE, CliError, shown
from pachinko_cli.suggestions import near

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HERE = Path(__file__).resolve().parent
# The wheel carries the templates inside the package; a checkout has them beside it.
ROOTS = (_HERE / "_templates", _HERE.parent / "templates")


@dataclass(frozen=True)
class Template:
    """A Cookiecutter template: a folder with a `cookiecutter.json` and one templated folder."""

    name: str
    summary: str
    folder: str

    @property
    def path(self) -> Path:
        """Where the template is on this machine."""
        return next(root for root in ROOTS if root.is_dir()) / self.folder

    def defaults(self) -> dict[str, Any]:
        """The variables of `cookiecutter.json`, unrendered."""
        text = (self.path / "cookiecutter.json").read_text(encoding="utf-8")
        defaults: dict[str, Any] = json.loads(text)
        return defaults

    def files(self) -> Iterator[Path]:
        """Every file of the template, relative to its folder, in a stable order.

        Symbolic links are not followed, and what Python left behind is passed by: pip compiles
        the templates that happen to be valid Python, and a project must not inherit that.
        """
        for file in sorted(self.path.rglob("*")):
            relative = file.relative_to(self.path)
            if file.is_file() and not file.is_symlink() and "__pycache__" not in relative.parts:
                yield relative


TEMPLATES = {
    template.name: template
    for template in (
        Template("chat", "a chat with rooms, a page and a background worker", "project"),
        Template(
            "minimal", "one resource and one worker, for yours to take their place", "minimal"
        ),
    )
}

# What a project of ours may have: every option with its values, of which the first is the default.
OPTIONS: dict[str, tuple[str, ...] | tuple[bool, ...]] = {
    "template": tuple(TEMPLATES),
    "backend": ("memory", "redis", "nats"),
    "licence": ("none", "MIT", "Apache-2.0", "BSD-3-Clause", "ISC"),
    "ci": ("none", "github", "gitlab"),
    "agents-md": (True, False),
    "docker": (False, True),
}

BACKENDS = {
    "memory": "one process",
    "redis": "any number of processes, and a Redis between them",
    "nats": "any number of processes, and a NATS server between them",
}


def choice(option: str, given: str) -> str:
    """The value of an option that was meant, whatever its capitals.

    >>> choice("licence", "mit")
    'MIT'

    Raises:
        CliError: There is none of that name; the message has the nearest, and all (exit 2).
    """
    values = [str(value) for value in OPTIONS[option]]
    if meant := next((value for value in values if value.lower() == given.lower()), None):
        return meant
    raise CliError(
        f"there is no {option} {shown(given)}",
        hint=f"{did_you_mean(given, values)}--{option} takes {', '.join(values)}",
        exit_code=USAGE,
    )


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """A question that begins a hint, where one of `names` is near to what was given; else nothing.

    >>> did_you_mean("chta", ["chat", "minimal"])
    'did you mean chat? '
    """
    meant = near(given, names)
    return f"did you mean {meant}? " if meant else ""
