r"""Puts a line into a table that the user owns, and takes it out again.

The table is a list that is assigned once at the top of a module; each entry is on lines of its own:

    ROUTES = [
        ("/ws/chat", ChatRoom),
    ]

Where things are is read from the standard library's `ast`; what is there is spliced as text.  So
all bytes around an insertion stay as they are: line ends, a byte order mark, tabs, comments.  The
result is parsed and compared with what was meant before anybody gets it.  Whatever is written
otherwise is not touched: `NotRecognisedError` says why, and `Wire.lines` are for its owner to type.
"""

from __future__ import annotations

import ast
import codecs
import io
import re
import tokenize
import warnings
from dataclasses import dataclass

WIDTH = 100  # the longest line that a generated project's formatter leaves alone

_LINE_END = re.compile(r"\r\n|\r|\n")
_BLANKS = " \t\f"


class NotRecognisedError(Exception):
    """The module is written in a way that is not safe to edit; nothing was changed.

    The text says why, as the end of a sentence about the module.
    """


@dataclass(frozen=True)
class Wire:
    """One entry of a table, and the import of the name in it.

    `parts` are the entry's expressions, more than one for a tuple; `name` is the last of them and
    comes from `module`.  `package` is the one whose module has the table.

    >>> wire = Wire("tea_room", "ROUTES", ('"/ws/notes"', "Notes"), "tea_room.resources.notes")
    >>> wire.entry, wire.import_line
    ('("/ws/notes", Notes)', 'from .resources.notes import Notes')
    """

    package: str
    table: str
    parts: tuple[str, ...]
    module: str

    @property
    def name(self) -> str:
        """What is imported, and stands last in the entry."""
        return self.parts[-1]

    @property
    def entry(self) -> str:
        """The entry on one line."""
        return self.parts[0] if len(self.parts) == 1 else f"({', '.join(self.parts)})"

    @property
    def import_line(self) -> str:
        """The import on one line, relative to the package."""
        return f"from {self.module.removeprefix(self.package)} import {self.name}"

    @property
    def lines(self) -> tuple[str, str]:
        """What somebody types who does it by hand: the import, and the line of the table."""
        return self.import_line, f"    {self.entry},"


@dataclass(frozen=True)
class Trace:
    """What an insertion did besides adding lines, for `remove` to undo.

    `emptied` is what was between the brackets of a table without entries; `spaced` says that a
    blank line was put before the import.
    """

    emptied: str | None = None
    spaced: bool = False


def insert(source: bytes, wire: Wire) -> tuple[bytes, Trace | None]:
    """Add the entry at the end of its table, and the import where the formatter would have it.

    What is there already is not added twice: then the bytes are the same, and there is no trace.

    Raises:
        NotRecognisedError: It is not certain that nothing else would change.
    """
    module = _Module(source, wire)
    edits, trace = [], None
    if not module.mentions:
        edit, emptied = module.entry_to_add()
        edits.append(edit)
        trace = Trace(emptied)
    if module.own_import is None:
        edit, spaced = module.import_to_add()
        edits.append(edit)
        trace = Trace(trace.emptied if trace else None, spaced)
    return _checked(module, edits, added=True), trace


def remove(source: bytes, wire: Wire, trace: Trace) -> bytes:
    """Take out what `insert` put in; bytes without it come back as they are.

    Raises:
        NotRecognisedError: Its owner has changed it, or uses the name elsewhere.
    """
    module = _Module(source, wire)
    edits = []
    if module.mentions:
        edits.append(module.entry_to_remove(trace.emptied))
    if module.own_import is not None:
        edits.append(module.import_to_remove(module.own_import, spaced=trace.spaced))
    return _checked(module, edits, added=False)


def is_taken(source: bytes, wire: Wire) -> bool:
    """Whether the wire's name means something else in the module; False where nobody can tell."""
    try:
        module = _Module(source, wire)
    except NotRecognisedError:
        return False
    return module.own_import is None and wire.name in module.names


