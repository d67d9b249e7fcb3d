"""Editing a table that somebody else owns: nothing around the new lines may change."""

import ast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pachinko_cli.wiring import NotRecognisedError, Trace, Wire, insert, is_taken, remove, texts

NOTES = Wire("tea_room", "ROUTES", ('"/ws/notes"', "Notes"), "tea_room.resources.notes")
PULSE = Wire("tea_room.workers", "WORKERS", ("run_pulse",), "tea_room.workers.pulse")

SOURCE = """\
from falcon_pachinko import App

from .resources.chat import ChatRoom
from .resources.page import Page

ROUTES = [
    ("/ws/chat", ChatRoom),
]
"""
WIRED = """\
from falcon_pachinko import App

from .resources.chat import ChatRoom
from .resources.notes import Notes
from .resources.page import Page

ROUTES = [
    ("/ws/chat", ChatRoom),
    ("/ws/notes", Notes),
]
"""
LINE_ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}


def wired(source, wire=NOTES):
    """Insert, and give the new text alone."""
    result, _ = insert(source.encode(), wire)
    return result.decode()


# What people write.

comments = st.sampled_from(["", "  # mine", "  # ], ROUTES = [", "\t# 'é'"])
between = st.sampled_from(["", "\n", "# a comment: ],\n", "\n# two\n# lines\n\n"])


@st.composite
def modules(draw):
    """A module with a table, in some encoding, with some line ends, laid out somehow."""
    unit = draw(st.sampled_from(["    ", "  ", "\t"]))
    cookie = draw(
        st.sampled_from(["", "# coding: latin-1\n", "#!/bin/python\n# -*- coding: utf-8 -*-\n"])
    )
    doc = draw(st.sampled_from(["", '"""Où?"""\n', "'''Two\n\tlines: ROUTES = [\n'''\n"]))
    style = draw(st.sampled_from([".resources.", "tea_room.resources."]))
    names = draw(st.lists(st.sampled_from(["a", "chat", "notes2", "pages", "z9"]), unique=True))
    imports = "".join(
        f"{draw(between)}from {style}{name} import {name.title()}{draw(comments)}\n"
        for name in names
    )
    entries = "".join(
        f'{draw(between)}{unit}("/ws/{name}", {name.title()}),{draw(comments)}\n' for name in names
    )
    inside = (
        f"\n{entries}{draw(between)}" if entries else draw(st.sampled_from(["", " ", "\n", "\n\n"]))
    )
    annotation = draw(st.sampled_from(["", ": list[tuple[str, type]]"]))
    table = f"ROUTES{annotation} = [{inside}]{draw(comments)}"
    after = draw(st.sampled_from(["", "\n", f"\n\ndef add(app):\n{unit}return ROUTES\n\x0c\n"]))
    first = draw(st.sampled_from(["import os\n", "import os\n\n"] + [""] * bool(names)))
    text = f"{cookie}{doc}{first}{imports}\n{table}{after}"
    encoding = "latin-1" if "latin" in cookie else "utf-8"
    bom = b"\xef\xbb\xbf" if encoding == "utf-8" and draw(st.booleans()) else b""
    newline = draw(st.sampled_from(list(LINE_ENDS.values())))
    return bom + text.replace("\n", newline).encode(encoding), newline, encoding


@given(modules())
def test_what_was_inserted_can_be_removed_to_the_byte(module):
    """Line ends, byte order mark, encoding, tabs, comments: all come back as they were."""
    source, _, _ = module
    result, trace = insert(source, NOTES)

    assert result != source
    assert remove(result, NOTES, trace) == source


@given(modules())
def test_lines_are_added_and_none_is_changed(module):
    """Every line that was there is there, in its order; an empty pair of brackets is opened."""
    source, newline, encoding = module
    result, trace = insert(source, NOTES)
    texts = (text.decode(encoding).removeprefix("\ufeff") for text in (source, result))
    before, after = (text.split(newline) for text in texts)
    if trace.emptied is not None:
        before, after = ("".join("".join(lines).split()) for lines in (before, after))
    left = iter(after)

    assert all(line in left for line in before)
    assert len(after) - len(before) <= (3 if trace.emptied is None else 80)


@given(modules())
def test_new_lines_end_as_the_module_s_do(module):
    """A file with one kind of line end has one kind of line end afterwards."""
    source, newline, _ = module
    result, _ = insert(source, NOTES)
    others = result.replace(newline.encode(), b"")

    assert b"\r" not in others
    assert b"\n" not in others


@given(modules())
def test_the_second_time_nothing_changes(module):
    """What is there is found again, and leaves no trace."""
    source, _, _ = module
    result, _ = insert(source, NOTES)

    assert insert(result, NOTES) == (result, None)


@given(modules())
def test_what_was_never_inserted_is_removed_from_nowhere(module):
    """Removing from a module without the lines gives the same bytes."""
    source, _, _ = module

    assert remove(source, NOTES, Trace()) == source


