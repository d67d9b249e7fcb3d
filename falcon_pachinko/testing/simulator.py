"""An app under test, in memory: its lifespan, its workers, and as many clients as it takes."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import falcon.testing

from falcon_pachinko.app import Pachinko, installed
from falcon_pachinko.connection.ends import ABNORMAL
from falcon_pachinko.manager import WebSocketConnectionManager
from falcon_pachinko.testing.client import (
    LIFESPAN_TIMEOUT,
    TIMEOUT,
    Client,
    HandshakeDenied,
    LifespanError,
    NothingReceivedError,
    UnexpectedFrameError,
    check_close,
)
from falcon_pachinko.testing.http import MemoryHttp
from falcon_pachinko.testing.wire import Wire
from falcon_pachinko.typing import AsgiEvent, Frame, Scope
from falcon_pachinko.workers import Worker, stop_server

__all__ = ["MemoryClient", "Simulator", "simulate"]

WRITE_BUFFER = 65_536
"""Bytes that may wait for a stalled client before the app's ``send`` does; what asyncio grants."""

LEAVING = 2.0
"""Seconds that the app's part may go on after its client has left, unless the client waits longer
than usual for everything."""

GIVING_UP = 0.05
"""Seconds that it has for its end where the test gives up on the handshake."""

T = TypeVar("T")

CreateTask: TypeAlias = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


