"""What travels between processes: written and read, and what is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import targets as to
from falcon_pachinko.cluster.parcels import (
    ALL,
    Answer,
    Broadcast,
    Hello,
    Mark,
    ParcelPackets,
    PresenceDiff,
    Question,
    channel_of,
    decode,
    encode,
    header,
    implied_by,
    is_object,
)
from falcon_pachinko.errors import EncodeError
from falcon_pachinko.messages.codec import JSON, MSGPACK
from falcon_pachinko.targets import Target

HEAD = header("0123456789ab")

names = st.text(min_size=1, max_size=20)
leaves = st.one_of(
    st.builds(to.room, names),
    st.builds(to.user, names),
    st.builds(to.tag, names),
    st.builds(to.connection, names),
    st.just(to.everyone),
)
targets = st.recursive(
    leaves,
    lambda deeper: st.tuples(deeper, deeper, st.sampled_from("|&-")).map(
        lambda parts: {
            "|": parts[0] | parts[1],
            "&": parts[0] & parts[1],
            "-": parts[0] - parts[1],
        }[parts[2]]
    ),
    max_leaves=8,
)
numbers = st.integers(0, 2**62)
texts = st.dictionaries(names, st.integers(-5, 5)).map(
    lambda each: msgspec.json.encode(each).decode()
)
parcels = st.one_of(
    st.builds(
        Broadcast,
        numbers,
        numbers,
        names,
        texts,
        st.none() | st.just(b"\x80"),
        st.lists(names).map(tuple),
        st.none() | targets,
    ),
    st.builds(Question, numbers, numbers, numbers, names, st.binary()),
    st.builds(Answer, numbers, numbers, numbers, numbers, st.booleans(), st.none() | st.binary()),
    st.builds(
        PresenceDiff,
        numbers,
        numbers,
        st.dictionaries(names, st.binary()),
        st.lists(names).map(tuple),
    ),
    st.builds(Mark, numbers, numbers),
    st.builds(
        Hello,
        numbers,
        numbers,
        st.lists(names).map(tuple),
        st.booleans(),
        st.lists(names).map(tuple),
    ),
)


class Members:
    """A directory in which everybody is named by everything, for `Target.select`."""

    def __init__(self, known):
        self.known = known

    def _found(self, kind, name):
        return self.known.get(f"{kind}:{name}", set())

    def in_room(self, name):
        return self._found("room", name)

    def of_user(self, name):
        return self._found("user", name)

    def with_tag(self, name):
        return self._found("tag", name)

    def with_id(self, name):
        return self._found("connection", name)

    def all(self):
        return set().union(*self.known.values())


@given(parcels)
def test_what_is_written_is_read(parcel):
    """Every parcel comes back as it was, with the name of the node that sent it."""
    assert decode(encode(HEAD, parcel)) == ("0123456789ab", parcel)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_parcel(data):
    """Reading never raises, whatever comes; nor with a header in front."""
    assert decode(data) is None
    decode(HEAD + data)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda deeper: st.lists(deeper, max_size=6) | st.dictionaries(st.text(), deeper, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from("bpmhqax"), st.lists(values, max_size=8))
def test_messagepack_of_another_shape_is_no_parcel_or_a_whole_one(kind, fields):
    """What is read can be written again; all else is None."""
    opened = decode(HEAD + msgspec.msgpack.encode([kind, *fields]))

    assert opened is None or decode(encode(HEAD, opened[1])) == opened


@pytest.mark.parametrize(
    "node", [b"", b"0123", b"0123456789AB", b"0123456789a\n", b"\xff" * 12, b"zzzzzzzzzzzz"]
)
def test_a_node_has_a_name_of_hexadecimal_digits(node):
    """Anything else would be kept, and logged, as the name of a process."""
    assert decode(b"\x01" + node + encode(HEAD, Mark(1, 0))[13:]) is None


@pytest.mark.parametrize("text", ["", "{", "no", '{"a":}', "[" * 5000, "{} {}"])
def test_a_message_is_json(text):
    """What no client could read is given to none."""
    assert decode(encode(HEAD, Broadcast(1, 0, "said", text))) is None


def test_a_message_is_messagepack_in_its_second_form():
    """So that no client of the other codec gets half of one."""
    assert decode(encode(HEAD, Broadcast(1, 0, "said", "{}", b"\x81\xa1"))) is None


@pytest.mark.parametrize("depth", [900, 5_000, 100_000])
def test_a_target_that_is_too_deep_is_no_parcel(depth):
    """However deep it is, reading it comes to an end."""
    leaf = msgspec.msgpack.encode({"target": "everyone"})
    nested = b"\x83\xa6target\xa2or\xa5right" + leaf + b"\xa4left"
    deep = nested * depth + leaf
    data = HEAD + b"\x98\xa1b\x01\x00\xa0\xa2{}\xc0\x90" + deep

    opened = decode(data)

    assert opened is None or isinstance(opened[1], Broadcast)


@given(targets, st.sets(names, max_size=3))
def test_whoever_listens_to_the_channel_has_everybody_who_is_meant(target, others):
    """A process that does not listen to a target's channel has nobody of it."""
    channel = channel_of(target)
    here = {f"{kind}:{name}": {name} for kind in ("room", "user", "tag") for name in others}
    everybody = {f"connection:{name}": {name} for name in others}
    listening = {ALL, *here}

    assert (
        channel in listening or not target.select(Members(here | everybody)) or _is_local(channel)
    )


