"""The testing kit on real servers: the same client, the same verbs, clear words on failure."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from search_path import search_path

from falcon_pachinko.testing import (
    Disconnected,
    HandshakeDenied,
    LifespanError,
    LiveClient,
    NothingReceivedError,
    UnexpectedFrameError,
    serve,
    simulate,
)

APPS = Path(__file__).parent / "apps"


@pytest.fixture
def kit(monkeypatch):
    """The module of the apps under test, which servers can import as well."""
    monkeypatch.setattr(sys, "path", [str(APPS), *sys.path])
    import testing_kit  # noqa: PLC0415  # it lives on the path just given

    return testing_kit


@pytest.fixture(params=["memory", "thread", "process"])
def host(request, kit):
    """The app, in memory and on servers."""
    app = kit.create()
    if request.param == "memory":
        return simulate(app)
    return serve("testing_kit:app" if request.param == "process" else app)


# One test, in memory and live.


async def test_http_is_asked_alike(host):
    """By Falcon's own verbs, with Falcon's own answers."""
    async with host:
        health = await host.http.get("/health")
        same = await host.http.simulate_get("/health")
        nowhere = await host.http.get("/nowhere")
        wrong = await host.http.post("/health", json={"a": 1})
        head = await host.http.request("HEAD", "/health")

        assert (health.status_code, health.json, health.status) == (200, {"status": "ok"}, "200 OK")
        assert health.headers["content-type"] == "application/json"
        assert same.text == health.text == '{"status": "ok"}'
        assert [each.status_code for each in (nowhere, wrong)] == [404, 405]
        assert head.content in (b"", health.content)


async def test_what_a_request_carries_arrives(host):
    """Its query, its headers, its body, its Host."""
    async with host:
        told = await host.http.put(
            "/request",
            params={"a": "b c"},
            headers={"X-Tea": "mint"},
            json={"text": "é"},
            host="localhost",
        )
        plain = await host.http.put("/request?a=1", body="plain", content_type="text/plain")

    assert told.json == {
        "query": {"a": "b c"}, "tea": "mint", "type": "application/json",
        "body": '{"text": "é"}', "host": "localhost",
    }  # fmt: skip
    assert (plain.json["query"], plain.json["body"]) == ({"a": "1"}, "plain")
    assert plain.json["type"] == "text/plain"


async def test_messages_travel_alike(host):
    """In both codecs, by the same verbs."""
    async with host:
        async with host.connect("/desk") as ann:
            assert (await ann.request("echo", {"a": 1}))["payload"] == {"a": 1}
            await ann.send_json({"type": "echo", "payload": "text"})
            assert await ann.receive_json() == {"type": "reply", "payload": "text"}
            await ann.send({"type": "bytes"})
            assert await ann.receive_data() == b"\x00"
            await ann.send_text("no json")
            assert (await ann.expect("error"))["payload"]["code"] == "invalid_json"
            await ann.send_data(b"\xff")
            assert (await ann.expect("error"))["payload"]["code"] == "unsupported_frame"
            await ann.expect_nothing()
        async with host.connect("/desk", subprotocols=["pachinko.msgpack"]) as bob:
            await bob.send({"type": "echo", "payload": [1]})
            await bob.expect("reply", [1])
            kinds = {type(frame) for _, frame in bob.trace}

    assert (ann.subprotocol, bob.subprotocol) == (None, "pachinko.msgpack")
    assert kinds == {bytes}
    assert len(ann.trace) == 10


async def test_endings_look_alike(host):
    """The app's close, the client's, and a client that vanishes: what each side sees."""
    async with host, host.connect("/desk") as ann:
        async with host.connect("/desk") as bob:
            await bob.send({"type": "close"})
            code = await bob.expect_close(4000)
            with pytest.raises(Disconnected, match="the app closed with 4000, 'enough'; noth"):
                await bob.receive()
            with pytest.raises(Disconnected):
                await bob.send_text("too late")
        async with host.connect("/desk") as bob:
            await bob.close(4321, "bye")
            await bob.close(4322)
            with pytest.raises(Disconnected, match="the client closed with 4321, 'bye'; noth"):
                await bob.receive()
        async with host.connect("/desk") as bob:
            await bob.drop()
            await bob.expect_nothing()
        left = [(await ann.expect("left"))["payload"] for _ in range(3)]

    assert (code, left) == (4000, [4000, 4321, 1006])
    assert bob.close_code == 1006


async def test_denials_look_alike(host):
    """Status, body and headers; a redirect is an answer, not a way to go."""
    async with host:
        with pytest.raises(HandshakeDenied, match=r"denied with 404: .*404 Not Found") as unknown:
            async with host.connect("/nowhere"):
                pass
        with pytest.raises(HandshakeDenied) as origin:
            async with host.connect("/desk", headers={"Origin": "https://evil.example"}):
                pass

    assert unknown.value.headers["content-type"] == "application/json"
    assert origin.value.status == 403


async def test_a_client_may_call_the_host_as_it_likes(host):
    """The Host header given goes out, and no other."""
    async with host, host.connect("/desk", headers={"host": "tea.example"}) as ann:
        answer = await ann.request("host")

    assert answer["payload"] == "tea.example"


async def test_a_handshake_without_an_answer_times_out(host):
    """The text says what to look at."""
    async with host:
        silent = host.connect("/desk", headers={"X-Nothing": "1"}, timeout=0.2)
        with pytest.raises(NothingReceivedError, match=r"not answered within 0.2 s: on_connect"):
            async with silent:
                pass


async def test_a_stalled_client_reads_all_of_it_later(host):
    """Several megabytes wait on their way, then arrive in order."""
    async with host, host.connect("/desk") as ann:
        await ann.stall()
        await ann.send({"type": "pour", "payload": 100})
        with pytest.raises(RuntimeError, match="stalled"):
            await ann.expect_nothing()
        await ann.resume()
        numbers = [int((await ann.receive_text())[-3:]) for _ in range(100)]
        await ann.expect("reply", "poured")

    assert numbers == list(range(100))


async def test_a_stalled_client_leaves(host):
    """By a close or by a drop, whatever is underway."""
    async with host, host.connect("/desk") as ann:
        for leave in ("close", "drop"):
            async with host.connect("/desk") as bob:
                await bob.stall()
                await bob.send({"type": "pour", "payload": 2})
                await getattr(bob, leave)()
        left = [(await ann.expect("left"))["payload"] for _ in range(2)]

    assert left == [1000, 1006]


async def test_clients_see_their_server_go(host):
    """A server that stops closes with 1012; stopping twice is harmless."""
    async with host, host.connect("/desk") as ann:
        await host.stop()

        assert await ann.expect_close(1012) == 1012
        await host.stop()


@pytest.mark.parametrize("make", [simulate, serve])
async def test_a_message_over_ws_max_size_ends_alike(kit, make):
    """With 1009, by the option of one name."""
    async with make(kit.create(), ws_max_size=1000) as host, host.connect("/desk") as ann:
        await ann.request("echo", "é" * 400)
        await ann.send_text("x" * 1001)

        assert await ann.expect_close(1009) == 1009


@pytest.mark.parametrize("make", [simulate, serve])
async def test_run_awaits_where_the_app_is(kit, make):
    """The manager belongs to the app's event loop, in whichever thread that is."""
    app = kit.create()
    async with make(app) as host, host.connect("/desk") as ann:
        manager = app.ws_connection_manager
        delivery = await host.run(manager.broadcast_to_all({"type": "news"}))
        await ann.expect("news")

    assert delivery.sent == 1


