"""Who is here: what each process knows, what members are told, and what goes wrong."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest
from faulty_backend import DEADLINE, FaultyBackend, started, until
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import BackendError, Connection, EncodeError, WebSocketConnectionManager
from falcon_pachinko.backends import MemoryHub
from falcon_pachinko.cluster import presence as presence_core
from falcon_pachinko.cluster import presence_tables
from falcon_pachinko.cluster.catching_up import READS_AT_ONCE
from falcon_pachinko.cluster.node import Gap
from falcon_pachinko.cluster.parcels import PresenceDiff
from falcon_pachinko.cluster.presence_tables import WRITES_AT_ONCE
from falcon_pachinko.cluster.room_roster import Entry, RoomRoster
from falcon_pachinko.names import stranger_key

AWAY = BackendError("memory", "away")
MET = {"x": 1}

numbers = itertools.count()

pytestmark = pytest.mark.usefixtures("nothing_left")


class Node(WebSocketConnectionManager):
    """A process, with clients that keep what they are told."""

    def __init__(self, hub=None, ttl=15.0, grace=0.0):
        super().__init__(backend=FaultyBackend(hub, ttl))
        self.configure_rooms("", presence_grace=grace)

    @property
    def cluster(self):
        return self._cluster

    @property
    def backend(self):
        return self._cluster.backend

    @property
    def _presence(self):
        return self._exchange.presence

    def client(self, user_id=None):
        return Client(self, user_id)

    def fail(self, *calls):
        self.backend.failing = dict.fromkeys(calls, AWAY)

    @property
    def traces(self):
        """What it keeps of rooms and connections."""
        own = self._presence
        kept = (own._unread, own._tables._waiting, own._reads, own._telling)
        return [each for each in kept if each] + ([] if own._roster.is_empty else [own._roster])


class Client:
    """One connection, and who is present as far as it was told."""

    def __init__(self, node, user_id):
        self.node, self.frames, self.present, self.states = node, [], None, 0
        self.connection = Connection(
            f"c{next(numbers)}", self.take, node, direct=True, is_open=True
        )
        node._registry.add(self.connection)
        self.connection.user_id = user_id

    async def take(self, event):
        if event["type"] != "websocket.send":
            return
        frame = msgspec.json.decode(event["text"])
        self.frames.append(frame)
        payload = frame["payload"]
        if frame["type"] == "presence.state":
            self.present = payload["present"]
            self.states += 1
            return
        for key in payload["joins"]:
            assert key not in self.present
        for key in payload.get("updates", ()):
            assert key in self.present
        self.present |= payload["joins"] | payload.get("updates", {})
        for key, metas in payload["leaves"].items():
            assert self.present.pop(key) == metas

    async def track(self, meta=MET, room="tea"):
        await self.node._members.track(self.connection, room, meta)

    def go(self):
        self.node._members.forget(self.connection)


def running(count=2, **options):
    """Have some processes of one cluster run."""
    hub = MemoryHub()
    return started([Node(hub, **options) for _ in range(count)])


@pytest.fixture
async def nodes():
    async with running() as both:
        yield both


# The replica: applying the state and the diffs always gives what is known.

places = st.tuples(st.sampled_from(["n1", "n2"]), st.sampled_from(["a", "b", "c"]))
entries = st.none() | st.builds(
    Entry,
    st.sampled_from(["ann", "bob", "a"]),
    st.integers(0, 2).map(lambda each: msgspec.Raw(msgspec.msgpack.encode(each))),
)


@given(st.lists(st.tuples(places, entries, st.booleans()) | st.sampled_from(["n1", "n2"])))
def test_diffs_add_up_to_what_is_known(steps):
    """Whatever comes and goes, in whichever batches; and each diff is about what changed."""
    replica, told = RoomRoster(), {}

    def tell():
        change = replica.change()
        for key, metas in change["joins"].items():
            assert key not in told
            told[key] = metas
        for key, metas in change.get("updates", {}).items():
            assert told[key] != metas
            told[key] = metas
        for key, metas in change["leaves"].items():
            assert told.pop(key) == metas

    for step in steps:
        if isinstance(step, str):
            replica.forget(step)
            continue
        place, entry, tells = step
        replica.put(place, entry)
        if tells:
            tell()
            assert told == replica.metas()
    tell()

    assert told == replica.metas()
    assert replica.change() == {"joins": {}, "leaves": {}}
    assert len(replica.places) == len(told)


people = st.lists(
    st.tuples(
        st.sampled_from(["track", "untrack", "leave", "go", "wait", "gap"]),
        st.integers(0, 4),
        st.integers(0, 2),
    ),
    max_size=30,
)


class Play:
    """Five clients of two processes, three of two users."""

    def __init__(self, nodes):
        self.nodes, self.tracked, self.working = nodes, {}, []
        users = ["a", "b", "a", None, "b"]
        self.clients = [nodes[place % 2].client(user) for place, user in enumerate(users)]

    async def track(self, client, meta):
        if client.node._registry.with_id(client.connection.id):
            self.tracked[client] = meta
            self.working.append(asyncio.create_task(client.track(meta)))

    async def untrack(self, client, _):
        await asyncio.gather(*self.working)
        self.tracked.pop(client, None)
        await client.node.untrack(client.connection.id, "tea")

    async def leave(self, client, _):
        self.tracked.pop(client, None)
        client.node._members.leave(client.connection, "tea")

    async def go(self, client, _):
        self.tracked.pop(client, None)
        client.go()

    async def gap(self, client, _):
        await client.node._exchange._missed(Gap(None, None, "a test"))

    async def wait(self, client, _):
        pass

    @property
    def expected(self):
        present = {}
        for client, meta in self.tracked.items():
            key = client.connection.user_id or stranger_key(client.connection.id)
            present.setdefault(key, []).append(meta)
        return in_order(present)


def in_order(present):
    return present and {key: sorted(metas) for key, metas in present.items()}


@given(people)
def test_every_member_knows_who_is_present(steps):
    """Over two processes, whoever comes and goes: in the end all know the same, which is so."""

    async def play():
        async with running() as nodes:
            play = Play(nodes)
            for act, who, meta in steps:
                await getattr(play, act)(play.clients[who], meta)
                await asyncio.sleep(0)
            await asyncio.gather(*play.working)
            expected = play.expected
            for each in play.tracked:
                await until(lambda each=each: in_order(each.present) == expected)
            for node in nodes:
                assert in_order(await node.presence("tea")) == expected
                assert await node.count_present("tea") == len(expected)
            for each in play.clients:
                each.go()
            await until(lambda: not any(node.traces for node in nodes))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presence_core, "DIFF_SECONDS", 0.0)
        asyncio.run(play())


# Coming while the room is read.


async def test_all_who_come_while_the_room_is_read_are_told(nodes):
    """Even if the first of them has gone by then."""
    here, _ = nodes
    ann, bob = here.client("ann"), here.client("bob")
    gate = here.backend.stall("entries")
    tracking = [asyncio.create_task(each.track()) for each in (ann, bob)]
    await until(lambda: "entries" in here.backend.calls)
    ann.go()
    gate.set()
    await asyncio.gather(*tracking)
    await until(lambda: bob.present)

    assert bob.present == {"bob": [MET]}


async def test_whose_handler_is_cancelled_leaves_the_room_whole(nodes):
    """The others of the process are told of everybody nevertheless."""
    here, there = nodes
    cid = there.client("cid")
    await cid.track()
    ann, bob = here.client("ann"), here.client("bob")
    gate = here.backend.stall("entries")
    first = asyncio.create_task(ann.track())
    await until(lambda: "entries" in here.backend.calls)
    second = asyncio.create_task(bob.track())
    first.cancel()
    await asyncio.wait((first,))
    gate.set()
    await second
    ann.go()
    await until(lambda: bob.present == {"bob": [MET], "cid": [MET]})

    assert await here.presence("tea") == {"bob": [MET], "cid": [MET]}


async def test_who_leaves_and_comes_while_the_room_is_read_is_told_once(nodes):
    """The first coming is over; the second counts."""
    here, _ = nodes
    ann = here.client("ann")
    gate = here.backend.stall("entries")
    first = asyncio.create_task(ann.track())
    await until(lambda: "entries" in here.backend.calls)
    here._members.leave(ann.connection, "tea")
    second = asyncio.create_task(ann.track("again"))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, second)
    await until(lambda: ann.present)
    await here.presence("tea")

    assert (ann.present, ann.states) == ({"ann": ["again"]}, 1)


async def test_a_gap_while_the_room_is_read_has_it_read_again(nodes):
    """What was read may be older than what was missed."""
    here, there = nodes
    gate = here.backend.stall("entries")
    ann = here.client("ann")
    tracking = asyncio.create_task(ann.track())
    await until(lambda: "entries" in here.backend.calls)
    await here._exchange._missed(Gap(None, None, "a test"))
    gate.set()
    await tracking
    await until(lambda: here.backend.calls.count("entries") == 2)

    assert await there.presence("tea") == {"ann": [MET]}


async def test_asking_waits_for_a_room_that_is_read(nodes):
    """Half of the truth would be none."""
    here, there = nodes
    await there.client("bob").track()
    gate = here.backend.stall("entries")
    tracking = asyncio.create_task(here.client("ann").track())
    await until(lambda: "entries" in here.backend.calls)
    asking = asyncio.create_task(here.count_present("tea"))
    await asyncio.sleep(0)
    gate.set()
    await tracking

    assert await asking == 2


# Backends that fail.


async def test_a_room_that_could_not_be_read_is_read_later(caplog):
    """Until then it is known as far as this process goes."""
    async with running(ttl=0.06) as (here, there):
        await there.client("bob").track()
        here.fail("entries")
        ann = here.client("ann")
        await ann.track()
        await until(lambda: ann.present == {"ann": [MET]})
        here.fail()
        await until(lambda: ann.present == {"ann": [MET], "bob": [MET]})

    assert "could not load the presence of" in caplog.text


async def test_asking_a_backend_that_is_away_raises(nodes):
    """Where nobody of this process is present: nothing is known, and that is no "nobody"."""
    here, _ = nodes
    here.fail("entries")
    with pytest.raises(BackendError):
        await here.presence("tea")
    with pytest.raises(BackendError):
        await here.count_present("tea")
    ann = here.client("ann")
    await ann.track()

    assert await here.presence("tea") == {"ann": [MET]}
    assert await here.count_present("tea") == 1


async def test_what_could_not_be_written_is_written_later(nodes, monkeypatch, caplog):
    """In every room, and without a word lost."""
    monkeypatch.setattr(presence_tables, "WRITE_AGAIN_AFTER", (0.01, 0.01))
    here, there = nodes
    here.fail("enter")
    clients = [here.client(name) for name in "abc"]
    for number, each in enumerate(clients):
        await each.track(room=str(number))
    here.fail()
    for number in range(3):
        await until(lambda number=number: str(number) in there.backend.hub.tables)
        assert await there.presence(str(number))

    assert "could not tell other processes who is present; retrying" in caplog.text


async def test_a_room_that_cannot_be_written_harms_no_other(nodes, caplog):
    """A mistake of the backend's is logged, and the rest is written."""
    here, there = nodes
    own, write = here._presence._tables, here._presence._tables._write

    async def fails_for_bad(changes):
        if changes.room == "bad":
            raise ValueError("a mistake")
        await write(changes)

    own._write = fails_for_bad
    clients = [here.client(room) for room in ("bad", "good")]
    await asyncio.gather(*(each.track(room=each.connection.user_id) for each in clients))

    assert await there.presence("good") == {"good": [MET]}
    assert "could not write the presence of 'bad'" in caplog.text
    for each in clients:
        each.go()