def create_task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a part of the app in a task of its own, as a server does."""
    return asyncio.get_running_loop().create_task(work)


def find_pachinko(app: Any) -> Pachinko | None:
    """Return what `install` returned for an app, be it wrapped in ASGI middleware or not."""
    for _ in range(100):
        found = installed(app)
        if found is not None or not hasattr(app, "app"):
            return found
        app = app.app
    return None


class MemoryClient(Client):
    """A client in memory; `Simulator.connect` makes it.

    Leaving its ``async with`` waits for the app's part to end as well, and raises
    what escaped from it.
    """

    def __init__(
        self,
        app: Any,
        scope: Scope,
        timeout: float = TIMEOUT,
        *,
        ws_max_size: int | None = None,
        write_buffer: int = WRITE_BUFFER,
        create_task: CreateTask = create_task,
    ) -> None:
        super().__init__(timeout)
        self._app, self._scope, self._max_size = app, scope, ws_max_size
        self._wire = Wire(self._arrive, self._end, write_buffer)
        self._create_task = create_task
        self._task: asyncio.Task[None] | None = None
        self._server_killed = False  # then `_task` never ends, and cannot be cancelled

    @property
    def scope(self) -> Scope:
        """The handshake's ASGI scope; it may be changed before the client connects."""
        return self._scope

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that runs the app's part, as a server has one; None before the handshake."""
        return self._task

    async def close(self, code: int = 1000, reason: str = "") -> None:  # noqa: D102  # Client says it
        check_close(code, reason)
        self._end(code, reason, here=True)
        self._wire.lose(code, reason)

    async def drop(self) -> None:  # noqa: D102  # Client says it
        self._end(ABNORMAL, here=True)
        self._wire.lose(ABNORMAL)

    async def stall(self) -> None:  # noqa: D102  # Client says it
        self.stalled = self._wire.stalled = True

    async def resume(self) -> None:  # noqa: D102  # Client says it
        self.stalled = False
        self._wire.resume()
        await asyncio.sleep(0)

    async def _open(self) -> None:
        wire = self._wire
        wire.events.put_nowait({"type": "websocket.connect"})
        self._task = self._create_task(self._app(self._scope, wire.receive, wire.send))
        self._task.add_done_callback(self._app_ended)
        try:
            async with asyncio.timeout(self._timeout):
                await wire.answered.wait()
        except TimeoutError:
            await self._abandon()
            raise NothingReceivedError(
                f"the handshake was not answered within {self._timeout} s: "
                "on_connect neither returned nor raised"
            ) from None
        except asyncio.CancelledError:  # a time-out of the test's own, which wants to be on time
            await self.drop()
            await asyncio.wait([self._task], timeout=GIVING_UP)
            await self._abandon(GIVING_UP)
            raise
        await self._read_answer(wire)

    async def _read_answer(self, wire: Wire) -> None:
        if wire.denial is not None:
            await self._finish(failed=False)
            raise HandshakeDenied(*wire.denial)
        if wire.accepted is None:
            await self._finish(failed=False)
            if self._closed_here or self._server_killed:
                raise self._gone()
            raise NothingReceivedError("the app returned without answering the handshake")
        self.subprotocol, self.headers = wire.accepted
        known = self._scope.get("subprotocols") or ()
        if self.subprotocol is not None and self.subprotocol not in known:
            await self.drop()
            await self._finish(failed=True)
            raise UnexpectedFrameError(
                f"the app accepted with the subprotocol {self.subprotocol!r}, which fails every "
                f"client that did not offer it; this one offered: {', '.join(known) or 'none'}"
            )

    async def _put(self, frame: Frame) -> None:
        data = frame.encode() if isinstance(frame, str) else frame
        if self._max_size is not None and len(data) > self._max_size:
            reason = f"over {self._max_size} bytes (ws_max_size)"
            self._wire.cut(1009, reason)
        else:
            kind = "text" if isinstance(frame, str) else "bytes"
            self._wire.events.put_nowait({"type": "websocket.receive", kind: frame})
        await asyncio.sleep(0)

    async def _leave(self, *, failed: bool) -> None:
        await self.close()
        await self._finish(failed=failed)

    def _app_ended(self, task: asyncio.Task[None]) -> None:
        """Do as a server does whose app has returned, be it done with the connection or not."""
        if not task.cancelled():
            self._failure = task.exception()
        self._wire.cut(ABNORMAL, "")
        self._wire.answered.set()

    async def _finish(self, *, failed: bool) -> None:
        """Wait for the app's part of this connection to end."""
        task = self._task
        assert task is not None
        if self._server_killed:
            return
        seconds = min(LEAVING, self._timeout) if self._timeout <= TIMEOUT else self._timeout
        if task.get_loop() is not asyncio.get_running_loop():
            return  # a fixture's loop, which is not the test's: that one is closed by now
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            await self._abandon()
            if not failed:
                raise NothingReceivedError(
                    f"the app did not end this connection within {seconds} s of its close"
                    + self._settings()
                )
        if not failed and self._failure is not None:
            raise self._failure

    def _settings(self) -> str:
        """Say which settings let the app's part go on, if it is a route of ours."""
        pachinko = find_pachinko(self._app)
        route = None if pachinko is None else pachinko.find_route(self._scope["path"])
        if route is None:
            return ""
        limits = route.limits
        return (
            f": a handler or the on_disconnect of {route.resource.__name__} still runs. A handler "
            f"may go on for handler_grace={limits.handler_grace} s after its client has left, an "
            f"on_disconnect for shutdown_timeout={limits.shutdown_timeout} s. Let it end before "
            "the client leaves, or test with a smaller one: install(app, "
            "limits=Limits(handler_grace=0.1))"
        )

    async def _abandon(self, seconds: float | None = None) -> None:
        """Cancel the app's part, as a server does that cannot wait any longer."""
        assert self._task is not None
        if not self._task.done() and not self._server_killed:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=self._timeout if seconds is None else seconds)

    async def end_with_server(self) -> None:
        """End because the server does, if the client has not ended by then."""
        self.close_with_server()
        if self._task is not None:
            await self._finish(failed=True)

    def close_with_server(self) -> None:
        """Hear that the server goes."""
        if self._task is not None:
            self._wire.cut(1012, "")

    def lose_server(self) -> None:
        """Lose the connection because the server's process was killed, in the midst of anything."""
        if self._task is not None and not self._task.done():
            self._server_killed = True
            self._wire.abort()
            self._wire.answered.set()


