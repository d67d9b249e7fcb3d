"""The how-to guides: what they say beside their transcripts."""

import asyncio
import io
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import falcon
import falcon.asgi
import pytest
from prometheus_client.parser import text_string_to_metric_families

from falcon_pachinko import (
    ConnectionStateError,
    EncodeError,
    HandlerDefinitionError,
    Hook,
    InvalidNameError,
    Limits,
    MessageError,
    Principal,
    RouteTemplateError,
    WebSocketConnectionManager,
    WebSocketResource,
    handles_message,
    install,
    to,
)
from falcon_pachinko.backends import MemoryBackend, MemoryHub
from falcon_pachinko.testing import HandshakeDenied, LifespanError, RequestError, simulate

DEADLINE = 40  # seconds for anything that a process is awaited to do


def run(*command, **options):
    """Run a Python program to its end, and give what it printed."""
    ran = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        **options,
    )
    return ran.stdout + ran.stderr


@pytest.fixture
def log(load):
    """Give a stream that the library's log goes to, in the format of the page."""
    stream, logger = io.StringIO(), logging.getLogger("falcon_pachinko")
    before = list(logger.handlers)
    load("how_to/observe.py").log_to(stream)
    yield stream
    logger.handlers[:] = before


# Authenticate.


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (Principal(user_id="ann", tags=["staff"]), ("ann", {"staff"})),
        ("ann", ("ann", set())),
        (None, (None, set())),
    ],
)
async def test_authenticate_returns_one_of_three(serve, answer, seen):
    """A principal, a user id, or None for a stranger, who may come in."""

    async def authenticate(_req):
        return answer

    app = serve(WebSocketResource, authenticate=authenticate)
    async with simulate(app) as client, client.connect("/"):
        (ws,) = client.manager._registry.all()

        assert (ws.user_id, ws.tags) == seen


@pytest.mark.parametrize(
    "form", [lambda exp: datetime.fromtimestamp(exp, tz=UTC), lambda _: datetime.now(UTC)]
)
async def test_a_principal_that_expires_closes_its_connection(serve, form):
    """At ``expires_at``, be it a token's ``exp`` or a time of one's own, the client gets 4401."""
    ends = form(time.time() + 0.05)

    async def authenticate(_req):
        return Principal(user_id="kim", expires_at=ends)

    app = serve(WebSocketResource, authenticate=authenticate)
    async with simulate(app) as client, client.connect("/") as kim:
        assert await kim.expect_close() == 4401


async def test_a_session_that_is_over_does_not_let_anybody_in(load):
    """The example looks at the end of a session, too."""
    module = load("how_to/authenticate.py")
    module.SESSIONS["0001"] = module.Session("kim", [], ends=datetime.now(UTC) - timedelta(1))
    async with simulate(module.app) as client:
        with pytest.raises(HandshakeDenied, match="401"):
            await client.connect("/desk", headers={"Cookie": "session=0001"}).__aenter__()


async def test_an_empty_user_id_is_denied(serve, log):
    """With 403, and a warning."""

    async def authenticate(req):
        return req.get_header("X-User") or ""

    async with simulate(serve(WebSocketResource, authenticate=authenticate)) as client:
        with pytest.raises(HandshakeDenied, match="403"):
            await client.connect("/").__aenter__()

    assert re.match(r"WARNING .*no usable identity.*'' cannot be a user_id", log.getvalue())


async def test_who_logs_in_later_is_reached_as_a_user(load):
    """``send_to_user`` and the tag find the connection from then on."""
    module = load("how_to/log_in_later.py")
    async with simulate(module.app) as client, client.connect("/desk") as ann:
        await ann.request("log_in", "5f2a")

        assert (await client.manager.send_to_user("ann", "Tea?")).sent == 1


async def test_a_refused_origin_is_one_line_in_the_log(load, log):
    """It has the value and the setting."""
    async with simulate(load("how_to/origins.py").app) as client:
        for headers in ({"Host": "localhost", "Origin": "https://evil.example"}, {"Host": "x"}):
            with pytest.raises(HandshakeDenied):
                await client.connect("/desk", headers=headers).__aenter__()

    first, second = log.getvalue().splitlines()
    assert re.match(
        r"WARNING .*'https://evil.example' is neither that of Host 'localhost' nor in origins",
        first,
    )
    assert re.match(r"WARNING .*'x' is not in allowed_hosts", second)


# Deny a handshake.


