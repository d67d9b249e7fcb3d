"""Counters of what has happened."""

import msgspec
import pytest

from falcon_pachinko.counters import MOST_TYPES, Tally, type_of


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
