"""What this process asks of the others, and does for them: parcels out, parcels in, gaps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

from falcon_pachinko.backends.base import Backend, HistoryPosition
from falcon_pachinko.cluster.history_shell import History
from falcon_pachinko.cluster.node import Gap, Node
from falcon_pachinko.cluster.parcels import (
    ALL,
    Answer,
    Broadcast,
    Parcel,
    ParcelPackets,
    PresenceDiff,
    Question,
    channel_of,
    implied_by,
)
from falcon_pachinko.cluster.presence_shell import Presence
from falcon_pachinko.cluster.resync import Resyncs
from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.counters import Counters, type_of
from falcon_pachinko.errors import EncodeError
from falcon_pachinko.messages.codec import Codecs, contains_raw
from falcon_pachinko.rooms.answers import ClusterAnswers
from falcon_pachinko.rooms.configuration import Configuration
from falcon_pachinko.rooms.fanout import MEMBERS_PER_TURN, Fanout, Packets, packets_of
from falcon_pachinko.rooms.options import OptionsByPrefix
from falcon_pachinko.rooms.registry import Registry
from falcon_pachinko.rooms.revocations import Revocations
from falcon_pachinko.targets import Both, ConnectionId, Everyone, Room, Target

__all__ = ["Exchange"]

log = logging.getLogger("falcon_pachinko")


class Exchange:
    """Between this process's connections and the other processes; the manager has one.

    It is also what the registry tells of names that come into use here: so this process
    listens to the channels of its rooms, users and tags, and to no others.
    """

    def __init__(
        self, backend: Backend, options: OptionsByPrefix, counters: Counters, codecs: Codecs
    ) -> None:
        self.options, self.counters, self.codecs = options, counters, codecs
        self.cluster = Node(backend, self._arrived, self._missed, self._is_back, self._catch_up)
        self.registry = Registry(self)
        self.configuration = Configuration(self.cluster, options, self.registry.rooms.names)
        self.cluster.configured = self.configuration.back
        self.revocations = Revocations(self.registry)
        self.answers = ClusterAnswers(self.cluster, self.registry, self.revocations)
        self.fanout = Fanout(self.registry, self.spawn)
        self.presence: Presence[Connection] = Presence(
            self.cluster,
            self.send_to,
            lambda room: options.of(room).presence_grace,
            self._write_meta,
            limit=lambda room: options.of(room).presence_limit,
            dropped=self._untracked,
        )
        self.history: History[Connection] = History(
            self.cluster,
            members=self.registry.in_room,
            select=self._select_kept,
            fan_out=lambda room, chosen, packets: self._deliver_parcel(chosen, packets, Room(room)),
            limits=lambda room: options.of(room).history,
            spawn=self.spawn,
        )
        self.resyncs = Resyncs(self._tell_resync, self.spawn)
        self.on_gap: list[Callable[[Gap], Awaitable[None]]] = []
        self.endings: set[asyncio.Task[Any]] = set()
        """What a shutdown waits for besides the sessions."""

    def spawn(self, job: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine in a task of its own; a shutdown waits for its end."""
        task = asyncio.get_running_loop().create_task(job)
        self.endings.add(task)
        task.add_done_callback(self.endings.discard)
        return task

    # What the registry tells.

    def came(self, kind: str, name: str) -> None:
        """Listen to what other processes send to the first connection of a name."""
        if self.cluster.backend.shared:
            self.cluster.subscriptions.add(f"{kind}:{name}")

    def went(self, kind: str, name: str) -> None:
        """Stop listening, unless somebody of that room is kept present for a while."""
        if self.cluster.backend.shared and not (kind == "room" and self.presence.knows(name)):
            self.cluster.subscriptions.remove(f"{kind}:{name}")

    def _untracked(self, room: str) -> None:
        """Stop listening to a room that has nobody here, since nobody is kept present there."""
        if self.cluster.backend.shared and not self.registry.in_room(room):
            self.cluster.subscriptions.remove(f"room:{room}")

    def left(self, connection: Connection, room: str, *, last: bool) -> None:
        """Leave a connection out of what is underway to a room that it has left."""
        if self.fanout.underway:
            self.fanout.left(connection)
        if room in self.history._rooms:
            self.history.left(connection, room, last=last)

    def lost(self, connection: Connection) -> None:
        """Leave a connection out of what is underway to a tag or a user that is no longer its."""
        if self.fanout.underway:
            self.fanout.left(connection)

    def speaks(self, subprotocol: str) -> None:
        """Tell the others of a codec that they are to send, too."""
        self.cluster.speaks(subprotocol)

    async def live(self, kind: str, name: str) -> None:
        """Wait until what other processes send to a name arrives, or their backend is away."""
        await self.cluster.subscriptions.live(f"{kind}:{name}")

    # Out.

    def check_raw(self, message: Any) -> None:
        """Refuse a `msgspec.Raw` in a message for several codecs: it is written in one of them.

        Raises:
            EncodeError: It has one.
        """
        if contains_raw(message, self.codecs.enc_hook):
            raise EncodeError(
                "it contains a msgspec.Raw, which is encoded for one codec, and the recipients use "
                "several; decode it first"
            )

    def publish(
        self,
        message: Any,
        packets: Packets,
        target: Target,
        exclude: tuple[str, ...],
        *,
        volatile: bool,
        latest: str | None,
        kept_in: tuple[str, ...],
    ) -> bool:
        """Let the other processes send a message to the connections that a target names there.

        But for the members of ``kept_in``: rooms that have kept it, and send it themselves.
        """
        if self.is_here(target):
            return False
        channel = channel_of(target)
        data = packets[self.codecs.msgpack].event["bytes"] if self.cluster.subprotocols else None
        text = packets[self.codecs.json].event["text"]
        parcel = Broadcast(0, 0, type_of(message), text, data, exclude)
        if implied_by(channel) != target:
            parcel.target = target
        parcel.volatile, parcel.latest, parcel.kept_in = volatile, latest, kept_in
        return self.cluster.publish(channel, parcel)

    def _write_meta(self, meta: Any) -> bytes:
        """Write what somebody's presence says, for members of all codecs."""
        self.check_raw(meta)
        data: bytes = self.codecs.msgpack.encode(meta).event["bytes"]
        return data

    def is_here(self, target: Target) -> bool:
        """Whether a target is one connection, of this process: no other need hear of it."""
        return isinstance(target, ConnectionId) and target.name in self.registry.connections

    async def send_kept(
        self,
        message: Any,
        target: Target,
        rooms: tuple[str, ...],
        exclude: tuple[str, ...],
        key: str = "",
    ) -> tuple[int, int, bool]:
        """Keep a message once in each of some rooms; send it to those that a target names there.

        A member of several of them gets it from the first.

        Returns:
            How many took it, how many did not, and whether all of it is published.

        Raises:
            EncodeError: It cannot be encoded, or it cannot be kept; see `History.send`.
        """
        text = self.codecs.json.encode(message).event["text"]
        data: bytes | None
        try:
            data = self.codecs.msgpack.encode(message).event["bytes"]
        except EncodeError:
            data = None  # JSON has forms that MessagePack has not, such as a number of 30 digits
        if contains_raw(message, self.codecs.enc_hook):
            if self.cluster.subprotocols or self.codecs.msgpack in self.registry.codecs:
                self.check_raw(message)
            data = None  # in an app that speaks JSON only, JSON is what it holds
        sent = dropped = 0
        published = True
        for place, room in enumerate(rooms):
            parcel = Broadcast(0, 0, type_of(message), text, data, exclude)
            parcel.target = None if target == Room(room) else target
            parcel.kept_in = rooms[:place]
            outcome = await self.history.send(room, parcel, key)
            sent, dropped = sent + outcome[0], dropped + outcome[1]
            published = published and outcome[2]
        return sent, dropped, published

    def _select_kept(self, room: str, parcel: Broadcast) -> list[Connection]:
        """Return whom of a room's members here a message is for that the room keeps."""
        named = Room(room)
        target = named if parcel.target is None else Both(named, parcel.target)
        return self._without(self.registry.select(target, parcel.exclude), parcel.kept_in)

    def _without(self, chosen: list[Connection], rooms: tuple[str, ...]) -> list[Connection]:
        """Leave out the members of some rooms."""
        if not rooms:
            return chosen
        members = set[Connection]().union(*map(self.registry.in_room, rooms))
        return [each for each in chosen if each not in members]

    async def send_to(self, connections: Collection[Connection], message: Any) -> None:
        """Send a message of the library's own to connections of this process."""
        sent, _ = await self.fanout.deliver(list(connections), packets_of(message))
        self.counters.count_sent(message, sent)

    # In.

    async def _arrived(
        self, node: str, parcel: Parcel, channel: str, position: HistoryPosition | None
    ) -> None:
        """Do here what another process asked for."""
        kind, _, name = channel.partition(":")
        match parcel:
            case Broadcast() if position is not None:
                if kind == "room":
                    await self.history.deliver(node, name, parcel, position)
            case PresenceDiff() if kind == "room":
                self.presence.take(node, name, parcel)
            case Broadcast():
                target = parcel.target or implied_by(channel) or Everyone()
                chosen = self._without(self.registry.select(target, parcel.exclude), parcel.kept_in)
                await self._deliver_parcel(chosen, ParcelPackets(parcel), target)
            case Question():
                await self.cluster.questions.answer(node, parcel)
            case Answer():
                self.cluster.questions.take(node, parcel)

    async def _deliver_parcel(
        self, chosen: list[Connection], packets: ParcelPackets, target: Target | None = None
    ) -> int:
        """Deliver what came encoded; connections whose codec has no form of it are left out."""
        for codec in tuple(self.registry.codecs):
            try:
                packets[codec]
            except EncodeError as error:
                self.cluster.reject(str(error))
                chosen = [each for each in chosen if each._codec is not codec]
        parcel = packets.parcel
        key = None if parcel.latest is None else (target, parcel.latest)
        sent, _ = await self.fanout.deliver(
            chosen, packets, target, volatile=parcel.volatile, key=key
        )
        self.counters.count_sent_type(parcel.type, sent)
        return sent

    # Gaps.

    async def _missed(self, gap: Gap) -> None:
        """Make up for a gap, and tell the hooks, and the clients of rooms that asked for it.

        Gaps on one channel come here as often as `GapGate` lets them, so that what this costs is
        bounded: hooks, reads of presence, and a message to each member.
        """
        for hook in self.on_gap:
            self.spawn(self._tell(hook, gap))  # one that waits for a message gets it
        kind, _, name = (gap.channel or "").partition(":")
        everywhere = gap.channel is None or gap.channel == ALL
        rooms = self.registry.rooms.names() if everywhere else [name] if kind == "room" else []
        if gap.channel is None:
            self.presence.be_patient()
        self.presence.refresh(rooms)
        for count, room in enumerate(rooms if self.options else (), 1):
            self.history.catch_up(room, unkept=gap.unkept)
            if self.options.of(room).resync:
                if everywhere:
                    self.resyncs.tell_later((room,))
                elif room not in self.resyncs:
                    await self._tell_resync(room)
            if not count % MEMBERS_PER_TURN:
                await asyncio.sleep(0)

    async def _catch_up(self, gap: Gap) -> None:
        """Make up at once for what a history may have lost, where the hooks are told later.

        A history whose epoch has ended must be read before the messages that follow.
        """
        kind, _, name = (gap.channel or "").partition(":")
        if kind == "room" and self.options:
            self.history.catch_up(name, unkept=gap.unkept)

    async def _tell_resync(self, room: str) -> None:
        """Have the clients in a room load anew what they show."""
        await self.send_to(
            self.registry.in_room(room), {"type": "resync", "payload": {"room": room}}
        )

    async def _tell(self, hook: Callable[[Gap], Awaitable[None]], gap: Gap) -> None:
        try:
            await hook(gap)
        except Exception:
            log.exception("an on_gap hook failed")

    def _is_back(self) -> None:
        """The backend is up: tell it what it may have forgotten, or never heard."""
        self.configuration.back()
        self.presence.back()
        self.spawn(self.history.stored.mend())
