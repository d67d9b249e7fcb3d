"""Makes a project of one of our own templates, all of it or nothing.

Cookiecutter renders what it is given as a template, follows symbolic links, reads
`~/.cookiecutterrc` and writes replay files.  So it is given a private copy of the template and a
context that was checked, and is called below the functions that do the rest.  `foreign` does the
same for other people's templates; these two are the only doors to Cookiecutter.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pachinko_cli import manifest
from pachinko_cli.disk import refusals_named
from pachinko_cli.errors import USAGE, CliError, InterruptedByUserError, shown
from pachinko_cli.manifest import Manifest
from pachinko_cli.staging import Project, files_in, move, refuse_marks, staging, sweep, vacant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pachinko_cli.names import ProjectName
    from pachinko_cli.templates import Template

LONGEST_HOLDER = 120


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
    from urllib.request import url2pathname  # noqa: PLC0415 - see above

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

    `holder` and `year` are those of a licence, and nothing without one; `source` is where the
    project gets falcon-pachinko from: where this command came from, by default.
    """

    name: ProjectName
    template: Template
    agents_md: bool = True
    backend: str = "memory"
    licence: str = "none"
    holder: str = ""
    year: str = ""
    ci: str = "none"
    docker: bool = False
    source: str = field(default_factory=library_source)

    def noted(self) -> dict[str, Any]:
        """What the project notes of them, in its manifest and in its pyproject.toml."""
        licensed = {"holder": self.holder, "year": self.year} if self.licence != "none" else {}
        return {
            "name": self.name.title,
            "agents-md": self.agents_md,
            "backend": self.backend,
            "licence": self.licence,
            **licensed,
            "ci": self.ci,
            "docker": self.docker,
        }

    @classmethod
    def of(cls, name: ProjectName, template: Template, noted: Mapping[str, Any]) -> Answers:
        """The answers that a project noted, in which an older version may have had fewer.

        >>> Answers.of(project_name("tea-room"), TEMPLATES["chat"], {"agents-md": False}).docker
        False
        """
        known = ("agents-md", "backend", "licence", "holder", "year", "ci", "docker")
        given = {each.replace("-", "_"): noted[each] for each in known if each in noted}
        return cls(name, template, **given)


def licence_holder(text: str) -> str:
    """Check who is to hold the copyright: a line that can be printed, and stays data.

    Raises:
        CliError: It is empty, too long, or has characters that nobody sees (exit 2).
    """
    holder = " ".join(text.split(" ")).strip()
    if not holder or len(holder) > LONGEST_HOLDER or not holder.isprintable():
        raise CliError(
            f"{shown(text)} cannot stand in a licence as its holder",
            hint=f"write a name on one line, of at most {LONGEST_HOLDER} characters: "
            "--holder 'Ann Teasdale'",
            exit_code=USAGE,
        )
    return holder


def this_year() -> str:
    """The year that a licence of today has, as Cookiecutter would write it."""
    return str(datetime.now(UTC).year)


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
        what = f"{target.name} is complete" if target.exists() else "nothing was made"
        raise InterruptedByUserError(f"interrupted; {what}") from None
    return Project(target, staged.files)


def preview(answers: Answers, parent: Path) -> Project:
    """What `create` would make, with nothing written in `parent`; it raises the same errors."""
    target = vacant(answers.name, parent)
    elsewhere = Path(tempfile.gettempdir())
    with refusals_named(elsewhere), staging(elsewhere) as folder:
        return Project(target, render(answers, folder).files)


def render(answers: Answers, folder: Path) -> Project:
    """Render the template into a folder that nobody else uses."""
    # Imported here, since it costs more than everything else together.  It comes without types.
    from cookiecutter.generate import (  # type: ignore[import-untyped]  # noqa: PLC0415 - see above
        generate_files,
    )

    refuse_marks(folder)
    source, output = folder / "template", folder / "project"
    for file in answers.template.files():
        copy = source / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(answers.template.path / file, copy)
    output.mkdir()
    context = {"cookiecutter": variables(answers)}
    path = Path(generate_files(source, context, output, accept_hooks=False))
    record(path, answers)
    return Project(path, files_in(path))


def record(project: Path, answers: Answers) -> None:
    """Note in the project what it was made from, for the commands that change it later."""
    files = {file.as_posix(): (project / file).read_bytes() for file in files_in(project)}
    noted = Manifest(
        template=answers.template.name,
        template_version=answers.template.defaults()["_template_version"],
        answers=answers.noted(),
        files={path: manifest.digest(content) for path, content in sorted(files.items())},
    )
    # Without a workflow of GitHub's, the template made the folder already: see `__ci_folder`.
    (project / manifest.FOLDER).mkdir(exist_ok=True)
    (project / manifest.PATH).write_bytes(noted.encode())
    (project / manifest.BASE).write_bytes(manifest.snapshot(files))


def variables(answers: Answers) -> dict[str, object]:
    """The template's variables, each with its value: nothing is left for Cookiecutter to ask."""
    from cookiecutter.prompt import (  # type: ignore[import-untyped]  # noqa: PLC0415 - see render
        render_variable,
    )
    from cookiecutter.utils import (  # type: ignore[import-untyped]  # noqa: PLC0415 - see render
        create_env_with_context,
    )

    values = answers.template.defaults() | {
        "project_name": answers.name.title,
        "project_slug": answers.name.slug,
        "package": answers.name.package,
        "library_source": answers.source,
        "agents_md": answers.agents_md,
        "backend": answers.backend,
        "licence": answers.licence,
        "holder": answers.holder,
        "year": answers.year,
        "ci": answers.ci,
        "docker": answers.docker,
    }
    # What follows from the others; these texts are the template's own.
    environment = create_env_with_context({"cookiecutter": values})
    derived = {key: text for key, text in values.items() if key.startswith("__")}
    return values | {
        key: render_variable(environment, text, values) for key, text in derived.items()
    }
