"""The task that sends what waits for one client; while there is one, nobody else sends."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from typing import Any, Protocol

from falcon_pachinko.connection.ends import STAND_IN_CODES
from falcon_pachinko.connection.stepping import Resumed
from falcon_pachinko.messages.codec import Packet
from falcon_pachinko.typing import AsgiEvent, AsgiSend

__all__ = ["Source", "Writer"]

log = logging.getLogger("falcon_pachinko")


class Source(Protocol):
    """What a writer asks and tells; the outbox is one."""

    bytes: int

    def take(self) -> Packet | None:
        """Take the frame that is to be sent next; None when none waits."""

    def take_close(self) -> AsgiEvent | None:
        """Take the close frame, which comes behind all others."""

    def written(self) -> None:
        """Note that the frame that was taken has left."""

    def writer_ended(self) -> None:
        """Note that there is no writer any more."""

    def lose(self) -> None:
        """Note that the client is gone."""

    def abort(self) -> None:
        """Cut the connection."""

    def where(self) -> dict[str, str]:
        """Return what a log record says beside its text."""
        ...


class Writer:
    """Finishes a frame that was begun, if one was, then sends what waits behind it.

    Args:
        source: The outbox.
        send: The ASGI server's ``send``, or a middleware's.
        timeout: Seconds that one frame may take; then the connection is cut. None for no end.
    """

    __slots__ = ("_deadline", "_loop", "_send", "_sent_at", "_source", "_task", "_timeout")

    def __init__(self, source: Source, send: AsgiSend, timeout: float | None) -> None:
        self._source, self._send, self._timeout = source, send, timeout
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None  # None before and during its first step
        self._deadline: asyncio.TimerHandle | None = None
        self._sent_at = 0.0

    def start(
        self, context: contextvars.Context | None, step: Any = None, waiting_for: Any = None
    ) -> None:
        """Begin, in a task of its own.

        Args:
            context: What a middleware's ``send`` is called in; None for the caller's.
            step: A ``send`` that was stepped once and waits.
            waiting_for: What it waits for.
        """
        loop = self._loop
        if self._timeout is not None:
            self._sent_at = loop.time()
            self._deadline = loop.call_later(self._timeout, self._check_deadline)
        writing = self._write(step, waiting_for)
        if step is None and sys.version_info >= (3, 12):  # as soon as a bare send would
            own = context.copy() if context is not None else None
            task = asyncio.Task(writing, loop=loop, eager_start=True, context=own)
        else:
            task = loop.create_task(writing, context=context)
        if not task.done():  # one that started eagerly may have ended by now
            self._task = task

    def cancel(self) -> bool:
        """End at once, in the middle of a frame; return False if it has not begun yet."""
        if self._task is None:
            return False
        self._task.cancel()
        self._end()  # a task that is cancelled before its first step never gets there
        return True

    def _end(self) -> None:
        self._task = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._source.writer_ended()

    async def _write(self, step: Any, waiting_for: Any) -> None:
        source, send, now = self._source, self._send, self._loop.time
        try:
            if step is not None:
                await Resumed(step, waiting_for)
                source.written()
            while (packet := source.take()) is not None:
                self._sent_at = now()
                await send(packet.event)
                source.written()
            event = source.take_close()
            if event is not None:
                self._sent_at = now()
                try:
                    await send(event)
                except Exception as error:
                    if "invalid close code" not in str(error).lower():
                        raise
                    stand_in = STAND_IN_CODES.get(event["code"], 3500)
                    await send({**event, "code": stand_in})
        except BaseException as error:
            # Whatever a server raises here, the client is gone.  A frame that was cut off by
            # somebody who has cancelled this task can have no other behind it either.
            source.lose()
            if not isinstance(error, Exception):
                raise
        finally:
            self._end()

    def _check_deadline(self) -> None:
        """Cut the connection if one frame takes too long; else look again in time."""
        assert self._timeout is not None
        left = self._sent_at + self._timeout - self._loop.time()
        if left > 0:
            self._deadline = self._loop.call_later(left, self._check_deadline)
            return
        log.warning(
            "%r: send timed out after %s s (send_timeout); aborted with %d bytes unsent",
            self._source, self._timeout, self._source.bytes,
            extra=self._source.where(),
        )  # fmt: skip
        self._source.abort()
