"""Each way in which a connection ends, by what runs at that moment: one test for each cell."""

import asyncio
import contextlib

import pytest

from falcon_pachinko import Limits, WebSocketResource, handles_message, to
from falcon_pachinko.testing import Disconnected, HandshakeDenied, simulate

BEFORE = ("on_connect", "accepted")
"""An ``on_connect`` that has not answered the client yet, and one that has, and goes on."""

FOR_EVER, SHORT = 3600.0, 0.02
"""Seconds of a grace that no test waits for, and of one that every test may."""


class Desk(WebSocketResource):
    """Tells which of its methods ran, and how they ended."""

    def __init__(self, scene):
        self.scene = scene

    async def on_connect(self, req, ws):
        self.scene.ws = ws
        if self.scene.busy == "accepted":
            await ws.accept()
        if self.scene.busy in BEFORE:
            await self.work("on_connect", ws)
        return True

    @handles_message("serial")
    async def serial(self, ws):
        await self.work("serial", ws)

    @handles_message("concurrent", concurrent=True)
    async def concurrent(self, ws):
        await self.work("concurrent", ws)

    @handles_message("leave")
    async def leave(self, ws):
        await ws.close(4001, "done here")

    async def work(self, what, ws):
        self.scene.running.set()
        try:
            if self.scene.closes_itself:
                await ws.close(4001, "done here")
            await self.scene.go.wait()
        except asyncio.CancelledError:
            self.scene.story.append(f"{what} is cancelled")
            raise
        self.scene.story.append(f"{what} finishes")

    async def on_disconnect(self, ws, close_code):
        self.scene.story.append(f"on_disconnect {close_code}")


class Scene:
    """One client of one app, busy with something when its end comes."""

    def __init__(self, busy):
        self.busy = busy
        self.closes_itself = False
        self.story = []
        self.running, self.go = asyncio.Event(), asyncio.Event()
        self.ws = self.ann = self.manager = self.stop_app = None

    async def play(self, client, way):
        """Connect, have it busy, end it; give what the client has seen at last."""
        self.manager, self.stop_app = client.manager, client.stop
        self.ann = client.connect("/")
        self.closes_itself = way is handler_closes
        opening = asyncio.create_task(self.ann.__aenter__())
        if self.busy not in BEFORE:
            await opening
        if self.busy in ("serial", "concurrent"):
            await self.ann.send_json({"type": self.busy})
        if self.busy != "nothing":
            await self.running.wait()
        if not self.closes_itself or self.busy == "nothing":
            await way(self)
        self.go.set()
        try:
            await opening
            while True:
                await self.ann.receive()
        except HandshakeDenied as denied:
            seen = f"HTTP {denied.status}"
        except Disconnected:
            seen = self.ann.close_code
        await asyncio.wait([self.ann.task])
        return seen

    async def known(self):
        """Wait until the library knows that the connection is over, or as good as that."""
        ws = self.ws
        while not (ws.closed or ws._session is None or ws._session._inbox.gone):  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0)


async def client_closes(scene):
    await scene.ann.close(4000, "bye")
    await scene.known()


async def client_vanishes(scene):
    await scene.ann.drop()
    await scene.known()


async def handler_closes(scene):
    await scene.ann.send_json({"type": "leave"})
    await scene.known()


async def other_code_closes(scene):
    await scene.ws.close(4001, "done here")


async def disconnect(scene):
    await scene.manager.disconnect(to.connection(scene.ws.id), 4003, "out")


async def expiry(scene):
    scene.ws._expire_in(0)
    await scene.known()


async def too_large(scene):
    await scene.ann.send_text("x" * 2000)
    await scene.known()


async def too_fast(scene):
    with contextlib.suppress(Disconnected):
        while True:
            await scene.ann.send_json({"type": "nothing of that name"})


async def drain(scene):
    draining = asyncio.create_task(scene.manager.drain(60))
    while scene.manager.status()["state"] != "draining":  # noqa: ASYNC110  # nothing tells of it
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # it has closed those who are idle, and holds the others
    scene.go.set()
    await draining


async def short_drain(scene):
    await scene.manager.drain(SHORT)


async def shutdown(scene):
    stopping = asyncio.create_task(scene.stop_app())
    await scene.known()
    scene.go.set()
    await stopping


