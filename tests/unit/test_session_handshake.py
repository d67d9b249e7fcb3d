"""The gate between the server and Falcon: whose answer counts, and what a denial looks like."""

import json

import falcon
import pytest

from falcon_pachinko.session.handshake import Gate

EXTENSION = {"websocket.http.response": {}}


class Server:
    """What a gate talks to."""

    def __init__(self, extensions):
        self.sent = []
        self.scope = {"type": "websocket", "extensions": extensions}

    async def receive(self):
        return {"type": "websocket.connect"}

    async def send(self, event):
        self.sent.append(event)

    def gate(self):
        return Gate(self.scope, self.receive, self.send)


@pytest.fixture
def server():
    return Server(EXTENSION)


@pytest.fixture(params=[{}, None, {"tls": {}}])
def plain_server(request):
    """Servers without the extension, of which some send no extensions at all."""
    return Server(request.param)


def close(code):
    return {"type": "websocket.close", "code": code}


async def test_a_gate_is_found_in_the_scope_until_it_is_left(server):
    """And leaving it twice is nothing."""
    gate = server.gate()

    assert Gate.of(server.scope) is gate
    gate.leave()
    gate.leave()
    assert list(server.scope) == ["type", "extensions"]


async def test_an_ordinary_websocket_passes_untouched(server):
    """What Falcon's own resources send is none of our business."""
    gate = server.gate()
    events = [
        {"type": "websocket.accept"},
        {"type": "websocket.send", "text": "hi"},
        close(3404),
    ]

    for event in events:
        await gate.send(event)

    assert server.sent == events


@pytest.mark.parametrize(("code", "status"), [(3400, 400), (3404, 404), (3503, 503)])
async def test_falcons_close_code_becomes_the_status(server, code, status):
    """A path without a route, or a middleware that refuses."""
    await server.gate().send(close(code))

    assert server.sent[0]["status"] == status


@pytest.mark.parametrize("code", [3404, 1011])
async def test_falcons_close_stays_one_where_no_status_can_be_sent(plain_server, code):
    """Clients see 403 then."""
    await plain_server.gate().send(close(code))

    assert plain_server.sent == [close(code)]


async def test_an_answered_handshake_swallows_falcons_close(server):
    """Falcon closes whatever its responder leaves; the session did that already."""
    gate = server.gate()
    gate.take_over()
    gate.answered()

    await gate.send(close(1000))

    assert server.sent == []


async def test_an_unanswered_handshake_becomes_a_500(server):
    """A responder that failed before it had an answer."""
    gate = server.gate()
    gate.take_over()

    await gate.send(close(1011))

    assert server.sent[0]["status"] == 500


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


async def test_a_denial_is_a_close_where_no_status_can_be_sent(plain_server):
    """Every server knows that."""
    await plain_server.gate().deny(falcon.HTTPGone())

    assert [event["type"] for event in plain_server.sent] == ["websocket.close"]