class Lifespan:
    """An app's startup and shutdown, as a server runs them."""

    def __init__(self, app: Any, timeout: float, create_task: CreateTask) -> None:
        self._app, self._timeout, self._create_task = app, timeout, create_task
        self._events: asyncio.Queue[AsgiEvent] = asyncio.Queue()
        self._answer: AsgiEvent | None = None
        self._answered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the app.

        Raises:
            LifespanError: Its startup failed, or took too long.
            BaseException: What escaped from it.
        """
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        self._task = self._create_task(self._app(scope, self._events.get, self._take))
        self._task.add_done_callback(lambda _: self._answered.set())
        await self._ask("startup")

    async def stop(self) -> None:
        """Stop the app, and wait for its end; a second call does nothing.

        Raises:
            LifespanError: Its shutdown failed, or took too long.
            BaseException: What escaped from it.
        """
        if self._task is not None and not self._task.done():
            await self._ask("shutdown")
            await asyncio.wait([self._task], timeout=self._timeout)

    async def _ask(self, what: str) -> None:
        assert self._task is not None
        self._answered.clear()
        self._events.put_nowait({"type": f"lifespan.{what}"})
        try:
            async with asyncio.timeout(self._timeout):
                await self._answered.wait()
        except TimeoutError:
            raise LifespanError(f"the app's {what} took over {self._timeout} s") from None
        finally:
            answer, self._answer = self._answer, None
            if answer is None:  # cancelled, too late, or broken: in no state to go on
                self._task.cancel()
                await asyncio.wait([self._task], timeout=self._timeout)
        if answer is None:
            self._task.result()
            raise LifespanError(f"the app returned without answering its {what}")
        if answer["type"] == f"lifespan.{what}.failed":
            raise LifespanError(f"the app's {what} failed:\n\n{answer.get('message', '')}")

    async def _take(self, event: AsgiEvent) -> None:
        """Be the ``send`` that the app gets."""
        self._answer = event
        self._answered.set()


class Simulator:
    """A running app; `simulate` makes it, and ``connect`` its clients."""

    def __init__(
        self,
        app: Any,
        timeout: float = TIMEOUT,
        *,
        ws_max_size: int | None = None,
        write_buffer: int = WRITE_BUFFER,
        lifespan_timeout: float = LIFESPAN_TIMEOUT,
    ) -> None:
        self.app = app
        self.http = MemoryHttp(app)
        """Falcon's conductor, for ``localhost``: ``await client.http.get("/health")``."""
        self._timeout, self._max_size, self._write_buffer = timeout, ws_max_size, write_buffer
        self._lifespan = Lifespan(app, lifespan_timeout, self._spawn)
        self._crash: tuple[Worker, BaseException] | None = None  # of a critical worker
        self._clients: weakref.WeakValueDictionary[int, MemoryClient] = (
            weakref.WeakValueDictionary()
        )
        # By a number, so that they are in the order in which they were made.
        self._numbers = itertools.count()

    @property
    def manager(self) -> WebSocketConnectionManager:
        """The app's connection manager."""
        pachinko = find_pachinko(self.app)
        if pachinko is None:
            raise TypeError("the app has no connection manager: install(app) first")
        return pachinko.ws_connection_manager

    async def __aenter__(self) -> Self:
        pachinko = find_pachinko(self.app)
        if pachinko is not None:
            pachinko.controller.on_critical = self._has_crashed
        await self._lifespan.start()
        return self

    def _has_crashed(self, worker: Worker, error: BaseException) -> None:
        """Do as a server does that is stopped, but leave the process of the tests alone."""
        self._crash = (worker, error)
        for client in list(self._clients.values()):
            client.close_with_server()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pachinko = find_pachinko(self.app)
        try:
            await self.stop()
        except Exception:
            if error is None:  # else the test failed already: that is what it should say
                raise
        finally:
            if pachinko is not None:
                pachinko.controller.on_critical = stop_server
        if self._crash is not None:
            worker, cause = self._crash
            sentence = (
                f"the worker {worker.name!r} is critical and has crashed: a server stops then"
            )
            if error is None:
                raise LifespanError(sentence) from cause
            error.add_note(f"{sentence}; it raised {cause!r:.500}")

    async def stop(self) -> None:
        """Shut the app down, with its clients as they are; a second call does nothing.

        Leaving the ``async with`` does it too. Call it to see what clients see
        when their server goes.

        Raises:
            LifespanError: The app's shutdown failed, or took too long.
        """
        try:
            await self._lifespan.stop()
        finally:
            for client in list(self._clients.values()):
                await client.end_with_server()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine where the app runs, which here is where the test runs.

        `LiveServer` has the same method: a test that uses it runs in memory and live.
        """
        return await coroutine

    def connect(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        timeout: float | None = None,
        **scope: Any,
    ) -> MemoryClient:
        """Make a client of a path, such as ``"/ws/chat/tea?name=Ann"``; enter it to connect.

        Args:
            path: The path, with the query if there is one.
            headers: The handshake's headers.
            subprotocols: What the client offers, in its order of preference.
            timeout: Seconds that it waits for a frame, in place of the simulator's.
            scope: More arguments for `falcon.testing.create_scope_ws`, such as
                ``remote_addr``.

        Raises:
            HandshakeDenied: On entering, if the app denies the connection.
            ConnectionRefusedError: It is a process of a cluster that was killed, or has stopped.
        """
        self._check_reachable()
        client = MemoryClient(
            self.app,
            _handshake(path, headers or {}, subprotocols, scope),
            self._timeout if timeout is None else timeout,
            ws_max_size=self._max_size,
            write_buffer=self._write_buffer,
            create_task=self._spawn,
        )
        self._clients[next(self._numbers)] = client
        return client

    def _check_reachable(self) -> None:
        """Refuse a client where there is nothing to connect to, which a cluster may have."""

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a part of the app in a task of its own."""
        return create_task(work)


