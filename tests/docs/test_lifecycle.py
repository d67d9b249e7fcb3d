"""The reference of the lifecycle: its tables are true, row by row."""

import asyncio
import contextlib
import contextvars
import re
from textwrap import indent

import falcon
import falcon.asgi
import msgspec
import pytest

from falcon_pachinko import Limits, MessageError, WebSocketResource, handles_message, install, to
from falcon_pachinko.testing import HandshakeDenied, simulate

PAGE = "docs/reference/lifecycle.md"


# Who is let in.


async def a_stranger(_req):
    """Tell of nobody who they are."""
    raise falcon.HTTPUnauthorized


async def ann(_req):
    """Tell of everybody that it is Ann."""
    return "ann"


DENIALS = {
    "": {},
    "Limits.connections": {"limits": Limits(connections=1)},
    "Limits.connections_per_address": {"limits": Limits(connections_per_address=1)},
    "allowed_hosts": {"allowed_hosts": "app.example"},
    "origins": {"origins": "https://app.example"},
    "authenticate": {"authenticate": a_stranger},
    "Limits.connections_per_user": {
        "limits": Limits(connections_per_user=1),
        "authenticate": ann,
    },
}


async def denial(options):
    """Give the denial that a client gets from an app with these options, once another is there."""
    app = falcon.asgi.App()
    install(app, **options)
    app.add_websocket_route("/", WebSocketResource)
    origin = {"Origin": "https://elsewhere.example"} if "origins" in options else {}
    async with simulate(app) as client, contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(client.connect("/", headers=origin))
            client.manager._draining = not options  # the row without a setting
            await stack.enter_async_context(client.connect("/"))
        except HandshakeDenied as denied:
            return denied
    raise AssertionError("both were let in")


async def test_who_may_not_come_in_is_told_as_the_table_says(pages):
    """With each setting of the table, one client too many is denied like that."""
    promised = {row[2].strip("`"): row[1] for row in pages[PAGE].table("admission")}
    denials = {setting: await denial(options) for setting, options in DENIALS.items()}

    assert {setting: f"HTTP {denied.status}" for setting, denied in denials.items()} == promised
    for setting in denials.keys() - {"", "authenticate"}:
        assert setting.removeprefix("Limits.") in denials[setting].body.decode()


HOST, ORIGIN = {"Host": "app.example"}, {"Origin": "https://app.example"}


@pytest.mark.parametrize(
    ("setting", "limits", "headers"),
    [
        ("allowed_hosts", Limits(connections=1, connections_per_address=1), {}),
        ("origins", Limits(connections=1, connections_per_address=1), HOST),
        (
            "Limits.connections",
            Limits(connections=1, connections_per_address=1),
            HOST | ORIGIN,
        ),
        ("Limits.connections_per_address", Limits(connections_per_address=1), HOST | ORIGIN),
        ("authenticate", None, HOST | ORIGIN),
    ],
)
async def test_the_upmost_reason_of_the_table_is_told(pages, setting, limits, headers):
    """A client whom everything below the row speaks against as well is told of that row."""

    async def authenticate(req):
        if req.get_header("Authorization") is None:
            raise falcon.HTTPUnauthorized(description="authenticate")
        return "ann"

    app = falcon.asgi.App()
    install(
        app,
        limits=limits,
        origins="https://app.example",
        allowed_hosts="app.example",
        authenticate=authenticate,
    )
    app.add_websocket_route("/", WebSocketResource)
    foreign = {"Origin": "https://elsewhere.example"}
    async with simulate(app) as client, client.connect("/", headers=HOST | {"Authorization": "x"}):
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect("/", headers=foreign | headers):
                pass
    rows = {row[2].strip("`"): row[1] for row in pages[PAGE].table("admission")}

    assert f"HTTP {denied.value.status}" == rows[setting]
    assert setting.removeprefix("Limits.") in denied.value.body.decode()


async def test_a_path_without_a_route_is_404():
    """Before anything of ours is asked, Falcon looks for the route."""
    app = falcon.asgi.App()
    install(app, allowed_hosts="app.example")
    async with simulate(app) as client:
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect("/"):
                pass

    assert denied.value.status == 404


