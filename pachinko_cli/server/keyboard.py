"""The keys of the terminal that `pachinko serve` runs on, while it reloads."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Any

from pachinko_cli.console import is_interactive

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Self

    from _typeshed import WriteableBuffer

_STDIN = 0

Modes = list[Any]
"""A terminal's settings, as `termios` has them."""


class Keyboard:
    """Gives keys as they are pressed, without Enter and without showing them.

    Within its `with` block, while it is `taken`, and only on a terminal; elsewhere no key is ever
    pressed.  Ctrl-C stays the signal that it is.  Whoever else wants to read what is typed has to
    have it handed over; the settings that the terminal had are restored then, and at the end.
    """

    def __init__(self) -> None:
        self.modes: Modes | None = _modes() if is_interactive() else None
        """How the terminal was before; None where there are no keys."""
        self.taken = False
        self._wanted = False  # while it is ours, be it out of reach: we may be in the background

    def __enter__(self) -> Self:
        if self.modes is not None:
            # Whoever stopped us with Ctrl-Z has had the terminal since, and its settings.
            signal.signal(signal.SIGCONT, self._again)
            self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.taken = False
        if self.modes is not None and _in_foreground():
            restore(self.modes)  # in any case: a debugger that was killed has had its own settings

    def take(self) -> None:
        """Read keys from here on, or from when we come to the foreground."""
        self._wanted = True
        if self.modes is None or not _in_foreground():
            return
        import termios  # noqa: PLC0415 - Windows has none, and no modes either

        keys = [*self.modes]
        keys[3] &= ~(termios.ICANON | termios.ECHO)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(_STDIN, termios.TCSADRAIN, keys)
            self.taken = True

    def hand_over(self) -> None:
        """Leave the keys to others, with the terminal as it was."""
        self._wanted = False
        if self.taken:
            self.taken = False
            restore(self.modes)

    def pressed(self) -> str:
        """The keys that were pressed since the last time, without waiting for one."""
        if self._wanted and not self.taken:
            self.take()
        if not (self.taken and _in_foreground() and select.select([_STDIN], [], [], 0)[0]):
            return ""
        try:
            keys = os.read(_STDIN, 1024).decode(errors="ignore")
        except OSError:  # the terminal was closed
            keys = ""
        if not keys:
            self.taken = self._wanted = False
        return keys

    def _again(self, _number: int, _frame: FrameType | None) -> None:
        if self._wanted:
            self.take()


def restore(modes: Modes | None) -> None:
    """Give the terminal these settings; nothing, where there are none."""
    if modes is None:
        return
    import termios  # noqa: PLC0415 - as above

    # A process in the background is stopped for setting them, unless it does not care.
    before = signal.getsignal(signal.SIGTTOU)
    with contextlib.suppress(ValueError):  # not in the main thread: the process is ending anyway
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with contextlib.suppress(termios.error):  # the terminal is gone
        termios.tcsetattr(_STDIN, termios.TCSADRAIN, modes)
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTTOU, before)


def stdin(ask: Callable[[], None]) -> io.TextIOWrapper:
    """Standard input, for a child process: `ask` is called before anything is read from it.

    Debuggers read what is typed in several ways, some by the file's descriptor.  So asking for
    that counts, too.
    """
    return io.TextIOWrapper(io.BufferedReader(_Asking(ask)), encoding="utf-8")


class _Asking(io.FileIO):
    def __init__(self, ask: Callable[[], None]) -> None:
        super().__init__(_STDIN, closefd=False)
        self._ask = ask

    def fileno(self) -> int:
        self._ask()
        return super().fileno()

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        self._ask()
        return super().readinto(buffer)


def _modes() -> Modes | None:
    try:
        import termios  # noqa: PLC0415 - Windows has none
    except ImportError:
        return None
    try:
        return termios.tcgetattr(_STDIN) if sys.stdin.fileno() == _STDIN else None
    except termios.error:
        return None


def _in_foreground() -> bool:
    """Whether the terminal listens to us: who reads from it in the background is stopped."""
    try:
        return os.tcgetpgrp(_STDIN) == os.getpgrp()
    except OSError:
        return False
