"""Leaving a client while the app is busy with it: on time, and with the reason."""

import asyncio
import time

import pytest

from falcon_pachinko import Limits, WebSocketResource, handles_message
from falcon_pachinko.testing import Disconnected, LifespanError, NothingReceivedError, simulate


class Busy(WebSocketResource):
    """Has handlers that wait for what never comes, and one that takes a moment."""

    done = 0

    @handles_message("wait")
    async def wait(self, ws):
        await asyncio.Event().wait()

    @handles_message("wait beside", concurrent=True)
    async def wait_beside(self, ws):
        await asyncio.Event().wait()

    @handles_message("moment")
    async def moment(self, ws):
        await asyncio.sleep(0.1)
        type(self).done += 1


class Clings(WebSocketResource):
    async def on_disconnect(self, ws, close_code):
        await asyncio.Event().wait()


class Ponders(WebSocketResource):
    """Never answers a handshake."""

    ended = ""

    async def on_connect(self, req, ws):
        try:
            await asyncio.Event().wait()
        finally:
            type(self).ended = "ended"


async def test_a_handler_that_runs_on_fails_the_test_with_the_setting(serve):
    """By its name and value, and earlier than the app would end it."""
    began = time.monotonic()
    async with simulate(serve(Busy, limits=Limits(handler_grace=30))) as client:
        with pytest.raises(NothingReceivedError) as told:
            async with client.connect("/") as ann:
                await ann.send_json({"type": "wait"})

    assert "Busy still runs" in str(told.value)
    assert "handler_grace=30 s" in str(told.value)
    assert "limits=Limits(handler_grace=0.1)" in str(told.value)
    assert time.monotonic() - began < 30


async def test_a_clean_up_that_runs_on_is_told_too(serve):
    """With its own setting."""
    app = serve(Clings, limits=Limits(shutdown_timeout=3))
    async with simulate(app, timeout=0.2) as client:
        with pytest.raises(NothingReceivedError, match="on_disconnect for shutdown_timeout=3 s"):
            async with client.connect("/"):
                pass


@pytest.mark.parametrize("message", ["wait", "wait beside"])
async def test_a_handler_that_the_app_ends_in_time_fails_nothing(serve, message):
    """As the text advises."""
    app = serve(Busy, limits=Limits(handler_grace=0.01))
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send_json({"type": message})


async def test_a_handler_that_takes_a_moment_is_waited_for(serve):
    """What it does is done when the client has left."""
    before = Busy.done
    async with simulate(serve(Busy)) as client:
        async with client.connect("/") as ann:
            await ann.send_json({"type": "moment"})

        assert Busy.done == before + 1


async def test_a_failing_test_fails_with_its_own_error_all_the_same(serve):
    """The busy handler is not what it is about."""
    async with simulate(serve(Busy), timeout=0.2) as client:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  # raised by the block's last line
            async with client.connect("/") as ann:
                await ann.send_json({"type": "wait"})
                raise ZeroDivisionError


# Giving up on a handshake.


@pytest.mark.parametrize("grace", [5.0, 60.0])
async def test_a_timeout_around_connect_is_on_time(serve, grace):
    """Whatever the app's own patience is."""
    app = serve(Ponders, limits=Limits(handler_grace=grace))
    async with simulate(app) as client:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), client.connect("/"):
                pass
        seconds = time.monotonic() - began

        assert seconds < grace / 2
        assert await client.manager.count() == 0


async def test_a_task_that_connects_can_be_cancelled(serve):
    """A task group whose other task failed does not wait for the app."""
    async with simulate(serve(Ponders)) as client:
        connecting = asyncio.create_task(client.connect("/").__aenter__())
        await asyncio.sleep(0)
        connecting.cancel()
        async with asyncio.timeout(4):
            await asyncio.wait([connecting])

    assert connecting.cancelled()
    assert Ponders.ended == "ended"


# Critical workers.


async def crash(manager):
    raise ZeroDivisionError("no tea")


async def test_a_critical_worker_that_crashes_fails_the_test(serve):
    """With its traceback; the process of the tests lives on."""
    app = serve(Busy)
    app.add_websocket_worker(crash, critical=True)
    with pytest.raises(LifespanError, match="'crash' is critical and has crashed") as told:
        async with simulate(app):
            pass

    assert isinstance(told.value.__cause__, ZeroDivisionError)


async def test_clients_see_what_a_critical_crash_ends_in(serve):
    """1012, as when a server stops; the test's own error has a note that says why."""
    go = asyncio.Event()

    async def vital(manager):
        await go.wait()
        raise ZeroDivisionError("no tea")

    app = serve(Busy)
    app.add_websocket_worker(vital, critical=True)
    with pytest.raises(Disconnected) as told:  # noqa: PT012  # raised by the block's last line
        async with simulate(app) as client, client.connect("/") as ann:
            go.set()
            await ann.receive()

    assert told.value.code == 1012
    assert told.value.__notes__ == [
        (
            "the worker 'vital' is critical and has crashed: a server stops then; it raised "
            "ZeroDivisionError('no tea')"
        )
    ]


async def test_an_app_within_middleware_is_watched_too(serve):
    """ASGI middleware has the app it wraps as its ``app``."""

    class Wrapped:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(scope, receive, send)

    app = serve(Busy)
    app.add_websocket_worker(crash, critical=True)
    with pytest.raises(LifespanError, match="is critical"):
        async with simulate(Wrapped(Wrapped(app))) as client:
            assert client.manager is app.ws_connection_manager


async def test_a_worker_that_is_not_critical_fails_nothing(serve):
    """Its crash is in the log."""
    app = serve(Busy)
    app.add_websocket_worker(crash, restart="never")
    async with simulate(app) as client:
        await client.run(asyncio.sleep(0))


async def test_after_the_test_a_critical_crash_ends_the_process_again(serve):
    """The app is as it was."""
    app = serve(Busy)
    controller = app._pachinko.controller
    before = controller.on_critical
    async with simulate(app):
        assert controller.on_critical is not before

    assert controller.on_critical is before
