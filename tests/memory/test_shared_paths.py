"""HTTP and WebSockets on one path: two resources, as one of Falcon's would have both."""

from pathlib import Path

import falcon
import falcon.asgi
import falcon.inspect
import pytest

from falcon_pachinko import (
    ResourceTypeError,
    RouteConflictError,
    WebSocketResource,
    WebSocketRouter,
    handles_message,
    install,
)
from falcon_pachinko.testing import simulate


class Page:
    """Serves HTTP."""

    async def on_get(self, req, resp, **params):
        resp.media = {"page": params}

    async def on_post_item(self, req, resp, **params):
        resp.media = {"item": params}


class Room(WebSocketResource):
    """Serves WebSockets."""

    async def on_connect(self, req, ws, **params):
        await ws.send_media(params)
        return True

    @handles_message("say")
    async def say(self, ws):
        return "said"


class Both:
    """Serves HTTP, and WebSockets in Falcon's own way."""

    async def on_get(self, req, resp):
        resp.media = "both"

    async def on_websocket(self, req, ws):
        await ws.accept()
        await ws.send_media("both")
        await ws.close()


def http_first(app, template, **options):
    app.add_route(template, Page(), **options)
    app.add_websocket_route(template, Room)


def websockets_first(app, template, **options):
    app.add_websocket_route(template, Room)
    app.add_route(template, Page(), **options)


ORDERS = pytest.mark.parametrize("add", [http_first, websockets_first])


@pytest.fixture
def app():
    made = falcon.asgi.App()
    install(made)
    return made


@ORDERS
async def test_a_path_serves_http_and_websockets(app, add):
    """Whichever was added first; the fields of the template are for both."""
    add(app, "/rooms/{room}/{n:int}")

    async with simulate(app) as client:
        answer = await client.http.simulate_get("/rooms/tea/3")
        async with client.connect("/rooms/tea/3") as ann:
            welcome = await ann.receive_json()

    assert (answer.json, welcome) == ({"page": {"room": "tea", "n": 3}}, {"room": "tea", "n": 3})


@ORDERS
async def test_other_methods_are_answered_as_falcon_does(app, add):
    """With 405 and what is allowed, be there a WebSocket route or not."""
    add(app, "/x")
    app.add_route("/plain", Page())

    async with simulate(app) as client:
        for method in ("POST", "OPTIONS", "DELETE", "CONNECT"):
            shared = await client.http.simulate_request(method, "/x")
            plain = await client.http.simulate_request(method, "/plain")

            assert (shared.status, shared.headers.get("allow")) == (
                plain.status,
                plain.headers.get("allow"),
            )


@ORDERS
async def test_a_suffix_is_kept(app, add):
    """An HTTP resource that serves several paths says which of its responders are meant."""
    add(app, "/x", suffix="item")

    async with simulate(app) as client:
        assert (await client.http.simulate_post("/x")).json == {"item": {}}
        assert (await client.http.simulate_get("/x")).status_code == 405
        async with client.connect("/x") as ann:
            assert await ann.receive_json() == {}


@pytest.mark.parametrize("suffix", [None, "item"])
async def test_a_path_from_before_install_is_shared_too(suffix):
    """With its suffix."""
    app = falcon.asgi.App()
    app.add_route("/a/{n:int}", Page(), **({"suffix": suffix} if suffix else {}))
    app.add_route("/a/{n:int}/b", Page())
    install(app)
    app.add_websocket_route("/a/{n:int}", Room)

    async with simulate(app) as client:
        method, key = ("POST", "item") if suffix else ("GET", "page")
        answer = await client.http.simulate_request(method, "/a/3")
        below = await client.http.simulate_get("/a/3/b")
        async with client.connect("/a/3") as ann:
            await ann.receive_json()

    assert answer.json == {key: {"n": 3}}
    assert below.json == {"page": {"n": 3}}


@ORDERS
def test_falcon_lists_both(app, add):
    """Under the name, the file and the line of the HTTP resource, with all responders."""
    add(app, "/x")

    [route] = falcon.inspect.inspect_routes(app)
    methods = {method.method for method in route.methods if not method.internal}

    assert (route.path, route.class_name) == ("/x", "Page")
    assert methods == {"GET", "WEBSOCKET"}
    assert __file__ in route.source_info


def test_falcon_lists_a_websocket_route_as_its_resource(app):
    """By the name, the file and the line of its class."""
    app.add_websocket_route("/x", Room)

    [route] = falcon.inspect.inspect_routes(app)
    file, line = route.source_info.rsplit(":", 1)

    assert (route.class_name, file) == ("Room", __file__)
    assert Path(file).read_text("utf-8").splitlines()[int(line)].startswith("class Room(")


async def test_the_last_http_resource_counts(app):
    """Falcon puts a second one in the first one's place; the WebSockets stay."""

    class Second:
        async def on_get(self, req, resp):
            resp.media = "second"

    app.add_route("/x", Page())
    app.add_websocket_route("/x", Room)
    app.add_route("/x", Second())

    async with simulate(app) as client:
        assert (await client.http.simulate_get("/x")).json == "second"
        async with client.connect("/x") as ann:
            assert await ann.receive_json() == {}
    assert isinstance(app.create_websocket_resource("/x"), Room)


def test_two_that_serve_websockets_do_not_share(app):
    """One of them would never be asked."""
    app.add_route("/a", Both())
    app.add_websocket_route("/b", Room)

    for path, add in (
        ("/a", lambda: app.add_websocket_route("/a", Room)),
        ("/b", lambda: app.add_route("/b", Both())),
    ):
        with pytest.raises(RouteConflictError) as refused:
            add()

        assert str(refused.value) == (
            f"cannot route {path!r} to Room: Both.on_websocket serves WebSockets there; "
            "give one of them another path"
        )


async def test_what_was_refused_changes_nothing(app):
    """Both paths serve what they did."""
    app.add_route("/a", Both())
    app.add_websocket_route("/b", Room)
    for add in (lambda: app.add_websocket_route("/a", Room), lambda: app.add_route("/b", Both())):
        with pytest.raises(RouteConflictError):
            add()

    async with simulate(app) as client:
        async with client.connect("/a") as ann:
            assert await ann.receive_json() == "both"
            await ann.expect_close()
        async with client.connect("/b") as bob:
            assert await bob.receive_json() == {}
        assert (await client.http.simulate_get("/b")).status_code == 405


async def test_middleware_sees_the_resource_that_serves(app):
    """The HTTP resource itself for a request, a stand-in of the other class for a handshake."""
    seen = []

    class Looks:
        async def process_resource(self, req, resp, resource, params):
            seen.append(resource)

        async def process_resource_ws(self, req, ws, resource, params):
            seen.append(resource)

    page = Page()
    app.add_middleware(Looks())
    app.add_route("/x", page)
    app.add_websocket_route("/x", Room)
    async with simulate(app) as client, client.connect("/x"):
        await client.http.simulate_get("/x")

    assert isinstance(seen[0], Room)
    assert seen[1] is page


@pytest.mark.parametrize(
    ("thing", "call"),
    [
        (WebSocketRouter(), r"add_websocket_route\('/x', router\)"),
        (Room, r"add_websocket_route\('/x', Room\)"),
        (Room(), r"add_websocket_route\('/x', Room\)"),
        (WebSocketRouter, r"add_websocket_route\('/x', router\)"),
    ],
)
def test_what_serves_websockets_is_told_where_it_belongs(app, thing, call):
    """Falcon would take it, and answer everything with 405."""
    with pytest.raises(ResourceTypeError, match=call):
        app.add_route("/x", thing)

    assert falcon.inspect.inspect_routes(app) == []
