"""Litestar: its channels plugin over Redis, each connection a subscriber of its rooms."""

import json
import os
from contextlib import AsyncExitStack

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from redis.asyncio import Redis

channels = ChannelsPlugin(
    backend=RedisChannelsPubSubBackend(redis=Redis.from_url(os.environ["BENCH_REDIS"])),
    arbitrary_channels_allowed=True,
)


@websocket("/ws")
async def chat(socket: WebSocket, channels: ChannelsPlugin) -> None:
    await socket.accept()
    async with AsyncExitStack() as rooms:
        async for text in socket.iter_data():
            message = json.loads(text)
            payload = message["payload"]
            if message["type"] == "join":
                subscriber = await rooms.enter_async_context(
                    channels.start_subscription([payload["room"]])
                )
                await rooms.enter_async_context(subscriber.run_in_background(socket.send_text))
                await socket.send_text(json.dumps({"type": "joined", "payload": payload}))
            else:
                channels.publish({"type": "said", "payload": payload}, channels=[payload["room"]])


app = Litestar([chat], plugins=[channels])
