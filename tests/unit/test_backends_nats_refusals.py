"""What NATS says when it refuses something, in words that help."""

import ssl

import pytest

from falcon_pachinko.backends.nats.refusals import (
    Denied,
    denied,
    explain_connection,
    explain_jetstream,
)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ('Permissions Violation for Publish to "A.b"', Denied("publish", "a.b")),
        ('nats: permissions violation for subscription to "a.>"', Denied("subscribe", "a.>")),
        (
            'Permissions Violation for Publish with Reply of "_INBOX.x" to "$JS.API.INFO"',
            Denied("publish", "$js.api.info"),
        ),
        ("Authorization Violation", None),
    ],
)
def test_a_violation_names_the_subject(said, meant):
    """Both verbs, in any case; everything else is none."""
    assert denied(said) == meant


@pytest.mark.parametrize(
    ("error", "login", "told"),
    [
        (OSError("nats: 'Authorization Violation'"), "the token", "does not accept the token"),
        (OSError("nats: authorization violation"), "", "nats://user:password@host"),
        (OSError("'User Authentication Expired'"), "the credentials file", "has expired"),
        (OSError("'User Authentication Revoked'"), "the key", "the key was revoked"),
        (OSError("nats: 'maximum connections exceeded'"), "", "max_connections"),
        (OSError("nats: 'Secure Connection - TLS Required'"), "", "tls://"),
        (TimeoutError(), "", "did not answer in time"),
        (ConnectionResetError("reset by peer"), "", "who this is"),
        (OSError("something else"), "", "something else"),
        (ValueError(), "", "ValueError"),
        (None, "", "NoneType"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong"), "", "TLS failed"),
    ],
)
def test_the_end_of_a_connection_is_explained(error, login, told):
    """What is known by its meaning, and the rest by its own words, on one line."""
    why = explain_connection(error, login)

    assert told in why
    assert "\n" not in why


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (10039, "x", "the account has no JetStream"),
        (10047, "x", "full"),
        (10002, "x", "full"),
        (10074, "x", "replicas="),
        (10008, "x", "no leader"),
        (1, "maximum messages exceeded", "a limit of JetStream"),
        (1, "something else", "something else"),
        (None, "something else", "something else"),
    ],
)
def test_what_jetstream_refuses_is_explained(code, said, told):
    """By its code, else by its words."""
    assert told in explain_jetstream({"err_code": code, "description": said})
