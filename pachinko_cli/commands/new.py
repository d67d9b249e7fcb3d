"""`pachinko new`: makes a project."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pachinko_cli import console, foreign, scaffold, sources, steps
from pachinko_cli.console import Console
from pachinko_cli.errors import USAGE, CliError, InterruptedByUserError, shown
from pachinko_cli.names import ProjectName, project_name
from pachinko_cli.options import DryRun, Quiet
from pachinko_cli.staging import Project, vacant
from pachinko_cli.templates import BACKENDS, OPTIONS, TEMPLATES, choice


def new(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help='What to call it: tea-room, or "Tea Room".'),
    ] = None,
    *,
    template: Annotated[
        str | None,
        typer.Option(
            metavar="|".join([*TEMPLATES, "PATH", "URL"]),
            help="What to start from; of your own: a folder, a .zip, a git repository."
            "  [default: chat]",
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(BACKENDS),
            help="What connects several processes of the app.  [default: memory]",
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            "--license",
            metavar="|".join(map(str, OPTIONS["licence"])),
            help="Add a LICENSE.  [default: none]",
        ),
    ] = None,
    holder: Annotated[
        str | None,
        typer.Option(help="Who holds the copyright.  [default: git's user.name]"),
    ] = None,
    ci: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(map(str, OPTIONS["ci"])),
            help="Have the project's checks run for every push.  [default: none]",
        ),
    ] = None,
    docker: Annotated[
        bool | None,
        typer.Option("--docker/--no-docker", help="Add a Dockerfile.  [default: no]"),
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
    directory: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where in PATH or URL the template is."),
    ] = None,
    checkout: Annotated[
        str | None,
        typer.Option(metavar="REF", help="The branch, tag or commit of the repository."),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A variable of your own template."),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Let the hooks and extensions of your own template run."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing; take the defaults.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Ask nothing; print one JSON event a line.")
    ] = False,
    quiet: Quiet = False,
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
      pachinko new tea-room --backend redis --licence MIT --ci github --docker
      pachinko new tea-room --template gh:ann/teas --set colour=green
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    out = Console(quiet=quiet, verbose=verbose, as_json=as_json)
    asking = console.is_interactive() and not (yes or as_json)
    here = _current_folder()
    checked = _name(name, here, asking=asking)
    ours = {
        "backend": backend,
        "licence": licence,
        "holder": holder,
        "ci": ci,
        "docker": docker,
        "agents-md": agents_md,
    }
    theirs = {"directory": directory, "checkout": checkout, "set": values, "trust": trust or None}
    after = _After(here, git=git, install=install, asking=asking)

    if template is not None and template not in TEMPLATES and sources.is_place(template):
        _refuse(ours, "is for our own templates", hint=f"those are {', '.join(TEMPLATES)}")
        wish = foreign.Wish(
            template, _pairs(values or []), directory or "", checkout or "", trust=trust
        )
        made, same = _foreign(out, wish, checked, here, planned=dry_run, asking=asking)
    else:
        _refuse(theirs, "is for a template of your own", hint="add --template PATH or URL")
        answers = _answers(checked, template, ours, here, asking=asking)
        after.ask()
        make = scaffold.preview if dry_run else scaffold.create
        made, same = make(answers, here), _flags(answers)
        _report(out, made, checked, answers.template.name, planned=dry_run)
    if dry_run:
        return
    after.run(out, made)
    _next_steps(out, made, same=shlex.join(["pachinko", "new", *same, *after.flags(), "--yes"]))


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise CliError("the current folder was deleted", hint="cd to one that exists") from None


def _name(given: str | None, here: Path, *, asking: bool) -> ProjectName:
    """The project's name, checked, and free to be taken in this folder."""
    if given is not None:
        name = project_name(given)
        vacant(name, here)
        return name
    if not asking:
        raise CliError("a project needs a name", hint="try: pachinko new tea-room", exit_code=USAGE)
    while True:
        answer = console.ask("What is the project called?", "tea-room")
        try:
            name = project_name(answer)
            vacant(name, here)
        except CliError as refused:
            console.warn(refused)
        else:
            return name


def _answers(
    name: ProjectName,
    template: str | None,
    given: Mapping[str, Any],
    here: Path,
    *,
    asking: bool,
) -> scaffold.Answers:
    """Everything about one of our own templates: what was given, and two questions."""
    # What was given is checked before anything is asked.
    licence = choice("licence", given["licence"] or "none")
    ci = choice("ci", given["ci"] or "none")
    holder = _holder(given["holder"], licence, name, here)
    summaries = {each.name: each.summary for each in TEMPLATES.values()}
    chosen = _choice("template", template, summaries, "Which template?", asking=asking)
    backend = _choice("backend", given["backend"], BACKENDS, "Which backend?", asking=asking)
    return scaffold.Answers(
        name,
        TEMPLATES[chosen],
        agents_md=given["agents-md"] is not False,
        backend=backend,
        licence=licence,
        holder=holder,
        year="" if licence == "none" else scaffold.this_year(),
        ci=ci,
        docker=bool(given["docker"]),
    )


def _choice(
    option: str, given: str | None, summaries: Mapping[str, str], question: str, *, asking: bool
) -> str:
    default = str(OPTIONS[option][0])
    if given is not None or not asking:
        return choice(option, default if given is None else given)
    for value, summary in summaries.items():
        console.note(f"  {value}: {summary}")
    while True:
        try:
            return choice(option, console.ask(question, default))
        except CliError as unknown:
            if unknown.exit_code != USAGE:
                raise
            console.warn(unknown)


