"""The resource that says that the app is up, asked of the very app that a server runs."""

from falcon.testing import TestClient

from {{ cookiecutter.package }}.asgi import app


def test_health_is_ok_while_the_app_runs() -> None:
    """A load balancer that asks for /health gets a 200 and a word."""
    answer = TestClient(app).simulate_get("/health", host="localhost")

    assert (answer.status_code, answer.json) == (200, {"status": "ok"})
