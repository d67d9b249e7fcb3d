"""How a command finds its project."""

from pathlib import Path

import pytest

from pachinko_cli.errors import CliError
from pachinko_cli.project import OutsideProjectError, Project, checked_app, find, is_own_source

TABLE = '[tool.pachinko]\npackage = "tea_room"\napp = "tea_room.main:application"\n'


@pytest.fixture
def root(tmp_path):
    """A folder that is a project."""
    (tmp_path / "pyproject.toml").write_text(TABLE)
    return tmp_path.resolve()


def test_the_folder_with_the_table_is_the_project(root):
    """Root, package and app come from its pyproject.toml."""
    assert find(root) == Project(root, "tea_room", "tea_room.main:application")


def test_a_folder_inside_belongs_to_the_project(root):
    """The walk goes upwards, past a pyproject.toml of something else."""
    inner = root / "tea_room" / "static"
    inner.mkdir(parents=True)
    (root / "tea_room" / "pyproject.toml").write_text('[project]\nname = "other"\n')

    assert find(inner).root == root


def test_the_nearest_project_wins(root):
    """A project inside a project is itself."""
    inner = root / "coffee"
    inner.mkdir()
    (inner / "pyproject.toml").write_text('[tool.pachinko]\npackage = "coffee"\n')

    assert find(inner) == Project(inner, "coffee", "coffee.asgi:app")


def test_outside_is_an_error_of_its_own(tmp_path):
    """Exit code 4, and the way in."""
    with pytest.raises(OutsideProjectError, match="not inside a project") as refused:
        find(tmp_path)

    assert refused.value.exit_code == 4
    assert "pachinko new" in refused.value.hint


@pytest.mark.parametrize("content", [b"[tool.pachinko\n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path, content):
    """A broken pyproject.toml is told, not passed by."""
    file = tmp_path / "pyproject.toml"
    file.write_bytes(content)

    with pytest.raises(CliError, match="cannot read") as refused:
        find(tmp_path)

    assert str(file) in refused.value.message


def test_a_byte_order_mark_does_no_harm(root):
    """Some editors write one."""
    file = root / "pyproject.toml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())

    assert find(root).package == "tea_room"


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("", "package"),
        ("package = 3", "package"),
        ('package = "tea-room"', "package"),
        ('package = "tea_room"\napp = 3', "app"),
        ('package = "tea_room"\napp = "tea_room.asgi"', "app"),
    ],
)
def test_a_table_that_makes_no_sense_is_told(tmp_path, table, key):
    """The message names the key and the file, the hint a value that works."""
    file = tmp_path / "pyproject.toml"
    file.write_text(f"[tool.pachinko]\n{table}\n")

    with pytest.raises(CliError) as refused:
        find(tmp_path)

    assert f"[tool.pachinko] {key} in {file}" in refused.value.message
    assert "tea_room" in refused.value.hint


@pytest.mark.parametrize("app", ["app:app", "tea_room.asgi:app", "tea_room.web.asgi:sites.app"])
def test_an_app_is_a_module_and_a_name_in_it(app):
    """As uvicorn writes it."""
    assert checked_app(app, "APP") == app


@pytest.mark.parametrize(
    "app",
    ["app", "app:", ":app", "a b:app", "tea-room:app", "a:b:c", "a..b:c", "a:b()", "1a:b", ""],
)
def test_an_app_that_reads_otherwise_is_refused(app):
    """Exit code 2, with the place that is wrong."""
    with pytest.raises(CliError, match=r"^APP is") as refused:
        checked_app(app, "APP")

    assert refused.value.exit_code == 2


@pytest.mark.parametrize("file", ["app.py", "tea_room/app.py", "tests/test_app.py"])
def test_python_files_below_the_root_are_the_projects_own(file):
    """However deep."""
    assert is_own_source(Path("/.work/tea"), f"/.work/tea/{file}")


@pytest.mark.parametrize(
    "file",
    [
        "/.work/tea/page.html",
        "/.work/tea/__pycache__/app.py",
        "/.work/tea/.venv/lib/app.py",
        "/.work/tea/env/lib/python3.12/site-packages/falcon/app.py",
        "/.work/tea/tea_room/.#app.py",
        "/.work/other/app.py",
        "<frozen importlib._bootstrap>",
    ],
)
def test_everything_else_is_not(file):
    """Caches, environments, editors' files, other projects."""
    assert not is_own_source(Path("/.work/tea"), file)