CELLS = [
    (client_closes, "nothing", ["on_disconnect 4000"], 4000),
    (client_closes, "serial", ["serial finishes", "on_disconnect 4000"], 4000),
    (client_closes, "concurrent", ["concurrent finishes", "on_disconnect 4000"], 4000),
    (client_closes, "on_connect", ["on_connect finishes", "on_disconnect 1006"], 4000),
    (client_closes, "accepted", ["on_connect finishes", "on_disconnect 4000"], 4000),
    (client_vanishes, "nothing", ["on_disconnect 1006"], 1006),
    (client_vanishes, "serial", ["serial finishes", "on_disconnect 1006"], 1006),
    (client_vanishes, "concurrent", ["concurrent finishes", "on_disconnect 1006"], 1006),
    (client_vanishes, "on_connect", ["on_connect finishes", "on_disconnect 1006"], 1006),
    (client_vanishes, "accepted", ["on_connect finishes", "on_disconnect 1006"], 1006),
    (handler_closes, "nothing", ["on_disconnect 4001"], 4001),
    (handler_closes, "serial", ["serial finishes", "on_disconnect 4001"], 4001),
    (handler_closes, "concurrent", ["concurrent finishes", "on_disconnect 4001"], 4001),
    (handler_closes, "on_connect", ["on_connect finishes", "on_disconnect 1006"], "HTTP 403"),
    (handler_closes, "accepted", ["on_connect finishes", "on_disconnect 4001"], 4001),
    (other_code_closes, "nothing", ["on_disconnect 4001"], 4001),
    (other_code_closes, "serial", ["serial is cancelled", "on_disconnect 4001"], 4001),
    (other_code_closes, "concurrent", ["concurrent is cancelled", "on_disconnect 4001"], 4001),
    (other_code_closes, "on_connect", ["on_connect is cancelled"], "HTTP 403"),
    (other_code_closes, "accepted", ["on_connect is cancelled", "on_disconnect 4001"], 4001),
    (disconnect, "nothing", ["on_disconnect 4003"], 4003),
    (disconnect, "serial", ["serial is cancelled", "on_disconnect 4003"], 4003),
    (disconnect, "concurrent", ["concurrent is cancelled", "on_disconnect 4003"], 4003),
    (disconnect, "on_connect", ["on_connect is cancelled"], "HTTP 403"),
    (disconnect, "accepted", ["on_connect is cancelled", "on_disconnect 4003"], 4003),
    (expiry, "nothing", ["on_disconnect 4401"], 4401),
    (expiry, "serial", ["serial is cancelled", "on_disconnect 4401"], 4401),
    (expiry, "concurrent", ["concurrent is cancelled", "on_disconnect 4401"], 4401),
    (expiry, "on_connect", ["on_connect is cancelled"], "HTTP 403"),
    (expiry, "accepted", ["on_connect is cancelled", "on_disconnect 4401"], 4401),
    (too_large, "nothing", ["on_disconnect 1009"], 1009),
    (too_large, "serial", ["serial is cancelled", "on_disconnect 1009"], 1009),
    (too_large, "concurrent", ["concurrent is cancelled", "on_disconnect 1009"], 1009),
    (too_large, "accepted", ["on_connect is cancelled", "on_disconnect 1009"], 1009),
    (too_fast, "nothing", ["on_disconnect 1008"], 1008),
    (too_fast, "serial", ["serial is cancelled", "on_disconnect 1008"], 1008),
    (too_fast, "concurrent", ["concurrent is cancelled", "on_disconnect 1008"], 1008),
    (too_fast, "accepted", ["on_connect is cancelled", "on_disconnect 1008"], 1008),
    (drain, "nothing", ["on_disconnect 1012"], 1012),
    (drain, "serial", ["serial finishes", "on_disconnect 1012"], 1012),
    (drain, "concurrent", ["concurrent finishes", "on_disconnect 1012"], 1012),
    (drain, "on_connect", ["on_connect finishes", "on_disconnect 1012"], 1012),
    (drain, "accepted", ["on_connect finishes", "on_disconnect 1012"], 1012),
    (short_drain, "nothing", ["on_disconnect 1012"], 1012),
    (short_drain, "serial", ["serial finishes", "on_disconnect 1012"], 1012),
    (short_drain, "concurrent", ["concurrent finishes", "on_disconnect 1012"], 1012),
    (short_drain, "on_connect", ["on_connect finishes", "on_disconnect 1006"], "HTTP 503"),
    (short_drain, "accepted", ["on_connect finishes", "on_disconnect 1012"], 1012),
    (shutdown, "nothing", ["on_disconnect 1012"], 1012),
    (shutdown, "serial", ["serial finishes", "on_disconnect 1012"], 1012),
    (shutdown, "concurrent", ["concurrent finishes", "on_disconnect 1012"], 1012),
    (shutdown, "on_connect", ["on_connect finishes", "on_disconnect 1006"], "HTTP 503"),
    (shutdown, "accepted", ["on_connect finishes", "on_disconnect 1012"], 1012),
]
"""How it ends, what runs when it does, what then runs in this order, what the client sees."""


