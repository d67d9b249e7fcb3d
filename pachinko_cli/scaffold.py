"""Makes a project folder, all of it or nothing: the only door to Cookiecutter.

Cookiecutter renders what it is given as a template, follows symbolic links, reads
`~/.cookiecutterrc` and writes replay files.  So it is given a private copy of one of our own
templates and a context that was checked, and is called below the functions that do the rest.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pachinko_cli import manifest
from pachinko_cli.disk import lock, refusals_named
from pachinko_cli.errors import (
    CliError,
    InterruptedByUserError,
    TargetTakenError,
    UnwritableError,
)
from pachinko_cli.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pachinko_cli.names import ProjectName
    from pachinko_cli.templates import Template

STAGING_PREFIX = ".pachinko-new-"

# What a rename answers when something else is in that place.
_TAKEN = frozenset({errno.EEXIST, errno.ENOTDIR, errno.ENOTEMPTY, errno.EISDIR})
# What would make git or uv work on another project than the one they are started in.
_ELSEWHERE = frozenset(
    {
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_WORK_TREE",
        "UV_PROJECT",
        "UV_PROJECT_ENVIRONMENT",
        "VIRTUAL_ENV",
    }
)


def library_source() -> str:
    """Where a project gets falcon-pachinko from, as the end of a requirement.

    From a package index it is a version; from a checkout, a wheel or a repository it is that place,
    as the installer noted it in `direct_url.json` (PEP 610), in the form of PEP 508 that pip and uv
    both follow.

    >>> f"falcon-pachinko[cli]{library_source()}"
    'falcon-pachinko[cli] @ file:///srv/ann/falcon-pachinko'
    """
    from importlib import metadata  # noqa: PLC0415 - not needed to show help

    distribution = metadata.distribution("falcon-pachinko")
    return source_from(distribution.read_text("direct_url.json")) or f">={distribution.version}"


def source_from(direct_url: str | None) -> str | None:
    """The end of a requirement for what `direct_url.json` says; None where that is of no use.

    >>> source_from('{"url": "file:///srv/ann/my%20code", "dir_info": {"editable": true}}')
    ' @ file:///srv/ann/my%20code'
    """
    from urllib.parse import urlsplit  # noqa: PLC0415 - not needed to show help
    from urllib.request import url2pathname  # noqa: PLC0415

    if direct_url is None:
        return None
    noted = json.loads(direct_url)
    url: str = noted["url"]
    if url.startswith("file:"):
        path = Path(url2pathname(urlsplit(url).path))
        if not path.exists():
            return None
        # Written anew, so that whatever noted it, a space or a quote in it is escaped.
        url = path.as_uri()
    if vcs := noted.get("vcs_info"):
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    if subdirectory := noted.get("subdirectory"):
        url = f"{url}#subdirectory={subdirectory}"
    return f" @ {url}"


@dataclass(frozen=True)
class Answers:
    """What was decided about a project before it is made.

    `source` is where it gets falcon-pachinko from: where this command came from, by default.
    """

    name: ProjectName
    template: Template
    agents_md: bool = True
    source: str = field(default_factory=library_source)


@dataclass(frozen=True)
class Project:
    """A project that was made, or would be: its folder, and its files relative to it."""

    path: Path
    files: tuple[Path, ...]


def create(answers: Answers, parent: Path) -> Project:
    """Make the project in `parent`: the whole of it appears at once, by one rename, or nothing.

    Raises:
        TargetTakenError: Something has the folder's name already; it was not touched.
        UnwritableError: Permissions, a full disk and the like; nothing was left behind.
        InterruptedByUserError: Ctrl-C before the rename; nothing was left behind.
    """
    target = vacant(answers.name, parent)
    sweep(parent)
    try:
        with refusals_named(parent), staging(parent) as folder:
            staged = render(answers, folder)
            move(staged.path, vacant(answers.name, parent))
    except KeyboardInterrupt:
        raise InterruptedByUserError("interrupted; nothing was made") from None
    return Project(target, staged.files)


def preview(answers: Answers, parent: Path) -> Project:
    """What `create` would make, with nothing written in `parent`; it raises the same errors."""
    target = vacant(answers.name, parent)
    elsewhere = Path(tempfile.gettempdir())
    with refusals_named(elsewhere), staging(elsewhere) as folder:
        return Project(target, render(answers, folder).files)


def vacant(name: ProjectName, parent: Path) -> Path:
    """The folder that the project gets, or `TargetTakenError` where something is there.

    A file, a folder or a symbolic link counts, one that leads nowhere included.
    """
    target = parent / name.slug
    if os.path.lexists(target):
        raise TargetTakenError(target)
    return target


def render(answers: Answers, folder: Path) -> Project:
    """Render the template into a folder that nobody else uses."""
    # Imported here, since it costs more than everything else together.  It comes without types.
    from cookiecutter.generate import (  # type: ignore[import-untyped]  # noqa: PLC0415
        generate_files,
    )

    # Cookiecutter renders the absolute path of every folder it makes.
    if found := next((mark for mark in ("{{", "{%", "{#") if mark in str(folder.absolute())), None):
        raise CliError(
            f"no project can be made in {folder.parent}: Cookiecutter takes the {found} in that "
            "path for a template",
            hint="cd to a folder without it",
        )
    source, output = folder / "template", folder / "project"
    for file in answers.template.files():
        copy = source / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(answers.template.path / file, copy)
    output.mkdir()
    context = {"cookiecutter": variables(answers)}
    path = Path(generate_files(source, context, output, accept_hooks=False))
    record(path, answers)
    return Project(path, tuple(sorted(file.relative_to(path) for file in _files(path))))


def record(project: Path, answers: Answers) -> None:
    """Note in the project what it was made from, for the commands that change it later."""
    files = {file.relative_to(project).as_posix(): file.read_bytes() for file in _files(project)}
    noted = Manifest(
        template=answers.template.name,
        template_version=answers.template.defaults()["_template_version"],
        answers={"name": answers.name.title, "agents-md": answers.agents_md},
        files={path: manifest.digest(content) for path, content in sorted(files.items())},
    )
    (project / manifest.FOLDER).mkdir()
    (project / manifest.PATH).write_bytes(noted.encode())
    (project / manifest.BASE).write_bytes(manifest.snapshot(files))


def variables(answers: Answers) -> dict[str, object]:
    """The template's variables, each with its value: nothing is left for Cookiecutter to ask."""
    return answers.template.defaults() | {
        "project_name": answers.name.title,
        "project_slug": answers.name.slug,
        "package": answers.name.package,
        "library_source": answers.source,
        "agents_md": answers.agents_md,
    }


