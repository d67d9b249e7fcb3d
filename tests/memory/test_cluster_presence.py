"""Who is here, over several processes: restarts from snapshots, graces, orderly stops, many people.

All of it on the virtual clock, with faults on command.
"""

from __future__ import annotations

import contextlib

import falcon.asgi
import pytest

from falcon_pachinko import WebSocketResource, handles_message, install
from falcon_pachinko.testing import NothingReceivedError, cluster

TTL, PROBE, TIMEOUT = 15.0, 2.0, 3.0
RIGHT_WITHIN = TTL + PROBE + TIMEOUT
GRACE = 3.0


class Lobby(WebSocketResource):
    async def on_connect(self, req, ws, room):
        ws.user_id, self.room = req.get_param("user"), room
        if not req.get_param("only_joins"):
            await self.track(room, {"of": ws.user_id})
        else:
            await self.join_room(room)
        return True

    @handles_message("leave")
    async def leave(self, ws):
        await self.leave_room(self.room)
        return "done"

    @handles_message("untrack")
    async def absent(self, ws):
        await ws.manager.untrack(ws.id, self.room)
        return "done"

    @handles_message("track")
    async def again(self, ws, payload: str):
        await self.track(self.room, {"of": payload})
        return "done"


def make(**options):
    app = falcon.asgi.App()
    install(app, backend=f"redis://unused?ttl={TTL:g}&probe={PROBE:g}&timeout={TIMEOUT:g}")
    app.ws_connection_manager.configure_rooms("", **options)
    app.add_websocket_route("/{room}", Lobby)
    return app


def processes(count=2, **options):
    return cluster(lambda: make(**options), processes=count)


async def present(node, room="tea"):
    return sorted(await node.run(node.manager.presence(room)))


async def heard(client):
    """Return what a client has got by now."""
    frames = []
    with contextlib.suppress(NothingReceivedError, TimeoutError):
        while True:
            frames.append(await client.receive_json(timeout=0.001))
    return frames


def told(frames):
    """Return who is present as far as a client was told, and the keys that came and went."""
    now, joined, left = set(), [], []
    for frame in frames:
        payload = frame["payload"]
        if frame["type"] == "presence.state":
            now = set(payload["present"])
        elif frame["type"] == "presence.diff":
            joined += payload["joins"]
            left += payload["leaves"]
            now = (now | payload["joins"].keys()) - payload["leaves"].keys()
    return now, joined, left


# Servers that forget, or go back in time.


@pytest.mark.parametrize("lose", [2.0, 2.5, True, False])
@pytest.mark.parametrize("how", ["close", "leave", "untrack"])
async def test_who_has_left_is_not_brought_back_by_an_older_snapshot(lose, how):
    """Each process replaces what the server has of it: on both, the truth is what is left."""
    async with processes(presence_grace=0) as nodes, contextlib.AsyncExitStack() as stack:
        ann = await stack.enter_async_context(nodes[0].connect("/tea?user=ann"))
        cid = await stack.enter_async_context(nodes[1].connect("/tea?user=cid"))
        leaving = [
            await stack.enter_async_context(nodes[0].connect("/tea?user=bob")),
            await stack.enter_async_context(nodes[1].connect("/tea?user=zoe")),
        ]
        await nodes.advance(1)
        for each in leaving:
            await (each.close() if how == "close" else each.request({"type": how}))
        await nodes.advance(1)
        await nodes.backend.restart(lose=lose)
        await nodes.advance(RIGHT_WITHIN)

        assert [await present(node) for node in nodes] == [["ann", "cid"]] * 2
        assert told(await heard(ann))[0] == told(await heard(cid))[0] == {"ann", "cid"}


@pytest.mark.parametrize("comes", [False, True])
async def test_a_room_that_nobody_tracks_in_any_more_is_emptied(comes):
    """What an older snapshot has of it is found by asking; also if somebody new comes by then."""
    async with processes(presence_grace=0) as nodes:
        async with nodes[0].connect("/tea?user=ann"), nodes[0].connect("/milk?user=bob"):
            await nodes.advance(1)
        await nodes.advance(1)
        nodes.backend._hub.restart(lose=1.5)
        async with contextlib.AsyncExitStack() as stack:
            if comes:
                await stack.enter_async_context(nodes[0].connect("/tea?user=cid"))
            await nodes.advance(RIGHT_WITHIN)

            assert await present(nodes[1]) == ["cid"] * comes
            assert await present(nodes[1], "milk") == []


async def test_what_never_came_into_the_snapshot_is_entered_again():
    """Who came after it was made is present for the others."""
    async with processes(presence_grace=0) as nodes, nodes[0].connect("/tea?user=ann"):
        await nodes.advance(5)
        async with nodes[0].connect("/tea?user=bob"):
            await nodes.backend.restart(lose=3.0)
            await nodes.advance(1)

            assert await present(nodes[1]) == ["ann", "bob"]


