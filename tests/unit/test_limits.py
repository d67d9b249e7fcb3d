"""Limits: finite by default, refused when they make no sense."""

import dataclasses
import math

import pytest

from falcon_pachinko import Limits

NUMBERS = [field.name for field in dataclasses.fields(Limits) if field.name != "on_overflow"]
OPTIONAL = {"connections_per_address", "connections_per_user"}


def test_the_defaults_are_the_documented_ones():
    """Changing what a client may cost is a decision, not an accident."""
    assert dataclasses.asdict(Limits()) == {
        "message_bytes": 65_536,
        "outbox_bytes": 1_048_576,
        "on_overflow": "close",
        "send_timeout": 10.0,
        "inbox_messages": 256,
        "messages_per_second": 1_000,
        "burst": 2_000,
        "concurrency": 8,
        "rooms": 128,
        "connections": 100_000,
        "connections_per_address": None,
        "connections_per_user": None,
        "handler_grace": 5.0,
        "shutdown_timeout": 20.0,
    }


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1, math.inf, -math.inf, math.nan])
def test_a_number_is_finite_and_above_zero(name, value):
    """There is no such thing as an unlimited client, nor one that may nothing."""
    with pytest.raises(ValueError, match=f"{name}=.*finite number above 0"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["12", True, [1], 2j])
def test_a_number_is_a_number(name, value):
    """An environment variable that was not converted fails here, not under load."""
    with pytest.raises(TypeError, match=f"{name}=.*give a number"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_only_the_counts_that_are_off_by_default_may_be_none(name):
    """None is no way to say unlimited."""
    if name in OPTIONAL:
        assert getattr(Limits(**{name: None}), name) is None
    else:
        with pytest.raises(TypeError, match=name):
            Limits(**{name: None})


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
