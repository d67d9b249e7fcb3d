"""A WebSocket client as a test holds it: the same verbs in memory and over a socket."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import itertools
import json
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import falcon
import msgspec

from falcon_pachinko.connection.ends import ABNORMAL, check_close_code, fit_reason
from falcon_pachinko.messages.codec import CODECS, DECODE_ERRORS, JSON, Codec
from falcon_pachinko.typing import Frame

__all__ = [
    "Client",
    "Disconnected",
    "HandshakeDenied",
    "LifespanError",
    "NothingReceivedError",
    "RequestError",
    "UnexpectedFrameError",
]

T = TypeVar("T")

TIMEOUT = 5.0
"""Seconds that a client waits for a frame, unless told otherwise."""

LIFESPAN_TIMEOUT = 30.0
"""Seconds that an app may take to start, and to stop, unless told otherwise."""

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


class Disconnected(falcon.WebSocketDisconnected):
    """The connection is closed; the text says by whom, and what came before.

    Attributes:
        code: The close code.
        reason: The reason beside it.
    """

    def __init__(self, code: int, reason: str, sentence: str) -> None:
        super().__init__(code)
        self.reason = reason
        self._sentence = sentence

    def __str__(self) -> str:
        return self._sentence


class NothingReceivedError(AssertionError):
    """Something was waited for and did not come; says what came before."""


class UnexpectedFrameError(AssertionError):
    """Something came that is not what was asked for."""


class RequestError(Exception):
    """The answer to `Client.request` was an ``error``.

    Attributes:
        code: Its word for programs, such as ``"invalid_payload"``.
        message: Its sentence for people.
        path: Where in the message the fault is, such as ``"$.payload.text"``, if it says so.
        status: The HTTP status beside the code, if there is one.
        answer: The whole answer.

    Example::

        with pytest.raises(RequestError) as refused:
            await ann.request("say", {"text": 5})
        assert refused.value.code == "invalid_payload"
    """

    def __init__(self, asked: object, answer: dict[str, Any]) -> None:
        payload = answer.get("payload")
        fault = payload if isinstance(payload, dict) else {}
        self.code: str = fault.get("code", "")
        self.message: str = fault.get("message", "")
        self.path: str | None = fault.get("path")
        self.status: int | None = fault.get("status")
        self.answer = answer
        where = f" (at {self.path})" if self.path else ""
        super().__init__(f"{asked!r} was answered with {self.code}: {self.message}{where}")


class LifespanError(RuntimeError):
    """The app did not start, or did not stop, as it should; has its traceback, or the log."""


# Frames with `__tracebackhide__` are left out by pytest: a failure is shown at the test's line.


class Client(abc.ABC):
    """One client of an app under test.

    Use it with ``async with``: that connects, and closes with 1000 at the end.
    Its frames are kept in the order in which they come, until they are received;
    what came before a close can still be received after it.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.subprotocol: str | None = None
        """The subprotocol that was agreed on."""
        self.headers: dict[str, str] = {}
        """The headers of the accept, with lower-case names."""
        self.close_code: int | None = None
        """Why it ended: the code of the side that closed first; None while it is open."""
        self.close_reason = ""
        """The reason beside it."""
        self.stalled = False
        """Whether it has stopped reading; see `stall`."""
        self.trace: list[tuple[str, Frame]] = []
        """All frames so far, in order: ``("sent" | "received", frame)``."""
        self._timeout = timeout
        self._unread: deque[Frame] = deque()
        self._news = asyncio.Event()
        self._entered = self._closed_here = False
        self._failure: BaseException | None = None
        self._refs = itertools.count(1)

    @property
    def closed(self) -> bool:
        """Whether either side has closed, as far as the client knows."""
        return self.close_code is not None

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a client makes one connection; connect() makes another client")
        self._entered = True
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave(failed=error is not None)

    # Sending.

    async def send(self, message: Any) -> None:
        """Send a message, written as the agreed subprotocol says: JSON, or MessagePack.

        Args:
            message: Anything that can be encoded; structs too.

        Raises:
            EncodeError: It cannot be encoded.
            Disconnected: The connection is closed.
        """
        event = self._codec.encode(message).event
        await self._send(event["text"] if "text" in event else event["bytes"])

    async def send_json(self, message: Any) -> None:
        """Send a message as JSON text, whatever the subprotocol; structs too.

        Raises:
            Disconnected: The connection is closed.
        """
        await self.send_text(json.dumps(message, default=msgspec.to_builtins))

    async def send_text(self, text: str) -> None:
        """Send a text frame.

        Raises:
            UnicodeEncodeError: It has a lone surrogate, which no client can put on the wire.
            Disconnected: The connection is closed.
        """
        if not isinstance(text, str):
            raise TypeError(
                f"send_text takes a str, not {type(text).__name__}; "
                "send_data takes bytes, and send any message"
            )
        text.encode()
        await self._send(text)

    async def send_data(self, data: bytes | bytearray | memoryview) -> None:
        """Send a binary frame.

        Raises:
            Disconnected: The connection is closed.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"send_data takes bytes, not {type(data).__name__}; "
                "send_text takes a str, and send any message"
            )
        await self._send(bytes(data))

    # Receiving.

    @overload
    async def receive(self, wanted: None = None, /, *, timeout: float | None = None) -> Frame: ...  # noqa: ASYNC109  # see below

    @overload
    async def receive(self, wanted: type[T], /, *, timeout: float | None = None) -> T: ...  # noqa: ASYNC109  # see below

    async def receive(self, wanted: Any = None, /, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109  # part of the API
        """Return the next frame, as it came or read into a type.

        Args:
            wanted: A type that msgspec can decode, such as a struct: the whole frame is
                read into it, as the agreed subprotocol says. Without one, the frame
                itself is returned, a str or bytes.
            timeout: Seconds to wait for it, in place of the client's own.

        Raises:
            NothingReceivedError: None came in time; says what came before.
            UnexpectedFrameError: It cannot be read into the type; says why.
            Disconnected: The connection was closed instead.

        Example::

            class Said(msgspec.Struct, tag="said"):
                text: str

            assert (await ann.receive(Said)).text == "hi"
        """
        __tracebackhide__ = True
        frame = await self._take("no frame", timeout)
        if wanted is None:
            return frame
        codec = self._codec
        if not isinstance(frame, codec.frame_type):
            raise self._unexpected(f"{_name_of(wanted)}, as a message in {codec.name},", frame)
        try:
            return codec.decoder(wanted)(frame)
        except DECODE_ERRORS as error:
            sentence = f"{self._unexpected(_name_of(wanted), frame)} ({error})"
            raise UnexpectedFrameError(sentence) from None

    async def receive_text(self, timeout: float | None = None) -> str:  # noqa: ASYNC109  # see receive
        """Return the next frame, which must be text."""
        __tracebackhide__ = True
        frame = await self.receive(timeout=timeout)
        if not isinstance(frame, str):
            raise self._unexpected("a text frame", frame)
        return frame

    async def receive_data(self, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # see receive
        """Return the next frame, which must be binary."""
        __tracebackhide__ = True
        frame = await self.receive(timeout=timeout)
        if not isinstance(frame, bytes):
            raise self._unexpected("a binary frame", frame)
        return frame

    async def receive_json(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109  # see receive
        """Return the next frame's message, which must be JSON text, whatever the subprotocol."""
        __tracebackhide__ = True
        text = await self.receive_text(timeout)
        try:
            return json.loads(text)
        except ValueError:
            raise self._unexpected("JSON", text) from None

    async def receive_message(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109  # see receive
        """Return the next frame's message, read as the agreed subprotocol says."""
        __tracebackhide__ = True
        return self._decode(await self.receive(timeout=timeout))

    async def expect(
        self,
        message_type: str,
        payload: Any = msgspec.UNSET,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # see receive
    ) -> Any:
        """Return the next message, which must be of a type, and have a payload if one is given.

        Args:
            message_type: Its ``type``.
            payload: What its ``payload`` must equal; structs are compared as they travel.
            timeout: Seconds to wait for it, in place of the client's own.

        Returns:
            The whole message.

        Raises:
            UnexpectedFrameError: Another message came first.
        """
        __tracebackhide__ = True
        frame = await self.receive(timeout=timeout)
        message = self._decode(frame)
        if not isinstance(message, dict) or message.get("type") != message_type:
            raise self._unexpected(f"a message of type {message_type!r}", frame)
        if payload is not msgspec.UNSET:
            wanted = msgspec.to_builtins(payload)
            if "payload" not in message or message["payload"] != wanted:
                raise self._unexpected(f"{message_type!r} with the payload {wanted!r}", frame)
        return message

    async def expect_nothing(self, within: float = QUIET) -> None:
        """Make sure that no frame comes, and none waits, and that the app does not close.

        Args:
            within: How many seconds to listen.

        Raises:
            UnexpectedFrameError: One came, or the app closed.
            RuntimeError: The client is stalled: it would hear nothing anyway.
        """
        __tracebackhide__ = True
        if self.stalled:
            raise RuntimeError("a stalled client hears nothing anyway; resume() it first")
        try:
            await self._wait_for_news(within)
        except TimeoutError:
            return
        if self._unread:
            raise self._unexpected("nothing", self._unread.popleft())
        if not self._closed_here:
            raise UnexpectedFrameError(f"nothing was expected; {self._ending()}, {self._history()}")

    async def expect_close(
        self,
        code: int | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # see receive
    ) -> int:
        """Wait until the connection is closed, with a certain code if one is given.

        Returns:
            The close code; ``close_reason`` has the words beside it.

        Raises:
            UnexpectedFrameError: A frame came first, or the code is another.
            NothingReceivedError: It stayed open.
        """
        __tracebackhide__ = True
        seconds = self._timeout if timeout is None else timeout
        wanted = "a close" if code is None else f"a close with {code}"
        try:
            await self._wait_for_news(seconds)
        except TimeoutError:
            raise NothingReceivedError(f"no close within {seconds} s; {self._history()}") from None
        if self._unread:
            raise self._unexpected(wanted, self._unread.popleft())
        assert self.close_code is not None
        if code is not None and self.close_code != code:
            raise UnexpectedFrameError(
                f"{wanted} was expected; {self._ending()}, {self._history()}"
            ) from self._failure
        return self.close_code

    async def request(
        self,
        message: Any,
        payload: Any = msgspec.UNSET,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # see receive
    ) -> Any:
        """Send a message with a ``ref`` and return its answer; other messages stay to be received.

        Several requests may wait at the same time.

        Args:
            message: The message's type; or, where its fields stand beside the type,
                the whole message, as a dict or a tagged struct.
            payload: Its payload, if it has one.
            timeout: Seconds to wait for the answer, in place of the client's own.

        Returns:
            The whole answer: a ``reply``, whose ``payload`` is what the handler returned.

        Raises:
            RequestError: The answer was an ``error``; has its ``code`` and ``message``.
            NothingReceivedError: No answer came in time; says what came.
            Disconnected: The connection was closed instead.
        """
        __tracebackhide__ = True
        ref = str(next(self._refs))
        whole = {"type": message} if isinstance(message, str) else msgspec.to_builtins(message)
        if payload is not msgspec.UNSET:
            whole["payload"] = payload
        await self.send({**whole, "ref": ref})

        def answers(frame: Frame) -> bool:
            with contextlib.suppress(UnexpectedFrameError):
                message = self._decode(frame)
                return isinstance(message, dict) and message.get("ref") == ref
            return False

        frame = await self._take(f"no answer to {whole.get('type')!r}", timeout, answers)
        answer = self._decode(frame)
        if answer.get("type") == "error":
            raise RequestError(whole.get("type"), answer)
        return answer

    # Ending, and not reading.

    @abc.abstractmethod
    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close from the client's side; closing twice is harmless.

        Raises:
            ValueError: No client may send that code, or the reason is over 123 bytes.
        """

    @abc.abstractmethod
    async def drop(self) -> None:
        """Vanish without a close frame, as a client does whose network is gone."""

    @abc.abstractmethod
    async def stall(self) -> None:
        """Stop reading, as a client does that is suspended or too slow.

        What the app sends piles up on its way; once a buffer is full, its ``send``
        waits. `resume` delivers it, `drop` ends it.
        """

    @abc.abstractmethod
    async def resume(self) -> None:
        """Read again, beginning with what piled up since `stall`."""

    # What the two kinds of client do differently.

    @abc.abstractmethod
    async def _open(self) -> None:
        """Connect."""

    @abc.abstractmethod
    async def _put(self, frame: Frame) -> None:
        """Put a frame on the wire."""

    @abc.abstractmethod
    async def _leave(self, *, failed: bool) -> None:
        """Close and clean up; if the test has failed already, raise nothing more."""

    # What both kinds report.

    def _arrive(self, frame: Frame) -> None:
        self.trace.append(("received", frame))
        self._unread.append(frame)
        self._news.set()

    def _end(self, code: int, reason: str = "", *, here: bool = False) -> None:
        if not self.closed:
            self.close_code, self.close_reason, self._closed_here = code, reason, here
            self._news.set()

    # The rest is between the verbs above.

    @property
    def _codec(self) -> Codec:
        return CODECS.get(self.subprotocol, JSON)

    def _decode(self, frame: Frame) -> Any:
        __tracebackhide__ = True
        codec = self._codec
        if isinstance(frame, codec.frame_type):
            try:
                return codec.decoder(Any)(frame)
            except DECODE_ERRORS:
                pass
        raise self._unexpected(f"a message in {codec.name}", frame)

    def _check_entered(self) -> None:
        if not self._entered:
            raise RuntimeError("not connected yet; write `async with client.connect(...) as ann`")

    async def _send(self, frame: Frame) -> None:
        __tracebackhide__ = True
        self._check_entered()
        if self.closed:
            raise self._gone()
        self.trace.append(("sent", frame))
        await self._put(frame)

    async def _take(
        self,
        failure: str,
        timeout: float | None,  # noqa: ASYNC109  # see receive
        wanted: Callable[[Frame], bool] | None = None,
    ) -> Frame:
        """Return the first frame, or the first that is wanted; all others stay."""
        __tracebackhide__ = True
        self._check_entered()
        seconds = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(seconds):
                while True:
                    for position, frame in enumerate(self._unread):
                        if wanted is None or wanted(frame):
                            del self._unread[position]
                            return frame
                    if self.closed:
                        raise self._gone() from self._failure
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            sentence = f"{failure} within {seconds} s; {self._history()}"
            raise NothingReceivedError(sentence) from None

    async def _wait_for_news(self, seconds: float) -> None:
        """Wait until a frame waits, or the connection is closed."""
        __tracebackhide__ = True
        self._check_entered()
        async with asyncio.timeout(seconds):
            while not self._unread and not self.closed:
                self._news.clear()
                await self._news.wait()

    def _gone(self) -> Disconnected:
        assert self.close_code is not None
        sentence = f"{self._ending()}; {self._history()}"
        return Disconnected(self.close_code, self.close_reason, sentence)

    def _unexpected(self, wanted: str, frame: Frame) -> UnexpectedFrameError:
        return UnexpectedFrameError(f"{wanted} was expected, this came: {_shown(frame)}")

    def _ending(self) -> str:
        who = "the client" if self._closed_here else "the app"
        how = f"closed with {self.close_code}"
        if self.close_code == ABNORMAL:
            how = f"went without a close frame ({ABNORMAL})"
        return f"{who} {how}" + (f", {self.close_reason!r}" if self.close_reason else "")

    def _history(self) -> str:
        received = [frame for direction, frame in self.trace if direction == "received"]
        hint = "; the client is stalled, resume() lets it read" if self.stalled else ""
        if not received:
            return f"nothing came before{hint}"
        last = ", ".join(_shown(frame, 100) for frame in received[-3:])
        return f"{len(received)} came before, the last: {last}{hint}"


def check_close(code: int, reason: str) -> None:
    """Refuse a close that no endpoint may send.

    Raises:
        ValueError: The code is not one that may be sent, or the reason is over 123 bytes.
    """
    check_close_code(code)
    if fit_reason(reason) != reason:
        raise ValueError(f"a close frame has room for a reason of 123 bytes, not for {reason!r}")


def lowered(headers: Any) -> dict[str, str]:
    """Make a dict of ASGI's headers."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _name_of(wanted: Any) -> str:
    return getattr(wanted, "__name__", None) or repr(wanted)


def _shown(frame: Frame, most: int = 500) -> str:
    """Show as much of a frame as a failure has room for."""
    text = repr(frame)
    return text if len(text) <= most else f"{text[:most]}… ({len(frame)} in all)"
