"""No payload costs much more time than an ordinary one of the same size."""

import contextlib
import datetime as dt
import gc
import random
import time
from typing import Annotated, Any

import msgspec
import pytest

from falcon_pachinko import HandlerDefinitionError, WebSocketResource, handles_message
from falcon_pachinko.messages.codec import JSON, MSGPACK
from falcon_pachinko.messages.envelopes import Refusal, read_header, read_ping

SIZE = 60_000
WORD = (1 << 64) - 1
FIRST, SECOND, THIRD = 11400714785074694791, 14029467366897019727, 2870177450012600261


def alike(count):
    """Pairs of numbers that hash alike as tuples, by CPython's rule for them (xxHash)."""

    def turned(value, by):
        return ((value << by) | (value >> (64 - by))) & WORD

    undo_first, undo_second = pow(FIRST, -1, 1 << 64), pow(SECOND, -1, 1 << 64)
    last = (0x1234567 - (2 ^ (THIRD ^ 3527539))) & WORD
    last = turned(last * undo_first & WORD, 64 - 31)
    pairs = []
    number = 0
    while len(pairs) < count:
        number += 1
        lane = turned((THIRD + number * SECOND) & WORD, 31) * FIRST & WORD
        lane = (last - lane) * undo_second & WORD
        partner = lane - (1 << 64) if lane >> 63 else lane
        if abs(partner) < (1 << 61) - 1 and partner != -1:
            pairs.append((number, partner))
    return pairs