# What on_connect may do.


async def test_on_connect_has_the_outcome_that_the_table_promises(serve, on_connect_row):
    """The code of a row is the body of an ``on_connect``, and a client sees what comes of it."""
    code = "\n".join(re.findall(r"`([^`]+)`", on_connect_row[0]))
    namespace = {"falcon": falcon, "MessageError": MessageError}
    exec(f"async def on_connect(self, req, ws):\n{indent(code, '    ')}", namespace)
    goodbyes = []

    class Door(WebSocketResource):
        on_connect = namespace["on_connect"]

        async def on_disconnect(self, ws, close_code):
            goodbyes.append(close_code)

        @handles_message("knock")
        async def knock(self, ws): ...

    async with simulate(serve(Door)) as client:
        seen = await knock(client.connect("/"))

    assert [seen, {0: "no", 1: "yes"}[len(goodbyes)]] == on_connect_row[1:]


async def knock(client):
    """Say what a client sees, in the words of the table."""
    try:
        async with client:
            await client.request("knock")
    except HandshakeDenied as denied:
        return f"HTTP {denied.status}"
    except falcon.WebSocketDisconnected:
        return f"accepted, closed with {client.close_code} ({client.close_reason})"
    return "accepted"


async def test_what_was_sent_before_a_denial_is_discarded_and_its_rooms_are_left(serve):
    """A client that is denied gets nothing, and is nowhere."""

    class Door(WebSocketResource):
        async def on_connect(self, req, ws):
            await self.join_room("hall")
            await self.send("Hello?")
            return False

    async with simulate(serve(Door)) as client:
        with pytest.raises(HandshakeDenied):
            async with client.connect("/"):
                pass

        assert await client.manager.get_rooms_by_prefix("") == []


# The end.


class Watched(WebSocketResource):
    """Closes when it is told to, and notes the code that it says goodbye to."""

    def __init__(self, ends):
        self.ends = ends

    @handles_message("close")
    async def close(self, ws, payload: int):
        await ws.close(payload)

    async def on_disconnect(self, ws, close_code):
        self.ends.put_nowait((close_code, ws.close_code, ws.rooms, ws.tags, ws.user_id))


async def closed_by_the_client(client, ann):
    await ann.close(4321)


async def vanished(client, ann):
    await ann.drop()


async def closed_by_the_manager(client, ann):
    (there,) = await client.manager.get_connections_in_room("hall")
    await client.manager.disconnect(to.connection(there.id), 4001)


async def deaf(client, ann):
    await ann.stall()
    for _ in range(2):
        await client.manager.broadcast_to_all("Hello?")


async def shut_down(client, ann):
    await client.stop()


async def cancelled(client, ann):
    ann.task.cancel()


ENDS = {
    "the client closed, with a code": (closed_by_the_client, 4321),
    "the client disconnected without a close frame": (vanished, 1006),
    "the client did not read for `send_timeout` seconds": (deaf, 1006),
    "`ws.close(4001)`, or `manager.disconnect(..., 4001)`": (closed_by_the_manager, 4001),
    "the server shuts down": (shut_down, 1012),
    "the server cancels the connection's task": (cancelled, 1012),
}


@pytest.mark.parametrize("row", ENDS)
async def test_on_disconnect_gets_the_code_of_the_table(serve, pages, row):
    """Rooms and tags are gone by then, the user is not; the connection has the code, too."""
    end, code = ENDS[row]
    ends = asyncio.Queue()

    class Member(Watched):
        async def on_connect(self, req, ws):
            await self.join_room("hall")
            await ws.add_tag("pro")
            ws.user_id = "ann"
            return True

    app = serve(Member, limits=Limits(send_timeout=0.02), ends=ends)
    async with simulate(app, write_buffer=1) as client, client.connect("/") as ann:
        await end(client, ann)

        assert await ends.get() == (code, code, frozenset(), frozenset(), "ann")
    promised = dict(pages[PAGE].table("ends"))[row]
    assert promised in (str(code), "that one")


