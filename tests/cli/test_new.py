"""`pachinko new` for somebody who gives every answer on the command line."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pachinko_cli.names import project_name
from pachinko_cli.staging import STAGING_PREFIX

CHECKOUT = Path(__file__).parents[2]
COMMON = {
    ".gitignore",
    ".pachinko/base.zip",
    ".pachinko/manifest.json",
    "AGENTS.md",
    "README.md",
    "pyproject.toml",
    "tea_room/__init__.py",
    "tea_room/app.py",
    "tea_room/asgi.py",
    "tea_room/config.py",
    "tea_room/messages.py",
    "tea_room/resources/__init__.py",
    "tea_room/resources/health.py",
    "tea_room/routes.py",
    "tea_room/workers/__init__.py",
    "tests/test_config.py",
    "tests/test_health.py",
}
OWN = {
    "chat": {
        "tea_room/resources/chat.py",
        "tea_room/resources/page.py",
        "tea_room/static/chat.css",
        "tea_room/static/chat.js",
        "tea_room/static/icon.svg",
        "tea_room/static/index.html",
        "tea_room/workers/announcements.py",
        "tests/conftest.py",
        "tests/test_announcements.py",
        "tests/test_chat.py",
        "tests/test_live.py",
        "tests/test_page.py",
    },
    "minimal": {
        "tea_room/resources/echo.py",
        "tea_room/workers/clock.py",
        "tests/test_clock.py",
        "tests/test_echo.py",
    },
}


AGAIN = (
    "pachinko new tea-room --template chat --backend memory --licence none --ci none --no-docker "
    "--agents-md --git --no-install --yes"
)


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def staging_folders(folder):
    return list(folder.glob(f"{STAGING_PREFIX}*"))


@pytest.fixture
def locked_folder(tmp_path):
    """Give a folder where this user may write nothing."""
    if os.geteuid() == 0:  # permissions do not stop root; the kernel's own file system does
        return Path("/sys")
    tmp_path.chmod(0o555)
    return tmp_path


@pytest.fixture
def shell(tmp_path, environment):
    """Run a shell script in the test's folder that knows `pachinko` as a command."""
    command = f"pachinko() {{ '{sys.executable}' -B -P -m pachinko_cli \"$@\"; }}; "

    def run(script):
        return subprocess.run(
            ["/bin/sh", "-c", command + script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize("template", OWN)
def test_new_makes_the_template_s_files_and_no_other(pachinko, tmp_path, template):
    """The folder holds what the design lists, dotfiles included, and no leaving of the making."""
    made = pachinko("new", "tea-room", "--template", template, "--no-git")

    assert (made.returncode, made.stderr) == (0, "")
    assert files_of(tmp_path / "tea-room") == COMMON | OWN[template]
    assert names_in(tmp_path) == ["tea-room"]


def test_new_shows_the_tree_and_what_to_type_next(pachinko):
    """The last lines are what a newcomer types, and the command for next time."""
    made = pachinko("new", "tea-room")

    lines = made.stdout.splitlines()
    assert "│   ├── asgi.py" in lines
    assert lines[-5:] == [
        "  cd tea-room",
        "  pachinko serve",
        "",
        "The same without questions:",
        f"  {AGAIN}",
    ]


@pytest.mark.parametrize("name", ["tea-room", "Ann Teas ROOM"])
def test_the_command_it_prints_makes_the_same_project(pachinko, tmp_path, contents, name):
    """What `new` prints as the same without questions is byte for byte the same."""
    made = pachinko("new", name, "--template=minimal", "--no-agents-md", "--no-git")
    again = tmp_path / "again"
    again.mkdir()
    pachinko(*shlex.split(made.stdout.splitlines()[-1])[1:], cwd=again)

    [first] = (path for path in tmp_path.iterdir() if path != again)
    assert contents(again / first.name) == contents(first)


def test_a_name_with_capitals_and_spaces_names_three_things(pachinko, tmp_path):
    """The folder and the package follow from it, and people read it as it was typed."""
    pachinko("new", "Tea Room", "--no-git")

    project = tmp_path / "tea-room"
    assert (project / "tea_room" / "app.py").is_file()
    assert (project / "README.md").read_text().startswith("# Tea Room\n")
    assert "<title>Tea Room</title>" in (project / "tea_room/static/index.html").read_text()


@pytest.mark.quick
def test_the_project_notes_what_it_was_made_from(pachinko, tmp_path):
    """`[tool.pachinko]` has what `serve` needs, and what a later update will ask."""
    pachinko("new", "Tea Room", "--no-git", "--no-agents-md", "--template", "minimal")

    project = tomllib.loads((tmp_path / "tea-room/pyproject.toml").read_text())
    library = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert project["tool"]["pachinko"] == {
        "package": "tea_room",
        "app": "tea_room.asgi:app",
        "template": "minimal",
        "template-version": library["project"]["version"],
        "answers": {
            "name": "Tea Room",
            "agents-md": False,
            "backend": "memory",
            "licence": "none",
            "ci": "none",
            "docker": False,
        },
    }


def test_no_agents_md_leaves_it_out(pachinko, tmp_path):
    """The file is there unless one says otherwise."""
    pachinko("new", "tea-room", "--no-git", "--no-agents-md")

    assert files_of(tmp_path / "tea-room") == (COMMON | OWN["chat"]) - {"AGENTS.md"}


@pytest.mark.parametrize(
    "name",
    [
        "class",
        "match",
        "type",
        "json",
        "../x",
        "/tmp/x",
        "a\\b",
        ".",
        "..",
        "1a",
        "",
        " ",
        "---",
        "x" * 10_240,
        "x" * 65,
        "\uff54\uff45\uff41",  # full-width letters
        "теа",
        "café",
        "tea\nroom",
        "tea\x1b[31m",
        "falcon",
        "falcon-pachinko",
        "msgspec",
        "uvicorn",
        "pytest",
        "tests",
        "CON",
        "lpt1",
        "{{ 7*7 }}",
        "{% raw %}",
        "tea'room",
        'tea"room',
        "<b>tea</b>",
        "$(touch x)",
        "tea.room",
        "[/red]",
    ],
)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(pachinko, tmp_path, name):
    """Exit 2, one sentence, a name that works, and nothing written."""
    refused = pachinko("new", "--yes", "--", name)

    sentence, hint = refused.stderr.splitlines()
    assert (refused.returncode, refused.stdout) == (2, "")
    assert sentence.startswith("error: ")
    assert len(sentence) < 200
    assert project_name(hint.removeprefix("  try: pachinko new ")).package
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["json", "falcon", "../x", "café", "1a", "{{ tea }}", "com1"])
def test_the_name_that_is_offered_makes_a_project(pachinko, tmp_path, name):
    """What a refusal says to try is a command that works as it stands."""
    hint = pachinko("new", name).stderr.splitlines()[1]
    made = pachinko(*shlex.split(hint.removeprefix("  try: pachinko ")), "-q", "--no-git")

    assert (made.returncode, made.stderr) == (0, "")
    assert [(tmp_path / name / "pyproject.toml").is_file() for name in names_in(tmp_path)] == [True]


def test_a_name_in_bytes_that_are_no_text_is_refused(pachinko, tmp_path):
    """What a file system may call a file need not be text; a package's name has to be."""
    refused = pachinko("new", b"tea\xffroom")

    assert refused.returncode == 2
    assert "'tea\\udcffroom'" in refused.stderr
    assert names_in(tmp_path) == []


def test_no_name_and_nobody_to_ask_is_a_usage_error(pachinko, tmp_path):
    """A script that forgot the name learns how to give one."""
    refused = pachinko("new")

    assert refused.returncode == 2
    assert refused.stderr == "error: a project needs a name\n  try: pachinko new tea-room\n"
    assert names_in(tmp_path) == []


def test_an_unknown_template_is_refused_with_those_there_are(pachinko, tmp_path):
    """Exit 2, and the names to choose from."""
    refused = pachinko("new", "tea-room", "--template", "caht")

    assert refused.returncode == 2
    assert refused.stderr == (
        "error: there is no template 'caht'\n  did you mean chat? --template takes chat, minimal\n"
    )
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("there", ["folder", "empty folder", "file", "link", "dangling link"])
def test_what_is_there_already_is_refused_and_stays(pachinko, tmp_path, contents, there):
    """Whatever has the name keeps it, its bytes and its place; exit 1."""
    target, elsewhere = tmp_path / "tea-room", tmp_path / "elsewhere"
    if there in {"folder", "empty folder"}:
        target.mkdir()
    if there == "folder":
        (target / "diary.txt").write_text("mine")
    if there == "file":
        target.write_text("mine")
    if there == "link":
        elsewhere.mkdir()
    if there in {"link", "dangling link"}:
        target.symlink_to(elsewhere)
    before = contents(tmp_path)

    refused = pachinko("new", "tea-room", "--yes")

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {target} exists already, and was not touched\n")
    assert contents(tmp_path) == before


def test_a_folder_that_may_not_be_written_is_named(pachinko, locked_folder):
    """The error has the folder, and the reason in the system's words; exit 1."""
    refused = pachinko("new", "tea-room", cwd=locked_folder)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: cannot write in {locked_folder}: ")
    assert "Traceback" not in refused.stderr


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, shell):
    """A write that fails in the middle is named, and what was written before it is gone."""
    # A limit on the size of files fails as a full disk does: some fit, and a later one does not.
    refused = shell("ulimit -f 4; pachinko new tea-room")

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: cannot write in {tmp_path}: File too large")
    assert names_in(tmp_path) == []


