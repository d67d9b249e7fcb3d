"""What a client may cost: each limit closes or refuses with its own name in the sentence."""

import asyncio
import contextlib

import falcon.asgi
import pytest

from falcon_pachinko import Hook, Limits, MessageError, WebSocketResource, handles_message, install
from falcon_pachinko.testing import simulate


class Echo(WebSocketResource):
    @handles_message("echo")
    async def echo(self, ws, payload):
        return payload

    async def on_message(self, ws, message):
        await ws.send_media(len(message))


class Waits(WebSocketResource):
    def __init__(self, gate, seen):
        self.gate, self.seen = gate, seen

    @handles_message("wait")
    async def wait(self, ws):
        await self.gate.wait()

    @handles_message("note")
    async def note(self, ws, payload: int):
        self.seen.append(payload)


@pytest.mark.parametrize(
    "frame", ["x" * 1001, "é" * 501, "\U0001f375" * 251, b"\x00" * 1001], ids=lambda each: each[:1]
)
async def test_a_message_that_is_too_large_closes_with_1009(serve, closing, caplog, frame):
    """Measured in bytes; an error frame says why before."""
    async with (
        simulate(serve(Echo, limits=Limits(message_bytes=1000))) as client,
        client.connect("/") as ann,
    ):
        await (ann.send_text(frame) if isinstance(frame, str) else ann.send_data(frame))
        error = await ann.receive_json()
        code = await closing(ann)

    assert error["payload"]["code"] == "too_large"
    assert "1000 bytes (message_bytes)" in ann.close_reason
    assert code == 1009
    assert caplog.records == []


@pytest.mark.parametrize("frame", ["x" * 1000, "é" * 500, "\U0001f375" * 250, b"\x00" * 1000])
async def test_a_message_of_just_that_size_is_fine(serve, frame):
    """The limit is the largest that is allowed."""
    async with (
        simulate(serve(Echo, limits=Limits(message_bytes=1000))) as client,
        client.connect("/") as ann,
    ):
        await (ann.send_text(frame) if isinstance(frame, str) else ann.send_data(frame))

        assert await ann.receive_json() == len(frame)


async def test_a_route_may_have_limits_of_its_own(serve, closing):
    """In place of the app's."""
    app = serve(Echo, limits=Limits(message_bytes=10))
    app.add_websocket_route("/large", Echo, limits=Limits(message_bytes=1000))

    async with simulate(app) as client, client.connect("/large") as ann, client.connect("/") as bob:
        for each in (ann, bob):
            await each.send_text("x" * 100)
        large = await ann.receive_json()
        code = await closing(bob)

    assert (large, code) == (100, 1009)


async def test_a_client_that_sends_too_fast_is_closed_with_1008(serve, closing):
    """The burst is answered, the next message gets an error, and the reason names the setting."""
    limits = Limits(burst=5, messages_per_second=0.001)
    async with simulate(serve(Echo, limits=limits)) as client, client.connect("/") as ann:
        for _ in range(6):
            await ann.send_text("x")
        answers = [await ann.receive_json() for _ in range(6)]
        code = await closing(ann)

    assert answers[:5] == [1] * 5
    assert answers[5]["payload"]["code"] == "rate_limited"
    assert "messages_per_second" in ann.close_reason
    assert code == 1008


async def test_a_client_within_its_rate_is_never_stopped(serve):
    """However long it goes on."""
    limits = Limits(burst=1, messages_per_second=1_000_000)
    async with simulate(serve(Echo, limits=limits)) as client, client.connect("/") as ann:
        for number in range(100):
            assert (await ann.request("echo", number))["payload"] == number


async def test_a_full_inbox_stops_the_reading(serve, by_hand, until, monkeypatch):
    """The handler is busy, the client goes on: the server is left waiting, and nothing is lost."""
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)
    gate, seen = asyncio.Event(), []
    app = serve(Waits, gate=gate, seen=seen, limits=Limits(inbox_messages=3))
    async with simulate(app):
        server = by_hand(app)
        server.start()
        server.say('{"type": "wait"}')
        for number in range(10):
            server.say(f'{{"type": "note", "payload": {number}}}')
        await until(lambda: server.events.qsize() == 7)
        unread = server.events.qsize()
        gate.set()
        await until(lambda: len(seen) == 10)
        server.go(code=1000)
        await server.ended()

    assert unread == 7
    assert seen == list(range(10))
    assert "websocket.close" not in server.kinds


