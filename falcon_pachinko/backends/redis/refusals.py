"""What Redis means when it refuses something: what is wrong, and what to do about it."""

from __future__ import annotations

import re

__all__ = ["NOT_HERE", "PASSING", "explain", "refused_command"]

NOT_HERE = frozenset({"READONLY", "MASTERDOWN", "MOVED", "ASK", "CLUSTERDOWN", "LOADING"})
"""Codes that mean: whatever this server is, it is not the one to talk to now."""

PASSING = frozenset({"OOM", "MISCONF", "NOREPLICAS", "BUSY", "TRYAGAIN"})
"""Codes that mean: not now; the same may be done in a moment."""

_COMMAND = re.compile(r"permissions? to run the '([^']+)' (?:sub)?command", re.IGNORECASE)
_UNKNOWN = re.compile(r"unknown command[ :,]+['\"`](\w+)", re.IGNORECASE)
_LINE = re.compile(r"user_script: ?(\d+)")
_CALL = re.compile(r"redis\.call\('(\w+)'")
_NOT_ALLOWED = ("NOPERM", "ACL failure", "The user executing the script can't run this command")
_NOT_THERE = ("unknown command", "Unknown Redis command")

_MEANINGS = (
    ("READONLY", "it is a read-only replica; connect to the primary"),
    ("MASTERDOWN", "it is a replica that has lost its primary; connect to the primary"),
    ("MOVED", "it is a node of a Redis Cluster, and another one has this app's keys"),
    ("ASK", "it is a node of a Redis Cluster, which is moving this app's keys to another one"),
    ("CLUSTERDOWN", "it is a node of a Redis Cluster that is not complete"),
    ("LOADING", "it is still reading its data from disk"),
    ("OOM", "its memory is full; raise maxmemory, or take out what does not belong there"),
    (
        "MISCONF",
        "it cannot save its data, and so refuses to change it; see its log, and its disk",
    ),
    ("NOREPLICAS", "it has too few replicas within reach (min-replicas-to-write)"),
    ("WRONGPASS", "it does not accept the user or the password"),
    ("invalid username-password", "it does not accept the user or the password"),
    ("invalid password", "it does not accept the password"),
    ("NOAUTH", "it wants a password; put it into the URL, as in redis://:password@host"),
    ("Authentication required", "it wants a password; put it into the URL"),
    ("no password is set", "it knows no password, but the URL has one"),
    ("DB index is out of range", "it has no database of that number"),
    ("invalid DB index", "it has no database of that number"),
    ("Invalid Database", "it has no database of that number"),
    ("SELECT is not allowed in cluster mode", "a Redis Cluster has the database 0 only"),
    ("max number of clients reached", "it has as many clients as it takes (maxclients)"),
)


def refused_command(said: str, script: str = "") -> str | None:
    """Return which command it is that the user may not use, or that there is not.

    Args:
        said: The server's error.
        script: The script that it is about; the error may only say in which line it was.

    >>> refused_command("ERR unknown command 'EVALSHA', with args beginning with: ''")
    'evalsha'
    """
    if found := _COMMAND.search(said) or _UNKNOWN.search(said):
        return found[1].lower()
    if any(sign in said for sign in (*_NOT_ALLOWED, *_NOT_THERE)) and (at := _LINE.search(said)):
        lines = script.split("\n")
        call = _CALL.search(lines[int(at[1]) - 1]) if int(at[1]) <= len(lines) else None
        return call[1].lower() if call is not None else None
    return None


def explain(said: str, script: str = "") -> str:
    """Say what a server's error means, on one line; one that is not known is quoted.

    Args:
        said: The server's error.
        script: The script that it is about.

    >>> explain("READONLY You can't write against a read only replica.")
    'it is a read-only replica; connect to the primary (READONLY)'
    >>> explain("NOPERM this user has no permissions to run the 'evalsha' command")
    "the user may not use EVALSHA; add +evalsha to the user's ACL (NOPERM)"
    """
    name = refused_command(said, script)
    if any(sign in said for sign in _NOT_THERE):
        return f"it has no command {(name or '?').upper()}; was that disabled, or renamed?"
    if name is not None:
        return f"the user may not use {name.upper()}; add +{name} to the user's ACL (NOPERM)"
    if any(sign in said for sign in _NOT_ALLOWED):
        if "channel" in said:
            return "the user may not use these channels; add &NAMESPACE:* to the ACL (NOPERM)"
        return "the user may not use these keys; add ~NAMESPACE:* to the ACL (NOPERM)"
    for sign, meaning in _MEANINGS:
        if sign in said:
            return f"{meaning} ({sign})" if sign.isupper() else meaning
    return f"it answered: {said[:200]}"
