"""The backend on a real NATS server, held to what every backend does."""

import asyncio

import pytest
from nats_server import NatsServer

from falcon_pachinko.backends.base import HistoryPosition, Lost, Received
from falcon_pachinko.backends.nats import NatsBackend
from falcon_pachinko.errors import BackendError
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.testing.conformance import (
    BackendConformance,
    Node,
    OutageConformance,
    StoppableServer,
    eventually,
)

LIMITS = HistoryLimits(count=10, bytes=1000, seconds=60)


class OwnNats(StoppableServer):
    shortest_ttl = 0.5

    def __init__(self, process):
        self.process = process

    def backend(self, namespace):
        return NatsBackend(f"{self.process.url}?namespace={namespace}&timeout=2&probe=0.5")

    async def interrupt(self, how):
        self.process.kill() if how == "gone" else self.process.hang()

    async def restore(self):
        await asyncio.to_thread(self.process.start)


class WipedNats(OwnNats):
    async def restore(self):
        self.process.kill()
        self.process.wipe()
        await super().restore()


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with NatsServer(tmp_path_factory.mktemp("nats")) as process:
        yield process


@pytest.fixture
async def node():
    """Start nodes of any backend; they are stopped after the test."""
    nodes = []

    async def start_one(backend):
        nodes.append(Node(backend, 20))
        await nodes[-1].start()
        return nodes[-1]

    yield start_one
    for each in nodes:
        await each.stop()


class TestNats(BackendConformance):
    @pytest.fixture
    def server(self, process):
        return OwnNats(process)

    async def test_a_stop_leaves_nothing_of_a_node(self, start, namespace):
        """Its entries, its beat and its leases are taken out of the server."""
        one, two = await start(), await start()
        await one.backend.beat(60)
        await one.backend.enter("t", {"ann": b"1"})
        assert await one.backend.acquire("l", 60)
        await one.stop()

        state = two.backend._state.stream
        assert await two.backend._streams.all(state, f"{namespace}.state.>") == []

    async def test_what_a_dead_node_left_is_swept(self, start, namespace):
        """The next beat of anybody takes its entries out, which nobody sees any more."""
        one, two = await start(), await start()
        await one.backend.beat(0.3)
        await one.backend.enter("t", {"ann": b"1"})
        state = two.backend._state.stream

        async def swept():
            await two.backend.beat(60)
            left = await two.backend._streams.all(state, f"{namespace}.state.entries.>")
            return True if not left else None

        assert await eventually(swept, 10)

    async def test_large_tables_travel(self, start):
        """Thousands of entries are entered, read and left, and one more does not write all."""
        one, two = await start(), await start()
        await one.backend.beat(60)
        entries = {f"key{number}": b"x" * 100 for number in range(3000)}
        await one.backend.enter("t", entries)
        await asyncio.gather(*(one.backend.enter("t", {f"more{n}": b""}) for n in range(50)))
        full = (await two.backend.entries("t"))[one.name]
        await one.backend.leave("t", list(entries))

        assert len(full) == 3050
        assert len((await two.backend.entries("t"))[one.name]) == 50

    async def test_other_limits_are_another_history(self, start):
        """What two versions of an app keep differently does not mix; forgetting ends both."""
        one, two = await start(), await start()
        other = HistoryLimits(count=5, bytes=1000, seconds=60)
        place = await one.backend.append("a", b"1", LIMITS)
        await two.backend.append("a", b"2", other)
        past = await two.backend.read("a", place, other)
        await one.backend.forget("a")

        assert ([each.data for each in past.entries], past.complete) == ([b"2"], False)
        for limits in (LIMITS, other):
            assert (await two.backend.read("a", HistoryPosition(), limits)).entries == ()

    async def test_a_stream_that_somebody_deleted_is_made_again(self, start):
        """An operator's hand costs the history, and not the app."""
        one = await start()
        await one.backend.append("a", b"1", LIMITS)
        stream = one.backend._histories._stream(LIMITS)
        await one.backend._streams._ask(f"STREAM.DELETE.{stream.name}", {})
        await one.backend.append("a", b"2", LIMITS)

        past = await one.backend.read("a", HistoryPosition(), LIMITS)
        assert [each.data for each in past.entries] == [b"2"]

    async def test_a_stray_entry_in_a_history_ends_nothing(self, start):
        """What somebody else wrote there says no epoch: it is left out, and all else goes on."""
        one = await start()
        place = await one.backend.append("a", b"1", LIMITS)
        stream = one.backend._histories._stream(LIMITS)
        subject = one.backend._histories._subject(stream, "a", "data")
        await one.backend._streams.put(stream, subject, b"stray")
        past = await one.backend.read("a", place, LIMITS)
        await one.backend.append("a", b"2", LIMITS)
        at_last = await one.backend.read("a", place, LIMITS)

        assert (past.entries, past.complete) == ((), True)
        assert ([each.data for each in at_last.entries], at_last.complete) == ([b"2"], True)

    async def test_forged_headers_are_only_bytes(self, start, namespace):
        """Who publishes to a subject can pretend nothing that makes a reader stumble."""
        one, two = await start(), await start()
        await one.backend.subscribe(["a"])
        link = two.backend._link
        for offset in ("", "-1", "x", "9" * 5000, "\u0663"):
            headers = {"Pachinko-Epoch": "e", "Nats-Sequence": offset}
            await link._client.publish(f"{namespace}.pub.a", b"!", headers=headers)
        await two.backend.publish([("a", b"end")])

        heard = await one.hears(6)
        assert heard == [Received("a", b"!")] * 5 + [Received("a", b"end")]

    async def test_what_is_too_much_is_told(self, server, start, namespace, monkeypatch):
        """Who reads too slowly loses what has no room any more, hears so, and goes on."""
        monkeypatch.setattr("falcon_pachinko.backends.nats.AHEAD", 50_000)
        slow, one = Node(server.backend(namespace), server.patience), await start()
        await slow.start(listen=False)
        await slow.backend.subscribe(["a"])
        await one.backend.publish([("a", b"x" * 1000) for _ in range(100)])
        await slow.backend.subscribe(["b"])  # a round trip: all of it is here
        slow.listen()
        await slow.until(lambda: any(isinstance(each, Lost) for each in slow.events), "a Lost")
        kept = len(slow.received)
        await one.backend.publish([("a", b"more")])
        await slow.hears(kept + 1)
        losses = sum(isinstance(each, Lost) for each in slow.events)
        await slow.stop()

        assert 0 < kept < 100
        assert losses == 1
        assert slow.received[-1] == Received("a", b"more")


