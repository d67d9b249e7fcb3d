"""The templates: where they are, and what of them goes into a project."""

import json
import tomllib
from pathlib import Path

import pytest

from pachinko_cli.errors import CliError
from pachinko_cli.templates import BACKENDS, OPTIONS, TEMPLATES, Template, choice

CHECKOUT = Path(__file__).parents[2]
# Both templates have these, word for word: what one learns in one is true in the other.
SHARED = (
    ".gitignore",
    "tests/test_health.py",
    "{% if cookiecutter.backend != 'memory' %}compose.yaml{% endif %}",
    "{% if cookiecutter.ci == 'gitlab' %}.gitlab-ci.yml{% endif %}",
    "{% if cookiecutter.docker %}.dockerignore{% endif %}",
    "{% if cookiecutter.docker %}Dockerfile{% endif %}",
    "{% if cookiecutter.licence != 'none' %}LICENSE{% endif %}",
    "{{cookiecutter.__ci_folder}}/{% if cookiecutter.ci == 'github' %}ci.yml{% endif %}",
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


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_plain_cookiecutter_offers_the_same_choices(template):
    """The template's own file and the command line know the same values, the default first."""
    defaults = json.loads((template.path / "cookiecutter.json").read_text())

    for option in ("backend", "licence", "ci"):
        assert tuple(defaults[option]) == OPTIONS[option]
    for option in ("agents-md", "docker"):
        assert defaults[option.replace("-", "_")] is OPTIONS[option][0]


def test_every_backend_is_described():
    """Whoever is asked which one, reads what each is for."""
    assert tuple(BACKENDS) == OPTIONS["backend"]


@pytest.mark.parametrize(
    ("option", "typed", "meant"),
    [
        ("licence", "apache-2", "Apache-2.0"),
        ("ci", "githb", "github"),
        ("backend", "natss", "nats"),
    ],
)
def test_a_mistyped_choice_is_answered_with_the_nearest(option, typed, meant):
    """What was probably meant, then all there is; it is a usage error."""
    with pytest.raises(CliError) as refused:
        choice(option, typed)

    assert refused.value.hint.startswith(f"did you mean {meant}? --{option} takes ")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("value", OPTIONS["licence"])
def test_capitals_do_not_matter_to_a_choice(value):
    """Nobody has to remember how SPDX writes it."""
    assert choice("licence", str(value).upper()) == value
