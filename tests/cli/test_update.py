"""`pachinko update` for somebody whose project is older than the template.

The newer template is in a copy of the command, which is what runs then.
"""

import contextlib
import dataclasses
import json
import random
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from search_path import search_path

from pachinko_cli import changes, scaffold
from pachinko_cli.names import project_name
from pachinko_cli.templates import TEMPLATES

CHECKOUT = Path(__file__).parents[2]
PACKAGE = "{{cookiecutter.package}}"
# Wherever one edits, the other end of the file is far enough for a merge.
FIRST, LAST = "# The template's.\n", "# Mine.\n"


class Newer:
    """A copy of the command with a template of its own; paths are as in the template's folder."""

    def __init__(self, root):
        self.root = root
        for folder in ("pachinko_cli", "templates"):
            shutil.copytree(CHECKOUT / folder, root / folder)
        self.release("0.2.0")

    def release(self, version):
        """Give the templates a version."""
        for folder in ("project", "minimal"):
            file = self.root / "templates" / folder / "cookiecutter.json"
            file.write_text(
                json.dumps(json.loads(file.read_text()) | {"_template_version": version})
            )

    def file(self, path):
        """Where the template has a file."""
        return self.root / "templates/project/{{cookiecutter.project_slug}}" / path

    def begin(self, path, text=FIRST):
        """Put a text before everything in a file."""
        self.file(path).write_text(text + self.file(path).read_text())

    def replace(self, path, before, after):
        """Write something else for what is there once."""
        text = self.file(path).read_text()
        assert text.count(before) == 1
        self.file(path).write_text(text.replace(before, after))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Make a chat that is called Tea Room, with some answers, and give its folder."""

    def make(folder=None, **answers):
        folder = folder or tmp_path_factory.mktemp("made")
        name = project_name("tea-room")
        return scaffold.create(scaffold.Answers(name, TEMPLATES["chat"], **answers), folder).path

    return make


@pytest.fixture
def project(made, tmp_path):
    """Give a project that is the test's own."""
    return made(tmp_path)


@pytest.fixture
def newer(tmp_path):
    """Give a command with template 0.2.0, in which only that number is new."""
    return Newer(tmp_path / "newer")


@pytest.fixture
def update(pachinko, project, newer):
    """Run the newer `pachinko update` in the project."""

    def run(*arguments, command="update", cwd=project, **variables):
        return pachinko(
            command, *arguments, cwd=cwd, PYTHONPATH=search_path(newer.root), **variables
        )

    return run


@pytest.fixture
def git(project, environment):
    """Run git in the project."""

    def run(*arguments):
        who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
        subprocess.run(
            ["git", *who, *arguments],
            cwd=project,
            env=environment,
            check=True,
            capture_output=True,
            timeout=60,
        )

    return run


@pytest.fixture
def committed(git):
    """Put all of the project into a repository of its own."""
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "-m", "Begin")


def end(file, text=LAST):
    """Put a text behind everything in a file."""
    file.write_text(file.read_text() + text)


def statuses(ran):
    """What was said of each file, without those of pachinko itself and the settings."""
    found = re.findall(r"^ {0,8}(\w+)  (\S+)$", ran.stdout, re.MULTILINE)
    ours = (".pachinko/", "pyproject.toml")
    return {path: status for status, path in found if not path.startswith(ours)}


@pytest.mark.quick
def test_a_file_that_nobody_edited_is_replaced(update, project, newer):
    """One line a file, what the project is now, and what to do next."""
    newer.begin(f"{PACKAGE}/app.py")
    ran = update()

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == (
        "   modify  pyproject.toml\n"
        "   modify  tea_room/app.py\n"
        "   modify  .pachinko/manifest.json\n"
        "   modify  .pachinko/base.zip\n"
        "Updated to template chat 0.2.0, from 0.1.0\n"
        "\n"
        "Next:\n"
        "  python -m pytest\n"
    )
    assert (project / "tea_room/app.py").read_text().startswith(FIRST)


def test_what_comes_of_it_is_what_the_newer_template_makes(update, project, newer, contents):
    """To the byte, where nothing was edited: the manifest and the archive too."""
    newer.begin(f"{PACKAGE}/app.py")
    newer.file(f"{PACKAGE}/extra").mkdir()
    newer.file(f"{PACKAGE}/extra/greeting.py").write_text('HELLO = "{{ cookiecutter.package }}"\n')
    newer.file("tests/test_page.py").unlink()
    first, second = update(), update()
    update("tea-room", "--no-git", "-y", "-q", command="new", cwd=newer.root)

    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stdout == "Nothing to do: this is template chat 0.2.0\n"
    assert contents(project) == contents(newer.root / "tea-room")