def test_a_current_folder_that_was_deleted_is_no_traceback(shell):
    """Somebody deleted the folder in another window."""
    refused = shell("mkdir gone; cd gone; rmdir ../gone; pachinko new tea-room")

    assert refused.returncode == 1
    assert refused.stderr.startswith("error: the current folder was deleted\n")


@pytest.mark.parametrize("path", ["{{ 7*7 }}", "{% raw %}", "{# tea #}"])
def test_a_path_that_cookiecutter_would_render_is_refused(pachinko, tmp_path, path):
    """Cookiecutter would take the folder's own path for a template, and write somewhere else."""
    folder = tmp_path / path
    folder.mkdir()

    refused = pachinko("new", "tea-room", cwd=folder)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: no project can be made in {folder}: ")
    assert [*tmp_path.rglob("*")] == [folder]


def test_a_path_with_spaces_and_signs_is_as_good_as_any(pachinko, tmp_path):
    """Only Cookiecutter's own marks are special in a path."""
    folder = tmp_path / "Ann's 100% {tea} $HOME [red]"
    folder.mkdir()

    made = pachinko("new", "tea-room", "--no-git", cwd=folder)

    assert (made.returncode, made.stderr) == (0, "")
    assert f"Created {folder}/tea-room\n" in made.stdout
    assert files_of(folder / "tea-room") == COMMON | OWN["chat"]


