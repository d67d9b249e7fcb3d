"""An app under test on a real server, and clients that reach it over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import json
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from falcon_pachinko.connection.ends import ABNORMAL
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
from falcon_pachinko.testing.http import LiveHttp
from falcon_pachinko.testing.simulator import find_pachinko
from falcon_pachinko.typing import Frame
from falcon_pachinko.workers import Worker, stop_server

__all__ = ["LiveClient", "LiveServer", "serve"]

GRACE = 5
"""Seconds that a server gives its connections to end, before it cancels them."""

T = TypeVar("T")


class LiveClient(Client):
    """A client on a socket, for any server; `LiveServer.connect` makes it.

    Args:
        url: Where to connect, ``ws://host:port/path?query``.
        headers: The handshake's headers; a Host among them goes out in place of the URL's.
        subprotocols: What it offers, in its order of preference.
        timeout: Seconds that each of its waits takes at most.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        timeout: float = TIMEOUT,
    ) -> None:
        _check_installed("websockets", "a client on a socket")
        super().__init__(timeout)
        self.url = url
        self._given, self._offered = dict(headers or {}), list(subprotocols)
        self._socket: Any = None
        self._reader: asyncio.Task[None] | None = None

    async def close(self, code: int = 1000, reason: str = "") -> None:  # noqa: D102  # Client says it
        check_close(code, reason)
        if self._socket is not None:
            await self.resume()
            await self._socket.close(code, reason)
            await self._read_to_the_end()

    async def drop(self) -> None:  # noqa: D102  # Client says it
        self._end(ABNORMAL, here=True)
        if self._socket is not None:
            self._socket.transport.abort()
            await self._read_to_the_end()

    async def stall(self) -> None:
        """Stop reading, as a client does that is suspended or too slow.

        The operating systems between them take up to some megabytes before the
        app's ``send`` waits. `resume` delivers it, `drop` ends it.
        """
        self.stalled = True
        self._socket.transport.pause_reading()

    async def resume(self) -> None:  # noqa: D102  # Client says it
        if self.stalled:
            self.stalled = False
            self._socket.transport.resume_reading()

    async def _open(self) -> None:
        from websockets.asyncio.client import connect  # noqa: PLC0415  # an extra
        from websockets.exceptions import InvalidHandshake, InvalidStatus  # noqa: PLC0415  # an extra

        class Connect(connect):
            def process_redirect(self, exc: Exception) -> Exception:
                return exc  # a denial is an answer, wherever it points

        url, where = self._address()
        try:
            self._socket = await Connect(
                url,
                **where,
                additional_headers=self._given,
                subprotocols=self._offered or None,  # type: ignore[arg-type]  # a NewType of str
                compression=None,
                open_timeout=self._timeout,
                close_timeout=self._timeout,
                ping_interval=None,  # a client that stalls must not end its connection itself
                max_size=None,
                max_queue=None,  # it reads on, unless it is told to stall
                proxy=None,
            )
        except InvalidStatus as denied:
            answer = denied.response
            raise HandshakeDenied(
                answer.status_code, _lowered(answer.headers), bytes(answer.body or b"")
            ) from None
        except TimeoutError:
            raise NothingReceivedError(
                f"the handshake was not answered within {self._timeout} s: "
                "on_connect neither returned nor raised"
            ) from None
        except InvalidHandshake as error:
            raise UnexpectedFrameError(f"the handshake failed: {error}") from error
        self.subprotocol = self._socket.subprotocol
        self.headers = _lowered(self._socket.response.headers)
        self._reader = asyncio.get_running_loop().create_task(self._read())

    def _address(self) -> tuple[str, dict[str, Any]]:
        """Part the URL into what goes out as the Host, and where the socket connects."""
        parts = urlsplit(self.url)
        where = {
            "host": parts.hostname,
            "port": parts.port or (443 if parts.scheme == "wss" else 80),
        }
        name = next((name for name in self._given if name.lower() == "host"), None)
        if name is not None:
            parts = parts._replace(netloc=self._given.pop(name))
        return parts.geturl(), where

    async def _read(self) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415  # an extra

        try:
            while True:
                self._arrive(await self._socket.recv())
        except ConnectionClosed as gone:
            app_first = gone.sent is None or bool(gone.rcvd_then_sent)
            first = gone.rcvd if app_first else gone.sent
            if first is None:
                self._end(ABNORMAL)
            else:
                self._end(first.code, first.reason, here=not app_first)

    async def _put(self, frame: Frame) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415  # an extra

        try:
            async with asyncio.timeout(self._timeout):
                await self._socket.send(frame)
        except TimeoutError:
            raise NothingReceivedError(
                f"the server did not take a frame within {self._timeout} s; {self._history()}"
            ) from None
        except ConnectionClosed:
            await self._read_to_the_end()
            raise self._gone() from None

    async def _leave(self, *, failed: bool) -> None:
        await self.close()

    async def _read_to_the_end(self) -> None:
        assert self._reader is not None
        await asyncio.wait([self._reader], timeout=self._timeout)


