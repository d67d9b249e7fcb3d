"""`pachinko add-resource`: adds a WebSocket resource to a project, with its test and its route."""

from typing import Annotated

import typer

from pachinko_cli import additions, changes, project, reports, usage
from pachinko_cli.console import Console
from pachinko_cli.messages import messages
from pachinko_cli.modules import ModuleName, module_name
from pachinko_cli.options import DryRun, JsonEvents, Overwrite, Quiet, ShowChanges
from pachinko_cli.parts import KINDS
from pachinko_cli.paths import route_path


def add_resource(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What to call it: notes, or TeaParty.")
    ],
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH",
            help="Where clients connect.  [default: /ws/NAME, with /{room_name} for a room]",
            show_default=False,
        ),
    ] = None,
    *,
    message: Annotated[
        list[str] | None,
        typer.Option(
            "--message",
            "-m",
            metavar="TYPE:FIELD=TYPE,...",
            help="A message it takes, as in say:text=str,at=datetime?; may be given again.",
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            metavar="|".join(KINDS),
            help="What it begins as: "
            + "; ".join(f"{kind} {summary}" for kind, (_, summary) in KINDS.items())
            + ".",
            autocompletion=lambda: list(KINDS),
        ),
    ] = "room",
    force: Overwrite = False,
    dry_run: DryRun = False,
    as_json: JsonEvents = False,
    quiet: Quiet = False,
    verbose: ShowChanges = False,
) -> None:
    """Add a WebSocket resource: its module, its passing test, its line in routes.py.

    All of it is written, or nothing; the same again changes nothing.  `pachinko remove resource
    NAME` takes it out again.

    \b
    Examples:
      pachinko add-resource notes
      pachinko add-resource quiz /ws/quiz/{quiz_id:int} --kind reply --message answer:text=str
      pachinko add-resource board --message draw:x=int,y=int --message clear --dry-run
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    out = Console(quiet=quiet, verbose=verbose, as_json=as_json)
    module = module_name(name, "add-resource")
    kind = _known(kind)
    declared = messages(message or [each for each in [KINDS[kind][0]] if each])
    where = route_path(path if path is not None else _default_path(module, kind))
    found = project.current()
    if dry_run:
        plan = additions.resource(found, module, where, kind, declared, force=force)
    else:
        with changes.alone(found.root):
            plan = additions.resource(found, module, where, kind, declared, force=force)
            if not plan.conflicts:
                additions.carry_out(plan)

    reports.files(out, plan)
    reports.refuse_conflicts(plan)
    code = reports.steps(out, plan)
    test = f"tests/test_{module.module}.py"
    commands = [f"python -m pytest {test}", "pachinko serve"]
    reports.result(
        out, plan, f"{plan.subject} at {where.template}", dry_run=dry_run, commands=commands
    )
    raise typer.Exit(code)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise usage.unknown_choice("kind", kind, KINDS)
    return kind


def _default_path(name: ModuleName, kind: str) -> str:
    return f"/ws/{name.slug}/{{room_name}}" if kind == "room" else f"/ws/{name.slug}"
