"""Counters of what has happened."""

import msgspec
import pytest

from falcon_pachinko.counters import MOST_CLIENT_CODES, MOST_TYPES, Counters, Handled, type_of


class Said(msgspec.Struct, tag="said"):
    text: str = ""


class Plain(msgspec.Struct):
    text: str = ""


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ({"type": "said"}, "said"),
        ({"type": 3}, "(untyped)"),
        ({}, "(untyped)"),
        ([1], "(untyped)"),
        ("said", "(untyped)"),
        (None, "(untyped)"),
        (Said(), "said"),
        (Plain(), "(untyped)"),
    ],
)
def test_a_message_is_counted_by_its_type(message, name):
    """That of a dict or of a tagged struct; all others are one."""
    assert type_of(message) == name


def test_types_that_an_application_makes_up_do_not_grow_without_bound():
    """A type with an id in it, sent a million times, is one counter and not a million."""
    counters = Counters()
    for number in range(MOST_TYPES + 100):
        counters.count_sent({"type": f"said-{number}"}, 2)
    counters.count_sent({"type": "said-0"})

    assert len(counters.sent) <= MOST_TYPES + 1
    assert counters.sent["said-0"] == 3
    assert sum(counters.sent.values()) == 2 * (MOST_TYPES + 100) + 1


def test_a_handlers_runs_and_seconds_add_up():
    """So that an average can be told."""
    counters = Counters()
    for seconds in (0.5, 1.5):
        counters.handling("say").seconds += seconds

    assert counters.status()["received"] == {"say": 2}
    assert counters.status()["handler_seconds"] == {"say": 2.0}


def test_new_counters_have_counted_nothing():
    """And says so in plain data."""
    assert Counters().status() == {
        "accepted": 0, "denied": 0, "closed": {}, "received": {}, "sent": {},
        "dropped": {}, "errors": {}, "handler_seconds": {},
    }  # fmt: skip


@pytest.mark.parametrize("bad", [3, None, ["x"], True])
def test_a_type_that_is_no_text_is_none(bad):
    """A label is a text: what is not cannot be one."""
    assert type_of({"type": bad}) == "(untyped)"


def test_a_message_is_counted_for_each_who_gets_it():
    """By its type, and where that is known already, by its name."""
    counters = Counters()

    counters.count_sent(Said(), 3)
    counters.count_sent_type("said", 2)
    counters.count_sent([1])

    assert counters.status()["sent"] == {"said": 5, "(untyped)": 1}


def test_types_beyond_the_bound_count_as_one():
    """Those that were known before keep their own."""
    counters = Counters()
    for number in range(MOST_TYPES):
        counters.count_sent_type(str(number))

    counters.count_sent_type("one more")
    counters.count_sent_type("and more")
    counters.count_sent_type("0")

    assert counters.sent["(other)"] == 2
    assert counters.sent["0"] == 2
    assert "one more" not in counters.sent


def test_ends_are_counted_by_their_codes():
    """As text, which any JSON reader takes for a key."""
    counters = Counters()
    for code in (1000, 1006, 1000):
        counters.count_closed(code, by_client=True)

    assert counters.status()["closed"] == {"1000": 2, "1006": 1}


def test_a_handler_that_runs_is_counted_already():
    """Its seconds come when it is done."""
    counters = Counters()

    assert counters.handling("say") == Handled(1, 0.0)
    assert counters.handling("say") is counters.received["say"]


def test_a_status_is_a_copy():
    """What was read does not change under whoever has read it."""
    counters = Counters()
    status = counters.status()

    counters.count_sent({"type": "said"})
    counters.dropped["overflow"] += 1

    assert (status["sent"], status["dropped"]) == ({}, {})


@pytest.mark.parametrize("codes", [range(3000, 5000), range(4000, 5000), range(4999, 2999, -2)])
def test_close_codes_that_clients_make_up_do_not_grow_without_bound(codes):
    """A client that closes with another one each time makes some dozens of counters at most."""
    counters = Counters()
    for code in codes:
        counters.count_closed(code, by_client=True)
    known = 16 + 70  # of the standard, and of HTTP

    assert len(counters.status()["closed"]) <= MOST_CLIENT_CODES + known + 1
    assert sum(counters.closed.values()) == len(codes)
    assert counters.status()["closed"]["(other)"] > 0


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1013, 3403, 3429, 3503, 4401])
def test_codes_that_mean_something_always_count_apart(code):
    """However many others came before."""
    counters = Counters()
    for junk in range(4500, 4999):
        counters.count_closed(junk, by_client=True)
    counters.count_closed(code, by_client=True)

    assert counters.status()["closed"][str(code)] == 1


def test_codes_of_the_application_count_apart():
    """Clients that got there first take nothing away from them."""
    counters = Counters()
    for junk in range(4500, 4999):
        counters.count_closed(junk, by_client=True)
    for _ in range(2):
        counters.count_closed(4001, by_client=False)
    counters.count_closed(4001, by_client=True)

    assert counters.status()["closed"]["4001"] == 3


def test_what_the_application_makes_up_is_bounded_too():
    """Codes and types of errors alike."""
    counters = Counters()
    for number in range(MOST_TYPES + 100):
        counters.count_closed(3000 + number, by_client=False)
        counters.count_error(f"said-{number}")

    assert len(counters.closed) <= MOST_TYPES + 1
    assert len(counters.errors) <= MOST_TYPES + 1
