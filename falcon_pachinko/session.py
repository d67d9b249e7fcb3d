"""One connection's life in the server, from the handshake to the last clean-up."""

from __future__ import annotations

import asyncio
import logging
import types
from collections import deque
from collections.abc import Coroutine, Generator, Sized
from http import HTTPStatus
from typing import Any

import falcon
import falcon.asgi
import msgspec

from falcon_pachinko.connection import ABNORMAL, LINGER, Connection, resume
from falcon_pachinko.envelopes import Ref, Refusal
from falcon_pachinko.errors import EncodeError, MessageError, SetupError
from falcon_pachinko.handlers import Handler
from falcon_pachinko.handshake import Admission, Gate
from falcon_pachinko.resource import WebSocketResource
from falcon_pachinko.typing import AsgiEvent, Frame

__all__ = ["Session"]

log = logging.getLogger("falcon_pachinko")

BUSY = 0.25
"""Seconds after which a handler counts as busy, and its client is read ahead of it."""

PATIENCE = 32
"""How many frames a session handles before it lets other tasks run."""

_GOING_AWAY = (1001, 1012)  # what servers report when it is they who go


class _Reply(msgspec.Struct, tag_field="type", tag="reply"):
    """The answer to a message: what its handler returned."""

    ref: Ref | msgspec.UnsetType
    payload: Any


class _Fault(msgspec.Struct, omit_defaults=True):
    code: str
    message: str
    path: str | None = None
    status: int | None = None


class _Error(msgspec.Struct, tag_field="type", tag="error"):
    """The answer to a message that was refused, or that its handler failed on."""

    ref: Ref | msgspec.UnsetType
    payload: _Fault


