"""The outbox against a model that is obviously right, over whatever may happen to it."""

import asyncio
import itertools
from collections import Counter

import falcon
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from falcon_pachinko import Limits
from falcon_pachinko.connection.outbox import Outbox
from falcon_pachinko.connection.stage import NEXT, Stage
from falcon_pachinko.counters import Counters
from falcon_pachinko.messages.codec import pack_text

ACCEPT, CLOSE = "accept", "close"
STEPS = 40


class Wire:
    """A server that takes what it is told to, one event after the other."""

    def __init__(self):
        self.taken, self.stalled, self.error, self.gap = [], False, None, None

    async def send(self, event):
        assert self.gap is None, "two writers"
        if self.error is not None:
            raise self.error
        if self.stalled:
            self.gap = asyncio.get_running_loop().create_future()
            try:
                await self.gap
            finally:
                self.gap = None
        kind = event["type"].removeprefix("websocket.")
        self.taken.append(event["text"] if kind == "send" else kind)


class Model:
    """What an outbox is, said without tasks: what is being written, and what waits."""

    def __init__(self, limits, *, is_open):
        self.limits, self.stalled, self.broken = limits, False, False
        self.stage = Stage.OPEN if is_open else Stage.CONNECTING
        self.writing, self.waiting, self.taken = None, [], []  # of texts, and of (text, key)
        self.dropped = Counter()
        self.closing = self.accepting = False

    @property
    def bytes(self):
        written = self.writing if self.writing not in (None, ACCEPT, CLOSE) else ""
        return len(written) + sum(len(text) for text, _ in self.waiting)

    def settle(self):
        """Have the server take as much as it takes."""
        while self.writing is None or not self.stalled:
            if self.writing is not None:
                break
            if self.accepting:
                begun = ACCEPT
            elif self.stage is Stage.CONNECTING:
                break
            elif self.waiting and self.stage in (Stage.OPEN, Stage.CLOSING):
                begun = self.waiting.pop(0)[0]
            elif self.closing:
                begun, self.closing = CLOSE, False
            else:
                break
            if self.broken:
                self.end()
            elif self.stalled:
                self.writing = begun
            else:
                self.leave(begun)

    def leave(self, begun):
        self.taken.append(begun)
        if begun == ACCEPT:
            self.accepting = False
            if self.stage is Stage.CONNECTING:
                self.stage = Stage.OPEN
        elif begun == CLOSE and self.stage is Stage.CLOSING:
            self.stage = Stage.CLOSED

    def let_one_through(self):
        begun, self.writing = self.writing, None
        self.leave(begun)

    def end(self):
        self.dropped["gone"] += len(self.waiting)
        self.waiting, self.closing, self.accepting = [], False, False
        self.stage = Stage.CLOSED

    def close(self):
        if self.stage is Stage.OPEN:
            self.stage, self.closing = Stage.CLOSING, True
        elif self.stage is Stage.CONNECTING:
            self.dropped["gone"] += len(self.waiting)
            self.waiting = []
            self.stage = Stage.CLOSING if self.accepting else Stage.CLOSED
            self.closing = self.accepting

    def push(self, text, key, volatile):
        if self.stage not in (Stage.OPEN, Stage.CONNECTING):
            return False
        written = self.writing not in (None, ACCEPT, CLOSE)
        if volatile and written:
            self.dropped["volatile"] += 1
            return False
        place = next((at for at, (_, k) in enumerate(self.waiting) if k and k == key), None)
        others = self.bytes - (len(self.waiting[place][0]) if place is not None else 0)
        budget, policy = self.limits.outbox_bytes, self.limits.on_overflow
        if not others or others + len(text) <= budget:
            if place is None:
                self.waiting.append((text, key))
            else:
                self.waiting[place] = (text, key)
            return True
        if place is not None:
            del self.waiting[place]
        if policy == "close":
            self.dropped["overflow"] += len(self.waiting) + 1
            self.waiting = []
            self.close()
            return False
        in_flight = len(self.writing) if written else 0
        if policy == "drop_newest" or in_flight + len(text) > budget:
            self.dropped["overflow"] += 1
            return False
        while self.bytes + len(text) > budget:
            del self.waiting[0]
            self.dropped["overflow"] += 1
        self.waiting.append((text, key))
        return True


class Recorded(Outbox):
    """An outbox that remembers how it went from stage to stage."""

    moves = ()

    def _move(self, stage):
        self.moves = (*self.moves, (self.stage, stage))
        super()._move(stage)


FRAMES = st.lists(
    st.tuples(st.integers(2, 12), st.sampled_from([None, None, "x", "y"]), st.booleans()),
    min_size=1,
    max_size=4,
)
"""Size, key, and whether it is volatile."""


