"""What resources know as ``ws``: its verbs, who it is, and whom its sends wait for."""

import asyncio
import json
import logging

import falcon
import pytest

from falcon_pachinko import (
    ConnectionStateError,
    EncodeError,
    InvalidNameError,
    MessageError,
    to,
)
from falcon_pachinko.connection.connection import chosen_subprotocol
from falcon_pachinko.connection.ends import check_close_code
from falcon_pachinko.connection.sender import SENDER, check_sending

# Close codes, and options of sending.


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1008, 1014, 3000, 4000, 4999])
def test_a_code_that_an_endpoint_may_send_is_taken(code):
    """The registered ones, and the ranges for libraries and applications."""
    check_close_code(code)


@pytest.mark.parametrize("code", [0, -1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 10**9])
def test_a_code_that_nobody_may_send_is_refused(code):
    """Reserved codes name what was *not* sent; a server would fail on them."""
    with pytest.raises(ValueError, match=f"{code} cannot be sent.*4000-4999"):
        check_close_code(code)


@pytest.mark.parametrize("code", ["1000", 1000.0, None, True])
def test_a_code_is_a_whole_number(code):
    """And the error shows what came instead."""
    with pytest.raises(TypeError, match="a close code is a whole number"):
        check_close_code(code)


@pytest.mark.parametrize(
    ("latest", "volatile"), [(None, False), (None, True), ("x", False), ("é", False)]
)
def test_options_that_agree_are_taken(latest, volatile):
    """A key is any text that is not empty."""
    check_sending(latest, volatile=volatile)


@pytest.mark.parametrize(
    ("latest", "volatile", "error"),
    [
        ("x", True, "exclude each other"),
        ("", True, "exclude each other"),
        ("", False, "non-empty text"),
        (3, False, "latest=3: give a non-empty text"),
        (b"x", False, "non-empty text"),
    ],
)
def test_options_that_contradict_each_other_are_refused(latest, volatile, error):
    """What may be dropped cannot be the one that is kept, and a key has a name."""
    with pytest.raises(ValueError, match=error):
        check_sending(latest, volatile=volatile)


# Sending.


async def test_every_kind_of_frame_can_be_sent(wire, connect):
    """Messages as JSON, text and bytes as they are."""
    ann = connect(wire)

    await ann.send_media({"type": "hello"})
    await ann.send_text("plain")
    await ann.send_data(bytearray(b"\x00\x01"))
    await ann.send_data(memoryview(b"\x02"))

    assert wire.frames == ['{"type":"hello"}', "plain", b"\x00\x01", b"\x02"]


async def test_every_kind_of_frame_waits(wire, connect):
    """Messages, text and bytes, in the order in which they were sent."""
    ann = connect(wire)
    wire.stalled = True

    await ann.send_text("one")
    await ann.send_media({"n": 2})
    await ann.send_data(b"three")
    wire.drain()
    await wire.took(3)

    assert wire.frames == ["one", '{"n":2}', b"three"]


@pytest.mark.parametrize(
    ("verb", "argument", "error"),
    [
        ("send_media", object(), EncodeError),
        ("send_text", b"bytes", TypeError),
        ("send_text", "\ud800", EncodeError),
        ("send_data", "text", TypeError),
    ],
)
async def test_what_cannot_be_sent_fails_the_sender(wire, connect, verb, argument, error):
    """And nothing leaves, not even a part; the connection stays open."""
    ann = connect(wire)

    with pytest.raises(error):
        await getattr(ann, verb)(argument)

    assert wire.events == []
    assert not ann.closed


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("closed")])
async def test_what_is_sent_to_one_that_is_gone_is_discarded(wire, connect, error):
    """Without an error: the sender cannot know."""
    ann = connect(wire)
    wire.error = error

    await ann.send_media({"type": "one"})
    await ann.send_text("two")

    assert ann.closed
    assert wire.events == []