def texts(source: bytes, wire: Wire) -> list[str]:
    """The texts in the entries of the wire's table, such as the paths of routes."""
    try:
        elements = _Module(source, wire).table.elts
    except NotRecognisedError:
        return []
    return [
        node.value
        for element in elements
        if wire.name not in _names(element)
        for node in ast.walk(element)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


@dataclass(frozen=True)
class _Edit:
    """`text` takes the place of what is from `start` to `end`."""

    start: int
    end: int
    text: str


class _Module:
    """A module that has the table: its text, and what of it matters to one wire."""

    def __init__(self, source: bytes, wire: Wire) -> None:
        self.source, self.wire = source, wire
        self.bom = codecs.BOM_UTF8 if source.startswith(codecs.BOM_UTF8) else b""
        self.encoding = _encoding(source)
        self.text = _decoded(source[len(self.bom) :], self.encoding)
        self.tree = _parsed(self.text)
        self.starts = [0, *(match.end() for match in _LINE_END.finditer(self.text))]
        self.table = self._table()
        self.own_import = next((node for node in self._imports() if self._is_own(node)), None)
        self.mentions = [each for each in self.table.elts if wire.name in _names(each)]

    @property
    def names(self) -> set[str]:
        """Every name that means something here."""
        found = _names(self.tree)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.alias):
                found.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
        return found

    def entry_to_add(self) -> tuple[_Edit, str | None]:
        """The edit that adds the entry, and what was between the brackets if nothing was in it."""
        start, end = self._span(self.table)
        inside = self.text[start + 1 : end - 1]
        if self.table.elts:
            return self._entry_after(self.table.elts[-1], end - 1), None
        if not inside.strip(_BLANKS):
            base = self._indent(start)
            newline = self._newline(end)
            entry = self._entry(base + self._unit(), newline)
            return _Edit(start + 1, end - 1, f"{newline}{entry}{newline}{base}"), inside
        return self._entry_into_comments(inside, end - 1), inside

    def entry_to_remove(self, emptied: str | None) -> _Edit:
        """The edit that takes the entry out, with its lines."""
        wanted = ast.dump(_parsed(self.wire.entry).body[0].value)  # type: ignore[attr-defined]  # one expression
        element = self.mentions[0]
        if len(self.mentions) > 1 or ast.dump(element) != wanted:
            raise NotRecognisedError(
                f"has {self.wire.name} in {self.wire.table} in another way than it was added "
                f"(line {element.lineno})"
            )
        start, end = self._span(element)
        end = self._after_comma(end) or end
        start, end = self._whole_lines(start, end, element.lineno)
        if len(self.table.elts) > 1:
            return _Edit(start, end, "")
        opening, closing = self._span(self.table)
        rest = self.text[opening + 1 : start] + self.text[end : closing - 1]
        if rest.strip():  # comments, which stay
            return _Edit(start, end, "")
        inside = "" if emptied is None or emptied.strip() else emptied
        return _Edit(opening + 1, closing - 1, inside)

    def import_to_add(self) -> tuple[_Edit, bool]:
        """The edit that adds the import in the order of the others, and whether a blank line is."""
        earlier = [
            node
            for node in self.tree.body
            if isinstance(node, ast.Import | ast.ImportFrom) and node.lineno < self.table.lineno
        ]
        if not earlier:
            raise NotRecognisedError(f"imports nothing before {self.wire.table}")
        root = self.wire.package.partition(".")[0]
        ours = [
            node
            for node in earlier
            if isinstance(node, ast.ImportFrom)
            and (node.level or (node.module or "").partition(".")[0] == root)
        ]
        relative = any(node.level for node in ours) or not ours
        peers = [node for node in ours if bool(node.level) == relative]
        module = self.wire.module
        mine = (-1, _natural(module.removeprefix(f"{self.wire.package}."))) if relative else None
        key = mine or (0, _natural(module))
        before = [node for node in peers if _order(node) < key]
        if peers and not before:
            position = self._above_comments(peers[0])
        else:
            position = self._next_line((before or earlier)[-1])
        newline = self._newline(self._line_start(position - 1))
        leading = module.removeprefix(self.wire.package) if relative else module
        line = f"from {leading} import {self.wire.name}"
        if len(line) > WIDTH:
            line = f"from {leading} import (\n    {self.wire.name},\n)"
        text = f"{line}\n".replace("\n", newline)
        return _Edit(position, position, text if peers else newline + text), not peers

    def import_to_remove(self, node: ast.ImportFrom, *, spaced: bool) -> _Edit:
        """The edit that takes the import out, with its line."""
        if len(node.names) > 1:
            raise NotRecognisedError(f"imports more than {self.wire.name} in line {node.lineno}")
        uses = [
            each.lineno
            for each in ast.walk(self.tree)
            if isinstance(each, ast.Name) and each.id == self.wire.name
        ]
        if len(uses) > len(self.mentions):
            lines = {each.lineno for each in self.mentions}
            other = next((line for line in uses if line not in lines), uses[-1])
            raise NotRecognisedError(f"uses {self.wire.name} in line {other} as well")
        start, end = self._whole_lines(*self._span(node), node.lineno)
        above = self.starts[node.lineno - 2] if node.lineno > 1 else start
        if spaced and not self.text[above:start].strip():
            start = above
        return _Edit(start, end, "")

    # Where things are.

    def _table(self) -> ast.List:
        name, found = self.wire.table, []
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                found.append(node)
        if len(found) != 1:
            raise NotRecognisedError(
                f"assigns {name} more than once" if found else f"has no {name} = [...]"
            )
        value = found[0].value  # type: ignore[attr-defined]  # both kinds of assignment have it
        if not isinstance(value, ast.List):
            raise NotRecognisedError(f"has a {name} that is no list written out")
        return value

    def _imports(self) -> list[ast.ImportFrom]:
        return [node for node in self.tree.body if isinstance(node, ast.ImportFrom)]

    def _is_own(self, node: ast.ImportFrom) -> bool:
        """Whether an import is the wire's, written relative or absolute."""
        parents = self.wire.package.split(".")
        base = parents[: len(parents) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        return module == self.wire.module and any(
            alias.name == self.wire.name and alias.asname is None for alias in node.names
        )

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno, node.end_col_offset),
        )

    def _offset(self, line: int, column: int) -> int:
        """The position in the text of a column, which `ast` counts in UTF-8."""
        start = self.starts[line - 1]
        end = self.starts[line] if line < len(self.starts) else len(self.text)
        return start + len(self.text[start:end].encode()[:column].decode())

    def _line_start(self, position: int) -> int:
        return max(start for start in self.starts if start <= max(position, 0))

    def _line_end(self, position: int) -> int:
        """Where the text of a line ends, before its line end."""
        match = _LINE_END.search(self.text, position)
        return match.start() if match else len(self.text)

    def _next_line(self, node: ast.stmt) -> int:
        match = _LINE_END.search(self.text, self._span(node)[1])
        if match is None:
            raise NotRecognisedError(f"has no line after line {node.end_lineno}")
        return match.end()

    def _above_comments(self, node: ast.stmt) -> int:
        """Where the comment begins that stands directly above a statement.

        One at the top of the module is about all of it, and may say in which encoding it is.
        """
        line = node.lineno - 1
        while line and self.text[self.starts[line - 1] : self.starts[line]].startswith("#"):
            line -= 1
        return self.starts[line or node.lineno - 1]

    def _newline(self, position: int) -> str:
        """The line end nearest after a position, else the module's first."""
        match = _LINE_END.search(self.text, max(position, 0)) or _LINE_END.search(self.text)
        return match[0] if match else "\n"

    def _indent(self, position: int) -> str:
        """The blanks that a position's line begins with."""
        line = self.text[self._line_start(position) : self._line_end(position)]
        return line[: len(line) - len(line.lstrip(_BLANKS))]

    def _unit(self) -> str:
        """One more level of indentation, as the module's first indented line has it."""
        first = re.search(r"^[ \t]+(?=\S)", self.text, re.MULTILINE)
        return "\t" if first and first[0].startswith("\t") else "    "

    def _after_comma(self, position: int) -> int | None:
        """Where the comma ends that comes next, past blanks and comments; None if none does."""
        match = re.compile(r"(?:[ \t\f\r\n]|#[^\r\n]*)*,").match(self.text, position)
        return match.end() if match else None

    def _whole_lines(self, start: int, end: int, line: int) -> tuple[int, int]:
        """The lines from `start` to `end`, their line end included, if nothing else is on them."""
        first, last = self._line_start(start), self._line_end(end)
        if self.text[first:start].strip() or self.text[end:last].strip():
            raise NotRecognisedError(f"has something else beside {self.wire.name} in line {line}")
        match = _LINE_END.match(self.text, last)
        return first, match.end() if match else last

    # What is written.

    def _entry(self, indent: str, newline: str) -> str:
        entry = f"{indent}{self.wire.entry},"
        if len(entry.expandtabs(4)) > WIDTH and len(self.wire.parts) > 1:
            unit = "\t" if indent.endswith("\t") else "    "
            inner = "".join(f"{indent}{unit}{part},\n" for part in self.wire.parts)
            entry = f"{indent}(\n{inner}{indent}),".replace("\n", newline)
        return entry

    def _entry_after(self, last: ast.expr, closing: int) -> _Edit:
        start, end = self._span(last)
        indent = self.text[self._line_start(start) : start]
        after = self._after_comma(end)
        if indent.strip(_BLANKS) or after is None:
            raise NotRecognisedError(
                f"has a {self.wire.table} whose last entry is not a line of its own with a comma"
            )
        line_end = self._line_end(after)
        rest = self.text[after:line_end].strip(_BLANKS)
        if line_end >= closing or (rest and not rest.startswith("#")):
            raise NotRecognisedError(f"has a {self.wire.table} that ends on its last entry's line")
        newline = self._newline(line_end)
        return _Edit(line_end, line_end, newline + self._entry(indent, newline))

    def _entry_into_comments(self, inside: str, closing: int) -> _Edit:
        """Into brackets with line ends between them, and maybe comments, but no entry."""
        position = self._line_start(closing)
        base = self.text[position:closing]
        if base.strip(_BLANKS):
            raise NotRecognisedError(f"has a {self.wire.table} whose ] is not on its own line")
        comments = re.findall(r"^([ \t]+)#", inside, re.MULTILINE)
        indent = comments[-1] if comments else base + self._unit()
        newline = self._newline(self._line_start(position - 1))
        return _Edit(position, position, self._entry(indent, newline) + newline)


