"""`pachinko info`: what a report of a bug should say."""

import json
import platform
from importlib import metadata

import pytest


def test_a_project_is_described(pachinko, project):
    """Where it is, what it was made from, what was added and edited since; beside the versions."""
    pachinko("add-resource", "notes", cwd=project)
    (project / "README.md").write_text("# Tea\n")
    done = pachinko("info", "--json", cwd=project / "tests")

    document = json.loads(done.stdout)
    about = document["project"]
    (notes,) = about.pop("added")
    assert done.returncode == 0
    assert document["python"].startswith(platform.python_version())
    assert document["versions"]["falcon"] == metadata.version("falcon")
    assert (notes["kind"], notes["name"]) == ("resource", "notes")
    assert notes["files"] == ["tea_room/resources/notes.py", "tests/test_notes.py"]
    assert about["answers"].pop("name") == "Tea Room"
    del about["answers"]
    assert about == {
        "root": str(project),
        "package": "tea_room",
        "app": "tea_room.asgi:app",
        "template": "chat",
        "template_version": metadata.version("falcon-pachinko"),
        "edited": ["README.md", "tea_room/routes.py"],
        "deleted": [],
    }


@pytest.mark.quick
def test_people_get_a_name_and_a_value_a_line(pachinko, project):
    """To be copied into a report; with the edited files for those who ask."""
    (project / "README.md").write_text("# Tea\n")
    done = pachinko("info", "--verbose", cwd=project)

    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line)
    assert told["falcon-pachinko"] == metadata.version("falcon-pachinko")
    assert told["project"] == str(project)
    assert told["app"] == "tea_room.asgi:app"
    assert told["template"].startswith("chat ")
    assert (told["added"], told["edited"]) == ("nothing", "README.md")


def test_outside_a_project_there_are_versions_still(pachinko):
    """A bug may come before any project; exit 0."""
    done = pachinko("info")
    document = json.loads(pachinko("info", "--json").stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nNot inside a project\n")
    assert document["project"] is None


def test_a_broken_project_is_an_error_behind_the_versions(pachinko, project):
    """Nothing is kept back because of it, and the exit code says so."""
    (project / ".pachinko/manifest.json").write_text("{")
    done = pachinko("info", cwd=project)

    assert done.returncode == 1
    assert "falcon-pachinko" in done.stdout
    assert done.stderr.startswith("error: cannot read .pachinko/manifest.json")


def test_an_app_that_does_not_import_does_not_matter(pachinko, project):
    """The app is not looked at."""
    (project / "tea_room/asgi.py").write_text("1 / 0\n")
    done = pachinko("info", "-q", cwd=project)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
