"""Adds a resource or a worker to a project, and takes it out again.

Here the parts meet: the text of the files, the line in the user's table, the manifest; and all of
it becomes one list of changes that is applied as a whole.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pachinko_cli import changes, manifest, messages, parts, wiring
from pachinko_cli.changes import Change, Status
from pachinko_cli.errors import FAILED, USAGE, CliError, shown
from pachinko_cli.manifest import Addition, Manifest, Wired
from pachinko_cli.modules import first_free
from pachinko_cli.paths import clash

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pachinko_cli.messages import Message
    from pachinko_cli.modules import ModuleName
    from pachinko_cli.paths import RoutePath
    from pachinko_cli.project import Project

A_STEP_REMAINS = 3
"""The exit code of a command that did its work, but left something for a person to do."""


@dataclass(frozen=True)
class Step:
    """What a person has to do: in which file, why, and the lines to add or to take out."""

    file: str
    why: str
    lines: tuple[str, ...]
    verb: str


@dataclass(frozen=True)
class Plan:
    """What a command is about to do to a project.

    `subject` is the class or function it is about; `steps` are what it leaves to a person.
    """

    root: Path
    addition: Addition
    subject: str
    changes: tuple[Change, ...]
    steps: tuple[Step, ...] = ()

    @property
    def conflicts(self) -> tuple[Change, ...]:
        """The files that would be overwritten; none is, and nothing else is done either."""
        return tuple(each for each in self.changes if each.status is Status.CONFLICT)

    @property
    def does_something(self) -> bool:
        """Whether any file is to be written."""
        return any(each.writes for each in self.changes)


def resource(
    project: Project,
    name: ModuleName,
    path: RoutePath,
    kind: str,
    declared: Sequence[Message],
    *,
    force: bool = False,
) -> Plan:
    """Plan a resource: its module, its test, its line in `ROUTES`.

    Raises:
        CliError: Another route has the path, or a file cannot be read.
    """
    file = f"{project.package}/routes.py"
    table = _source(project, file)
    module = f"{project.package}.resources.{name.module}"

    def wire(class_name: str) -> wiring.Wire:
        parts = (f'"{path.template}"', class_name)
        return wiring.Wire(project.package, "ROUTES", parts, module)

    class_name = _free_name(
        table, wire, name.class_name, f"{name.class_name}Resource", f"{name.class_name}WebSocket"
    )
    for other in wiring.texts(table, wire(class_name)) if table else []:
        if clash(path.template, other):
            raise CliError(
                f"{file} has {shown(other, 80)}, and Falcon takes no {shown(path.template, 80)} "
                "beside it",
                hint=f"give another one: pachinko add-resource {name.module} PATH",
                exit_code=FAILED,
            )
    made = parts.Resource(project.package, name, class_name, path, kind, tuple(declared))
    answers = {"path": path.template, "kind": kind, "messages": [str(each) for each in declared]}
    addition = Addition("resource", name.module, answers, {})
    return _adding(project.root, addition, made.files, file, wire(class_name), force=force)


def worker(
    project: Project,
    name: ModuleName,
    every: float,
    *,
    singleton: bool = False,
    force: bool = False,
) -> Plan:
    """Plan a worker: its module, its test, its line in `WORKERS`.

    Raises:
        CliError: A file cannot be read.
    """
    package = f"{project.package}.workers"
    file = f"{project.package}/workers/__init__.py"

    def wire(function: str) -> wiring.Wire:
        return wiring.Wire(package, "WORKERS", (function,), f"{package}.{name.module}")

    # Not the module's own name, which it would hide as an attribute of the package.
    source = _source(project, file)
    function = _free_name(source, wire, f"run_{name.module}", f"run_{name.module}_worker")
    made = parts.Worker(project.package, name, function, every, singleton)
    addition = Addition("worker", name.module, {"every": every, "singleton": singleton}, {})
    return _adding(project.root, addition, made.files, file, wire(function), force=force)


def removal(project: Project, kind: str, name: str, *, force: bool = False) -> Plan:
    """Plan to take out what was added under a name.

    A file that was edited since is kept, unless forced.  Where the line in the table cannot be
    taken out, everything is kept: the app still needs it.

    Raises:
        CliError: Nothing was added under that name (exit 2), or a file cannot be read.
    """
    noted = _manifest(project.root)
    addition = noted.get(kind, name)
    if addition is None:
        raise _not_added(noted, kind, name)
    planned: list[Change] = []
    steps: list[Step] = []
    subject = addition.wired.parts[-1] if addition.wired else name
    if addition.wired:
        unwired = _unwired(project.root, addition.wired)
        if isinstance(unwired, Step):
            kept = [_kept(project.root, path) for path in addition.files]
            present = tuple(each for each in kept if each)
            return Plan(project.root, addition, subject, present, (unwired,))
        planned += unwired
    left: dict[str, str] = {}
    for path, digest in addition.files.items():
        content = changes.read(project.root, path)
        if content is None:
            continue
        if manifest.digest(content) == digest or force:
            planned.append(Change(path, content, None, Status.REMOVE))
        else:
            planned.append(Change(path, content, content, Status.KEEP))
            steps.append(Step(path, "was edited since it was generated", (), "delete"))
            left[path] = digest
    remaining = noted.without(kind, name)
    if left:  # so that the same command can finish it
        remaining = noted.with_added(replace(addition, files=left, wired=None))
    planned.append(_note(project.root, remaining))
    return Plan(project.root, addition, subject, tuple(planned), tuple(steps))


def carry_out(plan: Plan) -> None:
    """Apply a plan that has no conflict; see `changes.apply` for what it raises."""
    changes.apply(plan.root, plan.changes)


def _source(project: Project, file: str) -> bytes | None:
    """The module with the table; None where the package has none."""
    source = changes.read(project.root, file)
    if source is None and not (project.root / project.package).is_dir():
        raise CliError(
            f"there is no {project.package}/ in {project.root}, but its pyproject.toml says "
            f"[tool.pachinko] package = {json.dumps(project.package)}",
            hint="correct it there, or put the package back; nothing was changed",
        )
    return source


def _adding(
    root: Path,
    addition: Addition,
    files: Mapping[str, str],
    table: str,
    wire: wiring.Wire,
    *,
    force: bool,
) -> Plan:
    noted = _manifest(root)
    before = noted.get(addition.kind, addition.name)
    wired = before.wired if before else None
    planned = [changes.generated(root, path, text, force=force) for path, text in files.items()]
    steps: tuple[Step, ...] = ()
    source = changes.read(root, table)
    try:
        if source is None:
            raise wiring.NotRecognisedError("is not there")
        result = source
        if wired and wired.parts != wire.parts:  # added before with another path
            result = wiring.remove(result, *_wire_of(wired))
        result, trace = wiring.insert(result, wire)
    except wiring.NotRecognisedError as reason:
        steps = (Step(table, str(reason), wire.lines, "add"),)
        trace = None
    else:
        planned.append(changes.edited(table, source, result))
    if trace or wired is None:
        wired = _wired(table, wire, trace or wiring.Trace())
    digests = {path: manifest.digest(text.encode()) for path, text in files.items()}
    addition = replace(addition, files=digests, wired=wired)
    planned.append(_note(root, noted.with_added(addition)))
    return Plan(root, addition, wire.name, tuple(planned), steps)


def _unwired(root: Path, wired: Wired) -> list[Change] | Step:
    """The change to the table; or the step, where a person has to make it."""
    wire, trace = _wire_of(wired)
    source = changes.read(root, wired.file)
    if source is None:
        return []
    try:
        result = wiring.remove(source, wire, trace)
    except wiring.NotRecognisedError as reason:
        return Step(wired.file, str(reason), wire.lines, "delete")
    return [changes.edited(wired.file, source, result)]


def _wire_of(wired: Wired) -> tuple[wiring.Wire, wiring.Trace]:
    wire = wiring.Wire(wired.package, wired.table, wired.parts, wired.module)
    return wire, wiring.Trace(wired.emptied, wired.spaced)


def _wired(file: str, wire: wiring.Wire, trace: wiring.Trace) -> Wired:
    return Wired(
        file, wire.package, wire.table, wire.parts, wire.module, trace.spaced, trace.emptied
    )


def _free_name(source: bytes | None, wire: Callable[[str], wiring.Wire], *names: str) -> str:
    """The first name that means nothing else in the generated module or in that of the table."""
    taken = messages.IMPORTED | {
        name for name in names if source is not None and wiring.is_taken(source, wire(name))
    }
    return first_free(*names, taken=taken)


def _kept(root: Path, path: str) -> Change | None:
    content = changes.read(root, path)
    return None if content is None else Change(path, content, content, Status.KEEP)


def _manifest(root: Path) -> Manifest:
    return manifest.decode(changes.read(root, manifest.PATH))


def _note(root: Path, noted: Manifest) -> Change:
    return changes.edited(manifest.PATH, changes.read(root, manifest.PATH), noted.encode())


def _not_added(noted: Manifest, kind: str, name: str) -> CliError:
    names = [each.name for each in noted.added if each.kind == kind]
    hint = f"pachinko add-{kind} has added none here"
    if names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
    if any(path.endswith(f"/{kind}s/{name}.py") for path in noted.files):
        hint = "it came with the project: delete its files, and its lines in the table, by hand"
    return CliError(f"no {kind} {shown(name)} was added", hint=hint, exit_code=USAGE)
