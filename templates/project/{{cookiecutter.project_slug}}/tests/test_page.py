"""The page and its files, over plain HTTP."""

import pytest
from falcon.testing import TestClient

from {{ cookiecutter.package }}.app import create_app


def test_the_page_is_at_the_root() -> None:
    """A browser that opens the address gets the page, as HTML."""
    answer = TestClient(create_app()).simulate_get("/", host="localhost")

    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.startswith("<!doctype html>")


def test_the_page_runs_no_code_but_its_own() -> None:
    """Its policy allows nothing by default, and scripts from this server only."""
    answer = TestClient(create_app()).simulate_get("/", host="localhost")

    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")


@pytest.mark.parametrize(
    ("file", "content_type"),
    [
        ("chat.js", "text/javascript"),
        ("chat.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_its_files_have_their_content_types(file: str, content_type: str) -> None:
    """A browser refuses a script or a style sheet that says it is something else."""
    answer = TestClient(create_app()).simulate_get(f"/static/{file}", host="localhost")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(content_type)
