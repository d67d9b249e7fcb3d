"""The built wheel, in clean environments: what people install is what works.

Slower than everything else, since it builds, makes environments and asks the package index.
"""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
DEADLINE = 240  # seconds for one step; most of them wait for the package index

pytestmark = pytest.mark.timeout(DEADLINE * 2)


def run(*command, cwd, code=0):
    """Run a command as somebody who has set nothing, and give what it printed."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    }
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the source distribution, and from that alone the wheel, as a release does."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(CHECKOUT), cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel):
    """Give a function that installs the wheel in a new environment, and gives its programs."""

    def install(extra=""):
        folder = tmp_path_factory.mktemp("installed")
        venv.create(folder / "venv", with_pip=True)
        programs = folder / "venv" / "bin"
        pip = (
            programs / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        )
        run(*pip, f"{wheel}{extra}", cwd=folder)
        return programs

    return install


@pytest.fixture(scope="module")
def base(installed):
    """Install the library alone."""
    return installed()


@pytest.fixture(scope="module")
def complete(installed):
    """Install the library with its command line."""
    return installed("[cli]")


@pytest.mark.quick
def test_the_wheel_has_every_file_of_the_templates(wheel):
    """Dotfiles included, and those whose names some .gitignore knows; nothing else comes along."""
    root = "pachinko_cli/_templates/"
    packed = {
        name.removeprefix(root)
        for name in zipfile.ZipFile(wheel).namelist()
        if name.startswith(root)
    }
    here = {
        path.relative_to(CHECKOUT / "templates").as_posix()
        for path in (CHECKOUT / "templates").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert "project/{{cookiecutter.project_slug}}/.gitignore" in packed
    assert packed == here


@pytest.mark.quick
def test_the_wheel_has_two_packages_and_their_types(wheel):
    """The library, the command line, and the marks that tell type checkers to read them."""
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "falcon_pachinko",
        "pachinko_cli",
    }
    assert {"falcon_pachinko/py.typed", "pachinko_cli/py.typed"} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.quick
def test_the_library_alone_needs_falcon_and_msgspec(base, tmp_path):
    """Nothing of the extras is there, and everything public can be imported."""
    program = (
        "import falcon_pachinko, falcon_pachinko.testing\n"
        "for name in falcon_pachinko.__all__: getattr(falcon_pachinko, name)\n"
        "from importlib.metadata import distributions\n"
        "print(*{distribution.name for distribution in distributions()})"
    )
    printed = run(base / "python", "-c", program, cwd=tmp_path)

    beside = set(printed.split()) - {"pip", "setuptools"}  # what an environment begins with
    assert beside == {"falcon", "falcon-pachinko", "msgspec"}


def test_without_the_extra_the_command_prints_the_line_that_adds_it(base, tmp_path):
    """Somebody who installed the library and types `pachinko` is one line from having it."""
    printed = run(base / "pachinko", "new", "tea-room", cwd=tmp_path, code=1)

    assert "Type:  pip install 'falcon-pachinko[cli]'\n" in printed
    assert "Traceback" not in printed


def test_pip_s_bytecode_is_in_no_project(complete, tmp_path):
    """Pip compiles the template files that are valid Python; a project has none of that."""
    program = "import pachinko_cli; print(pachinko_cli.__path__[0])"
    package = Path(run(complete / "python", "-c", program, cwd=tmp_path).strip())
    run(complete / "pachinko", "new", "tea-room", "--no-git", cwd=tmp_path)

    assert [*(package / "_templates").rglob("__pycache__")]
    assert not [*tmp_path.rglob("__pycache__")]


@pytest.mark.parametrize("template", ["chat", "minimal"])
def test_the_wheel_makes_what_the_checkout_makes(complete, tmp_path, template):
    """The same files with the same bytes, but for where the library comes from, and its hash."""
    made = {}
    for name, program in (
        ("wheel", [complete / "pachinko"]),
        ("checkout", [sys.executable, "-m", "pachinko_cli"]),
    ):
        folder = tmp_path / name
        folder.mkdir()
        run(*program, "new", "tea-room", "--no-git", "--template", template, cwd=folder)
        made[name] = {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "pyproject.toml" and ".pachinko" not in path.parts
        }

    assert made["wheel"] == made["checkout"]


def test_the_steps_of_the_image_make_what_it_runs(complete, tmp_path):
    """What the Dockerfile copies and runs, done without Docker: the server's own import works."""
    flags = ("--no-git", "--docker", "--license=MIT", "--holder=Ann", "--backend=redis")
    run(complete / "pachinko", "new", "tea-room", *flags, cwd=tmp_path)
    project, image = tmp_path / "tea-room", tmp_path / "image"
    image.mkdir()
    lines = (project / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            *names, target = line.split()[1:]
            for name in names:
                run("cp", "-r", project / name, image / target, cwd=tmp_path)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"

    [install] = [line.split()[1:] for line in lines if line.startswith("RUN pip ")]
    run(python, "-m", *install, "--quiet", "--disable-pip-version-check", cwd=image)
    program = "import redis, tea_room.asgi; print(tea_room.__file__)"
    printed = run(python, "-P", "-c", program, cwd=tmp_path)
    uvicorn = run(tmp_path / "venv/bin/uvicorn", "--version", cwd=tmp_path)

    assert printed.startswith(str(tmp_path / "venv"))
    assert "Running uvicorn" in uvicorn
    assert (Path(printed.strip()).parent / "static/index.html").is_file()


def test_a_project_installs_and_passes_its_tests(complete, wheel, tmp_path):
    """With no index that has the library, it comes from where the command came from."""
    printed = run(complete / "pachinko", "new", "tea-room", "--install", cwd=tmp_path)
    program = "import falcon_pachinko, tea_room.asgi; print(falcon_pachinko.__file__)"
    imported = run(tmp_path / "tea-room/.venv/bin/python", "-c", program, cwd=tmp_path)

    assert "Installed in .venv, and its tests pass" in printed
    assert wheel.as_uri() in (tmp_path / "tea-room/pyproject.toml").read_text()
    assert imported.startswith(str(tmp_path))
