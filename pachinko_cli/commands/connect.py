"""`pachinko connect`: a WebSocket client for the console, which knows the project's messages."""

import asyncio
import contextlib
import io
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pachinko_cli import console, project
from pachinko_cli.console import Console
from pachinko_cli.errors import USAGE, CliError, shown
from pachinko_cli.options import JsonEvents, Quiet

if TYPE_CHECKING:
    from pachinko_cli.client.conversation import Plan
    from pachinko_cli.client.vocabulary import Vocabulary


def connect(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A path, /ws/chat/tea, or a whole ws:// URL.")
    ],
    *,
    url: Annotated[
        str | None, typer.Option(help="The server: https://tea.example.  [default: --host, --port]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Its host.  [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Its port.  [default: 8000]")
    ] = None,
    send: Annotated[
        list[str] | None,
        typer.Option(metavar="MESSAGE", help="Send this first; repeat it for more."),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="End when it came, in this order; repeat it for more."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0.001, metavar="S", help="Seconds for the handshake, and for --expect."),
    ] = 10.0,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME: VALUE'", help="A header for the handshake; may be repeated."),
    ] = None,
    origin: Annotated[
        str | None, typer.Option(help="The Origin, as a browser sends it: https://app.example.")
    ] = None,
    subprotocol: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Offer it; pachinko.msgpack is shown as JSON."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Check messages before they are sent.")
    ] = True,
    as_json: JsonEvents = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print headers and sent frames, too.")
    ] = False,
) -> None:
    """Talk to a WebSocket of the served app, or of any other server.

    On a terminal, type messages: say text=hi, or JSON; TAB completes, /help tells more.  Inside a
    project they are checked against its message types first.

    On a pipe, each line of stdin is a message, and each frame that comes is a line on stdout.  It
    ends when stdin has ended and nothing came for 1 s, or when all that --expect names has come.

    \b
    Examples:
      pachinko connect /ws/chat/tea
      pachinko connect /ws/chat/tea --send 'say text=hi' --expect said --timeout 5
      echo '{"type": "say"}' | pachinko connect wss://tea.example/ws/chat/tea --json
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    from pachinko_cli.client import address  # noqa: PLC0415 - not for `--help`
    from pachinko_cli.client import input as inputs  # noqa: PLC0415 - not for `--help`

    to = address.address(path, url=url, host=host, port=port)
    headers = tuple(map(address.header, header or ()))
    offered = tuple(map(address.subprotocol, dict.fromkeys(subprotocol or ())))
    if origin is not None:
        origin = address.origin(origin)
    if not math.isfinite(timeout):
        raise CliError(
            f"--timeout is {timeout}", hint="seconds, for example 0.5 or 3600", exit_code=USAGE
        )
    if "" in (expect or ()):
        raise CliError("--expect is empty", hint="name a type: --expect said", exit_code=USAGE)

    # What comes may have characters that the terminal's encoding has not.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # and neither closed nor replaced
            stream.reconfigure(errors="backslashreplace")

    words = _vocabulary(to.path, verbose=verbose)

    from pachinko_cli.client.conversation import Plan, hold  # noqa: PLC0415 - see above
    from pachinko_cli.client.lines import completer  # noqa: PLC0415 - see above

    lines: inputs.Lines
    if not as_json and not expect and inputs.can_prompt():
        lines = inputs.Prompt(completer(words))
    elif expect and inputs.is_terminal(sys.stdin):
        lines = inputs.Nothing()
    else:
        lines = inputs.Pipe()
    plan = Plan(
        to=to,
        words=words,
        console=Console(quiet=quiet, verbose=verbose, as_json=as_json),
        lines=lines,
        headers=headers,
        origin=origin,
        subprotocols=offered,
        send=tuple(send or ()),
        expect=tuple(expect or ()),
        timeout=timeout,
        check=check,
        marks_frames=inputs.is_terminal(sys.stdout),
    )
    _check_all(plan)
    asyncio.run(hold(plan))


def _vocabulary(path: str, *, verbose: bool) -> "Vocabulary":
    """What the project's app takes at `path`; outside a project, or if it does not import, nothing.

    The import runs in this process, as `serve` would do it; what it prints goes to stderr.
    """
    from pachinko_cli.server.loading import load  # noqa: PLC0415 - not for `--help`

    try:
        found = project.find(Path.cwd())
    except project.OutsideProjectError:
        app = None
    except CliError as broken:
        console.warn(_unchecked(broken, verbose=verbose))
        app = None
    else:
        os.chdir(found.root)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                app = load(found.root, found.app, whole_trace=verbose)
        except CliError as broken:
            console.warn(_unchecked(broken, verbose=verbose))
            app = None

    # Only after the app, so that its own imports fail first.
    from pachinko_cli.client.vocabulary import Vocabulary  # noqa: PLC0415 - see above

    return Vocabulary.of(app, path)


def _unchecked(broken: CliError, *, verbose: bool) -> CliError:
    lines = broken.message.splitlines()
    told = broken.message if verbose or len(lines) == 1 else f"{lines[0]}: {lines[-1].strip()}"
    return CliError(told, hint="messages are sent unchecked")


def _check_all(plan: "Plan") -> None:
    """Refuse a --send that could not be sent, before anything is.

    Raises:
        CliError: Exit 2.
    """
    from pachinko_cli.client.conversation import message_of  # noqa: PLC0415 - not for `--help`

    for line in plan.send:
        try:
            message_of(line, plan)
        except CliError as refused:
            raise CliError(
                f"--send {shown(line)}: {refused.message}", hint=refused.hint, exit_code=USAGE
            ) from refused
