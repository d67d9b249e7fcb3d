"""A handshake's query: decoded and checked as payloads are."""

import datetime as dt
import enum
import uuid
from typing import Annotated, Any, Literal

import annotated_types
import falcon
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import HandlerDefinitionError, MessageError
from falcon_pachinko.messages.query import QueryReader, query_type


class Kind(enum.Enum):
    A = "a"


class Paging(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    page: int = 1
    page_size: int = msgspec.field(default=20, name="size")
    sort_by: Literal["name", "age"] = "name"
    tags: list[str] = []
    ids: set[int] = set()
    one_or_none: frozenset[int] | None = None
    dry_run: bool = False
    ratio: float | None = None
    kind: Kind | None = None
    since: dt.datetime | None = None
    session: uuid.UUID | None = None
    note: str = "none"
    pair: tuple[int, int] | None = None


class Needs(msgspec.Struct):
    token: str
    limit: Annotated[int, msgspec.Meta(le=100)] = 10


READ = QueryReader(Paging)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", Paging()),
        ("page=2&size=5", Paging(page=2, page_size=5)),
        ("sortBy=age", Paging(sort_by="age")),
        ("tags=a", Paging(tags=["a"])),
        ("tags=a&tags=b", Paging(tags=["a", "b"])),
        ("tags=a,b", Paging(tags=["a,b"])),
        ("tags=", Paging(tags=[""])),
        ("ids=1&ids=2&ids=1", Paging(ids={1, 2})),
        ("oneOrNone=3", Paging(one_or_none=frozenset({3}))),
        ("pair=1&pair=2", Paging(pair=(1, 2))),
        ("dryRun=true&ratio=0.5", Paging(dry_run=True, ratio=0.5)),
        ("dryRun=0", Paging(dry_run=False)),
        ("kind=a", Paging(kind=Kind.A)),
        ("since=2026-01-02T03:04:05", Paging(since=dt.datetime(2026, 1, 2, 3, 4, 5))),  # noqa: DTZ001  # as sent
        (f"session={uuid.UUID(int=1)}", Paging(session=uuid.UUID(int=1))),
        ("note=", Paging(note="")),
        ("note", Paging(note="")),
        ("note=a%20b+c%2Cd", Paging(note="a b c,d")),
        ("token=x&page_size=3&x=1&x=2", Paging()),
    ],
)
def test_a_query_becomes_the_struct(query, expected):
    """By its wire names; unknown keys pass, blank values stay, commas do not split."""
    assert READ(query) == expected


@pytest.mark.parametrize(
    ("reader", "query", "path"),
    [
        (READ, "page=two", "$.page"),
        (READ, "page=", "$.page"),
        (READ, "page=1&page=2", "$.page"),
        (READ, "page=1&page=1", "$.page"),
        (READ, "size=x", "$.size"),
        (READ, "sortBy=height", "$.sortBy"),
        (READ, "ids=1&ids=x", "$.ids[1]"),
        (READ, f"ids={2**70}", "$.ids[0]"),
        (READ, "dryRun=perhaps", "$.dryRun"),
        (READ, "kind=b", "$.kind"),
        (READ, "pair=1", "$.pair"),
        (QueryReader(Needs), "", "$.token"),
        (QueryReader(Needs), "limit=5", "$.token"),
        (QueryReader(Needs), "token=a&limit=500", "$.limit"),
    ],
)
def test_what_does_not_fit_is_a_bad_request(reader, query, path):
    """Its title and its description end with the path of what is wrong."""
    with pytest.raises(falcon.HTTPBadRequest) as refused:
        reader(query)

    assert refused.value.title == f"Wrong query: {path}"
    assert refused.value.description.endswith(path)


@given(st.text())
def test_any_query_is_read_or_refused(query):
    """A client can send what it likes."""
    try:
        assert isinstance(READ(query), Paging)
    except falcon.HTTPBadRequest as refused:
        assert "$" in refused.title  # noqa: PT017  # both outcomes are right


class Checked(msgspec.Struct):
    name: str = ""

    def __post_init__(self):
        if self.name == "value":
            raise ValueError("no such name")
        if self.name == "message":
            raise MessageError("taken", status=409)


