"""Whatever bytes a client sends, it gets one bounded answer or a policy close, and nobody waits."""

import asyncio
import json

import msgspec
import pytest
from asgi_servers import UVICORN, on
from websockets.exceptions import ConnectionClosed

LIMIT = 65_536  # message_bytes
POLICY = {1003, 1007, 1008, 1009}
BLOCKED = 50  # milliseconds
ROUNDS = 3

NINES = "9" * 60_000

# Values that are wrong nearly everywhere, as JSON.
VALUES = {
    "deep arrays": "[" * 32_000 + "]" * 32_000,
    "deep objects": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "arrays without an end": "[" * 65_000,
    "objects without an end": '{"a":' * 13_000,
    "a huge whole number": NINES,
    "a huge negative number": "-" + NINES,
    "as many digits as int() takes": "9" * 4300,
    "one digit more than int() takes": "9" * 4301,
    "beyond 64 bits": str(2**64),
    "a huge fraction": "0." + NINES,
    "a huge exponent": "1e999999999999999999",
    "a tiny exponent": "1e-999999999999999999",
    "a huge number as text": f'"{NINES}"',
    "a huge exponent as text": '"1e999999999"',
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "a lone high surrogate": r'"\ud800"',
    "a lone low surrogate": r'"\udc00"',
    "a pair the wrong way round": r'"\udc00\ud800"',
    "a surrogate as a key": r'{"\ud800": 1}',
    "NUL, escaped": r'"\u0000"',
    "NUL, raw": '"\x00"',
    "a raw line end": '"\n"',
    "an escape that is none": r'"\x41"',
    "text without an end": '"' + "a" * 60_000,
    "long text": '"' + "a" * 60_000 + '"',
    "long text of escapes": '"' + r"\u00e9" * 10_000 + '"',
    "base64 that is none": '"' + "=" * 1000 + '"',
    "duplicate keys": '{"name": "a", "name": 1, "name": []}',
    "unknown keys": '{"name": "a", "__class__": "b", "__init__": {}}',
    "many keys": "{" + ",".join(f'"{n}":[]' for n in range(7_000)) + "}",
    "keys that are huge numbers": '{"' + NINES + '": []}',
    "a list of objects": "[{}, [], [[{}]]]",
    "a tree that goes wrong far down": '{"name":"a","friends":[' * 2_000 + "1" + "]}" * 2_000,
    "the end of time": '"9999-12-31T23:59:59-23:59"',
    "the beginning of time": '"0001-01-01T00:00:00+23:59"',
    "a long duration": '"P99999999999999999999D"',
    "true": "true",
    "null": "null",
    "an empty text": '""',
    "an empty list": "[]",
    "an empty object": "{}",
    "nothing": "",
}

# Where a value stands in a message.
PLACES = [
    '{{"type": "text", "payload": {0}}}',
    '{{"type": "whole", "payload": {0}, "ref": 1}}',
    '{{"type": "real", "payload": {0}, "ref": 1}}',
    '{{"type": "exact", "payload": {0}, "ref": 1}}',
    '{{"type": "when", "payload": {0}, "ref": 1}}',
    '{{"type": "long", "payload": {0}, "ref": 1}}',
    '{{"type": "who", "payload": {0}, "ref": 1}}',
    '{{"type": "blob", "payload": {0}, "ref": 1}}',
    '{{"type": "colour", "payload": {0}, "ref": 1}}',
    '{{"payload": {0}, "ref": 1, "type": "person"}}',
    '{{"type": "bag", "payload": {0}, "ref": 1}}',
    '{{"type": "table", "payload": {0}, "ref": 1}}',
    '{{"type": "any", "payload": {0}}}',
    '{{"type": "nothing", "payload": {0}}}',
    '{{"type": "nothing", "ref": {0}}}',
    '{{"type": "move", "x": {0}, "ref": 1}}',
    '{{"type": "move", "x": 1, "note": {0}}}',
    '{{"type": "stop", "ref": {0}}}',
    '{{"type": "stop", "more": {0}}}',
    '{{"type": {0}, "ref": 1}}',
    '{{"type": "text", "type": {0}}}',
    '{{"type": "text", "payload": "a", "payload": {0}, "ref": 1}}',
    '{{"zzz": {0}, "type": "text"}}',
    "{0}",
    "[{0}]",
    "{0} {0}",
]

NAMES = [
    "", " ", "text ", "TEXT", "té", "__init__", "__class__", "__dict__", "__pachinko_table__",
    "on_connect", "on_disconnect", "on_message", "join_room", "leave_room", "broadcast_to_room",
    "send", "lure", "ws", "state", "parent", "ws.close", "error", "reply", "text\\u0000",
    "../text", "*", "x" * 60_000,
]  # fmt: skip

