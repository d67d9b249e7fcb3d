"""The tutorial's last steps, as a reader does them: two files in an empty folder."""

import json
import re
import subprocess
import sys

import pytest

DEADLINE = 40  # seconds for anything that a process is awaited to do

PAGE = "docs/tutorial/01-your-first-room.md"


@pytest.fixture
def folder(pages, tmp_path):
    """Give a folder with what the reader has written by the end of the page."""
    shown = [block for block in pages[PAGE].blocks if block.marker == "example"]
    *_, room, test = shown
    (tmp_path / "room.py").write_text(room.text, "utf-8")
    (tmp_path / "test_room.py").write_text(test.text, "utf-8")
    return tmp_path


@pytest.mark.slow
def test_the_readers_tests_pass(folder):
    """The reader's room passes the reader's tests, and there are as many as the page says."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_room.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert re.search(r"= 3 passed in", ran.stdout), ran.stdout


@pytest.mark.slow
def test_pachinko_serves_a_file_that_is_no_project(folder):
    """``pachinko serve room:app`` finds the reader's room, its path and its message types."""
    command = [sys.executable, "-m", "pachinko_cli", "serve", "room:app", "--port", "0", "--json"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            serving = json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE)

    route = {"template": "/ws/chat/{room_name}", "resource": "ChatRoom"}
    assert serving["websocket_routes"] == [route | {"message_types": ["say", "who"]}]
