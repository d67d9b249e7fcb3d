"""Where a project gets the library from, and the folder that it is made in."""

import json
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pachinko_cli.disk import refusals_named
from pachinko_cli.errors import CliError, TargetTakenError, UnwritableError
from pachinko_cli.names import project_name
from pachinko_cli.scaffold import Answers, library_source, licence_holder, render, source_from
from pachinko_cli.staging import move, staging, sweep
from pachinko_cli.steps import inside_repository
from pachinko_cli.templates import TEMPLATES


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


def direct_url(url, **details):
    return json.dumps({"url": url, **details})


def test_a_checkout_is_the_source_of_a_project_made_from_it():
    """This test runs from a checkout, and no package index has what it made."""
    assert library_source() == f" @ {Path(__file__).parents[2].as_uri()}"


@pytest.mark.parametrize(
    ("noted", "source"),
    [
        (None, None),
        (direct_url("file:///no/such/folder", dir_info={}), None),
        (
            direct_url(
                "https://example.org/ann/pachinko",
                vcs_info={"vcs": "git", "commit_id": "c0ffee", "requested_revision": "main"},
            ),
            " @ git+https://example.org/ann/pachinko@c0ffee",
        ),
        (
            direct_url("https://example.org/pachinko.zip", archive_info={}, subdirectory="lib"),
            " @ https://example.org/pachinko.zip#subdirectory=lib",
        ),
    ],
)
def test_the_note_of_the_installer_is_followed(noted, source):
    """An index leaves none; a repository is followed to its commit; what is gone is of no use."""
    assert source_from(noted) == source


@pytest.mark.parametrize("editable", [True, False])
@pytest.mark.parametrize(
    "name", ["plain", "with space", "100%", "{{ 7*7 }}", "a;b#c?d", 'q"q', "é"]
)
def test_any_path_survives_as_a_requirement(tmp_path, name, editable):
    """Spaces, quotes, percent signs: the requirement is read as the same folder."""
    checkout = tmp_path / name
    checkout.mkdir()
    source = source_from(direct_url(checkout.as_uri(), dir_info={"editable": editable}))
    read = Requirement(f"falcon-pachinko[cli,testing]{source}")

    assert (read.url, read.extras) == (checkout.as_uri(), {"cli", "testing"})


def test_an_unquoted_note_is_quoted(tmp_path):
    """Older installers wrote paths as they were; a requirement with a space in it reads as two."""
    checkout = tmp_path / "with space"
    checkout.mkdir()

    assert source_from(direct_url(f"file://{checkout}")) == f" @ {checkout.as_uri()}"


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_what_lands_in_toml_is_quoted_for_it(tmp_path, template):
    """Whatever an answer holds, it is not rendered, and pyproject.toml is TOML with it inside."""
    poison = ' @ file:///Tea "Room" \\ {{ 7*7 }} {% raw %}'
    made = render(Answers(project_name("tea-room"), template, source=poison), tmp_path)
    table = tomllib.loads((made.path / "pyproject.toml").read_text())

    assert f"falcon-pachinko{poison}" in table["project"]["dependencies"]
    assert f"falcon-pachinko[cli,testing]{poison}" in table["dependency-groups"]["dev"]


def test_a_staging_folder_is_private_and_ends_with_its_block(tmp_path):
    """Nobody else reads what is half made, and nothing of it stays."""
    with staging(tmp_path) as folder:
        (folder / "half").write_text("made")
        mode = folder.stat().st_mode & 0o777

    assert mode == 0o700
    assert entries(tmp_path) == []


def test_a_staging_folder_ends_when_its_block_fails(tmp_path):
    """An error on the way out takes the folder with it."""
    with pytest.raises(ZeroDivisionError), staging(tmp_path) as folder:
        (folder / "half").write_text(str(1 / 0))

    assert entries(tmp_path) == []