async def test_a_close_without_a_code_is_1005(serve, pages):
    """A server reports such a close frame so, with an empty reason."""
    ends = asyncio.Queue()
    app = serve(Watched, ends=ends)

    async def server(scope, receive, send):
        async def receive_from_client():
            event = await receive()
            if event["type"] == "websocket.disconnect":
                event |= {"code": 1005, "reason": ""}
            return event

        await app(scope, receive_from_client, send)

    async with simulate(server) as client, client.connect("/") as ann:
        await ann.close()
        code, *_ = await ends.get()

    assert str(code) == dict(pages[PAGE].table("ends"))["the client closed, without a code"]


def test_every_end_of_the_table_is_tried(pages):
    """No row is a mere promise; the reasons of the last are on a page of their own."""
    elsewhere = {
        "the client closed, without a code",
        "a limit, an expiry, a failure",
        "it ended before it was accepted",
    }

    assert {row[0] for row in pages[PAGE].table("ends")} == ENDS.keys() | elsewhere


# What still runs.


BEFORE = ("on_connect", "accepted")
"""An ``on_connect`` that has not answered the client yet, and one that has, and goes on."""


class Busy(WebSocketResource):
    """Is busy until it is let go, and notes how that ended."""

    def __init__(self, story, go, here):
        self.story, self.go, self.here = story, go, here

    async def on_connect(self, req, ws):
        if req.get_param("busy") == "accepted":
            await ws.accept()
        if req.get_param("busy") in BEFORE:
            await self.work(ws, close=req.get_param("close") is not None)
        return True

    async def work(self, ws, *, close):
        self.here.put_nowait(ws)
        try:
            if close:
                await ws.close(4001)
            await self.go.wait()
        except asyncio.CancelledError:
            self.story.append("is cancelled")
            raise
        self.story.append("may finish")

    @handles_message("serial")
    async def serial(self, ws, payload: str):
        await self.work(ws, close=payload == "close")

    @handles_message("concurrent", concurrent=True)
    async def concurrent(self, ws, payload: str):
        await self.work(ws, close=payload == "close")

    async def on_disconnect(self, ws, close_code):
        self.story.append(str(close_code))


async def client_closes(client, ann, ws):
    await ann.close(4321)


async def client_vanishes(client, ann, ws):
    await ann.drop()


async def client_is_deaf(client, ann, ws):
    await deaf(client, ann)


async def code_closes(client, ann, ws):
    """It did so before it was busy."""


async def other_code_closes(client, ann, ws):
    await ws.close(4001)


async def manager_disconnects(client, ann, ws):
    await client.manager.disconnect(to.connection(ws.id), 4001)


async def time_is_over(client, ann, ws):
    ws._expire_in(0)


async def too_large(client, ann, ws):
    await ann.send_text("x" * 2000)


async def too_fast(client, ann, ws):
    for _ in range(6):
        await ann.send_json({"type": "ping"})


async def too_much_waits(client, ann, ws):
    await ann.stall()
    for _ in range(4):
        await client.manager.send_to_connection(ws.id, "x" * 600)
    await ann.resume()


async def drains(client, ann, ws):
    drain = asyncio.ensure_future(client.manager.drain(20))
    while client.manager.status()["state"] != "draining":  # noqa: ASYNC110  # no event tells it
        await asyncio.sleep(0)
    return drain


async def drains_for_too_short(client, ann, ws):
    await client.manager.drain(0.01)


async def shuts_down(client, ann, ws):
    stop = asyncio.ensure_future(client.stop())
    while not ws.closed:  # noqa: ASYNC110  # no event tells it
        await asyncio.sleep(0)
    return stop


async def server_cancels(client, ann, ws):
    ann.task.cancel()


HOW = {
    "the client closes with 4321": client_closes,
    "the client disconnects without a close frame": client_vanishes,
    "the client does not read for `send_timeout` seconds": client_is_deaf,
    "`ws.close(4001)` by the code that runs": code_closes,
    "`ws.close(4001)` by other code": other_code_closes,
    "`manager.disconnect(..., 4001)`": manager_disconnects,
    "`Principal.expires_at` is over": time_is_over,
    "a message over `message_bytes`": too_large,
    "messages over the rate": too_fast,
    "the client reads too slowly: more than `outbox_bytes` wait for it": too_much_waits,
    "`manager.drain(...)`": drains,
    "`manager.drain(...)`, when its time is over": drains_for_too_short,
    "the app's shutdown": shuts_down,
    "the server cancels its call": server_cancels,
}
NEVER = {
    "the client does not read for `send_timeout` seconds",
    "a message over `message_bytes`",
    "messages over the rate",
}
"""What cannot be before the accept: there, nothing is sent and no frame comes."""


