"""What an app consists of: its routes, what handles them, and where that is written."""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from falcon_pachinko.messages.handlers import Handler

_MODULES = re.compile(r"\b(?:\w+\.)+(?=\w)")


@dataclass(frozen=True)
class Message:
    """A message type that clients may send, and the method that takes it.

    `payload` is the type that it is decoded into, None where the method takes none.
    """

    type: str
    handler: str
    payload: str | None
    source: str | None


@dataclass(frozen=True)
class WebSocketRoute:
    """A path for WebSockets.  `name` is what `url_for` calls it; "" where Falcon alone has it."""

    path: str
    name: str
    resource: str
    source: str | None
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Method:
    """What answers an HTTP method."""

    method: str
    handler: str
    source: str | None


@dataclass(frozen=True)
class HttpRoute:
    """A path for HTTP requests."""

    path: str
    resource: str
    source: str | None
    methods: tuple[Method, ...]


@dataclass(frozen=True)
class StaticRoute:
    """A folder that is served as it is."""

    prefix: str
    directory: str


@dataclass(frozen=True)
class Sink:
    """A function that answers every path of a pattern that no route has."""

    prefix: str
    handler: str
    source: str | None


@dataclass(frozen=True)
class Worker:
    """What runs beside the connections."""

    name: str
    handler: str
    source: str | None


@dataclass(frozen=True)
class Anatomy:
    """All of it.  A `source` is `file:line`, relative to the project where it is inside.

    A path of both kinds is in both lists.
    """

    websocket: tuple[WebSocketRoute, ...] = ()
    http: tuple[HttpRoute, ...] = ()
    static: tuple[StaticRoute, ...] = ()
    sinks: tuple[Sink, ...] = ()
    workers: tuple[Worker, ...] = ()


def of(app: Any, root: Path) -> Anatomy:
    """Take a Falcon app apart, whose project is at `root`.

    Its WebSocket routes are those that `falcon_pachinko` knows, with their message types, and
    those of resources with a plain `on_websocket`.
    """
    from falcon import inspect as falcons  # noqa: PLC0415 - only after the app's own imports

    from falcon_pachinko.app import installed  # noqa: PLC0415 - see above

    def place(source_info: str) -> str | None:
        return _counted_from_one(source_info, root, first)

    first = _first_line(falcons)
    pachinko = installed(app)
    sockets = {
        route.template: WebSocketRoute(
            route.template,
            route.name,
            route.resource.__name__,
            source_of(route.resource, root),
            tuple(
                _message(each, root) for each in route.resource.__pachinko_table__.handlers.values()
            ),
        )
        for route in (pachinko.routes if pachinko else ())
    }
    http = []
    try:
        routes = falcons.inspect_routes(app)
    except TypeError:  # a router of the user's own, into which Falcon cannot look
        routes = []
    for route in sorted(routes, key=lambda route: route.path):
        own = [method for method in route.methods if not method.internal]
        source = place(route.source_info)
        if any(method.method == "WEBSOCKET" for method in own):
            plain = WebSocketRoute(route.path, "", route.class_name, source)
            sockets.setdefault(route.path, plain)
        methods = tuple(
            Method(method.method, method.function_name, place(method.source_info))
            for method in own
            if method.method != "WEBSOCKET"
        )
        if methods:
            http.append(HttpRoute(route.path, route.class_name, source, methods))
    return Anatomy(
        tuple(sockets.values()),
        tuple(http),
        tuple(
            StaticRoute(each.prefix, relative(str(each.directory), root))
            for each in falcons.inspect_static_routes(app)
        ),
        tuple(
            Sink(each.prefix, each.name, place(each.source_info))
            for each in falcons.inspect_sinks(app)
        ),
        tuple(
            Worker(each.name, _name(function), source_of(function, root))
            for each in (pachinko.workers if pachinko else ())
            for function in [function_of(each)]
        ),
    )


def source_of(thing: Any, root: Path) -> str | None:
    """Where a class or a function is written; None for what no Python file has."""
    try:
        thing = inspect.unwrap(thing) if callable(thing) else thing
        file = inspect.getsourcefile(thing)
        line = inspect.getsourcelines(thing)[1]
    except (OSError, TypeError, ValueError):
        return None
    return relative(f"{file}:{line}", root)


def relative(place: str, root: Path) -> str:
    """A place as it is within the project; as it is, if it is elsewhere.

    >>> relative("/tea-room/tea_room/app.py:7", Path("/tea-room"))
    'tea_room/app.py:7'
    """
    path = Path(place)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else place


def _first_line(falcons: ModuleType) -> int:
    """What Falcon calls the first line of a file: 0 in 4.x, whereas editors say 1.

    It is asked where the function is that it is asked with.
    """
    import falcon.asgi  # noqa: PLC0415 - only after the app's own imports

    async def sink(req: Any, resp: Any, **fields: Any) -> None: ...

    app = falcon.asgi.App()
    app.add_sink(sink, "/")
    (told,) = falcons.inspect_sinks(app)
    return 1 + int(told.source_info.rpartition(":")[2]) - sink.__code__.co_firstlineno


def _counted_from_one(source_info: str, root: Path, first: int) -> str | None:
    """Where Falcon says that something is, as an editor counts; None for its "[unknown file]"."""
    file, _, line = source_info.rpartition(":")
    return relative(f"{file}:{int(line) + 1 - first}", root) if line.isdecimal() else None


def function_of(worker: Any) -> Any:
    """The coroutine function that a worker runs, without its arguments."""
    run = worker._run  # noqa: SLF001 - the library shows a worker's state, and its function to us
    while isinstance(run, functools.partial):
        run = run.func
    return run


def _message(handler: Handler, root: Path) -> Message:
    payload = handler.struct or handler.payload
    return Message(
        handler.type,
        _name(handler.function),
        type_name(payload) if handler.takes_payload else None,
        source_of(handler.function, root),
    )


def type_name(annotation: Any) -> str:
    """A type as one would write it, without the modules it comes from.

    >>> import datetime
    >>> type_name(datetime.date), type_name(dict[str, datetime.date | None])
    ('date', 'dict[str, date | None]')
    """
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__qualname__.rpartition(".")[2]
    return _MODULES.sub("", str(annotation))


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)
