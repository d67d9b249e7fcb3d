"""The backend within one process, held to what every backend does."""

import pytest

from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.testing.conformance import BackendConformance, BackendServer


class Memory(BackendServer):
    shortest_ttl = 0.1

    def backend(self, namespace):
        return MemoryBackend(MemoryHub.of(namespace))


class TestMemory(BackendConformance):
    @pytest.fixture
    def server(self):
        return Memory()