async def test_messages_wait_in_the_inbox_for_a_busy_handler(serve, by_hand, until, monkeypatch):
    """In order, up to the limit; none is lost."""
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)
    gate, seen = asyncio.Event(), []
    app = serve(Waits, gate=gate, seen=seen, limits=Limits(inbox_messages=10))
    async with simulate(app):
        server = by_hand(app)
        server.start()
        server.say('{"type": "wait"}')
        for number in range(8):
            server.say(f'{{"type": "note", "payload": {number}}}')
        await until(server.events.empty)
        before = list(seen)
        gate.set()
        await until(lambda: len(seen) == 8)
        server.go(code=1000)
        await server.ended()

    assert (before, seen) == ([], list(range(8)))


async def test_a_session_waits_for_a_client_that_does_not_read(serve, by_hand, until):
    """A handler that sends to its own client keeps its pace: it fills no outbox to the brim."""
    sent = []

    class Pours(WebSocketResource):
        @handles_message("pour")
        async def pour(self, ws):
            for number in range(10):
                await ws.send_media("x" * 100)
                sent.append(number)

    app = serve(Pours, limits=Limits(outbox_bytes=400))
    async with simulate(app):
        server = by_hand(app)
        server.reads.clear()
        server.start()
        server.say('{"type": "pour"}')
        await until(lambda: sent)
        for _ in range(20):
            await asyncio.sleep(0)
        held_back = len(sent)
        server.reads.set()
        await until(lambda: len(sent) == 10)
        server.go(code=1000)
        await server.ended()

    assert held_back < 4
    assert server.kinds.count("websocket.send") == 10


class Tagged(WebSocketResource):
    """Takes tags from wherever its client says."""

    async def on_connect(self, req, ws):
        for number in range(req.get_param_as_int("tags", default=0)):
            await ws.add_tag(f"early-{number}")
        return True

    @handles_message("tag")
    async def tag(self, ws, payload: str):
        await ws.add_tag(payload)

    @handles_message("untag")
    async def untag(self, ws, payload: str):
        await ws.remove_tag(payload)

    @handles_message("count")
    async def count(self, ws):
        return len(ws.tags)


def tag(name, verb="tag"):
    return {"type": verb, "payload": name, "ref": name}


async def answer(client, message):
    """Return the code of the error that answers a message, else what the reply has."""
    await client.send_json(message)
    payload = (await client.receive_json())["payload"]
    return payload["code"] if isinstance(payload, dict) else payload


@pytest.mark.parametrize("most", [1, 5, 128])
async def test_a_client_gathers_so_many_tags_at_most(serve, most):
    """One that it has counts once; one that is taken away makes room; the connection lives."""
    limits = None if most == 128 else Limits(tags=most)  # the default
    async with simulate(serve(Tagged, limits=limits)) as sim, sim.connect("/") as client:
        taken = [await answer(client, tag(f"t{number}")) for number in range(most + 2)]
        again = await answer(client, tag("t0"))
        await answer(client, tag("t0", "untag"))
        room = [await answer(client, tag(name)) for name in ("new", "newer")]

        assert taken == [None] * most + ["tag_limit"] * 2
        assert (again, room) == (None, [None, "tag_limit"])
        assert await answer(client, {"type": "count", "ref": 1}) == most


async def test_tags_are_limited_before_the_accept_too(serve, knock):
    """The handshake is denied unless the resource catches it."""
    app = serve(Tagged, limits=Limits(tags=3))
    async with simulate(app) as sim:
        answers = [await knock(sim.connect(f"/?tags={number}")) for number in (3, 4)]

    assert answers == ["accepted", 400]


