"""What clients of a cluster may see, and what not, whatever happens to it.

Pure: no task, no clock, no socket. What clients send and get goes in, each with the
moment at which that was seen; what breaks a promise comes out, in sentences. It knows
nothing of how the library does it, only of what clients were told:

* A sender's messages arrive in its order, on every connection.
* A connection gets a message once; in a room with a history, a client does, within an epoch.
* Positions grow within an epoch, without holes, and no other epoch begins without a
  ``history.state``; what that tells to be ``recovered`` has no hole.
* Who misses a message is told of a gap after it was sent (``resync``, or ``history.state``
  with ``recovered: false``), or has lost the connection. Members on the process that
  sent it miss nothing.
* An epoch does not outlive a restart of its server.
* One process at a time does what a lone worker does, and tokens grow.

Nothing can tell of what a process had not yet sent when it was killed: that is the one
loss without a word that is allowed, and it is counted.
"""

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

WITH_HISTORY = "kept:"
"""What the names of rooms with a history begin with."""

TOLD_BY = 60.0
"""Seconds by which everybody has been told of a gap: it is told at random, some seconds later."""

TOLD = 12
"""How many of the last things that a client saw in a room an explanation shows."""

GONE = "gone with its process"
"""What a process had not sent when it was killed: nothing is left that could tell of it."""

MOST_VIOLATIONS = 50
"""How many are explained; the others are counted."""


class Id(NamedTuple):
    """Which message it is: a sender counts those to one room, through all of its lives."""

    sender: str
    room: str
    number: int

    def __str__(self):
        return f"{self.sender}#{self.number}"


@dataclass
class Said:
    """A message, as its sender knows it."""

    id: Id
    life: int
    process: str
    at: float
    answer: bool | None = None
    """Whether other processes get it, as the sender was told; None if it was not told."""
    seen: bool = False
    """Whether anybody got it."""
    places: dict = field(default_factory=dict)
    """Its offset in each epoch in which anybody got it."""

    @property
    def certain(self):
        """Whether the app had it: else it may never have left its sender."""
        return self.seen or self.answer is not None


class Seat:
    """One connection of one client, in one room."""

    def __init__(self, member, life, room, process, at):
        self.member, self.life, self.room, self.process = member, life, room, process
        self.began, self.ended = at, None
        self.gaps = []  # when it was told that it may have missed something
        self.got = {}  # since the last history.state, in a room with a history
        self.last = {}  # by sender and its life, the number that came last, since then
        self.numbers = defaultdict(list)  # the same, all of them, since the beginning

    def __str__(self):
        return f"{self.room}: {self.member} (life {self.life}, on process {self.process})"

    @property
    def told_of_gap_at(self):
        return self.gaps[-1] if self.gaps else float("-inf")


class Reader:
    """A client in a room with a history, through all of its lives."""

    def __init__(self, at):
        self.began = at
        self.position = None  # None while it does not know any
        self.anew = False  # whether it gets what is kept from now on, from wherever that begins
        self.target = None  # up to where its last history.state goes
        self.got = set()
        self.doubts = []  # when it was told that it was not told everything


