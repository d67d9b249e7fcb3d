"""The manager's figures for Prometheus; needs the extra ``[metrics]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

import falcon.asgi

from falcon_pachinko.app import installed
from falcon_pachinko.backends.base import State

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["MetricsResource"]

_GAUGES = {
    "connections": "Open connections.",
    "rooms": "Rooms with at least one member.",
    "users": "Users with at least one connection.",
    "outbox_bytes": "Bytes waiting to be sent to clients.",
}
_COUNTERS = {
    "received": ("type", "Messages from clients that a handler took, by message type."),
    "sent": ("type", "Messages sent to clients, counted once per client, by message type."),
    "dropped": ("reason", "Frames that did not reach their client, by reason."),
    "errors": ("type", "Handlers that raised an unexpected exception, by message type."),
    "closed": ("code", "Connections that ended, by close code."),
}


_PLAIN_COUNTERS = {
    "accepted": "Accepted connections.",
    "denied": "Denied handshakes.",
    "gaps": "Interruptions in which messages from other processes may have been lost.",
    "rejected": "Messages from the backend that could not be decoded.",
    "unpublished": "Messages that could not be sent to other processes.",
}
_OF_THE_BACKEND = {
    "failed_calls": "Calls to the backend that failed.",
    "not_stored": "Messages to rooms with a history that were not stored.",
}


class MetricsResource:
    """A Falcon resource that serves an app's WebSocket figures in Prometheus' text format.

    Args:
        app: An app with `install` done.

    Raises:
        ImportError: prometheus-client is not installed; says the pip line.

    Example::

        app.add_route("/metrics", MetricsResource(app))
    """

    def __init__(self, app: falcon.asgi.App[Any, Any]) -> None:
        try:
            import prometheus_client  # noqa: PLC0415  # an extra, needed here only
        except ImportError:
            raise ImportError(
                "MetricsResource needs prometheus-client: pip install 'falcon-pachinko[metrics]'"
            ) from None
        pachinko = installed(app)
        if pachinko is None:
            raise TypeError("the app has no connection manager: install(app) first")
        self._status = pachinko.ws_connection_manager.status
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self)
        self._expose = prometheus_client.generate_latest
        self._content_type = prometheus_client.CONTENT_TYPE_LATEST

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer a scrape."""
        resp.content_type = self._content_type
        resp.data = self._expose(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as they are now; Prometheus' registry calls it."""
        from prometheus_client.core import (  # noqa: PLC0415  # see __init__
            CounterMetricFamily,
            GaugeMetricFamily,
            SummaryMetricFamily,
        )

        status = self._status()
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"pachinko_{name}", text, value=status[name])
        for name, text in _PLAIN_COUNTERS.items():
            yield CounterMetricFamily(f"pachinko_{name}", text, value=status[name])
        up = GaugeMetricFamily(
            "pachinko_backend",
            "State of the backend: 1 for the current state, 0 for the others.",
            labels=["state"],
        )
        limited = GaugeMetricFamily(
            "pachinko_backend_limited",
            "1 while the backend is up and something of it does not work; status() says what.",
        )
        backend = status["backend"]
        for state in get_args(State) if backend is not None else ():
            up.add_metric([state], backend["state"] == state)
        if backend is not None:
            limited.add_metric([], backend["state"] == "up" and backend["why"] is not None)
        yield up
        yield limited
        for name, text in _OF_THE_BACKEND.items():
            value = backend[name] if backend is not None else 0
            yield CounterMetricFamily(f"pachinko_{name}", text, value=value)
        for name, (label, text) in _COUNTERS.items():
            counter = CounterMetricFamily(f"pachinko_{name}", text, labels=[label])
            for value, count in status[name].items():
                counter.add_metric([value], count)
            yield counter
        seconds = SummaryMetricFamily(
            "pachinko_handler_seconds",
            "Time spent in handlers, waiting included, by message type.",
            labels=["type"],
        )
        for message_type, total in status["handler_seconds"].items():
            seconds.add_metric([message_type], status["received"][message_type], total)
        yield seconds
        restarts = CounterMetricFamily(
            "pachinko_worker_restarts", "Restarts of a worker after a crash.", labels=["worker"]
        )
        for name, each in status["workers"].items():
            restarts.add_metric([name], each["restarts"])
        yield restarts
