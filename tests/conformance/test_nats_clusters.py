"""The backend on a NATS cluster: replicated streams, leaders that go, routes that break."""

import asyncio
import contextlib
import json
import ssl

import nats
import pytest
import trustme
from fault_proxy import FaultProxy
from nats_server import NatsCluster, NatsServer, free_ports

from falcon_pachinko.backends.base import HistoryPosition, Received
from falcon_pachinko.backends.nats import NatsBackend
from falcon_pachinko.backends.nats.names import token
from falcon_pachinko.cluster.node import Node as ClusterNode
from falcon_pachinko.cluster.parcels import Broadcast
from falcon_pachinko.errors import BackendError
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.testing.conformance import (
    BackendConformance,
    BackendServer,
    Node,
    eventually,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LIMITS = HistoryLimits(count=5000, bytes=100_000_000, seconds=120)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A cluster that nobody breaks."""
    with NatsCluster(tmp_path_factory.mktemp("three")) as cluster:
        yield cluster


@pytest.fixture
def cluster(tmp_path):
    """A cluster that a test may break."""
    with NatsCluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
async def started():
    async with contextlib.AsyncExitStack() as nodes:

        async def start(where, query="replicas=3"):
            times = "" if "timeout=" in query else "timeout=4&probe=1&"
            node = Node(NatsBackend(f"{where.url}?{times}{query}"), 60)
            nodes.push_async_callback(node.stop)
            await node.start()
            await node.is_now("up")
            return node

        yield start


@contextlib.asynccontextmanager
async def operator(cluster):
    """Ask JetStream as an operator does, of any server that is there."""
    client = await nats.connect(
        cluster.url.split(","), connect_timeout=5, error_cb=_ignore, max_reconnect_attempts=3
    )

    async def ask(what, question=None):
        subject = f"$JS.API.{what}"
        answer = await client.request(subject, json.dumps(question or {}).encode(), timeout=10)
        return json.loads(answer.data)

    yield ask
    await client.close()


async def _ignore(_error):
    """Say nothing on stderr."""


async def leader(cluster, stream):
    """Return the number of the server that leads a stream."""
    async with operator(cluster) as ask:

        async def found():
            answer = await ask(f"STREAM.INFO.{stream}")
            return answer.get("cluster", {}).get("leader")

        return int((await eventually(found, 60)).removeprefix("n"))


class Settled(NatsBackend):
    """Waits until all servers know of a subscription: none tells a client when they do."""

    def __init__(self, url, cluster, number):
        super().__init__(url)
        self._cluster, self._number = cluster, number

    async def subscribe(self, channels):
        await super().subscribe(channels)
        for channel in list(channels)[-1:]:
            subject = f"{token(self.settings.namespace)}.pub.{token(channel)}"
            await asyncio.to_thread(self._cluster.wait_for_interest, self._number, subject)


class Replicated(BackendServer):
    """Each process is on another server of a cluster."""

    shortest_ttl = 1.0
    patience = 60.0

    def __init__(self, cluster, query):
        self.cluster, self.query, self.count = cluster, query, 0

    def backend(self, namespace):
        self.count += 1
        number = self.count % 3
        query = f"namespace={namespace}&timeout=5&probe=1&{self.query}"
        return Settled(f"{self.cluster.servers[number].url}?{query}", self.cluster, number)


class TestReplicatedNats(BackendConformance):
    @pytest.fixture
    def server(self, three):
        return Replicated(three, "replicas=3")


class TestNatsWithTheStreamsElsewhere(BackendConformance):
    @pytest.fixture
    def server(self, three):
        return Replicated(three, "replicas=1")


async def test_streams_are_replicated(three, started):
    """?replicas=3 makes each stream with three copies."""
    one = await started(three, "replicas=3&namespace=copies")
    await one.backend.beat(15)
    await one.backend.append("a", b"1", LIMITS)
    async with operator(three) as ask:
        names = (await ask("STREAM.NAMES", {"subject": "copies.>"}))["streams"]
        copies = [(await ask(f"STREAM.INFO.{name}"))["config"]["num_replicas"] for name in names]

    assert copies == [3, 3]


@pytest.mark.parametrize("at_once", [1, 5, 20, 100])
async def test_concurrent_writers_are_all_kept(three, started, at_once):
    """Of many that write to one channel at once, on all servers, none is refused."""
    nodes = [await started(each, f"replicas=3&namespace=w{at_once}") for each in three.servers]
    await nodes[0].backend.subscribe(["a"])
    places = []
    for start in range(0, max(40, at_once), at_once):
        places += await asyncio.gather(
            *(
                nodes[number % 3].backend.append("a", b"%d" % number, LIMITS)
                for number in range(start, start + at_once)
            )
        )
    past = await nodes[1].backend.read("a", HistoryPosition(), LIMITS)

    assert len({place.epoch for place in places}) == 1
    assert len(past.entries) == len(places) == len(set(places))
    assert [each.position.offset for each in await nodes[0].hears(len(places))] == [
        each.offset for each in past.entries
    ]


async def test_a_follower_that_lags_behind_hides_nothing(cluster, started):
    """Who reads by its server gets all that was kept before, or is told that it is not all."""
    seed = await started(cluster)
    await seed.backend.append("warm", b"", LIMITS)
    stream = seed.backend._histories._stream(LIMITS).name
    led = await leader(cluster, stream)
    follower = cluster.servers[(led + 1) % 3]
    one = await started(cluster.servers[led], "replicas=3&timeout=20&probe=30")
    two = await started(follower, "replicas=3&timeout=20&probe=30")
    for number in range(5):
        channel = f"c{number}"
        start = await one.backend.append(channel, b"first", LIMITS)
        await two.backend.read(channel, start, LIMITS)
        follower.hang()
        await asyncio.gather(*(one.backend.append(channel, b"x" * 200, LIMITS) for _ in range(300)))
        await asyncio.to_thread(follower.start)
        past = await two.backend.read(channel, start, LIMITS)

        assert len(past.entries) == 300
        assert past.complete


async def test_all_go_on_when_a_leader_goes(cluster, started):
    """Histories and leases stay valid, since the others have all of it, and nothing is lost."""
    nodes = [await started(cluster) for _ in range(3)]
    places = [await nodes[0].backend.append("a", b"%d" % number, LIMITS) for number in range(20)]
    token = await nodes[0].backend.acquire("l", 120)
    stream = nodes[0].backend._histories._stream(LIMITS).name
    led = await leader(cluster, stream)
    cluster.servers[led].kill()

    async def appended():
        with contextlib.suppress(BackendError):
            return await nodes[1].backend.append("a", b"after", LIMITS)

    async def read():
        with contextlib.suppress(BackendError):
            return await nodes[2].backend.read("a", places[4], LIMITS)

    async def renewed():
        with contextlib.suppress(BackendError):
            return await nodes[0].backend.renew("l", token, 120)

    after = await eventually(appended, 60)
    past = await eventually(read, 60)

    assert after.epoch == places[0].epoch
    assert past.complete
    assert [each.data for each in past.entries[:15]] == [b"%d" % n for n in range(5, 20)]
    assert past.entries[-1].data == b"after"
    assert await eventually(renewed, 60)


async def test_rooms_go_on_without_a_majority(cluster, started):
    """Of three servers one is left: plain rooms work there, and the rest says what lacks."""
    one, two = [await started(cluster.servers[0]) for _ in range(2)]
    await one.backend.beat(60)
    cluster.servers[1].kill()
    cluster.servers[2].kill()
    await two.backend.subscribe(["a"])

    async def is_explained():
        why = one.backend.why or ""
        return True if "no presence" in why and "no histories" in why else None

    await eventually(is_explained, 60)
    for number in range(50):
        await one.backend.publish([("a", b"%d" % number)])
        await asyncio.sleep(0.1)

    assert len(await two.hears(50)) == 50
    assert one.states == two.states == ["up"]


async def test_another_server_of_the_cluster_is_found(cluster, started):
    """A URL that names one is enough: the others are told by it, and used when it goes."""
    one = await started(cluster.servers[0])
    two = await started(cluster.servers[1])
    await one.backend.subscribe(["a"])
    before = len(one.events)
    cluster.servers[0].kill()
    await one.is_now("up", before)

    async def crossed():
        await two.backend.publish([("a", b"1")])
        return True if Received("a", b"1") in one.received else None

    assert await eventually(crossed, 30)


# Apart from the other tests, whose streams have three copies.
SINGLE = "replicas=1&namespace=single"


async def test_the_restart_of_a_streams_only_server_ends_its_epochs(cluster, started):
    """Whoever is connected to another server, and never was cut off, sees that too."""
    seed = await started(cluster, SINGLE)
    await seed.backend.append("a", b"0", LIMITS)
    stream = seed.backend._histories._stream(LIMITS).name
    led = await leader(cluster, stream)
    other = cluster.servers[(led + 1) % 3]
    one, two = await started(other, SINGLE), await started(other, SINGLE)
    direct = await started(cluster.servers[led], SINGLE)
    await one.backend.subscribe(["a"])  # as whoever has members in a room
    old = await one.backend.append("a", b"1", LIMITS)
    agreed = (await direct.backend.read("a", old, LIMITS)).complete
    cluster.servers[led].kill()
    await asyncio.to_thread(cluster.servers[led].start)

    async def read():
        with contextlib.suppress(BackendError):
            return await two.backend.read("a", old, LIMITS)

    past = await eventually(read, 60)

    async def appended():
        # It may take a moment until all know, and what each calls the epoch does not count.
        with contextlib.suppress(BackendError):
            place = await one.backend.append("a", b"2", LIMITS)
            now = (await two.backend.read("a", place, LIMITS)).position
            return now if place.epoch == now.epoch else None

    settled = await eventually(appended, 60)
    again = await two.backend.read("a", HistoryPosition(), LIMITS)

    assert agreed
    assert not past.complete
    assert past.position.epoch != old.epoch
    assert again.position.epoch == settled.epoch != old.epoch
    assert {each.data for each in again.entries} == {b"2"}
    assert one.states == two.states == ["up"]


async def test_a_server_that_another_named_gets_nothing_in_clear(tmp_path, authority):
    """With tls://, those that a cluster tells of are used with TLS as well, and checked."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    secure = (
        f'tls {{ cert_file: "{tmp_path / "cert.pem"}", key_file: "{tmp_path / "key.pem"}" }}\n'
        "authorization { user: pach, password: sesame }"
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with NatsCluster(tmp_path, settings=secure) as cluster:
        first = cluster.servers[0]
        url = f"tls://pach:sesame@localhost:{first.port}?timeout=6&probe=1"
        node = Node(NatsBackend(url, tls=context), 60)
        await node.start()
        await node.is_now("up")
        before = len(node.events)
        first.kill()
        await node.is_now("up", before)
        versions = [
            each.get("tls_version")
            for server in cluster.servers[1:]
            for each in server.monitor("connz")["connections"]
        ]
        await node.stop()

    assert len(versions) == 1
    assert all(versions)


async def test_the_last_message_over_a_broken_route_is_missed(tmp_path):
    """Two servers lose sight of each other; a while after they are back, that is told."""
    places, lost = free_ports(2), []

    def settings(number, other):
        return (
            f"server_name: r{number}\ncluster {{ name: r, listen: 127.0.0.1:{places[number]}, "
            f"no_advertise: true, pool_size: -1, routes: [{other}] }}"
        )

    class App:
        """A process whose room may hear something."""

        def __init__(self, server):
            self.heard = []
            self.node = ClusterNode(
                NatsBackend(f"{server.url}?timeout=4&probe=1"), self.take, self.gap, lambda: None
            )

        async def take(self, _node, parcel, _channel, _position):
            self.heard.append(parcel.text)

        async def gap(self, gap):
            lost.append(gap.channel)

        def say(self, text):
            assert self.node.publish("room:tea", Broadcast(0, 0, "", f'"{text}"'))

    for number in range(2):
        (tmp_path / f"r{number}").mkdir()
    # Only one of them dials, by way of a wire that can be cut.
    one = NatsServer(tmp_path / "r0", jetstream=False, settings=settings(0, ""))
    async with FaultProxy(places[0]) as wire:
        dials = settings(1, f"nats://127.0.0.1:{wire.port}")
        two = NatsServer(tmp_path / "r1", jetstream=False, settings=dials)
        with one, two:
            here, there = App(one), App(two)
            for each in (here, there):
                await each.node.start()
            there.node.subscriptions.add("room:tea")
            await there.node.subscriptions.live("room:tea")

            async def crossed():
                here.say("before")
                return True if there.heard else None

            await eventually(crossed, 60)
            before = len(lost)
            wire.black_hole()
            wire.reset()

            await eventually(lambda: routes(one, 0), 60)
            here.say("lost")
            await asyncio.sleep(1)
            wire.heal()
            await eventually(lambda: routes(one, 1), 60)

            async def told():
                return True if "room:tea" in lost[before:] else None

            await eventually(told, 60)
            for each in (here, there):
                await each.node.stop()

    assert '"lost"' not in there.heard


async def routes(server, least):
    """Whether a server has this many routes, or (0) none."""
    count = (await asyncio.to_thread(server.monitor, "varz")).get("routes", 0)
    return True if (count >= least if least else not count) else None
