"""What connects the processes of one app: Redis, NATS, or one process with itself.

``install(app, backend="redis://...")`` is all that an application needs of this.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from falcon_pachinko.backends.base import Backend
from falcon_pachinko.backends.memory import MemoryBackend, MemoryHub
from falcon_pachinko.errors import SetupError

__all__ = ["REPLACEMENT", "Backend", "MemoryBackend", "MemoryHub", "open_backend"]

REPLACEMENT: ContextVar[Callable[[Backend | str | None], Backend] | None] = ContextVar(
    "falcon_pachinko_backend", default=None
)
"""What opens another backend than the one that is given: for apps that a test makes."""


def open_backend(given: Backend | str | None) -> Backend:
    """Return the backend that a setting names; nothing is connected yet.

    Args:
        given: ``redis://``, ``rediss://``, ``unix://`` (a Redis socket),
            ``redis+sentinel://``, ``rediss+sentinel://``, ``nats://``, ``tls://`` (NATS),
            ``memory://name`` (all apps of this process that name the same), a `Backend`, or
            None for one of its own.

    Raises:
        SetupError: It is not one of these, or its package is not installed.

    Example::

        open_backend("redis://db.example:6379/0?namespace=shop")
    """
    replacement = REPLACEMENT.get()
    if replacement is not None:
        return replacement(given)
    if given is None:
        return MemoryBackend()
    if isinstance(given, Backend):
        return given
    scheme = given.partition(":")[0].lower() if isinstance(given, str) and ":" in given else ""
    if scheme == "memory":
        return MemoryBackend(MemoryHub.of(given.removeprefix("memory://")))
    if scheme in ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"):
        from falcon_pachinko.backends.redis import RedisBackend  # noqa: PLC0415  # an extra

        return RedisBackend(given)
    if scheme in ("nats", "tls"):
        from falcon_pachinko.backends.nats import NatsBackend  # noqa: PLC0415  # an extra

        return NatsBackend(given)
    shown = repr(given) if not scheme else f"{scheme}://..."  # the rest may hold a password
    raise SetupError(
        f"backend={shown} is not a backend; use redis://host:6379/0, nats://host:4222, "
        "memory://name, a Backend, or None"
    )