@pytest.mark.slow
class TestNatsOutages(OutageConformance):
    @pytest.fixture
    def server(self, process):
        return OwnNats(process)


@pytest.mark.slow
class TestNatsThatLosesItsDisk(OutageConformance):
    @pytest.fixture
    def server(self, tmp_path):
        with NatsServer(tmp_path) as process:
            yield WipedNats(process)


async def test_without_jetstream_channels_work_and_the_rest_says_what_to_do(tmp_path, node):
    """Rooms cross; presence, leases and history name the flag that the server was not given."""
    with NatsServer(tmp_path, jetstream=False) as process:
        one, two = await node(NatsBackend(process.url)), await node(NatsBackend(process.url))
        await one.backend.subscribe(["a"])
        await two.backend.publish([("a", b"1")])
        refused = [
            one.backend.beat(15),
            one.backend.enter("t", {"ann": b""}),
            one.backend.entries("t"),
            one.backend.acquire("l", 15),
            one.backend.append("a", b"", LIMITS),
            one.backend.read("a", HistoryPosition(), LIMITS),
            one.backend.forget("a"),
        ]
        told = await asyncio.gather(*refused, return_exceptions=True)

        assert await one.hears(1) == [Received("a", b"1")]
        assert all(isinstance(each, BackendError) for each in told)
        assert all("nats-server -js" in str(each) for each in told)
        assert one.backend.state == "up"


async def test_what_is_too_large_names_the_setting(tmp_path, node):
    """One message that the server would not take fails by itself; the rest is sent."""
    with NatsServer(tmp_path) as process:
        one = await node(NatsBackend(process.url))
        await one.backend.subscribe(["a"])
        with pytest.raises(BackendError, match="max_payload"):
            await one.backend.publish([("a", b"1"), ("a", b"x" * 9_000_000), ("a", b"2")])
        with pytest.raises(BackendError, match="max_payload"):
            await one.backend.append("a", b"x" * 9_000_000, LIMITS)

        assert [each.data for each in await one.hears(2)] == [b"1", b"2"]
        assert one.states == ["up"]


@pytest.mark.parametrize(
    ("settings", "right", "wrong"),
    [
        ("authorization { user: pach, password: 's@same:!' }", "pach:s%40same%3A!", "pach:abra"),
        ("authorization { token: 's@same' }", "s%40same", "abra"),
    ],
)
async def test_credentials_open_the_door_and_stay_secret(tmp_path, node, settings, right, wrong):
    """A user and a password, or a token; a refusal says so without them."""
    with NatsServer(tmp_path, settings=settings) as process:
        host = process.url.removeprefix("nats://")
        one = await node(NatsBackend(f"nats://{right}@{host}"))
        two = await node(NatsBackend(f"nats://{wrong}@{host}"))
        await two.is_now("degraded")

        assert one.backend.state == "up"
        told = repr(two.events) + two.backend.name + one.backend.name
        assert "uthorization" in told
        assert "abra" not in told
        assert "same" not in told


async def test_any_namespace_names_streams(tmp_path, node):
    """What the server allows in no name of a stream is written otherwise."""
    with NatsServer(tmp_path) as process:
        one = await node(NatsBackend(f"{process.url}?namespace=a/b.c*:>%C3%A9"))
        two = await node(NatsBackend(f"{process.url}?namespace=a/b"))
        await two.backend.beat(15)
        await two.backend.append("a", b"other", LIMITS)
        place = await one.backend.append("a", b"1", LIMITS)

        assert list(await one.backend.beat(15)) == [one.name]
        assert [each.data for each in (await one.backend.read("a", place, LIMITS)).entries] == []
        await one.backend.forget("a")
        assert (await one.backend.read("a", place, LIMITS)).entries == ()
        past = await two.backend.read("a", HistoryPosition(), LIMITS)
        assert [each.data for each in past.entries] == [b"other"]


async def test_another_server_takes_over(tmp_path, node):
    """Of several servers in the URL, any that is there will do."""
    with NatsServer(tmp_path) as process:
        dead, host = "127.0.0.1:9", process.url.removeprefix("nats://")
        for _ in range(6):  # either may be tried first
            one = await node(NatsBackend(f"nats://{dead},{host}?timeout=5&probe=0.1"))
            await one.backend.publish([("a", b"1")])
            await one.is_now("up")

            assert one.states == ["up"]
            assert one.backend.name == f"nats://127.0.0.1:9,{host}"
