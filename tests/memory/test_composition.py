"""Routers within routers, routes under resources, hooks around all of it."""

import asyncio
from typing import ClassVar

import falcon
import falcon.asgi
import falcon.inspect
import pytest

from falcon_pachinko import (
    HandlerDefinitionError,
    Hook,
    Limits,
    MessageError,
    ResourceTypeError,
    RouteConflictError,
    SetupError,
    UnknownRouteError,
    WebSocketResource,
    WebSocketRouter,
    handles_message,
    install,
    to,
)
from falcon_pachinko.testing import HandshakeDenied, RequestError, simulate


class Echo(WebSocketResource):
    """Says what it was made with, and what its path was."""

    def __init__(self, greeting="hello"):
        self.greeting = greeting

    async def on_connect(self, req, ws, **params):
        await self.send({"type": self.greeting, "payload": params})
        return True

    @handles_message("echo")
    async def echo(self, ws, payload):
        if payload == "fail":
            raise MessageError("failed")
        return payload


def app_with(**options):
    app = falcon.asgi.App()
    return app, install(app, **options)


async def first(app, path):
    """Return what a client of a path hears first."""
    async with simulate(app) as client, client.connect(path) as ann:
        return await ann.receive_json()


async def test_a_router_is_served_under_its_prefix():
    """Its routes are the app's, with the arguments they were given."""
    app, _ = app_with()
    chat = WebSocketRouter()
    chat.add_route("/rooms/{room_id:int}", Echo, greeting="room")
    chat.add_route("/", Echo, greeting="root", name="root")
    app.add_websocket_route("/chat", chat)

    assert await first(app, "/chat/rooms/7") == {"type": "room", "payload": {"room_id": 7}}
    assert await first(app, "/chat") == {"type": "root", "payload": {}}


async def test_routers_nest_and_grow_after_they_were_mounted():
    """What is added later is there, under every prefix the router has."""
    app, handle = app_with()
    outer, inner = WebSocketRouter(), WebSocketRouter()
    app.add_websocket_route("/a", outer)
    app.add_websocket_route("/b/{team}", outer)
    outer.add_route("/in", inner)
    inner.add_route("/echo", Echo)

    assert [route.template for route in handle.routes] == ["/a/in/echo", "/b/{team}/in/echo"]
    assert await first(app, "/b/red/in/echo") == {"type": "hello", "payload": {"team": "red"}}


def test_falcons_inspection_and_our_table_list_the_same_routes():
    """Composition leaves nothing that Falcon's own tools cannot see."""
    app, handle = app_with()
    router = WebSocketRouter()
    app.add_websocket_route("/ws", router).add_route("/room", Echo).add_route("/voice", Echo)

    listed = [route.path for route in falcon.inspect.inspect_routes(app)]
    assert sorted(listed) == sorted(route.template for route in handle.routes)


class Room(WebSocketResource):
    """A parent: guards, and shares what it found out."""

    left: ClassVar = []

    async def on_connect(self, req, ws, room_id):
        if room_id == 13:
            raise falcon.HTTPForbidden(description="unlucky")
        self.title = f"room {room_id}"
        self.state.asked = ["parent"]
        return room_id != 14

    async def on_disconnect(self, ws, close_code):
        self.left.append("parent")


class Voice(WebSocketResource):
    """A child: finds its parent."""

    async def on_connect(self, req, ws, channel, room_id):
        self.state.asked.append("child")
        where = f"{self.parent.title}, {channel} of {room_id}"
        await self.send({"type": where, "payload": self.state.asked})
        return True

    async def on_disconnect(self, ws, close_code):
        Room.left.append("child")


def rooms():
    app, handle = app_with()
    room = app.add_websocket_route("/rooms/{room_id:int}", Room)
    room.add_route("/voice/{channel}", Voice)
    return app, handle


async def test_a_child_is_asked_after_its_parent_and_finds_it():
    """One connection, one state, the parent first; the child may take the parent's fields."""
    app, _ = rooms()

    said = await first(app, "/rooms/5/voice/left")

    assert said == {"type": "room 5, left of 5", "payload": ["parent", "child"]}


async def test_a_child_says_goodbye_before_its_parent():
    """The end is the beginning backwards, each once."""
    app, _ = rooms()
    Room.left.clear()

    await first(app, "/rooms/5/voice/left")

    assert Room.left == ["child", "parent"]


@pytest.mark.parametrize("room_id", [13, 14])
async def test_a_parent_that_denies_denies_for_its_children(room_id):
    """The child is never asked."""
    app, _ = rooms()

    with pytest.raises(HandshakeDenied) as denied:
        await first(app, f"/rooms/{room_id}/voice/left")

    assert denied.value.status == 403


