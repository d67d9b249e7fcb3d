"""`pachinko publish`: sends a message to the members of a room of a running app."""

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pachinko_cli import console, project
from pachinko_cli.console import Console
from pachinko_cli.errors import USAGE, CliError
from pachinko_cli.options import JsonEvents, Quiet, ShowTracebacks

if TYPE_CHECKING:
    from falcon_pachinko import Backend

NAME_IT = "or name the server: --backend redis://localhost:6379/0"


def publish(
    room: Annotated[str, typer.Argument(metavar="ROOM", help="The room, for example chat:tea.")],
    message_type: Annotated[
        str,
        typer.Argument(metavar="TYPE", help="The message's type; or the whole message, as JSON."),
    ],
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="FIELD=VALUE", help="Its payload; or that as JSON."),
    ] = None,
    *,
    backend: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The backend.  [default: that of the project's app]"),
    ] = None,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:ATTRIBUTE", help="The app.  [default: as pyproject.toml says]"
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Send it once within two minutes, if the room has a history."
        ),
    ] = None,
    as_json: JsonEvents = False,
    quiet: Quiet = False,
    verbose: ShowTracebacks = False,
) -> None:
    """Send a message to the members of a room, on all processes of a running app.

    It goes through the backend that connects the processes: --backend, or the one that the
    project's app has.  A value is JSON where it reads as JSON, and text elsewhere.  Exit code 1 if
    the message did not leave; whether anybody is in the room is not known.

    \b
    Examples:
      pachinko publish chat:tea notice text='We close at five' urgent=true
      pachinko publish chat:tea notice '{"text": "We close at five"}'
      pachinko publish chat:tea notice --backend redis://db.example:6379/0
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    if backend is not None and app is not None:
        raise CliError(
            "--backend and --app both say where to send", hint="give one", exit_code=USAGE
        )
    where = backend if backend is not None else _of_the_app(app, verbose=verbose)

    # Only after the app, so that its own imports fail first.
    from falcon_pachinko.errors import (  # noqa: PLC0415 - not for `--help`
        BackendError,
        EncodeError,
        InvalidNameError,
        SetupError,
    )
    from pachinko_cli.client import lines  # noqa: PLC0415 - see above

    if isinstance(where, str) and where.lower().startswith("memory:"):
        raise CliError(
            "memory:// connects the apps of one process, and this is another one",
            hint="publish by a server: --backend redis://localhost:6379/0",
            exit_code=USAGE,
        )
    try:
        message = lines.message(message_type, fields or ())
    except CliError as refused:
        raise CliError(refused.message, hint=refused.hint, exit_code=USAGE) from refused
    with _library_warnings():
        try:
            name = asyncio.run(_send(where, room, message, idempotency_key))
        except (SetupError, InvalidNameError, ValueError) as error:
            raise CliError(str(error), exit_code=USAGE) from error
        except EncodeError as error:
            raise CliError(f"the message cannot be sent: {error}") from error
        except BackendError as error:
            hint = "see that the server runs, and that the URL, its user and its password are right"
            raise CliError(f"not published: {error}", hint=hint) from error

    kind = message.get("type")
    Console(as_json=as_json).event("published", room=room, type=kind, backend=name)
    told = f"Published {kind} to {room} by {name}" if kind else f"Published to {room} by {name}"
    Console(quiet=quiet, as_json=as_json).line(told)


async def _send(where: "Backend | str", room: str, message: Any, key: str | None) -> str:
    """Send, and return what logs call the backend."""
    from falcon_pachinko import Publisher  # noqa: PLC0415 - not for `--help`

    async with Publisher(where) as publisher:
        await publisher.broadcast_to_room(room, message, idempotency_key=key)
        return publisher.backend.name


def _of_the_app(app: str | None, *, verbose: bool) -> "Backend":
    """The backend of the app, which is imported here; what that prints goes to stderr.

    Raises:
        CliError: It does not import, or it has none that reaches other processes.
    """
    from pachinko_cli.server.loading import load  # noqa: PLC0415 - not for `--help`

    try:
        found = project.current()
    except project.OutsideProjectError as outside:
        if app is None:
            raise CliError(
                outside.message, hint=f"cd into a project, {NAME_IT}", exit_code=outside.exit_code
            ) from outside
        root, name = Path.cwd(), project.checked_app(app, "--app")
    else:
        root, name = found.root, found.app if app is None else project.checked_app(app, "--app")
    os.chdir(root)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            loaded = load(root, name, whole_trace=verbose)
    except CliError as broken:
        hint = f"{broken.hint}, {NAME_IT}" if broken.hint else f"mend it, {NAME_IT}"
        raise CliError(broken.message, hint=hint, exit_code=broken.exit_code) from broken

    # Only after the app, so that its own imports fail first.
    from falcon_pachinko.app import installed  # noqa: PLC0415 - see above
    from falcon_pachinko.backends import MemoryBackend  # noqa: PLC0415 - see above

    pachinko = installed(loaded)
    if pachinko is None:
        raise CliError(
            f"{name} is not a Falcon app with falcon_pachinko installed",
            hint=f"call install(app, backend=...) on it, {NAME_IT}",
        )
    backend = pachinko.ws_connection_manager._cluster.backend  # noqa: SLF001 - nobody else needs it
    if isinstance(backend, MemoryBackend):
        raise CliError(
            f"{name} has no backend that other processes share, so nothing can be sent to it",
            hint=f'give it one: install(app, backend="redis://..."), {NAME_IT}',
        )
    return backend


@contextlib.contextmanager
def _library_warnings() -> Any:
    """Have the library's warnings be printed as ours are."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.warn(CliError(record.getMessage()))

    logger, handler = logging.getLogger("falcon_pachinko"), Handler(logging.WARNING)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
