"""Looks over an imported app for what was forgotten when it was put together.

Each check is one that is seldom wrong: what could as well be meant is not reported.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pachinko_cli.anatomy import function_of, source_of
from pachinko_cli.findings import Finding, Mark

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


@dataclass
class Replaced:
    """The paths that were given to a second resource: Falcon forgets the first, and says nothing.

    Its `watch` has to run before the app is imported, in a process that does nothing else.
    """

    paths: list[tuple[str, str, str]] = field(default_factory=list)

    def watch(self) -> None:
        """Look at every route that is added to any app from now on."""
        from falcon.routing import CompiledRouter  # noqa: PLC0415 - not for `--help`

        from falcon_pachinko.standins import SharedPath  # noqa: PLC0415 - see above

        taken: dict[tuple[CompiledRouter, str], Any] = {}
        add_route = CompiledRouter.add_route

        def noted(router: Any, template: str, resource: Any, **options: Any) -> None:
            add_route(router, template, resource, **options)
            before = taken.get((router, template))
            shares = isinstance(resource, SharedPath) and before in (resource.http, resource.route)
            if before is not None and not shares:
                names = (type(before).__name__, type(resource).__name__)
                self.paths.append((template, *names))
            taken[router, template] = resource

        CompiledRouter.add_route = noted  # type: ignore[assignment, method-assign]  # see above


def of(app: Any, root: Path, package: str, replaced: Replaced) -> list[Finding]:
    """Everything that looks forgotten in `app`, whose project is at `root`."""
    from falcon_pachinko.app import installed  # noqa: PLC0415 - not for `--help`

    pachinko = installed(app)
    if pachinko is None:
        return [
            Finding(
                "install",
                Mark.PROBLEM,
                "install(app) was never called: it has no WebSocket routes, rooms or workers",
                "write falcon_pachinko.install(app) right after the app is made, "
                "or make it with falcon_pachinko.App()",
            ),
            *_replaced(replaced),
        ]
    return [
        *_replaced(replaced),
        *_hidden(app),
        *_resources(pachinko, root, package),
        *_workers(pachinko, root, package),
        *_handlers(pachinko, root),
        *_doors(pachinko.options),
        *_backend(pachinko.options),
    ]


def _replaced(replaced: Replaced) -> Iterator[Finding]:
    for path, first, second in dict.fromkeys(replaced.paths):  # several apps may have been made
        yield Finding(
            "shadowed",
            Mark.PROBLEM,
            f"{path} was given to {first} and then to {second}: {first} never answers there",
            "give one of them another path, or put both into one resource",
        )


def _hidden(app: Any) -> Iterator[Finding]:
    """Static folders and sinks whose every path another one answers first."""
    from falcon import inspect as falcons  # noqa: PLC0415 - not for `--help`

    sinks = [
        (f"the sink {each.name} at {each.prefix}", each.prefix, re.compile(each.prefix))
        for each in falcons.inspect_sinks(app)
    ]
    static = [
        (f"the static folder at {each.prefix}", each.prefix, re.compile(re.escape(each.prefix)))
        for each in falcons.inspect_static_routes(app)
    ]
    sinks_first = getattr(app, "_sink_before_static_route", True)
    asked = [*sinks, *static] if sinks_first else [*static, *sinks]
    for place, (hidden, prefix, _) in enumerate(asked):
        for first, _, pattern in asked[:place]:
            if pattern.match(prefix):
                yield Finding(
                    "shadowed",
                    Mark.WARNING,
                    f"{hidden} is never reached: {first} answers all its paths",
                    "the one added last is asked first; change their order or their prefixes, "
                    "or make the app with sink_before_static_route=False",
                )
                break


def _resources(pachinko: Any, root: Path, package: str) -> Iterator[Finding]:
    from falcon_pachinko import WebSocketResource  # noqa: PLC0415 - not for `--help`

    routed = {route.resource for route in pachinko.routes}
    # A route of a function that does not tell what it makes could be any resource's.
    told = WebSocketResource not in routed
    for module, name in _modules(root, package, "resources"):
        file = f"{package}/resources/{name}.py"
        if module is None:
            yield Finding(
                "unused-resource",
                Mark.WARNING,
                f"{file} is imported by nothing, so no client reaches what is in it",
                f"add its resource to {package}/routes.py, or delete the file",
            )
            continue
        for each in vars(module).values():
            is_own = inspect.isclass(each) and each.__module__ == module.__name__
            if not (told and is_own and issubclass(each, WebSocketResource)):
                continue
            if not any(issubclass(other, each) for other in routed):
                yield Finding(
                    "unused-resource",
                    Mark.WARNING,
                    f"{each.__name__} ({source_of(each, root)}) is on no route, "
                    "so no client reaches it",
                    f"add it to ROUTES in {package}/routes.py, or delete it",
                )


def _workers(pachinko: Any, root: Path, package: str) -> Iterator[Finding]:
    running = {function_of(worker) for worker in pachinko.workers}
    table = sys.modules.get(f"{package}.workers")
    named = set(filter(inspect.iscoroutinefunction, vars(table).values())) if table else set()
    for module, name in _modules(root, package, "workers"):
        if module is None:
            yield Finding(
                "unused-worker",
                Mark.WARNING,
                f"{package}/workers/{name}.py is imported by nothing, so it never runs",
                f"add its function to WORKERS in {package}/workers/__init__.py, or delete the file",
            )
            continue
        for each in named - running:
            if each.__module__ == module.__name__:
                yield Finding(
                    "unused-worker",
                    Mark.WARNING,
                    f"{each.__name__} ({source_of(each, root)}) is imported beside the workers, "
                    "but is none of them",
                    f"add it to WORKERS in {package}/workers/__init__.py, or drop the import",
                )


def _modules(root: Path, package: str, kind: str) -> Iterator[tuple[ModuleType | None, str]]:
    """The modules in a folder of the package, by name; None for one that was not imported."""
    for file in sorted((root / package / kind).glob("[!_]*.py")):
        yield sys.modules.get(f"{package}.{kind}.{file.stem}"), file.stem


def _handlers(pachinko: Any, root: Path) -> Iterator[Finding]:
    """Methods that are written like a handler of messages, and are none."""
    from falcon_pachinko import WebSocketResource  # noqa: PLC0415 - not for `--help`

    seen = set()
    for resource in {route.resource: None for route in pachinko.routes}:
        table = resource.__pachinko_table__.handlers.values()
        handling = {handler.function for handler in table}
        for name, method in inspect.getmembers(resource, inspect.iscoroutinefunction):
            if name.startswith("_") or hasattr(WebSocketResource, name) or method in handling:
                continue
            if _takes_payload(method) and method not in seen:
                seen.add(method)
                message_type = name.removeprefix("on_")
                yield Finding(
                    "undecorated-handler",
                    Mark.WARNING,
                    f"{resource.__name__}.{name} ({source_of(method, root)}) takes a payload, "
                    "but no message reaches it",
                    f'write @handles_message("{message_type}") above it, or a _ before its name',
                )


def _takes_payload(method: Any) -> bool:
    """Whether the method's parameters are a handler's: self, ws, payload."""
    import msgspec  # noqa: PLC0415 - not for `--help`

    parameters = list(inspect.signature(method).parameters.values())
    if len(parameters) != 3 or parameters[1].name != "ws":
        return False
    try:
        annotation = inspect.signature(method, eval_str=True).parameters[parameters[2].name]
        declared = annotation.annotation
    except (NameError, TypeError, ValueError):
        declared = None
    is_struct = inspect.isclass(declared) and issubclass(declared, msgspec.Struct)
    return is_struct or parameters[2].name == "payload"


def _doors(options: Any) -> Iterator[Finding]:
    if options["allowed_hosts"] is None:
        yield Finding(
            "allowed-hosts",
            Mark.WARNING,
            "the app answers to every Host name, which lets other sites in by DNS rebinding",
            'name yours: install(app, allowed_hosts=["localhost", "app.example"])',
        )
    if "*" in (options["origins"] or ()):
        yield Finding(
            "origins",
            Mark.WARNING,
            'origins="*" lets the pages of any site connect as whoever looks at them',
            'name the sites: install(app, origins=["https://app.example"])',
        )


def _backend(options: Any) -> Iterator[Finding]:
    """What connects the processes; one whose package is missing has refused to be imported."""
    backend = options["backend"]
    if backend is not None:
        scheme = backend.partition("://")[0] if isinstance(backend, str) else ""
        name = f"{scheme}://..." if scheme else f"a {type(backend).__name__}"
        yield Finding("backend", Mark.OK, f"the processes are connected by {name}")
