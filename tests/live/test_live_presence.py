"""Who is here, over three processes on a real Redis or NATS: whoever dies, hangs or restarts."""

import asyncio
import contextlib
import random
import signal
import time

import pytest
from fault_proxy import FaultProxy
from processes import Processes, all_are, come_back_empty, facts, running
from redis_server import RedisServer

from falcon_pachinko.testing import Disconnected

AWAKE = [{"mood": "awake"}]
TTL = 3
SLACK = 6  # seconds that a busy machine may add


@pytest.fixture(params=["redis", "nats"])
def server(request, tmp_path):
    with running(request.param, tmp_path) as server:
        yield server


@pytest.fixture
async def processes():
    async with Processes() as processes:
        yield processes


class Guest:
    """A client that keeps the list of who is here, and takes no change that makes no sense."""

    def __init__(self, client):
        self.client = client
        self.present = None
        self.told = []
        """What it was told, in order: ``("joins" | "updates" | "leaves", key)``."""
        self.changed = asyncio.Event()
        self.reading = asyncio.create_task(self._read())

    async def _read(self):
        with contextlib.suppress(Disconnected):
            while True:
                self._take(await self.client.receive_json(timeout=60))
                self.changed.set()

    def _take(self, message):
        if message["type"] == "presence.state":
            assert self.present is None, "a state twice"
            self.present = message["payload"]["present"]
        elif message["type"] == "presence.diff":
            self._apply(message["payload"])

    def _apply(self, diff):
        assert self.present is not None, "a diff before the state"
        for kind in ("joins", "updates", "leaves"):
            for key, metas in diff.get(kind, {}).items():
                assert (key in self.present) == (kind != "joins"), f"{kind} of {key} makes no sense"
                if kind == "leaves":
                    del self.present[key]
                else:
                    self.present[key] = metas
                self.told.append((kind, key))

    async def sees(self, present, seconds=60):
        """Wait until it knows that exactly these are here."""
        wanted = {key: sorted(metas, key=str) for key, metas in present.items()}
        deadline = time.monotonic() + seconds
        while {key: sorted(each, key=str) for key, each in (self.present or {}).items()} != wanted:
            self.changed.clear()
            waiting = asyncio.create_task(self.changed.wait())
            await asyncio.wait(
                (waiting, self.reading),
                timeout=max(0, deadline - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            waiting.cancel()
            if self.reading.done():
                self.reading.result()
                raise AssertionError("it was disconnected")
            assert time.monotonic() < deadline, f"sees {self.present}, not {wanted}; {self.told}"


@pytest.fixture
async def enter(processes):
    """Have guests come in; they stop looking around with the test."""
    guests = []

    async def enter(process, name, room="lounge:tea", mood="awake"):
        client = await processes.connect(process, "/lounge", name=name, room=room, mood=mood)
        guests.append(Guest(client))
        return guests[-1]

    yield enter
    for each in guests:
        each.reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await each.reading


async def all_see(present, guests, processes, room="lounge:tea", seconds=60):
    """Wait until all guests see these, and all processes say so."""

    async def says(process):
        deadline = time.monotonic() + seconds
        while (known := (await facts(process, room=room))["present"]) != present:
            assert time.monotonic() < deadline, f"it says {known}, not {present}:\n{process.log}"
            await asyncio.sleep(0.05)

    await asyncio.gather(*(each.sees(present, seconds) for each in guests), *map(says, processes))


async def test_three_processes_are_one_room(server, processes, enter):
    """Each guest knows all, a user's tabs on two processes are one, and a mood reaches all."""
    one, two, three = everywhere = await processes.start(*[server.url] * 3)
    ann = await enter(one, "ann", "quick:tea")
    await ann.sees({"ann": AWAKE})
    bob = await enter(two, "bob", "quick:tea")
    await all_see({"ann": AWAKE, "bob": AWAKE}, (ann, bob), everywhere, "quick:tea")
    tab = await enter(three, "ann", "quick:tea")
    await all_see({"ann": AWAKE * 2, "bob": AWAKE}, (ann, bob, tab), everywhere, "quick:tea")
    await bob.client.send_json({"type": "mood", "payload": "asleep"})
    asleep = [{"mood": "asleep"}]
    await all_see({"ann": AWAKE * 2, "bob": asleep}, (ann, bob, tab), everywhere, "quick:tea")
    await tab.client.close()
    await all_see({"ann": AWAKE, "bob": asleep}, (ann, bob), everywhere, "quick:tea")
    await ann.client.close()
    await all_see({"bob": asleep}, (bob,), everywhere, "quick:tea")

    first = [("updates", "ann"), ("updates", "bob"), ("updates", "ann")]
    assert ann.told == [("joins", "bob"), *first]
    assert bob.told == [*first, ("leaves", "ann")]


@pytest.mark.slow
async def test_a_killed_process_is_buried_once(server, processes, enter):
    """Within the ttl all others know who went with it, and whose other tab is still there."""
    one, two, three = await processes.start(*[f"{server.url}?ttl={TTL}"] * 3)
    ann, bob = await enter(one, "ann"), await enter(two, "bob")
    await enter(three, "cid")
    await enter(three, "ann")
    await all_see({"ann": AWAKE * 2, "bob": AWAKE, "cid": AWAKE}, (ann, bob), (one, two, three))
    before = len(ann.told), len(bob.told)
    three.process.kill()
    await all_see({"ann": AWAKE, "bob": AWAKE}, (ann, bob), (one, two), seconds=TTL + SLACK)

    told = [sorted(guest.told[start:]) for guest, start in zip((ann, bob), before, strict=True)]
    assert told == [[("leaves", "cid"), ("updates", "ann")]] * 2


@pytest.mark.slow
async def test_a_process_that_ends_is_not_waited_for(server, processes, enter):
    """A clean end is known long before the ttl is over: with the next sign of life."""
    one, two = await processes.start(*[f"{server.url}?ttl=60"] * 2)
    ann = await enter(one, "ann")
    await enter(two, "bob")
    await all_see({"ann": AWAKE, "bob": AWAKE}, (ann,), (one, two))
    await two.stop()
    await all_see({"ann": AWAKE}, (ann,), (one,), seconds=38)  # a lease would last for 40 more

    assert ann.told == [("joins", "bob"), ("leaves", "bob")]


@pytest.mark.slow
async def test_a_process_that_stood_still_comes_back(server, processes, enter):
    """It is buried; when it goes on it is back everywhere, and knows what it has slept through."""
    one, two, three = everywhere = await processes.start(*[f"{server.url}?ttl={TTL}"] * 3)
    ann, bob, cid = [
        await enter(process, name)
        for process, name in zip(everywhere, ("ann", "bob", "cid"), strict=True)
    ]
    await all_see({"ann": AWAKE, "bob": AWAKE, "cid": AWAKE}, (ann, bob, cid), everywhere)
    before = len(ann.told)
    three.process.send_signal(signal.SIGSTOP)
    await all_see({"ann": AWAKE, "bob": AWAKE}, (ann, bob), (one, two), seconds=TTL + SLACK)
    await bob.client.send_json({"type": "mood", "payload": "worried"})
    dan = await enter(one, "dan")
    three.process.send_signal(signal.SIGCONT)
    everybody = {"ann": AWAKE, "bob": [{"mood": "worried"}], "cid": AWAKE, "dan": AWAKE}
    await all_see(everybody, (ann, bob, cid, dan), everywhere)

    told = [each for each in ann.told[before:] if each[1] == "cid"]
    assert told == [("leaves", "cid"), ("joins", "cid")]


@pytest.mark.slow
async def test_an_empty_server_is_told_again(server, processes, enter):
    """After a restart that lost everything the rooms are whole again, on all processes."""
    settings = f"?ttl={TTL}&probe=0.5&timeout=1.5"
    one, two, three = everywhere = await processes.start(*[server.url + settings] * 3)
    guests = [await enter(each, name) for each, name in zip(everywhere, "abc", strict=True)]
    await all_see(dict.fromkeys("abc", AWAKE), guests, everywhere)
    await asyncio.to_thread(come_back_empty, server)
    await all_are("up", everywhere)
    guests.append(await enter(one, "d"))
    await all_see(dict.fromkeys("abcd", AWAKE), guests, everywhere)
    two.process.kill()
    left = (guests[0], guests[2], guests[3])

    await all_see(dict.fromkeys("acd", AWAKE), left, (one, three), seconds=TTL + SLACK)


@pytest.mark.slow
async def test_who_left_after_the_last_snapshot_is_not_brought_back(tmp_path, processes, enter):
    """Redis comes back as it was saved: what the processes know replaces that, in all rooms."""
    with RedisServer("--dir", str(tmp_path)) as redis:
        settings = f"?ttl={TTL}&probe=0.5&timeout=1.5"
        one, two, three = everywhere = await processes.start(*[redis.url + settings] * 3)
        room, alone = "quick:tea", "quick:alone"
        ann, bob = await enter(one, "ann", room), await enter(one, "bob", room)
        zoe, cid = await enter(two, "zoe", room), await enter(one, "cid", alone)
        await all_see(dict.fromkeys(("ann", "bob", "zoe"), AWAKE), (ann,), everywhere, room)
        await cid.sees({"cid": AWAKE})
        redis.ask("SAVE")
        for each in (bob, zoe, cid):
            await each.client.close()
        dan = await enter(three, "dan", room)
        present = {"ann": AWAKE, "dan": AWAKE}
        await all_see(present, (ann, dan), everywhere, room)
        redis.kill()
        redis.start()
        began = time.monotonic()
        await all_are("up", everywhere)
        await asyncio.sleep(max(0.0, began + TTL + 0.5 + 1.5 - time.monotonic()))

        await all_see(present, (ann, dan), everywhere, room, seconds=SLACK)
        await all_see({}, (), everywhere, alone, seconds=SLACK)


@pytest.mark.slow
async def test_a_restart_one_process_after_another_is_no_leave_and_no_join(
    server, processes, enter
):
    """Who is back elsewhere within the grace was never gone; who is not leaves when it is over."""
    one, two, three = await processes.start(*[server.url] * 3)
    ann = await enter(one, "ann")
    for name in ("bob", "cid"):
        await enter(two, name)
    everybody = dict.fromkeys(("ann", "bob", "cid"), AWAKE)
    await all_see(everybody, (ann,), (one, two, three))
    told = len(ann.told)
    await two.stop()
    again = await enter(three, "bob")
    await again.sees({"ann": AWAKE, "bob": AWAKE})
    kept = dict(ann.present)
    await all_see({"ann": AWAKE, "bob": AWAKE}, (ann, again), (one, three))

    assert kept == everybody
    assert ann.told[told:] == [("leaves", "cid")]


@pytest.mark.slow
async def test_a_reload_elsewhere_is_no_leave_and_no_join(server, processes, enter):
    """Who comes back to any process within the grace was never gone; who stays away is."""
    one, two, three = await processes.start(*[server.url] * 3)
    ann, bob = await enter(one, "ann"), await enter(two, "bob")
    await all_see({"ann": AWAKE, "bob": AWAKE}, (ann, bob), (one, two, three))
    await bob.client.drop()
    again = await enter(three, "bob", mood="back")
    back = {"ann": AWAKE, "bob": [{"mood": "back"}]}
    await all_see(back, (ann, again), (one, two, three))
    told = list(ann.told)
    await again.client.drop()
    await all_see({"ann": AWAKE}, (ann,), (one, two, three))

    assert told[0] == ("joins", "bob")
    assert set(told[1:]) == {("updates", "bob")}
    assert ann.told[len(told) :] == [("leaves", "bob")]


@pytest.mark.slow
async def test_all_agree_after_a_storm(server, processes, enter):
    """People come, go and change while one process loses its server again and again."""
    chance, people, moods = random.Random(11), {}, {}
    async with FaultProxy(server.port) as wire:
        cut = server.url.replace(str(server.port), str(wire.port))
        settings = f"?ttl={TTL}&probe=0.5&timeout=1.5"
        everywhere = await processes.start(*(url + settings for url in (cut, server.url, cut)))
        for step in range(80):
            name = chance.choice("abcdefghijkl")
            if name not in people:
                people[name] = await enter(chance.choice(everywhere), name, "quick:tea")
                moods[name] = "awake"
            elif chance.random() < 0.5:
                moods[name] = f"mood {step}"
                await people[name].client.send_json({"type": "mood", "payload": moods[name]})
            else:
                await people.pop(name).client.close()
                del moods[name]
            if step % 10 == 5:
                wire.reset()
        present = {name: [{"mood": mood}] for name, mood in moods.items()}

        await all_see(present, people.values(), everywhere, "quick:tea")
