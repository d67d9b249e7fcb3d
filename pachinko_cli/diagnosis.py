"""Looks at the machine, at the project's files and at its app, and says what is wrong with each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pachinko_cli import changes, inspection, manifest, versions
from pachinko_cli.errors import CliError
from pachinko_cli.findings import Finding, Mark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pachinko_cli.manifest import Manifest
    from pachinko_cli.project import Project

_UPGRADE = "type:  pip install --upgrade 'falcon-pachinko[cli]'"
_WEBSOCKETS = ("websockets", "wsproto")


def of_machine() -> list[Finding]:
    """What is installed where this command runs: Python, the libraries, the server."""
    found = versions.installed()
    return [
        Finding("python", Mark.OK, f"Python {versions.python()}"),
        *_libraries(found),
        server(found),
    ]


def of_project(project: Project, *, whole_trace: bool = False) -> list[Finding]:
    """What there is to say about a project, its app included, whose import happens elsewhere."""
    return [
        Finding("project", Mark.OK, f"{project.root} has the package {project.package}"),
        *_environment(project),
        *_generated(project),
        *_app(project, whole_trace=whole_trace),
    ]


def of_error(check: str, error: CliError) -> Finding:
    """A problem that has its sentence and its remedy already."""
    return Finding(check, Mark.PROBLEM, error.message, error.hint)


def _libraries(found: dict[str, str | None]) -> Iterator[Finding]:
    """Everything that our distribution asks for, and that is too old or missing."""
    bad = False
    needs = {each.name: each for each in versions.needs() if each.extra != "testing"}
    for need in needs.values():
        version = found.get(need.name)
        if version is not None and versions.is_older(version, need.minimum):
            bad = True
            yield Finding(
                "versions",
                Mark.PROBLEM,
                f"{need.name} {version} is too old: {need.minimum} is the least that works",
                f"type:  pip install --upgrade '{need.name}>={need.minimum}'",
            )
    if not bad:
        names = [versions.OURS, "falcon", "msgspec"]
        listed = ", ".join(f"{name} {found[name] or '(not installed)'}" for name in names)
        yield Finding("versions", Mark.OK, listed)


def server(found: dict[str, str | None]) -> Finding:
    """What is to be said of uvicorn, where these versions are installed."""
    if found["uvicorn"] is None:
        return Finding("server", Mark.PROBLEM, "uvicorn is not installed", _UPGRADE)
    spoken = [f"{name} {found[name]}" for name in _WEBSOCKETS if found[name]]
    if not spoken:
        return Finding(
            "server",
            Mark.PROBLEM,
            f"uvicorn {found['uvicorn']} has neither {' nor '.join(_WEBSOCKETS)}, "
            "so it refuses every WebSocket",
            "type:  pip install 'uvicorn[standard]'",
        )
    faster = [f"{name} {found[name]}" for name in ("uvloop", "httptools") if found[name]]
    return Finding(
        "server", Mark.OK, f"uvicorn {found['uvicorn']} with {', '.join([*spoken, *faster])}"
    )


def _environment(project: Project) -> Iterator[Finding]:
    """Whether the project's own virtual environment is the one that runs this command."""
    own = project.root / ".venv"
    if not (own / "pyvenv.cfg").is_file() or Path(sys.prefix).resolve() == own.resolve():
        return
    binaries = "Scripts" if sys.platform == "win32" else "bin"
    command = own / binaries / "pachinko"
    fix = f"type:  {command} doctor" if command.exists() else f"install pachinko in {own}"
    yield Finding(
        "environment",
        Mark.WARNING,
        f"this pachinko runs in {sys.prefix}, and the project has a .venv of its own: "
        "what is said here may not hold there",
        f"{fix}, or activate it:  source {own / binaries / 'activate'}",
    )


def _generated(project: Project) -> Iterator[Finding]:
    """What became of the files that commands have written."""
    try:
        noted = changes.read(project.root, manifest.PATH)
        made = manifest.decode(noted)
    except CliError as error:
        yield of_error("manifest", error)
        return
    if noted is None:
        yield Finding(
            "manifest",
            Mark.WARNING,
            f"{manifest.PATH} is missing, so no command knows which files were generated",
            "take it from your repository; it is meant to be committed",
        )
        return
    yield from _template(project, made)
    for addition in made.added:
        missing = [path for path in addition.files if not (project.root / path).is_file()]
        if missing:
            yield Finding(
                "manifest",
                Mark.WARNING,
                f"{', '.join(missing)} of the {addition.kind} {addition.name} is gone",
                f"take it from your repository, or forget the rest too: "
                f"pachinko remove {addition.kind} {addition.name}",
            )
    edited, gone = edited_and_deleted(project.root, made)
    files = len(made.files) + sum(len(each.files) for each in made.added)
    yield Finding(
        "manifest",
        Mark.OK,
        f"{files} files were generated; {len(edited)} edited since, {len(gone)} deleted",
    )


def edited_and_deleted(root: Path, made: Manifest) -> tuple[list[str], list[str]]:
    """The generated files that were edited since, and those that are there no more."""
    edited, gone = [], []
    for files in (made.files, *(each.files for each in made.added)):
        for path, digest in files.items():
            try:
                content = changes.read(root, path)
            except CliError:  # a link or a folder has taken its place
                content = b""
            if content is None:
                gone.append(path)
            elif manifest.digest(content) != digest:
                edited.append(path)
    return edited, gone


def _template(project: Project, made: Manifest) -> Iterator[Finding]:
    ours = versions.of(versions.OURS)
    if made.files and not (project.root / manifest.BASE).is_file():
        yield Finding(
            "template",
            Mark.WARNING,
            f"{manifest.BASE} is missing, which an update begins from",
            "take it from your repository; it is meant to be committed",
        )
    if not (made.template_version and ours):
        return
    template = f"the template is {made.template} {made.template_version}"
    if versions.is_older(made.template_version, ours):
        text = f"{template}, and this pachinko has {ours}"
        yield Finding("template", Mark.WARNING, text, "type:  pachinko update")
    elif versions.is_older(ours, made.template_version):
        text = f"{template}, which is newer than this pachinko, {ours}"
        yield Finding("template", Mark.WARNING, text, _UPGRADE)
    else:
        yield Finding("template", Mark.OK, template)


def _app(project: Project, *, whole_trace: bool) -> Iterator[Finding]:
    try:
        found = inspection.inspect(project, whole_trace=whole_trace)
    except CliError as error:
        fix = error.hint or "mend it there, and look again:  pachinko doctor"
        yield Finding("app", Mark.PROBLEM, error.message, fix)
        return
    has = found.anatomy
    counts = {
        "WebSocket route": len(has.websocket),
        "HTTP route": len(has.http) + len(has.static) + len(has.sinks),
        "worker": len(has.workers),
    }
    listed = [f"{count} {what}{'s'[: count != 1]}" for what, count in counts.items()]
    yield Finding("app", Mark.OK, f"{project.app} imports: {', '.join(listed)}")
    yield from found.findings
