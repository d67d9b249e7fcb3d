"""What is looked at before a message is decoded: what is refused by it, and what is not."""

import builtins
import datetime as dt
from typing import Annotated, Any

import msgspec
import pytest

from falcon_pachinko import HandlerDefinitionError, WebSocketResource, handles_message
from falcon_pachinko.messages.codec import JSON, MSGPACK
from falcon_pachinko.messages.envelopes import Refusal
from falcon_pachinko.messages.keys import MOST_NUMBERS

CODEC = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)


class Branch(msgspec.Struct, tag="branch"):
    below: "list[Branch | Bud]" = []


class Bud(msgspec.Struct, tag="bud"):
    pass


class Chosen(msgspec.Struct):
    ids: set[int] = set()
    at: dict[dt.timedelta, str] = {}


class Pick(msgspec.Struct, tag="pick"):
    ids: frozenset[int | str]


def table_of(wanted, **options):
    """The handler table of a class with one handler, of ``take``."""

    class Desk(WebSocketResource):
        @handles_message("take", **options)
        async def take(self, ws, payload: wanted): ...

    return Desk.__pachinko_table__


def opened(table, payload, codec):
    frame = codec.frame_of({"type": "take", "payload": payload, "ref": 7})
    return table.open(frame, codec)[1]


def path_of_refusal(table, payload, codec):
    with pytest.raises(Refusal) as refused:
        opened(table, payload, codec)

    assert (refused.value.code, refused.value.ref) == ("invalid_payload", 7)
    return refused.value.path


MANY = list(range(10**6, 10**6 + MOST_NUMBERS + 1))


def numbers(count):
    return MANY[:count]


def hours(count):
    first = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return [first + dt.timedelta(hours=each) for each in range(count)]


def minutes(count):
    return [dt.timedelta(minutes=each) for each in range(count)]


def keyed(count):
    return dict.fromkeys(MANY[:count], 1)


def keyed_by_minutes(count):
    return {"at": dict.fromkeys(minutes(count), "")}


@CODEC
@pytest.mark.parametrize("forbid", [True, False])
@pytest.mark.parametrize(
    ("wanted", "many", "made", "path"),
    [
        (set[int], numbers, set, "$.payload"),
        (frozenset[int | None], numbers, frozenset, "$.payload"),
        (set[int | str], numbers, set, "$.payload"),
        (set[dt.datetime], hours, set, "$.payload"),
        (list[set[dt.timedelta]], lambda n: [minutes(n)], lambda v: [set(v[0])], "$.payload[0]"),
        (dict[int, int], keyed, dict, "$.payload"),
        (dict[float, int], keyed, dict, "$.payload"),
        (Chosen, lambda n: {"ids": numbers(n)}, lambda v: Chosen(set(v["ids"])), "$.payload.ids"),
        (dict[str, Chosen], lambda n: {"a": {"ids": numbers(n)}},
         lambda v: {"a": Chosen(set(v["a"]["ids"]))}, "$.payload[...].ids"),
        (Chosen, keyed_by_minutes, lambda v: Chosen(at=v["at"]), "$.payload.at"),
        (set[Annotated[int, msgspec.Meta(ge=0)]], numbers, set, "$.payload"),
        (Annotated[set[int], msgspec.Meta(min_length=2)], numbers, set, "$.payload"),
    ],
)  # fmt: skip
def test_what_hashes_numbers_or_times_holds_512_of_them(codec, wanted, many, made, path, forbid):
    """One more is refused, with its path; as many are decoded as they were declared."""
    table = table_of(wanted, forbid_unknown_fields=forbid)

    assert path_of_refusal(table, many(MOST_NUMBERS + 1), codec) == path
    assert opened(table, many(MOST_NUMBERS), codec) == made(many(MOST_NUMBERS))


@CODEC
def test_a_dict_with_text_or_numbers_as_keys_holds_512(codec):
    """Whichever of them they are; in JSON all are text."""
    table = table_of(dict[int | str, Any])
    many = {"a": 1} | keyed(MOST_NUMBERS)

    assert path_of_refusal(table, many, codec) == "$.payload"
    del many["a"]
    assert len(opened(table, many, codec)) == MOST_NUMBERS


@pytest.mark.parametrize("wanted", [Any, object, dict, list, dict[str, Any]])
def test_a_number_among_many_keys_without_a_type_is_refused(wanted):
    """In MessagePack, as is a key that is neither text nor a number; the path says where."""
    table = table_of(wanted)
    for keys in (keyed(MOST_NUMBERS + 1), {None: 1}):
        payload = [keys] if wanted is list else {"a": keys}

        assert path_of_refusal(table, payload, MSGPACK) == "$.payload"


