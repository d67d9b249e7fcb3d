"""What was generated in a project: `.pachinko/manifest.json`, and `base.zip` beside it.

Both are meant to be committed.  The manifest says which files a command wrote, with their hashes,
and what it was told; so a later command knows which of them were edited.  The archive has the files
of the template as `new` wrote them, which is what a three-way merge begins from.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from pachinko_cli.errors import CliError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

FOLDER = ".pachinko"
PATH = f"{FOLDER}/manifest.json"
BASE = f"{FOLDER}/base.zip"
FORMAT = 1
LARGEST_BASE = 2**24  # bytes; a template has a hundredth of that


@dataclass(frozen=True)
class Wired:
    """A line in a table of the project's, and what is needed to take it out again.

    `spaced` and `emptied` are what `wiring.Trace` has.
    """

    file: str
    package: str
    table: str
    parts: tuple[str, ...]
    module: str
    spaced: bool = False
    emptied: str | None = None


@dataclass(frozen=True)
class Addition:
    """What one command added: its files with their hashes, and its line in a table.

    `answers` are what the command was told.
    """

    kind: str
    name: str
    answers: Mapping[str, Any]
    files: Mapping[str, str]
    wired: Wired | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything that commands have generated in a project and not taken back.

    `files` are those that came with the template, with their hashes.
    """

    template: str = ""
    template_version: str = ""
    answers: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    added: tuple[Addition, ...] = ()

    def get(self, kind: str, name: str) -> Addition | None:
        """What was added under that name."""
        return next((each for each in self.added if (each.kind, each.name) == (kind, name)), None)

    def with_added(self, addition: Addition) -> Manifest:
        """The manifest with an addition, in place of one of the same name."""
        others = self.without(addition.kind, addition.name).added
        added = sorted([*others, addition], key=lambda each: (each.kind, each.name))
        return replace(self, added=tuple(added))

    def without(self, kind: str, name: str) -> Manifest:
        """The manifest without what was added under that name."""
        added = tuple(each for each in self.added if (each.kind, each.name) != (kind, name))
        return replace(self, added=added)

    def encode(self) -> bytes:
        """The manifest as a file: the same for the same content, one thing a line."""
        return f"{json.dumps({'format': FORMAT, **asdict(self)}, indent=2)}\n".encode()


def decode(content: bytes | None) -> Manifest:
    """Read a manifest; without one, nothing was generated.

    Raises:
        CliError: It cannot be read, or a newer version of this command wrote it.
    """
    if content is None:
        return Manifest()
    try:
        noted = _object(json.loads(content), "it")
        if _of(int, noted.pop("format"), "format") > FORMAT:
            raise CliError(
                f"{PATH} was written by a newer pachinko",
                hint="type:  pip install --upgrade 'falcon-pachinko[cli]'",
            )
        added = tuple(_addition(_object(each, "an addition")) for each in noted.pop("added"))
        manifest = Manifest(
            template=_of(str, noted.pop("template", ""), "template"),
            template_version=_of(str, noted.pop("template_version", ""), "template_version"),
            answers=_object(noted.pop("answers", {}), "answers"),
            files=_files(noted.pop("files", {})),
            added=added,
        )
        if noted:
            raise ValueError(f"it has {shown(min(noted))}, which this version would lose")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CliError(
            f"cannot read {PATH}: {why}",
            hint="put the file right, or take it from your repository: it says what was generated",
        ) from error
    return manifest


def digest(content: bytes) -> str:
    r"""The hash of a file, whatever its line ends: git may have changed those.

    >>> digest(b"tea\r\n") == digest(b"tea\n")
    True
    """
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def snapshot(files: Mapping[str, bytes]) -> bytes:
    """An archive of files: the same bytes for the same content, whenever and wherever."""
    from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo  # noqa: PLC0415 - `new` alone needs it

    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:
        for path, content in sorted(files.items()):
            entry = ZipInfo(path)  # without a date of its own it is of 1980
            entry.compress_type = ZIP_DEFLATED
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def unpack(packed: bytes) -> dict[str, bytes]:
    """The files in what `snapshot` gave.

    It came with the project, from anybody: what leads out of the project, or unfolds to more than
    `LARGEST_BASE` bytes, is refused before it is read.

    Raises:
        CliError: It cannot be read.
    """
    import zlib  # noqa: PLC0415 - `update` alone needs these
    from zipfile import BadZipFile, ZipFile  # noqa: PLC0415 - see above

    files: dict[str, bytes] = {}
    left = LARGEST_BASE
    try:
        with ZipFile(io.BytesIO(packed)) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    content = file.read(left + 1)
                left -= len(content) + len(entry.filename)
                if left < 0:
                    raise ValueError(f"it holds more than {LARGEST_BASE // 2**20} MiB")
                if files.setdefault(inside(entry.filename), content) is not content:
                    raise ValueError(f"it has {shown(entry.filename)} twice")
    # NotImplementedError and RuntimeError: compressed or encrypted in a way that we never do.
    except (BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError) as error:
        raise CliError(
            f"cannot read {BASE}: {error}",
            hint="take it from your repository: it has the files as the template wrote them",
        ) from error
    return files


def _addition(noted: dict[str, Any]) -> Addition:
    wired = noted["wired"]
    return Addition(
        kind=_of(str, noted["kind"], "kind"),
        name=_of(str, noted["name"], "name"),
        answers=_object(noted["answers"], "answers"),
        files=_files(noted["files"]),
        wired=None if wired is None else _wired(_object(wired, "wired")),
    )


def _wired(noted: dict[str, Any]) -> Wired:
    emptied = noted.get("emptied")
    parts = [_of(str, part, "a part of an entry") for part in _of(list, noted["parts"], "parts")]
    if not parts:
        raise ValueError("an entry has no parts")
    return Wired(
        file=inside(_of(str, noted["file"], "file")),
        package=_of(str, noted["package"], "package"),
        table=_of(str, noted["table"], "table"),
        parts=tuple(parts),
        module=_of(str, noted["module"], "module"),
        spaced=_of(bool, noted.get("spaced", False), "spaced"),
        emptied=None if emptied is None else _of(str, emptied, "emptied"),
    )


def _files(noted: Any) -> dict[str, str]:
    files = _object(noted, "files")
    return {
        inside(path): _of(str, digest, f"what is said of {path}") for path, digest in files.items()
    }


def _object(noted: Any, what: str) -> dict[str, Any]:
    return _of(dict, noted, what)


def _of(kind: type[T], noted: Any, what: str) -> T:
    """What was noted, if it is of that kind."""
    if not isinstance(noted, kind):
        raise TypeError(f"{what} is no {kind.__name__}")
    return noted


def inside(path: str) -> str:
    """A path as it is, if it stays in the project; `ValueError` if it does not."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or not set("\\:\0").isdisjoint(path):
        raise ValueError(f"{path!r} is no file of the project")
    return path
