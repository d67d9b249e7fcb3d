"""What `add-resource`, `add-worker` and `remove` say of their plans, to people and machines."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from pachinko_cli import additions, console
from pachinko_cli.changes import Change, Status
from pachinko_cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pachinko_cli.additions import Plan, Step
    from pachinko_cli.console import Console

_STYLES = {
    Status.CREATE: "green",
    Status.MODIFY: "yellow",
    Status.MERGE: "yellow",
    Status.REMOVE: "yellow",
    Status.CONFLICT: "bold red",
    Status.KEEP: "bold red",
}
_DIFFERING = {Status.CONFLICT, Status.MODIFY, Status.MERGE}
_DIFF = {"+": "green", "-": "red", "@": "cyan"}


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Go on where nobody reads the report, as behind `| head`, or where its disk is full.

    What was done is done, and the exit code still says how it ended.
    """
    try:
        yield
    except (OSError, SystemExit) as error:  # Rich ends the process where a pipe was closed
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError):
                console.warn(CliError(f"cannot print what was done: {error.strerror}"))


@unheard()
def files(out: Console, plan: Plan) -> None:
    """Print what becomes of each file; with the difference, where one would be overwritten.

    Where one would be, nothing becomes of the others.
    """
    for change in plan.conflicts or plan.changes:
        file(out, change, in_full=change.status is Status.CONFLICT)


def file(out: Console, change: Change, *, note: str = "", in_full: bool = False) -> None:
    """Print what becomes of a file; with the difference where asked for, and for `--verbose`."""
    in_full = in_full or out.verbose
    diff = change.diff if in_full and change.status in _DIFFERING else []
    told = {name: value for name, value in (("diff", diff), ("note", note)) if value}
    out.event("file", status=str(change.status), path=change.path, **told)
    about = f"{change.path}: {note}" if note else change.path
    out.line(f"{change.status:>9}  {about}", style=_STYLES.get(change.status, "dim"))
    for line in diff:
        out.line(f"           {line}", style=_DIFF.get(line[:1], ""))


def refuse_conflicts(plan: Plan) -> None:
    """Raise a `CliError` (exit 1) that names the files, if any would be overwritten."""
    if plan.conflicts:
        raise overwriting(plan.conflicts)


def overwriting(conflicts: tuple[Change, ...]) -> CliError:
    """The error for files that are there already and differ; nothing was changed."""
    names = ", ".join(change.path for change in conflicts)
    verb = "exists already and differs" if len(conflicts) == 1 else "exist already and differ"
    return CliError(
        f"{names} {verb}; nothing was changed",
        hint="choose another name, or overwrite with --force",
    )


def steps(out: Console, plan: Plan) -> int:
    """Print on stderr what is left to a person; gives the exit code."""
    for step in plan.steps:
        refused = CliError(f"{step.file} {step.why}, so it was not changed", hint=_typed(step))
        with unheard():
            out.event("step", verb=step.verb, path=step.file, why=step.why, lines=step.lines)
            console.warn(refused)
    return additions.A_STEP_REMAINS if plan.steps else 0


@unheard()
def result(
    out: Console,
    plan: Plan,
    what: str,
    *,
    dry_run: bool,
    removed: bool = False,
    commands: Sequence[str] = (),
) -> None:
    """Print how it ended, and what to type next."""
    done = "Removed" if removed else "Added"
    if not plan.does_something and plan.steps:
        event, sentence = "waiting", f"{what} {'stays' if removed else 'is unused'} until then"
    elif not plan.does_something:
        event, sentence = "identical", f"Nothing to do for {what}"
    elif dry_run:
        event, sentence = "planned", f"Would {'remove' if removed else 'add'} {what}"
    else:
        event, sentence = done.lower(), f"{done} {what}"
    out.event(
        event,
        kind=plan.addition.kind,
        name=plan.addition.name,
        subject=plan.subject,
        complete=not plan.steps,
        answers=dict(plan.addition.answers),
    )
    out.line(sentence, style="green" if plan.does_something else "")
    if commands and event == "added" and not plan.steps:
        out.event("next", commands=commands)
        out.line("\nNext:")
        for command in commands:
            out.line(f"  {command}", style="bold")


def _typed(step: Step) -> str:
    if not step.lines:
        return f"{step.verb} it yourself, or type the same with --force"
    importing, entry = step.lines
    where = "to" if step.verb == "add" else "from"
    return (
        f"{step.verb} the first line {where} its imports, the second {where} its table:\n"
        f"      {importing}\n      {entry.strip()}"
    )
