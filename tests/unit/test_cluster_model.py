"""What the load test of a cluster lets pass, and what not."""

import pytest
from cluster_model import GONE, Model, Shift, judge_shifts, shifts


class Story:
    """A model, and what happens in it: one thing a second."""

    def __init__(self, room, **options):
        self.model, self.room, self.now = Model(**options), room, 0.0
        self.seats, self.counted = {}, {}

    def tick(self):
        self.now += 1
        return self.now

    def comes(self, name, process="1", life=1):
        self.seats[name] = self.model.sits_down(name, life, self.room, process, self.tick())
        return self

    def goes(self, *names):
        for name in names:
            self.model.stands_up(self.seats.pop(name), self.tick())
        return self

    def says(self, name, process="1", life=1, *, published=True):
        number = self.counted[name] = self.counted.get(name, 0) + 1
        self.model.sends(name, life, self.room, process, number, self.tick())
        if published is not None:
            self.model.answered(name, self.room, number, published=published)
        return self

    def gets(self, name, number, place=None, *, of="ann", life=1):
        self.model.got(self.seats[name], of, life, number, place, self.tick())
        return self

    def is_told(self, name, epoch, offset, messages=0, *, recovered=False):
        state = {"recovered": recovered, "epoch": epoch, "offset": offset, "messages": messages}
        self.model.told_state(self.seats[name], state, self.tick())
        return self

    def may_miss(self, name):
        self.model.told_of_gap(self.seats[name], self.tick())
        return self

    def broken(self):
        """Judge, and return which promises were broken."""
        self.model.judge()
        return [each.partition(":")[0] for each in self.model.violations]


@pytest.fixture
def plain():
    return Story("plain:1").comes("ann").comes("bob", "2")


@pytest.fixture
def kept():
    story = Story("kept:1").comes("ann").comes("bob", "2")
    return story.is_told("ann", "e", 0).is_told("bob", "e", 0)


def test_all_that_is_said_and_heard_is_fine(plain):
    """Who gets everything, once and in order, is content."""
    plain.says("ann").gets("ann", 1).gets("bob", 1).says("ann").gets("bob", 2).gets("ann", 2)

    assert plain.broken() == []


def test_a_message_twice_is_noticed(plain):
    """On one connection there is no reason for that."""
    plain.says("ann").gets("ann", 1).gets("bob", 1).gets("bob", 1)

    assert plain.broken() == ["twice"]


def test_a_message_that_nobody_said_is_noticed(plain):
    """It is told where."""
    plain.gets("bob", 7)

    assert plain.broken() == ["invented"]


def test_another_order_than_the_sender_s_is_noticed(plain):
    """The second message before the first."""
    plain.says("ann").says("ann").gets("ann", 1).gets("ann", 2).gets("bob", 2).gets("bob", 1)

    assert plain.broken() == ["order"]


def test_a_message_that_is_missing_untold_is_noticed(plain):
    """Be it the last one, or one of which the sender does not know that it was published."""
    plain.says("ann").gets("ann", 1).says("ann", published=None).gets("ann", 2).gets("bob", 1)

    assert plain.broken() == ["missing"]


def test_a_gap_covers_what_was_sent_before_it_and_nothing_else(plain):
    """A later loss needs another word."""
    plain.says("ann").gets("ann", 1).may_miss("bob")
    before = plain.model.outstanding()
    plain.says("ann").gets("ann", 2)

    assert before == []
    assert plain.broken() == ["missing"]


def test_no_gap_excuses_a_loss_on_the_sender_s_own_process(plain):
    """What is sent there needs no server."""
    plain.comes("cat").says("ann", published=False).gets("ann", 1).may_miss("cat").may_miss("bob")

    assert plain.broken() == ["missing here"]


@pytest.mark.parametrize(("seconds", "broken"), [(0, []), (60, ["missing"])])
def test_who_lost_the_connection_may_lack_something_if_it_was_soon(plain, seconds, broken):
    """It takes a while until a gap is told; whoever stays for longer has to know."""
    plain.says("ann").says("ann").says("ann")
    plain.gets("ann", 1).gets("ann", 2).gets("ann", 3).gets("bob", 2)
    plain.now += seconds
    plain.goes("bob")

    assert plain.broken() == broken


def test_who_lost_the_connection_has_all_that_was_sent_where_it_was(plain):
    """There nothing has to be told."""
    plain.comes("cat").says("ann").says("ann")
    plain.gets("ann", 1).gets("ann", 2).gets("cat", 2).goes("bob", "cat")

    assert plain.broken() == ["missing here"]


def test_what_a_killed_process_had_not_sent_is_counted(plain):
    """But what it sent later must not have come."""
    plain.says("ann").gets("ann", 1).says("ann").gets("ann", 2).gets("bob", 1).goes("ann")
    plain.model.died("1")

    assert plain.broken() == []
    assert plain.model.counts[GONE] == 1


def test_what_may_never_have_been_sent_is_not_missed(plain):
    """A message without an answer, that nobody got."""
    plain.says("ann", published=None)

    assert plain.broken() == []


def test_a_history_without_holes_is_fine(kept):
    """Also for who comes back with a position."""
    kept.says("ann").gets("ann", 1, ("e", 1)).goes("bob")
    kept.comes("bob", "3", 2).is_told("bob", "e", 1, 1, recovered=True).gets("bob", 1, ("e", 1))

    assert kept.broken() == []


def test_a_hole_in_a_history_is_noticed(kept):
    """Offsets grow by one."""
    kept.says("ann").says("ann").gets("ann", 1, ("e", 1)).gets("ann", 2, ("e", 2))
    kept.gets("bob", 2, ("e", 2))

    assert kept.broken() == ["missing", "hole"]


