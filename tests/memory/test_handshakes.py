"""How a handshake ends: accepted, denied with a status, or failed; and what was sent before."""

import asyncio
import contextlib
import uuid

import falcon
import pytest

from falcon_pachinko import (
    App,
    ConnectionStateError,
    HistoryLimits,
    Hook,
    Limits,
    MessageError,
    WebSocketResource,
    handles_message,
    to,
)
from falcon_pachinko.testing import HandshakeDenied, simulate


def door(on_connect):
    """Make a resource of an ``on_connect``, which notes its goodbyes."""

    class Door(WebSocketResource):
        goodbyes = []  # noqa: RUF012  # of all instances

        async def on_disconnect(self, ws, close_code):
            self.goodbyes.append(close_code)

    Door.on_connect = on_connect
    return Door


async def returns_true(self, req, ws):
    return True


async def accepts_itself(self, req, ws):
    await ws.accept()


async def accepts_itself_and_says_so(self, req, ws):
    await ws.accept(headers={"X-Tea": "green"})
    return True


async def returns_false(self, req, ws):
    return False


async def closes(self, req, ws):
    await ws.close(4401, "not you")


async def closes_and_returns_true(self, req, ws):
    await ws.close()
    return True


async def forbids(self, req, ws):
    raise falcon.HTTPForbidden(description="Members only.")


async def asks_for_a_login(self, req, ws):
    raise falcon.HTTPUnauthorized(challenges=["Bearer"])


async def is_gone(self, req, ws):
    raise falcon.HTTPGone


async def has_a_status_of_its_own(self, req, ws):
    raise falcon.HTTPError(429, headers=[("Retry-After", 7)])


