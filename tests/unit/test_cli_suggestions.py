"""What is said to somebody who mistyped, and which version is older."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pachinko_cli import app as command_line
from pachinko_cli import diagnosis, usage, versions
from pachinko_cli.findings import Mark
from pachinko_cli.suggestions import near

COMMANDS = ["new", "add-resource", "add-worker", "remove", "serve", "routes", "doctor", "info"]


@pytest.fixture
def refused(monkeypatch, capsys):
    """Type a command line here, and give its exit code and what stderr said."""

    def type_(*arguments):
        monkeypatch.setattr(sys, "argv", ["pachinko", *arguments])
        with pytest.raises(SystemExit) as ended:
            command_line.run()
        said = capsys.readouterr()
        assert not said.out
        return ended.value.code, said.err

    return type_


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("serv", "serve"),
        ("SERVE", "serve"),
        ("add_resource", "add-resource"),
        ("worker", "add-worker"),
        ("rotues", "routes"),
        ("doc", "doctor"),
        ("xyzzy", None),
        ("", None),
        ("-", None),
    ],
)
def test_what_looks_like_a_known_word_is_found(typed, meant):
    """A slip of the fingers, a beginning or an end; else nothing."""
    assert near(typed, COMMANDS) == meant


@given(st.text(), st.lists(st.text(min_size=1)))
def test_only_known_words_are_suggested(typed, known):
    """Whatever is typed."""
    assert near(typed, known) in {None, *known}


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (["serv"], "did you mean: pachinko serve"),
        (["add", "resource", "notes"], "did you mean: pachinko add-resource"),
        (["run"], "did you mean: pachinko serve"),
        (["xyzzy"], f"commands: {', '.join(COMMANDS)}"),
    ],
)
def test_an_unknown_command_gets_a_near_one(typed, hint):
    """One that looks alike, or does what others call so; without any, all of them."""
    error = usage.unknown_command(typed, COMMANDS)

    assert (error.exit_code, error.message) == (2, f"there is no command {typed[0]!r}")
    assert error.hint == hint


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["srve"], "there is no command 'srve'\n  did you mean: pachinko serve\n"),
        (["sta\nrt"], "there is no command 'sta\\nrt'\n  commands: new, "),
        (
            ["serve", "--prot", "80"],
            "no option '--prot'\n  did you mean --port? See: pachinko serve --help\n",
        ),
        (["new", "tea", "--xyzzy"], "has no option '--xyzzy'\n  see: pachinko new --help\n"),
        (["--verison"], "pachinko has no option '--verison'\n  did you mean --version? "),
        (["--json", "routes"], "come after the command: pachinko COMMAND --json\n"),
        (["remove", "resorce", "x"], "there is no kind 'resorce'\n  did you mean resource? "),
        (["add-resource", "x", "--kind", "roon"], "there is no kind 'roon'\n  did you mean room? "),
        (["serve", "--port"], "option '--port' requires an argument\n"),
        (["serve", "--port", "x"], "pachinko serve: invalid value for '--port': "),
        (["add-worker"], "pachinko add-worker: missing argument 'NAME'\n"),
        (["doctor", "now"], "pachinko doctor: got unexpected extra argument"),
    ],
)
def test_a_mistake_is_two_lines_and_exit_code_2(refused, typed, said):
    """What there is not, and what to type instead; no usage text to search through."""
    code, told = refused(*typed)

    assert (code, told.count("\n")) == (2, 2)
    assert told.startswith("error: ")
    assert said in told


def test_a_bug_is_still_a_bug():
    """Only what has a sentence for people is turned into one."""
    with pytest.raises(KeyError), usage.explained():
        raise KeyError


@pytest.mark.parametrize(
    ("version", "minimum", "older"),
    [
        ("0.9.1", "0.52.2", True),
        ("0.52.2", "0.52.2", False),
        ("1.0", "1.0.0", False),
        ("4.2.0rc1", "4.2", False),
        ("15", "15.0.1", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version, minimum, older):
    """Not as text, and 1.0 is 1.0.0."""
    assert versions.is_older(version, minimum) is older


def test_what_is_needed_is_read_from_our_metadata():
    """Every requirement that pyproject.toml has a lower bound for, with its extra."""
    needs = {each.name: each for each in versions.needs()}

    assert {"falcon", "msgspec", "uvicorn", "redis", "nats-py"} <= needs.keys()
    assert needs["falcon"].extra == ""
    assert needs["typer"].extra == "cli"


@pytest.mark.parametrize(
    ("uvicorn", "websockets", "mark", "text"),
    [
        ("0.54.0", "15.0", Mark.OK, "uvicorn 0.54.0 with websockets 15.0"),
        ("0.54.0", None, Mark.PROBLEM, "uvicorn 0.54.0 has neither websockets nor wsproto"),
        (None, "15.0", Mark.PROBLEM, "uvicorn is not installed"),
    ],
)
def test_a_server_without_websockets_is_a_problem(uvicorn, websockets, mark, text):
    """By itself, uvicorn refuses every handshake."""
    absent = dict.fromkeys(versions.DISTRIBUTIONS)
    found = diagnosis.server(absent | {"uvicorn": uvicorn, "websockets": websockets})

    assert (found.mark, found.text[: len(text)]) == (mark, text)
    assert bool(found.fix) is (mark is Mark.PROBLEM)


def test_every_suggested_command_exists():
    """What other tools call it leads to something."""
    known = {*command_line.app.registered_commands}
    names = {each.name or each.callback.__name__.replace("_", "-") for each in known}

    assert {each for each in usage.ELSEWHERE.values() if not each.startswith("--")} <= names
