"""While the backend is away: what the log says, what stays behind, and how an app ends."""

import asyncio
import contextlib
import logging

import falcon.asgi
import pytest
from faulty_backend import CALLS, FaultyBackend

from falcon_pachinko import HistoryLimits, WebSocketResource, handles_message, install
from falcon_pachinko.backends import MemoryHub
from falcon_pachinko.errors import BackendError
from falcon_pachinko.testing import simulate


class Guest(WebSocketResource):
    async def on_connect(self, req, ws):
        ws.user_id = req.get_param("user")
        await self.join_room("lobby")
        return True

    @handles_message("enter")
    async def enter(self, ws, payload: str):
        await self.join_room(f"kept:{payload}")
        await self.track(payload, {"from": "home"})
        await ws.add_tag(f"in {payload}")


class House:
    """An app whose backend can be away."""

    def __init__(self):
        self.hub = MemoryHub()
        self.backend = FaultyBackend(self.hub)
        self.app = falcon.asgi.App()
        install(self.app, backend=self.backend)
        self.manager = self.app.ws_connection_manager
        self.manager.configure_rooms("", presence_grace=0)
        self.manager.configure_rooms("kept:", history=HistoryLimits(), presence_grace=0)
        self.app.add_websocket_route("/", Guest)

    @contextlib.contextmanager
    def away(self):
        error = BackendError("memory", "it is away")
        self.backend.state = "degraded"
        self.backend.failing = dict.fromkeys(CALLS, error)
        yield
        self.backend.state = "up"
        self.backend.mend()

    def tell(self, verb, number):
        """Do one of the things that go to other processes, too."""
        message = {"type": "said", "payload": number}
        return {
            "room": lambda: self.manager.broadcast_to_room("lobby", message),
            "history": lambda: self.manager.broadcast_to_room(f"kept:{number}", message),
            "user": lambda: self.manager.send_to_user(f"user {number}", message),
            "everyone": lambda: self.manager.broadcast_to_all(message),
        }[verb]()


@pytest.fixture
def house():
    return House()


@pytest.mark.parametrize("verb", ["room", "history", "user", "everyone"])
async def test_an_outage_is_one_line_however_much_is_said(house, caplog, verb):
    """Also where it comes again and again within moments."""
    async with simulate(house.app) as client, client.connect("/?user=ann"):
        caplog.clear()
        for _ in range(5):
            with house.away():
                for number in range(50):
                    await house.tell(verb, number)
            await house.tell(verb, 0)

    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) <= 1


async def test_who_comes_and_goes_meanwhile_leaves_nothing(house, until):
    """The backend is told of those who are there then, and a newcomer waits for nobody else."""
    async with simulate(house.app) as client, client.connect("/?user=ann") as ann:
        with house.away():
            for number in range(20):
                async with client.connect(f"/?user={number}") as guest:
                    await guest.request("enter", f"room {number}")
            await until(lambda: house.manager.status()["connections"] == 1)
        await ann.request("enter", "tea")
        await until(lambda: "room:tea" in house.backend._channels)

        rooms = [name for name in house.backend._channels if name.startswith("room:room")]
        assert rooms == []
        assert await house.manager.presence("tea") == {"ann": [{"from": "home"}]}
        assert await house.manager.presence("room 7") == {}
        assert [name for name, table in house.hub.tables.items() if table] == ["tea"]


@pytest.mark.parametrize("silent", CALLS)
async def test_an_app_ends_quietly_without_its_backend(house, caplog, silent):
    """Whichever call fails: no traceback, no task that nobody looked after, nobody left."""
    async with simulate(house.app) as client:
        async with client.connect("/?user=ann") as ann:
            await ann.request("enter", "tea")
            house.backend.failing = {silent: BackendError("memory", "it is away")}
            house.backend.state = "degraded"
            await house.tell("room", 1)
        caplog.clear()
    await asyncio.sleep(0)

    assert "Task exception was never retrieved" not in caplog.text
    assert [record for record in caplog.records if record.name == "asyncio"] == []
    assert house.manager.status()["connections"] == 0
