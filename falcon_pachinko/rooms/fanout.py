"""A message to many: encoded once, in the order of the calls, and no task per member.

Order is a promise per connection: what is called first arrives first. A fan-out to
many members yields now and then; until it is over it is *underway*, and each member
that it has not served yet is served out of turn as soon as anything else is about to
be sent to it. So nobody waits for a fan-out, and nobody is overtaken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.messages.codec import Codec, Packet
from falcon_pachinko.rooms.registry import Registry
from falcon_pachinko.targets import Target

__all__ = ["MEMBERS_PER_TURN", "Fanout", "Packets", "packets_of"]

MEMBERS_PER_TURN = 256
"""How many members a fan-out serves before it lets other tasks run (about a millisecond)."""


class Packets(dict[Codec, Packet]):
    """A message by codec; one that a connection took up meanwhile is made when it is asked for."""

    message: Any = None
    """What is written; set right after this is made, since an ``__init__`` costs a call."""

    def __missing__(self, codec: Codec) -> Packet:
        packet = self[codec] = codec.encode(self.message)
        return packet


def packets_of(message: Any) -> Packets:
    """Return what writes a message in each codec that is asked for."""
    packets = Packets()
    packets.message = message
    return packets


class _Underway:
    """A large fan-out: whom it has not served yet, and how many took the message."""

    __slots__ = ("dropped", "key", "packets", "pending", "sent", "target", "turn", "volatile")

    def __init__(
        self,
        chosen: list[Connection],
        packets: Mapping[Codec, Packet],
        target: Target | None,
        *,
        volatile: bool,
        key: object,
    ) -> None:
        # Invariant: a member is served when it is taken out of here, by whoever takes it out.
        self.pending: dict[Connection, None] = dict.fromkeys(chosen)
        self.packets, self.target = packets, target
        self.volatile, self.key = volatile, key
        self.sent = self.dropped = 0
        self.turn: asyncio.Future[None] | None = None  # set while an earlier one is underway

    def serve(self, member: Connection) -> None:
        """Give the message to a member that was taken out of those pending."""
        packet = self.packets[member._codec]
        if member._outbox.put(packet, volatile=self.volatile, key=self.key):
            self.sent += 1
        else:
            self.dropped += 1


class Fanout:
    """Gives messages to connections of this process.

    Args:
        registry: Who is where; asked again for members that leave meanwhile.
        spawn: Runs a coroutine in a task of its own, whose end is waited for.
    """

    def __init__(
        self, registry: Registry, spawn: Callable[[Coroutine[Any, Any, Any]], object]
    ) -> None:
        self._registry, self._spawn = registry, spawn
        self.underway: list[_Underway] = []
        """The large fan-outs that are not over, in the order of their calls."""

    async def deliver(
        self,
        chosen: list[Connection],
        packets: Mapping[Codec, Packet],
        target: Target | None = None,
        *,
        volatile: bool = False,
        key: object = None,
    ) -> tuple[int, int]:
        """Give a message to connections; return how many took it, and how many did not.

        Args:
            chosen: Whom; each once.
            packets: The message by codec.
            target: Why: who does not match it any more when its turn comes is left out.
            volatile: See `Outbox.push`.
            key: See `Outbox.push`.
        """
        if len(chosen) > MEMBERS_PER_TURN:
            return await self._deliver_to_many(
                _Underway(chosen, packets, target, volatile=volatile, key=key)
            )
        sent = 0
        if self.underway:
            for member in chosen:
                self.serve_first(member)
        if volatile or key is not None:
            for member in chosen:
                sent += member._outbox.put(packets[member._codec], volatile=volatile, key=key)
        else:
            for member in chosen:
                sent += member._outbox.push(packets[member._codec])
        return sent, len(chosen) - sent

    async def _deliver_to_many(self, fanout: _Underway) -> tuple[int, int]:
        """Serve members in batches, after all large fan-outs that were called before."""
        if self.underway:
            fanout.turn = asyncio.get_running_loop().create_future()
        self.underway.append(fanout)
        try:
            await self._serve_all(fanout)
        except asyncio.CancelledError:
            # A message that was begun reaches everybody, even if its sender's client leaves.
            self._spawn(self._finish(fanout))
            raise
        return fanout.sent, fanout.dropped

    async def _serve_all(self, fanout: _Underway) -> None:
        """Serve all that are pending; when cancelled, leave the rest for `_finish`."""
        try:
            if fanout.turn is not None:
                await asyncio.shield(fanout.turn)
            pending = fanout.pending
            while True:
                for _ in range(min(MEMBERS_PER_TURN, len(pending))):
                    fanout.serve(pending.popitem()[0])
                if not pending:
                    break
                await asyncio.sleep(0)
        except Exception:
            self._end(fanout)
            raise
        self._end(fanout)

    async def _finish(self, fanout: _Underway) -> None:
        """Serve those whom a cancelled caller has left; a shutdown may cut that short."""
        try:
            await self._serve_all(fanout)
        except asyncio.CancelledError:
            self._end(fanout)
            raise

    def _end(self, fanout: _Underway) -> None:
        """Let the next large fan-out have its turn."""
        self.underway.remove(fanout)
        turn = self.underway[0].turn if self.underway else None
        if turn is not None and not turn.done():
            turn.set_result(None)

    def serve_first(self, member: Connection) -> None:
        """Serve a member out of turn, since something else is about to be sent to it."""
        for fanout in self.underway:
            if member in fanout.pending:
                del fanout.pending[member]
                fanout.serve(member)

    def left(self, member: Connection) -> None:
        """Leave a member out of fan-outs whose target it does not match any more."""
        for fanout in self.underway:
            if member not in fanout.pending or fanout.target is None:
                continue
            if member not in fanout.target.select(self._registry):
                del fanout.pending[member]