class Session:
    """One connection's life in the server.

    It reads one frame after the other, and each is handled before the next. A
    handler that is busy for long does not stop the reading: from then on frames
    wait in the inbox, so that pings are answered and a client that goes is noticed.
    """

    __slots__ = (
        "_admission",
        "_bucket",
        "_code",
        "_end_timer",
        "_expiry",
        "_gate",
        "_inbox",
        "_interrupted",
        "_reader",
        "_receiving",
        "_refilled",
        "_task",
        "_waiter",
        "connection",
        "resource",
    )

    def __init__(
        self,
        connection: Connection,
        resource: WebSocketResource,
        gate: Gate,
        admission: Admission,
    ) -> None:
        self._admission = admission
        self._expiry: asyncio.TimerHandle | None = None
        self.connection = connection
        self.resource = resource
        self._gate = gate
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        # How many messages the client may send now, and when that was true.
        self._bucket = float(connection.limits.burst)
        self._refilled = asyncio.get_running_loop().time()
        # Reading ahead of a busy handler, and ending one.  Most sessions never need it.
        self._inbox: deque[AsgiEvent] = _NO_EVENTS
        self._reader: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[AsgiEvent] | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._receiving = self._interrupted = False
        self._code = ABNORMAL  # what the server reports of the end, once it does

    async def serve(self, req: falcon.asgi.Request, params: dict[str, Any]) -> None:
        """Live the connection's whole life; when this returns or raises, all of it is over."""
        connection = self.connection
        connection.task, connection.on_end = self._task, self._settle
        connection.manager.add(connection)
        cancelled = False
        try:
            await self._shake_hands(req, params)
            patience = PATIENCE
            while connection.accepted:
                frame = await self._next_frame()
                if connection.close_code is None:
                    await self._handle(frame)
                patience -= 1
                if not patience:
                    patience = PATIENCE
                    await asyncio.sleep(0)
        except falcon.WebSocketDisconnected:
            pass
        except asyncio.CancelledError:
            cancelled = True
            if not self._interrupted or self._task.uncancel():
                raise
        finally:
            connection.on_end = None
            if connection.close_code is None:
                connection.close_code = self._code
            connection.manager.forget(connection)
            connection.release(now=cancelled or self._code in _GOING_AWAY)
            self._stop_reading()
            if connection.accepted:
                await self._say_goodbye()
            else:
                connection.manager.tally.denied += 1

    # The handshake.

    async def _shake_hands(self, req: falcon.asgi.Request, params: dict[str, Any]) -> None:
        """Ask the resource whether to accept, and answer; ``connection.accepted`` tells."""
        connection, resource = self.connection, self.resource
        resource.ws = connection
        try:
            await self._attend(self._let_in(req))
            decision = await self._attend(resource.on_connect(req, connection, **params))
            if connection.unaccepted:
                await self._answer(decision)
        except falcon.WebSocketDisconnected:
            raise  # it went before it was accepted
        except falcon.HTTPError as error:
            if connection.unaccepted:
                await self._gate.deny(error)
            else:
                connection.begin_close(3000 + error.status_code, error.title or "")
        except Exception:
            if connection.unaccepted:
                raise  # to Falcon's own error handlers, which close; the gate makes that a status
            log.exception("%s.on_connect failed", type(resource).__name__, extra=self._where())
            connection.begin_close(1011, "internal error")
        finally:
            if not connection.unaccepted:
                self._gate.answered()

    async def _let_in(self, req: falcon.asgi.Request) -> None:
        """Check what the app's settings say about a client, before the resource is asked.

        Raises:
            falcon.HTTPError: It may not come in, or there are too many of its kind.
        """
        connection, manager, limits = (
            self.connection,
            self.connection.manager,
            self.connection.limits,
        )
        if len(manager) > limits.connections:
            sentence = f"{limits.connections} are connected already (connections)."
            raise falcon.HTTPServiceUnavailable(description=sentence)
        if connection.address is not None:
            many = manager.at_address(connection.address)
            _check_count(many, limits.connections_per_address, "connections_per_address")
        principal = await self._admission.ask(req)
        if principal is None:
            return
        connection.user_id = principal.user_id
        many = manager.of_user(principal.user_id)
        _check_count(many, limits.connections_per_user, "connections_per_user")
        for tag in principal.tags:
            manager.tag(connection, tag)
        seconds = principal.seconds_left()
        if seconds is not None:
            self._expiry = asyncio.get_running_loop().call_later(
                max(seconds, 0), connection.begin_close, 4401, "the authentication has expired"
            )

    async def _answer(self, decision: object) -> None:
        if decision is True:
            await self.connection.accept()
        elif decision is False:
            raise falcon.HTTPForbidden
        else:
            raise SetupError(
                f"{type(self.resource).__name__}.on_connect returned {decision!r}; "
                "return True to accept the connection, or False to deny it"
            )

    # Reading.

    async def _next_frame(self) -> Frame:
        """Return the next frame of the client.

        Raises:
            falcon.WebSocketDisconnected: It is gone; carries the close code.
        """
        self._receiving = True
        if self._end_timer is not None:
            self._end_in(LINGER)  # the handler that had its grace is done
        if self._inbox:
            event = self._inbox.popleft()
        elif self._reader is not None:
            self._waiter = asyncio.get_running_loop().create_future()
            event = await self._waiter
        else:
            event = await self._gate.receive()
        self._receiving = False
        if event["type"] == "websocket.receive":
            text: str | None = event.get("text")
            data: bytes = event["bytes"] if text is None else b""
            return data if text is None else text
        self._code = _close_code(event)
        raise falcon.WebSocketDisconnected(self._code)

    def _read_ahead(self) -> None:
        """Start to read while a handler is busy."""
        if self._reader is None:
            if self._inbox is _NO_EVENTS:
                self._inbox = deque()
            reader = asyncio.get_running_loop().create_task(self._fill_inbox())
            if not reader.done():  # an eager task factory may have run it to its end by now
                self._reader = reader

    async def _fill_inbox(self) -> None:
        """Read until the session has time to do so itself, or the client is gone."""
        limits = self.connection.limits
        while True:
            try:
                event = await self._gate.receive()
            except Exception:  # noqa: BLE001  # a server that cannot receive has no client any more
                event = {"type": "websocket.disconnect", "code": ABNORMAL}
            waiter, self._waiter = self._waiter, None
            if waiter is not None and not waiter.done():
                self._reader = None
                waiter.set_result(event)
                return
            self._inbox.append(event)
            if event["type"] != "websocket.receive":
                self._reader = None
                self._code = _close_code(event)
                self.connection.lose()
                self._end_in(limits.handler_grace)
                return
            if len(self._inbox) > limits.inbox_messages:
                self._inbox.clear()
                full = f"over {limits.inbox_messages} messages wait (inbox_messages)"
                self.connection.begin_close(1008, full)

    def _stop_reading(self) -> None:
        for each in (self._reader, self._end_timer, self._expiry):
            if each is not None:
                each.cancel()

    # Ending.

    def _settle(self) -> None:
        """Nothing more can be sent: let the server report the end, or a handler finish, first."""
        self._end_in(LINGER if self._receiving else self.connection.limits.handler_grace)

    def _end_in(self, seconds: float) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._end_timer = asyncio.get_running_loop().call_later(seconds, self._interrupt)

    def _interrupt(self) -> None:
        """End what the session waits for: the server, or a handler that had its grace."""
        self._interrupted = True
        self._task.cancel()
        self._end_in(self.connection.limits.handler_grace)  # one that swallowed it hears it again

    async def _say_goodbye(self) -> None:
        """Run ``on_disconnect``, in a task of its own, so that no cancellation cuts it short."""
        silent = type(self.resource).on_disconnect is WebSocketResource.on_disconnect
        if silent and not self.connection.side_tasks:
            return
        goodbye = asyncio.get_running_loop().create_task(self._disconnect())
        self.connection.manager.expect_end_of(goodbye)
        await asyncio.shield(goodbye)

    async def _disconnect(self) -> None:
        connection, resource = self.connection, self.resource
        if connection.side_tasks:
            _, late = await asyncio.wait(
                connection.side_tasks, timeout=connection.limits.handler_grace
            )
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=LINGER)
        try:
            async with asyncio.timeout(connection.limits.shutdown_timeout):
                await resource.on_disconnect(connection, connection.close_code or ABNORMAL)
        except Exception:
            name = type(resource).__name__
            log.exception("%s.on_disconnect failed", name, extra=self._where())

    # Handling.

    async def _handle(self, frame: Frame) -> None:
        """Have one frame handled, by its handler or, where there is none, by ``on_message``."""
        connection, resource = self.connection, self.resource
        connection.manager.tally.received += 1
        if not self._admit(frame):
            return
        try:
            handler, payload, ref = resource.__pachinko_table__.open(frame, connection.codec)
        except Refusal as refusal:
            if refusal.code != "invalid_payload" and resource.__pachinko_falls_back__:
                await self._run(resource.on_message(connection, frame), "on_message", None)
            else:
                await self._refuse(refusal, refusal.ref)
            return
        if handler.takes_payload:
            handling = handler.function(resource, connection, payload)
        else:
            handling = handler.function(resource, connection)
        if handler.concurrent:
            await self._run_beside(handling, handler, ref)
        else:
            await self._run(handling, handler.type, ref)

    async def _run(self, handling: Coroutine[Any, Any, Any], what: str, ref: Ref) -> None:
        """Run a handler to its end, and answer the client where an answer is due."""
        try:
            answer = await self._attend(handling)
            if ref is not None:
                await self.connection.send_media(_Reply(ref, answer))
            elif answer is not None:
                await self.connection.send_media(_Reply(msgspec.UNSET, answer))
        except MessageError as refusal:
            await self._refuse(refusal, ref)
        except falcon.HTTPError as error:
            await self._refuse(_from_http(error), ref)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                handling.close()
                raise
            await self._fail(error, what, ref)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises, the connection lives
            await self._fail(error, what, ref)

    async def _run_beside(
        self, handling: Coroutine[Any, Any, Any], handler: Handler, ref: Ref
    ) -> None:
        """Run a concurrent handler in a task of its own, as soon as one more may run."""
        connection = self.connection
        if len(connection.side_tasks) >= connection.limits.concurrency:
            waiting = asyncio.wait(connection.side_tasks, return_when=asyncio.FIRST_COMPLETED)
            await self._attend(waiting)
        task = asyncio.get_running_loop().create_task(self._run(handling, handler.type, ref))
        connection.side_tasks.add(task)
        task.add_done_callback(connection.side_tasks.discard)

    def _admit(self, frame: Frame) -> bool:
        """Check a frame against the rate and the size allowed; close where it is over."""
        limits = self.connection.limits
        self._bucket -= 1
        if self._bucket < 0:
            now = asyncio.get_running_loop().time()
            earned = (now - self._refilled) * limits.messages_per_second
            self._bucket = min(self._bucket + earned, limits.burst - 1)
            self._refilled = now
            if self._bucket < 0:
                rate = f"{limits.messages_per_second:g} messages a second (messages_per_second)"
                self._cut_off(1008, "rate_limited", f"No more than {rate}.")
                return False
        size = len(frame)
        if size * 4 > limits.message_bytes:
            if isinstance(frame, str) and not frame.isascii():
                size = len(frame.encode("utf-8", "surrogatepass"))
            if size > limits.message_bytes:
                most = f"{limits.message_bytes} bytes (message_bytes)"
                self._cut_off(1009, "too_large", f"A message has at most {most}.")
                return False
        return True

    def _cut_off(self, code: int, error: str, sentence: str) -> None:
        connection = self.connection
        connection.push(connection.codec.encode(_Error(msgspec.UNSET, _Fault(error, sentence))))
        connection.begin_close(code, sentence)

    async def _refuse(self, error: MessageError, ref: Ref) -> None:
        """Tell the client that its message was refused."""
        fault = _Fault(error.code, error.message, error.path, error.status)
        mark = msgspec.UNSET if ref is None else ref
        try:
            await self.connection.send_media(_Error(mark, fault))
        except EncodeError as unsendable:
            await self._fail(unsendable, error.code, ref)

    async def _fail(self, error: BaseException, what: str, ref: Ref) -> None:
        """Log what a handler raised, once, and tell the client no more than that it happened."""
        self.connection.manager.tally.errors += 1
        log.error(
            "%s failed on %.200r", type(self.resource).__name__, what,
            exc_info=error, extra=self._where(),
        )  # fmt: skip
        await self._refuse(MessageError("internal_error", "The server failed on this."), ref)
        if self.resource.close_on_error:
            self.connection.begin_close(1011, "internal error")

    def _where(self) -> dict[str, Any]:
        return {"connection_id": self.connection.id}

    @types.coroutine
    def _attend(self, handling: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Await a coroutine, in this very task; should it be busy for long, read ahead.

        Nearly all finish in their first step, which costs no timer and no task.
        """
        try:
            waiting_for = handling.send(None)
        except StopIteration as done:
            return done.value
        timer = asyncio.get_running_loop().call_later(BUSY, self._read_ahead)
        try:
            return (yield from resume(handling, waiting_for))
        finally:
            timer.cancel()


_NO_EVENTS: deque[AsgiEvent] = deque(maxlen=0)  # shared by all that never read ahead


def _check_count(many: Sized, most: int | None, setting: str) -> None:
    if most is not None and len(many) > most:
        sentence = f"{most} such connections are open already ({setting})."
        raise falcon.HTTPTooManyRequests(description=sentence)


def _close_code(event: AsgiEvent) -> int:
    """Tell the code of a disconnect: the peer's, or 1006 where there was no close frame.

    uvicorn reports a lost connection as 1005, like a close frame without a code;
    only the latter comes with a reason, if an empty one.
    """
    code: int = event.get("code") or ABNORMAL
    return ABNORMAL if code == 1005 and "reason" not in event else code


def _from_http(error: falcon.HTTPError) -> MessageError:
    """Turn an HTTP error into a message's error, with the status beside its name."""
    try:
        code = HTTPStatus(error.status_code).name.lower()
    except ValueError:
        code = f"http_{error.status_code}"
    sentence = error.description or error.title or ""
    return MessageError(code, sentence, status=error.status_code)
