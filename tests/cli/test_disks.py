"""The generators where the disk is not as one would like it: full, protected, linked, shared."""

import codecs
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pachinko_cli import disk
from pachinko_cli.changes import UNDO
from pachinko_cli.manifest import PATH, decode

DEADLINE = 40  # seconds
ADD, WORKER = ["add-resource", "notes"], ["add-worker", "pulse"]
REMOVE = ["remove", "resource", "quiz"]
COMMANDS = {"add-resource": ADD, "add-worker": WORKER, "remove": REMOVE}

_PR_CAPBSET_DROP = 24
_PAST_PERMISSIONS = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


@pytest.fixture
def quiz(pachinko, project):
    """Give a project with a resource of its own, for `remove` to take out."""
    assert pachinko("add-resource", "quiz", cwd=project).returncode == 0
    return project


@pytest.fixture
def limited(environment):
    """Run `pachinko` with something prepared in its process, and give what came of it."""

    def run(*arguments, cwd, prepare, **streams):
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        return subprocess.run(
            [sys.executable, "-m", "pachinko_cli", *arguments],
            cwd=cwd,
            env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=DEADLINE,
            preexec_fn=prepare,  # one call of the operating system
            check=False,
            **streams,
        )

    return run


def nothing():
    """Prepare nothing."""


