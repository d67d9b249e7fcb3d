"""Which method handles what: collected with the class, or refused with the class."""

import dataclasses
import functools
import json
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import (
    DuplicateHandlerError,
    HandlerDefinitionError,
    WebSocketResource,
    handles_message,
)
from falcon_pachinko.messages.codec import CODECS, JSON, MSGPACK
from falcon_pachinko.messages.envelopes import NoPayload, Refusal
from falcon_pachinko.messages.handlers import PING, HandlerTable


class Say(msgspec.Struct):
    text: str


class Move(msgspec.Struct, frozen=True, rename="camel"):
    from_square: str
    to_square: str = "a1"


class Cat(msgspec.Struct, tag="cat"):
    lives: int = 9


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Tagged(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    n: int


@dataclasses.dataclass
class Data:
    n: int = 0


class Typed(TypedDict, total=False):
    n: int


class Everything(WebSocketResource):
    """A handler for every kind of payload."""

    @handles_message("say")
    async def say(self, ws, payload: Say): ...

    @handles_message("lenient", forbid_unknown_fields=False)
    async def lenient(self, ws, payload: Say): ...

    @handles_message("move")
    async def move(self, ws, payload: Move): ...

    @handles_message("pet")
    async def pet(self, ws, payload: Cat | Dog): ...

    @handles_message("maybe")
    async def maybe(self, ws, payload: Say | None): ...

    @handles_message("tagged")
    async def tagged(self, ws, payload: Tagged): ...

    @handles_message("data")
    async def data(self, ws, payload: Data): ...

    @handles_message("typed")
    async def typed(self, ws, payload: Typed): ...

    @handles_message("dict")
    async def dict(self, ws, payload: dict): ...

    @handles_message("list")
    async def list(self, ws, payload: list[int]): ...

    @handles_message("int")
    async def int(self, ws, payload: int): ...

    @handles_message("any")
    async def any(self, ws, payload: Any): ...

    @handles_message("bare")
    async def bare(self, ws, payload): ...

    @handles_message("none")
    async def none(self, ws): ...


class Join(msgspec.Struct, tag="join"):
    room: str


class Leave(msgspec.Struct, tag="leave", frozen=True, rename="camel"):
    with_noise: bool = False


class Schema(WebSocketResource):
    """The same in schema style, beside an envelope."""

    schema = Join | Leave

    @handles_message("join")
    async def join(self, ws, message: Join): ...

    @handles_message(Leave, forbid_unknown_fields=False)
    async def leave(self, ws): ...

    @handles_message("say")
    async def say(self, ws, payload: Say): ...


TABLES = [Everything.__pachinko_table__, Schema.__pachinko_table__, HandlerTable("Empty", ())]
JSON_TEXT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "n", "payload", "room", "fromSquare", "lives"])
            | st.text(),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from([*Everything.__pachinko_table__.types, "join", "leave", "x"])
        | JSON_TEXT,
        "payload": JSON_TEXT,
        "ref": st.none() | st.text() | st.integers() | JSON_TEXT,
        "room": JSON_TEXT,
        "withNoise": JSON_TEXT,
    },
)
FRAMES = (
    st.text()
    | MESSAGES.map(json.dumps)
    | st.text(alphabet='{}[]":,\\typeaylodrfsnu0123 ')
    | MESSAGES.map(json.dumps).flatmap(
        lambda text: st.integers(0, len(text)).map(lambda at: text[:at] + text[at + 1 :])
    )
)
CODES = {"invalid_json", "invalid_message", "unknown_type", "invalid_payload", "unsupported_frame"}


def sendable(message):
    """Encode what MessagePack can hold; leave out what it cannot."""
    try:
        return msgspec.msgpack.encode(message)
    except (OverflowError, ValueError):
        return b""


