"""What a project says of itself after things were added: lint, types, tests and coverage."""

import subprocess
import sys

import pytest

LONGEST = "an_" * 21 + "a"  # 64 characters: whatever wraps or sorts by the name, does it here
WORD = "w" * 32
FIELDS = f"{'f' * 40}=datetime,{'g' * 40}=UUID?,{'h' * 40}=dict"

COMMANDS = [
    ["add-resource", "notes"],
    [
        "add-resource",
        "json",
        "/ws/json/{a}/{b:int}/x",
        "-m",
        "join:name,at=datetime?",
        "-m",
        "leave",
        "-m",
        "draw.it:x=int?,y=float,who=UUID,tags=list[str],extra=dict,ok=bool,when=datetime",
    ],
    ["add-resource", "quiz", "--kind", "reply"],
    [
        "add-resource",
        "quiz2",
        "/ws/quiz2/{key:int}/{who:uuid}",
        "--kind",
        "reply",
        "-m",
        "send:a=str?",
        "-m",
        "list",
        "-m",
        "on_connect:u=UUID",
    ],
    ["add-resource", "shell", "--kind", "empty"],
    [
        "add-resource",
        "shell2",
        "/ws/shell2/{key}",
        "--kind",
        "empty",
        "-m",
        "hello:name",
        "-m",
        "ping",
    ],
    ["add-resource", "app", "/ws/app"],
    ["add-resource", "path", "/ws/path/{rest:path}", "-m", "say:datetimes=list[int],at=datetime"],
    ["add-resource", "say"],
    ["add-resource", LONGEST, "-m", f"{WORD}:{FIELDS}"],
    ["add-resource", f"b{LONGEST[1:]}", f"/ws/{{{'k' * 40}}}/{{{'l' * 29}}}", "-m", "ping"],
    ["add-resource", f"c{LONGEST[1:]}", "/c", "--kind", "reply", "-m", f"{WORD}:{FIELDS}"],
    ["add-worker", "pulse", "--every", "5s"],
    ["add-worker", f"d{LONGEST[1:]}", "--every", "0.5"],
]
CHECKS = {
    "lint": ["-m", "ruff", "check", "--no-cache"],
    "format": ["-m", "ruff", "format", "--check", "--no-cache"],
    "types": ["-m", "mypy"],
}


@pytest.fixture(scope="module", params=["chat", "minimal"])
def grown(tmp_path_factory, environment, request):
    """Give a project of each template with everything in it that may be added."""
    folder = tmp_path_factory.mktemp("grown")
    new = ["new", "tea-room", "-q", "--no-git", "--template", request.param]
    for cwd, arguments in ((folder, new), *((folder / "tea-room", each) for each in COMMANDS)):
        ran = subprocess.run(
            [sys.executable, "-m", "pachinko_cli", *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
    return folder / "tea-room"


@pytest.fixture
def check(environment):
    """Give a function that runs Python in a project, and fails with what it printed."""

    def run(folder, *arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=55,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


@pytest.mark.parametrize("name", CHECKS)
def test_a_project_stays_clean(grown, check, name):
    """Somebody who runs the tools after every command finds nothing to correct."""
    assert check(grown, *CHECKS[name])


@pytest.mark.timeout(120)  # as many tests as a small team writes in a month
def test_its_tests_pass_and_reach_every_line(grown, check):
    """What was generated is covered by what was generated."""
    check(grown, "-m", "coverage", "run", "-m", "pytest", "-q", "-x")

    assert "TOTAL" in check(grown, "-m", "coverage", "report")
