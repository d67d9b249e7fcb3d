"""An application as a user with a strict type checker writes it; `test_typing` checks it.

A ``type: ignore`` here is a promise: mypy reports it where it is not needed, so
each marks a mistake that the types catch.
"""

from __future__ import annotations

import asyncio
from typing import Any

import falcon
import falcon.asgi
import msgspec

from falcon_pachinko import (
    App,
    ClusterAnswer,
    ClusterRooms,
    Connection,
    Delivery,
    Gap,
    HistoryLimits,
    HistoryPosition,
    Hook,
    Limits,
    MessageError,
    Principal,
    Publisher,
    WebSocketConnectionManager,
    WebSocketResource,
    WebSocketRouter,
    WorkerController,
    current_lease,
    handles_message,
    install,
    to,
    worker,
)
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.testing import Cluster, RequestError, VirtualClock, cluster, simulate


class Say(msgspec.Struct):
    """What somebody says."""

    text: str


class Join(msgspec.Struct, tag="join"):
    """A message of the schema."""

    room: str


class ChatRoom(WebSocketResource):
    """Envelope style."""

    def __init__(self, greeting: str = "hello") -> None:
        self.greeting = greeting
        self.room = ""

    async def on_connect(self, req: falcon.asgi.Request, ws: Connection, room_name: str) -> bool:
        """Join, greet and accept."""
        if await self.is_full(room_name):
            raise falcon.HTTPServiceUnavailable
        self.room = f"chat:{room_name}"
        await self.join_room(self.room)
        await ws.send_media({"type": self.greeting})
        self.state.seat = 3
        return True

    async def is_full(self, room_name: str) -> bool:
        """Ask the manager."""
        members: int = await self.ws.manager.count(to.room(f"chat:{room_name}"))
        return members > 100

    @handles_message("say")
    async def say(self, ws: Connection, payload: Say) -> None:
        """Tell everybody."""
        delivery: Delivery = await self.broadcast_to_room(
            self.room, {"type": "said", "payload": payload}, exclude_self=True
        )
        if delivery.dropped:
            raise MessageError("busy", "Not everybody could hear that.", status=503)

    @handles_message("count", forbid_unknown_fields=False, concurrent=True)
    async def count(self, ws: Connection) -> int:
        """Answer."""
        return len(await ws.manager.get_connections_in_room(self.room))

    async def on_message(self, ws: Connection, message: str | bytes) -> None:
        """Take the rest."""
        if isinstance(message, str):
            await ws.send_text(message)
        else:
            await ws.send_data(message)

    async def on_disconnect(self, ws: Connection, close_code: int) -> None:
        """Say goodbye."""
        await self.broadcast_to_room(self.room, {"type": "left", "payload": close_code})


class Lobby(WebSocketResource):
    """Schema style."""

    schema = Join
    subprotocols = ("lobby.v1",)
    close_on_error = True

    @handles_message(Join)
    async def join(self, ws: Connection, message: Join) -> list[str]:
        """Answer with the rooms."""
        await self.join_room(message.room)
        return sorted(ws.rooms)


class Shared(WebSocketResource):
    """What several processes share."""

    async def on_connect(self, req: falcon.asgi.Request, ws: Connection) -> bool:
        """Come back, and be seen."""
        await self.join_room("chat:tea", since=HistoryPosition.of(req))
        await self.track("chat:tea", {"name": "Ann"})
        present: dict[str, list[Any]] = await ws.manager.presence("chat:tea")
        users: int = await ws.manager.count_present("chat:tea")
        return len(present) <= users


@worker(singleton=True)
async def bill(manager: WebSocketConnectionManager) -> None:
    """Run on one process."""
    lease = current_lease()
    token: int = lease.token if lease is not None else 0
    await manager.broadcast_to_all({"type": "billed", "token": token})


async def report(gap: Gap) -> None:
    """Be told of gaps."""
    assert gap.channel is None or gap.channel.startswith("room:")


def create_shared(url: str | None) -> App:
    """Join the other processes."""
    app = App(backend=url)
    manager = app.ws_connection_manager
    manager.configure_rooms("chat:", history=HistoryLimits(count=50), resync=True)
    manager.on_gap(report)
    app.add_websocket_worker(bill)
    app.add_websocket_route("/shared", Shared)
    return app


