"""What a client that does not read misses, keeps and gets in its place, in a whole app."""

import asyncio

import pytest

from falcon_pachinko import Limits, WebSocketResource, handles_message, to
from falcon_pachinko.testing import simulate

LINE = "x" * 50


class Player(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("game")
        await ws.send_media({"type": "before"}, volatile=True)
        return True

    @handles_message("volatile")
    async def volatile(self, ws, payload: str):
        delivery = await self.broadcast_to_room(
            "game", {"type": "at", "at": payload}, volatile=True
        )
        return delivery._asdict()

    @handles_message("latest")
    async def latest(self, ws, payload: tuple[str, str]):
        key, value = payload
        delivery = await self.broadcast_to_room("game", {"type": key, "at": value}, latest=key)
        return delivery._asdict()

    @handles_message("say")
    async def say(self, ws, payload: str):
        delivery = await self.broadcast_to_room("game", {"type": "said", "at": payload})
        return delivery._asdict()


@pytest.fixture
async def game(serve):
    """Ann plays; Bob has stopped reading, and a frame to him is being written."""
    app = serve(Player, limits=Limits(send_timeout=None))
    async with (
        simulate(app, write_buffer=10) as client,
        client.connect("/") as ann,
        client.connect("/") as bob,
    ):
        assert [await each.receive_json() for each in (ann, bob)] == [{"type": "before"}] * 2
        await bob.stall()
        for _ in range(2):  # the first fills the buffer, the second is the one being written
            await tell(ann, "say", LINE)
        yield client, ann, bob
        await bob.resume()


async def tell(ann, kind, payload):
    """Have Ann send; give what became of it."""
    answer = await ann.request(kind, payload)
    return answer["payload"]


async def hear(bob, number):
    messages = [await bob.receive_json() for _ in range(number)]
    return [(message["type"], message["at"]) for message in messages]


async def test_a_volatile_message_is_dropped_for_who_is_behind(game):
    """Everybody else gets it, it is counted, and what is not volatile waits as ever."""
    client, ann, bob = game

    dropped = await tell(ann, "volatile", "now")
    await tell(ann, "say", "waits")
    await bob.resume()

    assert (dropped["sent"], dropped["dropped"]) == (1, 1)
    assert client.manager.status()["dropped"] == {"volatile": 1}
    assert await hear(bob, 3) == [("said", LINE), ("said", LINE), ("said", "waits")]


async def test_a_volatile_message_reaches_who_has_caught_up(game):
    """Only a client that is behind right now misses it."""
    _client, ann, bob = game
    await bob.resume()
    await hear(bob, 2)

    delivery = await tell(ann, "volatile", "now")

    assert (delivery["sent"], delivery["dropped"]) == (2, 0)
    assert await hear(bob, 1) == [("at", "now")]


async def test_the_latest_value_takes_the_place_of_the_one_that_waits(game):
    """In its place in the order, per key; all are counted as sent."""
    _client, ann, bob = game

    deliveries = [
        await tell(ann, "latest", ["score", "1"]),
        await tell(ann, "say", "between"),
        await tell(ann, "latest", ["clock", "10"]),
        await tell(ann, "latest", ["score", "2"]),
        await tell(ann, "latest", ["score", "3"]),
        await tell(ann, "latest", ["clock", "11"]),
    ]
    await bob.resume()

    assert [each["sent"] for each in deliveries] == [2] * 6
    expected = [("said", LINE)] * 2 + [("score", "3"), ("said", "between"), ("clock", "11")]
    assert await hear(bob, 5) == expected
    await bob.expect_nothing()


async def test_a_key_belongs_to_its_target(game):
    """The same key of another target replaces nothing; that of an equal one does."""
    client, _ann, bob = game
    manager = client.manager

    for value in ("1", "2"):
        await manager.broadcast({"type": "a", "at": value}, to=to.room("game"), latest="k")
        await manager.broadcast({"type": "b", "at": value}, to=to.everyone, latest="k")
        await manager.broadcast({"type": "c", "at": value}, to=to.rooms("ga"), latest="k")
    await bob.resume()

    assert await hear(bob, 5) == [("said", LINE)] * 2 + [("a", "2"), ("b", "2"), ("c", "2")]
    await bob.expect_nothing()


@pytest.mark.parametrize(
    "options",
    [
        {"volatile": True, "latest": "k"},
        {"latest": ""},
        {"latest": 5},
        {"store": True, "volatile": True},
    ],
)
async def test_options_that_contradict_each_other_are_the_callers_mistake(game, options):
    """Nobody gets anything."""
    client, ann, _bob = game
    heard = len(ann.trace)

    with pytest.raises(ValueError, match=r"volatile|latest|store"):
        await client.manager.broadcast_to_room("game", {"type": "x", "at": ""}, **options)

    await ann.request("say", "the next one")
    assert len(ann.trace) == heard + 3  # her question, its answer, and her own copy


async def test_concurrent_broadcasts_reach_everybody_in_one_order(serve):
    """Two senders, six hundred members: everyone hears the same sequence."""

    class Member(WebSocketResource):
        async def on_connect(self, req, ws):
            await self.join_room("crowd")
            return True

    async with simulate(serve(Member)) as client:
        members = [client.connect("/") for _ in range(600)]
        for each in members:
            await each.__aenter__()
        manager = client.manager
        ids = [each.id async for each in manager.connections()]

        async def talk(word):
            for number in range(5):
                await manager.broadcast_to_room("crowd", [word, number], exclude=ids[:1])

        direct = asyncio.create_task(manager.send_to_connection(ids[-1], "direct"))
        await asyncio.gather(talk("a"), talk("b"))
        await direct
        orders = set()
        for each in members:
            frames = tuple(frame for _, frame in each.trace if frame != '"direct"')
            if frames:
                orders.add(frames)
        for each in members:
            await each.__aexit__(None, None, None)

    assert len(orders) == 1
    assert len(orders.pop()) == 10
