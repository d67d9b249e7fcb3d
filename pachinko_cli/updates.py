"""Brings a project to the template as it is now: what is to become of each file.

The template is rendered again, with the answers that the project noted.  Then three versions of
each file are compared: the one the project began from (`.pachinko/base.zip`), the one that is
there, the new one.  All of it becomes one list of changes that is applied as a whole.

Afterwards the new version is what the project began from, even where a conflict is left to a
person: whatever they make of the markers is their edit of the new version, so the next update must
not bring the same lines again.
"""

from __future__ import annotations

import ast
import difflib
import os
import stat
import tempfile
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pachinko_cli import changes, git, manifest, merging, origin, scaffold, wiring
from pachinko_cli.changes import Change, Status
from pachinko_cli.disk import refusals_named
from pachinko_cli.errors import USAGE, CliError, shown
from pachinko_cli.manifest import Manifest
from pachinko_cli.staging import staging, sweep
from pachinko_cli.steps import inside_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pachinko_cli.project import Project

BESIDE = ".new"
"""What is put behind the name of a file, for the template's version beside one that was kept."""


@dataclass(frozen=True)
class Step:
    """What a person has to do after an update: in which file, why, and what."""

    file: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Update:
    """What an update is about to do to a project.

    `before` and `after` are versions of the template; `notes` say of a file why it was kept;
    `steps` are what is left to a person.
    """

    root: Path
    template: str
    before: str
    after: str
    changes: tuple[Change, ...]
    notes: Mapping[str, str]
    steps: tuple[Step, ...]

    @property
    def does_something(self) -> bool:
        """Whether anything in the project, its manifest included, is to be written."""
        return any(each.writes for each in self.written)

    @property
    def written(self) -> tuple[Change, ...]:
        """The changes as they are applied: a conflict is written with its markers."""
        return tuple(
            changes.edited(each.path, each.before, each.after)
            if each.status is Status.CONFLICT and each.after is not None
            else each
            for each in self.changes
        )


@dataclass
class _Planning:
    """A plan while it grows: what is known of the project, and what was decided so far.

    `added` is what commands added to the project; a line of theirs that is wired anew is noted.
    """

    root: Path
    versions: tuple[str, str]
    added: tuple[manifest.Addition, ...]
    folder: Path
    force: bool
    changes: list[Change] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def keep(self, path: str, content: bytes | None, why: str) -> None:
        self.changes.append(Change(path, content, content, Status.KEEP))
        self.notes[path] = why


def plan(project: Project, *, restore: Sequence[str] = (), force: bool = False) -> Update:
    """Plan what brings a project to the template as it is now.

    `restore` are files of the template that were deleted, and are to come back.  With `force`, what
    the last update left to do is no reason to refuse.

    Raises:
        CliError: Nothing tells what the project began from, see `origin.of`; or a conflict of the
            last update is not resolved.
    """
    began = origin.of(project)
    noted, base = began.noted, began.files
    if not force:
        _refuse_unresolved(project.root, base)
    elsewhere = Path(tempfile.gettempdir())
    sweep(elsewhere)
    with refusals_named(elsewhere), staging(elsewhere) as folder:
        made = scaffold.render(began.answers, folder).path
        fresh = manifest.decode((made / manifest.PATH).read_bytes())
        new = {path: (made / path).read_bytes() for path in fresh.files}
        between = (noted.template_version, fresh.template_version)
        planning = _Planning(project.root, between, noted.added, folder, force)
        _refuse_unrestorable(project.root, restore, new)
        for path in sorted({*base, *new}):
            _decide(planning, path, base.get(path), new.get(path), restored=path in restore)
        packed = (made / manifest.BASE).read_bytes()
    _note(planning, noted, fresh, packed)
    return Update(
        project.root,
        began.template.name,
        *between,
        tuple(planning.changes),
        planning.notes,
        tuple(planning.steps),
    )


def carry_out(update: Update) -> None:
    """Apply an update; see `changes.apply` for what it raises."""
    changes.apply(update.root, update.written)


def refuse_uncommitted(update: Update) -> None:
    """Raise a `CliError` where git could not take the update back.

    In a repository that is every file with a change that is not committed; a file that git does not
    have counts only where the update would write it.  Outside of one there is nothing to lose.
    """
    if not (update.does_something and inside_repository(update.root)):
        return
    written = {each.path for each in update.written if each.writes}
    try:
        found = git.uncommitted(update.root)
    except git.GitError as error:
        raise CliError(
            f"cannot tell whether everything is committed: {error}; nothing was changed",
            hint="an update is taken back with git; to do without that, add --force",
        ) from error
    if changed := sorted(path for path, known in found if known or path in written):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise CliError(
            f"not committed: {', '.join(changed[:3])}{more}; nothing was changed",
            hint="commit first, so that git can show the update and take it back, or add --force",
        )