@pytest.mark.parametrize("error", [AWAY, OSError("a mistake")])
async def test_signs_of_life_go_on_after_a_failure(error):
    """Whatever the backend raises."""
    async with running(1, ttl=0.06) as (node,):
        node.backend.failing = {"beat": error}
        await until(lambda: node.backend.calls.count("beat") > 3)
        node.fail()
        node.backend.hub.tables.clear()
        ann = node.client("ann")
        await ann.track()
        before = node.backend.calls.count("beat")
        await until(lambda: node.backend.calls.count("beat") > before + 1)

        assert node.backend.hub.beats


async def test_an_end_while_the_backend_stalls_is_an_end(nodes):
    """Whoever waits for it is let go, and nothing runs on."""
    here, _ = nodes
    ann = here.client("ann")
    here.backend.stall("enter")
    tracking = asyncio.create_task(ann.track())
    await until(lambda: "enter" in here.backend.calls)
    bob = here.client("bob")
    waiting = asyncio.create_task(bob.track())
    await until(lambda: len(here._presence._tables._waiting) == 2)
    other = asyncio.create_task(here.client("cid").track(room="other"))
    here.backend.stall("entries")
    await asyncio.sleep(0)
    await here._presence.stop()
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(tracking, waiting, other)

    assert here.traces == []


