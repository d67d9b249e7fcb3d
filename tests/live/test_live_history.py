"""Who comes back to any process, on a real Redis or NATS, misses nothing, or is told so."""

import asyncio
import random

import pytest
from fault_proxy import FaultProxy
from processes import Processes, all_are, come_back_empty, facts, running, until

QUICK = "?probe=0.5&timeout=1.5"
TALKERS, ROUNDS = 3, 12


@pytest.fixture(params=["redis", "nats"])
def server(request, tmp_path):
    with running(request.param, tmp_path) as server:
        yield server


@pytest.fixture
async def processes():
    async with Processes() as processes:
        yield processes


class Reader:
    """A client that remembers where it is, and what it has read in all of its lives."""

    def __init__(self, processes, room):
        self._processes, self._room = processes, room
        self.position = {}
        self.read = []
        """The places and the words, in order."""
        self.states = []
        """How it was received, each time."""
        self.client = None

    async def come(self, process):
        """Connect to a process, from where it is; return how it was received."""
        path = {"room": self._room, **self.position}
        self.client = await self._processes.connect(process, "/chat", **path)
        state = (await self.client.expect("history.state"))["payload"]
        self._be_at(state)
        self.states.append(state)
        for _ in range(state["messages"]):
            await self.listen()
        return state

    def _be_at(self, place):
        if "epoch" in place:  # else nobody can tell, while the server is away
            self.position = {"epoch": place["epoch"], "offset": place["offset"]}

    async def listen(self):
        """Take one message, and what tells of another epoch before it; return its words."""
        message = await self.client.receive_json()
        if message["type"] == "history.state":
            self.states.append(message["payload"])
            message = await self.client.expect("said")
        assert message["type"] == "said"
        assert message["history"]["epoch"] == self.states[-1]["epoch"]
        self._be_at(message["history"])
        self.read.append((*self.position.values(), message["payload"]))
        return message["payload"]

    async def hear(self, words):
        """Listen until these words have been said."""
        while await self.listen() != words:
            pass

    async def drop(self):
        """Lose the connection, and what is on its way."""
        await self.client.drop()

    async def say(self, words):
        """Say something; return whether it is on its way to other processes."""
        answer = await self.client.request("say", words)
        return answer["payload"]


@pytest.fixture
def reader(processes):
    return lambda room="chat:tea": Reader(processes, room)


@pytest.fixture
async def behind_a_wire(server, processes):
    """Start two processes, and give the wire between the server and the first of them."""
    async with FaultProxy(server.port) as wire:
        cut = server.url.replace(str(server.port), str(wire.port)) + QUICK
        yield wire, *await processes.start(cut, server.url)


@pytest.mark.slow
async def test_who_comes_back_anywhere_misses_nothing(server, processes, reader):
    """Again and again, to random processes, while others talk: each message once, in one order."""
    chance = random.Random(7)
    everywhere = await processes.start(*[server.url] * 3)
    observers, restless = [reader() for _ in everywhere], [reader() for _ in range(3)]
    for each, process in zip(observers + restless, everywhere * 2, strict=True):
        await each.come(process)
    over = asyncio.Event()

    async def talk(name, process):
        client, count = await processes.connect(process, "/chat", room="chat:tea"), 0
        while not over.is_set():
            await client.request("say", f"{name} {count}")
            count += 1

    async def wander(who):
        for _ in range(ROUNDS):
            for _ in range(chance.randrange(20)):
                await who.listen()
            await who.drop()
            await asyncio.sleep(chance.uniform(0, 0.1))
            await who.come(chance.choice(everywhere))

    async def observe(who):
        await who.hear("the end")

    watching = asyncio.gather(*map(observe, observers))
    talking = asyncio.gather(*(talk(*each) for each in enumerate(everywhere)))
    await asyncio.gather(*map(wander, restless))
    over.set()
    await talking
    last = reader()
    await last.come(everywhere[0])
    await last.say("the end")
    await asyncio.gather(watching, *map(observe, restless))

    whole = observers[0].read
    assert [each.read == whole for each in observers + restless] == [True] * 6
    assert len({words for *_, words in whole}) == len(whole) > ROUNDS
    recovered = [[state["recovered"] for state in each.states[1:]] for each in restless]
    assert recovered == [[True] * ROUNDS] * 3


