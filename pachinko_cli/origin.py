"""What a project began from: the template, the answers, and the files as they were.

`pachinko new` noted it in the project.  It came with a repository, from anybody, so that all of it
is checked before it is used.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pachinko_cli import changes, manifest, scaffold, versions
from pachinko_cli.errors import CliError, shown
from pachinko_cli.manifest import Manifest
from pachinko_cli.names import project_name
from pachinko_cli.templates import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pachinko_cli.project import Project
    from pachinko_cli.templates import Template

SETTINGS = "pyproject.toml"

_VERSION = re.compile(r"[0-9][\w.+-]{0,39}", re.ASCII)
_REQUIREMENT = re.compile(r"falcon-pachinko(?:\[[^\]]*\])?(.*)", re.DOTALL)


@dataclass(frozen=True)
class Origin:
    """What a project began from; `answers` are what it is made again with, from `template`."""

    noted: Manifest
    files: Mapping[str, bytes]
    template: Template
    answers: scaffold.Answers


def of(project: Project) -> Origin:
    """Read what a project began from.

    Raises:
        CliError: Nothing tells, or it cannot be read; or the template is not here, or older than
            the project; or its package has another name since.
    """
    noted = _noted(project.root)
    template = _template(noted)
    files = _files(project.root, noted)
    answers = _answers(noted, template, files)
    _refuse_another_package(project, answers)
    return Origin(noted, files, template, answers)


def _noted(root: Path) -> Manifest:
    noted = manifest.decode(changes.read(root, manifest.PATH))
    if not noted.template:
        raise _unknown(root)
    return noted


def _files(root: Path, noted: Manifest) -> dict[str, bytes]:
    """The files of the template, as they were when the project was made or last updated."""
    packed = changes.read(root, manifest.BASE)
    if packed is None:
        raise _unknown(root)
    files = manifest.unpack(packed)
    if {path: manifest.digest(content) for path, content in files.items()} != noted.files:
        raise CliError(
            f"{manifest.BASE} and {manifest.PATH} are not of the same update; nothing was changed",
            hint="take both from one commit of your repository",
        )
    return files


def _unknown(root: Path) -> CliError:
    return CliError(
        f"nothing in {root / manifest.FOLDER} tells which template the project began from",
        hint="if it was made by `pachinko new`, take that folder back from your repository; "
        "nothing was changed",
    )


def _template(noted: Manifest) -> Template:
    """The template that the project was made from, if there is one that is not older."""
    template = TEMPLATES.get(noted.template)
    if template is None:
        raise CliError(
            f"the project was made from {shown(noted.template, 80)}, which is no template of this "
            "pachinko; nothing was changed",
            hint=f"`pachinko update` knows these: {', '.join(TEMPLATES)}",
        )
    if not _VERSION.fullmatch(noted.template_version):
        raise CliError(
            f"{manifest.PATH} has the template_version {shown(noted.template_version)}",
            hint="take the file from your repository; nothing was changed",
        )
    here = template.defaults()["_template_version"]
    if versions.is_older(here, noted.template_version):
        raise CliError(
            f"the project is of template {noted.template} {noted.template_version}, and this "
            f"pachinko has {here}; nothing was changed",
            hint="type:  pip install --upgrade 'falcon-pachinko[cli]'",
        )
    return template


def _answers(noted: Manifest, template: Template, base: Mapping[str, bytes]) -> scaffold.Answers:
    """What the project was made with, checked again: it may have been edited by hand."""
    try:
        name = project_name(_checked(noted.answers, "name", ""))
        answers = scaffold.Answers.of(name, template, noted.answers)
        for key, value in answers.noted().items():
            _checked({key: value}, key, template.defaults().get(key.replace("-", "_"), ""))
        if answers.holder:
            scaffold.licence_holder(answers.holder)
        if answers.year and not (answers.year.isascii() and answers.year.isdigit()):
            raise ValueError(f"year is {shown(answers.year)}")
    except (CliError, ValueError) as error:
        raise CliError(
            f"cannot make the project again from the answers in {manifest.PATH}: {error}",
            hint="put them right there, or take the file from your repository",
        ) from error
    return replace(answers, source=_source(noted, template, base))


def _checked(answers: Mapping[str, Any], key: str, default: Any) -> Any:
    """An answer, if it is of the kind that the template's default is, or one of its choices."""
    value = answers.get(key)
    fits = value in default if isinstance(default, list) else isinstance(value, type(default))
    if not fits:
        raise ValueError(f"{key} is {shown(str(value))}")
    return value


def _source(noted: Manifest, template: Template, files: Mapping[str, bytes]) -> str:
    """Where the project gets falcon-pachinko from: another version only with a newer template."""
    here = scaffold.library_source()
    try:
        settings = tomllib.loads(files[SETTINGS].decode())
        needed = map(_REQUIREMENT.fullmatch, settings["project"]["dependencies"])
        there: str = next(found[1] for found in needed if found)
    except (KeyError, TypeError, ValueError, StopIteration):
        return here
    newer = versions.is_older(noted.template_version, template.defaults()["_template_version"])
    return moved(there, here, versions.of(versions.OURS) or "") if newer else there


def moved(there: str, here: str, version: str) -> str:
    """Where a project gets the library from, when its template comes from a newer version of it.

    `there` is where it did, `here` where this command came from; both as the end of a requirement.
    A folder stays, whoever types the command.  A version rises to this one, and the commit of a
    repository to that of this command, if it came from the same repository.

    >>> moved(">=0.1.0", " @ file:///srv/ann/pachinko", "0.2.0")
    '>=0.2.0'
    >>> moved(" @ git+https://example.org/p@aaa", " @ git+https://example.org/p@bbb", "0.2.0")
    ' @ git+https://example.org/p@bbb'
    """
    if there.startswith(" @ git+") and there.rpartition("@")[0] == here.rpartition("@")[0]:
        return here
    return there if there.startswith(" @ ") else f">={version}"


def _refuse_another_package(project: Project, answers: scaffold.Answers) -> None:
    if project.package != answers.name.package:
        raise CliError(
            f"the package is called {project.package}, and was made as {answers.name.package}; "
            "an update would not find its files",
            hint=f"type `pachinko new {answers.name.slug}` in another folder, and compare by hand",
        )
