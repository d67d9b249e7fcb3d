"""`pachinko update`: brings a project to the template as it is now."""

from typing import Annotated

import typer

from pachinko_cli import changes, console, project, reports, updates
from pachinko_cli.additions import A_STEP_REMAINS
from pachinko_cli.console import Console
from pachinko_cli.errors import CliError
from pachinko_cli.options import DryRun, JsonEvents, Quiet, ShowChanges
from pachinko_cli.project import OutsideProjectError, Project
from pachinko_cli.steps import inside_repository
from pachinko_cli.updates import Update


def update(
    *,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only say whether there is an update: exit 3 if so."),
    ] = False,
    restore: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Bring back a file that you deleted; repeatable."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Go on with what is not committed, or not resolved since the last time."
        ),
    ] = False,
    dry_run: DryRun = False,
    as_json: JsonEvents = False,
    quiet: Quiet = False,
    verbose: ShowChanges = False,
) -> None:
    """Update the project to the template of this pachinko; what you wrote stays.

    A file that you did not touch is replaced, one that you edited is merged, and what you deleted
    stays deleted.  All of it is written, or nothing; nothing is downloaded.  Where you and the
    template changed the same lines, both are in the file, between markers: exit 3.

    \b
    Examples:
      pachinko update --dry-run -v
      pachinko update
      pachinko update --check
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    out = Console(quiet=quiet, verbose=verbose, as_json=as_json)
    found = _current()
    wanted = tuple(restore or ())
    if dry_run or check:
        plan = updates.plan(found, restore=wanted, force=force)
    else:
        with changes.alone(found.root):
            plan = updates.plan(found, restore=wanted, force=force)
            if not force:
                updates.refuse_uncommitted(plan)
            updates.carry_out(plan)

    if check:
        raise typer.Exit(_checked(out, plan))
    _report(out, plan, planned=dry_run)
    raise typer.Exit(A_STEP_REMAINS if plan.steps else 0)


def _current() -> Project:
    try:
        return project.current()
    except OutsideProjectError:
        raise
    except CliError as error:
        # It may be the last update that has made the settings unreadable.
        raise updates.marked_settings() or error from error


@reports.unheard()
def _report(out: Console, plan: Update, *, planned: bool) -> None:
    for change in plan.changes:
        reports.file(out, change, note=plan.notes.get(change.path, ""))
    if not plan.does_something:
        event, sentence = "identical", f"Nothing to do: this is {_named(plan)}"
    elif planned:
        event, sentence = "planned", f"Would update to {_named(plan)}{_from(plan)}"
    else:
        event, sentence = "updated", f"Updated to {_named(plan)}{_from(plan)}"
    _event(out, event, plan)
    out.line(sentence, style="green" if plan.does_something else "")
    for step in plan.steps:
        out.event("step", path=step.file, why=step.why, remedy=step.remedy)
        console.warn(CliError(f"{step.file} {step.why}", hint=step.remedy))
    if event == "updated":
        commands = ["git diff"] * inside_repository(plan.root) + ["python -m pytest"]
        out.event("next", commands=commands)
        out.line("\nNext:")
        for command in commands:
            out.line(f"  {command}", style="bold")


def _checked(out: Console, plan: Update) -> int:
    """Say whether there is an update; gives the exit code."""
    with reports.unheard():
        _event(out, "available" if plan.does_something else "identical", plan)
        if plan.does_something:
            out.line(f"There is an update to {_named(plan)}{_from(plan)}; type:  pachinko update")
        else:
            out.line(f"Up to date: this is {_named(plan)}")
    return A_STEP_REMAINS if plan.does_something else 0


def _event(out: Console, event: str, plan: Update) -> None:
    out.event(
        event,
        template=plan.template,
        before=plan.before,
        after=plan.after,
        complete=not plan.steps,
    )


def _named(plan: Update) -> str:
    return f"template {plan.template} {plan.after}"


def _from(plan: Update) -> str:
    return f", from {plan.before}" if plan.before != plan.after else ""
