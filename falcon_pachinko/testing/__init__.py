"""Tools to test an app's WebSockets: clients in memory, with the app's whole life around them.

::

    async with simulate(app) as client:
        async with client.connect("/ws/chat/tea") as ann, client.connect("/ws/chat/tea") as bob:
            await ann.send_json({"type": "say", "payload": {"text": "hi"}})
            assert (await bob.receive_json())["payload"] == {"text": "hi"}
            await bob.expect_nothing()

`cluster` runs several processes of an app, with kills, partitions and virtual time.
`serve` runs the same app on a real server, for clients with the same verbs. The
pytest plugin, `falcon_pachinko.testing.plugin`, offers both as fixtures.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falcon_pachinko.testing.client import (
        Client,
        Disconnected,
        HandshakeDenied,
        LifespanError,
        NothingReceivedError,
        RequestError,
        UnexpectedFrameError,
    )
    from falcon_pachinko.testing.clock import VirtualClock
    from falcon_pachinko.testing.live import LiveClient, LiveServer, serve
    from falcon_pachinko.testing.nodes import Cluster, ClusterBackend, ClusterNode, cluster
    from falcon_pachinko.testing.simulator import MemoryClient, Simulator, simulate

__all__ = [
    "Client",
    "Cluster",
    "ClusterBackend",
    "ClusterNode",
    "Disconnected",
    "HandshakeDenied",
    "LifespanError",
    "LiveClient",
    "LiveServer",
    "MemoryClient",
    "NothingReceivedError",
    "RequestError",
    "Simulator",
    "UnexpectedFrameError",
    "VirtualClock",
    "cluster",
    "serve",
    "simulate",
]

_HOMES = {
    "Cluster": "nodes",
    "ClusterBackend": "nodes",
    "ClusterNode": "nodes",
    "LiveClient": "live",
    "LiveServer": "live",
    "MemoryClient": "simulator",
    "Simulator": "simulator",
    "VirtualClock": "clock",
    "cluster": "nodes",
    "serve": "live",
    "simulate": "simulator",
}


def __getattr__(name: str) -> Any:
    # The pytest plugin is loaded at the start of every run in its environment, and
    # comes through here: it should not cost a run that uses none of this.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'client')}")
    return getattr(home, name)
