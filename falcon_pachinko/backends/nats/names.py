"""Names on NATS: any text as one token of a subject, and what a URL says."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple

from falcon_pachinko.backends.settings import Settings, host_and_port, read_url
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
    address = read_url(url)
    if address.path.strip("/"):
        raise SetupError(f"{address.name}: a NATS server has no path; leave it out")
    servers = tuple(
        f"{address.scheme}://{host_and_port((host, port or PORT))}" for host, port in address.hosts
    )
    first, *others = servers
    return NatsUrl(
        servers,
        ",".join([first, *(each.partition("://")[2] for each in others)]),
        address.settings,
        user=address.user if address.password is not None else None,
        password=address.password,
        secret=(address.user or None) if address.password is None else None,
    )
