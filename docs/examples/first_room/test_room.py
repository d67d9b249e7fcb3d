import pytest
from room import create_app

from falcon_pachinko.testing import RequestError, simulate

pytestmark = pytest.mark.asyncio


async def test_what_one_says_both_hear():
    async with (
        simulate(create_app()) as client,
        client.connect("/ws/chat/tea?name=Ann") as ann,
        client.connect("/ws/chat/tea?name=Bob") as bob,
    ):
        await ann.expect("welcome")
        await ann.expect("joined")
        await bob.expect("welcome")

        await ann.send_json({"type": "say", "payload": {"text": "Tea?"}})

        said = {"type": "said", "payload": {"name": "Ann", "text": "Tea?"}}
        assert await ann.receive_json() == said
        assert await bob.receive_json() == said


async def test_a_wrong_payload_is_answered_and_nobody_else_hears_of_it():
    async with (
        simulate(create_app()) as client,
        client.connect("/ws/chat/tea?name=Ann") as ann,
        client.connect("/ws/chat/tea?name=Bob") as bob,
    ):
        await bob.expect("welcome")

        with pytest.raises(RequestError) as refused:
            await ann.request("say", {"text": 5})

        assert refused.value.code == "invalid_payload"
        await bob.expect_nothing()


async def test_the_room_hears_that_the_kettle_is_on():
    async with (
        simulate(create_app(announce_every=0.01)) as client,
        client.connect("/ws/chat/tea") as ann,
    ):
        await ann.expect("welcome")

        notice = await ann.expect("notice")

        assert notice["payload"] == {"text": "The kettle is on."}
