"""Rooms, as the members of one see them."""

import pytest

from falcon_pachinko import ConnectionStateError, Limits, WebSocketResource, handles_message, to
from falcon_pachinko.testing import simulate


class Room(WebSocketResource):
    """Lets clients do everything that rooms are for."""

    async def on_connect(self, req, ws, name):
        ws.user_id = name
        return True

    @handles_message("join")
    async def join(self, ws, payload: str):
        await self.join_room(payload)
        return sorted(ws.rooms)

    @handles_message("leave")
    async def leave(self, ws, payload: str):
        await self.leave_room(payload)
        return sorted(ws.rooms)

    @handles_message("say")
    async def say(self, ws, payload: dict):
        delivery = await self.broadcast_to_room(
            payload["room"], payload["text"], exclude_self=payload.get("quietly", False)
        )
        return delivery.sent

    @handles_message("tag")
    async def tag(self, ws, payload: str):
        await ws.add_tag(payload)


@pytest.fixture
async def client(serve):
    async with simulate(serve(Room, "/{name}", limits=Limits(rooms=2))) as simulated:
        yield simulated


async def test_members_hear_what_is_said_in_their_room(client):
    """Each once, and nobody else."""
    async with (
        client.connect("/ann") as ann,
        client.connect("/bob") as bob,
        client.connect("/eve") as eve,
    ):
        for who in (ann, bob):
            await who.request("join", "tea")
        answer = await ann.request("say", {"room": "tea", "text": "hi"})
        heard = [await who.receive_json() for who in (ann, bob)]
        await eve.expect_nothing(0.01)

    assert answer["payload"] == 2
    assert heard == ["hi", "hi"]


async def test_one_need_not_be_in_a_room_to_speak_there(client):
    """A room without members is no error."""
    async with client.connect("/ann") as ann, client.connect("/bob") as bob:
        await bob.request("join", "tea")
        there = await ann.request("say", {"room": "tea", "text": "hi"})
        nowhere = await ann.request("say", {"room": "nowhere", "text": "hi"})
        heard = await bob.receive_json()

    assert (there["payload"], nowhere["payload"], heard) == (1, 0, "hi")


async def test_exclude_self_leaves_out_the_speaker_only(client):
    """Another connection of the same user hears it."""
    async with client.connect("/ann") as laptop, client.connect("/ann") as phone:
        for each in (laptop, phone):
            await each.request("join", "tea")
        answer = await laptop.request("say", {"room": "tea", "text": "hi", "quietly": True})
        heard = await phone.receive_json()
        await laptop.expect_nothing(0.01)

    assert (answer["payload"], heard) == (1, "hi")


async def test_rooms_vanish_with_their_last_member(client):
    """Left or gone, it is all the same."""
    async with client.connect("/bob") as bob:
        async with client.connect("/ann") as ann:
            for each in (ann, bob):
                await each.request("join", "tea")
            await ann.request("join", "game")
            before = await client.manager.get_rooms_by_prefix("")
            await bob.request("leave", "tea")
        after = await client.manager.get_rooms_by_prefix("")

    assert (before, after) == (["game", "tea"], [])


async def test_one_room_too_many_is_told(client, answered):
    """As ``room_limit``, with the setting's name; the connection lives."""
    async with client.connect("/ann") as ann:
        answers = [await answered(ann.request("join", each)) for each in ("a", "b", "c")]
        again = await answered(ann.request("leave", "a"))

    assert [each["type"] for each in answers] == ["reply", "reply", "error"]
    assert answers[2]["payload"]["code"] == "room_limit"
    assert "Limits.rooms" in answers[2]["payload"]["message"]
    assert again["payload"] == ["b"]


@pytest.mark.parametrize("name", ["", "x" * 201])
async def test_a_bad_room_name_from_a_client_is_refused(client, caplog, name, answered):
    """The client hears what a name may be; the log, which it could fill, nothing."""
    async with client.connect("/ann") as ann:
        answer = await answered(ann.request("join", name))

    assert answer["payload"]["code"] == "invalid_name"
    assert not caplog.records


async def test_targets_combine(client):
    """Rooms, tags and users, from a worker or an HTTP resource as well."""
    async with client.connect("/ann") as ann, client.connect("/bob") as bob:
        for who in (ann, bob):
            await who.request("join", "tea")
            await who.request("tag", "pro")
        delivery = await client.manager.broadcast(
            "hi", to=to.room("tea") & to.tag("pro") - to.user("bob")
        )
        heard = await ann.receive_json()
        await bob.expect_nothing(0.01)

    assert (delivery.sent, heard) == (1, "hi")


