"""A crowd on three processes of an app, what happens to them, and whether all is kept to.

`run` starts a server (`GROUNDS`), three processes and sixty clients, has faults happen in
an order that a seed decides, waits until all is quiet, and judges by `cluster_model`
what the clients saw. Nothing here depends on how fast the machine is: what has to
happen is waited for, generously.
"""

import asyncio
import contextlib
import json
import random
import signal
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from cluster_clients import Client
from cluster_grounds import GROUNDS, PATIENCE, PROCESSES
from cluster_model import GONE, Model, judge_shifts, shifts
from search_path import search_path
from websockets.exceptions import WebSocketException

from falcon_pachinko.testing import serve

APPS = Path(__file__).parents[1] / "live" / "apps"

CLIENTS = 60
ROOMS = {"plain": 7, "kept": 8, "here": 5}
"""How many rooms there are of each kind; every client is in one of each."""
TTL, TIMEOUT, PROBE = 4.0, 2.0, 0.5
SETTINGS = f"ttl={TTL:g}&timeout={TIMEOUT:g}&probe={PROBE:g}"
PRESENCE_IS_RIGHT = TTL + TIMEOUT + PROBE
"""Seconds after the last fault within which everybody knows who is here."""
BOTH = TTL * 0.6
"""Seconds for which two may do a lone worker's work, after the server has lost its data.

It takes a sixth of the ttl until the first of them asks, once it is connected again; how long
that takes hangs on the machine. A lease by itself counts for no longer than this.
"""
SLACK = 30.0
"""Seconds that a busy machine may add to what is promised in seconds."""
ROUND, ROUND_SECONDS = 12, 45
"""How many faults, and for how long, until what was seen is judged."""
GROWTH = 48_000
"""Kilobytes by which a process may be larger in the end than when it began."""
WORST = (
    "never awaited", "was destroyed but it is pending", "never retrieved",
    "AssertionError", "AttributeError", "TypeError", "Unhandled exception", "Traceback",
)  # fmt: skip
"""What no log may have."""


async def get(url, seconds=20):
    """GET a JSON document."""

    def ask():
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return json.load(answer)

    return await asyncio.to_thread(ask)