TEXTS = {
    **{
        f"{name} in {place}": place.format(value)
        for name, value in VALUES.items()
        for place in PLACES
    },
    **{f"type {name[:20]!r}": f'{{"type": "{name}", "payload": "a"}}' for name in NAMES},
    "a byte order mark": '\ufeff{"type": "text", "payload": "a"}',
    "a comment": '{"type": "text", /* really */ "payload": "a"}',
    "single quotes": "{'type': 'text'}",
    "YAML": "type: text",
    "HTML": "<script>alert(1)</script>",
    "exactly the limit": '{"type": "text", "payload": "' + "a" * (LIMIT - 31) + '"}',
    "one byte too many": '{"type": "text", "payload": "' + "a" * (LIMIT - 30) + '"}',
    "too many bytes in few characters": '"' + "é" * (LIMIT // 2) + '"',
    "binary that would be JSON": b'{"type": "text", "payload": "a"}',
    "all bytes": bytes(range(256)),
    "no byte": b"",
    "bytes at the limit": b"\xff" * LIMIT,
    "bytes over the limit": b"\xff" * (LIMIT + 1),
}


packed = msgspec.msgpack.encode

HUGE = b"\xff\xff\xff\xff"  # a length of 4 GiB

# The same in MessagePack, and what only MessagePack can do.
PACKED_VALUES = {
    "deep arrays": b"\x91" * 60_000 + b"\xc0",
    "arrays without an end": b"\x91" * 60_000,
    "deep maps": b"\x81\xa1a" * 20_000 + b"\xc0",
    "maps in keys": b"\x81" * 60_000,
    "an array of 4 G items": b"\xdd" + HUGE,
    "a map of 4 G items": b"\xdf" + HUGE,
    "text of 4 GiB": b"\xdb" + HUGE,
    "bytes of 4 GiB": b"\xc6" + HUGE,
    "an extension of 4 GiB": b"\xc9" + HUGE + b"\x05",
    "an array of 2 G items, begun": b"\xdd\x7f\xff\xff\xff" + bytes(60_000),
    "a map of 2 G items, begun": b"\xdf\x7f\xff\xff\xff" + bytes(60_000),
    "bombs in bombs": (b"\xdd" + HUGE) * 10_000,
    "a byte that means nothing": b"\xc1",
    "an extension": b"\xd4\x05\x00",
    "a timestamp out of range": b"\xc7\x0c\xff" + b"\xff" * 12,
    "a timestamp cut short": b"\xd4\xff\x00",
    "invalid UTF-8": b"\xa2\xff\xfe",
    "a surrogate": b"\xa3\xed\xa0\x80",
    "NaN": b"\xcb\x7f\xf8" + bytes(6),
    "infinity": b"\xcb\x7f\xf0" + bytes(6),
    "the largest number": b"\xcf" + b"\xff" * 8,
    "a map with a number as key": b"\x81\x01\x02",
    "a map with a list as key": b"\x81\x90\x02",
    "a map with a map as key": b"\x81\x80\x02",
    "a map with NaN as keys": b"\x82" + (b"\xcb\x7f\xf8" + bytes(7)) * 2,
    "duplicate keys": b"\x82\xa4name\x01\xa4name\xa1a",
    "a list of maps": b"\x91\x80",
    "nil": b"\xc0",
    "nothing": b"",
}

PACKED_PLACES = [
    *(
        (b"\x83" + packed("type") + packed(name) + packed("payload"), packed("ref") + b"\x01")
        for name in ("text", "whole", "exact", "when", "who", "blob", "person", "bag", "any")
    ),
    (b"\x83" + packed("type") + packed("move") + packed("x"), packed("ref") + b"\x01"),
    (b"\x82" + packed("type") + packed("text") + packed("ref"), b""),
    (b"\x82" + packed("ref") + b"\x01" + packed("type"), b""),
    (b"\x82" + packed("type") + packed("text"), b"\x01"),
    (b"", b""),
]

BINARIES = {
    **{
        f"{name} in {before!r}": before + value + after
        for name, value in PACKED_VALUES.items()
        for before, after in PACKED_PLACES
    },
    **{f"type {name[:20]!r}": packed({"type": name}) for name in NAMES},
    "exactly the limit": packed({"type": "text", "payload": "a" * (LIMIT - 22)}),
    "one byte too many": packed({"type": "text", "payload": "a" * (LIMIT - 21)}),
    "JSON": b'{"type": "text", "payload": "a"}',
    "JSON as text": '{"type": "text", "payload": "a"}',
    "text": "text",
}


async def outcome(client, frame, codec):
    """Send a frame and then a sign of life; return what came in between, or before the close."""
    alive = codec.encode({"type": "text", "payload": "alive?", "ref": "alive"})
    came = []
    try:
        await client.send(frame)
        await client.send(alive.decode() if codec is msgspec.json else alive)
        while True:
            answer = await asyncio.wait_for(client.recv(), 30)
            if codec.decode(answer).get("ref") == "alive":
                return came, None
            came.append(answer)
    except ConnectionClosed as closed:
        return came, closed.rcvd.code if closed.rcvd else 1006


def fault(frame, answers, close_code):
    """Say what is wrong with what a frame led to; None if nothing is."""
    if close_code is not None and close_code not in POLICY:
        return f"closed with {close_code}"
    if len(answers) > 1 or (not answers and close_code is None):
        return f"{len(answers)} answers"
    if answers and len(answers[0]) > len(frame) + 1000:
        return f"an answer of {len(answers[0])}"
    if answers and "internal_error" in str(answers[0]):
        return "an internal error"
    return None


async def faults(server, path, frames, codec=msgspec.json):
    """Send all frames; return those that did not lead to what they should, and why."""
    spoken = ["pachinko.msgpack"] if codec is msgspec.msgpack else None
    wrong, close_code = {}, 1000
    for name, frame in frames.items():
        if close_code is not None:
            client = await server.dial(path, subprotocols=spoken)
        answers, close_code = await outcome(client, frame, codec)
        why = fault(frame, answers, close_code)
        if why is not None:
            wrong[name] = why
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("kind", UVICORN)
async def test_every_hostile_frame_is_answered_once_or_closed_by_policy(start, kind):
    """In JSON and MessagePack, to handlers of all styles: no 1011, no traceback, no method."""
    server = start(kind, "bait:app")

    wrong = {
        (path, codec.__name__): await faults(server, path, frames, codec)
        for path in ("/envelopes", "/schema", "/fallback")
        for codec, frames in ((msgspec.json, TEXTS), (msgspec.msgpack, BINARIES))
    }

    assert not {where: found for where, found in wrong.items() if found}
    assert "Traceback" not in server.output
    assert "reached" not in server.output


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        on("websockets-sansio", 1007),
        on("websockets", 1007),
        on("wsproto", None),  # it just hangs up
    ],
)
async def test_invalid_utf8_in_a_text_frame_ends_the_connection(start, kind, code):
    """The server sees to it; the library never meets it, and every goodbye is said."""
    server = start(kind, "bait:app")
    codes = []

    for text in (b"\xff", b"\xc3", b'{"type": "text", "payload": "\xed\xa0\x80"}'):
        client = await server.dial("/envelopes")
        await client.send(text, text=True)
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), 30)
        codes.append(closed.value.rcvd and closed.value.rcvd.code)
    await asyncio.to_thread(server.terminate)

    assert codes == [code] * 3
    assert server.output.splitlines().count("bye") == 3
    assert "falcon_pachinko" not in server.output


