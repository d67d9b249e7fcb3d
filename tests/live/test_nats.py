"""Processes that meet on a real NATS: under load, and while it dies, hangs and comes back."""

import asyncio
import contextlib
import socket
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from fault_proxy import FaultProxy
from nats_server import NatsServer
from search_path import search_path

from falcon_pachinko.testing import LifespanError, serve

APPS = Path(__file__).parent / "apps"
QUICK = "?probe=0.5&timeout=1.5"
BACK_WITHIN = 10  # seconds; 5 are promised, the rest is for a machine that is busy
SAID = "said"


@pytest.fixture
def nats(tmp_path):
    with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
async def cluster():
    """Start server processes that meet somewhere; they are gone after the test."""
    async with contextlib.AsyncExitStack() as stack:

        def one(url):
            env = {"BACKEND": url, "PYTHONPATH": search_path(APPS)}
            return stack.enter_async_context(serve("cluster:app", env=env))

        async def start(*urls):
            return await asyncio.gather(*map(one, urls))

        yield start


def pulse(server):
    with urllib.request.urlopen(server.http_url + "/pulse", timeout=30) as answer:
        return msgspec.json.decode(answer.read())


async def comes_true(condition, seconds=60):
    """Wait for it; return how long that took."""
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def all_are(state, servers, seconds=60):
    return await comes_true(
        lambda: {pulse(each)["backend"]["state"] for each in servers} == {state}, seconds
    )


def at(server, room):
    return server.connect("/rooms?room=" + quote(room, safe=""), timeout=30)


async def say(client, text):
    """Say something; return whether it is on its way to the other processes."""
    return (await client.request({"type": "say", "payload": {"text": text}}))["payload"]


async def hears(client, text):
    """Wait until a client hears something; return what came before it."""
    before = []
    while (message := await client.receive_json()) != {"type": SAID, "payload": {"text": text}}:
        before.append(message)
    return before


@pytest.mark.slow
async def test_all_of_it_crosses_in_order_under_load(nats, cluster):
    """Three processes, a talker on each: all hear all of it, each talker's in its order."""
    servers, count = await cluster(nats.url, nats.url, nats.url), 1000
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(at(each, "tea")) for each in servers]

        async def talk(me):
            for number in range(count):
                message = {"type": "tell", "payload": {"text": [me, number]}}
                await clients[me].send_json(message)

        async def listen(client):
            heard = [(await client.expect(SAID))["payload"]["text"] for _ in range(3 * count)]
            return [[number for who, number in heard if who == me] for me in range(3)]

        results = await asyncio.gather(*map(listen, clients), *map(talk, range(3)))

    assert results[:3] == [[list(range(count))] * 3] * 3
    assert [pulse(each)["gaps"] for each in servers] == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_an_outage_stops_no_local_room_and_is_told(nats, cluster, how):
    """Members of one process go on talking; the others are back soon, and know of the gap."""
    servers = one, two = await cluster(nats.url + QUICK, nats.url + QUICK)
    async with at(one, "sync") as ann, at(one, "sync") as bob, at(two, "sync") as cid:
        await say(ann, "before")
        await hears(bob, "before")
        await hears(cid, "before")
        nats.kill() if how == "killed" else nats.hang()
        began, waits = time.monotonic(), []
        while time.monotonic() < began + 3 or pulse(one)["backend"]["state"] == "up":
            asked = time.monotonic()
            await say(ann, "during")
            await hears(bob, "during")
            waits.append(time.monotonic() - asked)
        await all_are("degraded", servers)
        crossed = await say(ann, "lost")
        await asyncio.to_thread(nats.start)
        await all_are("up", servers, BACK_WITHIN)
        through = await say(ann, "after")
        told = await hears(cid, "after")
        while {"type": "resync", "payload": {"room": "sync"}} not in told:
            told.append(await cid.receive_json(timeout=20))

    assert (crossed, through) == (False, True)
    assert max(waits) < 2  # an echo; to wait for NATS would take far longer
    assert pulse(two)["gaps"] > 0
    assert "gap on None" in two.log
    assert f"backend {nats.url} is degraded: " in one.log
    assert "Traceback" not in one.log + two.log


