"""Where the lines to send come from: a pipe, or a person at a prompt."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

from pachinko_cli.client.editor import END, Editor, Keys
from pachinko_cli.errors import CliError

MARK = "> "
_CHUNK = 65_536
_FEW = 4  # chunks that are read ahead: a pipe that is too fast waits


class Lines(Protocol):
    """A source of lines; an `async for` over `read` ends where its input ends."""

    is_prompt: bool

    def read(self) -> AsyncIterator[str]:
        """Give the lines, without their ends."""

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """Clear the screen's last line while something is printed, and put it back after."""


class Nothing:
    """No input at all: a terminal that nobody is asked to type at."""

    is_prompt = False

    async def read(self) -> AsyncIterator[str]:
        """Give no line."""
        return
        yield

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()


class Pipe(Nothing):
    """Lines from stdin, in UTF-8, as they come; the last one needs no newline."""

    async def read(self) -> AsyncIterator[str]:
        """Give each line.

        Raises:
            CliError: One is not UTF-8.
        """
        rest, number = b"", 0
        async for chunk in _chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                number += 1
                yield _decoded(line, number)
        if rest:
            yield _decoded(rest, number + 1)


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise CliError(
            f"line {number} of the input is not UTF-8: {error.reason}; it was not sent",
            hint="save the file as UTF-8, or encode bytes as base64",
        ) from None


class Prompt:
    """A line at the bottom of the terminal that what arrives does not disturb.

    The terminal gives every key to `Editor`; whatever is printed goes through `aside`, which takes
    the line away and draws it again below.  On leaving, the terminal is as it was.
    """

    is_prompt = True

    def __init__(self, complete: Callable[[str], list[str]]) -> None:
        self._editor = Editor(complete)
        self._is_drawn = False

    async def read(self) -> AsyncIterator[str]:
        """Give each line that was typed; ends at Ctrl-D on an empty one."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        keys = Keys()
        with self._terminal():
            self._draw()
            async for chunk in _chunks():
                for key in keys.split(decoder.decode(chunk)):
                    whole = MARK + self._editor.text
                    line = self._editor.press(key)
                    if line == END:
                        return
                    if line is not None:
                        self._finish(whole)
                        yield line
                        self._draw()
                self._offer()
                self._draw()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the line away while something is printed, and draw it again."""
        was_drawn = self._is_drawn
        self._clear()
        yield
        if was_drawn:
            self._draw()

    def _draw(self) -> None:
        columns = max(shutil.get_terminal_size().columns, 10) - len(MARK)
        text, cursor = self._editor.view(columns)
        _write(f"\r\x1b[J{MARK}{text}\r\x1b[{len(MARK) + cursor}C")
        self._is_drawn = True

    def _clear(self) -> None:
        if self._is_drawn:
            _write("\r\x1b[J")
        self._is_drawn = False

    def _finish(self, whole: str) -> None:
        """Leave the line that was typed where it is, whole, and go below it."""
        self._clear()
        _write(f"{whole}\n")

    def _offer(self) -> None:
        """List what the last TAB left to choose from, below the line as it is."""
        if self._editor.choices:
            self._finish(MARK + self._editor.text)
            _write("  ".join(self._editor.choices) + "\n")

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[None]:
        """Have each key at once and unseen, signals apart; pasted text comes in brackets."""
        import termios  # noqa: PLC0415 - where there is none, there is no prompt

        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
        loop = asyncio.get_running_loop()

        def take() -> None:
            mode = termios.tcgetattr(keyboard)
            mode[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
            termios.tcsetattr(keyboard, termios.TCSADRAIN, mode)
            _write("\x1b[?2004h")

        def resume() -> None:  # after Ctrl-Z and `fg`, where the shell has set it otherwise
            take()
            self._draw()

        take()
        loop.add_signal_handler(signal.SIGCONT, resume)
        loop.add_signal_handler(signal.SIGWINCH, self._draw)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGCONT)
            loop.remove_signal_handler(signal.SIGWINCH)
            self._clear()
            with contextlib.suppress(OSError, termios.error):  # the terminal may be gone
                _write("\x1b[?2004l")
                termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def can_prompt() -> bool:
    """Whether stdin and stdout are a terminal that can move its cursor."""
    if os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        import termios  # noqa: F401, PLC0415 - Windows has none
    except ImportError:
        return False
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; one that is closed is none."""
    return stream is not None and not stream.closed and stream.isatty()


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def _chunks() -> AsyncIterator[bytes]:
    """What stdin gives, as it comes.

    A thread reads: an event loop can wait for pipes and terminals, but not for files.  It may
    still read when all is over, and ends with the process.
    """
    if sys.stdin is None:
        return
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue(_FEW)
    source = sys.stdin.fileno()

    def read() -> None:
        while True:
            try:
                chunk = os.read(source, _CHUNK)
            except OSError:
                chunk = b""
            putting = queue.put(chunk)
            try:
                asyncio.run_coroutine_threadsafe(putting, loop).result()
            except RuntimeError:  # the loop is closed: nobody wants it any more
                putting.close()
                return
            if not chunk:
                return

    threading.Thread(target=read, daemon=True, name="stdin").start()
    while chunk := await queue.get():
        yield chunk
