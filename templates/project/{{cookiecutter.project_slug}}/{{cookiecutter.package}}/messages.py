"""The words of the chat: what may cross the wire, in both directions.

Every frame is an envelope, `{"type": "say", "payload": {"text": "Hello"}}`. The
type selects the handler; the structs below are the payloads. What a client sends
is decoded straight into them: what does not fit is answered with one error frame
and never reaches a handler.
"""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

# ---------------------------------------------------------------- client to server


class Say(Struct):
    """`say`: a few words to everybody in the room."""

    text: Annotated[str, Meta(min_length=1, max_length=2000)]


class Typing(Struct):
    """`typing`: whether this person is writing just now."""

    active: bool


# ---------------------------------------------------------------- server to client
#
# Besides these, the library itself tells who is in a room, with `presence.state` and
# `presence.diff`, and with `history.state` whether what follows is all that was missed.


class Member(Struct, frozen=True):
    """Somebody in the room.

    The id is the connection's: two tabs of one person are two members.  It is their
    key in `presence.state` and `presence.diff` too.
    """

    id: str
    name: str


class Welcome(Struct):
    """`welcome`: the first frame a client gets."""

    you: Member
    room: str


class Said(Struct):
    """`said`: what somebody said, to everybody in the room, the speaker included."""

    id: str
    name: str
    text: str
    at: datetime


class MemberTyping(Struct):
    """`typing`: somebody began to write, or stopped; to all the others."""

    id: str
    name: str
    active: bool


class Announcement(Struct):
    """`announcement`: a word from the house, to every room."""

    text: str
