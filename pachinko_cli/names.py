"""What a project may be called: one name that is a folder, a distribution and a Python package."""

from __future__ import annotations

import keyword
import re
import sys
import unicodedata
from dataclasses import dataclass

from pachinko_cli.errors import NameRefusedError

LONGEST = 64

# A package of one of these names would hide the real one from the project that needs it.
# tests/unit/test_cli_names.py compares this list with what a project's requirements install.
TAKEN = frozenset(
    """
    annotated_doc annotated_types anyio arrow ast_serialize async_timeout binaryornot certifi
    cffi charset_normalizer click colorama conftest cookiecutter coverage dateutil dotenv falcon
    falcon_pachinko h11 hatchling hiredis httptools idna iniconfig jinja2 librt markdown_it
    markupsafe mdurl msgspec mypy mypy_extensions mypyc nacl nats nkeys packaging pachinko_cli
    pathspec pip pluggy py pycparser pydantic pydantic_core pygments pytest pytest_asyncio redis
    requests rich ruff
    setup setuptools shellingham site six slugify test tests text_unidecode typer
    typing_extensions typing_inspection tzdata urllib3 uvicorn uvloop watchfiles websockets
    wheel wsproto yaml
    """.split()  # noqa: SIM905 - as a list literal it takes seventy lines
)

# Windows opens the device whatever the extension says, so nobody there could check the project out.
DEVICES = frozenset(
    ["aux", "con", "conin", "conout", "nul", "prn"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in range(10)]
)

# `type` became a soft keyword in 3.12, and a project is for every Python from 3.11 on.
KEYWORDS = frozenset(word.lower() for word in [*keyword.kwlist, *keyword.softkwlist, "type"])

# In small letters: some file systems do not tell `cprofile` from `cProfile`.
STANDARD = frozenset(word.lower() for word in sys.stdlib_module_names)

_UNUSUAL = re.compile(r"[^a-z0-9 _-]", re.IGNORECASE)
_SEPARATORS = re.compile(r"[ _-]+")


@dataclass(frozen=True)
class ProjectName:
    """A name that was checked, in its three forms.

    `title` is for people, and keeps the capitals that were typed; `slug` names the folder and the
    distribution; `package` is what Python imports.
    """

    title: str
    slug: str
    package: str


def project_name(text: str) -> ProjectName:
    """Check a name and give its three forms, or raise `NameRefusedError` with a name that works.

    >>> project_name("tea-room")
    ProjectName(title='Tea Room', slug='tea-room', package='tea_room')
    """
    typed = text.strip(" _-")
    slug = _slug(typed)
    if reason := _unreadable(typed) or _unusable(slug):
        raise NameRefusedError(text, reason, suggestion(typed))
    words = slug.replace("-", " ")
    title = words.title() if typed.islower() else " ".join(_SEPARATORS.split(typed))
    return ProjectName(title, slug, slug.replace("-", "_"))


def suggestion(text: str) -> str:
    """A slug near `text` that `project_name` accepts, whatever `text` is.

    >>> [suggestion(text) for text in ("class", "../Café", "1a", "")]
    ['class-app', 'cafe', 'app-1a', 'tea-room']
    """
    last = [part for part in re.split(r"[/\\]", text[: 8 * LONGEST]) if part.strip(". ")][-1:]
    ascii_text = unicodedata.normalize("NFKD", "".join(last)).encode("ascii", "ignore").decode()
    near = _slug(_UNUSUAL.sub(" ", ascii_text))[: LONGEST - len("-app")].rstrip("-")
    candidates = (near, f"{near}-app", f"app-{near}") if near else ()
    return next((name for name in candidates if not _unusable(name)), "tea-room")


def _slug(text: str) -> str:
    return _SEPARATORS.sub("-", text.lower()).strip("-")


def _unreadable(typed: str) -> str | None:
    """Why a name is none as it was typed; None where it may be one."""
    if not typed:
        return "has no letter in it, and a project needs a name"
    if not typed.isascii():
        return "has letters that are not ASCII, which not every file system and import keeps apart"
    if "/" in typed or "\\" in typed or not typed.strip("."):
        return "is a path, and a project is made in the current folder"
    if unusual := _UNUSUAL.search(typed):
        return f"contains {unusual[0]!r}; letters, digits, spaces, hyphens and underscores will do"
    if len(typed) > LONGEST:
        return f"has {len(typed)} characters, and {LONGEST} is the most"
    return None


def _unusable(slug: str) -> str | None:
    """Why no folder or package can be called `slug`; None where it can."""
    package = slug.replace("-", "_")
    if not package.isidentifier():
        return "does not start with a letter, and a Python package has to"
    if package in KEYWORDS:
        return "is a keyword of Python, and a package needs a name of its own"
    if package in STANDARD:
        return "is a module of Python's standard library, which it would hide"
    if package in TAKEN:
        return "is a package that the project itself needs, which it would hide"
    if package in DEVICES:
        return "is a device on Windows, where no such folder can be made"
    return None
