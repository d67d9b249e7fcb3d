import pytest

from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.testing.conformance import BackendConformance, BackendServer


class Lounge(BackendServer):
    shortest_ttl = 0.1

    def backend(self, namespace):
        return MemoryBackend(MemoryHub.of(namespace))


class TestLounge(BackendConformance):
    @pytest.fixture
    def server(self):
        return Lounge()
