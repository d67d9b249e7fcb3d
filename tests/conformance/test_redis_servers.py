"""The backend on Redis servers as people have them: replicas, rights, little memory, restarts."""

import asyncio
import contextlib

import pytest
from backend_trials import all_works, is_explained
from redis_server import RedisServer

from falcon_pachinko import WebSocketConnectionManager
from falcon_pachinko.backends.base import Explained, HistoryPosition, Lost, StateChanged
from falcon_pachinko.backends.redis import RedisBackend
from falcon_pachinko.errors import BackendError
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.testing.conformance import Node, eventually

pytestmark = pytest.mark.slow

LIMITS = HistoryLimits(count=10, bytes=1000, seconds=60)
QUICK = "timeout=2&probe=0.2"

# What the scripts and the two connections use, and nothing besides.
NEEDED = """
    publish subscribe unsubscribe ping evalsha eval script|load info client|setname select
    time get set del exists pexpire pexpireat hmget hset hdel hgetall lindex lpop rpush lrange
    sadd srem smembers zadd zrem zscore zrangebyscore
"""


@pytest.fixture
def redis():
    with RedisServer() as server:
        yield server


@pytest.fixture
async def started():
    """Start a backend of a server, or of a URL; it is stopped with the test."""
    async with contextlib.AsyncExitStack() as nodes:

        async def start(where, *, user="", db=0, query="", **options):
            url = where
            if isinstance(where, RedisServer):
                login = f"{user}@" if user else ""
                url = f"redis://{login}127.0.0.1:{where.port}/{db}?{QUICK}{query}"
            node = Node(RedisBackend(url, **options), 20)
            nodes.push_async_callback(node.stop)
            await node.start()
            return node

        yield start


def user(redis, name, *rules):
    """Make a user, whose password is x."""
    redis.ask("ACL", "SETUSER", name, "on", ">x", *rules)
    return f"{name}:x"


async def works(one, two):
    """Whether everything that an app uses works between two nodes, settings included."""
    await all_works(one, two)
    assert await one.backend.remember({"s": b"1"}) == {}
    assert await two.backend.remember({"s": b"2"}) == {"s": b"1"}
    assert await one.backend.recall() == {"s": b"2"}


async def test_two_databases_are_two_clusters(redis, started):
    """Nothing crosses from one database to another: no message, no presence, no lease, no key."""
    here, there = await started(redis), await started(redis, db=3)
    await here.backend.subscribe(["a"])
    await there.backend.subscribe(["a"])
    await there.backend.publish([("a", b"theirs")])
    await there.backend.append("a", b"theirs", LIMITS)
    await there.backend.enter("t", {"ann": b"1"})
    await there.backend.beat(15)
    assert await there.backend.acquire("l", 15)
    await here.backend.publish([("a", b"ours")])

    assert [each.data for each in await here.hears(1)] == [b"ours"]
    assert await here.backend.entries("t") == {}
    assert list(await here.backend.beat(15)) == [here.name]
    assert await here.backend.acquire("l", 15)
    assert (await here.backend.read("a", HistoryPosition(), LIMITS)).entries == ()
    assert all(name.startswith(b"pachinko:3:") for name in redis_keys(redis, 3))


def redis_keys(redis, db):
    import redis as client  # noqa: PLC0415  # the fixture has its name

    with client.Redis(port=redis.port, db=db, protocol=2) as connection:
        return connection.keys("*")


# Who is not the primary.


async def test_a_replica_is_not_talked_to(redis, started):
    """Neither at the start, nor when it was required; the reason names it and its primary."""
    with RedisServer("--replicaof", "127.0.0.1", str(redis.port)) as replica:
        await asyncio.to_thread(settle, replica)
        node = await started(replica)

        why = await is_explained(node, "degraded", "read-only replica", str(redis.port))
        assert str(replica.port) in why
        with pytest.raises(BackendError, match="read-only replica"):
            await started(replica, query="&required=true")


def settle(replica):
    """Wait until a replica has what its primary has."""
    while b"master_link_status:up" not in replica.ask_raw("INFO", "replication"):
        pass


