"""What a disk may refuse, and how two commands keep out of each other's way."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING

from pachinko_cli.errors import UnwritableError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What the file system may answer to a write that is nobody's bug.
_REFUSALS = frozenset(
    {
        errno.EACCES,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EFBIG,
        errno.EIO,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


@contextlib.contextmanager
def refusals_named(folder: Path) -> Iterator[None]:
    """Turn what a file system may refuse into an `UnwritableError` that names the folder.

    Any other `OSError` is a bug, and goes through as it is.
    """
    try:
        yield
    except OSError as error:
        cause = error.__cause__ if error.errno is None else error  # Cookiecutter wraps some
        if isinstance(cause, OSError) and cause.errno in _REFUSALS:
            raise UnwritableError(folder, cause) from error
        raise


def lock(folder: Path, *, wait: bool = False) -> int:
    """Lock a folder for this process, until the descriptor is closed or the process ends.

    While another process has it, that is a `BlockingIOError`, or a wait for it.  A file system
    without locks answers with another `OSError`.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
