"""Why a handshake is denied reaches every client: as a status, or as a close."""

import asyncio
import gc
import weakref
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial

import falcon
import falcon.asgi
import msgspec
import pytest

from falcon_pachinko import Hook, Limits, MessageError, WebSocketResource, install
from falcon_pachinko.testing import Disconnected, HandshakeDenied, simulate

JSON, PACKED = "pachinko.json", "pachinko.msgpack"


class Page(msgspec.Struct):
    page: int = 1


class Door(WebSocketResource):
    """Denies in each way that a resource can."""

    subprotocols = ("tea.v2",)

    async def on_connect(self, req, ws, how, query: Page):
        if how == "false":
            return False
        if how == "status":
            raise falcon.HTTPGone(title="Moved out", description="It was pulled down.")
        if how == "later":
            raise falcon.HTTPTooManyRequests(title="Too many", retry_after=9)
        if how == "tomorrow":
            moment = datetime.now(UTC) + timedelta(days=1)
            raise falcon.HTTPServiceUnavailable(headers={"Retry-After": format_datetime(moment)})
        if how == "message":
            raise MessageError("seat_taken", "Somebody sits there.", status=409)
        if how == "close":
            await ws.close(4409, "two tabs")
        if how == "bug":
            raise ZeroDivisionError
        return True


class Guard(Hook):
    async def before_connect(self, req, ws, params):
        if req.get_param("guard"):
            raise falcon.HTTPConflict(title="Pay first")


class Gatekeeper:
    """A middleware of Falcon's."""

    async def process_request_ws(self, req, ws):
        if req.get_param("early"):
            raise falcon.HTTPServiceUnavailable(title="Not yet open", retry_after=30)

    async def process_resource_ws(self, req, ws, resource, params):
        if req.get_param("late"):
            raise falcon.HTTPLocked(title="Locked", description="Come with a key.")


async def authenticate(req):
    if req.get_param("stranger"):
        raise falcon.HTTPUnauthorized(title="Who are you?", challenges=["Bearer"])
    return req.get_param("user")


class QuotaError(Exception):
    """One of the application's own, with a handler of the application's own."""


async def too_much(req, resp, error, params, ws=None):
    raise falcon.HTTPInsufficientStorage(title="Full", description="No room left.")


def make_app(**options):
    app = falcon.asgi.App(middleware=[Gatekeeper()])
    app.add_error_handler(QuotaError, too_much)
    limits = Limits(connections_per_user=1)
    install(app, authenticate=authenticate, hooks=[Guard()], limits=limits, **options)
    app.add_websocket_route("/{how}", Door)

    class Full(WebSocketResource):
        async def on_connect(self, req, ws):
            raise QuotaError

    app.add_websocket_route("/quota/full", Full)
    return app


DENIALS = [
    ("/no/such/route", 404, "404 Not Found"),
    ("/false", 403, "403 Forbidden"),
    ("/status", 410, "Moved out"),
    ("/later", 429, "Too many; retry in 9 s"),
    ("/message", 409, "seat_taken"),
    ("/bug", 500, "500 Internal Server Error"),
    ("/in?page=two", 400, "Wrong query: $.page"),
    ("/in?guard=1", 409, "Pay first"),
    ("/in?early=1", 503, "Not yet open; retry in 30 s"),
    ("/in?late=1", 423, "Locked"),
    ("/in?stranger=1", 401, "Who are you?"),
    ("/quota/full", 507, "Full"),
]
"""A path, the status that every client sees, and the reason that a browser sees."""


@pytest.mark.parametrize(("path", "status", "reason"), DENIALS)
@pytest.mark.parametrize("protocols", [[JSON], [PACKED, JSON], ["tea.v1", JSON]])
async def test_a_client_that_knows_the_library_is_told_by_a_close(path, status, reason, protocols):
    """It is accepted with the first of our subprotocols that it offered, and closed at once."""
    async with simulate(make_app()) as client:
        ann = client.connect(path, subprotocols=protocols)
        async with ann:
            with pytest.raises(Disconnected):
                await ann.receive()

        assert ann.subprotocol == next(each for each in protocols if each in (JSON, PACKED))
        assert (ann.close_code, ann.close_reason) == (3000 + status, reason)
        assert client.manager.status()["denied"] == 1
        assert client.manager.status()["accepted"] == 0


@pytest.mark.parametrize(("path", "status", "reason"), DENIALS)
@pytest.mark.parametrize(
    ("protocols", "readable"), [([], True), (["tea.v2"], True), ([JSON], False)]
)
async def test_every_other_client_gets_the_status(path, status, reason, protocols, readable):
    """So does one that knows the library, where the app has switched the rest off."""
    async with simulate(make_app(readable_denials=readable)) as client:
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect(path, subprotocols=protocols):
                pass

        assert denied.value.status == status
        assert client.manager.status()["denied"] == 1


@pytest.mark.parametrize(
    ("path", "title", "description", "header"),
    [
        ("/status", "Moved out", "It was pulled down.", None),
        ("/later", "Too many", None, ("retry-after", "9")),
        ("/message", "seat_taken", "Somebody sits there.", None),
        ("/in?early=1", "Not yet open", None, ("retry-after", "30")),
        ("/in?late=1", "Locked", "Come with a key.", None),
        ("/in?stranger=1", "Who are you?", None, ("www-authenticate", "Bearer")),
        ("/quota/full", "Full", "No room left.", None),
    ],
)
async def test_a_denial_has_all_that_its_error_has(path, title, description, header):
    """Whoever raised it: the resource, a middleware, ``authenticate``, an error handler."""
    async with simulate(make_app()) as client:
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect(path):
                pass

    body = msgspec.json.decode(denied.value.body)
    assert (body["title"], body.get("description")) == (title, description)
    if header is not None:
        assert denied.value.headers[header[0]] == header[1]