@pytest.mark.parametrize(("kind", "frame"), [("TEXT", '{"n":1}'), ("BINARY", b"\x81\xa1n\x01")])
async def test_a_payload_type_chooses_the_codec_as_in_falcon(wire, connect, kind, frame):
    """For this one message, whatever was agreed on."""
    ann = connect(wire)

    await ann.send_media({"n": 1}, getattr(falcon.WebSocketPayloadType, kind))

    assert wire.frames == [frame]


@pytest.mark.parametrize("verb", ["send_media", "send_text", "send_data"])
async def test_every_verb_has_the_options_of_sending(wire, connect, manager, verb):
    """Dropped while the client is behind, or replaced where it waits, by key."""
    ann = connect(wire)
    values = [b"1", b"22"] if verb == "send_data" else ["1", "22"]
    send = getattr(ann, verb)
    wire.stalled = True
    await ann.send_text("slow")

    await send(values[0], volatile=True)
    await send(values[0], latest="x")
    await send(values[1], latest="x")
    wire.drain()
    await wire.took(2)
    with pytest.raises(ValueError, match="exclude each other"):
        await send(values[0], latest="x", volatile=True)

    written = json.dumps(values[1]) if verb == "send_media" else values[1]
    assert wire.frames == ["slow", written]
    assert manager.status()["dropped"] == {"volatile": 1}


async def test_all_who_send_to_one_connection_share_its_keys(wire, connect, manager):
    """The verbs of the connection, and the manager's for its id."""
    ann = connect(wire)
    wire.stalled = True
    await ann.send_text("slow")

    await ann.send_media(1, latest="x")
    await manager.send_to_connection("ann", 2, latest="x")
    await manager.broadcast(3, to=to.connection("ann"), latest="x")
    await manager.broadcast_to_all(4, latest="x")
    wire.drain()
    await wire.took(3)

    assert wire.frames == ["slow", "3", "4"]


async def test_what_is_sent_is_counted_by_type(wire, connect, manager):
    """What was dropped is not."""
    ann = connect(wire)

    await ann.send_media({"type": "said"})
    wire.stalled = True
    await ann.send_media({"type": "said"})
    await ann.send_media({"type": "said"}, volatile=True)

    assert manager.status()["sent"] == {"said": 2}


# Keeping its client's pace.


class Life:
    """A session, as far as a connection and the manager know one."""

    def __init__(self, *tasks):
        self.tasks = tasks

    def owns(self, task):
        return task in self.tasks


def behalf(ann, sending):
    """Have a coroutine run on a connection's behalf, as its session has its handlers."""

    async def run():
        SENDER.set(ann)
        await sending

    ann._session = ann._session or Life()
    return asyncio.create_task(run())


async def send_all(ann, texts):
    for each in texts:
        await ann.send_text(each)


async def send_in_a_task(ann, texts):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send_all(ann, texts))


async def send_with_a_deadline(ann, texts):
    await asyncio.wait_for(send_all(ann, texts), 30)


async def send_messages(ann, texts):
    for each in texts:
        await ann.send_media(each)


async def send_values(ann, texts):
    for number, each in enumerate(texts):
        await ann.send_text(each, latest=str(number))


@pytest.mark.parametrize(
    "send", [send_all, send_in_a_task, send_with_a_deadline, send_messages, send_values]
)
async def test_code_of_its_own_waits_for_its_slow_client(wire, connect, send):
    """Else a handler in a loop would fill its client's outbox; in any task that inherits it."""
    ann = connect(wire, outbox_bytes=16)
    wire.stalled = True
    handler = behalf(ann, send(ann, ["12345678901", "next"]))
    await wire.holds_one()
    for _ in range(5):
        await asyncio.sleep(0)

    held_back = not handler.done()
    wire.drain()
    await handler
    await wire.took(2)

    assert held_back
    assert [each.strip('"') for each in wire.frames] == ["12345678901", "next"]


