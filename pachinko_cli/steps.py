"""The steps after a project is made: a repository, an installation with a first test run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pachinko_cli.errors import CliError, InterruptedByUserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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


def inside_repository(folder: Path) -> bool:
    """Whether `folder` is in a git work tree (whose `.git` may be a folder or a file)."""
    return any((place / ".git").exists() for place in (folder, *folder.parents))


def git_user_name(folder: Path) -> str:
    """The name that git would write into a commit in `folder`; empty where there is none."""
    try:
        return run(folder, "git", "config", "--get", "user.name").strip()
    except CliError:
        return ""


def start_repository(project: Path) -> None:
    """`git init` in the project; `CliError` when it fails."""
    command = ("git", "init", "--quiet")
    try:
        run(project, *command)
    except CliError as error:
        raise CliError(error.message, hint=_again(project, command)) from None


def install(project: Path, announce: Callable[[str], None], *, show_output: bool = False) -> None:
    """Install the project with its development tools into `.venv`, then run its tests once.

    With uv if there is one, else with venv and pip.  `announce` is told of every command before it
    runs.  Raises `CliError` when one fails, and `InterruptedByUserError` on Ctrl-C; a `.venv` that
    was not finished is removed, the project stays.
    """

    def step(*command: str) -> None:
        announce(shlex.join([Path(command[0]).name, *command[1:]]))
        run(project, *command, show_output=show_output)

    python = str(project / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    if uv := shutil.which("uv"):
        commands: list[tuple[str, ...]] = [(uv, "sync", "--python", sys.executable)]
    else:
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        commands = [
            (sys.executable, "-m", "venv", ".venv"),
            (*pip, "--upgrade", "pip>=25.1"),  # the first that knows --group
            (*pip, "--editable", ".", "--group", "dev"),
        ]
    tests = (python, "-m", "pytest", "--quiet")
    try:
        for command in commands:
            step(*command)
    except BaseException as error:
        shutil.rmtree(project / ".venv", ignore_errors=True)
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedByUserError(
                f"interrupted; {project.name} is complete, but not installed"
            ) from None
        if isinstance(error, CliError):
            raise CliError(error.message, hint=_again(project, *commands)) from None
        raise
    try:
        step(*tests)
    except CliError as error:
        raise CliError(error.message, hint=_again(project, tests)) from None


def _again(project: Path, *commands: tuple[str, ...]) -> str:
    """How to repeat what failed: the project itself is there."""
    folder = shlex.join(["cd", project.name])
    typed = " && ".join([folder, *(shlex.join(command) for command in commands)])
    return f"the project is complete; to repeat this step:  {typed}"


def run(
    folder: Path,
    *command: str,
    show_output: bool = False,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run one command in a folder, and give what it printed.

    When it fails, its last lines are the `CliError`; so is a program that is not there.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    try:
        done = subprocess.run(  # noqa: S603 - our own words and paths, and no shell
            command,
            cwd=folder,
            env=environment | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if show_output else subprocess.PIPE,
            stderr=sys.stderr if show_output else subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise CliError(f"{command[0]} is not installed") from None
    except OSError as error:
        raise CliError(f"cannot run {command[0]}: {error.strerror}") from None
    if done.returncode:
        last = "\n".join((done.stdout or "").strip().splitlines()[-8:])
        raise CliError(f"`{shlex.join(command)}` failed with {done.returncode}\n{last}".rstrip())
    return done.stdout or ""
