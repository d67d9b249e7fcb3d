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


@pytest.mark.parametrize("data", [b"\xc1", b"\x92\xc4\x00\xc1", b"\x81\xa0\xc1", b""])
def test_what_no_item_begins_with_is_left_to_the_decoder(data):
    """Nothing behind it is decoded either."""
    check_keys(data + b"\x81\x90\x01" if data else data)


SMALL_ITEMS = {
    "numbers": b"\x01",
    "numbers of two bytes": b"\xcc\xff",
    "numbers of nine": b"\xcf" + b"\x81" * 8,
    "text": b"\xa2\x81\x90",
    "longer text": b"\xaa" + b"\x81" * 10,
    "text with its length": b"\xd9\x03\x81\x91\x81",
    "with a longer length": b"\xdb\x00\x00\x00\x01\x91",
    "bytes": b"\xc5\x00\x00",
    "extensions": b"\xc7\x02\x81\x81\x81",
    "empty maps": b"\x80",
    "arrays": b"\x93\x01\xa1\x81\xc0",
    "arrays in arrays": b"\x91\x92\x91\x01\x90",
    "long arrays": b"\xdc\x00\x02\xa1\x91\x01",
    "maps": b"\x82\xa1\x81\x01\x02\xa1\x91",
    "maps in maps": b"\x81\xa0\x81\x01\x81\xa0\x90",
    "long maps": b"\xdf\x00\x00\x00\x01\xa1\x91\x91\x80",
}


@pytest.mark.parametrize("count", [1, 7, 8, 31, 32, 33, 100, 1000])
@pytest.mark.parametrize("kind", SMALL_ITEMS)
def test_a_key_is_found_behind_many_small_items(kind, count):
    """However many of them are gone over at once, in an array or as the values of a map."""
    item = SMALL_ITEMS[kind]
    array = b"\xdd" + (count + 1).to_bytes(4) + item * count
    table = b"\xdf" + (count + 1).to_bytes(4) + (b"\xa1k" + item) * count

    for begin in (array, table + b"\xa0"):
        check_keys(begin + b"\x81\xa0\x01")
        check_keys(begin + b"\xc4\x00")  # which is not ordinary
        with pytest.raises(msgspec.ValidationError):
            check_keys(begin + b"\x81\x90\x01")
    with pytest.raises(msgspec.ValidationError):
        check_keys(table + b"\xc0\x01")


class Watched(bytes):
    """Bytes that count how often one of them is looked at."""

    looks = 0

    def __getitem__(self, place):
        self.looks += 1
        return super().__getitem__(place)


AT_ONCE = SMALL_ITEMS.keys() - {
    "longer text", "arrays in arrays", "long arrays", "maps in maps", "long maps",
}  # fmt: skip


@pytest.mark.parametrize("kind", SMALL_ITEMS)
@pytest.mark.parametrize("begin", [b"\xc4\x00", b"\x81\x01\x01", b"\x91" * 20 + b"\x01"])
def test_many_small_items_are_gone_over_at_once(kind, begin):
    """Few bytes are looked at one by one, whatever comes first; and none twice in anything."""
    data = Watched(b"\xdd" + (9_001).to_bytes(4) + begin + SMALL_ITEMS[kind] * 9_000)
    check_keys(data)

    assert 0 < data.looks <= (1_000 if kind in AT_ONCE else len(data) + 100)


@pytest.mark.parametrize("kind", SMALL_ITEMS)
def test_so_are_the_values_of_a_map(kind):
    """With text or, if there are not too many, numbers as their keys."""
    pairs = (b"\xa2ab" + SMALL_ITEMS[kind]) * 9_000
    with_text = Watched(b"\xdf" + (9_001).to_bytes(4) + b"\xa0\xc4\x00" + pairs)
    few = b"\xde\x01\xf4" + b"\x01\xc4\x00" + (b"\xcd\x90\x90" + SMALL_ITEMS[kind]) * 499
    with_numbers = Watched(b"\xdc\x00\x14" + few * 20)
    for data in (with_text, with_numbers):
        check_keys(data)

        assert 0 < data.looks <= (3_000 if kind in AT_ONCE else len(data) + 100)


@pytest.mark.parametrize("count", [MOST_NUMBERS, 1])
def test_a_map_may_have_many_numbers_as_keys(count):
    """As long as a client could not make a dict of them slow."""
    check_keys(encode([dict.fromkeys(range(count), b"")]))


def test_a_large_map_has_text_keys():
    """The error says so; with text keys it may be of any size."""
    check_keys(encode({str(key): b"" for key in range(MOST_NUMBERS + 1)}))

    with pytest.raises(msgspec.ValidationError, match="more than 512 entries must have text"):
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
