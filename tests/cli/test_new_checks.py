"""What a new project says of itself: its own lint, types, tests and coverage, all clean."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nats_server import executable as nats_binary
from redis_server import executable as redis_binary

CHECKS = {
    "lint": ["-m", "ruff", "check", "--no-cache"],
    "format": ["-m", "ruff", "format", "--check", "--no-cache"],
    "types": ["-m", "mypy"],
}
# Where redis-server and nats-server are, beside the machine's own places.
SERVERS = "".join(f"{Path(each).parent}{os.pathsep}" for each in (nats_binary(), redis_binary()))
LONGEST = "a-" * 31 + "zz"  # 64 characters: whatever wraps or sorts by the name, does it here


EVERYTHING = ("--docker", "--no-agents-md", "--licence=Apache-2.0", "--holder=Ann")
# What each template is without options, and with all of them; tests/packaging/test_matrix.py has
# the pairs in between.
KINDS = {
    "chat": ("--template=chat", "--backend=memory"),
    "chat, redis": ("--template=chat", "--backend=redis", "--ci=github", *EVERYTHING),
    "minimal": ("--template=minimal", "--backend=memory"),
    "minimal, nats": ("--template=minimal", "--backend=nats", "--ci=gitlab", *EVERYTHING),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    """Give the flags of each kind of project in turn."""
    return KINDS[request.param]


@pytest.fixture(scope="module")
def make(tmp_path_factory, environment, kind):
    """Give a function that makes a project of a name, and gives its folder."""
    folder = tmp_path_factory.mktemp("checks")

    def new(name):
        subprocess.run(
            [sys.executable, "-m", "pachinko_cli", "new", name, "-q", *kind],
            cwd=folder,
            env=environment,
            check=True,
            timeout=60,
        )
        return folder / name

    return new


@pytest.fixture(scope="module")
def project(make):
    """Give a project made once for the module."""
    return make("tea-room")


@pytest.fixture
def check(environment):
    """Give a function that runs Python in a project, and fails with what it printed."""

    def run(folder, *arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment | {"PATH": SERVERS + environment["PATH"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


@pytest.mark.parametrize("name", CHECKS)
def test_a_new_project_is_clean(project, check, name):
    """Somebody who runs the tools on the first day finds nothing to correct."""
    assert check(project, *CHECKS[name])


def test_its_tests_pass_and_reach_every_line(project, check):
    """The project's own tests are green, with every branch of its code covered."""
    printed = check(project, "-m", "coverage", "run", "-m", "pytest", "-q")

    assert "skipped" not in printed
    assert "TOTAL" in check(project, "-m", "coverage", "report")


@pytest.mark.parametrize("name", ["lint", "format"])
def test_the_name_does_not_matter_to_the_layout(make, check, name):
    """The longest name there may be breaks no line length and no order of imports."""
    longest = LONGEST if name == "lint" else f"{LONGEST[:-1]}y"

    assert check(make(longest), *CHECKS[name])


def test_its_files_have_no_trace_of_the_template(make):
    """Nothing of the template language is left in any file."""
    project = make("fresh-room")
    ours = {".git", ".pachinko"}
    files = [path for path in project.rglob("*") if path.is_file() and not ours & {*path.parts}]

    assert len(files) > 15
    assert [path for path in files if "cookiecutter" in path.read_text().lower()] == []
