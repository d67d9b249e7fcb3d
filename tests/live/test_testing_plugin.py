"""The pytest plugin, in projects of its users: small ones, each with a pytest run of its own."""

import os
import subprocess
import sys

import pytest

PROJECT = """
import falcon.asgi
import pytest
from falcon_pachinko import WebSocketResource, handles_message, install


class Echo(WebSocketResource):
    @handles_message("echo")
    async def echo(self, ws, payload):
        return payload


@pytest.fixture
def app():
    made = falcon.asgi.App()
    install(made)
    made.add_websocket_route("/echo", Echo)
    return made
"""

TESTS = """
import pytest


{mark}
async def test_in_memory(app, pachinko_client):
    async with pachinko_client.connect("/echo") as ann:
        assert (await ann.request("echo", 1))["payload"] == 1
    assert pachinko_client.manager is app.ws_connection_manager


{mark}
@pytest.mark.parametrize("fixture", ["pachinko_client", "pachinko_server"])
async def test_on_a_real_server(pachinko_client, pachinko_server, fixture):
    host = {{"pachinko_client": pachinko_client, "pachinko_server": pachinko_server}}[fixture]
    async with host.connect("/echo") as ann:
        assert (await ann.request("echo", 1))["payload"] == 1


def test_a_test_without_a_loop(pachinko_server):
    import urllib.error, urllib.request
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(pachinko_server.http_url)
"""

UNUSED = ("randomly", "timeout", "cacheprovider")

SETTINGS = 'asyncio_default_fixture_loop_scope = "function"\n'

HIDE_PYTEST_ASYNCIO = """
from importlib.machinery import PathFinder

class FindOthers:
    find_spec = PathFinder.find_spec

    def __call__(self, name, *args):
        return None if name.startswith("pytest_asyncio") else self.find_spec(name, *args)

PathFinder.find_spec = FindOthers()
"""

SYNC = """
def test_wants_it(pachinko_client): ...
def test_wants_the_other(pachinko_server): ...
def test_wants_neither(): ...
"""


