"""The app as it will run: uvicorn on a socket, and a client that knows nothing of it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

APP = "{{ cookiecutter.package }}.asgi:app"


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Serve the app on a free port; gives what stands behind `ws://`."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(APP, log_level="warning"))
    serving = asyncio.create_task(server.serve([listener]))
    # The port takes connections from here on; they wait in it until the server is up.
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await serving


async def receive(person: ClientConnection) -> Any:
    """Take one frame, within a deadline."""
    async with asyncio.timeout(5):
        return json.loads(await person.recv())


async def greeted(person: ClientConnection) -> Any:
    """Take what comes first; gives who one is."""
    frames = [await receive(person) for _ in range(3)]
    assert [frame["type"] for frame in frames] == ["welcome", "history.state", "presence.state"]
    return frames[0]["payload"]["you"]


async def test_two_people_talk_over_real_sockets(address: str) -> None:
    """They greet, talk and part, through a server, frame by frame."""
    async with connect(f"ws://{address}/ws/chat/tea?name=Ann") as ann:
        assert (await greeted(ann))["name"] == "Ann"
        async with connect(f"ws://{address}/ws/chat/tea?name=Bob") as bob:
            bob_is = await greeted(bob)
            await bob.send(json.dumps({"type": "say", "payload": {"text": "Hello"}}))
            come, said = await receive(ann), await receive(ann)
        gone = await receive(ann)

    here = {bob_is["id"]: [{"name": "Bob"}]}
    assert (come["type"], come["payload"]["joins"]) == ("presence.diff", here)
    assert (said["type"], said["payload"]["text"]) == ("said", "Hello")
    assert (gone["type"], gone["payload"]["leaves"]) == ("presence.diff", here)
