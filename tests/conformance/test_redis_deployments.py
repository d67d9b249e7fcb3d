"""The backend on Redis as people deploy it: with TLS, Sentinels, as a Cluster, as another fork."""

import asyncio
import contextlib
import itertools

import pytest
from certificates import Certificates
from redis_server import RedisCluster, RedisServer, Sentinels, free_port

from falcon_pachinko.backends.base import HistoryPosition, Lost
from falcon_pachinko.backends.redis import RedisBackend
from falcon_pachinko.errors import BackendError
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.testing.conformance import (
    BackendConformance,
    BackendServer,
    Node,
    eventually,
)

pytestmark = pytest.mark.slow

LIMITS = HistoryLimits(count=10, bytes=1000, seconds=60)
QUICK = "timeout=2&probe=0.2"


@pytest.fixture
async def start():
    """Start a backend; it is stopped with the test."""
    async with contextlib.AsyncExitStack() as nodes:

        async def start(url, **options):
            query = "&" if "?" in url else "?"
            node = Node(RedisBackend(f"{url}{query}{QUICK}", **options), 10)
            nodes.push_async_callback(node.stop)
            await node.start()
            return node

        yield start


async def works(one, two):
    """Whether everything that an app uses works between two nodes."""
    before = len(two.received)
    await two.backend.subscribe(["a"])
    await one.backend.publish([("a", b"plain")])
    place = await one.backend.append("a", b"kept", LIMITS)
    arrived = (await two.hears(before + 2))[before:]
    assert [(each.data, each.position) for each in arrived] == [(b"plain", None), (b"kept", place)]
    past = await two.backend.read("a", HistoryPosition(), LIMITS)
    assert past.entries[-1].data == b"kept"
    assert {one.name, two.name} <= {*await one.backend.beat(15), *await two.backend.beat(15)}
    await one.backend.enter("t", {"ann": b"1"})
    assert (await two.backend.entries("t"))[one.name] == {"ann": b"1"}
    await one.backend.leave("t", ["ann"])
    token = await one.backend.acquire("l", 15)
    assert await one.backend.renew("l", token, 15)
    await one.backend.release("l", token)
    assert [one.backend.why, two.backend.why] == [None, None]
    return place


async def works_soon(one, two):
    """Wait until everything works: on a busy machine, Sentinels may change their mind."""
    async with asyncio.timeout(90):
        while True:
            try:
                return await works(one, two)
            except (AssertionError, BackendError):
                await asyncio.sleep(0.5)


async def is_now(node, state, *words, seconds=60):
    """Wait until a backend is in a state, for a reason with these words; return the reason."""

    async def so():
        why = node.backend.why or ""
        found = node.backend.state == state and all(word in why for word in words)
        return (why or "nothing") if found else None

    return await eventually(so, seconds)


# TLS.


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


