"""What `pachinko new` puts into a project on request: a licence, a CI, an image, a backend."""

import hashlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from pachinko_cli.manifest import decode
from pachinko_cli.templates import OPTIONS, TEMPLATES

CHECKOUT = Path(__file__).parents[2]
EVERYTHING = ("--licence=MIT", "--holder=Ann", "--ci=github", "--docker", "--backend=redis")

# The texts of SPDX, their words in order, with <year> and <holder> where these go.
TEXTS = {
    "MIT": "25efd36c0c7a876bcfd5a547456c47b468a47206123bacad8077d9bb4a209eab",
    "Apache-2.0": "fba9890691b9f1247370a21886e6b507064a8cc7bbdacfb7368e77ad0b8ab7ff",
    "BSD-3-Clause": "4ed6f12aff5ba69c081a7ed16fba66a295adf7643c3c2f6b8cc644c9c9a91ac0",
    "ISC": "16f79f7b00dffec05fbe1ee550030f35b805dab4712004ccbe33a72b81ca3b08",
}


@pytest.fixture
def new(pachinko, tmp_path):
    """Give a function that makes a project with some flags, and gives its folder."""

    def make(*flags):
        made = pachinko("new", "tea-room", "--no-git", *flags)
        assert (made.returncode, made.stderr) == (0, "")
        return tmp_path / "tea-room"

    return make


def words(text):
    """Give what stands in a text, whatever its lines."""
    return " ".join(text.split())


@pytest.mark.parametrize("licence", TEXTS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_licence_is_the_text_of_spdx_with_year_and_holder(new, licence, template):
    """Word for word; pyproject.toml names it, and so does the README."""
    project = new("--template", template, "--licence", licence, "--holder", "Ann Teasdale")
    text = (project / "LICENSE").read_text()
    settings = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    whose = f"{datetime.now(UTC).year} Ann Teasdale"

    plain = words(text.replace(whose, "<year> <holder>"))
    assert whose in text
    assert hashlib.sha256(plain.encode()).hexdigest() == TEXTS[licence]
    assert (settings["license"], settings["license-files"]) == (licence, ["LICENSE"])
    assert f"licensed under {licence};" in (project / "README.md").read_text()


@pytest.mark.quick
def test_every_licence_is_one_that_was_compared():
    """Nobody offers a licence whose text no test knows."""
    assert {"none", *TEXTS} == set(OPTIONS["licence"])


@pytest.mark.quick
def test_the_guide_has_every_option_with_its_values():
    """Whoever reads the page sees what there is, the default first."""
    page = (CHECKOUT / "docs/how-to/start-a-project.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `--")]
    values = {row[1].split("`")[1]: row[2].split("`")[1::2] for row in rows}

    for option in ("template", "backend", "licence", "ci"):
        assert tuple(values[f"--{option}"]) == OPTIONS[option]
    assert {"--docker", "--no-agents-md"} < set(values)


def test_license_is_another_way_to_write_it(new):
    """American English, and capitals that are not SPDX's."""
    project = new("--license", "bsd-3-clause", "--holder", "Ann")

    assert (project / "LICENSE").read_text().startswith("BSD 3-Clause License\n")


