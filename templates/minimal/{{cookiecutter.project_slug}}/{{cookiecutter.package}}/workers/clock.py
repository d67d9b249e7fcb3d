"""Tells everybody the time."""

import asyncio
from datetime import UTC, datetime

from falcon_pachinko import WebSocketConnectionManager

from ..config import Config
from ..messages import Tick


async def tick(manager: WebSocketConnectionManager, config: Config) -> None:
    """Broadcast a tick every `config.tick_every` seconds, for as long as the app runs."""
    while True:
        await asyncio.sleep(config.tick_every)
        await manager.broadcast_to_all({"type": "tick", "payload": Tick(datetime.now(UTC))})
