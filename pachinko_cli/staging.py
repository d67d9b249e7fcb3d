"""Makes a folder all at once or not at all: beside its place, and then put there by one rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pachinko_cli.disk import lock
from pachinko_cli.errors import CliError, TargetTakenError, UnwritableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pachinko_cli.names import ProjectName

STAGING_PREFIX = ".pachinko-new-"
# What Cookiecutter would take for a template in the path of a folder.
MARKS = ("{{", "{%", "{#")

# What a rename answers when something else is in that place.
_TAKEN = frozenset({errno.EEXIST, errno.ENOTDIR, errno.ENOTEMPTY, errno.EISDIR})


@dataclass(frozen=True)
class Project:
    """A project that was made, or would be: its folder, and its files relative to it."""

    path: Path
    files: tuple[Path, ...]


def vacant(name: ProjectName, parent: Path) -> Path:
    """The folder that the project gets, or `TargetTakenError` where something is there.

    A file, a folder or a symbolic link counts, one that leads nowhere included.
    """
    target = parent / name.slug
    if os.path.lexists(target):
        raise TargetTakenError(target)
    return target


def refuse_marks(folder: Path) -> None:
    """Raise `CliError` where Cookiecutter, which renders absolute paths, would write elsewhere."""
    if found := next((mark for mark in MARKS if mark in str(folder.absolute())), None):
        raise CliError(
            f"no project can be made in {folder.parent}: Cookiecutter takes the {found} in that "
            "path for a template",
            hint="cd to a folder without it",
        )


@contextlib.contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """A private folder in `parent` that is gone at the end, whatever happens inside.

    It is locked while it is used.  The lock ends with the process, even with one that was killed:
    that is how `sweep` tells a folder that was left from one that is in use.
    """
    made: list[Path] = []  # so that an interrupt finds it before its lock is there
    descriptor = None
    try:
        folder, descriptor = _locked_folder(parent, made)
        yield folder
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove the staging folders that killed runs of this user left in `parent`."""
    if sys.platform == "win32":  # no locks on folders there, so no telling which are in use
        return
    for folder in parent.glob(f"{STAGING_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            descriptor = lock(folder)
            try:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def move(staged: Path, target: Path) -> None:
    """Put the project in its place by one rename; `TargetTakenError` if another one was faster."""
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno in _TAKEN:
            raise TargetTakenError(target) from error
        raise


def files_in(folder: Path) -> tuple[Path, ...]:
    """Every file in a folder, relative to it, in order."""
    return tuple(sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file()))


def _locked_folder(parent: Path, made: list[Path]) -> tuple[Path, int | None]:
    while True:
        folder = parent / f"{STAGING_PREFIX}{secrets.token_hex(4)}"
        made[:] = [folder]  # before it is there: an interrupt may come at any moment
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:  # somebody else's
            made.clear()
            continue
        except OSError as error:
            raise UnwritableError(parent, error) from error
        if sys.platform == "win32":
            return folder, None
        try:
            descriptor = lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another run swept it before it was locked
        except OSError:
            return folder, None  # a file system without locks, where `sweep` gets none either
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)
