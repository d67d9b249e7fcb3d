"""One client: who it is, and the outbox that everything for it goes through.

The outbox is what keeps a slow client from costing anybody else anything. A
frame is given to the ASGI server by stepping its ``send`` once, within the
sender: almost always it finishes at once, and the sender goes on. Where it
suspends, the client reads slower than we write; then one task, the writer,
finishes that frame, and later ones wait behind it, in order, up to a budget in
bytes. Nobody who sends ever waits for a client, but its own session.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import falcon

from falcon_pachinko.counters import type_of
from falcon_pachinko.errors import ConnectionStateError
from falcon_pachinko.leases import check_lease
from falcon_pachinko.limits import Limits
from falcon_pachinko.messages.codec import CODECS, JSON, Codec, Packet, pack_bytes, pack_text
from falcon_pachinko.names import check_user_id
from falcon_pachinko.typing import AsgiEvent, AsgiSend

if TYPE_CHECKING:
    from falcon_pachinko.manager import WebSocketConnectionManager

__all__ = ["ABNORMAL", "LINGER", "Connection", "check_close_code", "fit_reason", "resume"]

log = logging.getLogger("falcon_pachinko")

LINGER = 0.5
"""Seconds that the other side has to notice an end before it is forced on it."""

ABNORMAL = 1006
"""The close code of a connection that ended without a close frame (RFC 6455, 7.1.5)."""

_REASON_BYTES = 123  # RFC 6455, 5.5: a control frame has 125 bytes, the code takes two


def fit_reason(reason: str) -> str:
    """Cut a close reason to the 123 bytes a close frame has room for (RFC 6455, 5.5).

    The cut falls between characters, so the result is always valid UTF-8 and
    never longer than 123 bytes; a short reason comes back unchanged.

    >>> len(fit_reason("é" * 100).encode())
    122
    """
    data = reason.encode("utf-8", "replace")
    return data[:_REASON_BYTES].decode("utf-8", "ignore")


def check_close_code(code: int) -> None:
    """Refuse a code that no endpoint may put into a close frame (RFC 6455, 7.4).

    Raises:
        ValueError: It is not 1000-1003, 1007-1014 or 3000-4999.
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"a close code is a whole number, not {code!r}")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ValueError(
            f"{code} cannot be sent as a close code; use 1000-1003, 1007-1014 or, "
            "for the application's own, 4000-4999"
        )


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


class _Resumed:
    """`resume` for an ``await``."""

    __slots__ = ("step", "waiting_for")

    def __init__(self, step: Any, waiting_for: Any) -> None:
        self.step, self.waiting_for = step, waiting_for

    def __await__(self) -> Generator[Any, Any, Any]:
        return resume(self.step, self.waiting_for)


class _Inbox(Protocol):
    """What a connection knows of its session, which stands a floor above it."""

    waiting: bool

    def hold(self) -> None: ...


_CONNECTING, _OPEN, _CLOSING, _CLOSED = range(4)


