"""`pachinko routes`: lists what the project's app answers, and where that is written."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from pachinko_cli import project
from pachinko_cli.console import Console
from pachinko_cli.errors import CliError, shown
from pachinko_cli.options import JsonDocument, Quiet, ShowTracebacks

if TYPE_CHECKING:
    from pachinko_cli.anatomy import Anatomy

Row = tuple[str, str, str]


def routes(
    wanted: Annotated[
        str | None,
        typer.Argument(
            metavar="FILTER", help="Only those with this in their path, names or message types."
        ),
    ] = None,
    *,
    as_json: JsonDocument = False,
    quiet: Quiet = False,
    verbose: ShowTracebacks = False,
) -> None:
    """List the app's routes: WebSocket with their message types, HTTP, and what runs beside them.

    The app is imported, in a process of its own, and never started.

    \b
    Examples:
      pachinko routes
      pachinko routes chat
      pachinko routes --json
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    from pachinko_cli import inspection  # noqa: PLC0415 - not for `--help`

    out = Console(quiet=quiet, verbose=verbose, as_json=as_json)
    found = project.current()
    has = inspection.inspect(found, whole_trace=verbose).anatomy
    if wanted is not None:
        has = _matching(has, wanted)

    out.document({"app": found.app, **asdict(has)})
    sections = _sections(has)
    out.table({heads: rows for heads, rows in sections.items() if rows})
    if not any(asdict(has).values()):
        raise CliError(
            f"{found.app} has nothing with {shown(wanted)} in it"
            if wanted is not None
            else f"{found.app} has no routes and no workers",
            hint="see them all: pachinko routes"
            if wanted is not None
            else "add one: pachinko add-resource notes",
        )


def _matching(has: "Anatomy", wanted: str) -> "Anatomy":
    """What of the app has `wanted` in a name; with all its message types, or HTTP methods."""
    folded = wanted.casefold()
    kept = {
        kind: tuple(
            each
            for each in getattr(has, kind)
            if any(folded in name.casefold() for name in _names(asdict(each)))
        )
        for kind in asdict(has)
    }
    return replace(has, **kept)


def _names(part: dict[str, object]) -> list[str]:
    found: list[str] = []
    for key, value in part.items():
        if isinstance(value, tuple | list):
            found += [name for each in value for name in _names(each)]
        elif isinstance(value, str) and key != "source":
            found.append(value)
    return found


def _sections(has: "Anatomy") -> dict[Row, list[Row]]:
    """The rows of each table below its heads: what is asked for, what answers, where that is."""
    sockets = [
        row
        for route in has.websocket
        for row in (
            (route.path, route.resource, route.source or ""),
            *(
                _part(each.type, f"{each.handler}({each.payload or ''})", each.source)
                for each in route.messages
            ),
        )
    ]
    http = [
        row
        for route in has.http
        for row in (
            (route.path, route.resource, route.source or ""),
            *(_part(each.method, each.handler, each.source) for each in route.methods),
        )
    ]
    return {
        ("WebSocket", "Handler", "Source"): sockets,
        ("HTTP", "Handler", "Source"): http,
        ("Sink", "Handler", "Source"): [
            (each.prefix, each.handler, each.source or "") for each in has.sinks
        ],
        ("Static", "", "Folder"): [(f"{each.prefix}*", "", each.directory) for each in has.static],
        ("Worker", "Handler", "Source"): [
            (each.name, each.handler, each.source or "") for each in has.workers
        ],
    }


def _part(name: str, handler: str, source: str | None) -> Row:
    """A row that belongs to the route above it."""
    return f"  {name}", f"  {handler}", source or ""
