"""The reference of the wire format: its tables are true, row by row."""

import asyncio
import contextlib
import json
import re
import time
from textwrap import indent

import falcon
import falcon.asgi
import msgspec
import pytest

from falcon_pachinko import (
    Limits,
    Principal,
    WebSocketResource,
    everyone,
    handles_message,
    install,
)
from falcon_pachinko.testing import HandshakeDenied, simulate

PAGE = "docs/reference/wire-format.md"


def serve(resource, limits=None, authenticate=None, **init_kwargs):
    """Make an app with one resource at the root path."""
    app = falcon.asgi.App()
    install(app, limits=limits, authenticate=authenticate)
    app.add_websocket_route("/", resource, **init_kwargs)
    return app


async def closing(client):
    """Receive until the other side closes; give the code."""
    with contextlib.suppress(falcon.WebSocketDisconnected):
        while True:
            await client.receive()
    return client.close_code


# The handshake.


async def a_stranger(_req):
    """Tell of nobody who they are."""
    raise falcon.HTTPUnauthorized


async def ann(_req):
    """Tell of everybody that it is Ann."""
    return "ann"


DENIALS = {
    "origins": {"origins": "https://app.example"},
    "allowed_hosts": {"allowed_hosts": "app.example"},
    "authenticate": {"authenticate": a_stranger},
    "Limits.connections": {"limits": Limits(connections=1)},
    "Limits.connections_per_address": {"limits": Limits(connections_per_address=1)},
    "Limits.connections_per_user": {
        "limits": Limits(connections_per_user=1),
        "authenticate": ann,
    },
}


async def test_who_may_not_come_in_is_told_as_the_table_says(pages):
    """With each setting of the table, a second client of a foreign page is denied like that."""
    promised = {row[2].strip("`"): row[1] for row in pages[PAGE].table("admission")}

    assert {setting: await denial(**options) for setting, options in DENIALS.items()} == promised


async def denial(**options):
    """Say what a client sees of an app with these options, once another one is there."""
    app = falcon.asgi.App()
    install(app, **options)
    app.add_websocket_route("/", WebSocketResource)
    origin = {"Origin": "https://elsewhere.example"} if "origins" in options else {}
    async with simulate(app) as client:
        try:
            async with client.connect("/", headers=origin), client.connect("/"):
                return "accepted"
        except HandshakeDenied as denied:
            return f"HTTP {denied.status}"


async def test_on_connect_has_the_outcome_that_the_table_promises(on_connect_row):
    """The code of a row is the body of an ``on_connect``, and a client sees what comes of it."""
    code = "\n".join(re.findall(r"`([^`]+)`", on_connect_row[0]))
    namespace = {"falcon": falcon}
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


@pytest.mark.parametrize(
    ("offers", "agreed"),
    [
        (["tea.v2", "pachinko.msgpack"], "tea.v2"),
        (["pachinko.msgpack", "tea.v2"], "pachinko.msgpack"),
        (["tea.v3", "tea.v2"], "tea.v2"),
        (["tea.v3"], None),
        ([], None),
    ],
)
async def test_the_first_known_subprotocol_of_the_client_is_agreed_on(offers, agreed):
    """Its order counts; none that is known is no reason to deny."""

    class Versioned(WebSocketResource):
        subprotocols = ("tea.v2",)

    async with (
        simulate(serve(Versioned)) as client,
        client.connect("/", subprotocols=offers) as ann,
    ):
        assert ann.subprotocol == agreed


# Errors.


@pytest.mark.parametrize(
    ("frame", "code"),
    [(b"\xc1", "invalid_message"), ('{"type": "close"}', "unsupported_frame")],
    ids=["malformed", "text"],
)
async def test_with_messagepack_two_errors_mean_something_else(frame, code):
    """What is no MessagePack is an invalid message, and a text frame is not supported."""
    app = serve(Watched, ends=asyncio.Queue())
    async with (
        simulate(app) as client,
        client.connect("/", subprotocols=["pachinko.msgpack"]) as ann,
    ):
        await (ann.send_text if isinstance(frame, str) else ann.send_data)(frame)
        answer = msgspec.msgpack.decode(await ann.receive_data())

    assert answer["payload"]["code"] == code


def test_every_error_code_of_the_table_is_shown(pages):
    """A code that stands in the table is in a frame of a transcript, which is played."""
    page = pages[PAGE]
    listed = {row[0].strip("`") for row in page.table("error codes")}
    frames = [
        json.loads(line[2:])
        for block in page.blocks
        if block.marker == "transcript"
        for line in block.text.splitlines()
        if line.startswith("< ")
    ]
    shown = {frame["payload"]["code"] for frame in frames if frame["type"] == "error"}

    assert shown - {"sold_out", "forbidden"} == listed  # the two are the application's own


# Close codes: each function brings one about, and gives what came.


class Watched(WebSocketResource):
    """Closes when it is told to, and notes how its connections ended."""

    def __init__(self, ends):
        self.ends = ends

    @handles_message("close")
    async def close(self, ws, payload: int | None):
        await (ws.close() if payload is None else ws.close(payload))

    async def on_disconnect(self, ws, close_code):
        self.ends.put_nowait(close_code)


