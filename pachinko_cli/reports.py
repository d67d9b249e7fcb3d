"""What `add-resource`, `add-worker` and `remove` say of their plans, to people and machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pachinko_cli import additions, console
from pachinko_cli.changes import Change, Status
from pachinko_cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pachinko_cli.additions import Plan, Step
    from pachinko_cli.console import Console

_STYLES = {
    Status.CREATE: "green",
    Status.MODIFY: "yellow",
    Status.REMOVE: "yellow",
    Status.CONFLICT: "bold red",
    Status.KEEP: "bold red",
}
_DIFF = {"+": "green", "-": "red", "@": "cyan"}


def files(out: Console, plan: Plan) -> None:
    """Print what becomes of each file; with the difference, where one would be overwritten."""
    for change in plan.changes:
        diff = change.diff if change.status in {Status.CONFLICT, Status.MODIFY} else []
        told = {"diff": diff} if diff and change.status is Status.CONFLICT else {}
        out.event("file", status=str(change.status), path=change.path, **told)
        out.line(f"{change.status:>9}  {change.path}", style=_STYLES.get(change.status, "dim"))
        if change.status is Status.CONFLICT or out.verbose:
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
        out.event("step", verb=step.verb, path=step.file, why=step.why, lines=step.lines)
        console.warn(CliError(f"{step.file} {step.why}, so it was not changed", hint=_typed(step)))
    return additions.A_STEP_REMAINS if plan.steps else 0


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
        event, sentence = "waiting", f"{what}: see above"
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