def unresolved(files: Sequence[str]) -> CliError:
    """The error for conflicts that the last update left, and nobody has resolved."""
    beside = [file for file in files if file.endswith(BESIDE)]
    remedies = [f"take what you need from {file}, then delete it" for file in beside[:1]]
    if len(beside) < len(files):
        markers = f"<<<<<<< {merging.YOURS} and >>>>>>> {merging.TEMPLATE}"
        remedies.insert(0, f"keep what is right between {markers}, and delete those lines")
    return CliError(
        f"the last update is not finished: {', '.join(files)}; nothing was changed",
        hint="; ".join(remedies),
    )


def marked_settings() -> CliError | None:
    """The error for a `pyproject.toml` with markers, which no command can read; None without."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        file = folder / origin.SETTINGS
        if (folder / manifest.PATH).is_file() and file.is_file():
            return unresolved([origin.SETTINGS]) if merging.markers(file.read_bytes()) else None
    return None


def _refuse_unresolved(root: Path, base: Mapping[str, bytes]) -> None:
    """Raise a `CliError` where the last update left something to do, and nobody did it."""
    found = []
    for path in base:
        if not _obstacle(root, path) and merging.markers(changes.read(root, path) or b""):
            found.append(path)
        if os.path.lexists(root / f"{path}{BESIDE}"):
            found.append(f"{path}{BESIDE}")
    if found:
        raise unresolved(found)


def _refuse_unrestorable(root: Path, restore: Sequence[str], new: Mapping[str, bytes]) -> None:
    for path in restore:
        if path not in new:
            near = difflib.get_close_matches(path, new, n=1, cutoff=0.3)
            raise CliError(
                f"--restore {shown(path, 80)}: the template has no such file",
                hint=f"did you mean {near[0]}?" if near else "",
                exit_code=USAGE,
            )
        if os.path.lexists(root / path):
            raise CliError(
                f"--restore {path}: the file is there, and was not touched",
                hint="delete it first, or leave the option out to merge it",
                exit_code=USAGE,
            )


def _decide(
    planning: _Planning, path: str, base: bytes | None, new: bytes | None, *, restored: bool
) -> None:
    """Put into the plan what becomes of one file; None is where a version does not have it."""
    if restored:
        planning.changes.append(Change(path, None, new, Status.CREATE))
    elif base is not None and new is not None and _same(base, new):
        pass  # the template has not changed it: whatever is there is right
    elif obstacle := _obstacle(planning.root, path):
        planning.keep(path, None, obstacle)
        if new is not None:
            remedy = "make the template's change there by hand"
            planning.steps.append(Step(path, f"was not updated: {obstacle}", remedy))
    else:
        yours = changes.read(planning.root, path)
        if new is None:
            _gone(planning, path, base, yours)
        elif yours is None:
            _absent(planning, path, new, deleted=base is not None)
        elif not _same(yours, new):
            _differs(planning, path, base, yours, new)


def _absent(planning: _Planning, path: str, new: bytes, *, deleted: bool) -> None:
    """Decide about a file of the template that is not there."""
    if deleted:
        planning.keep(path, None, f"you deleted it; --restore {path} brings it back")
    else:
        planning.changes.append(Change(path, None, new, Status.CREATE))


def _differs(planning: _Planning, path: str, base: bytes | None, yours: bytes, new: bytes) -> None:
    """Decide about a file that is not what the template has now."""
    if base is None:
        _put_beside(planning, path, yours, new, "was there before the template had it")
    elif _same(yours, base):
        after = merging.like(new, yours)
        planning.changes.append(Change(path, yours, after, Status.MODIFY))
    else:
        _merge(planning, path, base, yours, new)


def _gone(planning: _Planning, path: str, base: bytes | None, yours: bytes | None) -> None:
    """Decide about a file that the template has no more."""
    if yours is None or base is None:
        return
    if _same(yours, base):
        planning.changes.append(Change(path, yours, None, Status.REMOVE))
    else:
        planning.keep(path, yours, "the template has it no more, but you edited it")


def _merge(planning: _Planning, path: str, base: bytes, yours: bytes, new: bytes) -> None:
    """Decide about a file that both have changed."""
    try:
        merged = _merged(planning, path, base, yours, new)
    except merging.NotMergedError as reason:
        _put_beside(planning, path, yours, new, str(reason))
        return
    if merged.conflicts:
        lines = ", ".join(map(str, merged.conflicts))
        planning.changes.append(Change(path, yours, merged.content, Status.CONFLICT))
        planning.steps.append(
            Step(
                path,
                f"has a conflict in line {lines}",
                f"keep what is right between <<<<<<< {merging.YOURS} and >>>>>>> "
                f"{merging.TEMPLATE} {planning.versions[1]}, and delete those lines",
            )
        )
    elif _reads(path, yours) and _reads(path, new) and not _reads(path, merged.content):
        _put_beside(planning, path, yours, new, "was not merged: the result could not be read")
    elif merged.content != yours:
        planning.changes.append(Change(path, yours, merged.content, Status.MERGE))


def _merged(
    planning: _Planning, path: str, base: bytes, yours: bytes, new: bytes
) -> merging.Merged:
    """The file as git merges it; where that is a conflict, as we can who know what the lines mean.

    Raises:
        NotMergedError: It cannot be merged at all.
    """
    between, folder = planning.versions, planning.folder
    merged = merging.merge(base, yours, new, between, folder)
    if merged.conflicts and path == origin.SETTINGS:
        settled = merging.merge_settings(base, yours, new, between, folder)
        return merged if settled.conflicts else settled
    wired = [each for each in planning.added if each.wired and each.wired.file == path]
    if not (merged.conflicts and wired):
        return merged
    # Lines that our commands added stand where the template adds its own: take them out, and put
    # them in again afterwards.
    try:
        for each in wired:
            yours = wiring.remove(yours, *_wire(each))
        bare = merging.merge(base, yours, new, between, folder)
        if bare.conflicts:
            return merged
        content, traces = bare.content, {}
        for each in wired:
            content, trace = wiring.insert(content, _wire(each)[0])
            traces[each.kind, each.name] = trace or wiring.Trace()
    except wiring.NotRecognisedError:
        return merged
    planning.added = tuple(
        _wired_anew(each, traces[each.kind, each.name])
        if (each.kind, each.name) in traces
        else each
        for each in planning.added
    )
    return merging.Merged(content)


def _wire(addition: manifest.Addition) -> tuple[wiring.Wire, wiring.Trace]:
    noted = addition.wired
    if noted is None:
        raise wiring.NotRecognisedError("has no line of it")
    wire = wiring.Wire(noted.package, noted.table, noted.parts, noted.module)
    return wire, wiring.Trace(noted.emptied, noted.spaced)


def _wired_anew(addition: manifest.Addition, trace: wiring.Trace) -> manifest.Addition:
    if addition.wired is None:
        return addition
    wired = replace(addition.wired, spaced=trace.spaced, emptied=trace.emptied)
    return replace(addition, wired=wired)


def _put_beside(planning: _Planning, path: str, yours: bytes, new: bytes, why: str) -> None:
    """Keep a file, and put the template's version beside it."""
    beside = f"{path}{BESIDE}"
    there = changes.read(planning.root, beside)
    if there is not None and there != new and not planning.force:
        raise unresolved([beside])
    planning.changes += [
        Change(path, yours, yours, Status.CONFLICT),
        changes.edited(beside, there, new),
    ]
    remedy = f"take what you need from {beside}, then delete that"
    planning.steps.append(Step(path, f"{why}, so it was kept as it is", remedy))


