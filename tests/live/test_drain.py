"""`manager.drain` under every server: it is the library's, and needs no server of ours."""

import asyncio
import json
import re

import pytest
from asgi_servers import SERVERS, on
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def ending(client):
    """Receive until the other side closes; give what came, and the close frame."""
    received = []
    try:
        while True:
            received.append(json.loads(await asyncio.wait_for(client.recv(), 30)))
    except ConnectionClosed as closed:
        return received, closed.rcvd


@pytest.mark.every_server
@pytest.mark.parametrize("kind", [*SERVERS, on("granian")])
async def test_idle_clients_go_first_and_busy_ones_when_they_are_done(start, kind):
    """Both with 1012 and a time to come back; the busy one has its answer; nobody new gets in."""
    server = start(kind, "drained:app")
    idle, busy = await server.dial("/guest"), await server.dial("/guest")
    await busy.send('{"type": "work", "payload": 1, "ref": 1}')
    await asyncio.wait_for(busy.recv(), 30)

    draining = asyncio.create_task(asyncio.to_thread(server.get, "/drain"))
    _, first = await ending(idle)
    with pytest.raises(InvalidStatus) as denied:
        await server.dial("/guest")
    answers, second = await ending(busy)

    assert denied.value.response.status_code == 503
    assert answers == [{"type": "reply", "ref": 1, "payload": "done"}]
    for close in (first, second):
        assert close.code == 1012
        assert re.fullmatch(r"the server restarts; retry in [0-9.]+ s", close.reason)
    assert await draining == {"closed": 2, "cut": 0}


async def test_a_client_that_never_reads_does_not_hold_it_up(start, deaf):
    """Its close frame cannot leave; the others' do, and the time is kept."""
    server = start("websockets-sansio", "drained:app")
    deaf(server.port, "/guest")
    idle = await server.dial("/guest")

    draining = asyncio.create_task(asyncio.to_thread(server.get, "/drain"))
    _, close = await ending(idle)

    assert close.code == 1012
    assert (await draining)["closed"] == 2