class Connection:
    """One client, from the moment its handshake arrives; what resources know as ``ws``.

    It has the verbs of `falcon.asgi.WebSocket` (``accept``, ``close``,
    ``send_media``, ``send_text``, ``send_data``, ``closed``, ``subprotocols``)
    but no ``receive``: the library reads, and handlers get what it read.
    The library makes it; nobody else needs to.

    What is sent before the accept waits and leaves right after it. What is sent
    to a client that went goes nowhere, quietly. A message that cannot be encoded
    fails the sender.
    """

    __slots__ = (
        "__weakref__",
        "_close",
        "_deadline",
        "_drained",
        "_expiry",
        "_in_flight",
        "_queue",
        "_queued_bytes",
        "_send",
        "_sent_at",
        "_stage",
        "_state",
        "_user_id",
        "_warned",
        "_writer",
        "accepted",
        "address",
        "close_code",
        "close_reason",
        "codec",
        "id",
        "inbox",
        "joined",
        "limits",
        "manager",
        "on_end",
        "resource",
        "route",
        "side_tasks",
        "subprotocol",
        "subprotocols",
        "task",
        "worn",
    )

    id: str
    """A random name, unique among all processes; not a secret."""
    address: str | None
    """The client's address, where connections are counted by it; else None."""
    subprotocol: str | None
    """The subprotocol agreed on: the first the client offers of the codecs' and the resource's."""
    subprotocols: tuple[str, ...]
    """The subprotocols that the client offered, in its order of preference."""
    accepted: bool
    """Whether the handshake was accepted, be it closed by now or not."""
    close_code: int | None
    """Why it ended: the code that was sent or received, 1006 without a close frame."""
    close_reason: str
    """The reason beside the close code; often empty."""
    route: str
    """The template of the route it came by; empty for one that was adopted."""
    resource: Any
    """The resource instance that serves this connection."""
    manager: WebSocketConnectionManager
    """The manager that knows this connection."""
    limits: Limits
    """What this client may cost."""
    codec: Codec
    """How its messages are written; by its subprotocol."""
    joined: set[str]
    """The rooms it is in, for the manager, which alone changes it; see `rooms`."""
    worn: set[str]
    """The tags it wears, for the manager, which alone changes it; see `tags`."""

    def __init__(
        self,
        connection_id: str,
        send: AsgiSend,
        manager: WebSocketConnectionManager,
        *,
        limits: Limits | None = None,
        subprotocols: Iterable[str] = (),
        understood: Iterable[str] = (),
        route: str = "",
        is_open: bool = False,
    ) -> None:
        self.id = connection_id
        self.manager = manager
        self.resource = None
        self.route = route
        self.address = None
        self._user_id: str | None = None
        self.subprotocols = tuple(subprotocols)
        known = {*understood, *filter(None, CODECS)} if self.subprotocols else ()
        self.subprotocol = next((name for name in self.subprotocols if name in known), None)
        self.codec = CODECS.get(self.subprotocol, JSON)
        self.close_code = None
        self.close_reason = ""
        self.accepted = is_open
        self._send = send
        self.limits = limits or Limits()
        self._stage = _OPEN if is_open else _CONNECTING
        self._state: falcon.Context | None = None
        self.joined: set[str] = set()
        self.worn: set[str] = set()
        # The outbox.  Most connections never need the parts that are None here.
        self._queue: deque[Packet] | None = None
        self._queued_bytes = 0  # what waits, the frame being written included
        self._in_flight = 0  # the frame being written
        self._writer: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._sent_at = 0.0
        self._drained: asyncio.Event | None = None
        self._close: Packet | None = None  # the close frame, once it waits behind others
        self._warned = False
        self._expiry: asyncio.TimerHandle | None = None
        # The session's: its tasks, whose sends keep the client's pace, and what it wants to know.
        self.task: asyncio.Task[Any] | None = None
        self.side_tasks: set[Any] = set()
        self.on_end: Callable[[], None] | None = None
        self.inbox: _Inbox | None = None

    def __repr__(self) -> str:
        stage = ("connecting", "open", "closing", "closed")[self._stage]
        return f"<Connection {self.id} {stage}>"

    @property
    def state(self) -> falcon.Context:
        """A bag for the application's own: attributes or items, one per connection."""
        if self._state is None:
            self._state = falcon.Context()
        return self._state

    @property
    def user_id(self) -> str | None:
        """Who it is; None for a stranger. Set it to have `send_to_user` reach it."""
        return self._user_id

    @user_id.setter
    def user_id(self, user_id: str | None) -> None:
        if user_id is not None:
            check_user_id(user_id)
        before, self._user_id = self._user_id, user_id
        self.manager.identify(self, before)

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms it is in, on this process."""
        return frozenset(self.joined)

    @property
    def tags(self) -> frozenset[str]:
        """The tags it wears; see `add_tag`."""
        return frozenset(self.worn)

    @property
    def unaccepted(self) -> bool:
        """Whether its handshake is still unanswered."""
        return self._stage == _CONNECTING

    @property
    def ready(self) -> bool:
        """Whether it was accepted and has not begun to close."""
        return self._stage == _OPEN

    @property
    def closed(self) -> bool:
        """Whether it is closed, or about to be: no frame is taken any more."""
        return self._stage >= _CLOSING

    @property
    def busy(self) -> bool:
        """Whether one of its handlers runs, or its ``on_connect``."""
        return bool(self.side_tasks) or (self.inbox is not None and not self.inbox.waiting)

    @property
    def outbox_bytes(self) -> int:
        """How many bytes wait for the client to read."""
        return 0 if self._stage == _CLOSED else self._queued_bytes

    async def add_tag(self, tag: str) -> None:
        """Put a tag on it, so that a broadcast to ``tag(...)`` reaches it."""
        self.manager.tag(self, tag)
        await self.manager.cluster.subscriptions.live(f"tag:{tag}")

    async def remove_tag(self, tag: str) -> None:
        """Take a tag off; one it does not wear is no error."""
        self.manager.untag(self, tag)

    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Answer the handshake with yes; ``on_connect`` returning True does it too.

        Frames that were sent before leave right after it, in order.

        Args:
            subprotocol: One of ``subprotocols``, in place of the one agreed on.
            headers: HTTP headers for the answer, ASCII only.

        Raises:
            ConnectionStateError: The handshake was answered already, or messages wait that
                this subprotocol's codec did not write.
            ValueError: The client did not offer that subprotocol.
            falcon.WebSocketDisconnected: The client went before it was accepted.
        """
        if self._stage != _CONNECTING:
            answer = "accepted" if self._stage == _OPEN else "closed"
            raise ConnectionStateError(f"accept() comes once, first; this connection is {answer}")
        if subprotocol is not None:
            self._agree_on(subprotocol)
        event: AsgiEvent = {"type": "websocket.accept"}
        if self.subprotocol is not None:
            event["subprotocol"] = self.subprotocol
        if headers:
            pairs = headers.items() if isinstance(headers, Mapping) else headers
            event["headers"] = [(k.lower().encode("ascii"), v.encode("ascii")) for k, v in pairs]
        step = self._send(event)
        if not isinstance(step, Coroutine):  # ASGI asks for an awaitable only
            self._send = _as_coroutine(self._send)
        self._writer = asyncio.current_task()  # what others send meanwhile waits
        try:
            await step
        except Exception as error:
            self.lose()
            raise falcon.WebSocketDisconnected(ABNORMAL) from error
        finally:
            self._writer = None
        if self._stage == _CLOSED:
            raise falcon.WebSocketDisconnected(self.close_code or ABNORMAL)
        self.accepted = True
        self.manager.tally.accepted += 1
        if self._close is not None:  # somebody closed it while the server answered
            self._send_close()
            raise falcon.WebSocketDisconnected(self.close_code)
        self._stage = _OPEN
        self._flush()

    def _agree_on(self, subprotocol: str) -> None:
        if subprotocol not in self.subprotocols:
            offered = ", ".join(self.subprotocols) or "none"
            raise ValueError(
                f"the client did not offer the subprotocol {subprotocol!r}; it offered: {offered}"
            )
        codec = CODECS.get(subprotocol, JSON)
        if codec is not self.codec and self._queue:
            raise ConnectionStateError(
                f"what was sent before the accept is {self.codec.name} already, which "
                f"{subprotocol!r} does not speak; accept first, then send"
            )
        before, self.codec, self.subprotocol = self.codec, codec, subprotocol
        self.manager.recode(self, before)

    async def send_media(self, message: Any) -> None:
        """Send a message, encoded as the connection's codec says.

        Raises:
            EncodeError: It cannot be encoded; nothing was sent.
            LeaseLostError: A singleton worker sends it, after its lease ended.
        """
        check_lease()
        if self.push(self.codec.encode(message)):
            self.manager.tally.count_sent(type_of(message))
        if self._writer is not None:
            await self._keep_pace()

    async def send_packet(self, packet: Packet) -> None:
        """Send a frame that is encoded already, at the client's pace."""
        check_lease()
        self.push(packet)
        if self._writer is not None:
            await self._keep_pace()

    async def send_text(self, text: str) -> None:
        """Send a text frame as it is.

        Raises:
            TypeError: It is no str.
            EncodeError: It has no UTF-8 form.
        """
        await self.send_packet(pack_text(text))

    async def send_data(self, data: bytes | bytearray | memoryview) -> None:
        """Send a binary frame as it is.

        Raises:
            TypeError: It is no bytes-like object.
        """
        await self.send_packet(pack_bytes(data))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, after the frames that wait; before the accept, deny the handshake (403).

        Closing twice is harmless: the first code counts.

        Args:
            code: A close code that may be sent; see the table of close codes.
            reason: A few words; what does not fit into 123 bytes is cut off.

        Raises:
            ValueError: The code is not one that may be sent.
            LeaseLostError: A singleton worker closes it, after its lease ended.
        """
        check_close_code(code)
        check_lease()
        self.begin_close(code, reason)

    # What follows is for the manager and the session.

    def where(self) -> dict[str, str]:
        """Return what a log record says beside its text: the connection and its route."""
        return {"connection_id": self.id, "route": self.route}

    def push(self, packet: Packet) -> bool:
        """Send a frame, or let it wait if the client is behind; never waits itself.

        Returns:
            Whether it was sent or waits; False if the client is gone or the
            outbox is full.
        """
        if self._stage != _OPEN or self._writer is not None:
            return self._enqueue(packet)
        step: Any = self._send(packet.event)
        try:
            waiting_for = step.send(None)
        except StopIteration:
            return True
        except Exception:  # noqa: BLE001  # whatever a server raises here, the client is gone
            self.lose()
            return False
        self._start_writer(step, waiting_for, packet.size)
        return True

    def hold(self) -> None:
        """Have its session take no more messages: it goes as soon as it is idle."""
        if self.inbox is not None:
            self.inbox.hold()

    def begin_close(self, code: int, reason: str = "") -> None:
        """`close`, for callers that cannot wait: the close frame follows what waits."""
        if self._stage >= _CLOSING:
            return
        self.close_code, self.close_reason = code, fit_reason(reason)
        event: AsgiEvent = {"type": "websocket.close", "code": code, "reason": self.close_reason}
        if self._stage == _CONNECTING:
            self._queue = None
            self._queued_bytes = 0
        self._stage = _CLOSING
        self._close = Packet(event, 0)
        if self._writer is None:
            self._send_close()

    def expire_in(self, seconds: float) -> None:
        """Close with 4401 after some seconds: whoever let it in did so only for a while."""
        self._expiry = asyncio.get_running_loop().call_later(
            max(seconds, 0), self.begin_close, 4401, "the authentication has expired"
        )

    def _send_close(self) -> None:
        """Give the close frame to the server; what it cannot do at once, the writer does."""
        packet, self._close = self._close, None
        assert packet is not None
        step: Any = self._send(packet.event)
        if not isinstance(step, Coroutine):
            step = _awaiting(step)
        try:
            waiting_for = step.send(None)
        except StopIteration:
            self._end()
        except Exception:  # noqa: BLE001  # it went first
            self.lose()
        else:
            self._start_writer(step, waiting_for, 0)

    def _enqueue(self, packet: Packet) -> bool:
        if self._stage >= _CLOSING:
            return False
        if self._queue is None:
            self._queue = deque()
        budget = self.limits.outbox_bytes
        full = self._queued_bytes and self._queued_bytes + packet.size > budget
        if full and not self._make_room(packet.size):
            self.manager.tally.dropped["overflow"] += 1
            return False
        self._queue.append(packet)
        self._queued_bytes += packet.size
        return True

    def _make_room(self, size: int) -> bool:
        """Apply the policy of a full outbox; say whether the new frame fits now."""
        policy, budget = self.limits.on_overflow, self.limits.outbox_bytes
        if not self._warned:
            self._warned = True
            log.warning(
                "%r reads too slowly: %d bytes wait (outbox_bytes=%d), on_overflow=%s",
                self, self._queued_bytes, budget, policy,
                extra=self.where(),
            )  # fmt: skip
        assert self._queue is not None
        if policy == "drop_newest":
            return False
        if policy == "drop_oldest":
            if self._in_flight + size > budget:
                return False  # it would not fit if all that waits were dropped
            while self._queue and self._queued_bytes + size > budget:
                self._queued_bytes -= self._queue.popleft().size
                self.manager.tally.dropped["overflow"] += 1
            return True
        self.manager.tally.dropped["overflow"] += len(self._queue)
        self._queued_bytes -= sum(packet.size for packet in self._queue)
        self._queue.clear()
        self.begin_close(1013, f"too slow: over {budget} bytes wait (outbox_bytes)")
        return False

    def _flush(self) -> None:
        """Send what waited for the accept."""
        while self._queue and self._writer is None and self._stage == _OPEN:
            packet = self._queue.popleft()
            self._queued_bytes -= packet.size
            self.push(packet)
        if not self._queue:
            self._queue = None

    def _start_writer(self, step: Any, waiting_for: Any, size: int) -> None:
        loop = asyncio.get_running_loop()
        self._queued_bytes += size
        self._in_flight = size
        self._sent_at = loop.time()
        timeout = self.limits.send_timeout
        self._deadline = loop.call_later(timeout, self._check_deadline, loop)
        writer = loop.create_task(self._write(step, waiting_for, size))
        if not writer.done():  # an eager task factory may have run it to its end by now
            self._writer = writer

    async def _write(self, step: Any, waiting_for: Any, size: int) -> None:
        """Finish one frame, then send what waits behind it: the connection's only writer."""
        loop = asyncio.get_running_loop()
        try:
            await _Resumed(step, waiting_for)
            self._queued_bytes -= size
            while (packet := self._next()) is not None:
                self._sent_at = loop.time()
                self._in_flight = packet.size
                await self._send(packet.event)
                self._queued_bytes -= packet.size
        except Exception:  # noqa: BLE001  # whatever a server raises here, the client is gone
            self.lose()
        finally:
            self._writer_ended()
        if self._stage == _CLOSING:
            self._end()

    def _writer_ended(self) -> None:
        self._writer = None
        self._in_flight = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._drained is not None:
            self._drained.set()

    def _next(self) -> Packet | None:
        """Take the frame that leaves next: those that wait, then the close frame."""
        if self._queue:
            return self._queue.popleft()
        packet, self._close = self._close, None
        return packet

    def _check_deadline(self, loop: asyncio.AbstractEventLoop) -> None:
        left = self._sent_at + self.limits.send_timeout - loop.time()
        if left > 0:
            self._deadline = loop.call_later(left, self._check_deadline, loop)
            return
        log.warning(
            "%r took nothing for %s s (send_timeout); cut, with %d bytes waiting",
            self, self.limits.send_timeout, self._queued_bytes,
            extra=self.where(),
        )  # fmt: skip
        self.abort()

    async def _keep_pace(self) -> None:
        """Let a session that sends to its own client wait for it; nobody else ever waits."""
        behind = self._queued_bytes * 2 > self.limits.outbox_bytes
        current = asyncio.current_task()
        if behind and (current is self.task or current in self.side_tasks):
            if self._drained is None or self._drained.is_set():
                self._drained = asyncio.Event()
            await self._drained.wait()

    def _end(self) -> None:
        """Its end is settled: nothing more will be sent, and its session may stop reading."""
        self._stage = _CLOSED
        if self.on_end is not None:
            self.on_end()

    def lose(self) -> None:
        """Note that the client is gone; what waits for it is forgotten."""
        if self._queue:
            self.manager.tally.dropped["gone"] += len(self._queue)
        self._queue = self._close = None
        if self._stage != _CLOSED:
            self._end()

    def abort(self) -> None:
        """Cut the connection: no close frame, and nothing waits for the client any more.

        The transport is reached through the server's own ``send``, best effort:
        uvicorn's three back ends have one. Elsewhere the writer is stopped and
        the session ends, and the server closes in its own time.
        """
        if self.close_code is None:
            self.close_code = ABNORMAL
        self.lose()
        if self._writer is not None:
            self._writer.cancel()
            self._writer_ended()  # a task that is cancelled before its first step never gets there
        transport = self._transport()
        if transport is not None:
            transport.abort()

    def release(self, *, now: bool) -> None:
        """Its session has ended: see to it that no unread byte keeps the socket open.

        A server closes a socket only when all is written, which a client that
        does not read can put off for ever.

        Args:
            now: Whether the server is going down; else the client has
                ``send_timeout`` seconds to take what is left.
        """
        self.lose()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._writer is not None:
            self.abort()
            return
        transport = self._transport()
        if transport is not None and transport.get_write_buffer_size() > 0:
            delay = LINGER if now else self.limits.send_timeout
            asyncio.get_running_loop().call_later(delay, transport.abort)

    def _transport(self) -> asyncio.WriteTransport | None:
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)
        return transport if hasattr(transport, "get_write_buffer_size") else None


def _as_coroutine(send: AsgiSend) -> Callable[[AsgiEvent], Coroutine[Any, Any, None]]:
    """Make a coroutine function of a ``send`` that returns some other awaitable."""
    return lambda event: _awaiting(send(event))


async def _awaiting(awaitable: Awaitable[None]) -> None:
    await awaitable
