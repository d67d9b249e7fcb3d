"""The frames of one client: judged as they arrive, in order, bounded; with one reader.

Who reads: the session, whenever it waits for the next frame; or one task, the
read-ahead, from the moment a handler keeps the session busy until the session
waits again. Never both: the ASGI server's ``receive`` is called here only, and an
assertion holds it. What arrives is judged at once, however long it waits: too
large or too many closes, pings are answered, the rest waits its turn. Where that
is too much, reading stops until there is room: flow control, not an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from math import inf
from typing import Any, Protocol

from falcon_pachinko.clock import monotonic
from falcon_pachinko.connection.ends import ABNORMAL, CLOSE_WAIT, fit_reason
from falcon_pachinko.connection.stepping import Resumed
from falcon_pachinko.limits import Limits
from falcon_pachinko.typing import AsgiEvent, AsgiReceive, Frame

__all__ = ["FRAMES_PER_TURN", "READ_AHEAD_AFTER", "Excess", "Inbox", "Reader"]

log = logging.getLogger("falcon_pachinko")

READ_AHEAD_AFTER = 0.25
"""After this many seconds in a handler, start buffering the client's frames, so that pings and
disconnects are still seen."""

FRAMES_PER_TURN = 32
"""How many frames a session takes without suspending before it lets other tasks run."""


_ROUNDING = 1e-7
"""Seconds by which sums of shares of a second may be off, far less than a message costs."""

TWO_READERS = "receive() is called while it is pending: by the session and the read-ahead"


class Excess(Exception):  # noqa: N818  # a finding about a frame, not a failure of ours
    """A frame that is too large, or one too many.

    Attributes:
        close_code: What the connection closes with, 1008 or 1009.
        code: The error code that the client is told before.
        sentence: The sentence beside it, and the close reason.
    """

    def __init__(self, close_code: int, code: str, sentence: str) -> None:
        self.close_code, self.code, self.sentence = close_code, code, sentence
        super().__init__(sentence)


class Reader(Protocol):
    """What an inbox tells as frames arrive; the session is one, a floor above."""

    def gone(self) -> None:
        """Note that the client is gone while a handler runs."""

    def exceeded(self, excess: Excess, frame: Frame) -> None:
        """Refuse a frame, and close; nothing is read any more."""

    def intercept(self, frame: Frame) -> bool:
        """Answer a ping at once; return whether it was one."""
        ...


class Inbox:
    """The frames of one client, for the one session that iterates over them.

    ``async for frame in inbox`` is over when the client is gone and what it sent
    before is taken, or when we have closed; it lets other tasks run now and then.

    Args:
        receive: The ASGI server's ``receive``.
        limits: What the client may cost.
        reader: What is told of ends, excesses and pings.
    """

    __slots__ = (
        "_ahead",
        "_bytes",
        "_cost",
        "_frames",
        "_held_bytes",
        "_held_frames",
        "_left_in_turn",
        "_loop",
        "_may_be_late",
        "_most_bytes",
        "_over",
        "_paid_until",
        "_reader",
        "_receive",
        "_receiving",
        "_room",
        "_tolerance",
        "_unread_since",
        "_waiter",
        "code",
        "draining",
        "gone",
        "limits",
        "reason",
        "waiting",
    )

    def __init__(self, receive: AsgiReceive, limits: Limits, reader: Reader) -> None:
        self._receive, self.limits = receive, limits
        self._reader: Reader | None = reader
        self.code = ABNORMAL
        """The close code that the server reported; 1006 as long as it has not."""
        self.reason = ""
        """The reason that the peer gave beside it."""
        self.gone = False
        """Whether the server has reported that the client is gone."""
        self.waiting = False
        """Whether the session waits for the next frame."""
        self.draining = False
        """Whether frames are thrown away, since the server is going down."""
        self._over = False  # no frame is given out any more; final
        self._frames: deque[Frame] | None = None  # what waits; None until something does
        self._bytes = 0  # of the frames that wait
        # Of those taken, and waiting for a concurrent handler's turn.
        self._held_frames = self._held_bytes = 0
        self._receiving = False  # whether a receive() is pending: there is one reader, never two
        self._ahead: asyncio.Task[None] | None = None  # the read-ahead; while it is there, it reads
        self._waiter: asyncio.Future[None] | None = None  # the session, while it waits for frames
        self._room: asyncio.Future[None] | None = None  # a reader, while the inbox is full
        self._left_in_turn = FRAMES_PER_TURN
        self._loop = asyncio.get_running_loop()
        # The rate, as a bucket.  Frames cost a share of a second each, and what they have cost so
        # far reaches until _paid_until.  What was left unread for a while is not judged as if it
        # came at once: while it may be late, a frame may have come as early as _unread_since.
        self._paid_until = self._unread_since = 0.0
        self._may_be_late = False
        rate = limits.messages_per_second
        self._cost = 0.0 if rate is None else 1 / rate
        self._tolerance = inf
        if rate is not None and limits.burst is not None:  # the rounding of a clock costs nobody
            self._tolerance = (limits.burst - 1) / rate + _ROUNDING
        self._most_bytes = inf if limits.message_bytes is None else limits.message_bytes

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Frame:
        while True:
            if self._frames:
                return await self._take(self._frames)
            if self._over or self.gone:
                raise StopAsyncIteration
            self.waiting = True
            try:
                if self._ahead is not None:
                    self._waiter = self._loop.create_future()
                    await self._waiter
                    continue
                if self._may_be_late or self._held_frames:
                    event = await self._read()
                else:  # `_read`, for nearly all frames: one coroutine less
                    assert not self._receiving, TWO_READERS
                    self._receiving = True
                    event = await self._receive()
                frame = self._judge(event)
                if frame is not None:
                    self._left_in_turn -= 1
                    if not self._left_in_turn:  # there is frame after frame, without a pause
                        await self._pause()
                    return frame
            except Exception as error:  # noqa: BLE001  # whatever a server raises
                self._judge(self._failed(error))
            finally:
                self.waiting = self._receiving = False

    async def _pause(self) -> None:
        """Let other tasks run, after so many frames."""
        self._left_in_turn = FRAMES_PER_TURN
        await asyncio.sleep(0)

    def _failed(self, error: Exception) -> AsgiEvent:
        """Make an end of what the server raised instead of an event."""
        if not self._over:  # else it complains about its own end
            log.error("the server failed to receive; the connection is lost", exc_info=error)
        return {"type": "websocket.disconnect", "code": ABNORMAL}

    async def _take(self, waiting: deque[Frame]) -> Frame:
        """Take the frame that waits first."""
        frame = waiting.popleft()
        self._bytes -= _size_of(frame)
        if self._room is not None:
            self._make_room()
        self._left_in_turn -= 1
        if not self._left_in_turn:
            await self._pause()
        return frame

    # Reading: by the session, or by the read-ahead.

    async def _read(self) -> AsgiEvent:
        """Wait for the server's next event; first for room, while the inbox is full."""
        while self.is_full and not self._over:
            self.leave_unread()
            self._room = self._loop.create_future()
            await self._room
        assert not self._receiving, TWO_READERS
        self._receiving = True
        try:
            return await (self._read_late() if self._may_be_late else self._receive())
        finally:
            self._receiving = False

    async def _read_late(self) -> AsgiEvent:
        """Read an event that may have come while nobody was reading, and find out if it has."""
        step: Any = self._receive()
        if not hasattr(step, "send"):  # ASGI asks for an awaitable only
            self._may_be_late = False
            event: AsgiEvent = await step
            return event
        try:
            waiting_for = step.send(None)
        except StopIteration as done:
            late: AsgiEvent = done.value
            return late
        self._may_be_late = False
        event = await Resumed(step, waiting_for)
        return event  # noqa: RET504  # it has its type from above

    def _judge(self, event: AsgiEvent) -> Frame | None:
        """Take note of an end, refuse what exceeds a limit; return what is to be handled."""
        if event["type"] != "websocket.receive":
            self._note_end(event)
            return None
        frame: Frame | None = event.get("text")
        if frame is None:
            frame = event.get("bytes") or b""
        now = monotonic()
        start = self._paid_until
        earliest = self._unread_since if self._may_be_late else now
        start = max(start, earliest)
        self._paid_until = start + self._cost
        if start - now > self._tolerance:
            rate = f"{self.limits.messages_per_second:g} messages a second (messages_per_second)"
            self._exceed(Excess(1008, "rate_limited", f"No more than {rate}."), frame)
            return None
        most = self._most_bytes  # and no character has more than four bytes
        if len(frame) * 4 > most and _size_of(frame) > most:
            sentence = f"A message has at most {most} bytes (message_bytes)."
            self._exceed(Excess(1009, "too_large", sentence), frame)
            return None
        return None if self.draining else frame

    def _exceed(self, excess: Excess, frame: Frame) -> None:
        """Drop what waits, stop reading, and have the session refuse and close."""
        refused = self.draining
        self.drain()
        if self._reader is not None and not refused:
            self._reader.exceeded(excess, frame)

    def _note_end(self, event: AsgiEvent) -> None:
        """Note how the peer ended.

        uvicorn reports a lost connection as 1005, like a close frame without a code;
        only the latter comes with a reason, if an empty one.
        """
        code: int = event.get("code") or ABNORMAL
        self.gone = True
        self.code = ABNORMAL if code == 1005 and "reason" not in event else code
        reason = event.get("reason")
        if reason:
            self.reason = fit_reason(reason)
        reader = self._reader
        if reader is not None and not self.waiting:
            reader.gone()

    # The read-ahead.

    def leave_unread(self) -> None:
        """Note that nobody reads from now on, for a while: a handler is busy."""
        if not self._may_be_late:
            self._may_be_late, self._unread_since = True, monotonic()

    def read_ahead(self) -> None:
        """Read from here on, until the session waits for a frame itself."""
        if self._ahead is None and not (self.waiting or self._over or self.gone):
            ahead = self._loop.create_task(self._run_ahead())
            if not ahead.done():  # an eager task factory may have run it to its end by now
                self._ahead = ahead

    async def _run_ahead(self) -> None:
        """Read until a frame arrives that the session waits for, or the client is gone."""
        try:
            while not (self._over or self.gone):
                try:
                    event = await self._read()
                except Exception as error:  # noqa: BLE001  # whatever a server raises
                    event = self._failed(error)
                frame = self._judge(event)
                # One that the session waits for is handled at once; a ping behind a handler is
                # not to wait.
                waits = self._waiter is not None
                reader = self._reader
                if frame is not None and (waits or reader is None or not reader.intercept(frame)):
                    if self._frames is None:
                        self._frames = deque()
                    self._frames.append(frame)
                    self._bytes += _size_of(frame)
                if waits:
                    return
        finally:
            self._ahead = None
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Bounds.

    @property
    def is_full(self) -> bool:
        """Whether reading has to stop: as many frames wait as may, or as many bytes."""
        limits = self.limits
        frames = len(self._frames or ()) + self._held_frames
        if limits.inbox_messages is not None and frames >= limits.inbox_messages:
            return True
        most = limits.inbox_bytes
        if most is None:
            return False
        if limits.message_bytes is not None and limits.message_bytes > most:
            most = limits.message_bytes
        return frames > 0 and self._bytes + self._held_bytes >= most

    def hold(self, frame: Frame) -> None:
        """Count a frame that was taken, and waits for a concurrent handler's turn."""
        self._held_frames += 1
        self._held_bytes += _size_of(frame)

    def release(self, frame: Frame) -> None:
        """Count it no more: its turn has come, or will not."""
        self._held_frames -= 1
        self._held_bytes -= _size_of(frame)
        self._make_room()

    def _make_room(self) -> None:
        room = self._room
        if room is not None and (self._over or not self.is_full):
            self._room = None
            if not room.done():
                room.set_result(None)

    # Ends.

    def drain(self) -> None:
        """Give the session no more frames, only the end: what comes is thrown away."""
        self.draining = True
        self._frames = None
        self._bytes = 0
        self._make_room()

    def end(self) -> None:
        """Give out no more frames, since we close.

        A session that waits is not woken: the server's report of the end does that.
        """
        self.drain()
        self._over = not self.waiting

    async def stop(self) -> None:
        """Read no more, finally: nothing of it runs when this returns."""
        self._over = True
        self._reader = self._frames = None
        if self._room is not None:
            self._make_room()
        ahead = self._ahead
        if ahead is not None:
            ahead.cancel()
            await asyncio.wait((ahead,), timeout=CLOSE_WAIT)


def _size_of(frame: Frame) -> int:
    """Return how many bytes a frame has on the wire."""
    if isinstance(frame, bytes) or frame.isascii():
        return len(frame)
    return len(frame.encode("utf-8", "surrogatepass"))
