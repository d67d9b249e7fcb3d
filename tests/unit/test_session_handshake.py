"""How a handshake is asked about: by whom, in which order, and whose answer counts."""

import asyncio
import datetime as dt

import falcon
import falcon.testing
import pytest

from falcon_pachinko import Connection, Hook, Limits, MessageError, Principal, WebSocketResource, to
from falcon_pachinko.connection.inbox import Inbox
from falcon_pachinko.messages.hooks import HookChain
from falcon_pachinko.session.admission import Admission
from falcon_pachinko.session.handshake import Accepted, Denied, Gone, Handshake

CODE = 4409


class Unheard:
    """Who is told by an inbox, and does nothing about it."""

    def gone(self): ...

    def exceeded(self, excess, frame): ...

    def intercept(self, frame):
        return False


class Bench:
    """A handshake with both of its sides."""

    def __init__(self, manager, wire):
        self.manager, self.wire, self.asked = manager, wire, []
        self.events = asyncio.Queue()
        self.inbox = Inbox(self.events.get, Limits(), Unheard())
        self.handshake = None

    def connection(self, *, subprotocols=(), address=None, **limits):
        self.ws = Connection(
            "ann",
            self.wire.send,
            self.manager,
            limits=Limits(**limits),
            subprotocols=subprotocols,
            direct=True,
        )
        self.ws._address = address
        self.manager._registry.add(self.ws)
        self.manager._revocations.begin(self.ws)
        return self.ws

    async def go(self):
        """Have the client leave, and the reader notice."""
        self.inbox.read_ahead()
        self.events.put_nowait({"type": "websocket.disconnect", "code": 1001})
        while not self.inbox.gone:  # noqa: ASYNC110  # the reader does it
            await asyncio.sleep(0)

    async def settle(self, *answers, hooks=(), admission=None, params=None, ws=None):
        """Ask a resource and its parents, outermost first; each answers by its own function."""
        if ws is None and not hasattr(self, "ws"):
            self.connection()
        made = []
        for number, answer in enumerate(answers):
            made.append(asked(self, f"{number}", answer))
            made[-1].parent = made[-2] if number else None

        async def make():
            self.asked.append("make")
            return made[-1]

        self.handshake = Handshake(
            falcon.testing.create_asgi_req(),
            params or {},
            [((), None)] * (len(made) - 1) + [(params or {}, None)],
            make,
            admission=admission or Admission(),
            hooks=HookChain(hooks),
        )

        async def attend(deciding):
            return await deciding

        return await self.handshake.settle(self.ws, self.inbox, attend)

    @property
    def welcomed(self):
        return [each.name for each in self.handshake.welcomed]


def asked(bench, name, answer):
    """Make a resource whose ``on_connect`` is a function of the test's."""

    class Asked(WebSocketResource):
        async def on_connect(self, req, ws, **params):
            bench.asked.append(name)
            result = answer(bench, ws, **params)
            return await result if hasattr(result, "__await__") else result

    resource = Asked()
    resource.name = name
    return resource


@pytest.fixture
async def bench(manager, wire):
    return Bench(manager, wire)


def true(bench, ws, **_):
    return True


def unanswered(bench, ws, **_):
    return None


def false(bench, ws, **_):
    return False


def raising(error):
    def answer(bench, ws, **_):
        raise error

    return answer


async def closing(bench, ws, **_):
    await ws.close(CODE, "taken")
    return True


async def leaving(bench, ws, **_):
    await bench.go()
    return True


async def accepting(bench, ws, **_):
    await ws.accept()


# Acceptance.


@pytest.mark.parametrize("answers", [[true], [true, true], [accepting], [true, accepting, true]])
async def test_all_who_agree_let_the_client_in(bench, answers):
    """The outermost is asked first, and all of them say goodbye later."""
    outcome = await bench.settle(*answers)

    assert outcome == Accepted()
    assert bench.wire.kinds == ["accept"]
    assert bench.asked == ["make", *bench.welcomed]
    assert len(bench.welcomed) == len(answers)


async def test_an_acceptance_counts_once_it_is_sent(bench):
    """Whoever returned None without it has not answered."""
    outcome = await bench.settle(accepting, unanswered)

    assert outcome == Accepted()
    assert bench.welcomed == ["0"]


async def test_the_fields_of_the_path_go_to_who_takes_them(bench):
    """By their names."""
    seen = []

    def noting(bench, ws, **params):
        seen.append(params)
        return True

    await bench.settle(noting, noting, params={"room": "tea"})

    assert seen == [{}, {"room": "tea"}]


async def test_each_has_its_connection_when_it_is_asked(bench):
    """``self.ws``, and what was negotiated."""
    ws = bench.connection(subprotocols=["pachinko.msgpack"])

    outcome = await bench.settle(lambda _, ws: ws.subprotocol == "pachinko.msgpack")

    assert outcome == Accepted()
    assert ws.resource.ws is ws
    assert bench.wire.events[0]["subprotocol"] == "pachinko.msgpack"