def test_what_a_post_init_raises_counts():
    """A ValueError is a wrong query, a MessageError what it is in ``on_connect``."""
    read = QueryReader(Checked)

    with pytest.raises(falcon.HTTPBadRequest) as refused:
        read("name=value")
    assert (refused.value.title, refused.value.description) == (
        "Wrong query: $", "no such name: $",
    )  # fmt: skip
    with pytest.raises(MessageError, match="taken"):
        read("name=message")


# What an on_connect may ask for.


class OfOne(msgspec.Struct):
    x: int


class Nested(msgspec.Struct):
    inner: OfOne


class Mapped(msgspec.Struct):
    table: dict[str, int]


class Lists(msgspec.Struct):
    rows: list[list[int]]


class Floats(msgspec.Struct):
    them: set[float]


class Foreign(msgspec.Struct):
    it: complex


class Positional(msgspec.Struct, array_like=True):
    x: int


class Ruled(msgspec.Struct):
    x: Annotated[int, annotated_types.Gt(0)]


async def none(self, req, ws): ...
async def everything(self, req, ws, **params): ...
async def keyword(self, req, ws, room, *, query: Paging): ...
async def in_order(self, req, ws, query: Paging, room): ...
async def as_text(self, req, ws, *, query: "Paging"): ...
async def unannotated(self, req, ws, query): ...
async def a_dict(self, req, ws, *, query: dict): ...
async def a_union(self, req, ws, *, query: Paging | None): ...
async def nested(self, req, ws, *, query: Nested): ...
async def mapped(self, req, ws, *, query: Mapped): ...
async def lists(self, req, ws, *, query: Lists): ...
async def floats(self, req, ws, *, query: Floats): ...
async def foreign(self, req, ws, *, query: Foreign): ...
async def positional(self, req, ws, *, query: Positional): ...
async def ruled(self, req, ws, *, query: Ruled): ...


@pytest.mark.parametrize("on_connect", [none, everything])
def test_who_does_not_ask_gets_none(on_connect):
    assert query_type(on_connect) is None


@pytest.mark.parametrize("on_connect", [keyword, in_order, as_text])
def test_the_annotation_says_what_is_wanted(on_connect):
    assert query_type(on_connect) is Paging


@pytest.mark.parametrize(
    ("on_connect", "why"),
    [
        (unannotated, "unannotated annotates `query` with nothing; annotate it with a msgspec.Str"),
        (a_dict, "a_dict annotates `query` with <class 'dict'>; annotate"),
        (a_union, "a_union annotates `query` with "),
        (nested, "nested takes a query of Nested, whose field 'inner' is of a type that no text"),
        (mapped, "whose field 'table'"),
        (lists, "whose field 'rows'"),
        (floats, "floats takes a query of Floats, which cannot be decoded: .*hash alike"),
        (foreign, "whose field 'it'"),
        (positional, "which is array_like"),
        (ruled, "msgspec ignores Gt"),
    ],
)
def test_what_no_query_can_be_is_refused(on_connect, why):
    """Before the first client comes; the error names the method."""
    with pytest.raises(HandlerDefinitionError, match=why):
        query_type(on_connect)


def test_a_dec_hook_makes_fields_of_foreign_types():
    """It gets the text."""

    def dec_hook(wanted: type, value: Any) -> Any:
        return wanted(value)

    assert query_type(foreign, dec_hook) is Foreign
    assert QueryReader(Foreign, dec_hook)("it=1j") == Foreign(1j)


class Marked(msgspec.Struct):
    ids: set[int] = set()
    names: set[str] = set()


def test_a_set_of_numbers_has_a_bound_in_a_query_too():
    """Clients know how numbers are hashed; one of texts is as large as the query."""
    read = QueryReader(Marked)
    ids = "&".join(f"ids={number}" for number in range(513))
    names = "&".join(f"names={number}" for number in range(513))

    assert len(read(names).names) == 513
    assert read(ids.removesuffix("&ids=512")).ids == set(range(512))
    with pytest.raises(falcon.HTTPBadRequest) as refused:
        read(ids)
    assert "length <= 512" in refused.value.description
    assert refused.value.title.endswith("$.ids")
