"""What a server puts between an app and one client, in memory: checks, a buffer, and an end."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Iterable
from typing import Self

from falcon_pachinko.connection.ends import ABNORMAL
from falcon_pachinko.testing.client import check_close, lowered
from falcon_pachinko.typing import AsgiEvent, Frame

__all__ = ["Wire"]


class Stage(enum.Enum):
    """How far a connection is, from the server's side."""

    CONNECTING = "before the accept"
    DENYING = "within the answer to a handshake that was denied"
    OPEN = "after the accept"
    CLOSED = "after the close"
    LOST = "after the client went"


class Wire:
    """The ASGI server's half of one connection.

    Its ``send`` and ``receive`` are what the app gets. It refuses what uvicorn
    refuses, waits where uvicorn waits, and can be aborted through
    ``send.__self__.transport`` as uvicorn can.

    Args:
        arrive: Gives the client a frame.
        end: Tells the client that the connection is closed, with code and reason.
        write_buffer: Bytes that may wait for a stalled client before ``send`` does.
    """

    def __init__(
        self,
        arrive: Callable[[Frame], None],
        end: Callable[[int, str], None],
        write_buffer: int,
    ) -> None:
        self.events: asyncio.Queue[AsgiEvent] = asyncio.Queue()
        """What waits for the app to receive it."""
        self.answered = asyncio.Event()
        """Set once the handshake is answered, or will not be."""
        self.accepted: tuple[str | None, dict[str, str]] | None = None
        """The subprotocol and the headers of the accept."""
        self.denial: tuple[int, dict[str, str], bytes] | None = None
        """The status, headers and body of a denial."""
        self.stalled = False
        """Whether the client has stopped reading."""
        self._arrive, self._end, self._write_buffer = arrive, end, write_buffer
        self._stage = Stage.CONNECTING
        self._underway: deque[Frame] = deque()
        self._bytes_underway = 0
        self._close_underway: tuple[int, str] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    # The app's side.

    async def receive(self) -> AsgiEvent:
        """Be the ``receive`` that the app gets."""
        return await self.events.get()

    async def send(self, event: AsgiEvent) -> None:
        """Be the ``send`` that the app gets.

        Raises:
            OSError: The client has gone (ASGI 2.4).
            RuntimeError: No server takes this event at this point.
            ValueError: No server can send this: text without UTF-8, a close code
                that may not be sent, a header with a line break in it.
        """
        await self._writable.wait()
        stage, kind = self._stage, event["type"]
        if stage is Stage.LOST:
            raise OSError("the client has gone")
        if stage is Stage.OPEN and kind == "websocket.send":
            self._write(event)
        elif stage is Stage.OPEN and kind == "websocket.close":
            self._close(event)
        elif stage is Stage.CONNECTING and kind == "websocket.accept":
            _check_headers(event.get("headers", ()))
            self._stage = Stage.OPEN
            self.accepted = (event.get("subprotocol"), lowered(event.get("headers", ())))
            self.answered.set()
        elif stage is Stage.CONNECTING and kind == "websocket.close":
            self._deny(403, {}, b"")
        elif stage is Stage.CONNECTING and kind == "websocket.http.response.start":
            _check_headers(event.get("headers", ()))
            self._stage = Stage.DENYING
            self.denial = (event["status"], lowered(event.get("headers", ())), b"")
        elif stage is Stage.DENYING and kind == "websocket.http.response.body":
            assert self.denial is not None
            status, headers, body = self.denial
            self.denial = (status, headers, body + event.get("body", b""))
            if not event.get("more_body"):
                self._deny(*self.denial)
        else:
            raise RuntimeError(f"no server takes {kind!r} {stage.value}")

    @property
    def transport(self) -> Self:
        """The transport, for those who abort it: this too."""
        return self

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for a stalled client."""
        return self._bytes_underway

    def abort(self) -> None:
        """Cut the connection: what is underway is lost, and no close frame comes."""
        self._underway.clear()
        self._close_underway = None
        self._bytes_underway = 0
        self.stalled = False
        self.cut(ABNORMAL, "")
        self._end(ABNORMAL, "")

    # The client's side.

    def lose(self, code: int, reason: str = "") -> None:
        """Note that the client closed, or went."""
        self._underway.clear()
        self._close_underway = None
        self._bytes_underway = 0
        self._disconnect(code, reason)

    def cut(self, code: int, reason: str) -> None:
        """Close from the server's side, without the app having asked for it."""
        if self._disconnect(code, reason):
            self._tell(code, reason)

    def resume(self) -> None:
        """Let the client have what piled up."""
        self.stalled = False
        self._bytes_underway = 0
        while self._underway:
            self._arrive(self._underway.popleft())
        if self._close_underway is not None:
            self._end(*self._close_underway)
        self._writable.set()

    # Between them.

    def _write(self, event: AsgiEvent) -> None:
        text = event.get("text")
        frame: Frame = event["bytes"] if text is None else text
        size = len(frame.encode() if isinstance(frame, str) else frame)
        if not self.stalled:
            self._arrive(frame)
            return
        self._underway.append(frame)
        self._bytes_underway += size
        if self._bytes_underway > self._write_buffer:
            self._writable.clear()

    def _close(self, event: AsgiEvent) -> None:
        code, reason = event.get("code", 1000), event.get("reason") or ""
        check_close(code, reason)
        self._stage = Stage.CLOSED
        self.events.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._tell(code, reason)

    def _deny(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._stage = Stage.CLOSED
        self.denial = (status, headers, body)
        self.events.put_nowait({"type": "websocket.disconnect", "code": ABNORMAL})
        self._end(ABNORMAL, "")
        self.answered.set()

    def _disconnect(self, code: int, reason: str) -> bool:
        """End the app's part, whatever it waits for; say whether it had not ended before."""
        self._writable.set()
        if self._stage in (Stage.CLOSED, Stage.LOST):
            return False
        self._stage = Stage.LOST
        self.events.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        return True

    def _tell(self, code: int, reason: str) -> None:
        """Tell the client of the close, behind all that is underway."""
        if self.stalled:
            self._close_underway = (code, reason)
        else:
            self._end(code, reason)


def _check_headers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse headers that would end the head, or begin another header."""
    for name, value in headers:
        if set(name) & set(b"\r\n\0: ") or set(value) & set(b"\r\n\0"):
            raise ValueError(f"no server sends the header {name!r}: {value!r:.200}")
        if name.lower() == b"sec-websocket-protocol":
            raise ValueError("the subprotocol is agreed on by accept(subprotocol), not by a header")