@pytest.fixture
def project(tmp_path):
    """Write a user's project, and run its tests; gives the exit code and what was printed."""

    def run(tests, *options, conftest=PROJECT, before="", settings=SETTINGS):
        (tmp_path / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\n{settings}")
        (tmp_path / "conftest.py").write_text(conftest)
        (tmp_path / "test_it.py").write_text(tests)
        program = f"import sys\n{before}\nimport pytest\nsys.exit(pytest.main(sys.argv[1:]))"
        plugins = [word for name in UNUSED for word in ("-p", f"no:{name}")]
        ended = subprocess.run(
            [sys.executable, "-c", program, *plugins, *options],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    return run


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_fixtures_work_in_both_modes_of_pytest_asyncio(project, mode):
    """In memory and live, in async tests and in others, without a warning."""
    mark = "@pytest.mark.asyncio" if mode == "strict" else ""
    settings = f'{SETTINGS}asyncio_mode = "{mode}"\nfilterwarnings = ["error"]\n'
    code, printed = project(TESTS.format(mark=mark), "-W", "error", settings=settings)

    assert code == 0, printed
    assert "4 passed" in printed


def test_the_fixtures_work_in_one_loop_for_all_tests(project):
    """For projects that run everything in the session's loop."""
    settings = (
        'asyncio_mode = "auto"\nasyncio_default_fixture_loop_scope = "session"\n'
        'asyncio_default_test_loop_scope = "session"\n'
    )
    code, printed = project(TESTS.format(mark=""), settings=settings)

    assert code == 0, printed


WITH_WORKER = """
import pytest


@pytest.fixture
def app(app):
    async def tick(manager):
        import asyncio
        while True:
            await manager.broadcast_to_all("tick")
            await asyncio.sleep(0.01)

    app.add_websocket_worker(tick)
    return app


@pytest.mark.anyio
async def test_the_worker_runs_where_the_client_is(pachinko_client):
    async with pachinko_client.connect("/echo") as ann:
        assert await ann.receive_json() == "tick"


@pytest.mark.anyio
async def test_a_client_may_be_left_open(pachinko_client):
    ann = pachinko_client.connect("/echo")
    await ann.__aenter__()


@pytest.mark.anyio
async def test_a_failure_is_the_tests_own(pachinko_client):
    async with pachinko_client.connect("/echo"):
        raise ZeroDivisionError("my own")
"""


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_anyios_mark_works_in_both_modes_of_pytest_asyncio(project, mode):
    """In auto mode pytest-asyncio runs the test, and anyio its fixtures: in two loops."""
    settings = f'{SETTINGS}asyncio_mode = "{mode}"\nfilterwarnings = ["error"]\n'
    tests = TESTS.format(mark="@pytest.mark.anyio")
    code, printed = project(tests, "-k", "not trio", settings=settings)

    assert code == 0, printed
    assert "4 passed" in printed


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_anyios_mark_has_the_app_in_the_loop_of_the_test(project, mode):
    """Workers, clients and the test: one loop, in which the app starts and stops."""
    settings = f'{SETTINGS}asyncio_mode = "{mode}"\nfilterwarnings = ["error"]\n'
    code, printed = project(WITH_WORKER, "-k", "not trio", settings=settings)

    assert code == 1, printed
    assert "2 passed" in printed.replace("1 failed, ", ""), printed
    assert "ZeroDivisionError: my own" in printed
    assert "Event loop is closed" not in printed


def test_the_fixtures_introduce_themselves(project):
    """``pytest --fixtures`` says what each is."""
    _, printed = project(SYNC, "--fixtures")

    assert "pachinko_client" in printed
    assert "The project's ``app``, running in memory" in printed
    assert "The project's ``app`` on a real server" in printed


def test_without_an_app_fixture_pytest_says_so(project):
    """By its name."""
    code, printed = project(SYNC, conftest="")

    assert code == 1
    assert "fixture 'app' not found" in printed
    assert "1 passed, 2 errors" in printed


def test_without_pytest_asyncio_the_fixtures_say_what_is_missing(project):
    """Only tests that want them fail, with the line to type."""
    without = {"before": HIDE_PYTEST_ASYNCIO, "settings": ""}
    code, printed = project(SYNC, "-p", "no:asyncio", **without)

    assert code == 1, printed
    assert "1 passed, 2 errors" in printed
    for name in ("pachinko_client", "pachinko_server"):
        assert (
            f"{name} needs pytest-asyncio, which is not installed: "
            "pip install 'falcon-pachinko[testing]'"
        ) in printed


def test_a_failing_startup_fails_the_test_that_wants_the_app(project):
    """With the app's traceback."""
    conftest = """
import falcon.asgi
import pytest


class Broken:
    async def process_startup(self, scope, event):
        raise ZeroDivisionError("no tea")


@pytest.fixture
def app():
    return falcon.asgi.App(middleware=[Broken()])
"""
    code, printed = project(SYNC, conftest=conftest)

    assert code == 1
    assert "1 passed, 2 errors" in printed
    assert printed.count('raise ZeroDivisionError("no tea")') >= 2
    assert "LifespanError: the app's startup failed" in printed
    assert "LifespanError: the server did not start" in printed


def test_a_run_that_uses_none_of_it_imports_none_of_it(project):
    """Neither servers nor clients nor the simulator, at the start of every run."""
    tests = """
import sys

def test_modules():
    heavy = {
        "uvicorn", "websockets", "falcon.testing", "falcon_pachinko.testing.client",
        "falcon_pachinko.testing.live", "falcon_pachinko.testing.simulator",
    }
    assert "falcon_pachinko.testing.plugin" in sys.modules
    assert not heavy & set(sys.modules)
"""
    code, printed = project(tests, conftest="")

    assert code == 0, printed