class LiveServer:
    """A real uvicorn with an app, on a free port; `serve` makes it.

    Whatever fails within its ``async with`` has the server's log in a note.
    """

    def __init__(
        self,
        run: _InThread | _InProcess,
        *,
        timeout: float,
        lifespan_timeout: float,
        stop_timeout: float,
    ) -> None:
        self._run, self._timeout = run, timeout
        self._lifespan_timeout, self._stop_timeout = lifespan_timeout, stop_timeout
        self._stopped = False

    @property
    def url(self) -> str:
        """Where WebSockets are, such as ``ws://127.0.0.1:49152``."""
        return f"ws://127.0.0.1:{self._run.port}"

    @property
    def http_url(self) -> str:
        """Where the rest of the app is, such as ``http://127.0.0.1:49152``."""
        return f"http://127.0.0.1:{self._run.port}"

    @property
    def log(self) -> str:
        """What it has logged so far; of a subprocess, all that it has printed."""
        return self._run.log

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The subprocess, for tests that send it signals; None if the app runs in a thread."""
        return self._run.process

    @property
    def http(self) -> LiveHttp:
        """An HTTP client of the server: ``(await server.http.get("/health")).json``.

        It answers with `falcon.testing.Result`, as `Simulator.http` does.
        """
        return LiveHttp(self.http_url, self._timeout)

    async def __aenter__(self) -> Self:
        run = self._run
        run.start()
        try:
            in_time = await _until(
                lambda: run.port is not None or run.ended, self._lifespan_timeout
            )
        except asyncio.CancelledError:
            run.kill()
            raise
        if run.port is None:
            run.kill()
            when = "" if in_time else f" within {self._lifespan_timeout} s"
            raise LifespanError(f"the server did not start{when}; its log:\n\n{self.log}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.stop()
            return
        with contextlib.suppress(LifespanError):  # the test failed already, and says why
            await self.stop()
        if self.log:
            error.add_note(f"The server's log:\n{self.log}")

    async def stop(self) -> None:
        """Stop the server as SIGTERM does; a second call does nothing.

        Raises:
            LifespanError: It did not stop in time, and was killed, or left behind
                if it is a thread; or a critical worker of an app in a thread has crashed.
        """
        if self._stopped:
            return
        self._stopped, in_time = True, True
        if not self._run.ended:
            self._run.ask_to_stop()
        try:
            in_time = await _until(lambda: self._run.ended, self._stop_timeout)
        finally:
            self._run.kill()
        if not in_time:
            raise LifespanError(
                f"the server did not stop within {self._stop_timeout} s; its log:\n\n{self.log}"
            )
        if self._run.crash is not None:
            worker, cause = self._run.crash
            raise LifespanError(
                f"the worker {worker.name!r} is critical and has crashed, which stops a server"
            ) from cause

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine where the app runs, which is in another thread.

        What belongs to the app belongs to its event loop: a test that broadcasts
        through the manager does it here.

        Raises:
            TypeError: The app runs in another process.
            RuntimeError: The server has stopped.

        Example::

            await server.run(app.ws_connection_manager.broadcast_to_all({"type": "news"}))
        """
        loop = self._run.loop
        if loop is None:
            coroutine.close()
            raise TypeError("the app runs in a process of its own; serve() the app itself instead")
        if self._run.ended:
            coroutine.close()
            raise RuntimeError("the server has stopped")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))

    def connect(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        timeout: float | None = None,
    ) -> LiveClient:
        """Make a client of a path, such as ``"/ws/chat/tea?name=Ann"``; enter it to connect.

        Args:
            path: The path, with the query if there is one.
            headers: The handshake's headers.
            subprotocols: What the client offers, in its order of preference.
            timeout: Seconds that it waits for a frame, in place of the server's.

        Raises:
            HandshakeDenied: On entering, if the app denies the connection.
        """
        return LiveClient(
            self.url + path,
            headers=headers,
            subprotocols=subprotocols,
            timeout=self._timeout if timeout is None else timeout,
        )


