"""What a NATS URL says: servers, who we are, JetStream; and what it must not say."""

import ssl

import pytest

from falcon_pachinko import SetupError
from falcon_pachinko.backends import open_backend
from falcon_pachinko.backends.nats import NatsBackend
from falcon_pachinko.backends.nats.address import parse_url
from falcon_pachinko.backends.nats.login import Login


def test_a_url_names_servers_and_settings():
    """Several servers, credentials with special characters, and all settings."""
    where = parse_url("nats://pach:p%40%3Ass@a,[::1]:4223/?namespace=shop&ttl=5")

    assert [each.url for each in where.servers] == ["nats://a:4222", "nats://[::1]:4223"]
    assert where.login == Login("pach", "p@:ss")
    assert (where.settings.namespace, where.settings.ttl) == ("shop", 5.0)
    assert where.name == "nats://a:4222,[::1]:4223"


def test_a_single_credential_is_a_token():
    """``nats://token@host``, as NATS itself has it."""
    where = parse_url("tls://s%40me@broker.example")

    assert where.login == Login(token="s@me")
    assert where.name == "tls://broker.example:4222"
    assert where.tls is not None


def test_jetstream_has_settings():
    """A domain is in the subjects of its questions; copies are a number."""
    plain, special = parse_url("nats://a"), parse_url("nats://a?domain=hub-1&replicas=3")

    assert (plain.api, plain.replicas) == ("$JS.API", None)
    assert (special.api, special.replicas) == ("$JS.hub-1.API", 3)


@pytest.mark.parametrize("url", ["nats://pach:sesame@a", "nats://sesame@a"])
def test_nothing_that_is_shown_is_secret(url):
    """Neither a repr, nor a name."""
    where = parse_url(url)

    assert "sesame" not in repr(where) + repr(where.login) + where.name + str(where.login)


def test_a_context_is_a_context():
    """Not True, as in other libraries; and it means TLS also with nats://."""
    with pytest.raises(SetupError, match=r"ssl\.SSLContext"):
        NatsBackend("nats://a", tls=True)
    context = ssl.create_default_context()

    assert parse_url("nats://a", context).tls is context
    assert parse_url("nats://a").tls is None


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
        ("nats://a?replicas=2", "1, 3, 5"),
        ("nats://a?replicas=many", "1, 3, 5"),
        ("nats://a?replicas=", "1, 3, 5"),
        ("nats://a?domain=", "domain"),
        ("nats://a?domain=a.b", "domain"),
        ("nats://a?domain=*", "domain"),
        ("nats://a?domain=a%20b", "domain"),
        ("nats://a?domain=x&domain=y", "twice"),
        ("nats://a?credential=x", "did you mean credentials"),
        ("nats://pach:sesame@a#b", "no fragment"),
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
