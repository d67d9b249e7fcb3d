"""Names on NATS: any text as one token, and what a URL may say."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko.backends.nats.names import MAX_TOKEN, name_of, token

ANY = st.one_of(st.text(), st.text("=2Ea.*> \n", max_size=6), st.text(min_size=200))


@given(ANY)
def test_any_text_is_one_token(name):
    """There is no dot, wildcard, space or control character in it, and it fits into a line."""
    assert re.fullmatch(r"[A-Za-z0-9_:/=-]+", token(name))
    assert len(token(name)) <= MAX_TOKEN


@given(ANY, ANY)
def test_two_names_have_two_tokens(one, other):
    """Nobody hears what is meant for another name."""
    assert (token(one) == token(other)) == (one == other)


@given(st.text(min_size=MAX_TOKEN), st.characters(), st.characters())
def test_long_names_differ_to_their_end(name, one, other):
    """What is cut off still counts."""
    assert (token(name + one) == token(name + other)) == (one == other)


@pytest.mark.parametrize("name", ["room:tea", "user:a-b_c", "node:0123456789ab", "all", "a/b"])
def test_plain_names_can_be_read(name):
    """What an operator looks for in the server's own tools stands there as it is."""
    assert token(name) == name


@pytest.mark.parametrize("name", ["", "=", "==", "=2E", ".", "\ud800", "\0"])
def test_odd_names_are_names(name):
    """Nothing at all is one, and half a character, and what looks like an escape."""
    assert token(name) != name


@given(st.text())
def test_a_token_tells_its_name(name):
    """Whatever was written can be read again, unless it was too long."""
    assert name_of(token(name)) in (name, None)
    assert name_of(token(name[:50])) == name[:50]


@pytest.mark.parametrize("written", ["=zz", "=2", "a b", "=2e", "=41", "===", "=FF", "x" * 701])
def test_what_is_no_token_is_no_name(written):
    """Another form of a name, or none at all."""
    assert name_of(written) is None
