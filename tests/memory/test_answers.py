"""What a process is told of all processes: how many, which rooms, and how many were sent away."""

from __future__ import annotations

import asyncio
import contextlib
import math

import falcon.asgi
import pytest

from falcon_pachinko import (
    ClusterAnswer,
    ClusterRooms,
    WebSocketConnectionManager,
    WebSocketResource,
    handles_message,
    install,
    to,
)
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.rooms import answers
from falcon_pachinko.testing import HandshakeDenied, simulate
from falcon_pachinko.testing import cluster as several

LATE = 0.3
"""Seconds to wait for what never comes."""


class Chat(WebSocketResource):
    def __init__(self, gone):
        self.gone = gone

    async def on_connect(self, req, ws, room_name):
        ws.user_id = req.get_param("user")
        await self.join_room(room_name)
        return True

    @handles_message("id")
    async def tell_id(self, ws):
        return ws.id

    @handles_message("clear")
    async def clear(self, ws):
        self.gone.append(await ws.manager.disconnect(to.everyone, 4000))


class Door(WebSocketResource):
    def __init__(self, opens, reached):
        self.opens, self.reached = opens, reached

    async def on_connect(self, req, ws):
        self.reached.set()
        await self.opens.wait()
        ws.user_id = "ann"
        return True


class Process:
    """One app of the cluster, and a client maker for it."""

    def __init__(self, hub):
        self.app = falcon.asgi.App()
        self.opens, self.reached, self.gone = asyncio.Event(), asyncio.Event(), []
        install(self.app, backend=MemoryBackend(hub) if hub else None)
        self.app.add_websocket_route("/{room_name}", Chat, gone=self.gone)
        self.app.add_websocket_route("/door/of", Door, opens=self.opens, reached=self.reached)
        self.manager = self.app.ws_connection_manager
        self.backend = self.manager._cluster.backend

    def deafen(self):
        """Have it hear nothing any more, as if it were killed: its lease goes on for a while."""
        del self.backend.hub.nodes[self.backend._node]

    async def connect(self, stack, room, user=None):
        query = f"?user={user}" if user else ""
        return await stack.enter_async_context(self.client.connect(f"/{room}{query}"))


@pytest.fixture
async def cluster():
    """Three processes, and what holds their clients."""
    hub = MemoryHub()
    async with contextlib.AsyncExitStack() as stack:
        processes = [Process(hub) for _ in range(3)]
        for each in processes:
            each.client = await stack.enter_async_context(simulate(each.app))
        clients = await stack.enter_async_context(contextlib.AsyncExitStack())
        yield processes, clients


async def populate(processes, clients):
    """Ann is in tea on two processes, Bob in tea on the second, Eve in milk on the third."""
    one, two, three = processes
    return [
        await one.connect(clients, "tea", "ann"),
        await two.connect(clients, "tea", "ann"),
        await two.connect(clients, "tea", "bob"),
        await three.connect(clients, "milk", "eve"),
    ]


# Counting.


@pytest.mark.parametrize(
    ("target", "total"),
    [
        (None, 4),
        (to.everyone, 4),
        (to.room("tea"), 3),
        (to.user("ann"), 2),
        (to.rooms("m") | to.user("bob"), 2),
        (to.room("tea") - to.user("ann"), 1),
        (to.room("nowhere"), 0),
    ],
)
async def test_a_target_is_counted_on_all_processes(cluster, target, total):
    """From each of them, the answer is the same."""
    processes, _ = cluster
    await populate(*cluster)

    for each in processes:
        assert await each.manager.count(target, cluster=True) == ClusterAnswer(total, 3, 3)


async def test_without_cluster_a_count_is_of_this_process(cluster):
    """A plain number, and nobody is asked."""
    (one, two, three), _ = cluster
    await populate(*cluster)
    counted = [await each.manager.count() for each in (one, two, three)]

    assert counted == [1, 2, 1]
    assert await two.manager.count(to.user("ann"), cluster=False) == 1