async def test_a_message_does_not_overtake_one_that_waits_for_its_turn(wire, connect):
    """Nor in the moment in which the client has caught up, and the server takes frames again."""
    ann = connect(wire, outbox_bytes=10)
    wire.stalled = True
    await ann.send_text("123456")
    first = behalf(ann, ann.send_media(1))
    await asyncio.sleep(0)
    reads = asyncio.Event()

    async def come_late():
        await reads.wait()
        await ann.send_media(2)

    late = behalf(ann, come_late())
    await asyncio.sleep(0)
    wire.drain()
    reads.set()  # it runs after the writer, and before the first one notices
    await asyncio.gather(first, late)
    await wire.took(3)

    assert wire.frames == ["123456", "1", "2"]


async def test_nobody_else_waits_for_a_slow_client(wire, connect):
    """A broadcaster, a worker, or the handler of another connection goes on at once."""
    ann, bob = connect(wire, outbox_bytes=10), connect(wire, "bob")
    wire.stalled = True

    async with asyncio.timeout(5):
        await send_all(ann, ["123456", "78"])
        await behalf(bob, send_all(ann, ["90"]))

    assert ann.outbox_bytes == 10


async def test_nobody_waits_before_the_accept(wire, connect):
    """What does not fit then is an error that says to accept first."""
    ann = connect(wire, is_open=False, outbox_bytes=10)

    with pytest.raises(ConnectionStateError, match="accept first"):
        await behalf(ann, send_all(ann, ["123456", "7890", "x"]))
    await ann.accept()
    await wire.took(3)

    assert wire.frames == ["123456", "7890"]


async def test_nobody_waits_when_the_session_has_ended(wire, connect):
    """What is sent in ``on_disconnect`` and later goes nowhere, at once."""
    ann = connect(wire, outbox_bytes=10)
    wire.stalled = True
    await ann.send_text("123456")
    ann._outbox.forget(now=True)

    async with asyncio.timeout(5):
        await behalf(ann, send_all(ann, ["7", "8"]))

    assert ann.outbox_bytes == 0


async def test_drained_waits_for_the_client(wire, connect):
    """Until nothing waits; before the accept it returns at once."""
    ann, new = connect(wire), connect(wire, "new", is_open=False)
    await new.send_text("early")
    await new.drained()
    wire.stalled = True
    await ann.send_text("one")
    draining = asyncio.create_task(ann.drained())
    await asyncio.sleep(0)
    early = draining.done()

    wire.drain()
    await draining

    assert not early
    assert ann.outbox_bytes == 0


# Closing.


async def test_a_close_has_a_code_that_may_be_sent(wire, connect):
    """A bad code or reason fails the caller and closes nothing."""
    ann = connect(wire)

    with pytest.raises(ValueError, match="1006 cannot be sent"):
        await ann.close(1006)
    with pytest.raises(TypeError, match="a close reason is a str, not 5"):
        await ann.close(1000, 5)

    assert not ann.closed
    assert wire.events == []


@pytest.mark.parametrize("arguments", [(), (None,), (None, None), (1000, None)])
async def test_a_close_needs_neither_code_nor_reason(wire, connect, arguments):
    """As with Falcon's, where both may be None; 1000 says that all is done."""
    ann = connect(wire)

    await ann.close(*arguments)

    assert wire.events == [{"type": "websocket.close", "code": 1000, "reason": ""}]
    assert (ann.closed, ann.ready, ann.close_code) == (True, False, 1000)


async def test_a_close_before_the_accept_is_left_to_who_answers_the_handshake(wire, connect):
    """Nothing is sent; what was sent before is discarded."""
    ann = connect(wire, is_open=False)
    await ann.send_text("secret")

    await ann.close(4409, "taken")

    assert wire.events == []
    assert (ann.accepted, ann.closed, ann.unaccepted, ann.outbox_bytes) == (False, True, False, 0)
    assert (ann.close_code, ann.close_reason) == (4409, "taken")


async def test_an_authentication_that_ends_closes(wire, connect):
    """With 4401 and a reason; one that has ended already, at once."""
    ann = connect(wire)

    ann._expire_in(-5)
    await wire.took(1)

    assert (wire.events[0]["code"], ann.close_code) == (4401, 4401)
    assert ann.close_reason == "the authentication has expired"


