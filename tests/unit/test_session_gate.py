"""The gate between the server and Falcon: whose answer counts, and what a denial looks like."""

import asyncio
import datetime as dt
import json
from email.utils import format_datetime

import falcon
import pytest

from falcon_pachinko import WebSocketConnectionManager, to
from falcon_pachinko.counters import Counters
from falcon_pachinko.session import denials
from falcon_pachinko.session import gate as module
from falcon_pachinko.session.gate import Gate

EXTENSION = {"websocket.http.response": {}}


class Server:
    """What a gate talks to."""

    def __init__(self, extensions, offered=(), *, readable=True):
        self.sent = []
        self.error = None
        self.scope = {"type": "websocket", "extensions": extensions, "subprotocols": list(offered)}
        self.counters = Counters()
        self.revocations = WebSocketConnectionManager()._revocations
        self.events = asyncio.Queue()
        self.readable = readable

    async def send(self, event):
        if self.error is not None:
            raise self.error
        self.sent.append(event)
        if event["type"] == "websocket.close":
            self.events.put_nowait({"type": "websocket.disconnect", "code": event["code"]})

    def gate(self):
        return Gate(
            self.scope,
            self.events.get,
            self.send,
            counters=self.counters,
            revocations=self.revocations,
            readable=lambda _: self.readable,
        )

    @property
    def kinds(self):
        return [event["type"].removeprefix("websocket.") for event in self.sent]


@pytest.fixture
def server():
    return Server(EXTENSION)


@pytest.fixture(params=[{}, None, {"tls": {}}])
def plain_server(request):
    """Servers without the extension, of which some send no extensions at all."""
    return Server(request.param)


def close(code, reason=""):
    return {"type": "websocket.close", "code": code, "reason": reason}


async def test_it_tells_that_an_accept_is_a_denial():
    """As a trace between it and the server has to know, while it happens."""
    server, seen = Server(EXTENSION, ["pachinko.json"]), []
    gate = server.gate()
    send = server.send

    async def watched(event):
        seen.append((event["type"], gate.denies))
        await send(event)

    gate._send = watched
    before = gate.denies
    await gate.deny(falcon.HTTPNotFound())

    assert not before
    assert seen == [("websocket.accept", True), ("websocket.close", True)]


# Disconnects that come meanwhile.


@pytest.mark.parametrize("end", ["accepts", "leaves"])
async def test_a_handshake_is_underway_until_the_application_accepts_or_it_is_over(server, end):
    """An on_websocket of the application's own may then live for hours, and hold nothing."""
    gate = server.gate()
    server.revocations.note(to.user("ann"), 4403, "")
    noted = len(server.revocations._noted)
    if end == "accepts":
        await gate.send({"type": "websocket.accept"})
    else:
        gate.leave()

    assert noted == 1
    assert not server.revocations._noted


# Who may answer.


async def test_a_gate_is_found_in_the_scope_until_it_is_left(server):
    """And leaving it twice is nothing."""
    gate = server.gate()

    assert Gate.of(server.scope) is gate
    gate.leave()
    gate.leave()
    assert Gate.of(server.scope) is None
    assert list(server.scope) == ["type", "extensions", "subprotocols"]


async def test_an_ordinary_websocket_passes_untouched(server):
    """What Falcon's own resources send once they have accepted is none of our business."""
    gate = server.gate()
    events = [
        {"type": "websocket.accept"},
        {"type": "websocket.send", "text": "hi"},
        close(3404),
    ]

    for event in events:
        await gate.send(event)

    assert server.sent == events
    assert server.counters.denied == 0


@pytest.mark.parametrize(("code", "status"), [(3400, 400), (3404, 404), (3503, 503)])
async def test_falcons_close_code_becomes_the_status(server, code, status):
    """A path without a route, or a middleware that refuses; it counts as denied."""
    await server.gate().send(close(code))

    assert server.sent[0]["status"] == status
    assert server.counters.denied == 1


async def test_the_error_that_was_noted_is_the_answer(server):
    """What a middleware raised has a title; one of another status has nothing to do with it."""
    gate, other = server.gate(), Server(EXTENSION).gate()
    gate.error = other.error = falcon.HTTPForbidden(title="No tea")

    await gate.send(close(3403))
    await other.send(close(3404))

    assert json.loads(server.sent[1]["body"])["title"] == "No tea"
    assert server.sent[0]["status"] == 403


@pytest.mark.parametrize("code", [3404, 1011, 1000])
async def test_falcons_close_stays_one_where_no_status_can_be_sent(plain_server, code):
    """Clients see 403 then, whatever its code."""
    await plain_server.gate().send(close(code))

    assert plain_server.sent == [close(1008)]


@pytest.mark.parametrize("code", [1000, 1011, 3404])
async def test_a_sessions_handshake_swallows_falcons_close(server, code):
    """Falcon closes whatever its responder leaves; the session sees to that itself."""
    gate = server.gate()
    gate.take_over()

    await gate.send(close(code))

    assert server.sent == []
    assert server.counters.denied == 0


