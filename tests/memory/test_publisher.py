"""A publisher, beside an app in memory: what arrives, what is kept, and what stays of it."""

import asyncio
import contextlib
import gc
import itertools
import logging
import threading
import weakref
from datetime import UTC, datetime

import falcon.asgi
import msgspec
import pytest
from faulty_backend import FaultyBackend

from falcon_pachinko import (
    BackendError,
    Delivery,
    EncodeError,
    HistoryLimits,
    HistoryPosition,
    InvalidNameError,
    Publisher,
    SetupError,
    WebSocketConnectionManager,
    WebSocketResource,
    install,
    to,
)
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.testing import simulate

SENT = Delivery(0, 0, published=True)
names = itertools.count()


class Guest(WebSocketResource):
    """In a plain room and in one with a history, as the query says."""

    async def on_connect(self, req, ws):
        ws.user_id = req.get_param("user")
        await self.join_room("tea")
        await self.join_room("chat:tea", since=HistoryPosition.of(req))
        return True


class House:
    """An app, and the hub where publishers meet it."""

    def __init__(self):
        self.url = f"memory://publisher-{next(names)}"
        self.app = falcon.asgi.App()
        install(self.app, backend=self.url)
        self.manager = self.app.ws_connection_manager
        self.manager.configure_rooms("chat:", history=HistoryLimits(count=5))
        self.app.add_websocket_route("/", Guest)

    @property
    def hub(self):
        return MemoryHub.of(self.url.removeprefix("memory://"))


@pytest.fixture
def house():
    return House()


@pytest.fixture
async def ann(house):
    async with (
        simulate(house.app) as client,
        client.connect("/?user=ann", subprotocols=["pachinko.json"]) as ws,
    ):
        await ws.expect("history.state")
        yield ws


@pytest.fixture
def warnings(caplog):
    """Return the warnings of the library so far."""

    def told():
        records = [each for each in caplog.records if each.levelno >= logging.WARNING]
        return [each.getMessage() for each in records]

    return told


async def test_every_verb_arrives(house, ann):
    """As the manager's would, from another process."""
    async with Publisher(house.url) as publish:
        (id_,) = house.manager._registry.connections
        deliveries = [
            await publish.broadcast_to_room("tea", {"type": "1"}),
            await publish.broadcast({"type": "2"}, to=to.room("tea") & to.user("ann")),
            await publish.broadcast_to_all({"type": "3"}),
            await publish.send_to_user("ann", {"type": "4"}),
            await publish.send_to_connection(id_, {"type": "5"}),
            await publish.broadcast({"type": "6"}, to=to.rooms("te")),
            await publish.broadcast_to_room("tea", {"type": "7"}, volatile=True),
            await publish.broadcast_to_room("tea", {"type": "8"}, latest="key"),
        ]
        heard = [(await ann.receive_json())["type"] for _ in deliveries]

    assert deliveries == [SENT] * 8
    assert heard == list("12345678")


async def test_who_is_excluded_gets_nothing(house, ann):
    """By ids, one or several."""
    (id_,) = house.manager._registry.connections
    async with Publisher(house.url) as publish:
        await publish.broadcast_to_room("tea", {"type": "1"}, exclude=id_)
        await publish.broadcast_to_all({"type": "2"}, exclude=iter(["x", id_]))
        await publish.broadcast_to_room("chat:tea", {"type": "3"}, exclude=[id_])
        await publish.broadcast_to_all({"type": "4"})

    assert (await ann.receive_json())["type"] == "4"
    assert [each["type"] for each in await house.manager.history("chat:tea")] == ["3"]


async def test_nobody_there_is_no_error():
    """Nobody can know who is there."""
    async with Publisher("memory://nobody-at-all") as publish:
        assert await publish.send_to_user("ann", 1) == SENT