class OutboxMachine(RuleBasedStateMachine):
    """Whatever is pushed, and however the server takes it, the outbox is what the model is."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.numbers = itertools.count()
        self.accepting = None
        self.steps = 0

    def teardown(self):
        if hasattr(self, "outbox"):
            self.run(lambda: self.outbox.forget(now=True))
            if self.accepting is not None:
                self.accepting.cancel()
                self.run()
        self.loop.close()

    @initialize(
        direct=st.booleans(),
        is_open=st.booleans(),
        policy=st.sampled_from(["drop_oldest", "drop_newest", "close"]),
        budget=st.integers(4, 60),
        stalled=st.booleans(),
        lives=st.integers(0, STEPS),
    )
    def begin(self, direct, is_open, policy, budget, stalled, lives):
        self.lives = lives  # how many steps it has before it may end
        limits = Limits(outbox_bytes=budget, on_overflow=policy, send_timeout=None)
        self.wire, self.model = Wire(), Model(limits, is_open=is_open)
        self.outbox = Recorded(self.wire.send, limits, Counters(), direct=direct, is_open=is_open)
        self.wire.stalled = self.model.stalled = stalled

    def run(self, act=None):
        """Do something within the loop, and let it turn until nothing happens any more."""

        async def within():
            result = act() if act is not None else None
            for _ in range(6):
                await asyncio.sleep(0)
            return result

        self.steps += 1
        return self.loop.run_until_complete(within())

    @property
    def may_end(self):
        return self.steps >= self.lives

    @rule(frames=FRAMES)
    def push(self, frames):
        for size, key, fleeting in frames:
            text = str(next(self.numbers)).rjust(size, ".")
            volatile = fleeting and key is None
            expected = self.model.push(text, key, volatile)
            self.model.settle()

            packet = pack_text(text)
            taken = self.run(lambda: self.outbox.put(packet, volatile=volatile, key=key))  # noqa: B023  # it runs at once

            # That a server is broken, a push can tell only where it is stepped by hand.
            assert taken == expected or (self.wire.error is not None and not taken)

    @rule()
    def stall(self):
        self.wire.stalled = self.model.stalled = True

    @precondition(lambda self: self.steps % 4 == 0)
    @rule()
    def flow(self):
        self.wire.stalled = self.model.stalled = False

    @precondition(lambda self: self.wire.gap is not None)
    @rule()
    def let_one_through(self):
        self.model.let_one_through()
        self.model.settle()
        self.run(lambda: self.wire.gap.set_result(None))

    @precondition(lambda self: self.may_end and self.wire.gap is not None)
    @rule()
    def fail(self):
        self.model.writing, self.model.broken = None, True
        self.model.end()
        self.wire.error = OSError("gone")
        self.run(lambda: self.wire.gap.set_exception(self.wire.error))

    @precondition(lambda self: self.model.stage is Stage.CONNECTING and self.accepting is None)
    @rule()
    def accept(self):
        self.model.accepting = True
        self.model.settle()

        def begin():
            self.accepting = asyncio.ensure_future(self.outbox.accept({"type": "websocket.accept"}))

        self.run(begin)

    @precondition(lambda self: self.may_end)
    @rule()
    def close(self):
        self.model.close()
        self.model.settle()
        self.run(lambda: self.outbox.close(4000, "enough"))

    @precondition(lambda self: self.may_end)
    @rule()
    def lose(self):
        if self.model.stage is not Stage.CLOSED:
            self.model.end()
        self.run(self.outbox.lose)

    @invariant()
    def nothing_differs(self):
        if not hasattr(self, "outbox"):
            return
        outbox, model = self.outbox, self.model
        assert self.wire.taken == model.taken
        assert outbox.stage is model.stage
        assert outbox.bytes == model.bytes
        assert +outbox.counters.dropped == +model.dropped
        assert outbox._direct == (
            outbox._is_bare and outbox.stage is Stage.OPEN and outbox._writer is None
        )
        assert all(after in NEXT[before] for before, after in outbox.moves)
        if model.writing is None and not model.waiting:
            assert (outbox.bytes, outbox._writer) == (0, None)

    @invariant()
    def the_accept_tells_how_it_ended(self):
        if self.accepting is None or not self.accepting.done():
            return
        error = self.accepting.exception()
        if error is not None:
            assert isinstance(error, falcon.WebSocketDisconnected)
        assert (error is None) == (Stage.OPEN in {after for _, after in self.outbox.moves})


OutboxMachine.TestCase.settings = settings(
    stateful_step_count=STEPS, max_examples=max(100, settings.default.max_examples)
)
TestOutbox = OutboxMachine.TestCase
