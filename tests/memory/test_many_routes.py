"""An app with many routes: adding one costs the same, however many there are."""

import inspect
import linecache
import sys

import falcon.asgi
import falcon.routing
import pytest

from falcon_pachinko import App, WebSocketResource, install
from falcon_pachinko.testing import simulate


class Room(WebSocketResource):
    async def on_connect(self, req, ws, **params):
        return True


class Page:
    async def on_get(self, req, resp, **params): ...


def template(number, field):
    """Give a path of its own, without too many siblings: Falcon compares each with all of them."""
    return f"/a{number % 10}/b{number // 10 % 10}/c{number // 100}/{field}"


def calls(function):
    """Count the Python functions that are called, by their code."""
    counted = {}

    def count(frame, event, _arg):
        if event == "call":
            counted[frame.f_code] = counted.get(frame.f_code, 0) + 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return counted


def build(websockets, http=0, field="{room}"):
    app = App()
    for number in range(http):
        app.add_route(template(number, "{page}"), Page())
    for number in range(websockets):
        app.add_websocket_route(template(number + http, field), Room)
    return app


FIELDS = ["{room}", "{room:int}", '{day:dt("%Y-%m-%d")}', "{rest:path}"]


@pytest.mark.parametrize("field", FIELDS)
def test_a_route_costs_the_same_however_many_there_are(field):
    """Ten times as many routes are about ten times the work."""
    few = sum(calls(lambda: build(100, field=field)).values())
    many = sum(calls(lambda: build(1000, field=field)).values())

    assert many / few < 13


def test_http_routes_cost_ours_nothing():
    """Twenty WebSocket routes beside none or three hundred of the others."""
    alone = sum(calls(lambda: build(20)).values())
    http = sum(calls(lambda: build(0, http=300)).values())
    together = sum(calls(lambda: build(20, http=300)).values())

    assert together < (alone + http) * 1.3


@pytest.mark.parametrize("field", FIELDS)
def test_the_router_is_not_compiled_and_no_source_is_read(field):
    """Falcon compiles at the first request; what a route is, is known without its source."""
    seen = calls(lambda: build(20, http=20, field=field))
    never = [
        falcon.routing.CompiledRouter.find,
        falcon.routing.CompiledRouter._compile,
        inspect.findsource,
        inspect.getsourcefile,
        linecache.updatecache,
    ]

    assert not [each for each in never if inspect.unwrap(each).__code__ in seen]


async def test_the_last_of_many_is_served():
    """Each under its own path."""
    async with simulate(build(300, http=300, field="{room:int}")) as client:
        async with client.connect("/a9/b9/c5/7"):
            pass
        assert (await client.http.simulate_get("/a9/b9/c2/7")).status_code == 200


def test_installing_on_an_app_with_many_routes_reads_no_source():
    """The routes from before are looked at once."""
    app = falcon.asgi.App()
    for number in range(300):
        app.add_route(template(number, "{page}"), Page())
    seen = calls(lambda: install(app))

    assert inspect.findsource.__code__ not in seen
    assert sum(seen.values()) < 300 * 40
