"""Questions from one process to the others, and their answers.

The asker's answers come on its own channel, so that no third process hears them::

    asker ── Question(7, "count", ...) on "all", or on one process's channel ──▶ others
    asker ◀── Answer(7, ...), in one part or several, on "node:<asker>" ──────── each of them

What holds:

* A question is one parcel to each process that is asked, an answer one parcel or more to the
  asker alone: the cost grows with the number of processes, and never with its square.
* Nothing of a question is left after the block of `Questions.put`, however that ends: the open
  questions are exactly those that somebody awaits. A later answer is dropped silently.
* A process that cannot answer (it does not know the kind, as one with other code, or failed)
  says so, and is not waited for; it counts like one that is silent.
* What only asks, and every answer, is outside of the channels' chains: the asker counts what is
  missing, so that its loss is no gap for anybody. A kind that `acts` is in the chain.
* Questions of one process are handled in their order, and in the order of what else it sends to
  all. The task that handles them takes answers too: so a handler of a question must not ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from falcon_pachinko.backends.base import Backend
from falcon_pachinko.backends.supervision import in_time
from falcon_pachinko.cluster.parcels import ALL, Answer, Parcel, Question
from falcon_pachinko.errors import BackendError
from falcon_pachinko.messages.codec import DECODE_ERRORS

__all__ = ["Answers", "Asked", "Kind", "Poll", "Questions"]

log = logging.getLogger("falcon_pachinko.cluster")

Q = TypeVar("Q")
P = TypeVar("P")

Handler: TypeAlias = Callable[[Q], Awaitable[Sequence[P]]]
"""Answers a question on this process, in one part at least.

