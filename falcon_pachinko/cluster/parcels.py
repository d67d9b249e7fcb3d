"""What travels between processes: versioned, compact, never pickled.

A parcel is a few bytes of header (the version, the node that sent it) and a
MessagePack array. A message travels encoded as its clients will get it, so that
no process encodes it again; one that a history keeps travels as it is kept. Parcels
of another version, and other bytes, are told apart by `decode` alone: what it returns
can be delivered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from falcon_pachinko.errors import EncodeError
from falcon_pachinko.messages.codec import (
    DECODE_ERRORS,
    Codec,
    Packet,
    pack_bytes,
    pack_text,
)
from falcon_pachinko.targets import (
    AnyTarget,
    Both,
    ConnectionId,
    Except,
    Room,
    Rooms,
    Tag,
    Target,
    Union,
    User,
)

__all__ = [
    "ALL",
    "NODE_BYTES",
    "Answer",
    "Broadcast",
    "Hello",
    "Mark",
    "Parcel",
    "ParcelPackets",
    "PresenceDiff",
    "Question",
    "channel_of",
    "decode",
    "encode",
    "for_history",
    "header",
    "implied_by",
    "is_object",
    "is_within",
    "rooms_named",
]

VERSION = b"\x01"
"""The first byte of every parcel; another one is another format."""

NODE_BYTES = 12
"""How long a node's name is: 48 random bits in hexadecimal digits."""

ALL = "all"
"""The channel that every process listens to."""

_HEADER_BYTES = len(VERSION) + NODE_BYTES
_OF_A_NODE = re.compile(rf"~([0-9a-f]{{{NODE_BYTES}}})[0-9a-f]{{24}}")
_NODE = re.compile(rb"[0-9a-f]{%d}" % NODE_BYTES)
_NARROWER = ("node", "user", "room", "tag", ALL)


class _Chained(msgspec.Struct, array_like=True, gc=False, tag_field="parcel"):
    """What every parcel has: its number, and that of the parcel before it on its channel.

    A receiver that heard another one last has missed something. A ``prev`` of 0 is "unknown";
    a parcel whose ``seq`` is 0 is outside of the chain: nobody can tell that it is missing.
    """

    seq: int
    prev: int


class Broadcast(_Chained, tag="b", array_like=True, gc=False):
    """A message for whom a target names; without one, for those whom the channel names."""

    type: str
    text: str | None
    """The message as JSON; None to have it made from ``data``."""
    data: bytes | None = None
    """The message as MessagePack; None where it has none, or no client speaks it."""
    exclude: tuple[str, ...] = ()
    """The ids of connections that do not get it."""
    target: AnyTarget | None = None
    volatile: bool = False
    latest: str | None = None
    kept_in: tuple[str, ...] = ()
    """Rooms whose members do not get it from this parcel: a history has it for them."""


class PresenceDiff(_Chained, tag="p", array_like=True, gc=False):
    """What one node's connections changed in a room's presence: bytes by connection id."""

    joins: dict[str, bytes]
    leaves: tuple[str, ...]
    whole: bool = False
    """Whether the joins are all that the node has in the room."""
    stays: dict[str, float] = {}
    """Of those that leave with the node itself, for how many seconds their users are still
    present: they may come back on another node."""


class Mark(_Chained, tag="m", array_like=True, gc=False):
    """Stands for parcels that were lost; it has the number of the last of them."""

    unkept: bool = False
    """Whether one of them is not in the room's history either, so that reading it is no help."""


class Hello(_Chained, tag="h", array_like=True, gc=False):
    """A process says which codecs its clients speak, by their subprotocols."""

    subprotocols: tuple[str, ...]
    reply: bool = False
    """Whether the others are to say theirs, to this process."""
    known: tuple[str, ...] = ()
    """What it knows that others speak: who has nothing to add need not reply."""
    configured: bool = False
    """Whether it has stored that rooms are configured otherwise than before."""