class Timed(Hook):
    """A hook of the user's own."""

    async def after_connect(self, req: falcon.asgi.Request, ws: Connection) -> None:
        """Tag everybody."""
        await ws.add_tag("new")


class Strict(Hook):
    """Tells clients in its own words what was wrong."""

    async def on_refused(
        self, ws: Connection, refusal: MessageError, frame: str | bytes
    ) -> MessageError | None:
        """Hide what is none of their business."""
        return MessageError("refused") if refusal.code == "unknown_type" else None


class Paging(msgspec.Struct):
    """The query of a handshake."""

    page: int = 1


class Board(WebSocketResource):
    """The options of sending."""

    async def on_connect(self, req: falcon.asgi.Request, ws: Connection, *, query: Paging) -> bool:
        """Read the query."""
        await self.join_room(f"board:{query.page}")
        return True

    @handles_message("cursor")
    async def cursor(self, ws: Connection, payload: int) -> None:
        """Send what may be dropped, replaced, or stay here."""
        await self.broadcast_to_room("board:1", payload, exclude_self=True, volatile=True)
        await self.broadcast_to_room("board:1", payload, latest="cursor")
        await self.send(payload, latest="cursor")
        await ws.send_media(payload, volatile=True)
        await ws.drained()

    async def on_refused(
        self, ws: Connection, refusal: MessageError, frame: str | bytes
    ) -> MessageError | None:
        """See what was turned away."""
        return None


async def tell_here(manager: WebSocketConnectionManager, ws: Connection) -> None:
    """Tell the clients of this process, but for one."""
    delivery: Delivery = await manager.broadcast(
        "x", to=to.rooms("board:") | to.everyone, exclude=[ws, "an id"], local=True
    )
    assert delivery.sent >= delivery.dropped


def encode(value: object) -> object:
    """Encode what msgspec does not know."""
    return str(value)


def decode(wanted: type, value: object) -> object:
    """Decode it."""
    return wanted(value)


def create_board() -> App:
    """Use the newer options."""
    app = App(enc_hook=encode, dec_hook=decode, readable_denials=False, hooks=[Strict()])
    app.add_websocket_route("/board", Board, limits=Limits(tags=0, inbox_bytes=None))
    return app


async def authenticate(req: falcon.asgi.Request) -> Principal | None:
    """Tell who it is."""
    name = req.get_param("user")
    return None if name is None else Principal(user_id=name, tags=["guest"])


@worker(name="announcements", restart="never")
async def announce(manager: WebSocketConnectionManager, pause: float = 30.0) -> None:
    """Remind the rooms."""
    for name in await manager.get_rooms_by_prefix("chat:"):
        await manager.broadcast_to_room(name, {"type": "notice"})
    await manager.broadcast({"type": "sale"}, to=to.room("lobby") & to.tag("pro") - to.user("bob"))
    gone: ClusterAnswer = await manager.disconnect(to.everyone, 4000, "good night")
    await asyncio.sleep(pause * gone.total)


async def look_around(manager: WebSocketConnectionManager, *, everywhere: bool) -> int:
    """Ask this process, all of them, or whichever is wanted."""
    here: int = await manager.count()
    here = await manager.count(to.user("ann"), cluster=False)
    counted: ClusterAnswer = await manager.count(to.user("ann"), cluster=True, timeout=1)
    either: int | ClusterAnswer = await manager.count(cluster=everywhere, timeout=0.5)
    names: list[str] = await manager.get_rooms_by_prefix("chat:")
    found: ClusterRooms = await manager.get_rooms_by_prefix("chat:", cluster=True)
    names += found.rooms
    some: list[str] | ClusterRooms = await manager.get_rooms_by_prefix("", cluster=everywhere)
    local: ClusterAnswer = await manager.disconnect("~1", local=True, timeout=None)
    total, answered, processes = local
    is_whole: bool = counted.answered == counted.processes
    return here + total + answered + processes + len(names) + bool(either or some or is_whole)


def create_app() -> falcon.asgi.App[Any, Any]:
    """Install on a stock app, through the typed handle."""
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    pachinko = install(app, limits=Limits(rooms=3), authenticate=authenticate, hooks=[Timed()])
    pachinko.add_websocket_route("/chat/{room_name}", ChatRoom, greeting="welcome")
    pachinko.add_websocket_worker(announce, pachinko.ws_connection_manager, pause=3.0)
    return app