# Denial: the first answer wins.


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (false, 403),
        (raising(falcon.HTTPUnauthorized()), 401),
        (raising(falcon.HTTPStatus(303)), 303),
        (raising(MessageError("taken", "Somebody sits there.", status=409)), 409),
        (raising(MessageError("taken")), 400),
    ],
)
async def test_nobody_is_asked_after_a_denial(bench, answer, status):
    """The child is not, and those who had agreed say goodbye."""
    outcome = await bench.settle(true, answer, true)

    assert type(outcome) is Denied
    assert (outcome.error.status_code, outcome.close, outcome.readable) == (status, None, True)
    assert bench.asked == ["make", "0", "1"]
    assert bench.welcomed == ["0"]
    assert bench.wire.events == []


async def test_a_message_error_denies_with_its_code_and_sentence(bench):
    """The code is the title, since a browser can read that."""
    outcome = await bench.settle(raising(MessageError("taken", "Somebody sits there.", status=409)))

    assert (outcome.error.title, outcome.error.description) == ("taken", "Somebody sits there.")


async def test_a_close_before_the_accept_is_a_denial(bench):
    """With the code and reason that were given; whoever closed may still have returned True."""
    outcome = await bench.settle(closing, true)

    assert outcome == Denied(close=(CODE, "taken"))
    assert bench.asked == ["make", "0"]
    assert bench.welcomed == ["0"]


@pytest.mark.parametrize("answers", [[true, leaving, true], [leaving, true]])
async def test_a_client_that_goes_meanwhile_is_gone(bench, answers):
    """Its children are not asked; who agreed says goodbye."""
    outcome = await bench.settle(*answers)

    assert outcome == Gone()
    assert bench.asked == ["make", *bench.welcomed]
    assert bench.welcomed[-1] == str(len(answers) - 2)
    assert bench.wire.events == []


async def test_a_client_that_goes_at_the_accept_is_gone(bench):
    """The server says so when it is sent."""
    bench.wire.error = OSError("gone")

    outcome = await bench.settle(true)

    assert outcome == Gone()
    assert not bench.ws.accepted


@pytest.mark.parametrize("answer", [unanswered, lambda *_: 1, lambda *_: "yes"])
async def test_an_answer_that_is_none_is_a_mistake_of_the_application(bench, answer):
    """The error says what to return."""
    outcome = await bench.settle(answer)

    assert type(outcome) is Denied
    assert "return True to accept the connection, or False to deny it" in str(outcome.error)


@pytest.mark.parametrize(
    "error", [KeyError("x"), falcon.HTTPStatus(200), falcon.WebSocketDisconnected(4000)]
)
async def test_a_failure_is_left_to_falcon(bench, error):
    """Its error handlers answer it; a status of success is no answer to a handshake."""
    outcome = await bench.settle(raising(error))

    assert outcome == Denied(error)
    assert bench.welcomed == []


async def test_a_stray_cancelled_error_is_a_failure(bench):
    """Raised by the application itself, and not a cancellation of this task."""
    outcome = await bench.settle(raising(asyncio.CancelledError()))

    assert type(outcome.error) is RuntimeError
    assert type(outcome.error.__cause__) is asyncio.CancelledError


async def test_a_cancellation_is_one(bench):
    """It is for whoever has cancelled the session."""

    async def waiting(bench, ws):
        await asyncio.Event().wait()

    settling = asyncio.create_task(bench.settle(waiting))
    for _ in range(5):
        await asyncio.sleep(0)
    settling.cancel()
    await asyncio.wait([settling])

    assert settling.cancelled()


# Too late for a denial.


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        (false, 3403, "403 Forbidden"),
        (raising(falcon.HTTPConflict(title="Taken")), 3409, "Taken"),
        (raising(MessageError("taken", status=409)), 3409, "taken"),
        (raising(KeyError("x")), 1011, "internal error"),
    ],
)
async def test_after_the_accept_a_denial_is_a_close(bench, caplog, answer, code, reason):
    """With 3000 and the status, or 1011 and a line in the log."""
    outcome = await bench.settle(accepting, answer, true)

    assert outcome == Accepted()
    assert bench.asked == ["make", "0", "1"]
    assert bench.welcomed == ["0"]
    assert (bench.ws.close_code, bench.ws.close_reason) == (code, reason)
    assert len(caplog.records) == (code == 1011)


async def test_a_close_right_after_the_accept_is_the_end(bench):
    """Nobody is asked after it."""

    async def answer(bench, ws):
        await ws.accept()
        await ws.close(CODE)

    outcome = await bench.settle(answer, true)

    assert outcome == Accepted()
    assert (bench.asked, bench.welcomed) == (["make", "0"], ["0"])


@pytest.mark.parametrize("fails", [True, False])
async def test_who_accepted_by_hand_says_goodbye(bench, fails):
    """Whatever its ``on_connect`` returned or raised then: what was taken is given back."""

    async def answer(bench, ws):
        await ws.accept()
        if fails:
            raise KeyError("x")

    await bench.settle(true, answer)

    assert bench.welcomed == ["0", "1"]


