"""Where to connect, and what to ask for: everything that was typed, checked before it is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from pachinko_cli.errors import USAGE, CliError, shown

HOST = "127.0.0.1"
PORT = 8000

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/|$)")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Characters that a URL may have in its path and query; all others are quoted.
_SAFE = "/%?&=:@!$'()*+,;~-._"
# The handshake's own headers, and the option that says them.
_OWN = {
    "origin": "--origin ORIGIN",
    "sec-websocket-protocol": "--subprotocol NAME",
    "host": "a URL with that host as PATH",
}


class AddressError(CliError):
    """What was typed cannot be sent in a handshake (exit 2)."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint=hint, exit_code=USAGE)


@dataclass(frozen=True)
class Address:
    """A WebSocket URL; `path` is what a router compares, without quoting and query.

    `shown` is the URL without a password.
    """

    url: str

    @property
    def path(self) -> str:
        """The path, as the application sees it."""
        return unquote(urlsplit(self.url).path) or "/"

    @property
    def shown(self) -> str:
        """The URL, for eyes and logs."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, where no proxy helps."""
        host = urlsplit(self.url).hostname or ""
        return host in {"localhost", "::1"} or host.startswith("127.")


def address(
    path: str, *, url: str | None = None, host: str | None = None, port: int | None = None
) -> Address:
    """The address that PATH means: a whole URL, or a path on the server that the options name.

    `http` and `https` stand for `ws` and `wss`; characters that a URL cannot have are quoted.

    >>> address("/ws/chat/tea").url
    'ws://127.0.0.1:8000/ws/chat/tea'
    >>> address("/ws/chat/tea", url="https://tea.example/v1").url
    'wss://tea.example/v1/ws/chat/tea'

    Raises:
        AddressError: There is no such address, or two of them.
    """
    if _SCHEME.match(path):
        if url is not None or host is not None or port is not None:
            raise AddressError(
                f"{shown(path)} says already where the server is",
                "leave out --url, --host and --port, or give a path such as /ws/chat/tea",
            )
        return Address(urlunsplit(_whole(path, "PATH")))
    if _HOST_AND_PORT.match(path):
        raise AddressError(f"{shown(path)} is neither a path nor a URL", f"type ws://{path}")
    if url is not None and (host is not None or port is not None):
        raise AddressError("--url says where the server is, and so do --host and --port", "use one")
    if url is None:
        name = HOST if host is None else host
        url = f"ws://{f'[{name}]' if ':' in name else name}:{PORT if port is None else port}"
    base = _whole(url, "--url" if host is None else "--host")
    if "#" in path:
        raise _fragment(path)
    route, mark, query = path.partition("?")
    whole = base._replace(
        path=base.path.rstrip("/") + quote("/" + route.removeprefix("/"), safe=_SAFE),
        query=quote(query, safe=_SAFE) if mark else base.query,
    )
    return Address(urlunsplit(whole))


def _whole(url: str, what: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            raise ValueError("it names no server")
        parts.hostname.encode("idna")
    except ValueError as error:
        raise AddressError(
            f"{what} is {shown(url)}, which is no address: {error}",
            "write for example ws://127.0.0.1:8000/ws/chat/tea",
        ) from None
    if not re.fullmatch(r"[^\s/?#]+", parts.netloc) or not parts.netloc.isprintable():
        raise AddressError(
            f"{what} is {shown(url)}, whose server has characters that no name has",
            "write for example ws://127.0.0.1:8000/ws/chat/tea",
        )
    if parts.scheme not in _SCHEMES:
        raise AddressError(
            f"{what} is {shown(url)}, but {parts.scheme}:// is not for WebSockets",
            "use ws:// or wss:// (http:// and https:// mean the same)",
        )
    if parts.fragment or "#" in url:
        raise _fragment(url)
    return parts._replace(
        scheme=_SCHEMES[parts.scheme],
        path=quote(parts.path, safe=_SAFE) or "/",
        query=quote(parts.query, safe=_SAFE),
    )


def _fragment(text: str) -> AddressError:
    return AddressError(
        f"{shown(text)} has a '#', and what follows one is never sent",
        f"where it belongs to the path, type {text.replace('#', '%23')}",
    )


def header(text: str) -> tuple[str, str]:
    """The name and the value of `Name: value`.

    >>> header("Authorization: Bearer abc")
    ('Authorization', 'Bearer abc')

    Raises:
        AddressError: It is no header, or one that the handshake itself has.
    """
    name, colon, value = text.partition(":")
    value = value.strip(" \t")
    if not colon or not _TOKEN.fullmatch(name):
        raise AddressError(
            f"--header is {shown(text)}, which is no header",
            "write --header 'Name: value', for example 'Authorization: Bearer abc'",
        )
    if not value.isascii() or not value.replace("\t", " ").isprintable():
        raise AddressError(
            f"the header {name} has characters that a header cannot carry",
            "printable ASCII only; encode the rest, for example as base64",
        )
    lower = name.lower()
    if lower in _OWN:
        raise AddressError(f"the handshake has a header {name} of its own", f"use {_OWN[lower]}")
    if lower in {"connection", "upgrade", "content-length", "transfer-encoding"} or (
        lower.startswith("sec-websocket-")
    ):
        raise AddressError(f"the handshake has a header {name} of its own", "leave it out")
    return name, value


def subprotocol(text: str) -> str:
    """`text`, if it can be offered as a subprotocol.

    Raises:
        AddressError: It is no single word as RFC 6455 has it.
    """
    if _TOKEN.fullmatch(text):
        return text
    raise AddressError(
        f"--subprotocol is {shown(text)}, which cannot be one",
        "one word without spaces or commas, for example pachinko.msgpack; repeat it for more",
    )


def origin(text: str) -> str:
    """`text`, if it can be an Origin: a scheme and a host, or `null`.

    Raises:
        AddressError: No browser would send it.
    """
    if text == "null" or re.fullmatch(r"[a-z][a-z0-9+.-]*://[!-.0-~]+", text):
        return text
    raise AddressError(
        f"--origin is {shown(text)}, which no browser would send",
        "a scheme and a host, without a path: https://app.example",
    )
