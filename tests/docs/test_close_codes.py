"""The reference of close codes: each function brings one about, and gives what came."""

import asyncio
import contextlib
from datetime import UTC, datetime

import falcon
import pytest

from falcon_pachinko import Hook, Limits, Principal, WebSocketResource, handles_message, to
from falcon_pachinko.testing import simulate

PAGE = "docs/reference/close-codes.md"


async def closing(client):
    """Receive until the other side closes; give the code."""
    with contextlib.suppress(falcon.WebSocketDisconnected):
        while True:
            await client.receive()
    return client.close_code


class Watched(WebSocketResource):
    """Closes when it is told to, and notes how its connections ended."""

    def __init__(self, ends=None):
        self.ends = ends

    @handles_message("close")
    async def close(self, ws, payload: int | None):
        await (ws.close() if payload is None else ws.close(payload))

    async def on_disconnect(self, ws, close_code):
        if self.ends is not None:
            self.ends.put_nowait(close_code)


async def closed_by_the_handler(serve, code=None):
    """Close from a handler; 1000 unless another code is given."""
    async with simulate(serve(Watched)) as client, client.connect("/") as ann:
        await ann.send_json({"type": "close", "payload": code})
        return await closing(ann)


async def closed_by_the_manager(serve):
    """Close from outside, with no code."""
    async with simulate(serve(Watched)) as client, client.connect("/") as ann:
        await client.manager.disconnect(to.everyone)
        return await closing(ann)


async def dropped(serve):
    """Let the client vanish."""
    ends = asyncio.Queue()
    async with simulate(serve(Watched, ends=ends)) as client:
        async with client.connect("/") as ann:
            await ann.drop()
        return await ends.get()


async def deaf(serve):
    """Let the client read nothing for longer than ``send_timeout``."""
    ends = asyncio.Queue()
    app = serve(Watched, limits=Limits(send_timeout=0.01), ends=ends)
    async with simulate(app, write_buffer=1) as client, client.connect("/") as ann:
        await ann.stall()
        for _ in range(2):
            await client.manager.broadcast_to_all("Hello?")
        return await ends.get()


async def slow(serve):
    """Let more wait for the client than ``outbox_bytes``."""
    app = serve(Watched, limits=Limits(outbox_bytes=10))
    async with simulate(app, write_buffer=1) as client, client.connect("/") as ann:
        await ann.stall()
        for _ in range(3):
            await client.manager.broadcast_to_all("Hello?")
        await ann.resume()
        return await closing(ann)


async def over_a_limit(serve, frames, **limits):
    """Send frames that a limit does not allow."""
    app = serve(Watched, limits=Limits(**limits))
    async with simulate(app) as client, client.connect("/") as ann:
        for _ in range(frames):
            await ann.send_text("Hello?")
        return await closing(ann)


async def failed_once_accepted(serve, error):
    """Fail in ``on_connect``, too late to deny."""

    class Hasty(WebSocketResource):
        async def on_connect(self, req, ws):
            await ws.accept()
            raise error

    async with simulate(serve(Hasty)) as client, client.connect("/") as ann:
        return await closing(ann)


async def failed_in_a_hook(serve):
    """Fail in a hook, once the handshake is accepted."""

    class Hasty(Hook):
        async def after_connect(self, req, ws):
            raise ZeroDivisionError

    class Hooked(WebSocketResource):
        hooks = (Hasty(),)

    async with simulate(serve(Hooked)) as client, client.connect("/") as ann:
        return await closing(ann)


async def failed_for_good(serve):
    """Fail in a handler of a resource that does not go on then."""

    class Strict(WebSocketResource):
        close_on_error = True

        @handles_message("fail")
        async def fail(self, ws):
            raise ZeroDivisionError

    async with simulate(serve(Strict)) as client, client.connect("/") as ann:
        await ann.send_json({"type": "fail"})
        return await closing(ann)


async def expired(serve):
    """Be let in for a time that is over already."""

    async def let_in(_req):
        return Principal(user_id="ann", expires_at=datetime.now(UTC))

    app = serve(Watched, authenticate=let_in)
    async with simulate(app) as client, client.connect("/") as ann:
        return await closing(ann)


async def shut_down(serve):
    """Stop the server."""
    async with simulate(serve(Watched)) as client, client.connect("/") as ann:
        await client.stop()
        return await closing(ann)


ENDS = [
    ("1000", closed_by_the_handler, (), {}),
    ("1000", closed_by_the_manager, (), {}),
    ("1006", dropped, (), {}),
    ("1006", deaf, (), {}),
    ("1008", over_a_limit, (2,), {"burst": 1, "messages_per_second": 0.01}),
    ("1009", over_a_limit, (1,), {"message_bytes": 5}),
    ("1011", failed_once_accepted, (ZeroDivisionError(),), {}),
    ("1011", failed_in_a_hook, (), {}),
    ("1011", failed_for_good, (), {}),
    ("1012", shut_down, (), {}),
    ("1013", slow, (), {}),
    ("3400-3599", failed_once_accepted, (falcon.HTTPConflict(),), {}),
    ("4401", expired, (), {}),
    ("4000-4999", closed_by_the_handler, (4000,), {}),
    ("4000-4999", closed_by_the_handler, (4999,), {}),
]


@pytest.mark.parametrize(("row", "end", "arguments", "options"), ENDS)
async def test_a_close_code_means_what_the_table_says(serve, row, end, arguments, options):
    """What the table says brings a code about does so."""
    first, _, last = row.partition("-")

    assert int(first) <= await end(serve, *arguments, **options) <= int(last or first)


def test_every_close_code_of_the_table_is_tried(pages):
    """No row of the table is a mere promise."""
    listed = {row[0] for row in pages[PAGE].table("close codes")}

    assert {row for row, *_ in ENDS} == listed


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2999, 5000])
async def test_a_code_that_cannot_be_sent_is_refused(serve, code):
    """The page names the ranges that `disconnect` takes."""
    async with simulate(serve(Watched)) as client:
        with pytest.raises(ValueError, match=f"{code} cannot be sent"):
            await client.manager.disconnect(to.everyone, code)