@pytest.mark.parametrize(
    "on_connect",
    [returns_true, accepts_itself, accepts_itself_and_says_so],
    ids=lambda f: f.__name__,
)
async def test_a_handshake_is_accepted(serve, knock, on_connect):
    """By returning True, or by ``ws.accept()``."""
    resource = door(on_connect)
    async with simulate(serve(resource)) as client:
        outcome = await knock(client.connect("/"))
        status = client.manager.status()

    assert outcome == "accepted"
    assert resource.goodbyes == [1000]
    assert (status["accepted"], status["denied"], status["connections"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("on_connect", "status"),
    [
        (returns_false, 403),
        (closes, 403),
        (forbids, 403),
        (asks_for_a_login, 401),
        (is_gone, 410),
        (has_a_status_of_its_own, 429),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
async def test_a_handshake_is_denied(serve, knock, on_connect, status):
    """With the status that the resource chose; there is no goodbye to one who was never there."""
    resource = door(on_connect)
    async with simulate(serve(resource)) as client:
        outcome = await knock(client.connect("/"))
        counts = client.manager.status()

    assert outcome == status
    assert resource.goodbyes == []
    assert (counts["accepted"], counts["denied"], counts["connections"]) == (0, 1, 0)


async def test_a_denial_says_why(serve):
    """Status, headers and the body that Falcon would give the same error over HTTP."""
    async with simulate(serve(door(asks_for_a_login))) as client:
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/").__aenter__()

    assert (denied.value.status, denied.value.headers["www-authenticate"]) == (401, "Bearer")
    assert denied.value.headers["content-type"] == "application/json"
    assert b"401 Unauthorized" in denied.value.body


@pytest.mark.parametrize(("decision", "shown"), [(None, "None"), (1, "1"), ("yes", "'yes'")])
async def test_a_handshake_without_a_decision_is_a_bug_of_the_app(
    serve, knock, caplog, decision, shown
):
    """A forgotten ``return`` is a 500, and the log says what to write."""

    async def forgets(self, req, ws):
        return decision

    resource = door(forgets)
    async with simulate(serve(resource)) as client:
        outcome = await knock(client.connect("/"))

    assert outcome == 500
    assert f"Door.on_connect returned {shown}; return True to accept" in caplog.text
    assert resource.goodbyes == []


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("secret"), ExceptionGroup("many", [OSError("secret")])]
)
async def test_a_handshake_that_fails_is_a_500(serve, knock, caplog, error):
    """The traceback is logged, the client learns nothing of it, and nothing is left."""

    async def fails(self, req, ws):
        await self.join_room("lobby")
        raise error

    async with simulate(serve(door(fails))) as client:
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/").__aenter__()
        status = client.manager.status()

    assert denied.value.status == 500
    assert b"secret" not in denied.value.body
    assert "secret" in caplog.text
    assert (status["connections"], status["rooms"]) == (0, 0)


# After an accept of its own.


async def test_an_http_error_after_the_accept_closes_with_its_status(serve, closing):
    """3000 and the status, as Falcon does."""

    async def changes_its_mind(self, req, ws):
        await ws.accept()
        raise falcon.HTTPForbidden(title="No longer")

    resource = door(changes_its_mind)
    async with simulate(serve(resource)) as client, client.connect("/") as ann:
        code = await closing(ann)

    assert (code, ann.close_reason) == (3403, "No longer")
    assert resource.goodbyes == [3403]


async def test_a_failure_after_the_accept_closes_with_1011(serve, closing, caplog):
    """Logged once, and the reason gives nothing away."""

    async def fails_late(self, req, ws):
        await ws.accept()
        raise ZeroDivisionError("secret")

    resource = door(fails_late)
    async with simulate(serve(resource)) as client, client.connect("/") as ann:
        code = await closing(ann)

    assert (code, ann.close_reason) == (1011, "internal error")
    assert resource.goodbyes == [1011]
    assert caplog.text.count("ZeroDivisionError: secret") == 1


async def test_a_close_right_after_the_accept_is_a_goodbye(serve, closing):
    """Accepted is accepted: the clean-up runs."""

    async def closes_late(self, req, ws):
        await ws.accept()
        await ws.close(4000)

    resource = door(closes_late)
    async with simulate(serve(resource)) as client, client.connect("/") as ann:
        code = await closing(ann)

    assert (code, resource.goodbyes) == (4000, [4000])


# Before the accept.


async def test_what_is_sent_before_the_accept_leaves_right_after_it(serve):
    """Messages to itself, and broadcasts that reach it too, in order."""

    async def greets(self, req, ws):
        await self.join_room("lobby")
        await ws.send_media("welcome")
        await self.broadcast_to_room("lobby", "somebody came")
        await self.send("last")
        return True

    async with simulate(serve(door(greets))) as client, client.connect("/") as ann:
        heard = [await ann.receive_json() for _ in range(3)]

    assert heard == ["welcome", "somebody came", "last"]


async def test_a_denied_client_gets_nothing_of_what_was_sent(serve):
    """And those in the room are rid of it at once."""

    async def greets_and_denies(self, req, ws):
        await self.join_room("lobby")
        await ws.send_media("welcome")
        return False

    async with simulate(serve(door(greets_and_denies))) as client:
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/").__aenter__()
        rooms = await client.manager.get_rooms_by_prefix("")

    assert b"welcome" not in denied.value.body
    assert rooms == []


async def test_a_broadcast_waits_with_those_who_are_not_accepted_yet(serve):
    """It leaves right after their accept."""
    asked, may_come_in = asyncio.Event(), asyncio.Event()

    async def takes_its_time(self, req, ws):
        await self.join_room("lobby")
        asked.set()
        await may_come_in.wait()
        return True

    async with simulate(serve(door(takes_its_time))) as client:
        ann = client.connect("/")
        connecting = asyncio.create_task(ann.__aenter__())
        await asked.wait()
        delivery = await client.manager.broadcast_to_room("lobby", "news")
        may_come_in.set()
        await connecting
        heard = await ann.receive_json()
        await ann.__aexit__(None, None, None)

    assert (delivery.sent, heard) == (1, "news")


async def test_a_client_that_goes_while_it_waits_is_never_accepted(serve, by_hand, caplog):
    """Its room is left, what it took is given back with 1006, and the log has no error."""
    asked, went = asyncio.Event(), asyncio.Event()

    async def takes_its_time(self, req, ws):
        await self.join_room("lobby")
        asked.set()
        await went.wait()
        return True

    resource = door(takes_its_time)
    app = serve(resource)
    async with simulate(app) as client:
        server = by_hand(app)
        server.error = OSError("no client any more")
        server.start()
        await asked.wait()
        server.go(code=1001)
        went.set()
        await server.ended()
        status = client.manager.status()

    assert resource.goodbyes == [1006]
    assert server.task.exception() is None
    assert (status["connections"], status["rooms"], status["denied"]) == (0, 0, 1)
    assert caplog.records == []


async def accepts(self, ws):
    await ws.accept()


async def sends_first(self, ws):
    await ws.send_media({"type": "welcome"})
    await ws.accept()
    await self.broadcast_to_room("lobby", "late")


async def joins_first(self, ws):
    await self.join_room("lobby")
    await ws.accept()
    await ws.send_media("late")
    return True


@pytest.mark.parametrize("late", [accepts, sends_first, joins_first], ids=lambda f: f.__name__)
@pytest.mark.parametrize("how", ["goes", "is sent away", "drain"])
async def test_an_accept_that_comes_too_late_is_no_error(serve, by_hand, caplog, until, late, how):
    """Whoever ended it meanwhile: what ``on_connect`` still does is over, and nothing is logged."""
    asked = asyncio.Event()

    async def is_slow(self, req, ws):
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await until(lambda: ws.closed)
        return await late(self, ws)

    resource = door(is_slow)
    app = serve(resource)
    async with simulate(app) as client:
        server = by_hand(app)
        server.start()
        await asked.wait()
        if how == "goes":
            server.go(code=1001)
        elif how == "drain":
            await client.manager.drain(0)
        else:
            await client.manager.disconnect(to.everyone, 4001)
        await server.ended()
        status = client.manager.status()

    assert server.task.exception() is None
    assert (status["connections"], status["rooms"], status["denied"]) == (0, 0, 1)
    assert caplog.records == []


async def test_who_returned_true_after_closing_gives_back_what_it_took(serve, knock):
    """The first answer counts, so the client is denied; ``on_disconnect`` runs all the same."""
    resource = door(closes_and_returns_true)
    async with simulate(serve(resource)) as client:
        outcome = await knock(client.connect("/"))

    assert outcome == 403
    assert resource.goodbyes == [1006]


async def test_a_client_that_goes_is_noticed_while_on_connect_is_busy(
    serve, by_hand, monkeypatch, until
):
    """The reading ahead notices; the handler has its grace, then it is cancelled."""
    monkeypatch.setattr("falcon_pachinko.session.tasks.READ_AHEAD_AFTER", 0.001)
    cancelled = asyncio.Event()

    async def never_decides(self, req, ws):
        await self.join_room("lobby")
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    resource = door(never_decides)
    app = serve(resource, limits=Limits(handler_grace=0.01))
    async with simulate(app) as client:
        server = by_hand(app)
        server.start()
        await until(lambda: client.manager.status()["connections"])
        server.go(code=1001)
        await server.ended()
        status = client.manager.status()

    assert cancelled.is_set()
    assert resource.goodbyes == []
    assert (status["connections"], status["rooms"]) == (0, 0)


# Subprotocols and headers.


class Speaks(WebSocketResource):
    subprotocols = ("tea.v2", "tea.v1")

    @handles_message("which")
    async def which(self, ws):
        return ws.subprotocol


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ([], None),
        (["coffee"], None),
        (["tea.v1"], "tea.v1"),
        (["coffee", "tea.v1", "tea.v2"], "tea.v1"),
        (["tea.v2", "tea.v1"], "tea.v2"),
    ],
)
async def test_the_first_subprotocol_that_both_speak_is_agreed_on(serve, offered, agreed):
    """In the client's order, and only from what it offered."""
    async with simulate(serve(Speaks)) as client, client.connect("/", subprotocols=offered) as ann:
        answer = await ann.request("which")

    assert ann.subprotocol == agreed
    assert answer["payload"] == agreed


