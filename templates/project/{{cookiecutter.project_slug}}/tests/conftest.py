"""What the tests share: the app, and a client that talks to it in memory."""

from collections.abc import AsyncIterator

import pytest
from falcon_pachinko import App
from falcon_pachinko.testing import Simulator, simulate

from {{ cookiecutter.package }}.app import create_app
from {{ cookiecutter.package }}.config import Config


@pytest.fixture
def app() -> App:
    """Make an app whose announcements stay away for as long as a test runs."""
    return create_app(Config(announce_every=3600))


@pytest.fixture
async def client(app: App) -> AsyncIterator[Simulator]:
    """Start the app, workers included; it is stopped after the test."""
    async with simulate(app) as client:
        yield client
