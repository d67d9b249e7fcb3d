"""Errors hold their data, and say in a sentence what happened, with what, and what to do."""

import inspect
import re

import pytest

from falcon_pachinko import errors
from falcon_pachinko.errors import (
    AlreadyInstalledError,
    ConnectionStateError,
    DuplicateConnectionError,
    DuplicateHandlerError,
    DuplicateWorkerError,
    EncodeError,
    HandlerDefinitionError,
    InvalidNameError,
    MessageError,
    PachinkoError,
    ResourceTypeError,
    RoomLimitError,
    RouteConflictError,
    SetupError,
    UnknownConnectionError,
    UnknownRouteError,
    WorkerDefinitionError,
)

CLASSES = [getattr(errors, name) for name in errors.__all__]

SENTENCES = {
    "already installed": (
        AlreadyInstalledError(["limits", "origins"]),
        ["another limits=, origins=", "once per app"],
    ),
    "route conflict": (
        RouteConflictError("/chat", "ChatRoom", "Lobby has that path already"),
        ["'/chat'", "ChatRoom", "Lobby has that path already", "another path"],
    ),
    "unknown route": (
        UnknownRouteError("/nope", ["/chat", "/game/{name}"]),
        ["'/nope'", "/chat, /game/{name}"],
    ),
    "no routes": (UnknownRouteError("/nope", []), ["'/nope'", "add_websocket_route()"]),
    "resource type": (
        ResourceTypeError("/chat", 3, "pass a WebSocketResource subclass"),
        ["'/chat'", "3", "pass a WebSocketResource subclass"],
    ),
    "handler": (
        HandlerDefinitionError("Room.say", "is no coroutine"),
        ["Room.say is no coroutine"],
    ),
    "duplicate handler": (
        DuplicateHandlerError("Room", "say", "say", "shout"),
        ["Room.say and .shout", "'say'", "its own type"],
    ),
    "worker": (
        WorkerDefinitionError("poll", "is not a coroutine"),
        ["worker poll is not a coroutine"],
    ),
    "duplicate worker": (DuplicateWorkerError("poll"), ["'poll'", "name=..."]),
    "encode": (
        EncodeError("no object()"),
        ["was not sent", "no object()", "msgspec structs", "enc_hook"],
    ),
    "unknown connection": (UnknownConnectionError("c-1"), ["'c-1'", "may have gone"]),
    "duplicate connection": (DuplicateConnectionError("c-1"), ["'c-1'", "remove it first"]),
    "room name": (
        InvalidNameError("", "room name", "it is empty"),
        ["''", "cannot be a room name", "it is empty"],
    ),
    "room limit": (RoomLimitError(128), ["room_limit", "128 rooms", "Limits.rooms", "leave one"]),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_a_text_has_the_offending_value_and_the_remedy(case):
    """Whoever reads only the last line of a traceback knows what to do."""
    error, parts = SENTENCES[case]

    assert [part for part in parts if part not in str(error)] == []


@pytest.mark.parametrize("error", CLASSES, ids=lambda each: each.__name__)
def test_every_error_is_a_pachinko_error(error):
    """``except PachinkoError`` catches whatever the library raises by itself."""
    assert issubclass(error, PachinkoError)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (RouteConflictError, ValueError),
        (UnknownRouteError, LookupError),
        (ResourceTypeError, TypeError),
        (HandlerDefinitionError, TypeError),
        (DuplicateHandlerError, ValueError),
        (WorkerDefinitionError, TypeError),
        (DuplicateWorkerError, ValueError),
        (EncodeError, ValueError),
        (ConnectionStateError, RuntimeError),
        (UnknownConnectionError, LookupError),
        (DuplicateConnectionError, ValueError),
        (InvalidNameError, ValueError),
        (RoomLimitError, MessageError),
        (AlreadyInstalledError, SetupError),
    ],
)
def test_an_error_is_also_the_builtin_kind_one_would_expect(error, builtin):
    """So ``except LookupError`` and its like work without knowing the library's names."""
    assert issubclass(error, builtin)


def test_the_tree_in_the_docstring_is_the_tree():
    """Each class stands there, below the class that it derives from."""
    drawn, above = {}, {}
    for line in inspect.getdoc(errors).splitlines():
        found = re.match(r"[│├└─ ]*([A-Z]\w+Error)\b", line)
        if found:
            depth = found.start(1)
            parents = [above[each] for each in above if each < depth]
            drawn[found[1]] = parents[-1] if parents else None
            above = {each: name for each, name in above.items() if each < depth} | {depth: found[1]}
    drawn_bases = {name: base for name, base in drawn.items() if base is not None}

    assert set(drawn) == set(errors.__all__)
    assert all(issubclass(getattr(errors, n), getattr(errors, b)) for n, b in drawn_bases.items())


def test_a_message_error_holds_what_the_client_gets():
    """Code, sentence, path and status are attributes; the text is for logs."""
    error = MessageError("full", "Two are playing.", path="$.payload.seat", status=409)

    assert (error.code, error.message, error.path, error.status) == (
        "full", "Two are playing.", "$.payload.seat", 409,
    )  # fmt: skip
    assert str(error) == "full: Two are playing."


def test_a_message_error_may_be_a_bare_code():
    """A sentence for people is optional."""
    assert str(MessageError("full")) == "full"


def test_a_long_room_name_is_cut_in_the_text_and_whole_in_the_data():
    """A name of a megabyte does not become a log line of a megabyte."""
    error = InvalidNameError("x" * 1_000_000, "room name", "it has 1000000 bytes")

    assert len(str(error)) < 200
    assert error.name == "x" * 1_000_000


def test_a_room_name_is_shown_in_ascii():
    """What a client sent cannot smuggle control characters or look-alikes into a log."""
    assert r"'a\nb\u202e' cannot be a room name" in str(
        InvalidNameError("a\nb\u202e", "room name", "why")
    )


@pytest.mark.parametrize(
    ("error", "data"),
    [
        (AlreadyInstalledError(["limits"]), {"changed": ("limits",)}),
        (RouteConflictError("/a", "R", "w"), {"template": "/a", "resource": "R"}),
        (UnknownRouteError("/a", ["/b"]), {"path": "/a", "known": ("/b",)}),
        (ResourceTypeError("/a", 1, "w"), {"template": "/a", "got": 1}),
        (HandlerDefinitionError("R.say", "w"), {"handler": "R.say"}),
        (
            DuplicateHandlerError("R", "t", "a", "b"),
            {"resource": "R", "message_type": "t", "first": "a", "second": "b"},
        ),
        (WorkerDefinitionError("w", "y"), {"worker": "w"}),
        (DuplicateWorkerError("w"), {"name": "w"}),
        (UnknownConnectionError("c"), {"connection_id": "c"}),
        (DuplicateConnectionError("c"), {"connection_id": "c"}),
        (RoomLimitError(3), {"limit": 3, "code": "room_limit"}),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
)
def test_an_error_holds_its_data_as_attributes(error, data):
    """A program need not parse the sentence."""
    assert {name: getattr(error, name) for name in data} == data
