"""One connection's life in the server, from the handshake to the last clean-up.

The session is one task, begun before the first ``on_connect``. Everything of the
application's that belongs to one client runs in it, or in tasks that it owns: so
a task group, a time-out or a context variable may span ``on_connect`` and
``on_disconnect``. The server's call waits for it, however often it is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import types
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple

import falcon
import msgspec

from falcon_pachinko.connection.connection import SENDER, Connection
from falcon_pachinko.connection.ends import ABNORMAL, CLOSE_WAIT
from falcon_pachinko.connection.inbox import READ_AHEAD_AFTER, Excess, Inbox
from falcon_pachinko.connection.stage import CLOSING, OPEN
from falcon_pachinko.connection.stepping import resume
from falcon_pachinko.errors import EncodeError, MessageError
from falcon_pachinko.messages.envelopes import Ref, Refusal, read_ping, ref_of
from falcon_pachinko.messages.handlers import PING, Handler, HandlerTable
from falcon_pachinko.messages.hooks import HookChain, ReceivedMessage
from falcon_pachinko.messages.outcomes import sole_error
from falcon_pachinko.session.answers import Error, Fault, Pong, Reply, from_http
from falcon_pachinko.session.gate import Gate
from falcon_pachinko.session.handshake import (
    Accepted,
    Denied,
    Gone,
    Handshake,
    Outcome,
    closed_early,
)
from falcon_pachinko.typing import Frame

__all__ = ["Session"]

log = logging.getLogger("falcon_pachinko")

_GOING_AWAY = (1001, 1012)  # what servers report when it is they who go


class _Turn(NamedTuple):
    """A message that waits until one more concurrent handler may run."""

    handler: Handler
    payload: Any
    ref: Ref
    frame: Frame


class Session:
    """One connection's life in the server.

    It takes one frame after the other, and each is handled before the next, or
    beside it where its handler says so. See `Inbox` for who reads.
    """

    __slots__ = (
        "_cancels",
        "_ended",
        "_ending",
        "_finishing",
        "_gate",
        "_handshake",
        "_hooks",
        "_in_handler",
        "_inbox",
        "_server_ended",
        "_table",
        "_task",
        "_tasks",
        "_turns",
        "connection",
    )

    def __init__(
        self, connection: Connection, gate: Gate, hooks: HookChain, handshake: Handshake
    ) -> None:
        self.connection = connection
        self._gate, self._hooks, self._handshake = gate, hooks, handshake
        self._inbox = Inbox(gate.receive, connection.limits, self)
        self._table: HandlerTable | None = None  # the resource's, from the accept on
        self._task: asyncio.Task[Any] | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # concurrent handlers that run
        self._turns: deque[_Turn] = deque()  # and messages that wait for their turn
        # Whether the session's task is in the application's code, and may be cancelled to end it.
        self._in_handler = False
        # How often we have cancelled it, and not taken that back: more would be somebody else's.
        self._cancels = 0
        self._ended: set[asyncio.Task[None]] = set()  # concurrent handlers that we have cancelled
        self._finishing: asyncio.Timeout | None = None  # while the client takes what is left
        self._ending: asyncio.TimerHandle | None = None  # what ends it if nothing else does
        self._server_ended = False  # whether the server has cancelled its call

    @property
    def is_busy(self) -> bool:
        """Whether one of the handlers runs, waits for its turn, or the ``on_connect`` does."""
        return bool(self._tasks or self._turns) or not self._inbox.waiting

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """The task that is the session."""
        return self._task

    def owns(self, task: object) -> bool:
        """Tell whether a task is the session's own, or that of one of its handlers."""
        return task is self._task or task in self._tasks

    def hold(self) -> None:
        """Handle no more messages, since the server is going down."""
        self._inbox.drain()

    async def serve(self) -> None:
        """Live the whole life; when this returns or raises, all of it is over.

        Raises:
            Exception: What an ``on_connect`` raised that has no answer of its own: for
                Falcon's error handlers, which close; the gate makes that a status.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._live())
        while not task.done():
            # Not the task itself, which would be cancelled with this call; and asyncio.wait and
            # shield cost ten times as much.
            over = loop.create_future()
            task.add_done_callback(over.cancel)
            try:
                await over
            except asyncio.CancelledError:
                if not task.done():  # the server goes: end, and be waited for
                    self._server_ended = True
                    self._end_with_server()
        error = task.result()
        if error is not None:
            try:
                raise error
            finally:
                # Its traceback has this very frame, and the task keeps what it returned.
                self._task = error = task = over = None  # type: ignore[assignment]  # it is over

    async def _live(self) -> BaseException | None:
        """Be the session's task; return what is for Falcon's error handlers."""
        connection, inbox = self.connection, self._inbox
        manager, outbox = connection.manager, connection._outbox
        self._task = asyncio.current_task()
        SENDER.set(connection)
        connection._session, outbox.watcher = self, self
        outbox.adopt_context()
        manager._begin(connection, self._task)
        outcome: Outcome = Gone()
        try:
            try:
                try:
                    outcome = await self._handshake.settle(connection, inbox, self._decide)
                finally:
                    manager._revocations.end(connection)
                if type(outcome) is Accepted:
                    own: HandlerTable = connection.resource.__pachinko_table__
                    self._table = own.compiled(manager._codecs)
                    async for frame in inbox:
                        if outbox.close_code is None:
                            await self._handle(frame)
                        if self._ending is not None:
                            self._end_in(CLOSE_WAIT)  # a handler that had its grace is done
            except asyncio.CancelledError:
                if outbox.stage is OPEN:  # not by us, but by the application
                    outbox.close(1011, "internal error")
            except Exception:
                log.exception("the session of %r failed", connection, extra=outbox.where())
                outbox.close(1011, "internal error")
            except BaseException:  # SystemExit and its like are for whoever runs the loop
                outbox.close(1011, "internal error")
                await self._leave(outcome)
                raise
            return await self._leave(outcome)
        finally:
            manager._sessions.discard(self._task)

    # Handling.

    async def _handle(self, frame: Frame) -> None:
        """Have one frame handled, by its handler or, where there is none, by ``on_message``."""
        connection = self.connection
        resource = connection.resource
        try:
            handler, payload, ref = self._table.open(frame, connection._codec)  # type: ignore[union-attr]  # it is accepted
        except Refusal as refusal:
            if resource.__pachinko_falls_back__ and not refusal.claimed:
                await self._run(_ON_MESSAGE, frame, refusal.ref)
            else:
                error = await self._attend(self._ask_about(refusal, frame))
                await self._refuse(error, refusal.ref)
            return
        except Exception as error:  # noqa: BLE001  # a payload's own __post_init__ may raise anything
            await self._fail(error, "decoding", ref_of(frame, connection._codec))
            return
        if not handler.concurrent:
            if handler is PING:
                await connection.send_media(Pong(msgspec.UNSET if ref is None else ref))
            else:
                await self._run(handler, payload, ref)
            return
        most = connection.limits.concurrency
        if self._turns or (most is not None and len(self._tasks) >= most):
            self._turns.append(_Turn(handler, payload, ref, frame))
            self._inbox.hold(frame)
        else:
            self._start_beside(handler, payload, ref)

    def _start_beside(self, handler: Handler, payload: Any, ref: Ref) -> None:
        task = asyncio.get_running_loop().create_task(self._run(handler, payload, ref))
        if not task.done():  # an eager task factory may have run it to its end by now
            self._tasks.add(task)
            task.add_done_callback(self._ended_beside)

    def _ended_beside(self, task: asyncio.Task[None]) -> None:
        """Let the message that waits longest have its turn; if that is done at once, the next."""
        self._tasks.discard(task)
        most = self.connection.limits.concurrency
        while self._turns and (most is None or len(self._tasks) < most):
            turn = self._turns.popleft()
            self._inbox.release(turn.frame)
            self._start_beside(turn.handler, turn.payload, turn.ref)

    async def _run(self, handler: Handler, payload: Any, ref: Ref) -> None:
        """Run a handler to its end, and answer the client where an answer is due: once."""
        connection, hooks = self.connection, self._hooks
        what = handler.type
        handled, began = connection.manager._counters.handling(what), time.perf_counter()
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
                    answer = await self._attend(handling)
            finally:
                handled.seconds += time.perf_counter() - began
            if ref is not None:
                await connection.send_media(Reply(ref, answer))
            elif answer is not None:
                await connection.send_media(Reply(msgspec.UNSET, answer))
        except MessageError as refusal:
            await self._refuse(refusal, ref)
        except (falcon.HTTPError, falcon.HTTPStatus) as error:
            answer = from_http(error)
            await (self._fail(error, what, ref) if answer is None else self._refuse(answer, ref))
        except asyncio.CancelledError as error:
            if self._has_ended():
                raise
            if _take_cancellation_back():
                sentence = "The handler was cancelled."
                await self._refuse(MessageError("cancelled", sentence), ref)
            else:
                await self._fail(error, what, ref)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises, the connection lives
            only = sole_error(error) if isinstance(error, ExceptionGroup) else None
            if isinstance(only, falcon.HTTPError):
                only = from_http(only)
            await (self._fail(error, what, ref) if only is None else self._refuse(only, ref))

    def _has_ended(self) -> bool:
        """Tell whether it is we who have cancelled the current task."""
        # Not written where it is asked: a frame that holds its own task, and is part of the
        # traceback of what that task ended with, is a reference cycle.
        task = asyncio.current_task()
        return task in self._ended or (self._cancels > 0 and task is self._task)

    async def _ask_about(self, refusal: MessageError, frame: Frame) -> MessageError:
        """Ask the hooks and the resource what to tell about a frame that is refused."""
        resource, hooks = self.connection.resource, self._hooks
        own = resource.on_refused if resource.__pachinko_refuses__ else None
        if own is None and not hooks.on_refused:
            return refusal
        return await hooks.refused(self.connection, refusal, frame, own)

    async def _refuse(self, error: MessageError, ref: Ref) -> None:
        """Tell the client that its message was refused."""
        fault = Fault(error.code, error.message, error.path, error.status)
        mark = msgspec.UNSET if ref is None else ref
        try:
            await self.connection.send_media(Error(mark, fault))
        except EncodeError as unsendable:
            await self._fail(unsendable, error.code, ref)

    async def _fail(self, error: BaseException, what: str, ref: Ref) -> None:
        """Log what a handler raised, once, and tell the client no more than that it happened."""
        connection = self.connection
        connection.manager._counters.count_error(what)
        log.error(
            "%s failed on %.200r", type(connection.resource).__name__, what,
            exc_info=error, extra=connection._outbox.where(),
        )  # fmt: skip
        sentence = "Internal error while handling this message."
        await self._refuse(MessageError("internal_error", sentence), ref)
        if connection.resource.close_on_error:
            connection._outbox.close(1011, "internal error")

    @types.coroutine
    def _attend(self, handling: Any) -> Generator[Any, Any, Any]:
        """Await a handler, in this very task; should it be busy for long, read ahead.

        Nearly all finish in their first step, which costs no timer and no task.
        """
        try:
            waiting_for = handling.send(None)
        except StopIteration as done:
            return done.value
        loop = asyncio.get_running_loop()
        inbox = self._inbox
        inbox.leave_unread()
        timer = loop.call_later(READ_AHEAD_AFTER, inbox.read_ahead)
        self._in_handler = True
        try:
            return (yield from resume(handling, waiting_for))
        finally:
            self._in_handler = False
            timer.cancel()

    @types.coroutine
    def _decide(self, deciding: Any) -> Generator[Any, Any, Any]:
        """Await a decision about the handshake; read ahead at once, to see the client leave."""
        try:
            waiting_for = deciding.send(None)
        except StopIteration as done:
            return done.value
        self._inbox.read_ahead()
        self._in_handler = True
        try:
            return (yield from resume(deciding, waiting_for))
        finally:
            self._in_handler = False

    # What the inbox tells, as frames arrive.

    def gone(self) -> None:
        """The client went while a handler is busy: it may finish, for a while."""
        self.connection._outbox.lose()

    def exceeded(self, excess: Excess, frame: Frame) -> None:
        """Refuse a frame that exceeds a limit, and close, be a handler busy or not."""
        self._inbox.drain()
        task = asyncio.get_running_loop().create_task(self._end_for(excess, frame))
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _end_for(self, excess: Excess, frame: Frame) -> None:
        """Tell the client what it has exceeded, and close."""
        connection = self.connection
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
        table, connection = self._table, self.connection
        if table is None or not table.answers_ping:
            return False
        ping = read_ping(frame, connection._codec)
        if ping is None:
            return False
        pong = Pong(msgspec.UNSET if ping.ref is None else ping.ref)
        connection._outbox.push(connection._codec.encode(pong))
        return True

    # What the outbox tells of the end.

    def closing(self, *, patient: bool) -> None:
        """We have begun to close: no frame is handled any more, and handlers end at once.

        The one that has closed itself may go on, and so may all while the server drains.
        What the others send from now on reaches nobody.
        """
        self._inbox.drain()
        self._drop_turns()
        if patient:
            return
        current = asyncio.current_task()
        muted: set[Any] = {task for task in self._tasks if task is not current}
        self._end_beside(muted)
        if self._in_handler and self._task is not current:
            muted.add(self._task)
            if self.connection._outbox._accepting:  # accept() raises once the server has answered:
                self._end_in(CLOSE_WAIT)  # cut off, nobody would know whether the client is in
            else:
                self._cancel()
        self.connection._muted = muted

    def closed(self) -> None:
        """Nothing more can be sent: let the server report the end, or a handler finish, first."""
        waits = CLOSE_WAIT if self._inbox.waiting else self.connection.limits.handler_grace
        if waits is not None:
            self._end_in(waits)

    def _end_beside(self, tasks: set[asyncio.Task[None]]) -> None:
        self._ended.update(tasks)
        for task in tasks:
            task.cancel()

    def _drop_turns(self) -> None:
        while self._turns:
            self._inbox.release(self._turns.popleft().frame)

    def _end_in(self, seconds: float) -> None:
        self._call_off()
        self._ending = asyncio.get_running_loop().call_later(seconds, self._interrupt)

    def _call_off(self) -> None:
        """Nothing needs an end any more that `_end_in` was to bring."""
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _interrupt(self) -> None:
        """End what the session waits for: the server, or a handler that had its grace."""
        self._inbox.drain()
        self._inbox.end()
        self._cancel()
        self._end_in(self.connection.limits.handler_grace or CLOSE_WAIT)  # if it is swallowed

    def _cancel(self) -> None:
        assert self._task is not None
        self._cancels += 1
        self._task.cancel()

    def _end_with_server(self) -> None:
        """The server has cancelled its call: it will not wait for much longer."""
        if self._finishing is not None and not self._finishing.expired():
            self._finishing.reschedule(asyncio.get_running_loop().time() + CLOSE_WAIT)
        self.connection._outbox.close(1012, "")
        # It may have been closed, or the client gone, before: then handlers had their grace.
        self._inbox.drain()
        self._drop_turns()
        self._end_beside(set(self._tasks))
        if self._in_handler:
            self._cancel()

    # Leaving.

    async def _leave(self, outcome: Outcome) -> BaseException | None:
        """Forget the connection everywhere, then let the resources say goodbye."""
        connection, inbox = self.connection, self._inbox
        outbox, counters = connection._outbox, connection.manager._counters
        while self._cancels:
            self._cancels -= 1
            self._task.uncancel()  # type: ignore[union-attr]  # it runs
        if self._turns:
            self._drop_turns()
        error = None
        if outbox.accepted:
            self._gate.answered()
        else:
            error = await self._answer(outcome)
        by_client = outbox.close_code is None
        if outbox.close_code is None:
            outbox.close_code = inbox.code if outbox.accepted else ABNORMAL
            outbox.close_reason = inbox.reason
        connection.manager._forget(connection)
        if outbox.accepted:
            counters.count_closed(outbox.close_code, by_client=by_client)
        if connection._expiry is not None:
            connection._expiry.cancel()
            connection._expiry = None
        self._call_off()
        await inbox.stop()
        if outbox.accepted and outbox.stage is CLOSING:
            await self._let_finish()
            self._call_off()  # `closed` was told
        outbox.forget(now=self._server_ended or inbox.code in _GOING_AWAY)
        if self._tasks:
            await self._end_tasks()
        connection._muted = None
        # The goodbye, in the very task and context of the welcome; innermost first.
        code = outbox.close_code if outbox.accepted else ABNORMAL
        for hook in self._hooks.before_disconnect if outbox.accepted else ():
            await self._clean_up(hook, "before_disconnect", code)
        for resource in reversed(self._handshake.welcomed):
            if resource.__pachinko_says_goodbye__:
                await self._clean_up(resource.on_disconnect, "on_disconnect", code)
        # Whoever keeps the connection keeps no more than that, and nothing here refers to itself.
        connection._session = connection.resource = None
        self._ended.clear()
        return error

    async def _let_finish(self) -> None:
        """Give the client the time it has to take what waits before our close, and the close."""
        seconds = CLOSE_WAIT if self._server_ended else self.connection.limits.send_timeout
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds) as self._finishing:
                await self.connection._outbox.finished()
        self._finishing = None

    async def _answer(self, outcome: Outcome) -> BaseException | None:
        """Deny the handshake; or return the error that Falcon is to answer."""
        connection, outbox = self.connection, self.connection._outbox
        if type(outcome) is Gone and outbox.close_code is not None and not self._inbox.gone:
            outcome = closed_early(outbox.close_code, outbox.close_reason)
        connection.manager._forget(connection)  # the client has its answer in a moment
        if type(outcome) is not Denied:
            self._gate.gone()
            return None
        error = outcome.error
        if error is None or (
            isinstance(error, (falcon.HTTPError, falcon.HTTPStatus)) and error.status_code >= 300
        ):
            await self._inbox.stop()
            await self._gate.deny(error, outcome.close, readable=outcome.readable)
            return None
        return error

    async def _end_tasks(self) -> None:
        """Let concurrent handlers finish for a while, unless we have ended them; then cancel."""
        patient = self.connection._muted is None and not self._server_ended
        grace = self.connection.limits.handler_grace if patient else CLOSE_WAIT
        deadline = None if grace is None else asyncio.get_running_loop().time() + grace
        while self._tasks:
            left = None
            if deadline is not None:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    break
            await asyncio.wait(tuple(self._tasks), timeout=left)
        self._end_beside(set(self._tasks))
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=CLOSE_WAIT)

    async def _clean_up(self, step: Callable[..., Any], what: str, code: int) -> None:
        """Run one step of the end; the others follow, whatever it raises."""
        connection = self.connection
        seconds, name = connection.limits.shutdown_timeout, type(connection.resource).__name__
        try:
            async with asyncio.timeout(seconds) as limit:
                await step(connection, code)
        except (Exception, asyncio.CancelledError):
            late = f": it took over {seconds:g} s (shutdown_timeout)" if limit.expired() else ""
            log.exception("%s failed for %s%s", what, name, late, extra=connection._outbox.where())


def _take_cancellation_back() -> bool:
    """Take back that the current task was cancelled; False if CancelledError was only raised."""
    task = asyncio.current_task()
    assert task is not None
    was_cancelled = task.cancelling() > 0
    while task.cancelling():
        task.uncancel()
    return was_cancelled


async def _on_message(ws: Connection, frame: Frame) -> None:
    """Stand in the place of a method; what is called is the resource's ``on_message``."""


_ON_MESSAGE = Handler("on_message", _on_message, Any, name="on_message")
"""What takes the frames that no handler claims."""