def open_or_refuse(table, frame, codec):
    """Open a frame; whatever it is, the outcome is a handler's call or a refusal."""
    refusal = None
    try:
        handler, payload, ref = table.open(frame, codec)
    except Refusal as refused:
        refusal = refused
    if refusal is not None:
        assert refusal.code in CODES
        assert len(refusal.message) <= 250
        assert len(refusal.path or "") <= 200
        assert isinstance(refusal.ref, (str, int, type(None)))
        json.dumps([refusal.message, refusal.path, refusal.ref]).encode()
    else:
        assert handler is PING or table.handlers[handler.type] is handler
        assert isinstance(ref, (str, int, type(None)))
        if isinstance(handler.payload, type) and issubclass(handler.payload, msgspec.Struct):
            assert type(payload) is handler.payload


@pytest.mark.parametrize("table", TABLES, ids=["envelopes", "schema", "empty"])
@given(frame=FRAMES)
def test_any_text_is_handled_or_refused(table, frame):
    """A client can send what it likes: there is no third outcome."""
    open_or_refuse(table, frame, JSON)


@pytest.mark.parametrize("table", TABLES, ids=["envelopes", "schema", "empty"])
@given(frame=st.binary() | MESSAGES.map(sendable))
def test_any_bytes_are_handled_or_refused(table, frame):
    """The same for MessagePack."""
    open_or_refuse(table, frame, MSGPACK)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("[" * 60_000, "invalid_message"),
        ('{"type":"any","payload":' + "[" * 60_000, "invalid_json"),
        ('{"type":"join","room":' + '{"a":' * 60_000, "invalid_json"),
    ],
    ids=["outside", "payload", "field"],
)
@pytest.mark.parametrize("table", TABLES, ids=["envelopes", "schema", "empty"])
def test_depth_is_no_danger(table, frame, code):
    """A frame of nothing but brackets is refused like any other bad one."""
    with pytest.raises(Refusal) as refused:
        table.open(frame)

    assert refused.value.code == code


# What a frame opens to.


@pytest.mark.parametrize("codec", CODECS.values(), ids=repr)
@pytest.mark.parametrize(
    ("message", "payload"),
    [
        ({"type": "say", "payload": {"text": "hi"}}, Say("hi")),
        ({"type": "lenient", "payload": {"text": "hi", "more": 1}}, Say("hi")),
        ({"type": "move", "payload": {"fromSquare": "e2"}}, Move("e2")),
        ({"type": "pet", "payload": {"type": "dog", "name": "rex"}}, Dog("rex")),
        ({"type": "maybe"}, None),
        ({"type": "data"}, Data()),
        ({"type": "typed"}, {}),
        ({"type": "dict"}, {}),
        ({"type": "any"}, None),
        ({"type": "bare", "payload": [1]}, [1]),
        ({"type": "none", "payload": "ignored"}, None),
        ({"payload": 3, "type": "int"}, 3),
        ({"type": "int", "payload": 3, "more": "beside the envelope"}, 3),
    ],
)
def test_a_frame_opens_to_its_handler_and_payload(codec, message, payload):
    """The fields may stand in any order, and others beside them are ignored."""
    table = Everything.__pachinko_table__
    frame = codec.encode({**message, "ref": "7"}).event
    handler, opened, ref = table.open(frame.get("text", frame.get("bytes")), codec)

    assert (handler.type, opened, ref) == (message["type"], payload, "7")


@pytest.mark.parametrize("codec", CODECS.values(), ids=repr)
@pytest.mark.parametrize(
    ("message", "opened"),
    [
        ({"type": "join", "room": "a"}, Join("a")),
        ({"type": "join", "room": "a", "ref": "7"}, Join("a")),
        ({"type": "leave"}, None),
        ({"type": "leave", "withNoise": True, "newer": 1, "ref": 7}, None),
        ({"type": "say", "payload": {"text": "hi"}}, Say("hi")),
    ],
)
def test_a_message_of_the_schema_opens_to_its_struct(codec, message, opened):
    """Its fields stand beside ``type``; a ``ref`` may too, and envelopes work beside it."""
    frame = codec.encode(message).event
    handler, payload, ref = Schema.__pachinko_table__.open(
        frame.get("text", frame.get("bytes")), codec
    )

    assert (handler.type, ref) == (message["type"], message.get("ref"))
    assert not handler.takes_payload or (payload, type(payload)) == (opened, type(opened))


