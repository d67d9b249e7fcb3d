"""The seed's own chat example, with real clients, under every server there is."""

import asyncio
import json

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def hear(client, seconds=30):
    return json.loads(await asyncio.wait_for(client.recv(), seconds))


@pytest.mark.every_server
async def test_two_clients_chat(server):
    """Greeted before the accept, told who joins, heard by everyone, told who leaves."""
    async with server.connect("/ws/chat/tea") as ann:
        greeting = await hear(ann)
        async with server.connect("/ws/chat/tea") as bob:
            await hear(bob)
            joined = await hear(ann)
            await bob.send('{"type": "say", "payload": {"text": "hi ☕"}}')
            said = [await hear(ann), await hear(bob)]
        left = await hear(ann)

    assert greeting == {"type": "welcome", "payload": {"room": "tea"}}
    assert joined == {"type": "joined"}
    assert said == [{"type": "said", "payload": {"text": "hi ☕"}}] * 2
    assert left == {"type": "left"}


async def test_a_message_with_a_ref_is_answered_once(server):
    """What a handler returns comes back under the client's own mark."""
    async with server.connect("/ws/chat/tea") as ann:
        await hear(ann)
        await ann.send('{"type": "add", "payload": [1, 2, 3], "ref": "7"}')

        assert await hear(ann) == {"type": "reply", "ref": "7", "payload": 6}


async def test_a_wrong_payload_is_one_error_and_the_connection_lives(server):
    """The client learns what was wrong and where, and can go on."""
    async with server.connect("/ws/chat/tea") as ann:
        await hear(ann)
        await ann.send('{"type": "say", "payload": {"text": 5}, "ref": "1"}')
        error = await hear(ann)
        await ann.send('{"type": "add", "payload": []}')

        assert error == {
            "type": "error",
            "ref": "1",
            "payload": {
                "code": "invalid_payload",
                "message": "Expected `str`, got `int`",
                "path": "$.payload.text",
            },
        }
        assert await hear(ann) == {"type": "reply", "payload": 0}


@pytest.mark.parametrize("frame", ['{"type": "shout"}', "{", b"\x00\x01"])
async def test_what_no_handler_claims_goes_to_on_message(server, frame):
    """Unknown types, broken JSON and binary frames are the fallback's, as they came."""
    async with server.connect("/ws/chat/tea") as ann:
        await hear(ann)
        await ann.send(frame)

        assert await ann.recv() == f"unclaimed: {frame!r}"


async def test_the_worker_finds_its_rooms_by_prefix(server):
    """The lifespan started the worker, and the rooms it asks for exist."""
    async with server.connect("/ws/chat/noticed") as ann:
        await hear(ann)

        assert await hear(ann) == {"type": "notice"}


@pytest.mark.every_server
@pytest.mark.parametrize(
    ("room", "status"),
    [("closed", 403), ("members-only", 401), ("broken", 500), ("undecided", 500)],
)
async def test_a_denial_has_its_real_status(server, room, status):
    """The client sees the HTTP status, not just that it was refused."""
    with pytest.raises(InvalidStatus) as denied:
        await server.connect(f"/ws/chat/{room}").__aenter__()

    assert denied.value.response.status_code == status
    assert server.get("/status")["connections"] == 0


async def test_a_denial_carries_the_headers_of_the_error(server):
    """A 401 without its challenge would be of no use to a client."""
    with pytest.raises(InvalidStatus) as denied:
        await server.connect("/ws/chat/members-only").__aenter__()

    assert denied.value.response.headers["WWW-Authenticate"] == "Bearer"
    assert b"Log in first." in denied.value.response.body


@pytest.mark.every_server
async def test_a_close_by_the_server_reaches_the_client(server):
    """The handler's code and reason arrive, and on_disconnect hears the same code."""
    async with server.connect("/ws/chat/tea") as ann:
        await hear(ann)
        await ann.send('{"type": "leave"}')
        with pytest.raises(ConnectionClosed) as closed:
            await hear(ann)

    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")
    assert await server.printed("bye chat:tea 4001") == 1
