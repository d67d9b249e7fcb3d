"""What the command line refuses, as sentences.

    CliError                    anything a user can put right
    ├── NameRefusedError        a name that cannot be a folder and a package   (exit 2)
    ├── TargetTakenError        something is there already                     (exit 1)
    ├── UnwritableError         the disk or its permissions say no             (exit 1)
    └── InterruptedByUserError  Ctrl-C; what was begun is undone               (exit 130)

Whatever is not a `CliError` is a bug, and shows its traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FAILED = 1
USAGE = 2
INTERRUPTED = 130


class CliError(Exception):
    """Something a user can put right: what happened, and what to do or type.

    `app` prints it in a few lines on stderr and ends the process with `exit_code`: 1 failed and
    nothing changed, 2 usage or a bad name, 3 a manual step remains, 4 not inside a project, 130
    interrupted and rolled back.

    >>> CliError("no pyproject.toml here", hint="cd into a project", exit_code=4).exit_code
    4
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = FAILED) -> None:
        self.message, self.hint, self.exit_code = message, hint, exit_code
        super().__init__(message)


class NameRefusedError(CliError):
    """A name that cannot become both a folder and a Python package.

    `suggestion` is a name near it that can.
    """

    def __init__(self, name: str, reason: str, suggestion: str) -> None:
        self.name, self.reason, self.suggestion = name, reason, suggestion
        super().__init__(
            f"{shown(name)} {reason}",
            hint=f"try: pachinko new {suggestion}",
            exit_code=USAGE,
        )


class TargetTakenError(CliError):
    """A file, a folder or a symbolic link is where the project would go; it stays as it is."""

    def __init__(self, target: Path) -> None:
        self.target = target
        super().__init__(
            f"{target} exists already, and was not touched",
            hint="choose another name, or move it away first",
        )


class UnwritableError(CliError):
    """The file system refused: permissions, a full disk, a name that is too long for it."""

    def __init__(self, folder: Path, cause: OSError) -> None:
        self.folder = folder
        super().__init__(
            f"cannot write in {folder}: {cause.strerror or cause}; nothing was made",
            hint="make room or get permission there, or cd to another folder",
        )


class InterruptedByUserError(CliError):
    """Ctrl-C; the message says what became of what was begun."""

    def __init__(self, message: str = "interrupted") -> None:
        super().__init__(message, exit_code=INTERRUPTED)


def shown(text: str, limit: int = 40) -> str:
    r"""`text` as a message may show it: quoted, control characters escaped, not too long.

    >>> print(shown("two\nlines"), shown("a" * 100, limit=3))
    'two\nlines' 'aaa…'
    """
    return repr(text if len(text) <= limit else f"{text[:limit]}…")
