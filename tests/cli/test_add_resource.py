"""`pachinko add-resource` for somebody who types it in a project."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pachinko_cli.manifest import BASE, PATH, decode, digest

FILES = ["tea_room/resources/notes.py", "tests/test_notes.py", "tea_room/routes.py", PATH]


@pytest.fixture
def add(pachinko, project):
    """Run `pachinko add-resource` in the project."""

    def run(*arguments, cwd=project, **variables):
        return pachinko("add-resource", *arguments, cwd=cwd, **variables)

    return run


def statuses(ran):
    return [line.split() for line in ran.stdout.splitlines() if line[:1] == " " or "  " in line][:4]


@pytest.mark.quick
def test_it_says_what_becomes_of_every_file_and_what_to_type_next(add):
    """One line a file, one for what was added, and the next commands."""
    ran = add("notes")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == (
        "   create  tea_room/resources/notes.py\n"
        "   create  tests/test_notes.py\n"
        "   modify  tea_room/routes.py\n"
        "   modify  .pachinko/manifest.json\n"
        "Added Notes at /ws/notes/{room_name}\n"
        "\n"
        "Next:\n"
        "  python -m pytest tests/test_notes.py\n"
        "  pachinko serve\n"
    )


def test_it_works_from_any_folder_of_the_project(add, project):
    """As `serve` does."""
    ran = add("notes", cwd=project / "tea_room/static")

    assert ran.returncode == 0
    assert (project / "tea_room/resources/notes.py").is_file()


def test_outside_a_project_it_says_how_to_get_into_one(pachinko, tmp_path):
    """Exit 4."""
    ran = pachinko("add-resource", "notes")

    assert ran.returncode == 4
    assert "is not inside a project" in ran.stderr


def test_the_same_again_changes_nothing(add, project, contents):
    """Every file is identical; exit 0."""
    add("notes")
    before = contents(project)
    ran = add("notes")

    assert (ran.returncode, [status for status, _ in statuses(ran)]) == (0, ["identical"] * 4)
    assert contents(project) == before


@pytest.mark.quick
def test_the_table_and_the_imports_get_a_line_each(add, project):
    """Where a person would have put them."""
    before = (project / "tea_room/routes.py").read_text().splitlines()
    add("notes", "/ws/notes")
    after = (project / "tea_room/routes.py").read_text().splitlines()

    assert [line for line in after if line not in before] == [
        "from .resources.notes import Notes",
        '    ("/ws/notes", Notes),',
    ]
    assert [line for line in after if line in before] == before


def test_messages_become_structs_and_handlers(add, project):
    """What is declared on the command line is typed in Python."""
    add("notes", "-m", "write:text=str,at=datetime?,tags=list[str]", "-m", "clear")
    text = (project / "tea_room/resources/notes.py").read_text()

    assert (
        "class Write(Struct, kw_only=True):\n"
        '    """The payload of `write`."""\n\n'
        "    text: str\n    at: datetime | None = None\n    tags: list[str]\n"
    ) in text
    assert '    @handles_message("clear")\n    async def clear(self, ws: Connection)' in text


def test_a_class_gets_another_name_where_its_own_is_taken(add, project):
    """`App` and `Path` mean something else in routes.py already."""
    add("path", "--kind", "reply")

    assert '("/ws/path", PathResource),' in (project / "tea_room/routes.py").read_text()


def test_json_is_one_event_a_line(add, project):
    """What happened to each file, then what was added."""
    ran = add("notes", "--json", "--kind", "empty")
    *files, added, following = map(json.loads, ran.stdout.splitlines())

    assert [each["path"] for each in files] == FILES
    assert [each["status"] for each in files] == ["create", "create", "modify", "modify"]
    assert added == {
        "event": "added",
        "kind": "resource",
        "name": "notes",
        "subject": "Notes",
        "complete": True,
        "answers": {"path": "/ws/notes", "kind": "empty", "messages": []},
    }
    assert following["commands"] == ["python -m pytest tests/test_notes.py", "pachinko serve"]


def test_dry_run_shows_the_same_and_writes_nothing(add, project, contents):
    """The statuses are those that the run would have."""
    before = contents(project)
    shown = add("notes", "--dry-run")

    assert shown.returncode == 0
    assert contents(project) == before
    assert statuses(shown) == statuses(add("notes"))


def test_quiet_says_nothing_and_verbose_shows_the_difference(add):
    """Of what was there before."""
    quiet, verbose = add("notes", "-q"), add("quiz", "-v")

    assert (quiet.stdout, quiet.stderr) == ("", "")
    assert "           +from .resources.quiz import Quiz\n" in verbose.stdout


@pytest.mark.parametrize("file", FILES[:2])
def test_a_file_that_is_there_is_a_conflict_and_nothing_is_done(add, project, contents, file):
    """Exit 1, with the difference; what is there stays, and so does everything else."""
    (project / file).write_text("mine\n")
    before = contents(project)
    refused = add("notes")

    assert refused.returncode == 1
    assert f" conflict  {file}\n" in refused.stdout
    assert "           -mine\n" in refused.stdout
    assert refused.stderr == (
        f"error: {file} exists already and differs; nothing was changed\n"
        "  choose another name, or overwrite with --force\n"
    )
    assert contents(project) == before


def test_force_overwrites_a_file_that_is_there(add, project):
    """What one asked for."""
    (project / FILES[0]).write_text("mine\n")
    ran = add("notes", "--force")

    assert (ran.returncode, statuses(ran)[0]) == (0, ["modify", FILES[0]])
    assert "class Notes" in (project / FILES[0]).read_text()


def test_force_with_another_path_moves_the_route(add, project):
    """There is one line for it afterwards, not two."""
    add("notes")
    ran = add("notes", "/ws/other", "--force")
    routes = (project / "tea_room/routes.py").read_text()

    assert ran.returncode == 0
    assert '("/ws/other", Notes),' in routes
    assert '"/ws/notes' not in routes


def test_an_edited_path_is_left_to_its_owner(add, project, contents):
    """The route was changed by hand: the same command again does not put the old one back."""
    add("notes")
    routes = project / "tea_room/routes.py"
    routes.write_text(routes.read_text().replace("/ws/notes/{room_name}", "/n/{room_name}"))
    before = contents(project)

    assert add("notes").returncode == 0
    assert contents(project) == before


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ('ROUTES = [("/ws/chat/{room_name}", ChatRoom)]\n', "not a line of its own"),
        ("ROUTES = [\n", "has a syntax error in line "),
        ("", "has no ROUTES = [...]"),
        (None, "is not there"),
    ],
)
def test_a_table_that_is_not_recognised_is_left_alone(add, project, table, why):
    """The files are made, the lines to add are shown, exit 3."""
    routes = project / "tea_room/routes.py"
    if table is None:
        routes.unlink()
    else:
        routes.write_text(f"import os\n\n{table}")
    ran = add("notes")

    assert ran.returncode == 3
    assert "warning: tea_room/routes.py " in ran.stderr
    assert why in ran.stderr
    assert ran.stderr.endswith(
        ", so it was not changed\n"
        "  add the first line to its imports, the second to its table:\n"
        "      from .resources.notes import Notes\n"
        '      ("/ws/notes/{room_name}", Notes),\n'
    )
    assert (project / FILES[0]).is_file()
    assert not routes.exists() or routes.read_text() == f"import os\n\n{table}"


def test_the_step_that_remains_is_an_event(add, project):
    """A program can do it, or tell somebody."""
    (project / "tea_room/routes.py").write_text("ROUTES = routes()\n")
    events = [json.loads(line) for line in add("notes", "--json").stdout.splitlines()]
    [step] = (each for each in events if each["event"] == "step")

    assert (step["verb"], step["path"]) == ("add", "tea_room/routes.py")
    assert step["lines"][0] == "from .resources.notes import Notes"
    assert events[-1]["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["class"], "'class' is a keyword of Python"),
        (["../notes"], "'../notes' is a path"),
        (["notes", "ws"], "the path 'ws' does not begin with a slash"),
        (["notes", "-m", "say:text=string"], "there is no type 'string'"),
        (["notes", "-m", "a'); import os; ('"], "the type \"a'); import os; ('\" is not letters"),
        (["notes", "--kind", "chat"], "there is no kind 'chat'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(add, project, contents, arguments, said):
    """Exit 2, a sentence and a hint."""
    before = contents(project)
    refused = add(*arguments)

    assert refused.returncode == 2
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
    assert contents(project) == before


def test_a_path_that_falcon_would_not_take_beside_another_is_refused(add, project, contents):
    """The app would not start; exit 1, with the one that is in the way."""
    before = contents(project)
    refused = add("notes", "/ws/chat/{other}")

    assert refused.returncode == 1
    assert "has '/ws/chat/{room_name}'" in refused.stderr
    assert contents(project) == before


@pytest.mark.parametrize(
    "place", ["tea_room/resources", "tests", "tea_room/routes.py", ".pachinko"]
)
def test_no_symbolic_link_is_followed(add, project, tmp_path, contents, place):
    """What is behind it stays as it is, and nothing else is done either."""
    shutil.move(project / place, tmp_path / "elsewhere")
    (project / place).symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    refused = add("notes")

    assert refused.returncode == 1
    assert f"{project / place} is a symbolic link" in refused.stderr
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_everything_as_it_was(project, environment, contents):
    """A limit on the size of files fails as a full disk does."""
    before = contents(project)
    command = f"ulimit -f 1; exec '{sys.executable}' -m pachinko_cli add-resource notes"
    refused = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=project,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: cannot write in {project}: File too large")
    assert contents(project) == before


def test_a_manifest_after_a_bad_merge_is_named(add, project):
    """Nothing is done before it is repaired."""
    (project / PATH).write_text("<<<<<<< ours\n")
    refused = add("notes")

    assert refused.returncode == 1
    assert "cannot read .pachinko/manifest.json" in refused.stderr
    assert not (project / FILES[0]).exists()


def test_a_project_without_a_manifest_gets_one(add, project):
    """Plain Cookiecutter made it."""
    shutil.rmtree(project / ".pachinko")
    ran = add("notes")

    assert statuses(ran)[3] == ["create", PATH]
    assert decode((project / PATH).read_bytes()).get("resource", "notes")


@pytest.mark.quick
def test_new_notes_every_file_it_made_and_keeps_a_copy(project):
    """That is how a later update knows what was edited, and what it was before."""
    noted = decode((project / PATH).read_bytes())
    files = {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in project.rglob("*")
        if path.is_file() and ".pachinko" not in path.parts
    }
    with zipfile.ZipFile(project / BASE) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}

    assert (noted.template, noted.answers["name"]) == ("chat", "Tea Room")
    assert noted.files == {path: digest(content) for path, content in files.items()}
    assert kept == files


def test_several_at_once_lose_nothing(begin, project):
    """Each waits for the one before it."""
    names = ["notes", "quiz", "board"]
    running = [begin("add-resource", name, cwd=project) for name in names]
    codes = [(process.communicate(timeout=60), process.returncode)[1] for process in running]
    routes = (project / "tea_room/routes.py").read_text()

    assert codes == [0, 0, 0]
    assert all(f"import {name.capitalize()}\n" in routes for name in names)
    assert len(decode((project / PATH).read_bytes()).added) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["add-resource", "--help"],
        ["add-worker", "--help"],
        ["remove", "--help"],
        ["add-resource", "notes"],
        ["add-worker", "pulse"],
        ["remove", "worker", "pulse"],
    ],
)
def test_nothing_heavy_is_loaded(project, environment, arguments):
    """So it is done in the blink of an eye."""
    heavy = ("cookiecutter", "jinja2", "uvicorn", "falcon", "falcon_pachinko", "msgspec")
    program = (
        f"import runpy, sys\nsys.argv[1:] = {arguments}\n"
        "try:\n    runpy.run_module('pachinko_cli', run_name='__main__')\n"
        f"finally:\n    print(sorted(set(sys.modules) & set({heavy})), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["add-resource", "add-worker", "remove"])
def test_the_help_has_an_example(pachinko, command):
    """The fastest way to learn a command is to copy one."""
    assert f"Examples:\n    pachinko {command} " in pachinko(command, "--help").stdout


@pytest.mark.quick
def test_the_words_are_in_the_templates_of_the_checkout():
    """One who wants other words finds them there."""
    folder = Path(__file__).parents[2] / "templates/parts"

    assert {"room.py.tmpl", "test_room.py.tmpl"} <= {path.name for path in folder.iterdir()}
