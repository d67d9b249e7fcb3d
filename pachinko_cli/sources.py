"""Fetches other people's templates: a folder, a zip archive or a git repository, as a copy.

What is copied was looked at: no symbolic link, no pipe, no path that leads out of the template, no
`.git`.  Nothing of it is run here; git is told to run nothing either.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zlib
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from pachinko_cli.errors import USAGE, CliError, shown
from pachinko_cli.steps import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zipfile import ZipFile

LARGEST = 200_000_000  # bytes of an archive, packed or unpacked; no template comes near
PATIENCE = 30  # seconds for a server to say something

SHORTHANDS = {
    "gh:": "https://github.com/",
    "gl:": "https://gitlab.com/",
    "bb:": "https://bitbucket.org/",
}
_SCHEMES = ("http", "https", "ssh", "git", "file")
_SCP = re.compile(r"[\w.-]+@[\w.-]+:(?!//).+")

# What Cookiecutter uses of a template, beside the folder that becomes the project.
_BESIDE = ("cookiecutter.json", "hooks", "templates", "local_extensions", "local_extensions.py")


@dataclass(frozen=True)
class Source:
    """A template that was fetched: a private copy, and where it came from.

    `origin` is a path or an address without its password; `commit` is for repositories only.
    """

    folder: Path
    origin: str
    commit: str = ""


def is_place(template: str) -> bool:
    """Whether a template is given as a place, and not as the name of one of ours.

    >>> [is_place(text) for text in ("chat", "./chat", "gh:ann/teas", "teas.zip")]
    [False, True, True, True]
    """
    return (
        any(mark in template for mark in ("/", os.sep, ":"))
        or template.startswith((".", "~"))
        or template.lower().endswith(".zip")
        or Path(template).is_dir()
    )


def fetch(template: str, into: Path, *, directory: str = "", checkout: str = "") -> Source:
    """Copy a template into a folder that nobody else uses.

    Args:
        template: A folder, a zip archive, or the address of an archive or of a git repository.
        into: An empty folder of this user's.
        directory: Where the template is in there, when it is not at the top.
        checkout: A branch, a tag or a commit of the repository.

    Raises:
        CliError: There is none, or it cannot be had, or it has something that is not safe to copy.
    """
    address = _address(template)
    found, origin, commit = into / "found", address, ""
    if checkout and not _is_repository(address):
        raise CliError(
            f"{without_password(template)} is no git repository, so there is nothing to check out",
            hint="leave out --checkout",
            exit_code=USAGE,
        )
    if _is_repository(address):
        origin = without_password(address)
        commit = _clone(address, found, checkout)
    elif _parts(address).scheme in _SCHEMES:
        origin = without_password(address)
        _unpack(_download(address, into / "archive.zip"), found, origin)
    else:
        place = Path(os.path.abspath(Path(address).expanduser()))  # noqa: PTH100 - ends every ..
        origin = str(place)
        if place.is_file():
            _unpack(place, found, origin)
        elif place.is_dir():
            found = place
        else:
            raise CliError(
                f"there is no template at {place}",
                hint="give a folder, a .zip file or the address of a git repository",
                exit_code=USAGE,
            )
    _copy(_inside(found, directory, origin), into / "template", origin)
    return Source(into / "template", origin, commit)


def without_password(address: str) -> str:
    """An address as it may be shown and noted.

    >>> without_password("https://ann:secret@git.example/teas.git")
    'https://git.example/teas.git'
    """
    parts = _parts(address)
    if "@" not in parts.netloc or parts.scheme == "ssh":
        return address
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def stays_inside(path: str) -> bool:
    r"""Whether a relative path with slashes leads nowhere else, on any system.

    >>> [stays_inside(path) for path in ("a/b", "../a", "/a", "C:/a", "a\\b", "a/../../b")]
    [True, False, False, False, False, False]
    """
    parts = PurePosixPath(path).parts
    drive = re.match(r"(.*/)?[A-Za-z]:(/|$)|[A-Za-z]:", path)
    return not (path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or drive)


def _address(template: str) -> str:
    for shorthand, start in SHORTHANDS.items():
        if template.startswith(shorthand):
            return f"{start}{template.removeprefix(shorthand)}.git"
    return template.removeprefix("git+")


def _parts(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # its text, and what stands before the @, may be a password
        raise CliError(
            f"{address.rpartition('@')[2]} is no address of a template: it has no readable host",
            hint="write an IPv6 address in brackets, as in https://[::1]/teas.git",
            exit_code=USAGE,
        ) from None


def _is_repository(address: str) -> bool:
    if _SCP.fullmatch(address):
        return True
    return _parts(address).scheme in _SCHEMES and not address.lower().endswith(".zip")


def _clone(address: str, folder: Path, checkout: str) -> str:
    """Clone a repository, and give the commit that is there."""
    if checkout.startswith("-"):
        raise CliError(
            f"{shown(checkout)} is no branch, tag or commit", exit_code=USAGE, hint="see git tag"
        )
    parent = folder.parent
    # Nobody is asked for a password: a question would stand behind the progress, unseen.
    quiet = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
    }
    safely = ("git", "-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never")
    depth = ("--no-checkout",) if checkout else ("--depth=1",)
    origin = without_password(address)
    try:
        run(
            parent, *safely, "clone", "--quiet", *depth, "--", address, str(folder), variables=quiet
        )
        if checkout:
            remote = run(folder, *safely, "branch", "--remotes", "--list", f"origin/{checkout}")
            commit = f"origin/{checkout}" if remote.strip() else checkout
            run(folder, *safely, "checkout", "--quiet", "--detach", commit, "--", variables=quiet)
        return run(folder, *safely, "rev-parse", "HEAD", variables=quiet).strip()
    except CliError as error:
        if "is not installed" in error.message:
            raise CliError(
                f"{origin} is a git repository, and git is not installed",
                hint="install git, or give a folder or a .zip file",
            ) from None
        said = [line for line in error.message.splitlines()[1:] if line.strip()]
        last = (said or [""])[-1].replace(address, origin)
        where = f"{shown(checkout)} of {origin}" if checkout and folder.exists() else origin
        raise CliError(
            f"cannot get {where}: {last}",
            hint="check the address and the network; git itself has to be able to log in",
        ) from None


def _download(address: str, file: Path) -> Path:
    from http.client import HTTPException  # noqa: PLC0415 - few need it
    from urllib.request import Request, urlopen  # noqa: PLC0415 - few need it

    origin, login = without_password(address), _parts(address)
    request = Request(origin)  # noqa: S310 - one of _SCHEMES
    if login.password is not None:
        pair = f"{unquote(login.username or '')}:{unquote(login.password)}".encode()
        request.add_header("Authorization", f"Basic {b64encode(pair).decode()}")
    try:
        opened = urlopen(request, timeout=PATIENCE)  # noqa: S310 - one of _SCHEMES
        with opened as answer, file.open("wb") as archive:
            while part := answer.read(65_536):
                archive.write(part)
                if archive.tell() > LARGEST:
                    raise CliError(f"{origin} is larger than {LARGEST:,} bytes")
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise CliError(
            f"cannot get {origin}: {reason}", hint="check the address and the network"
        ) from None
    return file


def _unpack(archive: Path, folder: Path, origin: str) -> None:
    from zipfile import BadZipFile, ZipFile  # noqa: PLC0415 - few need it

    try:
        with ZipFile(archive) as packed:
            _look_through(packed, origin)
            packed.extractall(folder)
    # RuntimeError: it has a password.  NotImplementedError: it is packed in a way of its own.
    except (BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise CliError(
            f"cannot unpack {origin}: {error}", hint="give a .zip file without a password"
        ) from None


def _look_through(packed: ZipFile, origin: str) -> None:
    """Refuse an archive that would write elsewhere, or without end."""
    size = 0
    for entry in packed.infolist():
        size += entry.file_size
        if not stays_inside(entry.filename):
            raise _unsafe(origin, entry.filename, "leads out of it")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise _unsafe(origin, entry.filename, "is a symbolic link")
        if size > LARGEST:
            raise CliError(f"{origin} unpacks to more than {LARGEST:,} bytes")


def _inside(found: Path, directory: str, origin: str) -> Path:
    """The template's own folder: what was asked for, or the only folder of an archive."""
    root = found
    if not (found / "cookiecutter.json").is_file() and not directory:
        folders = [entry for entry in found.iterdir() if not entry.name.startswith((".", "__"))]
        if len(folders) == 1 and (folders[0] / "cookiecutter.json").is_file():
            root = folders[0]
    if directory:
        if not stays_inside(directory):
            raise CliError(
                f"--directory {shown(directory)} leads out of the template",
                hint="give a folder in it, such as templates/web",
                exit_code=USAGE,
            )
        folders = [found, *(entry for entry in sorted(found.iterdir()) if entry.is_dir())]
        tops = folders if len(folders) == 2 else [found]  # an archive often has one folder
        root = next((top / directory for top in tops if (top / directory).is_dir()), found)
        if root == found:
            raise CliError(
                f"{origin} has no folder {shown(directory)}",
                hint="--directory is where its cookiecutter.json is",
                exit_code=USAGE,
            )
    if not (root / "cookiecutter.json").is_file():
        deeper = sorted(
            file.parent.relative_to(root).as_posix() for file in root.glob("*/cookiecutter.json")
        ) + sorted(
            file.parent.relative_to(root).as_posix() for file in root.glob("*/*/cookiecutter.json")
        )
        raise CliError(
            f"{origin} has no cookiecutter.json, which a Cookiecutter template has at its top",
            hint=f"there are templates in it: add --directory {deeper[0]}"
            if deeper
            else "give the folder that has one",
            exit_code=USAGE,
        )
    if root.resolve() != root.absolute() and not root.resolve().is_relative_to(found.resolve()):
        raise _unsafe(origin, directory, "is a symbolic link that leads out of it")
    return root


