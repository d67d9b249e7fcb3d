"""What is broadcast arrives in each sender's order; what cannot be encoded arrives nowhere."""

import asyncio
import json

import pytest
from asgi_servers import SERVERS

SENDERS = 20


async def talk(client, sender, messages):
    """Say numbered things as fast as they can be written."""
    for number in range(messages):
        word = {"sender": sender, "number": number}
        await client.send(json.dumps({"type": "say", "payload": word}))


async def listen(client, messages):
    """Return what was heard of each sender, in the order in which it came."""
    heard = [[] for _ in range(SENDERS)]
    for _ in range(SENDERS * messages):
        word = json.loads(await client.recv())["payload"]
        heard[word["sender"]].append(word["number"])
    return heard


async def ask(client, message):
    """Send a message with a ref, and return all that came until its answer, that included."""
    await client.send(json.dumps({**message, "ref": "asked"}))
    came = []
    while not came or came[-1].get("ref") != "asked":
        came.append(json.loads(await asyncio.wait_for(client.recv(), 30)))
    return came


@pytest.mark.slow
@pytest.mark.every_server
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(
    ("members", "messages"),
    [(20, 100), (300, 10)],
    ids=["deep", "wide"],  # a fan-out to more than 256 lets others run in its middle
)
async def test_concurrent_senders_keep_their_order_at_every_receiver(
    start, kind, members, messages
):
    """Twenty talk to one room at once: everyone hears all of each, as each said it."""
    server = start(kind, "crowd:app")
    clients = [await server.dial("/crowd/square") for _ in range(members)]

    async with asyncio.timeout(60), asyncio.TaskGroup() as crowd:
        listening = [crowd.create_task(listen(client, messages)) for client in clients]
        for sender in range(SENDERS):
            crowd.create_task(talk(clients[sender], sender, messages))

    everything = [list(range(messages))] * SENDERS
    assert [task.result() for task in listening] == [everything] * members


async def test_a_poison_broadcast_reaches_nobody_and_fails_its_caller(start):
    """No member gets half of it, the sender is told, and the room goes on talking."""
    server = start("websockets-sansio", "crowd:app")
    clients = [await server.dial("/crowd/square") for _ in range(SENDERS)]
    poisons = ["object", "surrogate", "function", "key"]

    answers = [await ask(clients[0], {"type": "poison", "payload": each}) for each in poisons]
    word = {"sender": 0, "number": 1, "ballast": ""}
    await clients[1].send(json.dumps({"type": "say", "payload": word}))
    heard = [json.loads(await asyncio.wait_for(client.recv(), 30)) for client in clients]

    codes = [[answer["payload"]["code"] for answer in came] for came in answers]
    assert codes == [["internal_error"]] * len(poisons)
    assert heard == [{"type": "said", "payload": word}] * SENDERS
    assert server.output.count("EncodeError: the message cannot be encoded") == len(poisons)
