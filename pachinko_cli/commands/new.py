"""`pachinko new`: makes a project."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pachinko_cli import console, scaffold
from pachinko_cli.console import Console
from pachinko_cli.errors import USAGE, CliError, InterruptedByUserError, shown
from pachinko_cli.names import ProjectName, project_name
from pachinko_cli.templates import TEMPLATES, Template


def new(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help='What to call it: tea-room, or "Tea Room".'),
    ] = None,
    *,
    template: Annotated[
        str | None,
        typer.Option(metavar="|".join(TEMPLATES), help="What to start from.  [default: chat]"),
    ] = None,
    agents_md: Annotated[
        bool | None,
        typer.Option("--agents-md/--no-agents-md", help="Add an AGENTS.md.  [default: yes]"),
    ] = None,
    git: Annotated[
        bool | None,
        typer.Option("--git/--no-git", help="Start a repository.  [default: unless inside one]"),
    ] = None,
    install: Annotated[
        bool | None,
        typer.Option(
            "--install/--no-install",
            help="Install it (uv, or venv and pip) and run its tests.  [default: no]",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing; take the defaults.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, and write nothing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Ask nothing; print one JSON event a line.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what failed.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print what the steps print, too.")
    ] = False,
) -> None:
    """Make a project: a Falcon app with WebSockets that runs, with its tests.

    The project appears in a new folder here, as a whole or not at all.  On a terminal you are asked
    for what you did not give.

    \b
    Examples:
      pachinko new tea-room
      pachinko new "Tea Room" --template minimal --no-git --yes
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    out = Console(quiet=quiet, verbose=verbose, as_json=as_json)
    asking = console.is_interactive() and not (yes or as_json)
    here = _current_folder()
    answers = scaffold.Answers(
        name=_name(name, here, asking=asking),
        template=_template(template, asking=asking),
        agents_md=_yes_or_no("Add an AGENTS.md?", given=agents_md, default=True, asking=asking),
    )
    in_repository = scaffold.inside_repository(here)
    git = _yes_or_no(
        "Start a git repository?",
        given=git,
        default=not in_repository,
        asking=asking and not in_repository,
    )
    install = _yes_or_no(
        "Install it and run its tests now?", given=install, default=asking, asking=asking
    )

    if dry_run:
        _report(out, answers, scaffold.preview(answers, here), planned=True)
        return
    made = scaffold.create(answers, here)
    if git:
        _start_repository(out, made)
    _report(out, answers, made)
    if install:
        _install(out, made)
    _next_steps(out, made, same=_without_questions(answers, git=git, install=install))


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise CliError("the current folder was deleted", hint="cd to one that exists") from None


def _name(given: str | None, here: Path, *, asking: bool) -> ProjectName:
    """The project's name, checked, and free to be taken in this folder."""
    if given is not None:
        name = project_name(given)
        scaffold.vacant(name, here)
        return name
    if not asking:
        raise CliError("a project needs a name", hint="try: pachinko new tea-room", exit_code=USAGE)
    while True:
        answer = console.ask("What is the project called?", "tea-room")
        try:
            name = project_name(answer)
            scaffold.vacant(name, here)
        except CliError as refused:
            console.warn(refused)
        else:
            return name


def _template(given: str | None, *, asking: bool) -> Template:
    if given is not None:
        return _known_template(given)
    if not asking:
        return TEMPLATES["chat"]
    for template in TEMPLATES.values():
        console.note(f"  {template.name}: {template.summary}")
    while True:
        answer = console.ask("Which template?", "chat")
        try:
            return _known_template(answer)
        except CliError as unknown:
            console.warn(unknown)


def _known_template(name: str) -> Template:
    if name not in TEMPLATES:
        raise CliError(
            f"there is no template {shown(name)}",
            hint=f"templates: {', '.join(TEMPLATES)}",
            exit_code=USAGE,
        )
    return TEMPLATES[name]


def _yes_or_no(question: str, *, given: bool | None, default: bool, asking: bool) -> bool:
    if given is None and asking:
        return console.ask_yes_no(question, default=default)
    return default if given is None else given


def _report(
    out: Console, answers: scaffold.Answers, made: scaffold.Project, *, planned: bool = False
) -> None:
    out.event(
        "planned" if planned else "created",
        path=str(made.path),
        name=answers.name.title,
        package=answers.name.package,
        template=answers.template.name,
        files=[file.as_posix() for file in made.files],
    )
    out.line(f"{'Would create' if planned else 'Created'} {made.path}", style="green")
    out.tree(made.path.name, made.files)


def _next_steps(out: Console, made: scaffold.Project, *, same: str) -> None:
    commands = [f"cd {made.path.name}", "pachinko serve"]
    out.event("next", commands=commands, same=same)
    out.line("\nNext:")
    for command in commands:
        out.line(f"  {command}", style="bold")
    out.line("\nThe same without questions:")
    out.line(f"  {same}")


def _start_repository(out: Console, made: scaffold.Project) -> None:
    try:
        scaffold.start_repository(made.path)
    except CliError as failed:
        console.warn(CliError(failed.message, hint="the project is complete without it"))
        out.event("git", ok=False, reason=failed.message)
    else:
        out.event("git", ok=True)


def _install(out: Console, made: scaffold.Project) -> None:
    try:
        with out.progress("Installing") as step:
            scaffold.install(made.path, step, show_output=out.verbose)
    except InterruptedByUserError:
        raise
    except CliError as failed:
        hint = "the project is complete; its README.md says how to install it"
        console.warn(CliError(failed.message, hint=hint))
        out.event("install", ok=False, reason=failed.message)
    else:
        out.event("install", ok=True)
        out.line("Installed in .venv, and its tests pass", style="green")


def _without_questions(answers: scaffold.Answers, *, git: bool, install: bool) -> str:
    """The command that makes the same project and asks nothing."""
    slug, title = answers.name.slug, answers.name.title
    flags = {"agents-md": answers.agents_md, "git": git, "install": install}
    return shlex.join(
        [
            *("pachinko", "new", slug if project_name(slug) == answers.name else title),
            *("--template", answers.template.name),
            *(f"--{flag}" if on else f"--no-{flag}" for flag, on in flags.items()),
            "--yes",
        ]
    )
