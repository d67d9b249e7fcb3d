"""`pachinko info`: what a report of a bug should say of the project and of what is installed."""

from typing import Annotated, Any

import typer

from pachinko_cli import changes, manifest, project, versions
from pachinko_cli.console import Console
from pachinko_cli.errors import CliError
from pachinko_cli.options import JsonDocument, Quiet
from pachinko_cli.project import OutsideProjectError, Project


def info(
    *,
    as_json: JsonDocument = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Name the generated files that were edited.")
    ] = False,
) -> None:
    """Tell the versions of everything, and what `pachinko` knows of the project here.

    Outside a project it tells the versions.  The app is not imported.

    \b
    Examples:
      pachinko info
      pachinko info --json
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    out = Console(quiet=quiet, verbose=verbose, as_json=as_json)
    described, broken = None, None
    try:
        described = _described(project.current())
    except OutsideProjectError:
        pass
    except CliError as error:  # its versions are worth reading all the more
        broken = error
    installed = versions.installed()

    out.document({"python": versions.python(), "versions": installed, "project": described})
    _show(out, {"python": versions.python()})
    _show(out, {name: version or "not installed" for name, version in installed.items()})
    if described:
        out.line()
        _show(out, _for_people(described))
        for state in ("edited", "deleted"):
            for path in described[state] if verbose else ():
                _show(out, {state: path})
    elif broken is None:
        out.line("\nNot inside a project")
    if broken:
        raise broken


def _described(found: Project) -> dict[str, Any]:
    from pachinko_cli import diagnosis  # noqa: PLC0415 - not for `--help`

    made = manifest.decode(changes.read(found.root, manifest.PATH))
    edited, deleted = diagnosis.edited_and_deleted(found.root, made)
    return {
        "root": str(found.root),
        "package": found.package,
        "app": found.app,
        "template": made.template or None,
        "template_version": made.template_version or None,
        "answers": dict(made.answers),
        "added": [
            {
                "kind": each.kind,
                "name": each.name,
                "answers": dict(each.answers),
                "files": list(each.files),
            }
            for each in made.added
        ],
        "edited": edited,
        "deleted": deleted,
    }


def _for_people(described: dict[str, Any]) -> dict[str, str]:
    answers = described["answers"].items()
    template = [described["template"], described["template_version"]]
    return {
        "project": described["root"],
        "package": described["package"],
        "app": described["app"],
        "template": " ".join(filter(None, template)) or "unknown",
        "answers": ", ".join(f"{name}={value}" for name, value in answers) or "none",
        "added": ", ".join(f"{each['kind']} {each['name']}" for each in described["added"])
        or "nothing",
    }


def _show(out: Console, values: dict[str, str]) -> None:
    for name, value in values.items():
        out.line(f"{name:<18}  {value}")
