"""The page about the commands is what the commands say of themselves; run this file to renew it."""

import inspect
from pathlib import Path

import typer.main

from pachinko_cli import app as command_line

PAGE = Path(__file__).parents[2] / "docs/reference/commands.md"

INTRODUCTION = """\
# Commands

What every command of `pachinko` takes; each says the same behind `--help`. It comes with the extra
`cli`:

```sh
pip install 'falcon-pachinko[cli]'
```

Results go to stdout; questions, progress, warnings and errors to stderr. With `--json`, a command
that asks (`routes`, `doctor`, `info`) prints one document on stdout, and one that does something
prints an event a line. An error is a few lines: what happened, and what to type. The exit code says
how it ended:

| exit code | means |
|---|---|
| 0 | done, or there was nothing to do |
| 1 | it failed, and nothing was changed; for `doctor`, there is a problem |
| 2 | there is no such command, option or kind, or a name that cannot be |
| 3 | done, but something is left for you: it says what |
| 4 | not inside a project |
| 130 | interrupted; what was begun was undone |

A word that was mistyped is answered with the one that was meant.
"""

RENEWAL = """\
## This page

is written by a program: after a change to a command, `python tests/docs/test_commands.py` writes it
anew.
"""


def rendered():
    """Give the page as the command line of today has it."""
    group = typer.main.get_command(command_line.app)
    sections = [_command(name, each) for name, each in group.commands.items() if not each.hidden]
    # Of Typer's own options, how they are written depends on where this runs.
    own = [each for each in group.params if each.name == "version"]
    options = [*map(_row, own), *COMPLETION, HELP]
    without = "\n".join(["## Without a command", "", *HEAD, *options, ""])
    return "\n".join([INTRODUCTION, *sections, without, RENEWAL])


HEAD = ["| | |", "|---|---|"]
HELP = "| `--help` | Show it, and end. |"
COMPLETION = [
    "| `--install-completion` | Have the shell complete commands, options and names with Tab. |",
    "| `--show-completion` | Print the script that does it. |",
]


def _command(name, command):
    text, _, examples = inspect.cleandoc(command.help).partition("\b\nExamples:\n")
    sentences = "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))
    return "\n".join(
        [
            f"## {name}",
            "",
            sentences,
            "",
            "```sh",
            inspect.cleandoc(examples),
            "```",
            "",
            *HEAD,
            *map(_row, command.params),
            "",
        ]
    )


def _row(parameter):
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        takes = "" if parameter.is_flag else f" {parameter.metavar or 'VALUE'}"
        every = [*parameter.opts, *parameter.secondary_opts]
        names = ", ".join(f"`{each}{takes}`" for each in every)
    default = parameter.default
    is_said = "[default: " in (parameter.help or "") or default in (None, False, (), [])
    if is_said or callable(default):
        said = ""
    elif default is True:
        said = f" [default: {parameter.opts[0]}]"
    else:
        said = f" [default: {default}]"
    words = " ".join(f"{parameter.help}{said}".split())
    cells = [cell.replace("|", "\\|") for cell in (names, words)]
    return f"| {cells[0]} | {cells[1]} |"


def test_the_page_says_what_the_commands_say(pages):
    """Every command, argument and option stands there, in the words of its help.

    If this fails after a change to a command: `python tests/docs/test_commands.py`.
    """
    assert pages["docs/reference/commands.md"].text == rendered()


def test_every_option_of_every_command_is_on_the_page(pages):
    """Found in the Typer app by another way than the page is made."""
    page = pages["docs/reference/commands.md"].text
    for info in command_line.app.registered_commands:
        for parameter in inspect.signature(info.callback).parameters.values():
            declared = parameter.annotation.__metadata__[0].param_decls or ()
            for each in declared:
                for name in each.split("/"):
                    assert f"`{name}" in page, (info.callback, name)


if __name__ == "__main__":
    PAGE.write_text(rendered(), encoding="utf-8")
