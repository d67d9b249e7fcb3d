"""What people read, and what machines read: the only door to Rich.

Results go to stdout, everything else (questions, progress, warnings, errors) to stderr.  With
`--json`, stdout has one JSON object a line and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from pachinko_cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import rich.console


def _rich(stream: TextIO) -> rich.console.Console:
    # Imported on the first line that is printed: showing help needs no Rich.
    from rich.console import Console as RichConsole  # noqa: PLC0415 - see above

    return RichConsole(file=stream, highlight=False, emoji=False, soft_wrap=True)


def is_interactive() -> bool:
    """Whether there is a person to ask: a terminal at both ends, and no CI."""
    in_ci = os.environ.get("CI", "").lower() not in {"", "0", "false"}
    return sys.stdin.isatty() and sys.stderr.isatty() and not in_ci


def fail(error: CliError) -> None:
    """Print an error on stderr: what happened, then what to do."""
    _complain("error:", "bold red", error)


def warn(error: CliError) -> None:
    """Print on stderr what did not work without stopping the command."""
    _complain("warning:", "yellow", error)


def note(text: str) -> None:
    """Print a line for people on stderr."""
    _rich(sys.stderr).print(text, markup=False)


def _complain(label: str, style: str, error: CliError) -> None:
    out = _rich(sys.stderr)
    out.print(label, style=style, end=" ")
    out.print(error.message, markup=False)
    if error.hint:
        out.print(f"  {error.hint}", markup=False)


@dataclass(frozen=True)
class Console:
    """How much a command says, and to whom.

    `quiet` leaves only errors and warnings; `verbose` adds what the steps themselves print;
    `as_json` turns stdout over to machines.
    """

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False

    @property
    def _for_people(self) -> bool:
        return not (self.quiet or self.as_json)

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line of the result."""
        if self._for_people:
            _rich(sys.stdout).print(text, style=style or None, markup=False)

    def event(self, event: str, **fields: object) -> None:
        """Print one JSON object on a line of its own, with `--json` only."""
        if self.as_json:
            print(json.dumps({"event": event, **fields}), flush=True)  # noqa: T201 - for machines

    def document(self, content: object) -> None:
        """Print one JSON document, with `--json` only: the whole answer of a command that asks."""
        if self.as_json:
            print(json.dumps(content, indent=2), flush=True)  # noqa: T201 - for machines

    def marked(self, mark: str, text: str, style: str) -> None:
        """Print a line behind a mark, a word of at most seven letters that has the style."""
        if self._for_people:
            out = _rich(sys.stdout)
            out.print(f"{mark:<7}", style=style, markup=False, end="  ")
            out.print(text, markup=False)

    def table(self, sections: Mapping[tuple[str, ...], Iterable[tuple[str, ...]]]) -> None:
        """Print rows in columns that all sections share, each below its own heads.

        What is too long is folded on a terminal, and left on its line where a program reads it.
        """
        if not (self._for_people and sections):
            return
        from rich.table import Table  # noqa: PLC0415 - showing help needs no Rich
        from rich.text import Text  # noqa: PLC0415 - see above

        out = _rich(sys.stdout)
        if not out.is_terminal:
            out.width = 10_000
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for _ in max(sections, key=len, default=()):
            table.add_column(overflow="fold")
        for heads, rows in sections.items():
            if table.row_count:
                table.add_row()
            table.add_row(*(Text(head, style="bold") for head in heads))
            for row in rows:
                table.add_row(*map(Text, row))
        with out.capture() as printed:
            out.print(table, soft_wrap=False)
        for line in printed.get().splitlines():
            print(line.rstrip())  # noqa: T201 - styled by Rich, without the spaces that fill columns

    def tree(self, root: str, files: Iterable[Path]) -> None:
        """Print a folder as a tree, folders first met first."""
        if not self._for_people:
            return
        from rich.text import Text  # noqa: PLC0415 - showing help needs no Rich
        from rich.tree import Tree  # noqa: PLC0415 - see above

        top = Tree(Text(f"{root}/", style="bold"), guide_style="dim")
        branches: dict[tuple[str, ...], Tree] = {(): top}
        for file in sorted(files, key=lambda file: (len(file.parts) == 1, file.parts)):
            for depth in range(1, len(file.parts)):
                folder = file.parts[:depth]
                if folder not in branches:
                    label = Text(f"{folder[-1]}/", style="bold")
                    branches[folder] = branches[folder[:-1]].add(label)
            branches[file.parts[:-1]].add(Text(file.name))
        _rich(sys.stdout).print(top)

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show that something takes time; the function it gives says what is being done now.

        On a terminal that is a spinner, elsewhere a line on stderr for each step.
        """
        out = _rich(sys.stderr)
        if self.quiet:
            yield lambda _: None
        elif self.verbose or not out.is_terminal:
            yield lambda step: out.print(f"{what}: {step}", markup=False)
        else:
            from rich.markup import escape  # noqa: PLC0415 - only when it runs

            with out.status(escape(what)) as status:
                yield lambda step: status.update(escape(f"{what}: {step}"))


def ask(question: str, default: str) -> str:
    """Ask for a line on the terminal; Enter takes the default.

    Raises `CliError` at the end of input, so that silence is never an answer.
    """
    answer = ""
    try:
        sys.stderr.write(f"{question} ({default}): ")
        sys.stderr.flush()
        # As bytes: what is typed may be in another encoding, and that is no reason to crash.
        answer = sys.stdin.buffer.readline().decode(sys.stdin.encoding, errors="replace")
    finally:
        if not answer.endswith("\n"):  # Ctrl-D or Ctrl-C: what follows begins on a line of its own
            note("")
    if not answer:
        raise CliError(
            "no answer: the input ended", hint="give every answer as an option, or --yes"
        )
    return answer.strip() or default


def ask_yes_no(question: str, *, default: bool) -> bool:
    """Ask until the answer is yes or no; Enter takes the default."""
    while True:
        answer = ask(f"{question} [y/n]", "y" if default else "n").lower()
        if answer in {"y", "yes", "n", "no"}:
            return answer.startswith("y")
        note("  y or n, please")