class Question(_Chained, tag="q", array_like=True, gc=False):
    """Something that a process asks the others; see `questions`."""

    number: int
    """The asker's own number for it, which the answers have."""
    kind: str
    """What is asked. A process that does not know the kind answers that it cannot tell."""
    body: bytes
    """The rest of the question, as its kind has it, in MessagePack."""


class Answer(_Chained, tag="a", array_like=True, gc=False):
    """A part of what one process answers, on the channel of the one that asked."""

    number: int
    """The asker's number for the question."""
    place: int
    """Which part this is, from 0."""
    is_last: bool
    body: bytes | None
    """The part, as the question's kind has it; None where the process cannot answer."""


Parcel: TypeAlias = Broadcast | PresenceDiff | Mark | Hello | Question | Answer

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Parcel)

_fields = msgspec.msgpack.Decoder(dict[Any, msgspec.Raw]).decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_check_msgpack = msgspec.msgpack.Decoder(msgspec.Raw).decode


class ParcelPackets(dict[Codec, Packet]):
    """The message of a parcel by codec; a form that did not come with it is made of the other.

    Args:
        parcel: What came.
        more: Fields to put beside the message's own, which is an object then.

    >>> from falcon_pachinko.messages.codec import JSON
    >>> said = Broadcast(1, 0, "said", '{"type":"said"}')
    >>> ParcelPackets(said, {"history": {"offset": 7}})[JSON].event["text"]
    '{"type":"said","history":{"offset":7}}'
    """

    def __init__(self, parcel: Broadcast, more: Mapping[str, Any] | None = None) -> None:
        self.parcel, self._more = parcel, more

    def __missing__(self, codec: Codec) -> Packet:
        packet = self[codec] = self._pack(codec)
        return packet

    def _pack(self, codec: Codec) -> Packet:
        """Make one form.

        Raises:
            EncodeError: The codec has no form of it, such as for a number of 100 digits.
        """
        text, data, more = self.parcel.text, self.parcel.data, self._more
        if codec.subprotocol is None and text is not None:
            if not more:
                return pack_text(text)
            comma = "" if text == "{}" else ","
            return pack_text(text[:-1] + comma + msgspec.json.encode(more).decode()[1:])
        if codec.subprotocol is not None and data is not None:
            return pack_bytes(_encoder.encode({**_fields(data), **more}) if more else data)
        try:
            if data is not None:
                message = msgspec.msgpack.decode(data)
            else:
                message = msgspec.json.decode(text or "")
        except DECODE_ERRORS as error:
            raise EncodeError(str(error)) from error
        return codec.encode({**message, **more} if more else message)


def header(node: str) -> bytes:
    """Return what every parcel of a node begins with."""
    return VERSION + node.encode()


def encode(head: bytes, parcel: Parcel) -> bytes:
    """Write a parcel; ``head`` is the sender's `header`."""
    return head + _encoder.encode(parcel)


def decode(data: bytes) -> tuple[str, Parcel] | None:
    """Read a parcel, and who sent it; None for other bytes, and for those of another version.

    >>> head = header("0123456789ab")
    >>> decode(encode(head, Mark(seq=2, prev=1)))
    ('0123456789ab', Mark(seq=2, prev=1, unkept=False))
    >>> decode(b"PING") is None
    True
    """
    node = data[1:_HEADER_BYTES]
    if data[:1] != VERSION or not _NODE.fullmatch(node):
        return None
    try:
        parcel = _decoder.decode(data[_HEADER_BYTES:])
        if isinstance(parcel, Broadcast):
            if parcel.text is None and parcel.data is None:
                return None
            if parcel.text is not None:
                _check_json(parcel.text)
            if parcel.data is not None:
                _check_msgpack(parcel.data)
    except DECODE_ERRORS:
        return None
    return node.decode(), parcel