def as_anybody():
    """Take from root what lets it past permissions; nobody else has that."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in _PAST_PERMISSIONS:
        failed = libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        assert not (failed and os.geteuid() == 0), os.strerror(ctypes.get_errno())


@pytest.fixture
def protect():
    """Give a function that changes the mode of a file or folder until the test ends."""
    before = []

    def change(path, mode):
        before.append((path, path.stat().st_mode & 0o7777))
        path.chmod(mode)

    yield change
    for path, mode in reversed(before):
        path.chmod(mode)


# A full disk.


@pytest.mark.parametrize("room", [0, 700, 3_000])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_on_a_full_disk_everything_stays_as_it_was(quiz, limited, contents, command, room):
    """No file can be larger than so many bytes, which stops it at the first, or a later one."""
    before = contents(quiz)
    refused = limited(
        *command,
        cwd=quiz,
        prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: cannot write in {quiz}: File too large")
    assert contents(quiz) == before


def test_no_project_is_made_on_a_full_disk(tmp_path, limited):
    """Nor a part of one."""
    refused = limited(
        *("new", "tea-room", "--no-git"),
        cwd=tmp_path,
        prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000)),
    )

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: cannot write in {tmp_path}: File too large")
    assert not [*tmp_path.iterdir()]


# What may not be written, or read.


@pytest.mark.parametrize(
    ("place", "mode", "said"),
    [
        ("tests", 0o555, "cannot write in {place}: Permission denied"),
        ("tea_room/resources", 0o555, "cannot write in {place}: Permission denied"),
        ("tea_room", 0o555, "cannot write in {place}: Permission denied"),
        (".pachinko", 0o555, "cannot write in {project}: Permission denied"),
        ("tea_room/routes.py", 0o444, "tea_room/routes.py is write-protected"),
        (PATH, 0o444, f"{PATH} is write-protected"),
        ("tea_room/routes.py", 0o000, "cannot read {place}: Permission denied"),
        ("tea_room", 0o666, "cannot read {place}/routes.py: Permission denied"),
        (".", 0o000, "cannot look for {project}/pyproject.toml: Permission denied"),
    ],
)
@pytest.mark.parametrize("command", [ADD, REMOVE], ids=["add-resource", "remove"])
def test_without_permission_nothing_is_done(
    quiz, limited, contents, protect, command, place, mode, said
):
    """Exit 1, with what is protected; root is asked to be somebody else."""
    before = contents(quiz)
    protect(quiz / place, mode)
    refused = limited(*command, cwd=quiz, prepare=as_anybody)
    protect(quiz / place, 0o755)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: {said.format(place=quiz / place, project=quiz)}")
    assert len(refused.stderr.splitlines()) == 2
    assert contents(quiz) == before


def test_no_project_is_made_where_nobody_may_write(tmp_path, limited, protect):
    """Exit 1."""
    protect(tmp_path, 0o555)
    refused = limited("new", "tea-room", "--no-git", cwd=tmp_path, prepare=as_anybody)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: cannot write in {tmp_path}: Permission denied")


def test_a_read_only_project_can_be_looked_at(quiz, limited, protect):
    """`--dry-run` writes nothing, so it needs no permission to."""
    for place in ("tests", "tea_room", ".pachinko", "."):
        protect(quiz / place, 0o555)
    shown = limited(*ADD, "--dry-run", cwd=quiz, prepare=as_anybody)

    assert (shown.returncode, shown.stderr) == (0, "")


def test_in_a_folder_that_was_deleted_it_says_so(tmp_path, limited):
    """Another shell did it."""
    gone = tmp_path / "gone"
    gone.mkdir()
    refused = limited(*ADD, cwd=gone, prepare=gone.rmdir)

    assert (refused.returncode, refused.stderr) == (
        1,
        "error: the current folder was deleted\n  cd to one that exists\n",
    )


# What is there already, and is no file.


@pytest.mark.parametrize("place", ["tea_room/resources/notes.py", PATH, "tea_room/routes.py"])
@pytest.mark.parametrize("what", ["a folder", "a pipe", "a dangling link"])
def test_what_is_no_file_is_named_and_left_alone(project, pachinko, place, what):
    """A pipe would be waited for, for ever."""
    path = project / place
    path.unlink(missing_ok=True)
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    before = path.lstat()
    refused = pachinko(*ADD, cwd=project)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert str(path) in refused.stderr
    assert path.lstat() == before
    assert not (project / "tests/test_notes.py").exists()


def test_a_package_that_is_elsewhere_is_not_made_anew(project, pachinko, contents):
    """Somebody moved it to src/: a second one beside it would help nobody."""
    (project / "src").mkdir()
    (project / "tea_room").rename(project / "src/tea_room")
    before = contents(project)
    refused = pachinko(*ADD, cwd=project)

    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: there is no tea_room/ in {project}, but its pyproject.toml says "
        '[tool.pachinko] package = "tea_room"\n'
        "  correct it there, or put the package back; nothing was changed\n"
    )
    assert contents(project) == before


def test_a_file_in_the_place_of_the_journal_is_named(project, pachinko, contents):
    """Whoever made it may want to keep it."""
    (project / UNDO).write_text("mine")
    before = contents(project)
    refused = pachinko(*ADD, cwd=project)

    assert (refused.returncode, refused.stderr.splitlines()[0]) == (
        1,
        f"error: cannot write in {project}: File exists; nothing was made",
    )
    assert contents(project) == before


# Where the project is.


@pytest.mark.parametrize(
    "name", ["tea room", "茶館 é", "{{ cookiecutter.x }}", "a'b\"c", "$HOME", "two\nlines"]
)
def test_a_project_may_lie_anywhere(baked, tmp_path, pachinko, contents, name):
    """Whatever its folder is called: added, and removed to the byte."""
    project = shutil.copytree(baked["chat"], tmp_path / name / "tea-room")
    before = contents(project)
    added = [pachinko(*command, cwd=project) for command in (ADD, WORKER)]
    removed = [
        pachinko("remove", *words, cwd=project)
        for words in (["resource", "notes"], ["worker", "pulse"])
    ]

    assert {ran.returncode for ran in (*added, *removed)} == {0}
    assert contents(project) == before


def test_through_a_link_to_the_project_it_is_the_same_project(project, tmp_path, pachinko):
    """As from a home folder that is a link itself."""
    (tmp_path / "link").symlink_to(project)
    ran = pachinko(*ADD, cwd=tmp_path / "link" / "tests")

    assert ran.returncode == 0
    assert (project / "tea_room/resources/notes.py").is_file()


def test_in_nested_projects_it_is_the_nearest(project, baked, pachinko, contents):
    """The one around it stays as it is."""
    inner = shutil.copytree(baked["minimal"], project / "inner")
    outer = {path: what for path, what in contents(project).items() if "inner" not in path}
    ran = pachinko(*ADD, cwd=inner / "tests")

    assert ran.returncode == 0
    assert (inner / "tea_room/resources/notes.py").is_file()
    assert outer == {p: what for p, what in contents(project).items() if "inner" not in p}


@pytest.mark.quick
def test_the_user_s_way_of_writing_stays(project, pachinko, contents):
    """A byte order mark, CRLF, tabs, a mode: before, with the new line, and after it is removed."""
    routes = project / "tea_room/routes.py"
    text = routes.read_text().replace("    ", "\t").replace("\n", "\r\n")
    routes.write_bytes(codecs.BOM_UTF8 + text.encode())
    routes.chmod(0o640)
    before = contents(project)
    added = pachinko(*ADD, cwd=project)
    with_it, mode = routes.read_bytes(), routes.stat().st_mode & 0o777
    removed = pachinko("remove", "resource", "notes", cwd=project)

    assert (added.returncode, removed.returncode) == (0, 0)
    assert b'\r\n\t("/ws/notes/{room_name}", Notes),\r\n]\r\n' in with_it
    assert (with_it.count(b"\n"), with_it[:3]) == (with_it.count(b"\r\n"), codecs.BOM_UTF8)
    assert (mode, routes.stat().st_mode & 0o777) == (0o640, 0o640)
    assert contents(project) == before


# Several at once, and what a killed one left.


def test_different_commands_at_once_lose_nothing(begin, quiz):
    """Each waits for the one before it."""
    running = [begin(*command, cwd=quiz) for command in COMMANDS.values()]
    ended = [(process.communicate(timeout=DEADLINE), process.returncode) for process in running]
    routes = (quiz / "tea_room/routes.py").read_text()
    noted = decode((quiz / PATH).read_bytes())

    assert [code for _, code in ended] == [0, 0, 0], ended
    assert [(each.kind, each.name) for each in noted.added] == [
        ("resource", "notes"),
        ("worker", "pulse"),
    ]
    assert "Notes" in routes
    assert "Quiz" not in routes
    assert "run_pulse" in (quiz / "tea_room/workers/__init__.py").read_text()


def test_one_that_has_to_wait_long_says_so(begin, project):
    """On stderr, after a second; then it goes on."""
    held = disk.lock(project)
    process = begin(*ADD, cwd=project)
    said = process.stderr.readline()
    os.close(held)
    printed, _ = process.communicate(timeout=DEADLINE)

    assert said == f"waiting for another pachinko that is at work in {project}\n"
    assert (process.returncode, printed.splitlines()[-4]) == (0, "")


@pytest.mark.parametrize(
    "journal",
    [
        "",
        "[]",
        '{"changes": 3, "folders": []}',
        '{"changes": [{"path": "../diary.txt", "mode": null, "after": null}], "folders": []}',
        '{"changes": [{"path": "a", "mode": "0644", "after": null}], "folders": []}',
        '{"changes": [], "folders": ["/"]}',
    ],
)
def test_a_journal_that_makes_no_sense_stops_everything(project, pachinko, contents, journal):
    """A power cut, or a stranger's repository: nothing is guessed."""
    (project / UNDO).mkdir()
    (project / UNDO / "journal.json").write_text(journal)
    before = contents(project)
    refused = pachinko(*ADD, cwd=project)

    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: a command was interrupted here, and {UNDO}/journal.json, which says what it did, "
        "cannot be read\n"
        f"  compare the project with your repository, then delete {project / UNDO}\n"
    )
    assert contents(project) == before


