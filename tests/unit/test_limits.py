"""Limits: finite by default, refused when they make no sense."""

import copy
import dataclasses
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import HistoryLimits, Limits
from falcon_pachinko.limits import bound

FIELDS = [field.name for field in dataclasses.fields(Limits)]
NUMBERS = [name for name in FIELDS if name != "on_overflow"]
FRACTIONS = {"send_timeout", "messages_per_second", "handler_grace", "shutdown_timeout"}
COUNTS = [name for name in NUMBERS if name not in FRACTIONS]
MAY_BE_ZERO = {"rooms", "tags"}


def test_the_defaults_are_the_documented_ones():
    """Changing what a client may cost is a decision, not an accident."""
    assert dataclasses.asdict(Limits()) == {
        "message_bytes": 65_536,
        "outbox_bytes": 1_048_576,
        "on_overflow": "close",
        "send_timeout": 10.0,
        "inbox_messages": 256,
        "inbox_bytes": 1_048_576,
        "messages_per_second": 1_000,
        "burst": 2_000,
        "concurrency": 8,
        "rooms": 128,
        "tags": 128,
        "connections": 100_000,
        "connections_per_address": None,
        "connections_per_user": None,
        "handler_grace": 5.0,
        "shutdown_timeout": 20.0,
    }


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, -0.5, math.inf, -math.inf, math.nan])
def test_a_number_is_finite_and_positive(name, value):
    """Infinity is written None, which a reader of the code cannot miss."""
    with pytest.raises(ValueError, match=f"{name}=.*finite number.*, or None for no limit"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["12", True, False, [1], 2j])
def test_a_number_is_a_number(name, value):
    """An environment variable that was not converted fails here, not under load."""
    with pytest.raises(TypeError, match=f"{name}=.*give a number, or None for no limit"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0.5, 1.5, 3.0])
def test_what_is_counted_is_a_whole_number(name, value):
    """Half a room, a burst of half a message: a mistake, such as a rate in the wrong field."""
    with pytest.raises(ValueError, match=f"{name}={value}: give a whole number"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", sorted(FRACTIONS))
def test_a_time_or_a_rate_may_have_a_fraction(name):
    """Half a second, one message in two seconds."""
    assert getattr(Limits(**{name: 0.5}), name) == 0.5


@pytest.mark.parametrize("name", NUMBERS)
def test_none_switches_a_limit_off(name):
    """Each of them, be it on by default or not."""
    assert getattr(Limits(**{name: None}), name) is None


def test_the_overflow_policy_cannot_be_switched_off():
    """It says what happens, not how much is allowed."""
    with pytest.raises(ValueError, match="on_overflow=None: choose one of"):
        Limits(on_overflow=None)


@pytest.mark.parametrize("name", NUMBERS)
def test_zero_means_none_allowed_where_that_makes_sense(name):
    """A connection without rooms or tags works; one without an outbox or a burst does not."""
    if name in MAY_BE_ZERO:
        assert getattr(Limits(**{name: 0}), name) == 0
    else:
        with pytest.raises(ValueError, match=f"{name}=0: give a finite number above 0"):
            Limits(**{name: 0})


@pytest.mark.parametrize("given", [{"count": 0.5}, {"bytes": 10.0}])
def test_a_history_is_counted_in_whole_numbers_too(given):
    """Messages and bytes; its seconds may have a fraction."""
    with pytest.raises(ValueError, match=r"give a whole number above 0$"):
        HistoryLimits(**given)

    assert HistoryLimits(seconds=0.5).seconds == 0.5


@pytest.mark.parametrize("given", [{"count": None}, {"bytes": None}, {"seconds": None}])
def test_a_history_always_has_limits(given):
    """It would grow without bound."""
    with pytest.raises(TypeError, match=r"=None: give a number$"):
        HistoryLimits(**given)


# Overriding.


def test_an_override_takes_what_is_named_and_nothing_else():
    """Fields that have their defaults were not named."""
    app, route = Limits(message_bytes=4096, rooms=7), Limits(rooms=1)

    assert app.overridden_by(route) == Limits(message_bytes=4096, rooms=1)


@pytest.mark.parametrize(
    "named", [{"rooms": 128}, {"on_overflow": "close"}, {"connections_per_user": None}]
)
def test_a_default_that_is_written_down_counts_as_named(named):
    """Whoever writes ``rooms=128`` wants 128, whatever the app has."""
    app = Limits(rooms=1, on_overflow="drop_newest", connections_per_user=2)
    (field,) = named

    assert getattr(app.overridden_by(Limits(**named)), field) == named[field]


def test_overrides_add_up():
    """The parent route's first, then the child's."""
    app = Limits(rooms=1, burst=10, tags=5)
    child = app.overridden_by(Limits(burst=20, tags=6)).overridden_by(Limits(tags=7))

    assert child == Limits(rooms=1, burst=20, tags=7)
    assert child.named == {"rooms", "burst", "tags"}


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_names_the_same_fields(again):
    """However it was made."""
    made = again(Limits(rooms=128))

    assert (made, made.named) == (Limits(), {"rooms"})


@given(
    st.dictionaries(st.sampled_from(COUNTS), st.integers(1, 9)),
    st.dictionaries(st.sampled_from(COUNTS), st.integers(1, 9)),
)
def test_an_override_is_a_dicts_update(first, second):
    """Whatever the two sets name."""
    both = Limits(**first).overridden_by(Limits(**second))

    assert both == Limits(**(first | second))


@pytest.mark.parametrize(("limit", "number"), [(3, 3), (0.5, 0.5), (0, 0), (None, math.inf)])
def test_a_limit_that_is_off_compares_as_infinite(limit, number):
    """So that consumers need no case for it."""
    assert bound(limit) == number


@pytest.mark.parametrize("policy", ["close", "drop_oldest", "drop_newest"])
def test_the_overflow_policies_are_three(policy):
    """Each is taken as it is."""
    assert Limits(on_overflow=policy).on_overflow == policy


def test_another_policy_is_refused_with_the_choices():
    """A typo does not become a default."""
    with pytest.raises(ValueError, match=r"'drop-oldest'.*'close', 'drop_oldest', 'drop_newest'"):
        Limits(on_overflow="drop-oldest")


def test_limits_are_frozen_and_equal_by_value():
    """One instance may serve all routes, and `install` can tell whether options changed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().rooms = 3
    assert Limits(rooms=3) == Limits(rooms=3) != Limits()


def test_limits_are_given_by_name():
    """A bare number would say nothing to a reader."""
    with pytest.raises(TypeError):
        Limits(4096)
