"""One connection to Redis: requests go out at once, and their replies come in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from falcon_pachinko.backends.redis.refusals import explain
from falcon_pachinko.backends.redis.replies import Replies
from falcon_pachinko.errors import BackendError

__all__ = ["Link"]

log = logging.getLogger("falcon_pachinko.backends")

READ_BYTES = 262_144


class Link:
    """A connection, which may be opened again after it was closed.

    While it is open, its reader task is the only one that reads, and every request that was
    written waits in ``_waiting``, in the order in which it was written.

    Args:
        name: What errors call the server.
        ended: Called with why it ended, when it does so by itself.
        take: What takes published messages out of the replies; None where none come.
        room_for: Awaited with the size of what has arrived, before more is read.
    """

    def __init__(
        self,
        name: str,
        ended: Callable[[str], None],
        take: Callable[[list[Any]], None] | None = None,
        room_for: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self.name, self._ended = name, ended
        self._take, self._room_for = take, room_for
        self._connection: Any = None
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int, list[Any]]] = deque()
        self._reader: asyncio.Task[None] | None = None

    async def open(self, connection: Any) -> None:
        """Open one of redis-py's connections.

        Raises:
            BackendError: There is nobody, or the server does not let us in; says which.
        """
        self._connection = connection
        try:
            await connection.connect()
        except (OSError, TimeoutError, asyncio.CancelledError):
            raise
        except Exception as error:  # whatever redis-py makes of it
            said = _said(error)
            known = explain(said)
            raise BackendError(self.name, said[:300] if said in known else known) from error
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def close(self) -> None:
        """End, in a bounded time; who waits for a reply gets an error."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait((reader,))
        self._fail("the connection was closed")
        connection, self._connection = self._connection, None
        writer = getattr(connection, "_writer", None)
        if writer is not None:
            # Whoever hung would keep a close waiting. What TLS has closed already is none: until
            # Python 3.11.3 that is an AttributeError.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
        if connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(0.5):
                    await connection.disconnect(nowait=True)

    def send(self, data: bytes, replies: int = 1) -> asyncio.Future[list[Any]]:
        """Send requests; the result is their replies, of which some may be `Refused`.

        Never raises: the result may be a `BackendError`.
        """
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if self._reader is None or self._reader.done():
            future.set_exception(BackendError(self.name, "it is not connected"))
            future.exception()  # whoever asked may have failed already
            return future
        try:
            # redis-py's own way to write waits, and to read awaits five times for each message.
            self._connection._writer.write(data)  # there since redis-py 4.2
        except (OSError, RuntimeError) as error:
            # uvloop's transport raises, once the other side has gone; asyncio's does not.
            future.set_exception(BackendError(self.name, f"the connection broke: {error}"))
            future.exception()
        else:
            self._waiting.append((future, replies, []))
        return future

    async def _read(self) -> None:
        stream, replies = self._connection._reader, Replies()  # as above
        why = "the server closed the connection"
        try:
            while data := await stream.read(READ_BYTES):
                for reply in replies.feed(data):
                    if self._take is not None and type(reply) is list and reply[0] == b"message":
                        self._take(reply)
                    else:
                        self._answer(reply)
                if self._room_for is not None:
                    await self._room_for(len(data))
        except (OSError, ValueError) as error:
            why = str(error) or type(error).__name__
        except Exception as error:  # a mistake of ours; nobody reads this connection any more
            log.exception("reading from %s failed", self.name)
            why = type(error).__name__
        self._fail(why)
        self._ended(why)

    def _answer(self, reply: Any) -> None:
        if not self._waiting:
            raise ValueError("unexpected reply from the server")
        future, count, replies = self._waiting[0]
        replies.append(reply)
        if len(replies) >= count:
            self._waiting.popleft()
            if not future.done():
                future.set_result(replies)

    def _fail(self, why: str) -> None:
        while self._waiting:
            future, _, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(BackendError(self.name, why))
                future.exception()  # whoever waited may have given up


def _said(error: BaseException) -> str:
    """Return what went wrong, on one line: the words of TLS, where it was that."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    words = str(error).split("\n")[0]
    if cause is None or cause.reason in words:
        return words
    return f"{words} {cause}"
