"""Names on NATS: any text as one token of a subject, and what a URL says."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from falcon_pachinko.backends.supervision import Settings, read_settings, unreadable
from falcon_pachinko.errors import SetupError

__all__ = ["MAX_TOKEN", "NatsUrl", "parse_url", "token"]

MAX_TOKEN = 700
"""How long a token may be; a name that would take more is cut, and ends with its hash."""

_KEPT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_:/")
_DIGEST = 64  # hexadecimal digits of SHA-256

PORT = 4222
"""Where NATS listens if a URL does not say."""


@lru_cache(maxsize=16_384)
def token(name: str) -> str:
    """Write any text as one token of a subject; two names never have the same token.

    Letters, digits and ``-_:/`` stay, so that room names can be read in the server's
    own tools; any other byte of the UTF-8 form becomes ``=`` and two digits. So there
    is no dot, wildcard, white space or control character in it.

    >>> token("room:tea")
    'room:tea'
    >>> token("room:a.b *")
    'room:a=2Eb=20=2A'
    """
    data = name.encode("utf-8", "surrogatepass")
    written = "".join(chr(byte) if byte in _KEPT else f"={byte:02X}" for byte in data)
    if len(written) > MAX_TOKEN:
        # Two equals signs come in no other token, since two digits follow each.
        return f"{written[: MAX_TOKEN - _DIGEST - 4]}==" + hashlib.sha256(data).hexdigest()
    return written or "=="


class NatsUrl(NamedTuple):
    """Where the servers are."""

    servers: tuple[str, ...]
    """``nats://host:port`` of each, without a user or a password."""
    name: str
    """What logs show, without secrets."""
    settings: Settings
    user: str | None = None
    password: str | None = None
    secret: str | None = None
    """What stands in place of a user without a password: a token."""


def parse_url(url: str) -> NatsUrl:
    """Read ``nats://user:password@host:4222,other:4222?namespace=shop&required=true``.

    Raises:
        SetupError: A setting is unknown or has no such value, or no host is named; the
            password is not in its text.
    """
    scheme, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    # No URL has several hosts, and some Pythons refuse brackets in the midst of them.
    parts = urlsplit(f"{scheme}://hosts{rest[len(authority) :]}")
    credentials, _, hosts = authority.rpartition("@")
    user, colon, password = credentials.partition(":")
    if "@" in credentials or parts.path.strip("/") or parts.fragment:
        raise SetupError(
            f"backend={parts.scheme}://...: give one user and password, before the first host, "
            "and no path; write a special character in them as % and two digits: "
            "nats://user:p%40ss@a:4222,b:4222?namespace=shop"
        )
    servers = [_server(parts.scheme, host) for host in hosts.split(",")]
    _, settings, _ = read_settings(f"{servers[0]}?{parts.query}")
    first, *others = servers
    name = ",".join([first, *(each.partition("://")[2] for each in others)])
    return NatsUrl(
        tuple(servers),
        name,
        settings,
        user=unquote(user) if colon else None,
        password=unquote(password) if colon else None,
        secret=unquote(user) if user and not colon else None,
    )


def _server(scheme: str, host: str) -> str:
    try:
        parts = urlsplit(f"{scheme}://{host}")
        port = parts.port or PORT
    except ValueError:
        raise unreadable(f"{scheme}://") from None
    if not parts.hostname:
        raise SetupError(f"backend={scheme}://...: name a host, as in {scheme}://localhost:4222")
    shown = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{shown}:{port}"
