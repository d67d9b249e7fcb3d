"""`resync` after outages: once per room, spread over time; and at once for one room."""

from __future__ import annotations

import asyncio
import contextlib

import falcon.asgi
import pytest

from falcon_pachinko import WebSocketResource, install
from falcon_pachinko.cluster.node import Gap
from falcon_pachinko.testing import NothingReceivedError, cluster

FIRST, LAST = 1.0, 10.0


class Board(WebSocketResource):
    async def on_connect(self, req, ws, room):
        await self.join_room(f"board:{room}")
        return True


class Plain(WebSocketResource):
    async def on_connect(self, req, ws, room):
        await self.join_room(f"plain:{room}")
        return True


def make():
    app = falcon.asgi.App()
    install(app, backend="redis://unused")
    app.ws_connection_manager.configure_rooms("board:", resync=True)
    app.add_websocket_route("/board/{room}", Board)
    app.add_websocket_route("/plain/{room}", Plain)
    return app


@pytest.fixture
async def nodes():
    async with cluster(make, processes=2) as nodes:
        yield nodes


async def told(client):
    """Return the rooms that a client is told to load anew, until nothing waits."""
    rooms = []
    with contextlib.suppress(NothingReceivedError, TimeoutError):
        while True:
            message = await client.receive_json(timeout=0.001)
            assert message["type"] == "resync"
            rooms.append(message["payload"]["room"])
    return rooms


async def told_over_time(nodes, clients, seconds, step=0.25):
    """Return when each client was told, from now on, by the virtual clock."""
    times = [[] for _ in clients]
    began = nodes.clock.time()
    while nodes.clock.time() - began < seconds:
        await nodes.advance(step)
        for each, client in zip(times, clients, strict=True):
            each.extend([nodes.clock.time() - began] * len(await told(client)))
    return times


@contextlib.asynccontextmanager
async def connected(nodes, count, kind="board"):
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(nodes[number % len(nodes)].connect(f"/{kind}/{number}"))
            for number in range(count)
        ]


@pytest.mark.parametrize("fault", ["restart", "partition", "long partition"])
async def test_after_an_outage_each_room_is_told_once_and_not_all_at_once(nodes, fault):
    """Over one to ten seconds; a lease that has ended meanwhile is the same outage."""
    async with connected(nodes, 30) as clients:
        if fault == "restart":
            await nodes.backend.restart()
        else:
            async with nodes.partition(0, 1):
                await nodes.advance(6 if fault == "partition" else 40)
        times = await told_over_time(nodes, clients, 2 * LAST)

        assert [len(each) for each in times] == [1] * 30
        moments = sorted(each[0] for each in times)
        assert moments[0] >= FIRST - 0.5  # the outage was over a moment before this began
        assert moments[-1] <= LAST + 0.5
        assert len(set(moments)) > 10


async def test_outages_shortly_after_each_other_are_told_once(nodes):
    """A room that is to be told anyway is not told twice."""
    async with connected(nodes, 10) as clients:
        for _ in range(3):
            await nodes[0].manager._exchange._missed(Gap(None, None, "a test"))
            await nodes[1].manager._exchange._missed(Gap("all", None, "a test"))
        times = await told_over_time(nodes, clients, 2 * LAST)

        assert [len(each) for each in times] == [1] * 10


async def test_a_second_outage_is_told_too(nodes):
    """What was loaded between them may be old."""
    async with connected(nodes, 4) as clients:
        for _ in range(2):
            await nodes.backend.restart()
            times = await told_over_time(nodes, clients, 2 * LAST)

            assert [len(each) for each in times] == [1] * 4


async def test_a_gap_in_one_room_is_told_at_once(nodes):
    """And in no other one."""
    async with connected(nodes, 4) as clients:
        await nodes[0].manager._exchange._missed(Gap("room:board:2", None, "a test"))
        await nodes.advance(0)

        assert [await told(each) for each in clients] == [[], [], ["board:2"], []]


async def test_a_gap_in_a_room_that_is_told_soon_is_told_with_that(nodes):
    """Its clients load once."""
    async with connected(nodes, 2) as clients:
        exchange = nodes[0].manager._exchange
        await exchange._missed(Gap(None, None, "a test"))
        await exchange._missed(Gap("room:board:0", None, "a test"))
        times = await told_over_time(nodes, clients, 2 * LAST)

        assert [len(each) for each in times] == [1, 0]
        assert times[0][0] >= FIRST - 0.25


async def test_rooms_without_resync_cost_no_timer(nodes):
    """Nor are their clients told anything."""
    async with connected(nodes, 20, "plain") as clients:
        await nodes.backend.restart()
        timers = [node.manager._exchange.resyncs._timer for node in nodes]
        await nodes.advance(2 * LAST)

        assert timers == [None, None]
        assert [await told(each) for each in clients] == [[]] * 20


async def test_who_leaves_before_is_told_nothing_and_an_end_takes_the_timer_along(nodes):
    """Nothing happens after a stop."""
    async with connected(nodes, 4):
        await nodes[0].manager._exchange._missed(Gap(None, None, "a test"))
    resyncs = nodes[0].manager._exchange.resyncs
    due = [f"board:{number}" in resyncs for number in range(3)]
    await nodes[0].stop()

    assert due == [True, False, True]
    assert resyncs._timer is None
    assert not any(f"board:{number}" in resyncs for number in range(4))


async def test_many_rooms_share_one_timer(nodes):
    """However many there are."""
    exchange = nodes[0].manager._exchange
    loop = asyncio.get_running_loop()
    with nodes._processes.within(nodes[0]._process):
        exchange.resyncs.tell_later(f"board:{number}" for number in range(1000))
    first = exchange.resyncs._timer_at - loop.time()
    exchange.resyncs.stop()

    assert FIRST <= first < FIRST + 1
