"""Settings, read from the environment once, when the app is made."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

PREFIX = "{{ cookiecutter.package | upper }}_"


@dataclass(frozen=True)
class Config:
    """The settings of the app.

    Each field has an environment variable: `PREFIX` and its name in capitals.

    Attributes:
        tick_every: Seconds between two ticks of the clock.
        allowed_hosts: This server's host names, `*.` for sub-domains; requests
            for others are refused.  In the environment, separated by commas.
{%- if cookiecutter.backend == 'redis' %}
        backend: The Redis that connects all processes of the app, such as
            `redis://127.0.0.1:6379`.  Without one, each process is separate.
{%- elif cookiecutter.backend == 'nats' %}
        backend: The NATS server that connects all processes of the app, such as
            `nats://127.0.0.1:4222`.  Without one, each process is separate.
{%- endif %}
    """

    tick_every: float = 10.0
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
{%- if cookiecutter.backend != 'memory' %}
    backend: str | None = None
{%- endif %}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the variables that are set; the other fields keep their defaults.

        Raises:
            ValueError: The value of a variable is not valid.
        """
        seconds = environment.get(f"{PREFIX}TICK_EVERY")
        hosts = environment.get(f"{PREFIX}ALLOWED_HOSTS")
        return cls(
            tick_every=cls.tick_every if seconds is None else _seconds(seconds),
            allowed_hosts=cls.allowed_hosts if hosts is None else _hosts(hosts),
{%- if cookiecutter.backend != 'memory' %}
            backend=environment.get(f"{PREFIX}BACKEND") or None,
{%- endif %}
        )


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{PREFIX}TICK_EVERY is {value!r}; set it to seconds, such as 10")
    return seconds


def _hosts(value: str) -> tuple[str, ...]:
    hosts = tuple(name.strip() for name in value.split(",") if name.strip())
    if not hosts:
        raise ValueError(f"{PREFIX}ALLOWED_HOSTS is {value!r}; name hosts, such as app.example")
    return hosts