@pytest.mark.slow
async def test_a_process_starts_before_its_nats(nats, cluster):
    """It serves its own clients, says so in one line, and joins the others when it can."""
    nats.kill()
    servers = one, two = await cluster(nats.url + QUICK, nats.url + QUICK)
    async with at(one, "tea") as ann, at(two, "tea") as bob:
        alone = await say(ann, "anybody?")
        before = pulse(one)["backend"]["state"]
        await asyncio.to_thread(nats.start)
        await all_are("up", servers)
        await say(ann, "hello")
        await hears(bob, "hello")

    assert (alone, before) == (False, "degraded")
    assert one.log.count(f"backend {nats.url} is degraded: ") == 1
    assert "Traceback" not in one.log


async def test_a_required_nats_ends_the_start(nats, cluster):
    """With required=true the process does not start, and the log says where it looked."""
    nats.kill()
    with pytest.raises(LifespanError) as failed:
        await cluster(f"nats://pach:sesame@127.0.0.1:{nats.port}?required=true")

    assert f"{nats.url}: " in str(failed.value)
    assert "required=true" in str(failed.value)
    assert "Traceback" not in str(failed.value)
    assert "sesame" not in str(failed.value)


async def test_junk_on_every_subject_harms_nobody(nats, cluster):
    """What others publish there is counted and dropped, on subjects of all kinds."""
    one, two = await cluster(nats.url, nats.url)
    async with at(one, "tea") as ann, at(two, "tea") as bob:
        junk = (b"", b"\x01", b"\xff" * 999, b"PING\r\n")
        with socket.create_connection(("127.0.0.1", nats.port), 5) as sender:
            sender.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
            for subject in nats.subjects():
                for data in junk:
                    sender.sendall(b"PUB %s %d\r\n%s\r\n" % (subject.encode(), len(data), data))
            sender.sendall(b"PUB pachinko.\xff\xfe 1\r\n!\r\nPING\r\n")
            await comes_true(lambda: pulse(two)["rejected"] >= 3 * len(junk))
        await say(ann, "still here")
        await hears(bob, "still here")
        subjects = nats.subjects()

    assert {"pachinko.pub.all", "pachinko.pub.room:tea"} <= set(subjects)
    assert "Traceback" not in one.log + two.log


@pytest.mark.slow
@pytest.mark.parametrize("name", ["*", ">", "a.*", "pub.>", "a b\n", "=2A", "é☕", ".", "x" * 200])
async def test_rooms_by_odd_names_are_rooms(nats, cluster, name):
    """A room by a wildcard's name hears what is said in it, and nothing else."""
    one, two = await cluster(nats.url, nats.url)
    async with at(one, name) as ann, at(one, "a.b") as eve, at(two, name) as bob:
        await say(eve, "not for you")
        await say(ann, "for you")

        assert await hears(bob, "for you") == []


async def test_subscriptions_end_with_the_last_member(nats, cluster):
    """When everybody has left, NATS knows of nothing but the process's own channels."""
    (one,) = await cluster(nats.url)
    before = nats.subjects()
    async with at(one, "tea"), at(one, "tea"), at(one, "a b"):
        during = nats.subjects()
    await comes_true(lambda: nats.subjects() == before)

    assert set(during) - set(before) == {"pachinko.pub.room:tea", "pachinko.pub.room:a=20b"}
    assert len(before) == 2


@pytest.mark.slow
async def test_a_bad_wire_to_nats_is_survived(nats, cluster):
    """Late bytes arrive late; silence and resets are noticed, told, and mended."""
    async with FaultProxy(nats.port) as wire:
        one, two = await cluster(f"nats://127.0.0.1:{wire.port}{QUICK}", nats.url)
        async with at(one, "tea") as ann, at(two, "tea") as bob:
            wire.delay = 0.2
            await say(ann, "late")
            await hears(bob, "late")
            late = pulse(one)["backend"]["state"]
            wire.black_hole()
            await all_are("degraded", [one])
            lost = await say(ann, "lost")
            wire.reset()
            wire.heal()
            await all_are("up", [one])
            await comes_true(lambda: pulse(two)["gaps"] > 0)
            for _ in range(3):
                gaps = pulse(one)["gaps"]
                wire.reset()
                await comes_true(lambda gaps=gaps: pulse(one)["gaps"] > gaps)
            await all_are("up", [one])
            await say(bob, "mended")
            await hears(ann, "mended")

    assert (late, lost) == ("up", False)
