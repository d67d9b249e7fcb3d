"""Makes a project of somebody else's Cookiecutter template: `new --template PATH|URL`.

A template is a program: its hooks and Jinja extensions are code, and Jinja itself reaches all of
Python unless it is kept from it.  So without `trust` the template is rendered in Jinja's sandbox,
and one with hooks or extensions is refused.  With it, the template may do what Cookiecutter lets it
do.  Either way no path leaves the project, and what the user typed is data.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pachinko_cli import manifest, sources
from pachinko_cli.disk import refusals_named
from pachinko_cli.errors import USAGE, CliError, InterruptedByUserError, shown
from pachinko_cli.manifest import Manifest
from pachinko_cli.staging import Project, files_in, move, refuse_marks, staging, sweep, vacant
from pachinko_cli.templates import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pachinko_cli.names import ProjectName

HOOKS = ("pre_prompt", "pre_gen_project", "post_gen_project")
YES, NO = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")
# The folder that becomes the project; it is given a name of ours, so that no answer names it.
_TOP = "{{cookiecutter._pachinko_folder}}"


@dataclass(frozen=True)
class Wish:
    """What was asked for: where the template is, and what is known about it.

    `given` are values for its variables; `trust` lets its hooks and extensions run.
    """

    template: str
    given: Mapping[str, str]
    directory: str = ""
    checkout: str = ""
    trust: bool = False


@dataclass(frozen=True)
class Variable:
    """A variable of the template, to be asked for: its default, and what there is to choose."""

    name: str
    default: Any
    choices: tuple[str, ...] = ()
    question: str = ""


@dataclass(frozen=True)
class Made:
    """What became of a wish: the project, where its template came from, and its variables."""

    project: Project
    source: sources.Source
    values: Mapping[str, Any]


def create(
    wish: Wish,
    name: ProjectName,
    parent: Path,
    answer: Callable[[Variable], object] | None = None,
    *,
    planned: bool = False,
) -> Made:
    """Make the project in `parent`, in the folder that `name` says: all of it, or nothing.

    `answer` is asked for every variable without a value; without it, the defaults are taken.  What
    is only `planned` is not put into its place, and no hook runs for it.

    Raises:
        CliError: The template cannot be had, is not trusted, or fails; nothing was made.
    """
    target = vacant(name, parent)
    home = Path(tempfile.gettempdir()) if planned else parent
    sweep(home)
    try:
        with refusals_named(home), staging(home) as folder:
            refuse_marks(folder)
            source = sources.fetch(
                wish.template, folder, directory=wish.directory, checkout=wish.checkout
            )
            runs = what_runs(source)
            if runs and not wish.trust:
                raise CliError(
                    f"{source.origin} would run code of its own: {', '.join(runs)}",
                    hint="read it; if you trust it, add --trust",
                    exit_code=USAGE,
                )
            with rendering(source, trust=wish.trust):
                if wish.trust and not planned:
                    _run_before_questions(source)
                values = resolve(source, wish, name, answer)
                staged = render(source, values, folder / "project", hooks=not planned)
            record(staged.path, source, public(values))
            if not planned:
                move(staged.path, vacant(name, parent))
    except KeyboardInterrupt:
        raise InterruptedByUserError("interrupted; nothing was made") from None
    return Made(Project(target, staged.files), source, public(values))


def what_runs(source: sources.Source) -> list[str]:
    """The hooks and extensions of a template: what of it is code that would run here."""
    folder = source.folder / "hooks"
    hooks = sorted(
        f"hooks/{file.name}"
        for file in (folder.iterdir() if folder.is_dir() else ())
        if file.stem in HOOKS and not file.name.endswith("~")
    )
    extensions = declared(source).get("_extensions") or []
    if not isinstance(extensions, list):
        extensions = [extensions]
    return [*hooks, *(f"extension {name}" for name in extensions)]


def declared(source: sources.Source) -> dict[str, Any]:
    """The template's variables, as its cookiecutter.json has them."""
    try:
        text = (source.folder / "cookiecutter.json").read_text(encoding="utf-8-sig")
        variables = json.loads(text)
        if not isinstance(variables, dict):
            raise ValueError("it is not an object")  # noqa: TRY004 - what json raises, too
    except (ValueError, RecursionError) as error:
        raise CliError(
            f"the cookiecutter.json of {source.origin} cannot be read: {error}",
            hint="that is for the template's author to put right",
        ) from None
    several = variables.get("templates")
    if isinstance(several, dict):
        places = [each.get("path") for each in several.values() if isinstance(each, dict)]
        raise CliError(
            f"{source.origin} has several templates",
            hint="choose one of them: " + ", ".join(f"--directory {place}" for place in places),
            exit_code=USAGE,
        )
    return variables