async def closes(self, req, ws):
    await ws.close(4401)
    return True


async def closes_in_a_task(self, req, ws):
    await asyncio.create_task(ws.close(4401))
    return True


async def is_disconnected(self, req, ws):
    ws.user_id = "ann"
    await ws.manager.disconnect(to.user("ann"), 4401)
    return True


async def refuses(self, req, ws):
    raise MessageError("not_you", status=409)


async def fails(self, req, ws):
    raise ZeroDivisionError


async def says_nothing(self, req, ws):
    return None


async def accepts_and_closes(self, req, ws):
    await ws.accept()
    await ws.close(4401)


@pytest.mark.parametrize(
    "on_connect",
    [closes, closes_in_a_task, is_disconnected, refuses, fails, says_nothing, accepts_and_closes],
    ids=lambda given: given.__name__,
)
async def test_after_the_first_answer_nobody_is_asked(knock, on_connect):
    """However a parent says no: no child's ``on_connect``, and no ``after_connect``."""
    asked = []

    class Child(WebSocketResource):
        async def on_connect(self, req, ws):
            asked.append("child")
            await self.join_room("secret")
            return True

        async def on_disconnect(self, ws, close_code):
            asked.append("goodbye")

    class After(Hook):
        async def after_connect(self, req, ws):
            asked.append("after_connect")

    app, _ = app_with(hooks=[After()])
    parent = type("Parent", (WebSocketResource,), {"on_connect": on_connect})
    app.add_websocket_route("/rooms", parent).add_route("/tea", Child)
    async with simulate(app) as client:
        outcome = await knock(client.connect("/rooms/tea"))

        assert client.manager.status()["rooms"] == 0

    assert (outcome == "accepted") == (on_connect is accepts_and_closes)
    assert asked == []


def test_a_child_must_take_the_fields_of_its_own_part_of_the_path():
    """The mistake is found when the route is added."""
    app, _ = app_with()
    room = app.add_websocket_route("/rooms/{room_id}", Room)

    with pytest.raises(HandlerDefinitionError, match=r"write on_connect\(self, req, ws, stream\)"):
        room.add_route("/voice/{stream}", Voice)


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"room_id": 5}, "/rooms/5"),
        ({"room_id": 5, "channel": "a b?ü"}, "/rooms/5/voice/a%20b%3F%C3%BC"),
    ],
)
def test_url_for_fills_a_template_in(params, path):
    """Values are quoted, so that none of them adds a segment."""
    _, handle = rooms()

    assert handle.url_for("Voice" if "channel" in params else "Room", **params) == path


def test_url_for_keeps_the_slashes_of_a_path_field():
    """A path converter takes several segments."""
    app, _ = app_with()
    app.add_websocket_route("/files/{name:path}", Echo, name="file")

    assert app.url_for("file", name="a b/c") == "/files/a%20b/c"


def test_url_for_names_what_is_wrong():
    """An unknown name, an ambiguous one, a missing field: each its own sentence."""
    app, handle = rooms()
    app.add_websocket_route("/other/{room_id}", Room)

    with pytest.raises(UnknownRouteError, match="'Nowhere'"):
        handle.url_for("Nowhere")
    with pytest.raises(SetupError, match="several routes are called 'Room'"):
        handle.url_for("Room", room_id=1)
    with pytest.raises(TypeError, match="needs room_id, channel"):
        handle.url_for("Voice", channel="x")


def test_a_router_within_itself_is_refused():
    """Directly or further down."""
    outer, inner = WebSocketRouter(), WebSocketRouter()
    outer.add_route("/in", inner)

    with pytest.raises(SetupError, match="within itself"):
        inner.add_route("/out", outer)


def test_routes_of_two_routers_may_not_clash():
    """The second one says whose path it is."""
    app, _ = app_with()
    one, two = WebSocketRouter(), WebSocketRouter()
    one.add_route("/room", Echo)
    two.add_route("/room", Echo)
    app.add_websocket_route("/x", one)

    with pytest.raises(RouteConflictError, match="Echo has that path already"):
        app.add_websocket_route("/x", two)


