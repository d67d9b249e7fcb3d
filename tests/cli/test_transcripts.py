"""What people read: whole sessions at the generators, as files that one can look at.

A file of `transcripts/` is what a terminal of 80 columns shows (`.terminal.txt`, with its styles as
`<...>`) or what a pipe gets (`.txt`: stdout, then what came on stderr behind `! `).  After a change
that is meant, they are written anew by

    PACHINKO_TRANSCRIPTS=renew python -m pytest tests/cli/test_transcripts.py

and looked at in the diff.
"""

import os
import re
import shlex
from pathlib import Path

import pytest

TRANSCRIPTS = Path(__file__).parent / "transcripts"

# What is typed, one command after the other, in a project; `edit` puts `mine` into a file there.
SESSIONS = {
    "add-resource-help": ["pachinko add-resource --help"],
    "add-worker-help": ["pachinko add-worker --help"],
    "remove-help": ["pachinko remove --help"],
    "resource": [
        "pachinko add-resource notes --dry-run",
        "pachinko add-resource notes",
        "pachinko add-resource notes",
        "pachinko remove resource notes --dry-run",
        "pachinko remove resource notes",
    ],
    "worker": [
        "pachinko add-worker pulse --every 5m --singleton -v",
        "pachinko add-worker pulse --every 5m --singleton -q",
        "pachinko remove worker pulse",
    ],
    "json": [
        "pachinko add-resource quiz --kind reply -m ask:text=str,at=datetime? --json",
        "pachinko remove resource quiz --json",
    ],
    "conflict": ["edit tea_room/resources/notes.py", "pachinko add-resource notes"],
    "step": [
        "edit tea_room/routes.py",
        "pachinko add-resource notes",
        "pachinko add-resource notes",
        "pachinko add-resource board --json",
    ],
    "kept": [
        "pachinko add-resource notes -q",
        "edit tests/test_notes.py",
        "pachinko remove resource notes",
        "pachinko remove resource notes --force",
    ],
    "refused": [
        "pachinko add-resource ../notes",
        "pachinko add-resource class",
        "pachinko add-resource Café",
        "pachinko add-resource notes ws",
        "pachinko add-resource notes '/ws/{a b}'",
        "pachinko add-resource notes '/ws/chat/{other}'",
        "pachinko add-resource notes --kind roon",
        "pachinko add-resource notes -m say:text=string",
        "pachinko add-resource notes -m 'say:'",
        "pachinko add-worker pulse --every often",
        "pachinko remove resource nots",
        "pachinko remove resource chat",
        "pachinko remove route notes",
    ],
    "broken": ["edit .pachinko/manifest.json", "pachinko add-resource notes"],
}
OUTSIDE = {
    "new-help": ["pachinko new --help"],
    "outside": [
        "pachinko add-resource notes",
        "pachinko new class --yes",
        "pachinko new tea-room --yes --no-git -q",
        "pachinko new tea-room --yes --no-git",
    ],
}
_STYLE = re.compile(r"\x1b\[([0-9;]*)m")


@pytest.fixture
def session(tmp_path):
    """Play a session in a project or outside of one, and give what was shown."""

    def play(lines, cwd, show):
        shown = []
        for line in lines:
            command, *words = shlex.split(line)
            shown.append(f"$ {line}\n")
            if command == "edit":
                (cwd / words[0]).write_text("mine\n")
            else:
                shown.append(show(words, cwd))
        told = "".join(shown).replace(str(tmp_path), "~")
        return re.sub(r"\b[0-9a-f]{64}\b", "HASH", told)

    return play


def equals(name, shown):
    """Compare with the file, or write it anew where that is asked for."""
    file = TRANSCRIPTS / name
    if os.environ.get("PACHINKO_TRANSCRIPTS") == "renew":
        file.parent.mkdir(exist_ok=True)
        file.write_text(shown)
    assert shown == file.read_text(), f"see {__doc__}"


SITUATIONS = [(name, lines, True) for name, lines in SESSIONS.items()]
SITUATIONS += [(name, lines, False) for name, lines in OUTSIDE.items()]
every_session = pytest.mark.parametrize(
    ("name", "lines", "in_project"), SITUATIONS, ids=[name for name, _, _ in SITUATIONS]
)


@pytest.fixture
def place(tmp_path, project):
    """Give the folder that a session is in."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return lambda in_project: project if in_project else elsewhere


@pytest.mark.quick
@every_session
def test_what_a_pipe_gets(session, pachinko, place, name, lines, in_project):
    """Results on stdout, the rest on stderr, no styles; then the exit code."""

    def show(words, cwd):
        ran = pachinko(*words, cwd=cwd)
        complaints = "".join(f"! {line}\n" for line in ran.stderr.splitlines())
        return f"{ran.stdout}{complaints}(exit {ran.returncode})\n\n"

    equals(f"{name}.txt", session(lines, place(in_project), show))


@every_session
def test_what_a_terminal_shows(session, terminal, place, name, lines, in_project):
    """The same, with its styles."""

    def show(words, cwd):
        opened = terminal(*words, cwd=cwd, COLUMNS="80")
        code, _ = opened.end()
        return _STYLE.sub(r"<\1>", opened.raw) + f"(exit {code})\n\n"

    equals(f"{name}.terminal.txt", session(lines, place(in_project), show))


@every_session
def test_without_colours_a_terminal_shows_the_same_words(
    session, terminal, place, name, lines, in_project
):
    """NO_COLOR takes the colours, and nothing else; bold and dim may stay."""

    def show(words, cwd):
        opened = terminal(*words, cwd=cwd, COLUMNS="80", NO_COLOR="1")
        code, _ = opened.end()
        colours = {
            style for style in _STYLE.findall(opened.raw) if set(style.split(";")) - set("012")
        }
        assert not colours
        return f"{_STYLE.sub('', opened.raw)}(exit {code})\n\n"

    plain = re.sub(r"<[0-9;]+>", "", (TRANSCRIPTS / f"{name}.terminal.txt").read_text())

    assert session(lines, place(in_project), show) == plain


@pytest.mark.quick
def test_every_file_is_one_of_a_session():
    """A session that went takes its files along."""
    names = {name for name, _, _ in SITUATIONS}

    assert {file.name.partition(".")[0] for file in TRANSCRIPTS.iterdir()} == names