# The handshake.


async def test_an_accept_carries_subprotocol_and_headers(wire, connect):
    """Names in lower case and bytes, as ASGI wants them; a mapping or pairs."""
    ann = connect(wire, is_open=False, subprotocols=["v2", "v1"])
    bob = connect(wire, "bob", is_open=False)

    await ann.accept("v1", {"X-Who": "ann"})
    await bob.accept(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])

    assert wire.events == [
        {"type": "websocket.accept", "subprotocol": "v1", "headers": [(b"x-who", b"ann")]},
        {"type": "websocket.accept", "headers": [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]},
    ]
    assert (ann.subprotocol, bob.subprotocol) == ("v1", None)


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"X-A": "é"}, "printable ASCII"),
        ({"X-A": "a\r\nSet-Cookie: x"}, "printable ASCII"),
        ([("X\n", "a")], "printable ASCII"),
        ({"X A": "a"}, "its name has no blanks"),
        ({"X:": "a"}, "printable ASCII"),
        ({"": "a"}, "printable ASCII"),
        ({"Sec-WebSocket-Protocol": "v1"}, "give subprotocol='v1' instead"),
        ([("sec-websocket-accept", "a")], "the server writes 'sec-websocket-accept' itself"),
        ({"Sec-WebSocket-Extensions": "x"}, "the server writes"),
        ({"Connection": "close"}, "the server writes"),
        ({"Content-Length": "0"}, "the server writes"),
    ],
)
async def test_a_header_that_cannot_be_sent_is_refused(wire, connect, headers, error):
    """Before anything is sent: the handshake is still unanswered."""
    ann = connect(wire, is_open=False)

    with pytest.raises(ValueError, match=error):
        await ann.accept(headers=headers)

    assert (wire.events, ann.unaccepted) == ([], True)


@pytest.mark.parametrize("headers", [{"X-A": 5}, [(b"X-A", b"a")], {"X-A": None}])
async def test_a_header_is_text(wire, connect, headers):
    """Falcon's are, too; numbers are not written by guessing."""
    ann = connect(wire, is_open=False)

    with pytest.raises(TypeError, match="give two texts"):
        await ann.accept(headers=headers)


async def test_a_subprotocol_that_was_not_offered_is_refused(wire, connect):
    """A browser would drop the connection; the error says what was offered."""
    ann = connect(wire, is_open=False, subprotocols=["v2", "v1"])
    bob = connect(wire, "bob", is_open=False)

    with pytest.raises(ValueError, match="'v3'; it offered: v2, v1"):
        await ann.accept("v3")
    with pytest.raises(ValueError, match="'v3'; it offered: none"):
        await bob.accept("v3")

    assert wire.events == []


@pytest.mark.parametrize(
    ("offered", "own", "agreed"),
    [
        ([], [], None),
        (["v1"], [], None),
        (["pachinko.msgpack"], [], "pachinko.msgpack"),
        (["pachinko.json", "pachinko.msgpack"], [], "pachinko.json"),
        (["pachinko.msgpack", "pachinko.json"], [], "pachinko.msgpack"),
        (["pachinko.msgpack", "v1", "v2"], ["v2", "v1"], "v1"),
        (["v3", "pachinko.json"], ["v1"], "pachinko.json"),
        (["v3", "pachinko.msgpack"], ["pachinko.msgpack"], "pachinko.msgpack"),
    ],
)
def test_a_subprotocol_is_chosen_of_what_was_offered(offered, own, agreed):
    """The client's first of the resource's own, and only without one of these, one of ours."""
    assert chosen_subprotocol(offered, own) == agreed


async def test_a_codec_is_not_changed_under_what_waits(wire, connect):
    """What is written already would reach a client that does not speak it."""
    ann = connect(wire, is_open=False, subprotocols=["pachinko.msgpack", "v1"])
    await ann.send_media({"n": 1})

    with pytest.raises(ConnectionStateError, match="accept first, then send"):
        await ann.accept("pachinko.msgpack")
    await ann.accept("v1")

    assert wire.frames == ['{"n":1}']


