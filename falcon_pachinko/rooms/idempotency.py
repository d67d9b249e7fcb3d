"""The keys that make it safe to send a message again: rooms with a history keep it once."""

from __future__ import annotations

from collections.abc import Collection

from falcon_pachinko.cluster.parcels import is_within
from falcon_pachinko.targets import Target

__all__ = ["MAX_KEY_BYTES", "backend_key", "check_keeps", "check_key"]

MAX_KEY_BYTES = 200
"""How long a key may be, in bytes of UTF-8."""


def check_key(
    key: object,
    *,
    store: bool | None = None,
    local: bool = False,
    volatile: bool = False,
    latest: str | None = None,
) -> None:
    """Refuse what is not a key, and options with which nothing would be kept.

    Raises:
        TypeError: The key is not a str.
        ValueError: It is empty, too long, or has no UTF-8 form; or nothing would be kept.
    """
    if not isinstance(key, str):
        raise TypeError(f"idempotency_key={key!r:.200}: give a str that names this message")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ValueError(f"idempotency_key={key!r:.200} has no UTF-8 form") from None
    if not 0 < size <= MAX_KEY_BYTES:
        raise ValueError(
            f"idempotency_key={key!r:.200} has {size} bytes; give 1 to {MAX_KEY_BYTES}"
        )
    options = {
        "store=False": store is False,
        "local=True": local,
        "volatile=True": volatile,
        "latest=": latest is not None,
    }
    for option, given in options.items():
        if given:
            raise ValueError(
                f"idempotency_key= with {option}: only what a history keeps is sent once; "
                "leave one of them out"
            )


def check_keeps(target: Target, kept_in: Collection[str]) -> None:
    """Refuse a key for a target of which not every room keeps the message.

    Args:
        target: The target.
        kept_in: Its rooms that have a history.

    Raises:
        ValueError: It also goes elsewhere.
    """
    if not kept_in or not is_within(target, kept_in):
        raise ValueError(
            f"idempotency_key= for {target!r:.200}: only rooms with a history know which messages "
            "they have had. Send to such rooms alone, by their names, give them a history with "
            "configure_rooms(), or leave the key out"
        )


def backend_key(key: str) -> str:
    """Return what the backend knows a key by; none of the library's own keys is like that.

    >>> backend_key("order-17")
    '=order-17'
    """
    return f"={key}"
