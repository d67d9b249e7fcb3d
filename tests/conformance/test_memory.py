"""The backends in memory, within their hub and at a distance, held to what every backend does."""

import pytest

from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.backends.remote_memory import RemoteMemoryBackend
from falcon_pachinko.backends.settings import Settings
from falcon_pachinko.testing.conformance import (
    BackendConformance,
    BackendServer,
    OutageConformance,
    StoppableServer,
)


class Memory(BackendServer):
    shortest_ttl = 0.1

    def backend(self, namespace):
        return MemoryBackend(MemoryHub.of(namespace))


class TestMemory(BackendConformance):
    @pytest.fixture
    def server(self):
        return Memory()


class Refusable(RemoteMemoryBackend):
    """One whose server may be gone, so that a connection is refused at once."""

    def __init__(self, server, hub):
        super().__init__(hub, Settings(timeout=0.5, probe=0.2))
        self.server = server

    async def connect(self):
        if self.server.state == "gone":
            raise ConnectionRefusedError("there is no server")
        await super().connect()


class Remote(StoppableServer):
    shortest_ttl = 0.1

    def __init__(self):
        self.state = "there"
        self.backends = []

    def backend(self, namespace):
        self.backends.append(Refusable(self, MemoryHub.of(namespace)))
        return self.backends[-1]

    async def interrupt(self, how):
        self.state = how
        for each in self.backends:
            each.sever() if how == "hung" else each.restore()

    async def restore(self):
        if self.state != "there":
            self.state = "there"
            for each in self.backends:
                each.restore()


class TestRemoteMemory(BackendConformance):
    @pytest.fixture
    def server(self):
        return Remote()


class TestRemoteMemoryOutages(OutageConformance):
    @pytest.fixture
    def server(self):
        return Remote()