def test_every_way_to_end_of_the_table_is_tried(pages):
    """The table has these rows, and an empty cell where there is nothing before the accept."""
    rows = {row[0]: row[2] for row in pages[PAGE].table("endings")}

    assert rows.keys() == HOW.keys()
    assert {how for how, cell in rows.items() if not cell} == NEVER


CELLS = [
    (how, busy)
    for how in HOW
    for busy in ("serial", "concurrent", *BEFORE)
    if busy != "on_connect" or how not in NEVER
]


@pytest.mark.parametrize(("how", "busy"), CELLS)
async def test_what_runs_at_the_end_is_what_the_table_says(serve, pages, monkeypatch, how, busy):
    """What becomes of it, the code that ``on_disconnect`` gets after it, and what a client sees."""
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)
    story, go, here = [], asyncio.Event(), asyncio.Queue()
    limits = Limits(
        handler_grace=60,
        message_bytes=1000,
        messages_per_second=0.01,
        burst=5,
        outbox_bytes=1000,
        send_timeout=0.05 if how.startswith("the client does not read") else 60,
    )
    app = serve(Busy, limits=limits, story=story, go=go, here=here)
    closes = how == "`ws.close(4001)` by the code that runs"
    async with simulate(app, write_buffer=1) as client:
        ann = client.connect(f"/?busy={busy}{'&close=1' if closes else ''}")
        opening = asyncio.ensure_future(ann.__aenter__())
        if busy != "on_connect":
            await opening
        if busy not in BEFORE:
            await ann.send_json({"type": busy, "payload": "close" if closes else "stay"})
        ws = await here.get()
        ending = await HOW[how](client, ann, ws)
        while not (ws.closed or ending or busy == "on_connect"):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0)
        for _ in range(3):  # a cancellation arrives in the loop's next turn
            await asyncio.sleep(0)
        go.set()
        seen = await sight(opening, ann)
        await asyncio.wait([ann.task])
        if ending is not None:
            await ending
    _, handler, on_connect, codes, sights = next(
        row for row in pages[PAGE].table("endings") if row[0] == how
    )

    before = busy == "on_connect" and how != "`manager.drain(...)`"
    fate = on_connect if busy == "on_connect" else handler
    code = codes.split(", or ")[-1 if before else 0]
    assert story == ([fate] if before and fate == "is cancelled" else [fate, code])
    if not how.startswith("the client"):
        assert sights.split(", or ")[-1 if before else 0].endswith(seen)


async def sight(opening, ann):
    """Say what a client has seen of the end, in the words of the table."""
    try:
        await opening
        while True:
            await ann.receive()
    except HandshakeDenied as denied:
        return f"HTTP {denied.status}"
    except falcon.WebSocketDisconnected:
        return str(ann.close_code)


@pytest.mark.parametrize(
    ("how", "handled"), [(client_closes, ["1", "2"]), (client_vanishes, ["1", "2"])]
)
async def test_what_a_client_sent_before_it_left_is_still_handled(serve, monkeypatch, how, handled):
    """It waits in the inbox while a handler is busy, and is not lost with its sender."""
    assert await what_is_handled(serve, monkeypatch, how) == handled


@pytest.mark.parametrize("how", [manager_disconnects, drains])
async def test_what_waits_is_dropped_when_it_is_we_who_close(serve, monkeypatch, how):
    """At most the handler that runs may finish."""
    assert await what_is_handled(serve, monkeypatch, how) in ([], ["1"])


