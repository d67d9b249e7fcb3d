"""Publishers in processes of their own, beside a real server process, over Redis and over NATS."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from nats_server import NatsServer
from redis_server import RedisServer, free_port
from search_path import search_path

from falcon_pachinko import BackendError, Delivery, EncodeError, Publisher
from falcon_pachinko.testing import serve

APPS = Path(__file__).parent / "apps"
SENT = Delivery(0, 0, published=True)
DEADLINE = 40


@pytest.fixture(params=["redis", "nats"])
def backend(request, tmp_path):
    """Give the URL of a server that was just started."""
    with RedisServer() if request.param == "redis" else NatsServer(tmp_path) as server:
        yield server.url


@pytest.fixture
async def server(backend):
    """Serve the app whose rooms ``chat:`` keep a history."""
    env = {"BACKEND": backend, "PYTHONPATH": search_path(APPS)}
    async with serve("shared:app", env=env) as serving:
        yield serving


@pytest.fixture
async def ann(server):
    async with server.connect("/chat?room=chat:tea", timeout=30) as client:
        await client.expect("history.state")
        yield client


def run(script, *arguments):
    """Run a Python program to its end; give its exit code and what it printed."""
    ran = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


async def heard(client, count):
    return [(await client.expect("said"))["payload"] for _ in range(count)]


ASYNC = """
import asyncio, sys
from falcon_pachinko import Publisher

async def main():
    async with Publisher(sys.argv[1]) as publish:
        for number in range(20):
            message = {"type": "said", "payload": number}
            print(await publish.broadcast_to_room("chat:tea", message))

asyncio.run(main())
"""

SYNC = """
import sys
from falcon_pachinko import Publisher

with Publisher.sync(sys.argv[1]) as publish:
    for number in range(20):
        print(publish.broadcast_to_room("chat:tea", {"type": "said", "payload": number}))
"""

THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from falcon_pachinko import Publisher

publish = Publisher.sync(sys.argv[1])

def send(me):
    for number in range(25):
        publish.broadcast_to_room("chat:tea", {"type": "said", "payload": [me, number]})

with ThreadPoolExecutor(4) as pool:
    list(pool.map(send, range(4)))
"""

FORKS = """
import os, sys
from falcon_pachinko import Publisher

publish = Publisher.sync(sys.argv[1])  # made before the forks, opened behind them

def send(text):
    return publish.broadcast_to_room("chat:tea", {"type": "said", "payload": text})

for number in range(3):
    child = os.fork()
    if not child:
        send(f"child {number}")
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
send("parent")
child = os.fork()
if not child:
    try:
        with publish:
            send("never")
    except RuntimeError as refused:
        print(refused, flush=True)
        publish.close()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
send("parent again")
"""

NO_CLOSE = """
import sys
from falcon_pachinko import Publisher

publish = Publisher.sync(sys.argv[1])
publish.broadcast_to_room("chat:tea", {"type": "said", "payload": "bye"})
"""

RETRY = """
import sys
from falcon_pachinko import Publisher

with Publisher.sync(sys.argv[1]) as publish:
    publish.broadcast_to_room(
        "chat:tea", {"type": "said", "payload": "paid"}, idempotency_key=sys.argv[2]
    )
"""


@pytest.mark.parametrize("script", [ASYNC, SYNC], ids=["async", "sync"])
async def test_a_message_from_another_process_arrives_and_is_kept(backend, server, ann, script):
    """In its order and with its place; nothing of the publisher stays."""
    code, printed = await asyncio.to_thread(run, script, backend)
    assert code == 0, printed
    frames = [await ann.expect("said") for _ in range(20)]
    async with server.connect("/chat?room=chat:tea", timeout=30) as bob:
        state = (await bob.expect("history.state"))["payload"]

    assert printed.splitlines() == [str(SENT)] * 20
    assert [frame["payload"] for frame in frames] == list(range(20))
    offsets = [frame["history"]["offset"] for frame in frames]
    assert offsets == list(range(offsets[0], offsets[0] + 20))
    assert state["messages"] == 20
    facts = await asyncio.to_thread(get, server, "/facts")
    assert (facts["gaps"], facts["rejected"]) == (0, 0)


def get(server, path):
    with urllib.request.urlopen(server.http_url + path, timeout=30) as answer:
        return json.load(answer)


