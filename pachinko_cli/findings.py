"""What `pachinko doctor` found: each thing with a mark, and with its fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """How bad it is; the word itself is what people read, with or without colour."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `check` names it for machines and stays the same; `text` is for people, and `fix` what to type
    or to change: it is empty where nothing needs to.

    >>> Finding("uvicorn", Mark.OK, "uvicorn 0.54.0").mark
    <Mark.OK: 'ok'>
    """

    check: str
    mark: Mark
    text: str
    fix: str = ""
