"""Writes to a project: planned first, then all of them or none.

What a file was is kept in `.pachinko/undo` until the last write is done.  If one fails, or Ctrl-C
comes, what was written is taken back at once; if the process is killed, the next command does it.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import shutil
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pachinko_cli.disk import lock, refusals_named
from pachinko_cli.errors import CliError, InterruptedByUserError
from pachinko_cli.manifest import FOLDER, digest, inside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

UNDO = f"{FOLDER}/undo"
_JOURNAL = "journal.json"


class Status(StrEnum):
    """What becomes of a file."""

    CREATE = "create"
    IDENTICAL = "identical"
    MODIFY = "modify"
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
        return self.status in {Status.CREATE, Status.MODIFY, Status.REMOVE}

    @property
    def diff(self) -> list[str]:
        """The difference, line by line, as `diff -u` shows it."""
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
    place = root
    for part in path.split("/"):
        place = place / part
        if place.is_symlink():
            raise CliError(
                f"{place} is a symbolic link, which may lead out of the project",
                hint="put the file or folder itself there; nothing was changed",
            )
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CliError(
            f"cannot read {place}: {error.strerror}", hint="nothing was changed"
        ) from error


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep other commands out of the project, and take back what a killed one left half done."""
    try:
        descriptor = lock(root, wait=True)
    except OSError:  # a file system without locks
        descriptor = None
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
        CliError: A file is not what it was when the changes were planned.
    """
    wanted = [change for change in changes if change.writes]
    if not wanted:
        return
    noted = False
    try:
        with refusals_named(root):
            for change in wanted:
                if read(root, change.path) != change.before:
                    raise CliError(
                        f"{change.path} was changed by somebody else just now",
                        hint="nothing was written; try again",
                    )
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
    if journal.exists():
        noted = json.loads(journal.read_text(encoding="utf-8"))
        for number, entry in enumerate(noted["changes"]):
            target, old = root / inside(entry["path"]), undo / f"old-{number}"
            now = read(root, entry["path"])
            if (None if now is None else digest(now)) != entry["after"]:
                continue  # not written yet, or edited since
            if entry["mode"] is None:
                target.unlink(missing_ok=True)
            elif old.exists():
                old.chmod(entry["mode"])
                target.parent.mkdir(parents=True, exist_ok=True)
                old.replace(target)
        journal.unlink()
        for folder in sorted(noted["folders"], reverse=True):
            with contextlib.suppress(OSError):
                (root / inside(folder)).rmdir()
    shutil.rmtree(undo, ignore_errors=True)
    with contextlib.suppress(OSError):
        (root / FOLDER).rmdir()  # only where it is empty
