"""The command line itself: its commands, and the one place where an error becomes an exit code."""

import contextlib
import errno
import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pachinko_cli import console, usage
from pachinko_cli.commands.add_resource import add_resource
from pachinko_cli.commands.add_worker import add_worker
from pachinko_cli.commands.connect import connect
from pachinko_cli.commands.doctor import doctor
from pachinko_cli.commands.info import info
from pachinko_cli.commands.new import new
from pachinko_cli.commands.publish import publish
from pachinko_cli.commands.remove import remove
from pachinko_cli.commands.routes import routes
from pachinko_cli.commands.serve import serve
from pachinko_cli.commands.update import update
from pachinko_cli.errors import FAILED, CliError, InterruptedByUserError

# What a stream answers that leads to a full disk, or to nobody.
_UNPRINTABLE = (errno.ENOSPC, errno.EPIPE)


class Commands(TyperGroup):
    """The commands; Ctrl-C in any of them is an error of ours, with its line and exit code.

    So is a command, an option or an argument that there is not.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read what comes before the command."""
        with usage.explained():
            return super().make_context(*args, **kwargs)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments begin with."""
        known = self.list_commands(ctx)
        if not (ctx.resilient_parsing or args[0] in known):
            raise usage.unknown_command(args, known)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command (the context's type is Click's, which newer Typers carry inside them)."""
        try:
            with usage.explained():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise InterruptedByUserError from None


app = typer.Typer(
    name="pachinko",
    cls=Commands,
    no_args_is_help=True,
    # Help in plain text loads neither Rich nor anything it needs.
    rich_markup_mode=None,
    # What is not a CliError is a bug, and shows where it happened.
    pretty_exceptions_enable=False,
)
app.command(short_help="Make a project: a Falcon app that runs, with its tests.")(new)
app.command(short_help="Add a WebSocket resource to the project, with its test.")(add_resource)
app.command(short_help="Add a background worker to the project, with its test.")(add_worker)
app.command(short_help="Take out what was added, unless it was edited.")(remove)
app.command(short_help="Run the project's app, and again whenever it is saved.")(serve)
app.command(short_help="Talk to one of its WebSockets, from the console.")(connect)
app.command(short_help="Send a message to a room of the running app.")(publish)
app.command(short_help="List what the app answers, and where that is written.")(routes)
app.command(short_help="Look for what is wrong, and say how to mend it.")(doctor)
app.command(short_help="Tell the versions, and what is known of the project.")(info)
app.command(short_help="Update the project to the template of this pachinko.")(update)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - Typer passes the flag so
    if wanted:
        typer.echo(f"pachinko {metadata.version('falcon-pachinko')}")
        raise typer.Exit


@app.callback()
def pachinko(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Make and run Falcon apps with WebSockets."""


def run() -> None:
    """Run the command that the process's arguments ask for, and end the process."""
    try:
        try:
            app(prog_name="pachinko")
        except SystemExit as end:
            if not end.code and sys.stdout is not None:
                sys.stdout.flush()  # what cannot be printed has not succeeded
            raise
    except CliError as error:
        with contextlib.suppress(OSError):  # the exit code says it where stderr is full or closed
            console.fail(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _UNPRINTABLE or error.filename is not None:
            raise
        with contextlib.suppress(OSError):
            console.fail(CliError(f"cannot print: {error.strerror}"))
        sys.exit(FAILED)
