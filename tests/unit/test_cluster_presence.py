"""Who is present, decided: two processes and a table, held to a model that is a list of people."""

from __future__ import annotations

import ast
import inspect

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from falcon_pachinko.cluster import history, presence, presence_ledger, room_roster
from falcon_pachinko.cluster.presence import DIFF_SECONDS, Roster
from falcon_pachinko.cluster.room_roster import Change, Entry
from falcon_pachinko.names import stranger_key

ROOM, GRACE = "tea", 5.0


class Member:
    """One connection, and who is present as far as it was told."""

    def __init__(self, connection_id, user_id=None):
        self.id, self.user_id = connection_id, user_id
        self._rooms, self.present = set(), None

    def __repr__(self):
        return f"<{self.id} {self.user_id}>"

    @property
    def key(self):
        return self.user_id or stranger_key(self.id)

    def told(self, message):
        payload = message["payload"]
        if message["type"] == "presence.state":
            assert self.present is None
            self.present = dict(payload["present"])
            return
        for key in payload["joins"]:
            assert key not in self.present
        for key, metas in payload.get("updates", {}).items():
            assert self.present[key] != metas
        self.present |= payload["joins"] | payload.get("updates", {})
        for key, metas in payload["leaves"].items():
            assert self.present.pop(key) == metas


def entry(member, meta):
    return Entry(member.key, msgspec.Raw(msgspec.msgpack.encode(meta)))


def in_order(present):
    return {key: sorted(metas) for key, metas in present.items()}


class Process:
    """A roster, and the calls of its that are under way."""

    def __init__(self, name):
        self.roster = Roster()
        self.roster.begin(name)
        self.name = name
        self.pending = {}  # by member: the entry that it waits to be announced with
        self.reading = None  # the room as it was when the reading began, and the table by then
        self.writing = None
        self.inbox = []  # diffs of the other process
        self.stale = False  # whether some of those were lost