async def test_a_primary_that_became_a_replica_is_left(redis, started):
    """Nobody is told that what goes there is published; on the return, a loss is told."""
    with RedisServer() as other:
        node = await started(redis)
        await node.backend.subscribe(["a"])
        redis.ask("REPLICAOF", "127.0.0.1", str(other.port))

        await is_explained(node, "degraded", "replica")
        with pytest.raises(BackendError, match="not connected now"):
            await node.backend.publish([("a", b"1")])
        with pytest.raises(BackendError):
            await node.backend.append("a", b"1", LIMITS)
        assert node.backend.failed_calls >= 2
        redis.ask("REPLICAOF", "NO", "ONE")
        await is_explained(node, "up")
        told = [type(each) for each in node.events]
        assert told[-2:] == [Lost, StateChanged]


# What a user may not do.


async def test_the_rights_that_are_documented_are_enough(redis, started):
    """With exactly those, everything works and nothing is explained."""
    rights = [f"+{each}" for each in NEEDED.split()]
    login = user(redis, "app", "~pachinko:*", "resetchannels", "&pachinko:*", "-@all", *rights)
    one, two = await started(redis, user=login), await started(redis, user=login)

    await works(one, two)

    assert [each.backend.why for each in (one, two)] == [None, None]


@pytest.mark.parametrize("dropped", ["evalsha", "script|load", "client|setname", "select"])
async def test_a_right_that_can_be_spared_changes_nothing(redis, started, dropped):
    """Scripts are sent whole where their digests may not be used; names are for people."""
    rights = [f"+{each}" for each in NEEDED.split() if each != dropped]
    login = user(redis, "app", "~pachinko:*", "resetchannels", "&pachinko:*", "-@all", *rights)
    one, two = await started(redis, user=login), await started(redis, user=login)

    await works(one, two)

    assert one.backend.why is None


@pytest.mark.parametrize(
    ("dropped", "lacking"),
    [
        ("info", ["telling of a restart"]),
        ("rpush", ["no histories"]),
        ("hmget", ["no histories"]),
        ("lrange", ["no histories"]),
        ("hdel", ["no presence"]),
        ("zrangebyscore", ["no presence"]),
        ("hgetall", ["no presence"]),
        ("get", ["no leases"]),
        ("time", ["no presence", "no histories", "no leases"]),
    ],
)
async def test_a_right_that_lacks_is_told(redis, started, dropped, lacking):
    """Plain messages work; the reason says what does not, and which command to allow."""
    rights = [f"+{each}" for each in NEEDED.split() if each != dropped]
    login = user(redis, "app", "~pachinko:*", "resetchannels", "&pachinko:*", "-@all", *rights)
    node = await started(redis, user=login)

    assert node.backend.state == "up"
    assert f"may not use {dropped.upper()}; add +{dropped}" in node.backend.why
    assert all(each in node.backend.why for each in lacking)
    assert node.backend.why.count("no ") == len(lacking)
    with pytest.raises(BackendError, match=dropped.upper()):
        await started(redis, user=login, query="&required=true")


async def test_a_right_that_is_given_is_noticed(redis, started):
    """Without a restart: the self-test is done again, and the log is told."""
    rights = [f"+{each}" for each in NEEDED.split() if each not in {"eval", "evalsha"}]
    login = user(redis, "app", "~pachinko:*", "resetchannels", "&pachinko:*", "-@all", *rights)
    node = await started(redis, user=login)
    assert "no presence, no histories, no leases" in node.backend.why
    with pytest.raises(BackendError, match="may not use EVAL"):
        await node.backend.beat(15)

    redis.ask("ACL", "SETUSER", "app", "+eval", "+evalsha")

    await is_explained(node, "up", "")
    assert await eventually(lambda: is_true(node.backend.why is None), 20)
    assert node.events[-1] == Explained(None)
    assert await node.backend.beat(15)


