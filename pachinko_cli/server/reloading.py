"""Runs the app in a child process, and in a new one each time the project's code is saved."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import watchfiles

from pachinko_cli.console import note, warn
from pachinko_cli.errors import CliError
from pachinko_cli.project import is_own_source
from pachinko_cli.server.child import TICK, Child, Signals
from pachinko_cli.server.keyboard import Keyboard
from pachinko_cli.server.overview import open_page

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator

    from watchfiles.main import FileChange

    from pachinko_cli.server.overview import Overview
    from pachinko_cli.server.plan import Plan

_TICK_MS = int(TICK * 1000)


def supervise(plan: Plan, listener: socket.socket) -> None:
    """Serve the app until SIGINT or SIGTERM; each saved `.py` file of the project restarts it.

    The port stays open in between: a request that comes during a restart waits for the new code.
    Code that does not import leaves the supervisor waiting for the next save.  A child that does
    not end in time is killed, and so is one at the second Ctrl-C: nothing stays on the port.

    On a terminal, keys do things: `r` restarts the app, `o` opens the page, `q` ends all.

    Raises:
        CliError: The project's folder cannot be watched.
    """
    signals = Signals()
    saves = _saves(plan, signals.ended)
    with Keyboard() as keyboard:
        app = _App(plan, listener, signals, keyboard)
        try:
            for changes in saves:
                if changes:
                    paths = (Path(file).relative_to(plan.root) for _, file in changes)
                    files = sorted(path.as_posix() for path in paths)
                    plan.console.line(f"Saved {', '.join(files)}", style="dim")
                    plan.console.event("reloading", files=files)
                    app.restart()
                for key in keyboard.pressed():
                    app.press(key)
                app.look()
        finally:
            try:
                plan.console.event("stopping")
            finally:  # whoever read our output may have gone first
                app.end()


def _saves(plan: Plan, ended: threading.Event) -> Generator[set[FileChange], None, None]:
    """The files that are saved, and now and then none, until `ended` is set."""
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
    return saves


class _App:
    """The app that is served, one child process after the other."""

    def __init__(
        self, plan: Plan, listener: socket.socket, signals: Signals, keyboard: Keyboard
    ) -> None:
        self._plan, self._listener = plan, listener
        self._signals, self._keyboard = signals, keyboard
        self._shown: Overview | None = None
        self._missed = self._page_is_due = False
        self._child = self._start()

    def _start(self) -> Child:
        return Child(
            self._plan,
            self._listener,
            explains=True,
            shown=self._shown,
            modes=self._keyboard.modes,
        )

    def restart(self) -> None:
        """End the child, and start another; the keyboard is ours again."""
        self.end()
        self._missed = False
        self._keyboard.take()
        self._child = self._start()

    def press(self, key: str) -> None:
        """Do what a key stands for; most stand for nothing."""
        match key.lower():
            case "r":
                self._plan.console.line("Restarting", style="dim")
                self._plan.console.event("restarting")
                self.restart()
            case "o":
                self._page_is_due = True
            case "q":
                self._signals.ended.set()
            case "\n" | "\r":
                self._plan.console.line()  # some space, to see better what comes next

    def look(self) -> None:
        """See what the child reports, and whether it is there at all."""
        child = self._child
        child.listen()
        if child.ready is not None:
            self._shown = child.ready.overview
        if self._page_is_due and child.ready is not None:
            self._page_is_due = False
            open_page(child.ready.url)
        if child.wants_keyboard:
            self._keyboard.hand_over()
            note("The keyboard is the app's now, until the next save or Ctrl-C.")
            child.give_keyboard()
        if not (self._missed or child.process.is_alive()):
            self._missed = True
            warn(
                CliError(
                    f"the app ended by itself, with exit code {child.process.exitcode}",
                    hint="it starts again at the next save",
                )
            )

    def end(self) -> None:
        """End the child, kindly if there is time."""
        self._child.ask_to_end()
        self._child.end(self._signals.hurried)
        if self._child.ready is not None:
            self._shown = self._child.ready.overview
