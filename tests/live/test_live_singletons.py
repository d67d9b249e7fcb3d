"""A worker that one of three processes runs, on a real Redis or NATS, whichever dies or hangs."""

import asyncio
import itertools
import signal

import pytest
from processes import Processes, come_back_empty, facts, running, until

TTL = 3
SLACK = 6  # seconds that a busy machine may add


@pytest.fixture(params=["redis", "nats"])
def server(request, tmp_path):
    with running(request.param, tmp_path) as server:
        yield server


@pytest.fixture
async def processes():
    async with Processes(TICKS="1") as processes:
        yield processes


class Watcher:
    """A client that writes down the ticks it sees."""

    def __init__(self, client):
        self._client = client
        self.ticks = []

    async def see(self, count):
        """See so many ticks more; return the last."""
        for _ in range(count):
            self.ticks.append((await self._client.expect("tick"))["payload"])
        return self.ticks[-1]

    async def see_another(self, token, seconds):
        """Watch until somebody else is at work; return the first tick of that one."""
        async with asyncio.timeout(seconds):
            while (await self.see(1))["token"] == token:
                pass
        return self.ticks[-1]

    @property
    def shifts(self):
        """The tokens in the order of their ticks, and whose they were; each change is one more."""
        each = ((tick["token"], tick["pid"]) for tick in self.ticks)
        return [shift for shift, _ in itertools.groupby(each)]


@pytest.fixture
def watch(processes):
    async def watch(process):
        return Watcher(await processes.connect(process, "/ticks"))

    return watch


async def states(*processes):
    return [(await facts(each))["workers"]["tick"]["state"] for each in processes]


def at_work(processes, tick):
    """Part the processes into the one that ticked, and the others."""
    by_pid = {each.process.pid: each for each in processes}
    worker = by_pid.pop(tick["pid"])
    return worker, list(by_pid.values())


@pytest.mark.slow
async def test_one_of_three_runs_it(server, processes, watch):
    """All processes see the same ticks, of one of them; none is missing, none is there twice."""
    everywhere = await processes.start(*[f"{server.url}?ttl={TTL}"] * 3)
    watchers = [await watch(each) for each in everywhere]
    await asyncio.gather(*(each.see(50) for each in watchers))  # for longer than a lease lasts

    assert sorted(await states(*everywhere)) == ["running", "standby", "standby"]
    for each in watchers:
        numbers = [tick["number"] for tick in each.ticks]
        assert numbers == list(range(numbers[0], numbers[0] + 50))
        assert each.shifts == watchers[0].shifts
        assert len(each.shifts) == 1


@pytest.mark.slow
async def test_a_worker_whose_process_is_killed_is_followed(server, processes, watch):
    """Within the ttl another process runs it, with a larger token; each token is one process's."""
    everywhere = await processes.start(*[f"{server.url}?ttl={TTL}"] * 3)
    first = await (await watch(everywhere[0])).see(1)
    worker, others = at_work(everywhere, first)
    watchers = [await watch(each) for each in others]
    worker.process.kill()
    after = await asyncio.gather(
        *(each.see_another(first["token"], TTL + SLACK) for each in watchers)
    )

    assert after[0]["pid"] == after[1]["pid"] != first["pid"]
    assert after[0]["token"] == after[1]["token"] > first["token"]


@pytest.mark.slow
async def test_a_worker_whose_process_ends_is_followed_at_once(server, processes, watch):
    """A clean end gives the lease back: nobody waits until it would have ended."""
    everywhere = await processes.start(*[f"{server.url}?ttl=12"] * 2)
    first = await (await watch(everywhere[0])).see(1)
    worker, (other,) = at_work(everywhere, first)
    watcher = await watch(other)
    await watcher.see(1)
    await worker.stop()
    after = await watcher.see_another(first["token"], 6)  # the lease would last for 8

    assert after["pid"] == other.process.pid
    assert watcher.shifts == sorted(watcher.shifts)


@pytest.mark.slow
async def test_a_worker_that_stood_still_is_silent_when_it_wakes(server, processes, watch):
    """Another has taken over meanwhile, and nothing comes under the old token any more."""
    everywhere = await processes.start(*[f"{server.url}?ttl={TTL}"] * 3)
    first = await (await watch(everywhere[0])).see(1)
    sleeper, others = at_work(everywhere, first)
    watchers = [await watch(each) for each in (*others, sleeper)]
    await watchers[0].see(2)  # so that it stands still between two ticks
    sleeper.process.send_signal(signal.SIGSTOP)
    second = await watchers[0].see_another(first["token"], TTL + SLACK)
    sleeper.process.send_signal(signal.SIGCONT)

    async def yields():
        return await states(sleeper) == ["standby"]

    await until(yields)
    await watchers[0].see(40)
    for each in watchers[1:]:
        while (each.ticks or [None])[-1] != watchers[0].ticks[-1]:
            await each.see(1)
    successor, left = at_work(everywhere, second)
    successor.process.kill()
    seen = watchers[(*others, sleeper).index(left[0])]
    third = await seen.see_another(second["token"], TTL + SLACK)

    assert first["token"] < second["token"] < third["token"]
    for each in watchers:
        assert each.shifts == sorted(set(each.shifts))
    assert "worker tick has lost its lease" in sleeper.log


@pytest.mark.slow
async def test_a_server_that_forgot_the_lease_gives_it_anew(server, processes, watch):
    """Soon one process runs it, and only one, with a larger token than any before."""
    settings = f"?ttl={TTL}&probe=0.5&timeout=1.5"
    everywhere = await processes.start(*[server.url + settings] * 3)
    watcher = await watch(everywhere[0])
    first = await watcher.see(1)
    await asyncio.to_thread(come_back_empty, server)
    await watcher.see_another(first["token"], TTL + SLACK)
    await watcher.see(20)
    async with asyncio.timeout(TTL + SLACK):
        while len({tick["token"] for tick in watcher.ticks[-20:]}) > 1:
            await watcher.see(1)

    assert watcher.ticks[-1]["token"] == max(tick["token"] for tick in watcher.ticks)
    assert watcher.ticks[-1]["token"] > first["token"]
    assert sorted(await states(*everywhere)) == ["running", "standby", "standby"]