# The server.


async def test_an_app_runs_in_a_thread_beside_the_test(kit):
    """The same process, with HTTP beside the WebSockets."""
    async with serve(kit.create()) as server:
        with await asyncio.to_thread(urllib.request.urlopen, f"{server.http_url}/health") as answer:
            health = json.load(answer)
        async with server.connect("/desk") as ann:
            where = await ann.request("where")
        process = server.process

    assert health == {"status": "ok"}
    assert where["payload"]["pid"] == os.getpid()
    assert process is None
    assert not [thread for thread in threading.enumerate() if thread.name == "uvicorn"]


async def test_an_import_string_runs_in_a_process_of_its_own(kit):
    """With the environment it is given; the log has what it printed."""
    async with serve("testing_kit:app", env={"TEA": "green"}) as server:
        async with server.connect("/desk") as ann:
            where = await ann.request("where")
        pid = server.process.pid

    assert where["payload"] == {"pid": pid, "tea": "green"}
    assert server.process.returncode is not None
    assert "goodbye 1000" in server.log


async def test_a_factory_may_make_the_app(kit):
    """By uvicorn's own option."""
    async with serve("testing_kit:create", factory=True) as server, server.connect("/desk") as ann:
        await ann.request("echo", 1)


async def test_a_server_that_was_killed_is_no_further_trouble(kit):
    """A test may do that to see what clients make of it."""
    async with serve("testing_kit:app") as server, server.connect("/desk") as ann:
        server.process.kill()

        assert await ann.expect_close(1006) == 1006