def test_an_edited_file_is_merged(update, project, newer):
    """What the user wrote and what the template has now are both in it."""
    newer.begin(f"{PACKAGE}/app.py")
    end(project / "tea_room/app.py")
    ran = update()
    text = (project / "tea_room/app.py").read_text()

    assert ran.returncode == 0
    assert statuses(ran) == {"tea_room/app.py": "merge"}
    assert text.startswith(FIRST)
    assert text.endswith(LAST)


def test_an_edited_file_that_the_template_left_alone_is_not_mentioned(update, project, newer):
    """There is nothing to decide about it."""
    newer.begin(f"{PACKAGE}/app.py")
    end(project / "tea_room/config.py")
    before = (project / "tea_room/config.py").read_bytes()
    ran = update()

    assert statuses(ran) == {"tea_room/app.py": "modify"}
    assert (project / "tea_room/config.py").read_bytes() == before


def test_an_edit_that_the_template_makes_too_is_no_conflict(update, project, newer):
    """Somebody took it over by hand already."""
    newer.begin(f"{PACKAGE}/app.py")
    file = project / "tea_room/app.py"
    file.write_text(FIRST + file.read_text())
    ran = update()

    assert (ran.returncode, statuses(ran)) == (0, {})


def test_a_file_that_the_template_has_no_more_goes_unless_it_was_edited(update, project, newer):
    """An edited one is the user's own from then on, and said."""
    newer.file("tests/test_page.py").unlink()
    newer.file("tests/test_health.py").unlink()
    end(project / "tests/test_health.py")
    ran = update()

    assert ran.returncode == 0
    assert "   remove  tests/test_page.py\n" in ran.stdout
    assert (
        "     keep  tests/test_health.py: the template has it no more, but you edited it\n"
    ) in ran.stdout
    assert not (project / "tests/test_page.py").exists()
    assert (project / "tests/test_health.py").exists()


def test_a_file_that_was_deleted_stays_deleted(update, project, newer):
    """It is said where the template has changed it; `--restore` brings it back, then or later."""
    newer.begin("tests/test_page.py")
    newer.begin("tests/test_health.py")
    for name in ("test_page", "test_health", "test_config"):
        (project / f"tests/{name}.py").unlink()
    ran = update("--restore", "tests/test_health.py")
    later = update("--restore", "tests/test_config.py")

    assert (ran.returncode, later.returncode) == (0, 0)
    assert (
        "     keep  tests/test_page.py: "
        "you deleted it; --restore tests/test_page.py brings it back\n"
    ) in ran.stdout
    assert "   create  tests/test_health.py\n" in ran.stdout
    assert "   create  tests/test_config.py\n" in later.stdout
    assert not (project / "tests/test_page.py").exists()
    assert (project / "tests/test_health.py").read_text().startswith(FIRST)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tests/test_pag.py", "the template has no such file\n  did you mean tests/test_page.py?"),
        ("../secret", "the template has no such file"),
        ("README.md", "the file is there, and was not touched"),
    ],
)
def test_only_what_was_deleted_can_be_restored(update, project, contents, name, why):
    """Exit 2, and nothing is written."""
    before = contents(project)
    ran = update("--restore", name)

    assert ran.returncode == 2
    assert why in ran.stderr
    assert contents(project) == before


def conflict(newer, project):
    """Edit the beginning of one file on both sides."""
    newer.begin(f"{PACKAGE}/app.py")
    file = project / "tea_room/app.py"
    file.write_text(LAST + file.read_text())
    return file


def test_where_both_changed_the_same_lines_both_are_there(update, project, newer):
    """Between markers that say whose they are; what to do is said at the end, exit 3."""
    file = conflict(newer, project)
    newer.begin("tests/test_page.py")
    ran = update()

    assert ran.returncode == 3
    assert statuses(ran) == {"tea_room/app.py": "conflict", "tests/test_page.py": "modify"}
    assert ran.stderr == (
        "warning: tea_room/app.py has a conflict in line 1\n"
        "  keep what is right between <<<<<<< yours and >>>>>>> template 0.2.0, and delete those "
        "lines\n"
    )
    assert file.read_text().startswith(
        f"<<<<<<< yours\n{LAST}=======\n{FIRST}>>>>>>> template 0.2.0\n"
    )


