"""What a resource class may define, checked when it is made and when it is routed."""

import abc
import operator

import falcon
import falcon.asgi
import pytest

from falcon_pachinko import (
    HandlerDefinitionError,
    Hook,
    ResourceTypeError,
    WebSocketResource,
    handles_message,
    install,
)
from falcon_pachinko.messages.definition import RESERVED

VERBS = ["join_room", "leave_room", "broadcast_to_room", "send", "track"]


def resource(**members):
    return type("Room", (WebSocketResource,), members)


def handler(message_type="x"):
    @handles_message(message_type)
    async def method(self, ws, payload: str): ...

    return method


async def takes_nothing(self): ...


@pytest.mark.parametrize(
    "name",
    [*VERBS, *RESERVED, "ws", "state", "parent", "schema", "subprotocols", "hooks",
     "close_on_error", "on_connect", "on_disconnect", "on_message", "on_refused"],
)  # fmt: skip
def test_a_handler_with_a_name_of_the_librarys_is_refused(name):
    """The error names the attribute and a name that works; the type may stay."""
    with pytest.raises(HandlerDefinitionError, match=rf"Room\.{name} .*such as `handle_\w+`"):
        resource(**{name: handler(name)})


@pytest.mark.parametrize("name", [*VERBS, *RESERVED, "ws", "state", "parent"])
@pytest.mark.parametrize("value", [5, {}, takes_nothing, property(repr)])
def test_another_meaning_for_a_name_of_the_librarys_is_refused(name, value):
    """A value, a property, a method that is called in another way."""
    with pytest.raises(HandlerDefinitionError, match=rf"Room\.{name} .*(something else)"):
        resource(**{name: value})


@pytest.mark.parametrize("name", RESERVED)
def test_a_name_that_is_not_used_yet_is_reserved(name):
    """So that a later version can give it its meaning."""
    with pytest.raises(HandlerDefinitionError, match=rf"Room\.{name} has a name that is reserved"):
        resource(**{name: ("x",)})


def test_a_mixin_is_checked_as_well():
    """Wherever in the bases the name is defined."""

    class Mixin:
        state = None

    with pytest.raises(HandlerDefinitionError, match=r"Mixin\.state takes the name of the res"):
        type("Room", (Mixin, WebSocketResource), {})


def test_a_verb_may_be_overridden_to_add_to_it():
    """That is not another meaning."""

    class Room(WebSocketResource):
        async def send(self, message):
            await super().send({"v": 1, **message})

        async def join_room(self, room, *, since=None, quietly=False):
            await super().join_room(room.lower(), since=since)

    assert "send" in vars(Room)


def test_all_other_names_are_the_users():
    """Also such as the library uses for things of its own."""

    class Room(WebSocketResource):
        name = "tea"
        limits = connection = manager = _connection = _table = None

        def __init__(self):
            self._connection = self._hooks = self._session = object()

    assert Room()._connection is not None


async def audit(req, resp, resource, params): ...


@pytest.mark.parametrize("wrap", [falcon.before(audit), falcon.after(audit)])
@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_message"])
def test_falcons_decorators_on_a_callback_are_refused(wrap, name):
    """They are for HTTP responders: what a method returns would be lost."""

    async def method(self, req, ws): ...

    with pytest.raises(HandlerDefinitionError, match=rf"Room\.{name} is wrapped by falcon\.before"):
        resource(**{name: wrap(method)})


@pytest.mark.parametrize("wrap", [falcon.before(audit), falcon.after(audit)])
def test_falcons_decorators_on_a_handler_are_refused(wrap):
    """Above and below `handles_message`."""
    with pytest.raises(HandlerDefinitionError, match=r"Room\.x is wrapped by .*write a Hook"):
        resource(x=wrap(handler()))

    @wrap
    async def method(self, ws, payload: str): ...

    with pytest.raises(HandlerDefinitionError, match=r"Room\.x is wrapped by"):
        resource(x=handles_message("x")(method))


@pytest.fixture
def app():
    app = falcon.asgi.App()
    install(app)
    return app


def test_falcons_decorators_on_the_class_are_refused_when_it_is_routed(app):
    """They wrap ``on_connect``, as if it were for HTTP's CONNECT."""

    @falcon.before(audit)
    class Room(WebSocketResource):
        pass

    with pytest.raises(HandlerDefinitionError, match=r"Room\.on_connect is wrapped by"):
        app.add_websocket_route("/", Room)


def test_falcons_decorators_on_http_responders_are_fine(app):
    """A resource may serve HTTP beside."""

    class Room(WebSocketResource):
        @falcon.before(audit)
        async def on_get(self, req, resp): ...

    app.add_websocket_route("/", Room)


def test_an_abstract_resource_is_refused_when_it_is_routed(app):
    """Its subclass, which defines what is missing, can be routed."""

    class Base(WebSocketResource, abc.ABC):
        @handles_message("x")
        @abc.abstractmethod
        async def x(self, ws): ...

    class Room(Base):
        async def x(self, ws): ...

    with pytest.raises(ResourceTypeError, match="it is abstract; define x in a subclass"):
        app.add_websocket_route("/base", Base)
    app.add_websocket_route("/room", Room)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("subprotocols", "chat", r"subprotocols = \('chat',\)"),
        ("subprotocols", b"chat", "give a tuple of names"),
        ("subprotocols", 5, "give a tuple of names"),
        ("subprotocols", None, "give a tuple of names"),
        ("subprotocols", ("chat", ""), "give a tuple of names"),
        ("subprotocols", [5], "give a tuple of names"),
        ("hooks", Hook(), "give a list of hooks"),
        ("hooks", Hook, "give a list"),
        ("hooks", [Hook], r"hooks are instances: Hook\(\)"),
        ("hooks", [object()], "is not a hook"),
        ("hooks", None, "give a list"),
        ("close_on_error", "yes", "give True or False"),
        ("close_on_error", None, "give True or False"),
    ],
)
def test_a_setting_that_could_not_work_is_refused_with_the_class(name, value, remedy):
    """A single text would count as its letters, a single hook would fail on every handshake."""
    with pytest.raises(HandlerDefinitionError, match=remedy):
        type("Room", (WebSocketResource,), {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("subprotocols", ("chat.v1",)),
        ("subprotocols", {"chat.v1": "the first"}),
        ("subprotocols", property(operator.attrgetter("speaks"))),
        ("hooks", [Hook()]),
        ("hooks", ()),
        ("close_on_error", True),
    ],
)
def test_a_setting_may_be_any_collection(name, value):
    """A tuple, a list, the keys of a dict, or what a property returns for each connection."""
    assert vars(type("Room", (WebSocketResource,), {name: value}))[name] is value