@pytest.mark.parametrize("value", [b"\x00\xff", datetime(2026, 5, 4, tzinfo=UTC), 10**30, 1.5])
async def test_clients_of_both_codecs_get_their_own_form(house, value):
    """Without a loss, whatever the publisher knows of them; also in a room with a history."""
    message = {"type": "said", "payload": value}
    speaks = ["pachinko.json", "pachinko.msgpack"]
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(simulate(house.app))
        connections = [
            await stack.enter_async_context(client.connect("/", subprotocols=[each]))
            for each in speaks
        ]
        for each in connections:
            await each.expect("history.state")
        publish = await stack.enter_async_context(Publisher(house.url))
        await publish.broadcast_to_room("tea", message)
        await publish.broadcast_to_room("chat:tea", message)
        if value == 10**30:  # which MessagePack has no form of, so that those clients get nothing
            heard = [[await connections[0].receive(dict) for _ in "12"]]
        else:
            heard = [[await each.receive(dict) for _ in "12"] for each in connections]

    as_json = msgspec.json.decode(msgspec.json.encode(value))
    expected = [as_json] if value == 10**30 else [as_json, value]
    assert [[each["payload"] for each in frames] for frames in heard] == [
        [each, each] for each in expected
    ]


async def test_a_message_travels_in_one_form(house):
    """MessagePack, of which every process can make JSON: two forms are nearly twice the bytes."""
    hub, seen = MemoryHub(), []
    listener = MemoryBackend(hub)
    await listener.start("listener")
    await listener.subscribe(["room:tea"])
    payload = {"id": 17, "text": "a line of text of the usual length", "tags": ["a", "b"]}
    message = {"type": "said", "payload": payload}
    async with Publisher(MemoryBackend(hub)) as publish:
        await publish.broadcast_to_room("tea", message)
    seen = [each.data for each in listener._events if hasattr(each, "data")]
    await listener.stop()

    written = msgspec.msgpack.encode(message)
    assert len(seen) == 1
    assert len(seen[0]) < len(written) + 40
    assert len(seen[0]) < len(msgspec.json.encode(message)) + len(written)


class Chips:
    """A type that only the application knows."""


async def test_types_of_the_applications_own_are_encoded(house, ann):
    """By the hook that `install` has too; without one, nothing is sent."""
    message = {"type": "pay", "payload": Chips()}
    async with Publisher(house.url, enc_hook=lambda _: "chips") as publish:
        await publish.broadcast_to_room("tea", message)
    async with Publisher(house.url) as publish:
        with pytest.raises(EncodeError, match="Chips"):
            await publish.broadcast_to_room("tea", message)

    assert (await ann.receive_json())["payload"] == "chips"


# What stays of it.


async def test_nothing_stays_of_short_lived_publishers(house, ann):
    """However many come and go: no number, no name, no seat, no lease."""
    listening = house.manager._cluster._listening
    for number in range(50):
        async with Publisher(house.url) as publish:
            await publish.broadcast_to_room("tea", {"type": "said", "payload": number})
            await publish.broadcast_to_room("chat:tea", {"type": "said", "payload": number})
    heard = [(await ann.receive_json())["payload"] for _ in range(100)]

    assert heard == [number for number in range(50) for _ in "12"]
    assert listening._heard == {}
    assert listening._nodes == set()
    assert list(house.hub.nodes) == [house.manager._cluster.name]
    assert list(house.hub.beats) == [house.manager._cluster.name]
    assert house.hub.tables == house.hub.leases == {}
    assert house.manager.status()["gaps"] == house.manager.status()["rejected"] == 0
    assert (await house.manager.count(cluster=True)).processes == 1


async def test_a_publisher_that_is_there_is_no_process(house, ann):
    """It is not counted, and not asked."""
    async with Publisher(house.url) as publish:
        await publish.broadcast_to_all({"type": "said"})
        answer = await house.manager.count(cluster=True)

    assert tuple(answer) == (1, 1, 1)


# Rooms with a history.


async def test_the_rooms_configuration_comes_from_the_app(house, ann):
    """The message has its place, and whoever comes back gets it; the limits are the app's."""
    async with Publisher(house.url) as publish:
        for number in range(7):
            await publish.broadcast_to_room("chat:tea", {"type": "said", "payload": number})
    places = [(await ann.receive_json())["history"]["offset"] for _ in range(7)]
    kept = await house.manager.history("chat:tea")

    assert places == [1, 2, 3, 4, 5, 6, 7]
    assert [each["payload"] for each in kept] == [2, 3, 4, 5, 6]


async def test_equal_messages_are_not_taken_for_one(house, ann):
    """Each was meant, whether or not it has a key."""
    async with Publisher(house.url) as publish:
        for key in (None, None, "a", "b"):
            await publish.broadcast_to_room("chat:tea", {"type": "tick"}, idempotency_key=key)

    assert [(await ann.receive_json())["history"]["offset"] for _ in range(4)] == [1, 2, 3, 4]