def test_the_next_update_waits_until_the_conflict_is_resolved(update, project, newer, contents):
    """And then begins from the version that was merged: the same conflict does not come again."""
    file = conflict(newer, project)
    text = file.read_text()
    update()
    before = contents(project)
    refused = update()
    file.write_text(FIRST + text)
    nothing = update()
    newer.begin("tests/test_page.py")
    newer.release("0.3.0")
    later = update()

    assert refused.returncode == 1
    assert refused.stderr == (
        "error: the last update is not finished: tea_room/app.py; nothing was changed\n"
        "  keep what is right between <<<<<<< yours and >>>>>>> template, and delete those lines\n"
    )
    assert before[".pachinko/manifest.json"] != contents(project)[".pachinko/manifest.json"]
    assert nothing.stdout == "Nothing to do: this is template chat 0.2.0\n"
    assert (later.returncode, statuses(later)) == (0, {"tests/test_page.py": "modify"})
    assert file.read_text() == FIRST + text


def test_a_conflict_in_the_settings_is_not_taken_for_something_else(update, project, newer):
    """No command can read a pyproject.toml with markers; the next update says what it is."""
    newer.replace("pyproject.toml", 'version = "0.1.0"\n', 'version = "0.2.0"\n')
    file = project / "pyproject.toml"
    file.write_text(file.read_text().replace('\nversion = "0.1.0"\n', '\nversion = "7"\n'))
    first, second = update(), update(cwd=project / "tests")

    assert (first.returncode, second.returncode) == (3, 1)
    assert "error: the last update is not finished: pyproject.toml" in second.stderr


def test_a_dependency_right_beside_one_of_the_template_is_no_conflict(update, project, newer):
    """Each line of a list of settings stands for itself."""
    newer.replace("pyproject.toml", '    "msgspec>=0.20",\n', '    "msgspec>=0.21",\n')
    file = project / "pyproject.toml"
    before, after = '    "msgspec>=0.20",\n', '    "msgspec>=0.20",\n    "mypkg>=1",\n'
    text = file.read_text().replace(before, after)
    file.write_text(text.replace('template = "chat"\n', 'template = "chat"\nmine = 1\n'))
    ran = update()
    settings = tomllib.loads(file.read_text())

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "    merge  pyproject.toml\n" in ran.stdout
    assert {"msgspec>=0.21", "mypkg>=1"} < set(settings["project"]["dependencies"])
    assert settings["tool"]["pachinko"]["mine"] == 1
    assert settings["tool"]["pachinko"]["template-version"] == "0.2.0"


def test_a_merge_that_cannot_be_read_is_not_made(update, project, newer):
    """Each side is fine alone: the same key twice, far apart.  The template's goes beside it."""
    newer.begin("pyproject.toml", '[tool.mine]\nkey = "the template\'s"\n\n')
    end(project / "pyproject.toml", '\n[tool.mine]\nkey = "mine"\n')
    before = (project / "pyproject.toml").read_bytes()
    ran = update()

    assert ran.returncode == 3
    assert (
        "warning: pyproject.toml was not merged: the result could not be read, so it was kept as it"
        " is\n  take what you need from pyproject.toml.new, then delete that\n"
    ) in ran.stderr
    assert (project / "pyproject.toml").read_bytes() == before
    assert (project / "pyproject.toml.new").read_text().startswith("[tool.mine]\n")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("no git", "was not merged: git is not installed"),
        ("binary", "is no text"),
        ("own", "was there before the template had it"),
    ],
)
def test_what_cannot_be_merged_is_put_beside_it(
    update, project, newer, tmp_path, how, why, contents
):
    """The user's file stays as it is, exit 3; the next update waits until the other is gone."""
    path = "tea_room/app.py" if how != "own" else "tea_room/presence.py"
    file = project / path
    if how == "own":
        file.write_text("mine\n")
        newer.file(f"{PACKAGE}/presence.py").write_text("the template's\n")
    else:
        newer.begin(f"{PACKAGE}/app.py")
        end(file, "\0" if how == "binary" else LAST)
    before = file.read_bytes()
    ran = update(**{"PATH": str(tmp_path)} if how == "no git" else {})
    there = contents(project)
    refused = update()
    (project / f"{path}.new").unlink()
    again = update()

    assert ran.returncode == 3
    assert f"warning: {path} {why}, so it was kept as it is\n" in ran.stderr
    assert f" conflict  {path}\n   create  {path}.new\n" in ran.stdout
    assert there[path] == file.read_bytes() == before
    assert b"he template's" in there[f"{path}.new"]
    assert (refused.returncode, again.returncode) == (1, 0)
    assert refused.stderr == (
        f"error: the last update is not finished: {path}.new; nothing was changed\n"
        f"  take what you need from {path}.new, then delete it\n"
    )