class Model:
    """Writes down what the clients of one cluster see, and judges it.

    Args:
        consecutive: Whether the offsets of an epoch have no gaps, as those of Redis.
    """

    def __init__(self, *, consecutive=True):
        self._consecutive = consecutive
        self.violations = []
        self.counts = Counter()
        self.said = {}
        self._unjudged = []
        self._seats = defaultdict(list)  # by room; those that are over are taken out when judged
        self.readers = {}  # by client and room
        self.placed = defaultdict(dict)  # by room and epoch: which message each offset is
        self._epochs = {}  # when each was seen first
        self._restarts = []
        self._dead = set()  # processes that ended without a chance to send what they had
        self._holes = []  # positions that a client did not get
        self._trail = defaultdict(lambda: deque(maxlen=TOLD))

    def violate(self, rule, text, *trail):
        """Note that a promise was broken."""
        self.counts["violations"] += 1
        if len(self.violations) < MOST_VIOLATIONS:
            seen = [f"      {line}" for key in trail for line in self._trail[key]]
            self.violations.append("\n".join([f"{rule}: {text}", *seen]))

    # What happens.

    def sends(self, sender, life, room, process, number, at):
        """A client is about to send a message."""
        said = Said(Id(sender, room, number), life, process, at)
        self.said[said.id] = said
        self._unjudged.append(said)
        self.counts["sent"] += 1

    def answered(self, sender, room, number, *, published):
        """A client got the answer to its message."""
        self.said[Id(sender, room, number)].answer = published
        self.counts["answered"] += 1

    def sits_down(self, member, life, room, process, at):
        """A client is in a room: what is sent from now on it gets, or is told of."""
        seat = Seat(member, life, room, process, at)
        self._seats[room].append(seat)
        self._note(seat, at, f"life {life} begins, on process {process}")
        return seat

    def stands_up(self, seat, at):
        """A client's connection is over."""
        seat.ended = at
        self._note(seat, at, f"life {seat.life} is over")

    def told_of_gap(self, seat, at):
        """A client got ``resync``."""
        seat.gaps.append(at)
        self.counts["gaps"] += 1
        self._note(seat, at, "resync")

    def told_state(self, seat, state, at):
        """A client got ``history.state``."""
        key = seat.member, seat.room
        reader = self.readers.get(key)
        if reader is None:
            reader = self.readers[key] = Reader(at)
        self._note(seat, at, f"history.state {state}")
        seat.got.clear()
        seat.last.clear()
        recovered, epoch = state["recovered"], state.get("epoch")
        self.counts[f"recovered {recovered}".lower()] += 1
        if not recovered:
            reader.doubts.append(at)
        before = reader.position
        if epoch is None:
            reader.position = reader.target = None
            if recovered:
                self.violate("recovered", f"{seat} was told so without a position", key)
            return
        self._see_epoch(epoch, at)
        reader.target = epoch, state["offset"]
        same = before is not None and before[0] == epoch
        if recovered and not same:
            self.violate("recovered", f"{seat} had {before}, and is told {state}", key)
        reader.anew = not recovered and not self._consecutive
        if not state["messages"]:
            base = state["offset"]
        elif self._consecutive:
            base = state["offset"] - state["messages"]
        else:
            base = before[1] if same else 0
        # Who is told that it lacks something may get again what it has, but is not taken back.
        if same and (base if recovered else state["offset"]) < before[1]:
            self.violate("positions", f"{seat} had {before}, and is told {state}", key)
        elif same and recovered and base > before[1]:
            self._hole(seat, epoch, before[1], base, at)
        reader.position = epoch, base

    def got(self, seat, sender, life, number, place, at):
        """A client got a message, with its place if it has one."""
        self.counts["received"] += 1
        key = seat.member, seat.room
        id_ = Id(sender, seat.room, number)
        self._note(seat, at, f"{id_}" + (f" at {place}" if place else ""))
        said = self.said.get(id_)
        if said is None:
            self.violate("invented", f"{seat} got {id_}, which nobody said", key)
            return
        said.seen = True
        if id_ in seat.got:
            self.violate("twice", f"{seat} got {id_} twice, at first {seat.got[id_]}", key)
        elif number <= seat.last.get((sender, life), 0):
            last = seat.last[sender, life]
            self.violate("order", f"{seat} got {id_} after number {last} of that life", key)
        seat.got[id_] = f"at {at:.3f}, place {place}"
        seat.last[sender, life] = max(number, seat.last.get((sender, life), 0))
        if place is not None:
            self._got_place(seat, said, place, at)
        elif seat.room.startswith(WITH_HISTORY):
            self.counts["without place"] += 1
        else:
            seat.numbers[sender, life].append(number)
        if key in self.readers:
            self.readers[key].got.add(id_)

    def _got_place(self, seat, said, place, at):
        key = seat.member, seat.room
        epoch, offset = place
        self._see_epoch(epoch, at)
        known = self.placed[seat.room, epoch].setdefault(offset, said.id)
        if known != said.id:
            self.violate("places", f"{seat} got {said.id} at {place}; others got {known} there")
        if said.places.setdefault(epoch, offset) != offset:
            text = f"{said.id} is at {epoch}:{said.places[epoch]} and at {offset}"
            self.violate("kept twice", f"{seat}: {text}", key)
        for began, ended in self._restarts:
            if self._epochs[epoch] < began and ended < said.at:
                text = f"{seat} got {said.id} at {place}, an epoch from before the restart"
                self.violate("epoch", f"{text} at {began:.3f}", key)
                break
        reader = self.readers.get(key)
        if reader is None:
            self.violate("epoch", f"{seat} got {said.id} at {place} before any state", key)
            return
        before = reader.position
        if before is None:
            pass
        elif before[0] != epoch:
            self.violate("epoch", f"{seat} had {before}, and got {place} without a state", key)
        elif offset <= before[1]:
            self.violate("positions", f"{seat} had {before}, and got {place}", key)
        elif offset > before[1] + 1 and not reader.anew:
            self._hole(seat, epoch, before[1], offset - 1, at)
        reader.position, reader.anew = (epoch, offset), False

    def restarted(self, began, ended):
        """The server was restarted, or another one took over, between two moments."""
        self._restarts.append((began, ended))

    def died(self, process):
        """A process ended, without a chance to send what it had."""
        self._dead.add(process)

    def _see_epoch(self, epoch, at):
        self._epochs.setdefault(epoch, at)

    def _hole(self, seat, epoch, above, to, at):
        """Note what a client did not get; it may have had that without a place."""
        self._holes.append((seat, epoch, above, to, at, list(self._trail[seat.member, seat.room])))

    def _note(self, seat, at, what):
        self._trail[seat.member, seat.room].append(f"{at:9.3f} {what}")

    # What is judged once nothing is on its way any more.

    def outstanding(self):
        """Return who lacks what without having been told, in sentences: nobody, in the end."""
        return [each for each in self._lacking_now() if each[0] != GONE]

    def _lacking_now(self):
        lacking = []
        for said in self._unjudged:
            if said.certain:
                if said.id.room.startswith(WITH_HISTORY):
                    lacking += self._lacking_in_history(said)
                else:
                    lacking += self._lacking(said)
        for (member, room), reader in self.readers.items():
            has, target = reader.position, reader.target
            if target is not None and has[0] == target[0] and has[1] < target[1]:
                what = f"{room}: {member} was told of {target}, has {has}"
                lacking.append(("unfinished", what, (member, room)))
        return lacking

    def _lacking(self, said):
        room = said.id.room
        for seat in self._seats[room]:
            if seat.began >= said.at or said.id in seat.got:
                continue
            if seat.ended is not None:
                numbers = seat.numbers.get((said.id.sender, said.life), ())
                if seat.ended <= said.at or not numbers or numbers[-1] < said.id.number:
                    continue  # it may have been on its way
                if seat.process != said.process and seat.ended < said.at + TOLD_BY:
                    continue  # the word of it may have been
            if seat.process == said.process:
                yield "missing here", f"{seat} never got {self._of(said)}", (seat.member, room)
            elif seat.told_of_gap_at < said.at:
                rule = GONE if self._lost_with_process(said, seat) else "missing"
                what = f"{seat} never got {self._of(said)}, and was told of no gap since"
                yield rule, what, (seat.member, room)

    def _lost_with_process(self, said, seat):
        """Whether a message was lost with its process, and with it all that came after it."""
        if said.process not in self._dead:
            return False
        numbers = seat.numbers.get((said.id.sender, said.life), ())
        return not numbers or numbers[-1] < said.id.number

    def _lacking_in_history(self, said):
        for (member, room), reader in self.readers.items():
            if room != said.id.room or reader.began >= said.at or said.id in reader.got:
                continue
            if reader.doubts and reader.doubts[-1] >= said.at:
                continue
            rule = GONE if not said.places and said.process in self._dead else "missing"
            where = f"at {said.places}" if said.places else "without a place"
            what = f"{room}: {member} never got {self._of(said)} ({where}), and was not told since"
            yield rule, what, (member, room)

    def _of(self, said):
        answer = {None: "unanswered", True: "published", False: "not published"}[said.answer]
        at = f"sent at {said.at:.3f}"
        return f"{said.id} of life {said.life} ({at} on process {said.process}, {answer})"

    def judge(self):
        """Judge what has been said since the last time; all that is underway must have arrived."""
        for rule, text, key in self._lacking_now():
            if rule == GONE:
                self.counts[GONE] += 1
            else:
                self.violate(rule, text, key)
        self.counts["kept"] += sum(bool(said.places) for said in self._unjudged)
        self._judge_holes()
        self._judge_order()
        self._unjudged.clear()
        for room, seats in self._seats.items():
            self._seats[room] = [each for each in seats if each.ended is None]

    def _judge_holes(self):
        for seat, epoch, above, to, at, trail in self._holes:
            reader = self.readers[seat.member, seat.room]
            known = self.placed[seat.room, epoch]
            between = range(above + 1, to + 1)
            lacking = [
                each
                for each in (between if self._consecutive else known.keys() & set(between))
                if known.get(each) not in reader.got
            ]
            if lacking:
                what = ", ".join(f"{each} ({known.get(each, 'unknown')})" for each in lacking[:5])
                self.violate("hole", f"{seat} did not get, of {epoch}, {what}, by {at:.3f}")
                self.violations[-1] += "".join(f"\n      {line}" for line in trail)
        self._holes.clear()

    def _judge_order(self):
        for (room, epoch), known in self.placed.items():
            last = {}
            for offset in sorted(known):
                id_ = known[offset]
                whose = id_.sender, self.said[id_].life
                if id_.number < last.get(whose, 0):
                    text = f"{room}: {id_} has the place {epoch}:{offset}, after {last[whose]}"
                    self.violate("order", text)
                last[whose] = id_.number

    def judge_history(self, room, process, kept):
        """Judge what a process says that a room has kept: places and messages."""
        places = [(place["epoch"], place["offset"]) for place, _ in kept]
        if len({epoch for epoch, _ in places}) > 1:
            self.violate("history", f"{room} on {process}: two epochs in one history")
            return
        for before, after in itertools.pairwise(places):
            if after[1] != before[1] + 1 if self._consecutive else after[1] <= before[1]:
                self.violate("history", f"{room} on {process}: {after} follows {before}")
        for place, payload in kept:
            id_ = Id(payload["by"], room, payload["number"])
            known = self.placed[room, place["epoch"]].get(place["offset"], id_)
            if known != id_:
                self.violate("history", f"{room} on {process}: {id_} at {place}, others: {known}")
        for (member, of), reader in self.readers.items():
            if of == room and places and reader.position != places[-1]:
                text = f"{room} on {process} ends at {places[-1]}; {member} has {reader.position}"
                self.violate("history", text, (member, room))