# What others tell.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\x93\xa1a\x01",
        msgspec.msgpack.encode([1, 2]),
        msgspec.msgpack.encode(["key"]),
        msgspec.msgpack.encode(["key", {(1,): 2}]),
        msgspec.msgpack.encode(["key", msgspec.msgpack.Ext(5, b"x")]),
        b"\x92\xa3key" + b"\x91" * 100_000 + b"\xc0",
    ],
)
async def test_entries_that_are_none_are_left_out(nodes, data):
    """In a diff as in the table; the others are told."""
    here, there = nodes
    ann = here.client("ann")
    await here.cluster.subscriptions.all_live()
    await there.backend.enter("tea", {"bad": data})
    await ann.track()
    good = msgspec.msgpack.encode(Entry("good", msgspec.Raw(b"\x01")))
    diff = PresenceDiff(0, 0, {"bad": data, "fine": good}, ("never there",))
    there.cluster.publish("room:tea", diff)
    await until(lambda: ann.present and "good" in ann.present)

    assert await here.presence("tea") == {"ann": [MET], "good": [1]}


async def test_a_diff_for_a_room_that_nobody_tracks_in_is_nothing(nodes):
    """It leaves nothing behind either."""
    here, _ = nodes
    here._presence.take("0" * 12, "tea", PresenceDiff(0, 0, {}, ()))
    here._presence.refresh(["tea"])

    assert here.traces == []