@pytest.mark.parametrize("ends", ["kill", "stop"])
async def test_a_process_that_ended_before_a_restart_stays_ended(ends):
    """Its entries come back with the snapshot, under a name that gives no sign of life."""
    async with processes(3, presence_grace=0) as nodes, nodes[0].connect("/tea?user=ann") as ann:
        await nodes[2].connect("/tea?user=bob").__aenter__()
        await nodes.advance(1)
        await getattr(nodes[2], ends)()
        await nodes.advance(RIGHT_WITHIN)
        assert await present(nodes[0]) == ["ann"]
        await nodes.backend.restart(lose=RIGHT_WITHIN + 0.5)
        await nodes.advance(RIGHT_WITHIN)

        assert await present(nodes[0]) == await present(nodes[1]) == ["ann"]
        assert told(await heard(ann))[0] == {"ann"}


async def test_who_leaves_while_the_backend_is_away_has_left():
    """And who comes meanwhile has come, when it is back."""
    async with processes(presence_grace=0) as nodes, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(nodes[0].connect("/tea?user=ann"))
        zoe = await stack.enter_async_context(nodes[1].connect("/tea?user=zoe"))
        bob = await stack.enter_async_context(nodes[0].connect("/tea?user=bob"))
        async with nodes.partition(0):
            await nodes.advance(PROBE + TIMEOUT)
            await bob.close()
            await stack.enter_async_context(nodes[0].connect("/tea?user=cid"))
        await nodes.advance(RIGHT_WITHIN)

        assert await present(nodes[0]) == await present(nodes[1]) == ["ann", "cid", "zoe"]
        assert told(await heard(zoe))[0] == {"ann", "cid", "zoe"}


async def test_the_others_are_told_at_once_what_is_not_so_any_more():
    """They need not wait until they read the room anew."""
    async with processes(presence_grace=0) as nodes, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(nodes[1].connect("/tea?user=zoe"))
        await stack.enter_async_context(nodes[0].connect("/tea?user=ann"))
        bob = await stack.enter_async_context(nodes[0].connect("/tea?user=bob"))
        await nodes.advance(1)
        async with nodes.partition(0):
            await nodes.advance(PROBE + TIMEOUT)
            await bob.close()
        await nodes.advance(0.5)

        assert await present(nodes[1]) == ["ann", "zoe"]


# Nobody waits for a backend that is away.


@pytest.mark.parametrize("room", ["tea", "milk"])
async def test_a_handshake_waits_for_nothing_while_the_backend_is_away(room):
    """Whether somebody is present in the room already or not."""
    async with processes() as nodes, nodes[0].connect("/tea?user=ann"), nodes.partition(0):
        await nodes.advance(PROBE + TIMEOUT)
        before = nodes.clock.time()
        for number in range(5):
            async with nodes[0].connect(f"/{room}?user=u{number}"):
                pass

        assert nodes.clock.time() - before < 0.01


# Rooms in which somebody is kept present.


@pytest.mark.parametrize("between", [0.5, 2.5])
async def test_both_know_each_other_after_a_reload_of_the_last_member(between):
    """The room is listened to during the grace: who came elsewhere meanwhile is known."""
    async with processes(presence_grace=GRACE) as nodes:
        async with nodes[0].connect("/tea?user=ann"):
            await nodes.advance(1)
        async with nodes[1].connect("/tea?user=bob") as bob:
            await nodes.advance(between)
            async with nodes[0].connect("/tea?user=ann") as ann:
                await nodes.advance(2 * GRACE)

                assert [await present(node) for node in nodes] == [["ann", "bob"]] * 2
                assert told(await heard(ann))[0] == told(await heard(bob))[0] == {"ann", "bob"}


@pytest.mark.parametrize("last", ["leave", "untrack", "close"])
async def test_the_grace_of_one_keeps_the_room_when_the_last_member_goes(last):
    """However that goes; what others do meanwhile is known here, and answers are right."""
    async with processes(presence_grace=GRACE) as nodes:
        async with nodes[0].connect("/tea?user=cid") as cid:
            async with nodes[0].connect("/tea?user=ann"):
                await nodes.advance(1)
            if last == "close":
                await cid.close()
            else:
                await cid.request({"type": last})
            stays = ["ann", "cid"] if last == "close" else ["ann"]
            async with nodes[1].connect("/tea?user=bob"):
                await nodes.advance(0.5)
                during = [await present(node) for node in nodes]
                async with nodes[0].connect("/tea?user=ann"):
                    await nodes.advance(2 * GRACE)
                    after = [await present(node) for node in nodes]

        assert during == [sorted([*stays, "bob"])] * 2
        assert after == [["ann", "bob"]] * 2


