"""Envelopes: payloads in the declared type, unknown fields refused, missing payloads filled."""

import dataclasses
import json
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko.messages.codec import CODECS, JSON, MSGPACK
from falcon_pachinko.messages.envelopes import (
    NoPayload,
    Refusal,
    envelope_shape,
    read_header,
    refusal_of,
)

CODEC = pytest.mark.parametrize("codec", CODECS.values(), ids=repr)


def encoded(codec, message):
    event = codec.encode(message).event
    return event.get("text", event.get("bytes"))


def opened(payload_type, message, *, forbid_unknown_fields=True, codec=JSON):
    """Decode one envelope as a table does, and take the payload out."""
    shape = envelope_shape("t", payload_type, forbid_unknown_fields=forbid_unknown_fields)
    frame = encoded(codec, {"type": "t", **message})
    return shape.open(codec.decoder(shape.struct)(frame), frame, codec)


class Say(msgspec.Struct):
    text: str


class Frozen(msgspec.Struct, frozen=True):
    text: str


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str
    age: int = msgspec.field(name="years")


class Tagged(msgspec.Struct, tag=True):
    n: int


class TaggedByHand(msgspec.Struct, tag="hand", tag_field="kind"):
    n: int


class Forbidding(msgspec.Struct, forbid_unknown_fields=True):
    n: int


class ArrayLike(msgspec.Struct, array_like=True):
    n: int


class WithDefaults(msgspec.Struct, kw_only=True, omit_defaults=True, weakref=True, dict=True):
    n: int = 7
    names: list[str] = []


class Slotted(msgspec.Struct, gc=False, order=True, cache_hash=True, frozen=True):
    n: int


class Cat(msgspec.Struct, tag="cat"):
    lives: int = 9


class Dog(msgspec.Struct, tag="dog"):
    name: str


@dataclasses.dataclass
class Data:
    n: int
    note: str = ""


class Typed(TypedDict):
    n: int


class Pair(NamedTuple):
    x: int
    y: int


ACCEPTED = {
    "struct": (Say, {"text": "hi"}, Say("hi")),
    "frozen struct": (Frozen, {"text": "hi"}, Frozen("hi")),
    "renamed fields": (Renamed, {"firstName": "A", "years": 3}, Renamed("A", 3)),
    "tagged struct": (Tagged, {"type": "Tagged", "n": 1}, Tagged(1)),
    "own tag field": (TaggedByHand, {"kind": "hand", "n": 1}, TaggedByHand(1)),
    "forbidding struct": (Forbidding, {"n": 1}, Forbidding(1)),
    "array-like struct": (ArrayLike, [1], ArrayLike(1)),
    "defaults": (WithDefaults, {}, WithDefaults()),
    "odd options": (Slotted, {"n": 1}, Slotted(1)),
    "union, first": (Cat | Dog, {"type": "cat"}, Cat()),
    "union, second": (Cat | Dog, {"type": "dog", "name": "rex"}, Dog("rex")),
    "optional struct": (Say | None, {"text": "hi"}, Say("hi")),
    "optional, none": (Say | None, None, None),
    "struct or number": (Say | int, 3, 3),
    "dataclass": (Data, {"n": 1}, Data(1)),
    "typed dict": (Typed, {"n": 1}, {"n": 1}),
    "named tuple": (Pair, [1, 2], Pair(1, 2)),
    "dict": (dict, {"any": [1]}, {"any": [1]}),
    "typed dict of numbers": (dict[str, int], {"a": 1}, {"a": 1}),
    "list": (list[int], [1, 2], [1, 2]),
    "list of structs": (list[Say], [{"text": "a"}], [Say("a")]),
    "int": (int, 3, 3),
    "float": (float, 3, 3.0),
    "str": (str, "x", "x"),
    "bool": (bool, True, True),
    "none": (None, None, None),
    "literal": (Literal["a", "b"], "b", "b"),
    "any": (Any, {"any": 1}, {"any": 1}),
    "constrained": (Annotated[int, msgspec.Meta(ge=1)], 1, 1),
}


@CODEC
@pytest.mark.parametrize("forbid", [True, False])
@pytest.mark.parametrize("kind", ACCEPTED)
def test_a_payload_comes_in_its_declared_type(codec, forbid, kind):
    """Whatever msgspec knows, exactly of the application's own class, in one pass."""
    payload_type, sent, expected = ACCEPTED[kind]

    payload = opened(payload_type, {"payload": sent}, forbid_unknown_fields=forbid, codec=codec)

    assert payload == expected
    assert type(payload) is type(expected)