async def test_a_connection_is_found_by_its_id(cluster):
    """The process that it belongs to is asked, and no other; those count as having answered."""
    (one, two, three), clients = cluster
    ann = await two.connect(clients, "tea")
    anns_id = (await ann.request({"type": "id"}))["payload"]
    three.deafen()

    for each in (one, two):
        found = await each.manager.count(to.connection(anns_id), cluster=True)
        assert found == ClusterAnswer(1, 3, 3)
    gone = to.connection(anns_id[:-1] + ("0" if anns_id[-1] != "0" else "1"))
    assert await one.manager.count(gone, cluster=True) == ClusterAnswer(0, 3, 3)


async def test_what_has_not_answered_is_missing(cluster):
    """Nothing is raised: the numbers say that it is not all."""
    (one, _, three), _ = cluster
    await populate(*cluster)
    three.deafen()

    assert await one.manager.count(cluster=True, timeout=LATE) == (3, 2, 3)
    assert await one.manager.get_rooms_by_prefix("", cluster=True, timeout=LATE) == (["tea"], 2, 3)
    assert await one.manager.disconnect(to.everyone, timeout=LATE) == (3, 2, 3)


async def test_the_time_is_the_backends_unless_one_is_given(cluster):
    """A setting of its URL."""
    (one, _, three), _ = cluster
    three.deafen()
    one.backend.timeout = LATE
    began = asyncio.get_running_loop().time()

    assert await one.manager.count(cluster=True) == (0, 2, 3)
    assert asyncio.get_running_loop().time() - began < one.backend.ttl


async def test_while_the_backend_is_away_a_process_answers_for_itself(cluster):
    """At once: one of one."""
    (one, *_), _ = cluster
    await populate(*cluster)
    one.backend.state = "degraded"

    assert await one.manager.count(cluster=True) == (1, 1, 1)
    assert await one.manager.get_rooms_by_prefix("", cluster=True) == (["tea"], 1, 1)
    assert await one.manager.disconnect(to.everyone) == (1, 1, 1)
    one.backend.state = "up"


async def test_without_a_backend_a_process_is_all_there_is():
    """And code for many runs unchanged."""
    process = Process(None)
    async with simulate(process.app) as client, client.connect("/tea"):
        assert await process.manager.count(cluster=True) == ClusterAnswer(1, 1, 1)
        rooms = await process.manager.get_rooms_by_prefix("", cluster=True)
        assert rooms == ClusterRooms(["tea"], 1, 1)
        assert await process.manager.disconnect(to.everyone) == ClusterAnswer(1, 1, 1)


# Rooms.


async def test_rooms_of_all_processes_are_sorted_and_there_once(cluster):
    """However many processes have members of them; the prefix is plain text."""
    (one, two, three), clients = cluster
    for each, rooms in ((one, "tea te* a"), (two, "tea milk"), (three, "te* tin b")):
        for room in rooms.split():
            await each.connect(clients, room)

    assert await one.manager.get_rooms_by_prefix("te", cluster=True) == (["te*", "tea"], 3, 3)
    assert await two.manager.get_rooms_by_prefix("te*", cluster=True) == (["te*"], 3, 3)
    everything = await three.manager.get_rooms_by_prefix("", cluster=True)
    assert everything.rooms == ["a", "b", "milk", "te*", "tea", "tin"]
    assert await two.manager.get_rooms_by_prefix("te") == ["tea"]


async def test_many_rooms_arrive_in_parts(cluster, monkeypatch):
    """Each message has a bounded size; none is left out."""
    monkeypatch.setattr(answers, "PART_BYTES", 200)
    (one, two, _), clients = cluster
    ann = await two.connect(clients, "0")
    anns_id = (await ann.request({"type": "id"}))["payload"]
    names = sorted(f"r:{number:0>40}" for number in range(100))
    for name in names:
        await two.manager.join_room(anns_id, name)
    sizes = []
    put = one.backend._put
    one.backend._put = lambda event: (sizes.append(len(event.data)), put(event))

    assert await one.manager.get_rooms_by_prefix("r:", cluster=True) == (names, 3, 3)
    assert len(sizes) > 20
    assert max(sizes) < 400


