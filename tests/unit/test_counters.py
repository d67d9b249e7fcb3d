"""Counters of what has happened."""

import msgspec
import pytest

from falcon_pachinko.counters import MOST_CLIENT_CODES, MOST_TYPES, Tally, type_of


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
    tally = Tally()
    for number in range(MOST_TYPES + 100):
        tally.count_sent(f"said-{number}", 2)
    tally.count_sent("said-0")

    assert len(tally.sent) <= MOST_TYPES + 1
    assert tally.sent["said-0"] == 3
    assert sum(tally.sent.values()) == 2 * (MOST_TYPES + 100) + 1


def test_a_handlers_runs_and_seconds_add_up():
    """So that an average can be told."""
    tally = Tally()
    for seconds in (0.5, 1.5):
        tally.handling("say").seconds += seconds

    assert tally.status()["received"] == {"say": 2}
    assert tally.status()["handler_seconds"] == {"say": 2.0}


def test_a_new_tally_has_counted_nothing():
    """And says so in plain data."""
    assert Tally().status() == {
        "accepted": 0, "denied": 0, "closed": {}, "received": {}, "sent": {},
        "dropped": {}, "errors": {}, "handler_seconds": {},
    }  # fmt: skip


@pytest.mark.parametrize("codes", [range(3000, 5000), range(4000, 5000), range(4999, 2999, -2)])
def test_close_codes_that_clients_make_up_do_not_grow_without_bound(codes):
    """A client that closes with another one each time makes some dozens of counters at most."""
    tally = Tally()
    for code in codes:
        tally.count_closed(code, by_client=True)
    known = 16 + 70  # of the standard, and of HTTP

    assert len(tally.status()["closed"]) <= MOST_CLIENT_CODES + known + 1
    assert sum(tally.closed.values()) == len(codes)
    assert tally.status()["closed"]["(other)"] > 0


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1013, 3403, 3429, 3503, 4401])
def test_codes_that_mean_something_always_count_apart(code):
    """However many others came before."""
    tally = Tally()
    for junk in range(4500, 4999):
        tally.count_closed(junk, by_client=True)
    tally.count_closed(code, by_client=True)

    assert tally.status()["closed"][str(code)] == 1


def test_codes_of_the_application_count_apart():
    """Clients that got there first take nothing away from them."""
    tally = Tally()
    for junk in range(4500, 4999):
        tally.count_closed(junk, by_client=True)
    for _ in range(2):
        tally.count_closed(4001, by_client=False)
    tally.count_closed(4001, by_client=True)

    assert tally.status()["closed"]["4001"] == 3


def test_what_the_application_makes_up_is_bounded_too():
    """Codes and types of errors alike."""
    tally = Tally()
    for number in range(MOST_TYPES + 100):
        tally.count_closed(3000 + number, by_client=False)
        tally.count_error(f"said-{number}")

    assert len(tally.closed) <= MOST_TYPES + 1
    assert len(tally.errors) <= MOST_TYPES + 1