class RosterMachine(RuleBasedStateMachine):
    """The model: who tracks what, and who has gone but is still within the grace."""

    @initialize()
    def begin(self):
        self.now = 0.0
        self.processes = [Process("n1"), Process("n2")]
        users = [None, "ann", "ann", "bob"]
        self.members = {
            (place, number): Member(f"{place}c{number}", user)
            for place in (0, 1)
            for number, user in enumerate(users)
        }
        self.table = {}  # by process and connection id
        self.snapshot = {}  # the table as it was saved last
        self.here = {}  # the model: by (place, number), what is announced there
        self.lingering = []  # ... and by place, key, meta, until when somebody stays
        self.count = 0

    places = st.tuples(st.integers(0, 1), st.integers(0, 3))
    which = st.integers(0, 1)

    # What people do.

    @rule(who=places, meta=st.integers(0, 2))
    def track(self, who, meta):
        process, member = self.processes[who[0]], self.members[who]
        member._rooms.add(ROOM)
        tracked = entry(member, meta)
        process.roster.track(member, ROOM, tracked)
        process.pending[member] = who, tracked, meta

    @rule(which=which)
    def announce(self, which):
        """Whoever waited for the room to be read goes on, as the calls do."""
        process = self.processes[which]
        known = process.roster.rooms.get(ROOM)
        if known is None or not known.was_read:
            return
        pending, process.pending = process.pending, {}
        for member, (who, tracked, meta) in pending.items():
            if process.roster.tracks(member, ROOM, tracked):
                process.roster.announce(member, ROOM)
                self.here[who] = member.key, meta
                self.lingering = [
                    each for each in self.lingering if (each[0], each[1]) != (which, member.key)
                ]

    @rule(who=places)
    def leave(self, who):
        member = self.members[who]
        self.processes[who[0]].roster.untrack(member, ROOM)
        member._rooms.discard(ROOM)
        member.present = None
        self.here.pop(who, None)

    @rule(who=places)
    def go(self, who):
        process, member = self.processes[who[0]], self.members[who]
        process.roster.gone(member, self.now, lambda _: GRACE)
        member._rooms.clear()
        gone = self.here.pop(who, None)
        if gone is not None and member.user_id is not None:
            self.lingering.append((who[0], member.key, gone[1], self.now + GRACE))
        process.pending.pop(member, None)
        self.count += 1
        self.members[who] = Member(f"{who[0]}c{who[1]}-{self.count}", member.user_id)

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0]))
    def time_passes(self, seconds):
        self.now += seconds
        for process in self.processes:
            deadline = process.roster.next_deadline()
            if deadline is not None and deadline <= self.now:
                process.roster.expire(self.now)
        self.lingering = [each for each in self.lingering if each[3] > self.now]

    # What the processes do.

    @rule(which=which)
    def begin_reading(self, which):
        process = self.processes[which]
        known = process.roster.rooms.get(ROOM)
        if process.reading is None and known is not None:
            if known.was_read and not process.stale:
                return
            process.stale = False
            process.roster.begin_reading(known)
            process.reading = known, {node: dict(each) for node, each in self.table.items()}

    @rule(which=which, fails=st.booleans())
    def end_reading(self, which, fails):
        process = self.processes[which]
        if process.reading is not None:
            (known, table), process.reading = process.reading, None
            process.roster.end_reading(ROOM, known, None if fails else table, patient=False)
            process.stale |= fails and process.roster.rooms.get(ROOM) is known

    @rule(which=which)
    def begin_writing(self, which):
        process = self.processes[which]
        if process.writing is None:
            process.writing = process.roster.ledger.next()

    @rule(which=which, fate=st.sampled_from(["done", "done", "lost on the way", "answer lost"]))
    def end_writing(self, which, fate):
        process = self.processes[which]
        write, process.writing = process.writing, None
        if write is None:
            return
        if fate != "lost on the way":
            entries = self.table.setdefault(process.name, {})
            if write.whole:
                entries.clear()
            entries.update(write.joins)
            for each in write.leaves:
                entries.pop(each, None)
        if fate == "done":
            process.roster.ledger.wrote(write)
            self.processes[1 - which].inbox.append((process.name, write))
        else:
            process.roster.ledger.failed(write)

    @rule(which=which)
    def retry(self, which):
        self.processes[which].roster.ledger.retry()

    @rule(which=which)
    def deliver(self, which):
        process = self.processes[which]
        if process.inbox:
            node, write = process.inbox.pop(0)
            change = Change(node, write.joins, write.leaves, write.whole)
            process.roster.apply(write.room, change)

    @rule(which=which)
    def lose(self, which):
        """A gap: the room is to be read anew."""
        process = self.processes[which]
        process.inbox.clear()
        process.stale = True
        if process.reading is not None:
            self.end_reading(which, fails=True)

    @rule()
    def save(self):
        self.snapshot = {node: dict(entries) for node, entries in self.table.items()}

    @rule(restored=st.booleans())
    def outage(self, restored):
        """The backend comes back with what it had saved, or with nothing."""
        saved = self.snapshot if restored else {}
        self.table = {node: dict(entries) for node, entries in saved.items()}
        for process in self.processes:
            process.roster.ledger.write_anew(process.roster.own_rooms)
            process.stale = True

    @rule(which=which)
    def sweep(self, which):
        """A process asks in which tables it has anything, as it does after an outage."""
        process, ledger = self.processes[which], self.processes[which].roster.ledger
        if ledger.doubtful:
            ledger.take_out([ROOM] if self.table.get(process.name) else [])
            ledger.doubtful = False

    @rule(which=which)
    def tell(self, which):
        process = self.processes[which]
        if process.roster.due(ROOM) is None:
            assert process.roster.news_of(ROOM, self.now) == []
            return
        assert process.roster.due(ROOM) <= self.now + DIFF_SECONDS
        for recipients, message in process.roster.news_of(ROOM, self.now):
            for each in recipients:
                assert ROOM in each._rooms
                each.told(message)

    # What holds at any time, and in the end.

    @invariant()
    def nothing_is_kept_twice_or_empty(self):
        for process in getattr(self, "processes", ()):
            roster = process.roster
            for known in roster.rooms.values():
                by_node = {
                    (node, each): tracked
                    for node, entries in known.entries.items()
                    for each, tracked in entries.items()
                }
                by_key = {
                    place: tracked
                    for places in known.places.values()
                    for place, tracked in places.items()
                }
                assert by_node == by_key
                assert all(known.entries.values())
                assert all(known.places.values())
                assert all(ROOM in each._rooms for each in known.members)
                assert known.newcomers.keys() <= known.members
            ledger = roster.ledger
            for kept in (roster._own, roster._rooms_of, roster._leaving, ledger.stored):
                assert all(kept.values())
            due = ledger._unwritten.keys() | ledger._anew
            assert ledger._urgent.keys() <= due
            assert ledger._resting <= due
            assert ledger._queue.keys() == due - ledger._underway - ledger._resting
            for room, ids in ledger._unwritten.items():
                own, stored = roster._own.get(room, {}), ledger.stored.get(room, set())
                assert ids
                assert all(each in own or each in stored for each in ids)

    @property
    def expected(self):
        present = {}
        for key, meta in self.here.values():
            present.setdefault(key, []).append(meta)
        for _, key, meta, _ in self.lingering:
            present.setdefault(key, []).append(meta)
        return in_order(present)

    def settle(self):
        for which in (0, 1):
            self.end_reading(which, fails=False)
            self.begin_reading(which)
            self.end_reading(which, fails=False)
            self.announce(which)
            self.end_writing(which, "done")
            self.sweep(which)
        for _ in range(4):
            for which in (0, 1):
                self.retry(which)
                self.begin_writing(which)
                self.end_writing(which, "done")
        for which in (0, 1):
            while self.processes[which].inbox:
                self.deliver(which)
            # What changed in the table without a diff is found by reading.
            self.processes[which].stale = True
            self.begin_reading(which)
            self.end_reading(which, fails=False)
            self.tell(which)

    def teardown(self):
        if not hasattr(self, "processes"):
            return
        self.settle()
        for which, process in enumerate(self.processes):
            known = process.roster.rooms.get(ROOM)
            if known is None:
                assert not any(place == which for place, _ in self.here)
                continue
            assert in_order(known.metas()) == self.expected
            for (place, _), member in self.members.items():
                if place == which and member in known.members:
                    assert in_order(member.present) == self.expected
        for who in tuple(self.members):
            self.leave(who)
        self.time_passes(100.0)
        self.settle()

        assert all(process.roster.is_empty for process in self.processes)
        assert all(process.roster.next_deadline() is None for process in self.processes)
        assert not any(self.table.values())


