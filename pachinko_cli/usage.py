"""What is said to somebody who typed something that the command line does not have."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pachinko_cli.errors import USAGE, CliError, shown
from pachinko_cli.suggestions import near

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# What the same thing is called elsewhere.
ELSEWHERE = {
    "broadcast": "publish",
    "create": "new",
    "dev": "serve",
    "init": "new",
    "list": "routes",
    "run": "serve",
    "send": "publish",
    "start": "serve",
    "status": "doctor",
    "version": "--version",
}


def unknown_command(typed: Sequence[str], commands: Iterable[str]) -> CliError:
    """The error for `typed`, whose first word is none of the commands (exit 2).

    >>> unknown_command(["add", "worker", "pulse"], ["add-resource", "add-worker"]).hint
    'did you mean: pachinko add-worker'
    """
    commands = list(commands)
    joined = "-".join(typed[:2])
    meant = joined if joined in commands else ELSEWHERE.get(typed[0]) or near(typed[0], commands)
    hint = f"did you mean: pachinko {meant}" if meant else f"commands: {', '.join(commands)}"
    return CliError(f"there is no command {shown(typed[0])}", hint=hint, exit_code=USAGE)


def unknown_choice(what: str, typed: str, choices: Iterable[str]) -> CliError:
    """The error for a word that is none of the few there are (exit 2).

    >>> unknown_choice("kind", "roon", ["room", "reply"]).hint
    'did you mean room? There are: room, reply'
    """
    choices = list(choices)
    meant = near(typed, choices)
    hint = f"there are: {', '.join(choices)}"
    if meant:
        hint = f"did you mean {meant}? T{hint[1:]}"
    return CliError(f"there is no {what} {shown(typed)}", hint=hint, exit_code=USAGE)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn a usage error of Click's into one in our words (exit 2).

    Its type is Click's, which newer Typers carry inside them; so it is known by what it has.
    """
    try:
        yield
    except Exception as refused:
        # No arguments at all: then the "error" is the help.
        if not hasattr(refused, "format_message") or "NoArgs" in type(refused).__name__:
            raise
        raise _in_our_words(refused) from None


def _in_our_words(refused: Any) -> CliError:
    context = getattr(refused, "ctx", None)
    command = context.command_path if context else "pachinko"
    option = getattr(refused, "option_name", None)
    if option and hasattr(refused, "possibilities"):
        return _unknown_option(option, command, context)
    message = str(refused.format_message()).rstrip(".")
    message = f"{message[:1].lower()}{message[1:]}"
    if context is None:
        hint = "see: pachinko COMMAND --help"
    else:
        message, hint = f"{command}: {message}", f"see: {command} --help"
    return CliError(message, hint=hint, exit_code=refused.exit_code)


def _unknown_option(option: str, command: str, context: Any) -> CliError:
    here = _options(context.command, context)
    below = getattr(context.command, "commands", {}).values()
    if any(option in _options(each, context) for each in below):
        hint = f"options come after the command: {command} COMMAND {option}"
    elif meant := near(option, here):
        hint = f"did you mean {meant}? See: {command} --help"
    else:
        hint = f"see: {command} --help"
    return CliError(f"{command} has no option {shown(option)}", hint=hint, exit_code=USAGE)


def _options(command: Any, context: Any) -> list[str]:
    """Every long option of a command, on and off."""
    return [
        name
        for parameter in command.get_params(context)
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    ]
