"""What people and machines are shown."""

import json
from pathlib import Path

import pytest

from pachinko_cli import console
from pachinko_cli.console import Console
from pachinko_cli.errors import CliError


def test_an_error_is_what_happened_and_what_to_do(capsys):
    """Two lines on stderr, nothing on stdout."""
    console.fail(CliError("the kettle is cold", hint="try: pachinko boil"))

    assert capsys.readouterr() == ("", "error: the kettle is cold\n  try: pachinko boil\n")


@pytest.mark.parametrize("text", ["[red]no[/red]", "[/]", ":smile:", "x" * 300, "https://x/y"])
def test_text_is_shown_as_it_is(capsys, text):
    """No markup, no emoji, no breaking of long lines: a path can be copied from the screen."""
    console.warn(CliError(text, hint=text))
    Console().line(text)

    assert capsys.readouterr() == (f"{text}\n", f"warning: {text}\n  {text}\n")


def test_a_tree_has_folders_first_and_files_of_the_top_last(capsys):
    """The code is what one looks for; what is beside it comes after."""
    Console().tree("tea", [Path("z.md"), Path("tea/b/[c].py"), Path("tea/a.py"), Path("a.md")])

    assert capsys.readouterr().out.splitlines() == [
        "tea/",
        "├── tea/",
        "│   ├── a.py",
        "│   └── b/",
        "│       └── [c].py",
        "├── a.md",
        "└── z.md",
    ]


@pytest.mark.parametrize("silent", [Console(quiet=True), Console(as_json=True)])
def test_people_s_text_is_left_out(capsys, silent):
    """Neither a script that wants silence nor one that reads JSON has to skip anything."""
    silent.line("Created")
    silent.tree("tea", [Path("a")])

    assert capsys.readouterr().out == ""


def test_events_are_json_lines_for_those_who_asked(capsys):
    """One object a line, with its kind first."""
    Console().event("created", path="a")
    Console(as_json=True).event("created", path='a"b')

    assert json.loads(capsys.readouterr().out) == {"event": "created", "path": 'a"b'}


def test_progress_off_a_terminal_is_a_line_a_step(capsys):
    """A log shows what was done, in order, and no animation."""
    with Console().progress("Installing") as step:
        step("one")
        step("two [2]")

    assert capsys.readouterr().err == "Installing: one\nInstalling: two [2]\n"


def test_quiet_progress_is_none(capsys):
    """Silence includes the steps."""
    with Console(quiet=True).progress("Installing") as step:
        step("one")

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("ci", "asks"), [("", True), ("0", True), ("false", True), ("1", False)])
def test_a_ci_is_nobody_to_ask(monkeypatch, ci, asks):
    """Some build services have terminals, and nobody at them."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr("sys.stdin", Screen())
    monkeypatch.setattr("sys.stderr", Screen())

    assert console.is_interactive() is asks


class Screen:
    """A stream that is a terminal."""

    def isatty(self):
        return True
