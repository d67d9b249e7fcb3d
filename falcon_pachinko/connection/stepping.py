"""Stepping a coroutine by hand: what finishes at once then costs no task and no timer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator
from typing import Any

from falcon_pachinko.typing import AsgiSend

__all__ = ["Resumed", "is_bare", "resume"]

_SERVERS = frozenset(
    {"uvicorn", "hypercorn", "daphne", "granian", "falcon_pachinko", "pachinko_cli"}
)
"""Packages whose ``send`` may be stepped: servers, not middleware; and those that only pass on
to one, the testing kit and the trace of ``pachinko serve``."""


def resume(step: Any, waiting_for: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that was stepped by hand, from within the task that iterates this.

    What it waits for, what it is sent and what is thrown into it pass through,
    so that the coroutine sees no difference to having been awaited.
    """
    try:
        while True:
            try:
                value = yield waiting_for
            except GeneratorExit:
                step.close()
                raise
            except BaseException as error:  # noqa: BLE001  # cancellation belongs to the coroutine
                waiting_for = step.throw(error)
            else:
                waiting_for = step.send(value)
    except StopIteration as done:
        return done.value


class Resumed:
    """`resume` for an ``await``."""

    __slots__ = ("step", "waiting_for")

    def __init__(self, step: Any, waiting_for: Any) -> None:
        self.step, self.waiting_for = step, waiting_for

    def __await__(self) -> Generator[Any, Any, Any]:
        return resume(self.step, self.waiting_for)


@functools.lru_cache(maxsize=64)
def _is_server(owner: type) -> bool:
    return any(each.__module__.partition(".")[0] in _SERVERS for each in owner.__mro__)


def is_bare(send: AsgiSend) -> bool:
    """Tell whether a ``send`` is the server's own, which may be stepped by hand.

    Anything but a coroutine method of a known server's object may be a middleware's.
    """
    return (
        inspect.ismethod(send)
        and inspect.iscoroutinefunction(send)
        and _is_server(type(send.__self__))  # type: ignore[arg-type]  # a class is hashable
    )
