"""The worker that speaks for the house."""

from falcon_pachinko.testing import simulate

from {{ cookiecutter.package }}.app import create_app
from {{ cookiecutter.package }}.config import Config
from {{ cookiecutter.package }}.workers import announcements


async def test_every_room_hears_the_announcements_in_turn() -> None:
    """The words come round, one after the other, in each room that has somebody in it."""
    app = create_app(Config(announce_every=0.01))
    async with (
        simulate(app) as client,
        client.connect("/ws/chat/tea") as tea,
        client.connect("/ws/chat/coffee") as coffee,
    ):
        for guest in (tea, coffee):
            await guest.expect("welcome")
            heard = [await guest.expect("announcement") for _ in announcements.WORDS]

            assert {frame["payload"]["text"] for frame in heard} == set(announcements.WORDS)
