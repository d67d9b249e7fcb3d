"""The names of hosts and origins: as headers have them, and as settings name them."""

from __future__ import annotations

import ipaddress
import unicodedata
from urllib.parse import urlsplit

from falcon_pachinko.errors import SetupError

__all__ = [
    "DEFAULT_PORTS",
    "Origin",
    "host_pattern",
    "matches",
    "origin_pattern",
    "own_host",
    "parse_origin",
]

DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
"""The port of an origin that names none."""

Origin = tuple[str, str, int | None]
"""Scheme, host name and port, each in the one way that they are compared in."""


def matches(name: str, pattern: str) -> bool:
    """Compare a host name with a pattern; ``*.example`` is every sub-domain, not itself."""
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern


def own_host(headers: list[str]) -> tuple[str, int | None]:
    """Return the name and the port that a client calls the server by; "" if it does not say one."""
    return _parse_host(headers[0]) if len(headers) == 1 else ("", None)


def _parse_host(text: str) -> tuple[str, int | None]:
    """Part a host into its name, as names are compared, and its port; "" if it is not a host."""
    parsed = _split(f"//{text}")
    return ("", None) if parsed is None else parsed[1:]


def parse_origin(text: str) -> Origin | None:
    """Part an origin into scheme, name and port; None if it is not one (``null``)."""
    parsed = _split(text)
    if parsed is None or not parsed[0] or not parsed[1]:
        return None
    scheme, name, port = parsed
    return scheme, name, DEFAULT_PORTS.get(scheme) if port is None else port


def _split(url: str) -> Origin | None:
    """Part what has a scheme, a host and a port, and nothing else."""
    if not url.isprintable() or " " in url:  # urlsplit would take them out
        return None
    try:
        parts = urlsplit(url)
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc or url[-1:] in "?#":
        return None
    return parts.scheme, _ascii_name(name or ""), port


def _ascii_name(name: str) -> str:
    """Write a host name in the one way it is compared in: lower case, ASCII, no dot at the end.

    >>> _ascii_name("Bücher.example."), _ascii_name("xn--bcher-kva.example")
    ('xn--bcher-kva.example', 'xn--bcher-kva.example')
    >>> _ascii_name("0:0::1")
    '::1'
    """
    if ":" in name:
        try:
            return ipaddress.IPv6Address(name).compressed
        except ValueError:
            return ""
    if not name.isascii():
        # What browsers do (UTS 46, without its tables): the codec "idna" of the standard library
        # is older, and makes another host of a name with ß.
        name = unicodedata.normalize("NFKC", name).lower().replace("\u3002", ".")
        name = ".".join(
            label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")
            for label in unicodedata.normalize("NFKC", name).split(".")
        )
    return name.lower().removesuffix(".")


def origin_pattern(text: str) -> Origin:
    """Read an origin as ``origins=`` names it.

    Raises:
        SetupError: It is not one, or cannot be allowed by itself.
    """
    if text == "null" or (isinstance(text, str) and text.startswith("file:")):
        raise SetupError(
            f"origins: {text!r} cannot be allowed by itself: browsers send `Origin: null` for "
            "files and sandboxed frames alike, and any site can have a page send it. Serve the "
            'page over http or https and name that origin, or give "*" to switch the check off'
        )
    origin = parse_origin(text.removesuffix("/")) if isinstance(text, str) else None
    if origin is None or "*" in origin[1].removeprefix("*."):
        raise SetupError(
            f"origins: {text!r} is not an origin; write it as https://app.example, with a port "
            'if it is unusual, https://*.app.example for sub-domains, or "*" for any'
        )
    return origin


def host_pattern(text: str) -> str:
    """Read a host name as ``allowed_hosts=`` names it.

    Raises:
        SetupError: It is not one.
    """
    name, port = "", None
    if isinstance(text, str):
        name = _ascii_name(text) if text.count(":") > 1 else ""  # an IPv6 address without brackets
        if not name:
            name, port = _parse_host(text)
    if not name or port is not None or "*" in name.removeprefix("*."):
        raise SetupError(
            f"allowed_hosts: {text!r} is not a host name; write it as app.example, without "
            "scheme and port, or *.app.example for sub-domains; None checks nothing"
        )
    return name
