"""Writes to a project: planned first, then all of them or none.

What a file was is kept in `.pachinko/undo` until the last write is done.  If one fails, or Ctrl-C
comes, what was written is taken back at once; if the process is killed, the next command does it.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shlex
import shutil
import stat
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pachinko_cli import console
from pachinko_cli.disk import lock, refusals_named
from pachinko_cli.errors import CliError, InterruptedByUserError
from pachinko_cli.manifest import FOLDER, digest, inside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

UNDO = f"{FOLDER}/undo"
PATIENCE = 1.0  # seconds of waiting for another command, before this one says that it waits
_JOURNAL = "journal.json"


class Status(StrEnum):
    """What becomes of a file."""

    CREATE = "create"
    IDENTICAL = "identical"
    MODIFY = "modify"
    MERGE = "merge"
    CONFLICT = "conflict"
    REMOVE = "remove"
    KEEP = "keep"


@dataclass(frozen=True)
class Change:
    """What is to become of one file: its bytes before and after, None where there is no file.

    `path` is relative to the project, with slashes.
    """

    path: str
    before: bytes | None
    after: bytes | None
    status: Status

    @property
    def writes(self) -> bool:
        """Whether anything is to be done."""
        return self.status in {Status.CREATE, Status.MODIFY, Status.MERGE, Status.REMOVE}

    @property
    def diff(self) -> list[str]:
        """The difference, line by line, as `diff -u` shows it."""
        if any(b"\0" in (content or b"") for content in (self.before, self.after)):
            return [f"Binary file {self.path} differs"]
        before, after = (
            (content or b"").decode(errors="backslashreplace").splitlines()
            for content in (self.before, self.after)
        )
        names = (self.path, f"{self.path} (generated)")
        return list(difflib.unified_diff(before, after, *names, lineterm=""))


def generated(root: Path, path: str, text: str, *, force: bool) -> Change:
    """A file that is written anew; one that is there and differs is a conflict, unless forced."""
    before, after = read(root, path), text.encode()
    if before is None:
        return Change(path, before, after, Status.CREATE)
    if digest(before) == digest(after):
        return Change(path, before, before, Status.IDENTICAL)
    return Change(path, before, after, Status.MODIFY if force else Status.CONFLICT)


def edited(path: str, before: bytes | None, after: bytes) -> Change:
    """A file that is changed in place."""
    if before is None:
        return Change(path, before, after, Status.CREATE)
    return Change(path, before, after, Status.IDENTICAL if before == after else Status.MODIFY)


def read(root: Path, path: str) -> bytes | None:
    """What is in a file of the project; None where there is none.

    Raises:
        CliError: The way to it is a symbolic link, or it is no file, or cannot be read.
    """
    place, mode = root, 0
    try:
        for part in path.split("/"):
            place = place / part
            mode = place.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise CliError(
                    f"{place} is a symbolic link, which may lead out of the project",
                    hint="put the file or folder itself there; nothing was changed",
                )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a pipe would never end
            raise CliError(f"{place} is no ordinary file", hint="nothing was changed")
        return place.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CliError(
            f"cannot read {place}: {error.strerror}", hint="nothing was changed"
        ) from error


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep other commands out of the project, and take back what a killed one left half done.

    While another one is at it, this waits, and after a second says so.

    Raises:
        CliError: What was left half done cannot be taken back; the message says where it is.
    """
    descriptor = _turn(root)
    try:
        with refusals_named(root):
            _take_back(root)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def apply(root: Path, changes: Sequence[Change]) -> None:
    """Write all changes, or none of them.

    Raises:
        UnwritableError: The file system refused one; the others were taken back.
        InterruptedByUserError: Ctrl-C; what was written was taken back.
        CliError: A file is not what it was when the changes were planned, or write-protected.
    """
    wanted = [change for change in changes if change.writes]
    if not wanted:
        return
    noted = False
    try:
        with refusals_named(root):
            for change in wanted:
                _still_possible(root, change)
            _note(root, wanted)
            noted = True
            for number, change in enumerate(wanted):
                _write(root, change, root / UNDO / f"new-{number}")
            (root / UNDO / _JOURNAL).unlink()
        shutil.rmtree(root / UNDO, ignore_errors=True)
    except BaseException as error:
        complete = noted and not (root / UNDO / _JOURNAL).exists()
        _take_back(root)
        if isinstance(error, KeyboardInterrupt):
            what = "it was done already" if complete else "nothing was changed"
            raise InterruptedByUserError(f"interrupted; {what}") from None
        raise


