"""The backend on a real Redis, held to what every backend does."""

import pytest
from redis_server import RedisServer

from falcon_pachinko.backends.base import HistoryPosition, Lost
from falcon_pachinko.backends.redis import RedisBackend
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


class OwnRedis(StoppableServer):
    shortest_ttl = 0.3

    def __init__(self, process):
        self.process = process

    def backend(self, namespace):
        return RedisBackend(f"{self.process.url}?namespace={namespace}&timeout=2&probe=0.5")

    async def interrupt(self, how):
        self.process.kill() if how == "gone" else self.process.hang()

    async def restore(self):
        self.process.start()


@pytest.fixture(scope="module")
def process():
    with RedisServer() as process:
        yield process


class TestRedis(BackendConformance):
    @pytest.fixture
    def server(self, process):
        return OwnRedis(process)

    async def test_scripts_that_the_server_forgot_are_given_again(self, process, start):
        """SCRIPT FLUSH, as an administrator does it, costs nothing but a round trip."""
        one = await start()
        process.ask("SCRIPT", "FLUSH")

        assert (await one.backend.append("a", b"1", LIMITS)).offset == 1

    async def test_a_stop_leaves_no_key_but_the_last_token(self, process, start, namespace):
        """What a node kept for itself goes with it; histories end by their own time."""
        one = await start()
        await one.backend.beat(60)
        await one.backend.enter("t", {"ann": b"1"})
        assert await one.backend.acquire("l", 60)
        await one.backend.append("a", b"1", LIMITS)
        await one.backend.forget("a")
        await one.stop()

        assert process.ask("KEYS", f"{namespace}*") == [f"{namespace}:tokens".encode()]

    async def test_what_a_dead_node_left_is_swept(self, process, start, namespace):
        """The next beat of anybody deletes its entries, which nobody sees any more."""
        one, two = await start(), await start()
        await one.backend.beat(0.2)
        await one.backend.enter("t", {"ann": b"1"})
        pattern = f"{namespace}:*{one.name}*"

        async def swept():
            await two.backend.beat(60)
            return None if process.ask("KEYS", pattern) else True

        assert process.ask("KEYS", pattern)
        assert await eventually(swept, 10)

    async def test_every_key_of_a_history_ends_by_itself(self, process, start, namespace):
        """Rooms that nobody uses any more cost nothing in the long run."""
        one = await start()
        await one.backend.read("a", HistoryPosition(), LIMITS)
        await one.backend.append("b", b"1", LIMITS)
        keys = process.ask("KEYS", f"{namespace}*")

        assert len(keys) == 3
        assert all(0 < process.ask("TTL", key) <= 60 for key in keys)

    async def test_a_history_whose_messages_were_evicted_is_not_complete(
        self, process, start, namespace
    ):
        """A server short of memory may drop keys; what is missing then is told."""
        one = await start()
        place = await one.backend.append("a", b"1", LIMITS)
        await one.backend.append("a", b"2", LIMITS)
        process.ask("DEL", f"{namespace}:k:a")
        past = await one.backend.read("a", place, LIMITS)

        assert (past.entries, past.complete) == ((), False)

    @pytest.mark.parametrize("where", ["before", "between", "behind"])
    async def test_a_stray_entry_in_a_history_changes_no_place(
        self, process, start, namespace, where
    ):
        """Offsets are stored with their entries: what somebody else put there counts as nothing."""
        one = await start()
        for data in (b"1", b"2", b"3"):
            await one.backend.append("a", data, LIMITS)
        before = await one.backend.read("a", HistoryPosition(), LIMITS)
        (key,) = process.ask("KEYS", f"{namespace}:k:*")
        strays = [b"junk", b"", b"1" * 13 + b"\x01forged", b"1" * 13 + b"0:1:forged"]
        for stray in strays:
            if where == "before":
                process.ask("LPUSH", key, stray)
            elif where == "between":
                process.ask("LINSERT", key, "AFTER", process.ask("LINDEX", key, "0"), stray)
            else:
                process.ask("RPUSH", key, stray)
        epoch = before.position.epoch
        after = await one.backend.read("a", HistoryPosition(epoch, 1), LIMITS)
        place = await one.backend.append("a", b"4", LIMITS)
        at_last = await one.backend.read("a", HistoryPosition(epoch, 1), LIMITS)

        assert [tuple(each) for each in after.entries] == [(2, b"2"), (3, b"3")]
        assert after.complete
        assert place == HistoryPosition(epoch, 4)
        assert [tuple(each) for each in at_last.entries] == [(2, b"2"), (3, b"3"), (4, b"4")]
        assert at_last.complete

    async def test_a_history_that_lost_a_message_is_not_complete(self, process, start, namespace):
        """Somebody took one out of the middle: nobody is told that nothing is missing."""
        one = await start()
        for data in (b"1", b"2", b"3"):
            place = await one.backend.append("a", data, LIMITS)
        (key,) = process.ask("KEYS", f"{namespace}:k:*")
        process.ask("LREM", key, "1", process.ask("LINDEX", key, "1"))
        past = await one.backend.read("a", HistoryPosition(place.epoch, 0), LIMITS)

        assert [tuple(each) for each in past.entries] == [(1, b"1"), (3, b"3")]
        assert not past.complete

    async def test_a_large_table_is_read_at_once(self, start):
        """Tens of thousands are present in one room: reading them takes a moment."""
        one, two = await start(), await start()
        await one.backend.beat(60)
        for part in range(0, 20_000, 1_000):
            entries = {f"{number:036d}": b"x" * 60 for number in range(part, part + 1_000)}
            await one.backend.enter("room", entries)
        found = await two.backend.entries("room")

        assert len(found[one.name]) == 20_000