# Sending away.


async def test_a_disconnect_counts_what_was_ended_on_all_processes(cluster):
    """When it returns they have acted: they are not counted any more, though some still end."""
    (one, two, three), _ = cluster
    ann, other, *_ = await populate(*cluster)
    gone = await one.manager.disconnect(to.room("tea") - to.user("bob"), 4003, "out")
    left = [await each.manager.count(cluster=True) for each in (one, two, three)]

    assert gone == ClusterAnswer(2, 3, 3)
    assert left == [(2, 3, 3)] * 3
    for each in (ann, other):
        await each.expect_close()
        assert (each.close_code, each.close_reason) == (4003, "out")
    assert [await each.manager.count() for each in (one, two, three)] == [0, 1, 1]


async def test_a_disconnect_counts_nobody_twice(cluster):
    """Those who are on their way out were ended before."""
    (one, two, _), _ = cluster
    await populate(*cluster)
    both = await asyncio.gather(
        one.manager.disconnect(to.everyone), two.manager.disconnect(to.everyone)
    )

    assert sum(each.total for each in both) == 4
    assert await one.manager.disconnect(to.everyone) == (0, 3, 3)


async def test_a_local_disconnect_is_of_this_process(cluster):
    """The others are not told: their connections stay, and a handshake there is let in."""
    (one, two, _), _ = cluster
    ann, other, *_ = await populate(*cluster)
    knocking = asyncio.create_task(two.client.connect("/door/of").__aenter__())
    await two.reached.wait()
    gone = await one.manager.disconnect(to.user("ann"), 4003, local=True)
    two.opens.set()
    let_in = await knocking

    assert gone == ClusterAnswer(1, 1, 1)
    assert (await other.request({"type": "id"}))["type"] == "reply"
    assert await two.manager.count(to.user("ann")) == 2
    await let_in.close()
    await ann.expect_close()


async def test_a_local_disconnect_waits_for_nobody(cluster):
    """However the others are."""
    (one, two, three), _ = cluster
    await populate(*cluster)
    for each in (two, three):
        each.deafen()
    gone = await asyncio.wait_for(one.manager.disconnect(to.everyone, local=True), 1)

    assert gone == ClusterAnswer(1, 1, 1)


async def test_a_disconnect_reaches_handshakes_elsewhere_and_counts_them_not(cluster):
    """They are no connections yet."""
    (one, two, _), _ = cluster
    knocking = asyncio.create_task(two.client.connect("/door/of").__aenter__())
    await two.reached.wait()
    gone = await one.manager.disconnect(to.user("ann"), 4003)
    two.opens.set()

    assert gone == ClusterAnswer(0, 3, 3)
    with pytest.raises(HandshakeDenied):
        await knocking


async def test_one_connection_is_ended_by_its_id(cluster):
    """Its own process is told alone."""
    (one, two, three), clients = cluster
    ann = await two.connect(clients, "tea")
    anns_id = (await ann.request({"type": "id"}))["payload"]
    three.deafen()

    assert await one.manager.disconnect(anns_id, 4003) == ClusterAnswer(1, 3, 3)
    assert await one.manager.disconnect(anns_id, 4003) == ClusterAnswer(0, 3, 3)
    await ann.expect_close()


async def test_a_handler_that_ends_everybody_learns_what_came_of_it(cluster, until):
    """It is among them, and not cancelled for that."""
    (one, *_), _ = cluster
    ann, *_ = await populate(*cluster)
    await ann.send_json({"type": "clear"})
    await ann.expect_close(4000)
    await until(lambda: one.gone)

    assert one.gone == [ClusterAnswer(4, 3, 3)]


async def test_a_cancelled_disconnect_has_told_the_others(cluster):
    """They act all the same, and nothing is left of the question."""
    (one, two, three), _ = cluster
    _, other, *_ = await populate(*cluster)
    three.deafen()
    calling = asyncio.create_task(one.manager.disconnect(to.user("ann"), 4003))
    await other.expect_close()
    calling.cancel()
    await asyncio.wait((calling,))

    assert calling.cancelled()
    assert one.manager._cluster.questions._open == {}
    assert await two.manager.count() == 1


