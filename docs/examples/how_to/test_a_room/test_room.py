import contextlib

import msgspec
import pytest
from room import create_app

from falcon_pachinko.testing import Disconnected, HandshakeDenied, RequestError, simulate

pytestmark = pytest.mark.asyncio


# region: fixture
@pytest.fixture
def app():
    return create_app()


async def test_what_one_says_the_other_hears(pachinko_client):
    async with (
        pachinko_client.connect("/rooms/tea") as ann,
        pachinko_client.connect("/rooms/tea") as bob,
    ):
        await ann.send({"type": "say", "payload": "Tea?"})

        await bob.expect("said", "Tea?")
        await bob.expect_nothing()


# endregion


# region: request
async def test_the_count_is_answered(pachinko_client):
    async with pachinko_client.connect("/rooms/tea") as ann:
        answer = await ann.request("count")

    assert answer == {"type": "reply", "ref": "1", "payload": 1}


async def test_a_wrong_payload_is_refused(pachinko_client):
    async with pachinko_client.connect("/rooms/tea") as ann:
        with pytest.raises(RequestError) as refused:
            await ann.request("say", 5)

    assert (refused.value.code, refused.value.path) == ("invalid_payload", "$.payload")


# endregion


# region: typed
class Said(msgspec.Struct, tag_field="type", tag="said"):
    payload: str


async def test_a_frame_is_read_into_a_type(pachinko_client):
    async with pachinko_client.connect("/rooms/tea") as ann:
        await ann.send({"type": "say", "payload": "Tea?"})

        assert await ann.receive(Said) == Said("Tea?")


# endregion


# region: endings
async def test_a_closed_room_is_gone(pachinko_client):
    with pytest.raises(HandshakeDenied) as denied:
        async with pachinko_client.connect("/rooms/closed"):
            pass

    assert denied.value.status == 410


async def test_clients_are_told_that_the_server_goes(pachinko_client):
    async with pachinko_client.connect("/rooms/tea") as ann:
        await pachinko_client.stop()

        await ann.expect_close(1012)


async def test_a_client_that_vanishes_is_forgotten(pachinko_client):
    async with pachinko_client.connect("/rooms/tea") as ann:
        await ann.drop()

    assert await pachinko_client.manager.count() == 0


# endregion


# region: slow
async def test_a_client_that_does_not_read_is_closed(pachinko_client):
    async with pachinko_client.connect("/rooms/tea") as ann:
        await ann.stall()
        dropped = 0
        while not dropped:
            dropped = (await pachinko_client.manager.broadcast_to_all("x" * 1024)).dropped
        await ann.resume()

        with contextlib.suppress(Disconnected):
            while True:
                await ann.receive()
        assert ann.close_code == 1013


# endregion


# region: worker
async def test_it_ticks():
    async with (
        simulate(create_app(tick_every=0.01)) as simulator,
        simulator.connect("/rooms/tea") as ann,
    ):
        await ann.expect("tick")


# endregion


# region: http
async def test_http_is_there_too(pachinko_client):
    health = await pachinko_client.http.simulate_get("/health")

    assert health.json == {"ok": True}


# endregion


# region: live
async def test_on_a_real_server(pachinko_server):
    async with pachinko_server.connect("/rooms/tea") as ann:
        await ann.send({"type": "say", "payload": "Tea?"})

        await ann.expect("said", "Tea?")
    health = await pachinko_server.http.get("/health")
    assert (health.status_code, health.json) == (200, {"ok": True})


# endregion