async def test_a_denial_has_the_headers_of_the_error(load):
    """``retry_after`` reaches the client."""
    app = load("how_to/deny_a_handshake.py").app
    async with simulate(app) as client, client.connect("/tables/window"):
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/tables/window").__aenter__()

    assert denied.value.headers["retry-after"] == "600"


# Binary messages.


def test_the_albums_client_prints_what_the_page_says(pages, examples, tmp_path, uvicorn):
    """A real client adds a picture to a real server, in MessagePack."""
    shutil.copy(examples / "how_to/binary_messages.py", tmp_path)
    address = uvicorn("binary_messages:app")
    printed = run(str(examples / "how_to/album_client.py"), f"ws://{address}/album")
    page = pages["docs/how-to/binary-messages.md"]

    assert f"prints `{printed.strip()}`" in page.prose


async def test_both_codecs_hear_of_a_picture(load):
    """In MessagePack the picture is bytes; what JSON has as Base64 is the same."""
    app = load("how_to/binary_messages.py").app
    async with (
        simulate(app) as client,
        client.connect("/album") as ann,
        client.connect("/album", subprotocols=["pachinko.msgpack"]) as bob,
    ):
        await ann.send_json({"type": "add", "name": "cat", "picture": "iVBORw=="})
        heard = await bob.receive_message()

    assert heard == {"type": "add", "name": "cat", "picture": b"\x89PNG"}


async def test_a_resource_may_choose_the_subprotocol(serve):
    """``accept`` takes one that the client offered."""

    class Choosy(WebSocketResource):
        async def on_connect(self, req, ws):
            await ws.accept(subprotocol=ws.subprotocols[-1])

    async with (
        simulate(serve(Choosy)) as client,
        client.connect("/", subprotocols=["a", "b"]) as ann,
    ):
        assert ann.subprotocol == "b"


# Slow clients.


async def test_an_order_is_never_missing_in_between(load, caplog):
    """With ``close``, a client that cannot have all is closed, and the broadcast says so."""
    module = load("how_to/slow_clients.py")
    async with simulate(module.app, write_buffer=1) as client, client.connect("/orders") as ann:
        await ann.stall()
        delivery = await module.publish(client.manager, "x" * 300_000)
        while not delivery.dropped:
            delivery = await module.publish(client.manager, "x" * 300_000)
        status = client.manager.status()

    assert delivery == (0, 1, False)
    assert status["dropped"]["overflow"] > 0
    assert "1 clients missed it" in caplog.text


async def test_a_price_is_replaced_by_the_next(load):
    """With ``drop_oldest`` the newest arrive; what was thrown out had been counted as queued."""
    module = load("how_to/slow_clients.py")
    async with simulate(module.app, write_buffer=1) as client, client.connect("/prices") as ann:
        await ann.stall()
        sent = [
            await client.manager.broadcast_to_room("prices", [number, "x" * 20_000])
            for number in range(10)
        ]
        waiting = client.manager.status()["outbox_bytes"]
        await ann.resume()
        numbers = [(await ann.receive_json())[0] for _ in range(4)]
        status = client.manager.status()

    assert [delivery.sent for delivery in sent] == [1] * 10
    assert numbers == [0, 1, 8, 9]  # one in the server's buffer, one on its way, and two waited
    assert status["dropped"] == {"overflow": 6}
    assert 0 < waiting <= 65_536
    assert status["outbox_bytes"] == 0


async def test_a_handler_keeps_its_own_clients_pace(load):
    """All arrives, although it is far more than the outbox holds."""
    module = load("how_to/slow_clients.py")
    async with simulate(module.app, write_buffer=1) as client, client.connect("/history") as ann:
        await ann.stall()
        await ann.send({"type": "history", "ref": 1})
        await ann.resume()
        numbers = [(await ann.expect("order"))["payload"] for _ in range(10_000)]
        answer = await ann.expect("reply")

    assert numbers == list(range(10_000))
    assert answer["ref"] == 1
    assert client.manager.status()["dropped"] == {}


async def test_a_slow_client_is_one_warning(load, log):
    """However many frames it loses; the line names the setting."""
    module = load("how_to/slow_clients.py")
    async with simulate(module.app, write_buffer=1) as client, client.connect("/prices") as ann:
        await ann.stall()
        for _ in range(20):
            await client.manager.broadcast_to_room("prices", "x" * 20_000)
        (line,) = log.getvalue().splitlines()
        await ann.drop()

    assert re.match(r"WARNING /prices ~\w+ .*outbox_bytes=65536.*drop_oldest", line)


# Nested resources and hooks.


