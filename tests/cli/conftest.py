"""The command line's ring: the real command in a process of its own, on pipes or on a terminal."""

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from fcntl import ioctl
from pathlib import Path

import pytest

DEADLINE = 40  # seconds for anything that a process is awaited to do
PACHINKO = (sys.executable, "-m", "pachinko_cli")

# What a developer's or a CI's environment may have set, and a newcomer's has not.
_SET_ELSEWHERE = ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "VIRTUAL_ENV")

# A project that is served here keeps its announcements to itself: where they came in between,
# what a test sees would depend on how long the server has run.
_QUIET = {"TEA_ROOM_ANNOUNCE_EVERY": "3600"}


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Give a home folder with nothing in it, for every command of the run."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def environment(home):
    """Give the environment of somebody who has set nothing."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _SET_ELSEWHERE and not name.startswith(("GIT_", "UV_", "PIP_", "TYPER_"))
    }
    return kept | _QUIET | {"HOME": str(home), "TERM": "xterm", "GIT_CONFIG_GLOBAL": os.devnull}


@pytest.fixture
def pachinko(tmp_path, environment):
    """Run `pachinko` in the test's folder, with nobody at a terminal, and give what came of it."""

    def run(*arguments, cwd=tmp_path, **variables):
        return subprocess.run(
            [*PACHINKO, *arguments],
            cwd=cwd,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def baked(tmp_path_factory, environment):
    """Make a project of each template, once for the run, and give their folders by template."""
    folder = tmp_path_factory.mktemp("baked")
    for template in ("chat", "minimal"):
        (folder / template).mkdir()
        subprocess.run(
            [*PACHINKO, "new", "tea-room", "-q", "--no-git", "--template", template],
            cwd=folder / template,
            env=environment,
            check=True,
            timeout=DEADLINE,
        )
    return {template: folder / template / "tea-room" for template in ("chat", "minimal")}


@pytest.fixture
def project(baked, tmp_path):
    """Give a project that is the test's own: a chat, called Tea Room."""
    return shutil.copytree(baked["chat"], tmp_path / "tea-room")


@pytest.fixture
def begin(tmp_path, environment):
    """Start `pachinko` in the test's folder, and give the process; it ends with the test."""
    with contextlib.ExitStack() as processes:

        def start(*arguments, cwd=tmp_path, **variables):
            process = subprocess.Popen(
                [*PACHINKO, *arguments],
                cwd=cwd,
                env=environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        yield start


@pytest.fixture
def terminal(tmp_path, environment):
    """Start `pachinko` on a terminal of its own, and give that; it ends with the test."""
    with contextlib.ExitStack() as terminals:

        def start(*arguments, cwd=tmp_path, **variables):
            opened = Terminal([*PACHINKO, *arguments], cwd, environment | variables)
            terminals.callback(opened.close)
            return opened

        yield start


_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A pseudo-terminal with a process on it, as a person has it: read, type, press keys.

    `shown` is what came since the last `expect`, without its styles; `raw` is everything.
    """

    def __init__(self, command, cwd, environment):
        self._keyboard, screen = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
            # The session's own terminal, so that Ctrl-C typed there is a signal.
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one ioctl
        )
        os.close(screen)
        self.shown, self.raw = "", ""

    def expect(self, text):
        """Read until `text` is on the screen, and forget what came before it."""
        while text not in self.shown:
            assert self._read(), f"{text!r} never came after {self.shown!r}"
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, keys):
        """Press keys; a line ends with a newline, and a control key is its control character."""
        os.write(self._keyboard, keys.encode(errors="surrogateescape"))

    def modes(self):
        """Tell whether it edits lines until Enter, and whether it shows what is typed."""
        local = termios.tcgetattr(self._keyboard)[3]
        return bool(local & termios.ICANON), bool(local & termios.ECHO)

    def interrupt(self):
        """Press Ctrl-C until it is heard: Python misses one that comes right before it reads."""
        while self.process.poll() is None:
            self.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)

    def end(self):
        """Read to the end, and give the exit code and what was shown since the last `expect`."""
        while self._read():
            pass
        return self.process.wait(DEADLINE), self.shown

    def close(self):
        """End the process, if it is there, and the terminal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        os.close(self._keyboard)

    def _read(self):
        ready, _, _ = select.select([self._keyboard], [], [], DEADLINE)
        assert ready, f"nothing for {DEADLINE} s after {self.shown!r}"
        try:
            read = os.read(self._keyboard, 65_536)
        except OSError:  # Linux's way to say that the other end was closed
            return False
        text = read.decode(errors="replace").replace("\r\n", "\n")
        self.raw += text
        self.shown += _STYLE.sub("", text)
        return bool(read)


@pytest.fixture
def until():
    """Give a function that waits for a condition, and gives the first true thing it gave."""

    def wait(condition):
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            if met := condition():
                return met
        raise AssertionError(f"not within {DEADLINE} s: {condition}")

    return wait


@pytest.fixture
def contents():
    """Give a function that lists everything in a folder, as text, with what the files hold."""

    def read(folder):
        return {
            path.relative_to(folder).as_posix(): (
                f"-> {path.readlink()}"
                if path.is_symlink()
                else path.read_bytes()
                if path.is_file()
                else None
            )
            for path in sorted(Path(folder).rglob("*"))
        }

    return read


class Serving:
    """A running `pachinko serve`, what it prints, and the way to wait for a line of it."""

    def __init__(self, folder, *arguments, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pachinko_cli", "serve", *arguments],
            cwd=folder,
            env={**os.environ, **_QUIET, "NO_COLOR": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines = []
        self._seen = 0
        self._changed = threading.Condition()
        self._at_end = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._at_end = True
            self._changed.notify_all()

    @property
    def output(self):
        return "".join(self._lines)

    def until(self, pattern):
        """Wait for the next line with `pattern` after the last one waited for."""
        deadline = time.monotonic() + DEADLINE
        with self._changed:
            while True:
                while self._seen < len(self._lines):
                    self._seen += 1
                    if found := re.search(pattern, self._lines[self._seen - 1]):
                        return found
                assert not self._at_end, f"ended before {pattern!r}:\n{self.output}"
                waited = self._changed.wait(deadline - time.monotonic())
                assert waited, f"no {pattern!r} in {DEADLINE} s:\n{self.output}"

    def url(self):
        """Wait for the banner; where the page is."""
        return self.until(r"page +(http://\S+)")[1]

    def ready(self):
        """Wait for the end of the banner; where the page is."""
        url = self.url()
        self.until("Ctrl-C ends it")
        return url

    def signal(self, number):
        """Send a signal to every process, as a terminal does."""
        os.killpg(self.process.pid, number)

    def all_gone(self):
        """Wait until no process holds our end of the output; the exit code."""
        self._reader.join(DEADLINE)
        assert not self._reader.is_alive(), f"a process is left:\n{self.output}"
        return self.process.wait(DEADLINE)


@pytest.fixture
def serve(project):
    """Start `pachinko serve` with arguments, in the project; it ends with the test."""
    started = []

    def start(*arguments, folder=project, **environment):
        started.append(Serving(folder, *arguments, **environment))
        return started[-1]

    yield start
    for serving in started:
        with contextlib.suppress(ProcessLookupError):
            serving.signal(signal.SIGKILL)
        serving.all_gone()
        serving.process.stdin.close()
        serving.process.stdout.close()