async def test_nobody_listens_to_a_room_after_the_grace_of_the_last():
    """Nothing is left of it."""
    async with processes(presence_grace=GRACE) as nodes:
        async with nodes[0].connect("/tea?user=ann"), nodes[0].connect("/tea?user=bob"):
            await nodes.advance(1)
        listens = []
        for seconds in (GRACE - 0.1, 0.2):
            await nodes.advance(seconds)
            listens.append("room:tea" in nodes[0].manager._cluster.subscriptions)

        assert listens == [True, False]
        assert nodes[0].manager._exchange.presence._roster.is_empty


async def test_a_room_with_members_is_listened_to_after_the_grace_of_another():
    """The end of somebody's grace takes nothing from those who are there and not present."""
    async with (
        processes(presence_grace=GRACE) as nodes,
        nodes[0].connect("/tea?only_joins=1") as watcher,
    ):
        async with nodes[0].connect("/tea?user=ann"):
            await nodes.advance(1)
        await nodes.advance(2 * GRACE)
        await nodes[1].run(nodes[1].manager.broadcast_to_room("tea", {"type": "hi"}))

        assert (await watcher.receive_json())["type"] == "hi"


# Orderly stops.


@pytest.mark.parametrize("meta", ["ann", "other"])
@pytest.mark.parametrize("after", [0.0, 2.0, 2.8])
async def test_who_is_back_elsewhere_within_the_grace_of_an_orderly_stop_never_left(after, meta):
    """Nobody is told of a leave and a join; a meta that is another one is an update."""
    async with (
        processes(3, presence_grace=GRACE) as nodes,
        nodes[1].connect("/tea?user=bob") as bob,
    ):
        await nodes[0].connect("/tea?user=ann").__aenter__()
        await nodes.advance(1)
        await heard(bob)
        await nodes[0].stop()
        await nodes.advance(after)
        async with nodes[2].connect("/tea?user=ann") as ann:
            await ann.request({"type": "track", "payload": meta})
            await nodes.advance(RIGHT_WITHIN)
            frames = await heard(bob)

            assert told(frames)[1:] == ([], [])
            assert [each["payload"]["updates"] for each in frames] == (
                [] if meta == "ann" else [{"ann": [{"of": meta}]}]
            )
            assert await present(nodes[1]) == await present(nodes[2]) == ["ann", "bob"]


async def test_who_is_back_before_the_process_has_stopped_is_present_once():
    """Its former self is not kept beside it."""
    async with processes(presence_grace=GRACE) as nodes, nodes[1].connect("/tea?user=bob") as bob:
        old = await nodes[0].connect("/tea?user=ann").__aenter__()
        await nodes.advance(1)
        await heard(bob)
        await old.close()
        async with nodes[1].connect("/tea?user=ann"):
            await nodes[0].stop()
            await nodes.advance(0.1)

            assert (await nodes[1].manager.presence("tea"))["ann"] == [{"of": "ann"}]
            assert told(await heard(bob))[1:] == ([], [])


@pytest.mark.parametrize("event", ["nothing", "gap", "restart", "kill"])
async def test_who_does_not_come_back_after_an_orderly_stop_leaves_when_the_grace_is_over(event):
    """Once, and whatever happens to the backend or to another process meanwhile."""
    async with (
        processes(3, presence_grace=GRACE) as nodes,
        nodes[1].connect("/tea?user=bob") as bob,
        nodes[2].connect("/tea?user=cid") as cid,
    ):
        await nodes[0].connect("/tea?user=ann").__aenter__()
        await nodes.advance(1)
        await heard(bob)
        await nodes[0].stop()
        await nodes.advance(1)
        if event == "gap":
            nodes[1].manager._exchange.presence.refresh(["tea"])
        elif event == "restart":
            await nodes.backend.restart()
        elif event == "kill":
            await nodes[2].kill()
        await nodes.advance(GRACE - 1 - 0.3 - (event == "restart"))
        early = told(await heard(bob))
        await nodes.advance(1.5)
        late = told(await heard(bob))
        await nodes.advance(RIGHT_WITHIN)

        assert early[1:] == ([], [])
        assert late[1:] == ([], ["ann"])
        assert "ann" not in await present(nodes[1])
        assert all(not each.staying for each in _rooms(nodes[1]))
        with contextlib.suppress(Exception):  # its process may be dead
            await cid.close()


def _rooms(node):
    return node.manager._exchange.presence._roster.rooms.values()


