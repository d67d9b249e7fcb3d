"""What a backend's URL says: where the servers are, who we are there, and our own settings.

Nothing of a URL's user or password is ever in a text of this module: where a URL
cannot be read, no part of it is shown, since any of it may be a piece of a password.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Collection
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from falcon_pachinko.errors import SetupError

__all__ = ["Address", "Settings", "read_url"]

MOST_NAMESPACE = 100
"""How many characters a namespace may have."""

_YES_OR_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?")
_NUMBER = re.compile(r"/[0-9]{1,6}")
_MOST_PORT = 65_535
_ESCAPED = (
    "write a special character of a user or password as % and two digits, such as %40 for @, "
    "%2F for /, %3A for :, %3F for ? and %23 for #"
)


class Settings(NamedTuple):
    """What a URL's query says about any backend; times are in seconds."""

    namespace: str = "pachinko"
    """What every name on the server begins with: two apps of one namespace are one cluster."""
    required: bool = False
    """Whether a server that is not there ends the start, instead of ``degraded``."""
    ttl: float = 15.0
    """After which silence a process counts as dead."""
    timeout: float = 3.0
    """How long connecting may take, and any other call."""
    probe: float = 2.0
    """How often the server is asked whether it is still there."""


class Address(NamedTuple):
    """A backend's URL, read."""

    scheme: str
    hosts: tuple[tuple[str, int | None], ...]
    """Each host and its port, if it has one; an IPv6 address without its brackets."""
    user: str | None
    password: str | None
    path: str
    """What follows the hosts, as it is written."""
    options: dict[str, str]
    """What the query says beside our own settings."""
    settings: Settings

    @property
    def name(self) -> str:
        """What logs call the servers: scheme, hosts, ports and a database's number, at most."""
        number = self.path if _NUMBER.fullmatch(self.path) else ""
        return f"{self.scheme}://{','.join(map(host_and_port, self.hosts))}{number}"


def host_and_port(host: tuple[str, int | None]) -> str:
    """Write a host as a URL has it.

    >>> host_and_port(("::1", 6379)), host_and_port(("db", None))
    ('[::1]:6379', 'db')
    """
    name, port = host
    shown = f"[{name}]" if ":" in name else name
    return shown if port is None else f"{shown}:{port}"


def read_url(url: str, known: Collection[str] = (), *, hosts: bool = True) -> Address:
    """Read a backend's URL.

    Args:
        url: ``redis://user:secret@host:6379,other:6379/0?namespace=shop&ttl=5``
        known: More names that the query may have, each once.
        hosts: Whether it has hosts; else what follows the scheme is a path.

    Raises:
        SetupError: It names no host, or a setting is unknown or has a bad value.

    >>> address = read_url("redis://:secret@db:6380/2?namespace=shop")
    >>> address.name, address.hosts, address.password, address.settings.namespace
    ('redis://db:6380/2', (('db', 6380),), 'secret', 'shop')
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    shown = f"backend={scheme}://..."
    if not separator or not url.isascii() or not url.isprintable() or " " in url:
        raise SetupError(f"{shown} has characters that no URL has; {_ESCAPED}")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    credentials, at, named = authority.rpartition("@")
    after = rest[len(authority) :]
    if "@" in credentials or "@" in after or "#" in after:
        raise SetupError(
            f"{shown} names no host and port: give one user and password, before the first host, "
            f"and no fragment; {_ESCAPED}"
        )
    path, _, query = after.partition("?")
    user, colon, password = credentials.partition(":")
    address = Address(
        scheme,
        tuple(_host(shown, each) for each in named.split(",")) if hosts else (),
        unquote(user) if at else None,
        unquote(password) if colon else None,
        path if hosts else named + path,
        {},
        Settings(),
    )
    given = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in given or key in address.options:
            raise SetupError(f"{address.name} has the setting {key} twice")
        if key in Settings._fields:
            given[key] = _setting(address.name, key, value)
        elif key in known:
            address.options[key] = value
        else:
            names = [*Settings._fields, *known]
            close = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
            raise SetupError(f"{address.name} has no setting {key!r:.80}; {hint}")
    return address._replace(settings=Settings(**given))


def _host(shown: str, written: str) -> tuple[str, int | None]:
    if not written or (written.startswith(":") and written.count(":") == 1):
        raise SetupError(f"{shown} names no host and port: name a host; {_ESCAPED}")
    found = _HOST.fullmatch(written)
    port = int(found[3]) if found is not None and found[3] else None
    if found is None or (port is not None and not 0 < port <= _MOST_PORT):
        raise SetupError(
            f"{shown} names no host and port: Port is not a number from 1 to {_MOST_PORT}, or an "
            f"IPv6 address is not in brackets; {_ESCAPED}"
        )
    return (found[1] or found[2]).lower(), port


def _setting(name: str, key: str, value: str) -> Any:
    if key == "namespace":
        if not value or not value.isprintable() or " " in value or len(value) > MOST_NAMESPACE:
            raise SetupError(
                f"{name}: namespace={value!r:.120} is not 1 to {MOST_NAMESPACE} visible characters"
            )
        return value
    if key == "required":
        if value.lower() not in _YES_OR_NO:
            raise SetupError(f"{name}: required={value!r:.80} is neither true nor false")
        return _YES_OR_NO[value.lower()]
    with contextlib.suppress(ValueError):
        number = float(value)
        if math.isfinite(number) and number > 0:
            return number
    raise SetupError(f"{name}: {key}={value!r:.80} is not a number of seconds above 0")
