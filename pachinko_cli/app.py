"""The command line itself: its commands, and the one place where an error becomes an exit code."""

import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pachinko_cli import console
from pachinko_cli.commands.add_resource import add_resource
from pachinko_cli.commands.add_worker import add_worker
from pachinko_cli.commands.new import new
from pachinko_cli.commands.remove import remove
from pachinko_cli.commands.serve import serve
from pachinko_cli.errors import CliError, InterruptedByUserError


class Commands(TyperGroup):
    """The commands; Ctrl-C in any of them is an error of ours, with its line and exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command (the context's type is Click's, which newer Typers carry inside them)."""
        try:
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
        app(prog_name="pachinko")
    except CliError as error:
        console.fail(error)
        sys.exit(error.exit_code)