async def test_on_connect_sees_the_request(serve):
    """Headers, query and the client's offer, as in any Falcon responder."""

    async def shows(self, req, ws):
        await ws.accept(headers={"X-Tea": "green"})
        await ws.send_media([req.get_header("X-Who"), req.params, list(ws.subprotocols)])

    async with simulate(serve(door(shows))) as client:
        path, headers = "/?a=1&b=2", {"X-Who": "ann"}
        async with client.connect(path, headers=headers, subprotocols=["s"]) as ann:
            seen = await ann.receive_json()

    assert seen == ["ann", {"a": "1", "b": "2"}, ["s"]]
    assert ann.headers == {"x-tea": "green"}


async def test_a_server_without_the_extension_denies_with_a_close(serve, by_hand):
    """Then a client sees 403, whatever the status was."""
    app = serve(door(is_gone))
    async with simulate(app):
        server = by_hand(app)
        del server.scope["extensions"]
        server.start()
        await server.ended()

    assert server.kinds == ["websocket.close"]


@pytest.mark.parametrize(("status", "answer"), [(None, 400), (409, 409)])
async def test_a_message_error_denies_with_its_status(status, answer):
    """What refuses a message refuses a handshake too; 400 where it names no status."""

    class Door(WebSocketResource):
        async def on_connect(self, req, ws):
            raise MessageError("full", "Two are playing already.", status=status)

    app = App()
    app.add_websocket_route("/", Door)
    async with simulate(app) as client:
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/").__aenter__()

    assert denied.value.status == answer
    assert b"Two are playing already." in denied.value.body