def public(values: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that somebody may decide about."""
    return {name: value for name, value in values.items() if not name.startswith("_")}


def resolve(
    source: sources.Source,
    wish: Wish,
    name: ProjectName,
    answer: Callable[[Variable], object] | None,
) -> dict[str, Any]:
    """Give every variable its value: what was given, else the answer, else the default."""
    from cookiecutter import generate  # type: ignore[import-untyped]  # noqa: PLC0415 - slow
    from cookiecutter.prompt import (  # type: ignore[import-untyped]  # noqa: PLC0415 - slow
        render_variable,
    )

    variables = declared(source)
    given = dict(wish.given)
    if "project_name" in variables:
        given.setdefault("project_name", name.title)
    _refuse_unknown(given, public(variables))
    values: dict[str, Any] = {}
    environment = generate.create_env_with_context({"cookiecutter": variables})
    for variable, raw in variables.items():
        if variable.startswith("_") and not variable.startswith("__"):
            values[variable] = raw
            continue
        default = render_variable(environment, raw, values)
        choices = tuple(str(each) for each in default) if isinstance(default, list) else ()
        if choices:
            default = choices[0]
        if variable in given:
            values[variable] = typed(variable, given[variable], default, choices)
        elif answer and not variable.startswith("_") and not isinstance(default, dict):
            prompts = variables.get("__prompts__")
            question = prompts.get(variable) if isinstance(prompts, dict) else None
            asked = question if isinstance(question, str) else ""
            values[variable] = answer(Variable(variable, default, choices, asked))
        else:
            values[variable] = default
    return values | {"_template": source.origin, "_checkout": wish.checkout or None}


def typed(name: str, text: str, default: object, choices: tuple[str, ...]) -> object:
    """What was typed for a variable, as the template expects it.

    >>> typed("docker", "yes", default=False, choices=())
    True

    Raises:
        CliError: It is none of the choices, neither yes nor no, or no text at all (exit 2).
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CliError(f"{name}={shown(text)} is no text", exit_code=USAGE) from None
    if choices and text not in choices:
        raise CliError(
            f"{name} cannot be {shown(text)}",
            hint=f"{did_you_mean(text, choices)}{name} is one of {', '.join(choices)}",
            exit_code=USAGE,
        )
    if isinstance(default, bool):
        if text.lower() not in YES + NO:
            raise CliError(
                f"{name} cannot be {shown(text)}", hint="it is yes or no", exit_code=USAGE
            )
        return text.lower() in YES
    if isinstance(default, dict):
        with contextlib.suppress(ValueError):
            if isinstance(value := json.loads(text), dict):
                return value
        raise CliError(
            f"{name} cannot be {shown(text)}", hint="it is a JSON object", exit_code=USAGE
        )
    return text


def render(source: sources.Source, values: dict[str, Any], output: Path, *, hooks: bool) -> Project:
    """Render the template into a folder that nobody else uses; no file of it lands elsewhere."""
    from cookiecutter import generate  # noqa: PLC0415 - slow

    [top] = (entry for entry in source.folder.iterdir() if "{{" in entry.name)
    top = top.rename(source.folder / _TOP)
    context = {
        "cookiecutter": values | {"_pachinko_folder": "project"},
        "_cookiecutter": declared(source),
    }
    environment = generate.create_env_with_context(context)
    for entry in sorted(top.rglob("*")):
        path = environment.from_string(entry.relative_to(top).as_posix()).render(**context)
        parts = [part.lower() for part in path.split("/")]
        # The name of a file may come out empty, and then there is none; a folder's may not.
        nameless = "" in (parts if entry.is_dir() else parts[:-1])
        if nameless or ".git" in parts or not sources.stays_inside(path):
            raise CliError(
                f"{shown(entry.relative_to(top).as_posix(), 80)} of the template would be "
                f"written to {shown(path)}, which is no place in the project",
                hint="give its variables other values with --set",
            )
    output.mkdir()
    path = Path(
        generate.generate_files(str(source.folder), context, str(output), accept_hooks=hooks)
    )
    return Project(path, files_in(path))


def record(project: Path, source: sources.Source, answers: Mapping[str, Any]) -> None:
    """Note where the project came from; `template` is a place there, and not a name of ours."""
    files = {file.as_posix(): (project / file).read_bytes() for file in files_in(project)}
    noted = Manifest(
        template=source.origin,
        template_version=source.commit,
        answers=answers,
        files={path: manifest.digest(content) for path, content in sorted(files.items())},
    )
    (project / manifest.FOLDER).mkdir(exist_ok=True)
    (project / manifest.PATH).write_bytes(noted.encode())


@contextlib.contextmanager
def rendering(source: sources.Source, *, trust: bool) -> Iterator[None]:
    """Let Cookiecutter work on this template; whatever goes wrong in there becomes a sentence.

    Without trust its Jinja is a sandbox.  With it, modules of the template can be imported.
    """
    from cookiecutter import generate  # noqa: PLC0415 - slow
    from cookiecutter.environment import (  # type: ignore[import-untyped]  # noqa: PLC0415 - slow
        StrictEnvironment,
    )
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415 - slow

    class Sandbox(StrictEnvironment, SandboxedEnvironment):  # type: ignore[misc]  # no types
        """Cookiecutter's own environment, from which no template gets out into Python."""

    def sandbox(context: dict[str, Any]) -> Sandbox:
        options = context["cookiecutter"].get("_jinja2_env_vars", {})
        return Sandbox(context=context, keep_trailing_newline=True, **options)

    logging.getLogger("cookiecutter").setLevel(logging.CRITICAL)  # it logs what it raises
    original, path = generate.create_env_with_context, list(sys.path)
    if trust:
        sys.path.append(str(source.folder))
    else:
        generate.create_env_with_context = sandbox
    try:
        with refusals_named(source.folder.parent.parent), _stdout_for_machines():
            yield
    except (CliError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - a stranger's template may raise anything
        raise CliError(
            f"the template {source.origin} failed: {_reason(error)}",
            hint="nothing was made; the template's author, or other values (--set), may help",
        ) from None
    finally:
        generate.create_env_with_context, sys.path[:] = original, path


@contextlib.contextmanager
def _stdout_for_machines() -> Iterator[None]:
    """Send to stderr what hooks print on stdout, which has our own results and nothing else."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _run_before_questions(source: sources.Source) -> None:
    from cookiecutter import hooks  # noqa: PLC0415 - slow

    for script in hooks.find_hook("pre_prompt", str(source.folder / "hooks")) or ():
        hooks.run_script(script, str(source.folder))


def _refuse_unknown(given: Mapping[str, str], known: Mapping[str, Any]) -> None:
    if unknown := next((name for name in given if name not in known), None):
        raise CliError(
            f"the template has no variable {shown(unknown)}",
            hint=f"{did_you_mean(unknown, known)}--set takes {', '.join(known)}",
            exit_code=USAGE,
        )


def _reason(error: Exception) -> str:
    """What happened, in a line: Cookiecutter would print all variables with it."""
    inner = getattr(error, "error", None)
    text = f"{error.args[0] if error.args else type(error).__name__}"
    line = getattr(error, "lineno", None)
    where = f" ({getattr(error, 'filename', None) or 'a variable'}, line {line})" if line else ""
    said = f"{text}: {inner}" if inner else text
    return " ".join(f"{said}{where}".split())[:500]