@pytest.mark.parametrize(
    "meta", [object(), 10**30, {(1,): 2}, msgspec.msgpack.Ext(5, b""), "\ud800"]
)
async def test_a_meta_has_a_form_in_every_codec(nodes, meta):
    """Else the members could not be told: it is refused, and who was there stays."""
    here, _ = nodes
    ann = here.client("ann")
    await ann.track()
    with pytest.raises(EncodeError):
        await ann.track(meta)

    assert await here.presence("tea") == {"ann": [MET]}


# Little is kept, and little is done.


async def test_a_process_alone_keeps_nothing_of_who_has_gone():
    """Nor does it write down what nobody will read."""
    node = Node()
    await node.start()
    for number in range(50):
        client = node.client("ann" if number % 2 else None)
        await client.track(room=str(number))
        client.go()
    node._presence.back()
    await node.stop()

    assert node.traces == []
    assert not node._presence._passing


async def test_coming_to_a_full_room_costs_no_look_at_everybody():
    """A thousand members more do not make it slower: the work is counted, not the time."""
    node = Node()
    for number in range(300):
        await node.client(f"user{number}").track()
    replica = node._presence._roster.rooms["tea"]
    await until(lambda: not replica.changed)
    looked = 0

    class Counting(dict):
        def __iter__(self):
            nonlocal looked
            looked += len(self)
            return super().__iter__()

        items = values = keys = __iter__

    replica.entries = {name: Counting(each) for name, each in replica.entries.items()}
    await node.client("late").track()
    assert replica.change()["joins"] == {"late": [MET]}
    assert looked == 0
    await node._presence.stop()


# Grace.


async def test_many_go_at_once_on_a_loop_that_does_not_tell_when(hasty_loop, until):
    """None of them stays present, or known."""
    node = Node(grace=0.0003)
    async with started([node]):
        watcher = Client(node, "wat")
        await watcher.track()
        clients = [Client(node, f"user-{number}") for number in range(3)]
        for each in clients:
            await each.track()

        await until(lambda: len(watcher.present or ()) == 4)

        for each in clients:
            each.go()
        await until(lambda: set(watcher.present) == {"wat"})

        assert len(node._registry) == 1


async def test_one_id_that_comes_back_within_the_grace_stays():
    """The end of the grace of its former self is not its own."""
    node = Node(grace=0.01)
    ann = node.client("ann")
    await ann.track()
    ann.go()
    ann.go()
    node._registry.add(ann.connection)
    await ann.track()
    await asyncio.sleep(0.03)

    assert await node.presence("tea") == {"ann": [MET]}
    ann.go()
    node._presence.gone(ann.connection)
    await until(lambda: not node.traces)
    await node._presence.stop()


async def test_an_end_within_the_grace_takes_its_timers_along():
    """Nothing happens later."""
    node = Node(grace=30)
    ann = node.client("ann")
    await ann.track()
    ann.go()
    assert await node.presence("tea") == {"ann": [MET]}
    await node._presence.stop()

    assert node.traces == []