async def test_a_position_before_the_first_word_is_one(server, processes, reader):
    """Who was there before anything was said gets the first words that were said without it."""
    one, two = await processes.start(*[server.url] * 2)
    ann, bob = reader(), reader()
    await ann.come(one)
    await ann.drop()
    nothing = await ann.come(two)
    await ann.drop()
    await bob.come(two)
    await bob.say("first")
    state = await ann.come(one)

    assert (nothing["recovered"], nothing["messages"]) == (True, 0)
    assert (state["recovered"], state["messages"]) == (True, 1)
    assert [words for *_, words in ann.read] == ["first"]


@pytest.mark.slow
async def test_what_is_too_old_is_not_recovered(server, processes, reader):
    """The client is told, and gets what is kept; its new position is as good as any."""
    one, two = everywhere = await processes.start(*[server.url] * 2)
    ann, bob = reader("brief:tea"), reader("brief:tea")
    await ann.come(one)
    await bob.come(two)
    await bob.say("before")
    await ann.hear("before")
    await ann.drop()
    await bob.say("missed")

    async def forgotten():
        return [(await facts(each, room="brief:tea"))["kept"] for each in everywhere] == [[], []]

    await until(forgotten)
    await bob.say("after")
    late = await ann.come(two)
    await ann.drop()
    await bob.say("again")
    in_time = await ann.come(one)

    assert (late["recovered"], in_time["recovered"]) == (False, True)
    assert [words for *_, words in ann.read] == ["before", "after", "again"]


@pytest.mark.slow
async def test_a_long_silence_is_survived(server, processes, reader):
    """Who stays while the history ends hears what comes next, and can come back from there."""
    one, two, three = await processes.start(*[server.url] * 3)
    ann, bob = reader("brief:tea"), reader("brief:tea")
    await ann.come(one)
    await bob.come(two)
    await bob.say("hello?")
    await ann.hear("hello?")
    before = ann.position

    async def forgotten():
        return (await facts(three, room="brief:tea"))["kept"] == []

    await until(forgotten)
    await bob.say("still here?")
    await ann.hear("still here?")
    await ann.drop()
    await bob.say("no")
    state = await ann.come(three)

    assert ann.position["epoch"] != before["epoch"]
    assert state["recovered"]
    # The first of its epoch; then that epoch ended in silence, and nothing was missed.
    assert [each["recovered"] for each in ann.states] == [False, True, True]
    assert [words for *_, words in ann.read] == ["hello?", "still here?", "no"]


async def test_a_server_that_lost_everything_begins_anew(server, processes, reader):
    """No old position is taken for a new one, and the talk goes on, over all processes."""
    everywhere = await processes.start(*[server.url + QUICK] * 3)
    ann, bob, cid = readers = [reader() for _ in everywhere]
    for each, process in zip(readers, everywhere, strict=True):
        await each.come(process)
    await bob.say("before")
    for each in readers:
        await each.hear("before")
    epoch = ann.position["epoch"]
    await ann.drop()
    await asyncio.to_thread(come_back_empty, server)
    await all_are("up", everywhere)
    state = await ann.come(everywhere[1])
    sent = await ann.say("after")
    await ann.hear("after")
    again = reader()
    kept = await again.come(everywhere[2])

    assert (state["recovered"], sent) == (False, True)
    assert state["epoch"] != epoch
    assert kept["messages"] == 1
    for each in (bob, cid):
        await told(each, "after")


