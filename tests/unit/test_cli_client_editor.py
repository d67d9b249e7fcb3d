"""The line at the prompt of `pachinko connect`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pachinko_cli.client.editor import END, Editor, Keys, width

LEFT, RIGHT, UP, DOWN = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B"
KEYS = st.sampled_from(
    [
        *(LEFT, RIGHT, UP, DOWN, "\x7f", "\x1b[3~", "\x01", "\x05", "\x0b", "\x15", "\x17", "\t"),
        *("\n", *"ab 茶é\u0301", "\x04", "\x1b[200~p q\x1b[201~", "\x1b[99~", "\x1bx", "\x00"),
    ]
)


def type_in(editor, typed):
    """Press all keys; give the lines that were entered."""
    lines = [editor.press(key) for key in Keys().split(typed)]
    return [line for line in lines if line is not None]


@pytest.mark.parametrize(
    ("typed", "text", "cursor"),
    [
        ("tea", "tea", 3),
        (f"tea{LEFT}{LEFT}x", "txea", 2),
        ("tea\x7f\x08", "t", 1),
        ("tea\x01\x1b[3~\x04", "a", 0),
        ("one two\x17", "one ", 4),
        (f"one two{LEFT * 3}\x0b", "one ", 4),
        (f"one two{LEFT * 3}\x15", "two", 0),
        ("\x1b[Htea\x1b[F!\x1bOH?", "?tea!", 1),
        ("\x1b[200~ a\r\n\tb \x1b[201~c", "a   bc", 6),
        (f"{LEFT}{RIGHT}{UP}{DOWN}\x1b[99~\x1bx\x00", "", 0),
    ],
)
def test_keys_edit_the_line(typed, text, cursor):
    """As in a shell."""
    editor = Editor()

    type_in(editor, typed)

    assert (editor.text, editor.cursor) == (text, cursor)


def test_the_history_comes_back_and_keeps_what_was_begun():
    """Up and down; twice the same line is once in it."""
    editor = Editor()
    type_in(editor, "one\ntwo\ntwo\nnew")

    seen = []
    for key in (UP, UP, UP, DOWN, DOWN, DOWN):
        editor.press(key)
        seen.append(editor.text)

    assert seen == ["two", "one", "one", "two", "new", "new"]


def test_enter_gives_the_line_and_ctrl_d_the_end():
    """Ctrl-D within a line deletes, and on an empty one ends."""
    assert type_in(Editor(), f"tea{LEFT}\x04\n\x04") == ["te", END]


def test_tab_completes_as_far_as_is_certain():
    """Then it offers what there is to choose from."""
    editor = Editor(lambda line: [each for each in ("say ", "save ") if each.startswith(line)])

    type_in(editor, "s\t")
    first = editor.text, editor.choices
    type_in(editor, "\t")
    offered = editor.choices
    type_in(editor, "v\t")

    assert first == ("sa", [])
    assert offered == ["say", "save"]
    assert (editor.text, editor.choices) == ("save ", [])


@given(st.lists(KEYS, max_size=40), st.integers(10, 40))
def test_the_cursor_is_always_within_what_is_shown(keys, columns):
    """Whatever was pressed, on whatever terminal."""
    editor = Editor(lambda line: [f"{line}ab", f"{line}ac"])
    for key in keys:
        editor.press(key)

    text, column = editor.view(columns)
    assert 0 <= editor.cursor <= len(editor.text)
    assert 0 <= column < columns
    assert width(text) <= columns
    assert text in editor.text
    assert editor.text.isprintable()


@given(st.lists(KEYS, max_size=20), st.data())
def test_keys_that_come_in_parts_are_the_same_keys(keys, data):
    """A terminal's bytes arrive as they please."""
    typed = "".join(keys)
    cut = data.draw(st.integers(0, len(typed)))

    parts = Keys()
    assert [*parts.split(typed[:cut]), *parts.split(typed[cut:])] == list(Keys().split(typed))


def test_what_never_ends_is_forgotten():
    """An escape sequence of many kilobytes is none."""
    keys = Keys()
    list(keys.split("\x1b[" + "1" * 10_000))

    assert list(keys.split("a")) == ["a"]