TESTS = ("tests/test_notes.py", "tests/test_quiz.py", "tests/test_pulse.py")


@pytest.mark.parametrize("hard", [False, True])
def test_what_was_added_survives_and_can_still_be_removed(
    pachinko, update, project, newer, contents, environment, *, hard
):
    """The lines in the tables too, even where the template adds its own in the same place."""
    for arguments in (
        ["add-resource", "notes"],
        ["add-worker", "pulse"],
        ["add-resource", "quiz", "--kind", "reply"],
    ):
        assert pachinko(*arguments, cwd=project).returncode == 0
    if hard:
        last = '    ("/ws/chat/{room_name}", ChatRoom),\n'
        newer.replace(
            f"{PACKAGE}/routes.py", last, f'{last}    ("/ws/other/{{room_name}}", ChatRoom),\n'
        )
    newer.begin(f"{PACKAGE}/routes.py")
    newer.begin(f"{PACKAGE}/workers/__init__.py")
    ran = update()
    checked = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *TESTS],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    routes = (project / "tea_room/routes.py").read_text()
    removed = [
        update(kind, name, command="remove").returncode
        for kind, name in (("resource", "notes"), ("resource", "quiz"), ("worker", "pulse"))
    ]
    update("tea-room", "--no-git", "-y", "-q", command="new", cwd=newer.root)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert statuses(ran) == {
        "tea_room/routes.py": "merge",
        "tea_room/workers/__init__.py": "merge",
    }
    assert routes.startswith(FIRST)
    assert [name in routes for name in (", Notes)", ", Quiz)", '"/ws/other/')] == [1, 1, hard]
    assert checked.returncode == 0, checked.stdout
    for left in project.rglob("__pycache__"):
        shutil.rmtree(left)
    assert removed == [0, 0, 0]
    shutil.rmtree(project / ".pytest_cache", ignore_errors=True)
    assert contents(project) == contents(newer.root / "tea-room")


def test_a_project_with_the_line_ends_of_windows_keeps_them(update, project, newer):
    """Git made them at a checkout: that is no edit, and no conflict."""
    for file in project.rglob("*"):
        if file.is_file() and ".pachinko" not in file.parts:
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    newer.begin(f"{PACKAGE}/app.py")
    newer.begin("tests/test_page.py")
    edited = project / "tea_room/app.py"
    edited.write_bytes(edited.read_bytes() + b"# Mine.\r\n")
    ran = update()

    assert (ran.returncode, ran.stderr) == (0, "")
    assert statuses(ran) == {"tea_room/app.py": "merge", "tests/test_page.py": "modify"}
    for name in ("tea_room/app.py", "tests/test_page.py", "pyproject.toml"):
        content = (project / name).read_bytes()
        assert content.count(b"\n") == content.count(b"\r\n")
    assert edited.read_bytes().startswith(b"# The template's.\r\n")


def test_the_mode_and_the_byte_order_mark_stay(update, project, newer):
    """For a file that is merged, and for one that is replaced."""
    newer.begin(f"{PACKAGE}/app.py")
    newer.begin("tests/test_page.py")
    merged, replaced = project / "tea_room/app.py", project / "tests/test_page.py"
    merged.write_bytes(b"\xef\xbb\xbf" + merged.read_bytes() + b"# Mine.\n")
    merged.chmod(0o755)
    replaced.chmod(0o640)
    ran = update()

    assert ran.returncode == 0
    assert merged.read_bytes().startswith(b"\xef\xbb\xbf# The template's.\n")
    assert [oct(file.stat().st_mode & 0o777) for file in (merged, replaced)] == ["0o755", "0o640"]


