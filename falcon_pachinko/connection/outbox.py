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
import enum
import functools
import inspect
import logging
import sys
from collections import deque
from collections.abc import Generator, Mapping
from typing import Any, Final, Protocol

import falcon

from falcon_pachinko.counters import Counters
from falcon_pachinko.errors import ConnectionStateError
from falcon_pachinko.limits import Limits
from falcon_pachinko.messages.codec import Packet
from falcon_pachinko.typing import AsgiEvent, AsgiSend

__all__ = ["ABNORMAL", "CLOSE_WAIT", "NEXT", "Outbox", "Resumed", "Stage", "fit_reason", "resume"]

log = logging.getLogger("falcon_pachinko")

CLOSE_WAIT = 0.5
"""Seconds that the other side has to take note of an end before it is forced on it."""

ABNORMAL = 1006
"""The close code of a connection that ended without a close frame (RFC 6455, 7.1.5)."""

_REASON_BYTES = 123  # RFC 6455, 5.5: a control frame has 125 bytes, the code takes two

_SERVERS = frozenset(
    {"uvicorn", "hypercorn", "daphne", "granian", "falcon_pachinko", "pachinko_cli"}
)
"""Packages whose ``send`` may be stepped: servers, not middleware; and those that only pass on
to one, the testing kit and the trace of ``pachinko serve``."""


class Stage(enum.IntEnum):
    """How far a connection is; the outbox alone moves it, and only as `NEXT` says."""

    CONNECTING = 0
    """The handshake is unanswered; what is sent waits for the accept."""
    OPEN = 1
    """Accepted: frames go both ways."""
    CLOSING = 2
    """A close frame is on its way, behind the frames that wait; no other frame is taken."""
    CLOSED = 3
    """Nothing is sent any more: the close frame is sent, or the client is gone."""
    FORGOTTEN = 4
    """It has left its rooms, and its handlers have ended; ``on_disconnect`` runs, or ran."""


CONNECTING: Final = Stage.CONNECTING
OPEN: Final = Stage.OPEN
CLOSING: Final = Stage.CLOSING
CLOSED: Final = Stage.CLOSED
FORGOTTEN: Final = Stage.FORGOTTEN

NEXT: Mapping[Stage, frozenset[Stage]] = {
    CONNECTING: frozenset({OPEN, CLOSING, CLOSED}),
    OPEN: frozenset({CLOSING, CLOSED}),
    CLOSING: frozenset({CLOSED}),
    CLOSED: frozenset({FORGOTTEN}),
    FORGOTTEN: frozenset(),
}
"""Which stages may follow each; `docs/explanation/architecture.md` draws it."""


def fit_reason(reason: str) -> str:
    """Cut a close reason to the 123 bytes a close frame has room for (RFC 6455, 5.5).

    The cut falls between characters, so the result is always valid UTF-8 and
    never longer than 123 bytes; a short reason comes back unchanged.

    >>> len(fit_reason("é" * 100).encode())
    122
    """
    data = reason.encode("utf-8", "replace")
    return data[:_REASON_BYTES].decode("utf-8", "ignore")


