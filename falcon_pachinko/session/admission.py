"""Who may connect at all: hosts, origins, identity; asked before any resource is made."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime
from typing import Any

import falcon
import falcon.asgi

from falcon_pachinko.errors import InvalidNameError, SetupError
from falcon_pachinko.messages.signatures import is_coroutine_function, misfit
from falcon_pachinko.names import check_user_id
from falcon_pachinko.session.origins import (
    DEFAULT_PORTS,
    host_pattern,
    matches,
    origin_pattern,
    own_host,
    parse_origin,
)
from falcon_pachinko.typing import Scope

__all__ = ["Admission", "Authenticate", "Principal"]

log = logging.getLogger("falcon_pachinko")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a client is; an ``authenticate`` function returns it.

    Example::

        async def authenticate(req):
            claims = decode(req.get_header("Authorization"))
            return Principal(
                user_id=claims["sub"],
                tags=["pro"],
                expires_at=datetime.fromtimestamp(claims["exp"], tz=UTC),
            )

    Raises:
        TypeError: The user id is not a str, the tags are one str, or ``expires_at`` is
            not a datetime.
        InvalidNameError: The user id or a tag is empty, blank, over 200 bytes of UTF-8, or
            has control characters.
        ValueError: ``expires_at`` has no time zone.
    """

    user_id: str
    """What all connections of one person have in common; `send_to_user` reaches them."""
    tags: Collection[str] = ()
    """Tags that the connection has from the start."""
    expires_at: datetime | None = None
    """When the connection closes with 4401: a datetime with a time zone, or None for never."""

    def __post_init__(self) -> None:
        check_user_id(self.user_id)
        if isinstance(self.tags, (str, bytes)) or not isinstance(self.tags, Collection):
            raise TypeError(
                f"Principal(tags={self.tags!r:.200}): give a list of tags, such as "
                f"tags=[{self.tags if isinstance(self.tags, str) else 'pro'!r:.80}]"
            )
        for tag in self.tags:
            check_user_id(tag, "tag")
        if self.expires_at is not None:
            _check_time(self.expires_at)

    def seconds_left(self) -> float | None:
        """Return how long it may stay; None if for ever."""
        return None if self.expires_at is None else self.expires_at.timestamp() - time.time()


def _check_time(moment: object) -> None:
    """Refuse what is not a moment everywhere on earth; numbers too, since nobody sees their unit.

    Raises:
        TypeError: It is not a datetime.
        ValueError: It has no time zone.
    """
    given = f"Principal(expires_at={moment!r:.200})"
    if not isinstance(moment, datetime):
        if isinstance(moment, (int, float)) and not isinstance(moment, bool):
            meant = "datetime.fromtimestamp(seconds, tz=UTC); divide milliseconds by 1000 first"
        elif isinstance(moment, str):
            meant = 'datetime.fromisoformat("2030-01-02T03:04:05+00:00")'
        else:
            meant = "datetime.now(UTC) + timedelta(hours=1)"
        raise TypeError(f"{given} is not a datetime; write {meant}")
    if moment.utcoffset() is None:
        raise ValueError(
            f"{given} has no time zone; write datetime.now(UTC) + timedelta(hours=1), or "
            "moment.replace(tzinfo=UTC) if it is in UTC"
        )


Authenticate = Callable[[Any], Awaitable["Principal | str | None"]]
"""Takes the request; returns a `Principal`, a user id, or None for a stranger."""


