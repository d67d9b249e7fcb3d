"""The steps after a project is made: a repository, an installation; a failure is a warning."""

import json
import signal
import subprocess
import sys

import pytest

UV = """#!/bin/sh
echo "uv $*" >> "$CALLS"
mkdir -p .venv/bin
{then}
printf '#!/bin/sh\\necho "python $*" >> "$CALLS"\\n{tests}\\n' > .venv/bin/python
chmod +x .venv/bin/python
"""


@pytest.fixture
def programs(tmp_path_factory):
    """Give a folder of programs that is the whole PATH: git, and what a shell script needs."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("chmod", "git", "mkdir", "sh"):
        found = subprocess.run(
            ["/bin/sh", "-c", f"command -v {name}"], capture_output=True, text=True, check=True
        )
        (folder / name).symlink_to(found.stdout.strip())
    return folder


@pytest.fixture
def uv(programs):
    """Put a uv in the PATH that notes how it was called, and give its calls."""
    calls = programs / "calls"

    def put(then="", tests="exit 0"):
        program = programs / "uv"
        program.write_text(UV.format(then=then, tests=tests))
        program.chmod(0o755)

        def called():
            return calls.read_text().splitlines() if calls.exists() else []

        return {"PATH": str(programs), "CALLS": str(calls)}, called

    return put


@pytest.mark.quick
def test_git_begins_a_repository(pachinko, tmp_path):
    """Outside a repository the project gets one of its own."""
    pachinko("new", "tea-room")

    assert (tmp_path / "tea-room/.git/HEAD").is_file()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_inside_a_repository_git_begins_none(pachinko, tmp_path, kind):
    """A work tree's `.git` may be a folder or, in a linked work tree, a file."""
    git = tmp_path / ".git"
    git.mkdir() if kind == "folder" else git.write_text("gitdir: elsewhere")
    below = tmp_path / "below"
    below.mkdir()

    pachinko("new", "tea-room", cwd=below)
    pachinko("new", "other-room", "--git", cwd=below)

    assert not (below / "tea-room/.git").exists()
    assert (below / "other-room/.git").is_dir()


def test_a_repository_of_a_git_hook_is_left_alone(pachinko, tmp_path):
    """A git hook runs with its repository in variables; the new one is made here all the same."""
    made = pachinko("new", "tea-room", GIT_DIR=str(tmp_path / "hook.git"))

    assert made.returncode == 0
    assert (tmp_path / "tea-room/.git").is_dir()
    assert not (tmp_path / "hook.git").exists()


def test_without_git_the_project_is_made_and_a_warning_given(pachinko, tmp_path):
    """The repository is a convenience: its failure costs neither the project nor the exit code."""
    made = pachinko("new", "tea-room", "--git", "--json", PATH=str(tmp_path))

    assert made.returncode == 0
    assert made.stderr == (
        "warning: git is not installed\n"
        "  the project is complete; to repeat this step:  cd tea-room && git init --quiet\n"
    )
    assert {"event": "git", "ok": False, "reason": "git is not installed"} in [
        json.loads(line) for line in made.stdout.splitlines()
    ]
    assert (tmp_path / "tea-room/pyproject.toml").is_file()


def test_install_asks_uv_and_runs_the_tests_once(pachinko, uv):
    """Where there is a uv, it installs for this Python, and the first test run follows."""
    variables, calls = uv()

    made = pachinko("new", "tea-room", "--install", **variables)

    assert (made.returncode, made.stderr.count("warning")) == (0, 0)
    assert calls() == [f"uv sync --python {sys.executable}", "python -m pytest --quiet"]
    assert "Installed in .venv, and its tests pass\n" in made.stdout


def test_without_a_terminal_nothing_is_installed(pachinko, uv):
    """An installation takes its time and the network; a script asks for it with `--install`."""
    variables, calls = uv()

    pachinko("new", "tea-room", **variables)

    assert calls() == []


def test_an_installation_that_fails_is_a_warning(pachinko, tmp_path, uv):
    """The project stays, the half-made `.venv` goes, and the last words of the tool are shown."""
    variables, _ = uv(then="echo no network >&2; exit 7")
    uv_itself = f"{variables['PATH']}/uv"

    made = pachinko("new", "tea-room", "--install", **variables)

    assert made.returncode == 0
    assert f"uv sync --python {sys.executable}` failed with 7\nno network\n" in made.stderr
    assert made.stderr.endswith(
        "\n  the project is complete; to repeat this step:  cd tea-room && "
        f"{uv_itself} sync --python {sys.executable}\n"
    )
    assert not (tmp_path / "tea-room/.venv").exists()
    assert (tmp_path / "tea-room/pyproject.toml").is_file()


def test_tests_that_fail_are_a_warning_and_the_installation_stays(pachinko, tmp_path, uv):
    """One can look into it at once, with everything in place."""
    variables, _ = uv(tests="echo 1 failed; exit 1")

    made = pachinko("new", "tea-room", "--install", **variables)

    assert made.returncode == 0
    assert "-m pytest --quiet` failed with 1\n1 failed\n" in made.stderr
    assert made.stderr.endswith(".venv/bin/python -m pytest --quiet\n")
    assert (tmp_path / "tea-room/.venv").is_dir()


def test_verbose_shows_what_the_tools_print(pachinko, uv):
    """With `-v` the output of a step is there while it runs, on stderr."""
    variables, _ = uv(then="echo resolving things")

    made = pachinko("new", "tea-room", "--install", "-v", "--json", **variables)

    assert "resolving things\n" in made.stderr
    assert "resolving" not in made.stdout


def test_on_a_terminal_the_step_at_work_is_shown(terminal, uv):
    """A person sees what is being waited for, and it is gone when it is done."""
    variables, _ = uv()
    person = terminal("new", "tea-room", "--yes", "--install", **variables)
    person.expect("Installing: python -m pytest")
    code, shown = person.end()

    assert code == 0
    assert "Installed in .venv, and its tests pass\n" in shown


def test_ctrl_c_while_it_installs_keeps_the_project(begin, tmp_path, uv, until):
    """What is complete stays and is named, the half-made `.venv` goes; exit 130."""
    variables, _ = uv(then="kill -STOP $$")
    process = begin("new", "tea-room", "--install", **variables)
    until((tmp_path / "tea-room/.venv/bin").is_dir)

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 130
    assert stderr.endswith("error: interrupted; tea-room is complete, but not installed\n")
    assert not (tmp_path / "tea-room/.venv").exists()
    assert (tmp_path / "tea-room/pyproject.toml").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["tea-room"]
