"""Merges what somebody has made of a file with what its template has become.

Bytes in, bytes out.  Git does the merging, line by line; here is what it leaves open: line ends and
byte order marks, which are no edits, and the lines of a list of settings, which stand each for
itself.
"""

from __future__ import annotations

import codecs
import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pachinko_cli import git

if TYPE_CHECKING:
    from pathlib import Path

YOURS = "yours"
TEMPLATE = "template"

# What `merge` writes around a conflict, whatever the version was.
_BEGINNING = re.compile(rb"^<{7} yours\r?$", re.MULTILINE)
_END = re.compile(rb"^>{7} template [^\r\n]+$", re.MULTILINE)


class NotMergedError(Exception):
    """The three versions cannot be merged; the text says why, as the end of a sentence."""


@dataclass(frozen=True)
class Merged:
    """A merged file; `conflicts` are the lines, from 1, where both sides changed the same."""

    content: bytes
    conflicts: tuple[int, ...] = ()


def merge(base: bytes, yours: bytes, new: bytes, versions: tuple[str, str], folder: Path) -> Merged:
    """Merge a file with its new version, where `base` is what both began from.

    Line ends and a byte order mark are yours.  Where both changed the same lines, both are in it,
    between markers that name the `versions` of the template.  `folder` is a private one.

    Raises:
        NotMergedError: One of them is no text, or there is no git.
    """
    if not all(is_text(each) for each in (base, yours, new)):
        raise NotMergedError("is no text")
    files = [folder / name for name in ("yours", "base", "new")]
    for file, content in zip(files, (yours, like(base, yours), like(new, yours)), strict=True):
        file.write_bytes(content)
    labels = (YOURS, *(f"{TEMPLATE} {version}" for version in versions))
    try:
        content = git.merge_file(folder, *files, labels=labels)
    except git.GitError as error:
        raise NotMergedError(f"was not merged: {error}") from error
    return Merged(content, markers(content))


def merge_settings(
    base: bytes, yours: bytes, new: bytes, versions: tuple[str, str], folder: Path
) -> Merged:
    """Merge a file whose lines stand each for itself, as those of a `pyproject.toml` do.

    A line that the template has replaced by another one, and that you have as it was, is replaced
    first; so what you wrote right beside it is no conflict.
    """
    before, mine = (_lines(like(each, yours)) for each in (base, yours))
    after = _lines(like(new, yours))
    compared = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for kind, start, end, new_start, new_end in compared.get_opcodes():
        if kind == "replace" and end - start == new_end - new_start:
            for old, replacement in zip(before[start:end], after[new_start:new_end], strict=True):
                if before.count(old) == mine.count(old) == 1:
                    mine[mine.index(old)] = before[before.index(old)] = replacement
    return merge(b"".join(before), b"".join(mine), new, versions, folder)


def is_text(content: bytes) -> bool:
    """Whether it can be merged by lines: as for git, what has no NUL in it is a text."""
    return b"\0" not in content


def like(content: bytes, model: bytes) -> bytes:
    r"""A text with the byte order mark and the line ends of another one.

    >>> like(b"tea\n", b"\xef\xbb\xbfgreen\r\n")
    b'\xef\xbb\xbftea\r\n'
    """
    if not (is_text(content) and is_text(model)):
        return content
    content = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")
    windows = model.count(b"\r\n")
    if windows > model.count(b"\n") - windows:
        content = content.replace(b"\n", b"\r\n")
    return codecs.BOM_UTF8 + content if model.startswith(codecs.BOM_UTF8) else content


def markers(content: bytes) -> tuple[int, ...]:
    """The lines, from 1, where conflicts begin that `merge` left and nobody has resolved.

    Of a conflict that was resolved by half, it is the line of its end.
    """
    found = [*_BEGINNING.finditer(content)] or [*_END.finditer(content)]
    return tuple(content.count(b"\n", 0, each.start()) + 1 for each in found)


def _lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)
