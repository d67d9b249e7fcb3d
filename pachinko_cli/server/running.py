"""One run of the app under uvicorn, from its import to the signal that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from pachinko_cli.errors import CliError
from pachinko_cli.server import log, overview
from pachinko_cli.server.loading import load

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import FrameType

    from falcon_pachinko import WebSocketConnectionManager
    from pachinko_cli.server.overview import Overview
    from pachinko_cli.server.plan import Plan

# How long a second signal leaves the process to end by itself.
_HURRY_SECONDS = 2.0

# Seconds between two looks whether a second signal came.
_LOOK_SECONDS = 0.1


def run(plan: Plan, listener: socket.socket, on_ready: Callable[[Overview, str], None]) -> None:
    """Serve the app on `listener` until SIGINT or SIGTERM; return then, whatever was going on.

    `on_ready` gets what there is to say about the app, and where the page is, as soon as requests
    are answered.  Without reload, clients are drained before the end.

    Raises:
        CliError: The app does not import (`LoadError`), or refused to start.
    """
    config = _config(plan)
    os.chdir(plan.root)
    app = load(plan.root, plan.app, factory=config.factory, whole_trace=plan.console.verbose)
    config.app, config.factory = app, False
    manager = _manager(app)
    if plan.trace:
        from pachinko_cli.server.trace import Tracer  # noqa: PLC0415 - without it, it costs nothing

        config.app = Tracer(plan.console).around(app)

    def ready() -> None:
        url = overview.url(plan.host, listener.getsockname()[1], secure=config.is_ssl)
        on_ready(overview.of(app), url)

    server = Server(config, ready, drain=None if plan.reload else Drain(plan, manager))
    try:
        server.run(sockets=[listener])
    except SystemExit:
        if server.started:
            raise
    if not server.started:
        raise CliError(
            f"{plan.app} was imported, but its startup failed; the log above says why",
            hint="look at its process_startup methods and at its workers",
        )


def _manager(app: Any) -> WebSocketConnectionManager | None:
    """What knows the app's connections; None where `falcon_pachinko` is not installed."""
    from falcon_pachinko.app import installed  # noqa: PLC0415 - after the app's own imports

    pachinko = installed(app)
    return pachinko.ws_connection_manager if pachinko else None


def run_failure(plan: Plan, listener: socket.socket, error: CliError) -> None:
    """Answer every request with `error`, so that the browser shows what the terminal shows.

    A WebSocket is refused with 403.  Returns on SIGINT or SIGTERM.
    """
    page = error.message.encode()

    async def explain(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013})
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": page})

    config = _config(plan)
    config.app, config.factory, config.lifespan = explain, False, "off"
    Server(config, lambda: None).run(sockets=[listener])


def _config(plan: Plan) -> uvicorn.Config:
    """The settings of uvicorn, with the log set up and no app yet: its import may want to log."""
    options = plan.options()
    show: Callable[[logging.LogRecord], bool]
    show = log.worth_a_line if plan.reload else log.worth_a_line_without_reload
    if plan.console.verbose or "log_level" in options:
        show = log.everything
    level = logging.WARNING if plan.console.quiet else logging.INFO
    options.setdefault("log_config", log.configuration(level, show))
    config = uvicorn.Config(plan.app, **options)
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).addFilter(log.redacted)  # in whatever format it is logged
    return config


class Drain:
    """How clients are sent away before the server stops: kindly, and in `plan.drain` seconds."""

    def __init__(self, plan: Plan, manager: WebSocketConnectionManager | None) -> None:
        self.seconds = plan.drain
        self._console, self._manager = plan.console, manager

    async def run(self) -> None:
        """Send everybody away, and say so."""
        if self._manager is None:
            return
        count = await self._manager.count()
        self._console.event("draining", pid=os.getpid(), connections=count, seconds=self.seconds)
        if count:
            whom = _connections(count)
            self._console.line(f"Draining {whom}, for up to {self.seconds:g} s", style="dim")
        gone = await self._manager.drain(self.seconds)
        self._console.event("drained", pid=os.getpid(), closed=gone.closed, cut=gone.cut)
        if gone.cut:
            busy = "they were" if gone.cut > 1 else "it was"
            self._console.line(f"Cut, since {busy} still busy: {_connections(gone.cut)}")


def _connections(count: int) -> str:
    return f"{count} connection{'s'[: count != 1]}"


class Server(uvicorn.Server):
    """uvicorn's server: it says when it is ready, drains, and ends without a signal's exit code."""

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], drain: Drain | None = None
    ) -> None:
        super().__init__(config)
        self._on_ready, self._drain = on_ready, drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening and drain, before uvicorn closes all sockets and then stops the app."""
        if self._drain is not None:
            for server in self.servers:
                server.close()
            for listener in sockets or []:
                listener.close()
            await self._send_away(self._drain)
        await super().shutdown(sockets)

    async def _send_away(self, drain: Drain) -> None:
        """Drain, until it is done or a second signal comes; requests have what time is left."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + drain.seconds
        draining = loop.create_task(drain.run())
        while not (draining.done() or self.force_exit):
            await asyncio.wait([draining], timeout=_LOOK_SECONDS)
        if not draining.done():
            draining.cancel()
        elif (error := draining.exception()) is not None:
            logging.getLogger("uvicorn.error").error("the drain failed", exc_info=error)
        grace = self.config.timeout_graceful_shutdown
        if grace is not None:  # the user may have asked uvicorn to wait for ever
            left = max(ends - loop.time(), grace)
            self.config.timeout_graceful_shutdown = left  # type: ignore[assignment]  # any number does

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; at a second signal, end at once."""
        if not self.should_exit:
            self.should_exit = True
        elif multiprocessing.parent_process() is None:  # else the supervisor sees to that
            self.force_exit = True
            threading.Thread(target=_end_anyway, daemon=True).start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let a signal end the server, and nothing more.

        uvicorn raises it again after a clean end, for a traceback of `KeyboardInterrupt` or exit
        code 143.  Ending is what was asked for: that is exit code 0.
        """
        for number in HANDLED_SIGNALS:
            signal.signal(number, self.handle_exit)
        yield


def _end_anyway() -> None:
    """End the process, though something in it may wait without await."""
    time.sleep(_HURRY_SECONDS)
    os._exit(1)
