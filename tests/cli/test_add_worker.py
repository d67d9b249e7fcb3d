"""`pachinko add-worker` for somebody who types it in a project."""

import json

import pytest

from pachinko_cli.commands.add_worker import interval
from pachinko_cli.errors import CliError


@pytest.fixture
def add(pachinko, project):
    """Run `pachinko add-worker` in the project."""
    return lambda *arguments: pachinko("add-worker", *arguments, cwd=project)


def test_it_says_what_becomes_of_every_file_and_what_to_type_next(add):
    """One line a file, one for what was added, and the next commands."""
    ran = add("pulse", "--every", "5s")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == (
        "   create  tea_room/workers/pulse.py\n"
        "   create  tests/test_pulse.py\n"
        "   modify  tea_room/workers/__init__.py\n"
        "   modify  .pachinko/manifest.json\n"
        "Added run_pulse, every 5s\n"
        "\n"
        "Next:\n"
        "  python -m pytest tests/test_pulse.py\n"
        "  pachinko serve\n"
    )


@pytest.mark.quick
def test_the_table_and_the_imports_get_a_line_each(add, project):
    """In workers/__init__.py; the time is in the worker's own module."""
    table = project / "tea_room/workers/__init__.py"
    before = table.read_text().splitlines()
    add("pulse", "--every", "1.5m")
    after = table.read_text().splitlines()

    assert [line for line in after if line not in before] == [
        "from .pulse import run_pulse",
        "    run_pulse,",
    ]
    assert "\nEVERY = 90.0  # seconds\n" in (project / "tea_room/workers/pulse.py").read_text()


def test_the_same_again_changes_nothing(add, project, contents):
    """Every file is identical; exit 0."""
    add("pulse")
    before = contents(project)
    ran = add("pulse")

    assert ran.returncode == 0
    assert ran.stdout.count("identical") == 4
    assert contents(project) == before


def test_another_time_is_a_conflict(add, project, contents):
    """The module is there already; `--force` sets the new one."""
    add("pulse")
    before = contents(project)
    refused = add("pulse", "--every", "1h")

    assert refused.returncode == 1
    assert "           +EVERY = 3600.0  # seconds\n" in refused.stdout
    assert contents(project) == before
    assert add("pulse", "--every", "1h", "--force").returncode == 0


def test_a_resource_of_that_name_is_in_the_way_of_its_test(pachinko, add, project):
    """Both would have the same test; the worker needs another name."""
    pachinko("add-resource", "pulse", cwd=project)
    refused = add("pulse")

    assert refused.returncode == 1
    assert "tests/test_pulse.py exists already and differs" in refused.stderr
    assert not (project / "tea_room/workers/pulse.py").exists()


def test_a_table_that_is_not_recognised_is_left_alone(add, project):
    """The files are made, the lines to add are shown, exit 3."""
    table = project / "tea_room/workers/__init__.py"
    table.write_text("WORKERS = find_workers()\n")
    ran = add("pulse")

    assert ran.returncode == 3
    assert ran.stderr.endswith("      from .pulse import run_pulse\n      run_pulse,\n")
    assert table.read_text() == "WORKERS = find_workers()\n"


def test_a_singleton_says_so_beside_its_function(add, project):
    """It is the library that sees to it; the table is the same."""
    add("pulse", "--singleton")
    module = (project / "tea_room/workers/pulse.py").read_text()

    assert "\n@worker(singleton=True)  # on one of" in module
    assert "import WebSocketConnectionManager, worker\n" in module


def test_json_is_one_event_a_line(add):
    """The answer is in seconds."""
    *_, added, _ = map(json.loads, add("pulse", "--json", "--every", "500ms").stdout.splitlines())

    assert (added["subject"], added["answers"]) == ("run_pulse", {"every": 0.5, "singleton": False})


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("30", 30.0),
        ("500ms", 0.5),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        ("366d", 31_622_400),
    ],
)
def test_a_time_has_a_unit(text, seconds):
    """Without one it is seconds."""
    assert interval(text) == seconds


@pytest.mark.quick
@pytest.mark.parametrize(
    "text", ["", "0", "-1", "0.1ms", "1e3", "nan", "inf", "5 minutes", "367d", "9" * 99]
)
def test_what_is_no_time_is_refused(text):
    """Exit 2, and how it is written."""
    with pytest.raises(CliError, match="is no time between") as refused:
        interval(text)

    assert refused.value.exit_code == 2
    assert "500ms" in refused.value.hint
