"""The reference of the wire format: what it says beside its transcripts."""

import msgspec
import pytest

from falcon_pachinko import WebSocketResource, handles_message
from falcon_pachinko.testing import simulate


@pytest.mark.parametrize(
    ("offers", "agreed"),
    [
        (["tea.v2", "pachinko.msgpack"], "tea.v2"),
        (["pachinko.msgpack", "tea.v2"], "tea.v2"),
        (["pachinko.msgpack", "pachinko.json"], "pachinko.msgpack"),
        (["tea.v3", "pachinko.json"], "pachinko.json"),
        (["tea.v3", "tea.v2"], "tea.v2"),
        (["tea.v3"], None),
        ([], None),
    ],
)
async def test_a_subprotocol_of_the_resource_goes_before_the_librarys(serve, offers, agreed):
    """Among each, the client's order counts; offering none that is known is fine."""

    class Versioned(WebSocketResource):
        subprotocols = ("tea.v2",)

    async with (
        simulate(serve(Versioned)) as client,
        client.connect("/", subprotocols=offers) as ann,
    ):
        assert ann.subprotocol == agreed


async def test_text_and_binary_frames_are_sent_as_they_are(serve):
    """``send_text`` and ``send_data`` send what they are given, whatever the codec."""

    class Plain(WebSocketResource):
        @handles_message("both")
        async def both(self, ws):
            await ws.send_text("Tea?")
            await ws.send_data(b"\x00tea")

    async with (
        simulate(serve(Plain)) as client,
        client.connect("/", subprotocols=["pachinko.msgpack"]) as ann,
    ):
        await ann.send_data(msgspec.msgpack.encode({"type": "both"}))

        assert [await ann.receive(), await ann.receive()] == ["Tea?", b"\x00tea"]


class Milk(msgspec.Struct):
    kind: str


class Order(msgspec.Struct):
    milks: list[Milk]


async def test_a_nested_field_that_the_type_does_not_have_is_refused(serve, answered):
    """However deep it is; the error says where, but for the number in a list."""

    class Counter(WebSocketResource):
        @handles_message("order")
        async def order(self, ws, payload: Order): ...

    async with simulate(serve(Counter)) as client, client.connect("/") as ann:
        answer = await answered(ann.request("order", {"milks": [{"kind": "oat", "fat": 3}]}))

    assert answer["payload"]["code"] == "invalid_payload"
    assert answer["payload"]["path"] == "$.payload.milks[...]"