async def test_the_grace_that_was_begun_before_a_stop_goes_on_and_does_not_begin_anew():
    """Who went two seconds before has one second left."""
    async with processes(presence_grace=GRACE) as nodes, nodes[1].connect("/tea?user=bob") as bob:
        async with nodes[0].connect("/tea?user=ann"):
            await nodes.advance(1)
        await heard(bob)
        await nodes.advance(2)
        await nodes[0].stop()
        await nodes.advance(0.8)
        early = told(await heard(bob))
        await nodes.advance(0.4)

        assert early[2] == []
        assert told(await heard(bob))[2] == ["ann"]


async def test_strangers_leave_with_an_orderly_stop_at_once():
    """Nobody can tell that they are back."""
    async with processes(presence_grace=GRACE) as nodes, nodes[1].connect("/tea?user=bob") as bob:
        await nodes[0].connect("/tea").__aenter__()
        await nodes.advance(1)
        stranger = told(await heard(bob))[1]
        await nodes[0].stop()
        await nodes.advance(0.1)

        assert told(await heard(bob))[2] == stranger


# Large rooms.


def of_type(frames, kind):
    return [each["payload"] for each in frames if each["type"] == kind]


async def test_a_room_above_its_limit_tells_how_many_and_below_names_them_again():
    """Newcomers get a count at once; members get the state when there are few enough."""
    async with (
        processes(presence_grace=0, presence_limit=5) as nodes,
        contextlib.AsyncExitStack() as stack,
    ):
        ann = await stack.enter_async_context(nodes[0].connect("/tea?user=ann"))
        clients = [
            await stack.enter_async_context(nodes[number % 2].connect(f"/tea?user=u{number}"))
            for number in range(4)
        ]
        await nodes.advance(2)
        few = told(await heard(ann))
        late = await stack.enter_async_context(nodes[1].connect("/tea?user=late"))
        await nodes.advance(0.2)
        first = await heard(late)
        await nodes.advance(2)
        above = await heard(ann)
        await clients[0].close()
        await clients[1].close()
        await nodes.advance(2)
        at_80_percent = await heard(ann)
        await clients[2].close()
        await nodes.advance(2)
        below = await heard(ann)
        await clients[3].close()
        await nodes.advance(2)
        named = await heard(ann)

        assert len(few[0]) == 5
        assert first == [{"type": "presence.count", "payload": {"room": "tea", "count": 6}}]
        assert {each["type"] for each in (*above, *at_80_percent)} == {"presence.count"}
        assert of_type(at_80_percent, "presence.count")[-1]["count"] == 4
        assert told(below)[0] == {"ann", "u3", "late"}
        assert [each["type"] for each in below] == ["presence.state"]
        assert [each["type"] for each in named] == ["presence.diff"]
        assert await present(nodes[0]) == ["ann", "late"]


async def test_counts_come_once_a_second_and_the_last_is_right():
    """However many come and go meanwhile, with their metas."""
    async with (
        processes(presence_grace=0, presence_limit=1) as nodes,
        contextlib.AsyncExitStack() as stack,
    ):
        ann = await stack.enter_async_context(nodes[0].connect("/tea?user=ann"))
        await stack.enter_async_context(nodes[0].connect("/tea?user=bob"))
        await nodes.advance(2)
        await heard(ann)
        began, times, counts = nodes.clock.time(), [], []
        for number in range(30):
            client = await stack.enter_async_context(
                nodes[number % 2].connect(f"/tea?user=u{number}")
            )
            await client.request({"type": "track", "payload": "else"})
            await nodes.advance(0.1)
            for payload in of_type(await heard(ann), "presence.count"):
                times.append(nodes.clock.time() - began)
                counts.append(payload["count"])
        await nodes.advance(1.1)
        counts += [each["count"] for each in of_type(await heard(ann), "presence.count")]

        assert 2 <= len(times) <= 4
        assert counts == sorted(counts)
        assert counts[-1] == 32
        assert await nodes[1].manager.count_present("tea") == 32
        assert len(await present(nodes[0])) == 32


async def test_a_newcomer_to_a_counted_room_is_told_at_once():
    """Though the others were told a moment ago."""
    async with (
        processes(1, presence_grace=0, presence_limit=1) as nodes,
        nodes[0].connect("/tea?user=ann"),
        nodes[0].connect("/tea?user=bob"),
    ):
        for number in range(3):
            async with nodes[0].connect(f"/tea?user=u{number}") as client:
                before = nodes.clock.time()
                message = await client.receive_json()

                assert message["type"] == "presence.count"
                assert nodes.clock.time() - before < 0.2


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "many", None])
def test_a_presence_limit_is_a_number_of_keys(limit):
    """Anything else is refused where it is written."""
    with pytest.raises(ValueError, match="presence_limit="):
        make(presence_limit=limit)