@given(modules(), st.data())
def test_a_module_that_was_tampered_with_is_refused_or_edited_well(module, data):
    """Whatever a slip of the keyboard left: no other error, and nothing is lost."""
    source, _, encoding = module
    text = source.decode(encoding)
    start = data.draw(st.integers(0, len(text)))
    end = start + data.draw(st.integers(0, 12))
    slip = data.draw(
        st.sampled_from(["", "(", "]", ",", "\\", "'", "#", "\n", "\r", " ", ";", "\0", "*"])
    )
    tampered = (text[:start] + slip + text[end:]).encode(encoding)
    try:
        result, trace = insert(tampered, NOTES)
    except NotRecognisedError:
        return
    assume(trace is not None)
    try:
        back = remove(result, NOTES, trace)
    except NotRecognisedError:
        return

    assert back == tampered


@given(modules(), st.binary(max_size=40))
def test_bytes_that_are_no_text_are_refused_or_kept(module, noise):
    """Nothing that a disk may hold is a traceback."""
    source, _, _ = module
    broken = source[: len(source) // 2] + noise + source[len(source) // 2 :]
    try:
        result, trace = insert(broken, NOTES)
    except NotRecognisedError:
        return

    assert trace is None or len(result) > len(broken)


# What becomes of ordinary modules.


@pytest.mark.parametrize("newline", LINE_ENDS.values(), ids=LINE_ENDS)
def test_the_import_is_sorted_in_and_the_entry_comes_last(newline):
    """The formatter of a project has nothing to move."""
    assert wired(SOURCE.replace("\n", newline)) == WIRED.replace("\n", newline)


def test_numbers_in_names_count_as_numbers():
    """2 comes before 10, as the project's linter wants it."""
    wire = Wire("tea_room", "ROUTES", ('"/ws/a2"', "A2"), "tea_room.resources.a2")
    source = "from .resources.a1 import A1\nfrom .resources.a10 import A10\nROUTES = []\n"

    assert wired(source, wire).splitlines()[1] == "from .resources.a2 import A2"


def test_imports_from_parents_stay_in_front():
    """In workers/__init__.py the config is imported from the package above."""
    source = "from ..config import Config\nfrom .zebra import run\n\nWORKERS = [\n    run,\n]\n"

    assert wired(source, PULSE) == (
        "from ..config import Config\nfrom .pulse import run_pulse\nfrom .zebra import run\n\n"
        "WORKERS = [\n    run,\n    run_pulse,\n]\n"
    )


def test_a_comment_stays_with_the_import_below_it():
    """The new import comes in front of both."""
    source = "import os\n\n# pages\nfrom .resources.page import Page\nROUTES = []\n"

    assert wired(source).startswith(
        "import os\n\nfrom .resources.notes import Notes\n# pages\nfrom .resources.page"
    )


def test_a_comment_at_the_top_stays_at_the_top():
    """It may be about the whole module, or name its encoding."""
    source = "# mine\nfrom .resources.page import Page\nROUTES = []\n"

    assert wired(source).startswith(
        "# mine\nfrom .resources.notes import Notes\nfrom .resources.page"
    )


def test_a_module_with_absolute_imports_gets_another_one():
    """Its owner's way of importing is kept."""
    source = SOURCE.replace("from .", "from tea_room.")

    assert wired(source) == WIRED.replace("from .", "from tea_room.")


def test_without_any_import_of_its_own_the_new_one_is_a_paragraph():
    """Which goes with it again."""
    source = b"import os\nROUTES = []\n"
    result, trace = insert(source, NOTES)

    assert result.startswith(b"import os\n\nfrom .resources.notes import Notes\nROUTES = [\n")
    assert remove(result, NOTES, trace) == source


@pytest.mark.parametrize("brackets", ["[]", "[ ]", "[\n]", "[\n    # yours\n]"])
def test_an_empty_table_is_filled_and_emptied(brackets):
    """Whoever deleted the chat has one."""
    source = f"import os\n\nROUTES = {brackets}\n".encode()
    result, trace = insert(source, NOTES)

    assert b'\n    ("/ws/notes", Notes),\n]\n' in result
    assert remove(result, NOTES, trace) == source


def test_the_last_entry_leaves_brackets_as_a_formatter_has_them():
    """Its table was not empty when it came, and is now."""
    assert b"ROUTES = []" in remove(
        b'from .resources.notes import Notes\nROUTES = [\n    ("/ws/notes", Notes),\n]\n',
        NOTES,
        Trace(),
    )


def test_tabs_are_followed():
    """The new line begins as the one above it."""
    assert '\n\t("/ws/notes", Notes),\n]' in wired(SOURCE.replace("    ", "\t"))


def test_long_lines_are_broken_as_a_formatter_does_it():
    """And can be taken out again."""
    name = "Abcdefg" * 9
    wire = Wire("tea_room", "ROUTES", (f'"/ws/{"x" * 60}"', name), f"tea_room.resources.{'a' * 60}")
    result, trace = insert(SOURCE.encode(), wire)

    assert max(map(len, result.decode().splitlines())) <= 100
    assert f'    (\n        "/ws/{"x" * 60}",\n        {name},\n    ),\n' in result.decode()
    assert remove(result, wire, trace) == SOURCE.encode()


def test_an_entry_that_a_formatter_broke_can_be_removed():
    """Its lines are several now, and mean the same."""
    broken = WIRED.replace(
        '    ("/ws/notes", Notes),', '    (\n        "/ws/notes",\n        Notes,\n    ),'
    )

    assert remove(broken.encode(), NOTES, Trace()) == SOURCE.encode()


# What is refused, and why.


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ('ROUTES = [("/a", A)]', "not a line of its own with a comma"),
        ('ROUTES = [\n    ("/a", A)\n]', "not a line of its own with a comma"),
        ('ROUTES = [\n    ("/a", A),]', "ends on its last entry's line"),
        ('ROUTES = [\n    (("/a", A)),\n]', "not a line of its own with a comma"),
        ('ROUTES = [\n    ("/a", A), ("/b", B),\n]', "not a line of its own with a comma"),
        ("ROUTES = [\n    # yours ]\n    ] + MORE", "is no list written out"),
        ("ROUTES = [\n    # yours\n  x for x in y]", "is no list written out"),
        ("ROUTES = (\n    A,\n)", "is no list written out"),
        ("ROUTES = routes()", "is no list written out"),
        ("ROUTES = []\nROUTES = []", "assigns ROUTES more than once"),
        ("if True:\n    ROUTES = []", "has no ROUTES = "),
        ("ROUTES: list", "is no list written out"),
        ("PATHS = []", "has no ROUTES = "),
        ("ROUTES = [", "has a syntax error in line "),
        ("ROUTES = []\0", "cannot be read|has a syntax error"),
    ],
)
def test_a_table_that_is_written_otherwise_is_refused(table, reason):
    """The reason is the end of a sentence about the module."""
    with pytest.raises(NotRecognisedError, match=reason):
        insert(f"import os\n{table}\n".encode(), NOTES)


