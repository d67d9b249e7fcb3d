"""The worker that speaks for the house."""

from falcon_pachinko.testing import Client, simulate

from {{ cookiecutter.package }}.app import create_app
from {{ cookiecutter.package }}.config import Config
from {{ cookiecutter.package }}.workers import announcements


async def announcement(guest: Client) -> str:
    """Read up to the next announcement; what greets a newcomer comes in between."""
    while (frame := await guest.receive_json())["type"] != "announcement":
        pass
    return str(frame["payload"]["text"])


async def test_every_room_hears_the_announcements_in_turn() -> None:
    """The words come round, in each room that has somebody in it; and no room keeps them."""
    app = create_app(Config(announce_every=0.01))
    async with (
        simulate(app) as client,
        client.connect("/ws/chat/tea") as tea,
        client.connect("/ws/chat/coffee") as coffee,
    ):
        for guest in (tea, coffee):
            heard = {await announcement(guest) for _ in announcements.WORDS}

            assert heard == set(announcements.WORDS)
        assert await app.ws_connection_manager.history("chat:tea") == []
