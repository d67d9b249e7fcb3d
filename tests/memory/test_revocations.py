"""Who is thrown out stays out: during a handshake, during a handler, on every process."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import falcon.asgi
import pytest

from falcon_pachinko import (
    Hook,
    Limits,
    Principal,
    WebSocketResource,
    handles_message,
    install,
    to,
)
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.testing import Disconnected, HandshakeDenied, simulate


class Steps:
    """Where a handshake waits, and what came of it."""

    def __init__(self):
        self.at = asyncio.Event()
        self.go = asyncio.Event()
        self.seen = []

    async def wait(self, where, wanted):
        if where == wanted:
            self.at.set()
            await self.go.wait()


class Desk(WebSocketResource):
    def __init__(self, steps, where):
        self.steps, self.where = steps, where

    async def on_connect(self, req, ws):
        await ws.add_tag("staff")
        await self.join_room("office")
        await self.track("office")
        try:
            await self.steps.wait("on_connect", self.where)
        except asyncio.CancelledError:
            self.steps.seen.append("cancelled")
            sent = await self.broadcast_to_room("office", {"type": "late"})
            self.steps.seen.append(sent.sent)
            raise
        await self.steps.wait("after", self.where)
        return True

    @handles_message("talk", concurrent=True)
    async def talk(self, ws):
        await self.chatter()

    @handles_message("lecture")
    async def lecture(self, ws):
        await self.chatter()

    @handles_message("gather")
    async def gather(self, ws):
        await asyncio.gather(self.chatter(), asyncio.Event().wait())

    @handles_message("group", concurrent=True)
    async def group(self, ws):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.chatter())

    @handles_message("limited", concurrent=True)
    async def limited(self, ws):
        await asyncio.wait_for(self.chatter(), 60)

    @handles_message("stubborn", concurrent=True)
    async def stubborn(self, ws):
        self.steps.at.set()
        while not self.steps.go.is_set():  # swallows each cancellation
            with contextlib.suppress(asyncio.CancelledError):
                await self.steps.go.wait()
        await self.say_all()

    async def chatter(self):
        self.steps.at.set()
        try:
            await asyncio.Event().wait()
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # a clean-up of its own
            await self.say_all()

    async def say_all(self):
        """Try every way to be heard by others; note to how many a broadcast went."""
        late = {"type": "late"}
        manager = self.ws.manager
        sent = [
            await self.broadcast_to_room("office", late),
            await manager.broadcast(late, to=to.everyone),
            await manager.send_to_user("bob", late),
        ]
        async for other in manager.connections():
            sent.append(await manager.send_to_connection(other.id, late))
            await other.send_media(late)
            await other.send_text("late")
            await other.send_data(b"late")
        await self.track("office", {"late": True})
        self.steps.seen.append(sum(each.sent for each in sent))


class Watcher(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.join_room("office")
        return True


def make_app(hub, steps, where):
    app = falcon.asgi.App()

    async def authenticate(req):
        user = req.get_param("user")
        if user == "ann":
            await steps.wait("authenticate", where)
        return user

    limits = Limits(message_bytes=1000, messages_per_second=1, burst=2)
    install(app, authenticate=authenticate, backend=hub and MemoryBackend(hub), limits=limits)
    app.add_websocket_route("/desk", Desk, steps=steps, where=where)
    app.add_websocket_route("/watch", Watcher)
    return app


@pytest.fixture
def steps():
    return Steps()


@pytest.fixture(params=[1, 2], ids=["one process", "two processes"])
async def processes(request, steps):
    """Start one process, or two on a hub; give where Ann comes, and where she is thrown out."""
    hub = MemoryHub() if request.param == 2 else None

    async with contextlib.AsyncExitStack() as stack:

        async def start(where):
            apps = [make_app(hub, steps, where) for _ in range(request.param)]
            clients = [await stack.enter_async_context(simulate(app)) for app in apps]
            return clients[0], clients[-1]

        yield start


async def knock(client):
    try:
        async with client:
            return "in"
    except HandshakeDenied as denied:
        return denied.status
    except Disconnected:
        return "closed"


TARGETS = {
    "user": to.user("ann"),
    "everyone but bob": to.everyone - to.user("bob"),
    "user and more": to.user("ann") | to.room("nowhere"),
    "everyone": to.everyone,
}
LATER = {
    "a tag that she gets": to.tag("staff"),
    "a room that she joins": to.room("office"),
    "rooms that she joins": to.rooms("off"),
    "user and tag": to.user("ann") & to.tag("staff"),
    "a tag but bob": to.tag("staff") - to.user("bob"),
}
"""What names her by what her ``on_connect`` does."""


@pytest.mark.parametrize("where", ["authenticate", "on_connect"])
@pytest.mark.parametrize("target", [*TARGETS, *LATER])
async def test_a_handshake_that_began_before_is_not_let_in(processes, steps, where, target):
    """Wherever it stands by then, and whatever names the user; no room keeps it."""
    here, there = await processes(where)
    knocking = asyncio.create_task(knock(here.connect("/desk?user=ann")))
    await steps.at.wait()

    await there.manager.disconnect((TARGETS | LATER)[target], 4403, "out")
    await arrived(here, there)
    steps.go.set()

    assert await knocking == 403
    assert here.manager.status()["connections"] == 0
    assert here.manager.status()["rooms"] == 0
    assert await here.manager.presence("office") == {}


async def arrived(here, there):
    """Let what one process has published arrive at the other."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_handshake_that_begins_later_is_let_in(processes, steps):
    """A disconnect is no ban."""
    here, there = await processes("nowhere")
    await there.manager.disconnect(to.user("ann"), 4403, "out")
    await arrived(here, there)

    assert await knock(here.connect("/desk?user=ann")) == "in"