async def is_true(value):
    return value or None


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["~*", "resetchannels", "+@all"], "may not use these channels; add &"),
        (["~*", "&*", "+@all", "-subscribe"], "may not use SUBSCRIBE; add +subscribe"),
        (["~*", "&*", "+@all", "-publish"], "may not use PUBLISH; add +publish"),
    ],
)
async def test_without_messages_it_is_degraded(redis, started, rules, said):
    """Who may not publish, or not listen, is told so, and that is no outage."""
    node = await started(redis, user=user(redis, "app", "-@all", *rules))

    assert node.backend.state == "degraded"
    assert said in node.backend.why


async def test_keys_that_may_not_be_used_are_told(redis, started):
    """The reason says which pattern to allow."""
    node = await started(redis, user=user(redis, "app", "~other:*", "&*", "+@all"))

    assert node.backend.state == "up"
    assert "no presence, no histories, no leases" in node.backend.why
    assert "these keys; add ~" in node.backend.why


@pytest.mark.parametrize(
    ("login", "db", "said"),
    [
        ("nobody:sesame", 0, "does not accept the user or the password"),
        (":sesame", 0, "password"),
        ("", 99, "no database of that number"),
    ],
)
async def test_who_is_not_let_in_is_told_why(redis, started, caplog, login, db, said):
    """It is told once, in words of its own; nothing of a password is told."""
    node = await started(redis, user=login, db=db)
    assert said in node.backend.why
    await asyncio.sleep(0.5)  # some more attempts

    reasons = [each for each in node.events if isinstance(each, (StateChanged, Explained))]
    assert len(reasons) == 1
    assert "sesame" not in f"{node.backend.why} {reasons}"


async def test_a_server_that_wants_a_password_is_told(started):
    """Whoever gives none learns where to write it."""
    with RedisServer("--requirepass", "x") as closed:
        node = await started(closed)

        assert node.backend.state == "degraded"
        assert "it wants a password" in node.backend.why


@pytest.mark.parametrize("command", ["CLIENT", "SCRIPT", "EVALSHA", "INFO", "EVAL", "TIME"])
async def test_a_command_that_was_renamed_is_done_without_or_told(started, tmp_path, command):
    """As providers do it."""
    settings = tmp_path / "redis.conf"
    settings.write_text(f'rename-command {command} ""\n')
    with RedisServer(settings=settings) as redis:
        one, two = await started(redis), await started(redis)

        assert one.backend.state == "up"
        if command in {"CLIENT", "SCRIPT", "EVALSHA"}:
            await works(one, two)
            assert one.backend.why is None
        elif command == "EVAL":  # scripts are loaded, and need it not
            await works(one, two)
        else:
            assert command in one.backend.why


# What it cannot do now.


async def test_a_full_memory_is_told_until_it_is_not(redis, started):
    """Plain messages go on; the reason says what does not, and goes when there is room."""
    one, two = await started(redis), await started(redis)
    redis.ask("CONFIG", "SET", "maxmemory", "1mb")
    redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")

    why = await is_explained(two, "up", "memory is full")
    assert "no presence, no histories" in why
    before = one.backend.failed_calls
    with pytest.raises(BackendError, match="memory is full"):
        await one.backend.append("a", b"1", LIMITS)
    assert one.backend.failed_calls == before + 1
    await two.backend.subscribe(["a"])
    await one.backend.publish([("a", b"plain")])
    assert [each.data for each in await two.hears(1)] == [b"plain"]

    redis.ask("CONFIG", "SET", "maxmemory", "0")
    for each in (one, two):
        assert await eventually(lambda each=each: is_true(each.backend.why is None), 20)
    assert (await one.backend.append("a", b"1", LIMITS)).offset == 1


async def test_a_memory_that_is_full_for_a_moment_costs_no_history(redis):
    """A sender waits for it; what was kept before stays."""
    manager = WebSocketConnectionManager(backend=f"redis://127.0.0.1:{redis.port}?probe=30")
    manager.configure_rooms("kept:", history=LIMITS)
    await manager.start()
    await manager.broadcast_to_room("kept:a", {"type": "n", "payload": 1})
    redis.ask("CONFIG", "SET", "maxmemory", "1mb")
    saying = asyncio.ensure_future(manager.broadcast_to_room("kept:a", {"type": "n", "payload": 2}))
    await asyncio.sleep(0.02)
    early = saying.done()
    redis.ask("CONFIG", "SET", "maxmemory", "0")
    delivery = await saying

    assert not early
    assert delivery.published
    assert [each["payload"] for each in await manager.history("kept:a")] == [1, 2]
    await manager.stop()