async def test_a_message_to_several_rooms_is_kept_once_in_each(house, ann):
    """And who is in several of them gets it once."""
    target = to.room("chat:tea") | to.room("chat:milk") | to.room("tea")
    async with Publisher(house.url) as publish:
        await publish.broadcast({"type": "said"}, to=target)
        await publish.broadcast_to_room("tea", {"type": "end"})

    assert [(await ann.receive_json())["type"] for _ in "12"] == ["said", "end"]
    for room in ("chat:tea", "chat:milk"):
        assert len(await house.manager.history(room)) == 1


@pytest.mark.parametrize("options", [{"store": False}, {"volatile": True}, {"latest": "k"}])
async def test_what_is_not_to_be_kept_is_not(house, ann, options, warnings):
    """That was meant, so that nobody is warned."""
    async with Publisher(house.url) as publish:
        await publish.broadcast_to_room("chat:tea", {"type": "said"}, **options)
        assert await ann.receive_json() == {"type": "said"}

    assert await house.manager.history("chat:tea") == []
    assert warnings() == []


@pytest.mark.parametrize("message", [[1], {"type": "said", "payload": "x" * 300_000}])
async def test_what_cannot_be_kept_is_sent_to_nobody(house, ann, message):
    """Not even to the rooms that could keep it."""
    async with Publisher(house.url) as publish:
        with pytest.raises(EncodeError, match="store=False"):
            await publish.broadcast(message, to=to.room("chat:tea") | to.room("tea"))
        await publish.broadcast_to_room("tea", {"type": "end"})

    assert (await ann.receive_json())["type"] == "end"


# Idempotency keys.


async def test_a_retry_is_kept_once(house, ann):
    """Also by another publisher, and by the app's own manager; in each room by itself."""
    message = {"type": "paid"}
    async with Publisher(house.url) as one, Publisher(house.url) as two:
        for publish in (one, one, two, house.manager):
            delivery = await publish.broadcast_to_room(
                "chat:tea", message, idempotency_key="order 1"
            )
            assert delivery.published
        await one.broadcast(message, to=to.room("chat:milk"), idempotency_key="order 1")
        await two.broadcast_to_room("tea", {"type": "end"})

    assert [(await ann.receive_json())["type"] for _ in "12"] == ["paid", "end"]
    for room in ("chat:tea", "chat:milk"):
        assert len(await house.manager.history(room)) == 1


async def test_the_managers_own_retry_is_kept_once(house, ann):
    """The first is handed to the member, the second to nobody; and neither waits."""
    message = {"type": "paid"}
    async with asyncio.timeout(2):
        first = await house.manager.broadcast_to_room("chat:tea", message, idempotency_key="k")
        second = await house.manager.broadcast(message, to=to.room("chat:tea"), idempotency_key="k")

    assert (first, second) == (Delivery(1, 0, published=True), SENT)
    assert len(await house.manager.history("chat:tea")) == 1


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        (to.room("tea"), {}, "only rooms with a history"),
        (to.room("tea") | to.room("chat:tea"), {}, "only rooms with a history"),
        (to.user("ann"), {}, "only rooms with a history"),
        (to.tag("pro"), {}, "only rooms with a history"),
        (to.everyone, {}, "only rooms with a history"),
        (to.rooms("chat:"), {}, "only rooms with a history"),
        (to.room("chat:tea"), {"store": False}, "store=False"),
        (to.room("chat:tea"), {"volatile": True}, "volatile=True"),
        (to.room("chat:tea"), {"latest": "k"}, "latest="),
    ],
)
async def test_a_key_elsewhere_is_refused(house, ann, target, options, said):
    """By the publisher and by the manager; nobody gets the message."""
    async with Publisher(house.url) as publish:
        for each in (publish, house.manager):
            with pytest.raises(ValueError, match=said):
                await each.broadcast({"type": "x"}, to=target, idempotency_key="k", **options)
        await publish.broadcast_to_all({"type": "end"})

    assert (await ann.receive_json())["type"] == "end"


