"""The reference of errors: each code is shown, and the tree is that of the code."""

import asyncio
import inspect
import json
import re

import msgspec
import pytest

import falcon_pachinko
from falcon_pachinko import WebSocketResource, handles_message
from falcon_pachinko.testing import simulate

PAGE = "docs/reference/errors.md"

_BRANCH = re.compile(r"^([│├└─ ]*)(\w+)")


@pytest.mark.parametrize(
    ("frame", "code"),
    [(b"\xc1", "invalid_message"), ('{"type": "close"}', "unsupported_frame")],
    ids=["malformed", "text"],
)
async def test_with_messagepack_two_errors_mean_something_else(serve, frame, code):
    """What is no MessagePack is an invalid message, and a text frame is not supported."""
    async with (
        simulate(serve(WebSocketResource)) as client,
        client.connect("/", subprotocols=["pachinko.msgpack"]) as ann,
    ):
        await (ann.send_text if isinstance(frame, str) else ann.send_data)(frame)
        answer = msgspec.msgpack.decode(await ann.receive_data())

    assert answer["payload"]["code"] == code


def test_every_error_code_of_the_table_is_shown(pages):
    """A code that stands in the table is in a frame of a transcript, which is played."""
    listed = {row[0].strip("`") for row in pages[PAGE].table("error codes")}
    frames = [
        json.loads(line[2:])
        for page in (PAGE, "docs/reference/limits.md")
        for block in pages[page].blocks
        if block.marker == "transcript"
        for line in block.text.splitlines()
        if line.startswith("< ")
    ]
    shown = {frame["payload"]["code"] for frame in frames if frame["type"] == "error"}

    assert shown - {"sold_out", "forbidden"} == listed  # the two are the application's own


def test_the_tree_has_every_exception_below_its_base(pages):
    """A line of the tree is a class of the library; what it hangs on is its base."""
    (tree,) = (block for block in pages[PAGE].blocks if block.marker == "exceptions")
    parents, drawn = {}, set()
    for line in tree.text.splitlines():
        indent, name = _BRANCH.match(line).groups()
        depth = len(indent) // 4
        parents[depth] = found = getattr(falcon_pachinko, name)
        assert found.__bases__[0] is (parents[depth - 1] if depth else Exception), name
        drawn.add(found)
    public = {getattr(falcon_pachinko, name) for name in falcon_pachinko.__all__}

    assert drawn == {
        each for each in public if inspect.isclass(each) and issubclass(each, Exception)
    }


async def test_what_a_handler_sends_to_a_client_that_went_raises_nothing(serve):
    """`falcon.WebSocketDisconnected` is not needed around sending."""
    gone, sent = asyncio.Event(), asyncio.Event()

    class Late(WebSocketResource):
        @handles_message("wait")
        async def wait(self, ws):
            await gone.wait()
            await self.send("Hello?")
            sent.set()

    async with simulate(serve(Late)) as client:
        async with client.connect("/") as ann:
            await ann.send_json({"type": "wait"})
            await ann.drop()
            gone.set()

        assert sent.is_set()
