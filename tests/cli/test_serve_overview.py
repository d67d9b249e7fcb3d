"""What the banner of `pachinko serve` knows about an app."""

import falcon.asgi
import pytest

from falcon_pachinko import WebSocketResource, handles_message, install
from pachinko_cli.server import overview
from pachinko_cli.server.overview import Overview, WebSocketRoute


class Page:
    async def on_get(self, req, resp): ...

    async def on_post(self, req, resp): ...


class PageWithSocket(Page):
    async def on_websocket(self, req, ws): ...


class ChatRoom(WebSocketResource):
    @handles_message("say")
    async def say(self, ws, payload: str): ...


class RouterOfOnesOwn:
    def add_route(self, uri_template, resource, **kwargs): ...

    def find(self, uri, req=None): ...


async def announce(manager): ...


def test_routes_and_workers_are_told(tmp_path):
    """A resource counts once, a static folder too, and one with both kinds is both."""
    app = falcon.asgi.App()
    install(app)
    app.add_route("/", Page())
    app.add_route("/both", PageWithSocket())
    app.add_static_route("/static", tmp_path)
    app.add_websocket_route("/chat/{room:int}", ChatRoom)
    app.add_websocket_worker(announce)

    assert overview.of(app) == Overview(
        http_routes=3,
        websocket_routes=(
            WebSocketRoute("/chat/{room:int}", "ChatRoom", ("say",)),
            WebSocketRoute("/both", "PageWithSocket"),
        ),
        workers=("announce",),
    )


def test_an_app_without_the_library_has_its_plain_routes():
    """Nothing needs to be installed."""
    app = falcon.asgi.App()
    app.add_route("/both", PageWithSocket())

    assert overview.of(app) == Overview(1, (WebSocketRoute("/both", "PageWithSocket"),))


def test_an_unknown_router_keeps_its_routes_to_itself():
    """The app is served all the same."""
    app = falcon.asgi.App(router=RouterOfOnesOwn())
    app.add_route("/", Page())

    assert overview.of(app) == Overview()


def test_another_kind_of_app_is_served_without_details():
    """A middleware around the app, or somebody else's framework."""

    async def app(scope, receive, send): ...

    assert overview.of(app) == Overview()


@pytest.mark.parametrize(
    ("host", "secure", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:8000"),
        ("0.0.0.0", False, "http://127.0.0.1:8000"),
        ("::", False, "http://[::1]:8000"),
        ("tea.example", True, "https://tea.example:8000"),
    ],
)
def test_the_url_is_one_that_a_browser_here_can_open(host, secure, url):
    """Every interface is shown as loopback; IPv6 has its brackets."""
    assert overview.url(host, 8000, secure=secure) == url