async def test_tags_of_a_hook_and_of_a_route_are_limited(knock):
    """A route's own number is what counts there."""

    class Tags(Hook):
        async def before_connect(self, req, ws, params):
            for number in range(4):
                await ws.add_tag(str(number))

    app = falcon.asgi.App()
    install(app, limits=Limits(tags=3), hooks=[Tags()])
    app.add_websocket_route("/few", Tagged)
    app.add_websocket_route("/many", Tagged, limits=Limits(tags=4))
    async with simulate(app) as sim:
        answers = [await knock(sim.connect(path)) for path in ("/few", "/many")]

    assert answers == [400, "accepted"]


async def test_an_adopted_websocket_has_the_apps_number_of_tags():
    """As any other connection."""
    app, refused = falcon.asgi.App(), []
    manager = install(app, limits=Limits(tags=2)).ws_connection_manager

    class Own:
        async def on_websocket(self, req, ws):
            await ws.accept()
            await manager.add_connection("own", ws)
            async for connection in manager.connections():
                try:
                    for name in ("a", "b", "c"):
                        await connection.add_tag(name)
                except MessageError as error:
                    refused.append((error.code, len(connection.tags)))
            await ws.send_text("done")
            with contextlib.suppress(falcon.WebSocketDisconnected):
                await ws.receive_text()
            await manager.remove_connection("own")

    app.add_route("/", Own())
    async with simulate(app) as sim, sim.connect("/") as client:
        assert await client.receive() == "done"

    assert refused == [("tag_limit", 2)]


async def in_a_task(job):
    return await asyncio.create_task(job)


async def in_a_group(job):
    async with asyncio.TaskGroup() as group:
        group.create_task(job)


async def in_time(job):
    await asyncio.wait_for(job, 60)


VERBS = {
    "media": lambda ws: ws.send_media("x" * 98),
    "text": lambda ws: ws.send_text("x" * 100),
    "data": lambda ws: ws.send_data(b"x" * 100),
    "send": lambda ws: ws.resource.send("x" * 98),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "run", [in_a_task, in_a_group, in_time, asyncio.gather], ids=["task", "group", "time", "gather"]
)
async def test_whatever_runs_for_a_client_keeps_its_pace(serve, by_hand, until, run, verb):
    """In whichever task it sends: it waits for the client, which gets all of it in the end."""
    sent = []

    class Pours(WebSocketResource):
        @handles_message("pour")
        async def pour(self, ws):
            async def job():
                for number in range(30):
                    await VERBS[verb](ws)
                    sent.append(number)

            await run(job())

    app = serve(Pours, limits=Limits(outbox_bytes=400))
    async with simulate(app):
        server = by_hand(app)
        server.reads.clear()
        server.start()
        server.say('{"type": "pour"}')
        await until(lambda: sent)
        for _ in range(20):
            await asyncio.sleep(0)
        held_back = len(sent)
        server.reads.set()
        await until(lambda: len(sent) == 30)
        server.go(code=1000)
        await server.ended()

    assert held_back < 5
    assert server.kinds.count("websocket.send") == 30


@pytest.mark.parametrize(
    ("limits", "verb", "code"),
    [
        (Limits(rooms=0), "join", "room_limit"),
        (Limits(rooms=0), "track", "room_limit"),
        (Limits(tags=0), "tag", "tag_limit"),
    ],
)
@pytest.mark.parametrize("of", ["app", "route", "parent"])
async def test_zero_means_that_none_is_allowed(answered, limits, verb, code, of):
    """For the app, a route, or the route it is nested under."""

    class Guest(WebSocketResource):
        @handles_message("do")
        async def do(self, ws, payload: str):
            verbs = {"join": self.join_room, "track": self.track, "tag": ws.add_tag}
            await verbs[payload]("tea")

    app = falcon.asgi.App()
    install(app, limits=limits if of == "app" else Limits(rooms=5, tags=5))
    parent = app.add_websocket_route("/a", Guest, limits=limits if of == "parent" else None)
    parent.add_route("/b", Guest, limits=limits if of == "route" else None)
    async with simulate(app) as client, client.connect("/a/b") as ann:
        answer = await answered(ann.request("do", verb))
        other = await answered(ann.request("do", "tag" if code == "room_limit" else "join"))

    assert (answer["payload"]["code"], other["type"]) == (code, "reply")
