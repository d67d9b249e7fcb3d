"""Sending clients away: in batches, told when to come back, and not in the middle of their work."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import Connection, WebSocketConnectionManager
from falcon_pachinko.rooms.drain import (
    BATCH_PAUSE,
    CONNECTIONS_PER_BATCH,
    drain,
    fit_batch,
    retry_reason,
)


def retry_in(reason):
    """Read the seconds as the reference of close codes says that a client may."""
    return float(re.search(r"retry in ([0-9.]+) s", reason)[1])


class Life:
    """What a drain knows of a session: whether it is busy, and its task."""

    def __init__(self, *, busy):
        self.is_busy = busy
        self.held = False
        self.task = None

    def owns(self, task):
        return task is not None and task is self.task

    def hold(self):
        self.held = True


class Client:
    """A connection, and the events that were sent to it."""

    def __init__(self, *, busy=False):
        self.sent = []
        self.closed = asyncio.Event()
        self.connection = Connection(
            "ann", self._send, WebSocketConnectionManager(), direct=True, is_open=True
        )
        self.life = self.connection._session = Life(busy=busy)

    async def _send(self, event):
        self.sent.append(event)
        self.closed.set()

    @property
    def reason(self):
        return self.sent[-1]["reason"]


async def drained(clients, seconds):
    return await drain([client.connection for client in clients], seconds)


@given(st.integers(1, 3_000), st.data())
def test_later_batches_come_back_later_and_within_half_a_minute(batches, data):
    """Each is told some seconds from 1 to 30, never fewer than the batch before."""
    batch = data.draw(st.integers(0, batches - 1))
    seconds = retry_in(retry_reason(batch, batches))

    assert 1 <= seconds <= 30
    assert batch == 0 or retry_in(retry_reason(batch - 1, batches)) <= seconds


@given(st.integers(0, 200_000), st.floats(0.01, 86_400))
def test_all_batches_have_their_turn_in_half_the_time(connections, seconds):
    """However many there are, and however short that is."""
    size = fit_batch(connections, seconds)
    batches = -(-connections // size)

    assert size >= CONNECTIONS_PER_BATCH
    assert max(batches - 1, 0) * BATCH_PAUSE <= seconds / 2 + BATCH_PAUSE


async def test_idle_clients_are_closed_with_1012():
    """They are told when to come back, and how many they were is returned."""
    clients = [Client() for _ in range(3)]

    gone = await drained(clients, 5)

    assert gone == (3, 0)
    assert [client.sent[-1]["code"] for client in clients] == [1012] * 3


async def test_each_batch_is_told_another_time():
    """So that they do not all come back at once."""
    clients = [Client() for _ in range(CONNECTIONS_PER_BATCH * 2 + 1)]

    await drained(clients, 60)

    told = [retry_in(client.reason) for client in clients]
    assert told == [1.0] * CONNECTIONS_PER_BATCH + [1.25] * CONNECTIONS_PER_BATCH + [1.5]


async def test_a_batch_waits_for_its_turn():
    """When the first is closed, the second is not: it is served as ever."""
    first, second = Client(), Client()
    clients = [first, *(Client() for _ in range(CONNECTIONS_PER_BATCH - 1)), second]
    draining = asyncio.create_task(drained(clients, 60))

    await asyncio.wait_for(first.closed.wait(), 30)
    was_open = not second.sent

    await draining
    assert (was_open, bool(second.sent)) == (True, True)


async def test_a_busy_client_is_closed_when_it_is_done():
    """Not before; and it gets no more messages from its turn on."""
    client = Client(busy=True)
    draining = asyncio.create_task(drained([client, other := Client()], 60))
    await asyncio.wait_for(other.closed.wait(), 30)
    while_busy = (client.sent == [], client.life.held, other.life.held)

    client.life.is_busy = False

    assert await asyncio.wait_for(draining, 30) == (2, 0)
    assert while_busy == (True, True, False)


async def test_one_that_is_not_served_by_us_is_closed_at_once():
    """An adopted WebSocket has no session that could be busy, or waited for."""
    client = Client()
    client.connection._session = None

    assert await drained([client], 60) == (1, 0)
    assert client.sent[-1]["code"] == 1012


async def test_one_that_leaves_while_it_is_busy_is_not_waited_for():
    """It is gone, and its code is its own."""
    client = Client(busy=True)
    draining = asyncio.create_task(drained([client, other := Client()], 60))
    await asyncio.wait_for(other.closed.wait(), 30)

    client.connection._outbox.close(4000, "left")

    assert await asyncio.wait_for(draining, 30) == (2, 0)
    assert [event["code"] for event in client.sent] == [4000]


async def test_a_drain_is_patient_with_handlers():
    """They may finish: nothing is cancelled by the close."""
    told = []

    class Watch:
        def closing(self, *, patient):
            told.append(patient)

        def closed(self):
            told.append("closed")

    client = Client()
    client.connection._outbox.watcher = Watch()

    await drained([client], 60)

    assert told == [True, "closed"]


async def test_who_is_busy_at_the_end_is_cut():
    """It is closed all the same, and counted."""
    client = Client(busy=True)

    assert await drained([client, Client()], 0.05) == (2, 1)
    assert client.sent[-1]["code"] == 1012


async def test_no_time_closes_everybody_at_once():
    """Busy or not; they are still told different times."""
    clients = [Client(busy=number % 2) for number in range(CONNECTIONS_PER_BATCH + 1)]

    gone = await drained(clients, 0)

    assert gone == (CONNECTIONS_PER_BATCH + 1, 0)
    assert {retry_in(client.reason) for client in clients} == {1.0, 1.25}


async def test_the_end_of_a_session_is_waited_for():
    """The drain is over when the sessions are."""
    client, over = Client(), asyncio.Event()
    client.life.task = asyncio.create_task(over.wait())
    draining = asyncio.create_task(drained([client], 60))
    await asyncio.wait_for(client.closed.wait(), 30)
    early = draining.done()

    over.set()

    await asyncio.wait_for(draining, 30)
    assert not early


async def test_a_session_that_does_not_end_is_not_waited_for_longer():
    """The time is the time."""
    client = Client()
    client.life.task = asyncio.create_task(asyncio.Event().wait())

    assert await asyncio.wait_for(drained([client], 0.05), 30) == (1, 0)
    client.life.task.cancel()


async def test_a_handler_may_drain():
    """Whoever calls it from its own session does not wait for itself."""
    client = Client(busy=True)
    client.life.task = asyncio.current_task()

    async with asyncio.timeout(30):  # in this very task
        assert await drained([client], 60) == (1, 0)


async def test_one_that_has_left_is_nobody():
    """A closed connection is neither closed nor counted."""
    client = Client()
    client.connection._outbox.close(4000, "left")

    assert await drained([client], 5) == (0, 0)
    assert client.reason == "left"


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
async def test_a_time_that_is_none_is_refused(seconds):
    """And nobody is closed."""
    client = Client()

    with pytest.raises(ValueError, match="give the seconds it may take"):
        await drained([client], seconds)

    assert client.sent == []
