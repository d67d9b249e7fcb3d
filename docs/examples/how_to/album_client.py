import asyncio
import sys

import msgspec
from websockets.asyncio.client import connect


async def add_picture(url):
    async with connect(url, subprotocols=["pachinko.msgpack"]) as album:
        message = {"type": "add", "ref": 1, "name": "cat", "picture": b"\x89PNG"}
        await album.send(msgspec.msgpack.encode(message))
        print(msgspec.msgpack.decode(await album.recv()))


asyncio.run(add_picture(sys.argv[1]))