def serve(
    app: Any,
    *,
    timeout: float = TIMEOUT,
    lifespan_timeout: float = LIFESPAN_TIMEOUT,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> LiveServer:
    """Run an app on a real uvicorn, for as long as an ``async with`` lasts.

    It listens on a free port of 127.0.0.1, and is up once the app's startup is done.

    Args:
        app: An app, which then runs in a thread of this process; or where to import
            it from, ``"package.module:app"``, and it has a process of its own, with
            this one's folder and import path.
        timeout: Seconds that every wait of every client takes at most.
        lifespan_timeout: Seconds that startup and shutdown may take, each.
        env: More environment variables for the process.
        options: Options of `uvicorn.Config`, such as ``ws_max_size=65_536``,
            ``ws="wsproto"`` or ``factory=True``.

    Raises:
        ImportError: uvicorn or websockets is not installed.
        TypeError: uvicorn has no such option, or it is one that ``serve`` sets itself.
        LifespanError: On entering or leaving, if the app does not start or stop;
            has the log.

    Example::

        async with serve("tea_room.asgi:app") as server:
            async with server.connect("/ws/chat/tea") as ann:
                await ann.expect("welcome")
    """
    _check_installed("uvicorn", "serve()")
    _check_installed("websockets", "serve()")
    from uvicorn import Config  # noqa: PLC0415  # an extra

    own = sorted({"host", "port", "fd", "uds", "reload", "workers"} & set(options))
    if own:
        raise TypeError(f"serve() sets this itself; leave out {', '.join(own)}")
    options = {
        "ws_per_message_deflate": False,
        "lifespan": "on",
        "timeout_graceful_shutdown": GRACE,
        **options,
    }
    inspect.signature(Config).bind(app, **options)
    if not isinstance(app, str) and env is not None:
        raise TypeError("env= is for an app with a process of its own: serve('module:app', env=…)")
    return LiveServer(
        _InProcess(app, options, env or {}) if isinstance(app, str) else _InThread(app, options),
        timeout=timeout,
        lifespan_timeout=lifespan_timeout,
        stop_timeout=lifespan_timeout + (options["timeout_graceful_shutdown"] or 0),
    )


def run_uvicorn(
    app: Any,
    options: dict[str, Any],
    began: Callable[[Any], None],
    started: Callable[[int], None],
) -> None:
    """Run uvicorn on a free port, until it ends.

    Args:
        app: The app, or where to import it from.
        options: Options of `uvicorn.Config`.
        began: Gets the server, within its event loop, before the app's startup.
        started: Gets the port, after it.
    """
    import uvicorn  # noqa: PLC0415  # an extra

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            began(self)
            await super().startup(sockets)
            if self.started:
                started(listener.getsockname()[1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Server(uvicorn.Config(app, **options)).run([listener])


class _InThread:
    """A server in a thread of this process, with an event loop of its own."""

    process = None
    crash: tuple[Worker, BaseException] | None = None  # of a critical worker

    def __init__(self, app: Any, options: dict[str, Any]) -> None:
        self._app, self._options = app, {"log_config": None, **options}
        self._lines: list[str] = []
        self._server: Any = None
        self._thread = threading.Thread(target=self._work, name="uvicorn", daemon=True)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.port: int | None = None

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    @property
    def log(self) -> str:
        return "\n".join(self._lines)

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._server.should_exit = True

    def kill(self) -> None:
        """Cancel what is left in its loop; code that blocks the loop cannot be stopped."""

        def cancel_all() -> None:
            for task in asyncio.all_tasks():
                task.cancel()

        if not self.ended and self.loop is not None:
            with contextlib.suppress(RuntimeError):  # it ends by itself right now
                self.loop.call_soon_threadsafe(cancel_all)

    def _work(self) -> None:
        handler = _LinesOfThread(self._lines)
        logging.getLogger().addHandler(handler)
        pachinko = find_pachinko(self._app)
        if pachinko is not None:
            pachinko.controller.on_critical = self._has_crashed
        try:
            run_uvicorn(self._app, self._options, self._began, self._started)
        except SystemExit:
            pass  # uvicorn has logged why
        except BaseException:
            logging.getLogger(__name__).exception("the server broke off")
        finally:
            logging.getLogger().removeHandler(handler)
            if pachinko is not None:
                pachinko.controller.on_critical = stop_server

    def _has_crashed(self, worker: Worker, error: BaseException) -> None:
        """Stop the server, but leave the process of the tests alone."""
        self.crash = (worker, error)
        self._server.should_exit = True

    def _began(self, server: Any) -> None:
        self._server, self.loop = server, asyncio.get_running_loop()

    def _started(self, port: int) -> None:
        self.port = port


class _LinesOfThread(logging.Handler):
    """Keeps what one thread logs."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self._lines, self._thread = lines, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._lines.append(self.format(record))


_PROGRAM = """
import json, os, sys, threading
from falcon_pachinko.testing.live import run_uvicorn

def end_with_the_test():
    sys.stdin.read()
    os._exit(1)

threading.Thread(target=end_with_the_test, daemon=True).start()
app, options = sys.argv[1:]
tell = lambda port: print("Serving port", port, flush=True)
run_uvicorn(app, json.loads(options), lambda server: None, tell)
"""


class _InProcess:
    """A server in a process of its own, which ends at the latest when this one does."""

    loop = None
    crash = None  # its log has it

    def __init__(self, app: str, options: dict[str, Any], env: Mapping[str, str]) -> None:
        self._command = [sys.executable, "-c", _PROGRAM, app, json.dumps(options)]
        path = os.pathsep.join(filter(None, sys.path))
        self._env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **env}
        self._printed = ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int | None:
        found = re.search(r"^Serving port (\d+)$", self.log, re.MULTILINE)
        return int(found[1]) if found else None

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    @property
    def log(self) -> str:
        if self._folder is not None:
            self._printed = Path(self._folder.name, "log").read_text(errors="replace")
        return self._printed

    def start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="falcon-pachinko-")
        with Path(self._folder.name, "log").open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  # the test's own app
                self._command,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask_to_stop(self) -> None:
        assert self.process is not None
        self.process.terminate()

    def kill(self) -> None:
        """Kill it if it still runs, and keep no more of it than its log."""
        if self._folder is None or self.process is None:
            return
        self.process.kill()
        self.process.communicate()
        _, folder, self._folder = self.log, self._folder, None
        folder.cleanup()


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for another thread or process; say whether it came true in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


def _check_installed(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"{what} needs {package}, which is not installed: "
            "pip install 'falcon-pachinko[testing]'",
            name=package,
        )


def _lowered(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.raw_items()}