def test_cookiecutter_s_own_settings_and_replays_stay_out(pachinko, tmp_path, contents):
    """A person who uses Cookiecutter for other things has settings; none of them applies here."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".cookiecutterrc").write_text(
        "default_context: {project_name: Poison, package: poison, project_slug: poison}\n"
        f"cookiecutters_dir: {home}/cookiecutters\nreplay_dir: {home}/replay\n"
    )
    before = contents(home)

    pachinko(
        "new",
        "tea-room",
        HOME=str(home),
        COOKIECUTTER_CONFIG=str(home / ".cookiecutterrc"),
    )

    made = contents(tmp_path / "tea-room")
    assert contents(home) == before
    assert not [path for path, text in made.items() if b"oison" in (text or b"")]


def test_dry_run_shows_the_tree_and_writes_nothing(pachinko, tmp_path):
    """What would be made is shown as it would be, the checks included."""
    shown = pachinko("new", "tea-room", "--dry-run")

    assert shown.returncode == 0
    assert shown.stdout.startswith(f"Would create {tmp_path}/tea-room\n")
    assert "│   ├── asgi.py" in shown.stdout
    assert names_in(tmp_path) == []


def test_dry_run_refuses_what_new_would_refuse(pachinko, tmp_path):
    """A folder that exists is found without trying to write it."""
    (tmp_path / "tea-room").mkdir()

    assert pachinko("new", "tea-room", "--dry-run").returncode == 1


@pytest.mark.quick
def test_json_is_one_event_a_line_and_nothing_else(pachinko, tmp_path):
    """A program reads what was made and what to do next from stdout."""
    made = pachinko("new", "tea-room", "--json", "--git", "--template", "minimal")

    created, git, following = map(json.loads, made.stdout.splitlines())
    assert created.pop("files") == sorted(created_files(tmp_path))
    assert created == {
        "event": "created",
        "path": f"{tmp_path}/tea-room",
        "name": "Tea Room",
        "package": "tea_room",
        "template": "minimal",
    }
    assert git == {"event": "git", "ok": True}
    assert following["commands"] == ["cd tea-room", "pachinko serve"]


def created_files(folder):
    return {file for file in files_of(folder / "tea-room") if not file.startswith(".git/")}


def test_json_leaves_stdout_empty_when_it_is_refused(pachinko):
    """The reason is for people, on stderr; a program has the exit code."""
    refused = pachinko("new", "class", "--json")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: 'class' is a keyword")


def test_quiet_says_nothing_when_all_is_well(pachinko, tmp_path):
    """A script that wants silence has it."""
    made = pachinko("new", "tea-room", "-q")

    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    assert (tmp_path / "tea-room").is_dir()


def test_files_have_the_modes_that_the_user_s_own_would(pachinko, tmp_path):
    """The staging folder is private; what is moved out of it follows the umask."""
    mask = os.umask(0o027)
    try:
        pachinko("new", "tea-room", "--no-git")
    finally:
        os.umask(mask)

    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "tea-room").rglob("*")}
    assert modes == {"0o750", "0o640"}
    assert (tmp_path / "tea-room").stat().st_mode & 0o777 == 0o750


@pytest.mark.quick
def test_ctrl_c_leaves_nothing(begin, tmp_path, until):
    """Interrupted while it renders, `new` takes everything back and says so; exit 130."""
    process = begin("new", "tea-room")
    until(lambda: staging_folders(tmp_path))

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)

    assert (process.returncode, stderr) == (130, "error: interrupted; nothing was made\n")
    assert names_in(tmp_path) == []


def test_what_a_killed_run_left_is_swept_by_the_next(begin, pachinko, tmp_path, until):
    """SIGKILL lets nobody clean up; the next run does."""
    process = begin("new", "tea-room")
    until(lambda: staging_folders(tmp_path))
    process.kill()
    process.wait(30)
    left = staging_folders(tmp_path)

    pachinko("new", "other-room")

    assert len(left) == 1
    assert names_in(tmp_path) == ["other-room"]


def test_a_run_that_is_still_at_work_is_not_swept(begin, pachinko, tmp_path, until):
    """Two runs beside each other both end well."""
    slow = begin("new", "tea-room")
    until(lambda: staging_folders(tmp_path))
    slow.send_signal(signal.SIGSTOP)

    pachinko("new", "other-room")
    slow.send_signal(signal.SIGCONT)
    slow.communicate(timeout=60)

    assert slow.returncode == 0
    assert names_in(tmp_path) == ["other-room", "tea-room"]
    assert created_files(tmp_path) == COMMON | OWN["chat"]


def test_of_two_runs_for_one_name_the_second_is_refused(begin, pachinko, tmp_path, until):
    """The name is looked at again right before the rename, and the first come keeps it."""
    slow = begin("new", "tea-room", "--template", "minimal")
    until(lambda: staging_folders(tmp_path))
    slow.send_signal(signal.SIGSTOP)

    pachinko("new", "tea-room", "--template", "chat")
    slow.send_signal(signal.SIGCONT)
    _, stderr = slow.communicate(timeout=60)

    assert slow.returncode == 1
    assert "exists already" in stderr
    assert created_files(tmp_path) == COMMON | OWN["chat"]
