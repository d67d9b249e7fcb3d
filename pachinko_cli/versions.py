"""Which versions are installed, and which ones are needed."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib import metadata

OURS = "falcon-pachinko"

# What a report of a bug should name, beside Python: what runs the app, then what runs the command.
DISTRIBUTIONS = (
    *(OURS, "falcon", "msgspec"),
    *("uvicorn", "websockets", "wsproto", "uvloop", "httptools", "watchfiles"),
    *("typer", "rich", "cookiecutter"),
    *("redis", "nats-py", "prometheus-client"),
)

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)(?:; extra == ['\"](\w+)['\"])?")
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True)
class Need:
    """A distribution that ours needs, from which version on; `extra` is "" where always."""

    name: str
    minimum: str
    extra: str


def of(distribution: str) -> str | None:
    """The version that is installed; None where none is."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed() -> dict[str, str | None]:
    """The versions of everything that matters here, in a fixed order; None for what is absent."""
    return {name: of(name) for name in DISTRIBUTIONS}


def python() -> str:
    """The version of Python, its kind and its platform.

    >>> python().split()[0] == platform.python_version()
    True
    """
    system = f"{platform.system()} {platform.machine()}".strip()
    return f"{platform.python_version()} ({platform.python_implementation()}, {system})"


def needs() -> list[Need]:
    """What our own distribution asks for, as its metadata has it."""
    found = map(_REQUIREMENT.fullmatch, metadata.requires(OURS) or ())
    return [Need(each[1], each[2], each[3] or "") for each in found if each]


def is_older(version: str, minimum: str) -> bool:
    """Whether a version comes before another; what follows its numbers does not count.

    >>> is_older("0.9.1", "0.52.2"), is_older("4.2", "4.2.0"), is_older("15.0rc1", "15")
    (True, False, False)
    """
    return _numbers(version) < _numbers(minimum)


def _numbers(version: str) -> list[int]:
    found = _NUMBERS.match(version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:  # 4.2.0 is 4.2
        numbers.pop()
    return numbers
