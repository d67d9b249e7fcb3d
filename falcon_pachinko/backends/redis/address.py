"""Where a Redis is, who we are there, and how its certificate is checked.

Decided when the backend is made, so that a mistake in the URL or a certificate that
cannot be read ends the start of the app, and not its first connection.
"""

from __future__ import annotations

import ssl
from typing import Any, NamedTuple
from urllib.parse import unquote

from falcon_pachinko.backends.settings import Address, Settings, read_url
from falcon_pachinko.errors import SetupError

__all__ = ["SENTINEL", "RedisAddress", "parse"]

SENTINEL = ("redis+sentinel", "rediss+sentinel")
"""The schemes whose hosts are Sentinels, which know where the primary is."""

PORT, SENTINEL_PORT = 6379, 26379

_MOST_DIGITS = 6  # of a database's number
_TLS = ("rediss", "rediss+sentinel")
_TLS_OPTIONS = (
    "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname",
    "ssl_keyfile", "ssl_min_version",
)  # fmt: skip
_OF_SENTINEL = ("sentinel_username", "sentinel_password")
_KNOWN = ("db", "username", "password", *_TLS_OPTIONS, *_OF_SENTINEL)
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_REQUIREMENTS = {"none": ssl.CERT_NONE, "required": ssl.CERT_REQUIRED}
_WRITTEN = str.maketrans({sign: f"={ord(sign):02X}" for sign in ":{}="})
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class RedisAddress(NamedTuple):
    """A Redis, as a URL and what is given beside it say."""

    name: str
    """What logs call it, without secrets."""
    settings: Settings
    hosts: tuple[tuple[str, int], ...] = ()
    """Where it listens, or where its Sentinels do; empty for a Unix socket."""
    socket: str | None = None
    """The path of its Unix socket."""
    db: int = 0
    master: str | None = None
    """What the Sentinels call it."""
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: ssl.SSLContext | None = None
    """What its certificate is checked with; None for a connection without TLS."""

    @property
    def space(self) -> str:
        """What every name begins with: the namespace, and the database, unless that is 0.

        A channel of Redis has no database; so its number is part of the name. No two
        namespaces meet, since what parts names (``:``), and what has a meaning on a Cluster
        (``{`` and ``}``), is written otherwise where a namespace has it.

        >>> from falcon_pachinko.backends.settings import Settings
        >>> RedisAddress("", Settings(), db=3).space, RedisAddress("", Settings("a:b")).space
        ('pachinko:3', 'a=3Ab')
        """
        return f"{self.namespace}:{self.db}" if self.db else self.namespace

    @property
    def namespace(self) -> str:
        """The namespace, as a part of a name on the server."""
        return self.settings.namespace.translate(_WRITTEN)


def parse(url: str, context: ssl.SSLContext | None = None) -> RedisAddress:
    """Read a URL of Redis.

    Args:
        url: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``redis+sentinel://`` or
            ``rediss+sentinel://``.
        context: What to check certificates with; it makes any but a ``unix://`` URL one
            with TLS.

    Raises:
        SetupError: Something in it cannot be read, or contradicts something else.

    >>> parse("redis://:secret@db.example/2").name
    'redis://db.example/2'
    >>> found = parse("redis+sentinel://one,two:26380/mymaster/1")
    >>> found.hosts, found.master, found.db
    ((('one', 26379), ('two', 26380)), 'mymaster', 1)
    """
    scheme = url.partition(":")[0].lower()
    address = read_url(url, _KNOWN, hosts=scheme != "unix")
    options = address.options
    found = RedisAddress(
        address.name,
        address.settings,
        username=options.get("username", address.user) or None,
        password=options.get("password", address.password) or None,
    )
    if scheme in SENTINEL:
        master, separator, db = address.path.removeprefix("/").partition("/")
        if not master or (separator and not db):
            raise SetupError(
                f"{address.name} names no primary: write what the Sentinels call it, as in "
                f"{scheme}://host:{SENTINEL_PORT}/mymaster/0"
            )
        found = found._replace(
            master=unquote(master),
            hosts=_with_ports(address, SENTINEL_PORT),
            sentinel_username=options.get("sentinel_username"),
            sentinel_password=options.get("sentinel_password"),
        )
    else:
        if given := sorted(set(_OF_SENTINEL) & options.keys()):
            raise SetupError(f"{address.name}: {given[0]} is for redis+sentinel:// URLs only")
        if scheme == "unix":
            db = ""
            found = found._replace(socket=unquote(address.path))
            if not (found.socket or "").startswith("/"):
                raise SetupError("backend=unix://... names no socket, as in unix:///run/redis.sock")
        else:
            db = address.path.removeprefix("/")
            found = found._replace(hosts=_with_ports(address, PORT))
    number = _database(address, db)
    after = (found.master, number) if found.master else (number,)
    where = found.socket or "".join(f"/{each}" for each in after)
    return found._replace(
        db=number,
        name=f"{address._replace(path='').name}{where}",
        tls=_tls(address, context, scheme),
    )


def _with_ports(address: Address, usual: int) -> tuple[tuple[str, int], ...]:
    return tuple((host, usual if port is None else port) for host, port in address.hosts)


def _database(address: Address, written: str) -> int:
    """Read the number of the database: in the path, or as ``?db=``."""
    given = [each for each in (written, address.options.get("db", "")) if each]
    for each in given:
        if not (each.isascii() and each.isdigit() and len(each) <= _MOST_DIGITS):
            raise SetupError(
                f"{address.name} names no database: after the host comes its number, 0 where "
                "nothing is said, as in redis://host:6379/0"
            )
    numbers = {int(each) for each in given}
    if len(numbers) > 1:
        raise SetupError(f"{address.name} names two databases, in its path and as db=")
    return numbers.pop() if numbers else 0


def _tls(address: Address, given: ssl.SSLContext | None, scheme: str) -> ssl.SSLContext | None:
    """Return what certificates are checked with: what was given, or what the URL's options say."""
    options = {name: address.options[name] for name in _TLS_OPTIONS if name in address.options}
    if given is not None and (options or scheme == "unix"):
        what = f"{min(options)}=" if options else "unix://"
        raise SetupError(f"{address.name}: ssl= and {what} contradict each other; give one of them")
    if given is not None:
        return given
    if scheme not in _TLS:
        if options:
            raise SetupError(f"{address.name}: {min(options)} is for rediss:// URLs only")
        return None
    required = _choice(address, "ssl_cert_reqs", _REQUIREMENTS, "required")
    checked = _choice(address, "ssl_check_hostname", _FLAGS, "true")
    try:
        context = ssl.create_default_context(
            cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path")
        )
        context.check_hostname = checked and required is ssl.CERT_REQUIRED
        context.verify_mode = required
        if "ssl_min_version" in options:
            context.minimum_version = _choice(address, "ssl_min_version", _VERSIONS, "")
        if "ssl_certfile" in options or "ssl_keyfile" in options:
            context.load_cert_chain(options.get("ssl_certfile", ""), options.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        raise SetupError(
            f"{address.name}: a certificate or key cannot be read ({error.strerror or error}); "
            f"see {', '.join(sorted(options))}"
        ) from None
    return context


def _choice(address: Address, name: str, known: dict[str, Any], usual: str) -> Any:
    value = address.options.get(name, usual)
    if value not in known:
        raise SetupError(
            f"{address.name}: {name}={value!r:.80} is not one of {', '.join(sorted(known))}"
        )
    return known[value]
