"""A drain of a whole app: what clients and handlers see of it."""

import asyncio

import pytest

from falcon_pachinko import WebSocketResource, handles_message
from falcon_pachinko.testing import HandshakeDenied, simulate


class Guest(WebSocketResource):
    """Works until it is let go."""

    go = None

    @handles_message("work")
    async def work(self, ws, payload: int):
        await ws.send_media({"type": "working"})
        await self.go.wait()
        return payload


@pytest.fixture
async def guests(serve):
    """Give the class of an app's resource, with an event of its own, and the app."""

    class Mine(Guest):
        go = asyncio.Event()

    return Mine, serve(Mine)


async def test_nobody_new_is_accepted(guests):
    """Handshakes are denied with 503, and the status says why."""
    _, app = guests
    async with simulate(app) as client:
        await client.manager.drain(1)
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect("/"):
                pass

        assert denied.value.status == 503
        assert client.manager.status()["state"] == "draining"


async def test_a_handler_that_runs_answers_first(guests, closing, until):
    """The reply comes before the close; what was sent behind it is not handled."""
    resource, app = guests
    async with simulate(app) as client, client.connect("/") as ann, client.connect("/") as bob:
        await ann.send_json({"type": "work", "payload": 1, "ref": 1})
        await ann.send_json({"type": "work", "payload": 2, "ref": 2})
        assert await ann.receive_json() == {"type": "working"}
        draining = asyncio.create_task(client.manager.drain(60))
        left_first = await closing(bob)
        resource.go.set()

        assert await ann.receive_json() == {"type": "reply", "ref": 1, "payload": 1}
        assert (await closing(ann), left_first) == (1012, 1012)
        assert await draining == (2, 0)


async def test_messages_that_were_read_ahead_are_not_handled(guests, closing, until):
    """Not even those that wait in the inbox, behind a handler that is busy for long."""
    resource, app = guests
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send_json({"type": "work", "payload": 1, "ref": 1})
        await ann.receive_json()
        (connection,) = client.manager._registry.all()
        inbox = connection._session._inbox
        inbox.read_ahead()
        for number in (2, 3):
            await ann.send_json({"type": "work", "payload": number, "ref": number})
        await until(lambda: len(inbox._frames or ()) == 2)
        draining = asyncio.create_task(client.manager.drain(60))
        await until(lambda: not inbox._frames)
        resource.go.set()

        assert (await ann.receive_json())["ref"] == 1
        assert await closing(ann) == 1012
        assert await draining == (1, 0)


async def test_a_client_that_goes_meanwhile_is_not_waited_for(guests):
    """Its end is heard though its messages are not."""
    resource, app = guests
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send_json({"type": "work", "payload": 1})
        await ann.receive_json()
        draining = asyncio.create_task(client.manager.drain(60))
        await asyncio.sleep(0)
        await ann.drop()
        resource.go.set()

        assert await asyncio.wait_for(draining, 30) == (1, 0)


async def test_a_connection_that_is_just_being_made_is_drained_too(serve, closing):
    """Its `on_connect` may finish; then it is told to come back."""
    entered, go = asyncio.Event(), asyncio.Event()

    class Slow(WebSocketResource):
        async def on_connect(self, req, ws):
            entered.set()
            await go.wait()
            return True

    async with simulate(serve(Slow)) as client:

        async def come():
            async with client.connect("/") as ann:
                return await closing(ann)

        coming = asyncio.create_task(come())
        await entered.wait()
        draining = asyncio.create_task(client.manager.drain(60))
        await asyncio.sleep(0)
        go.set()

        assert await coming == 1012
        assert await draining == (1, 0)


async def test_goodbyes_are_said_by_its_end(serve):
    """Every `on_disconnect` has run when the drain returns."""
    ended = []

    class Polite(WebSocketResource):
        async def on_disconnect(self, ws, close_code):
            await asyncio.sleep(0)
            ended.append(close_code)

    async with simulate(serve(Polite)) as client, client.connect("/"), client.connect("/"):
        await client.manager.drain(10)

        assert ended == [1012, 1012]


async def test_an_app_that_is_drained_shuts_down_as_ever(guests, closing):
    """The shutdown after it finds nobody, and fails over nothing."""
    _, app = guests
    async with simulate(app) as client, client.connect("/") as ann:
        await client.manager.drain(10)
        await client.stop()

        assert await closing(ann) == 1012
