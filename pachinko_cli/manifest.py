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
from typing import TYPE_CHECKING, Any

from pachinko_cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = ".pachinko"
PATH = f"{FOLDER}/manifest.json"
BASE = f"{FOLDER}/base.zip"
FORMAT = 1


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
        noted = json.loads(content)
        if noted.pop("format") > FORMAT:
            raise CliError(
                f"{PATH} was written by a newer pachinko",
                hint="type:  pip install --upgrade 'falcon-pachinko[cli]'",
            )
        added = tuple(_addition(each) for each in noted.pop("added"))
        manifest = Manifest(**noted, added=added)
        for files in (manifest.files, *(each.files for each in added)):
            for path, _ in files.items():  # noqa: PERF102 - a list would have no items
                inside(path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CliError(
            f"cannot read {PATH}: {error}",
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


def _addition(noted: dict[str, Any]) -> Addition:
    wired = noted.pop("wired")
    if wired is not None:
        wired = Wired(**{**wired, "parts": tuple(wired["parts"])})
        inside(wired.file)
    return Addition(**noted, wired=wired)


def inside(path: str) -> str:
    """A path as it is, if it stays in the project; `ValueError` if it does not."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path:
        raise ValueError(f"{path!r} is no file of the project")
    return path
