"""Types that an app teaches the codecs, and what was encoded already."""

import dataclasses
import pathlib
from typing import Annotated, Any, NamedTuple

import msgspec
import pydantic
import pytest

from falcon_pachinko import (
    EncodeError,
    HandlerDefinitionError,
    MessageError,
    WebSocketResource,
    handles_message,
)
from falcon_pachinko.messages.codec import DEFAULT_CODECS, JSON, MSGPACK, Codecs, contains_raw
from falcon_pachinko.messages.envelopes import Refusal

BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)


class Model(pydantic.BaseModel):
    x: int


class Markup(str):
    __slots__ = ()


class Where(msgspec.Struct):
    path: pathlib.Path
    notes: list[str] = []


def enc_hook(value):
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump()
    if isinstance(value, (pathlib.Path, Markup)):
        return str.__str__(value) if isinstance(value, str) else str(value)
    raise NotImplementedError(f"no rule for {type(value).__name__}")


def dec_hook(wanted, value):
    if wanted is pathlib.Path:
        return pathlib.Path(value)
    if issubclass(wanted, pydantic.BaseModel):
        return wanted.model_validate(value)
    raise NotImplementedError(f"no rule for {wanted.__name__}")


CODECS = Codecs(enc_hook, dec_hook)
HOOKED = pytest.mark.parametrize("codec", list(CODECS), ids=repr)


@HOOKED
@pytest.mark.parametrize(
    ("value", "read"),
    [(pathlib.Path("/a"), "/a"), (Model(x=1), {"x": 1}), (Markup("<b>"), "<b>"), (5, 5)],
)
def test_an_enc_hook_teaches_both_codecs(codec, value, read):
    """As in msgspec: it returns what msgspec knows."""
    assert codec.decoder(Any)(codec.frame_of([value])) == [read]


@HOOKED
def test_what_an_enc_hook_does_not_know_is_an_encode_error(codec):
    """With the hook's own words."""
    with pytest.raises(EncodeError, match="no rule for complex"):
        codec.encode({"a": 1j})


@pytest.mark.parametrize("error", [NotImplementedError, ValueError, TypeError])
@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_an_enc_hook_that_gives_no_reason_still_leaves_a_sentence(name, error):
    def refuse(value):
        raise error

    with pytest.raises(
        EncodeError, match=rf"not sent: {error.__name__} was raised, without a text"
    ):
        getattr(Codecs(refuse), name).encode({"a": 1j})


@BOTH
@pytest.mark.parametrize("value", [pathlib.Path("/a"), Model(x=1), Markup("a")])
def test_without_a_hook_the_error_names_the_type_and_the_hook(codec, value):
    """So that a reader knows what to write."""
    with pytest.raises(EncodeError, match=rf"type {type(value).__name__}.*|enc_hook=") as error:
        codec.encode([value])

    assert type(value).__name__ in str(error.value) or "Path" in str(error.value)
    assert "enc_hook" in str(error.value)


class Desk(WebSocketResource):
    @handles_message("where")
    async def where(self, ws, payload: Where): ...

    @handles_message("paths")
    async def paths(self, ws, payload: list[pathlib.Path]): ...

    @handles_message("model")
    async def model(self, ws, payload: Model | None): ...

    @handles_message("plain")
    async def plain(self, ws, payload: dict[str, int]): ...


@HOOKED
@pytest.mark.parametrize(
    ("message_type", "sent", "payload"),
    [
        ("where", {"path": "/a", "notes": ["x"]}, Where(pathlib.Path("/a"), ["x"])),
        ("paths", ["/a", "/b"], [pathlib.Path("/a"), pathlib.Path("/b")]),
        ("model", {"x": 1}, Model(x=1)),
        ("plain", {"a": 1}, {"a": 1}),
    ],
)
def test_a_dec_hook_makes_payloads(codec, message_type, sent, payload):
    """Alone, within structs and within lists."""
    table = Desk.__pachinko_table__.compiled(CODECS)
    frame = codec.frame_of({"type": message_type, "payload": sent, "ref": 1})

    assert table.open(frame, codec)[1:] == (payload, 1)


@HOOKED
def test_what_a_dec_hook_refuses_is_an_invalid_payload(codec):
    """A ValueError in it is as one of msgspec's own."""
    table = Desk.__pachinko_table__.compiled(CODECS)

    with pytest.raises(Refusal, match="invalid_payload") as refused:
        table.open(codec.frame_of({"type": "model", "payload": {"x": "no number"}}), codec)

    assert refused.value.path == "$.payload"


def test_a_type_that_needs_a_hook_is_refused_where_the_app_has_none():
    """When it is routed: the class itself knows no app."""
    with pytest.raises(HandlerDefinitionError, match=r"Desk\.where .*'Path'.*dec_hook="):
        Desk.__pachinko_table__.compiled(DEFAULT_CODECS)
    with pytest.raises(HandlerDefinitionError, match="dec_hook="):
        Desk.__pachinko_table__.compiled(Codecs(enc_hook=enc_hook))


