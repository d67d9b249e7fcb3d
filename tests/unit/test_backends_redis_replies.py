"""Redis's protocol: any replies, however the network cuts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko.backends.redis.replies import Refused, Replies, command

REPLIES = st.recursive(
    st.one_of(st.none(), st.integers(-(2**40), 2**40), st.binary(max_size=50)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.tuples(st.just(b"message"), st.binary(max_size=9), st.binary(max_size=99)).map(list)


def written(reply):
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(written, reply))


@given(st.lists(st.one_of(REPLIES, MESSAGES), max_size=8), st.integers(1, 40))
def test_replies_are_read_however_they_are_cut(sent, size):
    """Pieces of any size give the same replies as the whole."""
    data, replies, read = b"".join(map(written, sent)), Replies(), []
    for start in range(0, len(data), size):
        read += replies.feed(data[start : start + size])

    assert read == sent


def test_simple_replies_and_errors_are_told_apart():
    """An error is something else than text that reads like it."""
    read = Replies().feed(b"+OK\r\n-NOSCRIPT No such\r\n$5\r\n-ERR \r\n*-1\r\n")

    assert read == [b"OK", Refused("NOSCRIPT No such"), b"-ERR ", None]
    assert read[1].code == "NOSCRIPT"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("piece", [100, 1000, 10_000])
def test_a_large_reply_is_read_once(nested, piece):
    """However many pieces it comes in: what was read is not read again."""
    items = [b"%036d" % number for number in range(4_000)]
    sent = [b"x", items, [items, [1, None]]] if nested else items
    data, replies, read, joined = written(sent), Replies(), [], 0
    for start in range(0, len(data), piece):
        read += replies.feed(data[start : start + piece])
        joined += replies._size  # what is kept of it is copied with the next piece

    assert read == [sent]
    assert joined < len(data)


def test_a_long_text_is_joined_once():
    """Not with every piece of it that comes."""
    data, replies, read = written([b"x" * 1_000_000]), Replies(), []
    for start in range(0, len(data), 1_000):
        read += replies.feed(data[start : start + 1_000])
        assert len(replies._pieces) <= start // 1_000 + 1
        if start > 2_000 and not read:
            assert len(replies._pieces) >= start // 1_000 - 1  # they wait, each as it came

    assert read == [[b"x" * 1_000_000]]


def test_arrays_in_arrays_need_no_stack():
    """A server that is none, or is hostile, brings nobody down with depth."""
    depth = 50_000
    read = Replies().feed(b"*1\r\n" * depth + b":7\r\n")
    for _ in range(depth):
        (read,) = read

    assert read == [7]


@pytest.mark.parametrize("data", [b"HTTP/1.1 400\r\n", b"$x\r\n", b"x" * 70_000, b":1.5\r\n"])
def test_what_is_no_redis_is_refused(data):
    """Another server behind that port is noticed, not waited for."""
    with pytest.raises(ValueError, match=r"Redis|invalid literal"):
        Replies().feed(data)


def test_a_command_is_a_list_of_bytes():
    """Text goes out in UTF-8, bytes and numbers as they are."""
    assert command("SET", "é", b"\r\n", 5) == (
        b"*4\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$2\r\n\r\n\r\n$1\r\n5\r\n"
    )
