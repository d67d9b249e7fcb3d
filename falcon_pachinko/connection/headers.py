"""The headers with which an application accepts a handshake."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["written_headers"]

_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
"""The name of a header (RFC 9110, 5.6.2)."""

_SERVERS_OWN = frozenset(
    {
        "sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-version",
        "connection", "upgrade", "content-length", "transfer-encoding",
    }
)  # fmt: skip
"""Headers of the handshake itself: of two, a client refuses the answer."""


def written_headers(
    given: Mapping[str, str] | Iterable[tuple[str, str]],
) -> list[tuple[bytes, bytes]]:
    """Write headers as ASGI has them.

    Raises:
        TypeError: One is not two texts.
        ValueError: One is not ASCII, has a line end, or is the server's to write.
    """
    pairs = given.items() if isinstance(given, Mapping) else given
    headers = []
    for name, value in pairs:
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError(f"accept(headers=...): {name!r:.200}: {value!r:.200}: give two texts")
        if name.lower() == "sec-websocket-protocol":
            raise ValueError(f"accept(headers=...): give subprotocol={value!r:.200} instead")
        if name.lower() in _SERVERS_OWN:
            raise ValueError(f"accept(headers=...): the server writes {name!r:.200} itself")
        if not (_TOKEN.fullmatch(name) and value.isascii() and value.isprintable()):
            raise ValueError(
                f"accept(headers=...): {name!r:.200}: {value!r:.200} cannot be sent; "
                "a header is printable ASCII on one line, and its name has no blanks"
            )
        headers.append((name.lower().encode("ascii"), value.encode("ascii")))
    return headers