@pytest.mark.parametrize(
    ("point", "error", "seen"),
    [
        ("before_connect", falcon.HTTPForbidden(), "HTTP 403"),
        ("before_connect", ZeroDivisionError(), "HTTP 500"),
        ("after_connect", ZeroDivisionError(), "1011"),
        ("before_message", MessageError("no_tea"), "no_tea, not handled"),
        ("before_message", falcon.HTTPForbidden(), "forbidden, not handled"),
        ("after_message", MessageError("no_tea"), "no_tea, handled"),
        ("after_message", falcon.HTTPForbidden(), "forbidden, handled"),
        ("before_disconnect", ZeroDivisionError(), "reply, handled, said goodbye"),
    ],
)
async def test_what_a_hook_raises_has_the_outcome_of_the_table(point, error, seen):
    """A denial, a close, or the one answer; the end goes on."""
    happened = []

    async def fail(self, *_):
        raise error

    class Handler(WebSocketResource):
        hooks = (type("Failing", (Hook,), {point: fail})(),)

        @handles_message("order")
        async def order(self, ws):
            happened.append("handled")

        async def on_disconnect(self, ws, close_code):
            happened.append("said goodbye")

    app = falcon.asgi.App()
    install(app)
    app.add_websocket_route("/", Handler)
    async with simulate(app) as client:
        outcome = await order(client.connect("/"))
        if outcome in ("no_tea", "forbidden", "reply"):
            outcome += ", handled" if "handled" in happened else ", not handled"
        if point == "before_disconnect":
            outcome += f", {happened[-1]}"

    assert outcome == seen


async def order(client):
    """Say what became of an order."""
    try:
        async with client:
            await client.request("order")
    except RequestError as refused:
        return refused.code
    except HandshakeDenied as denied:
        return f"HTTP {denied.status}"
    except falcon.WebSocketDisconnected as gone:
        return str(gone.code)
    return "reply"


def test_every_row_of_the_hooks_table_is_tried(pages):
    """The points of the table are those that the test above goes through."""
    points = {row[0].strip("`") for row in pages["docs/how-to/nest-resources.md"].table("hooks")}

    assert points == {
        "before_connect",
        "after_connect",
        "before_message",
        "after_message",
        "before_disconnect",
    }


# Workers.


async def test_the_workers_of_the_page_run(load):
    """One forwards what comes from elsewhere; ``status`` tells of both."""
    module = load("how_to/run_workers.py")
    async with simulate(module.app) as client, client.connect("/prices") as ann:
        module.PRICES.put_nowait(3)
        price = await ann.expect("price")
        workers = client.manager.status()["workers"]

    assert price["payload"] == 3
    assert workers == {
        "kettle": {"state": "running", "restarts": 0},
        "forward": {"state": "running", "restarts": 0},
    }


async def test_a_worker_cleans_up_when_the_app_stops(load):
    """Its ``finally`` runs to its end, within the shutdown."""
    module = load("how_to/run_workers.py")

    class Clock:
        ticks = asyncio.Queue()
        opened = asyncio.Event()
        closed = False

        async def open(self):
            self.opened.set()

        async def tick(self):
            return await self.ticks.get()

        async def close(self):
            self.closed = True

    clock = Clock()
    module.app.add_websocket_worker(module.keep_time, module.app.ws_connection_manager, clock)
    async with simulate(module.app):
        await clock.opened.wait()

    assert clock.closed


async def test_a_worker_that_crashes_starts_again(load, caplog):
    """The log has its traceback, and ``status`` the number."""
    module = load("how_to/run_workers.py")
    first, second = asyncio.Event(), asyncio.Event()

    async def stumble(_manager):
        if not first.is_set():
            first.set()
            raise ZeroDivisionError
        second.set()
        await asyncio.Event().wait()

    module.app.add_websocket_worker(stumble, backoff=(0.01, 0.01))
    async with simulate(module.app) as client:
        await second.wait()
        status = client.manager.status()["workers"]["stumble"]

    assert status == {"state": "running", "restarts": 1}
    assert "ZeroDivisionError" in caplog.text


async def test_a_critical_worker_that_crashes_ends_the_process(load):
    """It raises SIGTERM, which a server takes for its shutdown, and does not start again."""
    module = load("how_to/run_workers.py")
    told = asyncio.Event()

    async def stumble(_manager):
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    handle = install(module.app)
    try:
        module.app.add_websocket_worker(stumble, critical=True)
        await handle.start()
        await told.wait()
        status = handle.ws_connection_manager.status()["workers"]["stumble"]
    finally:
        await handle.stop()
        loop.remove_signal_handler(signal.SIGTERM)

    assert status == {"state": "failed", "restarts": 0}


