"""The figures for Prometheus: what happened, as its own parser reads it."""

import builtins

import falcon
import falcon.asgi
import pytest
from prometheus_client.parser import text_string_to_metric_families

from falcon_pachinko import WebSocketResource, handles_message, install
from falcon_pachinko.metrics import MetricsResource
from falcon_pachinko.testing import simulate


class Room(WebSocketResource):
    async def on_connect(self, req, ws):
        if req.params:
            return False
        await self.join_room("lobby")
        return True

    @handles_message("say")
    async def say(self, ws, payload):
        await self.broadcast_to_room("lobby", {"type": "said"})

    @handles_message("fail")
    async def fail(self, ws):
        raise ZeroDivisionError


async def test_a_scrape_tells_what_there_is_and_what_has_happened(serve, knock, answered):
    """Gauges of the moment, counters that only grow, with the labels that tell them apart."""
    app = serve(Room)
    app.add_route("/metrics", MetricsResource(app))

    async def poll(manager): ...

    app.add_websocket_worker(poll)
    async with simulate(app) as client, client.connect("/") as ann, client.connect("/"):
        for message in ("say", "say", "fail"):
            await answered(ann.request(message))
        await knock(client.connect("/?deny=1"))
        answer = await client.http.simulate_get("/metrics")

    families = list(text_string_to_metric_families(answer.text))
    figures = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    assert answer.headers["content-type"].startswith("text/plain")
    assert all(family.documentation for family in families)
    assert figures["pachinko_connections",] == 2
    assert figures["pachinko_rooms",] == 1
    assert figures["pachinko_accepted_total",] == 2
    assert figures["pachinko_denied_total",] == 1
    assert figures["pachinko_received_total", "say"] == 2
    assert figures["pachinko_sent_total", "said"] == 4
    assert figures["pachinko_errors_total", "fail"] == 1
    assert figures["pachinko_worker_restarts_total", "poll"] == 0


async def test_an_end_is_counted_by_its_code(serve):
    """So that a storm of 1006 shows."""
    app = serve(Room)
    app.add_route("/metrics", MetricsResource(app))
    async with simulate(app) as client:
        async with client.connect("/") as ann:
            await ann.close(4000)
        answer = await client.http.simulate_get("/metrics")

    assert 'pachinko_closed_total{code="4000"} 1.0' in answer.text


async def test_close_codes_of_clients_make_few_series(serve):
    """A hostile client makes up a code for each of its connections."""
    app = serve(Room)
    app.add_route("/metrics", MetricsResource(app))
    async with simulate(app) as client:
        for code in range(4000, 4200):
            async with client.connect("/") as eve:
                await eve.close(code)
        text = (await client.http.simulate_get("/metrics")).text

    assert text.count("pachinko_closed_total{") < 50
    assert 'pachinko_closed_total{code="(other)"}' in text


@pytest.mark.parametrize("message", [{"type": f"made up {n}"} for n in (1, 2)] + ["{", "[1]"])
async def test_types_that_nothing_handles_make_no_series(serve, message):
    """What counts as received is what a handler took."""
    app = serve(Room)
    app.add_route("/metrics", MetricsResource(app))
    async with simulate(app) as client, client.connect("/") as eve:
        await eve.send(message)
        await eve.receive_json()
        text = (await client.http.simulate_get("/metrics")).text

    assert "pachinko_received_total{" not in text
    assert "made up" not in text


def test_an_app_without_install_has_no_figures():
    """The error says what to call."""
    with pytest.raises(TypeError, match=r"install\(app\) first"):
        MetricsResource(falcon.asgi.App())


def test_without_the_extra_the_pip_line_is_told(monkeypatch):
    """Whoever lacks prometheus-client knows what to type."""
    import_module = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return import_module(name, *args, **kwargs)

    app = falcon.asgi.App()
    install(app)
    monkeypatch.setattr(builtins, "__import__", refuse)

    with pytest.raises(ImportError, match=r"pip install 'falcon-pachinko\[metrics\]'"):
        MetricsResource(app)