@CODEC
@pytest.mark.parametrize(
    ("payload_type", "sent"),
    [
        (Say, {"text": 1}),
        (Say, {}),
        (Say, None),
        (Say, "text"),
        (Say, ["text"]),
        (Renamed, {"first_name": "A", "age": 3}),
        (Cat | Dog, {"type": "cow"}),
        (Cat | Dog, {}),
        (Data, {"n": "1"}),
        (Typed, {}),
        (dict[str, int], {"a": "1"}),
        (list[int], ["1"]),
        (int, "1"),
        (int, 1.5),
        (int, True),
        (bool, 1),
        (None, 0),
        (Literal["a"], "b"),
        (Annotated[int, msgspec.Meta(ge=1)], 0),
        (Say | None, 3),
    ],
)
def test_a_payload_of_another_type_is_refused(codec, payload_type, sent):
    """Nothing is coerced, and the error is one that is caught."""
    with pytest.raises(msgspec.ValidationError):
        opened(payload_type, {"payload": sent}, codec=codec)


@CODEC
@pytest.mark.parametrize(
    ("payload_type", "sent"),
    [
        (Say, {"text": "hi", "extra": 1}),
        (Frozen, {"text": "hi", "extra": 1}),
        (Renamed, {"firstName": "A", "years": 3, "first_name": "B"}),
        (Tagged, {"type": "Tagged", "n": 1, "extra": 1}),
        (Forbidding, {"n": 1, "extra": 1}),
        (WithDefaults, {"extra": 1}),
        (Cat | Dog, {"type": "cat", "extra": 1}),
        (Say | None, {"text": "hi", "extra": 1}),
        (Data, {"n": 1, "extra": 1}),
        (Typed, {"n": 1, "extra": 1}),
        (Annotated[Say, msgspec.Meta(description="What is said")], {"text": "hi", "extra": 1}),
    ],
)
def test_unknown_fields_are_refused(codec, payload_type, sent):
    """A field that was mistyped is no silence; the error names it."""
    with pytest.raises(
        msgspec.ValidationError, match=r"unknown field `(extra|first_name)`.*payload"
    ):
        opened(payload_type, {"payload": sent}, codec=codec)


@CODEC
@pytest.mark.parametrize("payload_type", [Say, Frozen, Say | None])
def test_unknown_fields_are_ignored_where_the_handler_says_so(codec, payload_type):
    """``forbid_unknown_fields=False`` is for clients that are newer than the server."""
    sent = {"payload": {"text": "hi", "extra": 1}}

    assert opened(payload_type, sent, forbid_unknown_fields=False, codec=codec).text == "hi"


def test_a_struct_that_forbids_for_itself_does_so_even_then():
    """What its class says counts more than ``forbid_unknown_fields=False``."""
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        opened(Forbidding, {"payload": {"n": 1, "extra": 1}}, forbid_unknown_fields=False)


@CODEC
@pytest.mark.parametrize("forbid", [True, False])
@pytest.mark.parametrize(
    ("payload_type", "expected"),
    [
        (WithDefaults, WithDefaults()),
        (dict, {}),
        (dict[str, int], {}),
        (Any, None),
        (None, None),
        (int | None, None),
        (Say | None, None),
        (WithDefaults | int, WithDefaults()),
    ],
)
def test_a_missing_payload_is_an_empty_object_or_none(codec, forbid, payload_type, expected):
    """``{}`` where the type is an object, None otherwise."""
    assert opened(payload_type, {}, forbid_unknown_fields=forbid, codec=codec) == expected


@pytest.mark.parametrize(
    ("payload_type", "why"),
    [
        (Say, "Object missing required field `text` - at `$.payload`"),
        (Data, "Object missing required field `n` - at `$.payload`"),
        (Typed, "Object missing required field `n` - at `$.payload`"),
        (int, "Expected `int`, got `null` - at `$.payload`"),
        (list[int], "Expected `array`, got `null` - at `$.payload`"),
    ],
)
def test_a_missing_payload_that_may_not_be_missing_is_refused(payload_type, why):
    """The error looks as if it had been sent."""
    with pytest.raises(msgspec.ValidationError, match=r"^") as refused:
        opened(payload_type, {})

    assert str(refused.value) == why


