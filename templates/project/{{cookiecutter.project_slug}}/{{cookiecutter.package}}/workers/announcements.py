"""A word from the house, now and then, to every room that has somebody in it."""

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
    """Greet the chat rooms every `config.announce_every` seconds, for as long as the app runs.

    A room that is made later is greeted from then on; an empty one is gone.  No room
    keeps an announcement: who comes later has not missed it.
    """
    words = cycle(WORDS)
    while True:
        await asyncio.sleep(config.announce_every)
        announcement = Announcement(text=next(words))
        for room in await manager.get_rooms_by_prefix("chat:"):
            message = {"type": "announcement", "payload": announcement}
            await manager.broadcast_to_room(room, message, store=False)
