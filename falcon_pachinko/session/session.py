"""One connection's life in the server, from the handshake to the last clean-up."""

from __future__ import annotations

import asyncio
import logging
import time
import types
from collections.abc import Awaitable, Coroutine, Generator
from http import HTTPStatus
from typing import Any, NoReturn

import falcon
import msgspec

from falcon_pachinko.connection.connection import ABNORMAL, LINGER, Connection, resume
from falcon_pachinko.connection.inbox import Inbox
from falcon_pachinko.errors import EncodeError, MessageError
from falcon_pachinko.messages.envelopes import Ref, Refusal, ref_of
from falcon_pachinko.messages.handlers import PING, Handler
from falcon_pachinko.messages.hooks import HookChain, ReceivedMessage
from falcon_pachinko.resource import WebSocketResource
from falcon_pachinko.session.handshake import Handshake
from falcon_pachinko.typing import AsgiReceive, Frame

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


class _Pong(msgspec.Struct, tag_field="type", tag="pong"):
    """The answer to a ping."""

    ref: Ref | msgspec.UnsetType


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

    It takes one frame after the other, and each is handled before the next. A
    handler that is busy for long does not stop the reading; see `Inbox`.
    """

    __slots__ = (
        "_end_timer",
        "_hooks",
        "_inbox",
        "_interruptions",
        "_task",
        "connection",
        "resource",
    )

    def __init__(
        self,
        connection: Connection,
        resource: WebSocketResource,
        receive: AsgiReceive,
        hooks: HookChain,
    ) -> None:
        self.connection, self.resource = connection, resource
        self._hooks = hooks
        self._inbox = Inbox(receive, connection, self._client_gone)
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        self._end_timer: asyncio.TimerHandle | None = None
        self._interruptions = 0

    async def serve(self, handshake: Handshake) -> None:
        """Live the connection's whole life; when this returns or raises, all of it is over."""
        connection, inbox = self.connection, self._inbox
        connection.task, connection.on_end = self._task, self._settle
        connection.inbox = inbox
        connection.manager.add(connection)
        cancelled = False
        try:
            await handshake.settle(connection, self._line()[::-1], self._attend)
            patience = PATIENCE
            while connection.accepted:
                frame = await inbox.take()
                if connection.close_code is None:
                    await self._handle(frame)
                if self._end_timer is not None:
                    self._end_in(LINGER)  # a handler that had its grace is done
                patience -= 1
                if not patience:
                    patience = PATIENCE
                    await asyncio.sleep(0)
        except falcon.WebSocketDisconnected:
            pass
        except asyncio.CancelledError:
            cancelled = True
            if self._cancelled_by_others():
                raise
        except Exception:
            if not connection.accepted:
                raise  # to Falcon's own error handlers; the gate answers the handshake
            log.exception("the session of %r failed", connection, extra=connection.where())
        finally:
            await self._leave(cancelled)

    def _line(self) -> list[WebSocketResource]:
        """Return the resource and its parents, innermost first."""
        line: list[WebSocketResource] = []
        resource: WebSocketResource | None = self.resource
        while resource is not None:
            line.append(resource)
            resource = resource.parent
        return line

    # Ending.

    async def _leave(self, cancelled: bool) -> None:  # noqa: FBT001  # what the loop has found out
        """Forget the connection everywhere, then let the resource say goodbye."""
        connection, inbox = self.connection, self._inbox
        connection.on_end = connection.inbox = None
        if connection.ready and not inbox.gone:  # it is we who end it, out of turn
            connection.begin_close(1012 if cancelled else 1011, "")
        if connection.close_code is None:
            connection.close_code = inbox.code
        if connection.accepted:
            connection.manager.tally.closed[connection.close_code] += 1
        else:
            connection.manager.tally.denied += 1
        connection.manager.forget(connection)
        connection.release(now=cancelled or inbox.code in _GOING_AWAY)
        inbox.stop()
        if self._end_timer is not None:
            self._end_timer.cancel()
        if connection.accepted:
            await self._say_goodbye()

    def _settle(self) -> None:
        """Nothing more can be sent: let the server report the end, or a handler finish, first."""
        self._end_in(LINGER if self._inbox.waiting else self.connection.limits.handler_grace)

    def _client_gone(self) -> None:
        """The client went while a handler is busy: it may finish, for a while."""
        self.connection.lose()
        self._end_in(self.connection.limits.handler_grace)

    def _end_in(self, seconds: float) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._end_timer = asyncio.get_running_loop().call_later(seconds, self._interrupt)

    def _interrupt(self) -> None:
        """End what the session waits for: the server, or a handler that had its grace."""
        self._interruptions += 1
        self._task.cancel()
        self._end_in(self.connection.limits.handler_grace)  # one that swallowed it hears it again

    def _cancelled_by_others(self) -> bool:
        """Take our own interruptions back, and tell whether a cancellation is left."""
        while self._interruptions:
            self._interruptions -= 1
            self._task.uncancel()
        return self._task.cancelling() > 0

    async def _say_goodbye(self) -> None:
        """Run ``on_disconnect``, in a task of its own, so that no cancellation cuts it short."""
        silent = all(type(each).on_disconnect is _ON_DISCONNECT for each in self._line())
        if silent and not (self._hooks.before_disconnect or self.connection.side_tasks):
            return
        goodbye = asyncio.get_running_loop().create_task(self._disconnect())
        self.connection.manager.expect_end_of(goodbye)
        await asyncio.shield(goodbye)

    async def _disconnect(self) -> None:
        connection = self.connection
        if connection.side_tasks:
            _, late = await asyncio.wait(
                connection.side_tasks, timeout=connection.limits.handler_grace
            )
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=LINGER)
        code = connection.close_code or ABNORMAL
        for hook in self._hooks.before_disconnect:
            await self._clean_up(hook(connection, code), "before_disconnect")
        for resource in self._line():
            await self._clean_up(resource.on_disconnect(connection, code), "on_disconnect")

    async def _clean_up(self, cleaning: Awaitable[Any], what: str) -> None:
        """Run one step of the end; the others follow, whatever it raises."""
        connection = self.connection
        seconds, name = connection.limits.shutdown_timeout, type(self.resource).__name__
        try:
            async with asyncio.timeout(seconds) as limit:
                await cleaning
        except (Exception, asyncio.CancelledError):
            if _being_cancelled():
                raise
            late = f": it took over {seconds:g} s (shutdown_timeout)" if limit.expired() else ""
            log.exception("%s failed for %s%s", what, name, late, extra=connection.where())

    # Handling.

    async def _handle(self, frame: Frame) -> None:
        """Have one frame handled, by its handler or, where there is none, by ``on_message``."""
        connection, resource = self.connection, self.resource
        excess = self._inbox.excess(frame)
        if excess is not None:
            self._cut_off(*excess)
            return
        try:
            handler, payload, ref = resource.__pachinko_table__.open(frame, connection.codec)
        except Refusal as refusal:
            if not refusal.claimed and resource.__pachinko_falls_back__:
                handling = resource.on_message(connection, frame)
                await self._run(
                    self._within(handling, ReceivedMessage(None, frame, None)), "on_message"
                )
            else:
                await self._refuse(refusal, refusal.ref)
            return
        except Exception as error:  # noqa: BLE001  # a payload's own __post_init__ may raise anything
            await self._fail(error, "decoding", ref_of(frame, connection.codec))
            return
        if handler is PING:
            await connection.send_media(_Pong(msgspec.UNSET if ref is None else ref))
            return
        method = getattr(resource, handler.name)  # so that a method that a test patched is used
        try:
            handling = method(connection, payload) if handler.takes_payload else method(connection)
        except Exception as error:  # noqa: BLE001  # a guard may raise before there is a coroutine
            handling = _raising(error)
        if self._hooks.layers:
            handling = self._within(handling, ReceivedMessage(handler.type, payload, ref))
        if handler.concurrent:
            await self._run_beside(handling, handler, ref)
        else:
            await self._run(handling, handler.type, ref)

    async def _within(self, handling: Coroutine[Any, Any, Any], message: ReceivedMessage) -> Any:
        """Run a handler within the hooks around messages."""
        try:
            return await self._hooks.around(self.connection, message, lambda: handling)
        finally:
            handling.close()  # a hook that refused the message has left it unstarted

    async def _run(self, handling: Coroutine[Any, Any, Any], what: str, ref: Ref = None) -> None:
        """Run a handler to its end, and answer the client where an answer is due."""
        handled, began = self.connection.manager.tally.handling(what), time.perf_counter()
        try:
            try:
                answer = await self._attend(handling)
            finally:
                handled.seconds += time.perf_counter() - began
            if ref is not None:
                await self.connection.send_media(_Reply(ref, answer))
            elif answer is not None:
                await self.connection.send_media(_Reply(msgspec.UNSET, answer))
        except MessageError as refusal:
            await self._refuse(refusal, ref)
        except falcon.HTTPError as error:
            await self._refuse(_from_http(error), ref)
        except asyncio.CancelledError as error:
            if _being_cancelled():
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
            try:
                await self._attend(waiting)
            except BaseException:
                handling.close()  # it never had its turn
                raise
        task = asyncio.get_running_loop().create_task(self._run(handling, handler.type, ref))
        connection.side_tasks.add(task)
        task.add_done_callback(connection.side_tasks.discard)

    def _cut_off(self, code: int, error: str, sentence: str) -> None:
        """Tell a client what it does too much of, and close."""
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
        self.connection.manager.tally.errors[what] += 1
        log.error(
            "%s failed on %.200r", type(self.resource).__name__, what,
            exc_info=error, extra=self.connection.where(),
        )  # fmt: skip
        await self._refuse(MessageError("internal_error", "The server failed on this."), ref)
        if self.resource.close_on_error:
            self.connection.begin_close(1011, "internal error")

    @types.coroutine
    def _attend(self, handling: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Await a coroutine, in this very task; should it be busy for long, read ahead.

        Nearly all finish in their first step, which costs no timer and no task.
        """
        try:
            waiting_for = handling.send(None)
        except StopIteration as done:
            return done.value
        timer = asyncio.get_running_loop().call_later(BUSY, self._inbox.read_ahead)
        try:
            return (yield from resume(handling, waiting_for))
        finally:
            timer.cancel()


def _being_cancelled() -> bool:
    """Whether a CancelledError is for this task; else somebody raised it by himself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


_ON_DISCONNECT = WebSocketResource.on_disconnect


async def _raising(error: Exception) -> NoReturn:
    """Stand in for a handler that raised while it was called."""
    raise error


def _from_http(error: falcon.HTTPError) -> MessageError:
    """Turn an HTTP error into a message's error, with the status beside its name."""
    try:
        code = HTTPStatus(error.status_code).name.lower()
    except ValueError:
        code = f"http_{error.status_code}"
    sentence = error.description or error.title or ""
    return MessageError(code, sentence, status=error.status_code)
