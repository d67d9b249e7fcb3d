"""Messages that are lost without a word: a mark on each channel that has become quiet tells."""

import asyncio

import msgspec
import pytest
from faulty_backend import FaultyBackend, started, until

from falcon_pachinko import EncodeError
from falcon_pachinko.backends import MemoryHub
from falcon_pachinko.cluster import node as node_module
from falcon_pachinko.cluster import publishing
from falcon_pachinko.cluster.parcels import Broadcast, Mark, decode

LARGEST = 5000


class LossyBackend(FaultyBackend):
    """Loses what it is told to lose, and says nothing."""

    loses_silently = True

    def __init__(self, hub):
        super().__init__(hub)
        self.losing = False
        self.marks = []

    def check_size(self, size):
        if size > LARGEST:
            raise EncodeError(f"it has {size} bytes; set something")

    async def publish(self, parcels):
        for channel, data in parcels:
            _, parcel = decode(data)
            if isinstance(parcel, Mark) and channel.startswith("room:"):
                self.marks.append(channel)
        if not self.losing:
            await super().publish(parcels)


class Node(node_module.Node):
    def __init__(self, hub, backend=LossyBackend):
        self.texts, self.reported = [], []
        super().__init__(backend(hub), self.take, self.note, lambda: None)

    async def take(self, node, parcel, channel, position):
        self.texts.append(msgspec.json.decode(parcel.text))

    async def note(self, gap):
        self.reported.append(gap.channel)

    def say(self, text, channel="room:tea"):
        return self.publish(channel, Broadcast(0, 0, "", msgspec.json.encode(text).decode()))

    async def listens(self, channel="room:tea"):
        self.subscriptions.add(channel)
        await self.subscriptions.live(channel)

    async def flushed(self):
        await until(self._publishing._idle.is_set)


@pytest.fixture
async def nodes(monkeypatch):
    monkeypatch.setattr(publishing, "QUIET_AFTER", 0.05)
    hub = MemoryHub()
    async with started([Node(hub), Node(hub)]) as both:
        yield both


async def test_the_last_message_of_a_burst_is_missed_too(nodes):
    """What was lost behind what was heard is a gap, though nothing more is said."""
    here, there = nodes
    await there.listens()
    here.say("heard")
    await until(lambda: there.texts)
    here.backend.losing = True
    here.say("lost")
    await here.flushed()
    here.backend.losing = False
    await until(lambda: there.reported)

    assert there.reported == ["room:tea"]
    assert there.gaps == 1


async def test_who_has_all_of_it_is_told_nothing(nodes):
    """Also who has come since, and knows of no message before."""
    here, there = nodes
    await there.listens()
    for number in range(5):
        here.say(number)
    here.say("elsewhere", "room:new")
    await here.flushed()
    await there.listens("room:new")
    await until(lambda: len(here.backend.marks) == 2)
    here.say("end")
    await until(lambda: "end" in there.texts)

    assert there.reported == []


async def test_a_channel_gets_one_mark_however_much_was_said(nodes):
    """As many marks as channels were used; and then no more, until something is said again."""
    here, _ = nodes
    for _ in range(50):
        for room in range(20):
            here.say("x", f"room:{room}")
        await asyncio.sleep(0)
    await until(lambda: len(here.backend.marks) == 20)
    here.say("x", "room:0")
    await until(lambda: len(here.backend.marks) == 21)

    assert sorted(here.backend.marks) == sorted([f"room:{n}" for n in range(20)] + ["room:0"])
    assert not here._publishing._active


async def test_channels_that_wait_for_a_mark_are_few(nodes, monkeypatch):
    """Those that are too many get it at once."""
    monkeypatch.setattr(publishing, "MOST_ACTIVE", 3)
    monkeypatch.setattr(publishing, "QUIET_AFTER", 1000)
    here, _ = nodes
    for room in range(10):
        here.say("x", f"room:{room}")
    await until(lambda: len(here.backend.marks) >= 7)

    assert len(here._publishing._active) == 3


async def test_a_backend_that_tells_of_losses_gets_no_marks(monkeypatch):
    """Nothing is remembered, and nothing is sent besides the messages."""
    monkeypatch.setattr(publishing, "QUIET_AFTER", 0.0)
    hub = MemoryHub()
    async with started([Node(hub, FaultyBackend), Node(hub)]) as (here, there):
        await there.listens()
        here.say("x")
        there.say("y")
        await until(lambda: there.texts and there.backend.marks)

        assert not here._publishing._active


@pytest.mark.parametrize("with_members", [True, False])
async def test_what_is_too_large_is_refused_and_no_gap(nodes, with_members):
    """The sender gets the error; others miss nothing, and nothing is counted."""
    here, there = nodes
    await there.listens()
    if with_members:
        await here.listens()
    here.say("first")
    for _ in range(2):
        with pytest.raises(EncodeError, match="set something"):
            here.say("x" * LARGEST)
    here.say("last")
    await until(lambda: "last" in there.texts)

    assert there.texts == ["first", "last"]
    assert there.reported == []
    assert here.unpublished == 0


async def test_what_is_too_large_first_is_no_gap_either(nodes):
    """Nothing was said before it."""
    here, there = nodes
    await there.listens()
    with pytest.raises(EncodeError):
        here.say("x" * LARGEST)
    here.say("first")
    here.say("second")
    await until(lambda: "second" in there.texts)

    assert there.reported == []