# Processes that die.


async def test_a_process_that_dies_is_forgotten_at_each_step():
    """Whether its last diff came or not: its people go when it gives no sign of life."""
    async with running(3, ttl=0.3) as (here, dying, gone):
        ann = here.client("ann")
        await ann.track()
        await dying.client("bob").track()
        gone.backend.stall("publish")
        tracking = asyncio.create_task(gone.client("cid").track())
        await until(lambda: ann.present and "bob" in ann.present)
        for node in (dying, gone):
            for task in (node._presence._beating, *node.cluster._tasks):
                task.cancel()
            node._presence._beating = None  # else its end would tell the others
        await here._exchange._missed(Gap(None, None, "a test"))
        await until(lambda: ann.present == {"ann": [MET]})
        await tracking

        assert await here.presence("tea") == {"ann": [MET]}


async def test_a_failure_to_tell_is_logged_and_the_next_change_is_told(nodes, caplog):
    """No task of it is left with an exception that nobody sees."""
    here, _ = nodes
    own, send = here._presence, here._presence._send
    ann = here.client("ann")

    async def fails(*_):
        raise ValueError("a mistake")

    own._send = fails
    await ann.track()
    await until(lambda: "could not tell the members of" in caplog.text)
    own._send = send
    bob = here.client("bob")
    await bob.track()
    await until(lambda: bob.present)

    assert bob.present == {"ann": [MET], "bob": [MET]}


async def test_diffs_that_come_while_the_room_is_read_are_applied_after(nodes):
    """What was read may be older; what it has no more is taken away."""
    here, there = nodes
    ann, bob = here.client("ann"), there.client("bob")
    await bob.track()
    await ann.track()
    await until(lambda: ann.present == {"ann": [MET], "bob": [MET]})
    here._presence._roster.rooms["tea"].put(("gone", "c"), Entry("ghost", msgspec.Raw(b"\x01")))
    gate = here.backend.stall("entries")
    read = here.backend.calls.count("entries")
    here._presence.refresh(["tea"])
    await until(lambda: here.backend.calls.count("entries") > read)
    await bob.track("away")
    await until(lambda: here._presence._roster.rooms["tea"].waiting)
    gate.set()
    await until(lambda: ann.present == {"ann": [MET], "bob": ["away"]})

    assert await here.presence("tea") == {"ann": [MET], "bob": ["away"]}


async def test_one_that_has_gone_is_not_present(nodes):
    """Quietly: it could not know."""
    here, _ = nodes
    ann = here.client("ann")
    ann.go()
    await ann.track()

    assert here.traces == []


async def test_what_arrives_during_the_end_begins_nothing(nodes):
    """No task is left behind that would tell members of it."""
    here, there = nodes
    ann = here.client("ann")
    await ann.track()
    await until(lambda: ann.present)
    good = msgspec.msgpack.encode(Entry("late", msgspec.Raw(b"\x01")))
    stopping = asyncio.create_task(here._presence.stop())
    await asyncio.sleep(0)
    here._presence.take(there.cluster.name, "tea", PresenceDiff(0, 0, {"c": good}, ()))
    await stopping

    assert not here._presence._passing
    assert here.traces == []


# Clients that go while their call waits, and backends that are away.


@pytest.mark.parametrize("call", ["subscribe", "entries"])
@pytest.mark.parametrize("user_id", ["ann", None])
async def test_who_goes_while_it_waits_is_present_nowhere(call, user_id):
    """Neither within the grace nor for ever, and no member that is told."""
    async with running(grace=30) as (here, there):
        keeper = there.client("keeper")
        await keeper.track()
        other = here.client("other")
        await other.track(room="elsewhere")
        gate = here.backend.stall(call)
        ann = here.client(user_id)
        tracking = asyncio.create_task(ann.track())
        await until(lambda: here.backend.calls[-1] == call)
        ann.go()
        gate.set()
        await tracking
        await here.client("late").track()
        await until(lambda: keeper.present and "late" in keeper.present)

        assert await here.presence("tea") == {"keeper": [MET], "late": [MET]}
        members = here._presence._roster.rooms["tea"].members
        assert not any(each.closed or "tea" not in each._rooms for each in members)
        assert ann.connection not in members