def test_without_a_licence_nothing_speaks_of_one(new):
    """Neither a file nor a field: then all rights are reserved, as they are anywhere."""
    project = new()

    assert not (project / "LICENSE").exists()
    assert "licen" not in (project / "README.md").read_text().lower()
    assert "license" not in tomllib.loads((project / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    ("settings", "holder"),
    [
        ("[user]\n\tname = Ann Teasdale\n", "Ann Teasdale"),
        ("", "The Tea Room authors"),
        ('[user]\n\tname = "a\\nb"\n', "The Tea Room authors"),
        ("[user\n", "The Tea Room authors"),
        ('[user]\n\tname = "{{ 7*7 }}"\n', "{{ 7*7 }}"),
    ],
)
def test_the_holder_is_who_git_says(pachinko, tmp_path, settings, holder):
    """Without a `--holder` it is git's user, and where that is of no use, the authors."""
    config = tmp_path / "gitconfig"
    config.write_text(settings)

    made = pachinko("new", "tea-room", "--no-git", "--licence=MIT", GIT_CONFIG_GLOBAL=str(config))

    assert made.returncode == 0
    assert f"{datetime.now(UTC).year} {holder}\n" in (tmp_path / "tea-room/LICENSE").read_text()
    assert f"--holder {shlex.quote(holder)} " in made.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--licence", "GPL"), "there is no licence 'GPL'"),
        (("--backend", "rediss"), "there is no backend 'rediss'\n  did you mean redis? "),
        (("--ci", "githb"), "there is no ci 'githb'\n  did you mean github? "),
        (("--holder", "Ann"), "--holder is for a licence"),
        (("--licence", "MIT", "--holder", "a\nb"), "'a\\nb' cannot stand in a licence"),
        (("--licence", "MIT", "--holder", ""), "'' cannot stand in a licence"),
        (("--set", "a=b"), "--set is for a template of your own"),
        (("--trust",), "--trust is for a template of your own"),
    ],
)
def test_a_flag_that_makes_no_sense_is_a_usage_error(pachinko, tmp_path, flags, sentence):
    """Exit 2, why, and what there is; nothing is made."""
    refused = pachinko("new", "tea-room", *flags)

    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {sentence}")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "flags",
    [
        (),
        EVERYTHING,
        ("--backend=nats", "--licence=Apache-2.0", "--holder=Ann", "--ci=gitlab", "--no-agents-md"),
    ],
    ids=["nothing", "redis", "nats"],
)
def test_plain_cookiecutter_makes_the_same_tree(
    new, tmp_path, environment, contents, template, flags
):
    """A person who has only Cookiecutter gets, with the same answers, the same bytes.

    Only the notes of what was generated are ours.
    """
    project = new("--template", template, *flags)
    settings = tomllib.loads((project / "pyproject.toml").read_text())
    answers = settings["tool"]["pachinko"]["answers"]
    [source] = (
        requirement.partition("]")[2] or requirement.removeprefix("falcon-pachinko")
        for requirement in settings["project"]["dependencies"]
        if requirement.startswith("falcon-pachinko")
    )
    given = {name.replace("-", "_"): value for name, value in answers.items() if name != "name"}

    subprocess.run(
        [
            *(sys.executable, "-m", "cookiecutter", CHECKOUT, "--no-input", "--default-config"),
            *("--directory", f"templates/{TEMPLATES[template].folder}"),
            *("--output-dir", tmp_path / "plain", f"library_source={source}"),
            *(f"{name}={value}" for name, value in given.items()),
        ],
        env=environment | {"HOME": str(tmp_path)},
        check=True,
        timeout=60,
    )

    for made in (project, tmp_path / "plain/tea-room"):
        shutil.rmtree(made / ".pachinko", ignore_errors=True)
    assert contents(tmp_path / "plain/tea-room") == contents(project)


def test_the_manifest_and_the_settings_note_the_same_answers(new):
    """What `update` renders from is what people read."""
    project = new(*EVERYTHING)
    noted = decode((project / ".pachinko/manifest.json").read_bytes())
    settings = tomllib.loads((project / "pyproject.toml").read_text())

    assert noted.answers == settings["tool"]["pachinko"]["answers"]
    assert noted.answers["backend"] == "redis"
    assert ".github/workflows/ci.yml" in noted.files


def test_the_command_it_prints_has_every_answer(pachinko, tmp_path, contents):
    """Byte for byte the same project, options included."""
    made = pachinko("new", "tea-room", "--no-git", *EVERYTHING, "--no-agents-md")
    again = tmp_path / "again"
    again.mkdir()
    pachinko(*shlex.split(made.stdout.splitlines()[-1])[1:], cwd=again)

    assert contents(again / "tea-room") == contents(tmp_path / "tea-room")


