"""Announcements: a text now and then, to every room that has members."""

import asyncio
from itertools import cycle

from falcon_pachinko import WebSocketConnectionManager, to

from ..config import Config
from ..messages import Announcement

WORDS = (
    "Open this page in a second tab to talk to yourself.",
    "Every room has an address: put ?room=tea behind this one and pass it on.",
    "Shift and Enter begin a new line; Enter alone sends.",
)


async def announce(manager: WebSocketConnectionManager, config: Config) -> None:
    """Send an announcement to the chat rooms every `config.announce_every` seconds.

    This goes on as long as the app runs.  Every process tells its own clients: what is
    `local` is neither sent to other processes nor kept by the rooms.
    """
    words = cycle(WORDS)
    while True:
        await asyncio.sleep(config.announce_every)
        announcement = Announcement(text=next(words))
        message = {"type": "announcement", "payload": announcement}
        await manager.broadcast(message, to=to.rooms("chat:"), local=True)
