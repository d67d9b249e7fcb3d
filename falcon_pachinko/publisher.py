"""Sending to a cluster's clients from outside of it: from cron, a task queue, a shell.

A publisher has no connections, listens to nothing, and is not counted among the processes.
It leaves nothing behind, however many come and go. `Publisher` is for coroutines, and
`Publisher.sync` for everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from falcon_pachinko.backends import open_backend
from falcon_pachinko.backends.base import Backend
from falcon_pachinko.errors import SetupError
from falcon_pachinko.messages.codec import DEFAULT_CODECS, Codecs, EncHook
from falcon_pachinko.rooms.outgoing import Outgoing, prepare, to_connection, to_room, to_user
from falcon_pachinko.rooms.publisher_link import PublisherLink, forked
from falcon_pachinko.rooms.sending import Delivery
from falcon_pachinko.targets import Everyone, Target

__all__ = ["Publisher", "SyncPublisher"]

T = TypeVar("T")

CLOSE_SECONDS = 10.0
"""Seconds that closing may take; what is left of it then ends with the interpreter."""


class _Publishes:
    """What both kinds have: a link to a shared backend, and the codecs."""

    def __init__(self, backend: Backend | str, *, enc_hook: EncHook | None = None) -> None:
        opened = open_backend(backend)
        if not opened.shared:
            raise SetupError(
                f"backend={backend!r:.80} reaches no other process, so a Publisher cannot send by "
                'it; give it the URL of install(), such as "redis://localhost:6379/0"'
            )
        self._link = PublisherLink(opened)
        self._codecs = Codecs(enc_hook) if enc_hook is not None else DEFAULT_CODECS

    @property
    def backend(self) -> Backend:
        """What it sends by; its ``state`` and ``why`` tell how that is."""
        return self._link.backend


class Publisher(_Publishes):
    """Sends messages to a cluster's clients, from a process that is no part of it.

    It has the manager's sending verbs. Each returns ``Delivery(0, 0, True)`` when the backend
    has the message, or raises `BackendError`; it does not tell whether anybody was connected.
    Rooms with a history keep the message, as the app's processes have configured them.

    Args:
        backend: What `install` was given: a URL, or a `Backend` of its own.
        enc_hook: What encodes the application's own types, as for `install`.

    Example::

        async with Publisher("redis://db.example:6379/0") as publish:
            await publish.broadcast_to_room("chat:tea", {"type": "notice", "payload": "Closing."})

    Raises:
        SetupError: The backend is not one that other processes share.
    """

    @classmethod
    def sync(cls, backend: Backend | str, *, enc_hook: EncHook | None = None) -> SyncPublisher:
        """Make one for code without coroutines: Celery, cron, a Django view or shell.

        Its verbs are the same, without ``await``; threads may share it. It connects at its first
        use, in a thread of its own, so it may be made before a fork; once it was used, a fork
        needs another one. The interpreter ends without waiting for it.

        Example::

            with Publisher.sync("redis://db.example:6379/0") as publish:
                publish.send_to_user("ann", {"type": "order.shipped", "payload": 17})
        """
        return SyncPublisher(backend, enc_hook=enc_hook)

    async def __aenter__(self) -> Self:
        """Connect; a server that is not there is an error of the verbs, unless it is required.

        Raises:
            BackendError: The URL says ``required=true``, and the server cannot be reached.
            SetupError: The backend is in use already, by an app or another publisher.
        """
        await self._link.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect; what was sent has left already."""
        await self._link.close()

    # The verbs.

    async def broadcast(
        self,
        message: Any,
        *,
        to: Target,
        exclude: Iterable[str] = (),
        store: bool | None = None,
        volatile: bool = False,
        latest: str | None = None,
        idempotency_key: str | None = None,
    ) -> Delivery:
        """Send a message to the connections that a target names, on all processes.

        Where the target names several rooms with a history, and an error is raised, some of them
        may have kept the message; with an idempotency key, it is safe to try again.

        Args:
            message: What can be encoded: dicts, structs, lists, text, numbers ...
            to: ``to.room("lobby") & to.tag("pro") - to.user("bob")`` and the like.
            exclude: The ids of connections that get nothing now; see the manager's ``broadcast``.
            store: False: no history keeps it.
            volatile: Drop it for clients that are behind, instead of having it wait.
            latest: Replace what still waits under this key, of the same target.
            idempotency_key: Names this message, in 1 to 200 bytes: sent with it again, by
                any process, within two minutes, it is not kept nor delivered once more.

        Raises:
            BackendError: It has not left, or that is not known.
            EncodeError: It cannot be encoded, or kept; nobody got it.
            TypeError: An argument has a wrong type.
            ValueError: The options contradict each other; or an idempotency key is given, and
                the target is more than rooms with a history.
            RuntimeError: It is not open, or was opened in another process or event loop.
        """
        outgoing = prepare(
            self._codecs,
            message,
            to,
            exclude=exclude,
            store=store,
            volatile=volatile,
            latest=latest,
            idempotency_key=idempotency_key,
        )
        return await self._link.send(outgoing)

    async def broadcast_to_room(
        self,
        room: str,
        message: Any,
        *,
        exclude: Iterable[str] = (),
        store: bool | None = None,
        volatile: bool = False,
        latest: str | None = None,
        idempotency_key: str | None = None,
    ) -> Delivery:
        """Send a message to the members of a room, which may be empty. See `broadcast`.

        Raises:
            InvalidNameError: No room can have that name.
        """
        outgoing = prepare(
            self._codecs,
            message,
            to_room(room),
            exclude=exclude,
            store=store,
            volatile=volatile,
            latest=latest,
            idempotency_key=idempotency_key,
        )
        return await self._link.send(outgoing)

    async def broadcast_to_all(
        self,
        message: Any,
        *,
        exclude: Iterable[str] = (),
        store: bool | None = None,
        volatile: bool = False,
        latest: str | None = None,
    ) -> Delivery:
        """Send a message to every connection. See `broadcast`."""
        outgoing = prepare(
            self._codecs,
            message,
            Everyone(),
            exclude=exclude,
            store=store,
            volatile=volatile,
            latest=latest,
        )
        return await self._link.send(outgoing)

    async def send_to_user(
        self, user_id: str, message: Any, *, volatile: bool = False, latest: str | None = None
    ) -> Delivery:
        """Send a message to all connections of a user. See `broadcast`."""
        return await self._link.send(
            prepare(self._codecs, message, to_user(user_id), volatile=volatile, latest=latest)
        )

    async def send_to_connection(
        self, connection_id: str, message: Any, *, volatile: bool = False, latest: str | None = None
    ) -> Delivery:
        """Send a message to one connection; one that has gone gets nothing, without an error."""
        return await self._link.send(
            prepare(
                self._codecs,
                message,
                to_connection(connection_id),
                volatile=volatile,
                latest=latest,
            )
        )