async def test_a_call_that_is_cancelled_makes_nobody_present(nodes):
    """The member stays in the room, and may try again."""
    here, _ = nodes
    ann = here.client("ann")
    gate = here.backend.stall("entries")
    tracking = asyncio.create_task(ann.track())
    await until(lambda: "entries" in here.backend.calls)
    tracking.cancel()
    await asyncio.wait((tracking,))
    gate.set()
    absent = await here.presence("tea")
    await ann.track("again")

    assert absent == {}
    assert await here.presence("tea") == {"ann": ["again"]}


async def test_who_comes_and_goes_while_the_backend_is_away_leaves_nothing(nodes):
    """However many; and whoever comes when it is back waits for none of them."""
    here, there = nodes
    await here.cluster.subscriptions.all_live()
    here.backend.state = "degraded"
    for number in range(200):
        client = here.client(f"user{number}")
        await client.track(room=f"room{number}")
        client.go()
    await until(lambda: not here.traces)
    before = here.backend.calls.count("enter") + here.backend.calls.count("leave")
    here.backend.state = "up"
    here._exchange._is_back()
    ann = here.client("ann")
    await ann.track()

    assert here.backend.calls.count("enter") + here.backend.calls.count("leave") == before + 1
    assert await there.presence("tea") == {"ann": [MET]}


async def test_a_tracker_that_goes_lets_its_call_return(nodes):
    """Nobody waits for the writing of an entry that is not written any more."""
    here, _ = nodes
    gate = here.backend.stall("enter")
    first, ann = here.client("first"), here.client("ann")
    writing = asyncio.create_task(first.track(room="other"))
    await until(lambda: "enter" in here.backend.calls)
    tracking = asyncio.create_task(ann.track())
    await until(lambda: ("tea", ann.connection.id) in here._presence._tables._waiting)
    ann.go()
    async with asyncio.timeout(DEADLINE):
        await tracking
    gate.set()
    await writing


async def test_an_outage_is_one_line(nodes, monkeypatch, caplog):
    """However many rooms cannot be read and entries cannot be written meanwhile."""
    monkeypatch.setattr(presence_tables, "WRITE_AGAIN_AFTER", (0.001, 0.001))
    here, _ = nodes
    here.fail("enter", "entries")
    clients = [here.client(f"user{number}") for number in range(30)]
    for number, each in enumerate(clients):
        await each.track(room=f"room{number}")

    warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert sum("could not load the presence" in each for each in warnings) == 1
    assert sum("could not tell other processes" in each for each in warnings) == 1


async def test_members_that_leave_while_others_are_told_are_told_nothing_more(nodes):
    """Who is here is looked at again before each message."""
    here, _ = nodes
    own, send = here._presence, here._presence._send
    ann, bob = here.client("ann"), here.client("bob")
    await ann.track()
    await until(lambda: ann.present)
    seen = []

    async def slowly(connections, message):
        if message["type"] == "presence.diff":
            here._members.leave(bob.connection, "tea")
        seen.append((message["type"], [each.id for each in connections]))
        await send(connections, message)

    own._send = slowly
    await bob.track()
    await until(lambda: len(seen) >= 2)
    own._send = send

    assert seen[:2] == [("presence.diff", [ann.connection.id]), ("presence.state", [])]


# Many rooms at once.


@pytest.mark.parametrize(
    ("call", "most"),
    [("enter", WRITES_AT_ONCE), ("replace", WRITES_AT_ONCE), ("entries", READS_AT_ONCE)],
)
async def test_many_rooms_are_written_and_read_at_once_but_not_all(nodes, call, most):
    """A reconnect costs no round trip for each room in turn; a newcomer is served at once."""
    here, _ = nodes
    clients = [here.client(f"user{number}") for number in range(150)]
    await asyncio.gather(*(each.track(room=each.connection.user_id) for each in clients))
    gate, before = here.backend.stall(call), here.backend.calls.count(call)
    if call == "enter":
        again = [
            asyncio.create_task(each.track("new", each.connection.user_id)) for each in clients
        ]
        await until(lambda: len(here._presence._tables._waiting) == 150)
    elif call == "replace":
        here._presence.back()
    else:
        here._presence.refresh(each.connection.user_id for each in clients)
    await until(lambda: here.backend.calls.count(call) >= before + most)
    for _ in range(20):
        await asyncio.sleep(0)
    at_once = here.backend.calls.count(call) - before
    gate.set()
    await until(lambda: here.backend.calls.count(call) >= before + 150)
    if call == "enter":
        await asyncio.gather(*again)

    assert at_once == most
    assert here.backend.calls.count(call) == before + 150
    for each in clients:
        each.go()


