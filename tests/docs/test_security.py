"""The page on security: what it says of the library holds."""

import re
import subprocess
import sys

import falcon
import falcon.asgi
import pytest

from falcon_pachinko import HistoryLimits, WebSocketResource, handles_message, install, to
from falcon_pachinko.testing import simulate

PAGE = "docs/explanation/security.md"


def test_the_options_of_the_server_exist(pages):
    """The page's command is one that uvicorn takes."""
    (block,) = (block for block in pages[PAGE].blocks if block.language == "sh")
    command = [sys.executable, "-m", "uvicorn", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    assert set(re.findall(r"--[\w-]+", block.text)) <= set(re.findall(r"--[\w-]+", told))


class Room(WebSocketResource):
    """Keeps what is said in it."""

    async def on_connect(self, req, ws):
        await self.join_room("chat:tea")
        return True

    @handles_message("fail")
    async def fail(self, ws):
        raise RuntimeError("the password is 5f2a")


@pytest.fixture
def app():
    made = falcon.asgi.App()
    install(made)
    made.add_websocket_route("/", Room)
    made.ws_connection_manager.configure_rooms("chat:", history=HistoryLimits())
    return made


@pytest.mark.parametrize("means", ["exclude", "minus"])
async def test_who_is_left_out_now_can_read_it_later(app, means):
    """A room's history gives a message to whoever reads it, whomever it was not sent to."""
    async with simulate(app) as client, client.connect("/") as ann:
        (ws,) = client.manager._registry.all()
        room = to.room("chat:tea")
        if means == "exclude":
            await client.manager.broadcast({"type": "hush"}, to=room, exclude=ws)
        else:
            await client.manager.broadcast({"type": "hush"}, to=room - to.connection(ws.id))
        await ann.expect_nothing()

        (kept,) = await client.manager.history("chat:tea")
    assert kept["type"] == "hush"


async def test_what_is_not_to_be_kept_is_not(app):
    """``store=False`` is what keeps a message out of the history."""
    async with simulate(app) as client, client.connect("/"):
        await client.manager.broadcast_to_room("chat:tea", {"type": "hush"}, store=False)

        assert await client.manager.history("chat:tea") == []


async def test_the_text_of_an_exception_stays_on_the_server(app):
    """The client is told that something failed, and no more."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send({"type": "fail"})

        assert "5f2a" not in await ann.receive_text()


@pytest.mark.parametrize("name", ["join_room", "on_connect", "__init__", "send"])
async def test_a_name_on_the_wire_selects_nothing_but_handlers(app, name):
    """Methods and attributes are no message types."""
    async with simulate(app) as client, client.connect("/") as ann:
        await ann.send({"type": name, "payload": "x"})
        answer = await ann.expect("error")

    assert answer["payload"]["code"] == "unknown_type"
