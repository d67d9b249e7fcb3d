"""A client's sign of life: found in the table, and in frames that wait."""

import msgspec
import pytest

from falcon_pachinko import WebSocketResource, handles_message
from falcon_pachinko.messages.codec import CODECS, JSON, MSGPACK
from falcon_pachinko.messages.envelopes import Refusal, read_ping
from falcon_pachinko.messages.handlers import PING

CODEC = pytest.mark.parametrize("codec", CODECS.values(), ids=repr)


class Empty(WebSocketResource):
    pass


class OneHandler(WebSocketResource):
    @handles_message("say")
    async def say(self, ws, payload: str): ...


class OneSchema(WebSocketResource):
    schema = msgspec.defstruct("Join", [("room", str)], tag="join")

    @handles_message("join")
    async def join(self, ws, message): ...


class Both(OneHandler):
    async def on_message(self, ws, message): ...


class TakesAll(WebSocketResource):
    async def on_message(self, ws, message): ...


class OwnPing(WebSocketResource):
    @handles_message("ping")
    async def ping(self, ws, payload: int = 3): ...

    async def on_message(self, ws, message): ...


@CODEC
@pytest.mark.parametrize("resource", [Empty, OneHandler, OneSchema, Both])
@pytest.mark.parametrize("ref", [None, 0, "", "7", -1, 2**63])
def test_a_ping_is_known_whatever_the_resource_is(codec, resource, ref):
    """What else it has is ignored, and its ref is kept."""
    message = {"type": "ping", "ref": ref, "payload": {"any": [1]}, "room": 3}

    opened = resource.__pachinko_table__.open(codec.frame_of(message), codec)

    assert opened == (PING, None, ref)


@pytest.mark.parametrize("ref", [[], {}, 1.5, True, {"a": 1}])
def test_a_ping_with_an_illegal_ref_is_refused(ref):
    """Like any other message with one."""
    with pytest.raises(Refusal, match="invalid_message") as refused:
        OneHandler.__pachinko_table__.open(JSON.frame_of({"type": "ping", "ref": ref}))

    assert refused.value.path == "$.ref"


def test_a_resource_may_handle_ping_itself():
    """Then it is a message like any other."""
    handler, payload, ref = OwnPing.__pachinko_table__.open('{"type":"ping","ref":1}')

    assert (handler.name, payload, ref) == ("ping", 3, 1)
    assert not OwnPing.__pachinko_table__.answers_ping


def test_a_resource_that_takes_every_frame_gets_pings_too():
    """Without handlers and schema, ``on_message`` is all there is."""
    with pytest.raises(Refusal, match="unknown_type"):
        TakesAll.__pachinko_table__.open('{"type":"ping"}')

    assert not TakesAll.__pachinko_table__.answers_ping


@CODEC
@pytest.mark.parametrize("resource", [Empty, OneHandler, OneSchema, TakesAll, OwnPing])
@pytest.mark.parametrize("message", [{}, {"payload": "x"}, {"room": "a"}, {"ref": 1}])
def test_a_message_without_a_type_is_never_taken_for_one(codec, resource, message):
    """Not even where there is a single type that it could be."""
    with pytest.raises(Refusal, match="invalid_message") as refused:
        resource.__pachinko_table__.open(codec.frame_of(message), codec)

    assert refused.value.path == "$.type"


@CODEC
@pytest.mark.parametrize("ref", [None, 0, "", "7"])
def test_a_ping_is_found_among_frames_that_wait(codec, ref):
    """Without a look at anything else."""
    ping = read_ping(codec.frame_of({"ref": ref, "type": "ping", "x": [1]}), codec)

    assert ping is not None
    assert ping.ref == ref


@pytest.mark.parametrize(
    ("frame", "codec"),
    [
        ('{"type":"say","payload":"ping"}', JSON),
        ('{"type":"ping"', JSON),
        ('{"type":"ping","ref":[]}', JSON),
        ('{"type":["ping"]}', JSON),
        ('["ping"]', JSON),
        ('"ping"', JSON),
        ("{}", JSON),
        ('{"type":"ping","x":"%s"}' % ("y" * 2_000), JSON),
        (b'{"type":"ping"}', JSON),
        ('{"type":"ping"}', MSGPACK),
        (b"\x81\xa4type\xa3say", MSGPACK),
        (b"ping", MSGPACK),
        (b"\x81\xa4type\xa4ping\xc1", MSGPACK),
    ],
)
def test_any_other_frame_is_left_to_its_turn(frame, codec):
    """Also what is a ping but not quite legal, or unusually long."""
    assert read_ping(frame, codec) is None
