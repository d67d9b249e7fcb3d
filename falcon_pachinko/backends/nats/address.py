"""Where the servers are, and how NATS is used there: what a URL says."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import NamedTuple

from falcon_pachinko.backends.nats.login import Login
from falcon_pachinko.backends.settings import Settings, host_and_port, read_url
from falcon_pachinko.errors import SetupError

__all__ = ["NatsUrl", "Server", "parse_url"]

PORT = 4222
"""Where NATS listens if a URL does not say."""

REPLICAS = ("1", "3", "5")
"""How many servers may have a copy of a stream: an even number would be no safer."""

_OPTIONS = ("nkey", "credentials", "domain", "replicas")
_DOMAIN = re.compile(r"[^\s.*>$/\\]{1,100}")


class Server(NamedTuple):
    """One address to connect to."""

    host: str
    port: int
    tls_name: str | None = None
    """The name that its certificate has to have; None for its host."""

    @property
    def url(self) -> str:
        """What nats-py is told; TLS is decided elsewhere."""
        return f"nats://{host_and_port((self.host, self.port))}"


@dataclass(frozen=True)
class NatsUrl:
    """Where the servers are."""

    servers: tuple[Server, ...]
    name: str
    """What logs show, without secrets."""
    settings: Settings
    login: Login = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False)
    """What to check certificates with, if there has to be TLS."""
    domain: str | None = None
    """Which JetStream it is, if not the one of the account that answers by itself."""
    replicas: int | None = None
    """How many servers have a copy of each stream; None for what is there, or one."""

    @property
    def api(self) -> str:
        """What the subjects of JetStream's own questions begin with."""
        return "$JS.API" if self.domain is None else f"$JS.{self.domain}.API"


def parse_url(url: str, tls: ssl.SSLContext | None = None) -> NatsUrl:
    """Read ``nats://user:password@host:4222,other:4222?namespace=shop&replicas=3``.

    Args:
        url: The URL.
        tls: What to check certificates with; without one, ``tls://`` trusts what the
            system trusts.

    Raises:
        SetupError: A setting is unknown or has no such value, a file cannot be read, or no
            host is named; nothing secret is in its text.
    """
    address = read_url(url, _OPTIONS)
    if address.path.strip("/"):
        raise SetupError(f"{address.name}: a NATS server has no path; leave it out")
    if tls is not None and not isinstance(tls, ssl.SSLContext):
        raise SetupError(
            f"{address.name}: tls= takes an ssl.SSLContext, such as "
            "ssl.create_default_context(cafile='ca.pem')"
        )
    domain, replicas = address.options.get("domain"), address.options.get("replicas")
    if domain is not None and _DOMAIN.fullmatch(domain) is None:
        raise SetupError(
            f"{address.name}: domain={domain!r:.80} is not the name of a JetStream domain: it has "
            "no dots, spaces or wildcards"
        )
    if replicas is not None and replicas not in REPLICAS:
        raise SetupError(
            f"{address.name}: replicas={replicas!r:.80} is not one of {', '.join(REPLICAS)}"
        )
    if tls is None and address.scheme == "tls":
        tls = ssl.create_default_context()
    servers = tuple(Server(host, port or PORT) for host, port in address.hosts)
    shown = ",".join(host_and_port((each.host, each.port)) for each in servers)
    return NatsUrl(
        servers,
        f"{address.scheme}://{shown}",
        address.settings,
        Login.of(
            address.name,
            user=address.user,
            password=address.password,
            nkey=address.options.get("nkey"),
            credentials=address.options.get("credentials"),
        ),
        tls,
        domain,
        int(replicas) if replicas is not None else None,
    )
