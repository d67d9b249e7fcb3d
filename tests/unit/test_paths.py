"""Paths of templates: filled in so that Falcon reads the same values out of them."""

import datetime as dt
import uuid

import falcon.routing
import falcon.uri
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from falcon_pachinko.paths import PathTemplate


class Hex:
    """A converter of an application's own."""

    def convert(self, value):
        try:
            return int(value, 16)
        except ValueError:
            return None


def converters():
    return {**falcon.routing.CompiledRouter().options.converters, "hex": Hex}


def filled(template, **params):
    return PathTemplate(template, converters()).fill(params, "Room")


def found(template, path):
    """Give what Falcon reads out of a path."""
    router = falcon.routing.CompiledRouter()
    router.options.converters["hex"] = Hex
    router.add_route(template, object())
    match = router.find(falcon.uri.decode(path, unquote_plus=False))
    return None if match is None else match[2]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1)


@given(TEXT, st.integers())
def test_a_path_is_filled_in_and_quoted(room, number):
    """Whatever the values are, they come out of the URL again as they went in."""
    assume(room not in (".", ".."))
    path = filled("/rooms/{room}/{n:int}", room=room, n=number)

    assert found("/rooms/{room}/{n:int}", path) == {"room": room, "n": number}
    assert path.isascii()
    assert not {" ", "?", "#"} & set(path)


VALUES = {
    "/{x:int}": st.integers(),
    "/{x:int(3, 5, 999)}": st.integers(5, 999),
    "/{x:int(num_digits=4)}": st.integers(-999, 9999),
    "/{x:float}": st.floats(allow_nan=False, allow_infinity=False),
    "/{x:uuid}": st.uuids(),
    "/{x:dt}": st.datetimes(timezones=st.just(dt.UTC)).map(lambda x: x.replace(microsecond=0)),
    '/{x:dt("%Y-%m-%d")}': st.dates().map(lambda x: dt.datetime(x.year, x.month, x.day)),  # noqa: DTZ001
    '/{x:dt("%d.%m.%Y %H:%M:%S.%f")}': st.datetimes(),
    '/{x:dt("%%Y-%Y-%j")}': st.dates().map(lambda x: dt.datetime(x.year, x.month, x.day)),  # noqa: DTZ001
    "/a/{x:path}": TEXT,
    "/räume/{x}": TEXT,
}


@pytest.mark.parametrize("template", VALUES)
@given(st.data())
def test_a_converters_value_comes_back(template, data):
    """Formatted as its converter reads it."""
    value = data.draw(VALUES[template])
    assume(value not in (".", ".."))

    assert found(template, filled(template, x=value)) == {"x": value}


@pytest.mark.parametrize(
    ("template", "value", "path"),
    [
        ("/{x:int(num_digits=3)}", 7, "/007"),
        ('/{x:dt("%Y-%m-%d")}', dt.date(2027, 1, 2), "/2027-01-02"),
        ("/{x:dt}", dt.datetime(2027, 1, 2, tzinfo=dt.UTC), "/2027-01-02T00%3A00%3A00%2B0000"),
        (
            "/{x:dt}",
            dt.datetime(2027, 1, 2, 3, 4, 5, 678, dt.UTC),
            "/2027-01-02T03%3A04%3A05%2B0000",
        ),
        ('/{x:dt("%Y-%m-%d")}', "2027-01-02", "/2027-01-02"),
        ("/{x:uuid}", "00000000000000000000000000000007", "/00000000000000000000000000000007"),
        ("/{x:int}", "042", "/042"),
        ("/{x:hex}", "ff", "/ff"),
        ("/{x}", 5, "/5"),
        ("/{x}", uuid.UUID(int=7), "/00000000-0000-0000-0000-000000000007"),
        ("/files/{x:path}", "a b/c?", "/files/a%20b/c%3F"),
        ("/{x:float(finite=False)}", float("nan"), "/nan"),
        ("/lob%/{x}", "a", "/lob%25/a"),
    ],
)
def test_what_a_path_looks_like(template, value, path):
    """Dates may be dates, and a text that the converter reads is taken as it is."""
    assert filled(template, x=value) == path


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("/{x}", "tea/milk"),
        ("/rooms/{x}", "/"),
        ("/rooms/{x}/end", "a/b"),
        ("/{x}", "."),
        ("/{x}", ".."),
        ("/files/{x:path}", "a/../b"),
        ("/{x:path}", "/a"),
        ("/{x:int}", 1.5),
        ("/{x:int}", True),
        ("/{x:int}", "seven"),
        ("/{x:int(min=1)}", 0),
        ("/{x:int(max=9)}", 10),
        ("/{x:int(num_digits=2)}", 100),
        ("/{x:float}", float("nan")),
        ("/{x:float}", float("inf")),
        ("/{x:dt}", dt.datetime(2027, 1, 2)),  # noqa: DTZ001  # its format has a zone
        ("/{x:dt}", dt.date(2027, 1, 2)),
        ("/{x:dt}", 5),
        ("/{x:uuid}", 7),
        ("/{x:hex}", 255),
        ("/{x}", "\ud800"),
    ],
)
def test_a_value_that_no_path_has_is_refused(template, value):
    """At the call, and with the value."""
    with pytest.raises(ValueError, match=r"url_for\('Room', x=|surrogates"):
        filled(template, x=value)


def test_fields_of_one_segment_are_told_apart():
    """Or else refused: the longest first field counts, as Falcon has it."""
    assert filled("/{a}-{b}", a="x-y", b="z") == "/x-y-z"
    with pytest.raises(ValueError, match="'/x-y-z' would arrive as a='x-y'"):
        filled("/{a}-{b}", a="x", b="y-z")


@pytest.mark.parametrize("value", [None, b"tea", bytearray(b"tea")])
def test_a_field_has_a_text(value):
    """``None`` in a URL is a mistake, and bytes have no one text."""
    with pytest.raises(TypeError, match=r"url_for\('Room', x=.*\): give text"):
        filled("/{x}", x=value)


@pytest.mark.parametrize("given_fields", [{}, {"room": "a"}, {"room": "a", "n": 1, "more": 2}])
def test_a_path_needs_its_fields_and_no_others(given_fields):
    """The error lists both."""
    with pytest.raises(TypeError, match=r"the path of 'Room' needs room, n; given: \["):
        filled("/{room}/{n:int}", **given_fields)


def test_a_path_without_fields_is_itself():
    """And an error there says that it needs nothing."""
    assert filled("/lobby") == "/lobby"
    with pytest.raises(TypeError, match="needs nothing; given"):
        filled("/lobby", room="a")


def test_without_converters_nothing_is_checked():
    """A router of the application's own has its own ideas of a match."""
    assert PathTemplate("/{x}").fill({"x": "a/b"}, "Room") == "/a/b"


@pytest.mark.parametrize(
    ("template", "fields"),
    [
        ("/", ()),
        ("/{a}/{b:int}/{c:dt('%Y')}", ("a", "b", "c")),
        ("/{a}-{b}.{c}", ("a", "b", "c")),
        ("/{ a }", ("a",)),
    ],
)
def test_a_template_knows_its_fields(template, fields):
    """In order."""
    assert PathTemplate(template).fields == fields
