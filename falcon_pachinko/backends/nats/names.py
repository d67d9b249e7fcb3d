"""Names on NATS: any text as one token of a subject."""

from __future__ import annotations

import hashlib
from functools import lru_cache

__all__ = ["MAX_TOKEN", "name_of", "token"]

MAX_TOKEN = 700
"""How long a token may be; a name that would take more is cut, and ends with its hash."""

_KEPT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_:/")
_DIGEST = 64  # hexadecimal digits of SHA-256


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


def name_of(written: str) -> str | None:
    """Return the name that a token was made of; None if it was cut, or is no token.

    >>> name_of("room:a=2Eb=20=2A")
    'room:a.b *'
    """
    if written == "==":
        return ""
    first, *rest = written.split("=")
    try:
        data = first.encode() + b"".join(
            bytes([int(each[:2], 16)]) + each[2:].encode() for each in rest
        )
        name = data.decode("utf-8", "surrogatepass")
    except ValueError:
        return None
    return name if token(name) == written else None
