"""The one suite that every backend passes: memory, Redis, NATS, and your own.

Derive a class from `BackendConformance`, tell it with a fixture where the
backends meet, and pytest does the rest. What stands behind a server that can be
stopped passes `OutageConformance` too::

    class Lounge(BackendServer):
        def backend(self, namespace):
            return LoungeBackend(f"lounge://127.0.0.1:7000?namespace={namespace}")


    class TestLounge(BackendConformance):
        @pytest.fixture
        def server(self):
            return Lounge()

It needs pytest and pytest-asyncio: ``pip install 'falcon-pachinko[testing]'``.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import pytest
import pytest_asyncio

from falcon_pachinko.backends.base import (
    Backend,
    Event,
    HistoryPosition,
    Lost,
    Past,
    Received,
    State,
    StateChanged,
)
from falcon_pachinko.errors import BackendError
from falcon_pachinko.limits import HistoryLimits

__all__ = [
    "BackendConformance",
    "BackendServer",
    "Node",
    "OutageConformance",
    "StoppableServer",
]

LONG = 60.0
"""Seconds of a lease that is not to end within a test."""

ROOMY = HistoryLimits(count=10_000, bytes=100_000_000, seconds=LONG)

NAMES = (
    "a", "*", ">", "a.b", "a.*", "a b", " ", "a\nb", "a\r\nb", "[x]", "?", "\\", "\\*", "\0",
    "a\0b", ".", "..", "a:b", "%00", "$SYS.x", "_INBOX.>", "é☕", "x" * 200, "é" * 100, "{a}b", "/",
    "ab",
)  # fmt: skip
"""Names that a server could take for something else: each is nothing but itself."""

DECOYS = ("b", "a.c", "a.b.c", "axb", "x", "xx", "A", "a:", "$SYS.y", "_INBOX.x", "☕é")
"""Names that a pattern among `NAMES` would match, or a wrong escape would confuse."""

HOSTILE = (b"", b"\0", b"\r\n", b"*1\r\n$4\r\nPING\r\n", b"\xff\xfe" * 20, bytes(range(256)))
"""Bytes that a protocol could stumble over."""

Outage: TypeAlias = Literal["gone", "hung"]


class BackendServer(ABC):
    """Where the backends under test meet.

    Attributes:
        shortest_ttl: The shortest lease, in seconds, and the shortest life of a history that
            the tests may ask for; they wait for its end several times.
        patience: Seconds that anything may take which has to happen.
    """

    shortest_ttl: float = 1.0
    patience: float = 20.0

    @abstractmethod
    def backend(self, namespace: str) -> Backend:
        """Make a backend, not started; those of one namespace share everything."""


class StoppableServer(BackendServer):
    """A server that a test may take away."""

    @abstractmethod
    async def interrupt(self, how: Outage) -> None:
        """Take the server away: ``gone`` refuses connections, ``hung`` does not answer."""

    @abstractmethod
    async def restore(self) -> None:
        """Bring it back at the same address, with what it kept or empty; once more is no error."""


class Node:
    """A backend that was started, and what it has reported so far."""

    def __init__(self, backend: Backend, patience: float) -> None:
        self.backend = backend
        self.name = ""
        self.events: list[Event] = []
        self._patience = patience
        self._more = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def start(self, *, listen: bool = True) -> None:
        """Start the backend under a new name."""
        self.name = secrets.token_hex(6)
        self.events.clear()
        await self.backend.start(self.name)
        if listen:
            self.listen()

    def listen(self) -> None:
        """Read the events from now on."""

        async def read() -> None:
            async for event in self.backend.events():
                self.events.append(event)
                self._more.set()

        self._reader = asyncio.get_running_loop().create_task(read())

    async def stop(self) -> None:
        """Stop the backend, and see its events end."""
        await in_time(self.backend.stop(), self._patience)
        if self._reader is not None:
            await in_time(self._reader, self._patience)
            self._reader = None

    @property
    def received(self) -> list[Received]:
        """What arrived on channels."""
        return [event for event in self.events if isinstance(event, Received)]

    @property
    def states(self) -> list[State]:
        """The states it went through."""
        return [event.state for event in self.events if isinstance(event, StateChanged)]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until the events fulfil a condition."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while not condition():
                    self._more.clear()
                    await self._more.wait()
        if not condition():
            raise AssertionError(
                f"{what} did not happen within {self._patience} s; the state is "
                f"{self.backend.state}, the last of {len(self.events)} events: "
                f"{self.events[-5:]!r:.1000}"
            )

    async def hears(self, count: int) -> list[Received]:
        """Wait until so much has arrived in all; return it."""
        await self.until(lambda: len(self.received) >= count, f"the arrival of {count}")
        return self.received

    async def is_now(self, state: State, after: int = 0) -> None:
        """Wait for a change to a state, later than the first events."""
        await self.until(
            lambda: any(
                isinstance(event, StateChanged) and event.state == state
                for event in self.events[after:]
            ),
            f"a change to {state}",
        )


async def in_time(work: Awaitable[Any], seconds: float) -> Any:
    """Await something that is bounded in time by itself."""
    async with asyncio.timeout(seconds):
        return await work


async def eventually(condition: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """Ask until the answer is not None; return it."""
    deadline = asyncio.get_running_loop().time() + seconds
    while (answer := await condition()) is None:
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)
    return answer


class Start(Protocol):
    """Starts a node; one more argument names another namespace."""

    async def __call__(self, namespace: str = ...) -> Node: ...  # the class says it


class _Conformance:
    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def server(self) -> BackendServer:
        """Say where the backends meet: override this."""
        raise NotImplementedError("define a fixture named server that returns a BackendServer")

    @pytest.fixture
    def namespace(self) -> str:
        """Return a name that no other test uses."""
        return f"conformance-{secrets.token_hex(4)}"

    @pytest_asyncio.fixture
    async def start(self, server: BackendServer, namespace: str) -> AsyncIterator[Start]:
        """Start nodes of one cluster; they are stopped after the test."""
        nodes: list[Node] = []

        async def start_one(namespace: str = namespace) -> Node:
            node = Node(server.backend(namespace), server.patience)
            nodes.append(node)
            await node.start()
            return node

        yield start_one
        for node in nodes:
            await node.stop()


class BackendConformance(_Conformance):
    """What every backend does while its server is there."""

    # Life.

    async def test_it_is_up_when_it_was_started(self, start: Start) -> None:
        """A server that is there is connected to before start returns, and the events say so."""
        node = await start()

        await node.is_now("up")
        assert node.backend.state == "up"
        assert node.states == ["up"]
        assert node.backend.shared

    async def test_it_is_down_before_and_after(self, server: BackendServer, namespace: str) -> None:
        """Without a start, and after a stop, the state is down; stopping again changes nothing."""
        node = Node(server.backend(namespace), server.patience)
        before = node.backend.state
        await node.backend.stop()

        await node.start()
        await node.stop()
        await node.backend.stop()

        assert (before, node.backend.state) == ("down", "down")

    async def test_nothing_runs_on_after_a_stop(
        self, server: BackendServer, namespace: str
    ) -> None:
        """A backend leaves no task behind."""
        before = asyncio.all_tasks()
        node = Node(server.backend(namespace), server.patience)
        await node.start()
        await node.backend.subscribe(["a"])
        await node.backend.publish([("a", b"1")])
        await node.stop()

        assert asyncio.all_tasks() <= before

    async def test_it_can_be_started_again(self, start: Start) -> None:
        """Another start is another node, without the subscriptions of the one before."""
        one, two = await start(), await start()
        await one.backend.subscribe(["a"])
        await one.stop()
        await one.start()
        await one.backend.subscribe(["b"])

        await two.backend.publish([("a", b"old"), ("b", b"new")])

        assert await one.hears(1) == [Received("b", b"new")]

    # Channels.

    async def test_bytes_reach_all_subscribers(self, start: Start) -> None:
        """Every node that listens to a channel gets what another one publishes, once."""
        one, two, three = await start(), await start(), await start()
        for node in (two, three):
            await node.backend.subscribe(["a", "b"])
        await three.backend.unsubscribe(["b"])

        await one.backend.publish([("a", b"1"), ("b", b"2"), ("c", b"3"), ("a", b"4")])

        assert await two.hears(3) == [Received("a", b"1"), Received("b", b"2"), Received("a", b"4")]
        assert [each for each in await three.hears(2) if each.channel == "a"] == [
            Received("a", b"1"),
            Received("a", b"4"),
        ]

    async def test_a_subscription_is_live_when_it_returns(self, start: Start) -> None:
        """What is published right after a subscribe arrives, every time."""
        one, two = await start(), await start()
        for number in range(50):
            await one.backend.subscribe([f"live{number}"])
            await two.backend.publish([(f"live{number}", b"%d" % number)])

        assert [each.data for each in await one.hears(50)] == [b"%d" % n for n in range(50)]

    async def test_subscribing_is_about_the_last_word(self, start: Start) -> None:
        """Twice is once, and what was left and joined again is live; nothing at all is fine."""
        one, two = await start(), await start()
        await one.backend.subscribe([])
        await one.backend.unsubscribe([])
        await one.backend.unsubscribe(["never"])
        await one.backend.subscribe(["a", "b"])
        await one.backend.subscribe(["a"])
        await one.backend.unsubscribe(["a", "b"])
        await one.backend.subscribe(["a"])

        await two.backend.publish([])
        await two.backend.publish([("b", b"no"), ("a", b"yes"), ("a", b"end")])

        assert await one.hears(2) == [Received("a", b"yes"), Received("a", b"end")]

    async def test_subscriptions_may_change_at_once(self, start: Start) -> None:
        """Subscribes and unsubscribes of many tasks do not get in each other's way."""
        one, two = await start(), await start()
        await asyncio.gather(*(one.backend.subscribe([f"{n}", f"{n}x"]) for n in range(40)))
        await asyncio.gather(
            *(one.backend.unsubscribe([f"{n}x"]) for n in range(40)),
            *(one.backend.subscribe([f"{n}y"]) for n in range(40)),
        )

        names = [f"{n}{kind}" for n in range(40) for kind in ("x", "y", "")]
        await two.backend.publish([(name, b"") for name in names])

        heard = [each.channel for each in await one.hears(80)]
        assert sorted(heard) == sorted(name for name in names if "x" not in name)

    async def test_thousands_of_channels_are_one_call(
        self, server: BackendServer, start: Start
    ) -> None:
        """Whoever has many rooms subscribes to them in a bounded time, and is heard on each."""
        one, two = await start(), await start()
        names = [f"room:{number}" for number in range(5000)]
        await in_time(one.backend.subscribe(names), server.patience)

        await two.backend.publish([(name, name.encode()) for name in names])

        heard = await one.hears(len(names))
        assert [(each.channel, each.data.decode()) for each in heard] == [(n, n) for n in names]
        await in_time(one.backend.unsubscribe(names), server.patience)

    async def test_names_are_literal(self, start: Start) -> None:
        """A name with wildcards, separators or line ends is a name, and nobody else's."""
        one, two = await start(), await start()
        await one.backend.subscribe(NAMES)

        await two.backend.publish([(name, name.encode()) for name in (*DECOYS, *NAMES)])
        await two.backend.publish([("a", b"end")])

        heard = await one.hears(len(NAMES) + 1)
        assert [(each.channel, each.data) for each in heard[:-1]] == [
            (name, name.encode()) for name in NAMES
        ]

    @pytest.mark.parametrize("data", [*HOSTILE, b"x" * 1_048_576], ids=lambda data: str(len(data)))
    async def test_any_bytes_travel(self, start: Start, data: bytes) -> None:
        """What is published arrives byte for byte: nothing at all, line ends, a mebibyte."""
        one, two = await start(), await start()
        await one.backend.subscribe(["a"])

        await two.backend.publish([("a", data), ("a", b"end")])

        assert await one.hears(2) == [Received("a", data), Received("a", b"end")]

    async def test_any_first_byte_travels(self, start: Start) -> None:
        """No byte at the beginning is mistaken for something of the backend's own."""
        one, two = await start(), await start()
        await one.backend.subscribe(["a"])
        each = [bytes([first]) + b"K0:0:" for first in range(256)]

        await two.backend.publish([("a", data) for data in each])

        assert await one.hears(256) == [Received("a", data) for data in each]

    async def test_the_order_of_a_publisher_is_kept(self, start: Start) -> None:
        """Of several publishers, each one's bytes arrive complete and in its order."""
        nodes = [await start() for _ in range(3)]
        for node in nodes[1:]:
            await node.backend.subscribe(["a"])

        async def publish(node: Node, sizes: Sequence[int]) -> None:
            number = 0
            for size in sizes:
                batch = [
                    ("a", f"{node.name} {each}".encode()) for each in range(number, number + size)
                ]
                await node.backend.publish(batch)
                number += size

        sizes = (1, 300, 2, 97)
        await asyncio.gather(*(publish(node, sizes) for node in nodes))

        for node in nodes[1:]:
            others = [other for other in nodes if other is not node]
            await node.until(
                lambda node=node, others=others: all(  # type: ignore[misc]  # the loop's own
                    sum(each.data.startswith(other.name.encode()) for each in node.received) >= 400
                    for other in others
                ),
                "all of it",
            )
            for other in others:
                heard = [each.data.decode().split() for each in node.received]
                numbers = [int(number) for name, number in heard if name == other.name]
                assert numbers == list(range(400))

    async def test_a_slow_reader_misses_nothing_silently(
        self, server: BackendServer, start: Start, namespace: str
    ) -> None:
        """What arrives while nobody reads is there later, or its loss is told."""
        slow, one = Node(server.backend(namespace), server.patience), await start()
        await slow.start(listen=False)
        await slow.backend.subscribe(["a"])
        for batch in range(100):
            await one.backend.publish([("a", b"%06d" % (batch * 50 + n)) for n in range(50)])
        slow.listen()
        await slow.until(
            lambda: (
                len(slow.received) >= 5000 or any(isinstance(each, Lost) for each in slow.events)
            ),
            "5000, or a Lost",
        )
        numbers = [int(each.data) for each in slow.received]
        await slow.stop()

        assert numbers == sorted(set(numbers))

    async def test_namespaces_do_not_see_each_other(self, start: Start, namespace: str) -> None:
        """Two apps on one server have nothing in common."""
        one, other = await start(), await start(f"{namespace}-2")
        for node in (one, other):
            await node.backend.beat(LONG)
            await node.backend.subscribe(["a"])
            await node.backend.enter("t", {node.name: b""})
        position = await one.backend.append("a", b"kept", ROOMY)
        token = await one.backend.acquire("l", LONG)
        await one.backend.publish([("a", b"1")])
        await other.backend.publish([("a", b"2")])

        assert list(await other.backend.entries("t")) == [other.name]
        assert list(await other.backend.beat(LONG)) == [other.name]
        assert (token is None, await other.backend.acquire("l", LONG) is None) == (False, False)
        past = await other.backend.read("a", position, ROOMY)
        assert (past.entries, past.complete) == ((), False)
        assert await other.hears(1) == [Received("a", b"2")]
        assert [each.data for each in await one.hears(2)] == [b"kept", b"1"]

    # Presence.

    async def test_tables_have_the_entries_of_all_nodes(self, start: Start) -> None:
        """What nodes enter, all see, by node and key; a key entered again is replaced."""
        one, two = await start(), await start()
        for node in (one, two):
            await node.backend.beat(LONG)
        await one.backend.enter("t", {"ann": b"1", "bob": b"2"})
        await two.backend.enter("t", {"ann": b"3"})
        await two.backend.enter("other", {"cid": b"4"})
        await one.backend.enter("t", {"ann": b"5"})
        await one.backend.enter("t", {})

        expected = {one.name: {"ann": b"5", "bob": b"2"}, two.name: {"ann": b"3"}}
        assert await one.backend.entries("t") == await two.backend.entries("t") == expected
        assert await one.backend.entries("nobody") == {}

    async def test_what_is_replaced_is_all_there_is(self, start: Start) -> None:
        """A node's entries in a table become the given ones, and those of others stay."""
        one, two = await start(), await start()
        for node in (one, two):
            await node.backend.beat(LONG)
            await node.backend.enter("t", {"ann": b"1", "bob": b"2"})
        await one.backend.enter("other", {"ann": b"1"})

        await one.backend.replace("t", {"bob": b"3", "cid": b"4"})
        replaced = await two.backend.entries("t")
        await one.backend.replace("other", {})
        await one.backend.replace("new", {"ann": b"5"})

        assert replaced == {
            one.name: {"bob": b"3", "cid": b"4"},
            two.name: {"ann": b"1", "bob": b"2"},
        }
        assert await two.backend.entries("other") == {}
        assert await two.backend.entries("new") == {one.name: {"ann": b"5"}}

    async def test_a_node_is_told_its_tables(self, start: Start) -> None:
        """Those in which it has entries now, however they are called, and nobody else's."""
        one, two = await start(), await start()
        names = [
            "t",
            "a:b",
            "*",
            "{x}",
            "r\u00e9sum\u00e9",
            *(f"t{number}" for number in range(40)),
        ]
        for name in names:
            await one.backend.enter(name, {"ann": b"1"})
        await two.backend.enter("two's", {"ann": b"1"})
        await one.backend.leave("t7", ["ann"])
        await one.backend.replace("t8", {})

        assert sorted(await one.backend.tables()) == sorted(set(names) - {"t7", "t8"})
        assert list(await two.backend.tables()) == ["two's"]

    async def test_who_leaves_is_gone(self, start: Start) -> None:
        """A node takes its own entries back, and nobody else's; unknown ones are no error."""
        one, two = await start(), await start()
        for node in (one, two):
            await node.backend.beat(LONG)
            await node.backend.enter("t", {"ann": b"1", "bob": b"2"})

        await one.backend.leave("t", ["ann", "never"])
        await one.backend.leave("nobody", ["ann"])
        await one.backend.leave("t", [])
        partly = await two.backend.entries("t")
        await one.backend.leave("t", ["bob"])

        assert partly == {one.name: {"bob": b"2"}, two.name: {"ann": b"1", "bob": b"2"}}
        assert await two.backend.entries("t") == {two.name: {"ann": b"1", "bob": b"2"}}

    async def test_tables_and_keys_are_literal(self, start: Start) -> None:
        """Any text names a table or a key, and any bytes are an entry."""
        one, two = await start(), await start()
        await one.backend.beat(LONG)
        values = {name: HOSTILE[number % len(HOSTILE)] for number, name in enumerate(NAMES)}
        for name in NAMES:
            await one.backend.enter(name, {**values, "table": name.encode()})

        for name in (*NAMES, *DECOYS):
            expected = {one.name: {**values, "table": name.encode()}} if name in NAMES else {}
            assert await two.backend.entries(name) == expected

    async def test_a_beat_tells_who_is_alive(self, start: Start) -> None:
        """Each beat returns the nodes that have a lease, itself included."""
        one, two = await start(), await start()
        await one.backend.beat(LONG)

        assert set(await two.backend.beat(LONG)) == {one.name, two.name}

    async def test_who_is_alive_can_be_asked(self, start: Start) -> None:
        """Those with a lease are, however often and by whom it is asked; it costs nobody's own."""
        one, two, three = [await start() for _ in range(3)]
        for node in (one, two):
            await node.backend.beat(LONG)
            await node.backend.enter("t", {"ann": b"1"})
        found = await asyncio.gather(
            *(node.backend.alive() for node in (one, two) * 3), one.backend.beat(LONG)
        )
        of_three = set(await three.backend.alive())

        await two.stop()

        assert [set(each) for each in found] == [{one.name, two.name}] * 7
        assert {one.name, two.name} <= of_three <= {one.name, two.name, three.name}
        assert set(await one.backend.alive()) - {three.name} == {one.name}
        assert list(await one.backend.entries("t")) == [one.name]

    async def test_a_node_that_stops_is_gone_at_once(self, start: Start) -> None:
        """A stop takes back the entries and the lease; nobody waits for their end."""
        one, two = await start(), await start()
        for node in (one, two):
            await node.backend.beat(LONG)
            await node.backend.enter("t", {"ann": b"1"})

        await one.stop()

        assert list(await two.backend.entries("t")) == [two.name]
        assert list(await two.backend.beat(LONG)) == [two.name]

    async def test_a_node_that_dies_is_gone_soon(self, server: BackendServer, start: Start) -> None:
        """When a lease ends, the entries are gone; when the node was only slow, it is told."""
        one, two = await start(), await start()
        await two.backend.beat(LONG)
        await two.backend.enter("t", {"bob": b"1"})
        await one.backend.beat(server.shortest_ttl)
        await one.backend.enter("t", {"ann": b"1"})
        before = set(await two.backend.entries("t"))

        async def is_gone() -> bool | None:
            alive = set(await two.backend.beat(LONG))
            return True if alive == {two.name} else None

        await eventually(is_gone, server.patience)
        after = await two.backend.entries("t")
        await one.backend.beat(LONG)
        await one.until(lambda: any(isinstance(each, Lost) for each in one.events), "a Lost")
        await one.backend.enter("t", {"ann": b"2"})

        assert before == {one.name, two.name}
        assert after == {two.name: {"bob": b"1"}}
        assert await two.backend.entries("t") == {**after, one.name: {"ann": b"2"}}

    # Leases.

    async def test_a_lease_has_one_holder(self, start: Start) -> None:
        """Of many that want a lease at once, one gets it."""
        nodes = [await start() for _ in range(3)]
        tokens = await asyncio.gather(
            *(node.backend.acquire("l", LONG) for node in nodes for _ in range(5))
        )

        assert sum(token is not None for token in tokens) == 1

    async def test_a_lease_is_renewed_and_given_back(
        self, server: BackendServer, start: Start
    ) -> None:
        """Who renews keeps it beyond its first end; who gives it back frees it at once."""
        one, two = await start(), await start()
        token = await one.backend.acquire("l", server.shortest_ttl)
        assert token is not None
        assert await one.backend.acquire("watch", server.shortest_ttl)
        assert await one.backend.renew("l", token, LONG)
        await eventually(lambda: two.backend.acquire("watch", LONG), server.patience)
        while_held = await two.backend.acquire("l", LONG)
        await one.backend.release("l", token)
        later = await two.backend.acquire("l", LONG)

        assert while_held is None
        assert later is not None
        assert later > token

    async def test_a_lease_that_ended_is_lost(self, server: BackendServer, start: Start) -> None:
        """The next holder's token is larger, and the last one can neither renew nor release."""
        one, two = await start(), await start()
        first = await one.backend.acquire("l", server.shortest_ttl)
        assert first is not None
        second = await eventually(lambda: two.backend.acquire("l", LONG), server.patience)
        renewed = await one.backend.renew("l", first, LONG)
        await one.backend.release("l", first)

        assert second > first
        assert not renewed
        assert await two.backend.renew("l", second, LONG)
        assert await one.backend.acquire("l", LONG) is None

    async def test_a_lease_that_nobody_took_cannot_be_renewed(
        self, server: BackendServer, start: Start
    ) -> None:
        """Not one that never was, nor one that ended and that nobody took since."""
        one = await start()
        assert not await one.backend.renew("never", 1, LONG)
        await one.backend.release("never", 1)
        token = await one.backend.acquire("l", server.shortest_ttl)
        watch = await one.backend.acquire("watch", server.shortest_ttl)
        assert token is not None
        assert watch is not None
        await eventually(lambda: one.backend.acquire("watch", LONG), server.patience)

        assert not await one.backend.renew("l", token, LONG)

    async def test_leases_of_a_node_that_stops_are_free(self, start: Start) -> None:
        """Another process takes over at once where one was stopped."""
        one, two = await start(), await start()
        token = await one.backend.acquire("l", LONG)
        await one.stop()
        later = await two.backend.acquire("l", LONG)

        assert token is not None
        assert later is not None
        assert later > token

    async def test_lease_names_are_literal(self, start: Start) -> None:
        """Any text names a lease of its own."""
        one, two = await start(), await start()
        tokens = {name: await one.backend.acquire(name, LONG) for name in NAMES}

        assert None not in tokens.values()
        for name in NAMES:
            assert await two.backend.acquire(name, LONG) is None

    # History.

    async def test_settings_are_shared_and_stay(self, start: Start) -> None:
        """All nodes see what one has set, and so do those that come when it has gone."""
        one, two = await start(), await start()
        assert await one.backend.recall() == {}
        first = await one.backend.remember({"a": b"1", "b": b"\0\xff"})
        second = await two.backend.remember({"a": b"2", "c": b""})
        await one.stop()
        await two.stop()
        three = await start()

        assert (first, second) == ({}, {"a": b"1"})
        assert await three.backend.recall() == {"a": b"2", "b": b"\0\xff", "c": b""}
        assert await three.backend.remember({}) == {}

    async def test_settings_that_are_written_at_once_are_all_told(self, start: Start) -> None:
        """Each writer gets what another one has written right before it; nobody is missed."""
        one, two = await start(), await start()
        replaced = await asyncio.gather(
            *(node.backend.remember({"a": data}) for node, data in ((one, b"1"), (two, b"2")))
        )
        (left,) = (await one.backend.recall()).values()

        assert sorted(replaced, key=len) == [{}, {"a": b"2" if left == b"1" else b"1"}]

    async def test_names_of_settings_are_literal(self, start: Start) -> None:
        """Those are the application's prefixes of rooms, or made from them."""
        one, two = await start(), await start()
        settings = {name: name.encode() for name in (*NAMES, *DECOYS)}
        await one.backend.remember(settings)

        assert await two.backend.recall() == settings

    async def test_settings_of_another_namespace_are_others(
        self, start: Start, namespace: str
    ) -> None:
        """Two apps on one server set nothing for each other."""
        one, other = await start(), await start(f"{namespace}2")
        await one.backend.remember({"a": b"1"})

        assert await other.backend.recall() == {}

    async def test_a_history_begins_empty(self, start: Start) -> None:
        """It has a position before anything is kept, and from there on nothing is missed."""
        one, two = await start(), await start()
        blank = await one.backend.read("a", HistoryPosition(), ROOMY)
        again = await two.backend.read("a", blank.position, ROOMY)
        await two.backend.append("a", b"1", ROOMY)
        then = await one.backend.read("a", blank.position, ROOMY)

        assert blank.position.epoch
        assert (blank.entries, blank.complete) == ((), False)
        assert again == Past(blank.position, (), complete=True)
        assert ([each.data for each in then.entries], then.complete) == ([b"1"], True)

    async def test_who_comes_back_gets_what_it_missed(self, start: Start) -> None:
        """On any node, as often as it asks; with no position, all that is kept."""
        one, two = await start(), await start()
        places = [await one.backend.append("a", b"%d" % number, ROOMY) for number in range(5)]

        for node in (one, two, one):
            missed = await node.backend.read("a", places[1], ROOMY)
            assert [each.data for each in missed.entries] == [b"2", b"3", b"4"]
            assert [each.offset for each in missed.entries] == [each.offset for each in places[2:]]
            assert (missed.position, missed.complete) == (places[-1], True)
        everything = await two.backend.read("a", HistoryPosition(), ROOMY)
        assert [each.data for each in everything.entries] == [b"%d" % n for n in range(5)]
        assert not everything.complete

    async def test_a_position_of_elsewhere_is_told(self, start: Start) -> None:
        """One of another epoch, or of the future, gets all that is kept, and that it is not all."""
        one = await start()
        place = await one.backend.append("a", b"1", ROOMY)
        for strange in (
            HistoryPosition("another", place.offset),
            HistoryPosition(place.epoch, place.offset + 5),
            HistoryPosition(place.epoch, -1),
        ):
            past = await one.backend.read("a", strange, ROOMY)

            assert ([each.data for each in past.entries], past.complete) == ([b"1"], False)
            assert past.position == place

    async def test_what_is_kept_is_also_published(self, start: Start) -> None:
        """Who subscribes gets it with its position, in one order, the node that appends too."""
        one, two = await start(), await start()
        for node in (one, two):
            await node.backend.subscribe(["a"])
        places = [
            await node.backend.append("a", data, ROOMY)
            for data in (*HOSTILE, b"x" * 1_048_576)
            for node in (one, two)
        ]

        expected = [
            Received("a", data, place)
            for data, place in zip(
                [data for data in (*HOSTILE, b"x" * 1_048_576) for _ in "12"], places, strict=True
            )
        ]
        assert await one.hears(len(places)) == expected
        assert await two.hears(len(places)) == expected
        past = await two.backend.read("a", HistoryPosition(), ROOMY)
        assert [each.data for each in past.entries] == [each.data for each in expected]

    async def test_history_names_are_literal(self, start: Start) -> None:
        """Any text names a history of its own."""
        one, two = await start(), await start()
        for name in NAMES:
            await one.backend.append(name, name.encode(), ROOMY)

        for name in NAMES:
            past = await two.backend.read(name, HistoryPosition(), ROOMY)
            assert [each.data for each in past.entries] == [name.encode()]

    async def test_a_history_is_bounded_by_count(self, start: Start) -> None:
        """The oldest goes first, and whoever was not further than that is told."""
        one, two = await start(), await start()
        limits = HistoryLimits(count=3, bytes=1000, seconds=LONG)
        places = [await one.backend.append("a", b"%d" % number, limits) for number in range(8)]

        behind = await two.backend.read("a", places[3], limits)
        just = await two.backend.read("a", places[4], limits)
        assert ([each.data for each in behind.entries], behind.complete) == (
            [b"5", b"6", b"7"],
            False,
        )
        assert ([each.data for each in just.entries], just.complete) == ([b"5", b"6", b"7"], True)

    async def test_a_history_is_bounded_by_bytes(self, start: Start) -> None:
        """What is too large is not kept, though it is published, and its place is counted."""
        one = await start()
        await one.backend.subscribe(["a"])
        limits = HistoryLimits(count=100, bytes=100, seconds=LONG)
        for number in range(5):
            await one.backend.append("a", b"%d" % number * 40, limits)
        two_left = await one.backend.read("a", HistoryPosition(), limits)
        place = await one.backend.append("a", b"x" * 101, limits)
        past = await one.backend.read("a", two_left.position, limits)

        assert [each.data[:1] for each in two_left.entries] == [b"3", b"4"]
        assert past == Past(place, (), complete=False)
        assert (await one.hears(6))[-1] == Received("a", b"x" * 101, place)

    async def test_a_history_is_bounded_by_time(self, server: BackendServer, start: Start) -> None:
        """What is too old is not returned; a history that got nothing for so long is another."""
        one, two = await start(), await start()
        limits = HistoryLimits(count=100, bytes=1000, seconds=server.shortest_ttl)
        first = await one.backend.append("a", b"1", limits)
        second = first
        left = await two.backend.read("a", first, limits)

        async def is_over() -> Past | None:
            nonlocal second, left
            second = await one.backend.append("a", b"2", limits)
            left = await two.backend.read("a", HistoryPosition(), limits)
            return left if all(each.data != b"1" for each in left.entries) else None

        await eventually(is_over, server.patience)
        told = await two.backend.read("a", HistoryPosition(first.epoch, first.offset - 1), limits)

        async def is_another() -> Past | None:
            past = await two.backend.read("a", second, limits)
            return past if past.position.epoch != second.epoch else None

        another = await eventually(is_another, server.patience)
        assert second.epoch == first.epoch == left.position.epoch
        assert not told.complete
        assert (another.entries, another.complete) == ((), False)

    async def test_a_history_can_be_forgotten(self, start: Start) -> None:
        """No old position is valid afterwards; one that never was may be forgotten too."""
        one, two = await start(), await start()
        place = await one.backend.append("a", b"1", ROOMY)
        await two.backend.forget("a")
        await two.backend.forget("never")
        past = await one.backend.read("a", place, ROOMY)
        fresh = await one.backend.append("a", b"2", ROOMY)

        assert (past.entries, past.complete) == ((), False)
        assert fresh.epoch != place.epoch
        assert past.position.epoch != place.epoch

    async def test_there_is_no_gap_and_no_duplicate_at_the_boundary(self, start: Start) -> None:
        """Who subscribes and then reads has everything, however many append in the meantime."""
        nodes, total = [await start() for _ in range(3)], 120
        origin = (await nodes[0].backend.read("a", HistoryPosition(), ROOMY)).position
        late: list[tuple[Node, Past]] = []
        halfway = asyncio.Event()

        async def append(node: Node) -> None:
            for number in range(total):
                await node.backend.append("a", b"%d" % number, ROOMY)
                if number == total // 3:
                    halfway.set()

        async def come_late() -> None:
            await halfway.wait()
            for _ in range(5):
                node = await start()
                await node.backend.subscribe(["a"])
                late.append((node, await node.backend.read("a", origin, ROOMY)))

        await asyncio.gather(*map(append, nodes), come_late())
        everything = await nodes[0].backend.read("a", origin, ROOMY)
        offsets = [each.offset for each in everything.entries]

        assert len(offsets) == total * 3
        assert offsets == sorted(set(offsets))
        for node, past in late:
            assert past.complete
            await node.until(
                lambda node=node, past=past: (  # type: ignore[misc]  # the loop's own
                    max(
                        [past.position.offset]
                        + [each.position.offset for each in node.received if each.position]
                    )
                    == offsets[-1]
                ),
                "the last one",
            )
            heard = [each.position.offset for each in node.received if each.position]
            assert heard == sorted(set(heard))
            live = [offset for offset in heard if offset > past.position.offset]
            assert [each.offset for each in past.entries] + live == offsets

    async def test_all_nodes_see_one_order(self, start: Start) -> None:
        """Whatever is appended where, it arrives everywhere in the order of its positions."""
        nodes = [await start() for _ in range(3)]
        for node in nodes:
            await node.backend.subscribe(["a"])
        await asyncio.gather(
            *(
                node.backend.append("a", f"{node.name}{number}".encode(), ROOMY)
                for number in range(40)
                for node in nodes
            )
        )

        heard = [await node.hears(120) for node in nodes]
        assert heard[0] == heard[1] == heard[2]
        offsets = [each.position.offset for each in heard[0] if each.position]
        assert offsets == sorted(set(offsets))
        assert len(offsets) == 120


