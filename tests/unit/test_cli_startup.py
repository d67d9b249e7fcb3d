"""What the command line loads before it has anything to do, and what it says without its extra."""

import subprocess
import sys

import pytest
import typer.main

from pachinko_cli.app import app

HEAVY = ("rich", "pydantic", "cookiecutter", "jinja2", "uvicorn", "falcon", "msgspec")
# Typer itself asks Pydantic to read what follows a command's name.
FOR_A_COMMAND = ("cookiecutter", "jinja2", "uvicorn", "falcon", "msgspec")

COMMANDS = tuple(typer.main.get_command(app).commands)

RUN = """
import runpy, sys
sys.argv[1:] = {arguments}
try:
    runpy.run_module("pachinko_cli", run_name="__main__")
finally:
    print(sorted(set(sys.modules) & set({watched})), file=sys.stderr)
"""
WITHOUT = """
import runpy, sys
for name in {missing}:
    sys.modules[name] = None
runpy.run_module("pachinko_cli", run_name="__main__")
"""


def python(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "watched"),
    [
        (["--help"], HEAVY),
        (["--version"], HEAVY),
        *(([command, "--help"], FOR_A_COMMAND) for command in COMMANDS),
        (["new", "class"], FOR_A_COMMAND),
        (["srve"], FOR_A_COMMAND),
    ],
)
def test_nothing_heavy_is_loaded_to_say_a_few_words(arguments, watched):
    """Help is there at once, and so is a refusal."""
    done = python(RUN.format(arguments=arguments, watched=watched))

    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_s_help_has_an_example(command):
    """The fastest way to learn a command is to copy one."""
    done = python(RUN.format(arguments=[command, "--help"], watched=()))

    assert f"Examples:\n    pachinko {command}" in done.stdout


@pytest.mark.parametrize("missing", ["typer", "rich", "cookiecutter", "uvicorn"])
def test_without_the_extra_the_command_says_how_to_get_it(missing):
    """The library alone has the command, which prints the line to type; exit 1, no traceback."""
    done = python(WITHOUT.format(missing=[missing]))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"pachinko needs {missing}, which the library alone does not install.\n"
        "Type:  pip install 'falcon-pachinko[cli]'\n"
    )


def test_an_error_of_ours_is_no_traceback_and_a_bug_is_one():
    """A person gets sentences; whoever repairs a bug gets the place where it is."""
    refused = python(RUN.format(arguments=["new", "1a"], watched=()))
    broken = python(
        "import pachinko_cli.scaffold as scaffold; scaffold.vacant = None\n"
        + RUN.format(arguments=["new", "tea-room"], watched=())
    )

    assert "Traceback" not in refused.stderr
    assert "TypeError: 'NoneType' object is not callable" in broken.stderr