async def test_others_are_let_in_meanwhile(processes, steps):
    """Only those whom the target names."""
    here, there = await processes("on_connect")
    ann = asyncio.create_task(knock(here.connect("/desk?user=ann")))
    bob = asyncio.create_task(knock(here.connect("/desk?user=bob")))
    await steps.at.wait()

    await there.manager.disconnect(to.user("ann"), 4403, "out")
    await arrived(here, there)
    steps.go.set()

    assert (await ann, await bob) == (403, "in")


async def test_an_on_connect_that_runs_is_cancelled_and_heard_no_more(processes, steps):
    """What it still sends while it ends reaches nobody, and its rooms are left."""
    here, there = await processes("on_connect")
    async with here.connect("/watch?user=bob") as bob:
        knocking = asyncio.create_task(knock(here.connect("/desk?user=ann")))
        await steps.at.wait()

        await there.manager.disconnect(to.user("ann"), 4403, "out")

        assert await knocking == 403
        assert steps.seen == ["cancelled", 0]
        await bob.expect_nothing()


@pytest.mark.parametrize("kind", ["talk", "lecture", "gather", "group", "limited"])
@pytest.mark.parametrize("how", ["disconnect", "expiry", "too large", "too fast"])
async def test_a_handler_of_one_who_is_thrown_out_is_heard_no_more(
    processes, steps, closing, kind, how
):
    """It is cancelled at once, and what its clean-up sends reaches nobody."""
    here, there = await processes("nowhere")
    async with here.connect("/watch?user=bob") as bob, here.connect("/desk?user=ann") as ann:
        await ann.send_json({"type": kind})
        await steps.at.wait()
        if how == "disconnect":
            await there.manager.disconnect(to.user("ann"), 4403, "out")
        elif how == "expiry":
            async for each in here.manager.connections():
                if each.user_id == "ann":
                    each._expire_in(0)
        else:
            with contextlib.suppress(Disconnected):
                for _ in range(3):
                    await ann.send_text("x" * (2000 if how == "too large" else 1))
        code = await closing(ann)
        await asyncio.wait([ann.task])  # its clean-ups

        codes = {"disconnect": 4403, "expiry": 4401, "too large": 1009, "too fast": 1008}
        assert code == codes[how]
        assert steps.seen == [0]
        assert await here.manager.presence("office") == {"ann": [{}]}  # for the time of its grace
        await bob.expect_nothing()


async def test_a_handler_that_swallows_its_end_is_heard_no_more(processes, steps, closing):
    """Even after the connection has been forgotten."""
    here, there = await processes("nowhere")
    async with here.connect("/watch?user=bob") as bob, here.connect("/desk?user=ann") as ann:
        await ann.send_json({"type": "stubborn"})
        await steps.at.wait()
        await there.manager.disconnect(to.user("ann"), 4403, "out")
        await closing(ann)
        await asyncio.wait([ann.task])
        steps.go.set()
        await arrived(here, there)

        assert steps.seen == [0]
        await bob.expect_nothing()


class Sessions:
    """A middleware that looks the user up, as many apps do, and takes its time."""

    def __init__(self, steps):
        self.steps = steps

    async def process_request_ws(self, req, ws):
        await self.steps.wait("middleware", "middleware")
        req.context.user = "ann"


class Known(Hook):
    """A hook that says who it is."""

    def __init__(self, steps):
        self.steps = steps

    async def before_connect(self, req, ws, params):
        await self.steps.wait("hook", "hook")
        ws.user_id = "ann"