@pytest.mark.parametrize("ci", ["github", "gitlab"])
@pytest.mark.parametrize("backend", OPTIONS["backend"])
def test_the_ci_runs_the_project_s_own_checks(new, ci, backend):
    """The commands of the README, in order, and the server where one is needed."""
    project = new("--ci", ci, "--backend", backend)
    file = {"github": ".github/workflows/ci.yml", "gitlab": ".gitlab-ci.yml"}[ci]
    check = yaml.safe_load((project / file).read_text())
    job = check["jobs"]["check"] if ci == "github" else check["check"]
    commands = (
        [step["run"] for step in job["steps"] if "run" in step] if ci == "github" else job["script"]
    )
    set_there = job.get("env" if ci == "github" else "variables", {}).get("TEA_ROOM_BACKEND")

    assert commands[-5:] == [
        "ruff check",
        "ruff format --check",
        "mypy",
        "coverage run -m pytest",
        "coverage report",
    ]
    assert "python -m pip install --editable . --group dev" in commands
    assert (set_there or "memory").split(":")[0] == backend
    assert (backend == "memory") == (f"{backend}:" not in (project / file).read_text())


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_image_s_command_serves_and_its_check_sees_it(new, environment, until, template):
    """The Dockerfile's own CMD, HEALTHCHECK and files, without Docker: a server that is well."""
    project = new("--template", template, "--docker", "--licence=MIT", "--holder=Ann")
    text = (project / "Dockerfile").read_text().replace("\\\n", "")
    lines = [line.strip() for line in text.splitlines()]
    [command] = [json.loads(line[4:]) for line in lines if line.startswith("CMD [")]
    [health] = [line.split("CMD ")[1] for line in lines if line.startswith("HEALTHCHECK")]
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--" not in line]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    command = [port if each == "8000" else each for each in command]
    check = [sys.executable, *json.loads(health.replace("8000", port))[1:]]
    down = subprocess.run(check, capture_output=True, check=False, timeout=60)

    serving = subprocess.Popen([sys.executable, "-m", *command], cwd=project, env=environment)
    try:
        until(lambda: answers(port))
        up = subprocess.run(check, check=False, timeout=60)
    finally:
        serving.terminate()
        serving.wait(30)

    assert (down.returncode, up.returncode) == (1, 0)
    assert [name for names in copied for name in names if not (project / name).exists()] == []
    assert {"pyproject.toml", "README.md", "LICENSE", "tea_room"} == {
        name for names in copied for name in names
    }
    assert any(line.startswith("USER ") and line != "USER root" for line in lines)


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("backend", ["redis", "nats"])
def test_compose_has_the_server_and_the_app_where_there_is_an_image(new, backend, docker):
    """The app waits until the server is well; without a Dockerfile there is only the server."""
    project = new("--backend", backend, *["--docker"] * docker)
    services = yaml.safe_load((project / "compose.yaml").read_text())["services"]

    assert set(services) == ({backend, "app"} if docker else {backend})
    assert services[backend]["healthcheck"]["test"][0] == "CMD"
    if docker:
        assert services["app"]["depends_on"] == {backend: {"condition": "service_healthy"}}
        assert services["app"]["environment"]["TEA_ROOM_BACKEND"].startswith(
            f"{backend}://{backend}:"
        )


@pytest.mark.quick
def test_one_process_needs_no_server(new):
    """With the backend `memory` nothing of the project knows of another."""
    project = new("--template=minimal")

    assert not (project / "compose.yaml").exists()
    assert not (project / "tests/test_two_processes.py").exists()
    assert "backend" not in (project / "tea_room/config.py").read_text()


def test_without_a_server_the_project_says_why_a_test_is_skipped(new, environment):
    """Nobody is told that two processes were tested when they were not."""
    project = new("--backend=redis", "--template=minimal")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "tests/test_two_processes.py"],
        cwd=project,
        env=environment | {"PATH": os.devnull},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert "1 skipped" in done.stdout
    assert "no redis-server here: install one, or set TEA_ROOM_BACKEND" in words(done.stdout)
