"""The messages of the chat, in both directions.

Every frame is an envelope, `{"type": "say", "payload": {"text": "Hello"}}`. The
type selects the handler; the structs below are the payloads. What a client sends
is decoded into them: a message that does not fit is answered with one error frame,
and does not reach a handler.
"""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

# ---------------------------------------------------------------- client to server


class Say(Struct):
    """`say`: a text for everybody in the room."""

    text: Annotated[str, Meta(min_length=1, max_length=2000)]


class Typing(Struct):
    """`typing`: whether this person is writing."""

    active: bool


# ---------------------------------------------------------------- server to client
#
# Besides these, the library sends `presence.state` and `presence.diff` (who is in the
# room), and `history.state` (whether a client that reconnects gets all it has missed).


class Member(Struct, frozen=True):
    """A person in the room.

    The id is the connection's, so two tabs of one person are two members.  It is also
    their key in `presence.state` and `presence.diff`.
    """

    id: str
    name: str


class Welcome(Struct):
    """`welcome`: the first frame a client gets."""

    you: Member
    room: str


class Said(Struct):
    """`said`: a text, sent to everybody in the room, the speaker included."""

    id: str
    name: str
    text: str
    at: datetime


class MemberTyping(Struct):
    """`typing`: a person started to write, or stopped; sent to all the others."""

    id: str
    name: str
    active: bool


class Announcement(Struct):
    """`announcement`: a text from the server, sent to every room."""

    text: str