@pytest.mark.parametrize(
    ("key", "error", "said"),
    [
        ("", ValueError, "0 bytes"),
        ("x" * 201, ValueError, "201 bytes"),
        ("é" * 101, ValueError, "202 bytes"),
        ("\ud800", ValueError, "no UTF-8 form"),
        (17, TypeError, "give a str"),
    ],
)
async def test_what_is_no_key_is_refused(house, ann, key, error, said):
    """1 to 200 bytes of text; a manager's ``local=True`` contradicts it."""
    async with Publisher(house.url) as publish:
        for each in (publish, house.manager):
            with pytest.raises(error, match=said):
                await each.broadcast_to_room("chat:tea", {"type": "x"}, idempotency_key=key)
        await publish.broadcast_to_room("chat:tea", {"type": "x"}, idempotency_key="x" * 200)
    with pytest.raises(ValueError, match="local=True"):
        await house.manager.broadcast_to_room("chat:tea", {}, idempotency_key="k", local=True)


# What is not known, and what goes wrong.


async def test_that_nothing_is_stored_is_told_once(warnings):
    """Nobody has started there: it may be another server, or another namespace."""
    async with Publisher("memory://never-started") as publish:
        for room in ("tea", "milk"):
            assert await publish.broadcast_to_room(room, {"type": "x"}) == SENT

    (told,) = warnings()
    assert "no process of the app has stored how its rooms are configured" in told


async def test_an_app_without_histories_is_fine(warnings):
    """It has started; there is nothing to warn of."""
    app = falcon.asgi.App()
    install(app, backend="memory://no-histories")
    async with simulate(app), Publisher("memory://no-histories") as publish:
        await publish.broadcast_to_room("tea", {"type": "x"})

    assert warnings() == []


async def test_a_room_whose_history_was_not_known_is_named(house, warnings):
    """The publisher was there before the app: what it sent meanwhile was not kept."""
    async with Publisher(house.url) as publish:
        await publish.broadcast_to_room("chat:tea", {"type": "1"})
        async with simulate(house.app):
            for _ in "12":
                await publish.broadcast_to_room("chat:tea", {"type": "2"})
            kept = await house.manager.history("chat:tea")

    assert [each["type"] for each in kept] == ["2", "2"]
    nothing_stored, told = warnings()
    assert "has stored" in nothing_stored
    assert "a message to 'chat:tea' was not kept" in told


async def test_what_is_known_of_the_rooms_is_read_again(house, ann, warnings, until):
    """A process that starts later may give more rooms a history."""
    async with Publisher(house.url) as publish:
        await publish.broadcast_to_room("game:1", {"type": "1"})
        house.manager.configure_rooms("game:", history=HistoryLimits())
        house.manager._exchange.configuration.back()
        await until(lambda: "rooms:game:" in house.hub.settings)
        publish._link._known_since = float("-inf")  # a second later
        await publish.broadcast_to_room("game:1", {"type": "2"})

    assert [each["type"] for each in await house.manager.history("game:1")] == ["2"]
    (told,) = warnings()
    assert "a message to 'game:1' was not kept" in told


async def test_rooms_by_prefix_that_keep_a_history_are_told(house, ann, warnings):
    """A publisher cannot know which there are, so that nothing is kept; once for a prefix."""
    async with Publisher(house.url) as publish:
        for _ in "12":
            await publish.broadcast({"type": "x"}, to=to.rooms("chat:te"))
        await publish.broadcast({"type": "x"}, to=to.rooms("game:"))
        await publish.broadcast({"type": "x"}, to=to.rooms("chat:"), store=False)

    (told,) = warnings()
    assert "to.rooms('chat:te')" in told


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda p: p.broadcast_to_room("", {}), InvalidNameError),
        (lambda p: p.broadcast_to_room("x" * 201, {}), InvalidNameError),
        (lambda p: p.broadcast_to_room(7, {}), TypeError),
        (lambda p: p.send_to_user(7, {}), TypeError),
        (lambda p: p.send_to_connection(None, {}), TypeError),
        (lambda p: p.broadcast({}, to="tea"), TypeError),
        (lambda p: p.broadcast_to_all({}, exclude=[7]), TypeError),
        (lambda p: p.broadcast_to_all({}, volatile=True, latest="k"), ValueError),
        (lambda p: p.broadcast_to_all({}, volatile=True, store=True), ValueError),
        (lambda p: p.broadcast({}, to=to.user("\ud800")), EncodeError),
        (lambda p: p.broadcast({}, to=to.everyone - to.user("\ud800")), EncodeError),
        (lambda p: p.broadcast_to_all({}, exclude="\ud800"), EncodeError),
        (lambda p: p.broadcast_to_all("\ud800"), EncodeError),
        (lambda p: p.broadcast_to_all(object()), EncodeError),
    ],
)
async def test_a_mistake_is_told(house, call, error):
    """Nothing is silently sent to nobody."""
    async with Publisher(house.url) as publish:
        with pytest.raises(error):
            await call(publish)


