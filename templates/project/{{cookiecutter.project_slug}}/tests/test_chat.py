"""The chat, in memory: everything but the socket is real."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from falcon_pachinko.testing import Client, HandshakeDenied, Simulator


@asynccontextmanager
async def ann_and_bob(client: Simulator) -> AsyncIterator[tuple[Client, Client]]:
    """Bring two people into one room, and read what greets them."""
    async with client.connect("/ws/chat/tea?name=Ann") as ann:
        await ann.expect("welcome")
        async with client.connect("/ws/chat/tea?name=Bob") as bob:
            await bob.expect("welcome")
            await ann.expect("joined")
            yield ann, bob


async def test_a_newcomer_is_told_who_is_here(client: Simulator) -> None:
    """The first frame names the room, the newcomer and everybody in it."""
    async with (
        client.connect("/ws/chat/tea?name=Ann"),
        client.connect("/ws/chat/tea?name=Bob") as bob,
    ):
        welcome = (await bob.expect("welcome"))["payload"]

    assert welcome["room"] == "tea"
    assert welcome["you"]["name"] == "Bob"
    assert welcome["you"] in welcome["members"]
    assert {member["name"] for member in welcome["members"]} == {"Ann", "Bob"}


async def test_the_others_see_who_joins(client: Simulator) -> None:
    """Those who were there get a `joined`; the newcomer gets the welcome and no more."""
    async with client.connect("/ws/chat/tea?name=Ann") as ann:
        await ann.expect("welcome")
        async with client.connect("/ws/chat/tea?name=Bob") as bob:
            welcome = await bob.expect("welcome")
            joined = await ann.expect("joined")
            await bob.expect_nothing()

    assert joined["payload"] == welcome["payload"]["you"]


async def test_the_others_see_who_leaves(client: Simulator) -> None:
    """A connection that ends is a `left` for those who stay."""
    async with client.connect("/ws/chat/tea?name=Ann") as ann:
        await ann.expect("welcome")
        async with client.connect("/ws/chat/tea?name=Bob"):
            joined = await ann.expect("joined")
        left = await ann.expect("left")

    assert left["payload"] == joined["payload"]


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
        await coffee.expect("welcome")
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