def test_a_routes_limits_override_what_they_name_and_nothing_else():
    """The app's come first, then the parent's, then the route's own."""
    app, handle = app_with(limits=Limits(rooms=7))
    room = app.add_websocket_route("/room", Echo, limits=Limits(message_bytes=100, tags=2))
    room.add_route("/a", Echo)
    room.add_route("/b", Echo, limits=Limits(message_bytes=None, rooms=128))
    app.add_websocket_route("/c", Echo)

    assert [route.limits for route in handle.routes] == [
        Limits(rooms=7, message_bytes=100, tags=2),
        Limits(rooms=7, message_bytes=100, tags=2),
        Limits(rooms=128, message_bytes=None, tags=2),
        Limits(rooms=7),
    ]


async def test_a_resource_factory_makes_every_resource():
    """For those who use a container: it gets the class and the arguments."""
    made = []

    def container(cls, **kwargs):
        made.append((cls, kwargs))
        return cls(**kwargs)

    app, _ = app_with(resource_factory=container)
    app.add_websocket_route("/echo", Echo, greeting="made")

    assert (await first(app, "/echo"))["type"] == "made"
    assert made == [(Echo, {"greeting": "made"})]


class Container:
    """Makes resources as some containers do: in a coroutine, which may wait."""

    def __init__(self, ready):
        self.ready = ready

    async def __call__(self, cls, **kwargs):
        await self.ready()
        return cls(**kwargs)

    async def make(self, cls, **kwargs):
        return await self(cls, **kwargs)


async def at_once(): ...


async def after_a_moment():
    await asyncio.sleep(0)


def plain(made):
    """Return an awaitable, from a function that is not a coroutine function."""

    def call(cls, **kwargs):
        return made(cls, **kwargs)

    return call


@pytest.mark.parametrize("ready", [at_once, after_a_moment])
@pytest.mark.parametrize("of", [lambda made: made, lambda made: made.make, plain])
async def test_a_resource_factory_may_be_a_coroutine_function(ready, of):
    """A method, an object, or a function that returns an awaitable."""
    app, _ = app_with(resource_factory=of(Container(ready)))
    app.add_websocket_route("/echo", Echo, greeting="made")

    assert (await first(app, "/echo"))["type"] == "made"
    if ready is at_once:
        assert isinstance(app.create_websocket_resource("/echo"), Echo)
    else:
        with pytest.raises(SetupError, match="waits for something when it makes Echo"):
            app.create_websocket_resource("/echo")


async def test_a_client_may_go_while_its_resource_is_made(by_hand):
    """Then nobody is asked, and nothing waits for it."""
    began, go_on, asked = asyncio.Event(), asyncio.Event(), []

    class Asked(WebSocketResource):
        async def on_connect(self, req, ws):
            asked.append(ws)
            return True

    async def wait():
        began.set()
        await go_on.wait()

    app, _ = app_with(resource_factory=Container(wait))
    app.add_websocket_route("/", Asked)
    server = by_hand(app)
    server.start()
    await began.wait()
    server.go(code=1001)
    for _ in range(5):  # until that was read
        await asyncio.sleep(0)
    go_on.set()
    await server.ended()

    assert asked == []
    assert server.kinds == ["websocket.close"]  # for the server: the client hears nothing


@pytest.mark.parametrize("failure", [falcon.HTTPServiceUnavailable(), KeyError("bug")])
async def test_a_resource_factory_that_fails_denies(failure, caplog):
    """As an ``on_connect`` that raises."""

    async def make(cls):
        raise failure

    app, _ = app_with(resource_factory=make)
    app.add_websocket_route("/echo", WebSocketResource)
    async with simulate(app) as client:
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/echo").__aenter__()

    assert denied.value.status == (503 if isinstance(failure, falcon.HTTPError) else 500)


@pytest.mark.parametrize(
    "container",
    [lambda cls: cls(), lambda cls, *, _path: cls(), lambda cls, greeting, _more: cls(greeting)],
)
def test_a_resource_factory_that_cannot_take_a_routes_arguments_is_refused(container):
    """When the route is added."""
    app, _ = app_with(resource_factory=container)

    with pytest.raises(ResourceTypeError, match=r"cannot be made with \['greeting'\]: "):
        app.add_websocket_route("/echo", Echo, greeting="made")


class Noted(Hook):
    """Notes everything it sees."""

    def __init__(self, name, notes, fail=None):
        self.name, self.notes, self.fail = name, notes, fail

    def note(self, point):
        self.notes.append(f"{self.name} {point}")
        if self.fail == point:
            raise MessageError("refused", "by a hook")

    async def before_connect(self, req, ws, params):
        self.note("before_connect")

    async def after_connect(self, req, ws):
        self.note("after_connect")

    async def before_message(self, ws, message):
        self.note("before_message")

    async def after_message(self, ws, message, error):
        self.notes.append((message.type, message.payload, type(error).__name__))
        self.note("after_message")

    async def before_disconnect(self, ws, close_code):
        self.note("before_disconnect")