async def until(condition, what, seconds=PATIENCE):
    """Wait until a coroutine function returns nothing; say what it was, if it never does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            lacking = await condition()
        except OSError as error:  # a process that is not there, or cannot tell
            lacking = repr(error)
        if not lacking:
            return
        if time.monotonic() > deadline:
            shown = "\n".join(map(str, lacking)) if isinstance(lacking, list) else lacking
            raise TimeoutError(f"{what}: not within {seconds:.0f} s:\n{shown}")
        await asyncio.sleep(0.1)


class Slot:
    """A place for one process, after the other."""

    def __init__(self, number, url, shifts_file):
        self.number, self.starts = number, 0
        separator = "&" if "?" in url else "?"
        self._env = {
            "BACKEND": f"{url}{separator}{SETTINGS}",
            "SHIFTS": str(shifts_file),
            "PYTHONPATH": search_path(APPS),
        }
        self.server = None
        """The process, while clients can come to it."""
        self.running = None
        self.name = ""
        self.first = {}
        """What it held when it began."""
        self.logs = []

    async def start(self):
        """Start a process, and have it be one of the cluster."""
        self.starts += 1
        self.name = f"{self.number}.{self.starts}"
        self.running = serve(
            "numbered:app", env=self._env, lifespan_timeout=PATIENCE, log_level="warning"
        )
        await self.running.__aenter__()
        await self.is_up()
        self.first = await self.holdings()
        self.server = self.running

    async def is_up(self):
        """Wait until it has its server."""

        async def lacking():
            state = (await self.facts())["backend"]
            return state if state["state"] != "up" or state["why"] else None

        await until(lacking, f"process {self.name} is up")

    async def facts(self, **query):
        return await get(f"{self.running.http_url}/facts?{urlencode(query)}")

    async def holdings(self):
        return await get(f"{self.running.http_url}/holdings")

    def signal(self, number):
        self.running.process.send_signal(number)

    async def end(self, how):
        """End the process: SIGKILL or SIGTERM."""
        running, self.server = self.running, None
        running.process.send_signal(signal.SIGCONT)
        if how == signal.SIGKILL:
            running.process.kill()
        await running.stop()
        self.logs.append((self.name, running.log))


@dataclass
class Outcome:
    """What came of a run."""

    backend: str
    seed: int
    counts: Counter
    faults: Counter
    violations: list
    facts: dict = field(default_factory=dict)
    story: list = field(default_factory=list)
    """What happened when."""
    logs: dict = field(default_factory=dict)
    """What each process has logged."""

    def __str__(self):
        counted = self.counts
        faults = ", ".join(f"{what} {count}" for what, count in sorted(self.faults.items()))
        more = ", ".join(f"{what} {value}" for what, value in self.facts.items())
        return (
            f"{self.backend}, seed {self.seed}: {counted['sent']} sent, "
            f"{counted['kept']} kept, {counted['received']} received, "
            f"{counted['without place']} without a place; {counted['gaps']} gaps, recovered "
            f"{counted['recovered true']} true / {counted['recovered false']} false; "
            f"{counted[GONE]} {GONE}; {more}; "
            f"{self.faults.total()} faults ({faults}); {counted['violations']} violations"
        )


class Load:
    """One run: a ground, three processes, and sixty clients."""

    def __init__(self, ground, seed, folder):
        self.ground, self.seed = ground, seed
        self.chance = random.Random(f"{seed} faults")
        self.model = Model(consecutive=ground.consecutive)
        self.faults = Counter()
        self.facts, self.story = {}, []
        self.over = False
        self.talking = False
        self._shifts = folder / "shifts"
        self.slots = [Slot(each, ground.url(each), self._shifts) for each in range(PROCESSES)]
        self.clients = [
            Client(f"c{number}", self._rooms_of(number), self) for number in range(CLIENTS)
        ]
        self._restarts_told = 0
        self._waiting = []  # the faults of this turn; each kind comes before any comes again
        self._troubled = False  # whether something happens to the server right now
        self._phases, self._since = Counter(), time.monotonic()

    def _rooms_of(self, number):
        return [f"{kind}:{number % count}" for kind, count in ROOMS.items()]

    async def run(self, seconds, least):
        """Have faults happen, then judge; again, until it has been long enough, and enough."""
        try:
            await asyncio.gather(*(each.start() for each in self.slots))
            self._phase_ends("start")
            lives = [asyncio.create_task(each.live()) for each in self.clients]
            try:
                ends = time.monotonic() + seconds
                while True:
                    self.talking = True
                    await self._be_seated()
                    await self._have_faults(ends, min(least, self.faults.total() + ROUND))
                    self._phase_ends("faults")
                    await self._judge()
                    if time.monotonic() >= ends and self.faults.total() >= least:
                        break
                self.over = True
                await asyncio.gather(*(each.leave() for each in self.clients))
            finally:
                self.over = True
                for each in self.clients:
                    each.drop()
                await asyncio.gather(*lives)
            self._phase_ends("presence")
            await self._find_all_as_it_was()
            self._phase_ends("leaving")
        finally:
            for slot in self.slots:
                if slot.running is not None:
                    slot.signal(signal.SIGCONT)
            await asyncio.gather(
                *(slot.end(signal.SIGTERM) for slot in self.slots if slot.running is not None)
            )
        self._phase_ends("end")
        left = await asyncio.to_thread(self.ground.left_over, 0)
        if left:
            self.model.violate("left over", f"after the processes: {left}")
        self._judge_shifts()
        self._judge_logs()

    def _phase_ends(self, name):
        now = time.monotonic()
        self._phases[name] += now - self._since
        self._since = now
        self.facts["took (s)"] = " + ".join(f"{s:.0f} {name}" for name, s in self._phases.items())

    # What happens.

    async def _have_faults(self, ends, least):
        own = {
            "a process is killed": self._kill,
            "a process stands still": self._stand_still,
            "a process stops in order": self._stop_in_order,
            "clients are dropped": self._drop_clients,
        }
        others = self.ground.faults()
        ends = min(ends, time.monotonic() + ROUND_SECONDS)
        while time.monotonic() < ends or self.faults.total() < least:
            waiting = self._waiting
            if not waiting:
                waiting += [*own, *others]
                self.chance.shuffle(waiting)
            await asyncio.sleep(self.chance.uniform(0.3, 1.5))
            chosen = [waiting.pop()]
            if self.chance.random() < 0.25:
                more = [each for each in waiting if (each in own) != (chosen[0] in own)]
                if more:
                    chosen.append(more[-1])
                    waiting.remove(more[-1])
            self._troubled = any(each in others for each in chosen)
            self.faults.update(chosen)
            self.story.append(f"{time.monotonic():9.3f} {' and '.join(chosen)}")
            await asyncio.gather(*((own | others)[each]() for each in chosen))
            self._tell_restarts()
            if self._troubled:
                await asyncio.gather(*(slot.is_up() for slot in self.slots))
            self._troubled = False

    def _tell_restarts(self):
        for began, ended in self.ground.restarts[self._restarts_told :]:
            self.model.restarted(began, ended)
        self._restarts_told = len(self.ground.restarts)

    async def _kill(self):
        slot = self.chance.choice(self.slots)
        self.model.died(slot.name)
        await slot.end(signal.SIGKILL)
        await slot.start()

    async def _stop_in_order(self):
        slot = self.chance.choice(self.slots)
        if self._troubled:  # it may be without its server
            self.model.died(slot.name)
        await slot.end(signal.SIGTERM)
        await slot.start()

    async def _stand_still(self):
        slot = self.chance.choice(self.slots)
        slot.signal(signal.SIGSTOP)
        await asyncio.sleep(self.chance.choice([0.5, 1.5, TTL]))
        slot.signal(signal.SIGCONT)

    async def _drop_clients(self):
        for client in self.chance.sample(self.clients, CLIENTS // 3):
            client.drop()

    # What is right in the end.

    async def _be_seated(self):
        async def lacking():
            return [each.name for each in self.clients if not each.seated]

        await until(lacking, "all clients are in their rooms")

    async def _judge(self):
        """Have everybody say something in peace, and see that all of it arrives."""
        self.talking = False
        await self.ground.settle()
        healed = time.monotonic()
        await asyncio.gather(*(slot.is_up() for slot in self.slots))
        await self._be_seated()
        await asyncio.gather(*(each.answered() for each in self.clients))
        self._phase_ends("settling")
        await self._say_in_peace()

        async def outstanding():
            return [text for _, text, _ in self.model.outstanding()]

        with contextlib.suppress(TimeoutError):
            await until(outstanding, "all that was said has arrived")
        self.model.judge()
        self._phase_ends("peace")
        await self._judge_histories()
        await self._judge_presence(healed)

    async def _say_in_peace(self):
        waiting = set(self.clients)
        deadline = time.monotonic() + PATIENCE
        while waiting and time.monotonic() < deadline:
            for client in tuple(waiting):
                if client.seated:
                    with contextlib.suppress(WebSocketException, OSError):
                        await client.say_everywhere()
                        waiting.discard(client)
            await asyncio.sleep(0.05)
        for client in waiting:
            self.model.violate("peace", f"{client.name} could not talk though nothing happened")

    async def _judge_histories(self):
        async def read():
            for slot in self.slots:
                for number in range(ROOMS["kept"]):
                    room = f"kept:{number}"
                    found[room, slot.name] = await slot.facts(room=room)

        found = {}
        await until(read, "all histories can be read")
        for (room, process), kept in found.items():
            self.model.judge_history(room, process, kept)

    async def _judge_presence(self, healed):
        async def odd():
            found = []
            for number in range(ROOMS["here"]):
                room = f"here:{number}"
                truth = {each.name for each in self.clients if room in each.rooms}
                for slot in self.slots:
                    known = await slot.facts(room=room)
                    if known.keys() != truth or {len(each) for each in known.values()} != {1}:
                        wrong = {key: known.get(key) for key in known.keys() ^ truth}
                        more = {key: metas for key, metas in known.items() if len(metas) > 1}
                        found.append(f"{room} on process {slot.name}: {wrong or more}")
                for each in self.clients:
                    wrong = each.present.get(room, set()) ^ truth
                    if room in each.seats and wrong:
                        on = each.seats[room].process
                        told = "\n      ".join((f"{sorted(wrong)}, last of all:", *each.told))
                        found.append(f"{room}, as {each.name} (on process {on}) was told: {told}")
            return found

        try:
            await until(odd, "presence", PRESENCE_IS_RIGHT + SLACK)
        except TimeoutError as error:
            self.model.violate("presence", str(error))
        self.facts["presence right after (s)"] = round(time.monotonic() - healed, 1)

    async def _find_all_as_it_was(self):
        async def left():
            found = []
            for slot in self.slots:
                held = await slot.holdings()
                found += [
                    f"process {slot.name}: {what} {before} -> {held[what]}"
                    for what, before in slot.first.items()
                    if what != "kilobytes" and held[what] > before
                ]
                growth = held["kilobytes"] - slot.first["kilobytes"]
                self.facts["most growth (kB)"] = max(growth, self.facts.get("most growth (kB)", 0))
                if growth > GROWTH:
                    found.append(f"process {slot.name}: {growth} kB more than at first")
                for number in range(ROOMS["here"]):
                    if present := await slot.facts(room=f"here:{number}"):
                        found.append(f"process {slot.name}: here:{number} has {present}")
            return found + await asyncio.to_thread(self.ground.left_over, PROCESSES)

        try:
            await until(left, "all is as it was", PRESENCE_IS_RIGHT + SLACK)
        except TimeoutError as error:
            self.model.violate("left over", str(error))

    def _judge_shifts(self):
        found = shifts(line.split() for line in self._shifts.read_text().splitlines())
        losses = [began for began, _ in self.ground.restarts]
        violations, longest = judge_shifts(found, losses, BOTH)
        for each in violations:
            self.model.violate("lone worker", each)
        self.facts |= {"shifts": len(found), "two at work (s)": round(longest, 2)}

    def _judge_logs(self):
        for slot in self.slots:
            for name, log in slot.logs:
                for words in WORST:
                    if words in log:
                        place = log.index(words)
                        around = log[max(0, place - 500) : place + 1500]
                        self.model.violate("log", f"process {name} has {words!r}:\n{around}")
                        break


async def run(backend, seed, seconds=0.0, least=1):
    """Run one load; return its `Outcome`.

    Args:
        backend: One of `GROUNDS`.
        seed: Decides what happens, and who does what.
        seconds: For how long there are faults; the rest takes some more.
        least: How many faults there are at least, however long they take.
    """
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        folder = Path(name)
        async with GROUNDS[backend](folder, random.Random(f"{seed} ground")) as ground:
            load = Load(ground, seed, folder)
            await load.run(seconds, least)
            found = load.model
            return Outcome(
                backend,
                seed,
                found.counts,
                load.faults,
                found.violations,
                load.facts,
                load.story,
                dict(each for slot in load.slots for each in slot.logs),
            )
