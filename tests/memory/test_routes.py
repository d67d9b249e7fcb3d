"""WebSocket routes are Falcon's own routes, checked when they are added."""

import datetime as dt
import functools
import uuid

import falcon
import falcon.asgi
import falcon.inspect
import pytest

from falcon_pachinko import (
    HandlerDefinitionError,
    ResourceTypeError,
    RouteConflictError,
    SetupError,
    UnknownRouteError,
    WebSocketResource,
    install,
)
from falcon_pachinko.testing import simulate


class Plain(WebSocketResource):
    pass


class Other(WebSocketResource):
    pass


class Hello:
    async def on_get(self, req, resp):
        resp.media = "hello"


class Shows(WebSocketResource):
    """Sends what it was connected with."""

    async def on_connect(self, req, ws, **params):
        await ws.send_media({name: [type(v).__name__, str(v)] for name, v in params.items()})
        return True


class Made(WebSocketResource):
    """Takes arguments, as a resource that needs a database does."""

    def __init__(self, database, colour="red"):
        self.made_with = [database, colour]

    async def on_connect(self, req, ws):
        await ws.send_media(self.made_with)
        return True


@pytest.fixture
def app():
    made = falcon.asgi.App()
    install(made)
    return made


async def first_of(app, path):
    """Connect, and give the first message."""
    async with simulate(app) as client, client.connect(path) as ann:
        return await ann.receive_json()


async def test_fields_become_arguments_of_on_connect(app):
    """By name, converted as the template says."""
    app.add_websocket_route('/{room}/{n:int}/{key:uuid}/{day:dt("%Y-%m-%d")}', Shows)
    key = uuid.UUID(int=7)

    shown = await first_of(app, f"/tea%20room/42/{key}/2026-01-02")

    assert shown == {
        "room": ["str", "tea room"],
        "n": ["int", "42"],
        "key": ["UUID", str(key)],
        "day": ["datetime", str(dt.datetime(2026, 1, 2))],  # noqa: DTZ001  # as Falcon has it
    }


@pytest.mark.parametrize("path", ["/room/x/more", "/room/x", "/other", "/"])
async def test_a_path_without_a_route_is_404(app, knock, path):
    """Falcon's own answer, as a status; a field that does not convert is no match."""
    app.add_websocket_route("/room/{n:int}", Shows)

    async with simulate(app) as client:
        assert await knock(client.connect(path)) == 404


async def test_a_resource_is_made_with_the_routes_arguments(app):
    """Given once, used for every connection."""
    app.add_websocket_route("/made", Made, database="db", colour="blue")

    assert await first_of(app, "/made") == ["db", "blue"]


def make_made(database, colour="green") -> Made:
    return Made(database, colour)


@pytest.mark.parametrize(
    "factory",
    [make_made, functools.partial(make_made), lambda database: Made(database, "green")],
    ids=["function", "partial", "lambda"],
)
async def test_a_factory_may_make_the_resource(app, factory):
    """Any function that returns one, with or without annotations."""
    app.add_websocket_route("/made", factory, database="db")

    assert await first_of(app, "/made") == ["db", "green"]


async def test_every_connection_has_a_resource_of_its_own(app):
    """What one puts on ``self`` no other sees."""

    class Counts(WebSocketResource):
        seen = 0

        async def on_message(self, ws, message):
            self.seen += 1
            await ws.send_media(self.seen)

    app.add_websocket_route("/", Counts)
    async with simulate(app) as client, client.connect("/") as ann, client.connect("/") as bob:
        heard = []
        for who in (ann, ann, bob):
            await who.send_text("x")
            heard.append(await who.receive_json())

    assert heard == [1, 2, 1]


async def test_a_factory_that_returns_something_else_is_a_bug_of_the_app(app, knock, caplog):
    """The client gets a 500, and the log says what was returned."""
    app.add_websocket_route("/", lambda: "no resource")

    async with simulate(app) as client:
        status = await knock(client.connect("/"))

    assert status == 500
    assert "it returned 'no resource', which is not a WebSocketResource" in caplog.text
    assert app.ws_connection_manager.status()["connections"] == 0


async def test_a_resource_that_cannot_be_made_is_a_500(app, knock, caplog):
    """create_resource() runs before gate.take_over(): the client gets a plain 403."""

    class Broken(WebSocketResource):
        def __init__(self):
            raise ZeroDivisionError

    app.add_websocket_route("/", Broken)

    async with simulate(app) as client:
        status = await knock(client.connect("/"))

    assert status == 500
    assert "ZeroDivisionError" in caplog.text


# What is refused when the app is built.


async def coroutine_factory():
    return Plain()


@pytest.mark.parametrize(
    ("resource", "why"),
    [
        (Hello, "derive Hello from WebSocketResource"),
        (Plain(), "pass the class Plain: every connection gets an instance of its own"),
        (Hello(), "pass a WebSocketResource subclass, or a function that returns one"),
        (coroutine_factory, "pass a WebSocketResource subclass, or a function that returns one"),
        (None, "pass a WebSocketResource subclass"),
        ("Plain", "pass a WebSocketResource subclass"),
    ],
    ids=["class", "instance", "falcon's", "coroutine", "none", "text"],
)
def test_what_makes_no_resource_is_refused(app, resource, why):
    """With the path, the thing and the remedy."""
    with pytest.raises(ResourceTypeError, match=f"cannot route '/x' to .*: {why}"):
        app.add_websocket_route("/x", resource)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, r"cannot be made with \[\]: missing a required argument: 'database'"),
        ({"database": 1, "size": 2}, r"\['database', 'size'\]: got an unexpected .* 'size'"),
    ],
)
def test_arguments_that_the_resource_does_not_take_are_refused(app, arguments, why):
    """When the route is added, not when the first client comes."""
    with pytest.raises(ResourceTypeError, match=why):
        app.add_websocket_route("/x", Made, **arguments)