@pytest.mark.parametrize(
    ("frame", "code", "path", "ref"),
    [
        ("oops", "invalid_json", None, None),
        ("[1]", "invalid_message", None, None),
        ("{}", "invalid_message", "$.type", None),
        ('{"type": 3, "ref": "7"}', "invalid_message", "$.type", "7"),
        ('{"type": "say", "ref": [7]}', "invalid_message", "$.ref", None),
        ('{"type": "nope", "ref": 7}', "unknown_type", "$.type", 7),
        ('{"type": "", "ref": 7}', "unknown_type", "$.type", 7),
        ('{"type": "__init__"}', "unknown_type", "$.type", None),
        ('{"type": "on_connect"}', "unknown_type", "$.type", None),
        ('{"type": "Say", "payload": {"text": "x"}}', "unknown_type", "$.type", None),
        ('{"type":"say","ref":7,"payload":{"text":3}}', "invalid_payload", "$.payload.text", 7),
        ('{"type": "say", "ref": "7"}', "invalid_payload", "$.payload", "7"),
        ('{"type": "say", "payload": {"text": "a", "b": 1}}', "invalid_payload", "$.payload", None),
        ('{"type": "data", "payload": {"b": 1}}', "invalid_payload", "$.payload", None),
        ('{"type": "list", "payload": [1, "2"]}', "invalid_payload", "$.payload[1]", None),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_wrong_and_where(frame, code, path, ref):
    """Code, path and the message's own ref, for programs; a sentence for people."""
    with pytest.raises(Refusal) as refused:
        Everything.__pachinko_table__.open(frame)

    assert (refused.value.code, refused.value.path, refused.value.ref) == (code, path, ref)
    assert refused.value.message


@pytest.mark.parametrize(
    ("frame", "code", "path", "ref"),
    [
        ('{"type": "join"}', "invalid_payload", None, None),
        ('{"type": "join", "ref": 7, "room": 3}', "invalid_payload", "$.room", 7),
        ('{"type": "join", "ref": 7, "room": "a", "more": 1}', "invalid_payload", None, 7),
        ('{"type": "join", "room": "a", "more": 1}', "invalid_payload", None, None),
        ('{"type": "join", "ref": true, "room": "a"}', "invalid_message", "$.ref", None),
        ('{"type": "nope", "ref": 7}', "unknown_type", "$.type", 7),
    ],
)
def test_a_refusal_in_schema_style_says_the_same(frame, code, path, ref):
    """Only the paths are shorter."""
    with pytest.raises(Refusal) as refused:
        Schema.__pachinko_table__.open(frame)

    assert (refused.value.code, refused.value.path, refused.value.ref) == (code, path, ref)


@pytest.mark.parametrize(
    ("frame", "codec", "speaks"),
    [(b'{"type": "none"}', JSON, "JSON in text"), ("x", MSGPACK, "MessagePack in binary")],
)
def test_a_frame_of_the_wrong_kind_says_what_is_spoken(frame, codec, speaks):
    """Binary where text is spoken, or the other way round."""
    with pytest.raises(
        Refusal, match=f"unsupported_frame: This connection takes {speaks} frames"
    ) as refused:
        Everything.__pachinko_table__.open(frame, codec)

    assert refused.value.ref is None


def test_an_unknown_type_is_shown_cut():
    """What a client sent comes back to it bounded."""
    with pytest.raises(Refusal) as refused:
        Everything.__pachinko_table__.open(json.dumps({"type": "x" * 10_000}))

    assert len(refused.value.message) < 250


# What a class claims.


def test_types_stand_in_the_order_of_the_class():
    """As a reader finds them in the source."""
    assert Schema.__pachinko_table__.types == ("join", "leave", "say")


def test_one_method_may_handle_several_types():
    """The decorator may be stacked."""

    class Room(WebSocketResource):
        @handles_message("say")
        @handles_message("shout", forbid_unknown_fields=False)
        async def say(self, ws, payload: Say): ...

    table = Room.__pachinko_table__
    assert table.types == ("shout", "say")
    assert table.handlers["say"].function is table.handlers["shout"].function is Room.say
    assert (
        table.handlers["say"].forbid_unknown_fields,
        table.handlers["shout"].forbid_unknown_fields,
    ) == (True, False)


def test_two_methods_for_one_type_are_an_error():
    """Raised with the class; it names both and the way out."""
    with pytest.raises(
        DuplicateHandlerError, match=r"Room\.first and \.second both handle 'say'; keep one"
    ):

        class Room(WebSocketResource):
            @handles_message("say")
            async def first(self, ws): ...

            @handles_message("say")
            async def second(self, ws): ...


def test_a_subclass_may_not_claim_a_bases_type_with_another_method():
    """That would be two methods for one type as well."""

    class Base(WebSocketResource):
        @handles_message("say")
        async def say(self, ws): ...

    with pytest.raises(DuplicateHandlerError, match=r"Sub\.say and \.shout"):

        class Sub(Base):
            @handles_message("say")
            async def shout(self, ws): ...


def test_handlers_are_inherited():
    """From bases and from mixins that are no resources themselves."""

    class Mixin:
        @handles_message("ping")
        async def ping(self, ws): ...

    class Base(WebSocketResource):
        @handles_message("say")
        async def say(self, ws, payload: Say): ...

    class Sub(Mixin, Base):
        @handles_message("more")
        async def more(self, ws): ...

    assert set(Sub.__pachinko_table__.types) == {"say", "ping", "more"}
    assert Base.__pachinko_table__.types == ("say",)


def test_a_redefinition_takes_the_handlers_place():
    """Without the decorator: same types, the new function, its own annotation if it has one."""

    class Base(WebSocketResource):
        @handles_message("say", forbid_unknown_fields=False)
        async def say(self, ws, payload: Say): ...

    class Same(Base):
        async def say(self, ws, payload): ...

    class Other(Base):
        async def say(self, ws, payload: Move): ...

    class NoMore(Base):
        async def say(self, ws): ...

    rows = [each.__pachinko_table__.handlers["say"] for each in (Base, Same, Other, NoMore)]
    assert [row.payload for row in rows] == [Say, Say, Move, NoPayload]
    assert [row.function for row in rows] == [Base.say, Same.say, Other.say, NoMore.say]
    assert [row.forbid_unknown_fields for row in rows] == [False] * 4


def test_a_redefinition_with_the_decorator_claims_anew():
    """Only what it says itself counts then."""

    class Base(WebSocketResource):
        @handles_message("say", forbid_unknown_fields=False)
        async def say(self, ws, payload: Say): ...

    class Sub(Base):
        @handles_message("shout")
        async def say(self, ws, payload: Say): ...

    assert Sub.__pachinko_table__.types == ("shout",)
    assert Sub.__pachinko_table__.handlers["shout"].forbid_unknown_fields


def test_none_takes_a_handler_away():
    """As for Python's own special methods; a further subclass may bring it back."""

    class Base(WebSocketResource):
        @handles_message("say")
        async def say(self, ws, payload: Say): ...

    class Mute(Base):
        say = None

    class Loud(Mute):
        @handles_message("say")
        async def say(self, ws): ...

    assert [each.__pachinko_table__.types for each in (Mute, Loud)] == [(), ("say",)]


@pytest.mark.parametrize(
    ("stand_in", "why"),
    [
        (3, "3 replaces the handler of 'say'"),
        ("text", "'text' replaces the handler"),
        (print, "is not a coroutine"),
    ],
)
def test_nothing_else_may_stand_in_a_handlers_place(stand_in, why):
    """A plain value there is most likely an accident."""

    class Base(WebSocketResource):
        @handles_message("say")
        async def say(self, ws): ...

    with pytest.raises(HandlerDefinitionError, match=why):
        type("Sub", (Base,), {"say": stand_in})


# What can never be called.


def test_a_handler_is_a_coroutine():
    """The error says how to make it one."""
    with pytest.raises(
        HandlerDefinitionError, match=r"say handles 'say' but is not a coroutine.*async def say"
    ):

        class Room(WebSocketResource):
            @handles_message("say")
            def say(self, ws): ...


def test_a_handler_does_not_yield():
    """An async generator would never run."""
    with pytest.raises(HandlerDefinitionError, match="has a `yield`; return a value instead"):

        class Room(WebSocketResource):
            @handles_message("say")
            async def say(self, ws):
                yield 1


@pytest.mark.parametrize("misuse", [None, "", 3, b"say", ["say"], int, Say])
def test_the_decorator_needs_a_type_first(misuse):
    """Also where its parentheses, or the tag of a struct, were forgotten."""
    with pytest.raises(
        HandlerDefinitionError, match=r'needs the message type first.*@handles_message\("say"\)'
    ):
        handles_message(misuse)


def test_the_decorator_without_parentheses_is_noticed():
    """It gets the method as its message type."""
    with pytest.raises(HandlerDefinitionError, match="needs the message type first"):

        class Room(WebSocketResource):
            @handles_message
            async def say(self, ws): ...


async def just_self(self): ...
async def nothing(): ...
async def too_many(self, ws, payload, more): ...
async def needs_a_name(self, ws, payload, *, more): ...
async def forgot_ws(self, payload): ...


@pytest.mark.parametrize(
    "function", [just_self, nothing, too_many, needs_a_name, forgot_ws], ids=lambda f: f.__name__
)
def test_a_signature_that_nobody_could_fill_is_refused(function):
    """The error shows what a handler is called with, and how this one is written."""
    with pytest.raises(HandlerDefinitionError) as refused:
        handles_message("say")(function)

    assert "called with (self, ws) or (self, ws, payload)" in str(refused.value)
    assert f"it is written as {function.__name__}(" in str(refused.value)


async def with_defaults(self, ws, payload, more=1, *others, extra=2, **options): ...
async def positional(self, ws, payload, /): ...
async def own_names(me, connection, body: int): ...  # the names are free


@pytest.mark.parametrize("function", [with_defaults, positional, own_names])
def test_a_signature_with_room_to_spare_is_fine(function):
    """Parameters may have any name, and more of them may have defaults."""
    assert handles_message("say")(function) is function


def test_a_partial_or_wrapped_coroutine_is_taken_for_what_it_is():
    """A decorator in between must leave a coroutine."""

    def logged(function):
        @functools.wraps(function)
        async def wrapper(*args):
            return await function(*args)

        return wrapper

    class Room(WebSocketResource):
        @handles_message("say")
        @logged
        async def say(self, ws, payload: Say): ...

    assert Room.__pachinko_table__.handlers["say"].payload is Say


def test_a_payload_type_that_cannot_be_decoded_is_refused():
    """With the class, not with the first message."""
    with pytest.raises(
        HandlerDefinitionError, match=r"say takes a payload of .*, which msgspec cannot decode"
    ):

        class Room(WebSocketResource):
            @handles_message("say")
            async def say(self, ws, payload: Say | Move): ...


# Annotations that are text.


def test_local_types_are_found():
    """A struct defined beside the class, within a function, may be named in quotes."""

    class Local(msgspec.Struct):
        n: int

    class Room(WebSocketResource):
        @handles_message("say")
        async def say(self, ws, payload: "Local"): ...

    assert Room.__pachinko_table__.handlers["say"].payload is Local


def test_types_of_an_outer_function_are_found():
    """However many functions stand around the class."""

    class Local(msgspec.Struct):
        n: int

    def make():
        class Room(WebSocketResource):
            @handles_message("say")
            async def say(self, ws, payload: "Local"): ...

        return Room

    assert make().__pachinko_table__.handlers["say"].payload is Local


def test_types_within_the_class_are_found():
    """A payload defined where it is used."""

    class Room(WebSocketResource):
        class Inner(msgspec.Struct):
            n: int

        @handles_message("say")
        async def say(self, ws, payload: "Inner"): ...

    assert Room.__pachinko_table__.handlers["say"].payload is Room.Inner


def test_types_that_cannot_be_found_are_an_error():
    """It names the handler and the type, and says where to import it."""
    with pytest.raises(
        HandlerDefinitionError,
        match=r"say has an annotation.*'Missing' is not defined; import the type at run",
    ):

        class Room(WebSocketResource):
            @handles_message("say")
            async def say(self, ws, payload: "Missing"): ...  # noqa: F821  # that is the point


def test_annotations_of_other_parameters_may_be_text_too():
    """``from __future__ import annotations`` makes all of them text."""
    namespace = {"WebSocketResource": WebSocketResource, "handles_message": handles_message}
    exec(
        "from __future__ import annotations\n"
        "import msgspec\n"
        "from falcon_pachinko import Connection\n"
        "class Point(msgspec.Struct):\n"
        "    x: int\n"
        "class Room(WebSocketResource):\n"
        "    @handles_message('say')\n"
        "    async def say(self, ws: Connection, payload: Point | None) -> dict[str, int]: ...\n",
        namespace,
    )

    handler = namespace["Room"].__pachinko_table__.handlers["say"]
    assert handler.payload == namespace["Point"] | None


# Schemas.


class Untagged(msgspec.Struct):
    n: int


class NumberTag(msgspec.Struct, tag=3):
    n: int


class OtherField(msgspec.Struct, tag="other", tag_field="kind"):
    n: int


class WithRef(msgspec.Struct, tag="with_ref"):
    ref: str


class AsArray(msgspec.Struct, tag="array", array_like=True):
    n: int


class SecondJoin(msgspec.Struct, tag="join"):
    n: int


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (3, "has 3, which is not a msgspec.Struct"),
        (Join | int, "has <class 'int'>, which is not a msgspec.Struct"),
        (Untagged, r'has Untagged without a `type` on the wire.*tag="untagged"'),
        (NumberTag, "has NumberTag without a `type`"),
        (OtherField, "has OtherField without a `type`"),
        (AsArray, "has AsArray without a `type`"),
        (WithRef, "has WithRef.ref, but `ref` is the client's mark; rename"),
        (Join | SecondJoin, "has two structs tagged 'join'"),
    ],
)
def test_a_schema_is_made_of_tagged_structs(schema, why):
    """What could never be told apart on the wire is refused with the class."""
    with pytest.raises(HandlerDefinitionError, match=f"Room.schema {why}"):
        type("Room", (WebSocketResource,), {"schema": schema})


def test_a_handler_of_the_schema_takes_its_struct():
    """Another annotation is a mistake."""
    with pytest.raises(
        HandlerDefinitionError, match=r"schema says is Join, but takes .*Say.*annotate it with"
    ):

        class Room(WebSocketResource):
            schema = Join | Leave

            @handles_message("join")
            async def join(self, ws, payload: Say): ...


def test_a_bare_parameter_takes_the_schemas_struct():
    """The annotation may be left out."""

    class Room(WebSocketResource):
        schema = Join

        @handles_message("join")
        async def join(self, ws, message): ...

    assert Room.__pachinko_table__.open('{"type":"join","room":"a"}')[1] == Join("a")


def test_concurrent_handlers_are_marked():
    """The session runs those side by side."""

    class Room(WebSocketResource):
        @handles_message("slow", concurrent=True)
        async def slow(self, ws): ...

        @handles_message("fast")
        async def fast(self, ws): ...

    rows = Room.__pachinko_table__.handlers
    assert (rows["slow"].concurrent, rows["fast"].concurrent) == (True, False)