def test_a_journal_leads_to_nothing_outside(project, tmp_path, pachinko):
    """It came with the project, from anybody: no mode of another file is changed by it."""
    diary = tmp_path / "diary.txt"
    diary.write_text("mine")
    diary.chmod(0o600)
    undo = project / UNDO
    undo.mkdir()
    (undo / "old-0").symlink_to(diary)
    change = {"path": "nothing.py", "mode": 0o777, "after": None}
    (undo / "journal.json").write_text(json.dumps({"changes": [change], "folders": []}))
    ran = pachinko(*ADD, cwd=project)

    assert ran.returncode == 0
    assert diary.stat().st_mode & 0o777 == 0o600
    assert not (project / "nothing.py").is_symlink()


# Where the report goes.


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_nobody_has_to_read_the_report(project, limited, form):
    """As behind `| head`: what was done is done; exit 0, and no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    ran = limited(*ADD, *form, cwd=project, prepare=nothing, stdout=writing)
    os.close(writing)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert (project / "tea_room/resources/notes.py").is_file()


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_a_report_that_cannot_be_written_is_a_warning(project, limited, form):
    """The disk of the log is full; what was done is done."""
    with Path("/dev/full").open("w") as full:
        ran = limited(*ADD, *form, cwd=project, prepare=nothing, stdout=full)

    assert (ran.returncode, ran.stderr) == (
        0,
        "warning: cannot print what was done: No space left on device\n",
    )
    assert (project / "tea_room/resources/notes.py").is_file()


@pytest.mark.parametrize("command", ["info", "routes", "doctor"])
def test_an_answer_that_cannot_be_written_is_an_error(project, limited, command):
    """Who asks and hears nothing is told why."""
    with Path("/dev/full").open("w") as full:
        ran = limited(command, cwd=project, prepare=nothing, stdout=full)

    assert (ran.returncode, ran.stderr) == (1, "error: cannot print: No space left on device\n")


@pytest.mark.parametrize(
    ("arguments", "code"), [(ADD, 3), (["add-resource", "class"], 2), (REMOVE, 2)]
)
def test_the_exit_code_tells_what_nobody_could_print(project, limited, arguments, code):
    """Both streams lead nowhere: a step that remains, a bad name, something that is not there."""
    (project / "tea_room/routes.py").write_text("ROUTES = routes()\n")
    with Path("/dev/full").open("w") as full:
        ran = limited(*arguments, cwd=project, prepare=nothing, stdout=full, stderr=full)

    assert ran.returncode == code
