"""One run of the app under uvicorn, from its import to the signal that ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import webbrowser
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from pachinko_cli.errors import CliError
from pachinko_cli.server import log, overview
from pachinko_cli.server.loading import load

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from pachinko_cli.server.overview import Overview
    from pachinko_cli.server.plan import Plan


def run(
    plan: Plan,
    listener: socket.socket,
    *,
    shown: Overview | None = None,
    on_ready: Callable[[Overview], None] = lambda _: None,
) -> None:
    """Serve the app on `listener` until SIGINT or SIGTERM; return then, whatever was going on.

    `shown` is what the last banner said: the next one is only printed when it says something else.
    `on_ready` gets what this one says as soon as requests are answered.

    Raises:
        CliError: The app does not import (`LoadError`), or refused to start.
    """
    config = _config(plan)
    os.chdir(plan.root)
    app = load(plan.root, plan.app, factory=config.factory, whole_trace=plan.console.verbose)
    config.app, config.factory = app, False

    def announce() -> None:
        found = overview.of(app)
        url = overview.url(plan.host, listener.getsockname()[1], secure=config.is_ssl)
        overview.announce(plan, found, url, shown)
        if plan.open_page and shown is None:
            # A browser in the terminal would block: not the loop, please.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        on_ready(found)

    server = Server(config, announce)
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


class Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready and ends without a signal's exit code."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and announce it."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let a signal end the server, and nothing more.

        uvicorn raises it again after a clean end, for a traceback of `KeyboardInterrupt` or exit
        code 143.  Ending is what was asked for: that is exit code 0.
        """
        for number in HANDLED_SIGNALS:
            signal.signal(number, self.handle_exit)
        yield