@contextlib.contextmanager
def with_tls(certificates, *names, clients="no"):
    """Run a server that speaks TLS on a port of its own; give that port."""
    certificate, key = certificates.issue(*names)
    port = free_port()
    options = ("--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key)
    options += ("--tls-ca-cert-file", certificates.authority, "--tls-auth-clients", clients)
    with RedisServer(*map(str, options)) as server:
        server.tls_port = port
        yield server


@pytest.mark.parametrize("how", ["options", "context", "context and redis://", "credentials"])
async def test_tls_is_spoken_to_whom_it_belongs(start, certificates, how):
    """With the authority named in the URL, or a context of one's own."""
    with with_tls(certificates, "127.0.0.1", "localhost") as server:
        options = {} if how == "options" else {"ssl": certificates.trusting()}
        scheme = "redis" if how == "context and redis://" else "rediss"
        trust = f"?ssl_ca_certs={certificates.authority}" if how == "options" else ""
        if how == "credentials":
            server.ask("ACL", "SETUSER", "ann", "on", ">x", "~*", "&*", "+@all")
            options["credential_provider"] = Rotating(server)
        url = f"{scheme}://127.0.0.1:{server.tls_port}/0{trust}"
        one, two = await start(url, **options), await start(url, **options)

        await works(one, two)


class Rotating:
    """A provider of credentials, another password each time, as a cloud's is."""

    def __init__(self, server):
        self.server, self.asked = server, 0

    def get_credentials(self):
        self.asked += 1
        password = f"password-{self.asked}"
        self.server.ask("ACL", "SETUSER", "ann", "resetpass", f">{password}")
        return "ann", password

    async def get_credentials_async(self):
        return self.get_credentials()


@pytest.mark.parametrize(
    ("names", "trusted", "said"),
    [
        (["other.example"], True, "127.0.0.1"),
        (["127.0.0.1"], False, "self-signed"),
    ],
)
async def test_a_certificate_of_somebody_else_is_refused(start, certificates, names, trusted, said):
    """Another host's, and one that nobody vouches for; nothing of the password has been sent."""
    with with_tls(certificates, *names) as server:
        trust = f"?ssl_ca_certs={certificates.authority}" if trusted else ""
        node = await start(f"rediss://:sesame@127.0.0.1:{server.tls_port}/0{trust}")

        why = await is_now(node, "degraded", "certificate")
        assert said in why
        assert "sesame" not in why


async def test_a_host_name_that_is_not_to_be_checked_is_not(start, certificates):
    """Where the URL says so."""
    with with_tls(certificates, "other.example") as server:
        url = f"rediss://127.0.0.1:{server.tls_port}/0"
        trust = f"?ssl_ca_certs={certificates.authority}&ssl_check_hostname=false"

        for query in (trust, "?ssl_cert_reqs=none"):
            node = await start(url + query)
            assert (node.backend.state, node.backend.why) == ("up", None)


async def test_a_server_may_want_a_certificate_too(start, certificates):
    """Who has none is not let in."""
    with with_tls(certificates, "127.0.0.1", clients="yes") as server:
        url = f"rediss://127.0.0.1:{server.tls_port}/0?ssl_ca_certs={certificates.authority}"
        certificate, key = certificates.issue("client")
        stranger = await start(url)
        guest = await start(f"{url}&ssl_certfile={certificate}&ssl_keyfile={key}")

        await is_now(stranger, "degraded")
        assert (guest.backend.state, guest.backend.why) == ("up", None)


async def test_tls_and_none_do_not_meet(start, certificates):
    """Whoever speaks the other way is told about it; a password is never sent in clear text."""
    with with_tls(certificates, "127.0.0.1") as server:
        trust = f"?ssl_ca_certs={certificates.authority}"
        clear = await start(f"rediss://:sesame@127.0.0.1:{server.port}/0{trust}")
        tls = await start(f"redis://127.0.0.1:{server.tls_port}/0")

        for node in (clear, tls):
            assert "sesame" not in await is_now(node, "degraded")


# Sentinels.


@pytest.fixture(scope="module")
def sentinels():
    with Sentinels() as sentinels:
        yield sentinels


async def test_sentinels_name_the_primary(start, sentinels):
    """Everything works on the one that they name."""
    one, two = await start(sentinels.url), await start(sentinels.url)

    await works(one, two)

    assert one.backend._primary.host == ("127.0.0.1", sentinels.where())


async def test_a_failover_is_followed(start, sentinels):
    """All meet on the new primary, are told of the loss, and no position of before is valid."""
    one, two = await start(sentinels.url), await start(sentinels.url)
    place = await works(one, two)
    before, events = sentinels.where(), len(one.events)

    await asyncio.to_thread(sentinels.fail_over)

    for node in (one, two):
        await eventually(lambda node=node: has_moved(node, sentinels, before), 60)
    assert any(isinstance(each, Lost) for each in one.events[events:])
    past = await one.backend.read("a", place, LIMITS)
    assert not past.complete
    assert past.position.epoch != place.epoch
    await works_soon(one, two)


async def has_moved(node, sentinels, before):
    port = await asyncio.to_thread(sentinels.where)
    up = node.backend.state == "up" and node.backend._primary.host == ("127.0.0.1", port)
    return True if up and port != before else None


@pytest.mark.parametrize("how", ["kill", "hang"])
async def test_a_primary_that_dies_or_hangs_is_replaced(start, how):
    """Nobody stays on it, and who was there comes to the new one."""
    with Sentinels() as sentinels:
        one, two = await start(sentinels.url), await start(sentinels.url)
        await works(one, two)
        before = sentinels.where()
        old = next(each for each in sentinels.servers if each.port == before)

        old.kill() if how == "kill" else old.hang()

        for node in (one, two):
            await eventually(lambda node=node: has_moved(node, sentinels, before), 90)
        old.start()
        await works_soon(one, two)


async def test_one_sentinel_is_enough(start, sentinels):
    """The first ones that are named need not be there."""
    hosts = sentinels.url.split("//")[1]
    dead = ",".join(f"127.0.0.1:{free_port()}" for _ in "12")
    node = await start(f"redis+sentinel://{dead},{hosts}")

    assert (node.backend.state, node.backend.why) == ("up", None)


async def test_sentinels_that_do_not_help_are_told(start, sentinels):
    """There are none, or they do not know that name; with nothing of a password."""
    nobody = await start(f"redis+sentinel://:sesame@127.0.0.1:{free_port()}/tea-time")
    unknown = await start(sentinels.url.replace("tea-time", "coffee-time"))

    assert "sesame" not in await is_now(nobody, "degraded", "no Sentinel tells")
    await is_now(unknown, "degraded", "knows no primary 'coffee-time'")
    with pytest.raises(BackendError, match="knows no primary"):
        await start(sentinels.url.replace("tea-time", "milk-time") + "?required=true")


# A Cluster.


@pytest.fixture(scope="module")
def cluster():
    with RedisCluster() as cluster:
        yield cluster


async def test_any_node_of_a_cluster_may_be_named(start, cluster):
    """All meet on the one that has their keys; there every name has the tag that puts it there."""
    urls = [f"redis://127.0.0.1:{each.port}" for each in cluster.nodes]
    several = "redis://" + ",".join(f"127.0.0.1:{each.port}" for each in cluster.nodes)
    nodes = [await start(url) for url in (*urls, several)]

    for one, two in itertools.pairwise(nodes):
        await works(one, two)

    owner, _ = cluster.owner("{pachinko}")
    assert {each.backend._primary.host for each in nodes} == {("127.0.0.1", owner.port)}
    for node in cluster.nodes:
        keys = node.ask("KEYS", "*")
        assert all(key.startswith(b"{pachinko}:") for key in keys)
        assert bool(keys) is (node is owner)


async def test_keys_that_move_are_followed(start, cluster):
    """To whichever node has them by then; what was kept moves with them."""
    url = f"redis://127.0.0.1:{cluster.nodes[0].port}?namespace=moving"
    one, two = await start(url), await start(url)
    await works(one, two)
    owner, _ = cluster.owner("{moving}")
    target = next(each for each in cluster.nodes if each is not owner)

    await asyncio.to_thread(cluster.move, "{moving}", target)

    for node in (one, two):

        async def moved(node=node):
            host = node.backend._primary.host
            up = node.backend.state == "up" and host == ("127.0.0.1", target.port)
            return True if up else None

        with contextlib.suppress(BackendError):
            await node.backend.beat(15)  # whoever asks is sent away
        await eventually(moved, 60)
    await works_soon(one, two)


async def test_a_cluster_has_one_database(start, cluster):
    """Another one is refused with a reason."""
    node = await start(f"redis://127.0.0.1:{cluster.nodes[0].port}/1")

    await is_now(node, "degraded", "database 0 only")


async def test_a_named_node_that_is_not_there_is_no_matter(start, cluster):
    """As long as one of those that are named answers."""
    node = await start(f"redis://127.0.0.1:{free_port()},127.0.0.1:{cluster.nodes[1].port}")

    assert (node.backend.state, node.backend.why) == ("up", None)


# Other programs.


class Program(BackendServer):
    shortest_ttl = 0.3

    def __init__(self, server):
        self.server = server

    def backend(self, namespace):
        return RedisBackend(f"{self.server.url}?namespace={namespace}&timeout=2&probe=0.5")


@pytest.fixture(scope="module")
def oldest():
    with RedisServer(kind="6.2") as server:
        yield server


@pytest.fixture(scope="module")
def valkey():
    with RedisServer(kind="valkey") as server:
        yield server


class TestOldestRedis(BackendConformance):
    @pytest.fixture
    def server(self, oldest):
        return Program(oldest)


class TestValkey(BackendConformance):
    @pytest.fixture
    def server(self, valkey):
        return Program(valkey)
