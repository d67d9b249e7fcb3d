"""What the banner of `pachinko serve` knows about an app."""

from pathlib import Path

import falcon.asgi
import pytest

from falcon_pachinko import WebSocketResource, handles_message, install
from pachinko_cli.console import Console
from pachinko_cli.server import overview
from pachinko_cli.server.overview import Overview, WebSocketRoute
from pachinko_cli.server.plan import Plan

pytestmark = pytest.mark.quick


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


def announced(capsys, host, allowed_hosts):
    """Announce an app on a host, and give what was printed on stderr."""
    plan = Plan(root=Path(), app="tea_room.asgi:app", host=host, console=Console(), uvicorn={})
    overview.announcer(plan)(Overview(allowed_hosts=allowed_hosts), "http://here")
    return capsys.readouterr().err


LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@pytest.mark.parametrize(
    ("host", "allowed_hosts", "refused"),
    [
        ("0.0.0.0", LOOPBACK, "from other machines"),
        ("::", LOOPBACK, "from other machines"),
        ("10.0.0.5", LOOPBACK, "for 10.0.0.5"),
        ("app.example", ("*.app.example",), "for app.example"),
    ],
)
def test_a_host_that_the_app_refuses_is_told(capsys, host, allowed_hosts, refused):
    """Whose requests are going to be refused, by which setting, and how to change it."""
    printed = announced(capsys, host, allowed_hosts)

    assert f"requests {refused} are going to be refused: allowed_hosts is" in printed
    assert ", ".join(allowed_hosts) in printed
    assert "allowed_hosts=[...]" in printed
    assert "TEA_ROOM_ALLOWED_HOSTS" in printed


@pytest.mark.parametrize(
    ("host", "allowed_hosts"),
    [
        ("127.0.0.1", LOOPBACK),
        ("::1", LOOPBACK),
        ("0.0.0.0", None),
        ("0.0.0.0", (*LOOPBACK, "app.example")),
        ("a.app.example", ("*.app.example",)),
    ],
)
def test_a_host_that_the_app_takes_is_not_worth_a_word(capsys, host, allowed_hosts):
    """Nothing is said where nothing is wrong, or where the project has names of its own."""
    assert announced(capsys, host, allowed_hosts) == ""


def test_the_setting_of_an_app_is_known():
    """As it was given to `install`."""
    app = falcon.asgi.App()
    install(app, allowed_hosts=LOOPBACK)

    assert overview.of(app).allowed_hosts == LOOPBACK