def _turn(root: Path) -> int | None:
    """The project's lock, once it is free; None on a file system without locks."""
    patience = time.monotonic() + PATIENCE
    with contextlib.suppress(OSError):
        while time.monotonic() < patience:
            try:
                return lock(root)
            except BlockingIOError:
                time.sleep(0.02)
        console.note(f"waiting for another pachinko that is at work in {root}")
        return lock(root, wait=True)
    return None


def _still_possible(root: Path, change: Change) -> None:
    if read(root, change.path) != change.before:
        raise CliError(
            f"{change.path} was changed by somebody else just now",
            hint="nothing was written; try again",
        )
    # A rename would get past it: the folder's mode decides about that.
    if change.before is not None and not os.access(root / change.path, os.W_OK):
        raise CliError(
            f"{change.path} is write-protected, so nothing was changed",
            hint=f"if it may be changed, type:  chmod u+w {shlex.quote(str(root / change.path))}",
        )


def _note(root: Path, changes: Sequence[Change]) -> None:
    """Keep what there is, and a journal of what is about to happen to it."""
    undo = root / UNDO
    folders = {parent for change in changes for parent in PurePosixPath(change.path).parents}
    missing = sorted(str(folder) for folder in folders if not (root / folder).exists())
    undo.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for number, change in enumerate(changes):
        mode = None
        if change.before is not None:
            (undo / f"old-{number}").write_bytes(change.before)
            mode = stat.S_IMODE((root / change.path).stat().st_mode)
        if change.after is not None:
            new = undo / f"new-{number}"
            new.write_bytes(change.after)
            if mode is not None:
                new.chmod(mode)
        after = None if change.after is None else digest(change.after)
        entries.append({"path": change.path, "mode": mode, "after": after})
    journal = json.dumps({"changes": entries, "folders": missing})
    (undo / "journal").write_text(journal, encoding="utf-8")
    (undo / "journal").rename(undo / _JOURNAL)


def _write(root: Path, change: Change, staged: Path) -> None:
    target = root / change.path
    with refusals_named(target.parent):
        if change.after is None:
            target.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(target)


def _take_back(root: Path) -> None:
    """Undo what the journal says was begun; a file that somebody has edited since stays."""
    undo = root / UNDO
    if (root / FOLDER).is_symlink() or undo.is_symlink():
        return
    journal = undo / _JOURNAL
    if os.path.lexists(journal):
        changes, folders = _begun(root)
        for number, (path, mode, after) in enumerate(changes):
            target, old = root / path, undo / f"old-{number}"
            now = read(root, path)
            if (None if now is None else digest(now)) != after:
                continue  # not written yet, or edited since
            if mode is None:
                target.unlink(missing_ok=True)
            elif old.is_file() and not old.is_symlink():
                old.chmod(mode)
                target.parent.mkdir(parents=True, exist_ok=True)
                old.replace(target)
        journal.unlink()
        for folder in sorted(folders, reverse=True):
            with contextlib.suppress(OSError):
                (root / folder).rmdir()
    shutil.rmtree(undo, ignore_errors=True)
    with contextlib.suppress(OSError):
        (root / FOLDER).rmdir()  # only where it is empty


def _begun(root: Path) -> tuple[list[tuple[str, int | None, str | None]], list[str]]:
    """What the journal says: the changes with the modes before and digests after, new folders.

    It came with the project, and may have been written by anybody, or by half in a power cut.
    """
    place = f"{UNDO}/{_JOURNAL}"
    try:
        noted = json.loads(read(root, place) or b"")
        changes = [
            (inside(each["path"]), _mode(each["mode"]), each["after"]) for each in noted["changes"]
        ]
        return changes, [inside(folder) for folder in noted["folders"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CliError(
            f"a command was interrupted here, and {place}, which says what it did, cannot be read",
            hint=f"compare the project with your repository, then delete {root / UNDO}",
        ) from error


def _mode(noted: object) -> int | None:
    if noted is None or (isinstance(noted, int) and 0 <= noted <= 0o7777):
        return noted
    raise ValueError(f"{noted!r} is no mode of a file")
