"""Below a prefix: the server's ``root_path`` is taken off, where the path still has it."""

import falcon
import falcon.asgi
import pytest

from falcon_pachinko import WebSocketResource, install
from falcon_pachinko.testing import simulate


class Shows(WebSocketResource):
    async def on_connect(self, req, ws, **params):
        await ws.send_media([req.path, req.root_path, params])
        return True


class Page:
    async def on_get(self, req, resp, **params):
        resp.media = [req.path, req.root_path, params]


@pytest.fixture
def app():
    made = falcon.asgi.App()
    install(made)
    for template in ("/rooms/{room}", "/api/{room}", "/"):
        made.add_route(template, Page())
        made.add_websocket_route(template, Shows)
    return made


async def both(app, path, root_path):
    """Ask by HTTP and by WebSocket; give what came, a status where there is nothing."""
    async with simulate(app) as client:
        answer = await client.http.simulate_get(path, root_path=root_path)
        by_http = answer.json if answer.status_code == 200 else answer.status_code
        try:
            async with client.connect(path, root_path=root_path) as ann:
                by_socket = await ann.receive_json()
        except falcon.WebSocketDisconnected as denied:
            by_socket = denied.status
    assert by_http == by_socket
    return by_http


@pytest.mark.parametrize(
    ("path", "root_path", "seen"),
    [
        ("/pre/rooms/tea", "/pre", ["/rooms/tea", "/pre", {"room": "tea"}]),
        ("/pre/rooms/tea", "/pre/", ["/rooms/tea", "/pre/", {"room": "tea"}]),
        ("/a/b/rooms/tea", "/a/b", ["/rooms/tea", "/a/b", {"room": "tea"}]),
        ("/pre", "/pre", ["/", "/pre", {}]),
        ("/pre/", "/pre", ["/", "/pre", {}]),
        # A proxy has taken it off already.
        ("/rooms/tea", "/pre", ["/rooms/tea", "/pre", {"room": "tea"}]),
        ("/", "/pre", ["/", "/pre", {}]),
        # The path as it came has a route.
        ("/api/rooms", "/api", ["/api/rooms", "/api", {"room": "rooms"}]),
        ("/rooms/tea", "/rooms", ["/rooms/tea", "/rooms", {"room": "tea"}]),
        # It only looks like it.
        ("/prefix/rooms/tea", "/pre", 404),
        ("/other/rooms/tea", "/pre", 404),
        ("/pre/nothing/here", "/pre", 404),
        ("/rooms/tea", "", ["/rooms/tea", "", {"room": "tea"}]),
    ],
)
async def test_a_prefix_is_taken_off_before_routing(app, path, root_path, seen):
    """HTTP and WebSocket alike, where no route matches the path as it came."""
    assert await both(app, path, root_path) == seen


async def test_the_raw_path_is_cut_as_well(app):
    """For those who look at it."""
    seen = []

    class Raw(WebSocketResource):
        async def on_connect(self, req, ws, room):
            seen.append(req.scope["raw_path"])
            return True

    app.add_websocket_route("/raw/{room}", Raw)
    async with simulate(app) as client:
        ann = client.connect("/pre/raw/a b", root_path="/pre")
        ann.scope["raw_path"] = b"/pre/raw/a%20b"
        async with ann:
            pass

    assert seen == [b"/raw/a%20b"]


async def test_a_static_folder_is_below_the_prefix_too(app, tmp_path):
    """What routes nothing matches either way."""
    (tmp_path / "chat.js").write_text("tea")
    app.add_static_route("/static", tmp_path)

    async with simulate(app) as client:
        answer = await client.http.simulate_get("/pre/static/chat.js", root_path="/pre")

    assert answer.text == "tea"


def test_a_url_has_no_prefix(app):
    """The page uses addresses relative to its own."""
    app.add_websocket_route("/lobby/{room}", Shows, name="lobby")

    assert app.url_for("lobby", room="tea") == "/lobby/tea"
