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
from collections.abc import Callable
from functools import partial
from typing import Any

import falcon

from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.connection.ends import ABNORMAL, CLOSE_WAIT
from falcon_pachinko.connection.inbox import Inbox
from falcon_pachinko.connection.sender import MUTED, SENDER, mute
from falcon_pachinko.connection.stage import CLOSING, OPEN
from falcon_pachinko.messages.hooks import HookChain
from falcon_pachinko.session.dispatcher import Dispatcher
from falcon_pachinko.session.gate import Gate
from falcon_pachinko.session.handshake import (
    Accepted,
    Denied,
    Gone,
    Handshake,
    Outcome,
    closed_early,
)
from falcon_pachinko.session.tasks import Tasks

__all__ = ["Session"]

log = logging.getLogger("falcon_pachinko")

_GOING_AWAY = (1001, 1012)  # what servers report when it is they who go


class Session:
    """One connection's life in the server: its beginning, one frame after the other, its end.

    See `Inbox` for who reads, and `Dispatcher` for what becomes of a frame.
    """

    __slots__ = (
        "_dispatcher",
        "_ending",
        "_finishing",
        "_gate",
        "_handshake",
        "_hooks",
        "_inbox",
        "_leaving",
        "_server_ended",
        "_tasks",
        "_we_ended",
        "connection",
    )

    def __init__(
        self, connection: Connection, gate: Gate, hooks: HookChain, handshake: Handshake
    ) -> None:
        self.connection = connection
        self._gate, self._hooks, self._handshake = gate, hooks, handshake
        self._tasks = Tasks(connection.limits.concurrency)
        self._dispatcher = Dispatcher(connection, hooks, self._tasks)
        self._inbox = self._tasks.inbox = Inbox(gate.receive, connection.limits, self._dispatcher)
        self._finishing: asyncio.Timeout | None = None  # while the client takes what is left
        # What ends it if nothing else does.  Invariant: none once it is leaving, which is final.
        self._ending: asyncio.TimerHandle | None = None
        self._leaving = False
        self._server_ended = False  # whether the server has cancelled its call
        self._we_ended = False  # whether we have closed, and handlers were told to end

    @property
    def is_busy(self) -> bool:
        """Whether one of the handlers runs, waits for its turn, or the ``on_connect`` does."""
        return self._tasks.is_busy or not self._inbox.waiting

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """The task that is the session."""
        return self._tasks.own

    def owns(self, task: object) -> bool:
        """Tell whether a task is the session's own, or that of one of its handlers."""
        return self._tasks.owns(task)

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
                self._tasks.own = error = task = over = None  # type: ignore[assignment]  # it is over

    async def _live(self) -> BaseException | None:
        """Be the session's task; return what is for Falcon's error handlers."""
        connection, inbox = self.connection, self._inbox
        manager, outbox = connection.manager, connection._outbox
        tasks = self._tasks
        own = tasks.own = asyncio.current_task()
        assert own is not None
        SENDER.set(connection)
        connection._session, outbox.watcher = self, self
        outbox.adopt_context()
        manager._members.begin(connection, own)
        outcome: Outcome = Gone()
        try:
            try:
                try:
                    outcome = await self._handshake.settle(
                        connection, inbox, partial(tasks.attend, patience=0)
                    )
                finally:
                    manager._revocations.end(connection)
                if type(outcome) is Accepted:
                    table = connection.resource.__pachinko_table__.compiled(manager._codecs)
                    dispatcher = self._dispatcher
                    dispatcher.table = table
                    async for frame in inbox:
                        if outbox.close_code is None:
                            await dispatcher.handle(frame)
                            if own.cancelling():
                                await tasks.forgive()
                        if self._ending is not None or self._server_ended:
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
            manager._members.sessions.discard(own)
            # The traceback of an error may lead to this very frame, on Python 3.12 and later.
            outcome, own = Gone(), None

    # What the outbox tells of the end.

    def closing(self, *, patient: bool) -> None:
        """We have begun to close: no frame is handled any more, and handlers end at once.

        The one that has closed itself may go on, and so may all while the server drains.
        What the others send from now on reaches nobody.
        """
        tasks = self._tasks
        self._inbox.drain()
        tasks.drop_turns()
        if patient:
            return
        self._we_ended = True
        muted: set[Any] = tasks.end_beside()
        accepting = self.connection._outbox._accepting
        if accepting:  # accept() raises once the server has answered:
            self._end_in(CLOSE_WAIT)  # cut off, nobody would know whether the client is in
        if tasks.in_handler and tasks.own is not asyncio.current_task():
            muted.add(tasks.own)
            if not accepting:
                tasks.cancel()
        mute(self.connection, muted)

    def closed(self) -> None:
        """Nothing more can be sent: let the server report the end, or a handler finish, first."""
        waits = CLOSE_WAIT if self._inbox.waiting else self.connection.limits.handler_grace
        if waits is not None:
            self._end_in(waits)

    def _end_in(self, seconds: float) -> None:
        """Interrupt the session after so many seconds, unless it leaves by itself."""
        if self._ending is not None:
            self._ending.cancel()
        self._ending = None
        if not self._leaving:
            self._ending = asyncio.get_running_loop().call_later(seconds, self._interrupt)

    def _interrupt(self) -> None:
        """End what the session waits for: the server, or a handler that had its grace."""
        self._inbox.drain()
        self._inbox.end()
        self._tasks.cancel()
        self._end_in(self.connection.limits.handler_grace or CLOSE_WAIT)  # if it is swallowed

    def _end_with_server(self) -> None:
        """The server has cancelled its call: it will not wait for much longer."""
        if self._finishing is not None and not self._finishing.expired():
            self._finishing.reschedule(asyncio.get_running_loop().time() + CLOSE_WAIT)
        self.connection._outbox.close(1012, "")
        # It may have been closed, or the client gone, before: then handlers had their grace.
        self._inbox.drain()
        self._tasks.drop_turns()
        self._tasks.end_beside()
        if self._tasks.in_handler:
            self._tasks.cancel()
        if self._inbox.waiting:  # for a client that does not read, some report its end much later
            self._end_in(CLOSE_WAIT)

    # Leaving.

    async def _leave(self, outcome: Outcome) -> BaseException | None:
        """Forget the connection everywhere, then let the resources say goodbye."""
        connection, inbox, tasks = self.connection, self._inbox, self._tasks
        outbox, counters = connection._outbox, connection.manager._counters
        self._leaving = True
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        tasks.wind_up()
        error = None if outbox.accepted else await self._answer(outcome)
        by_client = outbox.close_code is None
        if outbox.close_code is None:
            outbox.close_code = inbox.code if outbox.accepted else ABNORMAL
            outbox.close_reason = inbox.reason
        connection.manager._members.forget(connection)
        if outbox.accepted:
            counters.count_closed(outbox.close_code, by_client=by_client)
        if connection._expiry is not None:
            connection._expiry.cancel()
            connection._expiry = None
        await inbox.stop()
        if outbox.accepted and outbox.stage is CLOSING:
            # The client has the time it has to take what waits before our close, and the close.
            seconds = CLOSE_WAIT if self._server_ended else connection.limits.send_timeout
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds) as self._finishing:
                    await outbox.finished()
            self._finishing = None
        outbox.forget(now=self._server_ended or inbox.code in _GOING_AWAY)
        patient = not (self._we_ended or self._server_ended)
        stubborn = await tasks.finish(connection.limits.handler_grace if patient else CLOSE_WAIT)
        if MUTED:
            mute(connection, stubborn)
        for task in stubborn:
            task.add_done_callback(lambda _: mute(connection, stubborn))
        # The goodbye, in the very task and context of the welcome; innermost first.
        code = outbox.close_code if outbox.accepted else ABNORMAL
        for hook in self._hooks.before_disconnect if outbox.accepted else ():
            await self._clean_up(hook, "before_disconnect", code)
        for resource in reversed(self._handshake.welcomed):
            if resource.__pachinko_says_goodbye__:
                await self._clean_up(resource.on_disconnect, "on_disconnect", code)
        # Whoever keeps the connection keeps no more than that, and nothing here refers to itself.
        connection._session = connection.resource = None
        return error

    async def _answer(self, outcome: Outcome) -> BaseException | None:
        """Deny the handshake; or return the error that Falcon is to answer."""
        connection, outbox = self.connection, self.connection._outbox
        if type(outcome) is Gone and outbox.close_code is not None and not self._inbox.gone:
            outcome = closed_early(outbox.close_code, outbox.close_reason)
        connection.manager._members.forget(connection)  # the client has its answer in a moment
        if type(outcome) is not Denied:
            await self._gate.gone()
            return None
        error = outcome.error
        if error is None or (
            isinstance(error, (falcon.HTTPError, falcon.HTTPStatus)) and error.status_code >= 300
        ):
            await self._inbox.stop()
            await self._gate.deny(error, outcome.close, readable=outcome.readable)
            return None
        self._gate.give_back()
        return error

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