def test_no_symbolic_link_is_followed(update, project, newer, tmp_path, contents):
    """A linked file and what is in a linked folder are kept and said, exit 3."""
    newer.begin(f"{PACKAGE}/app.py")
    newer.begin(f"{PACKAGE}/workers/announcements.py")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (project / "tea_room/app.py").rename(elsewhere / "app.py")
    (project / "tea_room/workers").rename(elsewhere / "workers")
    (project / "tea_room/app.py").symlink_to(elsewhere / "app.py")
    (project / "tea_room/workers").symlink_to(elsewhere / "workers")
    before = contents(elsewhere)
    ran = update()

    assert ran.returncode == 3
    assert (
        "warning: tea_room/app.py was not updated: it is a symbolic link\n"
        "  make the template's change there by hand\n"
        "warning: tea_room/workers/announcements.py was not updated: tea_room/workers is a symbolic"
    ) in ran.stderr
    assert contents(elsewhere) == before
    assert (project / "tea_room/app.py").is_symlink()


def pack(project, entries):
    with zipfile.ZipFile(project / ".pachinko/base.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def noted(project, **fields):
    file = project / ".pachinko/manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def answered(project, **answers):
    file = project / ".pachinko/manifest.json"
    noted(project, answers=json.loads(file.read_text())["answers"] | answers)


BASE = ".pachinko/base.zip"
DAMAGES = {
    "no folder": (
        lambda project: shutil.rmtree(project / ".pachinko"),
        "tells which template the project began from",
    ),
    "no base": (
        lambda project: (project / BASE).unlink(),
        "tells which template the project began from",
    ),
    "no archive": (
        lambda project: (project / BASE).write_bytes(b"PK tea"),
        "cannot read .pachinko/base.zip: File is not a zip file",
    ),
    "half an archive": (
        lambda project: (project / BASE).write_bytes((project / BASE).read_bytes()[:2000]),
        "cannot read .pachinko/base.zip: ",
    ),
    "a path to elsewhere": (
        lambda project: pack(project, [("../../x", "x")]),
        "cannot read .pachinko/base.zip: '../../x' is no file of the project",
    ),
    "a bomb": (
        lambda project: pack(project, [(f"{n}", bytes(2**22)) for n in range(5)]),
        "cannot read .pachinko/base.zip: it holds more than 16 MiB",
    ),
    "another archive": (
        lambda project: pack(project, [("README.md", "x")]),
        "base.zip and .pachinko/manifest.json are not of the same update",
    ),
    "a newer template": (
        lambda project: noted(project, template_version="0.10.0"),
        "the project is of template chat 0.10.0, and this pachinko has 0.2.0",
    ),
    "no version": (
        lambda project: noted(project, template_version="\n"),
        r"has the template_version '\n'",
    ),
    "another template": (
        lambda project: noted(project, template="https://example.org/tea"),
        "made from 'https://example.org/tea', which is no template of this pachinko",
    ),
    "another package": (
        lambda project: (project / "pyproject.toml").write_text(
            '[tool.pachinko]\npackage = "coffee"\n'
        ),
        "the package is called coffee, and was made as tea_room",
    ),
    "a name that is none": (
        lambda project: answered(project, name="{{ 7 * 7 }}"),
        "cannot make the project again from the answers in .pachinko/manifest.json: ",
    ),
    "an answer of another kind": (
        lambda project: answered(project, docker="yes"),
        "manifest.json: docker is 'yes'",
    ),
    "an answer that is no choice": (
        lambda project: answered(project, backend="carrier pigeons"),
        "manifest.json: backend is 'carrier pigeons'",
    ),
    "a year that is none": (
        lambda project: answered(project, licence="MIT", holder="Ann", year='"'),
        "manifest.json: year is '\"'",
    ),
    "a holder that is none": (
        lambda project: answered(project, licence="MIT", holder="a\nb", year="2026"),
        "cannot stand in a licence",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_updated_is_refused(update, project, contents, damage):
    """With a sentence and what to do, exit 1; nothing is changed."""
    harm, why = DAMAGES[damage]
    harm(project)
    before = contents(project)
    ran = update()

    assert ran.returncode == 1
    assert why in ran.stderr
    assert "\n  " in ran.stderr
    assert "Traceback" not in ran.stderr
    assert contents(project) == before


def test_outside_of_a_project_there_is_nothing_to_update(update, tmp_path):
    """Exit 4, as for every command of a project."""
    assert update(cwd=tmp_path).returncode == 4


@pytest.mark.usefixtures("committed")
def test_what_is_not_committed_is_in_the_way(update, project, newer, contents, git):
    """Git is what takes an update back; a note that git does not have is in nobody's way."""
    newer.begin(f"{PACKAGE}/app.py")
    end(project / "README.md")
    before = contents(project)
    refused = update()
    after = contents(project)
    git("commit", "-a", "--quiet", "-m", "Go on")
    (project / "notes.txt").write_text("mine")
    done = update()

    assert refused.returncode == 1
    assert refused.stderr == (
        "error: not committed: README.md; nothing was changed\n"
        "  commit first, so that git can show the update and take it back, or add --force\n"
    )
    assert after == before
    assert (done.returncode, done.stdout.endswith("Next:\n  git diff\n  python -m pytest\n")) == (
        0,
        True,
    )


@pytest.mark.usefixtures("committed")
def test_force_goes_on_with_what_is_not_committed(update, project, newer):
    """And so does an update that has nothing to do, or writes nothing."""
    newer.begin(f"{PACKAGE}/app.py")
    end(project / "README.md")

    assert update("--dry-run").returncode == 0
    assert update("--force").returncode == 0
    assert update().returncode == 0


def test_a_new_repository_has_nothing_to_go_back_to(update, git, newer):
    """What the update would write is not in it yet."""
    newer.begin(f"{PACKAGE}/app.py")
    git("init", "--quiet")
    refused = update()

    assert refused.returncode == 1
    assert "error: not committed: .pachinko/base.zip, .pachinko/manifest.json, pyproject.toml" in (
        refused.stderr
    )


def test_a_repository_that_git_cannot_read_is_named(update, project, newer, contents):
    """In git's own words."""
    newer.begin(f"{PACKAGE}/app.py")
    (project / ".git").write_text("gitdir: nowhere\n")
    before = contents(project)
    refused = update()

    assert refused.returncode == 1
    assert "cannot tell whether everything is committed: fatal: not a git repo" in refused.stderr
    assert contents(project) == before


def test_a_project_in_a_folder_of_a_repository_is_found_there(
    update, project, newer, environment, tmp_path
):
    """Only what is in the project counts."""
    newer.begin(f"{PACKAGE}/app.py")
    (tmp_path / "other.txt").write_text("mine")
    for arguments in (
        ["init", "--quiet"],
        ["add", "tea-room"],
        ["-c", "user.name=Ann", "-c", "user.email=a@example.org", "commit", "-q", "-m", "Begin"],
        ["add", "other.txt"],
    ):
        subprocess.run(["git", *arguments], cwd=tmp_path, env=environment, check=True, timeout=60)
    done = update()
    refused = update("--restore", "README.md", "--force")
    newer.release("0.3.0")
    dirty = update()

    assert (done.returncode, refused.returncode, dirty.returncode) == (0, 2, 1)
    assert "not committed: .pachinko/base.zip, .pachinko/manifest.json, pyproject.toml" in (
        dirty.stderr
    )


def test_dry_run_says_what_would_be_and_writes_nothing(update, project, newer, contents):
    """With `-v` it shows the lines, the archive's excepted."""
    conflict(newer, project)
    before = contents(project)
    shown = update("--dry-run", "-v")
    after = contents(project)
    done = update()

    assert shown.returncode == done.returncode == 3
    assert "Would update to template chat 0.2.0, from 0.1.0\n" in shown.stdout
    assert "           +>>>>>>> template 0.2.0\n" in shown.stdout
    assert "           Binary file .pachinko/base.zip differs\n" in shown.stdout
    assert after == before
    assert statuses(done).items() <= statuses(shown).items()
    assert shown.stderr == done.stderr


def test_check_only_says_whether_there_is_an_update(update, project, contents):
    """Exit 3 if so, for a pipeline; nothing is written."""
    before = contents(project)
    available = update("--check")
    after = contents(project)
    update()
    done = update("--check")

    assert (available.returncode, done.returncode) == (3, 0)
    assert available.stdout == (
        "There is an update to template chat 0.2.0, from 0.1.0; type:  pachinko update\n"
    )
    assert done.stdout == "Up to date: this is template chat 0.2.0\n"
    assert after == before


def test_json_is_one_event_a_line(update, project, newer):
    """Files, what was done, what is left to do, what to type next."""
    conflict(newer, project)
    newer.begin("tests/test_page.py")
    (project / "tests/test_page.py").unlink()
    ran = update("--json")
    events = list(map(json.loads, ran.stdout.splitlines()))
    files = {each["path"]: each for each in events if each["event"] == "file"}

    assert files["tea_room/app.py"]["status"] == "conflict"
    assert files["tests/test_page.py"]["note"].startswith("you deleted it")
    assert [each for each in events if each["event"] != "file"] == [
        {
            "event": "updated",
            "template": "chat",
            "before": "0.1.0",
            "after": "0.2.0",
            "complete": False,
        },
        {
            "event": "step",
            "path": "tea_room/app.py",
            "why": "has a conflict in line 1",
            "remedy": "keep what is right between <<<<<<< yours and >>>>>>> template 0.2.0, and "
            "delete those lines",
        },
        {"event": "next", "commands": ["python -m pytest"]},
    ]


def test_quiet_says_only_what_is_left_to_do(update, project, newer):
    """Nothing, where nothing is."""
    conflict(newer, project)
    first = update("-q")

    assert (first.returncode, first.stdout) == (3, "")
    assert first.stderr.startswith("warning: tea_room/app.py has a conflict")


EVERYTHING = {
    "agents_md": False,
    "backend": "redis",
    "licence": "MIT",
    "holder": 'Ann "{{ 7 * 7 }}" O\'Hara',
    "year": "1999",
    "ci": "github",
    "docker": True,
}


def test_every_answer_is_given_again(made, update, newer, contents):
    """What the user typed stays data; an answer that is new in the template has its default."""
    fields = {each.name for each in dataclasses.fields(scaffold.Answers)}
    project = made(**EVERYTHING | {"docker": False})
    nothing = update("--check", cwd=project)
    before = contents(project)
    manifest = project / ".pachinko/manifest.json"
    answers = json.loads(manifest.read_text())["answers"]
    del answers["docker"]
    noted(project, answers=answers)
    ran = update(cwd=project)

    assert fields == {"name", "template", "source", *EVERYTHING}
    assert "from 0.1.0" in nothing.stdout
    assert json.loads(manifest.read_text())["answers"] == answers | {"docker": False}
    assert (ran.returncode, ran.stderr) == (0, "")
    changed = {path for path, content in contents(project).items() if content != before.get(path)}
    assert {"README.md", "LICENSE"}.isdisjoint(changed)
    assert '1999 Ann "{{ 7 * 7 }}" O\'Hara' in (project / "LICENSE").read_text()


@pytest.mark.quick
def test_an_update_to_the_same_template_changes_nothing(made, pachinko):
    """Whatever was answered."""
    ran = pachinko("update", cwd=made(**EVERYTHING))

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Nothing to do: this is template chat ")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (" @ file:///srv/ann/falcon-pachinko", " @ file:///srv/ann/falcon-pachinko"),
        (" @ git+https://example.org/p@c0ffee", " @ git+https://example.org/p@c0ffee"),
        (">=0.0.7", ">=0.1.0"),
    ],
)
def test_the_library_comes_from_where_it_came_from(made, update, before, after):
    """A folder or a commit of somebody's stays; a version rises to what the template needs."""
    project = made(source=before)
    ran = update(cwd=project)
    needed = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]

    assert ran.returncode == 0
    assert f"falcon-pachinko{after}" in needed