@pytest.mark.parametrize("backend", [None, MemoryBackend(), 7])
def test_a_backend_that_reaches_nobody_is_refused(backend):
    """With what to give instead."""
    with pytest.raises(SetupError, match="redis://"):
        Publisher(backend)


async def test_a_backend_that_is_in_use_is_refused(house):
    """It is the app's own; the app's manager can send."""
    async with simulate(house.app):
        with pytest.raises(SetupError, match="in use already"):
            await Publisher(house.manager._cluster.backend).__aenter__()
    publish = Publisher(house.url)
    async with publish:
        with pytest.raises(SetupError, match="in use already"):
            await publish.__aenter__()


async def test_it_has_to_be_open(house):
    """Before and after the block there is no connection."""
    publish = Publisher(house.url)
    with pytest.raises(RuntimeError, match="async with"):
        await publish.broadcast_to_all({})
    for _ in "12":  # it can be opened again
        async with publish:
            assert await publish.broadcast_to_all({}) == SENT
    with pytest.raises(RuntimeError, match="async with"):
        await publish.broadcast_to_all({})


async def test_it_belongs_to_its_event_loop(house):
    """Elsewhere it says what to do."""
    async with Publisher(house.url) as publish:

        def elsewhere():
            asyncio.run(publish.broadcast_to_all({}))

        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(elsewhere)


class Away:
    """A publisher whose backend fails on demand."""

    def __init__(self, house):
        self.backend = FaultyBackend(house.hub)
        self.backend.timeout = 0.05
        self.publish = Publisher(self.backend)


@pytest.mark.parametrize("error", [BackendError("memory", "away"), OSError("away"), TimeoutError()])
@pytest.mark.parametrize(
    ("call", "room"), [("publish", "tea"), ("append", "chat:tea"), ("recall", "tea")]
)
async def test_what_did_not_leave_is_an_error(house, ann, error, call, room):
    """Never silent, whatever the backend raises; the next one may go."""
    away = Away(house)
    async with away.publish as publish:
        away.backend.failing = {call: error}
        with pytest.raises(BackendError):
            await publish.broadcast_to_room(room, {"type": "lost"})
        away.backend.mend()
        assert await publish.broadcast_to_room(room, {"type": "said"}) == SENT

    assert (await ann.receive_json())["type"] == "said"


async def test_a_server_that_keeps_nothing_carries_plain_messages(house, ann, warnings):
    """Its self-test says so, and then nobody keeps anything."""
    away = Away(house)
    away.backend.failing = {"recall": BackendError("memory", "no JetStream")}
    away.backend.why = "no histories"
    async with away.publish as publish:
        assert await publish.broadcast_to_room("tea", {"type": "said"}) == SENT

    assert (await ann.receive_json())["type"] == "said"
    assert "no JetStream" in warnings()[0]


async def test_while_it_is_away_an_error_comes_in_time(house):
    """After the backend's ``timeout``, and at once when it has been away for longer."""
    away = Away(house)
    async with away.publish as publish, asyncio.timeout(5):
        away.backend.state, away.backend.why = "degraded", "it is gone"
        for _ in "12":
            with pytest.raises(BackendError, match=r"was not sent: it is gone"):
                await publish.send_to_user("ann", {})


# Threads.


def test_without_coroutines_it_is_the_same():
    """Every verb, and every check; it opens at the first call."""
    publish = Publisher.sync("memory://sync")
    assert publish._loop is None
    with publish:
        assert publish.broadcast({}, to=to.room("tea")) == SENT
        assert publish.broadcast_to_room("tea", {}) == SENT
        assert publish.broadcast_to_all({}, exclude="x") == SENT
        assert publish.send_to_user("ann", {}) == SENT
        assert publish.send_to_connection("x", {}) == SENT
        with pytest.raises(InvalidNameError):
            publish.broadcast_to_room("", {})
        with pytest.raises(ValueError, match="history"):
            publish.broadcast({}, to=to.user("ann"), idempotency_key="k")
    with pytest.raises(RuntimeError, match="was closed"):
        publish.broadcast_to_all({})
    with publish:  # again
        assert publish.broadcast_to_all({}) == SENT


