"""A backend whose server fails and stalls on demand, call by call."""

import asyncio

from falcon_pachinko.backends import MemoryBackend

CALLS = (
    "start", "stop", "publish", "subscribe", "unsubscribe", "enter", "leave", "entries", "beat",
    "acquire", "renew", "release", "append", "read", "forget",
)  # fmt: skip


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