def is_object(parcel: Broadcast) -> bool:
    """Whether a message has room for a field more, in each of its forms.

    >>> is_object(Broadcast(1, 0, "said", '{"type":"said"}'))
    True
    """
    text = parcel.text
    if text is not None and not (text.startswith("{") and text.endswith("}")):
        return False
    try:
        return parcel.data is None or _fields(parcel.data) is not None
    except DECODE_ERRORS:
        return False


def for_history(parcel: Broadcast) -> Broadcast:
    """Return the form in which a history keeps a message: once, and without loss.

    That is MessagePack, which has bytes and times; JSON is made from it. A message
    that MessagePack has no form of (a number of 30 digits) is kept as JSON.

    >>> from falcon_pachinko.messages.codec import JSON
    >>> said = Broadcast(1, 0, "said", '{"n":1}', msgspec.msgpack.encode({"n": 1}))
    >>> kept = for_history(said)
    >>> kept.text is None, ParcelPackets(kept)[JSON].event["text"]
    (True, '{"n":1}')
    """
    if parcel.data is None:
        return parcel
    return msgspec.structs.replace(parcel, text=None)


def channel_of(target: Target) -> str:
    """Name a channel that every process with somebody of the target listens to.

    The narrowest one. There is none but `ALL` for rooms by their prefix, since a process
    subscribes to its rooms one by one.

    >>> from falcon_pachinko import targets as to
    >>> channel_of(to.tag("pro") & to.room("tea") - to.user("bob"))
    'room:tea'
    >>> channel_of(to.room("tea") | to.room("coffee")), channel_of(to.rooms("chat:"))
    ('all', 'all')
    """
    match target:
        case Room(name):
            return f"room:{name}"
        case User(name):
            return f"user:{name}"
        case Tag(name):
            return f"tag:{name}"
        case ConnectionId(name) if of_a_node := _OF_A_NODE.fullmatch(name):
            return f"node:{of_a_node[1]}"
        case Both(left, right):
            return min(channel_of(left), channel_of(right), key=_width)
        case Except(left):
            return channel_of(left)
        case Union(left, right):
            both = {channel_of(left), channel_of(right)}
            return both.pop() if len(both) == 1 else ALL
    return ALL


def rooms_named(target: Target, with_prefix: Callable[[str], Iterable[str]]) -> list[str]:
    """Return the rooms to which a target sends, each once; not those it takes away.

    Args:
        target: The target.
        with_prefix: Returns the rooms of this process that begin with a plain string.

    >>> from falcon_pachinko import targets as to
    >>> rooms_named(to.room("tea") & to.tag("pro") - to.room("milk"), lambda prefix: ())
    ['tea']
    """
    match target:
        case Room(name):
            return [name]
        case Rooms(prefix):
            return list(with_prefix(prefix))
        case Both(left, right) | Union(left, right):
            both = rooms_named(left, with_prefix) + rooms_named(right, with_prefix)
            return list(dict.fromkeys(both))
        case Except(left):
            return rooms_named(left, with_prefix)
    return []


def is_within(target: Target, rooms: Collection[str]) -> bool:
    """Whether a target is only about members of some rooms, wherever they are.

    >>> from falcon_pachinko import targets as to
    >>> is_within(to.room("tea") - to.user("bob"), ["tea"]), is_within(to.tag("pro"), ["tea"])
    (True, False)
    """
    match target:
        case Room(name):
            return name in rooms
        case Both(left, right):
            return is_within(left, rooms) or is_within(right, rooms)
        case Except(left):
            return is_within(left, rooms)
        case Union(left, right):
            return is_within(left, rooms) and is_within(right, rooms)
    return False


def implied_by(channel: str) -> Target | None:
    """Return the target that a channel itself names, if it names one.

    >>> implied_by("room:a:b")
    to.room('a:b')
    """
    kind, _, name = channel.partition(":")
    known = {"room": Room, "user": User, "tag": Tag}.get(kind)
    return known(name) if known is not None else None


def _width(channel: str) -> int:
    return _NARROWER.index(channel.partition(":")[0])
