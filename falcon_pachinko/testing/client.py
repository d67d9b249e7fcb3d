"""A WebSocket client in memory: the far end of one connection, as a test holds it."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import TracebackType
from typing import Any, Self

import falcon
import falcon.testing

from falcon_pachinko.connection import ABNORMAL, check_close_code
from falcon_pachinko.typing import AsgiEvent, Frame, Scope

__all__ = ["Client", "HandshakeDenied", "NothingReceivedError", "UnexpectedFrameError"]

TIMEOUT = 5.0
"""Seconds that a client waits for a frame, unless told otherwise."""

QUIET = 0.05
"""Seconds of silence that `Client.expect_nothing` takes for nothing."""


class HandshakeDenied(falcon.WebSocketDisconnected):
    """The app did not accept the connection.

    Attributes:
        status: The HTTP status of the answer; 403 for a plain denial.
        headers: The headers of the answer.
        body: The body of the answer.
    """

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(3000 + status)
        self.status, self.headers, self.body = status, headers, body

    def __str__(self) -> str:
        return f"the handshake was denied with {self.status}: {self.body.decode(errors='replace')}"


class NothingReceivedError(AssertionError):
    """A frame was waited for and did not come; says what came before it."""


class UnexpectedFrameError(AssertionError):
    """A frame came that is not the one asked for."""


class Client:
    """One client of an app under test; `Simulator.connect` makes it.

    Use it with ``async with``: that connects, and closes with 1000 and waits for
    the app's part to end, raising what escaped from it.
    """

    def __init__(self, app: Any, scope: Scope, timeout: float = TIMEOUT) -> None:
        self.subprotocol: str | None = None
        """The subprotocol that was agreed on."""
        self.headers: dict[str, str] = {}
        """The headers of the accept."""
        self.close_code: int | None = None
        """Why it ended: the code of whoever closed first; None while it is open."""
        self.close_reason = ""
        """The reason beside it."""
        self.trace: list[tuple[str, Frame]] = []
        """All frames so far, in order: ``("sent" | "received", frame)``."""
        self._app, self._scope, self._timeout = app, scope, timeout
        self._to_app: asyncio.Queue[AsgiEvent] = asyncio.Queue()
        self._from_app: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._answered: asyncio.Future[None] | None = None
        self._denial: tuple[int, dict[str, str], bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self._refs = itertools.count(1)

    @property
    def closed(self) -> bool:
        """Whether either side has closed."""
        return self.close_code is not None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._answered = loop.create_future()
        self._to_app.put_nowait({"type": "websocket.connect"})
        self._task = loop.create_task(self._app(self._scope, self._to_app.get, self._take))
        await asyncio.wait(
            [self._answered, self._task],
            timeout=self._timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self._answered.done() and self._denial is None:
            return self
        if self._denial is not None:
            await self._finish()
            raise HandshakeDenied(*self._denial)
        if self._task.done():
            self._task.result()
            raise NothingReceivedError("the app returned without answering the handshake")
        self._task.cancel()
        raise NothingReceivedError(
            f"the handshake was not answered within {self._timeout} s: "
            "on_connect neither returned nor raised"
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
        if error is None:
            await self._finish()
        elif self._task is not None:  # the test failed already: that is what it should say
            await asyncio.wait([self._task], timeout=self._timeout)

    async def send_json(self, message: Any) -> None:
        """Send a message as JSON."""
        await self.send_text(json.dumps(message))

    async def send_text(self, text: str) -> None:
        """Send a text frame.

        Raises:
            falcon.WebSocketDisconnected: The connection is closed.
        """
        text.encode()  # no client can put a lone surrogate on the wire
        await self._send(text, {"type": "websocket.receive", "text": text})

    async def send_data(self, data: bytes) -> None:
        """Send a binary frame.

        Raises:
            falcon.WebSocketDisconnected: The connection is closed.
        """
        await self._send(bytes(data), {"type": "websocket.receive", "bytes": bytes(data)})

    async def receive(self, timeout: float | None = None) -> Frame:  # noqa: ASYNC109  # part of the API
        """Return the next frame.

        Raises:
            NothingReceivedError: None came in time; says what came before.
            falcon.WebSocketDisconnected: The connection was closed instead.
        """
        seconds = self._timeout if timeout is None else timeout
        try:
            frame = await asyncio.wait_for(self._from_app.get(), seconds)
        except TimeoutError:
            raise NothingReceivedError(f"no frame within {seconds} s; {self._history()}") from None
        if frame is None:
            self._from_app.put_nowait(None)
            raise falcon.WebSocketDisconnected(self.close_code)
        self.trace.append(("received", frame))
        return frame

    async def receive_text(self, timeout: float | None = None) -> str:  # noqa: ASYNC109  # see receive
        """Return the next frame, which must be text."""
        frame = await self.receive(timeout)
        if not isinstance(frame, str):
            raise UnexpectedFrameError(f"a text frame was expected, binary came: {frame!r}")
        return frame

    async def receive_data(self, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # see receive
        """Return the next frame, which must be binary."""
        frame = await self.receive(timeout)
        if not isinstance(frame, bytes):
            raise UnexpectedFrameError(f"a binary frame was expected, text came: {frame!r}")
        return frame

    async def receive_json(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109  # see receive
        """Return the next frame's message."""
        return json.loads(await self.receive_text(timeout))

    async def expect(self, message_type: str, timeout: float | None = None) -> Any:  # noqa: ASYNC109  # see receive
        """Return the next message, which must be of a type; its payload is what matters mostly.

        Raises:
            UnexpectedFrameError: Another message came first.
        """
        message = await self.receive_json(timeout)
        if not isinstance(message, dict) or message.get("type") != message_type:
            raise UnexpectedFrameError(f"{message_type!r} was expected, this came: {message!r}")
        return message

    async def expect_nothing(self, within: float = QUIET) -> None:
        """Make sure that no frame comes, and none waits.

        Args:
            within: How many seconds to listen.

        Raises:
            UnexpectedFrameError: One came.
        """
        try:
            frame = await asyncio.wait_for(self._from_app.get(), within)
        except TimeoutError:
            return
        if frame is None:
            self._from_app.put_nowait(None)
            return
        raise UnexpectedFrameError(f"nothing was expected, this came: {frame!r}")

    async def request(self, message_type: str, payload: Any = None) -> Any:
        """Send a message with a ``ref`` and return its answer; other messages stay to be received.

        Returns:
            The whole answer: a ``reply`` or an ``error``.
        """
        ref = str(next(self._refs))
        message = {"type": message_type, "ref": ref}
        if payload is not None:
            message["payload"] = payload
        await self.send_json(message)
        passed_over: list[Frame] = []
        try:
            while True:
                frame = await self.receive()
                answer = json.loads(frame) if isinstance(frame, str) else None
                if isinstance(answer, dict) and answer.get("ref") == ref:
                    return answer
                passed_over.append(frame)
                self.trace.pop()  # it counts as received when the test receives it
        finally:
            self._put_back(passed_over)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close from the client's side; closing twice is harmless."""
        check_close_code(code)
        self._end(code, reason)

    async def drop(self) -> None:
        """Vanish without a close frame, as a client does whose network is gone."""
        self._end(ABNORMAL, "")

    # The server's side.

    async def _take(self, event: AsgiEvent) -> None:
        """Be the ``send`` that the app gets."""
        kind = event["type"]
        assert self._answered is not None
        if self._answered.done():
            await self._take_from_open(event)
        elif kind == "websocket.accept":
            self.subprotocol = event.get("subprotocol")
            self.headers = _decoded(event.get("headers", ()))
            self._answered.set_result(None)
        elif kind == "websocket.close":
            self._deny(403, {}, b"")
        elif kind == "websocket.http.response.start":
            self._denial = (event["status"], _decoded(event.get("headers", ())), b"")
        elif kind == "websocket.http.response.body" and self._denial is not None:
            status, headers, body = self._denial
            self._denial = (status, headers, body + event.get("body", b""))
            if not event.get("more_body"):
                self._deny(*self._denial)
        else:
            raise RuntimeError(f"a server would refuse {kind} before the accept")

    async def _take_from_open(self, event: AsgiEvent) -> None:
        if self.closed:
            raise OSError("the client has gone")
        if event["type"] == "websocket.send":
            text = event.get("text")
            self._from_app.put_nowait(text if text is not None else event["bytes"])
        elif event["type"] == "websocket.close":
            self._end(event.get("code", 1000), event.get("reason") or "")
        else:
            raise RuntimeError(f"a server would refuse {event['type']} after the accept")

    def _deny(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._denial = (status, headers, body)
        self.close_code = ABNORMAL
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": ABNORMAL})
        assert self._answered is not None
        self._answered.set_result(None)

    # Both sides.

    def _end(self, code: int, reason: str) -> None:
        if self.closed:
            return
        self.close_code, self.close_reason = code, reason
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._from_app.put_nowait(None)

    async def _send(self, frame: Frame, event: AsgiEvent) -> None:
        if self.closed:
            raise falcon.WebSocketDisconnected(self.close_code)
        self.trace.append(("sent", frame))
        self._to_app.put_nowait(event)
        await asyncio.sleep(0)

    async def _finish(self) -> None:
        """Wait for the app's part of this connection to end."""
        assert self._task is not None
        await asyncio.wait([self._task], timeout=self._timeout)
        if not self._task.done():
            self._task.cancel()
            raise NothingReceivedError(
                f"the app did not end this connection within {self._timeout} s of its close"
            )
        self._task.result()

    def _put_back(self, frames: list[Frame]) -> None:
        """Let frames that were passed over be received again, before all others."""
        while not self._from_app.empty():
            frames.append(self._from_app.get_nowait())  # type: ignore[arg-type]  # None marks the end
        for frame in frames:
            self._from_app.put_nowait(frame)

    def _history(self) -> str:
        received = [frame for direction, frame in self.trace if direction == "received"]
        if not received:
            return "none came before either"
        last = ", ".join(repr(frame)[:200] for frame in received[-3:])
        return f"{len(received)} came before, the last: {last}"


def _decoded(headers: Any) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
