"""Imports the project's app in a process of its own, and tells what there is in it.

A separate process, because importing somebody's code may do anything: print where a JSON document
is expected, start threads, never come back.  All of it ends with that process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pachinko_cli import anatomy, mistakes
from pachinko_cli.anatomy import Anatomy
from pachinko_cli.errors import CliError
from pachinko_cli.findings import Finding
from pachinko_cli.server.loading import load

if TYPE_CHECKING:
    from pachinko_cli.project import Project

PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Inspection:
    """What the app consists of, and what looks forgotten in it; or why nobody knows.

    `error` is what `load` says of an app that does not import, and `hint` what to do.
    """

    anatomy: Anatomy = field(default_factory=Anatomy)
    findings: tuple[Finding, ...] = ()
    error: str = ""
    hint: str = ""


def inspect(
    project: Project, *, whole_trace: bool = False, patience: float = PATIENCE
) -> Inspection:
    """Import the project's app and look into it; nothing of it runs afterwards.

    What the import prints goes to stderr.

    Raises:
        CliError: The app does not import; the user's part of the traceback is in the message, or
            all of it with `whole_trace`.  Or it is none of Falcon's, ended the process, or took
            longer than `patience` seconds.
    """
    import msgspec  # noqa: PLC0415 - not for `--help`

    arguments = [str(project.root), project.package, project.app, str(int(whole_trace))]
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(  # noqa: S603 - this very module
            # -P: what lies in the folder where the command was typed is not to be imported.
            [sys.executable, "-P", "-m", "pachinko_cli.inspection", *arguments],
            cwd=project.root,
            stdin=subprocess.DEVNULL,
            stdout=told,
            start_new_session=True,
        )
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            raise CliError(
                f"{project.app} is still importing after {patience:g} seconds",
                hint="what waits or loops should begin in a worker or in process_startup, "
                "not at the import",
            ) from None
        finally:
            _end(process)
        told.seek(0)
        document = told.read()
    if not document:
        raise CliError(
            f"the process that imported {project.app} ended with exit code {code}",
            hint="what it printed is above; does a module end the process, or run out of memory?",
        )
    found = msgspec.json.decode(document, type=Inspection)
    if found.error:
        raise CliError(found.error, hint=found.hint)
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process, and those that it started."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(root: Path, package: str, app: str, *, whole_trace: bool) -> Inspection:
    """Import an app in this process, and look into it."""
    replaced = mistakes.Replaced()
    replaced.watch()
    try:
        loaded = load(root, app, whole_trace=whole_trace)
        _expect_falcon(loaded, app)
    except CliError as error:
        return Inspection(error=error.message, hint=error.hint)
    findings = mistakes.of(loaded, root, package, replaced)
    return Inspection(anatomy.of(loaded, root), tuple(findings))


def _expect_falcon(loaded: object, app: str) -> None:
    import falcon  # noqa: PLC0415 - after the app, so that its own imports fail first
    import falcon.asgi  # noqa: PLC0415 - see above

    if isinstance(loaded, falcon.asgi.App):
        return
    if isinstance(loaded, falcon.App):
        what, hint = "a falcon.App, which is WSGI", "make it a falcon.asgi.App"
    elif callable(loaded) and hasattr(loaded, "__code__"):
        what = "a function"
        hint = f"call it in its module and name what it returns: app = {loaded.__code__.co_name}()"
    else:
        what = f"of type {type(loaded).__name__}"
        hint = "name the Falcon app itself in pyproject.toml: [tool.pachinko] app"
    raise CliError(f"{app} is {what}, not a falcon.asgi.App", hint=hint)


def _tell() -> None:
    """Be the other process: what the app prints goes to stderr, what is found to stdout."""
    document = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    root, package, app, whole_trace = sys.argv[1:]
    found = main(Path(root), package, app, whole_trace=bool(int(whole_trace)))

    import msgspec  # noqa: PLC0415 - only after the app, so that its own imports fail first

    document.write(msgspec.json.encode(asdict(found)))
    document.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # whatever threads the app has started


if __name__ == "__main__":
    _tell()