@pytest.mark.parametrize("rooms", [1, 300])
async def test_a_return_costs_each_room_one_write_and_one_read(nodes, rooms):
    """And one question for those that are over."""
    here, _ = nodes
    clients = [here.client(f"user{number}") for number in range(rooms)]
    await asyncio.gather(*(each.track(room=each.connection.user_id) for each in clients))
    before = len(here.backend.calls)
    here._exchange._is_back()
    await here._exchange._missed(Gap(None, None, "a test"))
    await until(lambda: here.backend.calls.count("replace") >= rooms)
    await until(lambda: not here._presence._passing)
    calls = here.backend.calls[before:]

    assert calls.count("replace") == calls.count("entries") == rooms
    assert calls.count("tables") == 1
    assert calls.count("enter") == rooms  # as the backend in memory replaces
    for each in clients:
        each.go()


async def test_while_writes_fail_whoever_is_new_is_tried_and_not_kept_waiting(nodes):
    """The pause before the next try of all is nobody's pause."""
    here, there = nodes
    here.fail("enter")
    loop = asyncio.get_running_loop()
    began = loop.time()
    clients = [here.client(f"user{number}") for number in range(20)]
    for each in clients:
        await each.track()
    waited = loop.time() - began
    here.fail()
    last = here.client("last")
    await last.track()

    assert waited < 0.4  # less than one pause, on a busy machine too
    assert len(await there.presence("tea")) == 21


async def test_who_waits_for_a_write_is_let_go_when_the_backend_is_away(nodes):
    """It is written when the backend is back."""
    here, there = nodes
    first = here.client("first")
    await first.track()
    gate = here.backend.stall("enter")
    ann = here.client("ann")
    tracking = asyncio.create_task(ann.track())
    await until(lambda: here.backend.calls.count("enter") == 2)
    here.backend.state = "degraded"
    here.fail("enter")
    gate.set()
    await tracking
    here.backend.state = "up"
    here.fail()
    here._exchange._is_back()
    await until(lambda: not here._presence._passing)

    assert set(await there.presence("tea")) == {"first", "ann"}


@pytest.mark.parametrize("error", [AWAY, ValueError("a mistake")])
async def test_what_is_over_is_looked_for_until_the_backend_answers(error, caplog):
    """With each sign of life."""
    async with running(ttl=0.3) as (here, there):
        ann = here.client("ann")
        await ann.track()
        data = msgspec.msgpack.encode(Entry("ghost", msgspec.Raw(b"\x01")))
        await here.backend.enter("old", {"c": data})
        here.backend.failing = {"tables": error}
        here._exchange._is_back()
        await until(lambda: here.backend.calls.count("tables") > 1)
        still = await there.presence("old")
        here.fail()
        await until(lambda: "old" not in here.backend.hub.tables)

        assert still == {"ghost": [1]}
        assert ("could not look for presence that is over" in caplog.text) is (error is not AWAY)


async def test_a_process_that_has_never_written_asks_for_nothing(nodes):
    """An app without presence needs no right to it."""
    here, _ = nodes
    here._exchange._is_back()
    here._exchange._is_back()
    for _ in range(10):
        await asyncio.sleep(0)

    assert "tables" not in here.backend.calls


async def test_the_end_of_a_reading_that_was_cancelled_is_an_end(nodes):
    """Whoever waited for it goes on."""
    here, _ = nodes
    here.backend.stall("entries")
    ann = here.client("ann")
    tracking = asyncio.create_task(ann.track())
    await until(lambda: here._presence._reads)
    asking = asyncio.create_task(here.presence("tea"))
    await asyncio.sleep(0)
    await here._presence.stop()
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(tracking, asking)

    assert here.traces == []


async def test_a_room_that_is_to_be_read_while_the_backend_is_away_is_read_when_it_is_back(nodes):
    """And not before: it would fail, in each room."""
    here, _ = nodes
    ann = here.client("ann")
    await ann.track()
    before = here.backend.calls.count("entries")
    here.backend.state = "degraded"
    here._presence.refresh(["tea"])
    for _ in range(10):
        await asyncio.sleep(0)
    away = here.backend.calls.count("entries")
    here.backend.state = "up"
    here._exchange._is_back()
    await until(lambda: here.backend.calls.count("entries") > before)

    assert away == before