def _copy(root: Path, target: Path, origin: str) -> None:
    """Copy what Cookiecutter uses of a template, and no more."""
    target.mkdir()
    projects = [
        entry.name
        for entry in root.iterdir()
        if "{{" in entry.name and "cookiecutter" in entry.name and entry.is_dir()
    ]
    if len(projects) != 1:
        raise CliError(
            f"{origin} has {len(projects)} folders such as {{{{cookiecutter.project_slug}}}}, "
            "and a template has one",
            hint="Cookiecutter's documentation shows how a template looks",
            exit_code=USAGE,
        )
    for name in (*_BESIDE, *projects):
        for file in _ordinary(root, root / name, origin):
            copy = target / file.relative_to(root)
            if file.is_dir():
                copy.mkdir()
            else:
                shutil.copyfile(file, copy)
                copy.chmod(file.stat().st_mode & 0o777 | 0o600)


def _ordinary(root: Path, entry: Path, origin: str) -> Iterator[Path]:
    """A file, or a folder and all in it, top down; whatever else there is, is refused."""
    if not os.path.lexists(entry) or entry.name in {"__pycache__", ".git"}:
        return
    mode = entry.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise _unsafe(origin, entry.relative_to(root).as_posix(), "is a symbolic link")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _unsafe(origin, entry.relative_to(root).as_posix(), "is no ordinary file")
    yield entry
    if stat.S_ISDIR(mode):
        for inner in sorted(entry.iterdir()):
            yield from _ordinary(root, inner, origin)


def _unsafe(origin: str, path: str, why: str) -> CliError:
    return CliError(
        f"{shown(path, 80)} in {origin} {why}; nothing was made",
        hint="a template has ordinary files and folders only",
        exit_code=USAGE,
    )