class StayingMachine(RuleBasedStateMachine):
    """Processes that end in good order, as another one sees them; the model is a list of entries.

    An entry whose process has ended stays until its time, or until its user is back; no table
    and no sign of life knows of it.
    """

    @initialize()
    def begin(self):
        self.now, self.roster = 0.0, Roster()
        self.roster.begin("me")
        self.watcher = Member("w", "watcher")
        come(self.roster, self.watcher)
        self.tell()
        self.entries = {}  # the model: by process and connection id, key and until when it stays
        self.alive = {"n1", "n2", "n3"}

    nodes = st.sampled_from(["n1", "n2", "n3"])
    ids = st.sampled_from(["a", "b"])
    keys = st.sampled_from(["ann", "bob", "watcher"])

    def back(self, key):
        self.entries = {
            place: (known, until)
            for place, (known, until) in self.entries.items()
            if known != key or until is None
        }

    @rule(node=nodes, connection_id=ids, key=keys)
    def join(self, node, connection_id, key):
        self.alive.add(node)
        joins = {connection_id: msgspec.msgpack.encode(Entry(key, msgspec.Raw(b"\x01")))}
        self.roster.apply(ROOM, Change(node, joins, ()))
        self.back(key)
        self.entries[node, connection_id] = key, None

    @rule(node=nodes, connection_id=ids)
    def leave(self, node, connection_id):
        self.roster.apply(ROOM, Change(node, {}, (connection_id,)))
        self.entries.pop((node, connection_id), None)

    @rule(node=nodes, seconds=st.sampled_from([1.0, 3.0]))
    def end(self, node, seconds):
        until = dict.fromkeys("ab", self.now + seconds)
        self.roster.apply(ROOM, Change(node, {}, ("a", "b"), until=until))
        self.alive.discard(node)
        for place in ((node, "a"), (node, "b")):
            if place in self.entries:
                key = self.entries[place][0]
                others = [each for at, each in self.entries.items() if at != place]
                if key == "watcher" or (key, None) in others:
                    del self.entries[place]
                else:
                    self.entries[place] = key, self.now + seconds

    @rule(node=nodes)
    def die(self, node):
        self.alive.discard(node)
        self.roster.forget_nodes([node])
        self.entries = {
            place: (key, until)
            for place, (key, until) in self.entries.items()
            if place[0] != node or until is not None
        }

    @rule(patient=st.booleans())
    def read(self, patient):
        """The table has what is not about to go."""
        table = {}
        for (node, connection_id), (key, until) in self.entries.items():
            if until is None:
                data = msgspec.msgpack.encode(Entry(key, msgspec.Raw(b"\x01")))
                table.setdefault(node, {})[connection_id] = data
        known = self.roster.rooms[ROOM]
        self.roster.begin_reading(known)
        self.roster.end_reading(ROOM, known, table, patient=patient)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.roster.expire(self.now)
        self.entries = {
            place: (key, until)
            for place, (key, until) in self.entries.items()
            if until is None or until > self.now
        }

    @rule()
    def tell(self):
        for recipients, message in self.roster.news_of(ROOM, self.now):
            for each in recipients:
                each.told(message)

    @invariant()
    def it_is_as_the_model_says(self):
        if not hasattr(self, "entries"):
            return
        known = self.roster.rooms[ROOM]
        expected = {place: key for place, (key, _) in self.entries.items()}
        expected["me", "w"] = "watcher"
        assert {
            (node, each): entry.key
            for node, entries in known.entries.items()
            for each, entry in entries.items()
        } == expected
        staying = {place: until for place, (_, until) in self.entries.items() if until is not None}
        assert known.staying == staying
        moments = [(deadline, node, each) for deadline, _, node, each in self.roster._deadlines]
        assert all((until, *place) in moments for place, until in staying.items())

    def teardown(self):
        if hasattr(self, "entries"):
            self.time_passes(10.0)
            assert not self.roster.rooms[ROOM].staying
            assert self.roster.next_deadline() is None


StayingMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestStayingMachine = StayingMachine.TestCase

RosterMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestRosterMachine = RosterMachine.TestCase


# One step at a time.


@pytest.fixture
def roster():
    made = Roster()
    made.begin("n1")
    return made


def come(roster, member, meta=1, room=ROOM):
    member._rooms.add(room)
    tracked = entry(member, meta)
    roster.track(member, room, tracked)
    roster.announce(member, room)
    return tracked


@pytest.mark.parametrize("user_id", ["ann", None])
@pytest.mark.parametrize("how", ["gone", "untrack", "withdraw"])
def test_one_that_goes_before_it_was_announced_was_never_there(roster, user_id, how):
    """Not even within the grace: nobody was told of it."""
    member = Member("c1", user_id)
    member._rooms.add(ROOM)
    tracked = entry(member, 1)
    roster.track(member, ROOM, tracked)
    if how == "gone":
        roster.gone(member, 0.0, lambda _: GRACE)
        member._rooms.clear()
    elif how == "untrack":
        roster.untrack(member, ROOM)
    else:
        roster.withdraw(member, ROOM, tracked)

    assert not roster.tracks(member, ROOM, tracked)
    assert roster.is_empty
    assert roster.ledger.next() is None


def test_a_meta_that_is_withdrawn_leaves_the_one_before(roster):
    """Whoever was told of a member goes on seeing it."""
    member = Member("c1", "ann")
    come(roster, member)
    newer = entry(member, 2)
    roster.track(member, ROOM, newer)
    roster.withdraw(member, ROOM, newer)

    assert roster.rooms[ROOM].metas() == {"ann": [1]}


