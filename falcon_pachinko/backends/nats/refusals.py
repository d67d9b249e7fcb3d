"""What NATS means when it refuses something: what is wrong, and what to do about it."""

from __future__ import annotations

import re
import ssl
from typing import Any, NamedTuple

__all__ = ["NO_ROOM", "PASSING", "Denied", "denied", "explain_connection", "explain_jetstream"]

_DENIED = re.compile(
    r"permissions violation for (publish|subscription)(?: with reply of \S+)? to \"([^\"]*)\"",
    re.IGNORECASE,
)

_CONNECTION = (
    ("authentication expired", "{login} has expired; renew it"),
    ("authentication revoked", "{login} was revoked"),
    ("authorization violation", "it does not accept {login}"),
    ("authorization timeout", "it does not accept {login}"),
    ("authentication timeout", "it does not accept {login}"),
    ("maximum connections exceeded", "it has as many clients as it takes (max_connections)"),
    (
        "maximum account active connections",
        "the account has as many clients as it may have (its limit of connections)",
    ),
    (
        "maximum subscriptions exceeded",
        "it takes no more subscriptions (max_subscriptions): this process has too many rooms",
    ),
    (
        "maximum payload violation",
        "a message was larger than it takes; raise max_payload in its configuration",
    ),
    ("stale connection", "it got no answer from this process in time"),
    ("secure connection", "it wants TLS; write tls:// in the URL"),
    ("slow consumer", "this process did not read fast enough"),
)
"""Parts of an error of the connection, and what they mean."""

_JETSTREAM = {
    10002: "JetStream's store is full for the account; raise its limit, or delete what is not "
    "needed",
    10039: "the account has no JetStream; enable it for the account",
    10076: "JetStream is not enabled",
    10023: "JetStream has not enough resources left; raise max_file_store, or delete what is not "
    "needed",
    10025: "the limits of the account's JetStream are reached; raise them",
    10027: "the account may not have more streams (its limit of streams); raise it",
    10028: "JetStream's memory is full; raise max_memory_store, or delete what is not needed",
    10047: "JetStream's store is full; raise max_file_store or the account's limit, or delete "
    "what is not needed",
    10077: "JetStream could not store it; see whether its disk is full",
    10122: "the stream would be larger than the account allows",
    10005: "too few servers of the cluster can take the stream; see that all of them run with "
    "JetStream, or lower ?replicas=",
    10074: "the URL says ?replicas=, and that server is not one of a cluster; leave it out",
    10008: "the cluster has no leader for JetStream: most of its servers have to run",
    10009: "the cluster has no leader for JetStream: most of its servers have to run",
    10010: "the cluster has no leader for JetStream: most of its servers have to run",
    10065: "another stream takes the same subjects; delete it, or use another namespace",
}
"""Error codes of JetStream, and what they mean."""


NO_ROOM = frozenset({10002, 10023, 10025, 10028, 10047, 10077, 10122})
"""Those that a smaller message may not get."""


PASSING = NO_ROOM | {10008, 10009, 10010}
"""Those that may be over in a moment: it is full, or has no leader."""


class Denied(NamedTuple):
    """What the user may not do."""

    verb: str
    """``publish`` or ``subscribe``."""
    subject: str
    """In small letters: the client library has made them so."""


def denied(said: str) -> Denied | None:
    """Read an error about permissions; None for another one.

    >>> denied('nats: permissions violation for publish to "shop.pub.all"')
    Denied(verb='publish', subject='shop.pub.all')
    """
    found = _DENIED.search(said)
    if found is None:
        return None
    return Denied("publish" if found[1].lower() == "publish" else "subscribe", found[2].lower())


def explain_connection(error: BaseException | None, login: str) -> str:
    """Say on one line why there is no connection; an error that is not known is quoted.

    Args:
        error: What ended it.
        login: What we have logged in with, for texts; empty for nothing.

    >>> explain_connection(OSError("nats: 'Authorization Violation'"), "the token")
    'it does not accept the token (Authorization Violation)'
    """
    text = str(error).removeprefix("nats: ").strip("' ") if error is not None else ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {getattr(error, 'reason', None) or text}"
    if isinstance(error, TimeoutError) and not text:
        return "the server did not answer in time"
    for sign, meaning in _CONNECTION:
        if sign in text.lower():
            said = text if len(text) <= len(sign) else sign.capitalize()
            if "{login}" in meaning and not login:
                return (
                    "it wants to know who this is; put that into the URL, as in "
                    f"nats://user:password@host ({said})"
                )
            return f"{meaning.format(login=login)} ({said})"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        text = f"{text or 'the connection was reset'}; see whether it wants to know who this is"
    return text[:300] or type(error).__name__


def explain_jetstream(error: dict[str, Any]) -> str:
    """Say what an error of JetStream means, on one line; one that is not known is quoted.

    >>> explain_jetstream({"err_code": 10039, "description": "not enabled for account"})
    'the account has no JetStream; enable it for the account (10039)'
    """
    code, said = error.get("err_code"), str(error.get("description", "it gave no reason"))
    meaning = _JETSTREAM.get(code) if isinstance(code, int) else None
    if meaning is None and "maximum" in said.lower():
        meaning = f"a limit of JetStream is reached, {said[:200]}; raise it"
    if meaning is None:
        return f"JetStream refused: {said[:200]}"
    return f"{meaning} ({code})"
