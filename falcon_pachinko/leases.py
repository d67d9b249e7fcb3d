"""What a singleton worker holds: a lease, and the guard that ends its sending with it.

A process can stand still (a debugger, a swapped-out machine, SIGSTOP) and go on
after its lease has ended and another process has it. So a lease counts here only
until a moment on this machine's monotonic clock, reckoned from before it was asked
for; what is sent within its worker after that is refused. What other systems are
to refuse needs the `token`, which grows with every holder.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar

from falcon_pachinko.backends.base import Backend
from falcon_pachinko.clock import monotonic, uniform
from falcon_pachinko.errors import BackendError, LeaseLostError

__all__ = ["Lease", "check_lease", "current_lease", "give_back", "hold", "keep", "take"]

log = logging.getLogger("falcon_pachinko.workers")

_LEASE = 2 / 3  # of Backend.ttl: the rest is for others to notice its end
_TRIES = 6  # how often within Backend.ttl a lease is renewed, or tried for
_CERTAIN = 0.9  # of a lease's time: the clocks of two machines may not go alike


class Lease:
    """The right of one process to run a singleton worker, for a while.

    Attributes:
        worker: The worker's name.
        token: A number larger than that of every earlier holder: pass it to a database
            that can refuse a smaller one.
        until: When it ends, in seconds of `time.monotonic`; every renewal moves it.
    """

    __slots__ = ("token", "until", "worker")

    def __init__(self, worker: str, token: int, until: float) -> None:
        self.worker, self.token, self.until = worker, token, until

    @property
    def held(self) -> bool:
        """Whether it still counts."""
        return monotonic() < self.until

    def check(self) -> None:
        """Refuse to go on without it; call it before what only one process may do.

        Raises:
            LeaseLostError: It has ended.
        """
        if not self.held:
            raise LeaseLostError(self.worker)


_current: ContextVar[Lease | None] = ContextVar("falcon_pachinko_lease", default=None)


def current_lease() -> Lease | None:
    """Return the lease that the code which asks runs under; None outside of singleton workers.

    Example::

        async def send_invoices(manager):
            while True:
                lease = current_lease()
                await database.execute(INSERT, fence=lease.token)
    """
    return _current.get()


def hold(lease: Lease) -> None:
    """Have the code of this context run under a lease."""
    _current.set(lease)


def check_lease() -> None:
    """Refuse to send for a singleton worker that has lost its lease.

    Raises:
        LeaseLostError: It has.
    """
    lease = _current.get()
    if lease is not None:
        lease.check()


async def take(backend: Backend, worker: str) -> Lease:
    """Wait until this process has the lease of a worker; the log says once for what it waits."""
    seconds = backend.ttl * _LEASE
    told = None
    while True:
        asked, why = monotonic(), "another process runs it"
        try:
            token = await backend.acquire(worker, seconds)
        except BackendError as error:
            token, why = None, error.why
        except Exception:
            log.exception("backend %s failed to give worker %s a lease", backend.name, worker)
            token, why = None, "the backend failed"
        if token is not None:
            log.info("worker %s runs here (token %d)", worker, token)
            return Lease(worker, token, asked + seconds * _CERTAIN)
        if why != told:
            told = why
            log.info("worker %s stands by: %s", worker, why)
        await asyncio.sleep(backend.ttl / _TRIES * uniform(0.8, 1.2))


async def keep(backend: Backend, lease: Lease) -> None:
    """Renew a lease until it is lost."""
    seconds = backend.ttl * _LEASE
    while lease.held:
        await asyncio.sleep(backend.ttl / _TRIES)
        asked = monotonic()
        try:
            async with asyncio.timeout(max(0.0, lease.until - asked)):
                if not await backend.renew(lease.worker, lease.token, seconds):
                    return
        except (BackendError, TimeoutError) as error:
            log.debug("the lease of worker %s was not renewed: %s", lease.worker, error)
        except Exception:
            log.exception("backend %s failed to renew a lease", backend.name)
        else:
            if lease.held:  # one that had ended stays ended
                lease.until = asked + seconds * _CERTAIN


async def give_back(backend: Backend, lease: Lease) -> None:
    """End a lease, so that another process need not wait for its end."""
    lease.until = 0.0
    try:
        await backend.release(lease.worker, lease.token)
    except Exception as error:  # noqa: BLE001  # whatever it is, the lease has an end of its own
        log.debug("the lease of worker %s ends by itself: %s", lease.worker, error)
