"""Publishing from elsewhere, and operating the server: what the pages say, with real ones."""

import asyncio
import os
import re
import subprocess
import sys

import falcon.asgi
import msgspec
import pytest
from redis_server import RedisServer

from falcon_pachinko import (
    BackendError,
    HistoryLimits,
    HistoryPosition,
    Publisher,
    WebSocketResource,
    install,
)
from falcon_pachinko.backends.redis import RedisBackend
from falcon_pachinko.testing import simulate

OPERATE = "docs/how-to/operate-a-backend.md"
DEADLINE = 40


class Guest(WebSocketResource):
    """A member of the staff, with a room of their own."""

    async def on_connect(self, req, ws):
        ws.user_id = "ann"
        await ws.add_tag("staff")
        await self.join_room("chat:order-17", since=HistoryPosition.of(req))
        return True


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as server:
        yield server


@pytest.fixture
async def ann(redis):
    """Connect to an app on that server, on which nothing is left of another test."""
    redis.ask("FLUSHALL")
    app = falcon.asgi.App()
    install(app, backend=redis.url)
    app.ws_connection_manager.configure_rooms("chat:", history=HistoryLimits())
    app.add_websocket_route("/", Guest)
    async with simulate(app) as client, client.connect("/") as ws:
        await ws.expect("history.state")
        yield ws


@pytest.mark.parametrize(
    ("script", "expected"),
    [("cron.py", "report.ready"), ("shell.py", "notice")],
)
async def test_a_script_reaches_the_clients(redis, ann, examples, root, script, expected):
    """As cron or a shell runs it."""
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(examples / "how_to/publish" / script)],
        env={**os.environ, "BACKEND": redis.url},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")
    await ann.expect(expected)


async def test_a_task_reaches_its_user_and_may_be_done_again(redis, ann, load, monkeypatch):
    """The module's publisher connects at its first use; the key makes the retry safe."""
    monkeypatch.setenv("BACKEND", redis.url)
    tasks = load("how_to/publish/tasks.py")
    assert tasks.publish._loop is None
    await asyncio.to_thread(tasks.tell_shipped, 17, "ann")
    for _ in "12":
        await asyncio.to_thread(tasks.note_payment, 17)
    await asyncio.to_thread(tasks.tell_shipped, 18, "ann")
    heard = [await ann.receive_json() for _ in "123"]
    await asyncio.to_thread(tasks.publish.close)

    assert [each["type"] for each in heard] == ["order.shipped", "order.paid", "order.shipped"]


# Operating a server.


def documented_rights(pages):
    (block,) = (each for each in pages[OPERATE].blocks if each.marker == "acl")
    return block.text.split()


def test_the_rights_are_those_that_the_backend_is_tested_with(pages, root):
    """The list of the page is that of the tests on a real server, in no other order."""
    source = (root / "tests/conformance/test_redis_servers.py").read_text("utf-8")
    needed = re.search(r'^NEEDED = """(.*?)"""', source, re.DOTALL | re.MULTILINE)[1].split()
    granted = [word[1:] for word in documented_rights(pages) if word.startswith("+")]

    assert sorted(granted) == sorted(needed)


async def test_the_command_of_the_page_makes_a_user_who_can_do_it_all(pages):
    """An app and a publisher work with it, and nothing is explained."""
    command = [word.replace("PASSWORD", "x") for word in documented_rights(pages)]
    with RedisServer() as redis:
        redis.ask(*command)
        url = redis.url.replace("redis://", "redis://chat:x@")
        app = falcon.asgi.App()
        install(app, backend=f"{url}?required=true")
        app.ws_connection_manager.configure_rooms("chat:", history=HistoryLimits())
        async with simulate(app), Publisher(f"{url}?required=true") as publish:
            await publish.broadcast_to_room("chat:tea", {"type": "x"}, idempotency_key="k")

            assert publish.backend.why is None
            assert app.ws_connection_manager.status()["backend"]["why"] is None
            assert len(await app.ws_connection_manager.history("chat:tea")) == 1


async def test_things_take_no_more_memory_than_the_page_says(pages):
    """Measured on a real server, by its own account."""
    with RedisServer() as redis:
        backend = RedisBackend(redis.url)
        await backend.start("0123456789ab")

        def used():
            return redis.ask("INFO", "memory")["used_memory"]

        async def cost(work, count):
            before = used()
            await work
            return (used() - before) / count

        async def histories():
            for number in range(500):
                await backend.read(f"room:{number}", HistoryPosition(), HistoryLimits())

        async def alone():
            for number in range(500):
                await backend.enter(f"room{number}", {f"~{number:036d}": b""})

        async def keys():
            for number in range(500):
                await backend.append("room:a", b"x", HistoryLimits(), f"={number}")

        for number in range(100):
            await backend.append("room:b", b"%100d" % number, HistoryLimits())
        message = redis.ask("MEMORY", "USAGE", "pachinko:k:room:b") / 100 - 100
        present = {f"~{number:036d}": b"" for number in range(1000)}
        measured = [
            message,
            await cost(histories(), 500),
            await cost(backend.enter("room", present), 1000),
            await cost(alone(), 500),
            await cost(backend.subscribe([f"room:chat:{number}" for number in range(5000)]), 5000),
            await cost(keys(), 500),
        ]
        await backend.stop()

    said = re.search(
        r"\| what \| bytes, about \|\n\|---\|---\|\n(.*?)\n\n", pages[OPERATE].text, re.DOTALL
    )
    rows = [re.findall(r"[0-9]+", row.split("|")[2])[0] for row in said[1].splitlines()]
    assert len(rows) == len(measured)
    for each, row in zip(measured, rows, strict=True):
        assert each <= int(row), measured


async def test_a_prefix_is_ended_by_configuring_it_without_a_history(redis):
    """As the page says; what was stored before it counts no more."""
    url = f"{redis.url}?namespace=ending"
    for limits, expected in ((HistoryLimits(), True), (None, False)):
        app = falcon.asgi.App()
        install(app, backend=url)
        app.ws_connection_manager.configure_rooms("chat:", history=limits)
        async with simulate(app):
            pass
        async with Publisher(url) as publish:
            await publish.broadcast_to_room("chat:tea", {"type": "x"})
            options = publish._link._options.of("chat:tea")
        assert (options.history is not None) is expected


async def test_what_the_drill_shows(until):
    """Degraded with a reason, a publisher that raises, and everything back again."""
    with RedisServer() as server:
        url = f"{server.url}?probe=0.2&timeout=0.5"
        app = falcon.asgi.App()
        install(app, backend=url)
        app.add_websocket_route("/", Guest)
        app.ws_connection_manager.configure_rooms("chat:", history=HistoryLimits())
        async with simulate(app) as client, client.connect("/") as ws, Publisher(url) as publish:
            await ws.expect("history.state")
            server.kill()

            def backend():
                return app.ws_connection_manager.status()["backend"]

            await until(lambda: backend()["state"] == "degraded")
            assert backend()["why"]
            with pytest.raises(BackendError):
                await publish.broadcast_to_all({"type": "x"})
            server.start()
            await until(lambda: backend()["state"] == "up")
            state = msgspec.convert((await ws.expect("history.state"))["payload"], dict)
            assert state["recovered"] is False
            await until(lambda: publish.backend.state == "up")
            await publish.broadcast_to_all({"type": "ping"})
            await ws.expect("ping")