@pytest.mark.parametrize("code", [1000, 1011, 4001])
async def test_what_a_session_gives_back_becomes_a_500(server, code):
    """It failed before it had an answer, and Falcon's error handlers have none but a close."""
    gate = server.gate()
    gate.take_over()
    gate.give_back()

    await gate.send(close(code))

    assert server.sent[0]["status"] == 500


async def test_a_session_gets_the_servers_own_send(server):
    """Nothing stands between them."""
    assert server.gate().take_over() == server.send


@pytest.mark.parametrize("ends", [["deny", "deny"], ["gone", "deny"], ["deny", "gone"]])
async def test_a_handshake_is_denied_once(server, ends):
    """Whoever comes later has nothing to say, and the counter counts handshakes."""
    gate = server.gate()

    for each in ends:
        if each == "gone":
            await gate.gone()
        else:
            await gate.deny(falcon.HTTPForbidden())
    await gate.send(close(3404))

    assert server.counters.denied == 1
    assert len(server.sent) == (2 if ends[0] == "deny" else 1)


@pytest.mark.parametrize("error", [None, OSError("gone"), RuntimeError("closed already")])
async def test_a_server_is_answered_though_its_client_has_gone(server, caplog, error):
    """Else it would log that it never was; what it says to that does not matter."""
    server.error = error

    await server.gate().gone()

    assert [event["type"] for event in server.sent] == (["websocket.close"] if not error else [])
    assert (server.counters.denied, caplog.records) == (1, [])


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("accepted already")])
async def test_a_denial_that_cannot_be_sent_is_no_failure(server, caplog, error):
    """The client may have gone first; anything else is one line in the log."""
    server.error = error

    await server.gate().deny(falcon.HTTPForbidden())

    assert len(caplog.records) == (0 if isinstance(error, OSError) else 1)
    assert server.counters.denied == 1


# As a status.


async def test_a_denial_looks_like_falcons_response_to_the_same_error(server):
    """Status, headers in lower case, a JSON body."""
    error = falcon.HTTPTooManyRequests(
        title="Calm down", description="Ünïcode", headers={"Retry-After": 7}
    )

    await server.gate().deny(error)

    start, body = server.sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert dict(start["headers"]) == {
        b"retry-after": b"7",
        b"content-type": b"application/json",
        b"content-length": str(len(body["body"])).encode(),
    }
    assert json.loads(body["body"]) == {"title": "Calm down", "description": "Ünïcode"}
    assert not body["more_body"]


async def test_a_denials_headers_may_be_pairs(server):
    """One name may come twice."""
    await server.gate().deny(falcon.HTTPError(400, headers=[("X-A", "1"), ("X-A", "2")]))

    assert [pair for pair in server.sent[0]["headers"] if pair[0] == b"x-a"] == [
        (b"x-a", b"1"), (b"x-a", b"2"),
    ]  # fmt: skip


async def test_a_denials_text_that_has_no_utf8_form_is_replaced(server):
    """A denial must not fail."""
    await server.gate().deny(falcon.HTTPError(400, description="\ud800"))

    assert json.loads(server.sent[1]["body"])["description"] == "?"


async def test_an_http_status_has_its_own_text(server):
    """A redirect, say, with its header."""
    await server.gate().deny(falcon.HTTPStatus(303, headers={"Location": "/tea"}, text="there"))

    start, body = server.sent
    assert (start["status"], body["body"]) == (303, b"there")
    assert (b"location", b"/tea") in start["headers"]


async def test_a_denial_is_a_close_where_no_status_can_be_sent(plain_server):
    """Every server knows that."""
    await plain_server.gate().deny(falcon.HTTPGone())

    assert plain_server.kinds == ["close"]


# As what a browser can read.


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (["pachinko.json"], "pachinko.json"),
        (["pachinko.msgpack"], "pachinko.msgpack"),
        (["v1", "pachinko.msgpack", "pachinko.json"], "pachinko.msgpack"),
        (["pachinko.json", "pachinko.msgpack"], "pachinko.json"),
    ],
)
async def test_a_client_that_knows_us_is_told_by_a_close(offered, selected):
    """Accepted with the first of our subprotocols that it offers, and closed at once."""
    server = Server(EXTENSION, offered)

    await server.gate().deny(falcon.HTTPForbidden(title="No tea"))

    assert server.sent == [
        {"type": "websocket.accept", "subprotocol": selected},
        close(3403, "No tea"),
    ]
    assert (server.counters.denied, server.counters.accepted) == (1, 0)


@pytest.mark.parametrize("offered", [[], ["v1"], ["pachinko.xml"], ["PACHINKO.JSON"]])
async def test_any_other_client_gets_the_status(offered):
    """It could not tell such a close from one of the application's."""
    server = Server(EXTENSION, offered)

    await server.gate().deny(falcon.HTTPForbidden())

    assert server.sent[0]["status"] == 403


