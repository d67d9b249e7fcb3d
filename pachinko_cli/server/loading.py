"""Imports the project's app; where that fails, finds the user's own part in it."""

from __future__ import annotations

import importlib
import operator
import sys
import traceback
from typing import TYPE_CHECKING, Any

from pachinko_cli.errors import CliError
from pachinko_cli.project import is_own_source

if TYPE_CHECKING:
    from pathlib import Path


def load(root: Path, app: str, *, factory: bool = False, whole_trace: bool = False) -> Any:
    """The object that `app` names, `tea_room.asgi:app`; what it returns, for a `factory`.

    The project's folder comes first on `sys.path`, so its package wins over an installed one of
    the same name.

    Raises:
        LoadError: Anything that the import raised, `SystemExit` included.
    """
    sys.path.insert(0, str(root))
    module, _, name = app.partition(":")
    try:
        found = operator.attrgetter(name)(importlib.import_module(module))
        return found() if factory else found
    except (Exception, SystemExit) as error:
        raise LoadError(error, root, app, whole_trace=whole_trace) from error


class LoadError(CliError):
    """The app does not import; the message has the traceback as far as it is the user's.

    With `whole_trace` it has all of it.  `file` and `line` say where the project's code ended; they
    are None when none of it was running: the module, or its attribute, does not exist.
    """

    def __init__(self, error: BaseException, root: Path, app: str, *, whole_trace: bool) -> None:
        self.app = app
        report = traceback.TracebackException.from_exception(error)
        own = _keep_own_frames(report, root)
        self.file: str | None = None
        self.line: int | None = None
        if isinstance(error, SyntaxError):
            self.file, self.line = error.filename, error.lineno
        elif own:
            self.file, self.line = own[-1].filename, own[-1].lineno
        if whole_trace:
            lines = traceback.format_exception(error)
        else:
            lines = list(report.format() if own else report.format_exception_only())
        super().__init__(
            f"{app} does not import\n{''.join(lines).rstrip()}",
            hint="" if own or self.file else f"it is looked for in {root}",
        )


def _keep_own_frames(
    report: traceback.TracebackException | None, root: Path
) -> list[traceback.FrameSummary]:
    """Cut everybody else's frames out of `report` and of the errors that led to it."""
    if report is None:
        return []
    own = [frame for frame in report.stack if is_own_source(root, frame.filename)]
    report.stack = traceback.StackSummary.from_list(own)
    _keep_own_frames(report.__cause__, root)
    _keep_own_frames(report.__context__, root)
    return own