def test_who_has_a_message_without_its_place_has_no_hole(kept):
    """Its sender gave up on the place, and it was kept after all."""
    kept.comes("cat", "2").is_told("cat", "e", 0).says("ann").gets("ann", 1).gets("bob", 1)
    kept.gets("cat", 1, ("e", 1)).says("ann")
    for name in ("ann", "bob", "cat"):
        kept.gets(name, 2, ("e", 2))

    assert kept.broken() == []


def test_without_consecutive_offsets_only_what_others_got_is_a_hole():
    """An offset that nobody got a message at is none."""
    story = Story("kept:1", consecutive=False).comes("ann").comes("bob", "2")
    story.is_told("ann", "e", 3).is_told("bob", "e", 3)
    story.says("ann").gets("ann", 1, ("e", 7)).gets("bob", 1, ("e", 7)).says("ann").says("ann")
    story.gets("ann", 2, ("e", 11)).gets("ann", 3, ("e", 12)).gets("bob", 3, ("e", 12))

    assert story.broken() == ["missing", "hole"]


def test_another_epoch_untold_is_noticed(kept):
    """There has to be a history.state first."""
    kept.says("ann").gets("ann", 1, ("e", 1)).gets("bob", 1, ("f", 1))

    assert "epoch" in kept.broken()


def test_positions_that_go_back_are_noticed(kept):
    """In what comes, and in what is told."""
    kept.says("ann").says("ann").gets("ann", 1, ("e", 1)).gets("ann", 2, ("e", 2))
    kept.gets("bob", 1, ("e", 1)).gets("bob", 2, ("e", 2)).is_told("bob", "e", 1)

    assert kept.broken()[0] == "positions"


def test_recovered_in_another_epoch_is_noticed(kept):
    """Nobody can know that nothing is missing."""
    kept.is_told("bob", "f", 0, recovered=True)

    assert kept.broken() == ["recovered"]


def test_what_was_promised_and_did_not_come_is_noticed(kept):
    """A state tells how many messages follow."""
    kept.is_told("bob", "f", 2, 2)

    assert kept.broken() == ["unfinished"]


def test_a_message_with_two_places_is_noticed(kept):
    """It was kept twice."""
    kept.says("ann").gets("ann", 1, ("e", 1)).gets("ann", 1, ("e", 2))

    assert "kept twice" in kept.broken()


def test_two_messages_at_one_place_are_noticed(kept):
    """Members must not differ in that."""
    kept.says("ann").says("ann").gets("ann", 1, ("e", 1)).gets("bob", 2, ("e", 1))

    assert "places" in kept.broken()


def test_an_epoch_that_outlives_a_restart_is_noticed(kept):
    """Whoever was away may have seen another server, that goes on from an older state."""
    kept.says("ann").gets("ann", 1, ("e", 1)).gets("bob", 1, ("e", 1))
    kept.model.restarted(kept.tick(), kept.tick())
    kept.says("ann").gets("ann", 2, ("e", 2)).gets("bob", 2, ("e", 2))

    assert kept.broken() == ["epoch", "epoch"]


def test_a_message_without_a_place_is_told_to_who_lacks_it(kept):
    """With a state that says so, after it was sent."""
    kept.says("ann", published=False).gets("ann", 1)
    untold = kept.model.outstanding()
    kept.is_told("bob", "f", 0)

    assert [rule for rule, *_ in untold] == ["missing"]
    assert kept.broken() == []


def test_a_history_is_one_epoch_without_holes_and_ends_where_members_are(kept):
    """As any process reads it."""
    kept.says("ann").gets("ann", 1, ("e", 1)).gets("bob", 1, ("e", 1))
    entries = [
        [{"epoch": "e", "offset": offset}, {"by": "ann", "number": offset}] for offset in (1, 2, 4)
    ]
    model = kept.model
    model.judge_history("kept:1", "1", entries[:1])
    fine = list(model.violations)
    model.judge_history("kept:1", "1", entries)
    model.judge_history("kept:1", "1", [[{"epoch": "f", "offset": 1}, entries[0][1]], *entries])

    assert fine == []
    assert [each.partition(":")[0] for each in model.violations] == ["history"] * 4


def test_shifts_are_read_in_their_order():
    """One for each token and process, from its first sign to its last."""
    lines = ["7 100 1.0", "7 100 2.0", "9 200 3.0", "7 100 2.5"]

    assert shifts(each.split() for each in lines) == [
        Shift(7, 100, 1.0, 2.5),
        Shift(9, 200, 3.0, 3.0),
    ]


@pytest.mark.parametrize(
    ("losses", "most", "broken"),
    [([2.0], 1.0, 0), ([2.0], 0.1, 1), ([], 1.0, 1), ([4.0], 1.0, 1)],
    ids=["after a loss", "for too long", "without one", "before the loss"],
)
def test_two_at_work_are_noticed(losses, most, broken):
    """But for a while after the server lost what it knew."""
    found, longest = judge_shifts([Shift(7, 1, 1.0, 3.5), Shift(9, 2, 3.0, 5.0)], losses, most)

    assert (len(found), longest) == (broken, 0.5)


def test_tokens_that_go_back_or_are_shared_are_noticed():
    """Each is larger than all before it, and one process's."""
    found, _ = judge_shifts([Shift(9, 1, 1, 2), Shift(7, 2, 3, 4), Shift(7, 3, 5, 6)], [], 1.0)

    assert len(found) == 2
