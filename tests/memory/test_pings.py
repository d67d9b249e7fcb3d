"""A ``ping`` is answered with a ``pong``: in every style and codec, at any time."""

import asyncio

import msgspec
import pytest

from falcon_pachinko import Hook, Limits, WebSocketResource, handles_message
from falcon_pachinko.testing import simulate


class Join(msgspec.Struct, tag="join"):
    name: str


class Quit(msgspec.Struct, tag="quit"):
    pass


class Envelopes(WebSocketResource):
    gate: asyncio.Event

    @handles_message("work")
    async def work(self, ws):
        await self.gate.wait()
        return "done"

    @handles_message("beside", concurrent=True)
    async def beside(self, ws):
        await self.gate.wait()
        return "done"


class Structs(Envelopes):
    schema = Join | Quit

    @handles_message(Join)
    async def join(self, ws, message): ...

    @handles_message(Quit)
    async def quit(self, ws, message): ...


class Fallback(Envelopes):
    async def on_message(self, ws, message):
        return "unclaimed"


STYLES = [Envelopes, Structs, Fallback]
CODECS = [[], ["pachinko.json"], ["pachinko.msgpack"]]


@pytest.fixture(autouse=True)
def _gate():
    Envelopes.gate = asyncio.Event()


@pytest.mark.parametrize("protocols", CODECS, ids=["plain", "json", "msgpack"])
@pytest.mark.parametrize("resource", STYLES)
@pytest.mark.parametrize("ref", [0, "", "7", -3, 2**40, "é"])
async def test_a_pong_has_the_ref_of_its_ping(serve, resource, protocols, ref):
    """Any legal ref comes back as it was, and whatever else the ping has is ignored."""
    async with (
        simulate(serve(resource)) as client,
        client.connect("/", subprotocols=protocols) as ann,
    ):
        await ann.send({"type": "ping", "ref": ref, "payload": {"not": "read"}, "more": [1]})

        assert await ann.receive_message() == {"type": "pong", "ref": ref}


@pytest.mark.parametrize("protocols", CODECS, ids=["plain", "json", "msgpack"])
@pytest.mark.parametrize("resource", STYLES)
@pytest.mark.parametrize("ref", [True, 1.5, [1], {"a": 1}])
async def test_a_ping_with_an_illegal_ref_is_an_invalid_message(serve, resource, protocols, ref):
    """Like any other message with one."""
    async with (
        simulate(serve(resource)) as client,
        client.connect("/", subprotocols=protocols) as ann,
    ):
        await ann.send({"type": "ping", "ref": ref})
        answer = await ann.receive_message()

    if resource is Fallback:
        assert answer == {"type": "reply", "payload": "unclaimed"}
    else:
        assert (answer["type"], answer["payload"]["code"]) == ("error", "invalid_message")


@pytest.mark.parametrize("protocols", CODECS, ids=["plain", "json", "msgpack"])
@pytest.mark.parametrize("resource", STYLES)
@pytest.mark.parametrize("busy", ["work", "beside"])
async def test_a_pong_waits_for_no_handler(serve, monkeypatch, resource, protocols, busy):
    """A handler that is busy, or eight of them beside each other, holds up no sign of life."""
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)
    async with (
        simulate(serve(resource)) as client,
        client.connect("/", subprotocols=protocols) as ann,
    ):
        for number in range(10):
            await ann.send({"type": busy, "ref": number})
        await ann.send({"type": "ping", "ref": "alive"})
        first = await ann.receive_message()
        Envelopes.gate.set()
        answers = [await ann.receive_message() for _ in range(10)]

    assert first == {"type": "pong", "ref": "alive"}
    assert sorted(each["ref"] for each in answers) == list(range(10))


async def test_a_ping_is_no_message_of_the_applications(serve):
    """It reaches no hook, and is not counted as received."""
    seen = []

    class Nosy(Hook):
        async def before_message(self, ws, message):
            seen.append(message.type)

        async def on_refused(self, ws, refusal, frame):
            seen.append(refusal.code)

    app = serve(Envelopes, options={"hooks": [Nosy()]})
    async with simulate(app) as client, client.connect("/") as ann:
        for _ in range(3):
            await ann.request("ping")
        status = client.manager.status()

    assert seen == []
    assert status["received"] == {}


async def test_pings_are_charged_to_the_rate(serve, closing):
    """A flood of them is a flood."""
    limits = Limits(messages_per_second=0.001, burst=4)
    async with simulate(serve(Envelopes, limits=limits)) as client, client.connect("/") as ann:
        for _ in range(5):
            await ann.send_json({"type": "ping"})
        pongs = [await ann.receive_json() for _ in range(4)]

        assert await closing(ann) == 1008
    assert pongs == [{"type": "pong"}] * 4


async def test_a_ping_of_the_applications_own_is_its_own(serve):
    """A resource that handles ``ping`` answers as it likes."""

    class Own(WebSocketResource):
        @handles_message("ping")
        async def ping(self, ws, payload: int):
            return payload + 1

    async with simulate(serve(Own)) as client, client.connect("/") as ann:
        assert (await ann.request("ping", 41))["payload"] == 42


@pytest.mark.parametrize("text", ['{"type": "ping"', '["ping"]', '"ping"', '{"type": "Ping"}'])
async def test_what_only_looks_like_a_ping_is_refused_as_ever(serve, text):
    """One error, and the connection lives."""
    async with simulate(serve(Envelopes)) as client, client.connect("/") as ann:
        await ann.send_text(text)
        answer = await ann.receive_json()

        assert (await ann.request("ping"))["type"] == "pong"
    assert answer["type"] == "error"
