"""What a project knows of what was generated in it."""

import io
import json
import zipfile

import pytest

from pachinko_cli.errors import CliError
from pachinko_cli.manifest import Addition, Manifest, Wired, decode, digest, inside, snapshot

NOTES = Addition(
    "resource",
    "notes",
    {"path": "/ws/notes", "kind": "room", "messages": ["say:text=str"]},
    {"tea_room/resources/notes.py": digest(b"notes")},
    Wired("tea_room/routes.py", "tea_room", "ROUTES", ('"/ws/notes"', "Notes"), "tea_room.n"),
)
PULSE = Addition("worker", "pulse", {"every": 30.0}, {"tea_room/workers/pulse.py": "abc"})


def test_what_is_written_is_what_is_read():
    """Nothing is lost on the way through the file."""
    noted = Manifest("chat", "0.1.0", {"name": "Tea"}, {"README.md": "abc"}).with_added(NOTES)

    assert decode(noted.encode()) == noted


def test_without_a_file_nothing_was_generated():
    """A project that plain Cookiecutter made has none."""
    assert decode(None) == Manifest()


def test_the_order_of_commands_does_not_show():
    """Two people who add two things write the same file, so that git can merge theirs."""
    first = Manifest().with_added(NOTES).with_added(PULSE)
    second = Manifest().with_added(PULSE).with_added(NOTES)

    assert first.encode() == second.encode()


def test_an_addition_takes_the_place_of_one_of_its_name():
    """And what is taken out is gone."""
    again = Addition("resource", "notes", {"path": "/ws/other"}, {})
    noted = Manifest().with_added(NOTES).with_added(again)

    assert noted.get("resource", "notes") == again
    assert noted.without("resource", "notes") == Manifest()
    assert noted.get("worker", "notes") is None


def test_line_ends_are_no_edit():
    """Git may change them at a checkout."""
    assert digest(b"tea\r\nroom\r\n") == digest(b"tea\nroom\n")
    assert digest(b"tea room") != digest(b"tea\nroom")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"{}",
        b"<<<<<<< ours\n",
        b'{"format": "1", "added": []}',
        b'{"format": 1, "added": 3}',
        b'{"format": 1, "added": [], "files": []}',
        b'{"format": 1, "added": [], "more": 1}',
        b'{"format": 1, "added": [{"kind": "worker"}]}',
        b'{"format": 1, "added": ["worker"]}',
        b'{"format": 1, "added": [], "files": {"a": 1}}',
        b'{"format": 1, "added": [], "template": 1}',
        10_000 * b"[",
    ],
)
def test_a_file_that_cannot_be_read_is_named(content):
    """A merge that went wrong is a sentence, not a traceback."""
    with pytest.raises(CliError, match=r"cannot read \.pachinko/manifest\.json: ") as refused:
        decode(content)

    assert refused.value.exit_code == 1


@pytest.mark.parametrize(
    ("name", "noted"), [("parts", []), ("parts", [1]), ("file", 1), ("file", "../x"), ("spaced", 1)]
)
def test_a_line_of_a_table_that_makes_no_sense_is_named(name, noted):
    """Nothing is taken out of a file by what somebody else may have written."""
    manifest = json.loads(Manifest().with_added(NOTES).encode())
    manifest["added"][0]["wired"][name] = noted
    with pytest.raises(CliError, match=r"cannot read \.pachinko/manifest\.json: "):
        decode(json.dumps(manifest).encode())


def test_a_file_of_a_newer_version_is_not_guessed_at():
    """The hint is how to get that version."""
    with pytest.raises(CliError, match="newer") as refused:
        decode(b'{"format": 2}')

    assert "pip install --upgrade" in refused.value.hint


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a\\b", "C:/x", "."])
def test_a_path_out_of_the_project_is_refused(path):
    """A manifest says what may be deleted; it came with the repository, from anybody."""
    noted = json.loads(Manifest().with_added(PULSE).encode())
    noted["added"][0]["files"] = {path: "abc"}
    with pytest.raises(ValueError, match="is no file of the project"):
        inside(path)
    with pytest.raises(CliError, match="is no file of the project"):
        decode(json.dumps(noted).encode())


def test_a_snapshot_is_the_same_whenever_it_is_made():
    """Its entries have no dates; so git sees a change only where there is one."""
    packed = snapshot({"b.py": b"2", "a.py": b"1"})

    assert packed == snapshot({"a.py": b"1", "b.py": b"2"})
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "a.py": b"1",
            "b.py": b"2",
        }