async def test_accept_comes_once(wire, connect):
    """A second one, or one after a close, says in what state the connection is."""
    ann = connect(wire, is_open=False)
    await ann.accept()

    with pytest.raises(ConnectionStateError, match="this connection is accepted"):
        await ann.accept()
    await ann.close()
    with pytest.raises(ConnectionStateError, match="this connection is closed"):
        await ann.accept()

    assert wire.kinds == ["accept", "close"]


async def test_one_that_was_disconnected_during_its_handshake_is_not_accepted(
    wire, connect, manager
):
    """Even if its ``on_connect`` read "she may come in" before."""
    ann = connect(wire, is_open=False)
    manager._revocations.begin(ann)
    await manager.disconnect(to.user("ann"), 4403, "banned")
    ann.user_id = "ann"

    with pytest.raises(falcon.WebSocketDisconnected):
        await ann.accept()

    assert (ann.accepted, ann.close_code, wire.events) == (False, 4403, [])


# Who it is.


async def test_state_is_a_bag_of_the_applications_own(wire, connect):
    """Attributes or items, and another connection has another one."""
    ann, bob = connect(wire), connect(wire, "bob")

    ann.state.seat = 3

    assert ann.state["seat"] == 3
    assert "seat" not in bob.state


async def test_rooms_and_tags_are_there_to_look_at(wire, connect, manager):
    """As frozen copies: only the registry changes them."""
    ann = connect(wire)

    await manager.join_room("ann", "lobby")
    await ann.add_tag("pro")
    await ann.add_tag("old")
    await ann.remove_tag("old")
    await ann.remove_tag("never worn")

    assert (ann.rooms, ann.tags) == (frozenset({"lobby"}), frozenset({"pro"}))
    assert [await manager.count(to.tag(each)) for each in ("pro", "old")] == [1, 0]


@pytest.mark.parametrize(
    ("tag", "error"), [("", InvalidNameError), ("a\n", InvalidNameError), (5, TypeError)]
)
async def test_a_tag_has_a_proper_name(wire, connect, tag, error):
    """Else it gets none."""
    ann = connect(wire)

    with pytest.raises(error):
        await ann.add_tag(tag)

    assert ann.tags == frozenset()


async def test_a_connection_has_so_many_tags_at_most(wire, connect):
    """One more is refused with the limit's name; one it has already is not one more."""
    ann = connect(wire, tags=1)
    await ann.add_tag("a")
    await ann.add_tag("a")

    with pytest.raises(MessageError, match=r"1 tags at once \(Limits.tags\)") as refused:
        await ann.add_tag("b")

    assert refused.value.code == "tag_limit"
    assert ann.tags == {"a"}


async def test_a_user_id_may_be_set_and_changed(wire, connect, manager):
    """What is sent to a user follows the connection."""
    ann = connect(wire)

    ann.user_id = "ann"
    ann.user_id = "anna"
    counts = [await manager.count(to.user(each)) for each in ("ann", "anna")]
    ann.user_id = None

    assert counts == [0, 1]
    assert await manager.count(to.user("anna")) == 0


@pytest.mark.parametrize(
    ("is_open", "shown"), [(True, "<Connection ann open>"), (False, "<Connection ann connecting>")]
)
async def test_a_connection_shows_its_id_and_stage(wire, connect, is_open, shown):
    """So that a log line tells which one, and how far it is."""
    assert repr(connect(wire, is_open=is_open)) == shown


async def test_a_new_connection_logs_nothing(wire, connect, caplog):
    """The ordinary course of things is quiet."""
    with caplog.at_level(logging.DEBUG, "falcon_pachinko"):
        ann = connect(wire, is_open=False)
        await ann.accept()
        await ann.send_text("hello")
        await ann.close()

    assert caplog.records == []
