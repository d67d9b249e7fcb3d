"""Three versions of a file become one: what git leaves open, and that nothing gets lost."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pachinko_cli import git
from pachinko_cli.merging import NotMergedError, like, markers, merge, merge_settings

VERSIONS = ("0.1.0", "0.2.0")
BOM = b"\xef\xbb\xbf"


@pytest.fixture(scope="session")
def merged(tmp_path_factory):
    """Merge in a folder that nobody else uses."""
    folder = tmp_path_factory.mktemp("merging")
    return lambda base, yours, new: merge(base, yours, new, VERSIONS, folder)


@st.composite
def disjoint_edits(draw):
    """Give blocks of lines, and for each who edits it, and to what; two untouched lines between."""
    count = draw(st.integers(1, 6))
    text = st.text(
        st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=8
    )
    edits = draw(
        st.lists(
            st.tuples(st.sampled_from(["yours", "new", "nobody"]), st.lists(text, max_size=3)),
            min_size=count,
            max_size=count,
        )
    )
    versions = {"base": [], "yours": [], "new": [], "both": []}
    for number, (who, lines) in enumerate(edits):
        frame = [f"before {number} {side}" for side in "ab"]
        own = [f"block {number}"]
        # A number in each line keeps it from being the same as another one.
        edit = [f"{who} {number} {at} {line}" for at, line in enumerate(lines)]
        for name, content in versions.items():
            edited = who == name or (name == "both" and who != "nobody")
            content += [*frame, *(edit if edited else own)]
    for content in versions.values():
        content += ["the", "end"]
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    bom = draw(st.sampled_from([b"", BOM]))
    versions = {name: "".join(f"{line}\n" for line in each) for name, each in versions.items()}
    for name in ("yours", "both"):
        versions[name] = versions[name].replace("\n", newline)
    coded = {name: each.encode() for name, each in versions.items()}
    return coded | {name: bom + coded[name] for name in ("yours", "both")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(disjoint_edits())
def test_edits_in_different_places_are_both_in_the_result(merged, versions):
    """To the byte, and everything else is as the user has it: line ends, byte order mark."""
    result = merged(versions["base"], versions["yours"], versions["new"])

    assert (result.content, result.conflicts) == (versions["both"], ())


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=6), min_size=3, max_size=3))
def test_whatever_the_edits_no_line_of_the_user_s_gets_lost(merged, versions):
    """One that the user wrote, and the file did not begin with, is in the result."""
    base, yours, new = ("".join(f"{line}\n" for line in each).encode() for each in versions)
    result = merged(base, yours, new)
    lost = {line for line in yours.splitlines() if line not in base.splitlines()}

    assert lost <= set(result.content.splitlines())


def test_both_sides_of_a_conflict_are_there(merged):
    """Between markers that name them; their lines are counted from 1."""
    result = merged(b"a\nb\nc\n", b"a\nmine\nc\n", b"a\ntheirs\nc\n")

    assert result.content == (
        b"a\n<<<<<<< yours\nmine\n=======\ntheirs\n>>>>>>> template 0.2.0\nc\n"
    )
    assert result.conflicts == (2,)


def test_the_markers_have_the_line_ends_of_the_file(merged):
    """So that an editor does not find two kinds."""
    result = merged(b"a\n", b"mine\r\nand\r\n", b"theirs\n")

    assert result.content.count(b"\n") == result.content.count(b"\r\n") == 6
    assert result.conflicts == (1,)


def test_a_conflict_at_an_end_without_a_newline_is_one(merged):
    """The markers stand on lines of their own."""
    result = merged(b"a", b"mine", b"theirs")

    assert result.content.splitlines()[1:4] == [b"mine", b"=======", b"theirs"]
    assert result.conflicts == (1,)


def test_more_conflicts_than_git_can_count_are_conflicts(merged):
    """Its exit code ends at 127."""

    def version(word):
        apart = b"".join(b"%%d %d\n" % line for line in range(6))
        return b"".join(apart.replace(b"%d", b"%d" % n) + b"%s\n" % word for n in range(300))

    assert len(merged(version(b"a"), version(b"b"), version(b"c")).conflicts) == 300


def test_what_is_no_text_is_not_merged(merged):
    """As for git, that is what has a NUL in it."""
    with pytest.raises(NotMergedError, match="is no text"):
        merged(b"a", b"\0", b"b")


def test_without_git_nothing_is_merged(merged, monkeypatch, tmp_path):
    """And the reason says so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotMergedError, match="was not merged: git is not installed"):
        merged(b"a", b"b", b"c")


def test_a_git_that_fails_is_quoted(merged, monkeypatch, tmp_path):
    """In its own words."""
    (tmp_path / "git").write_text("#!/bin/sh\necho 'fatal: tea' >&2\nexit 129\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(NotMergedError, match="was not merged: fatal: tea"):
        merged(b"a", b"b", b"c")


def test_a_repository_of_somebody_else_s_is_not_asked(merged, monkeypatch, tmp_path):
    """What a hook has set for another one does not matter."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))

    assert merged(b"a\n", b"a\n", b"b\n").content == b"b\n"


def test_settings_beside_each_other_are_no_conflict(tmp_path):
    """A line that the template replaced, and the user left, does not count as the user's."""
    base = b'[a]\n    "x>=1",\n    "y>=1",\n]\n'
    yours = b'[a]\r\n    "x>=1",\r\n    "mine",\r\n    "y>=1",\r\n]\r\n'
    new = b'[a]\n    "x>=2",\n    "y>=2",\n]\n'

    assert merge(base, yours, new, VERSIONS, tmp_path).conflicts
    assert merge_settings(base, yours, new, VERSIONS, tmp_path).content == (
        b'[a]\r\n    "x>=2",\r\n    "mine",\r\n    "y>=2",\r\n]\r\n'
    )


def test_a_setting_that_both_changed_is_a_conflict(tmp_path):
    """Nobody can tell which is right."""
    result = merge_settings(b'"x>=1"\n', b'"x>=3"\n', b'"x>=2"\n', VERSIONS, tmp_path)

    assert result.conflicts == (1,)


def test_a_line_that_is_there_twice_is_left_to_git(tmp_path):
    """It is not certain which one is meant."""
    result = merge_settings(b"a\nv=1\n", b"v=1\nb\nv=1\n", b"a\nv=2\n", VERSIONS, tmp_path)

    assert b"v=1\n" in result.content


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a\n", ()),
        (b"=======\n", ()),
        (b"a\n<<<<<<< yours\n=======\n>>>>>>> template 0.2.0\n", (2,)),
        (b"<<<<<<< yours\r\n\r\n<<<<<<< yours\r\n", (1, 3)),
        (b"a\nb\n>>>>>>> template 0.2.0", (3,)),
        (b"<<<<<<< HEAD\n>>>>>>> main\n", ()),
        (b' "<<<<<<< yours"\n', ()),
    ],
)
def test_markers_are_found_again(content, lines):
    """Ours, with either line end, and one that was left over."""
    assert markers(content) == lines


def test_a_binary_file_is_not_converted():
    """A carriage return may be a colour."""
    assert like(b"\0\r\n", b"a\n") == b"\0\r\n"


def test_git_is_asked_for_what_is_not_committed(tmp_path):
    """Without a repository it says so, in its own words."""
    with pytest.raises(git.GitError, match="not a git repository"):
        git.uncommitted(tmp_path)
