"""`pachinko serve`: runs the project's app, and runs it again when it is saved."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pachinko_cli import project
from pachinko_cli.console import Console
from pachinko_cli.errors import USAGE, CliError
from pachinko_cli.options import JsonEvents, Quiet

# uvicorn's options that `serve` decides: the socket, the processes, the reload.
_OURS = {
    *("host", "port", "uds", "fd", "workers", "app_dir"),
    *("reload", "reload_dirs", "reload_includes", "reload_excludes", "reload_delay"),
}


def serve(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="APP", help="What to serve: tea_room.asgi:app.  [default: the project's]"
        ),
    ] = None,
    uvicorn_options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- UVICORN OPTIONS",
            help="uvicorn's own: -- --log-level debug; -- --help lists them.",
        ),
    ] = None,
    *,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 is every interface.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The port.  [default: the first free one from 8000]"),
    ] = None,
    reload: Annotated[
        bool | None,
        typer.Option(
            "--reload/--no-reload",
            help="Start again when a .py file is saved.  [default: yes, for one process]",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="How many processes serve the port; above 1, no reload.")
    ] = 1,
    drain: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=86_400,
            help="Without reload: seconds that clients have when it ends; 0 is at once.  "
            "[default: 20]",
        ),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show every frame as it travels.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: JsonEvents = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Print what uvicorn prints, and whole tracebacks."),
    ] = False,
) -> None:
    """Serve the project's app on this machine, and reload it when its code is saved.

    The project is found from any folder inside it.  Ctrl-C ends it, with exit code 0; without
    reload, clients are first told when to come back, and handlers may finish.  A second Ctrl-C
    does not wait.

    \b
    Examples:
      pachinko serve
      pachinko serve --port 8080 --open
      pachinko serve --trace
      pachinko serve --host 0.0.0.0 --workers 4 --drain 30
      pachinko serve tea_room.asgi:app --no-reload -- --proxy-headers --ws wsproto
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    options = uvicorn_options or []
    if app is not None and app.startswith("-"):  # `serve -- --log-level debug`: no APP at all
        options, app = [app, *options], None
    if reload is None:
        reload = workers == 1
    _check_together(reload=reload, workers=workers, drain=drain)
    root, app = _what_to_serve(app)
    given = _uvicorn_arguments(app, options)

    from pachinko_cli.server.listener import FIRST_PORT, listen  # noqa: PLC0415 - not for `--help`
    from pachinko_cli.server.plan import DRAIN_SECONDS, Plan  # noqa: PLC0415 - see above

    plan = Plan(
        root=root,
        app=app,
        host=host,
        console=Console(quiet=quiet, verbose=verbose, as_json=as_json),
        reload=reload,
        processes=workers,
        drain=DRAIN_SECONDS if drain is None else drain,
        trace=trace,
        open_page=open_page,
        uvicorn=given,
    )
    with listen(host, port) as listener:
        found = listener.getsockname()[1]
        if port is None and found != FIRST_PORT:
            plan.console.line(f"Port {FIRST_PORT} is taken; this is {found}")
        if workers > 1:
            from pachinko_cli.server import processes  # noqa: PLC0415 - not for `--help`

            processes.supervise(plan, listener)
        elif reload:
            from pachinko_cli.server.reloading import supervise  # noqa: PLC0415 - see above

            supervise(plan, listener)
        else:
            from pachinko_cli.server.overview import announcer  # noqa: PLC0415 - see above
            from pachinko_cli.server.running import run  # noqa: PLC0415 - see above

            run(plan, listener, announcer(plan))
    plan.console.event("stopped")


def _check_together(*, reload: bool, workers: int, drain: float | None) -> None:
    if reload and workers > 1:
        raise CliError(
            f"--reload serves one process, not {workers}",
            hint="leave out --reload, or --workers",
            exit_code=USAGE,
        )
    if reload and drain is not None:
        raise CliError(
            "--drain is for the end of a server that does not reload",
            hint="add --no-reload, or leave out --drain",
            exit_code=USAGE,
        )


def _what_to_serve(app: str | None) -> tuple[Path, str]:
    """The folder to import from, and the app: the project's unless another was named."""
    here = Path.cwd()
    if app is None:
        found = project.find(here)
        return found.root, found.app
    app = project.checked_app(app, "APP")
    try:
        return project.find(here).root, app
    except project.OutsideProjectError:
        return here.resolve(), app


def _uvicorn_arguments(app: str, options: list[str]) -> dict[str, Any]:
    """What `options` mean to uvicorn, as arguments for its `Config`.

    Raises:
        CliError: uvicorn does not know one, or cannot start like that (exit 2).
    """
    if not options:
        return {}  # without importing uvicorn
    from uvicorn.config import Config  # noqa: PLC0415 - see above
    from uvicorn.main import main as uvicorn_command  # noqa: PLC0415 - see above

    try:
        context = uvicorn_command.make_context("uvicorn", [app, *options])
    except Exception as stopped:
        # Click's exceptions, known by what they have: its name is not ours to import.
        if hasattr(stopped, "format_message"):
            raise _refused(stopped.format_message()) from None
        if hasattr(stopped, "exit_code"):  # --help and --version have answered
            raise typer.Exit(stopped.exit_code) from None
        raise
    given = {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }
    del given["app"]
    if ours := sorted(_OURS & given.keys()):
        raise _refused(f"{', '.join(ours)}: decided by serve itself")
    if "headers" in given:
        given["headers"] = [header.split(":", 1) for header in given["headers"]]
    try:
        unloaded = {"log_config": None, "env_file": None, "factory": False}
        config = Config(_no_app, **{**given, **unloaded})
        config.load()
        config.get_loop_factory()
    except SystemExit:  # uvicorn has logged its reason
        raise _refused("see the line above") from None
    except Exception as error:  # a file or a package that is not there
        raise _refused(f"{type(error).__name__}: {error}") from error
    return given


def _refused(why: str) -> CliError:
    return CliError(
        f"the options after -- do not work: {why}",
        hint="uvicorn's options are listed by: pachinko serve -- --help",
        exit_code=USAGE,
    )


async def _no_app(scope: object, receive: object, send: object) -> None:
    """Stands in for the app while uvicorn checks its options."""