It raises a ValueError for one that makes no sense.
"""


class Kind(Generic[Q, P]):
    """One kind of question: its name on the bus, and what travels.

    Args:
        name: The name, the same in every process.
        question: The type of a question's body.
        part: The type of each part of an answer.
        acts: Whether to answer it changes something: the others are to know if it was lost.
    """

    def __init__(self, name: str, question: type[Q], part: type[P], *, acts: bool = False) -> None:
        self.name, self.acts = name, acts
        self.encode = msgspec.msgpack.Encoder().encode
        self.read_question: Callable[[bytes], Q] = msgspec.msgpack.Decoder(question).decode
        self.read_part: Callable[[bytes], P] = msgspec.msgpack.Decoder(part).decode


class Answers(NamedTuple, Generic[P]):
    """What has come of a question by the time that it is over."""

    parts: list[P]
    """The parts of all other processes that have answered; of one process in their order."""
    answered: int
    """How many processes have answered, this one included, or need not be asked."""
    processes: int
    """How many there were, this one included."""


class Poll(Generic[P]):
    """One question's answers so far.

    Pure: no task, no clock, no backend.

    Args:
        read_part: Decodes a part.
        only: The one process that is asked; None for all.
    """

    def __init__(self, read_part: Callable[[bytes], P], only: str | None = None) -> None:
        self._read, self._only = read_part, only
        self._others: frozenset[str] = frozenset()  # who has a lease, besides this process
        self._missing: set[str] | None = None
        # Those of them who are asked and have not answered; None until it is known who they are.
        self._parts: dict[str, dict[int, P]] = {}  # by process and place
        self._counts: dict[str, int] = {}  # how many parts, where the last one is here
        self._answered: set[str] = set()  # processes of which all parts are here
        self._unable: set[str] = set()  # processes that said that they cannot answer

    def expect(self, others: Collection[str]) -> None:
        """Note which other processes there are; until then the question is not over."""
        self._others = frozenset(others)
        asked = self._others if self._only is None else self._others & {self._only}
        self._missing = {*asked} - self._answered - self._unable

    def take(self, node: str, answer: Answer) -> None:
        """Note a part of an answer.

        Raises:
            msgspec.ValidationError: It is no part of such an answer; and others of
                `DECODE_ERRORS`. The process counts as one that cannot answer.
        """
        if node in self._answered or node in self._unable:
            return
        parts = self._parts.setdefault(node, {})
        try:
            if answer.body is not None:
                parts[answer.place] = self._read(answer.body)
        finally:
            if answer.body is None or answer.place not in parts:
                self._unable.add(node)
            elif answer.is_last:
                self._counts[node] = answer.place + 1
            if len(parts) == self._counts.get(node):
                self._answered.add(node)
            if self._missing is not None:
                self._missing -= self._answered | self._unable

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        if self._missing is None:  # of one process, it need not be known who else is there
            return self._only in self._answered or self._only in self._unable
        return not self._missing

    def answers(self) -> Answers[P]:
        """Return what has come; a process of which a part is missing has not answered.

        One that answers without a lease, since it has just begun or was taken for dead,
        is there as well.
        """
        there = self._others | self._answered
        asked = there if self._only is None else there & {self._only}
        parts = [part for node in self._answered for part in self._in_order(node)]
        silent = len(asked - self._answered)
        return Answers(parts, 1 + len(there) - silent, 1 + len(there))

    def _in_order(self, node: str) -> list[P]:
        return [part for _, part in sorted(self._parts[node].items(), key=itemgetter(0))]


class Asked(Generic[P]):
    """A question that was put, and that somebody awaits."""

    def __init__(self, questions: Questions, poll: Poll[P]) -> None:
        self._questions, self.poll = questions, poll
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Resolved when nothing more is to come."""

    async def answers(self, seconds: float) -> Answers[P]:
        """Wait for the answers, for some seconds at most; what has not come by then is left out."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        others = await self._questions.others(seconds)
        if others is not None:  # else anybody may be there, and all of the time is waited
            self.poll.expect(others)
        left = deadline - loop.time()
        if not self.poll.is_over and not self.over.done() and left > 0:
            with contextlib.suppress(TimeoutError):  # what is missing then is missing
                await in_time(self.over, left)
        return self.poll.answers()

    def end(self) -> None:
        """Wait for nothing more."""
        if not self.over.done():
            self.over.set_result(None)


class Questions:
    """What one process asks, and what it answers; its `Node` has one.

    Args:
        backend: What knows who is alive.
        publish: Sends a parcel to a channel, in its chain; tells whether it is on its way.
        publish_apart: The same, outside of it.
        reject: Counts what arrived and makes no sense, and says why.
    """

    def __init__(
        self,
        backend: Backend,
        publish: Callable[[str, Parcel], bool],
        publish_apart: Callable[[str, Parcel], bool],
        reject: Callable[[str], None],
    ) -> None:
        self._backend = backend
        self._publish, self._publish_apart, self._reject = publish, publish_apart, reject
        self._handlers: dict[str, tuple[Kind[Any, Any], Handler[Any, Any]]] = {}
        self._numbers = itertools.count(1)
        self._open: dict[int, Asked[Any]] = {}  # by their numbers
        self._name = ""  # this process; empty while it is alone
        self._seen: frozenset[str] = frozenset()
        # Who was alive when that was known last, for when the backend does not say it in time.

    def begin(self, name: str) -> None:
        """Be a process of that name, among others."""
        self._name, self._seen = name, frozenset()

    def end(self) -> None:
        """Be alone; what is asked now is over."""
        self._name = ""
        self.give_up()

    def give_up(self) -> None:
        """End all questions with what has come: no answer arrives any more."""
        for asked in self._open.values():
            asked.end()

    def handle(self, kind: Kind[Q, P], handler: Handler[Q, P]) -> None:
        """Have questions of a kind answered by a coroutine function."""
        self._handlers[kind.name] = (kind, handler)

    # Asking.

    @contextlib.contextmanager
    def put(self, kind: Kind[Q, P], question: Q, only: str | None = None) -> Iterator[Asked[P]]:
        """Ask the other processes, without waiting; what is given has an end with the block.

        Example::

            with questions.put(COUNT, target) as asked:
                here = count(target)  # the others do the same meanwhile
                answers = await asked.answers(3.0)

        Args:
            kind: What is asked.
            question: The question itself.
            only: The one process to ask, if the others have nothing to answer: they count as
                if they had answered. This process itself: nobody is asked.
        """
        asked: Asked[P] = Asked(self, Poll(kind.read_part, only))
        number = next(self._numbers)
        self._open[number] = asked
        try:
            if only != self._name and not self._tell(kind, question, number, only):
                asked.end()  # no answer will come
            yield asked
        finally:
            del self._open[number]

    def _tell(self, kind: Kind[Q, Any], question: Q, number: int, only: str | None) -> bool:
        """Send a question; tell whether it is on its way."""
        try:
            parcel = Question(0, 0, number, kind.name, kind.encode(question))
        except UnicodeEncodeError:
            return False  # a name without a UTF-8 form, which nothing has anywhere
        publish = self._publish if kind.acts else self._publish_apart
        return publish(ALL if only is None else f"node:{only}", parcel)

    async def others(self, seconds: float) -> Collection[str] | None:
        """Return which other processes have a lease now.

        Or had one when that was known last, if it takes longer than so many seconds to find
        out; None if it never was, as without JetStream. There are none while the backend is not
        ``up``.
        """
        name = self._name
        if not name or self._backend.state != "up":
            return ()
        try:
            self.saw(await in_time(self._backend.alive(), seconds))
        except (BackendError, TimeoutError):
            pass  # the backend's state will tell
        except Exception:
            log.exception("backend %s failed to tell which processes are alive", self._backend.name)
        if not self._seen and self._backend.state == "up":
            return None
        return self._seen - {name}

    def saw(self, alive: Collection[str]) -> None:
        """Note who is alive just now."""
        self._seen = frozenset(alive)

    def take(self, node: str, answer: Answer) -> None:
        """Note a part of an answer; a late one is dropped."""
        asked = self._open.get(answer.number)
        if asked is None:
            return
        try:
            asked.poll.take(node, answer)
        except DECODE_ERRORS as error:
            self._reject(f"dropped an answer of another process: {error}")
        if asked.poll.is_over:
            asked.end()

    # Answering.

    async def answer(self, asker: str, question: Question) -> None:
        """Answer a question of another process, or say that this one cannot.

        Raises:
            Exception: What the handler has raised, after the asker was told.
        """
        parts: Sequence[bytes | None] = (None,)
        try:
            parts = await self._parts(question)
        finally:
            for place, part in enumerate(parts):
                last = place == len(parts) - 1
                answer = Answer(0, 0, question.number, place, last, part)
                self._publish_apart(f"node:{asker}", answer)

    async def _parts(self, question: Question) -> Sequence[bytes | None]:
        known = self._handlers.get(question.kind)
        if known is None:
            return (None,)
        kind, handler = known
        try:
            asked = kind.read_question(question.body)
        except DECODE_ERRORS as error:
            self._reject(f"dropped a question of another process: {error}")
            return (None,)
        try:
            parts = await handler(asked)
        except ValueError as error:
            self._reject(f"dropped a question of another process: {error}")
            return (None,)
        return [kind.encode(part) for part in parts]
