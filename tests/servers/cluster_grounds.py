"""Servers that a cluster can stand on, and what can happen to each of them."""

import asyncio
import contextlib
import shutil
import time
from pathlib import Path

from fault_proxy import FaultProxy
from nats_server import NatsCluster, NatsServer
from redis_server import RedisServer, Sentinels, wait_until

PROCESSES = 3
"""How many processes have a link to the server."""

PATIENCE = 90.0
"""Seconds that a server may take for anything."""


class Ground:
    """A server of some kind, and what can happen to it."""

    consecutive = True
    """Whether the offsets of a history have no gaps."""

    def __init__(self, folder, chance):
        self.folder, self.chance = folder, chance
        self.restarts = []
        """From when on what it knew may have been gone, and when it was another for everybody."""
        self.stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *exc):
        await self.stack.aclose()

    def faults(self):
        """Return what can happen to it, by name."""
        raise NotImplementedError

    def url(self, slot):
        """Return where a process finds it."""
        raise NotImplementedError

    def left_over(self, processes):
        """Return what it holds that it should not, while so many processes run and no client."""
        raise NotImplementedError

    async def settle(self):
        """Wait until nothing happens to it any more."""

    async def restart(self, how, *args):
        """Have it be another server from now on, in one way."""
        began = time.monotonic()
        await asyncio.to_thread(how, *args)
        self.restarts.append((began, time.monotonic()))


class Wired(Ground):
    """A single server, with a wire to it for each process that can break."""

    async def start(self):
        self.server = self.stack.enter_context(self.make())
        self.wires = [
            await self.stack.enter_async_context(FaultProxy(self.server.port))
            for _ in range(PROCESSES)
        ]
        self._saved = False

    def make(self):
        """Make the server."""
        raise NotImplementedError

    def url(self, slot):
        return self.server.url.replace(str(self.server.port), str(self.wires[slot].port))

    def faults(self):
        return {
            "the server hangs": self.hang,
            "a link is cut": self.cut_one,
            "all links are cut": self.cut_all,
            "a link is silent": self.silence,
            "the server comes back empty": self.come_back_empty,
            "the server comes back older": self.come_back_older,
            "the server comes back with all it had": self.come_back,
        }

    async def hang(self):
        await asyncio.to_thread(self.server.hang)
        await asyncio.sleep(self.chance.choice([0.3, 1.0, 4.0]))
        await asyncio.to_thread(self.server.start)

    async def cut_one(self):
        self.chance.choice(self.wires).reset()

    async def cut_all(self):
        for wire in self.wires:
            wire.reset()

    async def silence(self):
        wire = self.chance.choice(self.wires)
        wire.black_hole()
        await asyncio.sleep(self.chance.choice([0.5, 3.5]))
        wire.heal()

    async def come_back_empty(self):
        await self.restart(self.empty)

    async def come_back_older(self):
        await asyncio.to_thread(self.save)
        await asyncio.sleep(self.chance.uniform(0.5, 1.5))
        await self.restart(self.roll_back)

    async def come_back(self):
        await self.restart(self.bounce)

    def bounce(self):
        """Kill it, and start it with all that it had."""
        self.server.kill()
        self.server.start()


class PersistentRedis(RedisServer):
    """A Redis that keeps what it has in its folder."""

    appending = "yes"

    def command(self):
        return [*super().command(), "--appendonly", self.appending]

    @property
    def folder(self):
        return Path(self._folder.name)

    def start(self):
        super().start()
        wait_until(lambda: self.ask("PING"), "what it had is loaded")

    def forget(self):
        """Throw away what it has kept; it must not run."""
        for each in self.folder.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()


class RedisAlone(Wired):
    """One Redis, which writes down all that it does."""

    def make(self):
        return PersistentRedis()

    def empty(self):
        self.server.kill()
        self.server.forget()
        self.server.start()

    def save(self):
        self.server.ask("SAVE")
        self._dump = (self.server.folder / "dump.rdb").read_bytes()

    def roll_back(self):
        self.server.kill()
        self.server.forget()
        (self.server.folder / "dump.rdb").write_bytes(self._dump)
        self.server.appending = "no"  # else it takes no snapshot
        self.server.start()
        self.server.appending = "yes"
        self.server.ask("CONFIG", "SET", "appendonly", "yes")

    def left_over(self, processes):
        return left_in_redis(self.server, processes)


def left_in_redis(server, processes):
    """Return the keys and channels of a Redis that nobody needs any more."""
    stays = ("h", "k", "i", "l", "nodes", "tokens", "s")
    keys = [key.decode() for key in server.ask("KEYS", "*")]
    left = [key for key in keys if key.split(":")[1] not in stays]
    left += [
        f"{key} without an end"
        for key in keys
        if key.split(":")[1] in ("h", "k", "i", "l") and server.ask("TTL", key) == -1
    ]
    nodes = sum(server.ask("ZCARD", key) for key in keys if key.endswith(":nodes"))
    if nodes != processes:
        left.append(f"{nodes} nodes of {processes}")
    channels = [name.decode() for name in server.channels() if not name.startswith(b"__sentinel__")]
    if len(channels) != (processes + 1 if processes else 0):
        left.append(f"channels: {channels}")
    return left