class WrongName(WebSocketResource):
    async def on_connect(self, req, ws, room_name):
        return True


class TooMuch(WebSocketResource):
    async def on_connect(self, req, ws, room, more):
        return True


class NoField(WebSocketResource):
    async def on_connect(self, req, ws):
        return True


@pytest.mark.parametrize("resource", [WrongName, TooMuch, NoField])
def test_on_connect_takes_the_fields_of_the_template(app, resource):
    """Else no connection would ever come to be; the error shows the signature to write."""
    with pytest.raises(
        HandlerDefinitionError, match=r"write on_connect\(self, req, ws, room\)"
    ) as refused:
        app.add_websocket_route("/x/{room}", resource)

    assert f"{resource.__name__}.on_connect does not fit the route '/x/{{room}}'" in str(
        refused.value
    )


@pytest.mark.parametrize("field", ["req", "ws", "self"])
def test_a_field_may_not_take_a_reserved_name(app, field):
    """``on_connect`` has a parameter of that name already."""
    with pytest.raises(
        HandlerDefinitionError, match=f"cannot take the field {{{field}}}.*: rename it"
    ):
        app.add_websocket_route(f"/x/{{{field}}}", Shows)


def test_on_connect_must_be_a_coroutine():
    """The class itself is refused."""
    with pytest.raises(
        HandlerDefinitionError, match="on_connect is awaited by the library but is not a cor"
    ):

        class Room(WebSocketResource):
            def on_connect(self, req, ws):
                return True


# One path, one resource.


def test_a_path_has_one_websocket_resource(app):
    """The second is refused, and told who has it."""
    app.add_websocket_route("/x", Plain)

    with pytest.raises(RouteConflictError, match="'/x' to Other: Plain has that path already"):
        app.add_websocket_route("/x", Other)

    assert isinstance(app.create_websocket_resource("/x"), Plain)


def test_http_and_websocket_routes_stand_side_by_side(app):
    """On paths of their own, added in any order."""
    app.add_route("/a", Hello())
    app.add_websocket_route("/b", Plain)
    app.add_route("/c", Hello())
    app.add_websocket_route("/d", Other)

    assert {route.path for route in falcon.inspect.inspect_routes(app)} == {"/a", "/b", "/c", "/d"}


def test_routes_that_differ_in_a_fields_name_only_clash(app):
    """Falcon says so, and it is passed on."""
    app.add_websocket_route("/{a}", Shows)

    with pytest.raises(RouteConflictError, match=r"cannot route '/{b}' to Shows: "):
        app.add_websocket_route("/{b}", Shows)


@pytest.mark.parametrize(
    "template", ["no-slash", "", "//x", None, "/{}", "/{a}/{a}", "/{1a}", "/{a:nope}"]
)
def test_a_template_that_falcon_does_not_take_is_refused(app, template):
    """With Falcon's own reason."""
    with pytest.raises(SetupError, match=r"cannot route|must start with '/'"):
        app.add_websocket_route(template, Shows)

    assert falcon.inspect.inspect_routes(app) == []


async def test_a_route_that_was_refused_leaves_the_other_as_it_was(app):
    """A clash breaks nothing that worked."""
    app.add_websocket_route("/x", Shows)
    with pytest.raises(RouteConflictError):
        app.add_websocket_route("/x", Other)

    assert await first_of(app, "/x") == {}


def test_falcon_lists_the_routes(app):
    """``falcon.inspect`` shows WebSocket routes beside the others."""
    app.add_route("/hello", Hello())
    app.add_websocket_route("/ws/{room}", Shows)

    listed = falcon.inspect.inspect_routes(app)

    assert {route.path for route in listed} == {"/hello", "/ws/{room}"}
    assert ("WEBSOCKET", "on_websocket") in {
        (method.method, method.function_name) for route in listed for method in route.methods
    }


async def test_a_router_of_the_users_own_works():
    """Though nobody can look into it for clashes."""

    class OneRoute:
        def __init__(self):
            self.found = None

        def add_route(self, uri_template, resource, **kwargs):
            self.found = (resource, {"WEBSOCKET": resource.on_websocket}, {}, uri_template)

        def find(self, uri, req=None):
            return self.found

    app = falcon.asgi.App(router=OneRoute())
    install(app)
    app.add_websocket_route("/x", Shows)

    assert await first_of(app, "/x") == {}


# Resources by hand.


def test_a_resource_can_be_made_by_template_or_path(app):
    """As a connection would get it."""
    app.add_websocket_route("/made/{n:int}", MadeWithField, database="db")
    by_template = app.create_websocket_resource("/made/{n:int}")
    by_path = app.create_websocket_resource("/made/3")

    assert isinstance(by_template, MadeWithField)
    assert by_template is not by_path
    assert by_template.made_with == by_path.made_with == ["db", "red"]


class MadeWithField(Made):
    async def on_connect(self, req, ws, n):
        return True


@pytest.mark.parametrize("path", ["/nope", "/made/x", "/hello", ""])
def test_a_path_without_a_websocket_route_makes_no_resource(app, path):
    """The error lists the routes that there are."""
    app.add_route("/hello", Hello())
    app.add_websocket_route("/made/{n:int}", MadeWithField, database="db")

    with pytest.raises(UnknownRouteError, match=f"'{path}'; the routes are: /made/{{n:int}}"):
        app.create_websocket_resource(path)