def _is_local(channel):
    return channel.startswith("node:")


def test_a_connection_of_ours_is_on_the_channel_of_its_node():
    """An id begins with the name of its process; another id may be anywhere."""
    assert channel_of(to.connection("~0123456789ab" + "0" * 24)) == "node:0123456789ab"
    assert channel_of(to.connection("ann")) == ALL


@given(leaves)
def test_a_channel_names_what_it_is_for(target):
    """What a channel implies needs not be sent; others imply nothing."""
    implied = implied_by(channel_of(target))

    assert implied in (target, None)


def test_a_target_of_another_kind_is_for_all():
    """A subclass of somebody's own is evaluated everywhere."""

    class Nobody(Target, frozen=True):
        pass

    assert channel_of(Nobody()) == ALL


def test_a_place_goes_beside_the_fields_in_every_codec():
    """Whatever the keys of the message are."""
    parcel = Broadcast(1, 0, "", '{"1":"x"}', msgspec.msgpack.encode({1: "x"}))
    packets = ParcelPackets(parcel, {"history": 7})

    assert packets[JSON].event["text"] == '{"1":"x","history":7}'
    assert msgspec.msgpack.decode(packets[MSGPACK].event["bytes"]) == {1: "x", "history": 7}


def test_a_form_that_did_not_come_is_made():
    """Of the JSON, with the fields beside its own."""
    packets = ParcelPackets(Broadcast(1, 0, "", "{}"), {"history": 7})

    assert packets[JSON].event["text"] == '{"history":7}'
    assert msgspec.msgpack.decode(packets[MSGPACK].event["bytes"]) == {"history": 7}
    assert ParcelPackets(Broadcast(1, 0, "", "[1]"))[MSGPACK].event["bytes"] == b"\x91\x01"
    assert ParcelPackets(Broadcast(1, 0, "", "[]", b"\x90"))[MSGPACK].event["bytes"] == b"\x90"


@pytest.mark.parametrize("text", ["1" * 100, "{"])
def test_what_a_codec_has_no_form_of_is_an_error(text):
    """A number of a hundred digits is JSON, and no MessagePack."""
    with pytest.raises(EncodeError):
        ParcelPackets(Broadcast(1, 0, "", text))[MSGPACK]


@pytest.mark.parametrize(
    ("text", "data", "has_room"),
    [
        ("{}", None, True),
        ('{"a":1}', b"\x81\xa1a\x01", True),
        ("[1]", None, False),
        ('"{}"', None, False),
        ("{} ", None, False),
        ("{}", b"\x90", False),
        ("{}", b"\x81\x80\x01", False),
    ],
)
def test_an_object_has_room_for_a_field(text, data, has_room):
    """In both of its forms."""
    assert is_object(Broadcast(1, 0, "", text, data)) is has_room


@pytest.mark.parametrize(
    ("fields", "whole", "stays"),
    [
        (["p", 3, 2, {"c": b"x"}, ["d"]], False, {}),
        (["p", 3, 2, {"c": b"x"}, ["d"], True], True, {}),
        (["p", 3, 2, {"c": b"x"}, ["d"], True, {"d": 2}, "more", 7], True, {"d": 2.0}),
    ],
)
def test_a_diff_of_an_older_or_a_newer_process_is_read(fields, whole, stays):
    """Fields that are missing have their defaults; those that are not known yet are left out."""
    opened = decode(HEAD + msgspec.msgpack.encode(fields))

    assert opened == ("0123456789ab", PresenceDiff(3, 2, {"c": b"x"}, ("d",), whole, stays))