def hooked(notes, **fail):
    """Make an app with a hook at each of the three tiers."""

    class Own(Echo):
        hooks = (Noted("resource", notes, fail.get("resource")),)

        async def on_disconnect(self, ws, close_code):
            notes.append("on_disconnect")

    app, _ = app_with(hooks=[Noted("app", notes, fail.get("app"))])
    router = WebSocketRouter(hooks=[Noted("router", notes, fail.get("router"))])
    router.add_route("/echo", Own)
    app.add_websocket_route("/ws", router)
    return app


async def exchange(app, payload):
    async with simulate(app) as client, client.connect("/ws/echo") as ann:
        await ann.receive()
        try:
            return await ann.request("echo", payload)
        except RequestError as refused:
            return refused.answer


async def test_hooks_run_like_the_layers_of_an_onion():
    """From the outside in before, from the inside out after; the ends included."""
    notes = []

    answer = await exchange(hooked(notes), "x")

    assert answer["payload"] == "x"
    tiers = ("app", "router", "resource")
    assert notes == [
        *(f"{tier} before_connect" for tier in tiers),
        *(f"{tier} after_connect" for tier in tiers),
        *(f"{tier} before_message" for tier in tiers),
        *(
            note
            for tier in reversed(tiers)
            for note in (("echo", "x", "NoneType"), f"{tier} after_message")
        ),
        *(f"{tier} before_disconnect" for tier in reversed(tiers)),
        "on_disconnect",
    ]


async def test_a_hook_that_refuses_a_message_is_its_answer():
    """The handler and the inner layers never see it; the outer one sees the refusal."""
    notes = []

    answer = await exchange(hooked(notes, router="before_message"), "x")

    assert answer["payload"] == {"code": "refused", "message": "by a hook"}
    messages = [note for note in notes if "message" in note[-13:] or isinstance(note, tuple)]
    assert messages == [
        "app before_message",
        "router before_message",
        ("echo", "x", "MessageError"),
        "app after_message",
    ]


async def test_hooks_see_what_the_handler_raised():
    """And the client gets the one error."""
    notes = []

    answer = await exchange(hooked(notes), "fail")

    assert answer["payload"]["code"] == "failed"
    assert notes.count(("echo", "fail", "MessageError")) == 3


async def test_a_hook_that_fails_after_the_handler_replaces_the_answer():
    """One answer, not two."""
    answer = await exchange(hooked([], resource="after_message"), "x")

    assert answer["type"] == "error"
    assert answer["payload"]["code"] == "refused"


async def test_a_hook_may_deny_a_handshake():
    """What it raises is the status; the resource is not asked."""

    class Closed(Hook):
        async def before_connect(self, req, ws, params):
            raise falcon.HTTPTooManyRequests

    app, _ = app_with(hooks=[Closed()])
    app.add_websocket_route("/echo", Echo)

    with pytest.raises(HandshakeDenied) as denied:
        await first(app, "/echo")
    assert denied.value.status == 429


async def test_a_hook_that_fails_after_the_accept_closes_with_1011(caplog):
    """The connection was promised; it ends, with the traceback in the log."""

    class Broken(Hook):
        async def after_connect(self, req, ws):
            raise ZeroDivisionError

    app, _ = app_with(hooks=[Broken()])
    app.add_websocket_route("/echo", Echo)
    async with simulate(app) as client, client.connect("/echo") as ann:
        await ann.receive()
        with pytest.raises(falcon.WebSocketDisconnected):
            await ann.receive()

    assert ann.close_code == 1011
    assert "ZeroDivisionError" in caplog.text


async def test_a_hook_that_fails_at_the_end_stops_nothing(caplog):
    """The other hooks and on_disconnect run all the same."""
    notes = []

    await exchange(hooked(notes, resource="before_disconnect"), "x")

    assert notes[-3:] == ["router before_disconnect", "app before_disconnect", "on_disconnect"]
    assert "before_disconnect failed" in caplog.text


@pytest.mark.parametrize("hook", [Hook, object(), "hook"])
def test_what_is_no_hook_is_refused(hook):
    """When the app is built, with what is wrong."""
    with pytest.raises(HandlerDefinitionError):
        app_with(hooks=[hook])


def test_a_hook_that_is_no_coroutine_is_refused():
    """As a handler would be."""

    class Plain:
        def before_message(self, ws, message): ...

    with pytest.raises(HandlerDefinitionError, match="async def before_message"):
        WebSocketRouter(hooks=[Plain()])
