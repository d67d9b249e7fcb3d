"""Asks git, where there is one: to merge a file, and what in a project is not committed.

The only door to it.  Neither question changes a repository, and the first one needs none.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What a hook or a wrapper may have set for a repository that is not the one asked about.
_ELSEWHERE = frozenset(
    """
    GIT_COMMON_DIR GIT_DIR GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_PREFIX GIT_WORK_TREE
    """.split()  # noqa: SIM905 - as a list literal it takes eight lines
)


class GitError(Exception):
    """Git is not there, or refused; the text says so, in its own words where it had any."""


def merge_file(
    folder: Path, yours: Path, base: Path, theirs: Path, *, labels: tuple[str, ...]
) -> bytes:
    """Merge two versions of a file that began as a third, with markers where both changed it.

    `labels` name the versions in the markers, in the same order.  `folder` is where git runs; no
    repository around it is looked for.

    Raises:
        GitError: There is no git, or it cannot merge these.
    """
    named = [part for label in labels for part in ("-L", label)]
    files = [str(file) for file in (yours, base, theirs)]
    # It ends with the number of conflicts, 127 at most; what is above is a failure.
    done = _run(folder, "merge-file", "--stdout", "--quiet", *named, *files, ceiling=folder.parent)
    if not 0 <= done.returncode <= 127:
        raise GitError(_words(done))
    return done.stdout


def uncommitted(folder: Path) -> list[tuple[str, bool]]:
    """The files below a folder of a repository that differ from its last commit.

    Each is relative to the folder, with whether git has it at all; what it is told to ignore is
    passed by.

    Raises:
        GitError: There is no git, or no repository that it will read.
    """
    prefix = _asked(folder, "rev-parse", "--show-prefix").decode(errors="surrogateescape")
    question = ("status", "--porcelain", "-z", "--untracked-files=all", "--no-renames", "--", ".")
    status = _asked(folder, "--no-optional-locks", *question)
    return list(_entries(status, prefix.removesuffix("\n")))


def _entries(status: bytes, prefix: str) -> Iterator[tuple[str, bool]]:
    for entry in status.decode(errors="surrogateescape").split("\0"):
        if entry:
            yield entry[3:].removeprefix(prefix), entry[:2] != "??"


def _asked(folder: Path, *arguments: str) -> bytes:
    done = _run(folder, *arguments)
    if done.returncode:
        raise GitError(_words(done))
    return done.stdout


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[0] if said else f"git ended with {done.returncode}"


def _run(
    folder: Path, *arguments: str, ceiling: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    if ceiling:
        environment["GIT_CEILING_DIRECTORIES"] = str(ceiling)
    try:
        return subprocess.run(  # noqa: S603 - our own words and paths, and no shell
            ["git", *arguments],  # noqa: S607 - the one that its user would type
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise GitError("git is not installed") from error