@pytest.mark.timeout(600)
def test_a_kill_at_any_time_leaves_all_or_nothing(
    update, project, newer, tmp_path, contents, begin, until
):
    """The next command takes back what was begun, and sweeps what was rendered."""
    for file in newer.file("").rglob("*.py"):
        file.write_text(FIRST + file.read_text())
    end(project / "tea_room/app.py")
    before, temporary = contents(project), tmp_path / "temporary"
    temporary.mkdir()
    done = shutil.copytree(project, tmp_path / "done")
    assert update(cwd=done).returncode == 0
    after = contents(done)
    chance = random.Random(7)
    found = []
    for number in range(16):
        copy = shutil.copytree(project, tmp_path / f"copy-{number}")
        process = begin(
            "update", cwd=copy, PYTHONPATH=search_path(newer.root), TMPDIR=str(temporary)
        )
        if number % 2:
            journal = copy / changes.UNDO / "journal.json"
            until(lambda: journal.exists() or process.poll() is not None)  # noqa: B023 - called now
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, 0.6))
        process.kill()
        process.wait(30)
        with changes.alone(copy):
            found.append(contents(copy))
    swept = update("--check", cwd=done, TMPDIR=str(temporary))

    assert all(state in (before, after) for state in found)
    assert before in found
    assert swept.returncode == 0
    assert list(temporary.iterdir()) == []
