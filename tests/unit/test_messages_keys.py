"""Keys of untyped MessagePack: text or numbers, found out in time that grows with the length."""

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko.messages.keys import MOST_NUMBERS, check_keys

encode = msgspec.msgpack.encode

PLAIN = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary() | st.datetimes(timezones=st.just(__import__("datetime").UTC))
)  # fmt: skip
SAFE = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=20)
        | st.dictionaries(
            st.text() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False), inner
        )
    ),
    max_leaves=40,
)


@given(SAFE)
def test_text_and_numbers_are_keys(message):
    """Wherever they are, whatever stands beside them."""
    check_keys(encode(message))


@given(SAFE, SAFE, st.sampled_from([b"\x90", b"\x80", b"\x91\x01", b"\xc0", b"\xc3", b"\xc4\x01a"]))
def test_any_other_key_is_found(before, after, key):
    """An array, a map, nil, a boolean, bytes: behind whatever comes first."""
    data = b"\x93" + encode(before) + b"\x82\xa1a\x01" + key + b"\x02" + encode(after)

    with pytest.raises(msgspec.ValidationError, match="keys of a map must be text or numbers"):
        check_keys(data)


@given(st.binary())
def test_any_bytes_are_looked_through(data):
    """What is malformed is left to the decoder; nothing else is raised."""
    try:
        check_keys(data)
    except msgspec.ValidationError as refused:
        assert "keys" in str(refused)  # noqa: PT017  # both outcomes are right


@given(SAFE, st.data())
def test_a_cut_message_is_looked_through(message, data):
    """The end may come anywhere."""
    whole = encode(message)

    check_keys(whole[: data.draw(st.integers(0, len(whole)))])


@pytest.mark.parametrize("count", [MOST_NUMBERS, 1])
def test_a_map_may_have_many_numbers_as_keys(count):
    """As long as a client could not make a dict of them slow."""
    check_keys(encode([dict.fromkeys(range(count), b"")]))


def test_a_large_map_has_text_keys():
    """The error says so; with text keys it may be of any size."""
    check_keys(encode({str(key): b"" for key in range(MOST_NUMBERS + 1)}))

    with pytest.raises(msgspec.ValidationError, match="more than 256 entries must have text"):
        check_keys(encode(dict.fromkeys(range(MOST_NUMBERS + 1), b"")))


@pytest.mark.parametrize(
    "item",
    [b"\x01", b"\xcd\x01\x02", b"\x90", b"\x91\x01", b"\x81\xa1a\x01", b"\xa1a", b"\xc4\x00"],
)
def test_the_time_grows_with_the_length(item):
    """Four times the length takes about four times as long, and never sixteen times."""

    def seconds(size):
        data = b"\xdd" + size.to_bytes(4) + item * size + b"\x81\x90\x01"
        best = 1.0
        for _ in range(5):
            began = time.process_time()
            check_keys(data)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(40_000) < 9 * seconds(10_000) + 0.002