class Admission:
    """Who may connect at all: hosts, origins, identity; asked before ``on_connect``.

    `check` looks at the headers alone, so it can be asked before anything is made
    for a handshake; `identify` asks the application.

    Args:
        origins: Origins besides the server's own, such as ``https://app.example`` or
            ``https://*.app.example`` (sub-domains of any depth); ``"*"`` for any.
        allowed_hosts: The names of this server, without ports, ``*.app.example`` included;
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
        self._origins = [origin_pattern(each) for each in given if each != "*"]
        hosts = [allowed_hosts] if isinstance(allowed_hosts, str) else allowed_hosts
        self._hosts = None if hosts is None else [host_pattern(each) for each in hosts]
        if authenticate is not None:
            _check_authenticate(authenticate)
        self._authenticate = authenticate

    def check(self, scope: Scope) -> None:
        """Let a handshake in by its Host and Origin headers; a refusal is one line in the log.

        Args:
            scope: The handshake's ASGI scope.

        Raises:
            falcon.HTTPForbidden: Its host or its origin is not allowed.
        """
        self.check_host(scope)
        hosts, origins = _headers(scope, b"host"), _headers(scope, b"origin")
        scheme = scope.get("scheme") or "ws"
        if origins and not self._knows_origin(origins, hosts, scheme):
            log.warning(
                "denied a handshake over %s: Origin %.200r is neither that of Host %.200r "
                "nor in origins=",
                scheme, _shown(origins), _shown(hosts),
            )  # fmt: skip
            raise falcon.HTTPForbidden(description="This origin is not allowed here (origins).")

    def check_host(self, scope: Scope) -> None:
        """`check` for the Host alone; a refusal is one line in the log.

        Raises:
            falcon.HTTPForbidden: The host is not allowed.
        """
        if self._hosts is None or self._knows_host(hosts := _headers(scope, b"host")):
            return
        log.warning(
            "denied a handshake over %s: Host %.200r is not in allowed_hosts= (Origin %.200r)",
            scope.get("scheme") or "ws", _shown(hosts), _shown(_headers(scope, b"origin")),
        )  # fmt: skip
        raise falcon.HTTPForbidden(description="This host is not allowed here (allowed_hosts).")

    def admits(self, scope: Scope) -> bool:
        """Tell whether `check` lets a handshake in; says nothing in the log."""
        hosts, origins = _headers(scope, b"host"), _headers(scope, b"origin")
        scheme = scope.get("scheme") or "ws"
        known = not origins or self._knows_origin(origins, hosts, scheme)
        return known and self._knows_host(hosts)

    def check_http(self, scope: Scope) -> falcon.HTTPBadRequest | None:
        """Return the answer to an HTTP request whose host is not allowed; None if it is.

        Args:
            scope: The request's ASGI scope.
        """
        if self._hosts is None or self._knows_host(hosts := _headers(scope, b"host")):
            return None
        log.warning("refused a request: Host %.200r is not in allowed_hosts=", _shown(hosts))
        return falcon.HTTPBadRequest(description="This host is not allowed here (allowed_hosts).")

    async def identify(self, req: falcon.asgi.Request) -> Principal | None:
        """Ask the application who a client is; None is a stranger.

        A user id or a tag that cannot be one (empty, blank, too long, with control
        characters) denies the handshake, since all such clients would be one user.

        Raises:
            falcon.HTTPForbidden: The user id or a tag cannot be one; the log says so once.
            falcon.HTTPError: What ``authenticate`` raised to deny it.
            SetupError: ``authenticate`` returned something else.
        """
        if self._authenticate is None:
            return None
        try:
            who = await self._authenticate(req)
            if isinstance(who, str):
                who = Principal(user_id=who)
        except InvalidNameError as error:
            # The error's text is in ASCII, and short: no client writes into the log by it.
            log.warning("denied a handshake: authenticate gave no usable identity: %s", error)
            raise falcon.HTTPForbidden(description="This user is not admitted.") from None
        if who is None or isinstance(who, Principal):
            return who
        raise SetupError(
            f"authenticate returned {who!r:.200}; return a user id, a Principal, or None "
            "for a stranger, and raise falcon.HTTPUnauthorized to deny"
        )

    async def ask(self, req: falcon.asgi.Request) -> Principal | None:
        """`check`, then `identify`."""
        self.check(req.scope)
        return await self.identify(req)

    def _knows_host(self, headers: list[str]) -> bool:
        if self._hosts is None:
            return True
        name, _ = own_host(headers)
        return any(matches(name, pattern) for pattern in self._hosts)

    def _knows_origin(self, headers: list[str], hosts: list[str], scheme: str) -> bool:
        if self._any_origin:
            return True
        origin = parse_origin(headers[0]) if len(headers) == 1 else None
        if origin is None:
            return False
        its_scheme, name, port = origin
        # The server's own pages.  One that came over http, where this connection has TLS, may be
        # the work of somebody on the way; the other way round a proxy ends the TLS.
        if its_scheme == "https" or (its_scheme == "http" and scheme not in ("wss", "https")):
            own_name, own_port = own_host(hosts)
            own_port = DEFAULT_PORTS[its_scheme] if own_port is None else own_port
            if own_name and (name, port) == (own_name, own_port):
                return True
        return any(
            (its_scheme, port) == (their_scheme, their_port) and matches(name, their_name)
            for their_scheme, their_name, their_port in self._origins
        )


def _check_authenticate(authenticate: object) -> None:
    wanted = "write `async def authenticate(req): ...`"
    if not is_coroutine_function(authenticate):
        raise SetupError(f"authenticate={authenticate!r} is not a coroutine function; {wanted}")
    takes = misfit(authenticate, ("req",))
    if takes is not None:
        raise SetupError(
            f"authenticate={authenticate!r} is called with (req), and takes {takes}; {wanted}"
        )


def _headers(scope: Scope, name: bytes) -> list[str]:
    """Return the values of a header, each that was sent; text beyond ASCII is read as UTF-8."""
    values = (value for key, value in scope["headers"] if key.lower() == name)
    return [value.decode("utf-8", "replace") for value in values]


def _shown(headers: list[str]) -> str | list[str] | None:
    """Return a header for a log: what was sent, all of it if it was sent twice."""
    return headers[0] if len(headers) == 1 else headers or None