async def closed_by_the_handler(*code):
    """Close from a handler; 1000 unless another code is given."""
    app = serve(Watched, ends=asyncio.Queue())
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send_json({"type": "close", "payload": code[0] if code else None})
        return await closing(ann)


async def closed_by_the_manager():
    """Close from outside, with no code."""
    app = serve(Watched, ends=asyncio.Queue())
    async with simulate(app) as client, client.connect("/") as ann:
        await client.manager.disconnect(everyone)
        return await closing(ann)


async def dropped():
    """Let the client vanish."""
    ends = asyncio.Queue()
    async with simulate(serve(Watched, ends=ends)) as client:
        async with client.connect("/") as ann:
            await ann.drop()
        return await ends.get()


async def deaf():
    """Let the client read nothing for longer than ``send_timeout``."""
    ends = asyncio.Queue()
    app = serve(Watched, Limits(send_timeout=0.01), ends=ends)
    async with simulate(behind(asyncio.Event(), app)) as client, client.connect("/"):
        await app.ws_connection_manager.broadcast_to_all("Hello?")
        return await ends.get()


async def slow():
    """Let more wait for the client than ``outbox_bytes``."""
    wire = asyncio.Event()
    app = serve(Watched, Limits(outbox_bytes=10), ends=asyncio.Queue())
    async with simulate(behind(wire, app)) as client, client.connect("/") as ann:
        for _ in range(2):
            await app.ws_connection_manager.broadcast_to_all("Hello?")
        wire.set()
        return await closing(ann)


async def impatient():
    """Send more than ``inbox_messages`` to a handler that is busy."""
    done = asyncio.Event()

    class Busy(WebSocketResource):
        @handles_message("work")
        async def work(self, ws):
            await done.wait()

    app = serve(Busy, Limits(inbox_messages=1))
    async with simulate(app) as client, client.connect("/") as ann:
        for _ in range(3):
            await ann.send_json({"type": "work"})
        code = await closing(ann)
        done.set()
        return code


async def over_a_limit(frames, **limits):
    """Send frames that a limit does not allow."""
    app = serve(Watched, Limits(**limits), ends=asyncio.Queue())
    async with simulate(app) as client, client.connect("/") as ann:
        for _ in range(frames):
            await ann.send_text("Hello?")
        return await closing(ann)


async def failed_once_accepted(error):
    """Fail in ``on_connect``, too late to deny."""

    class Hasty(WebSocketResource):
        async def on_connect(self, req, ws):
            await ws.accept()
            raise error

    async with simulate(serve(Hasty)) as client, client.connect("/") as ann:
        return await closing(ann)


async def failed_for_good():
    """Fail in a handler of a resource that does not go on then."""

    class Strict(WebSocketResource):
        close_on_error = True

        @handles_message("fail")
        async def fail(self, ws):
            raise ZeroDivisionError

    async with simulate(serve(Strict)) as client, client.connect("/") as ann:
        await ann.send_json({"type": "fail"})
        return await closing(ann)


async def expired():
    """Be let in for a time that is over already."""

    async def let_in(_req):
        return Principal(user_id="ann", expires_at=time.time())

    app = serve(Watched, authenticate=let_in, ends=asyncio.Queue())
    async with simulate(app) as client, client.connect("/") as ann:
        return await closing(ann)


async def shut_down():
    """Stop the server."""
    async with contextlib.AsyncExitStack() as stack:
        async with simulate(serve(Watched, ends=asyncio.Queue())) as client:
            ann = await stack.enter_async_context(client.connect("/"))
        return await closing(ann)


def behind(wire, app):
    """Put an app behind a wire on which no frame moves until an event is set."""

    async def on_the_wire(scope, receive, send):
        async def crawl(event):
            if event["type"] == "websocket.send":
                await wire.wait()
            await send(event)

        await app(scope, receive, crawl)

    return on_the_wire


ENDS = [
    ("1000", closed_by_the_handler, (), {}),
    ("1000", closed_by_the_manager, (), {}),
    ("1006", dropped, (), {}),
    ("1006", deaf, (), {}),
    ("1008", impatient, (), {}),
    ("1008", over_a_limit, (2,), {"burst": 1, "messages_per_second": 0.01}),
    ("1009", over_a_limit, (1,), {"message_bytes": 5}),
    ("1011", failed_once_accepted, (ZeroDivisionError(),), {}),
    ("1011", failed_for_good, (), {}),
    ("1012", shut_down, (), {}),
    ("1013", slow, (), {}),
    ("3400-3599", failed_once_accepted, (falcon.HTTPConflict(),), {}),
    ("4401", expired, (), {}),
    ("4000-4999", closed_by_the_handler, (4000,), {}),
    ("4000-4999", closed_by_the_handler, (4999,), {}),
]


@pytest.mark.parametrize(("row", "end", "arguments", "limits"), ENDS)
async def test_a_close_code_means_what_the_table_says(row, end, arguments, limits):
    """What the table says brings a code about does so."""
    first, _, last = row.partition("-")

    assert int(first) <= await end(*arguments, **limits) <= int(last or first)


def test_every_close_code_of_the_table_is_tried(pages):
    """No row of the table is a mere promise."""
    listed = {row[0] for row in pages[PAGE].table("close codes")}

    assert {row for row, *_ in ENDS} == listed
