"""What went wrong with a connection, as a sentence and what to type."""

from __future__ import annotations

import difflib
import http
import json
import ssl

import websockets.exceptions as ws_errors

from falcon_pachinko.messages.codec import SUBPROTOCOLS
from pachinko_cli.client.address import Address
from pachinko_cli.client.display import meaning, printable
from pachinko_cli.client.vocabulary import Vocabulary
from pachinko_cli.errors import CliError

_SHOWN = 300  # characters of a server's own words
_NO_SOCKET = "that path answers HTTP, not WebSockets; pachinko routes lists both"
_ADVICE = {
    400: "the server's log says more",
    401: "log in: --header 'Authorization: Bearer ...', or a cookie: --header 'Cookie: ...'",
    403: "the server's log names the reason: its origins= (send another with --origin), its "
    "allowed_hosts=, an on_connect that returned False, or an app that does not import",
    404: "is the path right? in the project, PATH is matched with its routes",
    405: _NO_SOCKET,
    426: _NO_SOCKET,
    429: "too many connections are open already",
    500: "on_connect failed; the traceback is in the server's log",
    503: "it is full or going down: try again in a moment",
}
_NOT_A_WEBSOCKET = "that is an HTTP page, or a server that has no WebSockets"


class DeniedError(CliError):
    """The server answered the handshake with an HTTP status instead of a WebSocket."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        self.status = status
        super().__init__(message, hint=hint)


def not_opened(
    error: Exception, to: Address, words: Vocabulary, *, offered: tuple[str, ...], seconds: float
) -> CliError:
    """The error for a connection that did not open.

    `offered` are the subprotocols that the client asked for, `seconds` is how long it waited.
    """
    if isinstance(error, ws_errors.InvalidStatus):
        return _denied(error, to, words)
    if isinstance(error, TimeoutError):
        return CliError(
            f"{to.shown} did not answer the handshake within {seconds:g} s",
            hint="is its on_connect waiting for something? --timeout gives it longer",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return CliError(
            f"the certificate of {to.shown} is not trusted: {error.verify_message}",
            hint="for an authority of your own: SSL_CERT_FILE=ca.pem pachinko connect ...",
        )
    if isinstance(error, ssl.SSLError):
        return CliError(
            f"no TLS with {to.shown}: {printable(error.reason or str(error))}",
            hint="a server without TLS is at ws://",
        )
    if isinstance(error, ws_errors.NegotiationError):
        return CliError(
            f"{to.shown} answered with a subprotocol or an extension that nobody offered: "
            f"{printable(str(error))[:_SHOWN]}",
            hint=f"offered was: {', '.join(offered) or 'none'}; see --subprotocol",
        )
    if isinstance(error, ws_errors.ProxyError | ws_errors.InvalidProxy | ImportError):
        return CliError(
            f"the proxy failed: {printable(str(error))[:_SHOWN]}",
            hint="unset https_proxy and all_proxy, or list the host in no_proxy",
        )
    if isinstance(error, ConnectionRefusedError):
        return CliError(
            f"nothing listens at {to.shown}",
            hint="is the server running? start it with: pachinko serve (its banner has the port)",
        )
    if isinstance(error, ws_errors.InvalidHandshake | EOFError):
        cause = error.__cause__ or error
        return CliError(
            f"{to.shown} does not speak WebSocket: {printable(str(cause))[:_SHOWN]}",
            hint="a server with TLS is at wss://; one that was just stopped answers so, too",
        )
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return CliError(
        f"cannot connect to {to.shown}: {printable(why)[:_SHOWN]}",
        hint="check the host and the port",
    )


def _denied(error: ws_errors.InvalidStatus, to: Address, words: Vocabulary) -> DeniedError:
    response = error.response
    status = response.status_code
    try:
        name = http.HTTPStatus(status).phrase
    except ValueError:
        name = ""
    said = _said(bytes(response.body or b""), f"{status} {name}")
    hint = _ADVICE.get(status, "the server's log says more")
    if 200 <= status < 400:
        hint = _NOT_A_WEBSOCKET
    if words.routes and words.route is None and status in {403, 404}:
        near = difflib.get_close_matches(to.path, words.routes, n=1, cutoff=0.4)
        hint = f"the project's routes: {', '.join(words.routes)}"
        if near:
            hint = f"did you mean {near[0]}? {hint}"
    return DeniedError(
        status, f"{to.shown} denied the handshake: {status} {name}{said}".rstrip(), hint
    )


def _said(body: bytes, status_line: str) -> str:
    """What a denial's body adds to its status: Falcon's title and description, or a bit of text."""
    text = body.decode(errors="replace").strip()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        if not text or text.startswith("<"):
            return ""
        return f": {printable(text[:_SHOWN])}"
    if not isinstance(document, dict):
        return ""
    parts = [str(document[key]) for key in ("title", "description") if document.get(key)]
    said = ". ".join(part for part in parts if part != status_line.strip())
    return f": {printable(said[:_SHOWN])}" if said else ""


def no_subprotocol(to: Address, words: Vocabulary, offered: tuple[str, ...]) -> CliError:
    """The error for a server that agreed on none of the subprotocols; browsers fail so, too."""
    known = ", ".join([*words.subprotocols, *SUBPROTOCOLS])
    knows = f"{words.route} knows {known}" if words.types is not None else "leave --subprotocol out"
    return CliError(
        f"{to.shown} agreed on none of the subprotocols {printable(', '.join(offered))}",
        hint=f"{knows}; the connection was closed again",
    )


def closed_by_server(code: int, reason: str) -> CliError:
    """The error for a close that was not the client's wish.

    A handshake is denied so, too: with 3000 and the status, where the client offered one of the
    library's subprotocols.
    """
    said = f" {printable(reason)}" if reason else ""
    return CliError(
        f"the server closed the connection: {code}{said} ({meaning(code)})",
        hint=_ADVICE.get(code - 3000, ""),
    )
