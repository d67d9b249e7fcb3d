"""The line being typed at the prompt: its text, its cursor, its history; no input or output."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_KEY = re.compile(
    r"\x1b\[200~.*?\x1b\[201~|\x1b\[[0-9;?<>=]*[ -/]*[@-~]|\x1bO.|\x1b[^\[O]|[^\x1b]", re.DOTALL
)
_PASTE = re.compile(r"\x1b\[200~(.*)\x1b\[201~", re.DOTALL)
_LONGEST_UNFINISHED = 4096

END = "\x04"  # Ctrl-D, on an empty line


@dataclass
class Keys:
    """Takes apart what a keyboard sends; a key that came in part waits for the rest."""

    rest: str = ""

    def split(self, typed: str) -> Iterator[str]:
        r"""The keys in `typed`, each one character or one escape sequence; a paste is one key.

        >>> list(Keys().split("a\x1b[D"))
        ['a', '\x1b[D']
        """
        typed, at = self.rest + typed, 0
        while match := _KEY.match(typed, at):
            if match[0] == "\x1b[200~" and "\x1b[201~" not in typed[at:]:
                break  # the paste goes on
            at = match.end()
            yield match[0]
        self.rest = typed[at:]
        if len(self.rest) > _LONGEST_UNFINISHED and not self.rest.startswith("\x1b[200~"):
            self.rest = ""


@dataclass
class Editor:
    """One line, edited as in a shell: arrows, Home, End, Ctrl-A/E/K/U/W, history, TAB.

    `complete` gets the line up to the cursor and gives what it may become.
    """

    complete: Callable[[str], list[str]] = lambda _: []
    text: str = ""
    cursor: int = 0
    choices: list[str] = field(default_factory=list)
    """What the last TAB left to choose from."""
    _history: list[str] = field(default_factory=list)
    _at: int = 0  # the line of the history that is shown; its length: the new line
    _new: str = ""  # what was typed before going back in the history

    def press(self, key: str) -> str | None:
        """Take a key; gives the line when it was Enter, `END` when it was Ctrl-D, else None."""
        self.choices = []
        if key in {"\r", "\n"}:
            return self._enter()
        if key == END and not self.text:
            return END
        if pasted := _PASTE.fullmatch(key):
            self._insert("".join(" " if each.isspace() else each for each in pasted[1].strip()))
        elif key == "\t":
            self._complete()
        elif key in _EDITS:
            _EDITS[key](self)
        elif len(key) == 1:
            self._insert(key)
        return None

    def _insert(self, text: str) -> None:
        text = "".join(each for each in text if each.isprintable() or each in "\u200d\ufe0f")
        self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
        self.cursor += len(text)

    def _enter(self) -> str:
        line = self.text
        if line.strip() and self._history[-1:] != [line]:
            self._history.append(line)
        self.text, self.cursor, self._at, self._new = "", 0, len(self._history), ""
        return line

    def _complete(self) -> None:
        before = self.text[: self.cursor]
        found = self.complete(before)
        longer = found[0] if len(found) == 1 else _common_start(found)
        if len(longer) > len(before):
            self.text = longer + self.text[self.cursor :]
            self.cursor = len(longer)
        elif len(found) > 1:
            self.choices = [each.rpartition(" ")[2] or each.strip() for each in found]

    def delete(self, start: int, end: int) -> None:
        """Take out a part of the line; the cursor goes where it was."""
        self.text, self.cursor = self.text[:start] + self.text[end:], start

    def delete_word(self) -> None:
        """Take out the word before the cursor."""
        before = self.text[: self.cursor].rstrip()
        self.delete(before.rfind(" ") + 1, self.cursor)

    def go(self, to: int) -> None:
        """Move the cursor, within the line."""
        self.cursor = min(max(to, 0), len(self.text))

    def recall(self, step: int) -> None:
        """Show an earlier line (-1), or a later one (1)."""
        to = self._at + step
        if not 0 <= to <= len(self._history):
            return
        if self._at == len(self._history):
            self._new = self.text
        self._at = to
        self.text = self._new if to == len(self._history) else self._history[to]
        self.cursor = len(self.text)

    def view(self, columns: int) -> tuple[str, int]:
        """The part of the line that fits into so many columns, and the cursor's column in it.

        The cursor is always within; a line that is too long moves to the left.
        """
        start, before = self.cursor, 0
        while start and before + _width(self.text[start - 1]) < columns:
            start -= 1
            before += _width(self.text[start])
        end, room = self.cursor, columns - before
        while end < len(self.text) and _width(self.text[end]) < room:
            room -= _width(self.text[end])
            end += 1
        return self.text[start:end], before


_EDITS: dict[str, Callable[[Editor], None]] = {
    **dict.fromkeys(["\x7f", "\x08"], lambda e: e.delete(max(e.cursor - 1, 0), e.cursor)),
    **dict.fromkeys(["\x1b[3~", "\x04"], lambda e: e.delete(e.cursor, e.cursor + 1)),
    **dict.fromkeys(["\x1b[D", "\x1bOD", "\x02"], lambda e: e.go(e.cursor - 1)),
    **dict.fromkeys(["\x1b[C", "\x1bOC", "\x06"], lambda e: e.go(e.cursor + 1)),
    **dict.fromkeys(["\x1b[H", "\x1bOH", "\x1b[1~", "\x01"], lambda e: e.go(0)),
    **dict.fromkeys(["\x1b[F", "\x1bOF", "\x1b[4~", "\x05"], lambda e: e.go(len(e.text))),
    **dict.fromkeys(["\x1b[A", "\x1bOA", "\x10"], lambda e: e.recall(-1)),
    **dict.fromkeys(["\x1b[B", "\x1bOB", "\x0e"], lambda e: e.recall(1)),
    "\x0b": lambda e: e.delete(e.cursor, len(e.text)),
    "\x15": lambda e: e.delete(0, e.cursor),
    "\x17": Editor.delete_word,
}


def _common_start(lines: list[str]) -> str:
    """What all these lines begin with."""
    if not lines:
        return ""
    first, last = min(lines), max(lines)  # what these two share, all between them share
    length = next((n for n, each in enumerate(first) if last[n] != each), len(first))
    return first[:length]


def width(text: str) -> int:
    """How many columns of a terminal `text` takes.

    >>> width("tea"), width("茶"), width("e\u0301")
    (3, 2, 1)
    """
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character) or character in "\u200d\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
