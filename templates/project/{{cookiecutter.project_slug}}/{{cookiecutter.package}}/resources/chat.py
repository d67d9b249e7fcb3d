"""The chat: people in a room see what the others write and who is there."""

from datetime import UTC, datetime

from falcon.asgi import Request
from falcon_pachinko import Connection, HistoryPosition, WebSocketResource, handles_message

from ..messages import Member, MemberTyping, Said, Say, Typing, Welcome

NAME_LENGTH = 32
ROOM_NAME_LENGTH = 40


def clean_name(wish: str) -> str:
    """Make a name that can be shown: one line, at most 32 characters, never empty.

    >>> clean_name("  Ann "), clean_name("")
    ('Ann', 'Guest')
    """
    printable = "".join(letter for letter in wish if letter.isprintable())
    return printable.strip()[:NAME_LENGTH].rstrip() or "Guest"


class ChatRoom(WebSocketResource):
    """One person in one room: every connection has its own instance."""

    room: str
    member: Member

    async def on_connect(self, req: Request, ws: Connection, room_name: str) -> bool:
        """Send a welcome and what was said before, be present for the others; then accept.

        What is sent here is transmitted right after the accept, in this order. A page that
        reconnects sends the position of its last message, and gets the later ones.
        """
        if not 1 <= len(room_name) <= ROOM_NAME_LENGTH:
            return False
        self.room = f"chat:{room_name}"
        self.member = Member(id=ws.id, name=clean_name(req.get_param("name", default="")))

        welcome = Welcome(you=self.member, room=room_name)
        await self.send({"type": "welcome", "payload": welcome})
        await self.join_room(self.room, since=HistoryPosition.of(req))
        await self.track(self.room, {"name": self.member.name})
        return True

    @handles_message("say")
    async def say(self, ws: Connection, payload: Say) -> None:
        """Pass a message on to everybody in the room, the speaker included."""
        said = Said(
            id=self.member.id, name=self.member.name, text=payload.text, at=datetime.now(UTC)
        )
        await self.broadcast_to_room(self.room, {"type": "said", "payload": said})

    @handles_message("typing")
    async def typing(self, ws: Connection, payload: Typing) -> None:
        """Tell the others whether this person is writing.

        Clients that reconnect do not need it, so the room does not keep it.
        """
        typing = MemberTyping(id=self.member.id, name=self.member.name, active=payload.active)
        await self.broadcast_to_room(
            self.room, {"type": "typing", "payload": typing}, exclude_self=True, store=False
        )
