"""`pachinko publish` as a person or a script runs it, into a project that is served."""

import asyncio
import json
import subprocess
import sys

import pytest
from nats_server import NatsServer
from redis_server import RedisServer, free_port
from websockets.asyncio.client import connect

APP = """
import falcon.asgi
from falcon_pachinko import HistoryLimits, HistoryPosition, WebSocketResource, install


class Chat(WebSocketResource):
    async def on_connect(self, req, ws, room):
        if room.startswith("kept:"):
            await self.join_room(room, since=HistoryPosition.of(req))
        else:
            await self.join_room(room)
        await self.send({"type": "joined"})
        return True


print("the app is imported")
app = falcon.asgi.App()
install(app, backend=BACKEND)
app.ws_connection_manager.configure_rooms("kept:", history=HistoryLimits())
app.add_websocket_route("/{room}", Chat)
"""
PROJECT = '[tool.pachinko]\npackage = "tea_room"\napp = "tea_room.asgi:app"\n'


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as server:
        yield server


@pytest.fixture
def make(tmp_path):
    """Write a project whose app has a backend; give its folder."""

    def write(backend):
        folder = tmp_path / "tea"
        (folder / "tea_room").mkdir(parents=True)
        (folder / "pyproject.toml").write_text(PROJECT)
        (folder / "tea_room/__init__.py").write_text("")
        (folder / "tea_room/asgi.py").write_text(APP.replace("BACKEND", repr(backend)))
        return folder

    return write


@pytest.fixture
def served(environment):
    """Serve a project's app, and give its address; it ends with the test."""
    processes = []

    def start(folder):
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "tea_room.asgi:app", "--port", str(port)]
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        while "Uvicorn running on" not in process.stderr.readline():
            assert process.poll() is None
        return f"ws://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.kill()
        process.communicate()


async def heard(url, act, count):
    """Connect, do something, and give the messages that come after the greeting."""
    async with connect(url) as client:
        while json.loads(await client.recv())["type"] != "joined":
            pass
        results = [await asyncio.to_thread(each) for each in act]
        frames = [json.loads(await asyncio.wait_for(client.recv(), 20)) for _ in range(count)]
        return results, frames


async def test_a_message_reaches_the_room(redis, make, served, pachinko):
    """By the project's own backend; fields are JSON where they read so, and text elsewhere."""
    folder = make(redis.url)
    url = served(folder)

    def say(*words):
        return lambda: pachinko("publish", "tea", *words, cwd=folder)

    results, frames = await heard(
        f"{url}/tea",
        [
            say("notice", "text=We close", "at", "five", "urgent=true", "n=3"),
            say("notice", '{"text": "hi"}'),
            say("notice", "17"),
            say("bare"),
            say('{"type": "flat", "seats": 2}'),
        ],
        5,
    )

    assert [each.returncode for each in results] == [0] * 5
    assert results[0].stdout == f"Published notice to tea by {redis.url}\n"
    assert results[0].stderr == "the app is imported\n"
    assert frames == [
        {"type": "notice", "payload": {"text": "We close at five", "urgent": True, "n": 3}},
        {"type": "notice", "payload": {"text": "hi"}},
        {"type": "notice", "payload": 17},
        {"type": "bare"},
        {"type": "flat", "seats": 2},
    ]


async def test_a_room_with_a_history_keeps_it_once(redis, make, served, pachinko, tmp_path):
    """With a key, the second call sends nothing; the app need not be at hand."""
    url = served(make(redis.url))

    def publish(*more):
        where = ("--backend", redis.url)
        return lambda: pachinko("publish", "kept:tea", "said", "n=1", *where, *more, cwd=tmp_path)

    key = ("--idempotency-key", "order 1")
    results, frames = await heard(f"{url}/kept:tea", [publish(*key), publish(*key), publish()], 2)

    assert [each.returncode for each in results] == [0, 0, 0]
    assert [each.stderr for each in results] == [""] * 3
    assert [frame["history"]["offset"] for frame in frames] == [1, 2]


async def test_nats_carries_it_too(make, served, pachinko, tmp_path):
    """And a script reads one JSON event."""
    with NatsServer(tmp_path) as nats:
        folder = make(nats.url)
        url = served(folder)
        results, frames = await heard(
            f"{url}/tea", [lambda: pachinko("publish", "tea", "said", "--json", cwd=folder)], 1
        )

    (ran,) = results
    assert json.loads(ran.stdout) == {
        "event": "published",
        "room": "tea",
        "type": "said",
        "backend": nats.url,
    }
    assert frames == [{"type": "said"}]


