"""Names on NATS: any text as one token, and what a URL may say."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko.backends import open_backend
from falcon_pachinko.backends.nats.names import MAX_TOKEN, parse_url, token
from falcon_pachinko.errors import SetupError

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


def test_a_url_names_servers_and_settings():
    """Several servers, credentials with special characters, and all settings."""
    where = parse_url("nats://pach:p%40%3Ass@a,[::1]:4223/?namespace=shop&ttl=5")

    assert where.servers == ("nats://a:4222", "nats://[::1]:4223")
    assert (where.user, where.password, where.secret) == ("pach", "p@:ss", None)
    assert (where.settings.namespace, where.settings.ttl) == ("shop", 5.0)
    assert where.name == "nats://a:4222,[::1]:4223"


def test_a_single_credential_is_a_token():
    """``nats://token@host``, as NATS itself has it."""
    where = parse_url("tls://s%40me@broker.example")

    assert (where.user, where.password, where.secret) == (None, None, "s@me")
    assert where.servers == ("tls://broker.example:4222",)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nats://", "name a host"),
        ("nats://a,,b", "name a host"),
        ("nats://pach:sesame@a:http", "Port"),
        ("nats://pach:ses@me@a", "%40"),
        ("nats://pach:sesame/x@a", "% and two digits"),
        ("nats://pach:sesame@a,pach:sesame@b", "before the first host"),
        ("nats://a/db", "no path"),
        ("nats://pach:sesame@[::1", "not in brackets"),
        ("nats://pach:sesame@a,[::1:4222", "not in brackets"),
        ("nats://pach:sesame@a,::1]:4222/?ttl=5", "not in brackets"),
        ("nats://pach:sesame@a?namspace=shop", "did you mean namespace"),
        ("nats://a?replicas=2", "no setting"),
        ("nats://a?timeout=soon", "timeout"),
        ("nats://a?required=perhaps", "neither true nor false"),
    ],
)
def test_a_wrong_url_is_told(url, told):
    """Each mistake by its name, and the password by none."""
    with pytest.raises(SetupError) as refused:
        parse_url(url)

    assert told in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_a_missing_package_is_told(monkeypatch):
    """The exact line to type."""
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    with pytest.raises(SetupError, match=r"pip install 'falcon-pachinko\[nats\]'"):
        open_backend("nats://localhost")