def test_sweep_takes_what_was_left_and_leaves_what_is_in_use(tmp_path):
    """A lock tells them apart, and it ends with the process that held it."""
    (tmp_path / ".pachinko-new-left").mkdir()
    (tmp_path / ".pachinko-new-left/file").write_text("")
    with staging(tmp_path) as folder:
        sweep(tmp_path)
        there = entries(tmp_path)

    assert there == [folder.name]


def test_sweep_follows_no_link_and_takes_no_file(tmp_path, tmp_path_factory):
    """Only folders of our making are swept; somebody's link to something else is not ours."""
    diary = tmp_path_factory.mktemp("elsewhere") / "diary.txt"
    diary.write_text("mine")
    (tmp_path / ".pachinko-new-link").symlink_to(diary.parent)
    (tmp_path / ".pachinko-new-file").write_text("mine")

    sweep(tmp_path)

    assert diary.read_text() == "mine"
    assert entries(tmp_path) == [".pachinko-new-file", ".pachinko-new-link"]


@pytest.mark.parametrize("there", ["file", "folder"])
def test_a_move_replaces_nothing(tmp_path, there):
    """Whatever came into the place at the last moment keeps it."""
    staged, target = tmp_path / "staged", tmp_path / "tea-room"
    staged.mkdir()
    diary = target / "diary.txt" if there == "folder" else target
    diary.parent.mkdir(exist_ok=True)
    diary.write_text("mine")

    with pytest.raises(TargetTakenError):
        move(staged, target)

    assert diary.read_text() == "mine"


def test_a_bug_is_not_called_a_refusal(tmp_path):
    """A file that our own code looks for in vain is no fault of the disk."""
    with pytest.raises(FileNotFoundError), refusals_named(tmp_path):
        (tmp_path / "gone").read_text()


def test_a_folder_that_is_not_there_cannot_be_staged_in(tmp_path):
    """The error names the folder and has the system's reason."""
    with pytest.raises(UnwritableError, match="gone: No such file"), staging(tmp_path / "gone"):
        pass


def test_a_repository_is_found_from_below(tmp_path):
    """A work tree goes down from its .git, whatever that is."""
    below = tmp_path / "a/b"
    below.mkdir(parents=True)
    (tmp_path / "a/.git").write_text("gitdir: elsewhere")

    assert inside_repository(below)
    assert not inside_repository(tmp_path)


@pytest.mark.parametrize("holder", ["", "  ", "a\nb", "a\x1b[31m", "a\u202eb", "\udcff", "x" * 121])
def test_a_holder_that_cannot_be_printed_is_refused(holder):
    """Exit 2: it would stand in a legal text, and in TOML."""
    with pytest.raises(CliError) as refused:
        licence_holder(holder)

    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "holder",
    ["Ann", "\"Ann\" \\ 'B'", "{{ 7*7 }} {% raw %}", "\U0001f375 茶", "a]]>", "# Ann", "é"],
)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_holder_is_data_wherever_it_lands(tmp_path, template, holder):
    """The licence has it as it was typed, and pyproject.toml is TOML with it inside."""
    answers = Answers(
        project_name("tea-room"),
        template,
        licence="MIT",
        holder=licence_holder(holder),
        year="2026",
    )
    made = render(answers, tmp_path)
    table = tomllib.loads((made.path / "pyproject.toml").read_text("utf-8"))

    assert f"Copyright (c) 2026 {holder}\n" in (made.path / "LICENSE").read_text("utf-8")
    assert table["tool"]["pachinko"]["answers"] == answers.noted()


@pytest.mark.parametrize("licence", ["none", "ISC"])
def test_what_was_noted_is_enough_to_render_again(licence):
    """A project's answers, read back, are the answers that it was made from."""
    name, template = project_name("tea-room"), TEMPLATES["minimal"]
    licensed = {} if licence == "none" else {"holder": "Ann", "year": "2020"}
    answers = Answers(
        name, template, backend="nats", licence=licence, ci="gitlab", docker=True, **licensed
    )

    assert Answers.of(name, template, answers.noted()) == answers