def wait_until_gone(pid, seconds=60):
    """Wait for a process that is nobody's child here."""
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"{pid} is still there after {seconds} s"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_server_ends_with_its_test(kit):
    """Even if the test is killed: its pipe breaks, and the server goes."""
    program = (
        "import asyncio, os\n"
        "from falcon_pachinko.testing import serve\n"
        "async def main():\n"
        "    async with serve('testing_kit:app') as server:\n"
        "        print(server.process.pid, flush=True)\n"
        "        os._exit(9)\n"
        "asyncio.run(main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search_path(APPS)},
        timeout=30,
        check=False,
    )

    assert ended.returncode == 9
    wait_until_gone(int(ended.stdout))


async def test_a_client_connects_to_any_server(kit):
    """It takes a URL; nobody listening is what the socket says."""
    async with serve(kit.create()) as server, LiveClient(f"{server.url}/desk") as ann:
        await ann.request("echo", 1)
    with pytest.raises(OSError, match="onnect"):
        async with LiveClient(f"{server.url}/desk"):
            pass


async def test_leaving_before_connecting_is_harmless():
    """There is nothing to leave."""
    ann = LiveClient("ws://127.0.0.1:1/")
    await ann.close()
    await ann.drop()

    assert ann.closed


async def test_a_server_that_does_not_read_is_told(kit):
    """Sending has a deadline, too."""
    async with serve("testing_kit:app") as server, server.connect("/desk", timeout=0.3) as ann:
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(NothingReceivedError, match=r"did not take a frame within 0\.3 s"):
            await asyncio.gather(*(ann.send_text("x" * 1_000_000) for _ in range(20)))
        server.process.kill()


async def test_a_server_that_goes_ends_the_sending(kit):
    """What waits to be sent fails as a closed connection does."""
    async with serve("testing_kit:app") as server, server.connect("/desk") as ann:
        server.process.send_signal(signal.SIGSTOP)
        sending = [asyncio.create_task(ann.send_text("x" * 1_000_000)) for _ in range(20)]
        await asyncio.wait(sending, timeout=0.1)
        server.process.kill()
        await asyncio.wait(sending)
        failures = [task.exception() for task in sending if task.exception() is not None]

    assert failures
    assert all(isinstance(failure, Disconnected) for failure in failures)


async def test_a_redirect_is_not_followed(kit):
    """A client that is denied with 302 says so."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        headers = [(b"location", b"/elsewhere")]
        start = {"type": "websocket.http.response.start", "status": 302, "headers": headers}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": b""})

    async with serve(app) as server:
        with pytest.raises(HandshakeDenied) as denied:
            async with server.connect("/"):
                pass

    assert (denied.value.status, denied.value.headers["location"]) == (302, "/elsewhere")


async def test_a_subprotocol_that_was_not_offered_fails_the_handshake():
    """As in memory."""

    async def app(scope, receive, send):
        await receive()
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "websocket.accept", "subprotocol": "milk"})

    async with serve(app) as server:
        with pytest.raises(UnexpectedFrameError, match=r"the handshake failed: .*milk"):
            async with server.connect("/", subprotocols=["tea"]):
                pass


# What goes wrong.


@pytest.mark.parametrize("in_process", [False, True])
async def test_a_failing_startup_is_raised_with_the_log(kit, in_process):
    """The app's own traceback is in it."""
    app = "testing_kit:broken" if in_process else kit.create(kit.Broken())
    with pytest.raises(LifespanError, match="the server did not start; its log") as failed:
        async with serve(app):
            pass

    assert 'raise ZeroDivisionError("no tea")' in str(failed.value)


@pytest.mark.parametrize("in_process", [False, True])
async def test_a_startup_that_hangs_is_cut_off(kit, in_process):
    """Nothing is left running."""
    app = "testing_kit:stuck" if in_process else kit.create(kit.Stuck())
    server = serve(app, lifespan_timeout=0.5)
    with pytest.raises(LifespanError, match=r"did not start within 0\.5 s"):
        async with server:
            pass
    await server.stop()

    assert server.process is None or server.process.poll() is not None


@pytest.mark.slow
@pytest.mark.parametrize("in_process", [False, True])
async def test_a_shutdown_that_hangs_is_cut_off(kit, in_process):
    """The test fails with it, and the log is in the text."""
    app = "testing_kit:clinging" if in_process else kit.create(kit.Clinging())
    with pytest.raises(LifespanError, match="the server did not stop within 10 s"):
        async with serve(app, lifespan_timeout=10, timeout_graceful_shutdown=None):
            pass


async def test_a_start_that_is_cancelled_leaves_nothing(kit):
    """A test that times out, say."""
    server = serve("testing_kit:stuck")
    starting = asyncio.create_task(server.__aenter__())
    await asyncio.sleep(0)  # its first step starts the process
    starting.cancel()
    await asyncio.wait([starting])

    assert starting.cancelled()
    assert server.process.poll() is not None


