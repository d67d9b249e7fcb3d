import pytest
from chat import create_app

from falcon_pachinko.testing import cluster

pytestmark = pytest.mark.asyncio


async def next_of(client, message_type):
    while True:
        message = await client.receive_json()
        if message["type"] == message_type:
            return message


# region: room
async def test_a_room_spans_the_processes():
    async with (
        cluster(create_app, processes=2) as nodes,
        nodes[0].connect("/chat/tea?user=ann") as ann,
        nodes[1].connect("/chat/tea?user=bob") as bob,
    ):
        await ann.send({"type": "say", "payload": "Tea?"})

        assert (await next_of(bob, "said"))["payload"] == "Tea?"


# endregion


# region: kill
async def test_who_was_on_a_process_that_died_is_absent():
    async with (
        cluster(create_app, processes=3) as nodes,
        nodes[0].connect("/chat/tea?user=ann"),
        nodes[1].connect("/chat/tea?user=bob") as bob,
    ):
        await nodes[1].kill()
        assert bob.close_code == 1006
        assert set(await nodes[2].manager.presence("chat:tea")) == {"ann", "bob"}

        await nodes.advance(15)
        assert set(await nodes[2].manager.presence("chat:tea")) == {"ann"}


# endregion


# region: partition
async def test_what_a_process_missed_is_made_up_for():
    async with (
        cluster(create_app, processes=2) as nodes,
        nodes[0].connect("/chat/tea?user=ann") as ann,
        nodes[1].connect("/chat/tea?user=bob") as bob,
    ):
        async with nodes.partition(1):
            await nodes.advance(5)
            assert nodes[1].manager.status()["backend"]["state"] == "degraded"
            await ann.send({"type": "say", "payload": "Tea?"})
            await next_of(ann, "said")

        said = await next_of(bob, "said")
        assert (said["payload"], said["history"]["offset"]) == ("Tea?", 1)


# endregion


# region: singleton
async def test_the_news_go_on_from_another_process():
    async with cluster(create_app, processes=2) as nodes:
        running = [node for node in nodes if runs_the_news(node)]
        assert len(running) == 1
        await running[0].kill()
        await nodes.advance(15)

        (alive,) = (node for node in nodes if not node.killed)
        assert runs_the_news(alive)
        async with alive.connect("/chat/tea?user=ann") as ann:
            await nodes.advance(60)
            assert (await next_of(ann, "news"))["payload"] > 1


def runs_the_news(node):
    return node.manager.status()["workers"]["announce"]["state"] == "running"


# endregion


# region: snapshot
async def test_clients_are_told_that_the_server_went_back():
    async with (
        cluster(create_app, processes=2) as nodes,
        nodes[0].connect("/chat/tea?user=ann") as ann,
    ):
        await ann.send({"type": "say", "payload": "Tea?"})
        await nodes.advance(2)
        await ann.send({"type": "say", "payload": "Coffee?"})
        await nodes.advance(1)
        place = (await next_of(ann, "said"))["history"]
        await nodes.backend.restart(lose=2.0)

        since = f"epoch={place['epoch']}&offset={place['offset']}"
        async with nodes[1].connect(f"/chat/tea?user=bob&{since}") as bob:
            state = await next_of(bob, "history.state")
            assert state["payload"]["recovered"] is False
            assert (await next_of(bob, "said"))["payload"] == "Tea?"


# endregion
