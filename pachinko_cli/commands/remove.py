"""`pachinko remove`: takes out of a project what `add-resource` or `add-worker` added."""

from typing import Annotated

import typer

from pachinko_cli import additions, changes, manifest, project, reports, usage
from pachinko_cli.console import Console
from pachinko_cli.errors import CliError
from pachinko_cli.modules import snake_case
from pachinko_cli.options import DryRun, JsonEvents, Quiet, ShowChanges

KINDS = ("resource", "worker")


def _added(ctx: typer.Context) -> list[str]:
    """The names that a shell completes: those of the kind that stands before."""
    try:
        root = project.current().root
        made = manifest.decode(changes.read(root, manifest.PATH))
    except CliError:  # a half-typed line is no place for a complaint
        return []
    return [each.name for each in made.added if each.kind == ctx.params.get("kind")]


def remove(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="|".join(KINDS), help="What it is.", autocompletion=lambda: list(KINDS)
        ),
    ],
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="What it was added as.", autocompletion=_added),
    ],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Remove files that you edited, too.")
    ] = False,
    dry_run: DryRun = False,
    as_json: JsonEvents = False,
    quiet: Quiet = False,
    verbose: ShowChanges = False,
) -> None:
    """Remove a resource or a worker that was added: its files, and its line in the table.

    A file that you edited is kept and named, with exit code 3.

    \b
    Examples:
      pachinko remove resource notes
      pachinko remove worker pulse --dry-run
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    out = Console(quiet=quiet, verbose=verbose, as_json=as_json)
    if kind not in KINDS:
        raise usage.unknown_choice("kind", kind, KINDS)
    found = project.current()
    module = snake_case(name)
    if dry_run:
        plan = additions.removal(found, kind, module, force=force)
    else:
        with changes.alone(found.root):
            plan = additions.removal(found, kind, module, force=force)
            additions.carry_out(plan)

    reports.files(out, plan)
    code = reports.steps(out, plan)
    reports.result(out, plan, plan.subject, dry_run=dry_run, removed=True)
    raise typer.Exit(code)
