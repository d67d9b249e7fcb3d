"""Processes that meet on a real Redis: under load, and while it dies, hangs and comes back."""

import asyncio
import contextlib
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from fault_proxy import FaultProxy
from redis_server import RedisServer
from search_path import search_path

from falcon_pachinko.testing import HandshakeDenied, LifespanError, serve

APPS = Path(__file__).parent / "apps"
QUICK = "?probe=0.5&timeout=1.5"
BACK_WITHIN = 10  # seconds; 5 are promised, the rest is for a machine that is busy


@pytest.fixture
def redis():
    with RedisServer() as server:
        yield server


@pytest.fixture
async def processes():
    """Start server processes on one backend; they are gone after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(count, backend):
            async def one():
                env = {"BACKEND": backend, "PYTHONPATH": search_path(APPS)}
                return await stack.enter_async_context(serve("cluster:app", env=env))

            return await asyncio.gather(*(one() for _ in range(count)))

        yield start


def status(server):
    with urllib.request.urlopen(server.http_url + "/pulse", timeout=30) as answer:
        return msgspec.json.decode(answer.read())


async def until(condition, what, seconds=60):
    """Ask until it is so; return how many seconds it took."""
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < began + seconds, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def is_now(state, *servers, seconds=60):
    for server in servers:
        await until(
            lambda server=server: status(server)["backend"]["state"] == state, state, seconds
        )


def say(text):
    return {"type": "say", "payload": {"text": text}}


async def published(client, text):
    """Say something; return whether it is on its way to the other processes."""
    return (await client.request(say(text)))["payload"]


def room(name):
    return "/rooms?room=" + quote(name, safe="")


async def crosses(here, there, text):
    """Whether what is said here is heard there."""
    await published(here, text)
    return await there.expect("said")


@pytest.mark.slow
async def test_everything_crosses_in_order_under_load(redis, processes):
    """Three processes, six talkers at once: all hear all of it, each talker's in its order."""
    servers = await processes(3, redis.url)
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(server.connect(room("tea"), timeout=30))
            for server in servers
            for _ in "12"
        ]

        async def talk(me, client):
            for number in range(300):
                await client.send_json({"type": "tell", "payload": {"text": [me, number]}})

        async def listen(client):
            heard = {me: [] for me in range(6)}
            for _ in range(6 * 300):
                me, number = (await client.expect("said"))["payload"]["text"]
                heard[me].append(number)
            return heard

        heard, *_ = await asyncio.gather(
            asyncio.gather(*map(listen, clients)), *(talk(*each) for each in enumerate(clients))
        )

    assert heard == [{me: list(range(300)) for me in range(6)}] * 6
    assert [status(server)["gaps"] for server in servers] == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_an_outage_costs_local_members_nothing_and_is_told(redis, processes, how):
    """Members of one process go on talking; the others are back soon, and know of the gap."""
    one, two = await processes(2, redis.url + QUICK)
    async with (
        one.connect(room("sync")) as ann,
        one.connect(room("sync")) as bob,
        two.connect(room("sync")) as cid,
    ):
        await published(ann, "before")
        for client in (bob, cid):
            assert (await client.expect("said"))["payload"] == {"text": "before"}
        redis.kill() if how == "killed" else redis.hang()
        slowest = 0.0
        began = time.monotonic()
        while time.monotonic() < began + 4 or status(one)["backend"]["state"] == "up":
            asked = time.monotonic()
            await published(ann, "during")
            assert (await bob.expect("said"))["payload"] == {"text": "during"}
            slowest = max(slowest, time.monotonic() - asked)
        await is_now("degraded", one, two)
        lost = await published(ann, "lost")
        assert (await bob.expect("said"))["payload"] == {"text": "lost"}
        redis.start()
        began = time.monotonic()
        await is_now("up", one, two, seconds=BACK_WITHIN)
        back = time.monotonic() - began
        through = await published(ann, "after")
        told = [await cid.receive_json()]
        while told[-1] != {"type": "said", "payload": {"text": "after"}}:
            told.append(await cid.receive_json())
        while {"type": "resync", "payload": {"room": "sync"}} not in told:
            told.append(await cid.receive_json(timeout=20))

    assert not lost
    assert through
    assert slowest < 2  # an echo; a wait for Redis would take far longer than that
    assert back < BACK_WITHIN
    assert status(two)["gaps"] > 0
    assert "gap on None" in two.log
    assert "is degraded" in one.log


@pytest.mark.slow
async def test_subscribers_that_are_killed_again_and_again_come_back(redis, processes):
    """CLIENT KILL TYPE pubsub, as an administrator or a full output buffer does it."""
    one, two = await processes(2, redis.url + QUICK)
    async with one.connect(room("tea")) as ann, two.connect(room("tea")) as bob:
        for _ in range(5):
            before = status(one)["gaps"], status(two)["gaps"]
            redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda before=before: status(one)["gaps"] > before[0], "a gap")
            await until(lambda before=before: status(two)["gaps"] > before[1], "a gap")
        await is_now("up", one, two)

        assert await crosses(ann, bob, "still here")


@pytest.mark.slow
async def test_a_process_starts_before_its_redis(redis, processes):
    """It serves its own clients, says so in one line, and joins the others when it can."""
    redis.kill()
    one, two = await processes(2, redis.url + QUICK)
    async with one.connect(room("tea")) as ann, two.connect(room("tea")) as bob:
        alone = await published(ann, "anybody?")
        before = status(one)["backend"]["state"]
        redis.start()
        await is_now("up", one, two)

        assert (alone, before) == (False, "degraded")
        assert await crosses(ann, bob, "hello")
    assert f"backend redis://127.0.0.1:{redis.port}/0 is degraded: " in one.log
    assert "Traceback" not in one.log