class OutageConformance(_Conformance):
    """What every backend does when its server goes away, and comes back."""

    @pytest.fixture
    def server(self) -> StoppableServer:
        """Say where the backends meet: override this."""
        raise NotImplementedError("define a fixture named server that returns a StoppableServer")

    @pytest_asyncio.fixture(autouse=True)
    async def mended(self, server: StoppableServer) -> AsyncIterator[None]:
        """Have the server there again for the next test."""
        yield
        await server.restore()

    @pytest.mark.timeout(120)
    @pytest.mark.parametrize("how", ["gone", "hung"])
    async def test_it_comes_back_by_itself(
        self, server: StoppableServer, start: Start, how: Outage
    ) -> None:
        """All that is wanted by then is live as soon as the state is up, after a Lost."""
        one, two = await start(), await start()
        await one.backend.subscribe(["kept", "left"])
        before = len(one.events)
        await server.interrupt(how)
        await asyncio.gather(one.is_now("degraded"), two.is_now("degraded"))
        await in_time(one.backend.subscribe(["new"]), 5)
        await in_time(one.backend.unsubscribe(["left"]), 5)
        await server.restore()
        await asyncio.gather(one.is_now("up", before), two.is_now("up", 1))
        await two.backend.publish([("left", b"no"), ("kept", b"1"), ("new", b"2"), ("kept", b"3")])

        assert [each.data for each in await one.hears(3)] == [b"1", b"2", b"3"]
        kinds = [
            each.state if isinstance(each, StateChanged) else type(each).__name__
            for each in one.events[before:]
            if not isinstance(each, Received)
        ]
        assert kinds[0] == "degraded"
        assert kinds[-2:] == ["Lost", "up"]
        assert one.backend.state == "up"

    @pytest.mark.timeout(120)
    @pytest.mark.parametrize("how", ["gone", "hung"])
    async def test_what_cannot_be_done_is_told_in_time(
        self, server: StoppableServer, start: Start, how: Outage
    ) -> None:
        """Every call that needs the server raises BackendError within a few seconds."""
        one = await start()
        await one.backend.beat(LONG)
        await server.interrupt(how)
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: one.backend.publish([("a", b"1")]),
            lambda: one.backend.enter("t", {"ann": b""}),
            lambda: one.backend.leave("t", ["ann"]),
            lambda: one.backend.entries("t"),
            lambda: one.backend.beat(LONG),
            one.backend.alive,
            lambda: one.backend.acquire("l", LONG),
            lambda: one.backend.renew("l", 1, LONG),
            lambda: one.backend.release("l", 1),
            lambda: one.backend.append("a", b"", ROOMY),
            lambda: one.backend.read("a", HistoryPosition(), ROOMY),
            lambda: one.backend.forget("a"),
        ]
        outcomes = await in_time(
            asyncio.gather(*(call() for call in calls), return_exceptions=True), 15
        )
        await one.is_now("degraded")
        later = await in_time(
            asyncio.gather(*(call() for call in calls), return_exceptions=True), 15
        )

        assert [type(outcome) for outcome in outcomes] == [BackendError] * len(calls)
        assert [type(outcome) for outcome in later] == [BackendError] * len(calls)
        await in_time(one.backend.subscribe(["a"]), 5)

    @pytest.mark.timeout(120)
    async def test_it_starts_before_its_server(self, server: StoppableServer, start: Start) -> None:
        """Without a server it starts degraded, goes on trying, and all is live when it is up."""
        await server.interrupt("gone")
        one, two = await start(), await start()
        at_first = one.backend.state
        await one.is_now("degraded")
        await in_time(one.backend.subscribe(["a"]), 5)
        await server.restore()
        await asyncio.gather(one.is_now("up"), two.is_now("up"))
        await two.backend.publish([("a", b"1")])

        assert await one.hears(1) == [Received("a", b"1")]
        assert at_first == "degraded"
        assert one.states == ["degraded", "up"]

    @pytest.mark.timeout(120)
    @pytest.mark.parametrize("how", ["gone", "hung"])
    async def test_it_stops_without_its_server(
        self, server: StoppableServer, namespace: str, how: Outage
    ) -> None:
        """A stop is bounded in time, and nothing runs on after it."""
        before = asyncio.all_tasks()
        node = Node(server.backend(namespace), server.patience)
        await node.start()
        await node.backend.beat(LONG)
        await node.backend.subscribe(["a"])
        await server.interrupt(how)
        await node.stop()
        await node.backend.stop()

        assert node.backend.state == "down"
        assert asyncio.all_tasks() <= before

    @pytest.mark.timeout(180)
    async def test_many_outages_are_survived(self, server: StoppableServer, start: Start) -> None:
        """Once more is like the first time, and states come in turn."""
        one, two = await start(), await start()
        await one.backend.subscribe(["a"])
        for _ in range(3):
            before = len(one.events), len(two.events)
            await server.interrupt("gone")
            await asyncio.gather(one.is_now("degraded", before[0]), two.is_now("degraded"))
            await server.restore()
            await asyncio.gather(one.is_now("up", before[0]), two.is_now("up", before[1]))
        await two.backend.publish([("a", b"1")])

        assert await one.hears(1) == [Received("a", b"1")]
        assert one.states == ["up", *["degraded", "up"] * 3]

    @pytest.mark.timeout(120)
    async def test_tokens_grow_even_if_the_server_forgot(
        self, server: StoppableServer, start: Start
    ) -> None:
        """A holder from before is behind every holder from after, whatever the server kept."""
        one = await start()
        first = await one.backend.acquire("l", server.shortest_ttl)
        await server.interrupt("gone")
        await one.is_now("degraded")
        await server.restore()
        await one.is_now("up", 2)
        second = await eventually(lambda: one.backend.acquire("l", LONG), server.patience)

        assert first is not None
        assert second > first