def test_it_is_opened_by_its_first_verb_and_closed_once():
    """Without a ``with`` block, as at the top of a module of tasks."""
    publish = Publisher.sync("memory://lazy")
    publish.close()
    publish = Publisher.sync("memory://lazy")
    assert publish.broadcast_to_all({}) == SENT
    thread = [each for each in threading.enumerate() if each.name == "publisher"]
    publish.close()
    publish.close()
    for each in thread:
        each.join(20)

    assert not any(each.is_alive() for each in thread)


async def test_an_app_in_memory_hears_threads(house, ann):
    """All of them share one publisher; each one's messages come in its order."""
    with Publisher.sync(house.url) as publish:

        def talk(me):
            for number in range(50):
                publish.broadcast_to_room("chat:tea", {"type": "said", "payload": [me, number]})

        talking = asyncio.gather(*(asyncio.to_thread(talk, me) for me in range(4)))
        heard = [(await ann.receive_json(timeout=20))["payload"] for _ in range(200)]
        await talking

    for me in range(4):
        assert [number for who, number in heard if who == me] == list(range(50))


def test_hooks_run_in_the_callers_thread():
    """They may use what belongs to that thread: a database's connection, a request."""
    seen = []

    def encode(_):
        seen.append((threading.current_thread(), asyncio._get_running_loop()))
        return "chips"

    with Publisher.sync("memory://hooks", enc_hook=encode) as publish:
        publish.broadcast_to_all({"payload": Chips()})

    assert set(seen) == {(threading.current_thread(), None)}


def test_one_that_is_forgotten_ends():
    """Its thread goes with it."""
    publish = Publisher.sync("memory://forgotten")
    publish.broadcast_to_all({})
    (thread,) = [each for each in threading.enumerate() if each.name == "publisher"]
    gone = weakref.ref(publish)
    del publish
    gc.collect()
    thread.join(20)

    assert gone() is None
    assert not thread.is_alive()


def test_closing_waits_for_verbs_in_other_threads():
    """Each of them has sent its message, or an error; none is left waiting."""
    hub = MemoryHub()
    backend = FaultyBackend(hub)
    publish = Publisher.sync(backend)
    publish.broadcast_to_all({})
    loop = publish._loop
    gate, begun, results = backend.stall("publish"), threading.Event(), []

    def send():
        begun.set()
        results.append(publish.broadcast_to_all({}))

    sending = threading.Thread(target=send)
    sending.start()
    begun.wait(20)
    while publish._busy == 0:
        pass
    closing = threading.Thread(target=publish.close)
    closing.start()
    loop.call_soon_threadsafe(gate.set)
    for each in (sending, closing):
        each.join(20)

    assert results == [SENT]
    assert publish._loop is None


def test_one_that_could_not_be_opened_leaves_no_thread():
    """The next call tries again."""
    backend = FaultyBackend(MemoryHub())
    backend.failing = {"start": BackendError("memory", "away")}
    publish = Publisher.sync(backend)
    with pytest.raises(BackendError):
        publish.broadcast_to_all({})
    backend.mend()
    assert publish.broadcast_to_all({}) == SENT
    publish.close()


# The configuration of rooms, between processes.


def process(hub, **rooms):
    made = WebSocketConnectionManager(backend=MemoryBackend(hub))
    for prefix, limits in rooms.items():
        made.configure_rooms(f"{prefix}:", history=limits)
    return made