async def test_a_date_to_come_back_is_told_in_seconds():
    """A Retry-After with a date becomes the seconds until then."""
    async with simulate(make_app()) as client:
        ann = client.connect("/tomorrow", subprotocols=[JSON])
        async with ann:
            with pytest.raises(Disconnected):
                await ann.receive()

    title, _, hint = ann.close_reason.partition("; retry in ")
    assert title == "503 Service Unavailable"
    assert 86_000 < int(hint.removesuffix(" s")) <= 86_400


async def test_a_close_of_the_applications_own_is_told_as_it_is():
    """The code and reason themselves where they can be read, else 403."""
    async with simulate(make_app()) as client:
        ann = client.connect("/close", subprotocols=[PACKED])
        async with ann:
            with pytest.raises(Disconnected):
                await ann.receive()
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect("/close"):
                pass

    assert (ann.close_code, ann.close_reason, denied.value.status) == (4409, "two tabs", 403)


async def test_one_connection_of_a_user_too_many_is_readable():
    """It is about this user, whom the app knows by then."""
    async with simulate(make_app()) as client, client.connect("/in?user=ann"):
        second = client.connect("/in?user=ann", subprotocols=[JSON])
        async with second:
            with pytest.raises(Disconnected):
                await second.receive()

    assert second.close_code == 3429


async def test_a_server_that_drains_says_when_to_come_back():
    """As a status with Retry-After, and as a close with the hint."""
    async with simulate(make_app()) as client:
        await client.manager.drain(1)
        readable = client.connect("/in", subprotocols=[JSON])
        async with readable:
            with pytest.raises(Disconnected):
                await readable.receive()
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect("/in"):
                pass

    assert readable.close_code == 3503
    assert readable.close_reason.endswith("; retry in 1 s")
    assert (denied.value.status, denied.value.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    ("headers", "options"),
    [
        ({"Host": "evil.example"}, {"allowed_hosts": "app.example"}),
        ({"Host": "app.example", "Origin": "https://evil.example"}, {}),
        ({"Host": "app.example", "Origin": "null"}, {}),
    ],
)
@pytest.mark.parametrize("path", ["/in", "/in?early=1", "/in?stranger=1", "/no/such/route"])
async def test_a_foreign_page_is_never_told_why(headers, options, path):
    """Nor can it find out who is logged in, from a middleware either: always a plain status."""
    async with simulate(make_app(**options)) as client:
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect(path, subprotocols=[JSON], headers=headers):
                pass

    assert 400 <= denied.value.status <= 503


async def test_a_full_server_is_no_place_to_be_accepted():
    """Limits of the server, and of an address, keep their status: no socket lives on for them."""
    app = falcon.asgi.App()
    install(app, limits=Limits(connections=1))
    app.add_websocket_route("/", WebSocketResource)
    async with simulate(app) as client, client.connect("/"):
        with pytest.raises(HandshakeDenied) as denied:
            async with client.connect("/", subprotocols=[JSON]):
                pass

    assert denied.value.status == 503


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ([JSON], JSON),
        ([PACKED, JSON], PACKED),
        ([JSON, "tea.v2"], "tea.v2"),
        (["tea.v2", JSON], "tea.v2"),
        (["tea.v1", PACKED], PACKED),
        (["tea.v1"], None),
    ],
)
async def test_on_success_the_applications_own_subprotocol_comes_first(offered, agreed):
    """Ours is selected only where nothing else that is offered is one of the resource's own."""
    async with simulate(make_app()) as client, client.connect("/in", subprotocols=offered) as ann:
        pass

    assert ann.subprotocol == agreed


async def test_a_readable_denial_leaves_no_connection_behind():
    """Nobody sees it in a room or in the status, and ``accepted`` stays False."""
    seen = []

    class Nosy(WebSocketResource):
        async def on_connect(self, req, ws):
            seen.append(ws)
            await self.join_room("lobby")
            return False

    app = falcon.asgi.App()
    install(app)
    app.add_websocket_route("/", Nosy)
    async with simulate(app) as client:
        ann = client.connect("/", subprotocols=[JSON])
        async with ann:
            await asyncio.sleep(0)
            with pytest.raises(Disconnected):
                await ann.receive()
        status = client.manager.status()

    assert (status["connections"], status["rooms"]) == (0, 0)
    assert not seen[0].accepted


@pytest.fixture
def no_collector():
    """Nothing is freed but what nothing refers to."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "error", [falcon.HTTPForbidden, falcon.HTTPTooManyRequests, partial(MessageError, "full")]
)
async def test_what_was_denied_is_freed_at_once(serve, knock, error):
    """The error, whose traceback leads to all frames of the session, is part of no cycle."""
    kept = []

    class Full(WebSocketResource):
        async def on_connect(self, req, ws):
            kept.append(weakref.ref(self))
            raise error()

    async with simulate(serve(Full)) as client:
        seen = await knock(client.connect("/"))

    assert seen in {400, 403, 429}
    assert kept[0]() is None
