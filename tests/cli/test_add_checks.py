"""What a project says of itself after things were added: lint, types, tests and coverage."""

import random
import subprocess
import sys

import pytest

from pachinko_cli import additions, project
from pachinko_cli.messages import TYPES, messages
from pachinko_cli.modules import module_name
from pachinko_cli.parts import KINDS
from pachinko_cli.paths import route_path

SAMPLES = 70  # every pair of a kind, a path and a type is among them
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
    ["add-worker", f"d{LONGEST[1:]}", "--every", "0.5", "--singleton"],
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
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
    return folder / "tea-room"


# What the sampled resources are put together from.
NAMES = [
    "note",
    "List",
    "HTTPStatus",
    "x",
    "datetime",
    "uuid",
    "struct",
    "typing",
    "a1b2",
    "fields",
]
ENDS = ["", "/{word}", "/{number:int}", "/{share:float}", "/{who:uuid}", "/{at:dt}", "/{rest:path}"]
TYPED = [
    *(
        "say",
        "class",
        "send",
        "list",
        "type",
        "id",
        "on_message",
        "room",
        "worker",
        "any",
        "Struct",
    ),
    *(
        "a.b-c_D",
        "HTTPStatus",
        "x1",
        "message",
        "payload",
        "test",
        "True",
        "uuid",
        "datetime",
        "w" * 32,
    ),
]
FIELD_NAMES = [
    *("text", "at", "payload", "ws", "message", "type", "id", "ref", "room", "name", "hash", "x"),
    *("CamelCase", "l", "O", "async_", "field_" + 34 * "f"),
]


def sampled(number):
    """Put a resource together that nobody has thought of; the same number gives the same one.

    Kinds, paths and types take turns at different paces, so that each meets each of the others.
    """
    dice = random.Random(number)
    kind, end = list(KINDS)[number % 3], ENDS[number % 7]
    typed = {}
    for turn in range(number % 4):
        fields = [
            f"{name}={list(TYPES)[(number + turn * 3 + place) % 10]}{dice.choice(['', '?'])}"
            for place, name in enumerate(dice.sample(FIELD_NAMES, dice.randrange(5)))
        ]
        kind_of_message = dice.choice(TYPED)
        typed[kind_of_message.lower()] = f"{kind_of_message}:{','.join(fields)}".rstrip(":")
    name = f"{NAMES[number % 10]}-{number}"
    return name, f"/ws/{name.lower()}{end}", kind, list(typed.values())


@pytest.fixture(scope="module")
def crowded(tmp_path_factory, environment):
    """Give a project with more resources than anybody has, each of them another."""
    folder = tmp_path_factory.mktemp("crowded")
    subprocess.run(
        [sys.executable, "-m", "pachinko_cli", "new", "tea-room", "-q", "--no-git"],
        cwd=folder,
        env=environment,
        check=True,
        timeout=60,
    )
    found = project.find(folder / "tea-room")
    for number in range(SAMPLES):
        name, path, kind, typed = sampled(number)
        declared = messages(typed) or messages([each for each in [KINDS[kind][0]] if each])
        checked = module_name(name, "add-resource")
        additions.carry_out(additions.resource(found, checked, route_path(path), kind, declared))
    return folder / "tea-room"


# Every test makes an app, and one with so many routes takes its time.
OWN_ROUTE = """

@pytest.fixture(autouse=True)
def own_route_alone(request, monkeypatch):
    from tea_room import routes

    name = request.module.__name__.rpartition("test_")[2]
    own = [each for each in routes.ROUTES if each[1].__module__.endswith(f".{name}")]
    monkeypatch.setattr(routes, "ROUTES", own or routes.ROUTES[:1])
"""


@pytest.mark.timeout(600)  # mypy and the tests of a hundred modules
def test_any_kind_with_any_path_and_any_messages_is_clean(crowded, check):
    """Linted, formatted, typed, all in one app; its tests pass and reach every line."""
    for arguments in CHECKS.values():
        check(crowded, *arguments)
    check(crowded, "-c", "from tea_room.app import create_app; create_app()")
    with (crowded / "tests/conftest.py").open("a") as conftest:
        conftest.write(OWN_ROUTE)
    check(crowded, "-m", "coverage", "run", "-m", "pytest", "-q", "-x")

    assert "100%" in check(crowded, "-m", "coverage", "report", "--fail-under=100")


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
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


@pytest.mark.parametrize("name", CHECKS)
def test_a_project_stays_clean(grown, check, name):
    """Somebody who runs the tools after every command finds nothing to correct."""
    assert check(grown, *CHECKS[name])


@pytest.mark.timeout(600)  # as many tests as a small team writes in a month
def test_its_tests_pass_and_reach_every_line(grown, check):
    """What was generated is covered by what was generated."""
    check(grown, "-m", "coverage", "run", "-m", "pytest", "-q", "-x")

    assert "TOTAL" in check(grown, "-m", "coverage", "report")