class Shift(NamedTuple):
    """A token of a lone worker, who had it, and from when to when it was seen."""

    token: int
    process: int
    began: float
    ended: float


def shifts(lines):
    """Read what the lone workers wrote down, each ``token process seconds``."""
    seen = {}
    for line in lines:
        token, process, at = int(line[0]), int(line[1]), float(line[2])
        known = seen.get((token, process))
        seen[token, process] = Shift(token, process, known.began if known else at, at)
    return sorted(seen.values(), key=lambda each: each.began)


def judge_shifts(found, losses, most):
    """Judge the shifts of a lone worker.

    Args:
        found: What `shifts` returns.
        losses: When the server may have lost what it knew, sorted.
        most: How many seconds two may be at work after that.

    Returns:
        The violations, and for how long two were at work at most.
    """
    violations, longest = [], 0.0
    for before, after in itertools.pairwise(found):
        if after.token == before.token:
            violations.append(f"two processes have the token {after.token}: {before}, {after}")
        elif after.token < before.token:
            violations.append(f"the token {after.token} comes after {before.token}")
    for number, before in enumerate(found):
        for after in found[number + 1 :]:
            both = before.ended - after.began
            if both <= 0:
                continue
            longest = max(longest, both)
            place = bisect_left(losses, before.began)
            lost = place < len(losses) and losses[place] <= after.began
            if not lost or both > most:
                why = "" if lost else ", though nothing was lost"
                text = f"two were at work for {both:.2f} s (at most {most:.2f} after a loss){why}"
                violations.append(f"{text}: {before}, {after}")
    return violations, longest
