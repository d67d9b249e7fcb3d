"""The class that a user derives from: what it owns, and what it says when it is misused."""

import functools
import re

import pytest

from falcon_pachinko import (
    Connection,
    HandlerDefinitionError,
    InvalidNameError,
    SetupError,
    WebSocketResource,
    handles_message,
)

OWNED = {
    "ws", "state", "parent", "schema", "subprotocols", "hooks", "close_on_error",
    "on_connect", "on_disconnect", "on_message", "on_refused",
    "join_room", "leave_room", "broadcast_to_room", "send", "track",
}  # fmt: skip


class Room(WebSocketResource):
    pass


def test_every_other_name_is_the_users():
    """A new public name on the base class could break a subclass: that is a decision."""
    names = {*vars(WebSocketResource), *WebSocketResource.__annotations__}

    assert {name for name in names if not name.startswith("_")} == OWNED


def test_a_resource_needs_no_init():
    """A user's own need not call ours."""

    class Own(WebSocketResource):
        def __init__(self, colour):
            self.colour = colour

    assert Own("red").colour == "red"
    assert Own("red").parent is None


@pytest.mark.parametrize("verb", ["join_room", "track", "leave_room", "send"])
async def test_a_verb_before_there_is_a_connection_says_so(verb):
    """In ``__init__`` nobody is connected yet."""
    with pytest.raises(SetupError, match=r"Room has no connection yet.*from on_connect on, not in"):
        await getattr(Room(), verb)("lobby")


def test_state_before_there_is_a_connection_says_so():
    """It belongs to the connection."""
    with pytest.raises(SetupError, match="Room has no connection yet"):
        _ = Room().state


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_message"])
def test_the_lifecycle_methods_are_coroutines(name):
    """The class is refused, and told how to write it."""
    with pytest.raises(
        HandlerDefinitionError, match=f"is not a coroutine; write `async def {name}"
    ):
        type("Sub", (WebSocketResource,), named(name))


CALLBACKS = {
    "on_connect": "req, ws, ...",
    "on_disconnect": "ws, close_code",
    "on_message": "ws, message",
    "on_refused": "ws, refusal, frame",
}


def written(signature):
    """Make a coroutine function with these parameters."""
    namespace = {}
    exec(f"async def method({signature}): ...", namespace)
    return namespace["method"]


@pytest.mark.parametrize("signature", ["self", "self, ws", "self, *, req, ws, message", ""])
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_lifecycle_method_takes_what_it_is_called_with(name, signature):
    """The class is refused, and told how to write it."""
    wanted = re.escape(f"write `async def {name}(self, {CALLBACKS[name]})`")
    with pytest.raises(HandlerDefinitionError, match=wanted):
        type("Sub", (WebSocketResource,), {name: written(signature)})


@pytest.mark.parametrize("name", set(CALLBACKS) - {"on_connect"})
def test_a_lifecycle_method_needs_no_more_than_it_gets(name):
    """One parameter too many is as bad as one too few; in a mixin too."""
    method = written(f"self, {CALLBACKS[name]}, more")
    mixin = type("Mixin", (), {name: method})
    for bases, own in (((WebSocketResource,), {name: method}), ((mixin, WebSocketResource), {})):
        with pytest.raises(HandlerDefinitionError, match=r"is called with \(.*more\); write"):
            type("Sub", bases, own)


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize(
    "method",
    [
        written("self, *args"),
        written("self, a, b, c=None, **more"),
        staticmethod(written("a, b, c=None, *more")),
        classmethod(written("cls, a, b, c=None")),
        functools.partialmethod(written("self, zero, *more"), 0),
    ],
    ids=["any", "optional", "static", "class", "partial"],
)
def test_a_lifecycle_method_may_be_written_in_many_ways(name, method):
    """As long as it can be called."""
    type("Sub", (WebSocketResource,), {name: method})


def named(name):
    """Make a plain method of that name."""
    namespace = {}
    exec(f"def {name}(self, *args): ...", namespace)
    return {name: namespace[name]}


def test_a_lifecycle_method_does_not_yield():
    """It would never run."""
    with pytest.raises(HandlerDefinitionError, match="has a `yield`"):

        class Sub(WebSocketResource):
            async def on_message(self, ws, message):
                yield message


async def test_the_base_accepts_everybody_and_ignores_the_rest():
    """A resource without methods is an open connection."""
    room = Room()

    assert await room.on_connect(None, None) is True
    assert await room.on_message(None, "x") is None
    assert await room.on_disconnect(None, 1000) is None


async def test_the_shorthands_are_the_managers_verbs(wire, connect, manager, members):
    """For this connection."""
    wires = members("bob")
    room = Room()
    room.ws = ann = connect(wire)
    await manager.join_room("bob", "lobby")

    await room.join_room("lobby")
    rooms = ann.rooms
    both = await room.broadcast_to_room("lobby", 1)
    others = await room.broadcast_to_room("lobby", 2, exclude_self=True)
    await room.send(3)
    await room.leave_room("lobby")
    await room.leave_room("lobby")
    without = await room.broadcast_to_room("lobby", 4)

    assert rooms == {"lobby"}
    assert ann.rooms == frozenset()
    assert [each.sent for each in (both, others, without)] == [2, 1, 1]
    assert (wire.frames, wires["bob"].frames) == (["1", "3"], ["1", "2", "4"])


async def test_a_bad_room_name_fails_the_caller(wire, connect):
    """As the manager's own verb does."""
    room = Room()
    room.ws = connect(wire)

    with pytest.raises(InvalidNameError):
        await room.join_room("")


async def test_state_is_the_connections(wire, connect):
    """So that a parent, or a hook, shares it."""
    room = Room()
    room.ws = ann = connect(wire)
    room.state.seat = 3

    assert isinstance(room.ws, Connection)
    assert ann.state.seat == 3


def test_only_an_overridden_on_message_is_a_fallback():
    """Else the client gets the automatic error."""

    class Takes(WebSocketResource):
        async def on_message(self, ws, message): ...

    class Inherits(Takes):
        @handles_message("x")
        async def x(self, ws): ...

    assert [each.__pachinko_falls_back__ for each in (Room, Takes, Inherits)] == [
        False, True, True,
    ]  # fmt: skip