@pytest.mark.parametrize("attempts", [0, 1])
def test_what_was_never_written_is_not_taken_out(roster, attempts):
    """Else everybody who came and went while the backend was away would have to be told."""
    for number in range(100):
        member = Member(f"c{number}")
        come(roster, member, room=f"room{number}")
        if attempts and number == 0:
            roster.ledger.failed(roster.ledger.next())
        roster.gone(member, 0.0, lambda _: GRACE)
        member._rooms.clear()
    roster.ledger.retry()
    left = []
    while (write := roster.ledger.next()) is not None:
        left.append(write)
        roster.ledger.wrote(write)

    assert [(each.joins, each.leaves) for each in left] == [({}, ("c0",))] * attempts
    assert roster.is_empty


def test_a_newcomer_is_written_before_what_is_written_again(roster):
    """After an outage, with thousands of entries to tell, nobody waits for all of them."""
    for number in range(50):
        come(roster, Member(f"c{number}"), room=f"room{number}")
    while (write := roster.ledger.next()) is not None:
        roster.ledger.wrote(write)
    roster.ledger.write_anew(roster.own_rooms)
    come(roster, Member("new"), room="lobby")

    assert roster.ledger.next().room == "lobby"
    assert len({roster.ledger.next().room for _ in range(50)}) == 50
    assert roster.ledger.next() is None


def test_of_a_room_there_is_one_write_at_a_time(roster):
    """So that none overtakes another; other rooms do not wait for it."""
    come(roster, Member("c1", "ann"))
    come(roster, Member("c2", "bob"), room="milk")
    first = roster.ledger.next()
    come(roster, Member("c3", "cid"))
    second, third = roster.ledger.next(), roster.ledger.next()
    roster.ledger.wrote(first)
    fourth = roster.ledger.next()

    assert (first.room, second.room, third, fourth.room) == (ROOM, "milk", None, ROOM)
    assert set(fourth.joins) == {"c3"}


@pytest.mark.parametrize("fails", [False, True])
def test_after_an_outage_all_that_is_here_replaces_all_that_is_there(roster, fails):
    """In rooms that are empty by now, too; a write that was under way counts for nothing."""
    members = [Member(f"c{number}", "ann") for number in range(2)]
    for member, room in zip(members, (ROOM, "milk"), strict=True):
        come(roster, member, room=room)
    first = roster.ledger.next()
    roster.ledger.wrote(roster.ledger.next())
    roster.untrack(members[1], "milk")
    roster.ledger.write_anew(roster.own_rooms)
    (roster.ledger.failed if fails else roster.ledger.wrote)(first)
    roster.ledger.retry()
    written = {}
    while (write := roster.ledger.next()) is not None:
        written[write.room] = write.whole, set(write.joins), write.leaves
        roster.ledger.wrote(write)

    assert written == {ROOM: (True, {"c0"}, ()), "milk": (True, set(), ("c1",))}


@pytest.mark.parametrize("leaves", [False, True])
def test_a_replacement_that_failed_is_one_at_the_next_try(roster, leaves):
    """Whatever has changed by then."""
    member = Member("c1", "ann")
    come(roster, member)
    roster.ledger.wrote(roster.ledger.next())
    roster.ledger.write_anew(roster.own_rooms)
    first = roster.ledger.next()
    if leaves:
        roster.untrack(member, ROOM)
    roster.ledger.failed(first)
    waits = roster.ledger.next()
    roster.ledger.retry()
    again = roster.ledger.next()
    roster.ledger.wrote(again)

    assert waits is None
    assert (again.whole, set(again.joins)) == (True, set() if leaves else {"c1"})
    assert roster.ledger.next() is None
    assert roster.ledger.is_empty is leaves


