"""A backend whose server fails and stalls on demand, call by call."""

import asyncio
import contextlib

from falcon_pachinko.backends import MemoryBackend

CALLS = (
    "start", "stop", "publish", "subscribe", "unsubscribe", "enter", "replace", "leave",
    "entries", "tables", "beat", "alive", "acquire", "renew", "release", "remember", "recall",
    "append", "read", "forget",
)  # fmt: skip


DEADLINE = 30
"""Seconds that anything a test waits for may take."""


async def until(condition):
    """Let the loop turn until something is true."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # anything may make it true
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def started(nodes):
    """Have some processes run, and stop them whatever faults they have by then."""
    for each in nodes:
        await each.start()
    try:
        yield nodes
    finally:
        for each in nodes:
            each.backend.mend()
            await each.stop()


class FaultyBackend(MemoryBackend):
    """The backend in memory, with faults."""

    def __init__(self, hub=None, ttl=15.0) -> None:
        super().__init__(hub, ttl)
        self.failing = {}
        """What each call raises, by its name."""
        self.calls = []
        """The calls so far, by their names."""
        self._gates = {}

    def stall(self, call):
        """Have a call wait until the event that this returns is set."""
        self._gates[call] = asyncio.Event()
        return self._gates[call]

    def mend(self):
        """Have no more faults."""
        self.failing = {}
        for gate in self._gates.values():
            gate.set()

    async def events(self):
        error = self.failing.pop("events", None)
        if error is not None:
            raise error
        async for event in super().events():
            yield event
            error = self.failing.pop("events", None)
            if error is not None:
                raise error


def _faulty(call):
    async def method(self, *args):
        self.calls.append(call)
        if call in self._gates:
            await self._gates[call].wait()
        if call in self.failing:
            raise self.failing[call]
        return await getattr(super(FaultyBackend, self), call)(*args)

    return method


for _call in CALLS:
    setattr(FaultyBackend, _call, _faulty(_call))