def resume(step: Any, waiting_for: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that was stepped by hand, from within the task that iterates this.

    What it waits for, what it is sent and what is thrown into it pass through,
    so that the coroutine sees no difference to having been awaited.
    """
    try:
        while True:
            try:
                value = yield waiting_for
            except GeneratorExit:
                step.close()
                raise
            except BaseException as error:  # noqa: BLE001  # cancellation belongs to the coroutine
                waiting_for = step.throw(error)
            else:
                waiting_for = step.send(value)
    except StopIteration as done:
        return done.value


class Resumed:
    """`resume` for an ``await``."""

    __slots__ = ("step", "waiting_for")

    def __init__(self, step: Any, waiting_for: Any) -> None:
        self.step, self.waiting_for = step, waiting_for

    def __await__(self) -> Generator[Any, Any, Any]:
        return resume(self.step, self.waiting_for)


@functools.lru_cache(maxsize=64)
def _is_server(owner: type) -> bool:
    return any(each.__module__.partition(".")[0] in _SERVERS for each in owner.__mro__)


def is_bare(send: AsgiSend) -> bool:
    """Tell whether a ``send`` is the server's own, which may be stepped by hand.

    Anything but a coroutine method of a known server's object may be a middleware's.
    """
    return (
        inspect.ismethod(send)
        and inspect.iscoroutinefunction(send)
        and _is_server(type(send.__self__))  # type: ignore[arg-type]  # a class is hashable
    )


class Watcher(Protocol):
    """What an outbox tells of its end; the session is one, a floor above."""

    def closing(self, *, patient: bool) -> None:
        """Note that we have begun to close; unless patient, handlers are to end at once."""

    def closed(self) -> None:
        """Note that nothing more will be sent."""


class _Waiting:
    """One frame that waits; one that has a key may be replaced where it stands."""

    __slots__ = ("key", "packet")

    def __init__(self, packet: Packet, key: object) -> None:
        self.packet, self.key = packet, key


_STARTING: Final = object()
"""Stands for the writer between its creation and its first step."""


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
        "_deadline",
        "_direct",
        "_drained",
        "_in_flight",
        "_is_bare",
        "_keys",
        "_paced",
        "_queue",
        "_send",
        "_sent_at",
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
        self._queue: deque[_Waiting] | None = None
        self._keys: dict[object, _Waiting] | None = None  # by key, what waits and may be replaced
        self._writer: Any = None  # the task, or _STARTING; the only one that empties the queue
        self._in_flight = 0  # bytes of the frame being written; 0 also while none is
        self._deadline: asyncio.TimerHandle | None = None
        self._sent_at = 0.0
        self._close: AsgiEvent | None = None  # the close frame, once it waits behind others
        self._accepting = False
        self._paced: deque[asyncio.Future[None]] | None = None  # who waits for half of it, in order
        self._drained: asyncio.Future[None] | None = None
        self._warned = False

    def __repr__(self) -> str:
        return f"<Connection {self.name} {self.stage.name.lower()}>"

    def where(self) -> dict[str, str]:
        """Return what a log record says beside its text: the connection and its route."""
        return {"connection_id": self.name, "route": self.route}

    def adopt_context(self) -> None:
        """Have a middleware's ``send`` called in a copy of the caller's context, the session's."""
        if not self._is_bare:
            self._context = contextvars.copy_context()

    # Sending.

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
            self._queue = deque()
        before = self._keys.get(key) if key is not None and self._keys else None
        budget = self.limits.outbox_bytes
        size = packet.size - (before.packet.size if before is not None else 0)
        if budget is not None and self.bytes and self.bytes + size > budget:
            if before is not None:  # the policy judges the new one as if the old were gone
                self._take_out(before)
                before = None
            over = self.bytes and self.bytes + packet.size > budget
            if over and not self._make_room(packet.size, budget):
                self.counters.dropped["overflow"] += 1
                return False
        if before is not None:
            before.packet = packet
            self.bytes += size
            return True
        waiting = _Waiting(packet, key)
        self._queue.append(waiting)
        self.bytes += packet.size
        if key is not None:
            if self._keys is None:
                self._keys = {}
            self._keys[key] = waiting
        if self.stage is OPEN and self._writer is None:
            self._start_writer()
        return True

    def _take_out(self, waiting: _Waiting) -> None:
        """Take a frame that has a key out of the queue."""
        assert self._queue is not None
        assert self._keys is not None
        self._queue.remove(waiting)
        self.bytes -= waiting.packet.size
        del self._keys[waiting.key]

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
            while self._queue and self.bytes + size > budget:
                self.bytes -= self._pop().size
                self.counters.dropped["overflow"] += 1
            return True
        when = "before the accept" if self.stage is CONNECTING else "for a client that reads slowly"
        self.counters.dropped["overflow"] += len(self._queue or ())
        self._clear()
        self.close(1013, f"over {budget} bytes wait {when} (outbox_bytes)")
        return False

    def _pop(self) -> Packet:
        """Take the frame that waits first."""
        assert self._queue is not None
        waiting = self._queue.popleft()
        if waiting.key is not None:
            assert self._keys is not None
            del self._keys[waiting.key]
        return waiting.packet

    def _clear(self) -> None:
        """Forget what waits; the frame being written stays counted."""
        self._queue = self._keys = None
        self.bytes = self._in_flight

    # At the client's pace: for the connection's own code, and nobody else.

    async def send(self, packet: Packet, *, volatile: bool = False, key: object = None) -> bool:
        """`push` for the connection's own code, at the client's pace.

        It waits, before it adds the frame, while more than half of ``outbox_bytes``
        waits; several waiting senders go on in the order of their calls.

        Raises:
            ConnectionStateError: The frame does not fit before the accept.
        """
        if self.stage is CONNECTING:
            self.check_room(packet.size, key)
        elif not volatile and (self._paced or self.is_behind):
            await self.keep_pace()
        return self.put(packet, volatile=volatile, key=key)

    def check_room(self, size: int, key: object = None) -> None:
        """Refuse to let more wait for the accept than the outbox may hold.

        Raises:
            ConnectionStateError: It does not fit; says to accept first.
        """
        budget, waits = self.limits.outbox_bytes, self.bytes
        if key is not None and self._keys and key in self._keys:
            waits -= self._keys[key].packet.size  # the frame takes its place
        if budget is not None and waits and waits + size > budget and self.stage is CONNECTING:
            raise ConnectionStateError(
                f"{self.bytes} bytes wait for the accept already, and {budget} may "
                "(outbox_bytes); accept first (await ws.accept()), then send"
            )

    @property
    def is_behind(self) -> bool:
        """Whether the connection's own code is to wait: more than half of it is full."""
        budget = self.limits.outbox_bytes
        return budget is not None and self.bytes * 2 > budget and self.stage is OPEN

    async def keep_pace(self) -> None:
        """Wait until at most half of it is full, or the connection closes; first come, first go."""
        if self._paced is None:
            self._paced = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._paced.append(turn)
        try:
            await turn
        finally:
            # Only now, so that nobody who comes meanwhile goes first; and the next one is let on
            # when this one has added its frame.
            self._paced.remove(turn)
            asyncio.get_running_loop().call_soon(self._let_on)

    def _let_on(self) -> None:
        """Let the next sender go on, if the client has caught up; all of them after the end."""
        if self.is_behind:
            return
        for turn in self._paced or ():
            if not turn.done():
                turn.set_result(None)
            if self.stage is OPEN:
                return

    async def drained(self) -> None:
        """Wait until no frame waits or is being written, or it is closed; not before the accept."""
        while self.bytes and self.stage in (OPEN, CLOSING):
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    # The writer.

    def _start_writer(self, step: Any = None, waiting_for: Any = None) -> None:
        """Have a task finish a frame that was begun, if one was, and send what waits."""
        loop = asyncio.get_running_loop()
        self._direct = False
        self._writer = _STARTING
        timeout = self.limits.send_timeout
        if timeout is not None:
            self._sent_at = loop.time()
            self._deadline = loop.call_later(timeout, self._check_deadline, loop)
        writing = self._write(loop, step, waiting_for)
        if step is None and sys.version_info >= (3, 12):  # as soon as a bare send would
            context = self._context.copy() if self._context is not None else None
            task = asyncio.Task(writing, loop=loop, eager_start=True, context=context)
        else:
            task = loop.create_task(writing, context=self._context)
        if not task.done():  # one that started eagerly may have ended, and cleared the field
            self._writer = task

    async def _write(self, loop: asyncio.AbstractEventLoop, step: Any, waiting_for: Any) -> None:
        """Finish one frame, then send what waits behind it: the connection's only writer."""
        try:
            if step is not None:
                await Resumed(step, waiting_for)
                self._written()
            while self._queue and self.stage in (OPEN, CLOSING):
                packet = self._pop()
                self._sent_at, self._in_flight = loop.time(), packet.size
                await self._send(packet.event)
                self._written()
            if self._close is not None:
                event, self._close = self._close, None
                self._sent_at = loop.time()
                await self._send(event)
        except BaseException as error:
            # Whatever a server raises here, the client is gone.  A frame that was cut off by
            # somebody who has cancelled this task can have no other behind it either.
            self.lose()
            if not isinstance(error, Exception):
                raise
        finally:
            self._writer_ended()
        if self.stage is CLOSING:
            self._end()

    def _written(self) -> None:
        """Note that the frame being written has left."""
        self.bytes -= self._in_flight
        self._in_flight = 0
        if self._paced:
            self._let_on()

    def _writer_ended(self) -> None:
        self._writer = None
        self.bytes -= self._in_flight
        self._in_flight = 0
        self._direct = self._is_bare and self.stage is OPEN
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._wake()

    def _wake(self) -> None:
        """Let everybody go on who waits for the client to catch up."""
        if self._paced:
            self._let_on()
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    def _check_deadline(self, loop: asyncio.AbstractEventLoop) -> None:
        timeout = self.limits.send_timeout
        assert timeout is not None
        left = self._sent_at + timeout - loop.time()
        if left > 0:
            self._deadline = loop.call_later(left, self._check_deadline, loop)
            return
        log.warning(
            "%r: send timed out after %s s (send_timeout); aborted with %d bytes unsent",
            self, timeout, self.bytes,
            extra=self.where(),
        )  # fmt: skip
        self.abort()

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
        if self._queue:
            self._flush()

    def _flush(self) -> None:
        """Send what waited for the accept, before anything that comes now."""
        waiting, self._queue, self._keys, self.bytes = self._queue, None, None, 0
        while waiting:
            first = waiting.popleft()
            self.put(first.packet, key=first.key)

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
        if self._paced:
            self._let_on()
        if self.watcher is not None:
            self.watcher.closing(patient=patient)
        if was_connecting:
            self._clear()
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
        if self._queue:
            self.counters.dropped["gone"] += len(self._queue)
        self._clear()
        self._close = None
        if self.stage not in (CLOSED, FORGOTTEN):
            self._end()

    def _end(self) -> None:
        """Its end is settled: nothing more will be sent."""
        self._move(CLOSED)
        self._direct = False
        self._wake()
        if self.watcher is not None:
            self.watcher.closed()

    def _move(self, stage: Stage) -> None:
        assert stage in NEXT[self.stage], f"{self.stage!r} -> {stage!r}"
        self.stage = stage

    def abort(self) -> None:
        """Cut the connection: no close frame, and nothing waits for the client any more.

        The transport is reached through the server's own ``send``, best effort:
        uvicorn's three back ends have one. Elsewhere the writer is stopped and
        the session ends, and the server closes in its own time.
        """
        if self.close_code is None:
            self.close_code = ABNORMAL
        self.lose()
        if isinstance(self._writer, asyncio.Task):
            self._writer.cancel()
            self._writer_ended()  # a task that is cancelled before its first step never gets there
        transport = self._transport()
        if transport is not None:
            transport.abort()

    def forget(self, *, now: bool) -> None:
        """Its session has ended: make sure that no unread byte keeps the socket open.

        A server closes a socket only when all is written, which a client that
        does not read can put off for ever.

        Args:
            now: Whether the server is going down; else the client has
                ``send_timeout`` seconds to take what is left.
        """
        self.watcher = self._context = None
        self.lose()
        self._move(FORGOTTEN)
        if self._writer is not None:
            self.abort()
            return
        transport = self._transport()
        timeout = CLOSE_WAIT if now else self.limits.send_timeout
        if transport is not None and timeout is not None and transport.get_write_buffer_size() > 0:
            asyncio.get_running_loop().call_later(timeout, transport.abort)

    def _transport(self) -> Any:
        """Return the server's transport, if its ``send`` leads there."""
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)
        return transport if hasattr(transport, "get_write_buffer_size") else None
