"""Which of several servers is the one to talk to: the primary that has this app's keys.

A URL may name that one itself, some of a Cluster's nodes, or the Sentinels that know
it. Whoever answers is asked what it is: nobody talks to a replica by mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from falcon_pachinko.backends.redis.address import RedisAddress
from falcon_pachinko.backends.redis.link import Link
from falcon_pachinko.backends.redis.refusals import explain
from falcon_pachinko.backends.redis.replies import Refused, command
from falcon_pachinko.backends.settings import host_and_port
from falcon_pachinko.errors import BackendError

__all__ = ["Host", "Primary", "Server", "look"]

Host = tuple[str, int]

MOST_MOVES = 5
"""How often a Cluster may send us on until we give up, for now."""

INCARNATION = 12
"""How many characters of a server's ``run_id`` tell two lives of it apart: 48 random bits."""


class Server(NamedTuple):
    """What a server says of itself."""

    incarnation: str = ""
    """Another one at each start of a server; empty where we may not know."""
    replica_of: str | None = None
    """Whose replica it is, if it is one."""
    cluster: bool = False
    unknown: str | None = None
    """Why we may not know which incarnation it is."""


async def look(link: Link) -> Server:
    """Ask a server what it is; what we may not ask is left open."""
    sections = ("INFO", "server"), ("INFO", "replication")
    replies = await link.send(b"".join(command(*each) for each in sections), len(sections))
    said: dict[str, str] = {}
    unknown = None
    for reply in replies:
        if isinstance(reply, bytes):
            lines = reply.decode("utf-8", "replace").splitlines()
            said |= dict(line.split(":", 1) for line in lines if ":" in line)
        elif isinstance(reply, Refused):
            unknown = explain(reply.why)
            if reply.code in ("NOAUTH", "LOADING", "MASTERDOWN"):
                raise BackendError(link.name, unknown)
    replica_of = None
    if said.get("role") == "slave":
        replica_of = f"{said.get('master_host', '?')}:{said.get('master_port', '?')}"
    elif not said:
        (role,) = await link.send(command("ROLE"))
        if isinstance(role, list) and role[0] == b"slave":
            replica_of = f"{role[1].decode()}:{role[2]}"
    incarnation = said.get("run_id", "")[:INCARNATION]
    return Server(incarnation, replica_of, said.get("redis_mode") == "cluster", unknown)


class Primary:
    """Opens a link to the primary, wherever that is by now.

    Args:
        address: What the URL says.
        make: Makes one of redis-py's connections, to a host (None for the Unix socket).
        make_to_sentinel: Makes one to a Sentinel.
    """

    def __init__(
        self,
        address: RedisAddress,
        make: Callable[[Host | None], Any],
        make_to_sentinel: Callable[[Host], Any],
    ) -> None:
        self._address, self._make, self._make_to_sentinel = address, make, make_to_sentinel
        self._seeds: list[Host] = list(address.hosts)
        # Whom to ask, whoever answered last first: the hosts of the URL, or all the nodes that
        # a Cluster has named since.
        self._sentinel = Link(address.name, lambda _: None)
        self._sentinel_host: Host | None = None  # whom that link is to, while it is open
        self.host: Host | None = None
        """Where it was found last."""

    async def open(self, link: Link, key: Callable[[], str]) -> Server:
        """Open a link to it.

        Args:
            link: A link that is not open.
            key: Returns a key of this app on a Cluster.

        Raises:
            BackendError: None of the servers can be reached, or none of them is it; says why
                of the first.
        """
        if self._address.socket is not None:
            return await self._open(link, None)
        if self._address.master is not None:
            return await self._open(link, await self.by_sentinel())
        first: Exception | None = None
        for host in tuple(self._seeds):
            try:
                async with asyncio.timeout(self._address.settings.timeout / len(self._seeds)):
                    server = await self._open(link, host)
                    if server.cluster:
                        server = await self._follow(link, host, key())
            except (BackendError, OSError, TimeoutError) as error:
                await link.close()
                if first is None or not isinstance(first, BackendError):
                    first = error  # what a server says counts for more than that one is not there
                continue
            assert self.host is not None
            if self.host in self._seeds:
                self._seeds.remove(self.host)
            self._seeds.insert(0, self.host)
            return server
        assert first is not None
        if isinstance(first, TimeoutError) and not str(first):
            raise TimeoutError("it did not answer in time") from first
        raise first

    async def _open(self, link: Link, host: Host | None) -> Server:
        await link.open(self._make(host))
        server = await look(link)
        if server.replica_of is not None and not server.cluster:
            where = f"{host_and_port(host)} is" if host is not None else "it is"
            raise BackendError(
                link.name, f"{where} a read-only replica of {server.replica_of}; connect to that"
            )
        self.host = host
        return server

    async def _follow(self, link: Link, host: Host, key: str) -> Server:
        """Go on to the node of a Cluster that has our keys."""
        for _ in range(MOST_MOVES):
            ask = command("EXISTS", key) + command("CLUSTER", "SLOTS")
            has, slots = await link.send(ask, 2)
            if not isinstance(has, Refused):
                self._remember(slots)
                server = await look(link)
                if server.replica_of is None:
                    return server
                raise BackendError(link.name, f"it is a replica of {server.replica_of} now")
            if has.code != "MOVED":
                raise BackendError(link.name, explain(has.why))
            name, _, port = has.why.split()[2].rpartition(":")
            host = (name or host[0], int(port))
            await link.close()
            await link.open(self._make(host))
            self.host = host
        raise BackendError(link.name, "its nodes do not agree on who has this app's keys")

    def _remember(self, slots: Any) -> None:
        """Note all nodes of a Cluster: those of the URL may go."""
        if not isinstance(slots, list):
            return  # we may not ask
        for _, _, *nodes in slots:
            for node in nodes:
                host = (node[0] or b"").decode(), int(node[1])
                if host[0] and host not in self._seeds:
                    self._seeds.append(host)

    # Sentinels.

    async def by_sentinel(self) -> Host:
        """Ask the Sentinels where the primary is.

        Raises:
            BackendError: None of them can be reached, or none knows it.
        """
        why = ""
        for host in (self._sentinel_host, *self._address.hosts):
            if host is None:
                continue
            try:
                async with asyncio.timeout(
                    self._address.settings.timeout / (len(self._address.hosts) + 1)
                ):
                    found = await self._ask(host)
            except (BackendError, OSError, TimeoutError) as error:
                why = why or f"{host_and_port(host)}: {error or 'it does not answer'}"
            else:
                if found is not None:
                    return found
                why = f"{host_and_port(host)} knows no primary {self._address.master!r:.80}"
            await self.close()
        raise BackendError(self._address.name, f"no Sentinel tells where the primary is: {why}")

    async def _ask(self, host: Host) -> Host | None:
        if host != self._sentinel_host:
            await self._sentinel.open(self._make_to_sentinel(host))
            self._sentinel_host = host
        question = command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.master or "")
        (reply,) = await self._sentinel.send(question)
        if isinstance(reply, Refused):
            raise BackendError(self._address.name, explain(reply.why))
        return None if reply is None else (reply[0].decode(), int(reply[1]))

    async def close(self) -> None:
        """Leave the Sentinel that was asked last."""
        self._sentinel_host = None
        await self._sentinel.close()