async def pulse_during(server, texts, binaries):
    """Send frames to all kinds of handlers; return the server's pulse in the meantime."""
    await asyncio.to_thread(server.get, "/pulse")
    for path in ("/envelopes", "/schema"):
        await faults(server, path, texts)
        await faults(server, path, binaries, msgspec.msgpack)
    return await asyncio.to_thread(server.get, "/pulse")


@pytest.mark.slow
async def test_no_hostile_frame_holds_the_loop_up(start):
    """A ticker beside them is never 50 ms late.

    How late it is by the clock is also the machine's affair. So it may be later by as much
    as it was beside the same number of harmless frames just before, and one good round of
    three will do: a frame that holds the loop up does it every time. What the loop's thread
    works between two ticks is its own affair, and has no such excuse.
    """
    server = start("websockets-sansio", "bait:app")
    harmless = {"type": "text", "payload": "a"}
    texts = dict.fromkeys(TEXTS, json.dumps(harmless))
    binaries = dict.fromkeys(BINARIES, packed(harmless))

    for _ in range(ROUNDS):
        calm = await pulse_during(server, texts, binaries)
        hostile = await pulse_during(server, TEXTS, BINARIES)
        if hostile["late"] < BLOCKED + calm["late"]:
            break

    assert hostile["late"] < BLOCKED + calm["late"]
    assert hostile["worked"] < BLOCKED