async def becomes(backend, state):
    async def reached():
        return True if backend.state == state else None

    await eventually(reached, 10)


async def test_channels_that_come_and_go_while_it_is_away_leave_nothing():
    """However many: when it is back, the server is told those that are wanted."""
    with RedisServer() as process:
        node = Node(OwnRedis(process).backend("away"), 10)
        await node.start()
        await node.backend.subscribe(["all"])
        process.kill()
        await becomes(node.backend, "degraded")
        for number in range(100):
            await node.backend.subscribe([f"room:{number}"])
            await node.backend.unsubscribe([f"room:{number}"])
        await node.backend.subscribe(["late"])
        kept = set(node.backend._changed)
        process.start()
        await becomes(node.backend, "up")
        live = set(node.backend._live)
        await node.stop()

    assert kept == live == {"all", "late"}


async def test_a_reader_that_is_too_slow_for_redis_is_told():
    """Redis cuts a subscriber it has no room for: what it dropped is Lost, and the rest goes on."""
    options = ("--client-output-buffer-limit", "pubsub", "1mb", "1mb", "1")
    with RedisServer(*options) as process:
        server = OwnRedis(process)
        slow, one = (Node(server.backend("slow"), server.patience) for _ in "12")
        await slow.start(listen=False)
        await one.start()
        await slow.backend.subscribe(["a"])
        for number in range(100):
            await one.backend.publish([("a", b"%03d" % number + b"x" * 524_288)])
        slow.listen()
        await slow.until(lambda: any(isinstance(each, Lost) for each in slow.events), "a Lost")
        await slow.is_now("up", len(slow.events) - 1)
        await one.backend.publish([("a", b"end")])
        await slow.until(lambda: slow.received[-1].data == b"end", "the end")
        await slow.stop()
        await one.stop()

    numbers = [int(each.data[:3]) for each in slow.received[:-1]]
    assert numbers == sorted(set(numbers))
    assert 0 < len(numbers) < 100


async def test_a_server_that_refuses_is_told():
    """What Redis says goes into the error, and the connection lives."""
    with RedisServer("--maxmemory", "100kb") as process:
        node = Node(OwnRedis(process).backend("full"), 10)
        await node.start()
        with pytest.raises(BackendError, match="OOM"):
            await node.backend.append("a", b"1", LIMITS)
        await node.backend.subscribe(["a"])
        await node.backend.publish([("a", b"1")])

        assert [each.data for each in await node.hears(1)] == [b"1"]
        await node.stop()


@pytest.mark.slow
class TestRedisOutages(OutageConformance):
    @pytest.fixture
    def server(self, process):
        return OwnRedis(process)