async def test_a_test_with_a_critical_worker_fails_when_it_crashes(load):
    """The process of the tests goes on."""
    module = load("how_to/run_workers.py")

    async def stumble(_manager):
        raise ZeroDivisionError

    module.app.add_websocket_worker(stumble, critical=True)
    with pytest.raises(LifespanError, match="'stumble' is critical and has crashed") as failed:
        async with simulate(module.app):
            pass

    assert isinstance(failed.value.__cause__, ZeroDivisionError)


def test_workers_run_without_an_app(examples):
    """The script of the page prints what the page says."""
    assert run(str(examples / "how_to/run_workers.py")) == "3\n2\n1\n"


# Targets.


async def test_whoever_leaves_a_room_leaves_it_empty(load):
    """A room is there as long as it has members; the prefix finds those that are."""
    app = load("how_to/target_messages.py").app
    async with simulate(app) as client:
        async with client.connect("/lounges/tea?name=ann"), client.connect("/lounges/a*?name=bob"):
            rooms = await client.manager.get_rooms_by_prefix("lounge:")

        assert rooms == ["lounge:a*", "lounge:tea"]
        assert await client.manager.get_rooms_by_prefix("lounge:") == []
        assert await client.manager.count(to.everyone) == 0


# Observe.


async def test_the_table_has_every_key_of_the_status(load, pages):
    """And nothing else."""
    shown = [
        name
        for row in pages["docs/how-to/observe.md"].table("status")
        for name in re.findall(r"`(\w+)`", row[0])
    ]
    async with simulate(load("how_to/observe.py").app) as client:
        answer = await client.http.simulate_get("/health")

    assert shown == list(answer.json)


def test_the_status_of_a_backend_has_these_keys(pages):
    """The page has all of them, and no other; without a backend there is nothing to say."""
    documented = {
        key
        for row in pages["docs/how-to/observe.md"].table("backend")
        for key in re.findall(r"`(\w+)`", row[0])
    }

    shared = WebSocketConnectionManager(backend=MemoryBackend(MemoryHub()))
    assert set(shared.status()["backend"]) == documented
    assert WebSocketConnectionManager().status()["backend"] is None


async def test_a_draining_app_is_not_healthy(load):
    """A load balancer sees 503 from the beginning of the shutdown on."""
    async with simulate(load("how_to/observe.py").app) as client:
        client.manager._draining = True
        answer = await client.http.simulate_get("/health")

    assert (answer.status_code, answer.json["state"]) == (503, "draining")