@CODEC
def test_a_schema_is_held_to_the_same(codec):
    """Its fields are those of the message."""

    class Desk(WebSocketResource):
        schema = Pick

        @handles_message(Pick)
        async def pick(self, ws, message: Pick): ...

    table = Desk.__pachinko_table__
    frame = codec.frame_of({"type": "pick", "ids": MANY})
    with pytest.raises(Refusal, match="length <= 512") as refused:
        table.open(frame, codec)

    assert refused.value.path == "$.ids"
    frame = codec.frame_of({"type": "pick", "ids": [*MANY[:-2], "x"]})
    assert table.open(frame, codec)[1] == Pick(frozenset([*MANY[:-2], "x"]))


@CODEC
@pytest.mark.parametrize(
    "wanted", [set[str], dict[str, int], list[int], set[dt.date], frozenset[bytes]]
)
def test_text_lists_and_dates_have_no_such_bound(codec, wanted):
    """Clients do not know how text is hashed, and a date is hashed as text is."""
    many = {
        set[dt.date]: {dt.date(2026, 1, 1) + dt.timedelta(days=each) for each in range(3000)},
        frozenset[bytes]: frozenset(b"%d" % each for each in range(3000)),
        set[str]: {f"{each}" for each in range(3000)},
        dict[str, int]: {f"{each}": each for each in range(3000)},
        list[int]: list(range(3000)),
    }[wanted]

    assert opened(table_of(wanted), many, codec) == many


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Annotated[set[int], msgspec.Meta(max_length=513)], "max_length is 513.*or a list"),
        (Annotated[dict[int, str], msgspec.Meta(max_length=9000)], "or keys of text"),
        (Annotated[frozenset[dt.time], msgspec.Meta(min_length=600)], "min_length is 600"),
    ],
)  # fmt: skip
def test_a_wider_bound_is_refused_with_the_class(wanted, why):
    """The error names the method and the field, and what to write."""
    inner = msgspec.defstruct("Inner", [("chosen", wanted)])

    with pytest.raises(HandlerDefinitionError, match=rf"take takes a payload of .*{why}"):
        table_of(wanted)
    with pytest.raises(HandlerDefinitionError, match=rf"in the field 'chosen', .*{why}"):
        table_of(list[inner])


def tree(depth, **first):
    made = {"type": "bud"}
    for _ in range(depth):
        made = {**first, "below": [made], "type": "branch"}
    return made


@CODEC
@pytest.mark.parametrize("forbid", [True, False])
def test_a_deep_tree_begins_with_its_tags(codec, forbid):
    """Then it may be as deep as the decoder goes; without, only a little."""
    table = table_of(Branch | Bud, forbid_unknown_fields=forbid)

    tagged = opened(table, tree(100, type="branch"), codec)
    shallow = opened(table, tree(8), codec)

    assert msgspec.to_builtins(tagged) == tree(100)
    assert msgspec.to_builtins(shallow) == tree(8)
    assert path_of_refusal(table, tree(100), codec) == "$.payload"


class Node(msgspec.Struct, tag="node"):
    next: "Node | End"
    seen: set[int] = set()
    note: Any = None


class End(msgspec.Struct, tag="end"):
    pass


@CODEC
def test_a_type_can_have_all_of_it_to_be_checked(codec):
    """Numbers, tags and, in MessagePack, keys: each is looked at."""
    table = table_of(Node | End)
    good = {"type": "node", "seen": MANY[:MOST_NUMBERS], "note": {"a": 1}, "next": {"type": "end"}}
    late = {"type": "end"}
    for _ in range(20):
        late = {"next": late, "type": "node"}

    assert opened(table, good, codec).seen == set(MANY[:MOST_NUMBERS])
    assert path_of_refusal(table, good | {"seen": MANY}, codec) == "$.payload.seen"
    assert path_of_refusal(table, late, codec) == "$.payload"
    with pytest.raises(Refusal, match="keys of a map must be text or numbers"):
        opened(table, good | {"note": {(1, 2): 1}}, MSGPACK)


@CODEC
def test_what_another_handler_takes_is_not_looked_at(codec):
    """It has no such union."""

    class Desk(WebSocketResource):
        @handles_message("grow")
        async def grow(self, ws, payload: Branch | Bud): ...

        @handles_message("take")
        async def take(self, ws, payload: Any): ...

    assert opened(Desk.__pachinko_table__, tree(100), codec) == tree(100)


@CODEC
@pytest.mark.parametrize("wanted", [Bud, dict[str, int], list[Bud], int, set[str]])
def test_ordinary_payloads_go_straight_to_the_decoder(codec, wanted):
    """What cannot be slow costs nothing more: there is no function between."""
    decode = table_of(wanted)._decode[codec]

    assert type(decode) is type(builtins.len)
    assert isinstance(decode.__self__, msgspec.json.Decoder | msgspec.msgpack.Decoder)
