"""Singleton workers: one process runs it, another takes over, and a paused one cannot act."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import falcon.asgi
import pytest
from faulty_backend import FaultyBackend

from falcon_pachinko import BackendError, LeaseLostError, current_lease, install, worker
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.testing import simulate

TTL = 0.6


def node(hub, work, **options):
    app = falcon.asgi.App()
    install(app, backend=MemoryBackend(hub, TTL) if hub else None)
    app.add_websocket_worker(work, name="tick", singleton=True, **options)
    return app


class Turns:
    """What workers did, and when: a worker that writes down who began."""

    def __init__(self):
        self.began = asyncio.Queue()
        self.tokens = []

    async def __call__(self, manager):
        lease = current_lease()
        self.tokens.append(lease and lease.token)
        await self.began.put(manager)
        await asyncio.Event().wait()


async def test_one_process_runs_it_and_another_follows():
    """When the one that runs it stops, another begins, with a larger token."""
    hub, turns = MemoryHub(), Turns()
    apps = [node(hub, turns), node(hub, turns)]
    async with contextlib.AsyncExitStack() as second:
        async with simulate(apps[0]):
            first = await turns.began.get()
            await second.enter_async_context(simulate(apps[1]))
            workers = apps[1].ws_connection_manager.status()["workers"]
            assert first is apps[0].ws_connection_manager
            assert workers["tick"]["state"] in {"waiting", "standby"}
        follower = await asyncio.wait_for(turns.began.get(), 30)

    assert follower is apps[1].ws_connection_manager
    assert turns.tokens == sorted(set(turns.tokens))


async def test_a_holder_that_dies_is_followed_within_the_ttl():
    """Its lease ends by itself."""
    hub, turns = MemoryHub(), Turns()
    apps = [node(hub, turns), node(hub, turns)]
    async with simulate(apps[0]), simulate(apps[1]):
        first = await turns.began.get()
        hub.leases["tick"] = hub.leases["tick"][0], 0.0  # as if nobody had renewed it

        follower = await asyncio.wait_for(turns.began.get(), 30)

    assert {first, follower} <= {app.ws_connection_manager for app in apps}


async def test_a_paused_holder_cannot_act():
    """What it sends after its lease may have ended is refused, cancelled or not."""
    hub, refused = MemoryHub(), asyncio.get_running_loop().create_future()

    async def stubborn(manager):
        lease = current_lease()
        lease.until = 0.0  # as after a long pause of the whole process
        try:
            await manager.broadcast_to_all({"type": "tick"})
        except LeaseLostError as error:
            if not refused.done():
                refused.set_result(error)
            raise

    async with simulate(node(hub, stubborn)):
        error = await asyncio.wait_for(refused, 30)

    assert error.worker == "tick"


async def test_without_a_backend_it_just_runs():
    """One process is the whole cluster: no lease is needed."""
    turns = Turns()
    async with simulate(node(None, turns)):
        await asyncio.wait_for(turns.began.get(), 30)

    assert turns.tokens == [None]


async def test_one_that_returns_is_done_and_gives_its_lease_back(until):
    """It counts as done here; the others may run it in their turn."""
    hub = MemoryHub()

    async def once(manager):
        return None

    app = node(hub, once)
    async with simulate(app):
        status = app.ws_connection_manager.status
        await until(lambda: status()["workers"]["tick"]["state"] == "done")

    assert "tick" not in hub.leases


async def test_a_crash_is_logged_and_it_starts_again(caplog, until):
    """Like any worker's; under a new lease."""
    hub, turns = MemoryHub(), []

    async def crash(manager):
        turns.append(current_lease().token)
        if len(turns) == 1:
            raise ValueError("boom")
        await asyncio.Event().wait()

    app = node(hub, crash, backoff=(0.01, 0.01))
    async with simulate(app):
        await until(lambda: len(turns) == 2)

    assert turns[1] > turns[0]
    assert "worker tick crashed" in caplog.text


@pytest.mark.parametrize("decorated", [True, False])
async def test_a_worker_says_itself_that_it_is_one(decorated):
    """In the decorator or at the registration."""

    async def tick(manager):
        return None

    app = falcon.asgi.App()
    install(app, backend=MemoryBackend(MemoryHub(), TTL))
    marked = worker(singleton=True)(tick) if decorated else tick
    added = app.add_websocket_worker(marked, **({} if decorated else {"singleton": True}))

    assert added._backend is app.ws_connection_manager._cluster.backend


@pytest.mark.parametrize("call", ["acquire", "renew", "release"])
async def test_a_backend_that_fails_ends_no_supervision(call, caplog):
    """Whatever it raises: the worker waits for its turn, or runs until its lease ends."""
    backend, turns = FaultyBackend(MemoryHub(), 0.06), Turns()
    app = falcon.asgi.App()
    install(app, backend=backend)
    app.add_websocket_worker(turns, name="tick", singleton=True)
    backend.failing = {call: OSError("a mistake")}
    async with simulate(app):
        async with asyncio.timeout(30):
            if call == "acquire":
                while backend.calls.count(call) < 3:  # noqa: ASYNC110  # anything may call it
                    await asyncio.sleep(0)
                state = app.ws_connection_manager.status()["workers"]["tick"]["state"]
                assert state == "standby"
                backend.failing = {}
            await turns.began.get()
            if call == "renew":
                await turns.began.get()

    assert turns.tokens == sorted(set(turns.tokens))
    assert "crashed" not in caplog.text


async def test_until_it_has_the_lease_a_process_stands_by():
    """Also while the backend has not answered yet: it does not run anything."""
    backend, turns = FaultyBackend(MemoryHub(), TTL), Turns()
    app = falcon.asgi.App()
    install(app, backend=backend)
    app.add_websocket_worker(turns, name="tick", singleton=True)
    gate = backend.stall("acquire")
    async with simulate(app):
        async with asyncio.timeout(30):
            while "acquire" not in backend.calls:  # noqa: ASYNC110  # anything may call it
                await asyncio.sleep(0)
        state = app.ws_connection_manager.status()["workers"]["tick"]["state"]
        gate.set()
        await asyncio.wait_for(turns.began.get(), 30)

    assert state == "standby"


async def test_a_worker_that_stands_by_says_why(caplog):
    """Once for each reason: another process runs it, or the backend gives no leases."""
    caplog.set_level(logging.INFO, "falcon_pachinko.workers")
    hub, turns = MemoryHub(), Turns()
    backend = FaultyBackend(hub, 0.05)
    app = falcon.asgi.App()
    install(app, backend=backend)
    app.add_websocket_worker(turns, name="tick", singleton=True)

    async def said(words):
        async with asyncio.timeout(30):
            while words not in caplog.text:  # noqa: ASYNC110  # another task does it
                await asyncio.sleep(0.01)

    async with simulate(node(hub, turns)), simulate(app):
        await said("worker tick stands by: another process runs it")
        backend.failing = {"acquire": BackendError("memory", "no permission")}
        await said("worker tick stands by: no permission")
        await asyncio.sleep(0.1)  # some more tries

    told = [each.getMessage() for each in caplog.records if "stands by" in each.getMessage()]
    assert told == [
        "worker tick stands by: another process runs it",
        "worker tick stands by: no permission",
    ]
