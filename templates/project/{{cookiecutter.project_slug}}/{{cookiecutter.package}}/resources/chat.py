"""The chat: people in a room, who see what the others say and who is there."""

from datetime import UTC, datetime

from falcon.asgi import Request
from falcon_pachinko import Connection, WebSocketResource, handles_message

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
    """One person in one room: every connection has an instance of its own."""

    room: str
    member: Member

    async def on_connect(self, req: Request, ws: Connection, room_name: str) -> bool:
        """Join the room, greet the newcomer, tell the others; then accept.

        What is sent here leaves right after the accept, in this order.
        """
        if not 1 <= len(room_name) <= ROOM_NAME_LENGTH:
            return False
        self.room = f"chat:{room_name}"
        self.member = Member(id=ws.id, name=clean_name(req.get_param("name", default="")))
        self.state.member = self.member

        await self.join_room(self.room)
        here = await ws.manager.get_connections_in_room(self.room)
        welcome = Welcome(
            you=self.member, room=room_name, members=[other.state.member for other in here]
        )
        await self.send({"type": "welcome", "payload": welcome})
        await self.broadcast_to_room(
            self.room, {"type": "joined", "payload": self.member}, exclude_self=True
        )
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
        """Tell the others whether this person is writing."""
        typing = MemberTyping(id=self.member.id, name=self.member.name, active=payload.active)
        await self.broadcast_to_room(
            self.room, {"type": "typing", "payload": typing}, exclude_self=True
        )

    async def on_disconnect(self, ws: Connection, close_code: int) -> None:
        """Tell the room; it was left already, so this reaches only those who stay."""
        await self.broadcast_to_room(self.room, {"type": "left", "payload": self.member})