async def test_a_room_that_a_path_cannot_name_is_a_400(caplog):
    """Bytes of a client's make no traceback."""

    class Door(WebSocketResource):
        async def on_connect(self, req, ws, name):
            await self.join_room(f"chat:{name}")
            return True

    app = App()
    app.add_websocket_route("/{name}", Door)
    async with simulate(app) as client:
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/" + "x" * 300).__aenter__()

    assert denied.value.status == 400
    assert not caplog.records


async def test_a_factory_may_not_hide_hooks(caplog):
    """Hooks that were not known when the route was added guard nothing: the handshake fails."""

    class Guarded(WebSocketResource):
        hooks = (Hook(),)

    app = App()
    app.add_websocket_route("/", lambda: Guarded())  # noqa: PLW0108  # what it makes is not seen
    async with simulate(app) as client:
        with pytest.raises(HandshakeDenied) as denied:
            await client.connect("/").__aenter__()

    assert denied.value.status == 500
    assert "write `-> Guarded` on it" in caplog.text


async def test_a_resource_factory_may_give_what_the_route_does_not():
    """A container knows the arguments; the route need not."""

    class Stored(WebSocketResource):
        def __init__(self, database):
            self.database = database

        async def on_connect(self, req, ws):
            await self.send({"type": self.database})
            return True

    app = App(resource_factory=lambda cls: cls("tea.db"))
    app.add_websocket_route("/", Stored)
    async with simulate(app) as client, client.connect("/") as ann:
        assert await ann.receive_json() == {"type": "tea.db"}


# A group of errors, as a TaskGroup raises them.


@pytest.mark.parametrize("where", ["on_connect", "hook", "authenticate"])
@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([falcon.HTTPForbidden()], 403),
        ([MessageError("full", status=409)], 409),
        ([ExceptionGroup("inner", [falcon.HTTPGone()])], 410),
        ([falcon.HTTPForbidden(), falcon.HTTPGone()], 500),
        ([KeyError("bug")], 500),
    ],
    ids=["http", "message", "nested", "two", "bug"],
)
async def test_a_group_of_one_error_denies_as_that_error(serve, knock, where, errors, status):
    """Whoever asks several things at once says no as without."""
    group = ExceptionGroup("unhandled errors in a TaskGroup", errors)

    async def fails(*args):
        raise group

    class Asks(Hook):
        before_connect = fails

    options = {"hook": {"hooks": [Asks()]}, "authenticate": {"authenticate": fails}}
    resource = door(fails if where == "on_connect" else returns_true)
    async with simulate(serve(resource, options=options.get(where))) as client:
        assert await knock(client.connect("/")) == status


# More than may wait for the accept.

