"""The listening socket, bound before anything else happens."""

from __future__ import annotations

import errno
import socket
import sys

from pachinko_cli.errors import CliError

FIRST_PORT = 8000
_PORTS_TO_TRY = 100
_BACKLOG = 2048

# A peer that acknowledges nothing for so long is gone.  uvicorn cannot tell: it waits for the
# buffer of a client that stopped reading to empty, which never happens.
_UNACKNOWLEDGED_MS = 30_000


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens on `host`; without a `port`, on the first free one from 8000.

    A port that was asked for is taken or refused, never exchanged for another.  The socket can be
    handed to a child process, and what it accepts inherits its options.

    Raises:
        CliError: The port is taken, or the host or port is not ours to use.
    """
    if port is not None:
        return _bound(host, port)
    for candidate in range(FIRST_PORT, FIRST_PORT + _PORTS_TO_TRY):
        try:
            return _bound(host, candidate)
        except PortTakenError:
            continue
    raise CliError(
        f"every port from {FIRST_PORT} to {candidate} on {host} is taken",
        hint="choose one: pachinko serve --port N",
    )


class PortTakenError(CliError):
    """Another process listens there (exit 1)."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        super().__init__(
            f"port {port} on {host} is taken by another process",
            hint="stop that one, choose another with --port N, or leave --port out for a free one",
        )


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if sys.platform != "win32":  # there it would let a second server steal the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
    try:
        listener.bind((host, port))
        # Listening here and now is what makes "taken" certain, and lets a request that comes while
        # the app loads wait for it instead of failing.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(host, port) from error
        raise CliError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}",
            hint="127.0.0.1 with a port above 1023 always works; 0.0.0.0 is every interface",
        ) from error
    return listener