class SyncPublisher(_Publishes):
    """A `Publisher` for code without coroutines; `Publisher.sync` makes it.

    It connects at its first use, or where a ``with`` block begins, and disconnects where that
    ends, or at `close`. Its verbs may be called from any thread.
    """

    def __init__(self, backend: Backend | str, *, enc_hook: EncHook | None = None) -> None:
        super().__init__(backend, enc_hook=enc_hook)
        self._turn = threading.Condition()  # whoever changes one of these has it
        self._closed = False
        self._busy = 0  # how many threads are in a verb
        self._loop: asyncio.AbstractEventLoop | None = None  # runs in a thread, while it is open
        self._process = 0  # the one in which that thread is
        self._end: weakref.finalize[..., Any] | None = None  # ends it, if that is forgotten

    def __enter__(self) -> Self:
        """Connect; a server that is not there is an error of the verbs, unless it is required.

        Raises:
            BackendError: The URL says ``required=true``, and the server cannot be reached.
            SetupError: The backend is in use already, by an app or another publisher.
        """
        if self._loop is not None and self._process != os.getpid():
            raise forked(self._process)
        with self._turn:
            self._closed = False
            self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect; see `close`."""
        self.close()

    def close(self) -> None:
        """Disconnect, when the verbs that other threads are in have returned.

        What was sent has left already. Once more changes nothing.
        """
        if self._loop is not None and self._process != os.getpid():
            return  # the connection is that of the process which was forked
        with self._turn:
            self._closed = True
            self._turn.wait_for(lambda: not self._busy, CLOSE_SECONDS)
            loop, self._loop, end = self._loop, None, self._end
            if loop is None or end is None:
                return
            end.detach()
            closing = asyncio.run_coroutine_threadsafe(self._link.close(), loop)
            with contextlib.suppress(TimeoutError):
                closing.result(CLOSE_SECONDS)
            loop.call_soon_threadsafe(loop.stop)

    def _send(self, outgoing: Outgoing) -> Delivery:
        loop = self._enter_verb()
        try:
            return _wait(self._link.send(outgoing), loop)
        finally:
            with self._turn:
                self._busy -= 1
                self._turn.notify_all()

    def _enter_verb(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of its thread, which is begun if need be; `close` waits for us."""
        if self._loop is not None and self._process != os.getpid():
            raise forked(self._process)
        with self._turn:
            if self._closed:
                raise RuntimeError("this Publisher was closed; make another one")
            loop = self._open()
            self._busy += 1
            return loop

    def _open(self) -> asyncio.AbstractEventLoop:
        if self._loop is not None:
            return self._loop
        loop = asyncio.new_event_loop()
        # A daemon: the interpreter ends without it. What verbs have sent has left by then.
        threading.Thread(target=_serve, args=(loop,), name="publisher", daemon=True).start()
        try:
            _wait(self._link.open(), loop)
        except BaseException:
            loop.call_soon_threadsafe(loop.stop)
            raise
        self._loop, self._process = loop, os.getpid()
        self._end = weakref.finalize(self, _forgotten, self._link, loop, self._process)
        self._end.atexit = False
        return loop

    # The verbs.

    def broadcast(
        self,
        message: Any,
        *,
        to: Target,
        exclude: Iterable[str] = (),
        store: bool | None = None,
        volatile: bool = False,
        latest: str | None = None,
        idempotency_key: str | None = None,
    ) -> Delivery:
        """Send a message to the connections that a target names; see `Publisher.broadcast`."""
        outgoing = prepare(
            self._codecs,
            message,
            to,
            exclude=exclude,
            store=store,
            volatile=volatile,
            latest=latest,
            idempotency_key=idempotency_key,
        )
        return self._send(outgoing)

    def broadcast_to_room(
        self,
        room: str,
        message: Any,
        *,
        exclude: Iterable[str] = (),
        store: bool | None = None,
        volatile: bool = False,
        latest: str | None = None,
        idempotency_key: str | None = None,
    ) -> Delivery:
        """Send a message to the members of a room; see `Publisher.broadcast_to_room`."""
        outgoing = prepare(
            self._codecs,
            message,
            to_room(room),
            exclude=exclude,
            store=store,
            volatile=volatile,
            latest=latest,
            idempotency_key=idempotency_key,
        )
        return self._send(outgoing)

    def broadcast_to_all(
        self,
        message: Any,
        *,
        exclude: Iterable[str] = (),
        store: bool | None = None,
        volatile: bool = False,
        latest: str | None = None,
    ) -> Delivery:
        """Send a message to every connection. See `Publisher.broadcast`."""
        outgoing = prepare(
            self._codecs,
            message,
            Everyone(),
            exclude=exclude,
            store=store,
            volatile=volatile,
            latest=latest,
        )
        return self._send(outgoing)

    def send_to_user(
        self, user_id: str, message: Any, *, volatile: bool = False, latest: str | None = None
    ) -> Delivery:
        """Send a message to all connections of a user. See `Publisher.broadcast`."""
        return self._send(
            prepare(self._codecs, message, to_user(user_id), volatile=volatile, latest=latest)
        )

    def send_to_connection(
        self, connection_id: str, message: Any, *, volatile: bool = False, latest: str | None = None
    ) -> Delivery:
        """Send a message to one connection; one that has gone gets nothing, without an error."""
        return self._send(
            prepare(
                self._codecs,
                message,
                to_connection(connection_id),
                volatile=volatile,
                latest=latest,
            )
        )


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Be the thread of a publisher, until its loop is stopped."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()


def _wait(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Have a publisher's thread do something, and wait for it; Ctrl-C here ends it there."""
    done = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return done.result()
    except BaseException:
        done.cancel()
        raise


def _forgotten(link: PublisherLink, loop: asyncio.AbstractEventLoop, process: int) -> None:
    """End the thread of a publisher that nobody has closed, and nobody can use any more."""

    async def end() -> None:
        await link.close()
        loop.stop()

    if process == os.getpid() and loop.is_running():
        asyncio.run_coroutine_threadsafe(end(), loop)