@pytest.fixture
async def running():
    """Start processes; they are stopped after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*managers):
            for each in managers:
                await each.start()
                stack.push_async_callback(each.stop)
            return managers

        yield start


async def test_a_process_without_a_configuration_uses_that_of_others(running, warnings):
    """What it sends has its place, as if it were configured there, too."""
    hub = MemoryHub()
    app, worker = await running(process(hub, chat=HistoryLimits(count=3)), process(hub))
    for number in range(5):
        await worker.broadcast_to_room("chat:tea", {"type": "said", "n": number})

    for each in (app, worker):
        assert [kept["n"] for kept in await each.history("chat:tea")] == [2, 3, 4]
    assert warnings() == []


async def test_each_process_stores_its_own_prefixes(running, warnings):
    """Those of different roles do not replace each other's."""
    hub = MemoryHub()
    one, two = await running(
        process(hub, chat=HistoryLimits(count=3)), process(hub, game=HistoryLimits(count=4))
    )
    one._exchange.configuration.back()
    async with Publisher(MemoryBackend(hub)) as publish:
        await publish.broadcast_to_room("chat:tea", {"type": "said"})
        await publish.broadcast_to_room("game:1", {"type": "said"})

    assert len(await two.history("chat:tea")) == len(await two.history("game:1")) == 1
    assert warnings() == []


async def test_two_that_differ_are_named_once_and_the_newest_counts(running, warnings):
    """For all who have none of their own; who has one goes by it."""
    hub = MemoryHub()
    old, new, same, third = await running(
        process(hub, chat=HistoryLimits(count=2)),
        process(hub, chat=HistoryLimits(count=7)),
        process(hub, chat=HistoryLimits(count=7)),
        process(hub),
    )

    (told,) = warnings()
    names = [each._cluster.name for each in (old, new)]
    assert all(name in told for name in (*names, "'chat:'", "count=2", "count=7"))
    counts = [each._options.of("chat:tea").history.count for each in (old, new, same, third)]
    assert counts == [2, 7, 7, 7]


async def test_what_the_backend_has_lost_is_stored_again(running, until):
    """By the processes that are there; a newer one's is not replaced by that."""
    hub = MemoryHub()
    old, new = await running(
        process(hub, chat=HistoryLimits(count=2)), process(hub, chat=HistoryLimits(count=7))
    )
    hub.restart(lose=True)
    await until(lambda: "rooms:chat:" in hub.settings)
    for each in (old, new, old):
        each._exchange.configuration.back()
        await until(lambda each=each: not each._exchange.configuration._turn.is_set())

    async with Publisher(MemoryBackend(hub)) as publish:
        for number in range(9):
            await publish.broadcast_to_room("chat:tea", {"type": "said", "n": number})
        assert publish._link._options.of("chat:tea").history.count == 7


async def test_a_history_that_begins_elsewhere_is_used_and_the_room_named(running, until, warnings):
    """Members here have got messages that were not kept."""
    hub = MemoryHub()
    (here,) = await running(process(hub))
    here._registry.rooms.add("chat:tea", object())
    await running(process(hub, chat=HistoryLimits()))  # which tells the others
    await until(lambda: here._options.of("chat:tea").history is not None)

    (told,) = warnings()
    assert "another process keeps a history of 'chat:tea'" in told
    here._registry.rooms.discard("chat:tea", next(iter(here._registry.in_room("chat:tea"))))


async def test_strange_settings_count_as_nothing(running, warnings):
    """Somebody's mistake, or a later version: what is known of it counts."""
    hub = MemoryHub()
    write = msgspec.msgpack.encode
    hub.settings = {
        "rooms:a:": b"?",
        "rooms:b:": write({"process": "x", "number": 1, "options": {"history": {"count": "x"}}}),
        "rooms:c:": write(
            {"process": "x", "number": 1, "options": {"history": {"count": 9}, "more": 1}}
        ),
        "rooms:d:": write({"process": "x", "number": 1, "options": {"presence_grace": -1}}),
        "other": b"",
    }
    (here,) = await running(process(hub))

    assert list(here._options.by_prefix) == ["c:"]
    assert here._options.of("c:1").history == HistoryLimits(count=9)
    assert warnings() == []


async def test_a_backend_that_cannot_store_is_told_and_tried_again(until, warnings):
    """The process starts, and goes by its own configuration."""
    backend = FaultyBackend(MemoryHub())
    backend.failing = {"remember": BackendError("memory", "full")}
    manager = WebSocketConnectionManager(backend=backend)
    manager.configure_rooms("chat:", history=HistoryLimits())
    await manager.start()
    manager._exchange.configuration.back()
    backend.mend()
    manager._exchange.configuration.back()
    await until(lambda: "rooms:chat:" in backend.hub.settings)
    await manager.stop()

    assert warnings() == [
        "could not store or read how rooms are configured; retrying: memory: full"
    ]