def _holder(given: str | None, licence: str, name: ProjectName, here: Path) -> str:
    """Who holds the copyright: as given, as git knows its user, or the project's authors."""
    if licence == "none":
        _refuse({"holder": given}, "is for a licence", hint="add --licence MIT, for example")
        return ""
    if given is not None:
        return scaffold.licence_holder(given)
    try:
        return scaffold.licence_holder(steps.git_user_name(here))
    except CliError:
        return f"The {name.title} authors"


def _refuse(flags: Mapping[str, object], why: str, *, hint: str) -> None:
    """Refuse the first of these that was given: one that would have no effect is a mistake."""
    if given := next((flag for flag, value in flags.items() if value is not None), None):
        raise CliError(f"--{given} {why}", hint=hint, exit_code=USAGE)


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise CliError(
                f"--set {shown(text)} has no value",
                hint="write --set key=value, once for each variable",
                exit_code=USAGE,
            )
        pairs[key.strip()] = value
    return pairs


def _foreign(
    out: Console,
    wish: foreign.Wish,
    name: ProjectName,
    here: Path,
    *,
    planned: bool,
    asking: bool,
) -> tuple[Project, list[str]]:
    """Make a project of somebody else's template; give it, and the flags that make it again."""
    if ":" in wish.template and not out.quiet:
        console.note(f"Getting {sources.without_password(wish.template)}")
    if asking:
        made = foreign.create(wish, name, here, _variable, planned=planned)
    else:
        made = foreign.create(wish, name, here, planned=planned)
    _report(out, made.project, name, made.source.origin, planned=planned)
    if made.source.commit:
        out.line(f"From {made.source.origin}, commit {made.source.commit[:12]}")
    flags = [_typed(name), "--template", sources.without_password(wish.template)]
    for flag, value in {"directory": wish.directory, "checkout": wish.checkout}.items():
        flags += [f"--{flag}", value] if value else []
    for variable, value in made.values.items():
        if isinstance(value, str | bool):
            text = value if isinstance(value, str) else "yes" if value else "no"
            flags += ["--set", f"{variable}={text}"]
    return made.project, flags + ["--trust"] * wish.trust


def _variable(asked: foreign.Variable) -> object:
    """Ask for a variable of somebody else's template, until the answer can be one."""
    question = asked.question or asked.name
    if isinstance(asked.default, bool):
        return console.ask_yes_no(f"{question}?", default=asked.default)
    if asked.choices:
        question += f" [{', '.join(asked.choices)}]"
    while True:
        answer = console.ask(question, str(asked.default))
        try:
            return foreign.typed(asked.name, answer, asked.default, asked.choices)
        except CliError as refused:
            console.warn(refused)


@dataclass
class _After:
    """What follows once the project is there: a repository, an installation."""

    here: Path
    git: bool | None
    install: bool | None
    asking: bool

    def ask(self) -> None:
        """Ask for what was not given; without anybody to ask, the defaults are taken."""
        inside = steps.inside_repository(self.here)
        if self.git is None:
            ask = self.asking and not inside
            question = "Start a git repository?"
            self.git = console.ask_yes_no(question, default=True) if ask else not inside
        if self.install is None:
            question = "Install it and run its tests now?"
            self.install = self.asking and console.ask_yes_no(question, default=True)

    def run(self, out: Console, made: Project) -> None:
        """Do them; what fails is a warning, since the project itself is there."""
        if self.git is None:
            self.git = not steps.inside_repository(self.here)
        if self.git:
            try:
                steps.start_repository(made.path)
            except CliError as failed:
                console.warn(failed)
                out.event("git", ok=False, reason=failed.message)
            else:
                out.event("git", ok=True)
        if self.install:
            _install(out, made)

    def flags(self) -> list[str]:
        """These answers, as they are typed."""
        return ["--git" if self.git else "--no-git", f"--{'' if self.install else 'no-'}install"]


def _report(
    out: Console, made: Project, name: ProjectName, template: str, *, planned: bool
) -> None:
    out.event(
        "planned" if planned else "created",
        path=str(made.path),
        name=name.title,
        package=name.package,
        template=template,
        files=[file.as_posix() for file in made.files],
    )
    out.line(f"{'Would create' if planned else 'Created'} {made.path}", style="green")
    out.tree(made.path.name, made.files)


def _next_steps(out: Console, made: Project, *, same: str) -> None:
    commands = [f"cd {made.path.name}"]
    settings = made.path / "pyproject.toml"
    if settings.is_file() and b"[tool.pachinko]" in settings.read_bytes():
        commands.append("pachinko serve")
    out.event("next", commands=commands, same=same)
    out.line("\nNext:")
    for command in commands:
        out.line(f"  {command}", style="bold")
    out.line("\nThe same without questions:")
    out.line(f"  {same}")


def _install(out: Console, made: Project) -> None:
    try:
        with out.progress("Installing") as step:
            steps.install(made.path, step, show_output=out.verbose)
    except InterruptedByUserError:
        raise
    except CliError as failed:
        console.warn(failed)
        out.event("install", ok=False, reason=failed.message)
    else:
        out.event("install", ok=True)
        out.line("Installed in .venv, and its tests pass", style="green")


def _typed(name: ProjectName) -> str:
    """The shortest that can be typed for the same name."""
    return name.slug if project_name(name.slug) == name else name.title


def _flags(answers: scaffold.Answers) -> list[str]:
    """The answers as they are typed."""
    flags = [_typed(answers.name), "--template", answers.template.name]
    flags += ["--backend", answers.backend, "--licence", answers.licence]
    if answers.licence != "none":
        flags += ["--holder", answers.holder]
    flags += ["--ci", answers.ci]
    switches = {"docker": answers.docker, "agents-md": answers.agents_md}
    return flags + [f"--{flag}" if on else f"--no-{flag}" for flag, on in switches.items()]
