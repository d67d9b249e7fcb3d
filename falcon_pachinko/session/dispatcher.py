"""One message after the other: to its handler, or refused; and answered where an answer is due.

What is wrong with a message is told to its client, in an ``error``; what is wrong with
a handler is logged, and the client is told that it happened. Neither ends the connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

import falcon
import msgspec

from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.connection.inbox import Excess
from falcon_pachinko.errors import EncodeError, MessageError
from falcon_pachinko.messages.envelopes import Ref, Refusal, read_ping, ref_of
from falcon_pachinko.messages.handlers import PING, Handler, HandlerTable
from falcon_pachinko.messages.hooks import HookChain, ReceivedMessage
from falcon_pachinko.messages.outcomes import sole_error
from falcon_pachinko.session.answers import Error, Fault, Pong, Reply, from_http
from falcon_pachinko.session.tasks import Tasks, take_cancellation_back
from falcon_pachinko.typing import Frame

__all__ = ["Dispatcher"]

log = logging.getLogger("falcon_pachinko")


async def _on_message(ws: Connection, frame: Frame) -> None:
    """Stand in the place of a method; what is called is the resource's ``on_message``."""


_ON_MESSAGE = Handler("on_message", _on_message, Any, name="on_message")
"""What takes the frames that no handler claims."""


