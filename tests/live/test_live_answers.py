"""What all processes are asked, on a real Redis or NATS, while some of them die or hang."""

import asyncio
import json
import os
import signal
import urllib.request
from urllib.parse import urlencode

import pytest
from nats_server import NatsServer
from processes import Processes, running

TTL = 4
TIMEOUT = 1.0
SLACK = 8  # seconds that a busy machine may add
LONG = 30  # seconds that nobody is to wait
SETTINGS = f"?ttl={TTL}&timeout={TIMEOUT}&probe=1"


@pytest.fixture(params=["redis", "nats"])
def server(request, tmp_path):
    with running(request.param, tmp_path) as server:
        yield server


@pytest.fixture
async def processes(server):
    async with Processes("asked:app") as processes:
        yield processes


@pytest.fixture
async def three(server, processes):
    """Three processes, and four clients: two in tea, and one in milk and in coffee each."""
    started = await processes.start(*[server.url + SETTINGS] * 3)
    places = zip((0, 1, 1, 2), ("tea", "tea", "milk", "coffee"), "aabc", strict=True)
    clients = [
        await processes.connect(started[at], "/room", room=room, user=user)
        for at, room, user in places
    ]
    return started, clients


async def ask(process, verb, **query):
    """Have a process ask all of them."""

    def get():
        url = f"{process.http_url}/ask/{verb}?{urlencode(query)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.load(answer)

    return await asyncio.to_thread(get)


async def answers(process, verb, **query):
    return (await ask(process, verb, **query))["answer"]


def hang(process):
    process.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.process.pid, os.WSTOPPED)


async def until_all(process, expected):
    """Ask until so many processes are there, and have answered; return the last answer."""
    async with asyncio.timeout(60):
        while (answer := await answers(process, "count"))[1:] != expected:  # noqa: ASYNC110  # see below
            await asyncio.sleep(0.1)  # no event of ours tells it
    return answer


@pytest.mark.slow
async def test_all_processes_answer_each_of_them(three):
    """As soon as they serve: the same numbers, whoever asks."""
    started, _ = three
    for each in started:
        counted = await ask(each, "count", timeout=LONG)

        assert counted["answer"] == [4, 3, 3]
        assert counted["seconds"] < LONG / 2
        assert await answers(each, "count", user="a") == [2, 3, 3]
        assert await answers(each, "rooms") == [["coffee", "milk", "tea"], 3, 3]


@pytest.mark.slow
async def test_a_disconnect_returns_when_all_have_acted(three):
    """What is counted next knows of it, on whatever process; nobody's messages have a gap."""
    started, clients = three
    one, two, _ = started
    gone = await answers(one, "disconnect", user="a")
    counted = [await answers(each, "count") for each in started]

    assert gone == [2, 3, 3]
    assert counted == [[2, 3, 3]] * 3
    for each in clients[:2]:
        await each.expect_close(4003)
    assert await answers(two, "disconnect", user="a") == [0, 3, 3]
    assert [(await ask(each, "count"))["gaps"] for each in started] == [0, 0, 0]


@pytest.mark.slow
async def test_a_process_that_was_killed_is_missing_until_its_lease_ends(three):
    """It is among those who were there a moment ago; then it is not."""
    started, _ = three
    one, two, dead = started
    dead.process.kill()
    dead.process.wait()
    asked = await ask(one, "count")
    rooms = await answers(two, "rooms")
    gone = await answers(two, "disconnect", user="b")
    later = await until_all(one, [2, 2])

    assert asked["answer"] == [3, 2, 3]
    assert TIMEOUT * 0.9 < asked["seconds"] < TIMEOUT + SLACK
    assert rooms == [["milk", "tea"], 2, 3]
    assert gone == [1, 2, 3]
    assert later == [2, 2, 2]


@pytest.mark.slow
async def test_a_process_that_hangs_is_late_and_acts_when_it_goes_on(three):
    """The time is what was given; nothing is raised, and its late answer disturbs nothing."""
    started, clients = three
    one, _, hung = started
    hang(hung)
    asked = await ask(one, "count", timeout=0.5)
    gone = await answers(one, "disconnect", user="c", timeout=0.5)
    hung.process.send_signal(signal.SIGCONT)
    await clients[3].expect_close(4003)
    later = await until_all(one, [3, 3])

    assert asked["answer"] == [3, 2, 3]
    assert 0.45 < asked["seconds"] < 0.5 + SLACK
    assert gone == [0, 2, 3]
    assert later == [3, 3, 3]


@pytest.mark.slow
async def test_a_process_that_ends_orderly_is_not_missed(three):
    """Its lease ends with it: nobody is waited for."""
    started, _ = three
    one, _, third = started
    await third.stop()
    asked = await ask(one, "count", timeout=LONG)

    assert asked["answer"] == [3, 2, 2]
    assert asked["seconds"] < LONG / 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_without_its_backend_a_process_answers_for_itself(three, server, how):
    """At once, one of one; before it is noticed, in the time, and never with an error."""
    started, _ = three
    one = started[0]
    if how == "killed":
        server.kill()
    else:
        server.hang()
    async with asyncio.timeout(60):
        while (before := await ask(one, "count"))["backend"] == "up":
            total, answered, _ = before["answer"]
            assert (total, answered) == (1, 1)
            assert before["seconds"] < TIMEOUT + SLACK
    asked = await ask(one, "count", timeout=LONG)
    gone = await ask(one, "disconnect", user="a", timeout=LONG)

    for each in (asked, gone):
        assert each["answer"] == [1, 1, 1]
        assert each["seconds"] < LONG / 2
    server.start()
    await until_all(one, [3, 3])


@pytest.mark.slow
async def test_without_leases_those_count_who_answer(tmp_path):
    """NATS without JetStream does not know who is alive: so all of the time is waited."""
    async with Processes("asked:app") as processes:
        with NatsServer(tmp_path, jetstream=False) as server:
            one, two = await processes.start(*[server.url + SETTINGS] * 2)
            here = await processes.connect(one, "/room", room="tea", user="a")
            there = await processes.connect(two, "/room", room="tea", user="a")
            asked = await ask(one, "count")
            gone = await answers(one, "disconnect", user="a")
            for each in (here, there):
                await each.expect_close(4003)

    assert asked["answer"] == [2, 2, 2]
    assert asked["seconds"] > TIMEOUT * 0.9
    assert gone == [2, 2, 2]
