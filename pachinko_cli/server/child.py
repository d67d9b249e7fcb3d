"""The app in a process of its own, and what passes between that process and its supervisor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pachinko_cli.console import fail, note, warn
from pachinko_cli.errors import CliError
from pachinko_cli.server import keyboard
from pachinko_cli.server.overview import Overview

if TYPE_CHECKING:
    import socket
    from multiprocessing.connection import Connection
    from types import FrameType

    from pachinko_cli.server.plan import Plan

TICK = 0.05
"""Seconds between two looks of a supervisor at what it supervises."""


@dataclass(frozen=True)
class Ready:
    """Requests are answered; `url` is where the page is."""

    overview: Overview
    url: str


@dataclass(frozen=True)
class Failed:
    """The app did not import or start."""

    message: str
    hint: str


@dataclass(frozen=True)
class WantsKeyboard:
    """Something in the app is about to read what is typed: a debugger."""


class Signals:
    """What SIGINT and SIGTERM have asked a supervisor for: to end, and then to hurry."""

    def __init__(self) -> None:
        self.ended, self.hurried = threading.Event(), threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._heard)

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        (self.hurried if self.ended.is_set() else self.ended).set()


class Child:
    """The app in a process of its own.

    With `explains` it answers every request with what went wrong, if the app does not import or
    start; else its process ends then.  `shown` is what the last banner said, None if there was
    none; with `silent` there is no banner.  `modes` are the settings of a terminal whose keys are
    somebody else's: the child asks for them before it reads, and restores the terminal should its
    supervisor be killed.
    """

    def __init__(
        self,
        plan: Plan,
        listener: socket.socket,
        *,
        explains: bool,
        silent: bool = False,
        shown: Overview | None = None,
        modes: keyboard.Modes | None = None,
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.ready: Ready | None = None
        self.failed: Failed | None = None
        self.wants_keyboard = False
        self._plan = plan
        self._channel, channel = spawn.Pipe()
        self.process = spawn.Process(
            target=_serve,
            args=(plan, listener, channel),
            kwargs={"explains": explains, "silent": silent, "shown": shown, "modes": modes},
        )
        self.process.start()
        channel.close()

    def listen(self) -> None:
        """Take up what it has reported."""
        with contextlib.suppress(EOFError, OSError):  # it ended
            while self._channel.poll():
                report = self._channel.recv()
                if isinstance(report, Ready):
                    self.ready = report
                elif isinstance(report, Failed):
                    self.failed = report
                else:
                    self.wants_keyboard = True

    def give_keyboard(self) -> None:
        """Let it read what is typed, for the rest of its life."""
        self.wants_keyboard = False
        with contextlib.suppress(OSError):
            self._channel.send(WantsKeyboard())  # whatever it is: this is the answer

    def ask_to_end(self) -> None:
        """Ask the app to stop; `end` waits for that."""
        self.process.terminate()

    def end(self, hurried: threading.Event) -> None:
        """Wait for its end; kill it when its time is over, or as soon as `hurried` is set."""
        patience = self._plan.patience
        deadline = time.monotonic() + patience
        while self.process.is_alive() and time.monotonic() < deadline and not hurried.is_set():
            self.process.join(TICK)
            self.listen()
            if self.wants_keyboard:  # it would wait for an answer before it hears that it ends
                self.give_keyboard()
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            if not hurried.is_set():
                warn(
                    CliError(
                        f"the app was still busy after {patience:g} s, and was killed",
                        hint="does something in it wait without await?",
                    )
                )
        self.listen()  # its last words, too
        self._channel.close()


def _serve(
    plan: Plan,
    listener: socket.socket,
    channel: Connection[Any, Any],
    *,
    explains: bool,
    silent: bool,
    shown: Overview | None,
    modes: keyboard.Modes | None,
) -> None:
    """The child process."""
    # Imported in the child only: the supervisor needs neither uvicorn nor what it draws in.
    from pachinko_cli.server import overview  # noqa: PLC0415 - see above
    from pachinko_cli.server.loading import LoadError  # noqa: PLC0415 - see above
    from pachinko_cli.server.running import run, run_failure  # noqa: PLC0415 - see above

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; the supervisor decides
    threading.Thread(
        target=_end_with_the_supervisor, args=(plan.patience, modes), daemon=True
    ).start()
    _open_stdin(channel, asks=modes is not None)
    # Python's cache knows a source by its size and second: two quick saves would look like one.
    sys.dont_write_bytecode = True

    announce = overview.announcer(plan, shown, keys=modes is not None)

    def ready(found: Overview, url: str) -> None:
        if not silent:
            announce(found, url)
        channel.send(Ready(found, url))

    try:
        run(plan, listener, ready)
    except CliError as error:
        if not explains:
            channel.send(Failed(error.message, error.hint))
            sys.exit(error.exit_code)
        fail(error)
        note("Waiting for the next save.")
        where = {"file": error.file, "line": error.line} if isinstance(error, LoadError) else {}
        plan.console.event("failed", error=error.message, **where)
        run_failure(plan, listener, error)


def _open_stdin(channel: Connection[Any, Any], *, asks: bool) -> None:
    """Put the terminal where multiprocessing has put nothing; `breakpoint()` needs it."""
    given = not asks

    def ask() -> None:
        nonlocal given
        if not given:
            given = True
            with contextlib.suppress(EOFError, OSError):  # the supervisor has gone
                channel.send(WantsKeyboard())
                channel.recv()

    with contextlib.suppress(OSError):
        sys.stdin = keyboard.stdin(ask)


def _end_with_the_supervisor(patience: float, modes: keyboard.Modes | None) -> None:
    """Leave the port when the supervisor was killed and could not tell us to."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None
    supervisor.join()
    keyboard.restore(modes)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience)
    os._exit(1)