def test_what_is_found_on_the_server_and_not_here_is_taken_out(roster):
    """Not what is here, which is written anyway."""
    come(roster, Member("c1", "ann"))
    roster.ledger.wrote(roster.ledger.next())
    roster.ledger.write_anew(roster.own_rooms)
    roster.ledger.wrote(roster.ledger.next())
    roster.ledger.take_out([ROOM, "gone"])
    write = roster.ledger.next()

    assert write == ("gone", {}, (), True)
    assert roster.ledger.next() is None


def test_a_room_that_somebody_comes_to_before_the_server_was_asked_is_replaced(roster):
    """It may have entries there that nobody here knows of."""
    come(roster, Member("c1", "ann"))
    roster.ledger.wrote(roster.ledger.next())
    roster.ledger.write_anew(roster.own_rooms)
    roster.ledger.wrote(roster.ledger.next())
    come(roster, Member("c2", "bob"), room="milk")
    write = roster.ledger.next()

    assert (write.room, write.whole, set(write.joins)) == ("milk", True, {"c2"})


def test_a_room_that_failed_rests_unless_somebody_new_comes(roster):
    """Whoever is new does not wait for the next try of all."""
    come(roster, Member("c1", "ann"))
    come(roster, Member("c2", "bob"), room="milk")
    for _ in range(2):
        roster.ledger.failed(roster.ledger.next())
    resting = roster.ledger.next()
    come(roster, Member("c3", "cid"))
    write = roster.ledger.next(urgent=True)

    assert resting is None
    assert (write.room, set(write.joins)) == (ROOM, {"c1", "c3"})
    assert roster.ledger.next() is None


@pytest.mark.parametrize("rooms", [1, 2000])
def test_a_write_costs_no_look_at_all_others(roster, rooms):
    """However many rooms wait, and however many are present in one: the work is counted."""
    for number in range(rooms):
        come(roster, Member(f"c{number}"), room=ROOM if rooms > 1 else "milk")
    roster.ledger.wrote(roster.ledger.next())
    looked = 0

    class Counting(dict):
        def __iter__(self):
            nonlocal looked
            looked += len(self)
            return super().__iter__()

    for known in roster.rooms.values():
        known.entries["n1"] = Counting(known.entries["n1"])
    come(roster, Member("late"))
    roster.ledger.wrote(roster.ledger.next())

    assert looked == 0


def test_a_name_is_taken_over_at_a_start(roster):
    """Who tracked before there were others is this process's own, and is written."""
    early = Roster()
    member = Member("c1", "ann")
    come(early, member)
    early.begin("n1")

    assert early.nodes() == {"n1"}
    assert set(early.ledger.next().joins) == {"c1"}


def test_nothing_is_written_without_others():
    """A process alone has nobody to tell."""
    alone = Roster()
    come(alone, Member("c1", "ann"))

    assert not alone.ledger.ready()
    assert alone.rooms[ROOM].metas() == {"ann": [1]}


def test_members_are_told_at_most_so_often(roster):
    """Changes within a moment become one diff; the first one is not kept waiting."""
    member = Member("c1", "ann")
    come(roster, member)
    first = roster.due(ROOM)
    roster.news_of(ROOM, 10.0)
    joins = {"c2": msgspec.msgpack.encode(entry(Member("c2"), 1))}
    roster.apply(ROOM, Change("n2", joins, ()))

    assert first <= 0.0
    assert roster.due(ROOM) == 10.0 + DIFF_SECONDS


@pytest.mark.parametrize("module", [presence, presence_ledger, room_roster, history])
def test_what_decides_does_nothing_else(module):
    """No loop, no log, no clock: what it is asked is what it answers."""
    imported = {
        name.name.split(".")[0] if isinstance(node, ast.Import) else node.module.split(".")[0]
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }

    assert not imported & {"asyncio", "logging", "time", "random"}
