"""Messages to frames: once, whole, or not at all."""

import contextlib
import dataclasses
import datetime as dt
import json
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import EncodeError
from falcon_pachinko.messages.codec import (
    CODECS,
    DECODE_ERRORS,
    JSON,
    MSGPACK,
    Packet,
    pack_bytes,
    pack_text,
)

MESSAGES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


class Point(msgspec.Struct):
    x: int


@dataclasses.dataclass
class Size:
    width: int


def nested(depth):
    message = []
    for _ in range(depth):
        message = [message]
    return message


@given(MESSAGES)
def test_a_text_frame_says_what_the_message_says(message):
    """Any JSON reader gets back what was sent, and the size is that of the bytes on the wire."""
    packet = JSON.encode(message)

    assert json.loads(packet.event["text"]) == message
    assert packet.size == len(packet.event["text"].encode())
    assert packet.event["type"] == "websocket.send"


@given(MESSAGES)
def test_a_binary_frame_says_what_the_message_says(message):
    """Any MessagePack reader gets back what was sent."""
    packet = MSGPACK.encode(message)

    assert msgspec.msgpack.decode(packet.event["bytes"]) == message
    assert packet.size == len(packet.event["bytes"])
    assert packet.event["type"] == "websocket.send"


@pytest.mark.parametrize("codec", CODECS.values(), ids=repr)
@given(message=MESSAGES)
def test_a_decoder_reads_what_its_codec_wrote(codec, message):
    """Into the type that was asked for."""
    frame = codec.encode({"payload": message}).event
    decode = codec.decoder(dict[str, Any])

    assert decode(frame["text"] if codec.frame_type is str else frame["bytes"]) == {
        "payload": message
    }


def test_codecs_are_known_by_their_subprotocols():
    """JSON is what a client speaks that asks for nothing."""
    assert CODECS == {None: JSON, "pachinko.msgpack": MSGPACK}
    assert [repr(codec) for codec in CODECS.values()] == ["<Codec JSON>", "<Codec MessagePack>"]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Point(1), '{"x":1}'),
        (Size(2), '{"width":2}'),
        ({"at": dt.date(2026, 1, 2)}, '{"at":"2026-01-02"}'),
        (uuid.UUID(int=0), '"00000000-0000-0000-0000-000000000000"'),
        ({1}, "[1]"),
        (b"\x00", '"AA=="'),
        ("茶", '"茶"'),
    ],
)
def test_what_msgspec_knows_can_be_sent(message, text):
    """Structs, dataclasses, dates and the like need no conversion."""
    assert JSON.encode(message).event["text"] == text


@pytest.mark.parametrize(
    "message",
    [object(), {"a": object()}, "\ud800", {"\ud800": 1}, nested(100_000), 1j],
    ids=["object", "inside", "surrogate", "surrogate key", "deep", "complex"],
)
@pytest.mark.parametrize("codec", CODECS.values(), ids=repr)
def test_what_cannot_be_encoded_is_an_encode_error(codec, message):
    """One exception, whatever the encoder made of it, and it says what can be sent."""
    with pytest.raises(EncodeError, match=r"was not sent: .+ Send msgspec structs.+enc_hook"):
        codec.encode([message])


@given(st.text())
def test_text_is_sent_as_it_is_or_refused(text):
    """Every text with a UTF-8 form passes, with its size in bytes; no other does."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        with pytest.raises(EncodeError):
            pack_text(text)
    else:
        assert pack_text(text) == Packet({"type": "websocket.send", "text": text}, size or 1)


@given(st.binary())
def test_bytes_are_sent_as_they_are(data):
    """A buffer is copied, so that changing it later changes no frame."""
    buffer = bytearray(data)
    packets = [pack_bytes(data), pack_bytes(buffer), pack_bytes(memoryview(data))]
    buffer[:] = b"changed"

    assert packets == [Packet({"type": "websocket.send", "bytes": data}, len(data) or 1)] * 3


@pytest.mark.parametrize("frame", [b"bytes", None, 3, {"type": "x"}])
def test_a_text_frame_takes_text_only(frame):
    """And the error names the type that came."""
    with pytest.raises(TypeError, match=f"takes a str, not {type(frame).__name__}"):
        pack_text(frame)


@pytest.mark.parametrize("frame", ["text", None, 3, [1]])
def test_a_binary_frame_takes_bytes_only(frame):
    """And the error names the type that came."""
    with pytest.raises(TypeError, match=f"takes bytes, not {type(frame).__name__}"):
        pack_bytes(frame)


@pytest.mark.parametrize(("message", "codec"), [({(1, 2): 3}, JSON), (2**70, MSGPACK)])
def test_each_codec_has_limits_of_its_own(message, codec):
    """JSON's keys are text; MessagePack's numbers have 64 bits."""
    with pytest.raises(EncodeError):
        codec.encode(message)


@given(st.text() | st.text(alphabet='[]{}",:\\u0d8ef1 -e.tnrls') | st.just("[" * 100_000))
def test_reading_text_raises_nothing_beyond_the_known_errors(text):
    """What is caught around decoding is all that decoding raises."""
    decode = JSON.decoder(Any)

    with contextlib.suppress(*DECODE_ERRORS):
        decode(text)


@given(st.binary() | st.just(b"\x91" * 100_000))
def test_reading_bytes_raises_nothing_beyond_the_known_errors(data):
    """The same for MessagePack."""
    decode = MSGPACK.decoder(Any)

    with contextlib.suppress(*DECODE_ERRORS):
        decode(data)