def test_a_table_before_all_imports_is_refused():
    """The name would be used before it is there."""
    with pytest.raises(NotRecognisedError, match="imports nothing before ROUTES"):
        insert(b"ROUTES = []\nimport os\n", NOTES)


@pytest.mark.parametrize("source", [b"# coding: tea\n", b"\xff", b"\xff\xfe"])
def test_an_encoding_that_is_none_is_refused(source):
    """Bytes that cannot be read are not written either."""
    with pytest.raises(NotRecognisedError):
        insert(source + b"import os\nROUTES = []\n", NOTES)


def test_a_name_that_does_not_fit_the_encoding_is_refused():
    """A path in the module's own encoding, or by hand."""
    wire = Wire("tea_room", "ROUTES", ('"/茶"', "Notes"), "tea_room.resources.notes")
    with pytest.raises(NotRecognisedError, match="another module"):
        insert(b"# coding: latin-1\nimport os\nROUTES = []\n", wire)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('"/ws/notes", Notes', '"/ws/other", Notes', "in another way than it was added"),
        ("Notes),", "Notes),  # ours", "something else beside Notes in line 9"),
        ('    ("/ws/notes"', '    ("/x", X), ("/ws/notes"', "something else beside Notes"),
        ("import Notes", "import Notes, Other", "imports more than Notes in line 4"),
        ("import Notes", "import Notes  # ours", "something else beside Notes in line 4"),
        ("]\n", "]\n\nprint(Notes)\n", "uses Notes in line 12 as well"),
    ],
)
def test_lines_that_their_owner_changed_are_not_removed(before, after, reason):
    """They are hers now."""
    with pytest.raises(NotRecognisedError, match=reason):
        remove(WIRED.replace(before, after).encode(), NOTES, Trace())


# What else one can ask.


def test_a_name_that_means_something_else_is_taken():
    """An import, a class, a function or a variable of that name."""
    page = Wire("tea_room", "ROUTES", ('"/p"', "Page"), "tea_room.resources.other")

    assert is_taken(SOURCE.encode(), page)
    assert not is_taken(SOURCE.encode(), NOTES)
    assert not is_taken(WIRED.encode(), NOTES)
    assert is_taken(f"{SOURCE}class Notes: pass\n".encode(), NOTES)
    assert is_taken(b"import Notes.x\nROUTES = []\n", NOTES)


def test_in_a_module_that_cannot_be_read_no_name_is_taken():
    """The insertion will say what is wrong with it."""
    assert not is_taken(b"ROUTES = [", NOTES)
    assert texts(b"ROUTES = [", NOTES) == []


def test_the_texts_of_a_table_are_those_of_the_others():
    """The paths, in the case of routes."""
    assert texts(WIRED.encode(), NOTES) == ["/ws/chat"]


def test_the_lines_for_somebody_s_hands_are_what_would_be_inserted():
    """Typed as shown, they are found as if the command had inserted them."""
    importing, entry = NOTES.lines
    by_hand = SOURCE.replace("ROUTES = [", f"{importing}\nROUTES = [\n{entry}").encode()
    ast.parse(by_hand)

    assert insert(by_hand, NOTES) == (by_hand, None)