@CODEC
@pytest.mark.parametrize("message", [{}, {"payload": {"any": 1}}, {"payload": None}])
def test_a_handler_without_payload_ignores_one(codec, message):
    """It takes the connection only."""
    assert opened(NoPayload, message, codec=codec) is None


@pytest.mark.parametrize("payload_type", [Say | Frozen, list[int] | Pair, dict | Data])
def test_a_union_that_nothing_could_tell_apart_is_refused_when_the_class_is_made(payload_type):
    """Not when its first message comes."""
    with pytest.raises(TypeError):
        envelope_shape("t", payload_type, forbid_unknown_fields=True)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_a_message_type_is_any_text(message_type):
    """Nothing in it is special, for msgspec neither."""
    shape = envelope_shape(message_type, NoPayload, forbid_unknown_fields=True)
    frame = json.dumps({"type": message_type})

    assert JSON.decoder(shape.struct)(frame).ref is None


# Headers.


@CODEC
@pytest.mark.parametrize("ref", [None, "", "7", 7, -1, 2**63])
def test_a_header_has_type_and_ref_whatever_else_is_there(codec, ref):
    """So that a refusal can be matched to its message."""
    header = read_header(encoded(codec, {"type": "t", "ref": ref, "x": [1], "payload": 3}), codec)

    assert (header.type, header.ref) == ("t", ref)


@pytest.mark.parametrize(
    ("frame", "codec", "code", "path"),
    [
        ("", JSON, "invalid_json", None),
        ("{", JSON, "invalid_json", None),
        ("nul", JSON, "invalid_json", None),
        ('{"type": "a"} trailing', JSON, "invalid_json", None),
        ("[" * 100_000, JSON, "invalid_message", None),
        ('{"type":"a","payload":' + "[" * 100_000, JSON, "invalid_json", None),
        ("[]", JSON, "invalid_message", None),
        ("3", JSON, "invalid_message", None),
        ('"type"', JSON, "invalid_message", None),
        ("{}", JSON, "invalid_message", "$.type"),
        ('{"type": null}', JSON, "invalid_message", "$.type"),
        ('{"type": 3}', JSON, "invalid_message", "$.type"),
        ('{"type": ["a"]}', JSON, "invalid_message", "$.type"),
        ('{"type": "a", "ref": {}}', JSON, "invalid_message", "$.ref"),
        ('{"type": "a", "ref": true}', JSON, "invalid_message", "$.ref"),
        ('{"type": "a", "ref": 1.5}', JSON, "invalid_message", "$.ref"),
        (b"", MSGPACK, "invalid_message", None),
        (b"\xc1", MSGPACK, "invalid_message", None),
        (b"\x91" * 100_000, MSGPACK, "invalid_message", None),
        (b"\x90", MSGPACK, "invalid_message", None),
        (b"\x80", MSGPACK, "invalid_message", "$.type"),
    ],
    ids=lambda each: repr(each)[:20],
)
def test_a_frame_that_is_no_message_is_refused(frame, codec, code, path):
    """With the code that says how far it could be read."""
    with pytest.raises(Refusal) as refused:
        read_header(frame, codec)

    assert (refused.value.code, refused.value.path) == (code, path)
    assert refused.value.message


def test_a_refusal_of_a_message_without_a_type_keeps_its_ref():
    """The client can match it all the same."""
    with pytest.raises(Refusal) as refused:
        read_header('{"ref": "7"}', JSON)

    assert refused.value.ref == "7"


@pytest.mark.parametrize(
    ("error", "sentence", "path"),
    [
        ("Expected `str` - at `$.payload.text`", "Expected `str`", "$.payload.text"),
        ("Expected `str`", "Expected `str`", None),
        ("x" * 1000 + " - at `$" + ".y" * 1000 + "`", "x" * 200, ("$" + ".y" * 1000)[:200]),
    ],
)
def test_an_error_of_msgspec_is_parted_into_sentence_and_path(error, sentence, path):
    """Both bounded, since a client may name what stands in them."""
    refusal = refusal_of("invalid_payload", msgspec.ValidationError(error), ref=3)

    assert (refusal.code, refusal.message, refusal.path, refusal.ref) == (
        "invalid_payload", sentence, path, 3,
    )  # fmt: skip
