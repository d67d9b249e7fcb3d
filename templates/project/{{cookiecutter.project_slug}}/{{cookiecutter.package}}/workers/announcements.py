"""Announcements: a text now and then, to every room that has members."""

import asyncio
from itertools import cycle

from falcon_pachinko import WebSocketConnectionManager

from ..config import Config
from ..messages import Announcement

WORDS = (
    "Open this page in a second tab to talk to yourself.",
    "Every room has an address: put ?room=tea behind this one and pass it on.",
    "Shift and Enter begin a new line; Enter alone sends.",
)


async def announce(manager: WebSocketConnectionManager, config: Config) -> None:
    """Send an announcement to the chat rooms every `config.announce_every` seconds.

    This goes on as long as the app runs.  The rooms do not keep announcements, so a
    client that connects later does not get old ones.
    """
    words = cycle(WORDS)
    while True:
        await asyncio.sleep(config.announce_every)
        announcement = Announcement(text=next(words))
        for room in await manager.get_rooms_by_prefix("chat:"):
            message = {"type": "announcement", "payload": announcement}
            await manager.broadcast_to_room(room, message, store=False)