async def test_too_few_replicas_are_told(redis, started):
    """The server refuses what it cannot keep safe."""
    node = await started(redis)
    redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")

    await is_explained(node, "up", "min-replicas-to-write")


async def test_since_tells_when_the_reason_began(redis, started):
    """The time of this state or reason, in UTC; a reason that stays keeps it."""
    node = await started(redis)
    up = node.backend.since
    redis.kill()
    await is_explained(node, "degraded")
    down = node.backend.since
    redis.start()
    await is_explained(node, "up")

    assert up < down < node.backend.since
    assert up.tzinfo is not None


# What was lost meanwhile.


@pytest.mark.parametrize("lost", ["nothing", "the end"])
async def test_no_position_is_valid_after_a_restart(started, tmp_path, lost):
    """The server came back with what it had saved; nobody can know whether that is all."""
    with RedisServer("--dir", str(tmp_path)) as redis:
        node = await started(redis)
        first = await node.backend.append("a", b"1", LIMITS)
        redis.ask("SAVE")
        if lost == "the end":
            await node.backend.append("a", b"2", LIMITS)
        redis.kill()
        redis.start()
        await is_explained(node, "degraded", "")
        await is_explained(node, "up")

        past = await node.backend.read("a", first, LIMITS)
        assert not past.complete
        assert past.position.epoch != first.epoch
        place = await node.backend.append("a", b"3", LIMITS)
        assert place.epoch == past.position.epoch


async def test_a_failover_to_a_replica_ends_every_epoch(redis, started):
    """The replica may lack what the primary had kept last."""
    with RedisServer("--replicaof", "127.0.0.1", str(redis.port)) as replica:
        await asyncio.to_thread(settle, replica)
        node = await started(redis)
        place = await node.backend.append("a", b"1", LIMITS)
        await asyncio.to_thread(redis.ask, "WAIT", "1", "10000")
        redis.kill()
        replica.ask("REPLICAOF", "NO", "ONE")
        other = await started(replica)

        past = await other.backend.read("a", place, LIMITS)
        assert not past.complete
        assert past.position.epoch != place.epoch


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_dying_server_costs_no_broadcast(loop):
    """No call of the manager raises while it goes, on whatever event loop: members are local."""
    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None

    async def broadcast_while_it_dies():
        with RedisServer() as server:
            manager = WebSocketConnectionManager(backend=f"redis://127.0.0.1:{server.port}?{QUICK}")
            manager.configure_rooms("kept:", history=LIMITS)
            await manager.start()
            for number in range(60):
                if number == 20:
                    server.kill()
                for room in ("plain:a", "kept:a"):
                    await manager.broadcast_to_room(room, {"type": "n", "payload": number})
            await manager.stop()
            return number

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(broadcast_while_it_dies()) == 59


# Many tables.


@pytest.mark.parametrize("how", ["died", "stopped"])
async def test_what_a_node_left_is_taken_out_in_pieces(redis, started, how):
    """However many tables it was in, no call takes out more than some of them."""
    one, two = await started(redis), await started(redis)
    await one.backend.beat(0.5 if how == "died" else 60)
    for start in range(0, 5000, 500):
        names = (f"t{number}" for number in range(start, start + 500))
        await asyncio.gather(*(one.backend.enter(name, {"ann": b"1"}) for name in names))
    assert len(await one.backend.tables()) == 5000
    before = evaluations(redis)

    if how == "stopped":
        await one.stop()
    else:
        pattern = f"pachinko:*{one.name}*"

        async def is_gone():
            await two.backend.beat(60)
            return None if redis.ask("KEYS", pattern) else True

        await eventually(is_gone, 20)

    assert evaluations(redis) - before >= 5
    assert redis.ask("KEYS", "pachinko:[ent]:*") == []


def evaluations(redis):
    return redis.ask("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
