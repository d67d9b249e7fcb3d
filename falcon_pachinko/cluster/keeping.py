"""How a message is written for a history, whoever sends it: a process, or a `Publisher`."""

from __future__ import annotations

from collections.abc import Callable

from falcon_pachinko.cluster.parcels import Broadcast, for_history, is_object
from falcon_pachinko.errors import EncodeError
from falcon_pachinko.limits import HistoryLimits

__all__ = ["write_kept"]


def write_kept(
    room: str, parcel: Broadcast, limits: HistoryLimits, write: Callable[[Broadcast], bytes]
) -> tuple[Broadcast, bytes]:
    """Return a message as a history keeps it, and written.

    Args:
        room: The room.
        parcel: The message as JSON and, where it has that form, as MessagePack.
        limits: How much the room keeps.
        write: Numbers and writes the message.

    Raises:
        EncodeError: The message is not an object, so that it has no room for its place,
            or has more bytes than the history keeps altogether.
    """
    if not is_object(parcel):
        raise EncodeError(
            "a room with a history takes objects (dicts, structs), to which it adds the field "
            "`history`; pass store=False to send something else"
        )
    kept = for_history(parcel)
    data = write(kept)
    if len(data) > limits.bytes:
        raise EncodeError(
            f"it has {len(data)} bytes, and the history of {room!r:.200} keeps at most "
            f"{limits.bytes} (HistoryLimits.bytes); raise that limit, or pass store=False"
        )
    return kept, data