PAIRS = alike(SIZE // 14)
COLLIDING = (
    b"\xdf"
    + len(PAIRS).to_bytes(4)
    + b"".join(msgspec.msgpack.encode(pair) + b"\xc0" for pair in PAIRS)
)


def test_the_pairs_do_hash_alike():
    """Otherwise this file would measure nothing."""
    assert len({hash(pair) for pair in PAIRS[:500]}) == 1


def slots(number, mask):
    """The places in a dict of this size that are looked at for a number, by CPython's rule."""
    rest, slot = number, number & mask
    yield slot
    while rest:
        rest >>= 5
        slot = (slot * 5 + rest + 1) & mask
        yield slot
    while True:
        slot = (slot * 5 + 1) & mask
        yield slot


def in_line(count, mask=8191):
    """Numbers of which half stand in one line, and the others go along it to find a place."""
    line = slots(0, mask)
    standing = [next(line) for _ in range(count // 2)]
    taken, early = set(standing), set(standing[: count // 4])
    chance, passing = random.Random(1), {}
    while len(passing) < count - len(standing):
        number = chance.getrandbits(22)
        looked_at = slots(number, mask)
        first = [next(looked_at) for _ in range(6)]
        if number > mask and taken.issuperset(first) and first[-1] in early:
            passing[number] = None
    return [*standing, *passing]


IN_LINE = in_line(4_000)


def test_the_numbers_are_in_one_anothers_way():
    """Each of the second half is compared with hundreds of the first."""
    taken, steps = set(), 0
    for number in IN_LINE:
        for slot in slots(number, 8191):
            if slot not in taken:
                taken.add(slot)
                break
            steps += 1

    assert steps > 100 * len(IN_LINE)


class Leaf(msgspec.Struct, tag="leaf"):
    value: int = 0


class Not(msgspec.Struct, tag="not"):
    arg: "Not | And | Leaf"


class And(msgspec.Struct, tag="and", tag_field="type"):
    args: "list[Not | And | Leaf]" = []
    names: dict[str, "Not | And | Leaf"] = {}


class Say(msgspec.Struct):
    text: str
    more: dict[str, str] = {}


class Loose(msgspec.Struct):
    anything: Any = None
    table: dict = {}


class Join(msgspec.Struct, tag="join"):
    about: Any = None


class Desk(WebSocketResource):
    schema = Join

    @handles_message("say")
    async def say(self, ws, payload: Say): ...

    @handles_message("any")
    async def take_any(self, ws, payload): ...

    @handles_message("object")
    async def take_object(self, ws, payload: object): ...

    @handles_message("dict")
    async def take_dict(self, ws, payload: dict): ...

    @handles_message("list")
    async def take_list(self, ws, payload: list): ...

    @handles_message("loose", forbid_unknown_fields=False)
    async def loose(self, ws, payload: Loose): ...

    @handles_message("numbers")
    async def numbers(self, ws, payload: set[int]): ...

    @handles_message("table")
    async def table(self, ws, payload: dict[int, int]): ...

    @handles_message("few")
    async def few(self, ws, payload: list[frozenset[int | str]]): ...

    @handles_message("times")
    async def times(self, ws, payload: dict[dt.datetime, int]): ...

    @handles_message("floats")
    async def floats(self, ws, payload: dict[float, int]): ...

    @handles_message("filter")
    async def filter(self, ws, payload: Not | And | Leaf): ...

    @handles_message("filters", forbid_unknown_fields=False)
    async def filters(self, ws, payload: dict[str, Not | And | Leaf]): ...

    @handles_message("join")
    async def join(self, ws, message: Join): ...

    @handles_message("nothing")
    async def nothing(self, ws): ...


def seconds(frame, codec):
    """The CPU time that a frame takes to be opened or refused."""
    began = time.process_time()
    with contextlib.suppress(Refusal):
        Desk.__pachinko_table__.open(frame, codec)
    return time.process_time() - began


def costs_about_as_much(frame, ordinary, codec):
    """Whether the one takes not much longer than the other, at their best.

    They are taken again while that is not so: what else the machine does is no matter.
    """
    of_frame = of_ordinary = 10.0
    gc.disable()  # nor is what other tests have left
    try:
        for _ in range(10):
            of_frame = min(of_frame, seconds(frame, codec))
            of_ordinary = min(of_ordinary, seconds(ordinary, codec))
            if of_frame < 8 * of_ordinary + 0.005:
                return True
    finally:
        gc.enable()
    return False


def packed(message_type, **fields):
    """A MessagePack message of which some fields are encoded already."""
    parts = {"type": msgspec.msgpack.encode(message_type), **fields}
    return bytes([0x80 + len(parts)]) + b"".join(
        msgspec.msgpack.encode(name) + value for name, value in parts.items()
    )


ORDINARY = packed("dict", payload=msgspec.msgpack.encode({f"key{n}": n for n in range(SIZE // 11)}))
NUMBERS = [k * ((1 << 61) - 1) for k in range(10**9, 10**9 + SIZE // 30)]  # all hash to 0

SMALL = b"\xdc" + (50_000).to_bytes(2) + b"\x01" * 50_000
"""Many small items, that take long to read past."""

BINARY = {
    "a ref": packed("say", payload=b"\x81\xa4text\xa0", ref=COLLIDING),
    "a type": b"\x81\xa4type" + COLLIDING,
    "a field that is ignored": packed("nothing", other=COLLIDING),
    "an untyped payload": packed("any", payload=COLLIDING),
    "an object": packed("object", payload=COLLIDING),
    "a bare dict": packed("dict", payload=COLLIDING),
    "a map in a bare list": packed("list", payload=b"\x91" + COLLIDING),
    "a map in a map": packed("any", payload=b"\x81\xa1a\x81\xa1b" + COLLIDING),
    "a field without a type": packed("loose", payload=b"\x81\xa8anything" + COLLIDING),
    "a dict in a struct": packed("loose", payload=b"\x81\xa5table" + COLLIDING),
    "an unknown field": packed("say", payload=b"\x82\xa4text\xa0\xa1x" + COLLIDING),
    "one that is allowed": packed("loose", payload=b"\x81\xa1x" + COLLIDING),
    "a field of the schema": packed("join", about=COLLIDING),
    "no payload": packed("nothing", payload=COLLIDING),
    "an unknown type": packed("nope", payload=COLLIDING),
    "pairs for numbers": packed("table", payload=COLLIDING),
    "depth": packed("any", payload=b"\x91" * SIZE),
    "depth in a field": packed("loose", payload=b"\x81\xa8anything" + b"\x91" * SIZE),
    "numbers in line": packed("numbers", payload=msgspec.msgpack.encode(IN_LINE)),
    "keys in line": packed("table", payload=msgspec.msgpack.encode(dict.fromkeys(IN_LINE, 1))),
    "keys in line without a type": packed(
        "any", payload=msgspec.msgpack.encode([dict.fromkeys(IN_LINE, 1)])
    ),
    "as floats": packed("floats", payload=msgspec.msgpack.encode(dict.fromkeys(IN_LINE, 1))),
    "one after the other": packed(
        "few",
        payload=msgspec.msgpack.encode([IN_LINE[at : at + 500] for at in range(0, 4000, 500)]),
    ),
    "tags at the end": packed(
        "filter", payload=b"\x82\xa3arg" * 400 + SMALL + b"\xa4type\xa3not" * 400
    ),
    "tags after lists": packed(
        "filter", payload=b"\x82\xa4args\x91" * 400 + SMALL + b"\xa4type\xa3and" * 400
    ),
    "tags in a field that is ignored": packed(
        "filters", payload=b"\x81\xa1a" + b"\x82\xa1x" * 400 + SMALL + b"\xa4type\xa3and" * 400
    ),
    "empty arrays, then a key": packed(
        "any", payload=b"\xdd" + (SIZE + 1).to_bytes(4) + b"\x90" * SIZE + b"\x81\x90\xc0"
    ),
}


@pytest.mark.parametrize("kind", BINARY)
def test_hostile_messagepack_costs_about_as_much_as_any(kind):
    """Nothing is hashed before its keys are known to be text or numbers."""
    assert costs_about_as_much(BINARY[kind], ORDINARY, MSGPACK)


def late(begin, end, depth=400):
    """Objects in one another, with a long list in the innermost one."""
    return begin * depth + '{"type":"leaf","x":[' + "1," * 25_000 + "1]}" + end * depth


TEXT = {
    "numbers that hash alike": f'{{"type":"numbers","payload":{NUMBERS}}}',
    "keys that hash alike": '{"type":"table","payload":{'
    + ",".join(f'"{number}":1' for number in NUMBERS)
    + "}}",
    "numbers in line": f'{{"type":"numbers","payload":{IN_LINE}}}',
    "keys in line": '{"type":"table","payload":{'
    + ",".join(f'"{number}":1' for number in IN_LINE)
    + "}}",
    "as floats": '{"type":"floats","payload":{'
    + ",".join(f'"{number}.0":1' for number in IN_LINE)
    + "}}",
    "the last one, again and again": '{"type":"table","payload":{'
    + ",".join(f'"{number}":1' for number in IN_LINE[:500] + IN_LINE[-1:] * 4_000)
    + "}}",
    "one after the other": '{"type":"few","payload":'
    + str([IN_LINE[at : at + 500] for at in range(0, 4000, 500)])
    + "}",
    "tags at the end": '{"type":"filter","payload":' + late('{"arg":', ',"type":"not"}'),
    "tags after lists": '{"type":"filter","payload":' + late('{"args":[', '],"type":"and"}'),
    "tags in a dict": '{"type":"filters","payload":{"a":' + late('{"arg":', ',"type":"not"}') + "}",
    "tags with an escape": '{"type":"filter","payload":' + late('{"\\u0074ype":"not","arg":', "}"),
    "text without an end": '{"type":"filter","payload":"' + '\\"' * (SIZE // 2) + "{" * 20,
    "braces in text": '{"type":"filter","payload":{"type":"leaf","x":"' + "{" * SIZE + '"}}',
    "depth": '{"type":"any","payload":' + "[" * SIZE,
    "a deep ref": '{"type":"say","ref":' + "[" * SIZE,
    "digits": '{"type":"numbers","payload":[' + "9" * SIZE + "]}",
    "a long ref": '{"type":"say","ref":' + "9" * SIZE + "}",
}


@pytest.mark.parametrize("kind", TEXT)
def test_hostile_json_costs_about_as_much_as_any(kind):
    """Whole numbers that are hashed have 64 bits."""
    ordinary = f'{{"type":"numbers","payload":{[*range(10_000, 10_000 + SIZE // 7)]}}}'

    assert costs_about_as_much(TEXT[kind], ordinary, JSON)


@pytest.mark.parametrize("read", [read_header, read_ping])
def test_a_look_at_the_header_is_cheap_too(read):
    """It is taken for frames that are refused, and for frames that wait."""
    spent = []
    for _ in range(10):
        began = time.process_time()
        try:
            read(BINARY["a ref"], MSGPACK)
        except Refusal as refusal:
            assert refusal.code == "invalid_message"  # noqa: PT017  # read_ping just returns None
        spent.append(time.process_time() - began)

    assert min(spent) < seconds(ORDINARY, MSGPACK) * 8 + 0.005


@pytest.mark.parametrize(
    "wanted",
    [
        set[tuple[int, int]], frozenset[float], dict[str, set[Any]], set, list[set[float]],
        Annotated[set[int], msgspec.Meta(max_length=5_000)],
    ],
)  # fmt: skip
def test_a_payload_that_could_not_be_bounded_is_refused_with_the_class(wanted):
    """The error names the handler and says what to write."""
    with pytest.raises(HandlerDefinitionError, match=r"pick takes a payload of .* or a list"):

        class Room(WebSocketResource):
            @handles_message("pick")
            async def pick(self, ws, payload: wanted): ...