@contextlib.contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """A private folder in `parent` that is gone at the end, whatever happens inside.

    It is locked while it is used.  The lock ends with the process, even with one that was killed:
    that is how `sweep` tells a folder that was left from one that is in use.
    """
    folder, descriptor = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove the staging folders that killed runs of this user left in `parent`."""
    if sys.platform == "win32":  # no locks on folders there, so no telling which are in use
        return
    for folder in parent.glob(f"{STAGING_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            descriptor = lock(folder)
            try:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def move(staged: Path, target: Path) -> None:
    """Put the project in its place by one rename; `TargetTakenError` if another one was faster."""
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno in _TAKEN:
            raise TargetTakenError(target) from error
        raise


def _locked_folder(parent: Path) -> tuple[Path, int | None]:
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=parent))
        except OSError as error:
            raise UnwritableError(parent, error) from error
        if sys.platform == "win32":
            return folder, None
        try:
            descriptor = lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another run swept it before it was locked
        except OSError:
            return folder, None  # a file system without locks, where `sweep` gets none either
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file())


def inside_repository(folder: Path) -> bool:
    """Whether `folder` is in a git work tree (whose `.git` may be a folder or a file)."""
    return any((place / ".git").exists() for place in (folder, *folder.parents))


def start_repository(project: Path) -> None:
    """`git init` in the project; `CliError` when it fails."""
    _run(project, "git", "init", "--quiet")


def install(project: Path, announce: Callable[[str], None], *, show_output: bool = False) -> None:
    """Install the project with its development tools into `.venv`, then run its tests once.

    With uv if there is one, else with venv and pip.  `announce` is told of every command before it
    runs.  Raises `CliError` when one fails, and `InterruptedByUserError` on Ctrl-C; a `.venv` that
    was not finished is removed, the project stays.
    """

    def run(*command: str) -> None:
        announce(shlex.join([Path(command[0]).name, *command[1:]]))
        _run(project, *command, show_output=show_output)

    python = str(project / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    try:
        if uv := shutil.which("uv"):
            run(uv, "sync", "--python", sys.executable)
        else:
            run(sys.executable, "-m", "venv", ".venv")
            pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
            run(*pip, "--upgrade", "pip>=25.1")  # the first that knows --group
            run(*pip, "--editable", ".", "--group", "dev")
    except BaseException as error:
        shutil.rmtree(project / ".venv", ignore_errors=True)
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedByUserError(
                f"interrupted; {project.name} is complete, but not installed"
            ) from None
        raise
    run(python, "-m", "pytest", "--quiet")


def _run(project: Path, *command: str, show_output: bool = False) -> None:
    """Run one command in the project; when it fails, its last lines are the `CliError`."""
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    try:
        done = subprocess.run(  # noqa: S603 - our own words and paths, and no shell
            command,
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if show_output else subprocess.PIPE,
            stderr=sys.stderr if show_output else subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise CliError(f"{command[0]} is not installed") from None
    if done.returncode:
        last = "\n".join((done.stdout or "").strip().splitlines()[-8:])
        raise CliError(f"`{shlex.join(command)}` failed with {done.returncode}\n{last}".rstrip())