async def test_prometheus_reads_the_metrics(load, pages):
    """The names and labels that the page shows are there."""
    module = load("how_to/observe.py")
    shown = re.findall(r"`(pachinko_[a-z_]+)", pages["docs/how-to/observe.md"].prose)
    async with simulate(module.app) as client, client.connect("/counters/1") as ann:
        await ann.request("order", "mint")
        text = (await client.http.simulate_get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (received,) = families["pachinko_received"].samples

    assert (received.labels, received.value) == ({"type": "order"}, 1)
    assert {name.removesuffix("_total") for name in shown} <= families.keys()


async def test_a_client_does_not_decide_what_is_counted_apart(load, answered):
    """Types without a handler are no types to the counters."""
    async with simulate(load("how_to/observe.py").app) as client:
        async with client.connect("/counters/1") as ann:
            for number in range(3):
                await answered(ann.request(f"made up {number}"))
        status = client.manager.status()

    assert status["received"] == {}
    assert status["sent"] == {"error": 3}


async def test_a_failure_is_logged_as_the_page_shows(load, pages, log, answered):
    """With the route and the connection, then the traceback."""
    (shown,) = (b for b in pages["docs/how-to/observe.md"].blocks if b.marker == "log")
    async with (
        simulate(load("how_to/observe.py").app) as client,
        client.connect("/counters/1") as ann,
    ):
        await answered(ann.request("split_bill", 0))
        (ws,) = client.manager._registry.all()
    line, *traceback = log.getvalue().splitlines()

    assert line == re.sub(r"~[0-9a-f]{24}\b", ws.id, shown.text.strip())
    assert traceback[-1] == "ZeroDivisionError: division by zero"


async def test_what_clients_get_wrong_is_not_logged(load, log):
    """It is answered."""
    async with (
        simulate(load("how_to/observe.py").app) as client,
        client.connect("/counters/1") as ann,
    ):
        for frame in ("Hello?", '{"type": "cake"}', '{"type": "order", "payload": 5}'):
            await ann.send_text(frame)
            await ann.expect("error")

    assert log.getvalue() == ""


# Test.


def test_the_tests_of_the_page_pass(examples, tmp_path):
    """In a folder of their own, with the plugin, as a reader has them."""
    for name in ("room.py", "test_room.py"):
        shutil.copy(examples / "how_to/test_a_room" / name, tmp_path)
    printed = run("-m", "pytest", "-p", "no:cacheprovider", "test_room.py", cwd=tmp_path)

    assert re.search(r"= 11 passed in", printed), printed


def test_the_tests_of_several_processes_pass(examples, tmp_path):
    """In a folder of their own, without a server, as a reader has them."""
    for name in ("chat.py", "test_chat.py"):
        shutil.copy(examples / "how_to/test_several_processes" / name, tmp_path)
    printed = run("-m", "pytest", "-p", "no:cacheprovider", "test_chat.py", cwd=tmp_path)

    assert re.search(r"= 5 passed in", printed), printed


# Sending options.


@pytest.fixture
async def board(load):
    """Give the example's module, and a client with two members of a board, of which one stalls."""
    module = load("how_to/sending_options.py")
    async with (
        simulate(module.app, write_buffer=1) as client,
        client.connect("/boards/1") as ann,
        client.connect("/boards/1") as bob,
    ):
        yield module, client, ann, bob


async def fall_behind(client, ann, bob):
    """Have Bob read nothing, with one frame in the server's buffer and one being written."""
    await bob.stall()
    for number in range(2):
        await ann.request("line", [{"x": number, "y": number}])


async def catch_up(bob):
    """Give the types and payloads that Bob gets, once he reads again."""
    await bob.resume()
    frames = []
    while not frames or frames[-1]["type"] != "typing":
        frames.append(await bob.receive_json())
    return [(each["type"], each.get("payload")) for each in frames]


async def test_a_volatile_message_is_dropped_for_a_client_that_is_behind(board):
    """It is counted; one who keeps up gets it."""
    _, client, ann, bob = board
    await ann.request("cursor", {"x": 1, "y": 1})
    assert (await bob.receive_json())["type"] == "cursor"
    await fall_behind(client, ann, bob)
    await ann.request("cursor", {"x": 2, "y": 2})
    await ann.request("typing")
    got = await catch_up(bob)

    assert [kind for kind, _ in got] == ["line", "line", "typing"]
    assert client.manager.status()["dropped"] == {"volatile": 1}


async def test_a_replaceable_message_takes_the_place_of_the_one_that_waits(board):
    """The newest value arrives once, where the first one waited, and nothing is dropped."""
    _, client, ann, bob = board
    await fall_behind(client, ann, bob)
    for zoom in (1, 2, 3):
        await ann.request("zoom", zoom)
    await ann.request("typing")
    got = await catch_up(bob)

    assert [each for each in got if each[0] != "line"] == [("zoom", 3), ("typing", None)]
    assert client.manager.status()["dropped"] == {}


async def test_a_history_keeps_what_neither_is_fleeting_nor_says_otherwise(board):
    """Of the four messages of the board, only the line is kept."""
    _, client, ann, _ = board
    await ann.request("line", [])
    await ann.request("cursor", {"x": 1, "y": 1})
    await ann.request("zoom", 2)
    await ann.request("typing")

    assert [each["type"] for each in await client.manager.history("board:1")] == ["line"]


@pytest.mark.parametrize(
    "options",
    [
        {"volatile": True, "latest": "zoom"},
        {"latest": ""},
        {"store": True, "local": True},
        {"store": True, "volatile": True},
        {"store": True, "latest": "zoom"},
    ],
)
async def test_options_that_contradict_each_other_are_refused(board, options):
    """Before anything is sent."""
    _, client, _, bob = board
    with pytest.raises(ValueError, match=r"volatile|latest|local"):
        await client.manager.broadcast_to_room("board:1", "x", **options)

    await bob.expect_nothing()


async def test_a_local_notice_reaches_the_boards_of_this_process_but_one(board):
    """``exclude`` takes a connection as well as an id."""
    module, client, ann, bob = board
    async with client.connect("/boards/2") as cleo:
        first, *_ = client.manager._registry.all()
        await module.announce(client.manager, first, "Tea.")
        excluded = {ann: "board:1", bob: "board:1", cleo: "board:2"}
        got = {each: await notices(each) for each in excluded}

    assert sorted(got.values()) == [0, 1, 1]


async def notices(client):
    """Count the notices that a client has got."""
    try:
        while (await client.receive_json(0.05))["type"] != "notice":
            pass
    except AssertionError:
        return 0
    return 1


async def test_drained_returns_when_all_has_left(load):
    """The close comes after the last page, whatever the client's pace."""
    module = load("how_to/sending_options.py")
    async with simulate(module.app, write_buffer=1) as client, client.connect("/export") as ann:
        await ann.stall()
        await ann.send({"type": "export", "payload": 3})
        await ann.resume()
        pages = [(await ann.expect("page"))["payload"] for _ in range(3)]

        await ann.expect_close(4000)
    assert pages == [0, 1, 2]


async def test_a_send_before_the_accept_that_does_not_fit_says_to_accept_first(serve):
    """Nothing waits there: the handshake would wait for itself."""
    raised = []

    class Eager(WebSocketResource):
        async def on_connect(self, req, ws):
            await self.send("x" * 50)
            try:
                await self.send("x" * 50)
            except ConnectionStateError as error:
                raised.append(str(error))
            return True

    app = serve(Eager, limits=Limits(outbox_bytes=80))
    async with simulate(app) as client, client.connect("/") as ann:
        assert await ann.receive_json() == "x" * 50

    assert "accept first" in raised[0]


# Route WebSockets beside HTTP.


async def test_middleware_sees_the_attributes_of_the_class(load):
    """Before there is an instance."""
    seen = []

    class Note:
        async def process_resource_ws(self, req, ws, resource, params):
            seen.append(req.context.audience)

    module = load("how_to/routes.py")
    module.app.add_middleware(Note())
    async with simulate(module.app) as client, client.connect("/rooms/tea"):
        pass

    assert seen == ["members"]


@pytest.mark.parametrize("path", ["/app/rooms/tea", "/rooms/tea"])
async def test_a_prefix_is_there_or_is_not(load, path):
    """A proxy may strip it; the path by name has none."""
    app = load("how_to/routes.py").app
    async with simulate(app) as client, client.connect(path, root_path="/app") as ann:
        page = await client.http.simulate_get(path, root_path="/app")

        assert await ann.receive_json() == {"url": "/rooms/tea"}
    assert page.json == {"room": "tea"}


@pytest.mark.parametrize("template", ["chat", "//chat"])
def test_a_template_that_no_path_matches_is_refused(template):
    """When the route is added."""
    app = falcon.asgi.App()
    install(app)

    with pytest.raises(RouteTemplateError):
        app.add_websocket_route(template, WebSocketResource)


# Falcon's own WebSockets.


async def test_an_adopted_websocket_is_reached_until_it_ends(load):
    """By rooms and by its id; and it can be closed."""
    app = load("how_to/adopt.py").app
    async with simulate(app) as client:
        async with client.connect("/ticker?id=bank-7") as bank:
            while not await client.manager.count(to.room("ticker")):  # noqa: ASYNC110  # no event tells it
                await asyncio.sleep(0)
            await client.manager.broadcast_to_room("ticker", {"type": "price"})
            await client.manager.send_to_connection("bank-7", {"type": "you"})
            heard = [(await bank.receive_json())["type"] for _ in range(2)]
            await client.manager.disconnect("bank-7", 4001)
            await bank.expect_close(4001)

        assert heard == ["price", "you"]
        assert await client.manager.count() == 0


# Disconnect.


async def test_a_handshake_that_began_before_a_disconnect_is_denied(serve):
    """And leaves no room behind; one that begins later is let in."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def authenticate(_req):
        asked.set()
        await answer.wait()
        return "ann"

    class Room(WebSocketResource):
        async def on_connect(self, req, ws):
            await self.join_room("lobby")
            return True

    async with simulate(serve(Room, authenticate=authenticate)) as client:
        early = asyncio.create_task(client.connect("/").__aenter__())
        await asked.wait()
        await client.manager.disconnect(to.user("ann"), 4003)
        answer.set()
        with pytest.raises(HandshakeDenied):
            await early
        rooms = await client.manager.get_rooms_by_prefix("")
        async with client.connect("/"):
            later = await client.manager.get_rooms_by_prefix("")

    assert (rooms, later) == ([], ["lobby"])


async def test_a_disconnected_client_is_heard_no_more(serve):
    """Its handler is cancelled at once, and what it sends while it ends reaches nobody."""
    begun, stopped = asyncio.Event(), asyncio.Event()

    class Room(WebSocketResource):
        async def on_connect(self, req, ws):
            await self.join_room("lobby")
            return True

        @handles_message("work")
        async def work(self, ws):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await self.broadcast_to_room("lobby", "one last word")
                stopped.set()

    async with (
        simulate(serve(Room)) as client,
        client.connect("/") as ann,
        client.connect("/") as bob,
    ):
        await ann.send({"type": "work"})
        await begun.wait()
        (busy,) = (ws for ws in client.manager._registry.all() if ws._session.is_busy)
        await client.manager.disconnect(busy.id, 4003)
        await ann.expect_close(4003)
        await stopped.wait()

        await bob.expect_nothing()


# Readable denials.


def test_the_page_reads_what_the_server_writes(pages, region):
    """The pattern of the script finds the seconds in each reason of the page that has them."""
    source = region("how_to/denied.js#why")
    (pattern,) = re.findall(r"/(retry in .+?)/", source)
    page = pages["docs/how-to/deny-a-handshake.md"].text
    (reason,) = re.findall(r"is closed: 3503 \(registered\) (.+)", page)

    assert re.search(pattern, reason)[1] == "600"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (MessageError("full", status=409), (3409, "full")),
        (falcon.HTTPTooManyRequests(retry_after=7), (3429, "429 Too Many Requests; retry in 7 s")),
        (falcon.HTTPMovedPermanently("/else"), (3301, "Moved Permanently")),
    ],
)
async def test_a_denial_is_readable_for_those_who_offer_to_read(serve, given, seen):
    """The status plus 3000, and the title; it is not accepted, and counts as denied."""

    class Door(WebSocketResource):
        async def on_connect(self, req, ws):
            raise given

    app = serve(Door)
    async with simulate(app) as client:
        async with client.connect("/", subprotocols=["pachinko.json"]) as ann:
            with pytest.raises(falcon.WebSocketDisconnected):
                await ann.receive()
        status = client.manager.status()

    assert (ann.close_code, ann.close_reason) == seen
    assert (status["denied"], status["accepted"]) == (1, 0)


async def test_a_close_before_the_accept_is_readable_as_it_is(serve):
    """Its own code and reason; a client without the subprotocol sees 403."""

    class Door(WebSocketResource):
        async def on_connect(self, req, ws):
            await ws.close(4409, "Full.")

    async with simulate(serve(Door)) as client:
        async with client.connect("/", subprotocols=["pachinko.json"]) as ann:
            await ann.expect_close(4409)
        with pytest.raises(HandshakeDenied, match="403"):
            await client.connect("/").__aenter__()

    assert ann.close_reason == "Full."


async def test_readable_denials_can_be_switched_off():
    """Then a client gets the status, and may still speak the subprotocol."""
    app = falcon.asgi.App()
    install(app, readable_denials=False)
    app.add_websocket_route("/", WebSocketResource)
    async with simulate(app) as client:
        with pytest.raises(HandshakeDenied, match="404"):
            await client.connect("/nowhere", subprotocols=["pachinko.json"]).__aenter__()
        async with client.connect("/", subprotocols=["pachinko.json"]) as ann:
            assert ann.subprotocol == "pachinko.json"


@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}])
async def test_a_foreign_page_is_told_no_more_than_its_status(header):
    """Whatever it offers."""
    app = falcon.asgi.App()
    install(app, allowed_hosts="localhost")
    app.add_websocket_route("/", WebSocketResource)
    async with simulate(app) as client:
        for path in ("/", "/nowhere"):
            with pytest.raises(HandshakeDenied):
                await client.connect(
                    path, headers=header, subprotocols=["pachinko.json"]
                ).__aenter__()


# Types of one's own, refusals, and the query.


async def test_what_no_hook_knows_is_not_sent(load):
    """The sender gets an error that names the option."""
    app = load("how_to/custom_types.py").app
    async with simulate(app) as client, client.connect("/files"):
        with pytest.raises(EncodeError, match="enc_hook"):
            await client.manager.broadcast_to_all(object())


def test_a_foreign_type_without_a_hook_is_refused_when_it_is_routed(load):
    """Not when the first client sends one."""
    app = falcon.asgi.App()
    install(app)

    with pytest.raises(HandlerDefinitionError, match="dec_hook"):
        app.add_websocket_route("/files", load("how_to/custom_types.py").Files)


async def test_refusals_are_counted_by_the_hook(load):
    """The hook is asked before the resource, which may answer as long as the hook did not."""
    module = load("how_to/refusals.py")
    (hook,) = module.Chat.hooks
    async with simulate(module.app) as client, client.connect("/chat") as ann:
        for frame in ('{"type": "sing"}', "?", '{"type": "say", "payload": 5}'):
            await ann.send_text(frame)
            await ann.expect("error")

    assert hook.counts == {"unknown_type": 1, "invalid_json": 1, "invalid_payload": 1}


async def test_what_the_query_does_not_know_is_ignored(load):
    """A token may stand beside; a blank value is an empty text, and commas do not split."""
    app = load("how_to/query.py").app
    path = "/shops/tea?token=5f2a&tags=&tags=a,b"
    async with simulate(app) as client, client.connect(path) as ann:
        answer = await ann.request("show")

    assert answer["payload"]["tags"] == ["", "a,b"]


@pytest.mark.parametrize("annotation", [dict, int])
def test_another_query_than_a_struct_is_refused(annotation):
    """When the route is added."""

    class Shop(WebSocketResource):
        async def on_connect(self, req, ws, *, query: annotation):
            return True

    app = falcon.asgi.App()
    install(app)

    with pytest.raises(HandlerDefinitionError, match="query"):
        app.add_websocket_route("/", Shop)


# User ids.


@pytest.mark.parametrize("user_id", ["", "  ", "ann\n", "x" * 201, "~ann"])
async def test_what_cannot_be_a_user_id_is_refused_wherever_it_is_given(serve, user_id):
    """By the principal, and by a connection."""
    refused = []

    class Desk(WebSocketResource):
        async def on_connect(self, req, ws):
            try:
                ws.user_id = user_id
            except InvalidNameError as error:
                refused.append(error.code)
            return True

    with pytest.raises(InvalidNameError):
        Principal(user_id=user_id)
    async with simulate(serve(Desk)) as client, client.connect("/"):
        pass

    assert refused == ["invalid_name"]


async def test_a_stranger_is_present_under_an_id_that_no_user_has(serve):
    """It begins with the sign that user ids may not begin with."""

    class Lobby(WebSocketResource):
        async def on_connect(self, req, ws):
            await self.track("lobby")
            return True

    async with simulate(serve(Lobby)) as client, client.connect("/"):
        (key,) = await client.manager.presence("lobby")

    assert key.startswith("~")


@pytest.mark.parametrize(
    "moment", [1893456000, "2030-01-01", datetime.fromisoformat("2030-01-01T12:00:00")]
)
def test_a_time_that_is_not_one_everywhere_is_refused(moment):
    """With what to write instead."""
    with pytest.raises((TypeError, ValueError), match="datetime"):
        Principal(user_id="ann", expires_at=moment)


# Who waits for a client.


class Sender(WebSocketResource):
    """Sends, in one way or another, while its own client reads nothing."""

    def __init__(self, way, here, done):
        self.way, self.here, self.done = way, here, done

    async def on_connect(self, req, ws):
        ws.user_id = req.get_param("name")
        await self.join_room("all")
        return True

    @handles_message("send")
    async def send_somehow(self, ws):
        self.here.set()
        await self.way(self)
        self.done.set()


async def send_to_itself(resource):
    await resource.send("x")


async def send_in_a_task(resource):
    await asyncio.create_task(resource.send("x"))


async def broadcast_to_the_room(resource):
    await resource.broadcast_to_room("all", "x")


async def broadcast_in_a_task(resource):
    await asyncio.create_task(resource.broadcast_to_room("all", "x"))


async def broadcast_to_the_others(resource):
    await resource.broadcast_to_room("all", "x", exclude_self=True)


@pytest.mark.parametrize(
    ("way", "waits"),
    [
        (send_to_itself, True),
        (send_in_a_task, True),
        (broadcast_to_the_room, True),
        (broadcast_in_a_task, False),
        (broadcast_to_the_others, False),
    ],
)
async def test_who_waits_for_a_client_that_reads_nothing(serve, way, waits):
    """Its own code, and a broadcast of its own that includes it; everybody else goes on."""
    here, done = asyncio.Event(), asyncio.Event()
    app = serve(Sender, limits=Limits(outbox_bytes=100), way=way, here=here, done=done)
    async with (
        simulate(app, write_buffer=1) as client,
        client.connect("/?name=ann") as ann,
        client.connect("/?name=bob") as bob,
    ):
        await ann.stall()
        for _ in range(2):  # one is in the server's buffer, and one is being written
            await client.manager.send_to_user("ann", "y" * 60)
        await ann.send({"type": "send"})
        await here.wait()
        if "broadcast" in way.__name__:
            assert await bob.receive_json() == "x"  # everybody is served first
        for _ in range(5):
            await asyncio.sleep(0)
        waited = not done.is_set()
        await ann.resume()
        await done.wait()

    assert waited is waits