@pytest.mark.parametrize("why", ["this denial", "the app, or its host and origin"])
async def test_some_denials_are_nobodys_business(why):
    """A foreign page must not learn who is logged in: it gets the status alone."""
    server = Server(EXTENSION, ["pachinko.json"], readable=why == "this denial")

    await server.gate().deny(falcon.HTTPForbidden(), readable=why != "this denial")

    assert server.kinds == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (3404, (3404, "404 Not Found")),
        (4409, (4409, "taken")),
        (1011, (3500, "500 Internal Server Error")),
    ],
)
async def test_falcons_closes_are_readable_too(code, expected):
    """A path without a route, a code of the application's own, a failure."""
    server = Server(EXTENSION, ["pachinko.json"])

    await server.gate().send(close(code, "taken"))

    assert (server.sent[1]["code"], server.sent[1]["reason"]) == expected


async def test_the_applications_own_close_is_told_as_it_is():
    """Its very code and reason, though the handshake was denied."""
    server = Server(EXTENSION, ["pachinko.json"])

    await server.gate().deny(None, (4409, "somebody sits there"))

    assert server.sent[1] == close(4409, "somebody sits there")


def full(headers):
    return falcon.HTTPError(503, title="Full", headers=headers)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (None, 3403, "Forbidden"),
        (falcon.HTTPStatus(404), 3404, "Not Found"),
        (falcon.HTTPStatus(303, headers={"Location": "/"}), 3303, "See Other"),
        (falcon.HTTPTooManyRequests(title="Slow", retry_after=7), 3429, "Slow; retry in 7 s"),
        (full({"retry-after": " 12 "}), 3503, "Full; retry in 12 s"),
        (full({"Retry-After": "soon"}), 3503, "Full"),
        (full({"Retry-After": "-3"}), 3503, "Full"),
        (full({"Retry-After": "1.5"}), 3503, "Full"),
        (full([("X", "1"), ("Retry-After", "3")]), 3503, "Full; retry in 3 s"),
    ],
)  # fmt: skip
async def test_a_denial_becomes_a_code_and_a_reason(error, code, reason):
    """3000 and the status, the title, and when to come back."""
    server = Server(EXTENSION, ["pachinko.json"])

    await server.gate().deny(error)

    assert server.sent[1] == close(code, reason)


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        (lambda now: format_datetime(now + dt.timedelta(seconds=90), usegmt=True), 90),
        (lambda now: format_datetime(now - dt.timedelta(hours=1), usegmt=True), 0),
        (lambda now: (now + dt.timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S"), 90),
    ],
)
async def test_a_retry_after_that_is_a_date_becomes_the_seconds_until_then(
    monkeypatch, date, seconds
):
    """One that has passed is now; one without a zone is UTC."""
    now = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
    monkeypatch.setattr(denials.time, "time", now.timestamp)
    server = Server(EXTENSION, ["pachinko.json"])
    error = falcon.HTTPError(503, title="Full", headers={"Retry-After": date(now)})

    await server.gate().deny(error)

    assert server.sent[1]["reason"] == f"Full; retry in {seconds} s"


@pytest.mark.parametrize(
    "value", ["Mon, 01 Jan 99999999999 00:00:00 GMT", "Thu, 99 Foo 2030", "9" * 400, "²", ""]
)
async def test_a_retry_after_that_makes_no_sense_does_not_fail(value):
    """The client is told the rest."""
    server = Server(EXTENSION, ["pachinko.json"])
    error = falcon.HTTPError(503, title="Full", headers={"Retry-After": value})

    await server.gate().deny(error)

    assert server.sent[1]["code"] == 3503
    assert server.sent[1]["reason"].startswith("Full")
    assert len(server.sent[1]["reason"].encode()) <= 123


@pytest.mark.parametrize("title", ["x" * 300, "é" * 200, "🍵" * 100, "\ud800" * 200])
async def test_a_title_is_cut_so_that_the_hint_stays(title):
    """Both together fit into a close frame, and no character is cut in two."""
    server = Server(EXTENSION, ["pachinko.json"])

    await server.gate().deny(falcon.HTTPTooManyRequests(title=title, retry_after=30))

    reason = server.sent[1]["reason"]
    assert reason.endswith("; retry in 30 s")
    assert 119 < len(reason.encode()) <= 123


async def test_a_readable_denial_waits_for_the_client_to_take_note():
    """What it has sent before it knew is thrown away."""
    server = Server(EXTENSION, ["pachinko.json"])
    server.events.put_nowait({"type": "websocket.receive", "text": "hello?"})

    await server.gate().deny(falcon.HTTPForbidden())

    assert server.events.empty()


async def test_a_readable_denial_does_not_wait_for_ever(monkeypatch):
    """A client that does not answer the close is left to the server."""
    monkeypatch.setattr(module, "DENIED_WAIT", 0.01)
    server = Server(EXTENSION, ["pachinko.json"])
    gate = server.gate()
    gate.receive = asyncio.Event().wait

    async with asyncio.timeout(30):
        await gate.deny(falcon.HTTPForbidden())

    assert server.kinds == ["accept", "close"]
