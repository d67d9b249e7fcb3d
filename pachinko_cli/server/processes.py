"""Runs the app in several processes on one port, and starts again those that die."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pachinko_cli.console import warn
from pachinko_cli.errors import CliError
from pachinko_cli.server.child import TICK, Child, Signals

if TYPE_CHECKING:
    import socket

    from pachinko_cli.server.plan import Plan

# Seconds before a process is started again: the first pause, and the largest; they double.
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0

# Seconds after which a process counts as healthy, so that its next pause is the first again.
_HEALTHY = 30.0


def supervise(plan: Plan, listener: socket.socket) -> None:
    """Serve the app in `plan.processes` processes until SIGINT or SIGTERM.

    The first one starts alone, so that an app which does not import is told once.  One that dies
    is started again after a pause, and that is said.  At the end all are asked to stop, which
    drains them; at a second signal they are killed.

    Raises:
        CliError: The app does not import, or refused to start.
    """
    signals = Signals()
    first = _Process(plan, listener, 1)
    started = [first]
    try:
        while not (first.child.ready or signals.ended.is_set()):
            alive = first.child.process.is_alive()
            first.child.listen()
            if not alive and first.child.ready is None:
                raise _not_started(first.child)
            signals.ended.wait(TICK)
        if first.child.ready is not None and first.child.ready.overview.backend is None:
            _warn_of_rooms_apart(plan.processes)
        if not signals.ended.is_set():
            started += [_Process(plan, listener, n) for n in range(2, plan.processes + 1)]
        while not signals.ended.wait(TICK):
            for process in started:
                process.look()
    finally:
        listener.close()  # once the processes have closed theirs, nobody listens any more
        try:
            plan.console.event("stopping")
        finally:  # whoever read our output may have gone first
            for process in started:
                process.child.ask_to_end()
            for process in started:
                process.child.end(signals.hurried)


def _not_started(child: Child) -> CliError:
    if child.failed is not None:
        return CliError(child.failed.message, hint=child.failed.hint)
    return CliError(
        f"the app ended by itself, with exit code {child.process.exitcode}",
        hint="serve it with reload to look for the reason: pachinko serve",
    )


def _warn_of_rooms_apart(processes: int) -> None:
    warn(
        CliError(
            f"{processes} processes, and no backend that joins them: each has its own rooms, "
            "and a broadcast reaches the clients of one process only",
            hint='give the app one, as in install(app, backend="redis://localhost"), '
            "or serve with one process",
        )
    )


class _Process:
    """One of the processes: number so and so, whoever that is at the time."""

    def __init__(self, plan: Plan, listener: socket.socket, number: int) -> None:
        self._plan, self._listener, self._number = plan, listener, number
        self._pause = _FIRST_PAUSE
        self._start_at = 0.0  # when the next one is due, while there is none
        self._told = True  # whether it was said that this one serves
        self.child = self._start(silent=number > 1)

    def _start(self, *, silent: bool) -> Child:
        self._since = time.monotonic()
        return Child(self._plan, self._listener, explains=False, silent=silent)

    def look(self) -> None:
        """Start it again if it has died and its pause is over."""
        now = time.monotonic()
        if self._start_at:
            if now >= self._start_at:
                self._start_at, self._told = 0.0, False
                self.child = self._start(silent=True)
            return
        child = self.child
        alive = child.process.is_alive()  # before it is listened to: its last words count
        child.listen()
        if not alive:
            self._mourn(now)
        elif child.ready is not None and not self._told:
            self._told = True
            self._plan.console.line(f"Process {self._number} serves again", style="dim")
            self._plan.console.event("process_started", process=self._number, pid=child.process.pid)

    def _mourn(self, now: float) -> None:
        if now - self._since >= _HEALTHY:
            self._pause = _FIRST_PAUSE
        pause, child = self._pause, self.child
        self._pause = min(pause * 2, _LAST_PAUSE)
        self._start_at = now + pause
        code = child.process.exitcode
        why = f": {child.failed.message}" if child.failed is not None else ""
        warn(
            CliError(
                f"process {self._number} ended by itself, with exit code {code}{why}",
                hint=f"it starts again in {pause:g} s",
            )
        )
        self._plan.console.event(
            "process_ended",
            process=self._number,
            pid=child.process.pid,
            exit_code=code,
            starts_again_in=pause,
        )
