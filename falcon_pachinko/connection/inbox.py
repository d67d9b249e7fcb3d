"""What a client sends: in order, at the pace and of the size allowed, read ahead where needed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import falcon

from falcon_pachinko.connection.connection import ABNORMAL, Connection
from falcon_pachinko.typing import AsgiEvent, AsgiReceive, Frame

__all__ = ["Inbox"]


class Inbox:
    """The frames of one client, for the one session that takes them.

    Mostly the session reads for itself, and there is nothing here. While a
    handler is busy, a task of the inbox reads ahead instead, so that the server
    sees the client's pongs and the session hears when it goes. That task's last
    act is to hand the first frame after the busy time to the session.

    Args:
        receive: The ASGI server's ``receive``.
        connection: Whose frames they are; its limits hold.
        on_gone: Called once the client is seen to be gone while a handler is busy.
    """

    __slots__ = (
        "_connection",
        "_events",
        "_now",
        "_on_gone",
        "_paid_until",
        "_reader",
        "_receive",
        "_waiter",
        "code",
        "gone",
        "waiting",
    )

    def __init__(
        self, receive: AsgiReceive, connection: Connection, on_gone: Callable[[], None]
    ) -> None:
        self.code = ABNORMAL
        """The close code that the server reported; 1006 as long as it has not."""
        self.gone = False
        """Whether the server has reported that the client is gone."""
        self.waiting = False
        """Whether the session waits for the next frame."""
        self._receive, self._connection, self._on_gone = receive, connection, on_gone
        self._events: deque[AsgiEvent] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[AsgiEvent] | None = None
        # Each message costs a share of a second; how far into the future they have cost so far.
        self._paid_until = 0.0
        self._now = asyncio.get_running_loop().time

    async def take(self) -> Frame:
        """Return the next frame.

        Raises:
            falcon.WebSocketDisconnected: The client is gone; `code` tells how.
        """
        self.waiting = True
        if self._events:
            event = self._events.popleft()
        elif self._reader is not None:
            self._waiter = asyncio.get_running_loop().create_future()
            event = await self._waiter
        else:
            event = await self._receive()
        self.waiting = False
        if event["type"] == "websocket.receive":
            text: str | None = event.get("text")
            data: bytes = event["bytes"] if text is None else b""
            return data if text is None else text
        self._note_end(event)
        raise falcon.WebSocketDisconnected(self.code)

    def read_ahead(self) -> None:
        """Read from here on, until the session takes the next frame itself."""
        if self._reader is None:
            reader = asyncio.get_running_loop().create_task(self._fill())
            if not reader.done():  # an eager task factory may have run it to its end by now
                self._reader = reader

    async def _fill(self) -> None:
        most = self._connection.limits.inbox_messages
        if self._events is None:
            self._events = deque()
        while True:
            try:
                event = await self._receive()
            except Exception:  # noqa: BLE001  # a server that cannot receive has no client any more
                event = {"type": "websocket.disconnect", "code": ABNORMAL}
            waiter, self._waiter = self._waiter, None
            if waiter is not None and not waiter.done():
                self._reader = None
                waiter.set_result(event)
                return
            self._events.append(event)
            if event["type"] != "websocket.receive":
                self._reader = None
                self._note_end(event)
                self._on_gone()
                return
            if len(self._events) > most:
                self._events.clear()
                self._connection.begin_close(1008, f"over {most} messages wait (inbox_messages)")

    def hold(self) -> None:
        """Give the session no more messages, only the end; those that come are thrown away."""
        receive = self._receive

        async def receive_the_end() -> AsgiEvent:
            while (event := await receive())["type"] == "websocket.receive":
                pass
            return event

        self._receive = receive_the_end
        if self._events:
            left = (event for event in self._events if event["type"] != "websocket.receive")
            self._events = deque(left)

    def _note_end(self, event: AsgiEvent) -> None:
        self.gone, self.code = True, _close_code(event)

    def stop(self) -> None:
        """Read no more."""
        if self._reader is not None:
            self._reader.cancel()

    def excess(self, frame: Frame) -> tuple[int, str, str] | None:
        """Tell whether a frame is one too many, or too large.

        Returns:
            None, or the close code, the error code and the sentence for the client.
        """
        limits = self._connection.limits
        now, cost = self._now(), 1 / limits.messages_per_second
        start = max(self._paid_until, now)
        self._paid_until = start + cost
        if start - now > (limits.burst - 1) * cost:
            rate = f"{limits.messages_per_second:g} messages a second (messages_per_second)"
            return 1008, "rate_limited", f"No more than {rate}."
        size = len(frame)
        if size * 4 > limits.message_bytes:  # no character has more than four bytes
            if isinstance(frame, str) and not frame.isascii():
                size = len(frame.encode("utf-8", "surrogatepass"))
            if size > limits.message_bytes:
                most = f"{limits.message_bytes} bytes (message_bytes)"
                return 1009, "too_large", f"A message has at most {most}."
        return None


def _close_code(event: AsgiEvent) -> int:
    """Tell the code of a disconnect: the peer's, or 1006 where there was no close frame.

    uvicorn reports a lost connection as 1005, like a close frame without a code;
    only the latter comes with a reason, if an empty one.
    """
    code: int = event.get("code") or ABNORMAL
    return ABNORMAL if code == 1005 and "reason" not in event else code
