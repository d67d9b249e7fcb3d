"""Finds the project a command runs in, and reads what `pachinko new` wrote about it.

A project is a folder whose `pyproject.toml` has this table:

    [tool.pachinko]
    package = "tea_room"
    app = "tea_room.asgi:app"
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePath

from pachinko_cli.errors import USAGE, CliError, shown

OUTSIDE_A_PROJECT = 4

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_NOT_OURS = {"__pycache__", "node_modules", "site-packages", "build", "dist"}
_APP = re.compile(f"{_NAME}:{_NAME}")


@dataclass(frozen=True)
class Project:
    """A folder with a `[tool.pachinko]` table, and what that table says.

    `app` is where the application object lives, as uvicorn writes it: `tea_room.asgi:app`.
    """

    root: Path
    package: str
    app: str


class OutsideProjectError(CliError):
    """No folder from here upwards is a project (exit 4)."""

    def __init__(self, start: Path) -> None:
        self.start = start
        super().__init__(
            f"{start} is not inside a project: no pyproject.toml from here upwards "
            "has a [tool.pachinko] table",
            hint="cd into a project, or make one: pachinko new tea-room",
            exit_code=OUTSIDE_A_PROJECT,
        )


def find(start: Path) -> Project:
    """The project that `start` is in: the nearest one, where projects are nested.

    A `pyproject.toml` without the table is passed by, so that a project may live inside a larger
    repository.

    >>> find(Path("tea-room/tea_room/static")).app
    'tea_room.asgi:app'

    Raises:
        OutsideProjectError: The walk reached the top.
        CliError: A file on the way cannot be read, or its table makes no sense.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        table = _table(file) if _is_there(file) else None
        if table is not None:
            return _described(file, table)
    raise OutsideProjectError(start)


def current() -> Project:
    """The project that the current folder is in; it raises what `find` does.

    Raises:
        CliError: The current folder was deleted.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise CliError("the current folder was deleted", hint="cd to one that exists") from None
    return find(here)


def checked_app(app: object, where: str) -> str:
    """`app` as it is when it reads like `package.module:name`.

    `where` is the place to correct, for the message: an argument, or a key and its file.

    Raises:
        CliError: It does not (exit 2).
    """
    if isinstance(app, str) and _APP.fullmatch(app):
        return app
    raise CliError(
        f"{where} is {shown(str(app))}, which does not name an application",
        hint="write module:name, for example tea_room.asgi:app",
        exit_code=USAGE,
    )


def is_own_source(root: Path, file: str) -> bool:
    """Whether `file` is a Python file that somebody wrote for the project at `root`.

    What lies in a virtual environment, a cache or any hidden folder was not.

    >>> is_own_source(Path("/tea-room"), "/tea-room/tea_room/app.py")
    True
    >>> is_own_source(Path("/tea-room"), "/tea-room/.venv/lib/falcon/app.py")
    False
    """
    try:
        inside = PurePath(file).relative_to(root)
    except ValueError:
        return False
    return inside.suffix == ".py" and not any(
        part.startswith(".") or part in _NOT_OURS for part in inside.parts
    )


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError as error:
        raise CliError(
            f"cannot look for {file}: {error.strerror}", hint="get permission to read that folder"
        ) from error


def _table(file: Path) -> dict[str, object] | None:
    """The file's `[tool.pachinko]`, or None where it has none."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CliError(
            f"cannot read {file}: {error}",
            hint="put the file right; its [tool.pachinko] table says what to run",
        ) from error
    tool = document.get("tool")
    table = tool.get("pachinko") if isinstance(tool, dict) else None
    return table if isinstance(table, dict) else None


def _described(file: Path, table: dict[str, object]) -> Project:
    package = table.get("package")
    if not isinstance(package, str) or not package.isidentifier():
        raise CliError(
            f"[tool.pachinko] package in {file} is {shown(str(package))}, which names no package",
            hint='write for example: package = "tea_room"',
            exit_code=USAGE,
        )
    app = checked_app(table.get("app", f"{package}.asgi:app"), f"[tool.pachinko] app in {file}")
    return Project(file.parent, package, app)
