"""The templates: where they are, and what of them goes into a project."""

import json
import tomllib
from pathlib import Path

import pytest

from pachinko_cli.templates import TEMPLATES, Template

CHECKOUT = Path(__file__).parents[2]
# Both templates have these, word for word: what one learns in one is true in the other.
SHARED = (
    ".gitignore",
    "tests/test_health.py",
    "{{cookiecutter.package}}/app.py",
    "{{cookiecutter.package}}/asgi.py",
    "{{cookiecutter.package}}/resources/__init__.py",
    "{{cookiecutter.package}}/resources/health.py",
)


@pytest.fixture
def template(tmp_path):
    """Give a template in a folder of its own, with one file."""
    (tmp_path / "kept.py").write_text("")
    return Template("mine", "", str(tmp_path))


def test_in_a_checkout_the_templates_are_beside_the_code():
    """What one edits in a checkout is what the next project is made from."""
    assert TEMPLATES["chat"].path == CHECKOUT / "templates/project"


def test_what_python_left_behind_is_no_part_of_a_template(template, tmp_path):
    """Pip compiles template files that are valid Python; no project inherits the result."""
    (tmp_path / "inner/__pycache__").mkdir(parents=True)
    (tmp_path / "inner/__pycache__/kept.cpython-311.pyc").write_bytes(b"\\0")

    assert list(template.files()) == [Path("kept.py")]


def test_a_symbolic_link_is_no_part_of_a_template(template, tmp_path, tmp_path_factory):
    """Neither a linked file nor what is in a linked folder is read."""
    secret = tmp_path_factory.mktemp("elsewhere")
    (secret / "secret.txt").write_text("secret")
    (tmp_path / "file").symlink_to(secret / "secret.txt")
    (tmp_path / "folder").symlink_to(secret)

    assert list(template.files()) == [Path("kept.py")]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_our_templates_have_no_hooks_and_no_links(template):
    """Making a project runs no code of the template's."""
    entries = list(template.path.iterdir())

    assert len(entries) == 2
    assert {"cookiecutter.json"} < {entry.name for entry in entries}
    assert not [path for path in template.path.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_has_the_library_s_version(template):
    """A project that plain Cookiecutter makes asks for a library that fits it."""
    library = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    defaults = json.loads((template.path / "cookiecutter.json").read_text())

    assert defaults["_template_version"] == library["version"]
    assert defaults["library_source"] == f">={library['version']}"


@pytest.mark.parametrize("file", SHARED)
def test_what_the_templates_share_is_the_same(file):
    """A correction in one of the templates is made in the other as well."""
    texts = {
        (template.path / "{{cookiecutter.project_slug}}" / file).read_text()
        for template in TEMPLATES.values()
    }

    assert len(texts) == 1