async def told(who, words):
    """Wait until a client hears words; return the states that it was told meanwhile."""
    states = []
    while True:
        message = await who.client.receive_json()
        if message["type"] == "history.state":
            states.append(message["payload"])
        elif message["payload"] == words:
            return states


@pytest.mark.slow
async def test_a_process_that_was_cut_off_makes_up_for_it(behind_a_wire, reader):
    """Its members get what was said elsewhere meanwhile: all of it, once, in order."""
    wire, one, two = behind_a_wire
    ann, bob = reader(), reader()
    await ann.come(one)
    await bob.come(two)
    await bob.say("before")
    wire.black_hole()
    for number in range(50):
        await bob.say(str(number))
    await all_are("degraded", [one])
    wire.reset()
    wire.heal()
    await all_are("up", [one])
    await bob.say("after")
    await ann.hear("after")
    await bob.hear("after")

    assert ann.read == bob.read
    assert [words for *_, words in ann.read] == ["before", *map(str, range(50)), "after"]


@pytest.mark.slow
async def test_a_wire_that_breaks_again_and_again_loses_nothing(behind_a_wire, reader):
    """Members of the process behind it get all that is said elsewhere, once, in order."""
    wire, one, two = behind_a_wire
    ann, bob = reader(), reader()
    await ann.come(one)
    await bob.come(two)
    for number in range(300):
        await bob.say(str(number))
        if number % 50 == 25:
            wire.reset()
        if number % 50 == 35:
            await all_are("up", [one])
    await all_are("up", [one])
    await bob.say("after")
    await ann.hear("after")
    await bob.hear("after")

    assert ann.read == bob.read
    assert [words for *_, words in ann.read] == [*map(str, range(300)), "after"]


@pytest.mark.slow
async def test_what_was_said_without_the_server_ends_the_history(behind_a_wire, reader):
    """The talk goes on where one is; nobody is told that a history with a hole is complete."""
    wire, one, two = behind_a_wire
    ann, bob, cid = reader(), reader(), reader()
    await ann.come(one)
    await bob.come(one)
    await cid.come(two)
    await cid.say("before")
    for each in (ann, bob, cid):
        await each.hear("before")
    before = dict(cid.position)
    wire.black_hole()
    await all_are("degraded", [one])
    sent = await ann.say("hole")
    alone = (await bob.client.expect("said"))["payload"]
    wire.reset()
    wire.heal()
    await all_are("up", [one])
    states = asyncio.create_task(told(cid, "after"))

    async def begun_anew():
        back = reader()
        back.position = before
        return not (await back.come(two))["recovered"]

    await until(begun_anew)
    await ann.say("after")
    await told(bob, "after")

    assert (sent, alone) == (False, "hole")
    assert {state["recovered"] for state in await states} == {False}  # once, or once more


async def test_a_stray_entry_in_a_kept_list_breaks_no_join(processes, reader, tmp_path):
    """Somebody writes into Redis by hand: places stay what they are, and nothing else is sent."""
    with running("redis", tmp_path) as redis:
        one, two = await processes.start(*[redis.url] * 2)
        ann, bob = reader(), reader()
        await ann.come(one)
        for words in ("a", "b", "c"):
            await ann.say(words)
        await ann.hear("c")
        (key,) = redis.ask("KEYS", "*:k:*")
        for stray in (b"junk", b"", b"1" * 13 + b"0:2:forged", redis.ask("LINDEX", key, "0")):
            redis.ask("LPUSH", key, stray)
            redis.ask("LINSERT", key, "BEFORE", redis.ask("LINDEX", key, "-1"), stray)
            redis.ask("RPUSH", key, stray)
        await bob.come(two)
        await ann.drop()
        await bob.say("d")
        await bob.hear("d")
        state = await ann.come(two)

    assert (state["recovered"], state["messages"], state["offset"]) == (True, 1, 4)
    assert [words for *_, words in bob.read] == ["a", "b", "c", "d"]
    assert ann.read == bob.read