async def test_a_user_is_reached_on_all_devices(client):
    """Whoever connects as that user, from then on."""
    async with client.connect("/ann") as laptop, client.connect("/ann") as phone:
        delivery = await client.manager.send_to_user("ann", "hi")
        heard = [await each.receive_json() for each in (laptop, phone)]
    gone = await client.manager.send_to_user("ann", "hi")

    assert (delivery.sent, heard, gone.sent) == (2, ["hi", "hi"], 0)


async def test_what_is_sent_to_one_arrives_in_order(client):
    """Whoever sends it."""
    async with client.connect("/ann") as ann:
        await ann.request("join", "tea")
        for number in range(300):
            await client.manager.broadcast_to_room("tea", number)
        heard = [await ann.receive_json() for _ in range(300)]

    assert heard == list(range(300))


class Adds(WebSocketResource):
    """Does what applications did before connections had ids: it makes itself known."""

    async def on_connect(self, req, ws):
        if req.get_param("early"):
            await self.add(ws)
        return True

    async def add(self, ws):
        await ws.manager.add_connection(ws.id, ws)  # which changes nothing
        with pytest.raises(ConnectionStateError, match=r"ws\.user_id = 'alice'"):
            await ws.manager.add_connection("alice", ws)

    @handles_message("add")
    async def add_late(self, ws):
        await self.add(ws)
        await self.join_room("lobby")
        return [ws.id, await ws.manager.count()]

    @handles_message("back")
    async def back(self, ws):
        await ws.manager.remove_connection(ws.id)
        gone = [sorted(ws.rooms), await ws.manager.count()]
        await ws.manager.add_connection(ws.id, ws)
        await self.join_room("lobby")
        return [*gone, sorted(ws.rooms), await ws.manager.count()]

    async def on_disconnect(self, ws, close_code):
        await ws.manager.remove_connection(ws.id)


@pytest.mark.parametrize("path", ["/", "/?early=1"])
async def test_a_connection_has_one_id_for_all_its_life(serve, path):
    """Whenever the application adds it, and whatever it would call it: nothing stays behind."""
    async with simulate(serve(Adds)) as client:
        async with client.connect(path) as ann:
            own, count = (await ann.request("add"))["payload"]
            assert (await ann.request("back"))["payload"] == [[], 0, ["lobby"], 1]
            delivery = await client.manager.send_to_connection("alice", "hello")
            reached = await client.manager.send_to_connection(own, "hello")
        status = client.manager.status()

    assert (count, delivery.sent, reached.sent) == (1, 0, 1)
    assert (status["connections"], status["rooms"]) == (0, 0)


async def test_a_connection_of_another_app_is_not_taken(serve):
    """It has a manager already, which alone knows when it ends."""
    other = serve(Adds)
    async with simulate(serve(Adds)) as client, client.connect("/"), simulate(other):
        (ws,) = [each async for each in client.manager.connections()]
        with pytest.raises(ConnectionStateError, match="known already"):
            await other.ws_connection_manager.add_connection(ws.id, ws)

        assert await other.ws_connection_manager.count() == 0


EXCLUDED = {
    "ids": lambda several: [each.id for each in several],
    "connections": list,
    "a set": set,
    "both": lambda several: [several[0], *(each.id for each in several[1:])],
    "twice": lambda several: [*several, *several],
    "a generator": lambda several: (each.id for each in several),
    "strangers too": lambda several: ["nobody", *several, "from another process"],
}


@pytest.mark.parametrize("given", EXCLUDED)
@pytest.mark.parametrize("verb", ["room", "all", "target"])
async def test_any_collection_of_ids_and_connections_is_left_out(serve, given, verb):
    """By every verb that addresses many; each only this once."""
    app = serve(Room, "/{name}")
    manager = app.ws_connection_manager
    async with (
        simulate(app) as client,
        client.connect("/ann") as ann,
        client.connect("/bob") as bob,
        client.connect("/cid") as cid,
    ):
        several = []
        for each in (ann, bob, cid):
            await each.request("join", "lobby")
        several = sorted(
            await manager.get_connections_in_room("lobby"), key=lambda each: each.user_id
        )[:2]
        exclude = EXCLUDED[given](several)
        sending = {
            "room": lambda: manager.broadcast_to_room("lobby", "hi", exclude=exclude),
            "all": lambda: manager.broadcast_to_all("hi", exclude=exclude),
            "target": lambda: manager.broadcast("hi", to=to.rooms("lob"), exclude=exclude),
        }
        delivery = await sending[verb]()
        await manager.broadcast_to_all("end")

        assert [await each.receive_json() for each in (cid, cid)] == ["hi", "end"]
        assert [await each.receive_json() for each in (ann, bob)] == ["end", "end"]

    assert delivery.sent == 1
