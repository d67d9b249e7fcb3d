"""What somebody who mistyped may have meant."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def near(typed: str, known: Iterable[str]) -> str | None:
    """The one of `known` that looks most like what was typed; None where none does.

    Capitals do not matter, nor do hyphens and underscores; a beginning or an end is enough.

    >>> near("resorce", ["resource", "worker"]), near("--prot", ["--host", "--port"])
    ('resource', '--port')
    >>> near("tea", ["resource", "worker"])
    """
    plain = {_plain(each): each for each in known}
    wanted = _plain(typed[:80])
    parts = [name for name in plain if len(wanted) > 1 and _is_part(wanted, name)]
    found = [*parts[:1], *get_close_matches(wanted, plain, n=1)]
    return plain[found[0]] if found else None


def _plain(text: str) -> str:
    return text.lower().replace("_", "-").strip("-")


def _is_part(wanted: str, name: str) -> bool:
    return name.startswith(wanted) or name.endswith(f"-{wanted}")
