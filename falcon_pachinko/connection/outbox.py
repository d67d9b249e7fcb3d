"""What waits for one client: bounded in bytes, in order, with one writer.

The outbox is what keeps a slow client from costing anybody else anything. A
frame is given to the ASGI server by stepping its ``send`` once, within the
sender: almost always it finishes at once, and the sender goes on. Where it
suspends, the client reads slower than we write; then one task, the writer,
finishes that frame, and later ones wait behind it. Where a middleware wraps
``send``, the writer sends everything, in the connection's own context, so that
no time-out and no context variable of the middleware reaches the sender.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

import falcon

from falcon_pachinko.connection.ends import ABNORMAL, CLOSE_WAIT, Watcher, fit_reason
from falcon_pachinko.connection.pace import Pace
from falcon_pachinko.connection.stage import (
    CLOSED,
    CLOSING,
    CONNECTING,
    FORGOTTEN,
    NEXT,
    OPEN,
    Stage,
)
from falcon_pachinko.connection.stepping import is_bare
from falcon_pachinko.connection.transport import cut
from falcon_pachinko.connection.waiting import WaitingFrames
from falcon_pachinko.connection.writer import Writer
from falcon_pachinko.counters import Counters
from falcon_pachinko.errors import ConnectionStateError
from falcon_pachinko.limits import Limits
from falcon_pachinko.messages.codec import Packet
from falcon_pachinko.typing import AsgiEvent, AsgiSend

__all__ = ["Outbox"]

log = logging.getLogger("falcon_pachinko")


class Outbox:
    """What waits for one client; works without a manager, and without a session.

    Args:
        send: The ASGI server's ``send``, or a middleware's.
        limits: What the client may cost: ``outbox_bytes``, ``on_overflow``, ``send_timeout``.
        counters: Where dropped frames are counted.
        name: What log records call the connection; its id.
        route: The template of its route, for log records.
        direct: Whether ``send`` may be stepped by hand; by default `is_bare` decides.
        is_open: Whether the handshake was accepted already.
    """

    __slots__ = (
        "_accepting",
        "_close",
        "_context",
        "_direct",
        "_drained",
        "_in_flight",
        "_is_bare",
        "_paced",
        "_queue",
        "_send",
        "_warned",
        "_writer",
        "accepted",
        "bytes",
        "close_code",
        "close_reason",
        "counters",
        "limits",
        "name",
        "route",
        "stage",
        "watcher",
    )

    def __init__(
        self,
        send: AsgiSend,
        limits: Limits,
        counters: Counters,
        *,
        name: str = "",
        route: str = "",
        direct: bool | None = None,
        is_open: bool = False,
    ) -> None:
        self._send, self.limits, self.counters = send, limits, counters
        self.name, self.route = name, route
        self.stage = OPEN if is_open else CONNECTING
        self.accepted = is_open
        self.close_code: int | None = None
        self.close_reason = ""
        self.bytes = 0
        """How many bytes wait, those of the frame being written included."""
        self.watcher: Watcher | None = None
        self._is_bare = is_bare(send) if direct is None else direct
        self._direct = is_open and self._is_bare
        # Invariant: _direct if and only if OPEN, the send is bare, and there is no writer.
        # Then nothing waits.  Whoever finds it set may step the server's send, and nobody else.
        self._context: contextvars.Context | None = None  # the writer's; the session sets it
        # Most connections never need the parts that are None here.
        self._queue: WaitingFrames | None = None
        self._writer: Writer | None = None  # the only one that empties the queue
        self._in_flight = 0  # bytes of the frame being written; 0 also while none is
        self._close: AsgiEvent | None = None  # the close frame, once it waits behind others
        self._accepting = self._warned = False
        self._paced: Pace | None = None  # while somebody waits until half of it is free
        self._drained: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.name} {self.stage.name.lower()}>"

    def where(self) -> dict[str, str]:
        """Return what a log record says beside its text: the connection and its route."""
        return {"connection_id": self.name, "route": self.route}

    def adopt_context(self) -> None:
        """Have a middleware's ``send`` called in a copy of the caller's context, the session's."""
        if not self._is_bare:
            self._context = contextvars.copy_context()

    def push(self, packet: Packet) -> bool:
        """Send a frame, or let it wait if the client is behind; never waits itself.

        Returns:
            Whether it was sent or waits; False if it was dropped: the client is gone,
            or the outbox is full.
        """
        # One argument, no defaults: Python calls such a function without building a frame for it,
        # and a broadcast calls this for every member.
        if not self._direct:
            return self._put(packet, False, None)  # noqa: FBT003  # see `put`
        step: Any = self._send(packet.event)
        try:
            waiting_for = step.send(None)
        except StopIteration:
            return True
        except Exception:  # noqa: BLE001  # whatever a server raises here, the client is gone
            self.lose()
            return False
        self._in_flight = packet.size
        self.bytes += packet.size
        self._start_writer(step, waiting_for)
        return True

    def put(self, packet: Packet, *, volatile: bool = False, key: object = None) -> bool:
        """`push` with the options of sending.

        Args:
            packet: The frame.
            volatile: Drop it if a frame is being written, or waits behind one.
            key: Replace what still waits under the same key, in its place.

        Returns:
            As `push`; False also if the frame is volatile and the client behind.
        """
        return self.push(packet) if self._direct else self._put(packet, volatile, key)

    def _put(self, packet: Packet, volatile: bool, key: object) -> bool:  # noqa: FBT001  # as `put` got it
        """Let a frame wait behind others, for the accept, or for the writer's turn."""
        if self.stage is not OPEN and self.stage is not CONNECTING:
            return False
        if volatile and self._in_flight and self.stage is OPEN:
            self.counters.dropped["volatile"] += 1
            return False
        if self._queue is None:
            self._queue = WaitingFrames()
        budget, size = self.limits.outbox_bytes, packet.size
        others = self._in_flight + self._queue.bytes_beside(key)
        if budget is not None and others and others + size > budget:
            self._queue.remove(key)  # the policy judges the new one as if the old were gone
            self.bytes = others
            if not self._make_room(size, budget):
                self.counters.dropped["overflow"] += 1
                return False
        self._queue.put(packet, key)
        self.bytes = self._in_flight + self._queue.bytes
        if self.stage is OPEN and self._writer is None:
            self._start_writer()
        return True

    def _make_room(self, size: int, budget: int) -> bool:
        """Apply the policy of a full outbox; return whether the new frame fits now."""
        policy = self.limits.on_overflow
        if not self._warned:
            self._warned = True
            log.warning(
                "%r reads too slowly: %d bytes wait (outbox_bytes=%d), on_overflow=%s",
                self, self.bytes, budget, policy,
                extra=self.where(),
            )  # fmt: skip
        if policy == "drop_newest":
            return False
        if policy == "drop_oldest":
            if self._in_flight + size > budget:
                return False  # it would not fit if all that waits were dropped
            if self._queue is not None:
                dropped = self._queue.drop_to(budget - size - self._in_flight)
                self.counters.dropped["overflow"] += dropped
            return True
        when = "before the accept" if self.stage is CONNECTING else "for a client that reads slowly"
        self._drop_all("overflow")
        self.close(1013, f"over {budget} bytes wait {when} (outbox_bytes)")
        return False

    def _drop_all(self, why: str) -> None:
        """Forget what waits, and count it; the frame being written stays counted."""
        if self._queue:
            self.counters.dropped[why] += len(self._queue)
        self._queue = None
        self.bytes = self._in_flight

    async def send(self, packet: Packet, *, volatile: bool = False, key: object = None) -> bool:
        """`push` for the connection's own code, at the client's pace.

        It waits, before it adds the frame, while more than half of ``outbox_bytes``
        waits; several waiting senders go on in the order of their calls.

        Raises:
            ConnectionStateError: The frame does not fit before the accept.
        """
        if self.stage is CONNECTING:
            self.check_room(packet.size, key)
        elif not volatile and (self._paced is not None or self.is_behind):
            await self.keep_pace()
        return self.put(packet, volatile=volatile, key=key)

    def check_room(self, size: int, key: object = None) -> None:
        """Refuse to let more wait for the accept than the outbox may hold.

        Raises:
            ConnectionStateError: It does not fit; says to accept first.
        """
        budget = self.limits.outbox_bytes
        waits = 0 if self._queue is None else self._queue.bytes_beside(key)
        if budget is not None and waits and waits + size > budget and self.stage is CONNECTING:
            raise ConnectionStateError(
                f"{self.bytes} bytes already wait for the accept, of at most {budget} "
                "(outbox_bytes); accept first (await ws.accept()), then send"
            )

    @property
    def is_behind(self) -> bool:
        """Whether the connection's own code is to wait: more than half of it is full."""
        budget = self.limits.outbox_bytes
        return budget is not None and self.bytes * 2 > budget and self.stage is OPEN

    async def keep_pace(self) -> None:
        """Wait until at most half of it is full, or the connection closes; first come, first go."""
        pace = self._paced = self._paced or Pace(self)
        await pace.turn()

    def caught_up(self) -> None:
        """Note that nobody waits for the client any more."""
        self._paced = None

    async def drained(self) -> None:
        """Wait until no frame waits or is being written, or it is closed; not before the accept."""
        while self.bytes and self.stage in (OPEN, CLOSING):
            await self._all_written()

    async def finished(self) -> None:
        """Wait until the close frame has left, or it is clear that it will not."""
        while self.stage is CLOSING:
            await self._all_written()

    async def _all_written(self) -> None:
        self._drained = self._drained or asyncio.get_running_loop().create_future()
        await asyncio.shield(self._drained)

    # The writer, and what it asks and tells.

    def _start_writer(self, step: Any = None, waiting_for: Any = None) -> None:
        """Have a task finish a frame that was begun, if one was, and send what waits."""
        self._direct = False
        self._writer = Writer(self, self._send, self.limits.send_timeout)
        self._writer.start(self._context, step, waiting_for)

    def take(self) -> Packet | None:
        """Take the frame that is to be sent next; None when none waits."""
        if not self._queue or self.stage not in (OPEN, CLOSING):
            return None
        packet, _ = self._queue.pop()
        self._in_flight = packet.size
        return packet

    def take_close(self) -> AsgiEvent | None:
        """Take the close frame, which comes behind all others."""
        event, self._close = self._close, None
        return event

    def written(self) -> None:
        """Note that the frame being written has left."""
        self.bytes -= self._in_flight
        self._in_flight = 0
        if self._paced is not None:
            self._paced.let_on()

    def writer_ended(self) -> None:
        """Note that nothing is being written any more; it may have been cut off."""
        self._writer = None
        self.written()
        self._direct = self._is_bare and self.stage is OPEN
        self._wake()
        if self.stage is CLOSING:
            self._end()

    def _wake(self) -> None:
        """Let everybody go on who waits for the client to catch up."""
        if self._paced is not None:
            self._paced.let_on()
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    # Stages.

    async def accept(self, event: AsgiEvent) -> None:
        """Accept the handshake; what was sent before leaves right after it, in order.

        Raises:
            falcon.WebSocketDisconnected: The client has gone, or somebody has closed meanwhile.
            Exception: What the server raised because it cannot send this answer.
        """
        self._accepting = True  # what others send meanwhile waits
        try:
            await self._send(event)
        except OSError as error:
            self.lose()
            raise falcon.WebSocketDisconnected(ABNORMAL) from error
        finally:
            self._accepting = False
        if self.stage is CLOSED:
            raise falcon.WebSocketDisconnected(self.close_code or ABNORMAL)
        self.accepted = True
        self.counters.accepted += 1
        if self.stage is CLOSING:  # somebody closed it while the server answered
            self._send_close()
            raise falcon.WebSocketDisconnected(self.close_code)
        self._move(OPEN)
        self._direct = self._is_bare
        waiting, self._queue, self.bytes = self._queue, None, 0
        while waiting:  # before anything that comes now
            packet, key = waiting.pop()
            self.put(packet, key=key)

    def close(self, code: int, reason: str = "", *, patient: bool = False) -> None:
        """Close after the frames that wait; the first code counts, and later calls do nothing.

        Before the accept nothing is sent: whoever answers the handshake denies it.

        Args:
            code: A close code that may be sent.
            reason: A few words; what does not fit into 123 bytes is cut off.
            patient: Whether handlers that run may go on for a while.
        """
        if self.stage is not OPEN and self.stage is not CONNECTING:
            return
        self.close_code, self.close_reason = code, fit_reason(reason)
        was_connecting = self.stage is CONNECTING
        self._move(CLOSING)
        self._direct = False
        if self._paced is not None:
            self._paced.let_on()
        if self.watcher is not None:
            self.watcher.closing(patient=patient)
        if was_connecting:
            self._drop_all("gone")
            if not self._accepting:
                self._end()
                return
        self._close = {"type": "websocket.close", "code": code, "reason": self.close_reason}
        if self._writer is None and not self._accepting:
            self._send_close()

    def _send_close(self) -> None:
        """Give the close frame to the server; what it cannot do at once, the writer does."""
        if not self._is_bare:
            self._start_writer()
            return
        event, self._close = self._close, None
        step: Any = self._send(event)  # type: ignore[arg-type]  # it is set by whoever calls
        try:
            waiting_for = step.send(None)
        except StopIteration:
            self._end()
        except Exception:  # noqa: BLE001  # it went first
            self.lose()
        else:
            self._start_writer(step, waiting_for)

    def lose(self) -> None:
        """Note that the client is gone; what waits for it is forgotten."""
        self._drop_all("gone")
        self._close = None
        if self.stage not in (CLOSED, FORGOTTEN):
            self._end()

    def _end(self) -> None:
        """Its end is settled: nothing more will be sent."""
        self._move(CLOSED)
        self._direct = False
        if self._paced is not None or self._drained is not None:
            self._wake()
        if self.watcher is not None:
            self.watcher.closed()

    def _move(self, stage: Stage) -> None:
        assert stage in NEXT[self.stage], f"{self.stage!r} -> {stage!r}"
        self.stage = stage

    def abort(self) -> None:
        """Cut the connection: no close frame, and nothing waits for the client any more."""
        self.close_code = self.close_code or ABNORMAL
        self.lose()
        if self._writer is not None:
            self._writer.cancel()
        cut(self._send)

    def forget(self, *, now: bool) -> None:
        """Its session has ended: make sure that no unread byte keeps the socket open.

        A server closes a socket only when all is written, which a client that
        does not read can put off for ever.

        Args:
            now: Whether the server is going down; else the client has
                ``send_timeout`` seconds to take what is left.
        """
        self.watcher = self._context = None
        if self._queue is not None:
            self.lose()
        elif self.stage is not CLOSED:
            self._end()
        self._move(FORGOTTEN)
        if self._writer is not None:
            self.abort()
        elif (timeout := CLOSE_WAIT if now else self.limits.send_timeout) is not None:
            cut(self._send, unread_after=timeout)
