"""The worker that tells the time, started and stopped with the app."""

from falcon_pachinko.testing import simulate

from {{ cookiecutter.package }}.app import create_app
from {{ cookiecutter.package }}.config import Config


async def test_everybody_is_told_the_time() -> None:
    """Whoever is connected when the clock ticks hears it."""
    app = create_app(Config(tick_every=0.01))
    async with simulate(app) as client, client.connect("/ws/echo") as ann:
        heard = await ann.receive_json()

    assert heard["type"] == "tick"