async def test_threads_share_one(backend, ann):
    """Each thread's messages come in its order."""
    code, printed = await asyncio.to_thread(run, THREADS, backend)
    frames = await heard(ann, 100)

    assert (code, printed) == (0, "")
    for me in range(4):
        assert [number for who, number in frames if who == me] == list(range(25))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_forks_open_it_for_themselves(backend, ann):
    """One that was made before a fork works behind it; one that was used says what to do."""
    code, printed = await asyncio.to_thread(run, FORKS, backend)
    texts = await heard(ann, 5)

    assert code == 0, printed
    assert "is a fork" in printed
    assert "Make one in each process, after the fork" in printed
    assert texts == ["child 0", "child 1", "child 2", "parent", "parent again"]


async def test_the_interpreter_ends_without_a_close(backend, ann):
    """At once, and the message has left."""
    began = time.monotonic()
    code, printed = await asyncio.to_thread(run, NO_CLOSE, backend)
    took = time.monotonic() - began

    assert (code, printed) == (0, "")
    assert took < DEADLINE / 2
    assert await heard(ann, 1) == ["bye"]


async def test_a_retry_by_another_process_is_kept_once(backend, server, ann):
    """As a task queue does it: the same key, in a process that knows nothing of the first."""
    for key in ("order 1", "order 1", "order 2"):
        code, printed = await asyncio.to_thread(run, RETRY, backend, key)
        assert (code, printed) == (0, "")
    async with Publisher(backend) as publish:
        await publish.broadcast_to_room("chat:tea", {"type": "said", "payload": "end"})

    assert await heard(ann, 3) == ["paid", "paid", "end"]
    kept = (await asyncio.to_thread(get, server, "/facts?room=chat:tea"))["kept"]
    assert kept == ["paid", "paid", "end"]


async def test_many_short_lived_ones_leave_nothing_on_redis():
    """No key, no lease, no channel, no connection: but the history and the configuration."""
    with RedisServer() as redis:
        env = {"BACKEND": redis.url, "PYTHONPATH": search_path(APPS)}
        async with (
            serve("shared:app", env=env) as server,
            server.connect("/chat?room=chat:tea", timeout=30) as ann,
        ):
            await ann.expect("history.state")
            await once(redis.url, 0)
            await ann.expect("said")
            before = sorted(redis.ask("KEYS", "*")), redis.channels(), clients(redis)
            for number in range(20):
                await once(redis.url, number)
                await ann.expect("said")
            nodes = redis.ask("ZRANGE", "pachinko:nodes", "0", "-1")

            assert len(nodes) == 1
            assert sorted(redis.ask("KEYS", "*")) == before[0]
            assert redis.channels() == before[1]
            deadline = time.monotonic() + DEADLINE
            while clients(redis) > before[2]:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)


def clients(redis):
    return len(redis.ask_raw("CLIENT", "LIST").splitlines())


async def once(url, number):
    async with Publisher(url) as publish:
        message = {"type": "said", "payload": number}
        assert await publish.broadcast_to_room("chat:tea", message) == SENT


@pytest.mark.parametrize("how", ["gone", "hung", "cut"])
async def test_what_did_not_leave_is_an_error_in_time(how):
    """Whatever happens to the server; and when it is back, so is the publisher."""
    with RedisServer() as redis:
        async with (
            FaultProxy(redis.port) as proxy,
            Publisher(f"redis://127.0.0.1:{proxy.port}/0?timeout=1&probe=0.3") as publish,
        ):
            assert await publish.send_to_user("ann", {"type": "1"}) == SENT
            if how == "cut":
                proxy.reset()
            elif how == "gone":
                redis.kill()
            else:
                redis.hang()
            if how != "cut":
                began = time.monotonic()
                with pytest.raises(BackendError):
                    await publish.send_to_user("ann", {"type": "2"})
                assert time.monotonic() - began < 10
                await asyncio.to_thread(redis.start)
            deadline = time.monotonic() + DEADLINE
            while True:
                try:
                    assert await publish.send_to_user("ann", {"type": "3"}) == SENT
                except BackendError:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                else:
                    break


def test_a_server_that_was_never_there_is_an_error():
    """At the first verb; or at the start, for a server that is required."""
    url = f"redis://127.0.0.1:{free_port()}/0?timeout=0.5"
    with Publisher.sync(url) as publish, pytest.raises(BackendError, match="was not sent"):
        publish.send_to_user("ann", {})
    with pytest.raises(BackendError, match="required"):
        Publisher.sync(f"{url}&required=true").__enter__()


async def test_what_is_too_large_for_nats_is_an_error(tmp_path):
    """It could never leave; the text names the setting, and the next message goes."""
    with NatsServer(tmp_path) as nats:
        async with Publisher(nats.url) as publish:
            with pytest.raises(EncodeError, match="max_payload"):
                await publish.broadcast_to_all({"type": "x", "payload": "x" * 9_000_000})
            assert await publish.broadcast_to_all({"type": "x"}) == SENT