class Dispatcher:
    """Takes what one client sends: the session gives it the frames, the inbox tells the rest.

    Args:
        connection: The client.
        hooks: The route's.
        tasks: In which the handlers run.
    """

    __slots__ = ("_connection", "_counters", "_hooks", "_tasks", "table")

    table: HandlerTable | None
    """The resource's handlers, from the accept on."""

    def __init__(self, connection: Connection, hooks: HookChain, tasks: Tasks) -> None:
        self._connection, self._hooks, self._tasks = connection, hooks, tasks
        self._counters = connection.manager._counters
        self.table = None

    async def handle(self, frame: Frame) -> None:
        """Have one frame handled, by its handler or, where there is none, by ``on_message``."""
        connection = self._connection
        resource = connection.resource
        try:
            handler, payload, ref = self.table.open(frame, connection._codec)  # type: ignore[union-attr]  # it is accepted
        except Refusal as refusal:
            if refusal.claimed or not resource.__pachinko_falls_back__:
                # Without a variable for the answer, which would be a cycle with its traceback.
                asking = self._ask_about(refusal, frame)
                await self._refuse(await self._tasks.attend(asking), refusal.ref)
                return
            handler, payload, ref = _ON_MESSAGE, frame, refusal.ref
        except Exception as error:  # noqa: BLE001  # a payload's own __post_init__ may raise anything
            is_http = isinstance(error, (falcon.HTTPError, falcon.HTTPStatus))
            answer = from_http(error) if is_http else None  # type: ignore[arg-type]  # see is_http
            ref = ref_of(frame, connection._codec)
            if answer is None:
                await self._fail(error, "decoding", ref)
            else:
                await self._refuse(answer, ref)
            return
        if not handler.concurrent:
            if handler is PING:
                await connection._say(Pong(msgspec.UNSET if ref is None else ref))
            else:
                await self._run(handler, payload, ref)
            return
        self._tasks.take(partial(self._run, handler, payload, ref), frame)

    async def _run(self, handler: Handler, payload: Any, ref: Ref) -> None:
        """Run a handler to its end, and answer the client where an answer is due: once."""
        connection, hooks = self._connection, self._hooks
        what = handler.type
        handled, began = self._counters.handling(what), time.perf_counter()
        try:
            try:
                method = getattr(connection.resource, handler.name)  # a test may have patched it
                if hooks.layers:
                    given = (connection, payload) if handler.takes_payload else (connection,)
                    name = None if handler is _ON_MESSAGE else what
                    message = ReceivedMessage(name, payload, ref)
                    handling = hooks.around(connection, message, partial(method, *given))
                elif handler.takes_payload:
                    handling = method(connection, payload)
                else:
                    handling = method(connection)
                if handler.concurrent:
                    answer = await handling
                else:
                    answer = await self._tasks.attend(handling)
            finally:
                handled.seconds += time.perf_counter() - began
            if ref is not None:
                await connection._say(Reply(ref, answer))
            elif answer is not None:
                await connection._say(Reply(msgspec.UNSET, answer))
        except MessageError as refusal:
            await self._refuse(refusal, ref)
        except (falcon.HTTPError, falcon.HTTPStatus) as error:
            answer = from_http(error)
            await (self._fail(error, what, ref) if answer is None else self._refuse(answer, ref))
        except asyncio.CancelledError as error:
            if self._tasks.ended_by_us():
                raise
            if take_cancellation_back():
                sentence = "The handler was cancelled."
                await self._refuse(MessageError("cancelled", sentence), ref)
            else:
                await self._fail(error, what, ref)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises, the connection lives
            only = sole_error(error) if isinstance(error, ExceptionGroup) else None
            if isinstance(only, falcon.HTTPError):
                only = from_http(only)
            await (self._fail(error, what, ref) if only is None else self._refuse(only, ref))

    async def _ask_about(self, refusal: MessageError, frame: Frame) -> MessageError:
        """Ask the hooks and the resource what to tell about a frame that is refused."""
        resource, hooks = self._connection.resource, self._hooks
        own = resource.on_refused if resource.__pachinko_refuses__ else None
        if own is None and not hooks.on_refused:
            return refusal
        return await hooks.refused(self._connection, refusal, frame, own)

    async def _refuse(self, error: MessageError, ref: Ref) -> None:
        """Tell the client that its message was refused."""
        fault = Fault(error.code, error.message, error.path, error.status)
        mark = msgspec.UNSET if ref is None else ref
        try:
            await self._connection._say(Error(mark, fault))
        except EncodeError as unsendable:
            await self._fail(unsendable, error.code, ref)

    async def _fail(self, error: BaseException, what: str, ref: Ref) -> None:
        """Log what a handler raised, once, and tell the client no more than that it happened."""
        connection = self._connection
        self._counters.count_error(what)
        log.error(
            "%s failed on %.200r", type(connection.resource).__name__, what,
            exc_info=error, extra=connection._outbox.where(),
        )  # fmt: skip
        sentence = "Internal error while handling this message."
        await self._refuse(MessageError("internal_error", sentence), ref)
        if connection.resource.close_on_error:
            connection._outbox.close(1011, "internal error")

    # What the inbox tells, as frames arrive.

    def gone(self) -> None:
        """The client went while a handler is busy: it may finish, for a while."""
        self._connection._outbox.lose()

    def exceeded(self, excess: Excess, frame: Frame) -> None:
        """Refuse a frame that exceeds a limit, and close, be a handler busy or not."""
        self._tasks.start(self._end_for(excess, frame))

    async def _end_for(self, excess: Excess, frame: Frame) -> None:
        """Tell the client what it has exceeded, and close."""
        connection = self._connection
        error: MessageError = MessageError(excess.code, excess.sentence)
        ref = None if excess.code == "too_large" else ref_of(frame, connection._codec)
        try:
            if connection.resource is not None:
                error = await self._ask_about(error, frame)
            fault = Fault(error.code, error.message, error.path, error.status)
            answer = Error(msgspec.UNSET if ref is None else ref, fault)
            connection._outbox.push(connection._codec.encode(answer))
        finally:
            connection._outbox.close(excess.close_code, excess.sentence)

    def intercept(self, frame: Frame) -> bool:
        """Answer a ping at once, though a handler is busy."""
        table, connection = self.table, self._connection
        if table is None or not table.answers_ping:
            return False
        ping = read_ping(frame, connection._codec)
        if ping is None:
            return False
        pong = Pong(msgspec.UNSET if ping.ref is None else ping.ref)
        connection._outbox.push(connection._codec.encode(pong))
        return True
