"""Who gets which message of a room that remembers, held to a model that is a list of messages."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from falcon_pachinko import HistoryPosition, Limits
from falcon_pachinko.backends.base import Kept, Past
from falcon_pachinko.cluster.history import RoomHistory, Verdict, opened, packet_for, place
from falcon_pachinko.cluster.parcels import Broadcast, Mark, encode, header
from falcon_pachinko.messages.codec import JSON, MSGPACK

HEAD = header("0123456789ab")
MOST = 6
"""How many messages the server keeps."""


def said(number):
    message = {"type": "said", "n": number}
    return Broadcast(number, 0, "said", None, msgspec.msgpack.encode(message))


class Member:
    """A client, and what it got; it knows its place when it comes back."""

    _codec = JSON

    def __init__(self, name="", outbox_bytes=10_000):
        self.name, self.limits, self.closed = name, Limits(outbox_bytes=outbox_bytes), False
        self.position, self.seen = HistoryPosition(), []
        self.epoch = None  # the one it knows: it was told of it, or saw it first

    def state(self, payload):
        self.epoch = payload.get("epoch")
        if not payload["recovered"]:
            self.seen = []
        if not payload["messages"] and "epoch" in payload:
            self.position = HistoryPosition(payload["epoch"], payload["offset"])

    def get(self, placed):
        frame = msgspec.json.decode(packet_for(placed, self).event["text"])
        self.position = HistoryPosition(frame["history"]["epoch"], frame["history"]["offset"])
        assert self.position == placed.position
        assert self.epoch in {None, self.position.epoch}
        self.epoch = self.position.epoch
        self.seen.append(self.position)


class Server:
    """What is kept, and where it stands."""

    def __init__(self):
        self.epoch, self.all = 0, []

    @property
    def position(self):
        return HistoryPosition(str(self.epoch), len(self.all))

    def append(self):
        self.all.append(said(len(self.all) + 1))
        return place("tea", self.all[-1], self.position)

    def read(self, after):
        first = max(0, len(self.all) - MOST)
        complete = after.epoch == str(self.epoch) and first <= after.offset <= len(self.all)
        since = after.offset if complete else first
        kept = [
            Kept(at, encode(HEAD, parcel)) for at, parcel in enumerate(self.all, 1) if at > since
        ]
        return Past(self.position, tuple(kept), complete)


class HistoryMachine(RuleBasedStateMachine):
    """The model: a client sees a contiguous part of what was said, from where it was told to."""

    who = st.integers(0, 3)

    @initialize()
    def begin(self):
        self.server, self.room = Server(), RoomHistory("tea")
        self.inbox = []  # what is on its way to the process
        self.clients = [Member(str(number)) for number in range(4)]
        self.here = []  # the members, all of them
        self.coming = {}  # by member: its returning, and what was read for it
        self.held = None  # what arrived since the room has to be read; None while it is live
        self.before, self.again = 0, False  # how much of it when it was read, and whether it is due
        self.past = None  # what was read to catch up with

    # What is said, and arrives or not.

    @rule()
    def say(self):
        placed = self.server.append()
        if self.here:  # else it is not subscribed
            self.inbox.append(placed)

    @rule()
    def deliver(self):
        if self.inbox:
            placed = self.inbox.pop(0)
            if self.held is not None:
                self.held.append(placed)
            elif not self.give(placed):
                self.held, self.again = [placed], True

    def give(self, placed):
        """Deliver a message, if it is news; False if the room has to be read first."""
        verdict = self.room.judge(placed.position)
        if verdict is Verdict.NEWS:
            self.room.accept(placed.position)
            live, too_slow = self.room.route(list(self.here), placed)
            assert not too_slow
            for member in live:
                member.get(placed)
        return verdict is not Verdict.FOREIGN

    @rule()
    def lose(self):
        """The connection to the backend breaks: what is on its way is lost."""
        self.inbox.clear()
        if self.here:
            self.held, self.again = self.held or [], True

    @rule(told=st.booleans())
    def end(self, told):
        """The history ends, and the process is told so, or finds out by itself."""
        self.server.epoch += 1
        self.server.all = []
        if told:
            self.lose()

    @rule()
    def read_to_catch_up(self):
        if self.held is not None and self.here:
            self.before, self.again = len(self.held), False
            self.past = self.server.read(self.room.known_by_all(self.here))

    @rule()
    def catch_up(self):
        past, self.past = self.past, None
        if past is None or not self.here:
            return
        if past.complete and self.room.epoch == past.position.epoch:
            for _, parcel, position in opened(past):
                assert self.give(place("tea", parcel, position))
        else:
            self.room.begin_anew(past)
            for member in self.here:
                if member not in self.coming:
                    self.replay(member, past)
        self.room.end(each.position.epoch for each in self.held[: self.before])
        while self.held and not self.again:
            if not self.give(self.held[0]):
                self.again = True
            else:
                self.held.pop(0)
        if not self.again:
            self.held = None

    def replay(self, member, past):
        replay = self.room.replay(member, past)
        if self.room.epoch != past.position.epoch:
            self.held, self.again = self.held or [], True
        member.state(replay.state)
        for placed in replay.entries:
            member.get(placed)
        return replay.position

    # Who comes and goes.

    @rule(who=who)
    def come(self, who):
        member = self.clients[who]
        if member not in self.here and self.held is None:
            member.seen, member.epoch = [], None
            self.here.append(member)

    @rule(who=who)
    def come_back(self, who):
        member = self.clients[who]
        if member not in self.here:
            self.here.append(member)
            self.coming[member] = [self.room.come_back(member), None, False]

    @rule(who=who)
    def read_for(self, who):
        member = self.clients[who]
        if member not in self.coming:
            return
        returning, past, sent = self.coming[member]
        if past is None or returning.stale:
            returning.restart()
            at = sent[0] if sent else member.position
            self.coming[member] = [returning, self.server.read(at), False]

    @rule(who=who)
    def send_past(self, who):
        member = self.clients[who]
        if member not in self.coming:
            return
        returning, past, sent = self.coming[member]
        assert self.room.is_returning(member, returning)
        if past and not sent and not returning.stale:
            self.coming[member][2] = [self.replay(member, past)]

    @rule(who=who)
    def follow(self, who):
        member = self.clients[who]
        if member in self.coming and self.coming[member][2] and not self.coming[member][0].stale:
            (at,) = self.coming.pop(member)[2]
            for placed in self.room.caught_up(member, at):
                member.get(placed)

    @rule(who=who)
    def leave(self, who):
        member = self.clients[who]
        if member in self.here:
            self.here.remove(member)
            self.coming.pop(member, None)
            self.room.leave(member)
            if not self.here:
                assert not self.room.floors
                assert not self.room.returning
                self.room, self.past = RoomHistory("tea"), None
                self.inbox.clear()
                self.held = None

    # What holds.

    @invariant()
    def each_client_sees_every_message_once(self):
        for member in getattr(self, "clients", ()):
            for before, after in zip(member.seen, member.seen[1:], strict=False):
                assert before.epoch == after.epoch
                assert after.offset == before.offset + 1

    @invariant()
    def only_members_are_known(self):
        if hasattr(self, "room"):
            assert self.room.floors.keys() <= set(self.here)
            assert self.room.returning.keys() == self.coming.keys()

    def teardown(self):
        if not hasattr(self, "room"):
            return
        self.come_to_rest()
        for who in range(4):
            self.read_for(who)
            self.send_past(who)
            self.follow(who)
        self.say()
        self.come_to_rest()
        self.each_client_sees_every_message_once()
        for member in self.here:
            assert member.seen[-1] == self.server.position

    def come_to_rest(self):
        while self.inbox or self.held is not None:
            while self.inbox:
                self.deliver()
            self.read_to_catch_up()
            self.catch_up()


HistoryMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestHistoryMachine = HistoryMachine.TestCase


# One step at a time.


@pytest.fixture
def server():
    made = Server()
    for _ in range(3):
        made.append()
    return made


@pytest.fixture
def room():
    return RoomHistory("tea")


def test_one_who_takes_its_past_too_slowly_is_named(room, server):
    """What arrives meanwhile waits in its budget, and no further."""
    slow, quick = Member(outbox_bytes=200), Member()
    for each in (slow, quick):
        room.come_back(each)
    routed = [room.route([slow, quick], server.append()) for _ in range(5)]

    assert all(each.live == [] for each in routed)
    assert [each.too_slow for each in routed].index([slow]) < 4
    assert len(room.caught_up(quick, None)) == 5
    assert room.caught_up(slow, None) == []


@pytest.mark.parametrize("how", ["a new beginning", "another epoch"])
def test_a_past_that_nothing_follows_is_read_again(room, server, how):
    """What arrives belongs to another history than what was read, or to a later part of it."""
    room.accept(server.position)
    member = Member()
    returning = room.come_back(member)
    room.route([member], server.append())
    if how == "another epoch":
        server.epoch += 1
    room.begin_anew(server.read(HistoryPosition()))
    stale = returning.stale
    returning.restart()

    assert stale
    assert (returning.stale, returning.held, returning.size) == (False, [], 0)


def test_what_was_held_of_an_epoch_that_has_ended_is_dropped(room, server):
    """A member that was told of another one gets nothing of it."""
    member = Member()
    room.come_back(member)
    room.route([member], server.append())

    assert room.caught_up(member, HistoryPosition("1", 0)) == []


def test_nothing_is_held_for_one_that_is_closing(room, server):
    """It gets nothing more, so that it needs no budget."""
    closing = Member(outbox_bytes=10)
    closing.closed = True
    room.come_back(closing)

    assert room.route([closing], server.append()) == ([], [])


def test_while_the_backend_is_away_nothing_is_known(room):
    """A client is told so, and gets what is live."""
    member = Member()
    room.come_back(member)
    replay = room.replay(member, None)

    assert replay == ({"room": "tea", "recovered": False}, (), None)
    assert room.floors == {}


def test_what_a_codec_has_no_form_of_is_left_out(room):
    """A number of a hundred digits has no MessagePack."""
    parcel = Broadcast(1, 0, "said", '{"n":%s}' % ("1" * 100))
    placed = place("tea", parcel, HistoryPosition("e", 1))
    member = Member(outbox_bytes=1)
    member._codec = MSGPACK
    room.come_back(member)

    assert packet_for(placed, member) is None
    assert room.route([member], placed) == ([], [])


@pytest.mark.parametrize(
    "data", [b"junk", encode(HEAD, Mark(1, 0)), encode(HEAD, Broadcast(1, 0, "", "[]"))]
)
def test_what_is_kept_and_is_no_message_is_left_out(room, server, data):
    """Its place stays empty; everything else is there."""
    past = server.read(HistoryPosition("0", 0))
    entries = (past.entries[0], Kept(2, data), past.entries[2])
    replay = room.replay(Member(), past._replace(entries=entries))

    assert [each.position.offset for each in replay.entries] == [1, 3]
    assert replay.state["messages"] == 2


def test_bytes_and_times_come_back_as_they_were(room):
    """To those whose codec has them, whoever else was there when they were sent."""
    message = {"type": "img", "data": b"\xff\0"}
    kept = Broadcast(1, 0, "img", None, msgspec.msgpack.encode(message))
    placed = place("tea", kept, HistoryPosition("e", 1))
    told = {"history": {"room": "tea", "epoch": "e", "offset": 1}}
    json, packed = Member(), Member()
    packed._codec = MSGPACK

    text = packet_for(placed, json).event["text"]
    data = packet_for(placed, packed).event["bytes"]
    assert msgspec.json.decode(text) == message | {"data": "/wA="} | told
    assert msgspec.msgpack.decode(data) == message | told