async def what_is_handled(serve, monkeypatch, how):
    """Send two messages, of which the first keeps the handler busy; end; say which were handled."""
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)
    handled, go, here = [], asyncio.Event(), asyncio.Queue()

    class Desk(WebSocketResource):
        @handles_message("work")
        async def work(self, ws, payload: str):
            here.put_nowait(ws)
            await go.wait()
            handled.append(payload)

    async with simulate(serve(Desk)) as client, client.connect("/") as ann:
        for number in "12":
            await ann.send_json({"type": "work", "payload": number})
        ws = await here.get()
        while not ws._session._inbox._frames:  # noqa: ASYNC110  # no event tells it
            await asyncio.sleep(0)
        ending = await how(client, ann, ws)
        for _ in range(3):  # the end arrives in the loop's next turn
            await asyncio.sleep(0)
        go.set()
        await asyncio.wait([ann.task])
        if ending is not None:
            await ending
    return handled


async def test_on_disconnect_runs_to_its_end_although_the_task_is_cancelled(serve):
    """A server that cancels the connection's task waits for the clean-up, and cuts none short."""
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Tidy(WebSocketResource):
        async def on_disconnect(self, ws, close_code):
            begun.set()
            await go_on.wait()
            ended.set()

    async with simulate(serve(Tidy)) as client:
        ann = client.connect("/")
        await ann.__aenter__()
        await ann.drop()
        await begun.wait()
        ann.task.cancel()
        go_on.set()
        await asyncio.wait([ann.task])

        assert ended.is_set()


# Nested resources, and one task.


class Parent(WebSocketResource):
    """Lets everybody in, and notes whom it says goodbye to."""

    goodbyes: list

    async def on_connect(self, req, ws):
        return True

    async def on_disconnect(self, ws, close_code):
        self.goodbyes.append((ws.accepted, close_code))


class Paging(msgspec.Struct):
    page: int


class Picky(WebSocketResource):
    """Denies by its query, or by itself."""

    async def on_connect(self, req, ws, *, query: Paging):
        return query.page > 0

    async def on_disconnect(self, ws, close_code):
        raise AssertionError("it has let nobody in")


@pytest.mark.parametrize(("query", "status"), [("page=x", 400), ("page=0", 403)])
async def test_a_parent_cleans_up_although_its_child_has_denied(query, status):
    """It had let the client in; the child, which had not, says no goodbye."""
    goodbyes = []

    class Noting(Parent):
        pass

    Noting.goodbyes = goodbyes
    app = falcon.asgi.App()
    install(app)
    app.add_websocket_route("/a", Noting).add_route("/b", Picky)
    async with simulate(app) as client:
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect(f"/a/b?{query}"):
                pass

    assert denied.value.status == status
    assert goodbyes == [(False, 1006)]


async def test_a_time_out_may_span_a_connections_life(serve):
    """`on_connect` and `on_disconnect` run in one task, in one context."""
    name = contextvars.ContextVar("name")
    ended = []

    class Guarded(WebSocketResource):
        async def on_connect(self, req, ws):
            self.guard = asyncio.timeout(60)
            await self.guard.__aenter__()
            name.set("ann")
            return True

        async def on_disconnect(self, ws, close_code):
            await self.guard.__aexit__(None, None, None)
            ended.append(name.get())

    async with simulate(serve(Guarded)) as client, client.connect("/"):
        pass

    assert ended == ["ann"]


# Who may read a denial.


@pytest.mark.parametrize("setting", [each for each in DENIALS if each])
async def test_what_a_page_may_read_is_what_the_page_says(setting):
    """Host, Origin, and the limits that guard the server keep their status."""
    options = DENIALS[setting]
    app = falcon.asgi.App()
    install(app, **options)
    app.add_websocket_route("/", WebSocketResource)
    headers = {"Origin": "https://elsewhere.example"} if setting == "origins" else {}
    offers = {"headers": headers, "subprotocols": ["pachinko.json"]}
    readable = {"authenticate": 3401, "Limits.connections_per_user": 3429}
    async with simulate(app) as client, contextlib.AsyncExitStack() as stack:
        seen = None
        try:
            for _ in range(2):
                ann = await stack.enter_async_context(client.connect("/", **offers))
        except HandshakeDenied:
            pass
        else:
            with pytest.raises(falcon.WebSocketDisconnected):
                await ann.receive()
            seen = ann.close_code

    assert seen == readable.get(setting)