# With faults, in a test of an application's own.


def create_app():
    app = falcon.asgi.App()
    install(app, backend="redis://db.example")
    app.add_websocket_route("/{room_name}", Chat, gone=[])
    return app


async def test_a_killed_process_is_missing_for_as_long_as_its_lease():
    """The time that is waited is that of the test's clock."""
    async with (
        several(create_app, processes=3) as nodes,
        nodes[0].connect("/tea"),
        nodes[1].connect("/tea"),
    ):
        manager = nodes[0].manager
        before = await manager.count(cluster=True)
        await nodes[2].kill()
        missing = await manager.count(cluster=True)
        await nodes.advance(16)
        after = await manager.count(cluster=True)

    assert (before, missing, after) == ((2, 3, 3), (2, 2, 3), (2, 2, 2))


async def test_processes_that_are_cut_off_answer_for_themselves():
    """On the other side of a partition, they are missing."""
    async with several(create_app, processes=3) as nodes, nodes[1].connect("/tea"):
        async with nodes.partition(1):
            await nodes.advance(6)
            alone = await nodes[1].manager.count(cluster=True)
            others = await nodes[0].manager.count(cluster=True)
        again = await nodes[0].manager.count(cluster=True)

    assert alone == (1, 1, 1)
    assert others[:2] == (0, 2)
    assert again == (1, 3, 3)


# Mistakes.


@pytest.mark.parametrize("verb", ["count", "get_rooms_by_prefix", "disconnect"])
@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (0, ValueError), (-1, ValueError), (math.nan, ValueError), (math.inf, ValueError),
        (10**400, ValueError), (True, TypeError), ("3", TypeError), ([1], TypeError),
    ],
)  # fmt: skip
async def test_a_time_out_is_a_number_of_seconds(verb, seconds, error):
    """Else nothing is asked, and nobody is sent away."""
    manager = WebSocketConnectionManager()
    first = "" if verb == "get_rooms_by_prefix" else to.everyone
    more = {} if verb == "disconnect" else {"cluster": True}

    with pytest.raises(error, match=r"timeout=.*: give seconds above 0"):
        await getattr(manager, verb)(first, **more, timeout=seconds)


@pytest.mark.parametrize("choice", [1, 0, None, "yes"])
async def test_cluster_and_local_are_true_or_false(choice):
    """What only looks like it is a mistake."""
    manager = WebSocketConnectionManager()

    with pytest.raises(TypeError, match=r"cluster=.*give True or False"):
        await manager.count(cluster=choice)
    with pytest.raises(TypeError, match=r"cluster=.*give True or False"):
        await manager.get_rooms_by_prefix("", cluster=choice)
    with pytest.raises(TypeError, match=r"local=.*give True or False"):
        await manager.disconnect(to.everyone, local=choice)


@pytest.mark.parametrize("wrong", [5, b"tea", ["tea"], {"room": "tea"}])
async def test_a_target_is_a_target(wrong):
    """The error shows what to write; also where all processes are asked."""
    manager = WebSocketConnectionManager()

    with pytest.raises(TypeError, match="is not a target"):
        await manager.count(wrong, cluster=True)
    with pytest.raises(TypeError, match="is not a target"):
        await manager.disconnect(wrong)
    with pytest.raises(TypeError, match="prefix is a str"):
        await manager.get_rooms_by_prefix(wrong, cluster=True)


async def test_all_processes_are_asked_in_the_apps_own_loop(cluster):
    """From a thread it is an error that says so."""
    (one, *_), _ = cluster

    with pytest.raises(RuntimeError, match="loop"):
        await asyncio.to_thread(lambda: asyncio.run(one.manager.count(cluster=True)))


async def test_a_manager_that_was_never_started_says_so(caplog):
    """It can ask nobody."""
    manager = WebSocketConnectionManager(backend="memory://never-started-and-asked")

    assert await manager.count(cluster=True) == ClusterAnswer(0, 1, 1)
    assert "was never started" in caplog.text
