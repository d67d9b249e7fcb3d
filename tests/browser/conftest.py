"""The browser ring: a project made and served by the real commands, in a headless Chromium."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import pytest_asyncio
from fault_proxy import FaultProxy
from missing import missing
from playwright.async_api import async_playwright, expect

DEADLINE = 20  # seconds for anything that a server or a page is awaited to do
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium():
    """Give the browser's path; without one, a developer's run goes on, and CI's fails."""
    named = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)
    if found is None:
        asked = f"CHROMIUM is {named!r}, which is no program" if named else "none is on PATH"
        missing("Chromium", f"{asked}; `apt-get install chromium`, or set CHROMIUM to its path")
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium):
    """Run one browser for a module; every `Tabs` is an empty profile in it."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        expect.set_options(timeout=DEADLINE * 1000)
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Make a project as a newcomer does, and give its folder."""
    folder = tmp_path_factory.mktemp("browser")
    command = [sys.executable, "-m", "pachinko_cli", "new", "tea-room", "--yes", "--no-git"]
    subprocess.run(command, cwd=folder, check=True, timeout=DEADLINE)
    return folder / "tea-room"


@pytest.fixture(scope="session")
def artefacts():
    """Give the folder for what is kept to be looked at; git ignores it."""
    folder = Path(__file__).parents[2] / "test-artefacts"
    folder.mkdir(exist_ok=True)
    return folder


class Server:
    """`pachinko serve` in a project, on one port for all its lives."""

    def __init__(self, project, **environment):
        # An announcement in between would be one line more than a test counts.
        self.project = project
        self.environment = {"TEA_ROOM_ANNOUNCE_EVERY": "3600"} | environment
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    async def start(self):
        """Start it, and return once the app behind it answers."""
        log = self.project.with_name(f"serve-{self.port}.log")
        with log.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pachinko_cli", "serve", "--port", str(self.port)),
                cwd=self.project,
                env=os.environ | self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that kill() reaches the reloader's child too
            )
        try:
            async with asyncio.timeout(DEADLINE):
                while not await asyncio.to_thread(self.answers):
                    await self.ended_within(0.1)
        except (OSError, TimeoutError) as error:
            pytest.fail(f"pachinko serve does not serve ({error!r}), it says:\n{log.read_text()}")

    def answers(self):
        """Ask for its health; no socket yet is a no, any other trouble is raised."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=DEADLINE) as answer:
                return answer.status == 200
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                return False
            raise

    async def ended_within(self, seconds):
        """Give it a moment; raise if it uses that to end."""
        with contextlib.suppress(TimeoutError):
            code = await asyncio.wait_for(self.process.wait(), seconds)
            raise ChildProcessError(f"it ended with {code}")

    async def kill(self):
        """End it as a power cut does: no close frame, no good-bye."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE):
            await self.process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(project):
    """Serve the project for a module; tests keep apart by talking in rooms of their own."""
    server = Server(project)
    await server.start()
    yield server
    await server.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def serve(project):
    """Start further servers of the project, with environment variables; ended with the test."""
    started = []

    async def serve(**environment):
        server = Server(project, **environment)
        started.append(server)
        await server.start()
        return server

    yield serve
    for server in started:
        await server.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def network():
    """Give a function that puts a network, which can fail, before a server's port."""
    async with contextlib.AsyncExitStack() as networks:

        async def before(server):
            return await networks.enter_async_context(FaultProxy(server.port))

        yield before


class Tabs:
    """Opens tabs and keeps what their consoles complain about."""

    def __init__(self, browser):
        self.browser, self.profiles, self.complaints = browser, [], []

    async def profile(self, **options):
        """Make an empty profile: one person's browser, with cookies and storage of its own."""
        profile = await self.browser.new_context(**options)
        self.profiles.append(profile)
        return profile

    async def open(self, url, name=None, *, profile=None, **options):
        """Open the chat as somebody, and wait for the welcome.

        Args:
            url: The page's address, with `?room=...` for another room than the lobby.
            name: Who opens it; None leaves it to the page to find a name.
            profile: What `profile` made; without it, a new one.
            **options: For the new profile, such as its `viewport` or `color_scheme`.
        """
        page = await (profile or await self.profile(**options)).new_page()
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        if name is not None:
            await page.add_init_script(f"sessionStorage.setItem('name', {json.dumps(name)})")
        await page.goto(url)
        await expect(page.get_by_role("log")).to_contain_text("Welcome, ")
        return page

    def _note(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")


@pytest_asyncio.fixture(loop_scope="module")
async def tabs(browser):
    """Open tabs; their profiles are closed with the test."""
    tabs = Tabs(browser)
    yield tabs
    for profile in tabs.profiles:
        await profile.close()