class Member(WebSocketResource):
    def __init__(self, steps):
        self.steps = steps

    async def on_connect(self, req, ws):
        self.steps.seen.append("asked")
        ws.user_id = req.context.get("user") or ws.user_id
        await self.join_room("office")
        return True


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("where", ["middleware", "hook"])
async def test_a_handshake_begins_where_the_request_arrives(steps, where, target):
    """Whoever finds out the user, be it before the library is asked, or without it."""
    app = falcon.asgi.App(middleware=[Sessions(steps)] if where == "middleware" else [])
    install(app, hooks=[Known(steps)] if where == "hook" else [])
    app.add_websocket_route("/desk", Member, steps=steps)
    async with simulate(app) as client:
        knocking = asyncio.create_task(knock(client.connect("/desk")))
        await steps.at.wait()

        await client.manager.disconnect(TARGETS[target], 4403, "out")
        steps.go.set()

        assert await knocking == 403
        assert len(steps.seen) <= (where == "middleware")  # no on_connect, if it is known by then
        assert client.manager.status()["rooms"] == 0


class Named(Hook):
    async def before_connect(self, req, ws, params):
        await req.context.steps.wait("hook", "hook")
        ws.user_id = req.get_param("user")


@pytest.mark.parametrize("by", ["authenticate", "hook"])
async def test_who_turns_out_to_be_spared_is_let_in(steps, by):
    """As long as the application has not said who it is, it may be Bob."""
    app = falcon.asgi.App()

    async def authenticate(req):
        req.context.steps = steps
        if by == "hook":
            return None
        await steps.wait("authenticate", "authenticate")
        return req.get_param("user")

    install(app, authenticate=authenticate, hooks=[Named()] if by == "hook" else [])
    app.add_websocket_route("/watch", Watcher)
    async with simulate(app) as client:
        bob, ann = (
            asyncio.create_task(knock(client.connect(f"/watch?user={user}")))
            for user in ("bob", "ann")
        )
        await steps.at.wait()

        await client.manager.disconnect(to.everyone - to.user("bob"), 4403, "out")
        steps.go.set()

        assert (await bob, await ann) == ("in", 403)


async def test_the_handshakes_of_other_websockets_hold_nothing(steps):
    """One that an on_websocket of the application's own serves is over when it accepts."""
    app = falcon.asgi.App()
    install(app)

    class Own:
        async def on_websocket(self, req, ws):
            await ws.accept()
            with contextlib.suppress(falcon.WebSocketDisconnected):
                await ws.receive_text()

    app.add_route("/own", Own())
    async with simulate(app) as client, client.connect("/own"):
        await client.manager.disconnect(to.user("ann"), 4403, "out")

        assert not client.manager._revocations._noted


async def test_an_expiry_during_a_handshake_ends_it(steps):
    """Who may be here for a moment only is not let in when that has passed."""
    app = falcon.asgi.App()

    async def authenticate(req):
        moment = datetime.now(UTC) + timedelta(milliseconds=1)
        return Principal(user_id="ann", expires_at=moment)

    install(app, authenticate=authenticate)
    app.add_websocket_route("/desk", Desk, steps=steps, where="on_connect")
    async with simulate(app) as client:
        status = await knock(client.connect("/desk"))

    assert status == 403
    assert steps.seen == ["cancelled", 0]


@pytest.mark.parametrize(
    "ends", [datetime.max.replace(tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)]
)
async def test_who_expires_in_centuries_is_let_in(steps, ends):
    """The event loop may wait for so long."""
    app = falcon.asgi.App()

    async def authenticate(req):
        return Principal(user_id="ann", expires_at=ends)

    install(app, authenticate=authenticate)
    app.add_websocket_route("/desk", Desk, steps=steps, where="nowhere")
    async with simulate(app) as client:
        assert await knock(client.connect("/desk")) == "in"


class Denies:
    """A middleware that turns some away."""

    async def process_request_ws(self, req, ws):
        if req.get_param("user") == "mallory":
            raise falcon.HTTPForbidden


async def test_no_handshake_is_underway_for_ever():
    """However it ended: let in, denied by anything, without a route, or by a failure."""
    app = falcon.asgi.App(middleware=[Denies()])

    async def authenticate(req):
        if req.get_param("user") == "eve":
            raise falcon.HTTPUnauthorized
        return req.get_param("user", required=True)

    class Picky(WebSocketResource):
        async def on_connect(self, req, ws):
            if ws.user_id == "bug":
                raise ZeroDivisionError
            return ws.user_id != "bob"

    install(app, authenticate=authenticate, allowed_hosts=["localhost"])
    app.add_websocket_route("/", Picky)
    async with simulate(app) as client:
        ends = [
            await knock(client.connect(path, headers={"Host": host}))
            for path, host in (
                ("/?user=ann", "localhost"),
                ("/?user=bob", "localhost"),
                ("/?user=eve", "localhost"),
                ("/?user=mallory", "localhost"),
                ("/?user=bug", "localhost"),
                ("/", "localhost"),
                ("/nowhere", "localhost"),
                ("/?user=ann", "evil.example"),
            )
        ]
        await client.manager.disconnect(to.everyone, 4403, "out")

        assert ends == ["in", 403, 401, 403, 500, 400, 404, 403]
        assert not client.manager._revocations._noted
        assert not client.manager._revocations._by_key
