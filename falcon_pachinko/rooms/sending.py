"""The one way that a message takes to many: who gets it, encoded once, and by whom it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

from falcon_pachinko.cluster.parcels import is_within, rooms_named
from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.connection.sender import MUTED, SENDER, check_sending, is_muted
from falcon_pachinko.connection.stage import CONNECTING
from falcon_pachinko.leases import check_lease
from falcon_pachinko.rooms.exchange import Exchange
from falcon_pachinko.rooms.fanout import Packets
from falcon_pachinko.rooms.idempotency import backend_key, check_keeps, check_key
from falcon_pachinko.rooms.members import Members
from falcon_pachinko.targets import ConnectionId, Target, check_target

__all__ = ["Delivery", "Exclude", "Sending"]

PLACE_BYTES = 320
"""How much its place in a history adds to a message, about: a name of 200 bytes, and the rest."""

Exclude = Iterable["str | Connection"]
"""Connections that get nothing, by id or themselves."""


class Delivery(NamedTuple):
    """What became of a broadcast on this process; no drop is silent."""

    sent: int
    """How many connections the message was handed to; they have not acknowledged it."""
    dropped: int
    """How many did not get it: their outbox was full, or they were on their way out."""
    published: bool = False
    """Whether it was handed to the backend, for other processes; False without one, or while
    it is away."""


class Sending:
    """Sends messages to targets; every verb of the manager that sends to many ends here."""

    def __init__(self, exchange: Exchange, members: Members) -> None:
        self._exchange, self._members = exchange, members
        self._registry, self._fanout = exchange.registry, exchange.fanout
        self._cluster, self._options = exchange.cluster, exchange.options
        self._codecs, self._counters = exchange.codecs, exchange.counters
        self._is_shared = self._cluster.backend.shared  # whether there may be other processes

    async def send(
        self,
        message: Any,
        to: Target,
        *,
        exclude: Exclude = (),
        store: bool | None = None,
        local: bool = False,
        volatile: bool = False,
        latest: str | None = None,
        key: str = "",
    ) -> Delivery:
        """Send a message to those that a target names; see the manager's ``broadcast``.

        With a ``key``, which is one of `key_for`, a history keeps it once.
        """
        check_lease()
        if not isinstance(to, Target):
            check_target(to)
        if asyncio.get_running_loop() is not self._members.loop:
            self._members.check_loop()
        sender: Connection | None = SENDER.get()
        if MUTED and is_muted(sender):
            return Delivery(0, 0)  # its connection was closed by us: it is heard no more
        if latest is not None or volatile or local or store:
            check_sending(latest, volatile=volatile, store=store, local=local)
        ids: tuple[str, ...] = ()
        if exclude:
            # It may be an iterator, which gives its ids once.
            is_one = isinstance(exclude, (str, bytes)) or not isinstance(exclude, Iterable)
            exclude = (exclude,) if is_one else tuple(exclude)  # type: ignore[assignment]  # see is_one
            chosen = self._registry.select(to, exclude)
            ids = tuple(each if isinstance(each, str) else each.id for each in exclude)
        else:
            chosen = self._registry.select(to)
        slot = None
        if latest is not None:  # what it replaces is of the same target
            slot = ("connection" if type(to) is ConnectionId else to, latest)
        if sender is not None and sender._outbox.stage is CONNECTING and sender in chosen:
            sender._outbox.check_room(
                sender._codec.encode(message).size
                + (PLACE_BYTES if self._options.by_prefix and store is not False else 0),
                slot,
            )
        kept_in: tuple[str, ...] = ()
        kept = 0, 0, True
        lossy = volatile or latest is not None
        if self._options.by_prefix and store is not False and not (local or lossy):
            named = rooms_named(to, self._registry.rooms.names)
            kept_in = tuple(room for room in named if self._options.of(room).history)
            if kept_in:
                kept = await self._exchange.send_kept(message, to, kept_in, ids, key)
                if is_within(to, kept_in):
                    await _keep_pace(sender, chosen)
                    return Delivery(*kept)
                # The others whom it names, who are in none of these rooms.
                members = set[Connection]().union(*map(self._registry.in_room, kept_in))
                selected = self._registry.select(to, exclude)
                chosen = [each for each in selected if each not in members]
        codecs = self._registry.codecs
        packets = Packets()
        packets.message = message
        spoken = codecs if len(codecs) == 1 else {each._codec for each in chosen}
        for codec in spoken or (self._codecs.json,):
            packets[codec] = codec.encode(message)
        if len(packets) > 1 or self._cluster.subprotocols:
            self._exchange.check_raw(message)
        published = False
        if self._is_shared and not local and self._cluster.reaches_others():
            published = self._exchange.publish(
                message, packets, to, ids, volatile=volatile, latest=latest, kept_in=kept_in
            )
        sent, dropped = await self._fanout.deliver(chosen, packets, to, volatile=volatile, key=slot)
        self._counters.count_sent(message, sent)
        if sender is not None and sender._outbox.bytes and not volatile:
            await _keep_pace(sender, chosen)
        return Delivery(kept[0] + sent, kept[1] + dropped, published and kept[2])

    def key_for(
        self,
        idempotency_key: str | None,
        to: Target,
        *,
        store: bool | None,
        local: bool,
        volatile: bool,
        latest: str | None,
    ) -> str:
        """Return what a history is to know a message by; empty where that is not asked for.

        Raises:
            TypeError: The key is not a str.
            ValueError: It cannot be one, or not all of the target keeps a history.
        """
        if idempotency_key is None:
            return ""
        check_key(idempotency_key, store=store, local=local, volatile=volatile, latest=latest)
        check_target(to)
        named = rooms_named(to, self._registry.rooms.names)
        check_keeps(to, [room for room in named if self._options.of(room).history])
        return backend_key(idempotency_key)


async def _keep_pace(sender: Connection | None, chosen: list[Connection]) -> None:
    """Wait for the client that a broadcast is made for, if a task of its session makes it."""
    if sender is None or not sender._outbox.is_behind or sender not in chosen:
        return
    session = sender._session
    if session is not None and session.owns(asyncio.current_task()):
        await sender._outbox.keep_pace()
