"""Runs the app in a child process, and in a new one each time the project's code is saved."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import watchfiles

from pachinko_cli.console import fail, note, warn
from pachinko_cli.errors import CliError
from pachinko_cli.project import is_own_source

if TYPE_CHECKING:
    import socket
    from multiprocessing.connection import Connection
    from types import FrameType

    from pachinko_cli.server.overview import Overview
    from pachinko_cli.server.plan import Plan

# What the app's own shutdown gets beyond uvicorn's graceful timeout; then the process is killed.
_SHUTDOWN_SECONDS = 4.0
_TICK_MS = 50


def supervise(plan: Plan, listener: socket.socket) -> None:
    """Serve the app until SIGINT or SIGTERM; each saved `.py` file of the project restarts it.

    The port stays open in between: a request that comes during a restart waits for the new code.
    Code that does not import leaves the supervisor waiting for the next save.  A child that does
    not end in time is killed, and so is one at the second Ctrl-C: nothing stays on the port.

    Raises:
        CliError: The project's folder cannot be watched.
    """
    ended, hurried = threading.Event(), threading.Event()
    saves = watchfiles.watch(
        plan.root,
        watch_filter=lambda _, file: is_own_source(plan.root, file),
        stop_event=ended,
        step=_TICK_MS,
        rust_timeout=_TICK_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    try:
        next(saves)  # it watches from here on: no save after the import can be missed
    except (OSError, RuntimeError) as error:
        raise CliError(
            f"cannot watch {plan.root} for changes: {error}",
            hint="serve with --no-reload, or raise the system's limit of watched files",
        ) from error

    def end(_number: int, _frame: FrameType | None) -> None:
        (hurried if ended.is_set() else ended).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    child = Child(plan, listener)
    missed: Child | None = None
    try:
        for changes in saves:
            if changes:
                files = sorted(Path(file).relative_to(plan.root).as_posix() for _, file in changes)
                plan.console.line(f"Saved {', '.join(files)}", style="dim")
                plan.console.event("reloading", files=files)
                child.end(hurried)
                child = Child(plan, listener, child.shown())
            elif child is not missed and not child.process.is_alive():
                missed = child
                warn(
                    CliError(
                        f"the app ended by itself, with exit code {child.process.exitcode}",
                        hint="it starts again at the next save",
                    )
                )
    finally:
        try:
            plan.console.event("stopping")
        finally:  # whoever read our output may have gone first
            child.end(hurried)


class Child:
    """The app in a process of its own, from one save to the next."""

    def __init__(self, plan: Plan, listener: socket.socket, shown: Overview | None = None) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._shown = shown
        self._reports, report = spawn.Pipe(duplex=False)
        self._grace = plan.options()["timeout_graceful_shutdown"] + _SHUTDOWN_SECONDS
        self.process = spawn.Process(target=_serve, args=(plan, listener, shown, report))
        self.process.start()
        report.close()

    def shown(self) -> Overview | None:
        """What the last banner said, be it this child's or an earlier one's."""
        with contextlib.suppress(EOFError):  # it ended before it was ready
            if self._reports.poll():
                self._shown = self._reports.recv()
        return self._shown

    def end(self, hurried: threading.Event) -> None:
        """Ask the app to stop; kill it when its time is over, or as soon as `hurried` is set."""
        self.process.terminate()
        deadline = time.monotonic() + self._grace
        while self.process.is_alive() and time.monotonic() < deadline and not hurried.is_set():
            self.process.join(_TICK_MS / 1000)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            if not hurried.is_set():
                warn(
                    CliError(
                        f"the app was still busy after {self._grace:g} s, and was killed",
                        hint="does something in it wait without await?",
                    )
                )


def _serve(
    plan: Plan, listener: socket.socket, shown: Overview | None, report: Connection[Any, Any]
) -> None:
    """The child process."""
    # Imported in the child only: the supervisor needs neither uvicorn nor what it draws in.
    from pachinko_cli.server.loading import LoadError  # noqa: PLC0415
    from pachinko_cli.server.running import run, run_failure  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; the supervisor decides
    threading.Thread(target=_end_with_the_supervisor, daemon=True).start()
    with contextlib.suppress(OSError):
        # multiprocessing gives its children an empty stdin; `breakpoint()` needs the terminal.
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - stays open
    # Python's cache knows a source by its size and second: two quick saves would look like one.
    sys.dont_write_bytecode = True
    try:
        run(plan, listener, shown=shown, on_ready=report.send)
    except CliError as error:
        fail(error)
        note("Waiting for the next save.")
        where = {"file": error.file, "line": error.line} if isinstance(error, LoadError) else {}
        plan.console.event("failed", error=error.message, **where)
        run_failure(plan, listener, error)


def _end_with_the_supervisor() -> None:
    """Leave the port when the supervisor was killed and could not tell us to."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SHUTDOWN_SECONDS)
    os._exit(1)
