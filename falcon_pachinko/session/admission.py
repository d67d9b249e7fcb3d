"""Who may come in at all: hosts, origins, identity; asked before any resource is."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import falcon
import falcon.asgi

from falcon_pachinko.errors import SetupError

__all__ = ["Admission", "Authenticate", "Principal"]

log = logging.getLogger("falcon_pachinko")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a client is, as an ``authenticate`` function tells it."""

    user_id: str
    """What all connections of the person share; `send_to_user` reaches them."""
    tags: Collection[str] = ()
    """Tags that the connection wears from the start."""
    expires_at: datetime | float | None = None
    """When the connection closes with 4401: an aware datetime, or seconds since the epoch."""

    def seconds_left(self) -> float | None:
        """Return how long it may stay; None if for ever."""
        ends = self.expires_at
        if ends is None:
            return None
        return (ends.timestamp() if isinstance(ends, datetime) else ends) - time.time()


Authenticate = Callable[[Any], Awaitable["Principal | str | None"]]
"""Takes the request; returns a `Principal`, a user id, or None for a stranger."""

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class Admission:
    """Who may come in at all: hosts, origins, identity; asked before ``on_connect``.

    Args:
        origins: Origins besides the server's own, such as ``https://app.example`` or
            ``https://*.app.example`` (sub-domains of any depth); ``"*"`` for any.
        allowed_hosts: The names this server goes by, without ports, ``*.`` included;
            None checks nothing.
        authenticate: A coroutine function that tells who a client is, or denies.

    Raises:
        SetupError: An origin or a host is not written like one, or ``authenticate``
            is not a coroutine function.
    """

    __slots__ = ("_any_origin", "_authenticate", "_hosts", "_origins")

    def __init__(
        self,
        origins: Iterable[str] | str | None = None,
        allowed_hosts: Iterable[str] | str | None = None,
        authenticate: Authenticate | None = None,
    ) -> None:
        given = [origins] if isinstance(origins, str) else list(origins or ())
        self._any_origin = "*" in given
        self._origins = [_origin_pattern(each) for each in given if each != "*"]
        hosts = [allowed_hosts] if isinstance(allowed_hosts, str) else allowed_hosts
        self._hosts = None if hosts is None else [_host_pattern(each) for each in hosts]
        if authenticate is not None and not inspect.iscoroutinefunction(authenticate):
            raise SetupError(
                f"authenticate={authenticate!r} is not a coroutine function; "
                "write `async def authenticate(req): ...`"
            )
        self._authenticate = authenticate

    def check(self, req: falcon.asgi.Request) -> None:
        """Refuse a request whose host or origin is not allowed.

        Raises:
            falcon.HTTPForbidden: One of them is not.
        """
        host = req.get_header("Host") or ""
        if not self._knows_host(host):
            _refuse("host", host, "allowed_hosts")
        origin = req.get_header("Origin")
        if origin is not None and not self._knows_origin(origin, host):
            _refuse("origin", origin, "origins")

    async def authenticate(self, req: falcon.asgi.Request) -> Principal | None:
        """Tell who a request comes from, if that is known.

        Raises:
            falcon.HTTPError: What ``authenticate`` raised to deny it.
        """
        if self._authenticate is None:
            return None
        who = await self._authenticate(req)
        if isinstance(who, str):
            return Principal(user_id=who)
        if who is None or isinstance(who, Principal):
            return who
        raise SetupError(
            f"authenticate returned {who!r}; return a user id, a Principal, or None "
            "for a stranger, and raise falcon.HTTPUnauthorized to deny"
        )

    def _knows_host(self, header: str) -> bool:
        if self._hosts is None:
            return True
        name, _ = _parse_host(header)
        return any(_matches(name, pattern) for pattern in self._hosts)

    def _knows_origin(self, header: str, host: str) -> bool:
        if self._any_origin:
            return True
        origin = _parse_origin(header)
        if origin is None:
            return False
        scheme, name, port = origin
        own_name, own_port = _parse_host(host)
        if name == own_name and port == (own_port or _DEFAULT_PORTS.get(scheme)):
            return True
        return any(
            scheme == their_scheme and port == their_port and _matches(name, their_name)
            for their_scheme, their_name, their_port in self._origins
        )


def _refuse(what: str, value: str, setting: str) -> None:
    log.warning("denied a handshake: the %s %.200r is not in %s", what, value, setting)
    raise falcon.HTTPForbidden(description=f"This {what} is not allowed here ({setting}).")


def _matches(name: str, pattern: str) -> bool:
    """Compare a host name with a pattern; ``*.example`` is every sub-domain, not itself."""
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern


def _parse_host(header: str) -> tuple[str, int | None]:
    """Part a Host header into its name, in lower case, and its port, if it names one."""
    try:
        parts = urlsplit(f"//{header}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return "", None
    more = parts.path or parts.query or parts.fragment or parts.username is not None
    return ("", None) if more or name is None else (name, port)


def _parse_origin(header: str) -> tuple[str, str, int | None] | None:
    """Part an Origin header into scheme, name and port; None if it is no origin (``null``)."""
    try:
        parts = urlsplit(header)
        port = parts.port
    except ValueError:
        return None
    if not parts.scheme or not parts.hostname or parts.username is not None:
        return None
    if parts.path or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS.get(parts.scheme)


def _origin_pattern(text: str) -> tuple[str, str, int | None]:
    origin = _parse_origin(text.removesuffix("/"))
    if origin is None or "*" in origin[1].removeprefix("*."):
        raise SetupError(
            f"origins: {text!r} is no origin; write it as https://app.example, with a port "
            'if it is unusual, https://*.app.example for sub-domains, or "*" for any'
        )
    return origin


def _host_pattern(text: str) -> str:
    name, port = _parse_host(text)
    if not name or port is not None or "*" in name.removeprefix("*."):
        raise SetupError(
            f"allowed_hosts: {text!r} is no host name; write it as app.example, without "
            "scheme and port, or *.app.example for sub-domains"
        )
    return name
