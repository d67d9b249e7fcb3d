"""The pytest plugin's fixtures, in the very run that this is; tests/live has runs of its own."""

import runpy
import sys

import pytest

from falcon_pachinko import WebSocketResource, handles_message
from falcon_pachinko.testing import plugin


class Echo(WebSocketResource):
    @handles_message("echo")
    async def echo(self, ws, payload):
        return payload


@pytest.fixture
def app(serve):
    """What the fixtures of the plugin run."""
    return serve(Echo)


@pytest.mark.parametrize("fixture", ["pachinko_client", "pachinko_server"])
async def test_the_fixtures_run_the_apps_fixture(app, pachinko_client, pachinko_server, fixture):
    """In memory and on a real server, for the same test."""
    host = {"pachinko_client": pachinko_client, "pachinko_server": pachinko_server}[fixture]
    async with host.connect("/") as ann:
        answer = await ann.request("echo", 1)

    assert answer["payload"] == 1
    assert pachinko_client.app is app


def test_the_plugin_loads_without_pytest_asyncio(monkeypatch):
    """Its fixtures then say what is missing, and only to tests that ask for them."""
    monkeypatch.setitem(sys.modules, "pytest_asyncio", None)
    loaded = runpy.run_path(plugin.__file__)

    assert {"pachinko_client", "pachinko_server"} <= set(loaded)
    with pytest.raises(pytest.fail.Exception, match=r"pip install 'falcon-pachinko\[testing\]'"):
        loaded["_refuse"]("pachinko_client")