def test_a_table_is_made_once_per_app():
    """And an app without hooks uses the class's own."""

    class Plain(WebSocketResource):
        schema = msgspec.defstruct("Join", [("room", str)], tag="join")

        @handles_message("join")
        async def join(self, ws, message): ...

    table = Plain.__pachinko_table__
    compiled = table.compiled(CODECS)

    assert table.compiled(DEFAULT_CODECS) is table
    assert table.compiled(CODECS) is compiled is not table
    assert compiled.open('{"type":"join","room":"a","ref":2}', CODECS.json)[1:] == (
        Plain.schema("a"), 2,
    )  # fmt: skip


# A __post_init__ with a mind of its own.


class Named(msgspec.Struct):
    name: str

    def __post_init__(self):
        if type(self) is not Named:
            raise AssertionError("another class")
        if self.name == "value":
            raise ValueError("not this one")
        if self.name == "message":
            raise MessageError("taken", "That name is taken.", path="$.name", status=409)
        if self.name == "both":
            raise BothError("both", "An error of two kinds.")


class BothError(MessageError, ValueError):
    pass


class Holder(msgspec.Struct):
    inner: Named


class Greets(WebSocketResource):
    schema = msgspec.defstruct("Hello", [("name", str)], bases=(Named,), tag="hello")

    @handles_message("named")
    async def named(self, ws, payload: Named): ...

    @handles_message("holder")
    async def holder(self, ws, payload: Holder): ...

    @handles_message("list")
    async def many(self, ws, payload: list[Named]): ...


@BOTH
@pytest.mark.parametrize(
    ("message_type", "wrap", "where"),
    [
        ("named", lambda name: {"name": name}, "$.payload"),
        ("holder", lambda name: {"inner": {"name": name}}, "$.payload.inner"),
        ("list", lambda name: [{"name": "fine"}, {"name": name}], "$.payload[1]"),
    ],
)
def test_what_a_post_init_raises_is_the_answer(codec, message_type, wrap, where):
    """A ValueError as msgspec has it, a MessageError as that of a handler; with the ref."""

    def refusal(name):
        message = {"type": message_type, "payload": wrap(name), "ref": 7}
        with pytest.raises(Refusal) as refused:
            Greets.__pachinko_table__.open(codec.frame_of(message), codec)
        error = refused.value
        assert error.claimed
        return error.code, error.message, error.path, error.status, error.ref

    assert refusal("value") == ("invalid_payload", "not this one", where, None, 7)
    assert refusal("message") == ("taken", "That name is taken.", "$.name", 409, 7)
    assert refusal("both") == ("both", "An error of two kinds.", None, None, 7)


# Raw.


@dataclasses.dataclass
class Data:
    inner: Any


class Pair(NamedTuple):
    first: Any
    second: Any = None


class Box(msgspec.Struct):
    inner: Any


JSON_RAW, PACKED_RAW = msgspec.Raw(b'{"k":[1]}'), msgspec.Raw(msgspec.msgpack.encode({"k": [1]}))


@pytest.mark.parametrize("wrap", [lambda raw: raw, lambda raw: {"a": raw}, Box, Data, Pair])
def test_raw_is_written_as_it_is_where_it_is_valid(wrap):
    """In the codec that wrote it."""
    read = msgspec.json.decode(JSON.frame_of(wrap(JSON_RAW)))
    packed = msgspec.msgpack.decode(MSGPACK.frame_of(wrap(PACKED_RAW)))

    assert read == packed


@pytest.mark.parametrize("wrap", [lambda raw: raw, lambda raw: {"a": raw}, Box, Data, Pair])
@pytest.mark.parametrize(
    ("codec", "raw"),
    [(JSON, PACKED_RAW), (MSGPACK, JSON_RAW), (JSON, msgspec.Raw(b"{")), (JSON, msgspec.Raw(b"")),
     (MSGPACK, msgspec.Raw(b"\x92\x01"))],
)  # fmt: skip
def test_raw_of_another_codec_is_an_encode_error(codec, raw, wrap):
    """No corrupt frame is ever sent."""
    with pytest.raises(EncodeError, match=f"a msgspec.Raw that is not valid {codec.name}"):
        codec.encode(wrap(raw))


@pytest.mark.parametrize(
    "message",
    [JSON_RAW, {"a": [1, {"b": JSON_RAW}]}, Box(JSON_RAW), Data([JSON_RAW]), Pair(1, JSON_RAW),
     [Box(Data(Pair(JSON_RAW)))]],
)  # fmt: skip
def test_raw_is_found_wherever_it_is(message):
    """Before a message is written by a second codec."""
    assert contains_raw(message)


@pytest.mark.parametrize(
    "message", [None, "Raw", b"raw", {"a": [1, {"b": 2.5}]}, Box(Data(Pair({3}))), Model(x=1)]
)
def test_there_is_no_raw_in_other_messages(message):
    assert not contains_raw(message)


def test_raw_is_found_in_what_an_enc_hook_returns():
    assert contains_raw([Model(x=1)], enc_hook=lambda _: {"raw": JSON_RAW})


def test_a_constrained_foreign_type_keeps_its_hook():
    """``Annotated`` adds a description, and nothing else."""

    class Room(WebSocketResource):
        @handles_message("p")
        async def p(self, ws, payload: Annotated[pathlib.Path, msgspec.Meta(title="x")]): ...

    table = Room.__pachinko_table__.compiled(CODECS)

    assert table.open('{"type":"p","payload":"/a"}', CODECS.json)[1] == pathlib.Path("/a")