def simulate(
    app: Any,
    *,
    timeout: float = TIMEOUT,
    ws_max_size: int | None = None,
    write_buffer: int = WRITE_BUFFER,
    lifespan_timeout: float = LIFESPAN_TIMEOUT,
) -> Simulator:
    """Run an app in memory, for as long as an ``async with`` lasts.

    Startup and shutdown run as under a server, workers included, and what a
    server refuses is refused.

    Args:
        app: A Falcon app with `install` done.
        timeout: Seconds that every wait of every client takes at most.
        ws_max_size: Bytes of a message above which the server closes with 1009, as
            uvicorn's option of that name; None for no such limit.
        write_buffer: Bytes that may wait for a stalled client before the app's
            ``send`` does.
        lifespan_timeout: Seconds that startup and shutdown may take, each.

    A critical worker that crashes does not end the process of the tests: clients see
    1012, as when a server stops, and leaving raises.

    Raises:
        LifespanError: On entering or leaving, if startup or shutdown fails, or a critical
            worker has crashed; has the traceback.
    """
    return Simulator(
        app,
        timeout,
        ws_max_size=ws_max_size,
        write_buffer=write_buffer,
        lifespan_timeout=lifespan_timeout,
    )


def _handshake(
    path: str, headers: Mapping[str, str], subprotocols: Sequence[str], more: dict[str, Any]
) -> Scope:
    """Make the scope of a handshake as a server would: Falcon's own holds iterators."""
    path, _, query = path.partition("?")
    scope = falcon.testing.create_scope_ws(
        path,
        query_string=query,
        headers=dict(headers),
        subprotocols=list(subprotocols),  # type: ignore[arg-type]  # mistyped in Falcon 4.4
        **{"spec_version": "2.4", "host": "localhost", "remote_addr": "127.0.0.1", **more},
    )
    pairs = [tuple(pair) for pair in scope["headers"]]
    if any(name.lower() == "host" for name in headers):
        # Falcon adds a Host of its own, the last, beside the one that was given.
        pairs.remove([pair for pair in pairs if pair[0] == b"host"][-1])
    scope["headers"] = pairs
    for side in ("client", "server"):
        if side in scope:
            scope[side] = tuple(scope[side])
    scope["extensions"] = {"websocket.http.response": {}}
    return scope