async def test_a_required_redis_ends_the_start(redis, processes):
    """With required=true the process does not start, and the log says what to look at."""
    redis.kill()
    with pytest.raises(LifespanError) as failed:
        await processes(1, f"redis://:sesame@127.0.0.1:{redis.port}/0?required=true")

    assert f"redis://127.0.0.1:{redis.port}/0: " in str(failed.value)
    assert "required=true" in str(failed.value)
    assert "Traceback" not in str(failed.value)
    assert "sesame" not in str(failed.value)


@pytest.mark.slow
async def test_a_wrong_password_is_told_without_it(processes):
    """Which server, and what it said; never the password."""
    with RedisServer("--requirepass", "sesame") as guarded:
        right = guarded.url.replace("//", "//:sesame@")
        (one,) = await processes(1, right)
        (two,) = await processes(1, guarded.url.replace("//", "//:abracadabra@"))

        assert status(one)["backend"]["state"] == "up"
        assert status(two)["backend"]["state"] == "degraded"
    assert "does not accept the user or the password" in two.log
    assert "abracadabra" not in two.log
    assert "sesame" not in one.log


async def test_foreign_bytes_on_every_channel_harm_nobody(redis, processes):
    """What others publish there is counted and dropped, on the channels of all kinds."""
    one, two = await processes(2, redis.url)
    async with one.connect(room("tea")) as ann, two.connect(room("tea")) as bob:
        channels, junk = (
            redis.channels(),
            (b"", b"\x01", b"\xfe", b"\xfeK", b"\xfeKx:y:z", b"\xff" * 999),
        )
        for channel in channels:
            for data in junk:
                redis.ask("PUBLISH", channel, data)
        await until(lambda: status(two)["rejected"] >= 3 * len(junk), "counting")

        assert await crosses(ann, bob, "still")
        assert b"pachinko:c:all" in channels
        assert b"pachinko:c:room:tea" in channels
    assert "Traceback" not in two.log


@pytest.mark.slow
@pytest.mark.parametrize("name", ["*", "[a-z]", "a?c", "room:*", "a b\n", "\\*", "é☕", "x" * 200])
async def test_names_of_rooms_are_no_patterns(redis, processes, name):
    """A room by a wildcard's name hears what is said in it, and nothing else."""
    one, two = await processes(2, redis.url)
    async with (
        one.connect(room(name)) as ann,
        one.connect(room("abc")) as eve,
        two.connect(room(name)) as bob,
    ):
        await published(eve, "not for you")
        await published(ann, "for you")

        assert (await bob.expect("said"))["payload"] == {"text": "for you"}


async def test_subscriptions_end_with_the_members(redis, processes):
    """When everybody has left, Redis knows of nothing but the processes' own channels."""
    (one,) = await processes(1, redis.url)
    before = redis.channels()
    async with one.connect(room("tea")), one.connect(room("tea")), one.connect(room("milk")):
        during = redis.channels()
    await until(lambda: redis.channels() == before, "the end of the subscriptions")

    assert set(during) - set(before) == {b"pachinko:c:room:tea", b"pachinko:c:room:milk"}
    assert len(before) == 2


@pytest.mark.slow
async def test_a_bad_wire_is_survived(redis, processes):
    """Late bytes arrive late; silence and resets are noticed, told, and mended."""
    async with FaultProxy(redis.port) as wire:
        (one,) = await processes(1, f"redis://127.0.0.1:{wire.port}/0{QUICK}")
        (two,) = await processes(1, redis.url)
        async with one.connect(room("tea")) as ann, two.connect(room("tea")) as bob:
            wire.delay = 0.2
            assert await crosses(ann, bob, "late")
            assert status(one)["backend"]["state"] == "up"
            wire.black_hole()
            await is_now("degraded", one)
            assert not await published(ann, "lost")
            wire.reset()
            wire.heal()
            await is_now("up", one)
            await until(lambda: status(two)["gaps"] > 0, "the gap")
            assert await crosses(ann, bob, "mended")
            for _ in range(3):
                before = status(one)["gaps"]
                wire.reset()
                await until(lambda before=before: status(one)["gaps"] > before, "a gap")
            await is_now("up", one)
            assert await crosses(bob, ann, "again")


def get(server, path):
    with urllib.request.urlopen(server.http_url + path, timeout=30) as answer:
        return msgspec.json.decode(answer.read())


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["authenticate", "on_connect"])
@pytest.mark.parametrize("where", [0, 1], ids=["here", "elsewhere"])
async def test_who_is_thrown_out_during_a_handshake_is_not_let_in(redis, slow, where):
    """Wherever the call comes from; nothing of that user stays, and a later handshake passes."""
    env = {"BACKEND": redis.url + QUICK, "PYTHONPATH": search_path(APPS)}
    async with serve("doors:app", env=env) as here, serve("doors:app", env=env) as there:
        await is_up(here, there)
        knocking = [
            asyncio.create_task(knock(here, f"/door?user=ann&slow={slow}")) for _ in range(5)
        ]
        other = asyncio.create_task(knock(here, f"/door?user=bob&slow={slow}"))
        await until(lambda: here.log.count(f"{slow}\n") >= 6, "all wait")
        await asyncio.to_thread(get, (here, there)[where], "/out?user=ann")

        assert [await each for each in knocking] == [403] * 5
        assert await other == "in"
        assert "ann" not in await asyncio.to_thread(get, there, "/hall")
        assert await knock(here, "/door?user=ann") == "in"


async def is_up(*servers):
    for server in servers:
        await until(lambda server=server: get(server, "/status")["backend"]["state"] == "up", "up")


async def knock(server, path):
    try:
        async with server.connect(path):
            return "in"
    except HandshakeDenied as denied:
        return denied.status