MANY = 40

SENDERS = {
    "text": lambda me: me.ws.send_text("x" * 100),
    "data": lambda me: me.ws.send_data(b"x" * 100),
    "send": lambda me: me.send("x" * 98),
    "room": lambda me: me.broadcast_to_room("lobby", "x" * 98),
    "everyone": lambda me: me.ws.manager.broadcast_to_all("x" * 98),
    "itself": lambda me: me.ws.manager.send_to_connection(me.ws.id, "x" * 98),
    "kept": lambda me: me.broadcast_to_room("kept:all", {"type": "x" * 90}),
    "latest": lambda me: me.send("x" * 98, latest=f"key {uuid.uuid4()}"),
    "task": lambda me: asyncio.create_task(me.send("x" * 98)),
}
"""All ways to send about 100 bytes to the connection that is being made."""


@pytest.mark.parametrize("policy", ["close", "drop_oldest"])
@pytest.mark.parametrize("way", SENDERS)
async def test_what_does_not_fit_before_the_accept_is_told_to_its_sender(serve, way, policy):
    """Which may go on: what did fit arrives, and the client is let in."""
    refused = []

    class Pours(WebSocketResource):
        async def on_connect(self, req, ws):
            await self.join_room("lobby")
            await self.join_room("kept:all")
            for number in range(MANY):
                try:
                    await SENDERS[way](self)
                except ConnectionStateError as error:
                    refused.append((number, str(error)))
                    break
            return True

    app = serve(Pours, limits=Limits(outbox_bytes=1000, on_overflow=policy))
    app.ws_connection_manager.configure_rooms("kept:", history=HistoryLimits())
    async with simulate(app) as client, client.connect("/") as ann:
        ((number, sentence),) = refused
        await client.manager.broadcast_to_all("end")
        frames = [await ann.receive() for _ in range(number + 1)]

    assert frames[-1] == '"end"'
    assert 2 < number < 11
    assert "accept first (await ws.accept()), then send" in sentence


# A client that goes while somebody is asked.


@pytest.mark.parametrize("end", ["drop", "disconnect"])
@pytest.mark.parametrize(
    ("where", "asked", "goodbyes"),
    [
        ("authenticate", [], []),
        ("hook", [], []),
        ("parent", ["parent"], ["parent"]),
        ("child", ["parent", "child"], ["child", "parent"]),
    ],
)
async def test_whoever_said_yes_gives_back_what_it_took(until, where, asked, goodbyes, end):
    """Once, with 1006; and after the client has gone nobody else is asked."""
    reached, go = asyncio.Event(), asyncio.Event()
    log = {"asked": [], "goodbyes": []}

    async def pause(place):
        if place == where:
            reached.set()
            await go.wait()

    def asking(name):
        class Asked(WebSocketResource):
            async def on_connect(self, req, ws):
                log["asked"].append(name)
                await self.join_room(name)
                try:
                    await pause(name)
                except asyncio.CancelledError:  # it was we who closed
                    return True
                return True

            async def on_disconnect(self, ws, close_code):
                log["goodbyes"].append((name, close_code, ws.accepted, len(ws.rooms)))

        return Asked

    class Asks(Hook):
        async def before_connect(self, req, ws, params):
            await pause("hook")

        async def after_connect(self, req, ws):
            log["asked"].append("after_connect")

    async def authenticate(req):
        await pause("authenticate")

    app = App(hooks=[Asks()], authenticate=authenticate)
    app.add_websocket_route("/room", asking("parent")).add_route("/seat", asking("child"))
    async with simulate(app) as client:
        ann = client.connect("/room/seat")
        entering = asyncio.create_task(ann.__aenter__())
        await reached.wait()
        if end == "drop":
            await ann.drop()
        else:
            await client.manager.disconnect(to.everyone, 4000)
        go.set()
        await asyncio.wait([entering])
        await until(lambda: not client.manager.status()["connections"])
        await asyncio.wait([ann.task])
        entering.exception()

    assert log["asked"] == asked
    assert log["goodbyes"] == [(name, 1006, False, 0) for name in goodbyes]
