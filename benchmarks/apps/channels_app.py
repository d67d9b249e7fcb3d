"""Django Channels: a JSON consumer, rooms as groups of the layer that lives in memory."""

import os

import django
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

if redis := os.environ.get("BENCH_REDIS"):
    LAYER = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [redis]}}
else:
    LAYER = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
settings.configure(
    SECRET_KEY="of no use to a benchmark",
    ALLOWED_HOSTS=["*"],
    DATABASES={},
    CHANNEL_LAYERS={"default": LAYER},
    LOGGING_CONFIG=None,
)
django.setup()

connected = set()


class Chat(AsyncJsonWebsocketConsumer):
    async def connect(self):
        self.joined = set()
        connected.add(self)
        await self.accept()

    async def disconnect(self, code):
        connected.discard(self)
        for room in self.joined:
            await self.channel_layer.group_discard(room, self.channel_name)

    async def receive_json(self, content):
        await HANDLERS[content["type"]](self, content["payload"])

    async def ping(self, payload):
        await self.send_json({"type": "pong", "payload": payload})

    async def join(self, payload):
        room = payload["room"]
        self.joined.add(room)
        await self.channel_layer.group_add(room, self.channel_name)
        await self.send_json({"type": "joined", "payload": {"room": room}})

    async def say(self, payload):
        event = {"type": "room.said", "payload": payload}
        await self.channel_layer.group_send(payload["room"], event)

    async def room_said(self, event):
        await self.send_json({"type": "said", "payload": event["payload"]})

    async def stats(self, payload):
        counts = {"connections": len(connected), "rooms": len(self.channel_layer.groups)}
        await self.send_json({"type": "stats", "payload": counts})


HANDLERS = {"ping": Chat.ping, "join": Chat.join, "say": Chat.say, "stats": Chat.stats}

app = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Chat.as_asgi())])})