class RedisWithSentinels(Ground):
    """A primary, two replicas, and three Sentinels."""

    async def start(self):
        self.sentinels = await asyncio.to_thread(self.stack.enter_context, Sentinels())

    def url(self, slot):
        return self.sentinels.url

    def primary(self):
        """Return the server that the Sentinels name."""
        wait_until(self.sentinels.where, "the Sentinels agree")
        port = self.sentinels.where()
        return next(each for each in self.sentinels.servers if each.port == port)

    def faults(self):
        return {
            "a replica takes over in order": self.fail_over,
            "the primary dies": self.die,
            "the primary hangs": self.hang,
            "all links are cut": self.cut_all,
        }

    async def restart(self, how, *args):
        began = time.monotonic()
        await asyncio.to_thread(how, *args)
        for each in self.sentinels.servers:
            await asyncio.to_thread(each.start)
        await self.settle()  # until then, somebody may talk to the one that was replaced
        self.restarts.append((began, time.monotonic()))

    async def fail_over(self):
        await self.settle()
        await self.restart(self.sentinels.fail_over)

    async def die(self):
        await self.settle()
        primary = await asyncio.to_thread(self.primary)
        await self.restart(self.replace, primary, primary.kill)

    async def hang(self):
        await self.settle()
        primary = await asyncio.to_thread(self.primary)
        await self.restart(self.replace, primary, primary.hang)

    def replace(self, primary, how):
        """Have a replica take the place of a primary that is gone, in some way."""
        how()
        wait_until(lambda: self.sentinels.where() not in {None, primary.port}, "the failover")

    async def settle(self):
        """Wait until both of the others follow the primary, so that one can take over."""
        await asyncio.to_thread(wait_until, self.is_followed, "the replicas follow", PATIENCE)

    def is_followed(self):
        """Whether that is so."""
        port = self.sentinels.where()
        for primary in self.sentinels.servers:
            if primary.port != port:
                continue
            told = primary.ask_raw("INFO", "replication").decode()
            return told.count("state=online") == len(self.sentinels.servers) - 1
        return False

    async def cut_all(self):
        primary = await asyncio.to_thread(self.primary)
        for kind in ("normal", "pubsub"):
            await asyncio.to_thread(primary.ask, "CLIENT", "KILL", "TYPE", kind)

    def left_over(self, processes):
        return left_in_redis(self.primary(), processes)


class NatsAlone(Wired):
    """One NATS server, whose JetStream keeps what it has on its disk."""

    consecutive = False

    def make(self):
        return NatsServer(self.folder)

    def url(self, slot):
        return f"nats://127.0.0.1:{self.wires[slot].port}"

    def empty(self):
        self.server.kill()
        self.server.wipe()
        self.server.start()

    def save(self):
        """Copy what it has on its disk, between two things that it writes."""
        self.server.hang()
        shutil.rmtree(self.folder / "saved", ignore_errors=True)
        shutil.copytree(self.folder / "store", self.folder / "saved")
        self.server.start()

    def roll_back(self):
        self.server.kill()
        self.server.wipe()
        shutil.copytree(self.folder / "saved", self.folder / "store")
        self.server.start()

    def left_over(self, processes):
        return left_in_nats([self.server], processes)


def left_in_nats(servers, processes):
    """Return the subjects that somebody is still subscribed to, for clients that have gone."""
    subjects = [subject for server in servers for subject in server.subjects()]
    if not processes:
        return subjects
    return [each for each in subjects if ".room:" in each or ".user:" in each]


class NatsReplicated(Ground):
    """Three NATS servers that keep all they have three times."""

    consecutive = False

    async def start(self):
        cluster = await asyncio.to_thread(self.stack.enter_context, NatsCluster(self.folder))
        self.cluster = cluster

    def url(self, slot):
        return f"{self.cluster.url}?replicas=3"

    def faults(self):
        return {"a server dies": self.die, "a server hangs": self.hang}

    async def settle(self):
        await asyncio.to_thread(self.cluster.settle)

    async def die(self):
        server = self.chance.choice(self.cluster.servers)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(self.chance.choice([0.0, 2.0]))
        await asyncio.to_thread(server.start)
        await self.settle()

    async def hang(self):
        server = self.chance.choice(self.cluster.servers)
        await asyncio.to_thread(server.hang)
        await asyncio.sleep(self.chance.choice([0.5, 4.0]))
        await asyncio.to_thread(server.start)
        await self.settle()

    def left_over(self, processes):
        return left_in_nats(self.cluster.servers, processes)


GROUNDS = {
    "redis": RedisAlone,
    "sentinel": RedisWithSentinels,
    "nats": NatsAlone,
    "nats-r3": NatsReplicated,
}
"""What a run can be on, by name."""