def _note(planning: _Planning, noted: Manifest, fresh: Manifest, packed: bytes) -> None:
    """Put into the plan what the project remembers of the update."""
    answers = {**noted.answers, **fresh.answers}
    after = replace(fresh, answers=answers, added=planning.added)
    if after == noted:
        return
    content = changes.read(planning.root, manifest.PATH)
    planning.changes.append(changes.edited(manifest.PATH, content, after.encode()))
    if after.files != noted.files:
        content = changes.read(planning.root, manifest.BASE)
        planning.changes.append(changes.edited(manifest.BASE, content, packed))


def _same(first: bytes, second: bytes) -> bool:
    """Whether two files are the same but for their line ends, which git may have changed."""
    return manifest.digest(first) == manifest.digest(second)


def _obstacle(root: Path, path: str) -> str:
    """Why what is in a file's place is not to be read or written; "" where nothing is in the way.

    A symbolic link may lead out of the project, wherever on the way it is.
    """
    place, parts = root, path.split("/")
    for part in parts:
        place = place / part
        try:
            mode = place.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return ""
        at = place.relative_to(root).as_posix()
        what = "it" if at == path else at
        if stat.S_ISLNK(mode):
            return f"{what} is a symbolic link"
        if not (stat.S_ISREG(mode) if at == path else stat.S_ISDIR(mode)):
            return f"{what} is no {'file' if at == path else 'folder'}"
    return ""


def _reads(path: str, content: bytes) -> bool:
    """Whether a file of Python or TOML can be read as such; of others, nothing is known."""
    readers: dict[str, Callable[[bytes], object]] = {
        ".py": ast.parse,
        ".toml": lambda source: tomllib.loads(source.decode("utf-8-sig")),
    }
    try:
        readers.get(Path(path).suffix, bytes)(content)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True
