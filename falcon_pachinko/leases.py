"""What a singleton worker holds: a lease, and the guard that ends its sending with it.

A process can stand still (a debugger, a swapped-out machine, SIGSTOP) and go on
after its lease has ended and another process has it. So a lease counts here only
until a moment on this machine's monotonic clock, reckoned from before it was asked
for; what is sent within its worker after that is refused. What other systems are
to refuse needs the `token`, which grows with every holder.
"""

from __future__ import annotations

import time
from contextvars import ContextVar

from falcon_pachinko.errors import LeaseLostError

__all__ = ["Lease", "check_lease", "current_lease", "hold"]


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
        return time.monotonic() < self.until

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
