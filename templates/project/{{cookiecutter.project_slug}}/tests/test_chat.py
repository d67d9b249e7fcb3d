"""The chat, in memory: everything but the socket is real."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from falcon_pachinko.testing import Client, HandshakeDenied, Simulator


async def greeted(person: Client) -> tuple[Any, Any, Any]:
    """Read what comes first: who one is, what was missed (nothing, here), and who is present."""
    frames = [await person.expect(kind) for kind in ("welcome", "history.state", "presence.state")]
    welcome, history, presence = (frame["payload"] for frame in frames)
    return welcome, history, presence


@asynccontextmanager
async def ann_and_bob(client: Simulator) -> AsyncIterator[tuple[Client, Client]]:
    """Bring two people into one room, and read what greets them."""
    async with client.connect("/ws/chat/tea?name=Ann") as ann:
        await greeted(ann)
        async with client.connect("/ws/chat/tea?name=Bob") as bob:
            await greeted(bob)
            await ann.expect("presence.diff")
            yield ann, bob


async def test_a_newcomer_is_told_who_is_here(client: Simulator) -> None:
    """The first frame names the room and the newcomer, the others follow by their ids."""
    async with client.connect("/ws/chat/tea?name=Ann") as ann:
        ann_is_told, _, _ = await greeted(ann)
        async with client.connect("/ws/chat/tea?name=Bob") as bob:
            bob_is_told, _, presence = await greeted(bob)

    assert (bob_is_told["room"], bob_is_told["you"]["name"]) == ("tea", "Bob")
    assert presence["present"] == {
        ann_is_told["you"]["id"]: [{"name": "Ann"}],
        bob_is_told["you"]["id"]: [{"name": "Bob"}],
    }


async def test_the_others_see_who_comes_and_goes(client: Simulator) -> None:
    """Those who stay get a `presence.diff` for each; the newcomer gets the greeting and no more."""
    async with client.connect("/ws/chat/tea?name=Ann") as ann:
        await greeted(ann)
        async with client.connect("/ws/chat/tea?name=Bob") as bob:
            welcome, _, _ = await greeted(bob)
            come = (await ann.expect("presence.diff"))["payload"]
            await bob.expect_nothing()
        gone = (await ann.expect("presence.diff"))["payload"]

    here = {welcome["you"]["id"]: [{"name": "Bob"}]}
    assert (come["joins"], come["leaves"]) == (here, {})
    assert (gone["joins"], gone["leaves"]) == ({}, here)


async def test_who_comes_back_gets_what_was_missed(client: Simulator) -> None:
    """All that was said after the position that is named, once; not that somebody was typing."""
    async with ann_and_bob(client) as (ann, bob):
        await ann.send_json({"type": "say", "payload": {"text": "Bob?"}})
        seen = (await bob.expect("said"))["history"]
        await bob.close()
        await ann.send_json({"type": "typing", "payload": {"active": True}})
        await ann.send_json({"type": "say", "payload": {"text": "Where are you?"}})
        position = f"epoch={seen['epoch']}&offset={seen['offset']}"
        async with client.connect(f"/ws/chat/tea?name=Bob&{position}") as again:
            await again.expect("welcome")
            history = (await again.expect("history.state"))["payload"]
            missed = (await again.expect("said"))["payload"]
            await again.expect("presence.state")
            await again.expect_nothing()

    assert (history["recovered"], history["messages"]) == (True, 1)
    assert (missed["name"], missed["text"]) == ("Ann", "Where are you?")


async def test_a_newcomer_gets_what_was_said_before(client: Simulator) -> None:
    """Who names no position gets all that the room has kept."""
    async with client.connect("/ws/chat/tea?name=Ann") as ann:
        await greeted(ann)
        await ann.send_json({"type": "say", "payload": {"text": "Hello"}})
        said = await ann.expect("said")
        async with client.connect("/ws/chat/tea?name=Bob") as bob:
            await bob.expect("welcome")
            history = (await bob.expect("history.state"))["payload"]
            earlier = await bob.expect("said")

    assert (history["recovered"], history["messages"]) == (False, 1)
    assert earlier == said


async def test_everybody_in_the_room_hears_what_one_says(client: Simulator) -> None:
    """A message reaches all members once, the speaker included, with its author and time."""
    async with ann_and_bob(client) as (ann, bob):
        await ann.send_json({"type": "say", "payload": {"text": "Hello"}})
        heard_by_ann, heard_by_bob = await ann.expect("said"), await bob.expect("said")
        await bob.expect_nothing()

    said = heard_by_bob["payload"]
    assert heard_by_ann == heard_by_bob
    assert (said["name"], said["text"]) == ("Ann", "Hello")
    assert datetime.fromisoformat(said["at"]) <= datetime.now(UTC)


async def test_rooms_do_not_hear_each_other(client: Simulator) -> None:
    """What is said in one room stays in it."""
    async with (
        client.connect("/ws/chat/tea") as tea,
        client.connect("/ws/chat/coffee") as coffee,
    ):
        await greeted(coffee)
        await tea.send_json({"type": "say", "payload": {"text": "Hello"}})

        await coffee.expect_nothing()


async def test_only_the_others_see_who_is_typing(client: Simulator) -> None:
    """Whoever is writing need not be told."""
    async with ann_and_bob(client) as (ann, bob):
        await ann.send_json({"type": "typing", "payload": {"active": True}})
        typing = (await bob.expect("typing"))["payload"]
        await ann.expect_nothing()

    assert (typing["name"], typing["active"]) == ("Ann", True)


@pytest.mark.parametrize("text", [17, "", "a" * 2001])
async def test_a_wrong_message_is_refused_and_the_talk_goes_on(
    client: Simulator, text: object
) -> None:
    """What does not fit its struct gets one error; nobody else hears of it."""
    async with ann_and_bob(client) as (ann, bob):
        await ann.send_json({"type": "say", "payload": {"text": text}})
        error = await ann.expect("error")
        await ann.send_json({"type": "say", "payload": {"text": "Sorry"}})
        said = await bob.expect("said")

    assert error["payload"]["code"] == "invalid_payload"
    assert said["payload"]["text"] == "Sorry"


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("", "Guest"),
        ("?name=", "Guest"),
        ("?name=%20Ann%20", "Ann"),
        ("?name=An%00n%0A", "Ann"),
        ("?name=%E2%80%AE", "Guest"),  # U+202E: invisible, and turns the text after it around
        ("?name=" + "a" * 33, "a" * 32),
    ],
)
async def test_a_name_is_made_fit_to_be_shown(client: Simulator, query: str, name: str) -> None:
    """Whatever stands in the address, the others see one line of at most 32 characters."""
    async with client.connect(f"/ws/chat/tea{query}") as someone:
        welcome = await someone.expect("welcome")

    assert welcome["payload"]["you"]["name"] == name


@pytest.mark.parametrize("room_name", ["", "a" * 41])
async def test_a_room_needs_a_name_of_some_length(client: Simulator, room_name: str) -> None:
    """A room's name has 1 to 40 characters; with another one, nobody gets in."""
    with pytest.raises(HandshakeDenied):
        async with client.connect(f"/ws/chat/{room_name}"):
            pass  # the handshake is denied before this