def test_nobody_there_is_no_error(make, pachinko):
    """But that no process has ever started there is worth a warning: is it the right server?"""
    with RedisServer() as empty:
        ran = pachinko("publish", "tea", "said", "-q", cwd=make(empty.url))

    assert (ran.returncode, ran.stdout) == (0, "")
    assert "warning: no process of the app has stored how its rooms are configured" in ran.stderr


@pytest.mark.parametrize("query", ["?timeout=0.5", "?timeout=0.5&required=true"])
def test_a_server_that_is_away_is_an_error(pachinko, query):
    """Exit code 1, in a few lines, without a traceback; nothing of a password is shown."""
    url = f"redis://:sesame@127.0.0.1:{free_port()}/0{query}"
    ran = pachinko("publish", "tea", "said", "--backend", url)

    assert ran.returncode == 1
    assert "error: not published: redis://127.0.0.1" in ran.stderr
    assert "see that the server runs" in ran.stderr
    assert "sesame" not in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_app_without_a_backend_is_told_what_to_do(make, pachinko):
    """None of its processes can be reached."""
    ran = pachinko("publish", "tea", "said", cwd=make(None))

    assert ran.returncode == 1
    assert "has no backend that other processes share" in ran.stderr
    assert "--backend redis://" in ran.stderr


def test_an_app_that_does_not_import_is_told(make, pachinko):
    """Where, and the way around it."""
    folder = make(None)
    (folder / "tea_room/asgi.py").write_text("import a_module_that_is_not_there\n")
    ran = pachinko("publish", "tea", "said", cwd=folder)

    assert ran.returncode == 1
    assert "a_module_that_is_not_there" in ran.stderr
    assert "--backend redis://" in ran.stderr


def test_an_app_may_be_named(redis, make, pachinko):
    """Inside a project or not, as uvicorn is told."""
    folder = make(None)
    (folder / "other.py").write_text(APP.replace("BACKEND", repr(redis.url)))
    (folder / "pyproject.toml").unlink()
    named = pachinko("publish", "tea", "said", "--app", "other:app", cwd=folder)
    wrong = pachinko("publish", "tea", "said", "--app", "other", cwd=folder)
    other = pachinko("publish", "tea", "said", "--app", "json:dumps", cwd=folder)

    assert named.returncode == 0, named.stderr
    assert wrong.returncode == 2
    assert "--app is 'other'" in wrong.stderr
    assert other.returncode == 1
    assert "not a Falcon app with falcon_pachinko" in other.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tea",), "missing argument 'TYPE'"),
        (("", "said"), "it is empty"),
        (("x" * 201, "said"), "200 are allowed"),
        (("tea", "said", "--idempotency-key", "k" * 201), "give 1 to 200"),
        (("tea", "said", "text", "hi"), "'text' is no field=value"),
        (("tea", "said", "a=1", "a=2"), "'a' stands there twice"),
        (("tea", "said", '{"a": '), "the payload is no JSON"),
        (("tea", '{"type": '), "the message is no JSON"),
        (("tea", '{"type": "a"}', "b=1"), "leave one of them out"),
        (("tea", "said", "--app", "a:b"), "both say where to send"),
    ],
)
def test_what_cannot_be_sent_is_refused(redis, pachinko, words, said):
    """With exit code 2, before anything is sent."""
    ran = pachinko("publish", *words, "--backend", redis.url)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redi://localhost", "is not a backend"),
        ("memory://tea", "connects the apps of one process"),
        ("redis://localhost/0?ttk=5", "did you mean ttl?"),
    ],
)
def test_a_backend_that_cannot_be_is_refused(pachinko, url, said):
    """A mistyped URL is a matter of usage."""
    ran = pachinko("publish", "tea", "said", "--backend", url)

    assert ran.returncode == 2
    assert said in ran.stderr


def test_outside_a_project_a_backend_is_asked_for(pachinko):
    """With the exit code that says so."""
    ran = pachinko("publish", "tea", "said")

    assert ran.returncode == 4
    assert "--backend redis://" in ran.stderr
