"""The server's log: one short line a request, and no secret of a query in it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Callable

# The parts of a parameter's name that say its value opens something: `token`, `access_token`,
# `api-key`, `authToken`, `X-Amz-Signature`.
_SECRET_WORDS = {
    *("token", "accesstoken", "authtoken", "jwt", "key", "apikey", "nonce", "otp", "ticket"),
    *("password", "passwd", "passphrase", "pwd", "secret", "credential", "credentials"),
    *("auth", "authorization", "authentication", "assertion", "signature", "sig"),
    *("session", "sessionid", "sid"),
}
_COLOURS = {1: 32, 2: 32, 3: 36, 4: 33, 5: 31}  # green, cyan, yellow, red
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def redact(target: str) -> str:
    """A request's target with `***` in place of each secret in its query.

    What counts is the name of a parameter, decoded as the application will decode it; the path
    stays as it is.

    >>> redact("/ws/chat/tea?token=abc&since=4&api-key=x")
    '/ws/chat/tea?token=***&since=4&api-key=***'
    """
    path, mark, query = target.partition("?")
    if not mark:
        return target
    fields = (field.partition("=") for field in query.split("&"))
    return f"{path}?" + "&".join(
        f"{name}=***" if value and opens_something(name) else name + equals + value
        for name, equals, value in fields
    )


def opens_something(name: str) -> bool:
    """Whether what goes by this name is a secret, as far as a name can tell.

    >>> opens_something("accessToken"), opens_something("author")
    (True, False)
    """
    words = _WORDS.findall(unquote_plus(name))
    return any(word.lower() in _SECRET_WORDS for word in words)


def redacted(record: logging.LogRecord) -> bool:
    """A filter that lets every record pass, its arguments redacted."""
    if isinstance(record.args, tuple):
        record.args = tuple(redact(a) if isinstance(a, str) else a for a in record.args)
    return True


def everything(_: logging.LogRecord) -> bool:
    """A filter that lets every record pass."""
    return True


def worth_a_line(record: logging.LogRecord) -> bool:
    """A filter for what people want to see: handshakes, warnings and errors.

    Neither uvicorn's reports about its own start and stop, nor the traceback of a handler that was
    cancelled because the server ends: that one did nothing wrong.
    """
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
        return False
    return record.levelno > logging.INFO or _is_handshake(record)


def worth_a_line_without_reload(record: logging.LogRecord) -> bool:
    """The same, and what uvicorn waits for when it ends: that may take a while."""
    return worth_a_line(record) or "CTRL+C" in str(record.msg)


def wants_colours() -> bool:
    """Whether stderr shows colours, and the user wants to see them."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


class Line(logging.Formatter):
    """`14:03:22  200  GET  /health  127.0.0.1:53412`, and `14:03:22  error  ...` for the rest.

    The status has a colour on a terminal, unless `NO_COLOR` is set; `use_colors` decides otherwise.
    """

    def __init__(self, *, use_colors: bool | None = None) -> None:
        super().__init__(datefmt="%H:%M:%S")
        if use_colors is None:
            use_colors = wants_colours()
        self._use_colors = use_colors

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line of one record, without its traceback."""
        time = self.formatTime(record, self.datefmt)
        if record.name == "uvicorn.access":
            client, method, target, _, status = record.args  # type: ignore[misc]  # uvicorn's five
            return f"{time}  {self._status(status)}  {method:<4} {target}  {client}"
        if _is_handshake(record):
            client, target, *refused = record.args  # type: ignore[misc]  # uvicorn's two or three
            status = refused[0] if refused else 101 if "accepted" in record.msg else 403
            return f"{time}  {self._status(status)}  WS   {target}  {client}"
        return f"{time}  {record.levelname.lower()}  {record.getMessage().strip()}"

    def _status(self, status: Any) -> str:
        colour = _COLOURS.get(int(status) // 100)
        return f"\x1b[{colour}m{status}\x1b[0m" if self._use_colors and colour else str(status)


def _is_handshake(record: logging.LogRecord) -> bool:
    return isinstance(record.msg, str) and '"WebSocket %s"' in record.msg


def configuration(level: int, show: Callable[[logging.LogRecord], bool]) -> dict[str, Any]:
    """Settings for `logging.config` that put uvicorn's records on stderr as `Line`s.

    `show` chooses among the records that are not about requests.  The root logger and the
    application's own loggers stay as they are: they are the user's.
    """
    line = {"()": Line}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"default": line, "access": line},  # uvicorn's --use-colors looks for both
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "default"},
        },
        "loggers": {
            "uvicorn": {"handlers": ["stderr"], "level": level, "propagate": False},
            "uvicorn.error": {"level": level, "filters": [show]},
            "uvicorn.access": {"level": level},
        },
    }
