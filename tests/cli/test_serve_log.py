"""What the request log of `pachinko serve` shows, and what it keeps to itself."""

import asyncio
import logging
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pachinko_cli.server import log

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    "name",
    [
        *("token", "access_token", "authToken", "X-Amz-Security-Token", "api_key", "apikey", "KEY"),
        *("password", "pwd", "client_secret", "ticket", "auth", "jwt", "X-Amz-Signature", "sid"),
        *("%74oken", "user%5Btoken%5D", "token+"),
    ],
)
def test_a_secret_is_replaced(name):
    """The value goes, the name stays as it was sent, and so do its neighbours."""
    shown = log.redact(f"/ws?room=tea&{name}=hunter2&page=2")

    assert shown == f"/ws?room=tea&{name}=***&page=2"


@pytest.mark.parametrize(
    "target",
    [
        "/ws/token=5",
        "/ws?room=tea&page=2&author=ann&keyword=x&monkey=1&design=2",
        "/ws?token",
        "/ws?token=",
        "/ws?",
        "",
    ],
)
def test_what_is_no_secret_stays(target):
    """A path, other names that only look similar, and a name without a value."""
    assert log.redact(target) == target


@given(st.text(), st.text(min_size=1), st.lists(st.tuples(st.text(), st.text())))
def test_no_value_of_a_token_is_ever_shown(path, secret, others):
    """Whatever stands around it, and wherever: the rest of the line is what it was."""
    query = "&".join([*(f"a{quote(n)}={quote(v)}" for n, v in others), f"token={quote(secret)}"])

    shown = log.redact(f"{quote(path)}?{query}")

    assert shown.endswith("token=***")
    assert log.redact(shown) == shown


def record(name, level, message, *arguments, error=None):
    exc_info = (type(error), error, None) if error else None
    return logging.LogRecord(name, level, "", 0, message, arguments, exc_info)


REQUEST = record(
    *("uvicorn.access", logging.INFO, '%s - "%s %s HTTP/%s" %d'),
    *("1.2.3.4:5", "GET", "/a?b=1", "1.1", 404),
)
ACCEPTED = record(
    "uvicorn.error", logging.INFO, '%s - "WebSocket %s" [accepted]', "1.2.3.4:5", "/ws"
)
FORBIDDEN = record("uvicorn.error", logging.INFO, '%s - "WebSocket %s" 403', "1.2.3.4:5", "/ws")
REFUSED = record("uvicorn.error", logging.INFO, '%s - "WebSocket %s" %d', "1.2.3.4:5", "/ws", 401)
STARTED = record("uvicorn.error", logging.INFO, "Started server process [%d]", 7)
CANCELLED = record(
    "uvicorn.error", logging.ERROR, "Exception in app\n", error=asyncio.CancelledError()
)
BROKEN = record("uvicorn.error", logging.ERROR, "Exception in app\n", error=ValueError("bad"))


@pytest.mark.parametrize(
    ("of", "line"),
    [
        (REQUEST, "404  GET  /a?b=1  1.2.3.4:5"),
        (ACCEPTED, "101  WS   /ws  1.2.3.4:5"),
        (FORBIDDEN, "403  WS   /ws  1.2.3.4:5"),
        (REFUSED, "401  WS   /ws  1.2.3.4:5"),
        (STARTED, "info  Started server process [7]"),
    ],
)
def test_a_line_begins_with_time_and_status(of, line):
    """Requests and handshakes look the same: time, status, method, target, client."""
    time, rest = log.Line(use_colors=False).format(of).split("  ", 1)

    assert rest == line
    assert len(time) == len("14:03:22")


def test_a_status_has_a_colour_where_colours_are_wanted():
    """Yellow for the client's mistakes."""
    assert "\x1b[33m404\x1b[0m" in log.Line(use_colors=True).format(REQUEST)


def test_no_color_goes_before_the_terminal(monkeypatch):
    """With NO_COLOR set, a terminal gets no colours either."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    coloured = log.Line().format(REQUEST)
    monkeypatch.setenv("NO_COLOR", "1")

    assert "\x1b" in coloured
    assert "\x1b" not in log.Line().format(REQUEST)


def test_only_what_people_want_to_see_gets_a_line():
    """Handshakes and errors; not uvicorn's own life, nor a handler that a stop cancelled."""
    records = [ACCEPTED, FORBIDDEN, REFUSED, STARTED, CANCELLED, BROKEN]

    shown = [one for one in records if log.worth_a_line(one)]

    assert shown == [ACCEPTED, FORBIDDEN, REFUSED, BROKEN]
