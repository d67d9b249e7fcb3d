"""`pachinko add-worker`: adds a background worker to a project, with its test."""

import re
from typing import Annotated

import typer

from pachinko_cli import additions, changes, project, reports
from pachinko_cli.console import Console
from pachinko_cli.errors import USAGE, CliError, shown
from pachinko_cli.modules import module_name
from pachinko_cli.options import DryRun, JsonEvents, Overwrite, Quiet, ShowChanges

LONGEST = 366 * 86_400  # seconds

_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_INTERVAL = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|)")


def add_worker(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it: pulse.")],
    *,
    every: Annotated[
        str,
        typer.Option(metavar="INTERVAL", help="How often it does its work: 500ms, 30s, 5m, 1h."),
    ] = "30s",
    singleton: Annotated[
        bool,
        typer.Option("--singleton", help="Run it on one process of all that share a backend."),
    ] = False,
    force: Overwrite = False,
    dry_run: DryRun = False,
    as_json: JsonEvents = False,
    quiet: Quiet = False,
    verbose: ShowChanges = False,
) -> None:
    """Add a background worker: its module, its passing test, its line in workers/__init__.py.

    All of it is written, or nothing; the same again changes nothing.  `pachinko remove worker NAME`
    takes it out again.

    \b
    Examples:
      pachinko add-worker pulse
      pachinko add-worker rates --every 5m --singleton
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    out = Console(quiet=quiet, verbose=verbose, as_json=as_json)
    module = module_name(name, "add-worker")
    seconds = interval(every)
    found = project.current()
    if dry_run:
        plan = additions.worker(found, module, seconds, singleton=singleton, force=force)
    else:
        with changes.alone(found.root):
            plan = additions.worker(found, module, seconds, singleton=singleton, force=force)
            if not plan.conflicts:
                additions.carry_out(plan)

    reports.files(out, plan)
    reports.refuse_conflicts(plan)
    code = reports.steps(out, plan)
    commands = [f"python -m pytest tests/test_{module.module}.py", "pachinko serve"]
    what = f"{plan.subject}, every {every}"
    reports.result(out, plan, what, dry_run=dry_run, commands=commands)
    raise typer.Exit(code)


def interval(text: str) -> float:
    """Read a time with its unit, in seconds; a number alone is seconds.

    >>> interval("500ms"), interval("5m")
    (0.5, 300.0)

    Raises:
        CliError: It is no time, or none to wait for (exit 2).
    """
    found = _INTERVAL.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0.001 <= seconds <= LONGEST:
        raise CliError(
            f"--every {shown(text)} is no time between a millisecond and a year",
            hint="write a number and a unit: 500ms, 30s, 5m, 1h",
            exit_code=USAGE,
        )
    return round(seconds, 6)