async def test_an_app_that_is_nowhere_is_told(kit):
    """The words of uvicorn say where it looked."""
    with pytest.raises(LifespanError, match='Could not import module "testing_kitchen"'):
        async with serve("testing_kitchen:app"):
            pass


async def test_an_app_that_exits_is_told(kit):
    """With what it printed last."""
    with pytest.raises(LifespanError, match="I go"):
        async with serve("testing_kit:exits", factory=True):
            pass


async def test_an_app_that_breaks_in_a_thread_is_told(kit):
    """Its traceback goes into the log, not to the thread's own hook."""

    def create():
        raise ZeroDivisionError("no app")

    with pytest.raises(LifespanError, match="ZeroDivisionError: no app"):
        async with serve(create, factory=True):
            pass


async def test_a_failing_test_has_the_log_in_a_note(kit):
    """Beside its own error."""
    with pytest.raises(KeyError) as failed:
        async with serve("testing_kit:app") as server, server.connect("/desk"):
            raise KeyError("tea")

    (note,) = failed.value.__notes__
    assert note.startswith("The server's log:\n")
    assert "goodbye 1000" in note


async def test_the_log_is_the_servers_own(kit, caplog):
    """What the test itself logs meanwhile is not in it; what the app logs is, by any logger."""

    async def warn():
        logging.getLogger("tea").warning("from the app")

    async with serve(kit.create()) as server:
        logging.getLogger("tea").warning("from the test")
        await server.run(warn())

    assert server.log == "WARNING tea: from the app"
    logged = [record.message for record in caplog.records if record.name == "tea"]
    assert logged == ["from the test", "from the app"]


async def test_without_a_log_there_is_no_note(kit):
    """A server in a thread that warned of nothing has nothing to say."""
    with pytest.raises(KeyError) as failed:
        async with serve(kit.create()):
            raise KeyError("tea")

    assert not hasattr(failed.value, "__notes__")


async def test_run_needs_the_app_in_this_process(kit):
    """The error says what to do; a server that has stopped runs nothing either."""

    async def nothing(): ...

    async with serve("testing_kit:app") as other:
        with pytest.raises(TypeError, match=r"serve\(\) the app itself"):
            await other.run(nothing())
    async with serve(kit.create()) as own:
        await own.stop()
        with pytest.raises(RuntimeError, match="the server has stopped"):
            await own.run(nothing())


async def test_an_unknown_option_is_refused(kit):
    """At once, by its name."""
    with pytest.raises(TypeError, match="'ws_maximum'"):
        serve(kit.create(), ws_maximum=1)


async def test_what_serve_decides_is_no_option(kit):
    """The port is free and the host is this one."""
    with pytest.raises(TypeError, match="leave out host, port"):
        serve(kit.create(), port=8000, host="0.0.0.0")


async def test_env_is_for_processes(kit):
    """A thread has the test's own."""
    with pytest.raises(TypeError, match="a process of its own"):
        serve(kit.create(), env={"TEA": "green"})


@pytest.mark.parametrize("package", ["uvicorn", "websockets"])
def test_a_missing_package_is_named_with_its_remedy(kit, monkeypatch, package):
    """The line can be typed as it stands."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as missing:
        serve(kit.create())

    assert missing.value.name == package
    assert str(missing.value) == (
        f"serve() needs {package}, which is not installed: pip install 'falcon-pachinko[testing]'"
    )


def test_a_client_needs_websockets(monkeypatch):
    """For any server."""
    monkeypatch.setitem(sys.modules, "websockets", None)
    with pytest.raises(ImportError, match=r"pip install 'falcon-pachinko\[testing\]'"):
        LiveClient("ws://127.0.0.1:1/")


async def test_a_critical_worker_stops_the_server_and_not_the_tests(kit):
    """In a thread it is one process with them."""
    app = kit.create()
    go = asyncio.Event()

    async def vital(manager):
        await go.wait()
        raise ZeroDivisionError("no tea")

    async def let_it_crash():
        go.set()

    app.add_websocket_worker(vital, critical=True)
    with pytest.raises(LifespanError, match="'vital' is critical and has") as told:  # noqa: PT012  # at the end
        async with serve(app) as server, server.connect("/desk") as ann:
            await server.run(let_it_crash())
            assert await ann.expect_close() == 1012

    assert isinstance(told.value.__cause__, ZeroDivisionError)


async def test_http_is_not_for_websockets(kit):
    """The error says what is."""
    async with serve(kit.create()) as server:
        with pytest.raises(TypeError, match=r"server.connect\(path\) makes a WebSocket client"):
            server.http.simulate_ws("/desk")


async def test_a_timeout_around_a_live_connect_is_on_time(kit):
    """A server that never answers does not hold it up."""
    async with serve(kit.create()) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), server.connect("/ponder"):
                pass