def create_typed_app() -> App:
    """Use the typed subclass."""
    app = App(limits=Limits(on_overflow="drop_oldest"))
    lobby = WebSocketRouter(hooks=[Timed()])
    lobby.add_route("/", Lobby, name="lobby")
    app.add_websocket_route("/lobby", lobby)
    app.add_websocket_route("/chat/{room_name}", lambda: ChatRoom("hi"))
    path: str = app.url_for("lobby")
    resource: WebSocketResource = app.create_websocket_resource(path)
    status: dict[str, Any] = app.ws_connection_manager.status()
    print(resource, status)
    return app


async def run_workers() -> None:
    """Without an app."""
    controller = WorkerController()
    controller.add(announce, WebSocketConnectionManager())
    await controller.start()
    await controller.stop()


async def try_it() -> None:
    """As a test of the user's own does."""
    async with simulate(create_app()) as client, client.connect("/chat/tea") as ann:
        await ann.send_json({"type": "say", "payload": {"text": "hi"}})
        answer = await ann.request("count")
        text: str = await ann.receive_text()
        said: Say = await ann.receive(Say)
        try:
            await ann.request("say", said)
        except RequestError as refused:
            print(refused.code, refused.message)
        code: int | None = ann.close_code
        print(answer, text, code, client.manager.status())


async def try_several() -> None:
    """The same, with several processes."""
    nodes: Cluster
    async with cluster(create_app, processes=3, clock=VirtualClock(seed=1)) as nodes:
        async with nodes.partition(1, 2), nodes.backend.delay(0.4):
            await nodes.advance(15)
        await nodes.backend.restart(lose=True)
        await nodes.backend.restart(lose=2.0)
        counted: int = await nodes[0].run(nodes[0].manager.count())
        async with nodes[1].connect("/chat/tea") as ann:
            text: str = await ann.receive_text()
            await nodes[1].kill()
        print(counted, text, nodes.clock.time(), len(nodes), [node.killed for node in nodes])


async def publish_from_elsewhere() -> None:
    """What a script does that is no process of the app."""
    async with Publisher("redis://localhost:6379/0", enc_hook=str) as publish:
        delivery: Delivery = await publish.broadcast_to_room(
            "tea", {"type": "notice"}, exclude=["~1"], idempotency_key="order 17"
        )
        await publish.broadcast(Say("hi"), to=to.room("tea") - to.user("bob"), store=False)
    with Publisher.sync(MemoryBackend(MemoryHub())) as sync:
        told: Delivery = sync.send_to_user("ann", [1], latest="key")
        sync.broadcast_to_all("text", volatile=True)
    sync.close()
    print(delivery.published, told, publish.backend.why)


def mistakes(app: App, manager: WebSocketConnectionManager) -> None:
    """What the types catch."""
    app.add_websocket_route("/x", 3)  # type: ignore[arg-type]  # no resource
    app.add_websocket_route("/x", Say)  # type: ignore[arg-type]  # no WebSocketResource
    Limits(on_overflow="drop")  # type: ignore[arg-type]  # no such policy
    Limits(message_bytes="4096")  # type: ignore[arg-type]  # text from the environment
    to.room("lobby") & "pro"  # type: ignore[operator]  # a bare name is no target
    manager.broadcast({"type": "x"})  # type: ignore[call-arg,unused-coroutine]  # to whom?
    manager.join_room("id", 7)  # type: ignore[arg-type,unused-coroutine]  # rooms have names
    manager.broadcast("x", to="lobby")  # type: ignore[arg-type,unused-coroutine]  # no target
    Publisher(None)  # type: ignore[arg-type]  # by what?
    Publisher.sync("redis://localhost").broadcast_to_room("tea", {}, local=True)  # type: ignore[call-arg]  # there is no local
    app.add_websocket_worker(print)  # type: ignore[arg-type]  # no coroutine function
    App(limit=Limits())  # type: ignore[call-arg]  # no such option
    install(app, origin="*")  # type: ignore[call-arg]  # neither here


class Careless(WebSocketResource):
    """What the types catch in a resource."""

    @handles_message("x")  # type: ignore[type-var]  # no coroutine
    def not_a_coroutine(self, ws: Connection) -> None:
        """Never be awaited."""

    @handles_message(3)  # type: ignore[arg-type]  # no message type
    async def no_type(self, ws: Connection) -> None:
        """Never be reached."""