# Before the resource is made.


class Denying(Hook):
    def __init__(self, bench, error=None, *, close=False):
        self.bench, self.error, self.close = bench, error, close

    async def before_connect(self, req, ws, params):
        self.bench.asked.append("hook")
        if self.close:
            await ws.close(CODE)
        if self.error is not None:
            raise self.error

    async def after_connect(self, req, ws):
        self.bench.asked.append("after")


@pytest.mark.parametrize("options", [{"error": falcon.HTTPForbidden()}, {"close": True}])
async def test_a_hook_that_denies_is_the_last_one_asked(bench, options):
    """Neither later hooks nor the resource are."""
    hooks = [Denying(bench), Denying(bench, **options), Denying(bench)]

    outcome = await bench.settle(true, hooks=hooks)

    assert type(outcome) is Denied
    assert bench.asked == ["make", "hook", "hook"]
    assert bench.welcomed == []


async def test_hooks_come_around_the_resource(bench):
    """Before it is asked, and after the accept."""
    await bench.settle(true, hooks=[Denying(bench)])

    assert bench.asked == ["make", "hook", "0", "after"]


async def test_after_a_denial_no_hook_is_told_of_a_connection(bench):
    """There is none."""
    await bench.settle(false, hooks=[Denying(bench)])

    assert "after" not in bench.asked


@pytest.mark.parametrize("error", [falcon.HTTPUnauthorized(), falcon.HTTPTooManyRequests()])
async def test_whom_authenticate_denies_costs_no_resource(bench, error):
    """None is made."""

    async def authenticate(req):
        raise error

    outcome = await bench.settle(true, admission=Admission(authenticate=authenticate))

    assert outcome == Denied(error)
    assert bench.asked == []


async def test_a_principal_is_known_when_the_resource_is_asked(bench, manager):
    """User, tags and the time that it has."""
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)

    async def authenticate(req):
        return Principal(user_id="ann", tags=["pro"], expires_at=expires)

    outcome = await bench.settle(
        lambda _, ws: (ws.user_id, ws.tags) == ("ann", {"pro"}),
        admission=Admission(authenticate=authenticate),
    )

    assert outcome == Accepted()
    assert await manager.count(to.user("ann")) == 1
    assert bench.ws._expiry is not None
    bench.ws._expiry.cancel()


@pytest.mark.parametrize(("most", "tags"), [(0, ["a"]), (2, "abc"), (128, range(129))])
async def test_a_principal_has_no_more_tags_than_are_allowed(bench, caplog, most, tags):
    """Denied with 403, and a warning that names the setting; it has none of them then."""

    async def authenticate(req):
        return Principal(user_id="ann", tags=[str(each) for each in tags])

    ws = bench.connection(tags=most)
    outcome = await bench.settle(true, ws=ws, admission=Admission(authenticate=authenticate))

    assert isinstance(outcome.error, falcon.HTTPForbidden)
    assert (bench.asked, ws.tags) == ([], frozenset())
    [record] = caplog.records
    assert "Limits.tags" in record.getMessage()


async def test_a_tag_that_is_given_twice_is_one(bench):
    """It counts once."""

    async def authenticate(req):
        return Principal(user_id="ann", tags=["pro", "pro", "beta"])

    ws = bench.connection(tags=2)

    assert (
        await bench.settle(true, ws=ws, admission=Admission(authenticate=authenticate))
        == Accepted()
    )


async def test_one_that_was_disconnected_meanwhile_is_not_let_in(bench, manager):
    """As soon as it is known who it is: the resource is not asked."""

    async def authenticate(req):
        await manager.disconnect(to.user("ann"), CODE, "banned")
        return Principal(user_id="ann")

    outcome = await bench.settle(true, admission=Admission(authenticate=authenticate))

    assert outcome == Denied(close=(CODE, "banned"))
    assert bench.asked == []


@pytest.mark.parametrize(
    ("limits", "status", "readable"),
    [
        ({"connections": 1}, 503, False),
        ({"connections_per_address": 1}, 429, False),
        ({"connections_per_user": 1}, 429, True),
    ],
)
async def test_one_too_many_is_told_so(bench, manager, connect, wire, limits, status, readable):
    """By the setting's name; a page that may not ask learns only the status."""
    other = connect(wire, "other", is_open=True)
    manager._registry.forget(other)
    other._address, other._user_id = "192.0.2.7", "ann"
    manager._registry.add(other)
    bench.connection(address="192.0.2.7", **limits)

    async def authenticate(req):
        return Principal(user_id="ann")

    outcome = await bench.settle(true, admission=Admission(authenticate=authenticate))

    assert (outcome.error.status_code, outcome.readable) == (status, readable)
    assert next(iter(limits)) in outcome.error.description
    assert bench.asked == []


async def test_a_server_that_goes_down_lets_nobody_in(bench, manager):
    """503, and when to come back."""
    manager._draining = True

    outcome = await bench.settle(true)

    assert outcome.error.status_code == 503
    assert outcome.error.headers["Retry-After"] == "1"
    assert bench.asked == []
