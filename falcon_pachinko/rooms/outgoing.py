"""A message on its way out of a `Publisher`: checked, and encoded, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from falcon_pachinko.cluster.parcels import Broadcast, channel_of, encode, implied_by
from falcon_pachinko.connection.sender import check_sending
from falcon_pachinko.counters import type_of
from falcon_pachinko.errors import EncodeError
from falcon_pachinko.leases import check_lease
from falcon_pachinko.messages.codec import Codecs, contains_raw
from falcon_pachinko.names import check_name, check_text
from falcon_pachinko.rooms.idempotency import backend_key, check_key
from falcon_pachinko.targets import ConnectionId, Room, Target, User, check_target

__all__ = ["Outgoing", "prepare", "to_connection", "to_room", "to_user"]


class Outgoing(NamedTuple):
    """A message that can be sent."""

    target: Target
    channel: str
    parcel: Broadcast
    keepable: bool
    """Whether the rooms among the target that have a history are to keep it."""
    key: str
    """What they know it by; empty if it has no idempotency key."""


def to_room(name: str) -> Target:
    """Name a room's members; a name that no room can have is refused."""
    check_name(name, "room name")
    return Room(name)


def to_user(user_id: str) -> Target:
    """Name a user's connections."""
    check_text(user_id, "user_id")
    return User(user_id)


def to_connection(connection_id: str) -> Target:
    """Name one connection."""
    check_text(connection_id, "connection id")
    return ConnectionId(connection_id)


def prepare(
    codecs: Codecs,
    message: Any,
    to: Target,
    *,
    exclude: Iterable[str] = (),
    store: bool | None = None,
    volatile: bool = False,
    latest: str | None = None,
    idempotency_key: str | None = None,
) -> Outgoing:
    """Check and encode a message, in the caller's thread: the application's hooks run there.

    Raises:
        EncodeError: It cannot be encoded.
        TypeError: An argument has a wrong type.
        ValueError: The options contradict each other.
        LeaseLostError: A singleton worker sends it, after its lease ended.
    """
    check_lease()
    check_target(to)
    check_sending(latest, volatile=volatile, store=store)
    key = ""
    if idempotency_key is not None:
        check_key(idempotency_key, store=store, volatile=volatile, latest=latest)
        key = backend_key(idempotency_key)
    ids = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    for each in ids:
        check_text(each, "connection id")
    text, data = _encoded(codecs, message)
    parcel = Broadcast(0, 0, type_of(message), text, data, ids)
    channel = channel_of(to)
    if implied_by(channel) != to:
        parcel.target = to
    parcel.volatile, parcel.latest = volatile, latest
    try:
        channel.encode()
        encode(b"", parcel)
    except UnicodeEncodeError as error:
        raise EncodeError(
            f"a name of {to!r:.200}, or an id in exclude=, has no UTF-8 form"
        ) from error
    keepable = store is not False and not volatile and latest is None
    return Outgoing(to, channel, parcel, keepable, key)


def _encoded(codecs: Codecs, message: Any) -> tuple[str | None, bytes | None]:
    """Write a message once, in the form that loses nothing.

    That is MessagePack, of which the processes make JSON for their clients: both forms would be
    nearly twice the bytes, for each process. What has no such form, and a `msgspec.Raw`, which is
    written in JSON, travels as JSON.
    """
    text: str = codecs.json.encode(message).event["text"]  # most clients want that: it has to be
    if contains_raw(message, codecs.enc_hook):
        return text, None
    try:
        return None, codecs.msgpack.encode(message).event["bytes"]
    except EncodeError:
        return text, None