def app_of(serve, scene, grace):
    limits = Limits(handler_grace=grace, message_bytes=1000, messages_per_second=5, burst=8)
    return serve(Desk, scene=scene, limits=limits)


@pytest.fixture(autouse=True)
def _reads_ahead_at_once(monkeypatch):
    """Have the library notice quickly what comes while a handler runs."""
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)


@pytest.mark.parametrize(
    ("way", "busy", "story", "client_sees"),
    CELLS,
    ids=[f"{way.__name__}-{busy}" for way, busy, _, _ in CELLS],
)
async def test_an_end_runs_what_the_table_says(serve, way, busy, story, client_sees):
    """What runs may finish, or is cancelled at once; ``on_disconnect`` comes last."""
    scene = Scene(busy)
    async with simulate(app_of(serve, scene, FOR_EVER)) as client:
        seen = await asyncio.wait_for(scene.play(client, way), 30)

    assert (scene.story, seen) == (story, client_sees)
    assert scene.manager.status()["connections"] == 0


STUCK = [
    (way, busy, code)
    for way, code in [
        (client_closes, 4000),
        (client_vanishes, 1006),
        (handler_closes, 4001),
        (short_drain, 1012),
        (shutdown, 1012),
    ]
    for busy in ("serial", "concurrent", "accepted")
]
"""Ends that let what runs finish, and what ``on_disconnect`` is told if it never does."""


@pytest.mark.parametrize(
    ("way", "busy", "code"), STUCK, ids=[f"{way.__name__}-{busy}" for way, busy, _ in STUCK]
)
async def test_what_never_finishes_is_cancelled_after_its_grace(serve, way, busy, code):
    """The end waits no longer than ``handler_grace``, and then goes on as ever."""
    scene = Scene(busy)
    scene.go = Never()
    async with simulate(app_of(serve, scene, SHORT)) as client:
        seen = await asyncio.wait_for(scene.play(client, way), 30)

    what = "on_connect" if busy == "accepted" else busy
    assert scene.story == [f"{what} is cancelled", f"on_disconnect {code}"]
    assert seen == code


class Never(asyncio.Event):
    """An event that nobody can set."""

    def set(self):
        pass


@pytest.mark.parametrize(
    ("way", "client_sees"),
    [
        (client_closes, 4000),
        (client_vanishes, 1006),
        (handler_closes, "HTTP 403"),
        (short_drain, "HTTP 503"),
        (shutdown, "HTTP 503"),
    ],
)
async def test_an_on_connect_that_never_finishes_is_cancelled_after_its_grace(
    serve, way, client_sees
):
    """It did not return True, so it took nothing that an ``on_disconnect`` would give back."""
    scene = Scene("on_connect")
    scene.go = Never()
    async with simulate(app_of(serve, scene, SHORT)) as client:
        seen = await asyncio.wait_for(scene.play(client, way), 30)

    assert (scene.story, seen) == (["on_connect is cancelled"], client_sees)


@pytest.mark.parametrize(("code", "status"), [(1001, 503), (1012, 503), (1013, 503), (4013, 403)])
async def test_a_close_before_the_accept_that_says_later_is_a_503(serve, code, status):
    """A client that only sees the status comes back, and after the time that it is told."""

    class Busy(WebSocketResource):
        async def on_connect(self, req, ws):
            await ws.close(code, "come back later")

    async with simulate(serve(Busy)) as client:
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect("/"):
                pass

    assert denied.value.status == status
    assert ("retry-after" in denied.value.headers) == (status == 503)
