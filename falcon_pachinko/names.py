"""What rooms, users and tags may be called; names often come from clients."""

from __future__ import annotations

import re
import unicodedata

from falcon_pachinko.errors import InvalidNameError

__all__ = [
    "CONNECTION_MARK",
    "MAX_NAME_BYTES",
    "check_name",
    "check_text",
    "check_user_id",
    "is_user_id",
    "stranger_key",
]

CONNECTION_MARK = "~"
"""What the id of a connection begins with, and a user id never does.

Presence lists users by their ids and strangers by those of their connections: so no user
can take the place of a stranger.
"""

MAX_NAME_BYTES = 200
"""How long the name of a room, a tag or a user may be, in bytes of UTF-8."""

# Letters, marks and symbols that show nothing, by Unicode's Default_Ignorable_Code_Point, which
# the standard library does not know; with the empty Braille pattern and the null notehead.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U0001d159\U000e0100-\U000e01ef]"
)
_BREAKS = frozenset({"Cc", "Zl", "Zp"})  # control characters, and what ends a line or paragraph


def check_text(text: object, kind: str) -> None:
    """Refuse what is not text: a mistake of the application, which would find nothing.

    Raises:
        TypeError: It is not a str; the text shows what to write.
    """
    if not isinstance(text, str):
        raise TypeError(f"a {kind} is a str, not {text!r:.200}; write str({text!r:.80})")


def check_name(name: str, kind: str) -> None:
    """Refuse what cannot name a room or a topic: anything but 1 to 200 bytes of UTF-8.

    Args:
        name: The name.
        kind: What it is, for the error: ``"room name"``.

    Raises:
        TypeError: It is not a str, which is a mistake of the application.
        InvalidNameError: It is empty, has no UTF-8 form, or is over 200 bytes.
    """
    check_text(name, kind)
    if not name:
        raise InvalidNameError(name, kind, "it is empty")
    if name.isascii() and len(name) <= MAX_NAME_BYTES:
        return
    size = _size(name)
    if size is None:
        raise InvalidNameError(name, kind, "it has a lone surrogate, which has no UTF-8 form")
    if size > MAX_NAME_BYTES:
        raise InvalidNameError(
            name, kind, f"it has {size} bytes in UTF-8, {MAX_NAME_BYTES} are allowed"
        )


def is_user_id(name: str) -> bool:
    r"""Tell whether a text can be a user id or a tag.

    It has 1 to 200 bytes of UTF-8, no control character and no line break, and at
    least one character that is neither blank nor invisible.

    >>> is_user_id("ann"), is_user_id(" "), is_user_id("ann\n")
    (True, False, False)
    """
    if name.isascii():
        return (
            len(name) <= MAX_NAME_BYTES and name.isprintable() and not name.isspace() and name != ""
        )
    size = _size(name)
    if size is None or size > MAX_NAME_BYTES:
        return False
    if not _BREAKS.isdisjoint(map(unicodedata.category, name)):
        return False
    return any(unicodedata.category(each)[0] not in "ZC" for each in _UNSEEN.sub("", name))


def stranger_key(connection_id: str) -> str:
    """Return what presence lists a connection without a user by: its id, marked as one.

    The library's own ids have the mark; one that an application has adopted may not.

    >>> stranger_key("~0123"), stranger_key("ann")
    ('~0123', '~ann')
    """
    if connection_id.startswith(CONNECTION_MARK):
        return connection_id
    return CONNECTION_MARK + connection_id


def check_user_id(user_id: str, kind: str = "user_id") -> None:
    """Refuse what cannot name a user or a tag; see `is_user_id`.

    Raises:
        TypeError: It is not a str.
        InvalidNameError: It is empty, blank, too long, or has control characters.
    """
    if not isinstance(user_id, str):
        raise TypeError(f"a {kind} is a str, not {user_id!r:.200}; write {kind}=str(...)")
    if kind == "user_id" and user_id.startswith(CONNECTION_MARK):
        why = f"it begins with {CONNECTION_MARK!r}, as the ids of connections do"
        raise InvalidNameError(user_id, kind, why)
    if not is_user_id(user_id):
        why = f"it is not 1 to {MAX_NAME_BYTES} bytes of visible text without control characters"
        raise InvalidNameError(user_id, kind, why)


def _size(name: str) -> int | None:
    """Return how many bytes a text has in UTF-8; None if it has a lone surrogate."""
    try:
        return len(name.encode())
    except UnicodeEncodeError:
        return None