def _checked(module: _Module, edits: list[_Edit], *, added: bool) -> bytes:
    """The module with the edits, once it is certain that they are all that is different."""
    if not edits:
        return module.source
    text, pieces, position = module.text, [], 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        pieces += [text[position : edit.start], edit.text]
        position = edit.end
    pieces.append(text[position:])
    try:
        result = module.bom + b"".join(piece.encode(module.encoding) for piece in pieces)
        edited = _Module(result, module.wire)
    except (UnicodeError, NotRecognisedError) as error:
        raise NotRecognisedError("would be another module in more than that") from error
    before, after = (module, edited) if added else (edited, module)
    entry = bool(module.mentions) is not added
    imported = (before.own_import is None) and (after.own_import is not None)
    if _without(after, entry=entry, imported=imported) != ast.dump(before.tree):
        raise NotRecognisedError("would be another module in more than that")
    return result


def _without(module: _Module, *, entry: bool, imported: bool) -> str:
    """What the module is without the entry and the import of its wire."""
    if entry:
        if not module.mentions:
            return ""
        module.table.elts.remove(module.mentions[-1])
    if imported and module.own_import is not None:
        module.tree.body.remove(module.own_import)
    return ast.dump(module.tree)


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _natural(module: str) -> tuple[tuple[int, int], ...]:
    """What an import is sorted by: letter by letter, but a number counts as a number."""
    parts = re.findall(r"[0-9]+|[^0-9]", module.lower())
    return tuple((ord("0"), int(part)) if part.isdecimal() else (ord(part), 0) for part in parts)


def _order(node: ast.ImportFrom) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Imports from parents come before those from the package itself; then by name."""
    return -node.level, _natural(node.module or "")


def _encoding(source: bytes) -> str:
    # Python reads a lone CR as a line end; the function that looks for the encoding does not.
    lines = io.BytesIO(source.replace(b"\r", b"\n"))
    try:
        encoding, _ = tokenize.detect_encoding(lines.readline)
    except (SyntaxError, UnicodeError, LookupError) as error:
        raise NotRecognisedError(f"cannot be read: {error}") from error
    return encoding.removesuffix("-sig")


def _decoded(source: bytes, encoding: str) -> str:
    try:
        text = source.decode(encoding)
        if text.encode(encoding) == source:
            return text
    except (UnicodeError, LookupError) as error:
        raise NotRecognisedError(f"cannot be read: {error}") from error
    raise NotRecognisedError(f"is in {encoding}, which may be written in more than one way")


def _parsed(text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the user's code, which is not run here
            return ast.parse(text)
    except SyntaxError as error:
        raise NotRecognisedError(f"has a syntax error in line {error.lineno}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotRecognisedError(f"cannot be read: {error}") from error
